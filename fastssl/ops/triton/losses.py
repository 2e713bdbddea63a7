"""The pair losses on Triton kernels: log-sums of scores, and formulas on top.

Each takes what its reference takes. Differences of log-sums are taken without the pair itself,
``softplus(lse over the others - score)``, which keeps the digits of a small loss.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from fastssl._table import Closing, Metric, Positives, RowLoss
from fastssl.ops.operator import is_transformed
from fastssl.ops.reference import noise
from fastssl.ops.reference.common import reduce
from fastssl.ops.triton import engine
from fastssl.ops.triton.characteristic import CHARACTERISTIC
from fastssl.ops.triton.engine import LaunchSpec
from fastssl.ops.triton.launch import side, with_smaller_tiles
from fastssl.ops.triton.operators import (
    BOUND,
    ONLY_POSITIVE,
    PAIR_LOSS,
    PAIRWISE,
    ROW_LOSS,
    own,
    sums_how,
    sums_of,
)
from fastssl.ops.triton.row_losses import variant_of
from fastssl.ops.types import Ids, Relation, Scoring, Sums, Weights, least_length


@lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device, copied there once. Outside of inference mode, whose tensors later calls cannot save."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if len(values) == 1:  # no copy from the host: no wait
        return torch.full((1,), values[0], dtype=dtype, device=device)
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or device.type == "meta":
        return torch.tensor(values, dtype=dtype, device=device)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return torch.cat([torch.full((1,), v, dtype=dtype, device=device) for v in values])  # graphs cannot copy
    return _constant(values, dtype, device)


def pair_loss(
    x: Tensor,
    more_x: Tensor | None,
    y: Tensor | None,
    more_y: Tensor | None,
    ids: Tensor | None,
    scale: Tensor | float,
    bias: Tensor | float | None,
    positives: Positives,
    closing: Closing,
    normalize: float,
    symmetric: bool,
    ignore_index: int,
    reduction: str,
    filtering: float = 0.0,
) -> Tensor:
    """As :func:`fastssl.ops.pair_loss.pair_loss`. A scale that is a number bounds the scores of unit rows."""
    normalize = least_length(normalize, x.dtype)
    partner, shift = None, 0
    if positives == Positives.halves:
        shift = len(x)
    elif positives == Positives.targets:
        partner = ids
    elif positives == Positives.classes:
        assert ids is not None
        partner = _only_positive(ids)
    rows = x if more_x is None else torch.cat([x, more_x])
    columns = y if more_y is None else torch.cat([y, more_y])  # type: ignore[list-item]
    rows, columns = _of_one_dtype(rows, columns)
    if bias is not None and not isinstance(bias, Tensor):
        bias = constant((float(bias),), torch.float32, x.device)
    number = None if isinstance(scale, Tensor) else float(scale)
    bounded = number is not None and normalize > 0 and abs(number) / math.log(2) <= BOUND
    bounded = bounded and closing != Closing.sigmoid_loss
    values: Tensor = PAIR_LOSS(
        *(rows, columns, partner, ids if positives != Positives.targets else None),
        *(scale if isinstance(scale, Tensor) else None, bias, number or 0.0, closing.value, shift),
        *(ignore_index if positives == Positives.targets else -1, normalize, symmetric, bounded, filtering),
    )
    if reduction == "mean" and positives == Positives.targets:
        assert ids is not None
        return reduce(values, reduction, (ids != ignore_index).sum())
    return values.mean() if reduction == "mean" and len(values) else reduce(values, reduction)


def _of_one_dtype(x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Kernels multiply rows of one dtype; under autocast there may be two."""
    return (x, y) if y is None or x.dtype == y.dtype else (x.float(), y.float())


