"""The settings that the command line uses for each data set: views that suit the images."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastssl.augment import SimCLRAugment
from fastssl.methods import get
from fastssl.models import build_encoder

# What suits the images. Digits have no colour, and a mirrored 2 is no 2.
AUGMENT: dict[str, dict[str, Any]] = {
    "emoji": {"crop": (0.3, 1.0), "strength": 0.5, "blur": 0.0},
    "digits": {"crop": (0.5, 1.0), "strength": 0.5, "flip": 0.0, "gray": 0.0, "blur": 0.0, "rotate": 15.0},
}
TEMPERATURE = {"emoji": 0.1, "digits": 0.2}


def build_method(
    name: str,
    encoder_options: dict[str, Any],
    data: str,
    seed: int,
    *,
    temperature: float | None = None,
    spatial: bool = True,
) -> nn.Module:
    """Returns a method with fresh weights drawn from ``seed``; None takes the temperature that suits the data."""
    kind = get(name)
    torch.manual_seed(seed)
    family = data.split("-")[0]
    augment = SimCLRAugment(encoder_options["size"], channels_last=True, **AUGMENT.get(family, {}))
    if temperature is None:
        temperature = TEMPERATURE.get(family, 0.1)
    return kind(build_encoder(encoder_options), augment, temperature=temperature, spatial=spatial)
