"""``fastssl generate``: samples of a run, as texts or in files."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastssl.cli.show import item_progress
from fastssl.models.samples import Samples

_PYTHON = {"True": True, "False": False, "None": None}
# By the names in annotations.
_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "None": (type(None),),
}  # fmt: skip
_CALLED = {"bool": "true or false", "int": "an integer", "float": "a number", "str": "a name", "None": "null"}


def parse_settings(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs, whose values are JSON, ``True``, ``False``, ``None``, or else strings.

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
            found[name] = _PYTHON.get(value, value)
    return found


def check_kinds(parameters: Mapping[str, inspect.Parameter], settings: dict[str, Any], name: str = "set") -> None:
    """Checks settings against the annotations of the parameters that take them.

    Raises:
        ValueError: a value of another type; those of further types than numbers, flags and strings are not checked.
    """
    for key, parameter in parameters.items():
        kinds = re.findall(r"\w+", str(parameter.annotation))
        if key not in settings or not set(kinds) <= _KINDS.keys():
            continue
        value = settings[key]
        if type(value) not in {kind for word in kinds for kind in _KINDS[word]}:
            raise ValueError(f"{name}: expected {' or '.join(_CALLED[word] for word in kinds)} as {key}, got {value!r}")


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
    if seed < 0:
        raise ValueError(f"seed: expected an integer >= 0, got {seed}")
    check_kinds(parameters, given)
    if given.get("count", 1) < 1:
        raise ValueError(f"count: expected an integer >= 1, got {given['count']}")
    if "progress" not in parameters:
        return method.generate(seed=seed, **given)
    with item_progress(f"{run}: steps") as show:
        return method.generate(seed=seed, progress=show, **given)  # type: ignore[call-arg]
