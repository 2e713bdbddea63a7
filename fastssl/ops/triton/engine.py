"""Statistics and gradients of pair matrices by Triton kernels: what is launched, in what order, what is put together.

Nothing here waits for the device, so that all of it can be captured in a CUDA graph; sums of parts are in fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastssl._table import Itself, Metric, Pairing, TileEpilogue
from fastssl.ops import extension
from fastssl.ops.triton.launch import (
    ALIGNMENT,
    WIDE,
    WIDEST_RESIDENT,
    Config,
    Side,
    cdiv,
    config,
    copies_add,
    has_config,
    precision,
    processors,
    run,
    side,
)

# constexpr numbers of kernels/epilogues.py and tiles.py
SUMS, SIGMOID, LSE, HINGE, SOFTPLUS, LIFTED, LIFTED_PULL, EXTREME, RANKED_LIST, MATRIX, FAST_AP = map(int, TileEpilogue)
ALL, IDS, BITS, DISTINCT = map(int, Pairing)
NOWHERE, DIAGONAL, OFFSET = map(int, Itself)
WEIGHTS, SLOPES, SCORES = range(3)  # what weights_kernel stores
ENDS = 32  # rows of a program of kernels/ends.py
GROUP = 8  # rows of tiles that share the blocks of B in L2
# Programs that share a block of rows too wide to stay in shared memory: it and what they read of B stay in L2.
ACROSS = 16
MOST_BLOCKS = 65535  # of the second dimension of a grid


def family(loss: int, bounded: bool, relation: int) -> str:
    if loss not in (SUMS, SIGMOID):
        return "row_"
    return "" if bounded and relation == ALL else "free_"


@dataclass(frozen=True)
class LaunchSpec:
    """What all launches of a loss have in common. ``itself``: whether and how a row is among the columns."""

    loss: int
    metric: Metric = Metric.dot
    scale: Tensor | float | None = None
    bias: Tensor | None = None
    params: Tensor | None = None
    ids_x: Tensor | None = None
    ids_y: Tensor | None = None
    distinct: bool = False  # rows of equal ids are no pair; else they are positives
    positive_bits: Tensor | None = None
    negative_bits: Tensor | None = None
    partner: Tensor | int | None = None  # the column of each row's partner; a number: (row + it) % m
    offset: int = 0
    itself: int = NOWHERE
    upper: bool = False
    variant: int = 0
    bounded: bool = False
    same: bool = False  # rows against themselves: the distance of a row to itself is 0

    @property
    def relation(self) -> int:
        if self.positive_bits is not None:
            return BITS
        return ALL if self.ids_x is None else DISTINCT if self.distinct else IDS

    @property
    def sees_squares(self) -> bool:
        return self.metric in (Metric.sqeuclidean, Metric.euclidean)

    @property
    def by_features(self) -> bool:
        return self.metric in (Metric.manhattan, Metric.chebyshev)

    @property
    def bias_columns(self) -> bool:
        return self.bias is not None and self.bias.dim() > 0 and self.bias.shape[0] > 1

    def kernel(self, name: str) -> str:
        """The name of its tiles: row losses, and scores without bounds or with labels, do more with one."""
        return f"{family(self.loss, self.bounded, self.relation)}{name}"

    def sums(self, parameter_gradients: bool) -> bool:
        """Whether a gradient needs sums of weights: of distances, for a bias, for parameters."""
        return parameter_gradients or self.sees_squares or self.bias is not None

    def relations(self) -> tuple[Any, ...]:
        return self.ids_x, self.ids_y, self.positive_bits, self.negative_bits

    def constants(self, x: Side) -> dict[str, Any]:
        return {
            "LOSS": self.loss,
            "METRIC": self.metric.value,
            "RELATION": self.relation,
            "ITSELF": self.itself,
            "UPPER": self.upper,
            "VARIANT": self.variant,
            "BOUNDED": self.bounded,
            "SAME": self.same,
            "EXACT": x.rows.dtype == torch.float32,
            "BIAS_COLUMNS": self.bias_columns,
        }


def _tiles(config: Config, x: Side) -> dict[str, Any]:
    return {
        "BM": config.BM,
        "BN": config.BN,
        "BK": config.BK,
        "PRECISION": precision(x.rows.dtype, x.narrow),
        "SPLIT": config.split,
    }


def _operands(x: Side, y: Side) -> tuple[Any, ...]:
    return (
        *(x.rows, y.rows, x.n, y.n, x.d, x.stride, y.stride),
        *(x.factor, y.factor, x.square, y.square),
    )


def nothing(x: Tensor) -> Tensor:
    """A gradient that is not asked for; each its own tensor, as operators demand."""
    return x.new_empty((0,))


def sides(x: Tensor, y: Tensor | None, how: LaunchSpec, normalize: float, gradient: bool = False) -> tuple[Side, Side]:
    """Rows of x and of y as kernels take them; without y those of x are both."""
    a = side(x, normalize, how.sees_squares, gradient)
    return a, a if y is None else side(y, normalize, how.sees_squares, gradient)


def _splits(blocks: Any, tiles: Any, device: torch.device, least: int = 1) -> tuple[int, int]:
    """How many programs share a block of rows, two programs a processor or more, and how many tiles each takes."""
    wanted = max(1, min(int(tiles), max(least, 2 * processors(device) // max(1, int(blocks)))))
    each = max(1, cdiv(int(tiles), wanted))
    return max(1, cdiv(int(tiles), each)), each


def merged(most: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """One maximum, and the sum of powers of two below it, of parts [parts, n]."""
    top = most.amax(0)
    safe = torch.where(torch.isinf(top), torch.zeros_like(top), top)
    part = torch.where(torch.isinf(most) & (most < 0), torch.zeros_like(total), total * torch.exp2(most - safe))
    return safe, part.sum(0)


def log2_sum(most: Tensor, total: Tensor) -> Tensor:
    return most + torch.log2(total)


@dataclass(frozen=True)
class Parts:
    """What ``reduce_kernel`` leaves: four numbers of rows [splits, 4, n]; of columns, where they were asked for, one of
    each block of ``height`` rows [blocks, m], or where they were added up [2, m]."""

    rows: Tensor
    columns: Tensor | None
    summed: Tensor | None
    height: int
    triangle: bool


def partial_sums(
    x: Side,
    y: Side,
    how: LaunchSpec,
    row_state0: Tensor | None = None,
    col_state0: Tensor | None = None,
    col_state1: Tensor | None = None,
    columns: bool = False,
    summed: bool = True,
) -> Parts:
    """Rows against themselves (SUMS): tiles above the diagonal alone, each for its rows and its columns.

    ``summed``: columns are always added up; else only where the memory budget has them in several bands.
    """
    from fastssl.kernels.reduce import columns_kernel, reduce_kernel

    device = x.rows.device
    given = how.metric == Metric.given
    c = config(how.kernel("reduce"), x.rows, 16 if given else x.d)
    triangle = how.same and how.loss == SUMS and how.relation in (ALL, DISTINCT)
    n, m = x.n, x.d if given else y.n
    blocks, tiles = cdiv(n, c.BM), cdiv(m, c.BN)
    band = max(1, min(blocks, MOST_BLOCKS))
    part = by_column = None
    if columns or triangle:
        band = max(1, min(band, extension.get_memory_budget() // max(4 * m, 1)))
        part = torch.empty((band, m), dtype=torch.float32, device=device)
        if summed or band < blocks:
            by_column = torch.zeros((2, m), dtype=torch.float32, device=device)
            if not how.bounded:
                by_column[0].fill_(float("-inf"))
    resident = x.d <= c.BK and not given and not how.by_features
    least = 1 if resident or given or how.by_features else max(1, min(ACROSS, tiles // 4))
    splits, each = _splits(min(band, blocks), tiles, device, least)
    out = torch.empty((splits, 4, n), dtype=torch.float32, device=device)
    operands = _operands(x, y) if not given else (x.rows, x.rows, n, m, 1, x.stride, 0, None, None, None, None)
    for first in range(0, blocks, band):
        count = min(band, blocks - first)
        run(
            reduce_kernel,
            (splits, count),
            *operands,
            *(how.scale, how.bias, how.params, *how.relations(), how.partner, how.offset),
            *(row_state0, col_state0, col_state1, out, part, first, each),
            **how.constants(x),
            **_tiles(c, x),
            TRIANGLE=triangle,
            RESIDENT=resident,
            SPECIALIZE=c.specialize,
            INTERIOR=False,
            config=c,
        )
        if by_column is not None:
            run(
                columns_kernel,
                (cdiv(m, 128),),
                *(part, by_column, m, first, count, c.BM),
                BOUNDED=how.bounded,
                TRIANGLE=triangle,
                BM=16,
                BN=128,
            )
    return Parts(out, part, by_column, c.BM, triangle)


def reduce(
    x: Side,
    y: Side,
    how: LaunchSpec,
    row_state0: Tensor | None = None,
    col_state0: Tensor | None = None,
    col_state1: Tensor | None = None,
    columns: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """[4, n] in float64, each row's numbers over all columns; [2, m], the log-sums' of columns."""
    parts = partial_sums(x, y, how, row_state0, col_state0, col_state1, columns)
    state = _merge(parts.rows.double(), how)
    if parts.summed is None:
        return state, None
    by_column = parts.summed.double()
    if parts.triangle:
        top, total = merged(torch.stack([state[0], by_column[0]]), torch.stack([state[1], by_column[1]]))
        return torch.stack([top, total, state[2], state[3]]), None
    return state, by_column


def values(x: Side, y: Side, how: LaunchSpec, form: int, ignore: int, columns: bool) -> tuple[Tensor, Tensor]:
    """Each row's loss [n], and what its gradient needs [4, n] (``values_kernel``)."""
    from fastssl.kernels.ends import values_kernel

    parts = partial_sums(x, y, how, columns=columns, summed=False)
    out = torch.empty((x.n,), dtype=torch.float32, device=x.rows.device)
    saved = torch.empty((4, x.n), dtype=torch.float64, device=x.rows.device)
    run(
        values_kernel,
        (cdiv(x.n, ENDS),),
        *(parts.rows, parts.columns, parts.summed, x.rows, y.rows, x.factor, y.factor),
        *(how.scale, how.bias, how.partner),
        *(out, saved, x.n, y.n, x.d, x.stride, y.stride, ignore, parts.rows.shape[0]),
        *(0 if parts.columns is None else parts.columns.shape[0], parts.height),
        FORM=form,
        BOUNDED=how.bounded,
        TRIANGLE=parts.triangle,
        BOTH=columns,
        BIAS_COLUMNS=how.bias_columns,
        BLOCK=ENDS,
        CHUNK=64,
    )
    return out, saved


