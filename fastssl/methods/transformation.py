"""Transformation prediction (AET): the affine map between an image and its transformed copy is regressed.

Zhang, Qi, Wang and Luo, AET vs. AED: Unsupervised Representation Learning by Auto-Encoding Transformations rather than
Data, 2019. The six parameters are predicted from the features of both images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.augment import HALF, MAEAugment, Views
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder


def affine_maps(angle: Tensor, shear: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Affine matrices [B, 2, 3] in coordinates from -1 to 1: of angles and shears [B] in radians, scales [B] and
    translations [B, 2]."""
    linear = torch.stack([angle.cos(), -(angle + shear).sin(), angle.sin(), (angle + shear).cos()], 1) * scale[:, None]
    return torch.cat([linear.reshape(-1, 2, 2), shift[:, :, None]], 2)


def moved_by(maps: Tensor, view: Tensor) -> Tensor:
    """The views [B, 3, S, S] that affine matrices [B, 2, 3] make of others; the pixels of the border continue it."""
    grid = TF.affine_grid(maps, list(view.shape), align_corners=False)
    return TF.grid_sample(view, grid, padding_mode="border", align_corners=False)


class Transformation(ImageMethod):
    """A view and its affine image + a shared encoder + MLP + squared error of the map.

    Args:
        encoder: the network kept after pretraining.
        augment: produces one view.
        degrees: maximum rotation in degrees, either way.
        translate: maximum translation as a fraction of the image, either way.
        scale: minimum and maximum scale factor.
        shear: maximum shear in degrees, either way.
        hidden: width of the MLP.
        spatial: see :class:`ImageMethod`.
    """

    family = "innate relationship"
    paper = "Zhang et al. 2019"
    predicts = "the affine map between an image and its copy"
    loss = "mean squared error"
    min_rows = 2  # batch norm of rows
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        degrees: float = 180.0,
        translate: float = 0.2,
        scale: tuple[float, float] = (0.7, 1.3),
        shear: float = 30.0,
        hidden: int = 256,
        spatial: bool = False,
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale: expected 0 < smallest <= largest, got {scale}")
        super().__init__(encoder, augment or MAEAugment(encoder.size, normalize=HALF), spatial=spatial)
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.head = nn.Sequential(
            nn.Linear(2 * self.features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 6)
        )

    def matrices(self, u: np.ndarray) -> Tensor:
        """Maps uniform draws [B, 5] to affine matrices [B, 2, 3] in coordinates from -1 to 1."""
        centred = 2 * torch.from_numpy(u).float() - 1
        angle, shear = centred[:, 0] * math.radians(self.degrees), centred[:, 1] * math.radians(self.shear)
        low, high = self.scale
        scale = (low + high) / 2 + centred[:, 2] * (high - low) / 2
        return affine_maps(angle, shear, scale, 2 * self.translate * centred[:, 3:5])

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view and its affine image, [B, 3, S, S] each, and the matrices [B, 2, 3]."""
        (view,) = super().views(items, seed, epoch, ids)
        maps = self.matrices(self.uniform(seed, epoch, ids, block=1, count=5))
        return [view, moved_by(maps, view), maps]

    def forward(self, batch: Batch) -> Tensor:
        view, moved, maps = batch.views
        before, after = self.embed(torch.cat([view, moved])).chunk(2)
        return TF.mse_loss(self.head(torch.cat([before, after], 1)).float(), maps.flatten(1))
