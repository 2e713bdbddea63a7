"""``torch.ops.fastssl.characteristic``: sums of an empirical characteristic function, of all rows at many points."""

from __future__ import annotations

from torch import Tensor

from fastssl.ops.backend import Backend, dispatch
from fastssl.ops.operator import Operator
from fastssl.ops.reference import characteristic as reference

_KERNEL = Operator("characteristic", tensors=1, differentiable=(0,), fake=reference.fake)
CHARACTERISTIC = Backend(reference=reference.characteristic, cpu=_KERNEL, triton="characteristic")


def characteristic(x: Tensor, step: float, knots: int, backend: str | None = None) -> Tensor:
    r"""Sums over rows of cos(t x) and sin(t x), at t = 0, step, ..., (knots - 1) step.

    Args:
        x: [V, N, M], float32 or float64.

    Returns:
        [V, 2, knots, M] in float64.
    """
    result: Tensor = dispatch(CHARACTERISTIC, backend, x.device, x, step, knots)
    return result
