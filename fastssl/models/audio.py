"""``build_audio``: networks of waveforms from options."""

from __future__ import annotations

import inspect
from typing import Any

from fastssl.models.signal import SignalEncoder, SignalNetwork
from fastssl.models.wave import WaveNetNetwork
from fastssl.models.wave_rnn import WaveRNNNetwork

AUDIO_NETWORKS: dict[str, type[SignalNetwork]] = {
    kind.name: kind for kind in (WaveNetNetwork, WaveRNNNetwork, SignalEncoder)
}


def build_audio(options: dict[str, Any]) -> SignalNetwork:
    """Builds a network of waveforms, with random weights.

    Args:
        options: "name": "wavenet" (:class:`WaveNetNetwork`), "wavernn" (:class:`WaveRNNNetwork`) or "cpc"
            (:class:`SignalEncoder`); and arguments of that class.

    Raises:
        ValueError: an unknown name or option, or a number out of range.

    Example:
        >>> from fastssl.models import build_audio
        >>> build_audio({"name": "wavenet", "width": 16}).receptive
        2047
    """
    if options.get("name") not in AUDIO_NETWORKS:
        raise ValueError(f"network: expected one of {', '.join(AUDIO_NETWORKS)}, got {options.get('name')!r}")
    kind: Any = AUDIO_NETWORKS[options["name"]]
    parameters = inspect.signature(kind).parameters
    unknown = set(options) - {"name", *parameters}
    if unknown:
        raise ValueError(f"network: {options['name']} has no option {', '.join(sorted(unknown))}")
    made: SignalNetwork = kind(**{key: value for key, value in options.items() if key != "name"})
    return made
