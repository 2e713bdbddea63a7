"""Noise-contrastive losses as modules: see :mod:`fastssl.functional.noise` for formulas and papers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.losses._base import Loss


class NCELoss(Loss, function=F.nce):
    example = "", "torch.randn(8), torch.randn(8, 5)"

    def __init__(self, reduction: str = "mean") -> None: ...

    def dummy_inputs(self) -> tuple[Any, ...]:
        return torch.zeros(1), torch.zeros(1)

    def forward(
        self,
        model_logits_data: Tensor,
        model_logits_noise: Tensor,
        noise_log_prob_data: Tensor | None = None,
        noise_log_prob_noise: Tensor | None = None,
    ) -> Tensor:
        noise = {"noise_log_prob_data": noise_log_prob_data, "noise_log_prob_noise": noise_log_prob_noise}
        return self.call(model_logits_data, model_logits_noise, **noise)


class NegativeSamplingLoss(Loss, function=F.negative_sampling):
    example = "", "torch.randn(8, 16), torch.randn(100, 16), torch.arange(8), torch.randint(0, 100, (8, 5))"

    def __init__(self, reduction: str = "mean", backend: str | None = None) -> None: ...

    def dummy_inputs(self) -> tuple[Any, ...]:
        ids = torch.zeros(1, 1, dtype=torch.int64)
        return torch.zeros(1, 1), torch.zeros(1, 1), ids[0], ids

    def forward(self, center: Tensor, table: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        return self.call(center, table, positives, negatives)
