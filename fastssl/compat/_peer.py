"""Descriptions of patched libraries: supported versions, and checks that objects are the library's own.

A fused call replaces the code between a patched method and the formula. It is allowed only if all of that code is the
library's own and all settings are known to the adapter. The original runs if a method was replaced (on the object, on
its class, by a partial, by a subclass), for unknown attributes, and for hooks on objects that the fused call skips.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import numbers
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fastssl.distributed.shards import current


class NotFused(Exception):
    """Raised to run the original code; the message is the reason."""


class NoLoss(NotFused):
    """The same for a call that computes no loss, such as that of a model within a model: it is not counted."""


class Traced(Exception):
    """Raised within torch.compile by a call that reads values of tensors: it runs outside of the graph, which breaks
    once, instead of once per value."""


def require_values() -> None:
    """Values of tensors, or sizes that depend on them, are read from here on: no graph of torch.compile has them.

    Raises:
        Traced: the graph may break.
        NotFused: it may not; the original is then one graph, or an error.
    """
    if torch.compiler.is_compiling():
        if _of_one_graph():
            raise NotFused("values of tensors are read, which fullgraph=True forbids")
        raise Traced


def _of_one_graph() -> bool:
    """Whether fullgraph=True is given."""
    context: Any = torch._guards.TracingContext.try_get()
    return context is not None and bool(context.fake_mode.shape_env.allow_dynamic_output_shape_ops)


_of_one_graph._dynamo_marked_constant = True  # type: ignore[attr-defined]  # not traced


Check = Callable[[Any], bool] | None  # predicate of an attribute's value; None: any value, read by the adapter


@dataclass(frozen=True)
class Target:
    """A method to replace.

    Args:
        owner: the class.
        method: name of the method.
        fused: function with the arguments of the method; raises :class:`NotFused` if it does not apply.
        probe: calls the original on a few rows, to determine the dtypes of results. None: the fused function takes
            the original and ``exact_dtypes`` first, applies to all subclasses, and returns a :class:`Result`.
        family: subclasses of the same library that inherit the method unchanged.
        min_rows: number of rows on a GPU below which the library's own code is faster (see ``_sizes``).
        few: raises NotFused, unless ``min_rows`` is given, for a call of so little work on a CPU that the library's own
            code takes less time (see ``_sizes``); takes the object and the other arguments.
        again: calls the original for second derivatives, with a result of the same structure as the fused function's.
        after: takes the result in the original's dtype, and the arguments by name, and returns the method's result.
        loss: the result is a loss, which :func:`fastssl.distributed.sharded` makes one of the rows of all processes.
    """

    owner: type
    method: str
    fused: Callable[..., Any]
    probe: Callable[..., Any] | None = None
    family: tuple[str, ...] = ()
    min_rows: int = 0
    few: Callable[[Any, Any], None] | None = None
    again: Callable[..., Any] = lambda original, *args, **kwargs: original(*args, **kwargs)
    after: Callable[[Any, Mapping[str, Any]], Any] | None = None
    loss: bool = True


@dataclass(frozen=True)
class Around:
    """A method that calls patched ones.

    Args:
        owner: the class.
        method: name of the method.
        call: function with the original first, then the arguments of the method.
        shared: it is replaced within :func:`fastssl.distributed.sharded` alone.
        elementwise: an operation on tensors of 16 bits, too; compiled code, and all with ``exact_dtypes``, has the
            original.
    """

    owner: type
    method: str
    call: Callable[..., Any]
    shared: bool = True
    elementwise: bool = False


@dataclass(frozen=True)
class Result:
    """Result of a fused function that runs the original itself; ``reason``: why nothing was fused, or empty."""

    value: Any
    reason: str = ""


def default(make: Callable[[], nn.Module]) -> Check:
    """Predicate: a torch object with the settings of ``make()`` and torch's own forward."""
    like = make()  # once: torch.compile tells the type of an object that is made within its trace from itself
    kind, wanted = type(like), _settings(like)

    def check(given: Any) -> bool:
        return type(given) is kind and not hooks(given) and _is_of(_TORCH, kind.forward) and _settings(given) == wanted

    return check


def _settings(module: nn.Module) -> dict[str, Any]:
    state = {k: v for k, v in vars(module).items() if k not in _MODULE or k in ("_parameters", "_modules")}
    return {**state, "_buffers": {k: v for k, v in module._buffers.items() if v is not None}}


# Of every module; torch.compile (Lightning Fabric's: _compile_kwargs) and fully_shard leave the last ones, and those
# that begin with _COMPOSED.
_MODULE = {
    *(*vars(nn.Module()), "_compiled_call_impl", "training"),
    *("_is_torch_compile", "_compile_kwargs", "_is_fsdp_managed_module", "_fsdp_use_orig_params"),
}
_COMPOSED = "__composable_api_state_key"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooks(module: nn.Module) -> bool:
    state = vars(module)
    return any(state.get(name) for name in _HOOKS)


