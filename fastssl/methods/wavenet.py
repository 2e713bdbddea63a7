"""WaveNet: every sample of a waveform is predicted from those before it.

van den Oord et al., WaveNet: A Generative Model for Raw Audio, 2016. Sampling keeps past activations in queues (Paine
et al., Fast Wavenet Generation Algorithm, 2016), in a fused kernel on the CPU. Deviation: windows begin without
context, where the paper's crops are longer than the receptive field.
"""

from __future__ import annotations

import numpy as np

from fastssl.data.signals import inverse_mu_law, mu_law
from fastssl.methods.audio_distribution import AudioDistribution


class WaveNet(AudioDistribution):
    """Mu-law codes of a waveform + dilated causal convolutions with gates + cross-entropy of the next code.

    Args:
        network: "wavenet" of :func:`fastssl.models.build_audio`, kept after pretraining; its ``levels`` are
            those of the mu-law, 256 in the paper; with ``classes`` it is conditioned on the labels.
        rate: samples per second of the signals; None: that of the first signal, from which the others may not differ.
        window: samples of an example, a random part of a signal; shorter signals are whole.

    Raises:
        TypeError: another network.
        ValueError: ``rate`` or ``window`` out of range.

    Example:
        >>> import tempfile
        >>> from fastssl.data import tones
        >>> from fastssl.methods import WaveNet
        >>> from fastssl.models import build_audio
        >>> from fastssl.train import Pretraining, pretrain
        >>> method = WaveNet(build_audio({"name": "wavenet", "width": 8, "depth": 4}), window=256)
        >>> method = pretrain(method, tones(64), Pretraining(epochs=1, batch_size=32), out=tempfile.mkdtemp())
        >>> method.generate(count=2, seconds=0.1).values.shape
        (2, 1600)
    """

    paper = "van den Oord et al. 2016"
    predicts = "the next sample of a waveform"
    loss = "cross-entropy"
    networks = ("wavenet",)

    def quantize(self, signal: np.ndarray) -> np.ndarray:
        return mu_law(signal, self.network.levels)

    def waveform(self, codes: np.ndarray) -> np.ndarray:
        return inverse_mu_law(codes, self.network.levels)

    def intervals(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = inverse_mu_law(np.arange(self.network.levels), self.network.levels).astype(np.float64)
        middles = (values[1:] + values[:-1]) / 2
        return np.concatenate([[-np.inf], middles])[codes], np.concatenate([middles, [np.inf]])[codes]
