"""Argument checks: every error names the argument, what came and what is expected."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from fastssl._options import plain

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.layout is not torch.strided or value.is_nested:
        kind = "a nested one" if value.is_nested else f"layout {value.layout}"
        raise TypeError(f"{name}: expected a dense tensor, got {kind}")
    if value.is_meta:
        raise ValueError(f"{name}: expected a tensor with data, got one on the meta device")
    return value


def matrix(name: str, value: object) -> Tensor:
    """Floating point rows [N, D], D >= 1."""
    t = tensor(name, value)
    if t.dtype not in FLOATS:
        raise TypeError(f"{name}: expected float32, float64, bfloat16 or float16, got {t.dtype}")
    if t.dim() != 2:
        raise ValueError(f"{name}: expected 2 dimensions [rows, features], got shape {tuple(t.shape)}")
    if t.size(1) < 1:
        raise ValueError(f"{name}: expected at least one feature, got shape {tuple(t.shape)}")
    return t


def floats(**values: object) -> None:
    """Tensors of floating point numbers."""
    for name, value in values.items():
        if tensor(name, value).dtype not in FLOATS:
            raise TypeError(f"{name}: expected float32, float64, bfloat16 or float16, got {tensor(name, value).dtype}")


def matrices(**values: object) -> list[Tensor]:
    """Matrices of one dtype, device and number of features; within autocast also of 16 and 32 bits."""
    result = [matrix(name, value) for name, value in values.items()]
    first_name, first = next(iter(values)), result[0]
    for name, t in zip(values, result):
        if t is first:
            continue
        if t.dtype != first.dtype:
            cast = torch.is_autocast_enabled(t.device.type) and torch.float64 not in (t.dtype, first.dtype)
            if not cast:
                raise TypeError(f"{name}: expected {first.dtype} as {first_name}, got {t.dtype}")
        if t.device != first.device:
            raise ValueError(f"{name}: expected a tensor on {first.device} as {first_name}, got one on {t.device}")
        if t.size(1) != first.size(1):
            raise ValueError(f"{name}: expected {first.shape[1]} features as {first_name}, got shape {tuple(t.shape)}")
    return result


def same_rows(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.shape[0] != other.shape[0]:
        raise ValueError(f"{name}: expected {other.shape[0]} rows as {other_name}, got shape {tuple(value.shape)}")


def in_range(name: str, ids: Tensor, count: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [N] or [N, K] of ``count`` classes, and the rows [N, D] that they belong to. On a GPU, where nothing is
    read back, rows of another number are NaN, and so is their loss.

    Raises:
        ValueError: a number out of range, on a CPU.
        RuntimeError: the same, when a graph of torch.compile or torch.export runs.
    """
    if ids.is_cuda:
        return _or_unknown(ids, count, rows)
    among(name, ids, count)
    return ids, rows


def among(name: str, ids: Tensor, count: int, other: int | None = None) -> None:
    """Raises as :func:`in_range` on a CPU for a number that is neither one of ``count`` classes nor ``other``."""
    if torch.compiler.is_compiling():
        if torch._C._functorch.maybe_current_level() is not None:  # vmap knows no assertions: left to the kernels
            return
    else:
        while torch._C._functorch.is_functorch_wrapped_tensor(ids):  # by vmap: the numbers of all its examples
            ids = torch._C._functorch.get_unwrapped(ids)
    if not ids.numel():
        return
    expected = f"{name}: expected values in [0, {count})" + ("" if other is None else f" or {other}")
    if traced(ids):
        known = (ids >= 0) & (ids < count)
        torch._assert_async((known if other is None else known | (ids == other)).all(), expected)
        return
    low, high = (int(v) for v in torch.aminmax(ids))
    if low >= 0 and high < count:
        return
    wrong = ids[(ids < 0) | (ids >= count)]
    wrong = wrong if other is None else wrong[wrong != other]
    if wrong.numel():
        least = int(wrong.min())
        raise ValueError(f"{expected}, got {least if least < 0 else int(wrong.max())}")


