"""Image-text losses as modules: see :mod:`fastssl.functional.multimodal` for formulas and papers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.losses._base import Loss, Real


class CLIPLoss(Loss, function=F.clip_loss):
    """Scale and bias belong to the model and are arguments of the call."""

    example = "", "torch.randn(8, 16), torch.randn(8, 16), logit_scale=10.0"

    def __init__(self, reduction: str = "mean", backend: str | None = None, label_smoothing: Real = 0.0) -> None: ...

    def dummy_inputs(self) -> tuple[Any, ...]:
        return torch.zeros(2, 1), torch.zeros(2, 1), 1.0

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        *,
        ids: Tensor | None = None,
    ) -> Tensor:
        return self.call(image_features, text_features, logit_scale, logit_bias, ids=ids)


class SigLIPLoss(Loss, function=F.siglip_loss):
    """Scale and bias belong to the model and are arguments of the call."""

    example = "", "torch.randn(8, 16), torch.randn(8, 16), logit_scale=10.0, logit_bias=-10.0"

    def __init__(self, reduction: str = "mean", backend: str | None = None) -> None: ...

    def dummy_inputs(self) -> tuple[Any, ...]:
        return torch.zeros(2, 1), torch.zeros(2, 1), 1.0, 0.0

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float,
        *,
        ids: Tensor | None = None,
    ) -> Tensor:
        return self.call(image_features, text_features, logit_scale, logit_bias, ids=ids)
