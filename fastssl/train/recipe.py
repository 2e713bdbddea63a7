"""Recipes: default settings of a run by method and data set, stored in ``recipes/*.toml``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
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
        text += "".join(f", {key} {value}" for key, value in (self.options | self.method | self.network).items())
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


def _of(settings: dict[str, Any], method: str) -> dict[str, Any]:
    return {**settings.get("default", {}), **settings.get(method, {})}
