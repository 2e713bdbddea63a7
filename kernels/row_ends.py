"""What lies at the ends of a loss over whole rows, each one small kernel: values from sums, weights from gradients.

Float64 costs nothing here, as in ``ends.py``.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastssl.kernels.ends import join
from fastssl.kernels.epilogues import EXTREME, FAST_AP, HINGE, LIFTED, LSE, MATRIX, RANKED_LIST, SOFTPLUS
from fastssl.kernels.tiles import INFINITY, LN2, LOG2E, NOWHERE


@triton.jit
def merged(PARTS, at, inside, n, splits, LOSS: tl.constexpr):
    """The four numbers of every row in float64, of ``reduce_kernel``'s PARTS [splits, 4, n]. LSE: maxima in bits."""
    a = tl.zeros(at.shape, tl.float64)
    b, c, e = a, a, a
    if LOSS == LSE:
        a, c = a - INFINITY, c - INFINITY
    elif LOSS == EXTREME:
        a, b, c, e = a - INFINITY, b - 1, c + INFINITY, e - 1
    for k in range(0, splits):
        part = PARTS + k * n.to(tl.int64) * 4 + at
        a1 = tl.load(part, mask=inside, other=0.0).to(tl.float64)
        b1 = tl.load(part + n, mask=inside, other=0.0).to(tl.float64)
        c1 = tl.load(part + 2 * n, mask=inside, other=0.0).to(tl.float64)
        e1 = tl.load(part + 3 * n, mask=inside, other=0.0).to(tl.float64)
        if LOSS == LSE:
            a, b = join(a, b, a1 * LOG2E, b1)
            c, e = join(c, e, c1 * LOG2E, e1)
        elif LOSS == EXTREME:
            further, nearer = (a1 > a) | (a1 != a1), (c1 < c) | (c1 != c1)  # NaN shows
            a, b = tl.where(further, a1, a), tl.where(further, b1, b)
            c, e = tl.where(nearer, c1, c), tl.where(nearer, e1, e)
        else:
            a, b, c, e = a + a1, b + b1, c + c1, e + e1
    return a, b, c, e


@triton.jit
def find(SORTED, key, inside, m, steps, AFTER: tl.constexpr):
    """How many of SORTED [m] are below ``key`` (``AFTER``: not above it); ``steps`` of bisection reach them all."""
    low = tl.zeros(key.shape, tl.int32)
    high = low + m
    for _ in range(0, steps):
        middle = (low + high) // 2
        searched = inside & (low < high)
        there = tl.load(SORTED + middle, mask=searched, other=0)
        if AFTER:
            below = there <= key
        else:
            below = there < key
        low = tl.where(searched & below, middle + 1, low)
        high = tl.where(searched & ~below, middle, high)
    return low


@triton.jit(do_not_specialize=["n", "steps"])
def only_positive_kernel(LABELS, SORTED, ORDER, OTHER, n, steps, BLOCK: tl.constexpr):
    """OTHER [n]: the other row of a class of two, else -1; SORTED and ORDER are LABELS [n] in order, and from where."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    key = tl.load(LABELS + at, mask=inside, other=0)
    first = find(SORTED, key, inside, n, steps, False)
    pair = inside & (find(SORTED, key, inside, n, steps, True) - first == 2)
    one = tl.load(ORDER + first, mask=pair, other=-1)
    two = tl.load(ORDER + first + 1, mask=pair, other=-1)
    tl.store(OTHER + at, tl.where(one == at, two, one), mask=inside)


@triton.jit
def counted(IDS_X, IDS_Y, SORTED, at, inside, m, offset, steps, ITSELF: tl.constexpr):
    """How many columns have a row's id, and how many another; the row itself is neither."""
    key = tl.load(IDS_X + at, mask=inside, other=0)
    positive = find(SORTED, key, inside, m, steps, True) - find(SORTED, key, inside, m, steps, False)
    negative = m - positive
    if ITSELF != NOWHERE:
        place = (at.to(tl.int64) + offset) % tl.maximum(m, 1)
        there = inside & (place < m)
        own = tl.load(IDS_Y + place, mask=there, other=0) == key
        positive -= (there & own).to(tl.int32)
        negative -= (there & ~own).to(tl.int32)
    return positive.to(tl.float64), negative.to(tl.float64)


