"""Barlow Twins: the cross-correlation of the features of two views is driven towards the identity.

Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import HALF, BarlowTwinsAugment, Views
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, projection_head


class BarlowTwins(ImageMethod):
    """Views + encoder + expander + cross-correlation.

    Args:
        encoder: the network kept after pretraining.
        augment: produces two views; None: the paper's settings.
        lambd: weight of the off-diagonal terms.
        hidden: width of the expander.
        outputs: number of features that are decorrelated.
        spatial: see :class:`ImageMethod`.
    """

    family = "redundancy reduction"
    paper = "Zbontar et al. 2021"
    predicts = "each feature of the other view, and no other feature"
    loss = "cross-correlation"
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        lambd: float = 5e-3,
        hidden: int = 512,
        outputs: int = 512,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or BarlowTwinsAugment(encoder.size, normalize=HALF), spatial=spatial)
        self.lambd = lambd
        self.projector = projection_head(self.features, hidden, outputs, 3, last_norm=False)

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        return self.projector(self.embed(torch.cat(views))).chunk(len(views))

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        z0, z1 = representations
        return F.barlow_twins(z0, z1, lambd=self.lambd)
