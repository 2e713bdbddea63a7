"""The Triton engine as torch operators: ``fastssl::triton_pair_loss``, ``triton_row_loss`` and ``triton_pairwise``.

For torch.compile each is one piece: its analysis of what a kernel writes does not know all that Triton can do, and
drops what it takes for unused. Autograd, tracing and torch.func are those of every other operator here
(``fastssl.ops.operator``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastssl._table import OUTPUTS, Metric, RowLoss, TileEpilogue
from fastssl.ops.operator import Operator
from fastssl.ops.triton import engine
from fastssl.ops.triton.engine import LaunchSpec, Side, Weights
from fastssl.ops.triton.launch import side, with_smaller_tiles
from fastssl.ops.triton.replay import replayed

LN2 = 0.6931471805599453
# Scores within this many bits of 0 need no maximum: sums of 2^31 of their powers of two stay far inside fp32's range.
BOUND = 48.0

MaybeTensor = Tensor | None


def nothing(x: Tensor) -> Tensor:
    """A gradient that is not asked for; each its own tensor, as operators demand."""
    return x.new_empty((0,))


def _no_infinite(lse: Tensor) -> Tensor:
    return torch.where(torch.isinf(lse) & (lse < 0), torch.zeros_like(lse), lse)


def sums_how(
    y: MaybeTensor,
    partner: Tensor | int | None,
    ids: tuple[MaybeTensor, MaybeTensor],
    scale: Tensor | float,
    bias: MaybeTensor,
    sigmoid: bool,
    bounded: bool,
    distinct: bool = True,
) -> LaunchSpec:
    """``ids`` of x and of y; ``distinct``: of rows that are no pair, else of classes."""
    return LaunchSpec(
        engine.SIGMOID if sigmoid else engine.SUMS,
        scale=scale.detach().reshape(1).float() if isinstance(scale, Tensor) else scale,
        bias=None if bias is None else bias.detach().reshape(-1),
        ids_x=ids[0],
        ids_y=ids[1],
        distinct=distinct,
        partner=partner,
        itself=engine.DIAGONAL if y is None else engine.NOWHERE,
        bounded=bounded,
        same=y is None,
    )


def sums_of(
    x: Tensor, y: MaybeTensor, how: LaunchSpec, normalize: float, columns: bool
) -> tuple[Tensor, MaybeTensor, Tensor]:
    """Statistics of rows and columns (``engine.reduce``), and the scores of partners in natural units."""
    a = side(x, normalize, False)
    b = a if y is None else side(y, normalize, False)
    state, by_column = engine.reduce(a, b, how, columns=columns)
    score = torch.zeros(a.n, dtype=torch.float64, device=x.device)
    if how.partner is not None:
        assert isinstance(how.partner, Tensor) and isinstance(how.scale, float)
        score = engine.partner_scores(a, b, how.partner).double() * how.scale
        if how.bias is not None:
            score = torch.where(how.partner >= 0, score + how.bias.double(), score)
    return state, by_column, score


def pair_loss(
    x: Tensor,
    y: MaybeTensor,
    partner: MaybeTensor,
    ids: MaybeTensor,
    scale: MaybeTensor,
    bias: MaybeTensor,
    factor: float,
    form: int,
    shift: int,
    ignore: int,
    normalize: float,
    columns: bool,
    bounded: bool,
    filtering: float,
) -> tuple[Tensor, Tensor]:
    """Each row's loss [N] in float32 (``engine.values``), and what the gradient needs [4, N].

    Scores are ``scale``, or without one ``factor``, times products, plus ``bias``. Without ``partner`` row i's is
    (i + shift) % M. ``columns``: the mean of a row's and its column's. ``bounded``: scores are near 0 (``BOUND``).
    """
    how = _pair_how(y, partner, ids, scale, bias, factor, form, shift, bounded)
    a = side(x, normalize, False)
    return engine.values(a, a if y is None else side(y, normalize, False), how, form, ignore, columns)


def _pair_how(
    y: MaybeTensor,
    partner: MaybeTensor,
    ids: MaybeTensor,
    scale: MaybeTensor,
    bias: MaybeTensor,
    factor: float,
    form: int,
    shift: int,
    bounded: bool,
) -> LaunchSpec:
    score = factor if scale is None else scale
    paired = shift if partner is None else partner
    distinct = form != engine.SUP_CON
    return sums_how(y, paired, (ids, ids), score, bias, form == engine.SIGMOID_LOSS, bounded, distinct)


def pair_loss_backward(
    grad: Tensor,
    saved: Tensor,
    x: Tensor,
    y: MaybeTensor,
    partner: MaybeTensor,
    ids: MaybeTensor,
    scale: MaybeTensor,
    bias: MaybeTensor,
    factor: float,
    form: int,
    shift: int,
    ignore: int,
    normalize: float,
    columns: bool,
    bounded: bool,
    filtering: float,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, y, scale and bias."""
    how = _pair_how(y, partner, ids, scale, bias, factor, form, shift, bounded)
    w, by_row = engine.upstream(grad, saved, how, form, ignore, (x if y is None else y).shape[0], columns)
    a = side(x, normalize, False, True)
    b = None if y is None else side(y, normalize, False, True)
    by_bias = bias is not None and bool(needs & 8)
    per_column = by_bias and how.bias_columns
    gx, gy, sums_x, sums_y = engine.gradients(
        a,
        b,
        how,
        w,
        needs=(bool(needs & 1), bool(needs & 2) or per_column),
        dtype=x.dtype,
        parameter_gradients=bool(needs & 4),
        filtering=filtering,
    )
    g_scale, g_bias = nothing(x), nothing(x)
    if needs & 4:
        assert sums_x is not None and scale is not None
        g_scale = (sums_x.first.sum() * (0.5 if y is None else 1.0)).to(scale.dtype).reshape(scale.shape)
    if by_bias:
        assert bias is not None and by_row is not None
        if per_column:
            assert sums_y is not None
            g_bias = sums_y.total.to(bias.dtype).reshape(bias.shape)
        else:
            g_bias = by_row.sum(dtype=torch.float64).to(bias.dtype).reshape(bias.shape)
    return (
        gx if needs & 1 and gx is not None else nothing(x),
        gy if needs & 2 and gy is not None else nothing(x),
        g_scale,
        g_bias,
    )


