"""Row and column statistics of a pair matrix that is never stored."""

from __future__ import annotations

import triton
import triton.language as tl
from fastssl.kernels.ends import add_blocks
from fastssl.kernels.epilogues import SIGMOID, SUMS, empty, exp2, number, scaled, update
from fastssl.kernels.tiles import (
    ALL,
    BITS,
    CHEBYSHEV,
    GIVEN,
    IDS,
    MANHATTAN,
    MASKED,
    PARTNERED,
    PLAIN,
    partners,
    relation,
    scores,
    special_tiles,
    stretch,
    stretches,
)


@triton.jit
def fold(state, s, block, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, partner, offset, row_state0,
         OTHER0, OTHER1, COLUMNS, LOSS: tl.constexpr, RELATION: tl.constexpr, ITSELF: tl.constexpr, UPPER: tl.constexpr,
         VARIANT: tl.constexpr, BOUNDED: tl.constexpr, TRIANGLE: tl.constexpr, BIAS_COLUMNS: tl.constexpr,
         PARTNERS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
         LEVEL: tl.constexpr):  # fmt: skip
    """A tile into the numbers of its rows and, where COLUMNS is given, of its columns."""
    rows, columns = a0 + tl.arange(0, BM), b0 + tl.arange(0, BN)
    if LOSS == SUMS or LOSS == SIGMOID:
        s = scaled(LOSS, s, scale, BIAS, rows, columns, n, m, BIAS_COLUMNS, False)
    if LEVEL == MASKED:
        positive, negative = relation(rows[:, None], columns[None, :], IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS,
                                      n, m, offset, RELATION, ITSELF, UPPER)  # fmt: skip
        if LOSS == SUMS:
            if RELATION == IDS:  # sums are over everybody; positives besides
                negative = negative | positive
        if PARTNERS:
            alone = partner[:, None] != columns[None, :]
            negative = negative & alone
            positive = positive & alone
    elif LEVEL == PARTNERED:
        negative = partner[:, None] != columns[None, :]
        positive = negative
    else:
        negative = tl.full((BM, BN), True, tl.int1)
        positive = negative
    col_state0, col_state1 = row_state0, row_state0
    if OTHER0 is not None:
        col_state0 = tl.load(OTHER0 + columns, mask=columns < m, other=0.0)[None, :]
    if OTHER1 is not None:
        col_state1 = (tl.load(OTHER1 + columns, mask=columns < m, other=0.0)[None, :]
                  + tl.load(OTHER1 + rows, mask=rows < n, other=0.0)[:, None])  # fmt: skip
    if COLUMNS is not None:
        into = COLUMNS + block.to(tl.int64) * m + columns
        counted = negative
        if LEVEL == MASKED:
            counted = negative & (rows < n)[:, None]
        if BOUNDED:
            total = tl.sum(tl.where(counted, exp2(s, SPLIT), 0.0), 0)
        else:
            most = tl.max(tl.where(counted, s, -float("inf")), 0)
            safe = tl.where(most == -float("inf"), 0.0, most)
            total = tl.sum(tl.where(counted, exp2(s - safe[None, :], SPLIT), 0.0), 0)
            total = safe + tl.log2(total)
        inside = columns < m
        if TRIANGLE:
            inside = inside & (columns >= a0 + BM)
        tl.store(into, total, mask=inside)
    return update(LOSS, state, s, positive, negative, columns, row_state0, col_state0, col_state1, P, BOUNDED, RELATION == IDS or RELATION == BITS, VARIANT,
                  SPLIT)  # fmt: skip


