"""Dropout on CPUs: the masks that torch draws, made in vectors (csrc/elementwise)."""

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
DRAWN_ALIKE = (torch.float32, torch.bfloat16)  # as booleans, however torch draws


def draw(kept: Tensor, p: float) -> None:
    """Fills a dense tensor of booleans with what torch keeps."""
    if draws_in_turn():
        _draw(kept, p, torch.default_generator)
    else:
        kept.bernoulli_(1 - p)


def _draw(kept: Tensor, p: float, generator: torch.Generator) -> None:
    assert extension._C is not None and kept.device.type == "cpu"
    extension._C.draw_kept(generator, 1 - p, kept.data_ptr(), kept.numel())


@functools.cache
def draws_in_turn() -> bool:
    """Whether torch draws from its generator for one element after the other. With MKL and a CPU that is known to be
    Intel's it only takes the seed of another one from it, and that by dtype."""
    torchs, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    expected = torch.empty(1000, device="cpu").bernoulli_(0.7, generator=torchs).bool()
    _draw(found := torch.empty(1000, dtype=torch.bool, device="cpu"), 1 - 0.7, own)
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
    drops = drops and extension._C is not None and input.numel() >= MIN_ELEMENTS
    if drops and (input.dtype in DRAWN_ALIKE or (input.dtype in FLOATS and draws_in_turn())):
        kept = torch.empty_like(input, dtype=torch.bool)
        if kept.stride() == input.stride():
            draw(kept, p)
            found: Tensor = _Scaled.apply(input, kept, factor(p, input.dtype))
            return found
    return DROPOUT(input, p, training, inplace)


dropout.__prepare_scriptable__ = lambda: DROPOUT  # type: ignore[attr-defined]  # what torch.jit.script takes instead
