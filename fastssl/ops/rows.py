"""``torch.ops.fastssl.row_loss``, ``pairwise`` and ``nearest``: what needs whole rows of scores, strip by strip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastssl._table import OUTPUTS, Metric, RowLoss
from fastssl.ops import extension
from fastssl.ops.operator import KeepingOperator, Operator, interruptible, result_dtype
from fastssl.ops.pair_loss import BLOCK, LARGEST_TILE
from fastssl.ops.types import Relation, least_length


def pair_bits(pairs: tuple[Tensor, Tensor] | None, n: int, m: int) -> tuple[Tensor, int]:
    """Listed pairs as bits [n / 32, m], bit r of a word being row 32 k + r; and how many different pairs there are."""
    a, b = pairs if pairs is not None else (torch.empty(0, dtype=torch.int64, device="cpu"),) * 2
    bits, count = torch.ops.fastssl.pair_bits.default(a, b, n, m)
    return bits, count


def row_loss(
    loss: RowLoss,
    x: Tensor,
    y: Tensor | None,
    relation: Relation,
    values: list[float | Tensor],
    metric: Metric,
    normalize: float,
    row_value: Tensor | None = None,
    upper: bool = False,
) -> Tensor:
    """Returns [N, outputs + 2] in float64: what the loss gives for each row, then its numbers of positives, negatives.

    ``values``: the PARAMETERS parameters of the loss; the first two may be tensors, for a gradient.
    """
    params = _params(values)
    bits: list[Tensor | None] = [None, None]
    if relation.positive_list is not None:
        n, m = x.shape[0], (x if y is None else y).shape[0]
        bits = [pair_bits(pairs, n, m)[0] for pairs in (relation.positive_list, relation.negative_list)]
    keep = 0 if metric == Metric.given else _choose_keep(x, y, upper, row_value, params)
    return _ROW_LOSS(
        *(x, y, relation.x_ids, relation.y_ids, *bits, row_value, params),
        loss.value,
        metric.value,
        least_length(normalize, x.dtype),
        upper,
        relation.self_offset,
        keep,
    )


def _params(values: list[float | Tensor]) -> Tensor:
    # On the CPU, where the kernels read them, whatever torch.set_default_device says.
    made: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    if not any(isinstance(v, Tensor) for v in values):
        return torch.tensor(values, **made)
    return torch.stack([v.to(**made).reshape(()) if isinstance(v, Tensor) else torch.tensor(v, **made) for v in values])


def pairwise(x: Tensor, y: Tensor | None, metric: Metric, normalize: float) -> Tensor:
    return _PAIRWISE(x, y, metric.value, least_length(normalize, x.dtype))


def nearest(
    x: Tensor, y: Tensor | None, k: int, metric: Metric, normalize: float, largest: bool, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    with interruptible():
        result: tuple[Tensor, Tensor] = torch.ops.fastssl.nearest.default(
            x, y, k, metric.value, least_length(normalize, x.dtype), largest, exclude_self
        )
    return result


def kept_numel(x: Tensor, y: Tensor | None, upper: bool) -> int:
    """Elements that the forward pass keeps: row_kept_numel in csrc/row/loss.cpp."""
    rows = (x.shape[0] + BLOCK - 1) // BLOCK * BLOCK
    columns = rows if y is None else (y.shape[0] + BLOCK - 1) // BLOCK * BLOCK
    return rows * (rows + LARGEST_TILE) // 2 if upper else rows * columns


def _choose_keep(x: Tensor, y: Tensor | None, upper: bool, *others: Tensor | None) -> int:
    if not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return 0
    if not any(t is not None and t.requires_grad for t in (x, y, *others)):
        return 0
    size = 8 if x.dtype == torch.float64 else 4
    # Half the budget: scores kept for a backward pass that also holds a strip of them and of its gradient.
    fits = kept_numel(x, y, upper) * size <= extension.get_memory_budget() // 2
    if not torch.compiler.is_compiling():
        return int(fits)
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # 0.4 s

    return int(guard_or_false(fits))  # not where the data decide how many rows there are


def _fake_row_loss(x: Tensor, y: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    loss, _, _, upper, _, keep = rest[-6:]
    numel = kept_numel(x, y, upper) if keep else 0
    return (
        x.new_empty((x.shape[0], len(OUTPUTS[RowLoss(loss)]) + 2), dtype=torch.float64),
        x.new_empty((numel,), dtype=result_dtype(x)),
    )


def _fake_pairwise(x: Tensor, y: Tensor | None, *_: Any) -> Tensor:
    return x.new_empty((x.shape[0], (x if y is None else y).shape[0]), dtype=result_dtype(x))


def _fake_pair_bits(a: Tensor, b: Tensor, n: int, m: int) -> tuple[Tensor, int]:
    return a.new_empty(((n + BLOCK - 1) // BLOCK, m), dtype=torch.int32), a.shape[0]


def _fake_nearest(x: Tensor, y: Tensor | None, k: int, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], k), dtype=result_dtype(x)), x.new_empty((x.shape[0], k), dtype=torch.int64)


_ROW_LOSS = KeepingOperator("row_loss", tensors=8, differentiable=(0, 1, 6, 7), fake=_fake_row_loss, save_result=True)
_PAIRWISE = Operator("pairwise", tensors=2, differentiable=(0, 1), fake=_fake_pairwise, save_result=True)
if extension._C is not None:
    torch.library.register_fake("fastssl::pair_bits", _fake_pair_bits)
    torch.library.register_fake("fastssl::nearest", _fake_nearest)
    torch.library.register_autocast("fastssl::nearest", "cpu", torch.float32)
