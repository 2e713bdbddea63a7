"""``torch.ops.fastssl.gibbs``, ``nade`` and ``nade_sample``: kernels on CPUs, plain PyTorch on other devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssl.ops import extension
from fastssl.ops.backend import resolve
from fastssl.ops.operator import Operator
from fastssl.ops.reference import density as reference

UNITS = 32  # hidden units of NADE are padded to whole groups: kNadeUnits in csrc/density/kernels.h


def choose(name: str, device: torch.device, backend: str | None) -> Callable[..., Any]:
    """The implementation of a function for tensors on ``device``.

    Raises:
        ValueError: a backend that has none.
    """
    if backend == "triton":
        raise ValueError(f"backend: {name} has kernels for CPUs alone ('cpu') and a reference, got 'triton'")
    kernel = device.type == "cpu" and resolve(device, backend) == "cpu"
    function: Callable[..., Any] = _KERNELS[name] if kernel else getattr(reference, name)
    return function


def gibbs(*arguments: Any) -> Tensor:
    made: Tensor = torch.ops.fastssl.gibbs.default(*arguments)
    return made


def _nade(visible: Tensor, weight: Tensor, output: Tensor, bias: Tensor, hidden_bias: Tensor) -> Tensor:
    return _NADE(visible, weight, output, bias, hidden_bias)


def _nade_sample(*arguments: Any) -> Tensor:
    made: Tensor = torch.ops.fastssl.nade_sample.default(*arguments)
    return made


def _fake_nade(visible: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows, (dimensions, hidden) = visible.shape[0], weight.shape
    padded = (hidden + UNITS - 1) // UNITS * UNITS
    return tuple(weight.new_empty(shape) for shape in ((rows,), (rows, dimensions), (rows, padded)))  # type: ignore[return-value]


def _fake_gibbs(visible: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(visible, memory_format=torch.contiguous_format)


def _fake_nade_sample(weight: Tensor, *rest: Any) -> Tensor:
    return weight.new_empty((rest[-1].shape[0], weight.shape[0]))


_KERNELS: dict[str, Callable[..., Any]] = {"gibbs": gibbs, "nade": _nade, "nade_sample": _nade_sample}
_NADE = Operator("nade", tensors=5, differentiable=(1, 2, 3, 4), fake=_fake_nade)
if extension._C is not None:
    torch.library.register_fake("fastssl::gibbs", _fake_gibbs)
    torch.library.register_fake("fastssl::nade_sample", _fake_nade_sample)
