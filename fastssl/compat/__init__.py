"""Fused losses in code that uses other libraries: ``fastssl.patch("pytorch_metric_learning")``.

A patch replaces methods of the other library's own classes, so it does not matter whether they were imported before
or after. A call takes the fused path where the object's configuration allows it, and the original code otherwise.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PEERS = ("pytorch_metric_learning", "lightly", "open_clip", "sentence_transformers")
_MISSING = object()


class NotFused(Exception):
    """Why a call takes the original code."""


def require_matrices(*tensors: object) -> None:
    """What every adapter asks first: the kernels, and matrices that they compute as the original would."""
    import torch

    from fastssl.ops import extension

    if extension._C is None:
        raise NotFused("the kernels are not installed")
    if torch.is_autocast_enabled("cpu"):
        raise NotFused("autocast")
    for t in tensors:
        if not isinstance(t, torch.Tensor) or t.dim() != 2 or t.shape[1] == 0:
            raise NotFused("no matrices")
        if t.device.type != "cpu":
            raise NotFused(f"no kernels for {t.device.type} tensors")
        if t.dtype not in (torch.float32, torch.float64):
            raise NotFused(f"inputs of dtype {t.dtype}")


@dataclass
class Calls:
    """How often a patched class ran fused, and for what reasons it did not."""

    fused: int = 0
    original: Counter[str] = field(default_factory=Counter)


@dataclass
class _Replaced:
    owner: type
    name: str
    before: Any  # what the class itself had, or _MISSING where it inherited


_replaced: dict[str, list[_Replaced]] = {}
_calls: dict[str, dict[str, Calls]] = {}


def patch(name: str, *, verbose: bool = False) -> None:
    """Makes the losses of another library use the fused kernels where that gives the same result.

    Existing and new objects of its classes are served. Where a configuration asks for more than a kernel does (a
    reducer that wants every pair, recorded statistics, several processes, 16-bit inputs, a GPU, a subclass with its
    own formula), the library's own code runs, unchanged. Patching twice changes nothing.

    Args:
        name: "pytorch_metric_learning" | "lightly" | "open_clip" | "sentence_transformers".
        verbose: print, once for each class and reason, whether a call ran fused and why it did not.

    Raises:
        ValueError: unknown name.
        ImportError: the library is not installed.

    Example:
        >>> import fastssl
        >>> fastssl.patch("pytorch_metric_learning")  # doctest: +SKIP
        >>> fastssl.unpatch()
    """
    if name not in PEERS:
        raise ValueError(f"name: expected one of {PEERS}, got {name!r}")
    if name in _replaced:
        _verbose[name] = verbose
        return
    adapter = importlib.import_module(f"fastssl.compat.{name}")
    try:
        targets: list[tuple[type, str, Callable[..., Any]]] = adapter.targets()
    except ImportError as error:
        raise ImportError(f"name: {name} is not installed, or cannot be imported: {error}") from error
    _verbose[name], _calls[name], _replaced[name] = verbose, {}, []
    originals = [getattr(owner, method) for owner, method, _ in targets]  # before a base class is patched
    family: dict[str, tuple[str, ...]] = getattr(adapter, "FAMILY", {})
    for (owner, method, fused), original in zip(targets, originals):
        _replaced[name].append(_Replaced(owner, method, owner.__dict__.get(method, _MISSING)))
        setattr(owner, method, _wrap(name, owner, original, fused, family.get(owner.__name__, ())))


_verbose: dict[str, bool] = {}


def _wrap(
    peer: str, owner: type, original: Callable[..., Any], fused: Callable[..., Any], family: tuple[str, ...]
) -> Callable[..., Any]:
    """``family``: subclasses, of the same module, that call the method for what it is."""
    calls = _calls[peer].setdefault(owner.__name__, Calls())

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            kind = type(self)
            if kind is not owner and not (kind.__name__ in family and kind.__module__ == owner.__module__):
                raise NotFused(f"{type(self).__name__} is a class of its own")
            result = fused(self, *args, **kwargs)
        except NotFused as reason:
            if not calls.original[str(reason)] and _verbose[peer]:
                print(f"fastssl: {owner.__name__} runs its original code: {reason}", file=sys.stderr)
            calls.original[str(reason)] += 1
            return original(self, *args, **kwargs)
        if not calls.fused and _verbose[peer]:
            print(f"fastssl: {owner.__name__} runs fused", file=sys.stderr)
        calls.fused += 1
        return result

    return method


def unpatch(name: str | None = None) -> None:
    """Gives patched classes their own methods back, exactly as they were.

    Args:
        name: of the library; None: all.

    Raises:
        ValueError: unknown name.

    Example:
        >>> import fastssl
        >>> fastssl.unpatch()
    """
    if name is not None and name not in PEERS:
        raise ValueError(f"name: expected one of {PEERS}, got {name!r}")
    for peer in [name] if name is not None else list(_replaced):
        for item in reversed(_replaced.pop(peer, [])):
            if item.before is _MISSING:
                delattr(item.owner, item.name)
            else:
                setattr(item.owner, item.name, item.before)


def patched() -> dict[str, dict[str, Calls]]:
    """What runs fused: for each patched library and class the fused calls, and the others by their reasons.

    Returns:
        ``{library: {class: Calls(fused, original)}}`` since the library was patched.

    Example:
        >>> import fastssl
        >>> fastssl.patched()
        {}
    """
    return {peer: dict(_calls[peer]) for peer in _replaced}
