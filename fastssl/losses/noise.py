"""Losses that tell data from noise as modules: see :mod:`fastssl.functional.noise` for formulas and papers."""

from __future__ import annotations

from torch import Tensor

import fastssl.functional as F
from fastssl.losses._base import Loss


class NCELoss(Loss):
    """:func:`fastssl.functional.nce` as a module.

    Args:
        reduction: "mean" | "sum" | "none".

    Example:
        >>> import torch
        >>> from fastssl.losses import NCELoss
        >>> loss = NCELoss()(torch.randn(8), torch.randn(8, 5))
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(
        self,
        model_logits_data: Tensor,
        model_logits_noise: Tensor,
        noise_log_prob_data: Tensor | None = None,
        noise_log_prob_noise: Tensor | None = None,
    ) -> Tensor:
        return F.nce(
            model_logits_data,
            model_logits_noise,
            noise_log_prob_data=noise_log_prob_data,
            noise_log_prob_noise=noise_log_prob_noise,
            reduction=self.reduction,
        )


class NegativeSamplingLoss(Loss):
    """:func:`fastssl.functional.negative_sampling` as a module.

    Args:
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import NegativeSamplingLoss
        >>> words = torch.randint(0, 100, (8, 5))
        >>> loss = NegativeSamplingLoss()(torch.randn(8, 16), torch.randn(100, 16), torch.arange(8), words)
    """

    def forward(self, center: Tensor, table: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        return F.negative_sampling(center, table, positives, negatives, reduction=self.reduction, backend=self.backend)
