"""Networks of images that predict every pixel from those before it, row by row: what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssl.models.density import DensityNetwork, LogLikelihood
from fastssl.models.drawing import check_sampling, checked, draw
from fastssl.models.modes import evaluation_mode

Choose = Callable[[Tensor, int], Tensor]  # values [B] for logits [B, L] and the number of the draw


class RasterNetwork(DensityNetwork):
    """Base class of networks that predict each pixel from those before it in raster order.

    Subclasses define ``nats``, and for sampling ``begin``, ``draw_pixel`` and ``finish``.

    Args:
        size: height and width of the images.
        channels: colours of a pixel.
        levels: values of a colour, 2 to 256; None: others, of the subclass.
        classes: number of labels to be conditioned on; 0: none.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> from fastssl.models import ImageGPTNetwork, PixelCNNNetwork, RasterNetwork
        >>> issubclass(PixelCNNNetwork, RasterNetwork), issubclass(ImageGPTNetwork, RasterNetwork)
        (True, True)
    """

    def __init__(self, size: int, channels: int, levels: int | None, classes: int) -> None:
        super().__init__(checked("size", size, 1, 1024), checked("channels", channels, 1, 16), levels)
        self.classes = checked("classes", classes, 0)

    def nats(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of each image in [-1, 1], [B]; labels [B] of a conditioned network, -1: unknown."""
        raise NotImplementedError

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> LogLikelihood:
        """Exact log-likelihoods of images in [-1, 1], of their levels; ``labels``: those they are conditioned on."""
        return LogLikelihood(-self.nats(images, labels).double(), "exact")

    def begin(self, count: int, labels: Tensor | None) -> Any:
        """The state of ``count`` images that are drawn."""
        raise NotImplementedError

    def draw_pixel(self, drawn: Any, place: int, choose: Choose) -> None:
        """Draws the pixel at ``place`` of all images."""
        raise NotImplementedError

    def finish(self, drawn: Any) -> Tensor:
        """The images [count, channels, S, S] in [-1, 1]."""
        raise NotImplementedError

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
        """Draws images pixel by pixel: float [count, channels, S, S] in [-1, 1].

        Args:
            count: number of images. Image k depends on (seed, k) alone.
            seed: seed of all draws.
            temperature: 0: the most probable value of each pixel.
            label: the class that the images are conditioned on; None: any.
            progress: called with the number of pixels so far, and of all.

        Raises:
            ValueError: a number out of range, or a label of a network without classes.
        """
        check_sampling(count, temperature, label, self.classes)
        device, pixels = next(self.parameters()).device, self.size * self.size
        labels = None if label is None else torch.full((count,), label, device=device)
        with evaluation_mode(self):
            drawn = self.begin(count, labels)
            for place in range(pixels):
                self.draw_pixel(drawn, place, lambda logits, number: draw(logits, seed, number, temperature))
                if progress is not None:
                    progress(place + 1, pixels)
            return self.finish(drawn).float()