def kind_of(given: Any) -> type:
    """The class of an object; of one that fully_shard was given, which has a class of its own, the class before."""
    kind = type(given)
    first = kind.__bases__[0]
    return kind.__bases__[1] if first.__name__ == "FSDPModule" and first.__module__.startswith("torch.") else kind


def _folders(*packages: types.ModuleType) -> tuple[str, ...]:
    return tuple(str(Path(p)) for package in packages for p in package.__path__)


_TORCH = _folders(torch)


def _is_of(roots: tuple[str, ...], function: object) -> bool:
    """Whether a function, and everything that it wraps, is defined in one of these folders."""
    while True:
        if isinstance(function, (staticmethod, classmethod)):
            function = function.__func__
        elif isinstance(function, property):
            function = function.fget
        elif isinstance(function, functools.cached_property):
            function = function.func
        if getattr(function, "__fastssl__", False):
            return True
        if not isinstance(function, types.FunctionType) or not function.__code__.co_filename.startswith(roots):
            return False
        if "__wrapped__" not in vars(function):
            return True
        function = vars(function)["__wrapped__"]


def _is_method(value: object) -> bool:
    return callable(value) or isinstance(value, (staticmethod, classmethod, property, functools.cached_property))


@dataclass
class Peer:
    """A library that can be patched.

    Args:
        package: import name.
        distribution: name on PyPI.
        first: first supported version.
        beyond: first version that is not supported.
        known: attributes by class, with predicates of their values.
    """

    package: str
    distribution: str
    first: str
    beyond: str
    known: Mapping[str, Mapping[str, Check]]
    _classes: dict[Any, tuple[list[tuple[type, str, Any]], list[tuple[type, int]]]] = field(default_factory=dict)

    def check_version(self) -> None:
        """
        Raises:
            ImportError: the library is not installed, or its version is not supported.
        """
        try:
            version = importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            module = sys.modules.get(self.package)
            found = getattr(module, "__version__", None)
            if found is None:
                raise ImportError(f"name: {self.package} is not installed (pip install {self.distribution})") from None
            version = str(found)
        if not _number(self.first) <= _number(version) < _number(self.beyond):
            raise ImportError(
                f"name: expected {self.distribution} >= {self.first} and < {self.beyond}, whose formulas fastssl "
                f"knows, got {version}: nothing is patched"
            )

    def is_own(self, function: object) -> bool:
        """Whether a function is the library's, and wraps no other code."""
        return _is_of(self._roots, function)

    def unknown(self, kind: type) -> str:
        """Why a class that is not known runs its own code."""
        own = kind.__module__.split(".")[0] == self.package
        return "has no kernel" if own else "is a class of the user's"

    def know(self, owner: type, method: str, family: tuple[str, ...]) -> None:
        """Looks at a patched class and its family beforehand, which torch.compile cannot trace."""
        inherited: list[type] = owner.__subclasses__()
        for kind in (owner, *(k for k in inherited if k.__name__ in family)):
            with contextlib.suppress(NotFused):
                self._require_class(kind, (owner, method))

    def know_parts(self) -> None:
        """Likewise, the classes of what patched objects hold: distances, reducers, memory banks."""
        modules = [m for m in list(sys.modules.values()) if isinstance(m, types.ModuleType)]
        own = [vars(m) for m in modules if m.__name__.split(".")[0] == self.package]
        for kind in {names.get(name) for names in own for name in self.known}:
            if isinstance(kind, type) and kind.__module__.split(".")[0] == self.package:
                with contextlib.suppress(NotFused):
                    self._require_class(kind, None)

    def require_own(self, given: Any, entry: tuple[type, str] | None = None) -> None:
        """Raises NotFused for objects with modified methods, hooks or unknown attributes.

        ``entry``: class and name of the patched method of the call, if the object is the one called: its hooks run
        anyway, and later wrappers of the method, on the class or on the object, have already run.
        """
        kind = kind_of(given)
        known = self.known.get(kind.__name__)
        if known is None:
            raise NotFused(f"{kind.__name__} {self.unknown(kind)}")
        self._require_class(kind, entry)
        state = vars(given)
        if entry is None and hooks(given):
            raise NotFused(f"{kind.__name__} has hooks")
        for names in (state, state.get("_parameters", ()), state.get("_buffers", ()), state.get("_modules", ())):
            for name in names:
                if names is state and (name in _MODULE or name.startswith(_COMPOSED)):
                    continue
                if names is state and entry is not None and name == entry[1]:
                    continue
                if name not in known:
                    raise NotFused(f"{kind.__name__} has a user-defined attribute {name!r}")
                check = known[name]
                if check is not None and not check(getattr(given, name)):
                    raise NotFused(f"{kind.__name__} has another {name!r} than the library's")

    def _require_class(self, kind: type, entry: tuple[type, str] | None) -> None:
        seen = self._classes.get((kind, entry))
        if (
            seen is None
            or any(len(vars(owner)) != size for owner, size in seen[1])
            or any(owner.__dict__.get(name) is not function for owner, name, function in seen[0])
        ):
            self._classes[kind, entry] = self._look_at(kind, entry)

    @functools.cached_property
    def _roots(self) -> tuple[str, ...]:
        """The folders of the library and of torch."""
        return (*_folders(importlib.import_module(self.package)), *_TORCH)

    def _look_at(
        self, kind: type, entry: tuple[type, str] | None
    ) -> tuple[list[tuple[type, str, Any]], list[tuple[type, int]]]:
        functions, sizes = [], []
        for owner in kind.__mro__:
            if owner in nn.Module.__mro__:
                continue
            for name, value in list(vars(owner).items()):
                if name.startswith("__") and name not in ("__call__", "__init__", "__getattr__"):
                    continue
                if not _is_method(value) or isinstance(value, type) or (owner, name) == entry:
                    continue
                if not _is_of(self._roots, value):
                    raise NotFused(f"{owner.__name__}.{name} is not the library's")
                functions.append((owner, name, value))
            sizes.append((owner, len(vars(owner))))
        return functions, sizes


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-zA-Z]", version, maxsplit=1)[0])[:3])


