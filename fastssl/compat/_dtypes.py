"""16-bit rows and autocast: fused in fp32, with results in the dtypes of the original.

These depend on the library's formula, the device and torch's autocast lists, so they are determined by calling the
original on a few rows, once per kind of call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.compat._peer import NotFused, Target
from fastssl.functional import _precision
from fastssl.ops.scoped import Scoped

BY_DIFFERENCES = 25  # rows: torch.cdist of so few is refused for bf16 on a CPU, that of more is made of products
_HALVES = (torch.float16, torch.bfloat16)
_found: dict[Any, Any] = {}
_region: Scoped[torch.dtype | None] = Scoped("fastssl_autocast", None)


def _autocast() -> torch.dtype | None:
    """The dtype of the autocast region of the call that is fused."""
    return _region.get()


def multiplied(*rows: Tensor, region: torch.dtype | None = None) -> tuple[Tensor, ...]:
    """float32 rows in the dtype in which the original multiplies them within autocast, where that is faster.

    ``region``: dtype of the autocast region; None: that of the call that is fused.
    """
    return _precision.multiplied(*rows, region=region or _autocast())


def in_autocast() -> bool:
    """Whether the call that is fused was made within autocast, which is off in the fused function."""
    return _autocast() is not None


def of_one_dtype(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of two dtypes within autocast, whose products the original makes in one, in the wider of the two: those of a
    projection head beside those of a memory or of a normalisation, which are in float32."""
    if a.dtype == b.dtype:
        return a, b
    if not in_autocast() or torch.float64 in (a.dtype, b.dtype):
        raise NotFused("dtypes that differ")
    wide = torch.promote_types(a.dtype, b.dtype)
    return a.to(wide), b.to(wide)


def as_called(rows: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The autocast region of the call that is fused, for what the original leaves behind."""
    region = _autocast()
    return contextlib.nullcontext() if region is None else torch.autocast(rows.device.type, region)


def call(
    exact: bool,
    known: Container[str],
    target: Target,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Runs the fused call with inputs and results cast as their dtypes and autocast require."""
    given = tensors([args[1:], kwargs])
    device = given[0].device.type if given else "cpu"
    autocast = torch.is_autocast_enabled(device)
    if not autocast and not any(t.dtype in _HALVES for t in given):
        return target.fused(*args, **kwargs)
    if exact:
        raise NotFused("autocast" if autocast else "16-bit inputs")
    region = torch.get_autocast_dtype(device) if autocast else None
    with _region.set(region), torch.autocast(device, enabled=False):
        result = target.fused(*args, **kwargs)
    if isinstance(result, tuple):  # indices
        return result
    if torch.compiler.is_compiling():  # traced once: what it computes is not used, and leaves the graph
        return _cast(result, _probed(target, original, args, kwargs))
    key = (original, _kind(args, known), _kind(kwargs, known), device, region)
    return _cast(result, _wanted(key, target, original, args, kwargs))


def _wanted(
    key: Any, target: Target, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if key not in _found:
        try:
            _found[key] = _probed(target, original, args, kwargs)
        except NotFused:
            raise
        except Exception as error:
            raise NotFused(f"the library refuses such rows: {type(error).__name__}") from error
    return _found[key]


def _probed(target: Target, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    assert target.probe is not None
    with torch.no_grad():
        return _dtypes(target.probe(original, *args, **kwargs))


def _kind(given: Any, known: Container[str]) -> Any:
    """The properties of a call or object that may determine the dtype of a result."""
    if isinstance(given, Tensor):
        return given.dtype, given.dim() > 0, given.dim() > 1 and len(given) <= BY_DIFFERENCES
    if given is None or isinstance(given, (bool, str)):
        return given
    if isinstance(given, (list, tuple)):
        return tuple(_kind(v, known) for v in given)
    if isinstance(given, dict):
        return tuple((k, _kind(v, known)) for k, v in given.items() if not str(k).startswith("_"))
    if isinstance(given, nn.Module):
        own = tuple(_kind(part, known) for part in (vars(given), given._parameters, given._buffers))
        inner = tuple((k, _kind(v, known)) for k, v in parts(given, known).items())
        return type(given), own, inner
    return type(given), getattr(given, "__qualname__", None)


def parts(module: nn.Module, known: Container[str]) -> dict[str, nn.Module]:
    """Sub-modules of known classes: a distance or a memory bank, and not a model that a loss holds."""
    inner = module._modules.items()
    return {name: part for name, part in inner if part is not None and type(part).__name__ in known}


def shallow(module: nn.Module) -> Any:
    """A shallow copy with modifiable settings and small buffers; parameters and sub-modules are shared."""
    twin = object.__new__(type(module))  # not copy.copy, which torch.compile cannot trace
    twin.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        setattr(twin, name, dict(getattr(module, name)))
    return twin


def tensors(tree: Any) -> list[Tensor]:
    """The floating-point tensors of arguments or of a result."""
    if isinstance(tree, Tensor):
        return [tree] if tree.is_floating_point() else []
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [t for part in tree for t in tensors(part)] if isinstance(tree, (list, tuple)) else []


def _dtypes(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.dtype
    if isinstance(tree, dict):
        return {k: _dtypes(v) for k, v in tree.items()}
    return [_dtypes(v) for v in tree] if isinstance(tree, (list, tuple)) else None


def _cast(tree: Any, wanted: Any) -> Any:
    if isinstance(tree, Tensor):
        if not tree.is_floating_point():
            return tree
        if not isinstance(wanted, torch.dtype):
            raise NotFused("a result that the library does not give for such rows")
        return tree.to(wanted)
    if isinstance(tree, dict):
        return {k: _cast(v, wanted.get(k) if isinstance(wanted, dict) else None) for k, v in tree.items()}
    return tree
