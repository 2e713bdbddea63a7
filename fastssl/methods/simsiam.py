"""SimSiam: BYOL without a momentum encoder; the stop-gradient on one side prevents collapse.

Chen and He, Exploring Simple Siamese Representation Learning, 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import HALF, MoCoV2Augment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, prediction_head, projection_head


class SimSiam(ImageMethod):
    """Views + encoder + projector + bottleneck predictor + symmetric negative cosine similarity.

    Args:
        encoder: the network kept after pretraining.
        augment: produces two views; None: the paper's settings (those of MoCo v2).
        hidden: width of the projector.
        outputs: dimensions of the projections.
        layers: layers of the projector: 3 in the paper, 2 for small images.
        bottleneck: width of the predictor; None: a quarter of ``outputs``.
        spatial: see :class:`ImageMethod`.
    """

    family = "self-distillation"
    paper = "Chen and He 2021"
    predicts = "the projection of the other view"
    loss = "negative cosine"
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        hidden: int = 256,
        outputs: int = 256,
        layers: int = 3,
        bottleneck: int | None = None,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or MoCoV2Augment(encoder.size, normalize=HALF), spatial=spatial)
        self.projector = projection_head(self.features, hidden, outputs, layers)
        self.predictor = prediction_head(outputs, bottleneck or max(outputs // 4, 1))

    def forward(self, batch: Batch) -> Tensor:
        z = self.projector(self.embed(torch.cat(batch.views)))
        (p0, p1), (z0, z1) = self.predictor(z).chunk(2), z.detach().chunk(2)
        return (F.negative_cosine_similarity(p0, z1) + F.negative_cosine_similarity(p1, z0)) / 2
