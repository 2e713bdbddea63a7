"""What a run of a method of waveforms begins with: a network for the rate and the classes of the data."""

from __future__ import annotations

from typing import Any

import torch

from fastssl.methods import AudioMethod, get
from fastssl.models import build_audio


def build_audio_method(
    name: str, network: dict[str, Any], method_options: dict[str, Any], seed: int
) -> tuple[AudioMethod, dict[str, Any]]:
    """A method of waveforms with weights initialised from ``seed``, and the options of its network.

    Args:
        name: name of the method.
        network: options of :func:`fastssl.models.build_audio`; without a "name", the method's first network.
        method_options: the other arguments of the method.
        seed: seed of the weights.
    """
    kind: Any = get(name)
    torch.manual_seed(seed)
    built = build_audio({"name": kind.networks[0], **network})
    method: AudioMethod = kind(built, **method_options)
    return method, built.options
