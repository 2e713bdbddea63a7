"""Modes of a training or an evaluation: of a module, and of the CPU's floating-point units."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from fastssl.ops import extension


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Within it the module is in evaluation mode; afterwards, also after an exception or Ctrl-C, it and each module in
    it are in the mode that they had before."""
    with kept_modes(module):
        module.eval()
        yield


@contextlib.contextmanager
def kept_modes(module: nn.Module) -> Iterator[None]:
    """Afterwards each module has the mode that it had before, such as a frozen batch norm within a network in training
    mode."""
    before = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


@contextlib.contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Within it subnormal numbers are zero on all threads of torch's pool, as in the kernels; afterwards each thread
    has the mode that it had.

    The moments of AdamW of a token that no longer occurs are multiplied by 0.9 in each step: after some 750 they are
    below 2^-126, where they stay, as rounding keeps them from becoming 0, and a step of the optimiser takes four times
    as long for good. ``torch.set_flush_denormal`` is for the calling thread alone.
    """
    if extension._C is None:
        yield
        return
    before = extension._C.float_modes(torch.get_num_threads())
    extension._C.set_float_modes([True] * len(before))
    try:
        yield
    finally:
        extension._C.set_float_modes(before)
