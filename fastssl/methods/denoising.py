"""Denoising autoencoder: an image is restored from one that lost pixels at random.

Vincent et al., Extracting and Composing Robust Features with Denoising Autoencoders, 2008. Deviation: one
convolutional network end to end; layer by layer it is :class:`StackedDenoising`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.augment import HALF, Augment, RandomHorizontalFlip, RandomResizedCrop, Views
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder
from fastssl.models.decoder import Decoder


class Denoising(ImageMethod):
    """One view, part of its pixels set to grey + encoder + decoder + mean squared error.

    Args:
        encoder: what is kept; its network gives a feature map.
        augment: makes one view in [-1, 1].
        corruption: share of the pixels that are taken away.
        spatial: see :class:`ImageMethod`.
    """

    family = "masked generation"
    paper = "Vincent et al. 2008"
    predicts = "the pixels that were taken away, and the others"
    loss = "mean squared error"
    separable = True

    def __init__(
        self, encoder: Encoder, augment: Views | None = None, *, corruption: float = 0.5, spatial: bool = False
    ) -> None:
        if not 0 < corruption < 1:
            raise ValueError(f"corruption: expected a share between 0 and 1, got {corruption}")
        plain = Views([Augment([RandomResizedCrop(encoder.size, scale=(0.3, 1.0)), RandomHorizontalFlip(), HALF])])
        super().__init__(encoder, augment or plain, spatial=spatial)
        self.corruption = corruption
        self.decoder = Decoder(encoder)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S] and where it keeps its pixels [B, 1, S, S]."""
        (view,) = super().views(items, seed, epoch, ids)
        noise = self.uniform(seed, epoch, ids, block=1, count=view[0, 0].numel())
        return [view, torch.from_numpy(noise >= self.corruption).to(view.dtype).reshape(-1, 1, *view.shape[2:])]

    def forward(self, batch: Batch) -> Tensor:
        image, keep = batch.views
        return TF.mse_loss(self.decoder(self.encoder.network(image * keep)).float(), image.float())

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        image, keep = batch.views
        seen = image * keep
        return {"seen": seen, "restored": self.decoder(self.encoder.network(seen)), "image": image}
