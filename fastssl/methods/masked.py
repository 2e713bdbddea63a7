"""Masked prediction: some patches of an image are taken away; their pixels are predicted from the others.

Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, 2022. Deviations: squared error instead of absolute,
on the removed pixels; any network that gives a feature map, with a convolutional decoder.
"""

from __future__ import annotations

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
from fastssl.models.decoder import Decoder


class Masked(ImageMethod):
    """One view without some patches + encoder + decoder + squared error on what was removed.

    Args:
        encoder: what is kept; its network gives a feature map.
        augment: makes one view in [-1, 1].
        share: of the patches that are removed.
        patch: pixels of a patch's side; None: an eighth of the image.
        spatial: see :class:`ImageMethod`.
    """

    family = "masked generation"
    paper = "Xie et al. 2022"
    predicts = "the pixels of removed patches"
    loss = "mean squared error on the removed"
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        share: float = 0.6,
        patch: int | None = None,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or MAEAugment(encoder.size, normalize=HALF), spatial=spatial)
        patch = patch or max(1, encoder.size // 8)
        if encoder.size % patch:
            raise ValueError(f"patch: expected a divisor of the encoder's {encoder.size} pixels, got {patch}")
        self.patch, self.patches = patch, (encoder.size // patch) ** 2
        self.removed = round(share * self.patches)
        if not 0 < self.removed < self.patches:
            raise ValueError(f"share: expected one that leaves and removes patches, got {share} of {self.patches}")
        self.token = nn.Parameter(torch.zeros(encoder.channels, 1, 1))
        self.decoder = Decoder(encoder)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S] and where it loses its pixels, bool [B, 1, S, S]."""
        (view,) = super().views(items, seed, epoch, ids)
        noise = self.uniform(seed, epoch, ids, block=1, count=self.patches)
        order = torch.from_numpy(noise.argsort(1).argsort(1) < self.removed)
        side = view.shape[-1] // self.patch
        grid = order.reshape(-1, 1, side, side)
        return [view, grid.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)]

    def paint(self, image: Tensor, gone: Tensor) -> Tensor:
        """The image as it is restored from what is left of it."""
        return self.decoder(self.encoder.network(torch.where(gone, self.token.to(image.dtype), image)))

    def forward(self, batch: Batch) -> Tensor:
        image, gone = batch.views
        missing = gone.expand_as(image)
        return TF.mse_loss(self.paint(image, gone)[missing].float(), image[missing].float())

    def terms(self, batch: Batch) -> int:
        return int(batch.views[1].sum())

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        image, gone = batch.views
        return {"seen": image.masked_fill(gone, 0.0), "predicted": self.paint(image, gone), "image": image}
