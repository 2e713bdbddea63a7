"""Preprocessing of images without augmentation, for evaluation."""

from __future__ import annotations

from torch import Tensor

from fastssl.augment.images import read_images
from fastssl.augment.ops import CenterCrop, Normalize
from fastssl.augment.program import Augment


def to_float(images: Tensor, size: int | None = None) -> Tensor:
    """Resizes the shorter side and centre-crops: uint8 images to float [B, 3, size, size] in [-1, 1].

    Args:
        images: uint8, in any form that :class:`Augment` takes.
        size: image size in pixels; None: unchanged, for images of the same size.

    Raises:
        ValueError: images of different sizes without ``size``.

    Example:
        >>> import torch
        >>> from fastssl.augment import to_float
        >>> to_float(torch.zeros(2, 48, 40, 3, dtype=torch.uint8), 32).shape
        torch.Size([2, 3, 32, 32])
    """
    batch = read_images(images)
    if size is None:
        if len({tuple(row) for row in batch.sizes.tolist()}) > 1:
            raise ValueError("size: expected a number of pixels for images of different sizes")
        height, width = batch.sizes[0].tolist() if len(batch) else (1, 1)
        return Augment([CenterCrop((height, width)), Normalize(0.5, 0.5)])(images, seed=0)
    return Augment([CenterCrop(size, resize=size), Normalize(0.5, 0.5)])(images, seed=0)
