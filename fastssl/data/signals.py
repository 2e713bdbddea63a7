"""Signals: 1-D waveforms in memory, and a synthetic data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastssl.data.source import Item, Reduction, Source, check_index, digest


class Signals(Source):
    """Waveforms in memory.

    Args:
        signals: float [N, T].
        labels: integers [N].
        classes: names of the classes.
        name: name of the data set in logs and checkpoints.

    Raises:
        ValueError: signals or labels of the wrong shape or dtype.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import Signals
        >>> len(Signals(np.zeros((4, 100), np.float32), np.zeros(4, np.int64), ['a'], 'toy'))
        4
    """

    def __init__(self, signals: np.ndarray, labels: np.ndarray, classes: Sequence[str], name: str) -> None:
        if signals.ndim != 2 or signals.dtype.kind != "f":
            raise ValueError(f"signals: expected floats [N, T], got {signals.dtype} {signals.shape}")
        if labels.shape != (len(signals),):
            raise ValueError(f"labels: expected shape ({len(signals)},), got {labels.shape}")
        self.signals = signals.astype(np.float32)
        self.labels: np.ndarray = labels.astype(np.int64)
        self.classes, self.name = list(classes), name

    def __len__(self) -> int:
        return len(self.signals)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        check_index(index, len(self))
        return Item(signal=self.signals[index], label=int(self.labels[index]), name=self.name_of(index))

    @property
    def fingerprint(self) -> str:
        return digest(*self.classes, self.labels, self.signals)


def tones(count: int = 1200, length: int = 5120, classes: int = 6, seed: int = 0) -> Signals:
    """Synthetic instruments: a class is a set of overtones and a vibrato; pitch, phase and noise vary per signal.

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
    return Signals(signals, labels, [f"instrument {c}" for c in range(classes)], "tones")
