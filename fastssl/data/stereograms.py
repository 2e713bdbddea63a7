"""Random-dot stereograms: pairs of images that have nothing in common but the distance of a surface."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastssl.data.arrays import ArraySource

_REACH, _CLASSES, _BATCH = 6, 5, 1024


class Stereograms(ArraySource):
    """Random-dot stereograms with their disparities; see :func:`stereograms`.

    Args:
        images: uint8 [N, size, size, 2], the left and the right eye's image.
        disparity: float32 [N], in pixels.
        labels: integers [N], fifths of the range of disparities.

    Example:
        >>> from fastssl.data import stereograms
        >>> stereograms(10).subset([3, 5]).disparity.shape
        (2,)
    """

    def __init__(self, images: np.ndarray, disparity: np.ndarray, labels: np.ndarray) -> None:
        classes = [f"disparity {k + 1} of {_CLASSES}" for k in range(_CLASSES)]
        super().__init__(images, labels, classes, "stereograms")
        self.disparity = disparity
        self.embedded = "stereograms"

    def subset(self, ids: Any, name: str | None = None) -> Stereograms:
        ids = np.asarray(ids, dtype=np.int64)
        assert self.labels is not None
        part = Stereograms(self.images[ids, 0], self.disparity[ids], self.labels[ids])
        part.name = name or self.name
        return part


def stereograms(
    count: int = 4000, size: int = 18, *, largest: float = 1.0, blur: float = 0.7, noise: float = 0.0, seed: int = 0
) -> Stereograms:
    """Random-dot stereograms of a surface at one distance.

    Every row of an image has random dots of its own, black and white, blurred. The right eye sees them ``disparity``
    pixels to the left of where the left eye does, which is the same over the whole image, and differs from image to
    image. Two patches of an image share their disparity and nothing else.

    Args:
        count: number of stereograms.
        size: pixels of a side.
        largest: disparities are uniform between - ``largest`` and ``largest``, in pixels.
        blur: standard deviation of the blur, in pixels.
        noise: standard deviation of noise of each pixel, in units of the image's.
        seed: seed of all random draws.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> from fastssl.data import stereograms
        >>> data = stereograms(10)
        >>> data.images.shape, float(abs(data.disparity).max()) <= 1
        ((10, 1, 18, 18, 2), True)

    Source: Julesz, Binocular Depth Perception of Computer-generated Patterns, 1960; Becker and Hinton, Self-organizing
    Neural Network that Discovers Surfaces in Random-dot Stereograms, 1992.
    """
    for name, value, good in (
        ("count", count, count >= 1),
        ("size", size, size >= 1),
        ("largest", largest, 0 < largest <= _REACH),
        ("blur", blur, blur > 0),
        ("noise", noise, noise >= 0),
    ):
        if not good:
            raise ValueError(f"{name}: out of range, got {value}")
    images = np.empty((count, size, size, 2), np.uint8)
    disparity = np.random.default_rng([seed, 0]).uniform(-largest, largest, count)
    dots = np.arange(-_REACH, size + _REACH)
    for first in range(0, count, _BATCH):
        d = disparity[first : first + _BATCH]
        rng = np.random.default_rng([seed, 1, first])
        signs = rng.integers(0, 2, (len(d), size, len(dots))) * 2.0 - 1
        for eye, side in enumerate((0.5, -0.5)):
            place = np.arange(size)[None] - side * d[:, None]
            spread = np.exp(-((place[:, :, None] - dots) ** 2) / (2 * blur**2))
            seen = np.einsum("nym,nxm->nyx", signs, spread) / np.sqrt((spread**2).sum(2))[:, None]
            seen += noise * rng.normal(size=seen.shape)
            images[first : first + _BATCH, :, :, eye] = np.clip(127.5 + 50 * seen, 0, 255).round()
    labels = np.minimum((disparity + largest) / (2 * largest) * _CLASSES, _CLASSES - 1).astype(np.int64)
    return Stereograms(images, disparity.astype(np.float32), labels)
