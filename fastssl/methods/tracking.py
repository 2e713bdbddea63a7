"""Tracking: a patch is nearer to what it has become some frames later than to patches of other videos.

Wang and Gupta, Unsupervised Learning of Visual Representations using Videos, 2015. Patches are taken where something
moves between two frames and found again by their pixels; random negatives come first, the hardest of the batch later.
Deviations: normalised cross-correlation within the second frame tracks instead of KCF through all frames between; all
negatives of the batch instead of four random ones, the hardest instead of the four hardest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import HALF, Augment, RandomHorizontalFlip, RandomResizedCrop, Views
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.data.tracking import moving_box, track
from fastssl.data.views import select_images
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, projection_head


class Tracking(ImageMethod):
    """Two patches along a track + a shared encoder and head + triplet loss of cosine distances.

    Items of two images, such as ``frames:FOLDER`` (:func:`fastssl.data.frames`), are taken for frames of one size; in
    items of one image, or of images of different sizes, the patch is moved at random.

    Args:
        encoder: the network kept after pretraining.
        augment: produces the two patches: both programs begin with a :class:`fastssl.augment.RandomResizedCrop`, the
            first of which draws the size of the patches.
        margin: m, in cosine distance.
        hard_after: the part of the run after which the hardest negative is taken.
        reach: how far a patch moves in each direction, in sides of the patch.
        hidden: width of the head.
        outputs: dimensions of the embeddings that are compared.
        spatial: not used: patches are smaller than images.
    """

    family = "innate relationship"
    paper = "Wang and Gupta 2015"
    predicts = "which patch a patch becomes some frames later"
    loss = "triplet"
    replaceable_views = False
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        margin: float = 0.5,
        hard_after: float = 0.5,
        reach: float = 0.5,
        hidden: int = 256,
        outputs: int = 128,
        spatial: bool = False,
    ) -> None:
        if not 0 <= reach <= 4:
            raise ValueError(f"reach: expected 0 to 4 sides of a patch, got {reach}")
        patch = RandomResizedCrop(encoder.size, scale=(0.1, 0.4), ratio=(1.0, 1.0))
        super().__init__(
            encoder, augment or Views([(2, Augment([patch, RandomHorizontalFlip(), HALF]))]), spatial=False
        )
        crops = [isinstance(program.operations[0], RandomResizedCrop) for program in self.augment.programs]
        if crops != [True, True]:
            raise ValueError(f"augment: expected two programs that begin with RandomResizedCrop, got {self.augment}")
        self.margin, self.hard_after, self.reach = margin, hard_after, reach
        self.projector = projection_head(self.features, hidden, outputs)
        self.register_buffer("hard", torch.tensor(hard_after <= 0))
        self.hard: Tensor

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The patch and what it becomes, [B, 3, S, S] each."""
        draws = self.uniform(seed, epoch, ids)
        first = (draws[:, 0] * [len(item.images or ()) for item in items]).astype(np.int64)
        pair = [select_images(items, first + k, self.augment.channels) for k in range(2)]
        drawn = [
            program.sample([image.shape[:2] for image in images], seed=seed, epoch=epoch, ids=ids, view=view)
            for view, (program, images) in enumerate(zip(self.augment.programs, pair))
        ]
        for k, item in enumerate(items):
            images, box = (np.asarray(pair[0][k]), np.asarray(pair[1][k])), drawn[0].values[k, :4].astype(int)
            of_one_size = len(item.images or ()) > 1 and images[0].shape == images[1].shape
            boxes = self._tracked(*images, box, draws[k, 1]) if of_one_size else self._moved(*images, box, draws[k, 2:])
            drawn[0].values[k, :4], drawn[1].values[k, :4] = boxes
        made = zip(self.augment.programs, pair, drawn)
        return [program.apply(images, params) for program, images, params in made]

    def _tracked(self, first: np.ndarray, second: np.ndarray, box: np.ndarray, draw: float) -> np.ndarray:
        """The boxes [2, 4] (top, left, height, width) of a patch that moves, of the size of ``box``."""
        height, width = box[2:].tolist()
        start = (*moving_box(first, second, height, width, draw), height, width)
        return np.array([start, (*track(first, second, start, self.reach), height, width)])

    def _moved(self, first: np.ndarray, second: np.ndarray, box: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """``box``, and the box of the other image at its place, moved at random."""
        sizes = np.array([first.shape[:2], second.shape[:2]])
        scaled = box.reshape(2, 2) * sizes[1] / sizes[0]
        size = np.maximum(scaled[1].astype(int), 1)
        place = np.clip(np.rint(scaled[0] + (2 * draw - 1) * self.reach * size), 0, sizes[1] - size)
        return np.array([box, [*place, *size]])

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        return self.projector(self.embed(torch.cat(views))).chunk(2)

    def batch_loss(self, batch: Batch, *representations: Tensor) -> Tensor:
        return self.objective(*representations, labels=batch.ids)

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of patches of the items ``labels``."""
        assert labels is not None  # the ids of a batch
        mining = "hard" if self.hard else "all"
        # |x - y|^2 of unit vectors is twice the cosine distance.
        rows, margin = torch.cat(representations), 2 * self.margin
        return F.triplet(rows, labels.repeat(2), margin=margin, mining=mining, squared=True, normalize=True) / 2

    def after_step(self, progress: float) -> None:
        self.hard.fill_(progress >= self.hard_after)
