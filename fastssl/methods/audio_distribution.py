"""Base class of methods that model the distribution of waveforms, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.data.views import labels_of
from fastssl.data.wav import AudioError
from fastssl.methods.audio import AudioMethod
from fastssl.models.drawing import checked
from fastssl.models.modes import evaluation_mode
from fastssl.models.samples import Samples
from fastssl.models.wave import IGNORED, AudioNetwork


class AudioDistribution(AudioMethod):
    """Base class of methods that predict each code of a waveform from those before it.

    Subclasses define ``quantize``, ``waveform`` and ``intervals``, which turn signals into codes and back.

    Args:
        network: a network of :func:`fastssl.models.build_audio`, kept after pretraining.
        rate: samples per second of the signals; None: that of the first signal that can be read, from which the others
            may not differ.
        window: samples of an example, a random part of a signal; shorter signals are whole.
    """

    family = "autoregression"
    generates = "audio"
    separable = True
    network: AudioNetwork

    def quantize(self, signal: np.ndarray) -> np.ndarray:
        """Codes, integers [T], of a signal in [-1, 1]."""
        raise NotImplementedError

    def waveform(self, codes: np.ndarray) -> np.ndarray:
        """The signal of codes."""
        raise NotImplementedError

    def intervals(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the intervals of samples that have these codes, in the middle between the codes' samples."""
        raise NotImplementedError

    def check(self, item: Item) -> None:
        """As for all methods of waveforms, and that the samples are in [-1, 1].

        Raises:
            AudioError: another rate, fewer than two samples, or samples outside of [-1, 1].
            ValueError: no signal.
        """
        super().check(item)
        most = float(np.abs(item.signal).max())  # type: ignore[arg-type]
        if not most <= 1:
            name = item.name or "a signal"
            raise AudioError(f"signal: expected samples in [-1, 1], {name} has one of magnitude {most:.4g}: rescale it")

    def codes(self, item: Item) -> np.ndarray:
        """The codes of an item's signal.

        Raises:
            AudioError: a signal that cannot be processed (:meth:`check`).
        """
        self.check(item)
        assert item.signal is not None
        return self.quantize(item.signal)

    def examples(self, items: Sequence[Item], seed: int, epoch: int = 0, ids: np.ndarray | None = None) -> Batch:
        """Codes of random windows, one view int64 [B, window], padded with -100."""
        ids = np.arange(len(items)) if ids is None else np.asarray(ids, dtype=np.int64)
        windows = np.full((len(items), self.window), IGNORED, np.int64)
        for row, part in zip(windows, self.windows([self.codes(item) for item in items], seed, epoch, ids)):
            row[: len(part)] = part
        labels, classes = labels_of(items), self.network.classes
        if classes and (any(item.label is None for item in items) or bool((labels >= classes).any())):
            raise ValueError(
                f"labels: expected 0 to {classes - 1} with each item, -1 for unknown classes, of a network conditioned "
                f"on labels; got {labels.tolist()}"
            )
        return Batch([torch.from_numpy(windows)], labels, torch.from_numpy(ids))

    def terms(self, batch: Batch) -> int:
        return int((batch.views[0] != IGNORED).sum())

    def forward(self, batch: Batch) -> Tensor:
        return self.network.loss(batch.views[0], batch.labels)

    def features(self, signal: np.ndarray) -> Tensor:
        return self.network.features(torch.from_numpy(self.quantize(signal))[None].to(self.samples_per_second.device))[
            0
        ]

    @torch.no_grad()
    def sample_features(self, batch: Batch) -> Tensor:
        with evaluation_mode(self):
            features = self.network.features(batch.views[0][:32].clamp(min=0))
        return features

    def generate(
        self,
        count: int = 4,
        seed: int = 0,
        *,
        seconds: float = 1.0,
        temperature: float = 1.0,
        label: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Waveforms, drawn sample by sample.

        Args:
            count: number of waveforms.
            seed: seed of all draws; waveform k depends on (seed, k) alone.
            seconds: duration of each.
            temperature: 0: the most probable code at each step.
            label: the class that they are conditioned on; None: each class in turn.
            progress: called with the number of steps so far, and of all.

        Raises:
            ValueError: an option out of range, or a label of a network without classes.
        """
        checked("count", count, 1)
        if not 0 < seconds < 86_400:
            raise ValueError(f"seconds: expected a duration above 0 and below a day, got {seconds}")
        rate = self.rate or 16_000
        steps = max(1, round(seconds * rate))
        options: dict[str, Any] = {"temperature": temperature, "seed": seed, "progress": progress}
        classes = self.network.classes
        if label is not None or not classes:
            return Samples("audio", self.waveform(self.network.sample(count, steps, label=label, **options)), rate)
        made = np.zeros((count, steps), np.float32)
        for k in range(min(classes, count)):
            rows = range(k, count, classes)
            made[rows] = self.waveform(self.network.sample(len(rows), steps, label=k, **options))
        return Samples("audio", made, rate)
