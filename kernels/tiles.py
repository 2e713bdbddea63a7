"""Tiles of scores: rows of A against rows of B, what they are called in the relation, and which pairs they make.

Every kernel is this mainloop with another end (DESIGN: scores, relation, statistics, gradient). A program owns BM rows
of A and walks over blocks of BN rows of B. A is x or y of the loss: ``SWAPPED`` says that A is y, which matters only to
relations that are not symmetric.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastssl._table import Itself, Metric, Pairing

LOG2E = tl.constexpr(1.4426950408889634)
LOG2E_REST = tl.constexpr(1.925963033500011e-8)  # what float32 leaves of it
LN2 = tl.constexpr(0.6931471805599453)
INFINITY = tl.constexpr(float("inf"))
TINY = tl.constexpr(1e-30)

DOT = tl.constexpr(Metric.dot.value)
SQEUCLIDEAN = tl.constexpr(Metric.sqeuclidean.value)
EUCLIDEAN = tl.constexpr(Metric.euclidean.value)
MANHATTAN = tl.constexpr(Metric.manhattan.value)
CHEBYSHEV = tl.constexpr(Metric.chebyshev.value)
GIVEN = tl.constexpr(Metric.given.value)
ALL = tl.constexpr(Pairing.all.value)
IDS = tl.constexpr(Pairing.ids.value)
BITS = tl.constexpr(Pairing.bits.value)
DISTINCT = tl.constexpr(Pairing.distinct.value)
NOWHERE = tl.constexpr(Itself.nowhere.value)
DIAGONAL = tl.constexpr(Itself.diagonal.value)
OFFSET = tl.constexpr(Itself.offset.value)

# Below this share of |x|^2 + |y|^2 a squared distance has lost its digits to cancellation, and is summed from
# differences instead. 1e-3 keeps 3 of fp32's 7 digits; ordinary pairs of rows are far above it.
CLOSE = tl.constexpr(1e-3)


@triton.jit
def products(a_rows, b_rows, a, a0, b0, d, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
             RESIDENT: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """a . b for a tile; ``RESIDENT``: the block of A stays in shared memory, D fits one step."""
    if RESIDENT:
        result = tl.dot(a, b_rows.load([b0, 0]).T, input_precision=PRECISION)
    else:
        result = tl.zeros((BM, BN), tl.float32)
        for k in tl.range(0, d, BK):
            result = tl.dot(a_rows.load([a0, k]), b_rows.load([b0, k]).T, result, input_precision=PRECISION)
    return result


@triton.jit
def by_differences(A, B, rows, columns, n, m, d, stride_a, stride_b, fa, fb, METRIC: tl.constexpr,
                   BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """Distances summed from differences of features: exact for near pairs, and all there is for p = 1 and infinity."""
    result = tl.zeros((BM, BN), tl.float32)
    at_a, at_b = A + rows.to(tl.int64) * stride_a, B + columns.to(tl.int64) * stride_b
    for k in range(0, d):
        a = tl.load(at_a + k, mask=rows < n, other=0.0).to(tl.float32) * fa
        b = tl.load(at_b + k, mask=columns < m, other=0.0).to(tl.float32) * fb
        difference = tl.abs(a[:, None] - b[None, :])
        if METRIC == MANHATTAN:
            result += difference
        elif METRIC == CHEBYSHEV:
            larger = (difference > result) | (difference != difference)
            result = tl.where(larger, difference, result)
        else:
            result += difference * difference
    return result


@triton.jit
def scores(A, B, a_rows, b_rows, a, a0, b0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB, METRIC: tl.constexpr,
           SAME: tl.constexpr, EXACT: tl.constexpr, SWAPPED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
           BK: tl.constexpr, RESIDENT: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The scores of a tile in natural units, before scale and bias.

    ``fa``, ``FB``: factors of rows (1 / length where they are normalised; in ``fa`` also a scale); ``qa``, ``QB``:
    squared lengths, for Euclidean distances.
    """
    rows, columns = a0 + tl.arange(0, BM), b0 + tl.arange(0, BN)
    if METRIC == GIVEN:
        inside = (rows < n)[:, None] & (columns < m)[None, :]
        if SWAPPED:  # A is the matrix of scores [columns, rows]
            s = tl.load(A + columns.to(tl.int64)[None, :] * stride_a + rows[:, None], mask=inside, other=0.0)
        else:
            s = tl.load(A + rows.to(tl.int64)[:, None] * stride_a + columns[None, :], mask=inside, other=0.0)
        s = s.to(tl.float32)
    else:
        fb = tl.full((BN,), 1.0, tl.float32)
        if FB is not None:
            fb = tl.load(FB + columns, mask=columns < m, other=0.0)
        if METRIC == MANHATTAN or METRIC == CHEBYSHEV:
            s = by_differences(A, B, rows, columns, n, m, d, stride_a, stride_b, fa, fb, METRIC, BM, BN)
        else:
            s = products(a_rows, b_rows, a, a0, b0, d, BM, BN, BK, RESIDENT, PRECISION)
            if FA is not None:
                s = s * fa[:, None]
            if FB is not None:
                s = s * fb[None, :]
            if METRIC == SQEUCLIDEAN or METRIC == EUCLIDEAN:
                qb = tl.load(QB + columns, mask=columns < m, other=0.0)
                both = qa[:, None] + qb[None, :]
                s = both - 2 * s
                s = tl.where(s < 0, 0.0, s)  # NaN stays
                itself = rows[:, None] == columns[None, :]
                if EXACT:
                    close = (s < both * CLOSE) & (rows < n)[:, None] & (columns < m)[None, :]
                    if SAME:
                        close = close & ~itself
                    if tl.max(close.to(tl.int32)) > 0:
                        exact = by_differences(A, B, rows, columns, n, m, d, stride_a, stride_b, fa, fb, METRIC, BM, BN)
                        s = tl.where(close, exact, s)
                if SAME:
                    s = tl.where(itself & (s == s), 0.0, s)
                if METRIC == EUCLIDEAN:
                    s = tl.sqrt(s)
    return s