def upstream(
    grad: Tensor, saved: Tensor, how: LaunchSpec, form: int, ignore: int, m: int, columns: bool
) -> tuple[Weights, Tensor | None]:
    """The weights of a gradient from that of the values [n]; the bias's by row."""
    from fastssl.kernels.ends import upstream_kernel

    n, device = grad.shape[0], grad.device
    state_x = torch.empty((4, n), dtype=torch.float32, device=device)
    state_y = torch.empty((4, m), dtype=torch.float32, device=device) if columns else None
    to_partner = torch.empty((n,), dtype=torch.float32, device=device)
    by_bias = torch.empty((n,), dtype=torch.float32, device=device) if how.bias is not None else None
    run(
        upstream_kernel,
        (cdiv(n, 128),),
        *(grad, grad.stride(0), saved, how.partner, state_x, state_y, to_partner, by_bias, n, m, ignore),
        FORM=form,
        BOUNDED=how.bounded,
        MUTUAL=how.same,
        BLOCK=128,
    )
    return Weights(state_x, state_x if how.same else state_y, columns=how.same or columns, partner=to_partner), by_bias


def _merge(parts: Tensor, how: LaunchSpec) -> Tensor:
    """[4, n] of [splits, 4, n] of SUMS or SIGMOID."""
    first, second, *others = parts.unbind(1)
    sums = (first.sum(0), second.sum(0)) if how.loss == SIGMOID else merged(first, second)
    return torch.stack([*sums, *(part.sum(0) for part in others)])


