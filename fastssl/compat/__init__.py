"""Fused kernels for losses of other libraries: ``fastssl.patch("pytorch_metric_learning")``.

A patch replaces methods of the library's classes, so that the order of imports does not matter. A call is fused if the
configuration of the object allows it, and runs the original code otherwise.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from fastssl.compat import _derivatives as derivatives
from fastssl.compat import _dtypes as dtypes
from fastssl.compat._peer import Around, NoLoss, NotFused, Peer, Result, Target, Traced, kind_of, require_matrices
from fastssl.compat._sizes import gathers, require_rows
from fastssl.distributed.shards import current, outside_of_graphs, unsharded
from fastssl.functional import _check as check

__all__ = ["PEERS", "Calls", "NotFused", "patch", "patched", "replaced", "require_matrices", "unpatch"]

PEERS = ("pytorch_metric_learning", "lightly", "open_clip", "sentence_transformers", "transformers")
_MISSING = object()


@dataclass
class Calls:
    """Number of fused calls of a patched class, and of original ones by reason."""

    fused: int = 0
    original: Counter[str] = field(default_factory=Counter)


@dataclass
class _Replaced:
    owner: type
    name: str
    before: Any  # the class's own attribute, or _MISSING if inherited
    wrapper: Any


@dataclass(frozen=True)
class _Options:
    """The options of :func:`patch`."""

    verbose: bool = False
    exact_dtypes: bool = False
    min_rows: int | None = None


@dataclass
class _Patch:
    """An active patch of a library; wrappers call the original after it has ended.

    ``given``: the options of :func:`patch`, if it was called outside all contexts; ``contexts``: those of each context
    that has not ended, of which the newest counts. Contexts may end in any order, and the last one unpatches.
    """

    peer: Peer
    given: _Options | None = None
    contexts: list[list[_Options]] = field(default_factory=list)  # lists are told apart by identity
    active: bool = True
    replaced: list[_Replaced] = field(default_factory=list)
    within: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # until it ends
    calls: dict[str, Calls] = field(default_factory=dict)

    @property
    def options(self) -> _Options:
        contexts = self.contexts  # read once: another thread may end its own
        return contexts[-1][0] if contexts else self.given or _Options()


_patches: dict[str, _Patch] = {}
_changing = threading.RLock()  # held while classes are patched and restored


def _options(verbose: bool = False, exact_dtypes: bool = False, min_rows: int | None = None) -> _Options:
    return _Options(verbose, exact_dtypes, None if min_rows is None else check.count("min_rows", min_rows, low=0))


def patch(
    name: str | None = None, *, verbose: bool = False, exact_dtypes: bool = False, min_rows: int | None = None
) -> None:
    """Patches the losses of another library to use the fused kernels if the result is the same.

    Existing and new objects are affected. Configurations that no kernel supports (a reducer that needs every pair,
    recorded statistics, user-defined subclasses or methods) run the original code. Patching again only changes the
    options.

    The result is the same up to rounding for float32 and float64 rows; for 16-bit rows and within autocast the error
    against float64 is no larger than that of the original, in the dtype that the original returns.

    Args:
        name: "pytorch_metric_learning" | "lightly" | "open_clip" | "sentence_transformers" | "transformers", also
            with hyphens; None: all installed ones, with a RuntimeWarning for those that cannot be patched.
        verbose: print, once per class and reason, whether a call was fused, and why not.
        exact_dtypes: run the original code for 16-bit rows and within autocast.
        min_rows: number of rows from which on calls on a GPU are fused, where launches of kernels take all of a small
            batch's time; 0: all; None: that of each loss (docs/migrate.md), and few rows against few classes, few
            pairs, distances or covariances run the original on a CPU.

    Raises:
        TypeError: ``min_rows`` is no integer.
        ValueError: unknown name, or ``min_rows`` below 0.
        ImportError: the library is not installed, or its version is not supported; nothing is patched.

    Example:
        >>> import fastssl
        >>> fastssl.patch("pytorch_metric_learning")  # doctest: +SKIP
        >>> fastssl.unpatch()
    """
    options = _options(verbose, exact_dtypes, min_rows)
    if name is None:
        for each in PEERS:
            if importlib.util.find_spec(each) is not None:
                try:
                    _set(each, options)
                except ImportError as error:
                    warnings.warn(f"fastssl.patch: {each} is not patched. {error}", RuntimeWarning, stacklevel=2)
        return
    _set(known_library(name), options)


def _set(name: str, options: _Options) -> None:
    with _changing:
        entry = _activate(name)
        if entry.contexts:
            entry.contexts[-1][0] = options
        else:
            entry.given = options


def _activate(name: str) -> _Patch:
    if name in _patches:
        return _patches[name]
    adapter = importlib.import_module(f"fastssl.compat.{name}")
    peer: Peer = adapter.PEER
    peer.check_version()
    try:
        targets: list[Target] = adapter.targets()
        around: list[Around] = getattr(adapter, "around", list)()
    except Exception as error:  # such as the RuntimeError of a torchvision that was built for another torch
        raise ImportError(f"name: {name} cannot be imported: {error}") from error
    entry = _Patch(peer)
    replacing: list[Target | Around] = [*targets, *around]
    originals = [getattr(t.owner, t.method) for t in replacing]  # before a base class is patched
    for each, original in zip(replacing, originals):
        wrapper = _wrap(entry, each, original) if isinstance(each, Target) else _around(entry, each, original)
        before = each.owner.__dict__.get(each.method, _MISSING)
        entry.replaced.append(_Replaced(each.owner, each.method, before, wrapper))
    for item in entry.replaced:
        setattr(item.owner, item.name, item.wrapper)
    for target in targets:
        peer.know(target.owner, target.method, target.family)
    peer.know_parts()
    if hasattr(adapter, "within"):
        entry.within.enter_context(adapter.within(lambda: entry.options.exact_dtypes))
    _patches[name] = entry
    return entry


def known_library(name: str, argument: str = "name") -> str:
    """The name of a library in :data:`PEERS`, also given as that of its package (``pytorch-metric-learning``).

    Args:
        name: as given.
        argument: its name in errors.

    Raises:
        ValueError: unknown name.
    """
    known = str(name).replace("-", "_")
    if known not in PEERS:
        near = difflib.get_close_matches(known, PEERS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{argument}: expected one of {PEERS}, got {name!r}{hint}")
    return known


def _wrap(entry: _Patch, target: Target, original: Callable[..., Any]) -> Callable[..., Any]:
    owner, peer = target.owner, entry.peer
    calls = entry.calls.setdefault(owner.__name__, Calls())
    signature = inspect.signature(original)
    again, own = functools.partial(target.again, original), peer.is_own(original)
    family, entry_point = (owner.__name__, *target.family), (owner, target.method)

    def count(reason: str) -> None:
        first = not (calls.original[reason] if reason else calls.fused)
        if reason:
            calls.original[reason] += 1
        else:
            calls.fused += 1
        if first and entry.options.verbose:
            text = f"runs its original code: {reason}" if reason else "runs fused"
            print(f"fastssl: {owner.__name__} {text}", file=sys.stderr)

    # What torch.compiler.assume_constant_result sets, which loads the compiler: once per compilation, instead of as a
    # part of the graph, which would be compiled again for each new number of calls.
    count._dynamo_marked_constant = True  # type: ignore[attr-defined]

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not entry.active:
            return original(self, *args, **kwargs)
        if current() is not None and gathers(self):
            with unsharded():
                return method(self, *args, **kwargs)
        reads, reason = False, None  # what breaks a graph is called below: within a handler, each function would
        try:
            if target.probe is None:
                found: Result = target.fused(original, entry.options.exact_dtypes, self, *args, **kwargs)
                count(found.reason)
                return found.value
            kind = kind_of(self)
            if kind is not owner and not (kind.__name__ in family and kind.__module__.split(".")[0] == peer.package):
                raise NotFused(f"{kind.__name__} {peer.unknown(kind)}")
            if not own:
                raise NotFused(f"{owner.__name__}.{target.method} is not the library's")
            if target.few is not None and entry.options.min_rows is None:
                try:
                    target.few(self, (args, kwargs))
                except ValueError as error:  # a backend is asked for that has no kernels for these rows
                    raise NotFused(f"{type(error).__name__}: {error}") from error
            peer.require_own(self, entry_point)
            try:
                given = signature.bind(self, *args, **kwargs)
            except TypeError as error:
                raise NotFused("arguments that the library refuses") from error
            given.apply_defaults()
            values, named = given.args, given.kwargs  # once: torch.compile reads none after a dict has changed
            owned = _owned(peer, self)
            exact, least = entry.options.exact_dtypes, entry.options.min_rows
            try:
                require_rows(target.min_rows if least is None else least, self, (values[1:], named), peer.known)
                result = dtypes.call(exact, peer.known, target, original, values, named)
            except (
                ValueError,
                TypeError,
                ArithmeticError,
                NotImplementedError,
            ) as error:  # the library raises its own
                raise NotFused(f"{type(error).__name__}: {error}") from error
        except Traced:
            reads = True
        except NotFused as error:
            reason = str(error)
            if not isinstance(error, NoLoss):
                count(reason)
        if reads:
            return untraced(self, *args, **kwargs)
        if reason is not None:
            if target.loss and (shards := current()) is not None and shards.size > 1:
                raise RuntimeError(
                    f"sharded: expected a loss that runs fused, got {owner.__name__}, whose original code sees the "
                    f"rows of this process alone: {reason}"
                )
            return original(self, *args, **kwargs)
        count("")
        result = derivatives.attach(result, again, values, named, owned)
        return result if target.after is None else target.after(result, given.arguments)

    untraced = torch._disable_dynamo(method)
    method.__fastssl__ = True  # type: ignore[attr-defined]
    return method


def _around(entry: _Patch, around: Around, original: Callable[..., Any]) -> Callable[..., Any]:
    call = outside_of_graphs(around.call)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not entry.active or (around.shared and current() is None):
            return original(self, *args, **kwargs)
        if around.elementwise and (torch.compiler.is_compiling() or entry.options.exact_dtypes):
            return original(self, *args, **kwargs)
        return call(original, self, *args, **kwargs)

    method.__fastssl__ = entry.peer.is_own(original)  # type: ignore[attr-defined]
    return method


def _owned(peer: Peer, module: Any) -> list[derivatives.Version]:
    differentiated = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return derivatives.versions(module, peer.known) if differentiated else []


def unpatch(name: str | None = None) -> None:
    """Restores the methods of patched classes.

    A method that has been replaced by other code in the meantime is left unchanged, with a RuntimeWarning; the wrapper
    that it calls runs the original.

    Args:
        name: name of the library; None: all.

    Raises:
        ValueError: unknown name.

    Example:
        >>> import fastssl
        >>> fastssl.unpatch()
    """
    name = None if name is None else known_library(name)
    with _changing:
        for peer in [name] if name is not None else list(_patches):
            entry = _patches.pop(peer, None)
            if entry is not None:
                _restore(entry)


def _restore(entry: _Patch) -> None:
    entry.active = False
    entry.within.close()
    for item in reversed(entry.replaced):
        if item.owner.__dict__.get(item.name) is not item.wrapper:
            text = f"{item.owner.__module__}.{item.owner.__qualname__}.{item.name}"
            warnings.warn(
                f"fastssl.unpatch: {text} was replaced after fastssl.patch and stays as it is",
                RuntimeWarning,
                stacklevel=3,
            )
        elif item.before is _MISSING:
            delattr(item.owner, item.name)
        else:
            setattr(item.owner, item.name, item.before)


def replaced(name: str) -> list[tuple[type, str, Callable[..., Any], Calls]]:
    """Class, name, original and statistics of each patched method of a library."""
    entry = _patches[name]
    return [
        (r.owner, r.name, r.wrapper.__wrapped__, entry.calls[r.owner.__name__])
        for r in entry.replaced
        if r.owner.__name__ in entry.calls
    ]


@contextlib.contextmanager
def _within(name: str, **options: Any) -> Iterator[dict[str, Calls]]:
    own = [_options(**options)]
    with _changing:
        entry = _activate(name)
        entry.contexts.append(own)
    try:
        yield entry.calls
    finally:
        with _changing:
            entry.contexts = [others for others in entry.contexts if others is not own]
            if not entry.contexts and entry.given is None and _patches.get(name) is entry:
                unpatch(name)


def patched(name: str | None = None, **options: Any) -> Any:
    """Call statistics of patched libraries; or, with a name, a context in which a library is patched.

    Args:
        name: None: return statistics. A library: return a context manager that patches it, and unpatches it at the end
            unless it was patched before. Contexts may overlap (of several threads): the last one to end unpatches.
        options: options of :func:`patch`, with a name.

    Returns:
        ``{library: {class: Calls(fused, original)}}`` since the library was patched (under ``torch.compile`` one call
        per compilation); or the context manager, whose
        value is ``{class: Calls}`` of that library.

    Raises:
        ValueError: unknown name.
        ImportError: as for :func:`patch`.

    Example:
        >>> import fastssl
        >>> fastssl.patched()
        {}
        >>> with fastssl.patched("lightly"):  # doctest: +SKIP
        ...     train()
    """
    if name is None:
        if options:
            raise TypeError(f"name: expected a library's name with {sorted(options)}, got None")
        return {each: dict(entry.calls) for each, entry in _patches.items()}
    return _within(known_library(name), **options)
