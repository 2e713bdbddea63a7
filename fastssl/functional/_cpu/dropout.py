"""Dropout on CPUs: the masks that torch draws, in a tenth of the time (csrc/elementwise)."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.functional._cpu.plain import plain
from fastssl.ops import extension

DROPOUT = TF.dropout
MIN_ELEMENTS = 1 << 13  # below which torch takes as long
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def draw(kept: Tensor, p: float, generator: torch.Generator | None = None) -> None:
    """Fills a dense tensor of booleans with what is kept."""
    assert extension._C is not None and kept.device.type == "cpu"
    extension._C.draw_kept(generator or torch.default_generator, 1 - p, kept.data_ptr(), kept.numel())


@functools.cache
def draws_as_torch() -> bool:
    """Whether torch's generator is drawn from one number after the other. With MKL and a CPU that is known to be
    Intel's it only gives the seed of another one."""
    if extension._C is None:
        return False
    torchs, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    expected = torch.empty(1000, device="cpu").bernoulli_(0.7, generator=torchs).bool()
    draw(found := torch.empty(1000, dtype=torch.bool, device="cpu"), 1 - 0.7, own)
    return torch.equal(found, expected) and torch.equal(own.get_state(), torchs.get_state())


@functools.lru_cache
def factor(p: float, dtype: torch.dtype) -> float:
    """What torch multiplies kept elements by: rounded to their dtype."""
    return float(torch.ones((), dtype=dtype, device="cpu").div_(1 - p))


class _Scaled(torch.autograd.Function):
    """``x * scale`` where kept, ``x * 0`` elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        if plain(x) and x.stride() == kept.stride():
            found: Tensor = torch.ops.fastssl.scale_kept(x, kept, scale)
            return found
        return x * (kept.to(x.dtype) * scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Scaled.apply(gradient, *ctx.saved_tensors, ctx.scale), None, None


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Replaces ``dropout``."""
    if not (isinstance(input, Tensor) and plain(input)):
        return DROPOUT(input, p, training, inplace)
    drops = isinstance(p, float) and 0 < p < 1 and training is True and not inplace
    if drops and input.dtype in FLOATS and input.numel() >= MIN_ELEMENTS:
        kept = torch.empty_like(input, dtype=torch.bool)
        if kept.stride() == input.stride() and draws_as_torch():
            draw(kept, p)
            found: Tensor = _Scaled.apply(input, kept, factor(p, input.dtype))
            return found
    return DROPOUT(input, p, training, inplace)


dropout.__prepare_scriptable__ = lambda: DROPOUT  # type: ignore[attr-defined]  # what torch.jit.script takes instead
