"""Embedded data, folders, augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastssl.data import Images, digits, emoji, folder, load


def test_emoji_has_two_drawings_of_each() -> None:
    data = emoji()
    assert data.images.shape == (1871, 2, 64, 64, 3) and data.images.dtype == np.uint8
    counts = dict(zip(*np.unique(np.array(data.classes)[data.labels], return_counts=True)))
    assert counts["Flags"] == 261 and counts["Activities"] == 85 and sum(counts.values()) == 1871
    assert data.names[0] == "grinning"
    image, label = data[3]
    assert image.shape == (2, 64, 64, 3) and label == data.labels[3]


def test_held_out_emoji_are_not_in_training() -> None:
    train, held_out = emoji("train"), emoji("heldout")
    assert len(train) == 1497 and len(held_out) == 374
    assert load("emoji").name == train.name and len(load("emoji-all")) == 1871
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


def test_folder_reads_any_image_and_its_classes(tmp_path: Path) -> None:
    for name, color, mode in (
        ("red/a.png", (255, 0, 0), "RGB"),
        ("blue/b.jpg", (0, 0, 255), "RGB"),
        ("blue/c.webp", 128, "L"),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new(mode, (40, 20), color).save(path)
    Image.new("RGBA", (9, 9), (0, 0, 255, 255)).save(tmp_path / "blue" / "d.png")
    data = folder(tmp_path, size=16)
    assert data.classes == ["blue", "red"] and list(data.labels) == [0, 0, 0, 1]
    assert data.batch(np.array([3, 0])).shape == (2, 1, 16, 16, 3)
    assert tuple(data[3][0][0, 8, 8].tolist()) == (255, 0, 0)
    assert len(load(str(tmp_path))) == 4 and data.subset(np.array([3])).names == [str(tmp_path / "red" / "a.png")]
    (tmp_path / "red" / "z.png").write_text("no image")
    with pytest.raises(ValueError, match=r"z\.png.*cannot be read"):
        folder(tmp_path).batch(np.arange(5))


def test_images_check_their_arguments() -> None:
    with pytest.raises(ValueError, match="images.*float64"):
        Images(np.zeros((2, 1, 4, 4, 3)), np.zeros(2), ["a"], "x")
    with pytest.raises(ValueError, match=r"labels.*\(3,\)"):
        Images(np.zeros((2, 1, 4, 4, 3), np.uint8), np.zeros(3), ["a"], "x")
