"""Base class of methods of waveforms."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fastssl.data.batch import Batch
from fastssl.data.packed import READ_ERRORS
from fastssl.data.source import CheckedSource, Item, Source
from fastssl.data.wav import AudioError
from fastssl.methods.base import Method, lacking
from fastssl.models.drawing import checked
from fastssl.models.signal import SignalNetwork

LEAST = 2  # samples of a signal


class AudioMethod(Method):
    """Base class of methods of waveforms, which are trained on random windows of them.

    Args:
        network: a network of :func:`fastssl.models.build_audio`, kept after pretraining.
        rate: samples per second of the signals; None: that of the first signal that can be read, from which the others
            may not differ.
        window: samples of an example, a random part of a signal.
    """

    needs: ClassVar[tuple[str, ...]] = ("signal",)
    unit = "samples"
    data = "spoken-digits"
    held_out = True
    networks: ClassVar[tuple[str, ...]] = ()
    network: SignalNetwork

    def __init__(self, network: SignalNetwork, *, rate: int | None = None, window: int = 2048) -> None:
        super().__init__()
        if not isinstance(network, SignalNetwork) or network.name not in self.networks:
            raise TypeError(
                f"network: {type(self).__name__} expects {self.networks[0]!r} of "
                f"fastssl.models.build_audio, got {getattr(network, 'name', type(network).__name__)!r}"
            )
        if rate is not None:
            checked("rate", rate, 1, 1 << 24)
        self.network, self.window = network, checked("window", window, LEAST, 1 << 24)
        self.register_buffer("samples_per_second", torch.tensor(rate or 0))
        self.samples_per_second: Tensor

    @property
    def rate(self) -> int | None:
        """Samples per second of the signals; None: not known yet."""
        return int(self.samples_per_second) or None

    @property
    def per_item(self) -> int:
        return self.window

    def prepare(self, source: Source) -> Source:
        """The source, whose signals are checked when they are read; the rate is that of the first that can be."""
        checked = CheckedSource(source, self.check)
        for index in range(len(checked) if self.rate is None else 0):
            with contextlib.suppress(*READ_ERRORS):
                self.samples_per_second.fill_(checked.read(index).rate or 0)
                break
        return checked

    def features(self, signal: np.ndarray) -> Tensor:
        """Features [D] of a whole signal."""
        raise NotImplementedError

    def windows(self, signals: Sequence[np.ndarray], seed: int, epoch: int, ids: np.ndarray) -> list[np.ndarray]:
        """A random part of each signal, of ``window`` samples; shorter signals are whole."""
        parts = []
        for signal, drawn in zip(signals, self.uniform(seed, epoch, ids)[:, 0]):
            first = int(drawn * max(len(signal) - self.window + 1, 1))
            parts.append(signal[first : first + self.window])
        return parts

    def inputs(self, batch: Batch) -> list[Tensor]:
        return batch.views

    def check(self, item: Item) -> None:
        """Checks that an item's signal can be processed.

        Raises:
            AudioError: another rate, or fewer than two samples.
            ValueError: no signal.
        """
        name, signal = item.name or "a signal", item.signal
        if signal is None:  # data of another kind, which skipping items does not help
            raise lacking(type(self).__name__, "signal", item, name)
        if len(signal) < LEAST:
            raise AudioError(f"signal: expected at least {LEAST} samples, {name} has {len(signal)}")
        if item.rate is not None and self.rate is not None and item.rate != self.rate:
            raise AudioError(
                f"rate: expected {self.rate} samples per second, {name} has {item.rate}: resample it; that of a run "
                f"is that of its first signal, or rate= (--set rate={item.rate})"
            )
