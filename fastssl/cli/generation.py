"""``fastssl generate``: samples of a run, as texts or in files."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from fastssl.cli.show import item_progress
from fastssl.models.samples import Samples


def parse_settings(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs, whose values are JSON or else strings.

    Raises:
        ValueError: not of this form.
    """
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise ValueError(f"set: expected NAME=VALUE, got {one!r}")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def generate(run: Path, seed: int, options: dict[str, Any]) -> Samples:
    """Samples of the method of a run, with those of ``options`` that are not None.

    Raises:
        ValueError: no checkpoint, a method that is not generative, or an option that it does not have.
    """
    from fastssl.methods import METHODS, name_of
    from fastssl.train import load_method

    method = load_method(run)
    name = name_of(method)
    if method.generates is None:
        known = ", ".join(key for key, kind in METHODS.items() if kind.generates)
        raise ValueError(f"checkpoint: expected one of a generative method ({known}), got {name}")
    parameters = inspect.signature(method.generate).parameters
    names = [key for key in parameters if key not in ("seed", "progress")]
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in names:
            raise ValueError(f"{key}: {name} has no such option; it has {', '.join(names)}")
    if "progress" not in parameters:
        return method.generate(seed=seed, **given)
    with item_progress(f"{run}: steps") as show:
        return method.generate(seed=seed, progress=show, **given)  # type: ignore[call-arg]
