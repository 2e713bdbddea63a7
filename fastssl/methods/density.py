"""Base class of methods that model the distribution of images: likelihoods, samples, and features beside."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fastssl.augment import HALF, Augment, CenterCrop, Views
from fastssl.methods.image import ImageMethod
from fastssl.models import DensityNetwork, Encoder
from fastssl.models.density import LogLikelihood
from fastssl.models.samples import Samples


class DensityMethod(ImageMethod):
    """Base class of methods that model the distribution of images, pixel by pixel.

    The encoder's network is a :class:`fastssl.models.DensityNetwork`: it gives likelihoods and samples, and features as
    every encoder. Examples are centre crops, without augmentation. Subclasses define ``networks``, and ``forward``,
    which defaults to the mean negative log-likelihood.

    Args:
        encoder: an encoder of one of ``networks``.
        augment: produces one view in [-1, 1]; None: the centre crop at the encoder's size.
    """

    family = "density estimation"
    data = "digits"
    held_out = True
    generates = "images"
    channels: ClassVar[int] = 1
    networks: ClassVar[tuple[type[DensityNetwork], ...]] = (DensityNetwork,)
    likelihood_rows: ClassVar[int | None] = 512  # images per call; None: all, which share an estimate
    separable = True

    def __init__(self, encoder: Encoder, augment: Views | None = None) -> None:
        if not isinstance(encoder.network, self.networks):
            names = ", ".join(kind.__name__ for kind in self.networks)
            raise TypeError(
                f"encoder: {type(self).__name__} expects an encoder of {names} ({self.encoder_name!r}), got "
                f"{type(encoder.network).__name__}"
            )
        crop = Augment([CenterCrop(encoder.size, resize=encoder.size), HALF])
        super().__init__(encoder, augment or Views([crop]))

    @property
    def network(self) -> Any:
        """The network p(x)."""
        return self.encoder.network

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        return max(s for s in (1, 2, 4, 8) if s <= max(min(size) // self.encoder.size, 1))

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, **options: Any) -> LogLikelihood:
        """Log-likelihoods of images [B, channels, size, size] in [-1, 1]; ``options`` are those of the network's."""
        found: LogLikelihood = self.network.log_likelihood(images, **options)
        return found

    def generate(self, count: int = 64, seed: int = 0) -> Samples:
        return self.samples(self.network.sample(count, seed))