@triton.jit(do_not_specialize=["n", "splits"])
def log_sums_kernel(PARTS, LOG_SUM, BEFORE, n, splits, LEAST: tl.constexpr, BLOCK: tl.constexpr):
    """LOG_SUM [n] in float64 and, at least ``LEAST``, BEFORE [n] in float32: of the first part of LSE's PARTS."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    a, b, _, _ = merged(PARTS, at, inside, n, splits, LSE)
    log_sum = (a + tl.log2(b)) * LN2
    tl.store(LOG_SUM + at, log_sum, mask=inside)
    log_sum = tl.where(log_sum < LEAST, LEAST, log_sum)  # NaN stays
    tl.store(BEFORE + at, log_sum.to(tl.float32), mask=inside)


@triton.jit
def ranks(h, other, counted_nan: tl.constexpr):
    """Of histograms of distances to positives and to negatives [rows, bins]: how many positives and how many of both lie
    up to each bin, and which bins count."""
    positives, both = tl.cumsum(h, 1), tl.cumsum(h + other, 1)
    if counted_nan:
        bins = ~(h * positives <= 0) & ~(both <= 0)
    else:
        bins = (h * positives > 0) & (both > 0)
    return positives, tl.where(bins, both, 1.0), bins


@triton.jit(do_not_specialize=["n"])
def fast_ap_kernel(SAVED, GRAD, stride_grad, TABLE, n, bins, EDGES: tl.constexpr, BLOCK: tl.constexpr):
    """TABLE [n, 2, bins + 2]: the upstream gradient times that of a row's average precision by the entries of its
    histograms SAVED [2, bins + 2, n]; the last of each, beyond all edges, is 0."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    edge = tl.arange(0, EDGES)
    there = inside[:, None] & (edge <= bins)[None, :]
    place = edge.to(tl.int64)[None, :] * n + at[:, None]
    h = tl.load(SAVED + place, mask=there, other=0.0)
    other = tl.load(SAVED + (bins + 2) * n.to(tl.int64) + place, mask=there, other=0.0)
    positives, both, counted_bins = ranks(h, other, False)
    later = tl.cumsum(tl.where(counted_bins, h / both, 0.0), 1, reverse=True)
    all_later = tl.cumsum(tl.where(counted_bins, h * positives / (both * both), 0.0), 1, reverse=True)
    g = tl.load(GRAD + at.to(tl.int64) * stride_grad, mask=inside, other=0.0)[:, None]
    ours = g * (tl.where(counted_bins, positives / both, 0.0) + later - all_later)
    into = TABLE + at.to(tl.int64)[:, None] * (2 * (bins + 2)) + edge[None, :]
    stored = inside[:, None] & (edge < bins + 2)[None, :]
    within = (edge <= bins)[None, :]
    tl.store(into, tl.where(within, ours, 0.0).to(tl.float32), mask=stored)
    tl.store(into + bins + 2, tl.where(within, -g * all_later, 0.0).to(tl.float32), mask=stored)