@dataclass(frozen=True)
class Weights:
    """What a gradient is made of: four numbers of every row [4, n] and column [4, m] (float32; see ``slope``), whose
    own losses take part, the gradients of partners' scores, dL/ds as a matrix or as slopes of bins."""

    x: Tensor | None
    y: Tensor | None = None
    rows: bool = True
    columns: bool = False
    partner: Tensor | None = None
    matrix: Tensor | None = None
    table: Tensor | None = None
    bins: int = 0
    width: float = 1.0


@dataclass(frozen=True)
class Sums:
    """Of weights over the other side [n], and of the terms of two parameters along rows [n]; float64."""

    total: Tensor
    first: Tensor
    second: Tensor


def gradients(
    x: Side,
    y: Side | None,
    how: LaunchSpec,
    w: Weights,
    *,
    needs: tuple[bool, bool],
    dtype: torch.dtype,
    parameter_gradients: bool = False,
    filtering: float = 0.0,
) -> tuple[Tensor | None, Tensor | None, Sums | None, Sums | None]:
    """dL/dx, dL/dy (where wanted) and the sums of both, by x's rows and by y's.

    Up to 256 features a program keeps its block of the gradient; above, chunks of weights are left in memory and
    multiplied with both sides.
    """
    if x.d > WIDEST_RESIDENT or how.by_features or not has_config(how.kernel("gradient"), x.rows, x.d):
        return _by_chunks(x, y, how, w, needs=needs, dtype=dtype, parameter_gradients=parameter_gradients)
    same = y is None
    other = x if y is None else y
    gx = gy = sums_x = sums_y = None
    if needs[0] or parameter_gradients or not needs[1]:
        gx, sums_x = _resident(x, other, how, w, False, dtype, parameter_gradients, filtering)
    if needs[1] and not same:
        gy, sums_y = _resident(other, x, how, w, True, dtype, False, filtering)
    return gx if needs[0] else None, gy, sums_x, sums_y


