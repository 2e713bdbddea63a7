"""RotNet: the rotation of an image, a multiple of 90 degrees, is predicted.

Gidaris, Singh and Komodakis, Unsupervised Representation Learning by Predicting Image Rotations, 2018. All four
rotations of an image are in the same batch, as in the paper.
"""

from __future__ import annotations

import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.augment import HALF, RotNetAugment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder


class RotNet(ImageMethod):
    """One view in four rotations + encoder + linear classifier + cross-entropy.

    Args:
        encoder: the network kept after pretraining.
        augment: produces one view.
        spatial: see :class:`ImageMethod`.
    """

    family = "innate relationship"
    paper = "Gidaris et al. 2018"
    predicts = "by which of four rotations the image was turned"
    loss = "cross-entropy of 4"
    separable = True

    def __init__(self, encoder: Encoder, augment: Views | None = None, *, spatial: bool = False) -> None:
        super().__init__(encoder, augment or RotNetAugment(encoder.size, normalize=HALF), spatial=spatial)
        self.classifier = nn.Linear(self.features, 4)

    def forward(self, batch: Batch) -> Tensor:
        turned, turns = RotNetAugment.rotations(batch.views[0])
        return TF.cross_entropy(self.classifier(self.embed(turned)), turns)

    def pretext_metrics(self, batch: Batch) -> dict[str, float]:
        turned, turns = RotNetAugment.rotations(batch.views[0])
        right = (self.classifier(self.embed(turned)).argmax(1) == turns).float().mean()
        return {"accuracy": 100 * float(right), "chance": 25.0}
