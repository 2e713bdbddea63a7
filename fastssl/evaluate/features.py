"""Features of images: a frozen encoder's, and the baselines that every encoder should beat."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import to_float
from fastssl.models import Encoder


@torch.no_grad()
def encode(encoder: Encoder, images: np.ndarray, readout: str = "spatial", batch: int = 512) -> Tensor:
    """Features [N, C] of uint8 images [N, H, W, 3].

    Args:
        encoder: used in evaluation mode.
        images: uint8.
        readout: "pooled" (the mean over positions) or "spatial" (a 4 x 4 map, flattened).
        batch: images at once.

    Raises:
        ValueError: unknown readout.
    """
    if readout not in ("pooled", "spatial"):
        raise ValueError(f"readout: expected 'pooled' or 'spatial', got {readout!r}")
    training = encoder.training
    encoder.eval()
    function = encoder if readout == "pooled" else encoder.spatial
    parts = []
    for start in range(0, len(images), batch):
        x = to_float(torch.from_numpy(images[start : start + batch]), encoder.size)
        parts.append(function(x.contiguous(memory_format=torch.channels_last)).float())
    encoder.train(training)
    return torch.cat(parts)


def pixels(images: np.ndarray, size: int) -> Tensor:
    """The images themselves as features, at the size that the encoder sees."""
    return to_float(torch.from_numpy(images), size).flatten(1)


def color_histogram(images: np.ndarray, bins: int = 4) -> Tensor:
    """What colour alone says: the root of the share of pixels in each of bins^3 colours.

    Roots, so that cosine compares histograms as Hellinger's distance does: shares themselves do 7 points worse.
    """
    levels = (images.astype(np.int64) * bins) // 256
    index = (levels[..., 0] * bins + levels[..., 1]) * bins + levels[..., 2]
    rows = [np.bincount(row.ravel(), minlength=bins**3) for row in index]
    return (torch.from_numpy(np.stack(rows)).float() / index[0].size).sqrt()


def centred(features: Tensor, mean: Tensor | None = None) -> Tensor:
    """Features without their mean, of unit length: what cosine similarity should compare."""
    return torch.nn.functional.normalize(features - (features.mean(0) if mean is None else mean), dim=1)
