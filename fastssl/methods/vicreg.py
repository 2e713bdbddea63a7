"""VICReg: invariance between views, variance of every feature, and decorrelation of features.

Bardes, Ponce and LeCun, VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning, 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import HALF, VICRegAugment, Views
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, projection_head


class VICReg(ImageMethod):
    """Views + encoder + expander + invariance, variance and covariance.

    Args:
        encoder: the network kept after pretraining.
        augment: produces two views; None: the paper's settings.
        hidden: width of the expander.
        outputs: number of expanded features.
        spatial: see :class:`ImageMethod`.
    """

    family = "redundancy reduction"
    paper = "Bardes et al. 2022"
    predicts = "the expanded features of the other view"
    loss = "variance, invariance, covariance"
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        hidden: int = 512,
        outputs: int = 512,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or VICRegAugment(encoder.size, normalize=HALF), spatial=spatial)
        self.projector = projection_head(self.features, hidden, outputs, 3, last_norm=False)

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        return self.projector(self.embed(torch.cat(views))).chunk(len(views))

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        z0, z1 = representations
        return F.vicreg(z0, z1)
