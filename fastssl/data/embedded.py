"""Embedded data sets, without download: emoji (part of the package) and digits (part of scikit-learn)."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

import numpy as np

from fastssl.data.arrays import ArraySource

VENDORS = ("google", "twitter")
HELD_OUT = 374  # of 1,871
_SPLIT_SEED = 20240


@functools.cache
def _packed() -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Images, read-only, categories and names: decoded once, 44 MiB."""
    folder = files("fastssl.data") / "emoji"
    with (folder / "emoji64.npz").open("rb") as file, np.load(file) as packed:
        images = np.stack([packed[vendor] for vendor in VENDORS], axis=1)
        labels = packed["category"]
    images.flags.writeable = False
    return images, labels, json.loads((folder / "emoji64.json").read_text())


@functools.cache
def emoji_masks() -> np.ndarray:
    """bool [1871, 2, 64, 64], read-only: the pixels of the emoji's images that are not background."""
    with (files("fastssl.data") / "emoji" / "masks64.npz").open("rb") as file, np.load(file) as packed:
        bits = [np.unpackbits(packed[vendor]).reshape(-1, 64, 64).astype(bool) for vendor in VENDORS]
    masks = np.stack(bits, axis=1)
    masks.flags.writeable = False
    return masks


def held_out_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the held-out emoji."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    return np.sort(order[HELD_OUT:]), np.sort(order[:HELD_OUT])


def emoji(split: str = "all") -> ArraySource:
    """1,871 emoji, 64 x 64, in 9 categories, with one image per vendor (Noto Emoji and Twemoji).

    Args:
        split: "all", "train" (1,497 items) or "heldout" (374 items for retrieval, excluded from training).

    Returns:
        A source of two images per item: Google's, then Twitter's. Licences: ``fastssl/data/emoji/LICENSES.md``.

    Raises:
        ValueError: unknown split.

    Example:
        >>> import fastssl.data
        >>> emoji = fastssl.data.emoji()
        >>> emoji.images.shape
        (1871, 2, 64, 64, 3)
    """
    if split not in ("all", "train", "heldout"):
        raise ValueError(f"split: expected 'all', 'train' or 'heldout', got {split!r}")
    images, labels, text = _packed()
    names = text["short_names"]
    whole = ArraySource(images, labels.copy(), text["category_names"], "emoji", names, texts=names)
    whole.embedded = "emoji"
    if split == "all":
        return whole
    train, held_out = held_out_rows(len(whole))
    return whole.subset(held_out if split == "heldout" else train, f"emoji-{split}")


def digits(size: int = 16) -> ArraySource:
    """1,797 handwritten digits of scikit-learn, 8 x 8 enlarged to 16 x 16, in 10 classes.

    Args:
        size: 16, or 8 for the original images, which methods of images of 8 pixels also read from the enlarged ones.

    Raises:
        ValueError: another size.

    Example:
        >>> import fastssl.data
        >>> fastssl.data.digits().images.shape
        (1797, 1, 16, 16, 3)
    """
    from sklearn.datasets import load_digits

    if size not in (8, 16):
        raise ValueError(f"size: expected 8 or 16 pixels, got {size}")
    raw = load_digits()
    small = np.clip(raw.images * (255 / 16), 0, 255).astype(np.float32)
    # Upsampled bilinearly: 8 x 8 pixels are too few for random crops.
    import torch
    import torch.nn.functional as TF

    large = TF.interpolate(torch.from_numpy(small)[:, None], size=16, mode="bilinear", align_corners=False)[:, 0]
    originals, images = (
        np.repeat(pixels.round().to(torch.uint8).numpy()[:, None, :, :, None], 3, axis=-1)
        for pixels in (torch.from_numpy(small), large)
    )
    source = ArraySource(images if size == 16 else originals, raw.target, [str(d) for d in range(10)], "digits")
    source.embedded = "digits"
    source.reduced = originals if size == 16 else None
    return source
