"""Masked image modelling (SimMIM): the pixels of masked patches are predicted from the visible ones.

Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, 2022. Deviations: squared instead of absolute error on
the masked pixels; any network that outputs a feature map, with a convolutional decoder.
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
    """One view with masked patches + encoder + decoder + squared error on the masked pixels.

    Args:
        encoder: the network kept after pretraining; it outputs a feature map.
        augment: produces one view in [-1, 1].
        share: masking ratio, the fraction of patches that are masked.
        patch: side of a patch in pixels; None: an eighth of the image.
        spatial: see :class:`ImageMethod`.
    """

    family = "masked generation"
    paper = "Xie et al. 2022"
    predicts = "the pixels of masked patches"
    loss = "mean squared error on the masked"
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
            raise ValueError(f"share: expected a ratio that masks some of {self.patches} patches, got {share}")
        self.token = nn.Parameter(torch.zeros(encoder.channels, 1, 1))
        self.decoder = Decoder(encoder)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S] and the mask, bool [B, 1, S, S]."""
        (view,) = super().views(items, seed, epoch, ids)
        noise = self.uniform(seed, epoch, ids, block=1, count=self.patches)
        order = torch.from_numpy(noise.argsort(1).argsort(1) < self.removed)
        side = view.shape[-1] // self.patch
        grid = order.reshape(-1, 1, side, side)
        return [view, grid.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)]

    def paint(self, image: Tensor, gone: Tensor) -> Tensor:
        """The image reconstructed from its visible pixels."""
        return self.decoder(self.encoder.network(torch.where(gone, self.token.to(image.dtype), image)))

    def forward(self, batch: Batch) -> Tensor:
        image, gone = batch.views
        missing = gone.expand_as(image)
        return TF.mse_loss(self.paint(image, gone)[missing].float(), image[missing].float())

    def terms(self, batch: Batch) -> int:
        return int(batch.views[1].sum())

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        image, gone = batch.views
        return {"seen": image.masked_fill(gone, 0.0), "predicted": self.paint(image, gone), "image": image}
