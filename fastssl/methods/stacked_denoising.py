"""Stacked denoising autoencoders: the levels of the network are trained greedily to reconstruct their own inputs.

Vincent et al., Stacked Denoising Autoencoders: Learning Useful Representations in a Deep Network with a Local
Denoising Criterion, 2010. Deviation: levels are convolutional (those of ``Encoder.levels``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.augment import HALF, MAEAugment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder


class StackedDenoising(ImageMethod):
    """One view + the frozen levels below + noise + the level in training + its decoder + squared error.

    Args:
        encoder: the network kept after pretraining; each of its levels maps [B, C, H, W] to [B, C', H', W'].
        augment: produces one view in [-1, 1].
        corruption: fraction of a level's input that is set to zero.
        spatial: see :class:`ImageMethod`.

    Raises:
        ValueError: a level does not output a square feature map.
    """

    family = "masked generation"
    paper = "Vincent et al. 2010"
    predicts = "each level's input before noise"
    loss = "mean squared error"
    has_unused_parameters = True

    def __init__(
        self, encoder: Encoder, augment: Views | None = None, *, corruption: float = 0.25, spatial: bool = False
    ) -> None:
        if not 0 < corruption < 1:
            raise ValueError(f"corruption: expected a fraction between 0 and 1, got {corruption}")
        super().__init__(encoder, augment or MAEAugment(encoder.size, normalize=HALF), spatial=spatial)
        self.corruption = corruption
        self.decoders = nn.ModuleList()
        channels, size = encoder.channels, encoder.size
        for k in range(len(encoder.levels())):
            shape = encoder.shape_of(lambda x, k=k: self._through(x, k + 1))  # type: ignore[misc]
            if len(shape) != 4 or shape[2] != shape[3] or size % shape[3]:
                raise ValueError(f"encoder: expected levels that give square maps, level {k} gives {tuple(shape[1:])}")
            up = nn.Upsample(scale_factor=size // shape[3])
            self.decoders.append(nn.Sequential(up, nn.Conv2d(shape[1], channels, 3, padding=1)))
            channels, size = shape[1], shape[3]
        self.register_buffer("level", torch.zeros((), dtype=torch.int64))
        self.level: Tensor

    def _through(self, x: Tensor, count: int) -> Tensor:
        for level in self.encoder.levels()[:count]:
            x = level(x)
        return x

    def forward(self, batch: Batch) -> Tensor:
        k = int(self.level)
        with torch.no_grad():
            below = self._through(batch.views[0], k)
        noisy = below * (torch.rand_like(below) >= self.corruption)
        restored = self.decoders[k](self.encoder.levels()[k](noisy))
        return TF.mse_loss(restored.float(), below.float())

    def after_step(self, progress: float) -> None:
        self.level.fill_(min(int(progress * len(self.decoders)), len(self.decoders) - 1))
