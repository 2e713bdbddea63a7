"""The data of ``recipes.py``: emoji and digits, of which a third of the classes' and items' labels chooses nothing, and
spectrograms of spoken digits, which choose nothing at all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import digits, emoji, spoken_digits

# What differs between the sets in today's recipes (``emoji.toml``, ``digits.toml``, the demo); the third takes the defaults.
SETS: dict[str, dict[str, Any]] = {
    "emoji": {"size": 32, "width": 32, "crop": (0.3, 1.0), "strength": 0.5, "batch": 512, "temperature": 0.1},
    "digits": {
        "size": 16, "width": 16, "crop": (0.5, 1.0), "strength": 0.5, "batch": 256, "temperature": 0.2, "flip": 0.0,
        "gray": 0.0, "rotate": 15.0,
    },
    "spectrograms": {
        "size": 32, "width": 32, "crop": (0.08, 1.0), "strength": 1.0, "batch": 128, "temperature": 0.1,
    },
}  # fmt: skip


@dataclass
class Images:
    """What a run trains on and what it is scored on.

    Args:
        train: uint8 [N, K, 3, S, S], K images of each item.
        scored: uint8 [M, K, 3, S, S].
        labels: [M].
        held_out: rows of ``scored`` that are not in ``train``.
        apart: rows of ``scored`` whose labels choose nothing.
    """

    train: Tensor
    scored: Tensor
    labels: Tensor
    held_out: Tensor
    apart: Tensor


def _planar(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).movedim(-1, -3).contiguous()


@cache
def load(name: str, device: str) -> Images:
    made = {"emoji": _emoji, "digits": _digits, "spectrograms": _spectrograms}[name]()
    fields = {key: value.to(device) if key == "train" else value for key, value in vars(made).items()}
    return Images(**fields)


def _emoji() -> Images:
    whole, names = emoji(), set(emoji("heldout").names)
    out = torch.tensor([name in names for name in whole.names])
    images, labels = _planar(whole.images), torch.from_numpy(whole.labels).long()
    categories = torch.from_numpy(np.random.default_rng(26).permutation(int(labels.max()) + 1)[:3])
    return Images(images[~out], images, labels, out, torch.isin(labels, categories))


def _digits() -> Images:
    source = digits()
    images, labels = _planar(source.images), torch.from_numpy(source.labels).long()
    rows = torch.from_numpy(np.random.default_rng(26).permutation(len(labels)))
    apart = torch.zeros(len(labels), dtype=torch.bool)
    apart[rows[: len(rows) // 3]] = True
    return Images(images, images, labels, torch.zeros_like(apart), apart)


def spectrogram(signal: np.ndarray, size: int = 32) -> np.ndarray:
    """A log spectrogram as a grey image, uint8 [size, size, 3]: 25 ms windows at 8 kHz, bands of the mel scale."""
    x = torch.from_numpy(np.asarray(signal, np.float32))
    power = torch.stft(x, 256, 80, 200, torch.hann_window(200), return_complex=True).abs().square()
    mel = torch.linspace(0, float(2595 * np.log10(1 + 4000 / 700)), size + 2)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    bins = torch.linspace(0, 4000, power.shape[0])
    rising = (bins - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    falling = (hertz[2:, None] - bins) / (hertz[2:] - hertz[1:-1])[:, None]
    bands = torch.minimum(rising, falling).clamp(min=0) @ power
    level = torch.nn.functional.interpolate((bands + 1e-4).log()[None], size, mode="linear", align_corners=False)[0]
    level = (level - level.min()) / (level.max() - level.min())
    grey = (255 * level.flip(0)).round().to(torch.uint8)
    return grey[..., None].expand(-1, -1, 3).contiguous().numpy()


def _spectrograms() -> Images:
    source = spoken_digits()
    images = _planar(np.stack([spectrogram(s) for s in source.signals])[:, None])
    labels = torch.from_numpy(np.asarray(source.labels)).long()
    return Images(images, images, labels, torch.zeros(len(labels), dtype=torch.bool), torch.ones(len(labels)).bool())
