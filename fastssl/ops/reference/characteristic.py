"""Sums of empirical characteristic functions in plain PyTorch: the oracle of the kernels, and what computes on other
devices."""

from __future__ import annotations

import torch
from torch import Tensor


def characteristic(x: Tensor, step: float, knots: int) -> Tensor:
    t = torch.arange(knots, dtype=x.dtype, device=x.device) * step
    angles = t[:, None, None] * x[:, None]  # [V, T, N, M]
    return torch.stack([angles.cos().sum(2), angles.sin().sum(2)], 1).double()


def fake(x: Tensor, step: float, knots: int) -> Tensor:
    """Of the same shape, for tracing."""
    views, _, columns = x.shape
    return x.new_empty((views, 2, knots, columns), dtype=torch.float64)
