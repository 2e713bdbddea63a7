"""``torch.ops.fastssl.pair_loss``: its shapes for tracing, what it keeps, and the call itself."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from fastssl.ops import extension
from fastssl.ops.operator import KeepingOperator, result_dtype

# The numbers are those of csrc/pair/loss.h.


class Loss(IntEnum):
    info_nce = 0
    nt_xent = 1
    sup_con = 2
    siglip = 3
    linear_cross_entropy = 4


class Keep(IntEnum):
    nothing = 0
    tiles = 1
    attention = 2


REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
BLOCK = 32  # kBlock in csrc/core/types.h
LARGEST_TILE = 256  # kMaxTileBlocks * kBlock in csrc/pair/tile.h


def _rows(loss: int, x: Tensor, y: Tensor | None, z: Tensor | None) -> tuple[int, int, bool]:
    """Rows of both sides of the pair matrix, and whether they are the same rows."""
    n = x.shape[0]
    if loss == Loss.nt_xent:
        return 2 * n, 2 * n, True
    if y is None:
        return n, n, True
    return n, y.shape[0] + (z.shape[0] if z is not None else 0), False


def _blocks(n: int) -> int:
    return (n + BLOCK - 1) // BLOCK


def kept_numel(loss: int, keep: int, x: Tensor, y: Tensor | None, z: Tensor | None) -> int:
    """Elements that the forward pass keeps: Grid::kept_numel in csrc/pair/grid.h, in symbols for tracing."""
    n, m, same = _rows(loss, x, y, z)
    rows, columns = _blocks(n) * BLOCK, _blocks(m) * BLOCK
    if keep == Keep.tiles:
        return rows * (rows + LARGEST_TILE) // 2 if same else rows * columns
    if keep == Keep.attention:
        return rows * _blocks(x.shape[1]) * BLOCK
    return 0


def pair_loss(
    loss: Loss,
    x: Tensor,
    y: Tensor | None = None,
    z: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    scale: Tensor | float = 1.0,
    bias: Tensor | None = None,
    normalize: bool,
    symmetric: bool = False,
    ignore_index: int = -100,
    reduction: str,
) -> Tensor:
    """Calls the operator with the cheapest way to a gradient that fits the memory budget."""
    scale_tensor, factor = (scale, 1.0) if isinstance(scale, Tensor) else (None, float(scale))
    keep = _choose_keep(loss, x, y, z, scale_tensor, bias, symmetric)
    constants = (factor, normalize, symmetric, ignore_index, REDUCTIONS[reduction], keep)
    arguments = (loss.value, x, y, z, ids, scale_tensor, bias, *constants)
    return _OPERATOR(*arguments)


def _choose_keep(
    loss: Loss,
    x: Tensor,
    y: Tensor | None,
    z: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    symmetric: bool,
) -> int:
    if not torch.is_grad_enabled():
        return 0
    need = [t is not None and t.requires_grad for t in (x, y, z, scale, bias)]
    if not any(need):
        return 0
    one_sided = loss in (Loss.info_nce, Loss.linear_cross_entropy) and not symmetric
    if one_sided and not need[1] and not need[2] and not need[4]:
        return 2
    if torch.compiler.is_exporting():
        return 0  # the number of rows stays a symbol: no decision may depend on it
    size = 8 if x.dtype == torch.float64 else 4
    return 1 if kept_numel(loss, 1, x, y, z) * size <= extension.get_memory_budget() else 0


def _fake(loss, x, y, z, ids, scale, bias, scale_value, normalize, symmetric, ignore_index, reduction, keep):
    n, m, _ = _rows(loss, x, y, z)
    result = result_dtype(x)
    stats = 2 * n + (2 * m if symmetric else 0) + 1
    return (
        x.new_empty((n,) if reduction == 0 else (), dtype=result),
        x.new_empty((stats,), dtype=torch.float64),
        x.new_empty((kept_numel(loss, keep, x, y, z),), dtype=result),
    )


_OPERATOR = KeepingOperator("pair_loss", tensors=(1, 2, 3, 4, 5, 6), differentiable=(1, 2, 3, 5, 6), fake=_fake)
