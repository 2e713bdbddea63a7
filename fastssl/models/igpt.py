"""The network of image GPT: a causal transformer on the colours of pixels, which a palette quantises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.distributed.shards import unsharded
from fastssl.models.density import DensityNetwork, LogLikelihood
from fastssl.models.drawing import check_sampling, checked, draw
from fastssl.models.kmeans import kmeans
from fastssl.models.language import Transformer

FITTED_PIXELS = 1 << 16  # to which the palette is fitted


class ImageGPTNetwork(DensityNetwork):
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
        super().__init__(checked("size", size, 1, 1024), checked("channels", channels, 1, 16), None)
        self.levels, self.classes = checked("colors", colors, 2, 1 << 14), checked("classes", classes, 0)
        for name, value in (("width", width), ("blocks", blocks), ("heads", heads)):
            checked(name, value, 1)
        if width % heads:
            raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
        self.heads = heads
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
        return nearest.reshape(len(images), 1, *images.shape[2:])

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
        return torch.cat([self._start(len(images), labels), colors[:, :-1]], 1), colors

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
        """Negative log-likelihood of the colours of each image in [-1, 1], [B]."""
        tokens, colors = self._tokens(images, labels)
        hidden, net = self.transformer(tokens).flatten(0, 1), self.transformer
        count = len(self.palette)
        with unsharded():
            nats = F.linear_cross_entropy(
                hidden, net.tokens.weight[:count], colors.flatten(), net.bias[:count], reduction="none"
            )
        return nats.reshape(colors.shape).sum(1)

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> LogLikelihood:
        """Exact log-likelihoods of the palette's colours of images in [-1, 1]; ``labels``: those conditioned on."""
        return LogLikelihood(-self.nats(images, labels).double(), "exact")

    @torch.no_grad()
    def sample(
        self,
        count: int,
        seed: int = 0,
        *,
        temperature: float = 1.0,
        label: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Draws images pixel by pixel, with the keys and values of the pixels before: [count, channels, S, S].

        Args:
            count: number of images. Image k depends on (seed, k) alone.
            seed: seed of all draws.
            temperature: 0: the most probable colour of each pixel.
            label: the class that the images are conditioned on; None: any.
            progress: called with the number of pixels so far, and of all.

        Raises:
            ValueError: a number out of range, or a label of a network without classes.
        """
        check_sampling(count, temperature, label, self.classes)
        was, net, pixels = self.training, self.transformer, self.dimensions
        self.eval()
        labels = None if label is None else torch.full((count,), label, device=self.palette.device)
        token = self._start(count, labels)[:, 0]
        shape = (2, len(net.blocks), count, self.heads, pixels, net.tokens.embedding_dim // self.heads)
        keys, values = net.bias.new_zeros(shape)
        colors = torch.zeros(count, pixels, dtype=torch.int64, device=self.palette.device)
        for place in range(pixels):
            x = net.tokens(token) + net.positions.weight[place]
            for k, block in enumerate(net.blocks):
                x = block.step(x, keys[k], values[k], place)  # type: ignore[operator]
            token = draw(self._head(net.norm(x)), seed, place, temperature)
            colors[:, place] = token
            if progress is not None:
                progress(place + 1, pixels)
        self.train(was)
        return self.to_images(colors.reshape(count, 1, self.size, self.size)).float()
