"""NNCLR: the positive of a view is the nearest neighbour of the other view in a support set of earlier images.

Dwibedi et al., With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations,
2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import SimCLRAugment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import EmbeddingQueue, Encoder, prediction_head, projection_head


class NNCLR(ImageMethod):
    """Views + encoder + projector + predictor + support set + symmetric InfoNCE.

    Args:
        encoder: the network kept after pretraining.
        augment: produces two views; None: SimCLR's settings, as in the paper.
        temperature: temperature of the loss.
        support: size of the support set, a queue of projections of earlier images.
        hidden: width of the heads.
        outputs: dimensions of the projections.
        spatial: see :class:`ImageMethod`.
        backend: backend of the loss, as for :mod:`fastssl.functional`.
    """

    family = "instance discrimination"
    paper = "Dwibedi et al. 2021"
    predicts = "which view's neighbour is its own"
    loss = "InfoNCE on nearest neighbours"
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        temperature: float = 0.1,
        support: int = 4096,
        hidden: int = 256,
        outputs: int = 128,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(encoder, augment or SimCLRAugment(encoder.size, channels_last=True), spatial=spatial)
        self.temperature, self.backend = temperature, backend
        self.projector = projection_head(self.features, hidden, outputs, 3)
        self.predictor = prediction_head(outputs, hidden)
        self.support = EmbeddingQueue(support, outputs)

    def forward(self, batch: Batch) -> Tensor:
        z = self.projector(self.embed(torch.cat(batch.views)))
        (p0, p1), (z0, z1) = self.predictor(z).chunk(2), z.detach().chunk(2)
        loss = (self._contrast(p0, z1) + self._contrast(p1, z0)) / 2
        if self.training:
            self.support.push(z0)
        return loss

    def _contrast(self, predicted: Tensor, other: Tensor) -> Tensor:
        with torch.no_grad():
            _, index = F.nearest(other, self.support.embeddings.to(other.dtype), 1, backend=self.backend)
        neighbours = self.support.embeddings[index[:, 0]]
        return F.info_nce(predicted, neighbours, temperature=self.temperature, backend=self.backend)
