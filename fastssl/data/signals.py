"""Signals: 1-D waveforms in memory, the mu-law that quantises them, and embedded data sets."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from fastssl.data.source import Item, Reduction, Source, check_index, digest


class Signals(Source):
    """Waveforms in memory.

    Args:
        signals: float [N, T], or N arrays of any length, [T] each.
        labels: integers [N].
        classes: names of the classes.
        name: name of the data set in logs and checkpoints.
        rate: samples per second; None: unknown.

    Raises:
        ValueError: signals or labels of the wrong shape or dtype.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import Signals
        >>> len(Signals(np.zeros((4, 100), np.float32), np.zeros(4, np.int64), ['a'], 'toy'))
        4
    """

    def __init__(
        self,
        signals: np.ndarray | Sequence[np.ndarray],
        labels: np.ndarray,
        classes: Sequence[str],
        name: str,
        rate: int | None = None,
    ) -> None:
        whole = isinstance(signals, np.ndarray)
        if any(signal.ndim != 1 or signal.dtype.kind != "f" for signal in signals) or (
            whole and (signals.ndim != 2 or signals.dtype.kind != "f")  # type: ignore[union-attr]
        ):
            got = f"{signals.dtype} {signals.shape}" if whole else "others"  # type: ignore[union-attr]
            raise ValueError(f"signals: expected floats [N, T], or N arrays of floats [T], got {got}")
        if labels.shape != (len(signals),):
            raise ValueError(f"labels: expected shape ({len(signals)},), got {labels.shape}")
        self.signals: Any = (
            signals.astype(np.float32) if whole else [signal.astype(np.float32) for signal in signals]  # type: ignore[union-attr]
        )
        self.labels: np.ndarray = labels.astype(np.int64)
        self.classes, self.name, self.rate = list(classes), name, rate

    def __len__(self) -> int:
        return len(self.signals)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        check_index(index, len(self))
        return Item(signal=self.signals[index], label=int(self.labels[index]), name=self.name_of(index), rate=self.rate)

    @property
    def fingerprint(self) -> str:
        return digest(*self.classes, self.labels, *self.signals)


def mu_law(signal: np.ndarray, levels: int = 256) -> np.ndarray:
    """Codes 0 to ``levels`` - 1 of a signal in [-1, 1], finer near 0: int64 of its shape (ITU-T G.711's companding).

    .. math:: f(x) = sign(x) \\frac{\\ln(1 + \\mu |x|)}{\\ln(1 + \\mu)}, \\mu = levels - 1

    Args:
        signal: floats in [-1, 1].
        levels: number of codes.

    Raises:
        ValueError: fewer than 2 levels, or samples outside of [-1, 1].

    Example:
        >>> import numpy as np
        >>> from fastssl.data import mu_law
        >>> mu_law(np.array([-1.0, -0.01, 0.0, 0.01, 1.0]))
        array([  0,  98, 128, 157, 255])
    """
    _check_codes(signal, levels)
    mu = levels - 1
    curve = np.sign(signal) * np.log1p(mu * np.abs(signal)) / np.log1p(mu)
    codes: np.ndarray = np.floor((curve + 1) / 2 * mu + 0.5).astype(np.int64)
    return codes


def _check_codes(signal: np.ndarray, levels: int) -> None:
    if levels < 2:
        raise ValueError(f"levels: expected at least 2, got {levels}")
    most = float(np.abs(signal).max()) if np.size(signal) else 0.0
    if not most <= 1:
        raise ValueError(f"signal: expected samples in [-1, 1], got one of magnitude {most:.4g}")


def pcm(signal: np.ndarray, levels: int = 1 << 16) -> np.ndarray:
    """Codes 0 to ``levels`` - 1 of a signal in [-1, 1], in equal steps: int64 of its shape.

    Raises:
        ValueError: fewer than 2 levels, or samples outside of [-1, 1].
    """
    _check_codes(signal, levels)
    codes = np.floor((np.asarray(signal, np.float64) + 1) / 2 * levels).astype(np.int64)
    return np.minimum(codes, levels - 1)


def inverse_pcm(codes: np.ndarray, levels: int = 1 << 16) -> np.ndarray:
    """The signal of codes of :func:`pcm`, the middle of each step, float32."""
    signal: np.ndarray = ((np.asarray(codes, np.float64) + 0.5) * (2 / levels) - 1).astype(np.float32)
    return signal


def inverse_mu_law(codes: np.ndarray, levels: int = 256) -> np.ndarray:
    """The signal in [-1, 1] of codes of :func:`mu_law`, float32.

    Args:
        codes: integers 0 to ``levels`` - 1.
        levels: number of codes.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import inverse_mu_law, mu_law
        >>> bool((mu_law(inverse_mu_law(np.arange(256))) == np.arange(256)).all())
        True
    """
    mu = levels - 1
    curve = 2 * np.asarray(codes, np.float64) / mu - 1
    signal: np.ndarray = (np.sign(curve) * np.expm1(np.abs(curve) * np.log1p(mu)) / mu).astype(np.float32)
    return signal


def spoken_digits(split: str = "all") -> Signals:
    """400 spoken digits, "zero" to "nine" by 40 voices of espeak-ng, of about half a second at 8 kHz in mu-law.

    Made by ``benchmarks/make_digits.py``; licence: ``fastssl/data/audio/LICENSES.md``.

    Args:
        split: "all", "train" (32 voices) or "test" (8 other voices).

    Raises:
        ValueError: unknown split.

    Example:
        >>> from fastssl.data import spoken_digits
        >>> digits = spoken_digits("test")
        >>> len(digits), digits.classes[7], digits.rate
        (80, 'seven', 8000)
    """
    if split not in ("all", "train", "test"):
        raise ValueError(f"split: expected 'all', 'train' or 'test', got {split!r}")
    content = lzma.decompress((files("fastssl.data") / "audio" / "spoken_digits.xz").read_bytes())
    first, _, codes = content.partition(b"\n")
    header = json.loads(first)
    voices, labels = np.array(header["voices"]), np.array(header["labels"])
    held_out = voices % 5 == 4
    chosen = {"all": np.ones(len(voices), bool), "train": ~held_out, "test": held_out}[split]
    signals = np.split(inverse_mu_law(np.frombuffer(codes, np.uint8)), np.cumsum(header["lengths"])[:-1])
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    source = Signals(
        [signals[k] for k in np.flatnonzero(chosen)], labels[chosen], names, "spoken-digits", header["rate"]
    )
    source.embedded = "spoken-digits"
    return source


def tones(count: int = 1200, length: int = 5120, classes: int = 6, seed: int = 0) -> Signals:
    """Synthetic instruments at 16 kHz: a class is a set of overtones and a vibrato; pitch, phase and noise vary per
    signal.

    Args:
        count: number of signals.
        length: samples per signal.
        classes: number of instruments.
        seed: seed of all random draws.

    Example:
        >>> from fastssl.data import tones
        >>> tones(10).signals.shape
        (10, 5120)
    """
    instruments = np.random.default_rng([seed, 1])
    overtones = instruments.dirichlet(np.full(6, 0.6), classes)
    vibrato = instruments.uniform(0.002, 0.02, classes)
    rng = np.random.default_rng([seed, 2])
    labels = np.arange(count) % classes
    time = np.arange(length) / 16_000
    pitch = rng.uniform(150, 450, (count, 1))
    wobble = vibrato[labels][:, None] * np.sin(2 * np.pi * 6 * time + rng.uniform(0, 2 * np.pi, (count, 1)))
    angle = 2 * np.pi * np.cumsum(pitch * (1 + wobble), 1) / 16_000
    signals = np.zeros((count, length))
    for k in range(overtones.shape[1]):
        phase = rng.uniform(0, 2 * np.pi, (count, 1))
        signals += overtones[labels, k][:, None] * np.sin((k + 1) * angle + phase)
    signals += rng.normal(0, 0.3, signals.shape)
    signals /= 4  # of deviations up to 10 within [-1, 1]
    return Signals(signals, labels, [f"instrument {c}" for c in range(classes)], "tones", 16_000)
