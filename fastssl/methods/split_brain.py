"""Split-brain autoencoder: half of the network predicts colours from lightness, the other lightness from colours.

Zhang, Isola and Efros, Split-Brain Autoencoders: Unsupervised Learning by Cross-Channel Prediction, 2017. Both
predictions are classifications: of a pixel's cell in the ab plane, and of its lightness in equal intervals. Together
the halves have seen the whole image. Deviation: sizes are chosen for small images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl.functional as F
from fastssl._options import integer
from fastssl.augment import HALF, ColorizationAugment, MAEAugment, Views
from fastssl.data.batch import Batch
from fastssl.methods.colorization import ab_cells, annealed_mean
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, LabNetwork
from fastssl.models.decoder import Decoder
from fastssl.models.lab import lab_of


class SplitBrain(ImageMethod):
    """One view + two half networks + a decoder for each + cross-entropy of each half's prediction of the other's input.

    Args:
        encoder: the network kept after pretraining, a :class:`fastssl.models.LabNetwork` whose features are those of
            both halves; each half outputs a feature map.
        augment: produces one view in [-1, 1].
        grid: side of a cell in the ab plane.
        levels: number of intervals of the lightness.
        spatial: see :class:`ImageMethod`.

    Raises:
        ValueError: the encoder's network is no :class:`fastssl.models.LabNetwork`, or less than two levels.
    """

    family = "innate relationship"
    paper = "Zhang et al. 2017"
    predicts = "colours from lightness, and lightness from colours"
    loss = "two cross-entropies"
    needs_colors = True
    separable = True
    encoder_name = "lab:resnet"

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        grid: int = 10,
        levels: int = 100,
        spatial: bool = False,
    ) -> None:
        network = lab_of(encoder.network, "split-brain")
        levels = integer("levels", levels, 2)
        super().__init__(encoder, augment or MAEAugment(encoder.size, normalize=HALF), spatial=spatial)
        halves = [Encoder(half, encoder.size) for half in (network.lightness, network.color)]
        self.side = max(encoder.size // 4, *(half.map_shape()[-1] for half in halves))
        classes = (ab_cells(grid), (torch.arange(levels)[:, None] + 0.5) * 100 / levels)
        self.decoders = nn.ModuleList(Decoder(half, len(to), self.side) for half, to in zip(halves, classes))
        self.register_buffer("colors", classes[0], persistent=False)  # [Q, 2]
        self.register_buffer("levels", classes[1], persistent=False)  # [levels, 1]
        self.colors: Tensor
        self.levels: Tensor

    def predict(self, images: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Each half's logits [B, classes, s, s], and its targets: ab [B, 2, s, s], and L [B, 1, s, s]."""
        network = self.encoder.network
        assert isinstance(network, LabNetwork)
        light, color = network.split(images)
        logits = [
            decoder(half(x)).float()
            for decoder, half, x in zip(self.decoders, (network.lightness, network.color), (light, color))
        ]
        ab, level = 110 * color[:, :2].float(), 50 * (light[:, :1].float() + 1)
        targets = [TF.adaptive_avg_pool2d(x, self.side) for x in (ab, level)]
        return (logits[0], targets[0]), (logits[1], targets[1])

    def forward(self, batch: Batch) -> Tensor:
        losses = []
        for (logits, target), classes in zip(self.predict(batch.views[0]), (self.colors, self.levels)):
            _, cell = F.nearest(target.permute(0, 2, 3, 1).flatten(0, 2), classes, 1, metric="sqeuclidean")
            losses.append(TF.cross_entropy(logits.permute(0, 2, 3, 1).flatten(0, 2), cell[:, 0]))
        return losses[0] + losses[1]

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        image = batch.views[0]
        (colors, ab), (levels, light) = self.predict(image)
        pairs = ((light, annealed_mean(colors, self.colors)), (annealed_mean(levels, self.levels), ab), (light, ab))
        shown = [ColorizationAugment.rgb(*pair) for pair in pairs]
        coarse = [2 * TF.interpolate(x, image.shape[2:], mode="bilinear") - 1 for x in shown]
        return {"image": image, "colours told": coarse[0], "lightness told": coarse[1], "true, as coarse": coarse[2]}
