"""Recipes: the settings of a run by method and data, kept as data in ``recipes/*.toml``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = ("small", "paper")
SUITED = ("emoji", "digits")  # embedded data with settings of its own
LARGE = 100_000  # items from which on a run takes its paper's settings unless it is told otherwise
RATE = "lr_per_256"
_NOTES = ("source", "differs", "method", "size", "views")


@dataclass
class Recipe:
    """Settings of a run.

    Args:
        name: "small" or "paper".
        options: fields of :class:`fastssl.train.Pretraining`.
        method: arguments of the method.
        size: of the images that the encoder sees, pixels.
        views: arguments of the views where the data has some of its own; {}: the method's.
        source: where they are from.
        differs: where a run of ours is not the paper's.

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

    def __str__(self) -> str:
        text = f"recipe {self.name}" + (f" ({self.source})" if self.source else "")
        text += "".join(f", {key} {value}" for key, value in (self.options | self.method).items())
        return text + (f"; differs: {self.differs}" if self.differs else "")


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files("fastssl.train") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"))


def recipe(
    method: str, items: int, name: str | None = None, batch_size: int | None = None, embedded: str | None = None
) -> Recipe:
    """Returns the settings of a method.

    Args:
        method: its name.
        items: of the data.
        name: "small", what suits a few thousand images; "paper", the paper's for ImageNet; None: "paper" from 100,000
            items on where the method has one, else "small".
        batch_size: of the run where it is not the recipe's: rates that grow with the batch follow it.
        embedded: the data that comes with the package (:attr:`fastssl.data.Source.embedded`): what suits it goes before
            the recipe's method, size and views.

    Raises:
        ValueError: another name, or a method whose paper's settings are not kept.

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
        raise ValueError(f"recipe: the settings of papers are kept for {', '.join(papers)}, not for {method}")
    given = _read(name)
    own = _of(given, method)
    suits = _of(_read(embedded), method) if embedded in SUITED else {}
    options = {key: value for key, value in own.items() if key not in (*_NOTES, RATE)}
    if batch_size is not None:
        options["batch_size"] = batch_size
    if RATE in own:
        options["lr"] = own[RATE] * options["batch_size"] / 256
    arguments = {**own.get("method", {}), **suits.get("method", {})}
    size, views = suits.get("size", own["size"]), suits.get("views", {})
    return Recipe(name, options, arguments, size, views, own.get("source", ""), own.get("differs", ""))


def _of(settings: dict[str, Any], method: str) -> dict[str, Any]:
    return {**settings.get("default", {}), **settings.get(method, {})}
