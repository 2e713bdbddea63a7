"""Precision of training: what "auto" stands for, and the context in which networks are trained outside the trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastssl.functional._cpu import faster_dropout
from fastssl.models.cpu_operations import FasterCpuOperations
from fastssl.models.modes import flushed_subnormals
from fastssl.ops.backend import cpu_entry

_automatic: ContextVar[str] = ContextVar("automatic", default="auto")


def check_precision(precision: str) -> None:
    """
    Raises:
        ValueError: another one than "auto", "bf16-mixed" and "32-true".
    """
    known = ("auto", "bf16-mixed", "32-true")
    if precision not in known:
        raise ValueError(f"precision: expected one of {', '.join(map(repr, known))}, got {precision!r}")


@contextlib.contextmanager
def automatic_precision(precision: str) -> Iterator[None]:
    """Within it "auto" stands for ``precision`` where networks are trained for their evaluation."""
    check_precision(precision)
    token = _automatic.set(precision)
    try:
        yield
    finally:
        _automatic.reset(token)


def faster_precision(device_type: str) -> str:
    """Returns "bf16-mixed" for devices that compute in bf16 faster than in fp32, else "32-true"."""
    if device_type == "cuda":  # before Ampere bf16 is emulated
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = multiplies_bf16_faster()
    return "bf16-mixed" if fast else "32-true"


def multiplies_bf16_faster() -> bool:
    """Whether this CPU multiplies matrices of bf16 faster than those of fp32.

    With matrix units for it (AMX), and with AVX-512-BF16 on AMD CPUs (Zen 4 and later), convolutions take about half of
    the time. On Intel CPUs without AMX these instructions have the rate of fp32, and bf16 takes longer.
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    return bool(torch.cpu._is_avx512_bf16_supported()) and cpu_entry("vendor_id") == "AuthenticAMD"


def resolved(precision: str, device: torch.device) -> str:
    """The precision of a training for an evaluation, with "auto" resolved."""
    chosen = _automatic.get() if precision == "auto" else precision
    return faster_precision(device.type) if chosen == "auto" else chosen


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of the forward passes of a training for an evaluation; it may be entered again."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolved(precision, device) == "bf16-mixed")


@contextlib.contextmanager
def training_arithmetic(device: torch.device, *, compiled: bool = False) -> Iterator[None]:
    """The context of a training: subnormal numbers are zero, and on CPUs slow operations of torch are replaced, unless
    the network is compiled."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(flushed_subnormals())
        if device.type == "cpu" and not compiled:
            stack.enter_context(FasterCpuOperations())
            stack.enter_context(faster_dropout())
        yield


def in_float32(outputs: Any) -> Any:
    """Outputs of a network, tensors or tuples and lists of them, for a loss that is computed in float32."""
    return tree_map_only(Tensor, lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t, outputs)
