"""Methods of waveforms on held-out signals: a linear probe on their features, and the likelihood of distributions
beside a linear predictor, independent samples and a compressor."""

from __future__ import annotations

import copy
import lzma
import math

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Item, Source
from fastssl.evaluate.audio_features import audio_features
from fastssl.evaluate.features import labels_of, progress_bar
from fastssl.evaluate.linear import linear_probe
from fastssl.methods import AudioDistribution, AudioMethod, name_of
from fastssl.models import build_audio
from fastssl.models.modes import evaluation_mode
from fastssl.ops.draws import drawing_apart

ORDER = 32  # of the linear predictor
_SURPRISES = 0.01  # how often a residual is not normal


def evaluate_audio(method: AudioMethod, held_out: Source, training: Source) -> dict[str, dict[str, float]]:
    """Scores of a method of waveforms on signals that it was not trained on.

    With labels the accuracy of a linear probe on the features of whole signals, in percent, beside a random network of
    the same architecture. Of a distribution (:class:`fastssl.methods.AudioDistribution`) also the bits per sample of
    the codes: of the method; of a linear predictor of the 32 samples before, fitted by least squares, whose residuals
    are normal with a deviation that follows the last ones, but for one in a hundred; of the training codes' histogram;
    of xz on the codes as bytes, signal after signal.

    Args:
        method: the pretrained method.
        held_out: the signals to score.
        training: the signals that it was trained on.

    Raises:
        ValueError: signals that the method cannot process, or neither labels nor a distribution.

    Example:
        >>> from fastssl.data import tones
        >>> from fastssl.evaluate import evaluate_audio
        >>> from fastssl.methods import WaveNet
        >>> from fastssl.models import build_audio
        >>> method = WaveNet(build_audio({"name": "wavenet", "width": 8, "depth": 4}))
        >>> signals = tones(24, 600)
        >>> table = evaluate_audio(method, signals.subset(range(12)), signals.subset(range(12, 24)))
        >>> table["bits per sample"]["linear prediction"] < table["bits per sample"]["independent"]
        True
    """
    table: dict[str, dict[str, float]] = {}
    labels = held_out_labels = None
    if _labelled(training) and _labelled(held_out):
        labels, held_out_labels = labels_of(training), labels_of(held_out)
    classes = 0 if labels is None else len(labels.unique())
    if classes < 2 and not isinstance(method, AudioDistribution):
        raise ValueError(
            f"data: expected signals of two classes at least, in a folder for each: {name_of(method)} is evaluated by "
            f"a linear probe, and {held_out.name} has no such labels"
        )
    parts = [[source.read(k) for k in range(len(source))] for source in (training, held_out)]
    if isinstance(method, AudioDistribution):
        table["bits per sample"] = _bits_per_sample(method, parts[0], parts[1], held_out_labels, held_out.name)
    if classes > 1 and labels is not None and held_out_labels is not None:
        random = copy.deepcopy(method)
        with drawing_apart():
            torch.manual_seed(0)
            random.network = build_audio(method.network.options).to(next(method.parameters()).device)
        cut, both = len(labels), torch.cat([labels, held_out_labels])
        table["linear"] = {
            name: linear_probe(
                torch.cat([_features(one, items, source.name) for items, source in zip(parts, (training, held_out))]),
                both,
                np.arange(cut),
                np.arange(cut, len(both)),
            )
            for name, one in (("pretrained", method), ("random", random))
        }
    return table


