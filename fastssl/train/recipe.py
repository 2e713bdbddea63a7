"""Recipes: default settings of a run by method and data set, stored in ``recipes/*.toml``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = ("small", "paper")
EMBEDDED_RECIPES = ("emoji", "digits", "stereograms")  # embedded data sets with their own settings
LARGE = 100_000  # items from which on the paper's settings are the default
RATE, RATE_WITH = "lr_per_256", "lr_with"
# Learning rates of AdamW for networks that others have pretrained: the recipes' are those of random weights, and undo
# what such a network has learned. Of images as their continued pretraining has them, of CLIP as its fine-tuning.
CONTINUED = {"texts": 5e-5, "images": 1e-4, "images with texts": 1e-5}
ELSEWHERE = "huggingface:"
_NOTES = ("source", "differs", "method", "size", "views", "network")


@dataclass
class Recipe:
    """Settings of a run.

    Args:
        name: "small" or "paper".
        options: fields of :class:`fastssl.train.Pretraining`.
        method: arguments of the method.
        size: image size of the encoder, in pixels.
        views: arguments of the views specific to the data set; {}: the method's defaults.
        network: options of the network of a language method, a distribution of images or one of waveforms.
        source: where the settings come from.
        differs: deviations from the paper.

    Example:
        >>> from fastssl.train import Recipe
        >>> Recipe('small', {'epochs': 10}).size
        32
    """

    name: str
    options: dict[str, Any]
    method: dict[str, Any] = field(default_factory=dict)
    size: int = 32
    views: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    differs: str = ""
    network: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"recipe {self.name}" + (f" ({self.source})" if self.source else "")
        text += "".join(f", {key} {value}" for key, value in (self.options | self.method).items())  # beside the network
        return text + (f"; differs: {self.differs}" if self.differs else "")


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files("fastssl.train") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"))


def recipe(
    method: str,
    items: int,
    name: str | None = None,
    batch_size: int | None = None,
    embedded: str | None = None,
    network: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """Returns the settings of a method.

    Args:
        method: name of the method.
        items: number of items in the data set.
        name: "small", for a few thousand images; "paper", the paper's for ImageNet; None: "paper" from 100,000 items
            on if the method has one, else "small".
        batch_size: batch size of the run, if not the recipe's: learning rates given per 256 items are scaled with it.
        embedded: name of an embedded data set (:attr:`fastssl.data.Source.embedded`), whose settings override the
            recipe's method, size and views.
        network: options of the network, some of which need another learning rate ("deviation" of "rbm").

    Raises:
        ValueError: unknown name, or a method without a recipe "paper".

    Example:
        >>> from fastssl.train import recipe
        >>> recipe("byol", 1_281_167).options["lr"], recipe("byol", 1_281_167, batch_size=256).options["lr"]
        (3.2, 0.2)
    """
    papers = [key for key in _read("paper") if key != "default"]
    if name is None:
        name = "paper" if items >= LARGE and method in papers else "small"
    if name not in NAMES:
        raise ValueError(f"recipe: expected one of {', '.join(NAMES)}, got {name!r}")
    if name == "paper" and method not in papers:
        raise ValueError(f"recipe: expected a method with settings of its paper ({', '.join(papers)}), got {method}")
    given = _read(name)
    own = _of(given, method)
    specific = _of(_read(embedded), method) if embedded in EMBEDDED_RECIPES else {}
    options = {key: value for key, value in own.items() if key not in (*_NOTES, RATE, RATE_WITH)}
    if batch_size is not None:
        options["batch_size"] = batch_size
    if RATE in own:
        options["lr"] = own[RATE] * options["batch_size"] / 256
    for option, rate in own.get(RATE_WITH, {}).items():
        if network.get(option) is not None:
            options["lr"] = rate
    arguments = {**own.get("method", {}), **specific.get("method", {})}
    size, views = specific.get("size", own["size"]), specific.get("views", {})
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    return Recipe(
        name, options, arguments, size, views, own.get("source", ""), own.get("differs", ""), own.get("network", {})
    )


def continued(
    chosen: Recipe, init: str | None = None, *, text: bool = False, encoder: Any = None, tower: Any = None
) -> Recipe:
    """The settings of a method whose network others have pretrained: AdamW at a lower learning rate; those of other
    networks unchanged.

    Args:
        chosen: the settings for random weights.
        init: what the network starts from: "huggingface:PATH", a file of weights, or a run, whose rate is the recipe's.
        text: the method takes texts.
        encoder: name of the encoder of images; "huggingface:NAME" has pretrained weights.
        tower: name of the text tower beside it.

    Example:
        >>> from fastssl.train.recipe import Recipe, continued
        >>> continued(Recipe("small", {"lr": 2e-3}), encoder="huggingface:facebook/dinov2-small").options
        {'lr': 0.0001, 'optimizer': 'adamw'}
    """

    def elsewhere(name: Any) -> bool:
        return isinstance(name, str) and name.startswith(ELSEWHERE)

    if text:
        kind = "texts" if elsewhere(init) else None
    else:
        parts = (elsewhere(encoder) or (init is not None and Path(init).is_file()), elsewhere(tower))
        kind = "images with texts" if all(parts) else "images" if any(parts) else None
    own = {} if kind is None else {"optimizer": "adamw", "lr": CONTINUED[kind]}
    return replace(chosen, options=chosen.options | own)


def _of(settings: dict[str, Any], method: str) -> dict[str, Any]:
    return {**settings.get("default", {}), **settings.get(method, {})}
