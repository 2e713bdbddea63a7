"""Context encoder: inpainting of a region that is cut out of the image.

Pathak et al., Context Encoders: Feature Learning by Inpainting, 2016. The feature map passes through a channel-wise
fully connected layer, which connects all positions, and a decoder; a discriminator adds an adversarial loss.
Deviations: the whole image is decoded and the loss covers the missing region; sizes are chosen for small images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.augment import ContextEncoderAugment, Views
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder
from fastssl.models.decoder import Decoder
from fastssl.models.discriminator import image_layers


class _Reverse(torch.autograd.Function):
    """Gradient reversal: one backward pass trains the discriminator and its adversary."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return -grad


class ContextEncoder(ImageMethod):
    """One view with a region removed + encoder + channel-wise layer + decoder + lambda_rec L_rec + lambda_gan L_gan.

    Args:
        encoder: the network kept after pretraining; it outputs a feature map.
        augment: produces one view in [-1, 1].
        region: "center" or "random": the region that is cut out.
        lambda_rec: weight of the squared error on the missing region.
        lambda_gan: weight of the adversarial loss; 0: no discriminator.
        spatial: see :class:`ImageMethod`.
    """

    family = "masked generation"
    paper = "Pathak et al. 2016"
    predicts = "the pixels of a region that was cut out"
    loss = "squared error and a discriminator"

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        region: str = "random",
        lambda_rec: float = 0.999,
        lambda_gan: float = 0.001,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or ContextEncoderAugment(encoder.size), spatial=spatial)
        ContextEncoderAugment.mask(1, encoder.size, kind=region)
        self.region, self.lambda_rec, self.lambda_gan = region, lambda_rec, lambda_gan
        self.separable = (
            region == "center" or not lambda_gan
        )  # else one loss is a mean over pixels, the other over images
        self.decoder = Decoder(encoder)
        channels, height, width = encoder.map_shape()
        places = height * width
        self.channelwise = nn.Parameter(
            torch.eye(places).repeat(channels, 1, 1) + torch.randn(channels, places, places) * 0.01
        )
        self.discriminator = None
        if lambda_gan:
            self.discriminator = nn.Sequential(*image_layers(encoder.channels), nn.Linear(1024, 1))

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S] and the mask of the region to predict [B, 1, S, S]."""
        (view,) = super().views(items, seed, epoch, ids)
        size = view.shape[-1]
        if self.region == "center":
            return [view, ContextEncoderAugment.mask(len(view), size)]
        seeds = (self.uniform(seed, epoch, ids, block=1)[:, 0] * 2**53).astype(np.int64)
        return [view, torch.cat([ContextEncoderAugment.mask(1, size, kind="random", seed=int(s)) for s in seeds])]

    def paint(self, image: Tensor, gone: Tensor) -> Tensor:
        """The decoded image, from the image with the region ``gone`` removed."""
        x = self.encoder.network(image.masked_fill(gone, 0.0))
        flat = torch.einsum("bcp,cpq->bcq", x.flatten(2), self.channelwise)
        return self.decoder(flat.reshape(x.shape))

    def forward(self, batch: Batch) -> Tensor:
        image, gone = batch.views
        painted = self.paint(image, gone)
        missing = gone.expand_as(image)
        reconstruction = TF.mse_loss(painted[missing].float(), image[missing].float())
        if self.discriminator is None:
            return self.lambda_rec * reconstruction
        filled = torch.where(gone, painted, image)
        # The discriminator minimises the GAN loss; through the reversal, encoder and decoder maximise it.
        real, fake = self.discriminator(image), self.discriminator(_Reverse.apply(filled))
        gan = TF.softplus(-real).mean() + TF.softplus(fake).mean()
        return self.lambda_rec * reconstruction + self.lambda_gan * gan

    def terms(self, batch: Batch) -> int:
        return int(batch.views[1].sum())

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        image, gone = batch.views
        painted = torch.where(gone, self.paint(image, gone), image)
        return {"seen": image.masked_fill(gone, 0.0), "painted": painted, "image": image}