def _bits_per_sample(
    method: AudioDistribution, training: list[Item], held_out: list[Item], labels: Tensor | None, name: str
) -> dict[str, float]:
    codes = {
        "training": [method.codes(item) for item in training],
        "held out": [method.codes(item) for item in held_out],
    }
    values = int(max(c.max() for part in codes.values() for c in part)) + 1
    device = next(method.parameters()).device
    nats, count = 0.0, sum(map(len, codes["held out"]))
    with evaluation_mode(method), torch.no_grad(), progress_bar(name) as show:
        for k, row in enumerate(codes["held out"]):
            label = None
            if labels is not None and method.network.classes:
                label = labels[k : k + 1].to(device)
            nats += float(method.network.loss(torch.from_numpy(row)[None].to(device), label, reduction="sum"))
            show(k + 1, len(codes["held out"]))
    histogram = np.ones(values)
    for row in codes["training"]:
        histogram += np.bincount(row, minlength=values)
    histogram /= histogram.sum()
    share = np.log2(histogram)
    return {
        "pretrained": nats / math.log(2) / count,
        "linear prediction": _LinearPredictor(method, codes["training"], histogram).bits(codes["held out"]),
        "independent": -sum(float(share[row].sum()) for row in codes["held out"]) / count,
        "xz": _xz_bits(codes["held out"], values) / count,
    }


def _labelled(source: Source) -> bool:
    return source.labels is not None and source.labels.ndim == 1 and bool((source.labels >= 0).all())


def _features(method: AudioMethod, items: list[Item], name: str) -> Tensor:
    with progress_bar(name) as show:
        return torch.stack(list(audio_features(method, items, len(items), show)))


def _xz_bits(codes: list[np.ndarray], values: int) -> int:
    """Bits of xz; codes of more than a byte as their two bytes."""
    content = np.concatenate(codes).astype("u1" if values <= 256 else "<u2").tobytes()
    return 8 * len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


class _LinearPredictor:
    """Code t has the probability of its interval under N(w . x[t-32:t], s^2), with s^2 a mean of the variance of all
    training residuals and that of the last 32; one time in a hundred that of the training codes' histogram."""

    def __init__(self, method: AudioDistribution, codes: list[np.ndarray], histogram: np.ndarray) -> None:
        self.method, self.histogram = method, histogram
        gram, moments = np.zeros((ORDER, ORDER)), np.zeros(ORDER)
        for row in codes:
            past, x = self._past(row)
            gram += past.T @ past
            moments += past.T @ x
        self.weights = np.linalg.solve(gram + 1e-9 * np.trace(gram) * np.eye(ORDER), moments)
        residuals = [self._residuals(row)[1] for row in codes]
        self.variance = float(np.concatenate(residuals).var()) + 1e-12
        self.recent = 0.0
        scores = {recent: self._with(recent, codes) for recent in (0.0, 0.5, 0.9, 0.99, 0.999)}
        self.recent = min(scores, key=lambda recent: scores[recent])

    def _with(self, recent: float, codes: list[np.ndarray]) -> float:
        self.recent = recent
        return self.bits(codes[:: max(1, len(codes) // 32)])

    def _past(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = self.method.waveform(row).astype(np.float64)
        padded = np.concatenate([np.zeros(ORDER), x])
        return np.lib.stride_tricks.sliding_window_view(padded, ORDER)[:-1], x

    def _residuals(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        past, x = self._past(row)
        predicted = past @ self.weights
        return predicted, x - predicted

    def bits(self, codes: list[np.ndarray]) -> float:
        """Mean bits per code."""
        total = 0.0
        for row in codes:
            predicted, residuals = self._residuals(row)
            sums = np.concatenate([np.zeros(1), np.cumsum(residuals**2)])
            first = np.maximum(np.arange(len(row)) - ORDER, 0)
            local = (sums[:-1] - sums[first]) / ORDER
            deviation = np.sqrt((1 - self.recent) * self.variance + self.recent * local + 1e-12)
            low, high = self.method.intervals(row)
            share = _normal((high - predicted) / deviation) - _normal((low - predicted) / deviation)
            total -= float(np.log2((1 - _SURPRISES) * share + _SURPRISES * self.histogram[row]).sum())
        return total / sum(map(len, codes))


def _normal(x: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.from_numpy(x)).numpy()


__all__ = ["evaluate_audio"]
