"""Counting: the counts of the four quarters of an image sum to the counts of the whole image.

Noroozi, Pirsiavash and Favaro, Representation Learning by Learning to Count, 2017. A contrastive term prevents the
trivial solution of all-zero counts: those of another image must differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.augment import HALF, Augment, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder


class Counting(ImageMethod):
    """One view of twice the image size + encoder + MLP of counts >= 0 + squared errors.

    Args:
        encoder: the network kept after pretraining; it sees the view at half resolution, and its quarters.
        augment: produces one view of twice the encoder's image size.
        counts: number of visual primitives that are counted.
        margin: M, the squared distance by which the counts of another image must differ.
        hidden: width of the MLP.
        spatial: see :class:`ImageMethod`.
    """

    family = "innate relationship"
    paper = "Noroozi et al. 2017"
    predicts = "the sum of the counts of four quarters"
    loss = "squared error, and a hinge against other images"
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        counts: int = 128,
        margin: float = 10.0,
        hidden: int = 256,
        spatial: bool = False,
    ) -> None:
        size = 2 * encoder.size
        crop = RandomResizedCrop(size, scale=(0.5, 1.0))
        plain = Views([Augment([crop, RandomHorizontalFlip(), RandomGrayscale(0.5), HALF])])
        super().__init__(encoder, augment or plain, spatial=spatial)
        self.margin = margin
        self.counter = nn.Sequential(
            nn.Linear(self.features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, counts), nn.ReLU()
        )

    def forward(self, batch: Batch) -> Tensor:
        whole = TF.avg_pool2d(batch.views[0], 2)
        quarters = torch.cat([part for half in batch.views[0].chunk(2, 2) for part in half.chunk(2, 3)])
        counted = self.counter(self.embed(torch.cat([whole, quarters]))).float().reshape(5, len(whole), -1)
        total = counted[1:].sum(0)
        own = (counted[0] - total).square().sum(1)
        other = (counted[0].roll(1, 0) - total).square().sum(1)
        return (own + torch.relu(self.margin - other)).mean()
