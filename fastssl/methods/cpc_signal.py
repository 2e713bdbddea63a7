"""CPC for signals: the context of past codes predicts future codes, against the other codes of the batch.

van den Oord, Li and Vinyals, Representation Learning with Contrastive Predictive Coding, 2018: strided convolutions
encode a waveform, a GRU aggregates past codes into a context, and linear maps predict the codes some steps ahead.
Deviations: cosine similarities over a temperature; negatives are all codes of the batch at these steps.
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
from fastssl.methods.base import Method
from fastssl.models.modes import evaluation_mode
from fastssl.models.signal import SignalEncoder


class CPCSignal(Method):
    """A window of a signal + encoder + GRU + linear predictions + InfoNCE.

    Args:
        encoder: the network kept after pretraining; its features are the mean code.
        window: samples per view, a random window of the signal.
        steps: codes are predicted 1 to ``steps`` ahead; 12 in the paper.
        context: hidden units of the GRU; 256 in the paper.
        temperature: temperature of the loss.
        backend: backend of the loss, as for :mod:`fastssl.functional`.

    The data is a :class:`fastssl.data.Signals`.

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
    needs = ("signal",)

    def __init__(
        self,
        encoder: SignalEncoder,
        *,
        window: int | None = None,
        steps: int = 12,
        context: int = 64,
        temperature: float = 0.1,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        window = encoder.length if window is None else window
        with torch.no_grad(), evaluation_mode(encoder):
            count = SignalEncoder.codes(encoder, torch.zeros(1, window)).shape[2]
        if not 1 <= steps < count:
            raise ValueError(f"steps: expected 1 to {count - 1} (a window has {count} codes), got {steps}")
        self.encoder = encoder
        self.window, self.temperature, self.backend = window, temperature, backend
        self.gru = nn.GRU(encoder.dim, context, batch_first=True)
        self.predict = nn.ModuleList(nn.Linear(context, encoder.dim) for _ in range(steps))

    def examples(self, items: Sequence[Item], seed: int, epoch: int = 0, ids: np.ndarray | None = None) -> Batch:
        """Random windows of the signals, one view [B, window].

        Raises:
            ValueError: a signal is shorter than the window.
        """
        ids = np.arange(len(items)) if ids is None else np.asarray(ids, dtype=np.int64)
        windows = []
        for item, drawn in zip(items, self.uniform(seed, epoch, ids)[:, 0]):
            length = 0 if item.signal is None else len(item.signal)
            if length < self.window:
                raise ValueError(f"window: expected at most the {length} samples of a signal, got {self.window}")
            first = int(drawn * (length - self.window + 1))
            windows.append(torch.from_numpy(item.signal[first : first + self.window]))  # type: ignore[index]
        return Batch([torch.stack(windows)], labels_of(items), torch.from_numpy(ids))

    def inputs(self, batch: Batch) -> list[Tensor]:
        return batch.views

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
            for predicted, true in self.predictions(self.encoder.codes(batch.views[0]))
        ]
        return torch.stack(terms).mean()
