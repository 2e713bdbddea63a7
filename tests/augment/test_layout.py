"""Channels first or last: one rule for augmentations and for data in memory."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.augment import Augment, CenterCrop
from fastssl.data import ArraySource
from fastssl.data.decode import as_pixels

SIZES = (1, 3, 4, 7)
RNG = np.random.default_rng(0)


def seen(image: Any, height: int, width: int, channels: int) -> torch.Tensor:
    return (Augment([CenterCrop((height, width))], channels=channels)(image, seed=0) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("height, width, channels", [*itertools.product(SIZES, SIZES, (1, 3))])
def test_narrow_images(height: int, width: int, channels: int) -> None:
    batch = RNG.integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    planar = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()
    for given in (batch, planar, list(batch), list(planar)):
        assert torch.equal(seen(given, height, width, channels), planar), type(given)
        made = ArraySource(given)
        assert all(np.array_equal(made.read(k).images[0], batch[k]) for k in range(2))  # type: ignore[index]
    assert torch.equal(seen(planar[0], height, width, channels), planar[0])
    assert np.array_equal(as_pixels(planar.float() / 255, "images"), batch)


def test_the_other_layout_where_it_is_certain() -> None:
    array = RNG.integers(0, 256, (2, 3, 7, 9), dtype=np.uint8)
    planar, last = torch.from_numpy(array), torch.from_numpy(array).permute(0, 2, 3, 1)
    for given in (array, last, last.contiguous(), list(array), list(last)):
        assert torch.equal(seen(given, 7, 9, 3), planar)
    grey = RNG.integers(0, 256, (2, 3, 7), dtype=np.uint8)
    for images in (grey, torch.from_numpy(grey)):
        assert np.array_equal(ArraySource(images).read(1).images[0], grey[1][..., None])  # type: ignore[index]
        assert np.array_equal(ArraySource(list(images)).read(1).images[0], grey[1][..., None])  # type: ignore[index]
        assert torch.equal(seen(images[0], 3, 7, 1)[0], torch.from_numpy(grey[0]))