@triton.jit
def partners(PARTNER, rows, n, m):
    """The partner of each row of n among m columns: from memory, or where PARTNER is a number (row + it) % m; rows from m on
    have none then."""
    if PARTNER.dtype.is_ptr():
        return tl.load(PARTNER + rows, mask=rows < n, other=-1).to(tl.int32)
    else:
        partner = rows + PARTNER
        return tl.where(rows >= m, -1, tl.where(partner >= m, partner - m, partner)).to(tl.int32)


@triton.jit
def is_itself(i, j, m, offset, ITSELF: tl.constexpr):
    if ITSELF == OFFSET:
        return (offset + i) % m == j
    else:
        return i == j


@triton.jit
def relation(i, j, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, n, m, offset, RELATION: tl.constexpr,
             ITSELF: tl.constexpr, UPPER: tl.constexpr):  # fmt: skip
    """Positives and negatives of rows ``i`` of x and columns ``j`` of y, which broadcast to the tile."""
    inside = (i < n) & (j < m)
    if RELATION == ALL:
        negative = inside
        positive = inside & False
    elif RELATION == IDS or RELATION == DISTINCT:
        same = tl.load(IDS_X + i, mask=i < n, other=0) == tl.load(IDS_Y + j, mask=j < m, other=0)
        positive = inside & same & (RELATION == IDS)
        negative = inside & ~same
    else:
        word = (i >> 5).to(tl.int64) * m + j
        positive = inside & (((tl.load(POSITIVE_BITS + word, mask=inside, other=0) >> (i & 31)) & 1) != 0)
        negative = inside & (((tl.load(NEGATIVE_BITS + word, mask=inside, other=0) >> (i & 31)) & 1) != 0)
    if ITSELF != NOWHERE:
        other = ~is_itself(i, j, m, offset, ITSELF)
        positive = positive & other
        negative = negative & other
    if UPPER:
        positive = positive & (i < j)
        negative = negative & (i < j)
    return positive, negative


# What a tile must look at. Most tiles of a loss without positives are plain: loops over them have no branch, which Triton's
# pipelines need.
PLAIN = tl.constexpr(0)  # every pair counts
PARTNERED = tl.constexpr(1)  # but for partners, which may lie anywhere
MASKED = tl.constexpr(2)  # edges, rows themselves, labels


@triton.jit
def special_tiles(PARTNER, partner_a, a0, n, m, PARTNER_SIDE: tl.constexpr, ITSELF: tl.constexpr, BM: tl.constexpr,
                  BN: tl.constexpr):  # fmt: skip
    """(first, end, first, end, whole): the tiles of B with a row of A itself and with partners of A's rows, in order, which
    are masked; those from ``whole`` on are too, since they have an edge."""
    whole = tl.where(a0 + BM <= n, m // BN, 0)
    first, first_end = whole, whole
    second, second_end = whole, whole
    if ITSELF != NOWHERE:
        first, first_end = a0 // BN, tl.cdiv(a0 + BM, BN)
    if PARTNER_SIDE == 1:
        if not PARTNER.dtype.is_ptr():
            second, second_end = tl.min(partner_a, 0) // BN, tl.max(partner_a, 0) // BN + 1
    swap = second < first
    return (
        tl.where(swap, second, first),
        tl.where(swap, second_end, first_end),
        tl.where(swap, first, second),
        tl.where(swap, first_end, second_end),
        whole,
    )


@triton.jit
def between(low, x, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def stretches(begin, end, first, first_end, second, second_end, whole):
    """(begin, stop, resume) of three stretches of tiles begin..end: plain ones are begin..stop, masked ones stop..resume."""
    edge = between(begin, whole, end)
    stop0 = between(begin, first, edge)
    resume0 = between(stop0, first_end, end)
    stop1 = between(resume0, second, tl.maximum(edge, resume0))
    resume1 = between(stop1, second_end, end)
    stop2 = tl.maximum(edge, resume1)
    return begin, stop0, resume0, stop1, resume1, stop2, end


@triton.jit
def stretch(k, all_of_them):
    """The k-th. Chosen, not carried from one to the next: Triton 3.6 loses the bound of a loop that is carried."""
    begin, stop0, resume0, stop1, resume1, stop2, end = all_of_them
    return (
        tl.where(k == 0, begin, tl.where(k == 1, resume0, resume1)),
        tl.where(k == 0, stop0, tl.where(k == 1, stop1, stop2)),
        tl.where(k == 0, resume0, tl.where(k == 1, resume1, end)),
    )
