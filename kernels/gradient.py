"""Gradients of a pair matrix: dL/ds of a tile, recomputed and used at once.

Two schedules. ``gradient_kernel`` keeps a block of gradient rows in registers while tiles pass by, flash-attention
style; rows of up to 256 features. ``weights_kernel`` leaves dL/ds of a chunk in memory and ``product_kernel`` (matrix.py)
multiplies it with both sides: three products instead of four, for wide rows. Neither uses atomics: the same bits always.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastssl.kernels.epilogues import (
    FAST_AP,
    HINGE,
    LIFTED,
    MATRIX,
    SIGMOID,
    SUMS,
    exp2,
    number,
    parameter_gradients,
    scaled,
    slope,
)
from fastssl.kernels.tiles import (
    ALL,
    BITS,
    CHEBYSHEV,
    EUCLIDEAN,
    GIVEN,
    IDS,
    MANHATTAN,
    MASKED,
    PARTNERED,
    PLAIN,
    SQEUCLIDEAN,
    partners,
    relation,
    scores,
    special_tiles,
    stretch,
    stretches,
)


@triton.jit
def four(OWN, length, at, inside):
    """The four numbers of rows or columns ``at``: OWN is [4, length]."""
    return (
        tl.load(OWN + at, mask=inside, other=0.0),
        tl.load(OWN + length + at, mask=inside, other=0.0),
        tl.load(OWN + 2 * length + at, mask=inside, other=0.0),
        tl.load(OWN + 3 * length + at, mask=inside, other=0.0),
    )


@triton.jit
def table_slope(TABLE, i, positive, negative, s, bins, width):
    """dL/ds of a soft histogram: the difference of the slopes of the two bins that a score falls between."""
    at = s / width
    bin = tl.minimum(tl.maximum(at, 0.0), bins.to(tl.float32)).to(tl.int32)
    fraction = at - bin.to(tl.float32)
    counted = (positive | negative) & (fraction > 0) & (fraction < 1)
    row = TABLE + (i.to(tl.int64) * 2 + negative.to(tl.int64)) * (bins + 2) + bin
    return tl.where(
        counted, (tl.load(row + 1, mask=counted, other=0.0) - tl.load(row, mask=counted, other=0.0)) / width, 0.0
    )


@triton.jit
def tile_slope(
    s, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a, PARTNER_WEIGHT,
    partner_weight_a, offset, own_a, OWN_B, TABLE, bins, width,
    LOSS: tl.constexpr, RELATION: tl.constexpr, ITSELF: tl.constexpr, UPPER: tl.constexpr, VARIANT: tl.constexpr,
    BOUNDED: tl.constexpr, BIAS_COLUMNS: tl.constexpr, SWAPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PARTNER_SIDE: tl.constexpr, ALONG: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    LEVEL: tl.constexpr,
):  # fmt: skip
    """(dL/ds, sums along rows for two parameters) of a tile of scores ``s``.

    ``ROWS``: terms of the rows' own losses; ``COLUMNS``: of the columns'. ``PARTNER_SIDE``: 0 none, 1: PARTNER is that of
    A's rows, 2: of B's.
    """
    rows, columns = a0 + tl.arange(0, BM), b0 + tl.arange(0, BN)
    first = tl.zeros((BM,), tl.float32)
    second = first
    raw = s
    if LOSS == SUMS or LOSS == SIGMOID:
        s = scaled(LOSS, s, scale, BIAS, rows, columns, n, m, BIAS_COLUMNS, SWAPPED)
    if LEVEL == MASKED:
        if SWAPPED:
            positive, negative = relation(columns[None, :], rows[:, None], IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS,
                                          m, n, offset, RELATION, ITSELF, UPPER)  # fmt: skip
        else:
            positive, negative = relation(rows[:, None], columns[None, :], IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS,
                                          n, m, offset, RELATION, ITSELF, UPPER)  # fmt: skip
        back_positive, back_negative = positive, negative
        if COLUMNS and ROWS:  # the pair as the column sees it: only rows against themselves have both
            if UPPER:
                back_positive, back_negative = relation(
                    columns[None, :], rows[:, None], IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, m, n, offset,
                    RELATION, ITSELF, UPPER,
                )  # fmt: skip
        if LOSS == SUMS:
            if RELATION == IDS:
                negative = negative | positive
                back_negative = back_negative | back_positive
    else:
        negative = tl.full((BM, BN), True, tl.int1)
        positive, back_positive, back_negative = negative, negative, negative
    if LEVEL != PLAIN and PARTNER_SIDE != 0:
        if PARTNER_SIDE == 1:
            paired = partner_a[:, None] == columns[None, :]
        else:
            partner_b = partners(PARTNER, columns, m, n)
            paired = rows[:, None] == partner_b[None, :]
        if LEVEL == MASKED:
            paired = paired & (rows < n)[:, None] & (columns < m)[None, :]
        positive, negative = positive & ~paired, negative & ~paired
        back_positive, back_negative = back_positive & ~paired, back_negative & ~paired
    g = tl.zeros((BM, BN), tl.float32)
    if LOSS == FAST_AP:
        if ROWS:
            g = table_slope(TABLE, rows[:, None], positive, negative, s, bins, width)
        if COLUMNS:
            g += table_slope(TABLE, columns[None, :], back_positive, back_negative, s, bins, width)
    else:
        o0, o1, o2, o3 = own_a
        row_state = (o0[:, None], o1[:, None], o2[:, None], o3[:, None])
        col_state = row_state
        if COLUMNS or LOSS == LIFTED:
            c0, c1, c2, c3 = four(OWN_B, m, columns, columns < m)
            col_state = (c0[None, :], c1[None, :], c2[None, :], c3[None, :])
        if LOSS == SUMS and BOUNDED and ROWS and COLUMNS and RELATION == ALL:
            # One exponential serves both: p (1 / sum of the row + 1 / sum of the column), upstream weights included.
            g = exp2(s, SPLIT) * (row_state[0] + col_state[0])
            if LEVEL != PLAIN:
                g = tl.where(negative, g, 0.0)
        else:
            if ROWS:
                across = columns + tl.zeros((BM, 1), tl.int32)
                g = slope(
                    LOSS,
                    s,
                    positive,
                    negative,
                    across,
                    row_state,
                    col_state[0],
                    P,
                    BOUNDED,
                    RELATION == IDS or RELATION == BITS,
                    VARIANT,
                    SPLIT,
                )
                if ALONG:
                    if LOSS == HINGE:
                        first = tl.sum(g, 1)
                    elif LOSS != SUMS and LOSS != SIGMOID:
                        first, second = parameter_gradients(LOSS, s, positive, negative, row_state, P, VARIANT)
            if COLUMNS:
                down = rows[:, None] + tl.zeros((1, BN), tl.int32)
                g += slope(
                    LOSS,
                    s,
                    back_positive,
                    back_negative,
                    down,
                    col_state,
                    row_state[0],
                    P,
                    BOUNDED,
                    RELATION == IDS or RELATION == BITS,
                    VARIANT,
                    SPLIT,
                )
    if LEVEL != PLAIN:
        if PARTNER_SIDE == 1:
            g = tl.where(paired, partner_weight_a[:, None], g)
        elif PARTNER_SIDE == 2:
            weight = tl.load(PARTNER_WEIGHT + columns, mask=columns < m, other=0.0)
            g = tl.where(paired, weight[None, :], g)
    if ALONG:
        if LOSS == SUMS or LOSS == SIGMOID:  # for the scale; where a weight is 0 the score may be infinite
            first = tl.sum(tl.where(g != 0, g * raw, 0.0), 1)
    return g, first, second


@triton.jit
def given(a0, b0, n, m, MATRIX_AT, matrix_stride, SWAPPED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """A tile of dL/ds from a matrix [rows of x, rows of y]."""
    rows, columns = a0 + tl.arange(0, BM), b0 + tl.arange(0, BN)
    inside = (rows < n)[:, None] & (columns < m)[None, :]
    if SWAPPED:
        at = MATRIX_AT + columns.to(tl.int64)[None, :] * matrix_stride + rows[:, None]
    else:
        at = MATRIX_AT + rows.to(tl.int64)[:, None] * matrix_stride + columns[None, :]
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def slopes(
    s, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a,
    PARTNER_WEIGHT, partner_weight_a, offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width,
    LOSS: tl.constexpr, RELATION: tl.constexpr, ITSELF: tl.constexpr, UPPER: tl.constexpr, VARIANT: tl.constexpr,
    BOUNDED: tl.constexpr, BIAS_COLUMNS: tl.constexpr, SWAPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PARTNER_SIDE: tl.constexpr, ALONG: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    LEVEL: tl.constexpr,
):  # fmt: skip
    """``tile_slope``, or what is given of it."""
    if LOSS == MATRIX:
        g = given(a0, b0, n, m, MATRIX_AT, matrix_stride, SWAPPED, BM, BN)
        first = tl.zeros((BM,), tl.float32)
        second = first
    else:
        g, first, second = tile_slope(
            s, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a, PARTNER_WEIGHT,
            partner_weight_a, offset, own_a, OWN_B, TABLE, bins, width, LOSS, RELATION, ITSELF,
            UPPER, VARIANT, BOUNDED, BIAS_COLUMNS, SWAPPED, ROWS, COLUMNS, PARTNER_SIDE, ALONG, BM, BN, SPLIT, LEVEL,
        )  # fmt: skip
    return g, first, second


@triton.jit
def weigh(g, s, METRIC: tl.constexpr):
    """dL/ds becomes what multiplies rows: of distances w, where dL/dx_i = sum_j w_ij (x_i - y_j)."""
    if METRIC == SQEUCLIDEAN:
        return 2 * g
    elif METRIC == EUCLIDEAN:
        return tl.where(s == 0, 0.0, g / tl.where(s == 0, 1.0, s))  # the subgradient 0 at distance 0
    else:
        return g


@triton.jit
def add_tile(
    acc, total, first, second, b0, A, B, a_rows, b_rows, a, a0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB,
    scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a, PARTNER_WEIGHT, partner_weight_a,
    offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, SUMS_OUT, FILTER,
    LOSS: tl.constexpr, METRIC: tl.constexpr, RELATION: tl.constexpr, ITSELF: tl.constexpr, UPPER: tl.constexpr,
    VARIANT: tl.constexpr, BOUNDED: tl.constexpr, SAME: tl.constexpr, EXACT: tl.constexpr, BIAS_COLUMNS: tl.constexpr,
    SWAPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTNER_SIDE: tl.constexpr, SCORES: tl.constexpr,
    ALONG: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
    SPLIT: tl.constexpr, LEVEL: tl.constexpr,
):  # fmt: skip
    """One more tile of weights times rows of B, and the sums."""
    s = tl.zeros((BM, BN), tl.float32)
    if SCORES:
        s = scores(A, B, a_rows, b_rows, a, a0, b0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB, METRIC, SAME, EXACT,
                   SWAPPED, BM, BN, BK, True, PRECISION)  # fmt: skip
    g, more_first, more_second = slopes(
        s, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a,
        PARTNER_WEIGHT, partner_weight_a, offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, LOSS,
        RELATION, ITSELF, UPPER, VARIANT, BOUNDED, BIAS_COLUMNS, SWAPPED, ROWS, COLUMNS, PARTNER_SIDE, ALONG, BM, BN,
        SPLIT, LEVEL,
    )  # fmt: skip
    w = weigh(g, s, METRIC)
    if SUMS_OUT is not None:
        total += tl.sum(w, 1)
    if FB is not None:
        columns = b0 + tl.arange(0, BN)
        w = w * tl.load(FB + columns, mask=columns < m, other=0.0)[None, :]
    b = b_rows.load([b0, 0])
    if FILTER is not None:  # softmax below this has no place in the result's precision
        if tl.max(tl.abs(w)) > FILTER:
            acc = tl.dot(w.to(b.dtype), b, acc, input_precision=PRECISION)
    else:
        acc = tl.dot(w.to(b.dtype), b, acc, input_precision=PRECISION)
    return acc, total, first + more_first, second + more_second


@triton.jit(do_not_specialize=["n", "m", "PARTNER", "offset", "matrix_stride", "bins", "width", "tiles_per_split"])
def gradient_kernel(
    A, B, n, m, d, stride_a, stride_b, FA, FB, QA, QB,
    SCALE, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, PARTNER_WEIGHT, offset,
    OWN_A, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, OUT, SUMS_OUT, tiles_per_split, FILTER,
    LOSS: tl.constexpr, METRIC: tl.constexpr, RELATION: tl.constexpr, ITSELF: tl.constexpr, UPPER: tl.constexpr,
    VARIANT: tl.constexpr, BOUNDED: tl.constexpr, SAME: tl.constexpr, EXACT: tl.constexpr, BIAS_COLUMNS: tl.constexpr,
    SWAPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTNER_SIDE: tl.constexpr, SCORES: tl.constexpr,
    ALONG: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
    SPLIT: tl.constexpr, SPECIALIZE: tl.constexpr, INTERIOR: tl.constexpr,
):  # fmt: skip
    """OUT [splits, n, d]: sum over a split's columns of weights times rows of B; SUMS_OUT [splits, 3, n] or None: sums
    of the weights, and along rows for two parameters. A block of A and each block of B are read once; BK >= d."""
    CAN_BE_PLAIN: tl.constexpr = (LOSS == SUMS or LOSS == SIGMOID) and RELATION == ALL
    block, split = tl.program_id(0), tl.program_id(1)
    a0 = block * BM
    rows = a0 + tl.arange(0, BM)
    a_rows = tl.make_tensor_descriptor(A, shape=[n, d], strides=[stride_a, 1], block_shape=[BM, BK])
    b_rows = tl.make_tensor_descriptor(B, shape=[m, d], strides=[stride_b, 1], block_shape=[BN, BK])
    a = a_rows.load([a0, 0])
    fa = tl.full((BM,), 1.0, tl.float32)
    if FA is not None:
        fa = tl.load(FA + rows, mask=rows < n, other=0.0)
    qa = fa
    if QA is not None:
        qa = tl.load(QA + rows, mask=rows < n, other=0.0)
    scale = 1.0
    if LOSS == SUMS or LOSS == SIGMOID:
        scale = number(SCALE)
    own_a = (fa, fa, fa, fa)
    if OWN_A is not None:
        own_a = four(OWN_A, n, rows, rows < n)
    partner_a, partner_weight_a = rows, fa
    if PARTNER_SIDE == 1:
        partner_a = partners(PARTNER, rows, n, m)
        partner_weight_a = tl.load(PARTNER_WEIGHT + rows, mask=(rows < n) & (partner_a >= 0), other=0.0)
    total = tl.zeros((BM,), tl.float32)
    first, second = total, total
    acc = tl.zeros((BM, BK), tl.float32)
    begin = split * tiles_per_split
    end = tl.minimum(begin + tiles_per_split, tl.cdiv(m, BN))
    if CAN_BE_PLAIN:
        LEVEL: tl.constexpr = PARTNERED if PARTNER_SIDE != 0 and PARTNER.dtype.is_ptr() else PLAIN
        special, special_end, other, other_end, whole = special_tiles(PARTNER, partner_a, a0, n, m, PARTNER_SIDE, ITSELF,
                                                                      BM, BN)  # fmt: skip
        parts = stretches(begin, end, special, special_end, other, other_end, whole)
        for k in range(1 if INTERIOR else 3):
            start, stop, resume = stretch(k, parts)
            for tile in tl.range(start, end if INTERIOR else stop, warp_specialize=SPECIALIZE):
                acc, total, first, second = add_tile(
                    acc, total, first, second, tile * BN, A, B, a_rows, b_rows, a, a0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB,
                    scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a, PARTNER_WEIGHT, partner_weight_a,
                    offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, SUMS_OUT, FILTER, LOSS, METRIC, RELATION,
                    ITSELF, UPPER, VARIANT, BOUNDED, SAME, EXACT, BIAS_COLUMNS, SWAPPED, ROWS, COLUMNS, PARTNER_SIDE, SCORES, ALONG,
                    BM, BN, BK, PRECISION, SPLIT, LEVEL,
                )  # fmt: skip
            if not INTERIOR:
                for tile in tl.range(stop, resume, warp_specialize=SPECIALIZE):
                    acc, total, first, second = add_tile(
                        acc, total, first, second, tile * BN, A, B, a_rows, b_rows, a, a0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB,
                        scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a, PARTNER_WEIGHT, partner_weight_a,
                        offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, SUMS_OUT, FILTER, LOSS, METRIC, RELATION,
                        ITSELF, UPPER, VARIANT, BOUNDED, SAME, EXACT, BIAS_COLUMNS, SWAPPED, ROWS, COLUMNS, PARTNER_SIDE, SCORES, ALONG,
                        BM, BN, BK, PRECISION, SPLIT, MASKED,
                    )  # fmt: skip
    else:
        for tile in tl.range(begin, end, warp_specialize=SPECIALIZE):
            acc, total, first, second = add_tile(
                acc, total, first, second, tile * BN, A, B, a_rows, b_rows, a, a0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB,
                scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a, PARTNER_WEIGHT, partner_weight_a,
                offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, SUMS_OUT, FILTER, LOSS, METRIC, RELATION,
                ITSELF, UPPER, VARIANT, BOUNDED, SAME, EXACT, BIAS_COLUMNS, SWAPPED, ROWS, COLUMNS, PARTNER_SIDE, SCORES, ALONG,
                BM, BN, BK, PRECISION, SPLIT, MASKED,
            )  # fmt: skip
    features = tl.arange(0, BK)
    inside = (rows < n)[:, None] & (features < d)[None, :]
    place = (split.to(tl.int64) * n + rows)[:, None] * d + features[None, :]
    tl.store(OUT + place, acc, mask=inside)
    if SUMS_OUT is not None:
        into = SUMS_OUT + split.to(tl.int64) * 3 * n + rows
        tl.store(into, total, mask=rows < n)
        tl.store(into + n, first, mask=rows < n)
        tl.store(into + 2 * n, second, mask=rows < n)


@triton.jit(do_not_specialize=["n", "m", "PARTNER", "offset", "matrix_stride", "bins", "width", "row0", "column0", "height",
                               "breadth"])  # fmt: skip
def weights_kernel(
    A, B, n, m, d, stride_a, stride_b, FA, FB, QA, QB,
    SCALE, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, PARTNER_WEIGHT, offset,
    OWN_A, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, OUT, SUMS_OUT, row0, column0, height, breadth, stride_out,
    LOSS: tl.constexpr, METRIC: tl.constexpr, RELATION: tl.constexpr, ITSELF: tl.constexpr, UPPER: tl.constexpr,
    VARIANT: tl.constexpr, BOUNDED: tl.constexpr, SAME: tl.constexpr, EXACT: tl.constexpr, BIAS_COLUMNS: tl.constexpr,
    SWAPPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTNER_SIDE: tl.constexpr, SCORES: tl.constexpr,
    ALONG: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
    SPLIT: tl.constexpr, STORE: tl.constexpr, GROUP: tl.constexpr, INTERIOR: tl.constexpr,
):  # fmt: skip
    """OUT [height, stride_out]: weights of rows row0.. and columns column0.., times the factors of both.

    SUMS_OUT, or None: for every tile three sums by row [tiles across, 3, height], behind them one by column [tiles down, breadth].
    ``STORE``: 0 weights; 1 dL/ds as it is; 2 the scores.
    """
    down, over = tl.cdiv(height, BM), tl.cdiv(breadth, BN)
    # Tiles in groups of GROUP rows, so that the blocks of B that a wave reads stay in L2.
    program = tl.program_id(0)
    group = program // (GROUP * over)
    tall = tl.minimum(down - group * GROUP, GROUP)
    i = group * GROUP + (program % (GROUP * over)) % tall
    j = (program % (GROUP * over)) // tall
    a0, b0 = row0 + i * BM, column0 + j * BN
    rows, columns = a0 + tl.arange(0, BM), b0 + tl.arange(0, BN)
    a_rows, b_rows, a = A, B, A
    if SCORES:
        if METRIC != GIVEN and METRIC != MANHATTAN and METRIC != CHEBYSHEV:
            a_rows = tl.make_tensor_descriptor(A, shape=[n, d], strides=[stride_a, 1], block_shape=[BM, BK])
            b_rows = tl.make_tensor_descriptor(B, shape=[m, d], strides=[stride_b, 1], block_shape=[BN, BK])
    fa = tl.full((BM,), 1.0, tl.float32)
    if FA is not None:
        fa = tl.load(FA + rows, mask=rows < n, other=0.0)
    qa = fa
    if QA is not None:
        qa = tl.load(QA + rows, mask=rows < n, other=0.0)
    scale = 1.0
    if LOSS == SUMS or LOSS == SIGMOID:
        scale = number(SCALE)
    own_a = (fa, fa, fa, fa)
    if OWN_A is not None:
        own_a = four(OWN_A, n, rows, rows < n)
    partner_a, partner_weight_a = rows, fa
    if PARTNER_SIDE == 1:
        partner_a = partners(PARTNER, rows, n, m)
        partner_weight_a = tl.load(PARTNER_WEIGHT + rows, mask=(rows < n) & (partner_a >= 0), other=0.0)
    local_rows, local_columns = rows - row0, columns - column0
    into = tl.make_tensor_descriptor(OUT, shape=[height, breadth], strides=[stride_out, 1], block_shape=[BM, BN])
    s = tl.zeros((BM, BN), tl.float32)
    if SCORES:
        s = scores(A, B, a_rows, b_rows, a, a0, b0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB, METRIC, SAME, EXACT,
                   SWAPPED, BM, BN, BK, False, PRECISION)  # fmt: skip
    if STORE == 2:
        into.store([i * BM, j * BN], s.to(OUT.dtype.element_ty))
    else:
        if (LOSS == SUMS or LOSS == SIGMOID) and RELATION == ALL:
            LEVEL: tl.constexpr = PARTNERED if PARTNER_SIDE != 0 and PARTNER.dtype.is_ptr() else PLAIN
            first_tile, first_end, second_tile, second_end, whole = special_tiles(PARTNER, partner_a, a0, n, m,
                                                                                  PARTNER_SIDE, ITSELF, BM, BN)  # fmt: skip
            tile = b0 // BN
            special = (tile >= first_tile) & (tile < first_end) | (tile >= second_tile) & (tile < second_end)
            if INTERIOR:
                g, first, second = slopes(
                    s, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a,
                    PARTNER_WEIGHT, partner_weight_a, offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, LOSS,
                    RELATION, ITSELF, UPPER, VARIANT, BOUNDED, BIAS_COLUMNS, SWAPPED, ROWS, COLUMNS, PARTNER_SIDE, ALONG, BM, BN,
                    SPLIT, LEVEL,
                )  # fmt: skip
            elif special | (tile >= whole) | (b0 % BN != 0):
                g, first, second = slopes(
                    s, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a,
                    PARTNER_WEIGHT, partner_weight_a, offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, LOSS,
                    RELATION, ITSELF, UPPER, VARIANT, BOUNDED, BIAS_COLUMNS, SWAPPED, ROWS, COLUMNS, PARTNER_SIDE, ALONG, BM, BN,
                    SPLIT, MASKED,
                )  # fmt: skip
            else:
                g, first, second = slopes(
                    s, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a,
                    PARTNER_WEIGHT, partner_weight_a, offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, LOSS,
                    RELATION, ITSELF, UPPER, VARIANT, BOUNDED, BIAS_COLUMNS, SWAPPED, ROWS, COLUMNS, PARTNER_SIDE, ALONG, BM, BN,
                    SPLIT, LEVEL,
                )  # fmt: skip
        else:
            g, first, second = slopes(
                s, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, partner_a,
                PARTNER_WEIGHT, partner_weight_a, offset, own_a, OWN_B, MATRIX_AT, matrix_stride, TABLE, bins, width, LOSS,
                RELATION, ITSELF, UPPER, VARIANT, BOUNDED, BIAS_COLUMNS, SWAPPED, ROWS, COLUMNS, PARTNER_SIDE, ALONG, BM, BN,
                SPLIT, MASKED,
            )  # fmt: skip
        if STORE == 1:
            into.store([i * BM, j * BN], g.to(OUT.dtype.element_ty))
        else:
            w = weigh(g, s, METRIC)
            scaled = w
            if FA is not None:
                scaled = w * fa[:, None] * tl.load(FB + columns, mask=columns < m, other=0.0)[None, :]
            into.store([i * BM, j * BN], scaled.to(OUT.dtype.element_ty))
            if SUMS_OUT is not None:
                at = SUMS_OUT + j.to(tl.int64) * 3 * height + local_rows
                tl.store(at, tl.sum(w, 1), mask=local_rows < height)
                tl.store(at + height, first, mask=local_rows < height)
                tl.store(at + 2 * height, second, mask=local_rows < height)
                at = SUMS_OUT + over.to(tl.int64) * 3 * height + i.to(tl.int64) * breadth + local_columns
                tl.store(at, tl.sum(w, 0), mask=local_columns < breadth)
