"""CPC for signals: the context of past codes predicts future codes, against the other codes of the batch.

van den Oord, Li and Vinyals, Representation Learning with Contrastive Predictive Coding, 2018: strided convolutions
encode a waveform, a GRU aggregates past codes into a context, and linear maps predict the codes some steps ahead.
Deviations: cosine similarities over a temperature; negatives are all codes of the batch at these steps; features are
the mean code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.data.views import labels_of
from fastssl.methods.audio import AudioMethod
from fastssl.models.drawing import checked
from fastssl.models.modes import evaluation_mode
from fastssl.models.signal import SignalEncoder


class CPCSignal(AudioMethod):
    """A window of a signal + encoder + GRU + linear predictions + InfoNCE.

    Args:
        network: "cpc" of :func:`fastssl.models.build_audio`, kept after pretraining; its features are the mean code.
        rate: samples per second of the signals; None: that of the first signal, from which the others may not differ.
        window: samples per view, a random window of the signal, which is padded with silence if it is shorter; None:
            the network's ``length``.
        steps: codes are predicted 1 to ``steps`` ahead; 12 in the paper.
        context: hidden units of the GRU; 256 in the paper.
        temperature: temperature of the loss.
        backend: backend of the loss, as for :mod:`fastssl.functional`.

    Raises:
        TypeError: another network.
        ValueError: ``rate``, ``window``, ``steps`` or ``context`` out of range.

    Example:
        >>> import tempfile
        >>> from fastssl.data import tones
        >>> from fastssl.methods import CPCSignal
        >>> from fastssl.models import SignalEncoder
        >>> from fastssl.train import Pretraining, pretrain
        >>> method = CPCSignal(SignalEncoder(16), steps=4)
        >>> method = pretrain(method, tones(64), Pretraining(epochs=1, batch_size=32), out=tempfile.mkdtemp())
    """

    family = "predictive coding"
    paper = "van den Oord et al. 2018"
    predicts = "the codes of a signal some steps ahead"
    loss = "InfoNCE"
    min_rows = 2
    networks = ("cpc",)
    network: SignalEncoder

    def __init__(
        self,
        network: SignalEncoder,
        *,
        rate: int | None = None,
        window: int | None = None,
        steps: int = 12,
        context: int = 64,
        temperature: float = 0.1,
        backend: str | None = None,
    ) -> None:
        super().__init__(network, rate=rate, window=getattr(network, "length", 2) if window is None else window)
        with torch.no_grad(), evaluation_mode(network):
            count = network.codes(torch.zeros(1, self.window)).shape[2]
        if not 1 <= steps < count:
            raise ValueError(f"steps: expected 1 to {count - 1} (a window has {count} codes), got {steps}")
        self.steps, self.temperature, self.backend = steps, temperature, backend
        self.context = checked("context", context, 1)
        self.gru = nn.GRU(network.dim, context, batch_first=True)
        self.predict = nn.ModuleList(nn.Linear(context, network.dim) for _ in range(steps))

    def examples(self, items: Sequence[Item], seed: int, epoch: int = 0, ids: np.ndarray | None = None) -> Batch:
        """Random windows of the signals, one view [B, window]."""
        ids = np.arange(len(items)) if ids is None else np.asarray(ids, dtype=np.int64)
        for item in items:
            self.check(item)
        windows = np.zeros((len(items), self.window), np.float32)
        signals = [item.signal for item in items if item.signal is not None]
        for row, part in zip(windows, self.windows(signals, seed, epoch, ids)):
            row[: len(part)] = part
        return Batch([torch.from_numpy(windows)], labels_of(items), torch.from_numpy(ids))

    def features(self, signal: np.ndarray) -> Tensor:
        features: Tensor = self.network(torch.from_numpy(signal)[None].to(self.samples_per_second.device))[0]
        return features

    @torch.no_grad()
    def sample_features(self, batch: Batch) -> Tensor:
        with evaluation_mode(self):
            features: Tensor = self.network(batch.views[0][:32])
        return features

    def predictions(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For 1 to ``steps`` ahead: predicted and true codes, [N, dim] each, in the same order."""
        context, _ = self.gru(codes.transpose(1, 2))
        last = context.shape[1] - len(self.predict)
        true = codes.transpose(1, 2)
        return [
            (layer(context[:, :last]).flatten(0, 1), true[:, k + 1 : k + 1 + last].flatten(0, 1))
            for k, layer in enumerate(self.predict)
        ]

    def forward(self, batch: Batch) -> Tensor:
        terms = [
            F.info_nce(predicted, true, temperature=self.temperature, backend=self.backend)
            for predicted, true in self.predictions(self.network.codes(batch.views[0]))
        ]
        return torch.stack(terms).mean()