@triton.jit(do_not_specialize=["n", "m", "offset", "splits", "steps"])
def row_values_kernel(
    PARTS, LOG_SUM, P, IDS_X, IDS_Y, SORTED, COUNTS, OUT, SAVED, n, m, offset, splits, steps,
    LOSS: tl.constexpr, VARIANT: tl.constexpr, ITSELF: tl.constexpr, EDGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """OUT [n, k + 2] in float64: what ``fastssl::row_loss`` says of every row, and how many positives and negatives it
    has. SAVED [s, n]: what its gradient needs besides.

    From ``reduce_kernel``'s PARTS [splits, 4, n] (MATRIX: two columns [2, n] in float64 as they are; FAST_AP: histograms
    [n, 2, splits]) and LOG_SUM [n], that of the negatives (SOFTPLUS, LIFTED). COUNTS [2, n], or None: counted by IDS_X, IDS_Y and SORTED, the sorted IDS_Y.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    if LOSS == MATRIX:
        columns = (tl.load(PARTS + at, mask=inside, other=0.0), tl.load(PARTS + n + at, mask=inside, other=0.0))
    elif LOSS == FAST_AP:
        edge = tl.arange(0, EDGES)
        there = inside[:, None] & (edge < splits)[None, :]
        place = at.to(tl.int64)[:, None] * (2 * splits) + edge[None, :]
        h = tl.load(PARTS + place, mask=there, other=0.0).to(tl.float64)
        other = tl.load(PARTS + place + splits, mask=there, other=0.0).to(tl.float64)
        into = SAVED + edge.to(tl.int64)[None, :] * n + at[:, None]
        tl.store(into, h, mask=there)
        tl.store(into + splits * n.to(tl.int64), other, mask=there)
        within = (edge < splits - 1)[None, :]  # the last is what lies beyond all edges
        h, other = tl.where(within, h, 0.0), tl.where(within, other, 0.0)
        positives, both, counted_bins = ranks(h, other, True)
        columns = (tl.sum(tl.where(counted_bins, h * positives / both, 0.0), 1),)
    else:
        a, b, c, e = merged(PARTS, at, inside, n, splits, LOSS)
        if LOSS == LSE:
            first, second = a * 0, a * 0
            if VARIANT % 4:
                first = (a + tl.log2(b)) * LN2
            if (VARIANT // 4) % 4:
                second = (c + tl.log2(e)) * LN2
            columns = (first, second)
        elif LOSS == SOFTPLUS or LOSS == LIFTED:
            before = tl.load(LOG_SUM + at, mask=inside, other=0.0)
            total = tl.where(before != before, before, a)
            if LOSS == SOFTPLUS:
                columns = (total, before)
                tl.store(SAVED + at, b, mask=inside)
            else:
                columns = (before, total, b)
        elif LOSS == EXTREME:
            columns = (a, c, b, e)
        elif LOSS == RANKED_LIST:
            least = tl.load(P + 4).to(tl.float64)
            b, e = b + least, e + least
            columns = (a / b, c / e)
            tl.store(SAVED + at, b, mask=inside)
            tl.store(SAVED + n + at, e, mask=inside)
        else:
            tl.static_assert(LOSS == HINGE)
            columns = (a, b, c, e)
    if COUNTS is not None:
        positive = tl.load(COUNTS + at, mask=inside, other=0.0)
        negative = tl.load(COUNTS + n + at, mask=inside, other=0.0)
    else:
        positive, negative = counted(IDS_X, IDS_Y, SORTED, at, inside, m, offset, steps, ITSELF)
    K: tl.constexpr = len(columns)
    into = OUT + at.to(tl.int64) * (K + 2)
    for k in tl.static_range(K):
        tl.store(into + k, columns[k], mask=inside)
    tl.store(into + K, positive, mask=inside)
    tl.store(into + K + 1, negative, mask=inside)


@triton.jit
def share(g, log_sum):
    """The weight of a log-sum's terms and the log-sum, as ``slope`` reads them; what float32 cannot hold of it goes into
    the weight. Where nothing was summed the weight is 0."""
    nothing = log_sum == -INFINITY
    log_sum = tl.where(nothing, 0.0, log_sum)
    weight = g * tl.exp(log_sum.to(tl.float32).to(tl.float64) - log_sum)
    return tl.where(nothing, 0.0, weight), log_sum


@triton.jit(do_not_specialize=["n", "stride_row", "stride_column", "splits"])
def row_upstream_kernel(
    GRAD, stride_row, stride_column, OUT, SAVED, VALUE, PULLS, OWN, n, splits,
    LOSS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """OWN [4, n]: the numbers of every row that ``slope`` takes, from the upstream gradient GRAD [n, k + 2], what forward gave,
    OUT [n, k + 2] and SAVED [s, n], thresholds or log-sums VALUE [n] or None, and LIFTED_PULL's PULLS [splits, 4, n]."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    wide = at.to(tl.int64)
    g0 = tl.load(GRAD + wide * stride_row, mask=inside, other=0.0)
    g1 = tl.load(GRAD + wide * stride_row + stride_column, mask=inside, other=0.0)
    zero = g0 * 0
    if LOSS == LSE:
        w0, l0 = share(g0, tl.load(OUT + wide * 4, mask=inside, other=0.0))
        w1, l1 = share(g1, tl.load(OUT + wide * 4 + 1, mask=inside, other=0.0))
        own = (w0, l0, w1, l1)
    elif LOSS == HINGE:
        value = zero
        if VALUE is not None:
            value = tl.load(VALUE + at, mask=inside, other=0.0).to(tl.float64)
        own = (g0, tl.load(GRAD + wide * stride_row + 2 * stride_column, mask=inside, other=0.0), value, zero)
    elif LOSS == SOFTPLUS:
        log_sum = tl.load(OUT + wide * 4 + 1, mask=inside, other=0.0)
        pull = g0 * tl.load(SAVED + at, mask=inside, other=0.0) + g1
        pull = tl.where(log_sum == -INFINITY, 0.0, pull)
        own = (tl.where(log_sum < -1e30, -1e30, log_sum), g0, pull, zero)
    elif LOSS == LIFTED:
        pull, _, _, _ = merged(PULLS, at, inside, n, splits, LOSS)
        if VALUE is not None:  # the sum of both upstream gradients is 2 of them
            pull = pull * g1
        own = (tl.load(OUT + wide * 5, mask=inside, other=0.0), g1, pull, zero)
    elif LOSS == EXTREME:
        far = tl.load(OUT + wide * 6 + 2, mask=inside, other=0.0)
        near = tl.load(OUT + wide * 6 + 3, mask=inside, other=0.0)
        own = (g0, far, g1, near)
    else:
        tl.static_assert(LOSS == RANKED_LIST)
        w0 = g0 / tl.load(SAVED + at, mask=inside, other=1.0)
        w1 = g1 / tl.load(SAVED + n + at, mask=inside, other=1.0)
        l0, l1 = tl.load(OUT + wide * 4, mask=inside, other=0.0), tl.load(OUT + wide * 4 + 1, mask=inside, other=0.0)
        own = (w0, l0, w1, l1)
    for k in tl.static_range(4):
        tl.store(OWN + k * n + at, own[k].to(tl.float32), mask=inside)
