"""Options as users give them, such as from a grid of settings: numbers of NumPy and torch become those of Python, which
kernels and the JSON of checkpoints take."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any


def plain(value: Any) -> Any:
    """A scalar, or an array or tensor without dimensions, and those in a tuple or list, as a number of Python; other
    values as they are, a tensor that wants a gradient among them."""
    if type(value) in (int, float, bool):  # symbols of torch.compile among them, which have no other attributes
        return value
    if getattr(value, "ndim", None) == 0 and not getattr(value, "requires_grad", False):
        return value.item()
    return type(value)(map(plain, value)) if type(value) in (tuple, list) else value


def plain_fields(options: Any) -> None:
    """Makes the fields of a dataclass, frozen or not, :func:`plain`."""
    for field in dataclasses.fields(options):
        object.__setattr__(options, field.name, plain(getattr(options, field.name)))


def integer(name: str, given: Any, low: int, high: int | None = None, *, also: str = "") -> int:
    """An integer of Python, NumPy or torch, as one of Python.

    Args:
        also: what else the caller takes, for the message: " or None".

    Raises:
        ValueError: another value, a bool among them, or one out of range.
    """
    if type(given) is int and low <= given and (high is None or given <= high):
        return given
    given = plain(given)
    whole = isinstance(given, numbers.Integral) and not isinstance(given, bool)
    if not whole or given < low or (high is not None and given > high):
        limits = f">= {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}: expected an integer {limits}{also}, got {given!r}")
    return int(given)


def differs(what: str, before: Any, now: Any) -> ValueError:
    """The error of an option of a resumed run that is not that of its checkpoint."""
    return ValueError(f"{what}: the checkpoint was made with {before!r}, got {now!r}; resume with the same")
