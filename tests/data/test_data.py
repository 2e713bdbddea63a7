"""Embedded data, folders, augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastssl.data
from fastssl.data import ArraySource, digits, emoji, read_image


def test_emoji_has_two_drawings_of_each() -> None:
    data = emoji()
    assert data.images.shape == (1871, 2, 64, 64, 3) and data.images.dtype == np.uint8
    counts = dict(zip(*np.unique(np.array(data.classes)[data.labels], return_counts=True)))
    assert counts["Flags"] == 261 and counts["Activities"] == 85 and sum(counts.values()) == 1871
    assert data.names[0] == "grinning"
    item = data.read(3)
    assert [image.shape for image in item.images or ()] == [(64, 64, 3)] * 2 and item.label == data.labels[3]
    assert item.text == item.name == data.names[3]


def test_held_out_emoji_are_not_in_training() -> None:
    train, held_out = emoji("train"), emoji("heldout")
    assert len(train) == 1497 and len(held_out) == 374
    assert fastssl.data.open("emoji").name == train.name and len(fastssl.data.open("emoji-all")) == 1871
    assert not set(train.names) & set(held_out.names)
    whole = {d.tobytes() for d in train.images.reshape(-1, 64 * 64 * 3)}
    assert not any(d.tobytes() in whole for d in held_out.images.reshape(-1, 64 * 64 * 3))


def test_licences_travel_with_the_data() -> None:
    from importlib.resources import files

    text = (files("fastssl.data") / "emoji" / "LICENSES.md").read_text()
    for needed in (
        "Google Inc.",
        "Apache License 2.0",
        "Twitter, Inc",
        "CC",
        "Attribution 4.0",
        "Cal Henderson",
        "MIT",
    ):
        assert needed in text


def test_digits_follow_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = digits()
    assert data.images.shape == (1797, 1, 16, 16, 3) and np.array_equal(data.labels, load_digits().target)
    small = data.images[:, 0, :, :, 0].reshape(1797, 8, 2, 8, 2).mean((2, 4)) / 255 * 16
    assert np.abs(small - load_digits().images).mean() < 1.2  # bilinear enlargement keeps means nearly


def test_arrays_check_their_arguments() -> None:
    with pytest.raises(ValueError, match=r"images: expected floats in \[0, 1\], or uint8, got -1 to 0"):
        ArraySource(np.linspace(-1, 0, 96).reshape(2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"labels.*\(3,\)"):
        ArraySource(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="names: expected 2, one per item, got 1"):
        ArraySource(np.zeros((2, 4, 4, 3), np.uint8), names=["a"])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"image": np.zeros((2, 8, 8, 3), np.uint8), "label": [0, 1]}, "a mapping with 'image', 'label'"),
        ((np.zeros((2, 8, 8, 3), np.uint8), [0, 1]), "a pair of images and labels"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)), "a pair of images and labels"),
    ],
)
def test_images_and_labels_in_one_are_an_error_that_says_what_to_give(given: Any, match: str) -> None:
    with pytest.raises(TypeError, match=f"data: .*{match}.* labels="):
        fastssl.data.open(given)


def test_images_in_bf16() -> None:
    rows = torch.rand(2, 3, 8, 8).bfloat16()
    read = fastssl.data.open(rows).read(1).images[0]
    assert np.array_equal(read, (rows[1].float() * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_pages_of_tiff_files_are_channels(dtype: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 250, (13, 20, 24)).astype(dtype)
    pages = [Image.fromarray(page) for page in values]
    path = tmp_path / "bands.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    for given in (path, path.read_bytes()):
        image = read_image(given, value_range=(0, 250))
        assert image.shape == (20, 24, 13) and image.dtype == np.uint8
        single = tmp_path / "npy.npy"
        np.save(single, values)
        np.testing.assert_array_equal(image, read_image(single, value_range=(0, 250)))
        with pytest.raises(
            fastssl.data.ImageError, match=r"13 pages of 24 x 20 pixels; expected at most 6,239 pixels in all"
        ):
            read_image(given, max_pixels=20 * 24 * 13 - 1)
    for first, second in ((pages[0], pages[1].resize((10, 10))), (pages[0].convert("1"), pages[1].convert("1"))):
        first.save(path, save_all=True, append_images=[second])  # a thumbnail, a fax
        assert read_image(path, value_range=(0, 250)).shape == (20, 24, 1)
    colours = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (1, 2)]
    colours[0].save(path, save_all=True, append_images=colours[1:])
    assert read_image(path).shape == (8, 8, 3) and read_image(path).max() == 1
