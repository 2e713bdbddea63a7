"""Colorization: the colours of an image are predicted from its lightness.

Zhang, Isola and Efros, Colorful Image Colorization, 2016. The ab plane is quantised into the cells of a grid; the
target of a pixel is a soft assignment to its five nearest cells, and rare colours are up-weighted. Deviations: colour
frequencies are estimated during training instead of on ImageNet; sizes are chosen for small images.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl.functional as F
from fastssl._options import integer
from fastssl.augment import ColorizationAugment, Views
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder
from fastssl.models.decoder import Decoder


@functools.cache
def ab_cells(grid: int = 10) -> Tensor:
    """The centres of the cells of the ab plane that hold a colour of sRGB: [Q, 2]; about 300 for a grid of 10.

    Raises:
        ValueError: ``grid`` is no integer from 1 to 100, of which there are several cells.
    """
    grid = integer("grid", grid, 1, 100)
    steps = torch.linspace(0, 1, 52)
    colors = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).reshape(1, 3, -1, 1)
    _, ab = ColorizationAugment.lab(colors)
    return torch.unique((ab[0, :, :, 0].T / grid).round(), dim=0) * grid


def annealed_mean(logits: Tensor, classes: Tensor) -> Tensor:
    """The prediction of the paper [B, C, h, w], between the mean (grey) and the mode, of logits [B, Q, h, w] of
    ``classes`` [Q, C]."""
    return torch.einsum("bqhw,qc->bchw", torch.softmax(logits.float() / 0.38, 1), classes)


def colored(light: Tensor, told: Tensor, ab: Tensor) -> dict[str, Tensor]:
    """Pictures of predicted and of true colours [B, 2, s, s], for the lightness [B, 3, S, S] that was seen."""
    l50, size = 50 * (light[:, :1] + 1), light.shape[2:]
    images = [ColorizationAugment.rgb(l50, TF.interpolate(x, size, mode="bilinear")) for x in (told, ab)]
    return {"seen": light, "coloured": 2 * images[0] - 1, "true, as coarse": 2 * images[1] - 1}


class Colorization(ImageMethod):
    """One view's lightness + encoder + decoder + class-rebalanced cross-entropy over colour cells.

    Args:
        encoder: the network kept after pretraining; it outputs a feature map, and takes L in all three channels.
        augment: produces one view in [0, 1].
        grid: side of a cell in the ab plane.
        sigma: standard deviation of the soft assignment to the five nearest cells, in units of ab.
        mix: fraction of the uniform distribution mixed into the colour frequencies before they are inverted to weights.
        spatial: see :class:`ImageMethod`.
    """

    family = "innate relationship"
    paper = "Zhang et al. 2016"
    predicts = "colours from lightness"
    loss = "rebalanced cross-entropy"
    needs_colors = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        grid: int = 10,
        sigma: float = 5.0,
        mix: float = 0.5,
        spatial: bool = False,
    ) -> None:
        if not 0 < mix <= 1:
            raise ValueError(f"mix: expected a share above 0 and up to 1, got {mix}")
        super().__init__(encoder, augment or ColorizationAugment(encoder.size), spatial=spatial)
        self.sigma, self.mix = sigma, mix
        cells = ab_cells(grid)
        self.side = max(encoder.size // 4, encoder.map_shape()[-1])
        self.decoder = Decoder(encoder, len(cells), self.side)
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("frequency", torch.full((len(cells),), 1 / len(cells)))
        self.cells: Tensor
        self.frequency: Tensor

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The lightness in three channels [B, 3, S, S] and the colours at the output resolution [B, 2, s, s]."""
        (view,) = super().views(items, seed, epoch, ids)
        light, ab = ColorizationAugment.lab(view)
        return [(light / 50 - 1).expand(-1, 3, -1, -1), TF.adaptive_avg_pool2d(ab, self.side)]

    def assign(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Soft assignment of colours [N, 2]: the five nearest cells [N, 5] and their weights [N, 5]."""
        distance, cell = F.nearest(ab.float(), self.cells, 5, metric="sqeuclidean")
        return cell, torch.softmax(-distance / (2 * self.sigma**2), 1)

    def forward(self, batch: Batch) -> Tensor:
        light, ab = batch.views
        logits = self.decoder(self.encoder.network(light)).float().permute(0, 2, 3, 1).flatten(0, 2)
        cell, share = self.assign(ab.permute(0, 2, 3, 1).flatten(0, 2))
        weight = 1 / ((1 - self.mix) * self.frequency + self.mix / len(self.cells))
        weight = weight / (weight * self.frequency).sum()
        terms = -(TF.log_softmax(logits, 1).gather(1, cell) * share).sum(1) * weight[cell[:, 0]]
        if self.training:
            seen = torch.zeros_like(self.frequency).index_add_(0, cell.flatten(), share.flatten().float())
            self.frequency.lerp_(seen / len(cell), 0.01)
        return terms.mean()

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        light, ab = batch.views
        return colored(light, annealed_mean(self.decoder(self.encoder.network(light)), self.cells), ab)
