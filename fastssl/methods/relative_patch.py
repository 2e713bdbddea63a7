"""Relative patch position: the position of a patch relative to the central one is predicted.

Doersch, Gupta and Efros, Unsupervised Visual Representation Learning by Context Prediction, 2015. Gaps, jitter and
colour projection prevent shortcuts by continuing edges and chromatic aberration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.augment import HALF, Params, RelativePatchAugment
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.data.views import select_images
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder


class RelativePatch(ImageMethod):
    """Two patches + a shared encoder + MLP of the pair + cross-entropy of 8 positions.

    Args:
        encoder: the network kept after pretraining.
        augment: produces the central patch and a neighbour; None: patches of half the encoder's image size.
        hidden: width of the MLP.
        spatial: not used: patches are smaller than images.
    """

    family = "innate relationship"
    paper = "Doersch et al. 2015"
    predicts = "the position of a patch relative to another"
    loss = "cross-entropy of 8"
    replaceable_views = False
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: RelativePatchAugment | None = None,
        *,
        hidden: int = 256,
        spatial: bool = False,
    ) -> None:
        size = encoder.size // 2
        cell = size + max(size // 4, 1)
        super().__init__(encoder, augment or RelativePatchAugment(size, cell, 3 * cell, normalize=HALF), spatial=False)
        self.classifier = nn.Sequential(
            nn.Linear(2 * self.features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 8)
        )

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The two patches [B, 3, S, S] of each item's first image, and the position of the second [B]."""
        patches, params = self.augment(select_images(items), seed=seed, epoch=epoch, ids=ids, return_params=True)
        return [*patches, self._places(params)]

    @staticmethod
    def _places(params: list[Params]) -> Tensor:
        return RelativePatchAugment.places(params)

    def scores(self, middle: Tensor, neighbour: Tensor) -> Tensor:
        """Logits of the eight positions [B, 8]."""
        result: Tensor = self.classifier(torch.cat(self.embed(torch.cat([middle, neighbour])).chunk(2), 1))
        return result

    def forward(self, batch: Batch) -> Tensor:
        return TF.cross_entropy(self.scores(*batch.views[:2]), batch.views[2])

    def pretext_metrics(self, batch: Batch) -> dict[str, float]:
        right = (self.scores(*batch.views[:2]).argmax(1) == batch.views[2]).float().mean()
        return {"accuracy": 100 * float(right), "chance": 12.5}