@triton.jit(do_not_specialize=["n", "m", "PARTNER", "offset", "first_block", "tiles_per_split"])
def reduce_kernel(
    A, B, n, m, d, stride_a, stride_b, FA, FB, QA, QB,
    SCALE, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, PARTNER, offset,
    OWN0, OTHER0, OTHER1, OUT, COLUMNS, first_block, tiles_per_split,
    LOSS: tl.constexpr, METRIC: tl.constexpr, RELATION: tl.constexpr, ITSELF: tl.constexpr, UPPER: tl.constexpr,
    VARIANT: tl.constexpr, BOUNDED: tl.constexpr, TRIANGLE: tl.constexpr, SAME: tl.constexpr, EXACT: tl.constexpr,
    BIAS_COLUMNS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr, SPLIT: tl.constexpr, SPECIALIZE: tl.constexpr, INTERIOR: tl.constexpr,
):  # fmt: skip
    """OUT [splits, 4, n]: what ``update`` makes of the columns of a split; COLUMNS [row blocks, m] or None.

    Program (split, block): rows block * BM of A against ``tiles_per_split`` blocks of B; those that run at once share few blocks of
    A and of B, which stay in L2. ``TRIANGLE``: rows against
    themselves, where a tile above the diagonal serves its rows and, through COLUMNS, its columns. COLUMNS gets log2 of
    the sum of a column within the block (BOUNDED: the sum). ``INTERIOR``: as if no tile needed masks, to count the
    instructions of those that do not.
    """
    CAN_BE_PLAIN: tl.constexpr = (LOSS == SUMS or LOSS == SIGMOID) and RELATION == ALL
    split, block = tl.program_id(0), tl.program_id(1) + first_block
    a0 = block * BM
    rows = a0 + tl.arange(0, BM)
    a_rows, b_rows, a = A, B, A
    if METRIC != GIVEN and METRIC != MANHATTAN and METRIC != CHEBYSHEV:
        a_rows = tl.make_tensor_descriptor(A, shape=[n, d], strides=[stride_a, 1], block_shape=[BM, BK])
        b_rows = tl.make_tensor_descriptor(B, shape=[m, d], strides=[stride_b, 1], block_shape=[BN, BK])
        if RESIDENT:
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
    row_state0 = tl.zeros((BM, 1), tl.float32)
    if OWN0 is not None:
        row_state0 = tl.load(OWN0 + rows, mask=rows < n, other=0.0)[:, None]
    partner = rows
    if PARTNER is not None:
        partner = partners(PARTNER, rows, n, m)
    state = empty(LOSS, BM)

    begin = split * tiles_per_split
    if TRIANGLE or UPPER:
        begin += a0 // BN
    end = tl.minimum(begin + tiles_per_split, tl.cdiv(m, BN))
    if CAN_BE_PLAIN:
        LEVEL: tl.constexpr = PARTNERED if PARTNER is not None and PARTNER.dtype.is_ptr() else PLAIN
        first, first_end, second, second_end, whole = special_tiles(
            PARTNER, partner, a0, n, m, 0 if PARTNER is None else 1, ITSELF, BM, BN
        )
        parts = stretches(begin, end, first, first_end, second, second_end, whole)
        for k in range(1 if INTERIOR else 3):
            start, stop, resume = stretch(k, parts)
            for tile in tl.range(start, end if INTERIOR else stop, warp_specialize=SPECIALIZE):
                b0 = tile * BN
                s = scores(A, B, a_rows, b_rows, a, a0, b0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB, METRIC, SAME, EXACT,
                           False, BM, BN, BK, RESIDENT, PRECISION)  # fmt: skip
                state = fold(state, s, block - first_block, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS,
                             partner, offset, row_state0, OTHER0, OTHER1, COLUMNS, LOSS, RELATION, ITSELF, UPPER, VARIANT, BOUNDED, TRIANGLE,
                             BIAS_COLUMNS, PARTNER is not None, BM, BN, SPLIT, LEVEL)  # fmt: skip
            if not INTERIOR:
                for tile in tl.range(stop, resume, warp_specialize=SPECIALIZE):
                    b0 = tile * BN
                    s = scores(A, B, a_rows, b_rows, a, a0, b0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB, METRIC, SAME, EXACT,
                               False, BM, BN, BK, RESIDENT, PRECISION)  # fmt: skip
                    state = fold(state, s, block - first_block, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS,
                                 partner, offset, row_state0, OTHER0, OTHER1, COLUMNS, LOSS, RELATION, ITSELF, UPPER, VARIANT, BOUNDED, TRIANGLE,
                                 BIAS_COLUMNS, PARTNER is not None, BM, BN, SPLIT, MASKED)  # fmt: skip
    else:
        for tile in tl.range(begin, end, warp_specialize=SPECIALIZE):
            b0 = tile * BN
            s = scores(A, B, a_rows, b_rows, a, a0, b0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB, METRIC, SAME, EXACT,
                       False, BM, BN, BK, RESIDENT, PRECISION)  # fmt: skip
            state = fold(state, s, block - first_block, a0, b0, n, m, scale, BIAS, P, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS,
                         partner, offset, row_state0, OTHER0, OTHER1, COLUMNS, LOSS, RELATION, ITSELF, UPPER, VARIANT, BOUNDED, TRIANGLE,
                         BIAS_COLUMNS, PARTNER is not None, BM, BN, SPLIT, MASKED)  # fmt: skip
    into = OUT + split.to(tl.int64) * 4 * n + rows
    for k in tl.static_range(4):
        tl.store(into + k * n, state[k], mask=rows < n)


@triton.jit(do_not_specialize=["m", "first_block", "blocks", "rows_per_block"])
def columns_kernel(
    COLUMNS, OUT, m, first_block, blocks, rows_per_block,
    BOUNDED: tl.constexpr, TRIANGLE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Adds a band of COLUMNS [blocks, m] to OUT [2, m] (maximum, sum below it)."""
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = columns < m
    most = tl.load(OUT + columns, mask=inside, other=0.0)
    total = tl.load(OUT + m + columns, mask=inside, other=0.0)
    most, total = add_blocks(
        most, total, COLUMNS, columns, m, first_block, blocks, rows_per_block, BOUNDED, TRIANGLE, BM
    )
    tl.store(OUT + columns, most, mask=inside)
    tl.store(OUT + m + columns, total, mask=inside)