def _only_positive(labels: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or is_transformed((labels,)):
        made: Tensor = torch.ops.fastssl.triton_only_positive(labels)
        return made
    found: Tensor = ONLY_POSITIVE(labels)
    return found


def _bits(pairs: tuple[Tensor, Tensor] | None, n: int, m: int, device: torch.device) -> Tensor:
    """Listed pairs as bits [n / 32, m]; a pair that is listed twice sets one bit."""
    words = torch.zeros(((n + 31) // 32, m), dtype=torch.int32, device=device)
    if pairs is None or not len(pairs[0]):
        return words
    at = (pairs[0] * m + pairs[1]).sort().values
    rows, columns = at // m, at % m
    new = torch.ones_like(at, dtype=torch.bool)
    new[1:] = at[1:] != at[:-1]
    bit = torch.where(new, torch.ones_like(at) << (rows % 32), torch.zeros_like(at))
    # The sum of different powers of two, which int32 holds as bits.
    wide = torch.zeros(words.numel(), dtype=torch.int64, device=device).index_add_(0, rows // 32 * m + columns, bit)
    return torch.where(wide >= 2**31, wide - 2**32, wide).to(torch.int32).reshape(words.shape)


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
    """As ``fastssl.ops.rows.row_loss``."""
    x, y = _of_one_dtype(x, y)
    n, m = x.shape[0], x.shape[1] if metric == Metric.given else (x if y is None else y).shape[0]
    bits: list[Tensor | None] = [None, None]
    if relation.positive_list is not None:
        bits = [_bits(pairs, n, m, x.device) for pairs in (relation.positive_list, relation.negative_list)]
    if any(isinstance(v, Tensor) for v in values):
        params = torch.stack(
            [
                v.to(device=x.device, dtype=torch.float64).reshape(())
                if isinstance(v, Tensor)
                else constant((float(v),), torch.float64, x.device)[0]
                for v in values
            ]
        )
    else:
        params = constant(tuple(float(v) for v in values), torch.float64, x.device)
    return ROW_LOSS(
        *(x, y, relation.x_ids, relation.y_ids, *bits, row_value, params),
        *(
            loss.value,
            metric.value,
            least_length(normalize, x.dtype),
            upper,
            relation.self_offset,
            variant_of(loss, values),
        ),
    )


def pairwise(x: Tensor, y: Tensor | None, metric: Metric, normalize: float) -> Tensor:
    x, y = _of_one_dtype(x, y)
    return PAIRWISE(x, y, metric.value, least_length(normalize, x.dtype))


def nearest(
    x: Tensor, y: Tensor | None, k: int, metric: Metric, normalize: float, largest: bool, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    x, y = _of_one_dtype(x, y)
    least = least_length(normalize, x.dtype)
    values, indices = torch.ops.fastssl.triton_nearest(x, y, k, metric.value, least, largest, exclude_self)
    return values, indices


def characteristic(x: Tensor, step: float, knots: int) -> Tensor:
    return CHARACTERISTIC(x, step, knots)


def gather_dot(x: Tensor, table: Tensor, indices: Tensor) -> Tensor:
    """Picked rows are few beside a table: torch's own gather and product."""
    return noise.gather_dot(x, table, indices)


# --- blocks of a pair matrix whose rows live in several processes (fastssl/distributed) ------------------------------


def _block(x: Tensor, y: Tensor | None, partner: Tensor | None, ids: Ids, s: Scoring) -> LaunchSpec:
    bias = constant((s.bias,), torch.float32, x.device) if s.bias else None
    bounded = s.normalize > 0 and not s.sigmoid and abs(s.scale) / math.log(2) <= BOUND and bias is None
    return sums_how(y, partner, (ids[0], ids[0] if y is None else ids[1]), s.scale, bias, s.sigmoid, bounded)


@with_smaller_tiles
def sums(x: Tensor, y: Tensor | None, partner: Tensor | None, ids: Ids, s: Scoring, columns: bool, keep: bool) -> Sums:
    """As ``fastssl.ops.blocks``: nothing is kept for the backward pass."""
    with torch.no_grad():
        x, y = _of_one_dtype(x, y)
        how = _block(x, y, partner, ids, s)
        state, by_column, score = sums_of(x, y, how, s.normalize, columns)
        none = state.new_empty(0)
        if s.sigmoid:
            return Sums(state[0], none, score, state[1], None)
        by_row = engine.log2_sum(state[0], state[1])
        return Sums(
            by_row, none if by_column is None else engine.log2_sum(by_column[0], by_column[1]), score, none, None
        )


@with_smaller_tiles
def gradients(
    x: Tensor,
    y: Tensor | None,
    partner: Tensor | None,
    ids: Ids,
    s: Scoring,
    kept: Tensor | None,
    w: Weights,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        x, y = _of_one_dtype(x, y)
        how = _block(x, y, partner, ids, s)
        zero = torch.zeros_like(w.x)
        state_x = own(w.x, zero if w.x_lse is None else w.x_lse, zero, s.sigmoid, how.bounded)
        state_y = None
        if w.y is not None and w.y_lse is not None and y is not None:
            state_y = own(w.y, w.y_lse, torch.zeros_like(w.y), s.sigmoid, how.bounded)
        to_partner = None if partner is None or w.partner is None else w.partner.float()
        weights = engine.Weights(
            state_x, state_x if y is None else state_y, columns=y is None or state_y is not None, partner=to_partner
        )
        gx, gy, parameter_gradients, _ = engine.gradients(
            side(x, s.normalize, False, True),
            None if y is None else side(y, s.normalize, False, True),
            how,
            weights,
            needs=(bool(needs & 1), bool(needs & 2)),
            dtype=torch.float32,
            parameter_gradients=bool(needs & 4),
        )
        none = torch.empty((0,), dtype=torch.float32, device=x.device)
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        if needs & 4 and parameter_gradients is not None:
            total = parameter_gradients.first.double().sum() * (0.5 if y is None else 1.0)
        return none if gx is None else gx, none if gy is None else gy, total