def own(weight: Tensor, bits: Tensor, positives: Tensor, sigmoid: bool, bounded: bool) -> Tensor:
    """[4, n] as ``slope`` reads them, where no pair is counted: weight 0."""
    finite = _no_infinite(bits)
    if not sigmoid:
        weight = torch.where(torch.isinf(bits) & (bits < 0), torch.zeros_like(weight), weight)
        # What float32 cannot hold of a log-sum goes into the weight.
        weight = weight * torch.exp2(-finite if bounded else finite.float().double() - finite)
    zero = torch.zeros_like(finite)
    return torch.stack([weight, finite if not sigmoid else zero, positives, zero]).float()


# --- losses over whole rows of scores -------------------------------------------------------------------------------

_SORTED = (RowLoss.triplet, RowLoss.semihard)  # csrc/cuda/


def variant_of(loss: RowLoss, values: list[Any]) -> int:
    """What of a loss's parameters decides which code runs (``update`` in kernels/epilogues.py)."""
    if loss == RowLoss.lse:
        return int(values[4]) + 4 * int(values[5]) + 16 * int(bool(values[6]))
    if loss in (RowLoss.hinge, RowLoss.lifted):
        return int(values[3] == (2 if loss == RowLoss.hinge else 1))
    if loss == RowLoss.softplus:
        return int(isinstance(values[1], Tensor) or values[1] != 0)
    if loss == RowLoss.fast_ap:
        return int(values[0])
    return 0


