"""The Triton engine as torch operators: ``fastssl::triton_pair_loss``, ``triton_row_loss`` and ``triton_pairwise``.

For torch.compile each is one piece: its analysis of what a kernel writes does not know all that Triton can do, and
drops what it takes for unused. Autograd, tracing and torch.func are those of every other operator here
(``fastssl.ops.operator``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssl._table import Closing, Metric
from fastssl.ops.operator import Operator
from fastssl.ops.triton import engine
from fastssl.ops.triton.engine import LaunchSpec, Side, Weights, nothing
from fastssl.ops.triton.launch import side, with_smaller_tiles
from fastssl.ops.triton.replay import replayed
from fastssl.ops.triton.row_losses import fake_row_loss, only_positive, row_loss, row_loss_backward

# Scores within this many bits of 0 need no maximum: sums of 2^31 of their powers of two stay far inside fp32's range.
BOUND = 48.0

MaybeTensor = Tensor | None


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
        bias=None if bias is None else bias.detach().reshape(-1).contiguous(),
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
    distinct = form != Closing.sup_con
    return sums_how(y, paired, (ids, ids), score, bias, form == Closing.sigmoid_loss, bounded, distinct)


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


# --- the matrix itself ----------------------------------------------------------------------------------------------


def pairwise(x: Tensor, y: MaybeTensor, metric: int, normalize: float) -> Tensor:
    how = LaunchSpec(engine.MATRIX, Metric(metric), same=y is None)
    a, b = engine.sides(x, y, how, normalize)
    return engine.matrix(a, None if y is None else b, how).contiguous()


def pairwise_backward(
    grad: Tensor, out: Tensor, x: Tensor, y: MaybeTensor, metric: int, normalize: float, needs: int
) -> tuple[Tensor, Tensor]:
    how = LaunchSpec(engine.MATRIX, Metric(metric), same=y is None)
    a, b = engine.sides(x, y, how, normalize, True)
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


def _fake_pairwise(x: Tensor, y: MaybeTensor, metric: int, normalize: float) -> Tensor:
    return x.new_empty((x.shape[0], (x if y is None else y).shape[0]), dtype=torch.float32)


def nearest(
    x: Tensor, y: MaybeTensor, k: int, metric: int, normalize: float, largest: bool, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    from fastssl.ops.triton import sorted_rows

    return sorted_rows.nearest(x, y, k, Metric(metric), normalize, largest, exclude_self)


def _fake_nearest(x: Tensor, y: MaybeTensor, k: int, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], k), dtype=torch.float32), x.new_empty((x.shape[0], k), dtype=torch.int64)


REPLAYED: list[Any] = []  # functions that keep lists of launches


def _define(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    schema = torch.library.infer_schema(function, mutates_args=())
    function = with_smaller_tiles(function)
    torch.library.custom_op(f"fastssl::{name}", function, mutates_args=(), schema=schema)
    call = replayed(function)
    REPLAYED.append(call)
    return call


def define_operator(name: str, function: Any, backward: Any, fake: Any, **options: Any) -> Operator:
    functions = _define(name, function), _define(f"{name}_backward", backward)
    return Operator(name, fake=fake, functions=functions, **options)


_define("triton_nearest", nearest)
torch.library.register_fake("fastssl::triton_nearest", _fake_nearest)
ONLY_POSITIVE = _define("triton_only_positive", only_positive)
torch.library.register_fake("fastssl::triton_only_positive", torch.empty_like)

PAIR_LOSS = define_operator(
    "triton_pair_loss",
    pair_loss,
    pair_loss_backward,
    _fake_pair_loss,
    tensors=6,
    differentiable=(0, 1, 4, 5),
)
ROW_LOSS = define_operator(
    "triton_row_loss",
    row_loss,
    row_loss_backward,
    fake_row_loss,
    tensors=8,
    differentiable=(0, 1, 6, 7),
    save_result=True,
)
PAIRWISE = define_operator(
    "triton_pairwise",
    pairwise,
    pairwise_backward,
    _fake_pairwise,
    tensors=2,
    differentiable=(0, 1),
    save_result=True,
)


def forget_replays() -> None:
    """What has been recorded; the next calls prepare their launches."""
    for function in REPLAYED:
        function.plans.clear()
