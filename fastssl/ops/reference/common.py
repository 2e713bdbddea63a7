"""What the reference losses share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.ops.types import least_length


def in_full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Computes 16-bit inputs in fp32 and leaves autocast outside, as the kernels do."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        def up(value: Any) -> Any:
            half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
            return value.float() if half else value

        device = next(a.device.type for a in args if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*map(up, args), **{k: up(v) for k, v in kwargs.items()})

    return wrapped


# log(1 + e^x) to the last bit of float64; torch's is linear above 20, which is 2e-9 off.
softplus: Callable[[Tensor], Tensor] = functools.partial(TF.softplus, threshold=40.0)


def unit(x: Tensor, normalize: float) -> Tensor:
    least = least_length(normalize, x.dtype)
    return TF.normalize(x, dim=1, eps=least) if least else x


def reduce(rows: Tensor, reduction: str, count: Tensor | int | None = None) -> Tensor:
    """``count``: how many rows the mean divides by; a mean over nothing is 0."""
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    if count is None:
        count = rows.shape[0]
    if isinstance(count, int):
        return rows.sum() / max(count, 1)
    return rows.sum() / count.clamp(min=1)
