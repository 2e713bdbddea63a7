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
FEW = 1 << 13  # elements below which torch's own takes as long
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def draw(kept: Tensor, p: float) -> None:
    """Fills a dense tensor of booleans with what is kept."""
    assert extension._C is not None
    extension._C.draw_kept(torch.default_generator, 1 - p, kept.data_ptr(), kept.numel())


@functools.cache
def draws_as_torch() -> bool:
    """Whether torch's generator is drawn from one number after the other. With MKL and a CPU that is known to be
    Intel's it only gives the seed of another one."""
    if extension._C is None:
        return False
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        expected, state = torch.empty(1000).bernoulli_(0.7).bool(), torch.get_rng_state()
        torch.manual_seed(0)
        draw(found := torch.empty(1000, dtype=torch.bool), 1 - 0.7)
        return torch.equal(found, expected) and torch.equal(torch.get_rng_state(), state)


@functools.lru_cache
def factor(p: float, dtype: torch.dtype) -> float:
    """What torch multiplies kept elements by: rounded to their dtype."""
    return float(torch.ones((), dtype=dtype).div_(1 - p))


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
    drops = isinstance(p, float) and 0 < p < 1 and training is True and not inplace
    if drops and isinstance(input, Tensor) and input.dtype in FLOATS and input.numel() >= FEW and plain(input):
        kept = torch.empty_like(input, dtype=torch.bool)
        if kept.stride() == input.stride() and draws_as_torch():
            draw(kept, p)
            found: Tensor = _Scaled.apply(input, kept, factor(p, input.dtype))
            return found
    return DROPOUT(input, p, training, inplace)


dropout.__prepare_scriptable__ = lambda: DROPOUT  # type: ignore[attr-defined]  # what torch.jit.script takes instead
