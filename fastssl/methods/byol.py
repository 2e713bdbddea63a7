"""BYOL: a view's projection predicts the momentum encoder's projection of the other view; there are no negatives.

Grill et al., Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import HALF, BYOLAugment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, TargetNetwork, prediction_head, projection_head


class BYOL(ImageMethod):
    """Views + encoder, projector and their target network + predictor + squared distance of unit vectors, symmetric.

    Args:
        encoder: the network kept after pretraining.
        augment: produces two views of different distributions; None: the paper's settings.
        momentum: initial momentum of the target network; it rises to 1.
        hidden: width of the heads.
        outputs: dimensions of the projections.
        spatial: see :class:`ImageMethod`.
    """

    family = "self-distillation"
    paper = "Grill et al. 2020"
    predicts = "the target network's projection of the other view"
    loss = "negative cosine"
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        momentum: float = 0.99,
        hidden: int = 256,
        outputs: int = 128,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or BYOLAugment(encoder.size, normalize=HALF), spatial=spatial)
        self.projector = projection_head(self.features, hidden, outputs, last_norm=False)
        self.predictor = prediction_head(outputs, hidden)
        self.target = TargetNetwork(nn.Sequential(self.backbone(), self.projector), momentum)

    def forward(self, batch: Batch) -> Tensor:
        x = torch.cat(batch.views)
        p0, p1 = self.predictor(self.projector(self.embed(x))).chunk(2)
        t0, t1 = self.target(x).chunk(2)
        return 4 + 2 * (F.negative_cosine_similarity(p0, t1) + F.negative_cosine_similarity(p1, t0))

    def after_step(self, progress: float) -> None:
        self.target.update(nn.Sequential(self.backbone(), self.projector), progress)
