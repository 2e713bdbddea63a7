"""Colorization as a proxy task: histograms of the hue and of the chroma around each pixel are predicted from lightness.

Larsson, Maire and Shakhnarovich, Colorization as a Proxy Task for Visual Understanding, 2017, with the loss of their
Learning Representations for Automatic Colorization, 2016. Deviations: hue and chroma are those of Lab; a histogram is
that of the pixels that an output covers; a small decoder takes the place of hypercolumns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl._options import integer
from fastssl.augment import ColorizationAugment, Views
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.methods.colorization import colored
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder
from fastssl.models.decoder import Decoder

CHROMA = 135.0  # above the largest of sRGB


class ColorProxy(ImageMethod):
    """One view's lightness + encoder + decoder + divergences of predicted histograms of hue and chroma.

    Args:
        encoder: the network kept after pretraining; it outputs a feature map, and takes L in all three channels.
        augment: produces one view in [0, 1].
        bins: intervals of a histogram.
        hue: weight of the divergence of hues, which is multiplied by the chroma, from 0 to 1.
        spatial: see :class:`ImageMethod`.
    """

    family = "innate relationship"
    paper = "Larsson et al. 2017"
    predicts = "hue and chroma from lightness"
    loss = "two divergences"
    needs_colors = True
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        bins: int = 32,
        hue: float = 5.0,
        spatial: bool = False,
    ) -> None:
        if not (hue >= 0 and math.isfinite(hue)):
            raise ValueError(f"hue: expected a weight >= 0, got {hue}")
        bins = integer("bins", bins, 2)
        super().__init__(encoder, augment or ColorizationAugment(encoder.size), spatial=spatial)
        self.bins, self.hue = bins, hue
        self.side = max(encoder.size // 4, encoder.map_shape()[-1])
        self.decoder = Decoder(encoder, 2 * bins, self.side)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The lightness in three channels [B, 3, S, S], the histograms of hue and of chroma [B, 2, bins, s, s], the
        mean chroma [B, s, s], in parts of the largest, and the colours [B, 2, s, s]."""
        (view,) = super().views(items, seed, epoch, ids)
        light, ab = ColorizationAugment.lab(view)
        chroma = torch.linalg.vector_norm(ab, dim=1) / CHROMA
        turn = torch.atan2(ab[:, 1], ab[:, 0]) / (2 * math.pi) % 1.0
        shares = [self._pooled(turn, chroma), self._pooled(chroma, torch.ones_like(chroma))]
        mean = TF.adaptive_avg_pool2d(chroma, self.side)
        histograms = torch.stack([shares[0] / mean[:, None].clamp(min=1e-6), shares[1]], 1)
        return [(light / 50 - 1).expand(-1, 3, -1, -1), histograms, mean, TF.adaptive_avg_pool2d(ab, self.side)]

    def _pooled(self, values: Tensor, weights: Tensor) -> Tensor:
        """Weights [B, S, S] by the interval of values in [0, 1), as means over output pixels [B, bins, s, s]."""
        interval = (values * self.bins).long().clamp(max=self.bins - 1)[:, None]
        spread = weights.new_zeros(len(values), self.bins, *values.shape[1:]).scatter_(1, interval, weights[:, None])
        return TF.adaptive_avg_pool2d(spread, self.side)

    def predicted(self, light: Tensor) -> Tensor:
        """Logarithms of the histograms of hue and of chroma [B, 2, bins, s, s]."""
        logits = self.decoder(self.encoder.network(light)).float()
        return TF.log_softmax(logits.unflatten(1, (2, self.bins)), 2)

    def forward(self, batch: Batch) -> Tensor:
        light, histograms, chroma, _ = batch.views
        hue, intensity = TF.kl_div(self.predicted(light), histograms.float(), reduction="none").sum(2).unbind(1)
        return (intensity + self.hue * chroma * hue).mean()

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        light, _, _, ab = batch.views
        hue, intensity = self.predicted(light).exp().unbind(1)
        middles = (torch.arange(self.bins, device=light.device) + 0.5) / self.bins
        angles = 2 * math.pi * middles
        direction = torch.einsum("bkhw,kc->bchw", hue, torch.stack([angles.cos(), angles.sin()], 1))
        return colored(light, direction * CHROMA * torch.einsum("bkhw,k->bhw", intensity, middles)[:, None], ab)
