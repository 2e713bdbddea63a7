"""Egomotion: the motion of the camera between two images is predicted.

Agrawal, Carreira and Malik, Learning to See by Moving, 2015. Each of three components of the motion is a classification
of intervals: on videos with known poses (``frames:FOLDER`` with ``poses.txt``) the translation to the right and forward
and the turn to the side, as on KITTI; on other images the translation and rotation by which a copy is moved, as on
MNIST in the paper. Deviation: as many intervals for rotations as for translations, of which the paper has 7 on MNIST
and 20 on KITTI.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl._options import integer
from fastssl.augment import HALF, Augment, RandomResizedCrop, Views
from fastssl.data.batch import Batch
from fastssl.data.source import Item, Source
from fastssl.data.views import select_images
from fastssl.methods.image import ImageMethod
from fastssl.methods.transformation import affine_maps, moved_by
from fastssl.models import Encoder

RIGHT, FORWARD, TURN = 0, 2, 4  # columns of fastssl.data.Source.motions


class Egomotion(ImageMethod):
    """Two views + a shared encoder + MLP of the pair + cross-entropy of each component of the motion.

    Args:
        encoder: the network kept after pretraining.
        augment: produces one view, without flips; the same pixels of both images of an item.
        bins: intervals of each component, of equal width.
        degrees: maximum drawn rotation in degrees, either way.
        translate: maximum drawn translation as a fraction of the image, either way.
        hidden: width of the MLP.
        spatial: see :class:`ImageMethod`.
    """

    family = "innate relationship"
    paper = "Agrawal et al. 2015"
    predicts = "the motion of the camera between two images"
    loss = "three cross-entropies"
    replaceable_views = False
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        bins: int = 7,
        degrees: float = 30.0,
        translate: float = 0.1,
        hidden: int = 256,
        spatial: bool = False,
    ) -> None:
        bins = integer("bins", bins, 2)
        crop = RandomResizedCrop(encoder.size, scale=(0.5, 1.0))
        super().__init__(encoder, augment or Views([Augment([crop, HALF])]), spatial=spatial)
        self.bins, self.degrees, self.translate = bins, degrees, translate
        self.classifier = nn.Sequential(
            nn.Linear(2 * self.features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 3 * bins)
        )
        self.known: np.ndarray | None = None  # the intervals of the motion of each item, of data with poses
        self.register_buffer("posed", torch.tensor(False))  # whether it was trained on such data
        self.posed: Tensor

    def prepare(self, source: Source) -> Source:
        self.known = None if source.motions is None else self.intervals(source.motions[:, [RIGHT, FORWARD, TURN]])
        self.posed.fill_(self.known is not None)
        return source

    def intervals(self, motions: np.ndarray) -> np.ndarray:
        """The interval of each component [N, 3] between the least and the largest of it."""
        low, high = motions.min(0), motions.max(0)
        parts = (motions - low) / np.where(high > low, high - low, 1)
        return np.minimum((parts * self.bins).astype(np.int64), self.bins - 1)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The two views [B, 3, S, S], and the interval of each component of the motion between them [B, 3]."""
        if self.known is not None:
            program, frames = self.augment.programs[0], [select_images(items, [k] * len(items)) for k in range(2)]
            crops = program.sample([image.shape[:2] for image in frames[0]], seed=seed, epoch=epoch, ids=ids)
            return [*(program.apply(images, crops) for images in frames), torch.from_numpy(self.known[ids])]
        (view,) = super().views(items, seed, epoch, ids)
        drawn = self.uniform(seed, epoch, ids, block=1, count=3)
        angle, *shift = (2 * torch.from_numpy(drawn).float() - 1).unbind(1)
        still = torch.zeros_like(angle)
        maps = affine_maps(
            math.radians(self.degrees) * angle, still, still + 1, 2 * self.translate * torch.stack(shift, 1)
        )
        return [view, moved_by(maps, view), torch.from_numpy((drawn * self.bins).astype(np.int64))]

    def scores(self, before: Tensor, after: Tensor) -> Tensor:
        """Logits of the intervals [B, bins, 3]."""
        both = torch.cat(self.embed(torch.cat([before, after])).chunk(2), 1)
        scores: Tensor = self.classifier(both)
        return scores.reshape(len(before), self.bins, 3)

    def forward(self, batch: Batch) -> Tensor:
        return TF.cross_entropy(self.scores(*batch.views[:2]), batch.views[2])

    def pretext_metrics(self, batch: Batch) -> dict[str, float]:
        if self.posed and self.known is None:  # drawn motion is another task
            return {}
        right = (self.scores(*batch.views[:2]).argmax(1) == batch.views[2]).float().mean()
        return {"accuracy": 100 * float(right), "chance": 100 / self.bins}