def _or_unknown(ids: Tensor, count: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    known = ((ids >= 0) & (ids < count)).reshape(len(ids), -1).all(1)
    return ids.clamp(0, count - 1), torch.where(known[:, None], rows, float("nan"))


def ids(name: str, value: object, rows: Tensor, rows_name: str) -> Tensor:
    """Integer ids, one per row, as contiguous int64."""
    t = tensor(name, value)
    if t.dtype not in INTEGERS:
        raise TypeError(f"{name}: expected integers, got {t.dtype}")
    if t.dim() != 1:
        raise ValueError(f"{name}: expected 1 dimension, got shape {tuple(t.shape)}")
    if t.shape[0] != rows.shape[0]:
        raise ValueError(f"{name}: expected {rows.shape[0]} values, one per row of {rows_name}, got {t.shape[0]}")
    if t.device != rows.device:
        raise ValueError(f"{name}: expected a tensor on {rows.device} as {rows_name}, got one on {t.device}")
    return t.long().contiguous()


def value(
    name: str,
    given: object,
    device: torch.device,
    *,
    positive: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Tensor | float:
    """A finite number, or a tensor of one element (whose value is only checked where that costs no tracing)."""
    if not isinstance(given, Tensor):
        return number(name, given, positive=positive, low=low, high=high)
    t = tensor(name, given)
    if not t.dtype.is_floating_point or t.dtype not in FLOATS:
        raise TypeError(f"{name}: expected a floating point tensor, got {t.dtype}")
    if t.numel() != 1:
        raise ValueError(f"{name}: expected a tensor of one element, got shape {tuple(t.shape)}")
    if t.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {t.device}")
    if (positive or low is not None or high is not None) and readable(t):
        with torch.no_grad():
            now = float(t.detach())
        if math.isinf(now):
            raise ValueError(f"{name}: expected a finite number, got {now}")
        _within(name, now, positive, low, high)
    return _widened(t.reshape(()))


def _widened(scalar: Tensor) -> Tensor:
    """A scalar of 16 bits in float32: they can hold neither its inverse nor parts of its gradient that cancel."""
    return scalar.float() if scalar.dtype in (torch.float16, torch.bfloat16) else scalar


def forward_mode() -> bool:
    """Whether tensors may carry tangents: within torch.func.jvp or torch.autograd.forward_ad."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def traced(t: Tensor) -> bool:
    """Whether a tensor has no values to look at: within torch.compile, torch.func.vmap or FakeTensorMode."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._functorch.is_functorch_wrapped_tensor(t) or isinstance(t, FakeTensor)


def readable(t: Tensor) -> bool:
    """Whether the values of a tensor can be looked at without waiting for a device."""
    return t.device.type == "cpu" and not traced(t)


def _within(name: str, given: float, positive: bool, low: float | None, high: float | None) -> None:
    if positive and given <= 0:
        raise ValueError(f"{name}: expected a value > 0, got {given}")
    if (low is not None and given < low) or (high is not None and given > high):
        limits = f">= {low}" if high is None else f"in (0, {high}]" if low is None else f"in [{low}, {high}]"
        raise ValueError(f"{name}: expected a number {limits}, got {given}")


def inverse(temperature: Tensor | float) -> Tensor | float:
    return 1.0 / (_widened(temperature) if isinstance(temperature, Tensor) else temperature)


def flag(name: str, given: object) -> bool:
    given = plain(given)
    if not isinstance(given, bool):
        raise TypeError(f"{name}: expected True or False, got {type(given).__name__}")
    return given


def normalization(normalize: object, eps: object) -> float:
    """A valid ``normalize`` and ``eps``: what rows are divided by at least, or True for the default of their dtype, or
    False."""
    given = flag("normalize", normalize)
    if eps is None:
        return given
    if not given:
        raise ValueError(f"eps: expected None with normalize=False, got {eps!r}")
    return number("eps", eps, positive=True)


def reduction(given: object, *, active: bool = True) -> str:
    """``active``: whether rows at 0 can be told from others, as where no row is below 0."""
    return choice("reduction", given, ("mean", "active", "sum", "none") if active else ("mean", "sum", "none"))


def number(
    name: str, given: object, *, positive: bool = False, low: float | None = None, high: float | None = None
) -> float:
    """A finite number (of Python, NumPy or torch) that has no gradient, > 0 or within [low, high] where so told."""
    if type(given) is not float:
        given = plain(given)
        if isinstance(given, bool) or not isinstance(given, (int, float, numbers.Real)):
            raise TypeError(f"{name}: expected a number, got {type(given).__name__}")
    if torch.compiler.is_compiling():
        return given  # type: ignore[return-value]  # may be a symbol
    result = float(given)
    if not math.isfinite(result):
        raise ValueError(f"{name}: expected a finite number, got {result}")
    _within(name, result, positive, low, high)
    return result


def choice(name: str, given: object, options: tuple[str, ...]) -> str:
    if given not in options:
        raise ValueError(f"{name}: expected one of {options}, got {given!r}")
    return str(given)


def no_list(name: str, given: object) -> None:
    if given is not None:
        raise ValueError(f"{name}: expected None where rows live in several processes (group=), got a list of pairs")


def count(name: str, given: object, *, low: int = 1, high: int | None = None) -> int:
    """An integer (of Python, NumPy or torch) >= low, and at most high."""
    given = plain(given)
    if isinstance(given, bool) or not isinstance(given, (int, numbers.Integral)):
        raise TypeError(f"{name}: expected an integer, got {type(given).__name__}")
    given = given if isinstance(given, int) else int(given)
    if given < low or (high is not None and given > high):
        raise ValueError(
            f"{name}: expected an integer {f'>= {low}' if high is None else f'in [{low}, {high}]'}, got {given}"
        )
    return given
