"""Embedded data, folders, augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastssl.augment import SimCLRAugment, to_float
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


def test_augment_depends_on_the_seed_alone() -> None:
    images = torch.from_numpy(emoji().images[:9, 0])
    augment = SimCLRAugment(32)
    a, b, c = augment(images, seed=1), augment(images.permute(0, 3, 1, 2), seed=1), augment(images, seed=2)
    assert [tuple(v.shape) for v in a] == [(9, 3, 32, 32)] * 2
    assert all(torch.equal(x, y) for x, y in zip(a, b)) and not torch.equal(a[0], c[0]) and not torch.equal(a[0], a[1])
    assert float(a[0].min()) >= -1 and float(a[0].max()) <= 1


def test_augment_without_changes_is_a_resize() -> None:
    images = torch.from_numpy(emoji().images[:4, 0])
    still = SimCLRAugment(64, crop=(1, 1), flip=0, jitter=0, gray=0, blur=0)
    for view in still(images, seed=0):  # crops of the whole image differ by their aspect ratio alone
        assert float((view - to_float(images)).abs().mean()) < 0.15
    flipped = SimCLRAugment(64, crop=(1, 1), flip=1, jitter=0, gray=0, blur=0)
    a, b = still.view(images.permute(0, 3, 1, 2), _fixed()), flipped.view(images.permute(0, 3, 1, 2), _fixed())
    assert float((a - b.flip(3)).abs().mean()) < 0.1


def _fixed() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_gray_is_the_luma_of_the_colour() -> None:
    images = torch.from_numpy(emoji().images[:6, 0])
    gray = SimCLRAugment(64, crop=(1, 1), flip=0, jitter=0, gray=1, blur=0).view(images.permute(0, 3, 1, 2), _fixed())
    color = SimCLRAugment(64, crop=(1, 1), flip=0, jitter=0, gray=0, blur=0).view(images.permute(0, 3, 1, 2), _fixed())
    luma = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * (color + 1) / 2).sum(1)
    for channel in range(3):
        torch.testing.assert_close((gray[:, channel] + 1) / 2, luma, atol=1e-4, rtol=0)


def test_blur_keeps_the_mean_and_smooths() -> None:
    images = torch.from_numpy(emoji().images[:6, 0])
    plain = SimCLRAugment(64, crop=(1, 1), flip=0, jitter=0, gray=0, blur=0).view(images.permute(0, 3, 1, 2), _fixed())
    blurred = SimCLRAugment(64, crop=(1, 1), flip=0, jitter=0, gray=0, blur=1).view(
        images.permute(0, 3, 1, 2), _fixed()
    )
    torch.testing.assert_close(blurred.mean((2, 3)), plain.mean((2, 3)), atol=0.02, rtol=0)
    assert float(blurred.diff(dim=3).abs().mean()) < float(plain.diff(dim=3).abs().mean())
