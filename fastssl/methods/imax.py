"""IMAX: two copies of a network look at neighbouring patches, and agree on what these share.

Becker and Hinton, Self-organizing Neural Network that Discovers Surfaces in Random-dot Stereograms, 1992: the first
Siamese network. The mutual information of the outputs is maximised, under the assumption that they are a Gaussian
signal with Gaussian noise; vectors: Becker, Mutual Information Maximization: Models of Cortical Self-organization,
1996. VICReg is its descendant. Deviation: patches are squares instead of strips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import HALF, Augment, RandomResizedCrop, Views
from fastssl.data.source import Item
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder


class IMAX(ImageMethod):
    """Two neighbouring patches + encoder + linear outputs + Gaussian mutual information.

    Args:
        encoder: the network kept after pretraining; its size is that of a patch. With two channels, a patch has those
            of both eyes (:func:`fastssl.data.stereograms`).
        augment: produces one view of at least ``2 size + gap`` pixels, from which the patches are cut; None: the
            largest square of the image, resized to that size.
        outputs: dimensions D of the outputs; 1: the paper's scalars.
        gap: pixels between the patches; None: a quarter of a patch.
        eps: see :func:`fastssl.functional.gaussian_information`.

    Raises:
        ValueError: an option out of range.
    """

    family = "agreement of views"
    paper = "Becker & Hinton 1992"
    predicts = "what neighbouring patches share"
    loss = "Gaussian mutual information"
    encoder_name = "mlp"
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        outputs: int = 1,
        gap: int | None = None,
        eps: float = 1e-4,
    ) -> None:
        gap = encoder.size // 4 if gap is None else gap
        for name, value, least in (("outputs", outputs, 1), ("gap", gap, 0)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        extent = 2 * encoder.size + gap
        whole = RandomResizedCrop(extent, scale=(1.0, 1.0), ratio=(1.0, 1.0))
        super().__init__(encoder, augment or Views([Augment([whole, HALF])]))
        smallest = min(min(program.size) for program in self.augment.programs)
        if smallest < extent:
            raise ValueError(f"augment: expected views of at least {extent} pixels, got {smallest}")
        self.gap, self.eps = gap, eps
        self.head = nn.Linear(encoder.dim, outputs)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The left and the right patch, [B, C, S, S] each, at a random height of the view."""
        (view,) = super().views(items, seed, epoch, ids)
        size, drawn = self.encoder.size, self.uniform(seed, epoch, ids)
        y, x = (
            (drawn[:, k] * (extent - wanted + 1)).astype(np.int64)
            for k, (extent, wanted) in enumerate(zip(view.shape[2:], (size, 2 * size + self.gap)))
        )
        return [
            torch.stack([image[:, b : b + size, a : a + size] for image, b, a in zip(view, y, x + shift)])
            for shift in (0, size + self.gap)
        ]

    def outputs(self, images: Tensor) -> Tensor:
        """The outputs [B, D] of patches."""
        found: Tensor = self.head(self.encoder(images))
        return found

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        return self.outputs(torch.cat(views)).chunk(len(views))

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        a, b = representations
        return -F.gaussian_information(a.float(), b.float(), eps=self.eps)
