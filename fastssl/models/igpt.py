"""The network of image GPT: a causal transformer on the colours of pixels, which a palette quantises."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.distributed.shards import unsharded
from fastssl.models.drawing import checked
from fastssl.models.kmeans import kmeans
from fastssl.models.language import Transformer
from fastssl.models.raster import Choose, RasterNetwork
from fastssl.models.vit import KeyValues

FITTED_PIXELS = 1 << 16  # to which the palette is fitted


class Cached(NamedTuple):
    """Images in the making: first tokens [B], colours of pixels [B, S S], and what every block has seen."""

    first: Tensor
    colors: Tensor
    cache: list[KeyValues]


class ImageGPTNetwork(RasterNetwork):
    """Image GPT: pixels in raster order, each a colour of a palette, and a causal transformer.

    Its likelihoods are those of the palette's colours, and its features the hidden states of the middle block. The
    palette is random until it is fitted (:meth:`fit_palette`).

    Args:
        size: height and width of the images.
        channels: channels of a pixel.
        colors: colours of the palette; 512 in the paper.
        width: dimensions of a token.
        blocks: number of transformer blocks.
        heads: number of attention heads.
        classes: number of labels to be conditioned on, by the first token; 0: none.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> from fastssl.models import ImageGPTNetwork
        >>> network = ImageGPTNetwork(4, colors=8, width=16, blocks=2, heads=2)
        >>> network.fit_palette(torch.rand(32, 3, 4, 4) * 2 - 1)
        >>> network.sample(2).shape
        torch.Size([2, 3, 4, 4])

    Source: Chen et al., Generative Pretraining from Pixels, 2020.
    """

    palette: Tensor

    def __init__(
        self,
        size: int,
        channels: int = 3,
        colors: int = 512,
        width: int = 64,
        blocks: int = 4,
        heads: int = 4,
        classes: int = 0,
    ) -> None:
        super().__init__(size, channels, None, classes)
        self.levels = checked("colors", colors, 2, 1 << 14)
        for name, value in (("width", width), ("blocks", blocks), ("heads", heads)):
            checked(name, value, 1)
        if width % heads:
            raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
        tokens = colors + max(classes, 1) + (classes > 0)  # the first token: a class, or any
        self.transformer = Transformer(tokens, width, blocks, heads, size * size)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("palette", torch.rand(colors, channels, generator=generator) * 2 - 1)

    @property
    def dimensions(self) -> int:
        return self.size * self.size

    @torch.no_grad()
    def fit_palette(self, images: Tensor, seed: int = 0) -> None:
        """Fits the palette to images [N, channels, S, S] in [-1, 1] by k-means of their pixels.

        Raises:
            ValueError: fewer pixels than colours.
        """
        pixels = images.permute(0, 2, 3, 1).reshape(-1, self.channels).float()
        if len(pixels) < len(self.palette):
            raise ValueError(f"colors: expected at most the {len(pixels)} pixels of the data, got {len(self.palette)}")
        some = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))[:FITTED_PIXELS]
        self.palette.copy_(kmeans(pixels[some].cpu(), len(self.palette), seed=seed)[0])

    def quantize(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] to the nearest colours of the palette, int64 [B, 1, S, S]."""
        pixels = images.permute(0, 2, 3, 1).reshape(-1, self.channels).to(self.palette)
        nearest = F.nearest(pixels, self.palette, 1, metric="sqeuclidean")[1]
        return nearest.reshape(images.shape[0], 1, *images.shape[2:])

    def to_images(self, levels: Tensor) -> Tensor:
        """Colours of the palette [B, 1, ...] to images [B, channels, ...] in [-1, 1]."""
        return self.palette[levels[:, 0]].movedim(-1, 1)

    def _start(self, count: int, labels: Tensor | None) -> Tensor:
        any_class = len(self.palette) + self.classes
        if labels is None or not self.classes:
            return torch.full((count, 1), any_class, device=self.palette.device)
        return torch.where(labels < 0, any_class, len(self.palette) + labels)[:, None]

    def _tokens(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        colors = self.quantize(images).flatten(1)
        return torch.cat([self._start(images.shape[0], labels), colors[:, :-1]], 1), colors

    def forward(self, images: Tensor) -> Tensor:
        """The hidden states of the middle block, [B, width, S, S]."""
        net = self.transformer
        x = net.tokens(self._tokens(images, None)[0]) + net.positions.weight
        for block in net.blocks[: (len(net.blocks) + 1) // 2]:
            x = block(x)
        return x.transpose(1, 2).unflatten(2, (self.size, self.size))

    def logits(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of the colours, [B, colors, S, S]."""
        hidden = self.transformer(self._tokens(images, labels)[0])
        return self._head(hidden).transpose(1, 2).unflatten(2, (self.size, self.size))

    def _head(self, hidden: Tensor) -> Tensor:
        colors = len(self.palette)
        return hidden @ self.transformer.tokens.weight[:colors].T + self.transformer.bias[:colors]

    def nats(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        tokens, colors = self._tokens(images, labels)
        hidden, net = self.transformer(tokens).flatten(0, 1), self.transformer
        count = len(self.palette)
        with unsharded():
            nats = F.linear_cross_entropy(
                hidden, net.tokens.weight[:count], colors.flatten(), net.bias[:count], reduction="none"
            )
        return nats.reshape(colors.shape).sum(1)

    def begin(self, count: int, labels: Tensor | None) -> Cached:
        colors = torch.zeros(count, self.dimensions, dtype=torch.int64, device=self.palette.device)
        return Cached(self._start(count, labels)[:, 0], colors, self.transformer.cache())

    def draw_pixel(self, drawn: Cached, place: int, choose: Choose) -> None:
        token = drawn.colors[:, place - 1] if place else drawn.first
        hidden = self.transformer(token[:, None], cache=drawn.cache)[:, 0]
        drawn.colors[:, place] = choose(self._head(hidden), place)

    def finish(self, drawn: Cached) -> Tensor:
        return self.to_images(drawn.colors.reshape(-1, 1, self.size, self.size))
