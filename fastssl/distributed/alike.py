"""Arguments of a loss are the same on every process: they are compared where processes say how many rows they have."""

from __future__ import annotations

import contextlib
import functools
import inspect
import numbers
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from fastssl.ops.scoped import Scoped

Call = tuple[str, Callable[[], Mapping[str, Any]]]  # the name of a loss, and its arguments
_call: Scoped[Call | None] = Scoped("fastssl_call", None)
_MAY_DIFFER = ("group", "backend")
_signature = functools.cache(inspect.signature)


@contextlib.contextmanager
def calling(name: str, arguments: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """Within it processes count the rows of this call, unless it is a part of another."""
    with _call.set(_call.get() or (name, arguments)):
        yield


def arguments_of(loss: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
    """By name, whether they were given by position or not."""
    given = _signature(loss).bind(*args, **kwargs)
    given.apply_defaults()
    return given.arguments


def described() -> list[str]:
    """The present call: its name, and a line "name: value" for every argument; values of tensors are their own."""
    call = _call.get()
    if call is None:
        return []
    name, arguments = call
    return [name, *(f"{k}: {_value(v)}" for k, v in arguments().items() if k not in _MAY_DIFFER)]


def code(lines: list[str]) -> int:
    """A number that differs where the lines do."""
    return zlib.crc32("\n".join(lines).encode())


def difference(rank: int, lines: list[list[str]]) -> str:
    """What differs between this process's lines and those of the first process that has others."""
    mine = lines[rank]
    other, theirs = next((r, text) for r, text in enumerate(lines) if text != mine)
    if mine[:1] != theirs[:1] or len(mine) != len(theirs):
        a, b = (text[0] if text else "none" for text in (mine, theirs))
        return f"loss: expected the same on every process, got {a} on rank {rank} and {b} on rank {other}"
    a, b = next((a, b) for a, b in zip(mine, theirs) if a != b)
    name, _, value = a.partition(": ")
    return (
        f"{name}: expected the same on every process, got {value} on rank {rank} and {b.partition(': ')[2]} on rank "
        f"{other}"
    )


def _value(given: Any) -> str:
    if given is None or isinstance(given, (bool, str)):
        return repr(given)
    if isinstance(given, numbers.Real):
        return repr(float(given))
    if isinstance(given, torch.Tensor):
        return "a tensor"
    return getattr(given, "__qualname__", type(given).__name__)
