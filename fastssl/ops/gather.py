"""``torch.ops.fastssl.gather_dot``: dot products with rows picked by index, which are not gathered."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastssl.ops.operator import Operator, result_dtype


def gather_dot(x: Tensor, table: Tensor, indices: Tensor) -> Tensor:
    return _GATHER_DOT(x, table, indices)


def _fake(x: Tensor, table: Any, indices: Tensor) -> Tensor:
    return x.new_empty(indices.shape, dtype=result_dtype(x))


_GATHER_DOT = Operator("gather_dot", tensors=3, differentiable=(0, 1), fake=_fake)