def number(name: str, given: Any, like: Tensor) -> Tensor | float:
    """A numeric setting for rows ``like`` these: a float, or a tensor if it requires a gradient."""
    if isinstance(given, np.ndarray):  # what a number of numpy's is within torch.compile, and where made there
        given = torch.as_tensor(given)
    if isinstance(given, Tensor):
        plain = given.numel() == 1 and given.is_floating_point()
        one = given.dim() == 1 and (
            torch.promote_types(given.dtype, like.dtype) != like.dtype or given.device != like.device
        )
        if not plain or given.dim() > 1 or one or given.device.type not in ("cpu", like.device.type):
            raise NotFused(f"{name} is no single value of the rows' kind")
        if (given.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():  # no value to read
            return given.reshape(()).to(like.device, torch.promote_types(given.dtype, torch.float32))
        return float(given)
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        raise NotFused(f"{name} is no number")
    return float(given)


def plain(value: Tensor | float) -> float:
    """The value of a setting."""
    if isinstance(value, Tensor):
        require_values()
        return float(value.detach())
    return float(value)


def lasting(*rows: Tensor) -> tuple[Tensor, ...]:
    """Rows without a gradient beside others with one, as they are now: the originals keep normalised copies, and a
    memory, or a buffer of keys, may be written to before the backward pass."""
    differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in rows)
    return tuple(t.clone() if differentiated and not t.requires_grad else t for t in rows)


def require_alone() -> None:
    """Raises NotFused within :func:`fastssl.distributed.sharded`, for what sees this process's rows alone."""
    if (shards := current()) is not None and shards.size > 1:
        raise NotFused("no kernel over the rows of several processes")


FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def require_matrices(*tensors: object) -> None:
    """Checks that inputs are matrices for which there are kernels with the semantics of the original."""
    from fastssl.ops.backend import resolve

    if _global_hooks():
        raise NotFused("hooks of all modules")
    if _transformed():
        raise NotFused("forward-mode differentiation or a transform of torch.func")
    for t in tensors:
        if not isinstance(t, Tensor) or t.dim() != 2 or t.shape[1] == 0:
            raise NotFused("no matrices")
        if type(t) not in (Tensor, nn.Parameter) or t.layout != torch.strided:
            raise NotFused(f"tensors of another kind ({type(t).__name__}, {t.layout})")
        if t.dtype not in FLOATS:
            raise NotFused(f"inputs of dtype {t.dtype}")
        if t.device.type not in ("cpu", "cuda") or (t.device.type == "cuda" and t.dtype == torch.float64):
            raise NotFused(f"no kernels for {t.device.type} tensors of dtype {t.dtype}")
        if resolve(t.device, None, t.dtype) == "reference":
            raise NotFused(f"no kernels are installed for {t.device.type} tensors, or another backend is asked for")


def _transformed() -> bool:
    return forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None


_transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]  # else a part of the graph


def _global_hooks() -> bool:
    module = torch.nn.modules.module
    return any(getattr(module, f"_global{name}", None) for name in _HOOKS)
