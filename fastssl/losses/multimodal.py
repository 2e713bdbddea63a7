"""Image-text losses as modules: see :mod:`fastssl.functional.multimodal` for formulas and papers."""

from __future__ import annotations

from torch import Tensor

import fastssl.functional as F
from fastssl.losses._base import Loss


class CLIPLoss(Loss):
    """:func:`fastssl.functional.clip_loss` as a module; scale and bias belong to the model and are arguments.

    Example:
        >>> import torch
        >>> from fastssl.losses import CLIPLoss
        >>> loss = CLIPLoss()(torch.randn(8, 16), torch.randn(8, 16), logit_scale=10.0)
    """

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
    ) -> Tensor:
        return F.clip_loss(
            image_features, text_features, logit_scale, logit_bias, reduction=self.reduction, backend=self.backend
        )


class SigLIPLoss(Loss):
    """:func:`fastssl.functional.siglip_loss` as a module; scale and bias belong to the model and are arguments.

    Example:
        >>> import torch
        >>> from fastssl.losses import SigLIPLoss
        >>> loss = SigLIPLoss()(torch.randn(8, 16), torch.randn(8, 16), logit_scale=10.0, logit_bias=-10.0)
    """

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float,
    ) -> Tensor:
        return F.siglip_loss(
            image_features, text_features, logit_scale, logit_bias, reduction=self.reduction, backend=self.backend
        )
