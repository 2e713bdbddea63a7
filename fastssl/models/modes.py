"""Modes of a training or an evaluation: of a module, and of the CPU's floating-point units."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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


SHORT = 1 << 14  # elements of the keys of a head up to which attention in float32 is faster: 256 tokens of 64


class ShortAttentionInFloat32(TorchFunctionMode):
    """Within it, attention over few tokens that is trained under autocast on a CPU is computed in float32.

    The backward pass of torch's attention in bf16 takes several times as long as in float32, the more the fewer tokens
    and dimensions there are (docs/decisions/0021-attention.md), and has fewer digits.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is TF.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *rest: Any,
    **options: Any,
) -> Tensor:
    trained = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    cpu = query.device.type == "cpu" and torch.is_autocast_enabled("cpu") and query.dtype != torch.float64
    # With dropout torch composes attention of other operations, whose products are faster in bf16.
    if not (trained and cpu and key.shape[-2:].numel() <= SHORT and dropout_p == 0):
        return TF.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, *rest, **options)
    mask = attn_mask.float() if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    with torch.autocast("cpu", enabled=False):
        seen = TF.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, 0.0, *rest, **options)
    return seen.to(torch.get_autocast_dtype("cpu"))
