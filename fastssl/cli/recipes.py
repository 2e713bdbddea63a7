"""The settings that the command line uses for each data set: views that suit the images."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from fastssl.augment import HALF, DINOAugment, SimCLRAugment, Views
from fastssl.data import Images
from fastssl.methods import Method, get
from fastssl.models import build_encoder

# What suits the images. Digits have no colour, and a mirrored 2 is no 2.
AUGMENT: dict[str, dict[str, Any]] = {
    "emoji": {"crop": (0.3, 1.0), "strength": 0.5, "blur": 0.0},
    "digits": {"crop": (0.5, 1.0), "strength": 0.5, "flip": 0.0, "gray": 0.0, "blur": 0.0, "rotate": 15.0},
}
TEMPERATURE = {"emoji": 0.1, "digits": 0.2}
TWO_VIEWS = {
    "simclr", "moco", "moco-v3", "nnclr", "byol", "simsiam", "barlow-twins", "vicreg", "swav", "sup-con", "inter-clr",
    "amdim",
}  # fmt: skip


def views_for(name: str, data: str, size: int) -> Views | None:
    """The views of a method on a data set that comes with the package; None takes the paper's."""
    family = data.split("-")[0]
    if family in AUGMENT and name in TWO_VIEWS:
        return SimCLRAugment(size, channels_last=True, **AUGMENT[family])
    if family in AUGMENT and name == "dino":
        scales: dict[str, Any] = {"global_scale": (0.4, 1.0), "local_scale": (0.15, 0.4)}
        return DINOAugment(size, max(size // 2, 8), 2, normalize=HALF, **scales)
    if name in ("simclr", "nnclr", "swav", "sup-con"):
        return SimCLRAugment(size, channels_last=True)
    return None


def encoder_for(name: str, encoder: str | None, size: int, width: int = 32, blocks: int = 1) -> dict[str, Any]:
    """What ``build_encoder`` needs: the encoder that is named, else the one that the method needs."""
    return {"name": encoder or get(name).encoder_name, "size": size, "width": width, "blocks": blocks}


def build_method(
    name: str,
    encoder_options: dict[str, Any],
    data: Images,
    seed: int,
    *,
    temperature: float | None = None,
    spatial: bool = True,
) -> Method:
    """Returns a method with fresh weights drawn from ``seed``; None takes the temperature that suits method and data.

    Raises:
        ValueError: no such method, or one that has no temperature.
    """
    kind: Any = get(name)
    torch.manual_seed(seed)
    options: dict[str, Any] = {"spatial": spatial}
    if temperature is None and name == "simclr":
        temperature = TEMPERATURE.get(data.name.split("-")[0], 0.1)
    if temperature is not None:
        if "temperature" not in inspect.signature(kind).parameters:
            raise ValueError(f"temperature: {name} has none")
        options["temperature"] = temperature
    if kind.uses_texts:
        options["texts"] = data.names
    encoder = build_encoder(encoder_options)
    method: Method = kind(encoder, views_for(name, data.name, encoder.size), **options)
    return method
