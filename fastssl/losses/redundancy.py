"""Losses on features, matched rows and prototypes as modules: see :mod:`fastssl.functional.redundancy` for formulas and
papers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl._graph import changes_once
from fastssl.functional import _check as check
from fastssl.losses._base import Loss, Real, ViewLoss


class BarlowTwinsLoss(ViewLoss, function=F.barlow_twins):
    def __init__(self, lambd: Real = 5e-3) -> None: ...


class VICRegLoss(ViewLoss, function=F.vicreg):
    def __init__(self, invariance: Real = 25.0, variance: Real = 25.0, covariance: Real = 1.0) -> None: ...


class NegativeCosineSimilarity(ViewLoss, function=F.negative_cosine_similarity):
    def __init__(self, reduction: str = "mean") -> None: ...


class SwAVLoss(ViewLoss, function=F.swapped_prediction):
    def __init__(self, temperature: Real = 0.1, epsilon: float = 0.05) -> None: ...


class DINOLoss(Loss, function=F.dino):
    """The centre of the teacher's logits is the buffer ``center``, updated by each call in training mode, which
    activation checkpointing may therefore not repeat: a RuntimeError.

    Args:
        prototypes: K, number of logits.
        center_momentum: momentum of the centre, in [0, 1].
    """

    center: Tensor
    example = "16", "torch.randn(4, 8, 16), torch.randn(2, 8, 16)"

    def __init__(
        self,
        prototypes: int,
        student_temperature: Real = 0.1,
        teacher_temperature: Real = 0.04,
        center_momentum: float = 0.9,
    ) -> None: ...

    def set_options(self, *, prototypes: int, center_momentum: float, **options: Any) -> None:
        self.center_momentum = check.number("center_momentum", center_momentum, low=0, high=1)
        super().set_options(center=torch.zeros(check.count("prototypes", prototypes)), **options)

    def dummy_inputs(self) -> tuple[Any, ...]:
        return torch.zeros(2, 1, len(self.center)), torch.zeros(1, 1, len(self.center))

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.training:  # first: a repetition ends as soon as it has what the backward pass needs
            changes_once(type(self).__name__)
        loss = self.call(student, teacher, mask=mask)
        if self.training:
            mean = teacher.detach().flatten(0, -2).mean(0).to(self.center)
            self.center = self.center * self.center_momentum + mean * (1 - self.center_momentum)
        return loss

    def extra_repr(self) -> str:
        return f"prototypes={len(self.center)}, center_momentum={self.center_momentum}"
