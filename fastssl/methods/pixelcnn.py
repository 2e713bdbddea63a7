"""PixelCNN: every pixel is predicted from those before it, by masked convolutions.

van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016; van den Oord et al., Conditional
Image Generation with PixelCNN Decoders, 2016. Deviations: dropout, no skip connections from all layers to the last, and
a learned value per position and channel behind the first layer. Sampling keeps the maps of the pixels before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from fastssl.augment import Views
from fastssl.data.batch import Batch
from fastssl.methods.density import DensityMethod
from fastssl.models import DensityNetwork, Encoder, PixelNetwork
from fastssl.models.pixels import PixelCNNNetwork
from fastssl.models.samples import Samples


class PixelMethod(DensityMethod):
    """Base class of methods that predict each pixel from those before it: the negative log-likelihood per image."""

    family = "autoregression"
    loss = "cross-entropy"
    networks: ClassVar[tuple[type[DensityNetwork], ...]] = (PixelNetwork,)

    def __init__(self, encoder: Encoder, augment: Views | None = None) -> None:
        super().__init__(encoder, augment)
        if self.network.classes:
            self.needs = ("images", "label")  # type: ignore[misc]

    def forward(self, batch: Batch) -> Tensor:
        labels = batch.labels if self.network.classes else None
        if labels is not None and bool((labels >= self.network.classes).any()):
            raise ValueError(f"labels: expected 0 to {self.network.classes - 1}, got {int(labels.max())}")
        loss: Tensor = self.network.nats(batch.views[0], labels).mean()
        return loss

    def generate(
        self,
        count: int = 64,
        seed: int = 0,
        *,
        temperature: float = 1.0,
        label: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Images, drawn pixel by pixel.

        Args:
            count: number of images.
            seed: seed of all draws.
            temperature: 0: the most probable level of each pixel.
            label: the class that they are conditioned on; None: any.
            progress: called with the number of pixels so far, and of all.
        """
        made = self.network.sample(count, seed, temperature=temperature, label=label, progress=progress)
        return self.samples(made)


class PixelCNN(PixelMethod):
    """Pixels + masked convolutions + cross-entropy of each pixel's level.

    Args:
        encoder: "pixelcnn" of :func:`fastssl.models.build_encoder` (:class:`fastssl.models.PixelCNNNetwork`): images of
            2 to 256 levels, gated in two stacks without a blind spot, or not; its features are the last hidden states.
        augment: see :class:`DensityMethod`.

    Raises:
        TypeError: an encoder of another network.
    """

    paper = "van den Oord et al. 2016"
    predicts = "every pixel from those before it"
    encoder_name = "pixelcnn"
    networks = (PixelCNNNetwork,)
