"""Views as JSON values, as checkpoints keep them, and views that a file of Python defines."""

from __future__ import annotations

import runpy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fastssl.augment import automatic, ops, warps
from fastssl.augment.policies import POLICIES, policy
from fastssl.augment.program import Augment, Views
from fastssl.augment.torchvision import from_torchvision

Json = list[dict[str, Any]]
OPERATIONS = {**vars(automatic), **vars(warps), **vars(ops)}
DEFAULT_NAME = "transform"  # of what a file defines


def to_json(views: Any) -> Json | None:
    """The programs of views, as JSON values; None: of another class, whose views are more than those of programs, or
    with operations of one."""
    if not isinstance(views, Views) or type(views).forward is not Views.forward:
        return None
    if any(OPERATIONS.get(type(op).__name__) is not type(op) for program in views.programs for op in program.steps):
        return None
    return [
        {
            "count": count,
            "operations": [{"name": type(op).__name__, **asdict(op)} for op in program.steps],
            "dtype": str(program.dtype).removeprefix("torch."),
            "channels_last": program.channels_last,
            "channels": program.channels,
        }
        for count, program in views.counted
    ]


def from_json(programs: Json) -> Views:
    """The views whose programs :func:`to_json` gave."""
    return Views([(program["count"], _program(program)) for program in programs])


def _program(given: dict[str, Any]) -> Augment:
    operations = []
    for one in given["operations"]:
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in one.items() if key != "name"}
        operations.append(OPERATIONS[one["name"]](**values))
    dtype = getattr(torch, given["dtype"])
    return Augment(operations, dtype=dtype, channels_last=given["channels_last"], channels=given["channels"])


def as_views(given: Any, size: int | None = None) -> Views:
    """Views from whatever says which: programs, transforms, the name of a policy, or a file of Python.

    Args:
        given: :class:`Views`; an :class:`Augment`, or a list of them; a transform of torchvision, timm or lightly
            (:func:`from_torchvision`), or a list of them; the name of a policy (:func:`policy`); or "FILE.py", a file
            that defines one of these as ``transform`` ("FILE.py:NAME": by that name), and, for transforms of its own,
            ``rules``.
        size: size of a policy's views, in pixels; None: the paper's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown policy, a file without such a name, or a transform that has no fused equivalent.

    Example:
        >>> from fastssl.augment import Augment, RandomResizedCrop, as_views
        >>> [program.size for program in as_views([Augment([RandomResizedCrop(32)])] * 2).programs]
        [(32, 32), (32, 32)]
        >>> len(as_views("byol", 32).programs)
        2
    """
    if isinstance(given, (str, Path)):
        file, name = _file_and_name(str(given))
        if file is None:
            if str(given) not in POLICIES:
                raise ValueError(f"augment: expected FILE.py or one of {', '.join(POLICIES)}, got {str(given)!r}")
            return policy(str(given), size)
        return _defined(file, name)
    return _made(given, {})


def _file_and_name(given: str) -> tuple[Path | None, str]:
    place, colon, name = given.rpartition(":")
    if colon and place.endswith(".py"):
        return Path(place).expanduser(), name
    return (Path(given).expanduser() if given.endswith(".py") else None), DEFAULT_NAME


def _defined(file: Path, name: str) -> Views:
    if not file.is_file():
        raise FileNotFoundError(f"augment: no file {str(file)!r}")
    names = runpy.run_path(str(file))
    if name not in names:
        made = [key for key, value in names.items() if type(value).__name__ not in ("type", "function", "module")]
        there = ", ".join(key for key in made if not key.startswith("_")) or "nothing"
        raise ValueError(f"augment: {file} defines no {name} ({there}); give the name as {file}:NAME")
    return _made(names[name], names.get("rules", {}))


def _made(given: Any, rules: Any) -> Views:
    if isinstance(given, Views):
        return given
    if isinstance(given, Augment):
        return Views([given])
    if isinstance(given, (list, tuple)) and given and all(isinstance(part, Augment) for part in given):
        return Views(given)
    found = from_torchvision(given, rules=rules)
    return Views([found]) if isinstance(found, Augment) else found