def _row_how(
    loss: int,
    y: MaybeTensor,
    x_ids: MaybeTensor,
    y_ids: MaybeTensor,
    positive_bits: MaybeTensor,
    negative_bits: MaybeTensor,
    params: Tensor,
    metric: int,
    upper: bool,
    self_offset: int,
    variant: int,
    n: int,
    m: int,
) -> LaunchSpec:
    diagonal = self_offset == 0 and n == m
    params = params.detach().float()
    if loss == RowLoss.softplus:
        params = torch.cat([params[:6], params[1:2].cos(), params[1:2].sin(), params[8:]])
    return LaunchSpec(
        engine.MATRIX if loss in _SORTED else TileEpilogue[RowLoss(loss).name].value,
        Metric(metric),
        params=params,
        ids_x=x_ids,
        ids_y=x_ids if y_ids is None else y_ids,
        positive_bits=positive_bits,
        negative_bits=negative_bits,
        offset=max(self_offset, 0),
        itself=engine.NOWHERE if self_offset < 0 else engine.DIAGONAL if diagonal else engine.OFFSET,
        upper=upper,
        variant=variant,
        same=y is None and metric != Metric.given,
    )


def _sides(x: Tensor, y: MaybeTensor, how: LaunchSpec, normalize: float, gradient: bool = False) -> tuple[Side, Side]:
    a = side(x, normalize, how.sees_squares, gradient)
    return a, a if y is None else side(y, normalize, how.sees_squares, gradient)


