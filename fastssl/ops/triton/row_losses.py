"""Losses over whole rows of scores on Triton kernels (``fastssl::triton_row_loss``): reductions, and small kernels at
their ends (``kernels/row_ends.py``), so that a step of few rows is few launches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastssl._table import OUTPUTS, Metric, RowLoss, TileEpilogue
from fastssl.ops.triton import engine
from fastssl.ops.triton.engine import ENDS, LaunchSpec, Side, Weights, nothing
from fastssl.ops.triton.launch import cdiv, config, precision, run

MaybeTensor = Tensor | None
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


def only_positive(labels: Tensor) -> Tensor:
    """[N]: the other row of a class of two, else -1: NT-Xent's form, exact for small losses, serves such pairs."""
    from fastssl.kernels.row_ends import only_positive_kernel

    ordered, order = labels.sort(stable=True)
    other = torch.empty_like(order)
    n = len(labels)
    run(only_positive_kernel, (cdiv(n, ENDS),), labels, ordered, order, other, n, n.bit_length(), BLOCK=ENDS)
    return other


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
    if loss == RowLoss.softplus and variant:  # the margin's cosine and sine
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


def _counts(how: LaunchSpec, n: int, m: int) -> Tensor:
    """[2, n]: how many listed positives and negatives every row has."""
    bits = how.positive_bits, how.negative_bits
    device = bits[0].device  # type: ignore[union-attr]
    lanes = torch.arange(32, device=device, dtype=torch.int32)[None, :, None]
    at_once = max(1, 2**21 // max(m, 1))  # words of 32 rows whose bits lie apart: 256 MiB

    def counted(words: Tensor) -> Tensor:
        if not len(words):
            return torch.zeros(n, device=device)
        parts = [((some[:, None, :] >> lanes) & 1).sum(2) for some in words.split(at_once)]
        return torch.cat(parts).flatten()[:n]

    return torch.stack([counted(words) for words in bits if words is not None]).double()


def _log_sums(parts: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """[N] in float64, and in float32 for the reduction that follows: the log-sums of LSE's first part."""
    from fastssl.kernels.row_ends import log_sums_kernel

    splits, _, n = parts.shape
    log_sum = torch.empty((n,), dtype=torch.float64, device=parts.device)
    before = torch.empty((n,), dtype=torch.float32, device=parts.device)
    run(log_sums_kernel, (cdiv(n, ENDS),), parts, log_sum, before, n, splits, LEAST=least, BLOCK=ENDS)
    return log_sum, before


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
    from fastssl.kernels.row_ends import row_values_kernel

    n = x.shape[0]
    m = x.shape[1] if metric == Metric.given else (x if y is None else y).shape[0]
    how = _row_how(
        loss, y, x_ids, y_ids, positive_bits, negative_bits, params, metric, upper, self_offset, variant, n, m
    )
    kind = RowLoss(loss)
    a, b = engine.sides(x, y, how, normalize)
    value = None if row_value is None else row_value.detach().float().contiguous()
    saved = torch.empty((_saved(kind, variant), n), dtype=torch.float64, device=x.device)
    log_sum = None

    def reduced(how: LaunchSpec, own: MaybeTensor = None, others: MaybeTensor = None) -> Tensor:
        if n == 0 or m == 0:
            return torch.empty((0, 4, n), dtype=torch.float32, device=x.device)
        return engine.partial_sums(a, b, how, own, others).rows

    if kind in _SORTED:
        from fastssl.ops.triton import sorted_rows

        scores = x if metric == Metric.given else None
        parts = sorted_rows.forward(kind, a, None if y is None else b, how, m, scores)
    elif kind == RowLoss.fast_ap:
        parts = _histogram(how, a, b, variant)
    elif kind == RowLoss.softplus:
        log_sum, before = _log_sums(reduced(replace(how, loss=engine.LSE, variant=2)), -1e30)
        parts = reduced(how, before)
    elif kind == RowLoss.lifted:
        log_sum, before = _log_sums(reduced(_lifted_negatives(how)), float("-inf"))
        parts = reduced(how, before, before if value is None else value)
    else:
        parts = reduced(how, value)
    counts = ordered = None
    if how.positive_bits is not None:
        counts = _counts(how, n, m)
    else:
        assert how.ids_y is not None
        ordered = how.ids_y.sort().values
    out = torch.empty((n, len(OUTPUTS[kind]) + 2), dtype=torch.float64, device=x.device)
    run(
        row_values_kernel,
        (cdiv(n, ENDS),),
        *(parts, log_sum, how.params, how.ids_x, how.ids_y, ordered, counts, out, saved),
        *(n, m, how.offset, variant + 2 if kind == RowLoss.fast_ap else parts.shape[0], m.bit_length()),
        LOSS=how.loss,
        VARIANT=variant if kind == RowLoss.lse else 0,
        ITSELF=how.itself,
        EDGES=_edges(variant) if kind == RowLoss.fast_ap else 1,
        BLOCK=ENDS,
    )
    return out, saved


def _lifted_negatives(how: LaunchSpec) -> LaunchSpec:
    """For log-sums over negatives of margin - sign s."""
    assert how.params is not None
    p = how.params
    params = torch.cat([-p[:1], p.new_zeros(1), p[1:2], p.new_zeros(9)])
    return replace(how, loss=engine.LSE, params=params, variant=2)


def _histogram(how: LaunchSpec, a: Side, b: Side, bins: int) -> Tensor:
    """[N, 2, bins + 2]."""
    from fastssl.kernels.histogram import histogram_kernel

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
        EDGES=_edges(bins),
        config=c,
    )
    return out


def _edges(bins: int) -> int:
    return max(16, 1 << (bins + 1).bit_length())


def _width(how: LaunchSpec, bins: int) -> float:
    return 4.0 / bins  # squared distances of unit rows: the only use there is


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
    a, b = engine.sides(x, y, how, normalize, not given)
    if kind in _SORTED:
        from fastssl.ops.triton import sorted_rows

        found_x, found_y = sorted_rows.backward(
            kind,
            *(a, None if y is None else b, how, grad[:, 0], m),
            *((needs & 1, needs & 2), x.dtype, x if given else None),
        )
        return (
            nothing(x) if found_x is None else found_x,
            nothing(x) if found_y is None else found_y,
            to_value,
            to_params,
        )
    w = _row_weights(kind, how, a, b, grad, saved, out, row_value)
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
    kind: RowLoss, how: LaunchSpec, a: Side, b: Side, grad: Tensor, saved: Tensor, out: Tensor, row_value: MaybeTensor
) -> Weights:
    """The numbers of every row that ``slope`` takes, from what forward gave and the upstream gradient [N, k + 2]."""
    from fastssl.kernels.row_ends import fast_ap_kernel, row_upstream_kernel

    if kind == RowLoss.fast_ap:
        bins = saved.shape[0] // 2 - 2
        table = torch.empty((a.n, 2, bins + 2), dtype=torch.float32, device=grad.device)
        given = saved, grad, grad.stride(0), table, a.n, bins
        run(fast_ap_kernel, (cdiv(a.n, 16),), *given, EDGES=_edges(bins), BLOCK=16)
        return Weights(None, table=table, bins=bins, width=_width(how, bins))
    value = None if row_value is None else row_value.detach().contiguous()
    pulls = other = None
    if kind == RowLoss.lifted:
        before = out[:, 0].float()
        if value is None:
            columns, upstream = before, grad[:, 1].float()
        else:
            # Where columns are not these rows their upstream gradient is that of the rows, all the same.
            columns, upstream = value.float(), torch.ones(max(a.n, b.n), dtype=torch.float32, device=grad.device)
            other = torch.zeros((4, len(value)), dtype=torch.float32, device=grad.device)
            other[0] = columns
        pull = replace(how, loss=engine.LIFTED_PULL)
        pulls = engine.partial_sums(a, b, pull, before, columns, upstream).rows
    own = torch.empty((4, a.n), dtype=torch.float32, device=grad.device)
    run(
        row_upstream_kernel,
        (cdiv(a.n, ENDS),),
        *(grad, grad.stride(0), grad.stride(1), out, saved, value, pulls, own),
        *(a.n, 0 if pulls is None else pulls.shape[0]),
        LOSS=how.loss,
        BLOCK=ENDS,
    )
    # Rows against themselves (lifted): the own log-sum as the column's.
    return Weights(own, (own if other is None else other) if kind == RowLoss.lifted else None)


def _saved(kind: RowLoss, variant: int) -> int:
    return {RowLoss.softplus: 1, RowLoss.ranked_list: 2, RowLoss.fast_ap: 2 * (variant + 2)}.get(kind, 0)


def fake_row_loss(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    loss, _, _, _, _, variant = rest[-6:]
    n, kind = x.shape[0], RowLoss(loss)
    shapes = (n, len(OUTPUTS[kind]) + 2), (_saved(kind, variant), n)
    return x.new_empty(shapes[0], dtype=torch.float64), x.new_empty(shapes[1], dtype=torch.float64)
