"""Denoising autoencoder: an image is reconstructed from a copy with randomly masked pixels.

Vincent et al., Extracting and Composing Robust Features with Denoising Autoencoders, 2008. Deviation: one
convolutional network trained end to end; :class:`StackedDenoising` trains layer by layer.
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
    """One view with pixels set to grey + encoder + decoder + mean squared error.

    Args:
        encoder: the network kept after pretraining; it outputs a feature map.
        augment: produces one view in [-1, 1].
        corruption: fraction of pixels that are masked.
        spatial: see :class:`ImageMethod`.
    """

    family = "masked generation"
    paper = "Vincent et al. 2008"
    predicts = "all pixels, from a part of them"
    loss = "mean squared error"
    separable = True

    def __init__(
        self, encoder: Encoder, augment: Views | None = None, *, corruption: float = 0.5, spatial: bool = False
    ) -> None:
        if not 0 < corruption < 1:
            raise ValueError(f"corruption: expected a fraction between 0 and 1, got {corruption}")
        plain = Views([Augment([RandomResizedCrop(encoder.size, scale=(0.3, 1.0)), RandomHorizontalFlip(), HALF])])
        super().__init__(encoder, augment or plain, spatial=spatial)
        self.corruption = corruption
        self.decoder = Decoder(encoder)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S] and the mask of its visible pixels [B, 1, S, S]."""
        (view,) = super().views(items, seed, epoch, ids)
        noise = self.uniform(seed, epoch, ids, block=1, count=view[0, 0].numel())
        return [view, torch.from_numpy(noise >= self.corruption).to(view.dtype).reshape(-1, 1, *view.shape[2:])]

    def forward(self, batch: Batch) -> Tensor:
        image, keep = batch.views
        return TF.mse_loss(self.decoder(self.encoder.network(image * keep)).float(), image.float())

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        image, keep = batch.views
        seen = image * keep
        return {"seen": seen, "restored": self.decoder(self.encoder.network(seen)), "image": image}
