"""``fastssl generate``: samples of a run, as texts or in files."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastssl._files import replacing
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


def read_prompts(path: Path) -> list[str]:
    """The lines of a file of texts, or what objects of a ``.jsonl`` file have under the key ``prompt``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no prompt, an empty line, or a line without a string under the key.
    """
    if not path.is_file():
        raise FileNotFoundError(f"prompts: no file {str(path)!r}")
    lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    prompts: list[str] = []
    for number, line in enumerate(lines, 1):
        given: Any = line.strip()
        if path.suffix == ".jsonl":
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"prompts: {path}, line {number}: {error}") from error
            given = row.get("prompt") if isinstance(row, dict) else None
        if not isinstance(given, str) or not given:
            wanted = "an object with a string under 'prompt'" if path.suffix == ".jsonl" else "a prompt"
            raise ValueError(f"prompts: {path}, line {number}: expected {wanted}, got {line.strip()[:40]!r}")
        prompts.append(given)
    return prompts


def write_texts(samples: Samples, prompts: Sequence[str], out: Path) -> None:
    """Writes texts, in the order of their prompts: ``.jsonl`` as objects of a prompt and a text."""
    if out.suffix != ".jsonl":
        samples.save(out)
        return
    count = len(samples.values) // len(prompts)
    rows = [{"prompt": prompts[k // count], "text": text} for k, text in enumerate(samples.values)]
    with replacing(out) as file:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def generate(run: Path, seed: int, options: dict[str, Any], prompts: Sequence[str] = ()) -> Samples:
    """Samples of the method of a run, with those of ``options`` that are not None; of texts ``count`` for each of
    ``prompts``, one prompt after the other with draws of the same seed: those that it has alone.

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
    given |= {"prompt": prompts} if prompts else {}
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
