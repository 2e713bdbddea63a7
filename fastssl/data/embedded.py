"""Embedded data sets, without download: emoji (part of the package) and digits (part of scikit-learn)."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np

from fastssl.data.arrays import ArraySource

VENDORS = ("google", "twitter")
HELD_OUT = 374  # of 1,871
_SPLIT_SEED = 20240


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
    folder = files("fastssl.data") / "emoji"
    with (folder / "emoji64.npz").open("rb") as file, np.load(file) as packed:
        images = np.stack([packed[vendor] for vendor in VENDORS], axis=1)
        labels = packed["category"]
    text = json.loads((folder / "emoji64.json").read_text())
    names = text["short_names"]
    whole = ArraySource(images, labels, text["category_names"], "emoji", names, texts=names)
    whole.embedded = "emoji"
    if split == "all":
        return whole
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(whole))
    chosen = order[:HELD_OUT] if split == "heldout" else order[HELD_OUT:]
    return whole.subset(np.sort(chosen), f"emoji-{split}")


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
