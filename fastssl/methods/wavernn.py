"""WaveRNN: every sample of a waveform is predicted from those before it, in two parts, by one recurrent layer.

Kalchbrenner et al., Efficient Neural Audio Synthesis, 2018: the dual softmax. Deviations: dense weights, no batched
(subscale) sampling, labels instead of linguistic features, and windows that begin without context.
"""

from __future__ import annotations

import numpy as np

from fastssl.data.signals import inverse_pcm, pcm
from fastssl.methods.audio_distribution import AudioDistribution


class WaveRNN(AudioDistribution):
    """Codes of 16 bits of a waveform + one gated recurrent layer + cross-entropy of both bytes of the next code.

    Args:
        network: "wavernn" of :func:`fastssl.models.build_audio`, kept after pretraining; its ``bits`` are those of a
            code, 16 in the paper; with ``classes`` it is conditioned on the labels.
        rate: samples per second of the signals; None: that of the first signal, from which the others may not differ.
        window: samples of an example, a random part of a signal; shorter signals are whole.

    Raises:
        TypeError: another network.
        ValueError: ``rate`` or ``window`` out of range.

    Example:
        >>> import tempfile
        >>> from fastssl.data import tones
        >>> from fastssl.methods import WaveRNN
        >>> from fastssl.models import build_audio
        >>> from fastssl.train import Pretraining, pretrain
        >>> method = WaveRNN(build_audio({"name": "wavernn", "width": 16}), window=64)
        >>> method = pretrain(method, tones(64), Pretraining(epochs=1, batch_size=32), out=tempfile.mkdtemp())
        >>> method.generate(count=2, seconds=0.01).values.shape
        (2, 160)
    """

    paper = "Kalchbrenner et al. 2018"
    predicts = "both bytes of the next sample of a waveform"
    loss = "cross-entropy"
    networks = ("wavernn",)

    def quantize(self, signal: np.ndarray) -> np.ndarray:
        return pcm(signal, self.network.levels)

    def waveform(self, codes: np.ndarray) -> np.ndarray:
        return inverse_pcm(codes, self.network.levels)

    def intervals(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low = np.asarray(codes, np.float64) * (2 / self.network.levels) - 1
        high = low + 2 / self.network.levels
        return np.where(codes == 0, -np.inf, low), np.where(codes == self.network.levels - 1, np.inf, high)