def _counts(how: LaunchSpec, n: int, m: int, device: torch.device) -> Tensor:
    """[2, n]: how many positives and negatives every row has."""
    if how.positive_bits is not None:
        assert how.negative_bits is not None
        lanes = torch.arange(32, device=device, dtype=torch.int32)[None, :, None]
        at_once = max(1, 2**21 // max(m, 1))  # words of 32 rows whose bits lie apart: 256 MiB
        return torch.stack(
            [
                torch.cat([((words[:, None, :] >> lanes) & 1).sum(2) for words in bits.split(at_once)]).flatten()[:n]
                if len(bits)
                else torch.zeros(n, device=device)
                for bits in (how.positive_bits, how.negative_bits)
            ]
        ).double()
    assert how.ids_x is not None and how.ids_y is not None
    ordered = how.ids_y.sort().values
    positive = torch.searchsorted(ordered, how.ids_x, right=True) - torch.searchsorted(ordered, how.ids_x)
    negative = m - positive
    if how.itself != engine.NOWHERE and m:
        at = (how.offset + torch.arange(n, device=device)) % m
        own = how.ids_y[at] == how.ids_x
        positive, negative = positive - own.long(), negative - (~own).long()
    return torch.stack([positive, negative]).double()


def _lifted_lse(how: LaunchSpec, a: Side, b: Side) -> Tensor:
    """Log-sums over negatives of margin - sign s."""
    assert how.params is not None
    p = how.params
    params = torch.stack([-p[0], p[0] * 0, p[1], *(p[0] * 0,) * 9])
    state, _ = engine.reduce(a, b, replace(how, loss=engine.LSE, params=params, variant=2))
    return engine.log2_sum(state[0], state[1]) * LN2


def row_loss(
    x: Tensor,
    y: MaybeTensor,
    x_ids: MaybeTensor,
    y_ids: MaybeTensor,
    positive_bits: MaybeTensor,
    negative_bits: MaybeTensor,
    row_value: MaybeTensor,
    params: Tensor,
    loss: int,
    metric: int,
    normalize: float,
    upper: bool,
    self_offset: int,
    variant: int,
) -> tuple[Tensor, Tensor]:
    """As ``fastssl::row_loss``: [N, outputs + 2] in float64; and what its gradient needs besides [k, N]."""
    n = x.shape[0]
    m = x.shape[1] if metric == Metric.given else (x if y is None else y).shape[0]
    how = _row_how(
        loss, y, x_ids, y_ids, positive_bits, negative_bits, params, metric, upper, self_offset, variant, n, m
    )
    kind = RowLoss(loss)
    counts = _counts(how, n, m, x.device)
    a, b = _sides(x, y, how, normalize)
    state = x.new_zeros((4, n), dtype=torch.float64)
    none = x.new_empty((0, n), dtype=torch.float64)
    if kind in _SORTED:
        from fastssl.ops.triton import sorted_rows

        scores = x if metric == Metric.given else None
        columns = sorted_rows.forward(kind, a, None if y is None else b, how, m, scores)
        return torch.cat([columns, counts]).T.contiguous(), none
    value = None if row_value is None else row_value.detach().float().contiguous()
    if kind == RowLoss.fast_ap:
        histogram = _histogram(how, a, b, variant)
        return torch.cat([_fast_ap(histogram)[None], counts]).T.contiguous(), histogram.reshape(
            n, 2 * (variant + 2)
        ).T.contiguous()
    if m and n:
        if kind == RowLoss.lse:
            state, _ = engine.reduce(a, b, how)
            first, second = (engine.log2_sum(state[2 * k], state[2 * k + 1]) * LN2 for k in range(2))
            nothing = torch.zeros_like(first)
            columns = torch.stack([first if variant & 3 else nothing, second if variant >> 2 & 3 else nothing])
            return torch.cat([columns, counts]).T.contiguous(), none
        if kind == RowLoss.softplus:
            negatives, _ = engine.reduce(a, b, replace(how, loss=engine.LSE, variant=2))
            lse = engine.log2_sum(negatives[0], negatives[1]) * LN2
            state, _ = engine.reduce(a, b, how, row_state0=lse.clamp(min=-1e30).float())
            total = torch.where(torch.isnan(lse), lse, state[0])
            return torch.cat([torch.stack([total, lse]), counts]).T.contiguous(), state[1:2].contiguous()
        if kind == RowLoss.lifted:
            lse = _lifted_lse(how, a, b)
            other = lse.float() if value is None else value
            state, _ = engine.reduce(a, b, how, row_state0=lse.float(), col_state0=other)
            total = torch.where(torch.isnan(lse), lse, state[0])
            return torch.cat([torch.stack([lse, total, state[1]]), counts]).T.contiguous(), none
        state, _ = engine.reduce(a, b, how, row_state0=value)
    elif kind in (RowLoss.lse, RowLoss.softplus, RowLoss.lifted):
        least = torch.full((n,), float("-inf"), dtype=torch.float64, device=x.device)
        zero = torch.zeros_like(least)
        if kind == RowLoss.lse:
            parts = [least if variant & 3 else zero, least if variant >> 2 & 3 else zero]
        else:
            parts = [zero, least] if kind == RowLoss.softplus else [least, zero, zero]
        saved = zero[None] if kind == RowLoss.softplus else none
        return torch.cat([torch.stack(parts), counts]).T.contiguous(), saved
    elif kind == RowLoss.extreme:
        infinite = torch.full((n,), float("inf"), dtype=torch.float64, device=x.device)
        state = torch.stack([-infinite, torch.full_like(infinite, -1), infinite, torch.full_like(infinite, -1)])
    if kind == RowLoss.extreme:
        state = state[[0, 2, 1, 3]]
        return torch.cat([state, counts]).T.contiguous(), none
    if kind == RowLoss.ranked_list:
        bottom = state[[1, 3]] + params.detach().double()[4]
        return torch.cat([state[[0, 2]] / bottom, counts]).T.contiguous(), bottom.contiguous()
    return torch.cat([state, counts]).T.contiguous(), none


def _histogram(how: LaunchSpec, a: Side, b: Side, bins: int) -> Tensor:
    """[N, 2, bins + 2]."""
    from fastssl.kernels.histogram import histogram_kernel
    from fastssl.ops.triton.launch import cdiv, config, precision, run

    out = torch.zeros((a.n, 2, bins + 2), dtype=torch.float32, device=a.rows.device)
    c = config("histogram", a.rows, 512)
    constants = how.constants(a)
    run(
        histogram_kernel,
        (cdiv(a.n, c.BM),),
        *(a.rows, b.rows, a.n, b.n, a.d, a.stride, b.stride, a.factor, b.factor, a.square, b.square),
        *(*how.relations(), how.offset, out, bins, _width(how, bins)),
        **{k: constants[k] for k in ("METRIC", "RELATION", "ITSELF", "SAME", "EXACT")},
        **{"BM": c.BM, "BN": c.BN, "BK": c.BK, "PRECISION": precision(a.rows.dtype, a.narrow)},
        EDGES=max(16, 1 << (bins + 1).bit_length()),
        config=c,
    )
    return out.double()


def _width(how: LaunchSpec, bins: int) -> float:
    return 4.0 / bins  # squared distances of unit rows: the only use there is


def _fast_ap(histogram: Tensor) -> Tensor:
    h, other = histogram[:, 0, :-1], histogram[:, 1, :-1]
    H, total = h.cumsum(1), (h + other).cumsum(1)
    counted = ~(h * H <= 0) & ~(total <= 0)
    return torch.where(counted, h * H / total.masked_fill(~counted, 1), torch.zeros_like(h)).sum(1)


def _fast_ap_table(histogram: Tensor, grad: Tensor) -> Tensor:
    """Upstream times d out / d bin [N, 2, bins + 2]; the last, beyond all edges, stays 0."""
    h, other = histogram[:, 0, :-1], histogram[:, 1, :-1]
    H, total = h.cumsum(1), (h + other).cumsum(1)
    counted = (h * H > 0) & (total > 0)
    safe = total.masked_fill(~counted, 1)

    def later(values: Tensor) -> Tensor:
        return torch.where(counted, values, torch.zeros_like(values)).flip(1).cumsum(1).flip(1)

    all_later = later(h * H / safe.square())
    ours = torch.where(counted, H / safe, torch.zeros_like(H)) + later(h / safe) - all_later
    slopes = torch.stack([ours, -all_later], 1)
    return (torch.nn.functional.pad(slopes, (0, 1)) * grad[:, None, None]).float().contiguous()


def row_loss_backward(
    grad: Tensor,
    saved: Tensor,
    out: Tensor,
    x: Tensor,
    y: MaybeTensor,
    x_ids: MaybeTensor,
    y_ids: MaybeTensor,
    positive_bits: MaybeTensor,
    negative_bits: MaybeTensor,
    row_value: MaybeTensor,
    params: Tensor,
    loss: int,
    metric: int,
    normalize: float,
    upper: bool,
    self_offset: int,
    variant: int,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, y, row_value and params."""
    n = x.shape[0]
    given = metric == Metric.given
    m = x.shape[1] if given else (x if y is None else y).shape[0]
    how = _row_how(
        loss, y, x_ids, y_ids, positive_bits, negative_bits, params, metric, upper, self_offset, variant, n, m
    )
    kind = RowLoss(loss)
    to_value = torch.zeros_like(row_value) if row_value is not None and needs & 4 else nothing(x)
    to_params = torch.zeros_like(params) if needs & 8 else nothing(x)
    if n == 0 or m == 0:
        to_x = torch.zeros_like(x) if needs & 1 else nothing(x)
        return to_x, torch.zeros_like(y) if y is not None and needs & 2 else nothing(x), to_value, to_params
    a, b = _sides(x, y, how, normalize, not given)
    g, value = grad.T, None if row_value is None else row_value.detach().double()
    if kind in _SORTED:
        from fastssl.ops.triton import sorted_rows

        found_x, found_y = sorted_rows.backward(
            kind,
            *(a, None if y is None else b, how, g[0], m),
            *((needs & 1, needs & 2), x.dtype, x if given else None),
        )
        return (
            nothing(x) if found_x is None else found_x,
            nothing(x) if found_y is None else found_y,
            to_value,
            to_params,
        )
    w = _row_weights(kind, how, a, b, g, saved, out.T, value)
    parameter_gradients = (kind == RowLoss.hinge and bool(needs & 4)) or (
        kind in (RowLoss.lse, RowLoss.softplus) and bool(needs & 8)
    )
    if given:
        from fastssl.kernels.gradient import weights_kernel

        slopes = engine.aligned(n, m, x.dtype, x.device)
        found = engine.store_slopes(weights_kernel, a, a, how, w, slopes, parameter_gradients=parameter_gradients)
        to_value, to_params = _along(kind, found, row_value, params, to_value, to_params)
        return slopes.contiguous() if needs & 1 else nothing(x), nothing(x), to_value, to_params
    wanted = (bool(needs & 1), y is not None and bool(needs & 2))
    if y is None and how.positive_bits is not None:  # listed pairs are not mutual: as two sets of rows
        gx, gy, sums, _ = engine.gradients(
            a, b, how, w, needs=(True, True), dtype=torch.float32, parameter_gradients=parameter_gradients
        )
        assert gx is not None and gy is not None
        found_x, found_y = (gx + gy).to(x.dtype), None
    else:
        if y is None:
            w = _both_sides(w)
        found_x, found_y, sums, _ = engine.gradients(
            a, None if y is None else b, how, w, needs=wanted, dtype=x.dtype, parameter_gradients=parameter_gradients
        )
    to_value, to_params = _along(kind, sums if parameter_gradients else None, row_value, params, to_value, to_params)
    return (
        found_x if needs & 1 and found_x is not None else nothing(x),
        found_y if needs & 2 and found_y is not None else nothing(x),
        to_value,
        to_params,
    )


def _along(
    kind: RowLoss,
    sums: engine.Sums | None,
    row_value: MaybeTensor,
    params: Tensor,
    to_value: Tensor,
    to_params: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of thresholds and parameters, where they were asked for, from sums along rows."""
    if sums is None:
        return to_value, to_params
    if kind == RowLoss.hinge:
        return (to_value if row_value is None else -sums.first.to(row_value.dtype)), to_params
    first, second = sums.first.double().sum()[None], sums.second.double().sum()[None]
    return to_value, torch.cat([first, second, params.new_zeros(len(params) - 2).double()]).to(params.dtype)


def _both_sides(w: Weights) -> Weights:
    return replace(w, y=w.x, columns=True)


def _row_weights(
    kind: RowLoss, how: LaunchSpec, a: Side, b: Side, g: Tensor, saved: Tensor, out: Tensor, value: Tensor | None
) -> Weights:
    """The numbers of every row that ``slope`` takes, from what forward gave and the upstream gradient [k, N]."""
    zero = torch.zeros_like(g[0])
    if kind == RowLoss.fast_ap:
        bins = saved.shape[0] // 2 - 2
        histogram = saved.T.reshape(saved.shape[1], 2, bins + 2)
        return Weights(None, table=_fast_ap_table(histogram, g[0]), bins=bins, width=_width(how, bins))
    if kind == RowLoss.lse:
        own = []
        for k in range(2):
            empty = torch.isinf(out[k]) & (out[k] < 0)
            lse = _no_infinite(out[k])
            own += [torch.where(empty, zero, g[k] * torch.exp(lse.float().double() - lse)), lse]
    elif kind == RowLoss.hinge:
        own = [g[0], g[2], zero if value is None else value, zero]
    elif kind == RowLoss.softplus:
        lse = out[1]
        empty = torch.isinf(lse) & (lse < 0)
        own = [lse.clamp(min=-1e30), g[0], torch.where(empty, zero, g[0] * saved[0] + g[1]), zero]
        own[0] = torch.where(empty, torch.full_like(lse, -1e30), own[0])
    elif kind == RowLoss.lifted:
        lse = out[0]
        weights = g[1].float().contiguous()
        columns = lse.float() if value is None else value.float()
        # Where columns are not these rows their upstream gradient is that of the rows, all the same.
        upstream = weights if value is None else None
        pull = replace(how, loss=engine.LIFTED_PULL)
        if upstream is not None:
            state, _ = engine.reduce(a, b, pull, row_state0=lse.float(), col_state0=columns, col_state1=upstream)
            pulled = state[0]
        else:
            state, _ = engine.reduce(
                a, b, pull, row_state0=lse.float(), col_state0=columns, col_state1=columns.new_ones(max(a.n, b.n))
            )
            pulled = state[0] * g[1]  # the sum of both upstream gradients is 2 of them
        own = [lse, g[1], pulled, zero]
        if value is not None:
            other = torch.zeros((4, len(value)), dtype=torch.float32, device=g.device)
            other[0] = columns
            return Weights(torch.stack(own).float(), other)
        # (own log-sum as the column's, for rows against themselves)
    elif kind == RowLoss.extreme:
        own = [g[0], out[2], g[1], out[3]]
    else:
        assert kind == RowLoss.ranked_list
        own = [g[0] / saved[0], out[0], g[1] / saved[1], out[1]]
    numbers = torch.stack(own).float()
    return Weights(numbers, numbers if kind == RowLoss.lifted else None)


# --- the matrix itself ----------------------------------------------------------------------------------------------


def pairwise(x: Tensor, y: MaybeTensor, metric: int, normalize: float) -> Tensor:
    how = LaunchSpec(engine.MATRIX, Metric(metric), same=y is None)
    a, b = _sides(x, y, how, normalize)
    return engine.matrix(a, None if y is None else b, how).contiguous()


def pairwise_backward(
    grad: Tensor, out: Tensor, x: Tensor, y: MaybeTensor, metric: int, normalize: float, needs: int
) -> tuple[Tensor, Tensor]:
    how = LaunchSpec(engine.MATRIX, Metric(metric), same=y is None)
    a, b = _sides(x, y, how, normalize, True)
    to_x, to_y = of_matrix(a, None if y is None else b, how, grad.contiguous(), (needs & 1, needs & 2), x.dtype)
    return to_x if to_x is not None else nothing(x), to_y if to_y is not None else nothing(x)


def of_matrix(
    a: Side, b: Side | None, how: LaunchSpec, slopes: Tensor, needs: tuple[int, int], dtype: torch.dtype
) -> tuple[MaybeTensor, MaybeTensor]:
    """Gradients from dL/ds [n, m]."""
    if b is None:
        # Rows against themselves: what a matrix gives its rows and its columns.
        w = Weights(None, matrix=slopes)
        gx, gy, _, _ = engine.gradients(a, a, how, w, needs=(True, True), dtype=torch.float32)
        assert gx is not None and gy is not None
        return (gx + gy).to(dtype) if needs[0] else None, None
    wanted = (bool(needs[0]), bool(needs[1]))
    gx, gy, _, _ = engine.gradients(a, b, how, Weights(None, matrix=slopes), needs=wanted, dtype=dtype)
    return gx, gy


# --- registration ---------------------------------------------------------------------------------------------------


def _fake_pair_loss(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    n = x.shape[0]
    return x.new_empty((n,), dtype=torch.float32), x.new_empty((4, n), dtype=torch.float64)


def _fake_row_loss(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    loss, _, _, _, _, variant = rest[-6:]
    n, kind = x.shape[0], RowLoss(loss)
    saved = {RowLoss.softplus: 1, RowLoss.ranked_list: 2, RowLoss.fast_ap: 2 * (variant + 2)}.get(kind, 0)
    return x.new_empty((n, len(OUTPUTS[kind]) + 2), dtype=torch.float64), x.new_empty((saved, n), dtype=torch.float64)


def _fake_pairwise(x: Tensor, y: MaybeTensor, metric: int, normalize: float) -> Tensor:
    return x.new_empty((x.shape[0], (x if y is None else y).shape[0]), dtype=torch.float32)


def nearest(
    x: Tensor, y: MaybeTensor, k: int, metric: int, normalize: float, largest: bool, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    from fastssl.ops.triton import sorted_rows

    return sorted_rows.nearest(x, y, k, Metric(metric), normalize, largest, exclude_self)


def _fake_nearest(x: Tensor, y: MaybeTensor, k: int, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], k), dtype=torch.float32), x.new_empty((x.shape[0], k), dtype=torch.int64)


def _define(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    schema = torch.library.infer_schema(function, mutates_args=())
    function = with_smaller_tiles(function)
    torch.library.custom_op(f"fastssl::{name}", function, mutates_args=(), schema=schema)
    return replayed(function)


def _operator(name: str, function: Any, backward: Any, fake: Any, **options: Any) -> Operator:
    functions = _define(name, function), _define(f"{name}_backward", backward)
    return Operator(name, fake=fake, functions=functions, **options)


_define("triton_nearest", nearest)
torch.library.register_fake("fastssl::triton_nearest", _fake_nearest)

PAIR_LOSS = _operator(
    "triton_pair_loss",
    pair_loss,
    pair_loss_backward,
    _fake_pair_loss,
    tensors=6,
    differentiable=(0, 1, 4, 5),
)
ROW_LOSS = _operator(
    "triton_row_loss",
    row_loss,
    row_loss_backward,
    _fake_row_loss,
    tensors=8,
    differentiable=(0, 1, 6, 7),
    save_result=True,
)
PAIRWISE = _operator(
    "triton_pairwise",
    pairwise,
    pairwise_backward,
    _fake_pairwise,
    tensors=2,
    differentiable=(0, 1),
    save_result=True,
)
