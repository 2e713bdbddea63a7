"""Builds a method from a recipe: its views, encoder and arguments."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastssl.augment import (
    HALF,
    Augment,
    CPCAugment,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RelativePatchAugment,
    SimCLRAugment,
    Views,
)
from fastssl.cli.generation import check_kinds, parse_settings
from fastssl.data import Source
from fastssl.methods import AudioMethod, ImageMethod, get, image_method
from fastssl.methods.image import multi_crop
from fastssl.models import LIBRARIES, build_encoder
from fastssl.models.audio import AUDIO_NETWORKS
from fastssl.models.encoders import DENSITIES, RESNETS, channels_of
from fastssl.models.folder import holds_run, load_state
from fastssl.train.recipe import Recipe, recipe
from fastssl.train.resuming import CHANGEABLE_ON_RESUME, check_network, encoder_of, recipe_of
from fastssl.train.starting import checkpoint_of, start_encoder

TWO_VIEWS = {
    "simclr", "moco", "moco-v3", "nnclr", "byol", "simsiam", "barlow-twins", "vicreg", "swav", "sup-con", "inter-clr",
    "amdim",
}  # fmt: skip


def views_for(name: str, embedded: str | None, size: int) -> Views | None:
    """The views of a method on an embedded data set; None: the method's default."""
    options = recipe(name, 0, embedded=embedded).views
    if not options:
        return SimCLRAugment(size, channels_last=True) if name in ("simclr", "nnclr", "swav", "sup-con") else None
    if name in TWO_VIEWS:
        return SimCLRAugment(size, channels_last=True, **options)
    if name in ("deep-cluster", "nat"):
        return SimCLRAugment(size, channels_last=True, views=1, **options)
    if name in ("dino", "ibot", "lejepa"):
        scales: dict[str, Any] = {"global_scale": (0.4, 1.0), "local_scale": (0.15, 0.4)}
        return multi_crop(size, **scales)
    flip = RandomHorizontalFlip(options.get("flip", 0.5))
    plain: list[Any] = [RandomResizedCrop(size, scale=options["crop"]), flip, HALF]
    if name in ("clip", "align", "siglip"):
        return Views([Augment(plain)])
    if name == "cmc":  # one view per image of an item
        return Views([(2, Augment(plain))])
    if name == "counting":
        crop, gray = RandomResizedCrop(2 * size, scale=options["crop"]), RandomGrayscale(options.get("gray", 0.67))
        return Views([Augment([crop, flip, gray, HALF])])
    if name == "relative-patch":  # drawings have no chromatic aberration to project out
        cell = size // 2 + max(size // 8, 1)
        return RelativePatchAugment(size // 2, cell, 3 * cell, projection=False, normalize=HALF)
    if name == "cpc":
        return CPCAugment(size, gray=0.0, normalize=HALF)
    return None


def check_rate(chosen: Recipe, optimizer: str | None, lr: float | None) -> None:
    """Raises ValueError for another optimiser than the recipe's without a learning rate; Muon takes those of AdamW."""
    known = chosen.options["optimizer"]
    if lr is None and optimizer not in (None, known) and (known, optimizer) != ("adamw", "muon"):
        rate = chosen.options["lr"]
        raise ValueError(
            f"lr: {rate:g} of recipe {chosen.name} is a learning rate of {known}; give --lr for {optimizer}"
        )


def encoder_for(
    name: str,
    encoder: str | None,
    size: int,
    width: int | None = None,
    blocks: int | None = None,
    stem: str | None = None,
    channels: int | None = None,
) -> dict[str, Any]:
    """Options of ``build_encoder``, for the given encoder and channels, or the method's default.

    Raises:
        ValueError: a width or a number of blocks for a network of fixed architecture, a stem for other networks.
    """
    kind = encoder or image_method(name).encoder_name
    options: dict[str, Any] = {"name": kind, "size": size}
    known = kind in RESNETS or kind.partition(":")[0] in LIBRARIES
    for key, value in (("width", width), ("blocks", blocks)):
        if known and value is not None:
            raise ValueError(f"{key}: {kind} has a fixed architecture; encoders such as 'resnet' take a {key}")
    if stem is not None and kind not in RESNETS:
        raise ValueError(f"stem: expected an encoder of {', '.join(RESNETS)}, got {kind!r}")
    if kind in DENSITIES:  # whose networks have defaults of their own
        options |= {key: value for key, value in (("width", width), ("blocks", blocks)) if value is not None}
    elif not known:
        options |= {"width": 32 if width is None else width, "blocks": 1 if blocks is None else blocks}
    channels = image_method(name).channels if channels is None else channels
    if channels != channels_of(options):
        options["channels"] = channels
    return options if stem is None else {**options, "stem": stem}


_PREFIXES = ("huggingface", "word2vec")  # of names of models, and of what a run starts from


def with_absolute_path(name: str) -> str:
    """The name of a model; a path behind "huggingface:" or "word2vec:" is made absolute."""
    kind, colon, place = name.partition(":")
    return f"{kind}{colon}{_absolute(place)}" if kind in _PREFIXES else name


def _absolute(place: str) -> str:
    """The absolute path, if there is something."""
    path = os.path.expanduser(place)
    return os.path.abspath(path) if os.path.exists(path) else place


def started_from(resumed: Path | None, init: str | None) -> tuple[str | None, str | None]:
    """``--init`` of a run, that of the run which is resumed if there is one; and as it is recorded: paths absolute.

    Args:
        resumed: folder of a run to resume, if it has a checkpoint.
        init: as given.

    Raises:
        ValueError: the run was started from something else.
    """
    start = init
    if init is not None:
        start = with_absolute_path(init) if init.partition(":")[0] in _PREFIXES else _absolute(init)
    if resumed is None or not holds_run(resumed):
        return init, start
    state = load_state(resumed)
    recorded = state.get("started_from", start)  # earlier versions did not record it
    if init is not None and recorded not in (init, start):
        known = "random weights" if recorded is None else repr(recorded)
        raise ValueError(f"init: {str(resumed)!r} was started from {known}, got {init!r}; it is resumed without init")
    return recorded, recorded


def resumed_recipe(
    state: dict[str, Any], out: Path, method: str, asked: Recipe | None, given: dict[str, Any]
) -> Recipe:
    """The settings of a run that is resumed.

    Args:
        state: state of its checkpoint.
        out: folder of the run.
        method: name of the method.
        asked: a recipe that is asked for: its settings count as given, but for the number of epochs.
        given: options of the network that are given; None: not given.

    Raises:
        ValueError: a checkpoint of another method or network.
    """
    run, kind = recipe_of(state, out, method), get(method)
    given = {key: value for key, value in given.items() if value is not None}
    if asked is not None:
        if state.get("started_from") is None:  # else the network is that of the run's start
            sizes = {"size": asked.size} if issubclass(kind, ImageMethod) else {}
            own = {key: value for key, value in asked.network.items() if key != "vocabulary" or state.get(key)}
            given = {**own, **sizes, **given}
        options = {key: value for key, value in asked.options.items() if key not in CHANGEABLE_ON_RESUME}
        run = replace(run, options=run.options | options, method=run.method | asked.method)
    if issubclass(kind, ImageMethod):
        encoder_of(run.network, given)
    else:
        check_network(state, run.network, given)
    return run


def options_of_run(run: Path, **given: Any) -> dict[str, Any]:
    """The options of the encoder of a run that another one starts from, and those given.

    Raises:
        FileNotFoundError: no checkpoint.
        ValueError: one without an encoder of images.
    """
    options = load_state(checkpoint_of(run)).get("encoder")
    if not isinstance(options, dict) or "size" not in options:
        raise ValueError(f"init: expected a run with an encoder of images, {str(run)!r} has none that can be rebuilt")
    return {**options, **{key: value for key, value in given.items() if value is not None}}


def options_for(
    name: str,
    embedded: str | None,
    temperature: float | None = None,
    spatial: bool | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The arguments of a method, JSON values, as stored in its checkpoint.

    Arguments override ``settings`` (those of a recipe; None: of the recipe "small" for ``embedded``).

    Raises:
        ValueError: unknown method, or a temperature or spatial features for a method without them.
    """
    kind = get(name)
    takes, own = kind.arguments(), inspect.signature(kind).parameters  # those without one of their own learn pooled
    chosen = recipe(name, 0, embedded=embedded).method if settings is None else settings
    pooled = chosen.get("text") is not None  # what pretrained models of images and texts project
    options: dict[str, Any] = {**({"spatial": True} if "spatial" in own and not pooled else {}), **chosen}
    for key, value in (("spatial", spatial), ("temperature", temperature)):
        if value is not None:
            if key not in takes:
                raise ValueError(f"{key}: {name} has none")
            options[key] = value
    return options


def build_method(
    name: str,
    encoder_options: dict[str, Any],
    data: Source,
    seed: int,
    *,
    temperature: float | None = None,
    spatial: bool | None = None,
    settings: dict[str, Any] | None = None,
    init: str | None = None,
) -> ImageMethod:
    """Returns a method with weights initialised from ``seed``, or of its encoder from ``init``
    (:func:`fastssl.train.start_encoder`); the other arguments as for :func:`options_for`.

    Raises:
        ValueError: unknown method, or a temperature for a method without one.
    """
    kind: Any = get(name)
    options = options_for(name, data.embedded, temperature, spatial, settings)
    torch.manual_seed(seed)
    encoder = build_encoder(encoder_options)
    if init is not None:
        start_encoder(encoder, init)
    method: ImageMethod = kind(encoder, views_for(name, data.embedded, encoder.size), **options)
    return method


def method_settings(name: str, encoder: str | None, given: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``NAME=VALUE`` settings as arguments of the method, and options of its network if that is a distribution.

    Raises:
        ValueError: no such setting.
    """
    kind = get(name)
    arguments = kind.arguments()
    own = [key for key in arguments if key not in ("encoder", "augment", "network", "tokenizer", "tower")]
    built: Any = None
    if issubclass(kind, ImageMethod):
        built = DENSITIES.get(encoder or kind.encoder_name)
    elif issubclass(kind, AudioMethod):
        built = AUDIO_NETWORKS[kind.networks[0]]
    parameters = dict(inspect.signature(built).parameters) if built else {}
    network = [key for key in parameters if key not in ("size", "channels")]
    settings = parse_settings(given)
    if isinstance(settings.get("text"), str):
        settings["text"] = with_absolute_path(settings["text"])
    for key, value in settings.items():
        if key not in own and key not in network:
            raise ValueError(f"set: expected NAME=VALUE with a name of {', '.join(own + network)}, got {key}={value!r}")
    for taken in (arguments, parameters):
        check_kinds(taken, settings)
    return tuple({key: value for key, value in settings.items() if key in names} for names in (own, network))  # type: ignore[return-value]