def _call(how: LaunchSpec, w: Weights, swapped: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments and constants of dL/ds, A being x or, ``swapped``, y."""
    matrix_stride = 0 if w.matrix is None else w.matrix.stride(0)
    arguments = (
        *(how.scale, how.bias, how.params, *how.relations(), how.partner if w.partner is not None else None, w.partner),
        *(how.offset, *((w.y, w.x) if swapped else (w.x, w.y))),
        *(w.matrix, matrix_stride, w.table, w.bins, w.width),
    )
    # Row i of x and row i of y are each other's partners where partners are told by a number and y is another matrix.
    side_of_partner = 0 if w.partner is None else (2 if swapped and isinstance(how.partner, Tensor) else 1)
    needs_scores = how.loss != MATRIX or how.metric == Metric.euclidean
    rows, columns = (w.columns, w.rows) if swapped else (w.rows, w.columns)
    constants = {"SWAPPED": swapped, "ROWS": rows, "COLUMNS": columns}
    return arguments, constants | {"PARTNER_SIDE": side_of_partner, "SCORES": needs_scores}


def _resident(
    a: Side,
    b: Side,
    how: LaunchSpec,
    w: Weights,
    swapped: bool,
    dtype: torch.dtype,
    parameter_gradients: bool,
    filtering: float,
) -> tuple[Tensor, Sums | None]:
    from fastssl.kernels.gradient import gradient_kernel

    c = config(how.kernel("gradient"), a.rows, a.d)
    device = a.rows.device
    blocks, tiles = cdiv(a.n, c.BM), cdiv(b.n, c.BN)
    splits, each = _splits(blocks, tiles, device)
    out = torch.empty((splits, a.n, a.d), dtype=torch.float32, device=device)
    sums = torch.empty((splits, 3, a.n), dtype=torch.float32, device=device) if how.sums(parameter_gradients) else None
    arguments, constants = _call(how, w, swapped)
    run(
        gradient_kernel,
        (blocks, splits),
        *_operands(a, b),
        *arguments,
        *(out, sums, each, filtering or None),
        **how.constants(a),
        **constants,
        **_tiles(c, a),
        ALONG=parameter_gradients,
        SPECIALIZE=c.specialize,
        INTERIOR=False,
        config=c,
    )
    if sums is None:
        return finish(out, None, a, how, dtype, scaled=False), None
    total = sums.sum(0, dtype=torch.float64)
    return finish(out, total[0], a, how, dtype, scaled=False), Sums(*total)


def finish(parts: Tensor, total: Tensor | None, a: Side, how: LaunchSpec, dtype: torch.dtype, scaled: bool) -> Tensor:
    """A gradient in its dtype from sums of weights times the other side's rows [splits, n, d]."""
    from fastssl.kernels.matrix import finish_kernel

    out = torch.empty((a.n, a.d), dtype=dtype, device=a.rows.device)
    run(
        finish_kernel,
        (cdiv(a.n, 16),),
        *(
            parts,
            total.float() if total is not None and how.sees_squares else None,
            a.rows,
            a.factor if a.unit is None else a.unit,
            how.scale,
            out,
            a.n,
            a.d,
            a.stride,
            parts.shape[0],
        ),
        DISTANCE=how.sees_squares,
        LEAST=a.least,
        UNIT=a.unit is not None,
        SCALED=scaled and a.factor is not None,
        BLOCK=16,
        CHUNK=128,
    )
    return out


def chunk_sizes(n: int, m: int, size: int, wave: int = 128, tile: int = 128) -> tuple[int, int]:
    """Rows and columns of a chunk of weights of ``size`` bytes each within the memory budget: as square as may be, in
    multiples of ``wave``, the rows whose products keep all processors busy once, or else of ``tile``: what is in
    a tile that two chunks share would be in the sums of both."""
    budget = max(extension.get_memory_budget() // size, tile * tile)
    side = max(tile, int(budget**0.5))
    side = side // wave * wave if side >= wave else side // tile * tile
    height = min(side, n)
    breadth = min(max(tile, budget // max(height, 1) // tile * tile), m)
    height = min(max(height, budget // max(breadth, 1) // tile * tile), n)
    return max(height, 1), max(breadth, 1)


def _by_chunks(
    x: Side,
    y: Side | None,
    how: LaunchSpec,
    w: Weights,
    *,
    needs: tuple[bool, bool],
    dtype: torch.dtype,
    parameter_gradients: bool,
) -> tuple[Tensor | None, Tensor | None, Sums | None, Sums | None]:
    from fastssl.kernels.gradient import weights_kernel
    from fastssl.kernels.matrix import axis_kernel, product_kernel

    same, other = y is None, x if y is None else y
    device = x.rows.device
    # Symmetric weights: one chunk of a mirrored pair is enough, and serves the rows of both.
    mirrored = same and how.relation in (ALL, DISTINCT) and w.rows and w.columns and not how.by_features
    need_y = needs[1] and not same
    c = config(how.kernel("weights"), x.rows, WIDE)
    product = config("product", x.rows, WIDE)
    narrow = x.rows.dtype if not how.by_features else torch.float32
    tile = max(128, c.BM, c.BN)
    wave = max(tile, processors(device) * product.BM // cdiv(x.d, product.BN) // tile * tile)
    height, breadth = chunk_sizes(x.n, other.n, 2 if narrow == torch.bfloat16 else 4, wave, tile)
    if mirrored:
        height = breadth = min(height, breadth)
    chunk = aligned(height, breadth, narrow, device)
    scores = aligned(height, breadth, narrow, device) if how.metric == Metric.chebyshev else None
    gx = torch.zeros((1, x.n, x.d), dtype=torch.float32, device=device)
    gy = torch.zeros((1, other.n, x.d), dtype=torch.float32, device=device) if need_y else None
    by_x = by_y = None
    if how.sums(parameter_gradients):
        by_x = torch.zeros((3, x.n), dtype=torch.float64, device=device)
        by_y = torch.zeros((other.n,), dtype=torch.float64, device=device)
    arguments, constants = _call(how, w, False)

    def weights(out: Tensor, sums: Tensor | None, i: int, j: int, h: int, b: int, **more: Any) -> None:
        chosen = how.constants(x) | constants | _tiles(c, x) | more
        run(
            weights_kernel,
            (cdiv(h, c.BM) * cdiv(b, c.BN),),
            *_operands(x, other),
            *arguments,
            *(out, sums, i, j, h, b, out.stride(0)),
            **chosen,
            ALONG=parameter_gradients,
            GROUP=GROUP,
            INTERIOR=False,
            config=c,
        )

    def multiply(into: Tensor, rows: Tensor, count: int, length: int, turned: bool) -> None:
        run(
            product_kernel,
            (cdiv(count, product.BM) * cdiv(x.d, product.BN),),
            *(chunk, rows, into, count, length, x.d, chunk.stride(0), rows.stride(0), into.stride(0)),
            TURNED=turned,
            BM=product.BM,
            BN=product.BN,
            BK=product.BK,
            PRECISION=precision(narrow, x.narrow),
            SPECIALIZE=product.specialize,
            REDUCE=copies_add(into),
            config=product,
        )

    for i in range(0, x.n, height):
        h = min(height, x.n - i)
        for j in range(i if mirrored else 0, other.n, breadth):
            b = min(breadth, other.n - j)
            if how.by_features:
                _along_axes(weights, axis_kernel, x, other, how, chunk, scores, gx, gy, i, j, h, b)
                continue
            down, over = cdiv(h, c.BM), cdiv(b, c.BN)
            sums = None
            if how.sums(parameter_gradients):
                sums = torch.empty((over * 3 * h + down * b,), dtype=torch.float32, device=device)
            weights(chunk, sums, i, j, h, b, STORE=WEIGHTS)
            if sums is not None and by_x is not None and by_y is not None:
                row_sums = sums[: over * 3 * h].view(over, 3, h).sum(0, dtype=torch.float64)
                by_x[:, i : i + h] += row_sums
                if mirrored and j > i:
                    by_x[1, i : i + h] += row_sums[1]  # the mirrored chunk's share of the scale's gradient
                if not same or (mirrored and j > i):
                    by_y[j : j + b] += sums[over * 3 * h :].view(down, b).sum(0, dtype=torch.float64)
            multiply(gx[0, i : i + h], other.rows[j : j + b], h, b, False)
            if gy is not None:
                multiply(gy[0, j : j + b], x.rows[i : i + h], b, h, True)
            elif mirrored and j > i:
                multiply(gx[0, j : j + b], x.rows[i : i + h], b, h, True)
    sums_x = sums_y = None
    if by_x is not None and by_y is not None:
        sums_x = Sums(by_x[0] + by_y if same else by_x[0], by_x[1], by_x[2])
        sums_y = Sums(by_y, torch.zeros_like(by_y), torch.zeros_like(by_y))
    scaled = not how.by_features

    def end(gradient: Tensor, sums: Sums | None, of: Side) -> Tensor:
        return finish(gradient, None if sums is None else sums.total, of, how, dtype, scaled)

    done_x = end(gx, sums_x, x) if needs[0] else None
    return done_x, None if gy is None else end(gy, sums_y, other), sums_x, sums_y


def _along_axes(
    weights: Any,
    axis_kernel: Any,
    x: Side,
    other: Side,
    how: LaunchSpec,
    chunk: Tensor,
    scores: Tensor | None,
    gx: Tensor,
    gy: Tensor | None,
    i: int,
    j: int,
    h: int,
    b: int,
) -> None:
    """Distances by sums or maxima of features: each feature's gradient from dL/ds."""
    weights(chunk, None, i, j, h, b, STORE=SLOPES)
    if scores is not None:
        weights(scores, None, i, j, h, b, STORE=SCORES, SCORES=True)
    targets = [(gx[0], x, other, False)]
    if gy is not None:
        targets.append((gy[0], other, x, True))
    for out, own, others, turned in targets:
        run(
            axis_kernel,
            (cdiv(b if turned else h, 32), x.d),
            *(chunk, scores, own.rows, others.rows, own.factor, others.factor, out),
            *(own.n, others.n, x.d, chunk.stride(0), own.stride, others.stride, i, j, h, b),
            TURNED=turned,
            LARGEST=how.metric == Metric.chebyshev,
            BM=32,
            BN=32,
        )


def aligned(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[rows, columns] whose rows begin at multiples of 16 bytes, as the copy engine writes them."""
    unit = ALIGNMENT // dtype.itemsize
    return torch.empty((rows, cdiv(columns, unit) * unit), dtype=dtype, device=device)[:, :columns]


def matrix(x: Side, y: Side | None, how: LaunchSpec, first: int = 0, rows: int | None = None) -> Tensor:
    """The scores themselves [rows, m], of rows ``first``.. of x."""
    from fastssl.kernels.gradient import weights_kernel

    other = x if y is None else y
    rows = x.n - first if rows is None else rows
    out = aligned(rows, other.n, torch.float32, x.rows.device)
    store_slopes(weights_kernel, x, other, how, Weights(None), out, first, STORE=SCORES, SCORES=True)
    return out


def store_slopes(
    kernel: Any,
    x: Side,
    other: Side,
    how: LaunchSpec,
    w: Weights,
    out: Tensor,
    first: int = 0,
    parameter_gradients: bool = False,
    **more: Any,
) -> Sums | None:
    """Leaves dL/ds of rows ``first``.. in a matrix [rows, m] (STORE=SCORES: the scores); the sums along its rows."""
    given = how.metric == Metric.given
    c = config(how.kernel("weights"), x.rows, WIDE)
    arguments, constants = _call(how, w, False)
    h, m = out.shape
    operands = _operands(x, other) if not given else (x.rows, x.rows, x.n, m, 1, x.stride, 0, None, None, None, None)
    down, over = cdiv(h, c.BM), cdiv(m, c.BN)
    sums = None
    if parameter_gradients:  # given scores have no factors: their weights are the slopes
        sums = torch.empty((over * 3 * h + down * m,), dtype=torch.float32, device=out.device)
    run(
        kernel,
        (down * over,),
        *operands,
        *arguments,
        *(out, sums, first, 0, h, m, out.stride(0)),
        **(how.constants(x) | constants | _tiles(c, x) | {"STORE": WEIGHTS if parameter_gradients else SLOPES} | more),
        ALONG=parameter_gradients,
        GROUP=GROUP,
        INTERIOR=False,
        config=c,
    )
    return None if sums is None else Sums(*sums[: over * 3 * h].view(over, 3, h).sum(0, dtype=torch.float64))


def partner_scores(x: Side, y: Side, partner: Tensor) -> Tensor:
    """[n] products of rows with their partners; 0 where there is none."""
    from fastssl.kernels.matrix import partner_kernel

    out = torch.empty((x.n,), dtype=torch.float32, device=x.rows.device)
    run(
        partner_kernel,
        (cdiv(x.n, 16),),
        *(x.rows, y.rows, x.factor, y.factor, partner, out, x.n, y.n, x.d, x.stride, y.stride),
        BLOCK=16,
        CHUNK=64,
    )
    return out
