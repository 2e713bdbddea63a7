"""``torch.ops.fastssl.characteristic``: sums of an empirical characteristic function, of all rows at many points."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.ops.backend import Backend, dispatch
from fastssl.ops.operator import Operator


def _reference(x: Tensor, step: float, knots: int) -> Tensor:
    t = torch.arange(knots, dtype=x.dtype, device=x.device) * step
    angles = t[:, None, None] * x[:, None]  # [V, T, N, M]
    return torch.stack([angles.cos().sum(2), angles.sin().sum(2)], 1).double()


def fake(x: Tensor, step: float, knots: int) -> Tensor:
    views, _, columns = x.shape
    return x.new_empty((views, 2, knots, columns), dtype=torch.float64)


_KERNEL = Operator("characteristic", tensors=1, differentiable=(0,), fake=fake)
CHARACTERISTIC = Backend(reference=_reference, cpu=_KERNEL, triton="characteristic")


def characteristic(x: Tensor, step: float, knots: int, backend: str | None = None) -> Tensor:
    r"""Sums over rows of cos(t x) and sin(t x), at t = 0, step, ..., (knots - 1) step.

    Args:
        x: [V, N, M], float32 or float64.

    Returns:
        [V, 2, knots, M] in float64.
    """
    result: Tensor = dispatch(CHARACTERISTIC, backend, x.device, x, step, knots)
    return result
