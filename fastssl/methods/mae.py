"""MAE: a ViT encodes a quarter of an image's patches; a small decoder reconstructs the masked ones.

He et al., Masked Autoencoders Are Scalable Vision Learners, 2022. Deviations: no class token; a decoder of 2 blocks
instead of 8, for small images.
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
from fastssl.models import Encoder, ViT
from fastssl.models.vit import Block, sine_positions, vit_of


class MAE(ImageMethod):
    """One view's visible patches + ViT + transformer decoder + squared error on the masked patches.

    Args:
        encoder: the network kept after pretraining, a :class:`fastssl.models.ViT`.
        augment: produces one view.
        share: masking ratio, the fraction of patches that are masked.
        decoder_dim: token dimensions of the decoder.
        decoder_depth: blocks of the decoder.
        norm_pixels: targets are the pixels normalised per patch, the paper's best setting.
        spatial: not used: the decoder takes tokens.

    Raises:
        ValueError: the encoder's network is no ViT, or a masking ratio that masks no patch or all.
    """

    family = "masked generation"
    paper = "He et al. 2022"
    predicts = "the pixels of hidden patches"
    loss = "mean squared error on the hidden"
    separable = True
    encoder_name = "vit"

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        share: float = 0.75,
        decoder_dim: int = 96,
        decoder_depth: int = 2,
        norm_pixels: bool = True,
        spatial: bool = False,
    ) -> None:
        network = vit_of(encoder.network, "MAE")
        super().__init__(encoder, augment or MAEAugment(encoder.size, normalize=HALF), spatial=False)
        side = encoder.size // network.patch
        self.patch, self.side, self.norm_pixels = network.patch, side, norm_pixels
        self.visible = side * side - round(share * side * side)
        if not 0 < self.visible < side * side:
            raise ValueError(f"share: expected a ratio that masks some of {side * side} patches, got {share}")
        self.enter = nn.Linear(network.dim, decoder_dim)
        self.token = nn.Parameter(torch.randn(decoder_dim) * 0.02)
        self.register_buffer("positions", sine_positions(side, side, decoder_dim), persistent=False)
        self.positions: Tensor
        self.decoder = nn.Sequential(*[Block(decoder_dim, 4) for _ in range(decoder_depth)], nn.LayerNorm(decoder_dim))
        self.leave = nn.Linear(decoder_dim, encoder.channels * self.patch**2)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S] and a random order of its patches, of which the first are visible: int64 [B, P]."""
        (view,) = super().views(items, seed, epoch, ids)
        noise = self.uniform(seed, epoch, ids, block=1, count=self.side**2)
        return [view, torch.from_numpy(noise.argsort(1))]

    def targets(self, image: Tensor) -> Tensor:
        """The target pixels of all patches [B, P, 3 * patch * patch]."""
        pixels = TF.pixel_unshuffle(image.float(), self.patch).flatten(2).transpose(1, 2)
        if not self.norm_pixels:
            return pixels
        return (pixels - pixels.mean(2, keepdim=True)) / (pixels.var(2, keepdim=True) + 1e-6).sqrt()

    def paint(self, image: Tensor, order: Tensor) -> Tensor:
        """The predicted pixels of all patches, in spatial order."""
        network = self.encoder.network
        assert isinstance(network, ViT)
        seen = self.enter(network.visible(image, order[:, : self.visible]))
        tokens = self.token.to(seen.dtype).expand(len(image), self.side**2, -1)
        tokens = tokens.scatter(1, order[:, : self.visible, None].expand_as(seen), seen)
        result: Tensor = self.leave(self.decoder(tokens + self.positions))
        return result

    def forward(self, batch: Batch) -> Tensor:
        image, order = batch.views
        error = (self.paint(image, order).float() - self.targets(image)).square().mean(2)
        return error.gather(1, order[:, self.visible :]).mean()

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        image, order = batch.views
        patches, pixels = self.paint(image, order), TF.pixel_unshuffle(image, self.patch).flatten(2).transpose(1, 2)
        if self.norm_pixels:  # shown with the true mean and standard deviation, which are not predicted
            patches = patches * pixels.std(2, keepdim=True) + pixels.mean(2, keepdim=True)
        hidden = torch.ones(order.shape, dtype=torch.bool).scatter(1, order[:, : self.visible], False)[..., None]

        def whole(x: Tensor) -> Tensor:
            grid = x.transpose(1, 2).reshape(len(x), -1, self.side, self.side)
            return TF.pixel_shuffle(grid, self.patch)

        painted = whole(torch.where(hidden, patches, pixels))
        return {"seen": whole(pixels.masked_fill(hidden, 0.0)), "predicted": painted, "image": image}
