"""Losses that pull embeddings to an isotropic Gaussian as modules: see :mod:`fastssl.functional.gaussian` for formulas
and the paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.losses._base import Loss, Real


def _features(directions: object) -> int:
    return directions.shape[0] if isinstance(directions, Tensor) and directions.dim() == 2 else 1


class SIGRegLoss(Loss, function=F.sigreg):
    example = "", "torch.randn(32, 16)"

    def __init__(
        self, directions: Tensor | int = 1024, t_max: float = 3.0, knots: int = 17, backend: str | None = None
    ) -> None: ...

    def dummy_inputs(self) -> tuple[Any, ...]:
        return (torch.zeros(2, _features(self.directions)),)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.call(embeddings)


class LeJEPALoss(Loss, function=F.lejepa):
    example = "", "torch.randn(4, 32, 16)"

    def __init__(
        self,
        directions: Tensor | int = 1024,
        global_views: int | None = None,
        lambd: Real = 0.05,
        t_max: float = 3.0,
        knots: int = 17,
        backend: str | None = None,
    ) -> None: ...

    def dummy_inputs(self) -> tuple[Any, ...]:
        views = self.global_views if isinstance(self.global_views, int) else 1
        return (torch.zeros(max(views, 1), 1, _features(self.directions)),)

    def forward(self, views: Tensor) -> Tensor:
        return self.call(views)
