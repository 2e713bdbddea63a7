"""BiGAN: an encoder learns to invert a generator, as a discriminator tells pairs of image and code apart.

Donahue, Krähenbühl and Darrell, Adversarial Feature Learning, 2017. Encoder and generator are trained with the labels
of the discriminator's loss exchanged (the paper's "inverse objective"). Deviations: all networks are trained in one
step; the discriminator has no batch norm; sizes are chosen for small images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn
from torch.func import functional_call

from fastssl._options import integer
from fastssl.augment import HALF, MAEAugment, Views, uniform
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder
from fastssl.models.decoder import Decoder
from fastssl.models.discriminator import PairDiscriminator
from fastssl.models.modes import evaluation_mode
from fastssl.models.samples import Samples


class BiGAN(ImageMethod):
    """One view and noise + encoder with a linear layer, generator, discriminator of pairs + two logistic losses.

    The discriminator tells (image, its code) from (generated image, the noise that it was made of).

    Args:
        encoder: the network kept after pretraining; it outputs a feature map.
        augment: produces one view in [-1, 1].
        outputs: dimensions of the code, uniform noise in [-1, 1] for the generator.
        hidden: width of the discriminator's layers that see the code.
        spatial: see :class:`ImageMethod`.
    """

    family = "adversarial"
    paper = "Donahue et al. 2017"
    predicts = "the noise that an image would be generated from"
    loss = "two logistic losses"
    min_rows = 2  # batch norm of rows
    generates = "images"
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        outputs: int = 64,
        hidden: int = 256,
        spatial: bool = False,
    ) -> None:
        outputs, hidden = integer("outputs", outputs, 1), integer("hidden", hidden, 1)
        super().__init__(encoder, augment or MAEAugment(encoder.size, normalize=HALF), spatial=spatial)
        shape = encoder.map_shape()
        self.outputs = outputs
        self.code = nn.Linear(self.features, outputs)
        self.generator = nn.Sequential(
            nn.Linear(outputs, int(np.prod(shape)), bias=False), nn.Unflatten(1, shape), nn.BatchNorm2d(shape[0]),
            nn.ReLU(inplace=True), Decoder(encoder), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = PairDiscriminator(encoder.channels, outputs, hidden)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S] and the generator's noise [B, outputs]."""
        (view,) = super().views(items, seed, epoch, ids)
        noise = 2 * self.uniform(seed, epoch, ids, block=1, count=self.outputs) - 1
        return [view, torch.from_numpy(noise).to(view.dtype)]

    def forward(self, batch: Batch) -> Tensor:
        image, noise = batch.views
        code, made = self.code(self.embed(image)), self.generator(noise)
        told = self.discriminator(image, code.detach()), self.discriminator(made.detach(), noise)
        loss = TF.softplus(-told[0].float()).mean() + TF.softplus(told[1].float()).mean()
        # The same weights without gradient, for which encoder and generator are trained with the labels exchanged.
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        fooled = [functional_call(self.discriminator, fixed, pair) for pair in ((image, code), (made, noise))]
        return loss + TF.softplus(fooled[0].float()).mean() + TF.softplus(-fooled[1].float()).mean()

    @torch.no_grad()
    def generate(self, count: int = 64, seed: int = 0) -> Samples:
        drawn = torch.from_numpy(2 * uniform(seed, 0, np.arange(count), count=self.outputs) - 1)
        weight = self.code.weight
        with evaluation_mode(self.generator):
            return self.samples(self.generator(drawn.to(weight.device, weight.dtype)))

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        image, noise = batch.views
        return {
            "image": image,
            "generated from its code": self.generator(self.code(self.embed(image))),
            "generated from noise": self.generator(noise),
        }
