"""What lies at the ends of a pair loss, each one small kernel: lengths of rows, values from sums, weights from gradients.

Few numbers a row, so that float64 costs nothing here; the sums came from fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastssl.kernels.epilogues import add_log_sum, number
from fastssl.kernels.tiles import LN2, partners

from fastssl._table import Closing

# What a value is made of.
CROSS_ENTROPY = tl.constexpr(Closing.cross_entropy.value)
SUP_CON = tl.constexpr(Closing.sup_con.value)
SIGMOID_LOSS = tl.constexpr(Closing.sigmoid_loss.value)
DECOUPLED = tl.constexpr(Closing.decoupled.value)
LOG_SUM = tl.constexpr(Closing.log_sum.value)


@triton.jit(do_not_specialize=["n"])
def lengths_kernel(
    X, FACTOR, SQUARE, OUT, n, d, stride_x, step_x, stride_out, LEAST: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """FACTOR [n]: 1 / |x|, or 1 / ``LEAST`` where that is less; SQUARE [n]: |x|^2 (``LEAST`` above 0: of the normalised
    rows); OUT [n, d]: these rows themselves. Any of them, or None."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < n
    at = X + rows.to(tl.int64)[:, None] * stride_x
    total = tl.zeros((BLOCK, CHUNK), tl.float32)
    for f0 in range(0, d, CHUNK):
        features = f0 + tl.arange(0, CHUNK)
        x = tl.load(at + features[None, :] * step_x, mask=inside[:, None] & (features < d)[None, :], other=0.0)
        x = x.to(tl.float32)
        total += x * x
    length = tl.sqrt_rn(tl.sum(total, 1))
    least = LEAST if LEAST > 0 else 1.0  # unused
    factor = tl.div_rn(tl.full((BLOCK,), 1.0, tl.float32), tl.where(length < least, least, length))  # NaN stays
    if FACTOR is not None:
        tl.store(FACTOR + rows, factor, mask=inside)
    if SQUARE is not None:
        if LEAST > 0:
            length = length * factor
        tl.store(SQUARE + rows, length * length, mask=inside)
    if OUT is not None:
        for f0 in range(0, d, CHUNK):
            features = f0 + tl.arange(0, CHUNK)
            there = inside[:, None] & (features < d)[None, :]
            x = tl.load(at + features[None, :] * step_x, mask=there, other=0.0).to(tl.float32)
            into = OUT + rows.to(tl.int64)[:, None] * stride_out + features[None, :]
            tl.store(into, (x * factor[:, None]).to(OUT.dtype.element_ty), mask=there)


@triton.jit
def exact_softplus(z):
    """log(1 + e^z) in float64, with the digits of small values."""
    e = tl.exp(-tl.abs(z))
    return tl.maximum(z, 0.0) + tl.where(e < 1e-4, e * (1 - e * (0.5 - e / 3)), tl.log(1 + e))


@triton.jit
def exact_sigmoid(z):
    e = tl.exp(-tl.abs(z))
    return tl.where(z >= 0, 1.0, e) / (1 + e)


@triton.jit
def join(most, total, more_most, more_total):
    """One maximum (in bits) and the sum of powers of two below it, of two. Infinite scores stay infinite; a sum that is NaN
    shows, though no maximum tells of it."""
    top = tl.maximum(most, more_most)
    safe = tl.where(tl.abs(top) == float("inf"), 0.0, top)
    return safe, total * tl.exp2(most - safe) + more_total * tl.exp2(more_most - safe)


@triton.jit
def add_blocks(most, total, COLUMNS, columns, m, first_block, blocks, rows_per_block, BOUNDED: tl.constexpr,
               TRIANGLE: tl.constexpr, BM: tl.constexpr):  # fmt: skip
    """Adds COLUMNS [blocks, m] to the maximum and the sum of every column, blocks in order.

    ``TRIANGLE``: a column has parts from the blocks of rows above its own only.
    """
    inside = columns < m
    for start in range(0, blocks, BM):
        block = start + tl.arange(0, BM)
        there = (block < blocks)[:, None] & inside[None, :]
        if TRIANGLE:
            there = there & (((first_block + block + 1) * rows_per_block)[:, None] <= columns[None, :])
        part = tl.load(COLUMNS + block.to(tl.int64)[:, None] * m + columns[None, :], mask=there, other=0.0)
        if BOUNDED:
            total += tl.sum(tl.where(there, part, 0.0), 0)
            most = tl.maximum(most, 0.0)
        else:
            most, total = add_log_sum(most, total, tl.trans(part), tl.trans(there), False)
    return most, total


@triton.jit(do_not_specialize=["n", "m", "PARTNER", "ignore", "splits", "blocks", "rows_per_block"])
def values_kernel(
    PARTS, COLUMNS, BY_COLUMN, A, B, FA, FB, SCALE, BIAS, PARTNER, VALUES, SAVED, n, m, d, stride_a, stride_b, ignore,
    splits, blocks, rows_per_block,
    FORM: tl.constexpr, BOUNDED: tl.constexpr, TRIANGLE: tl.constexpr, BOTH: tl.constexpr, BIAS_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """VALUES [n], and what their gradient needs, SAVED [4, n] in float64: log2 of the row's sum, the partner's score, the
    number of positives (SIGMOID_LOSS: the sum of sigmoids), log2 of the column's sum.

    From ``reduce_kernel``'s PARTS [splits, 4, n] and COLUMNS [blocks, m] or, where there were several bands of blocks,
    BY_COLUMN [2, m]. ``BOTH``: the mean of a row's and its column's value. A row whose partner is ``ignore`` is 0, one
    whose partner does not exist NaN.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    zero = tl.zeros((BLOCK,), tl.float64)
    most, total, third, fourth = zero - float("inf"), zero, zero, zero
    for k in range(0, splits):
        part = PARTS + k * n.to(tl.int64) * 4 + at
        first = tl.load(part, mask=inside, other=0.0).to(tl.float64)
        second = tl.load(part + n, mask=inside, other=0.0).to(tl.float64)
        if FORM == SIGMOID_LOSS:
            total += first
            third += second
        else:
            most, total = join(most, total, first, second)
            if FORM == SUP_CON:
                third += tl.load(part + 2 * n, mask=inside, other=0.0).to(tl.float64)
                fourth += tl.load(part + 3 * n, mask=inside, other=0.0).to(tl.float64)
    column_bits = zero
    if COLUMNS is not None:
        column_most = tl.full((BLOCK,), -float("inf"), tl.float32)
        column_total = tl.zeros((BLOCK,), tl.float32)
        if BY_COLUMN is not None:
            column_most = tl.load(BY_COLUMN + at, mask=at < m, other=0.0)
            column_total = tl.load(BY_COLUMN + m + at, mask=at < m, other=0.0)
        else:
            column_most, column_total = add_blocks(column_most, column_total, COLUMNS, at, m, 0, blocks, rows_per_block,
                                                   BOUNDED, TRIANGLE, 16)  # fmt: skip
        if TRIANGLE:
            most, total = join(most, total, column_most.to(tl.float64), column_total.to(tl.float64))
        else:
            column_bits = column_most.to(tl.float64) + tl.log2(column_total.to(tl.float64))

    partner = partners(PARTNER, at, n, m)
    paired = inside & (partner >= 0) & (partner < m) & (partner != ignore)
    dot = tl.zeros((BLOCK, CHUNK), tl.float32)
    for f0 in range(0, d, CHUNK):
        features = f0 + tl.arange(0, CHUNK)
        there = paired[:, None] & (features < d)[None, :]
        a = tl.load(A + at.to(tl.int64)[:, None] * stride_a + features[None, :], mask=there, other=0.0)
        b = tl.load(B + partner.to(tl.int64)[:, None] * stride_b + features[None, :], mask=there, other=0.0)
        dot += a.to(tl.float32) * b.to(tl.float32)
    score = tl.sum(dot, 1)
    if FA is not None:
        score *= tl.load(FA + at, mask=inside, other=0.0) * tl.load(FB + partner, mask=paired, other=0.0)
    score = score.to(tl.float64) * number(SCALE)
    if BIAS is not None:
        place = partner if BIAS_COLUMNS else partner * 0
        score += tl.load(BIAS + place, mask=paired, other=0.0).to(tl.float64)

    bits = most + tl.log2(total)
    if FORM == SIGMOID_LOSS:
        value = total + exact_softplus(-score)
        count = third
    else:
        lse = bits * LN2
        if FORM == DECOUPLED:
            value = lse - score
        elif FORM == LOG_SUM:
            value = lse
        else:
            value = exact_softplus(lse - score)
        count = fourth
        if BOTH:
            value = (value + exact_softplus(column_bits * LN2 - score)) / 2
        if FORM == SUP_CON:
            count = fourth + paired.to(tl.float64)
            value = tl.where(count == 1, value, lse - third * LN2 / tl.maximum(count, 1.0))
            # A row without positives contributes 0, unless it is not finite.
            value = tl.where((count > 0) | (lse != lse), value, 0.0)
        else:
            value = tl.where(paired, value, tl.where(partner == ignore, 0.0, float("nan")))
    tl.store(VALUES + at, value.to(tl.float32), mask=inside)
    tl.store(SAVED + at, bits, mask=inside)
    tl.store(SAVED + n + at, score, mask=inside)
    tl.store(SAVED + 2 * n + at, count, mask=inside)
    if BOTH:
        tl.store(SAVED + 3 * n + at, column_bits, mask=inside)


@triton.jit
def upstream(GRAD, stride_grad, SAVED, partner, at, inside, n, m, ignore, FORM: tl.constexpr, BOTH: tl.constexpr):
    """dL/d of a row's log-sum, its column's, its positives' scores, its partner's score; the sums in bits."""
    paired = inside & (partner >= 0) & (partner < m) & (partner != ignore)
    g = tl.load(GRAD + at.to(tl.int64) * stride_grad, mask=inside, other=0.0).to(tl.float64)
    bits = tl.load(SAVED + at, mask=inside, other=0.0)
    score = tl.load(SAVED + n + at, mask=inside, other=0.0)
    column_bits = bits
    if FORM == SIGMOID_LOSS:
        by_score = tl.where(paired, -g * exact_sigmoid(-score), 0.0)
        return g, g * 0, g * 0, by_score, bits * 0, column_bits
    if FORM == DECOUPLED or FORM == LOG_SUM:
        by_row = g
    else:
        by_row = g * exact_sigmoid(bits * LN2 - score)
    by_column, positives = g * 0, g * 0
    if BOTH:
        column_bits = tl.load(SAVED + 3 * n + at, mask=inside, other=0.0)
        by_row = by_row / 2
        by_column = g / 2 * exact_sigmoid(column_bits * LN2 - score)
    if FORM == SUP_CON:
        count = tl.load(SAVED + 2 * n + at, mask=inside, other=0.0)
        by_score = tl.where(count == 1, -by_row, 0.0)
        positives = tl.where(count > 1, -g / tl.maximum(count, 1.0), 0.0)
        by_row = tl.where(count == 1, by_row, tl.where((count > 0) | (bits != bits), g, 0.0))
    else:
        by_row = tl.where(paired, by_row, 0.0)
        by_score = -by_row - by_column if FORM != LOG_SUM else g * 0
    return by_row, by_column, positives, by_score, bits, column_bits


@triton.jit
def put(OWN, length, at, inside, weight, bits, positives, FORM: tl.constexpr, BOUNDED: tl.constexpr):
    """The four numbers of a row as ``slope`` reads them. Where no pair is counted the weight is 0; what float32 cannot
    hold of a log-sum goes into the weight (where it rounds up by more than 64 bits, exponentials of lower scores are 0)."""
    empty = bits == -float("inf")
    finite = tl.where(empty, 0.0, bits)
    if FORM != SIGMOID_LOSS:
        weight = tl.where(empty, 0.0, weight)
        if BOUNDED:
            weight = weight * tl.exp2(-finite)
        else:
            rest = finite.to(tl.float32).to(tl.float64) - finite
            weight = weight * tl.exp2(tl.where(rest > 64, 0.0, rest))
    tl.store(OWN + at, weight.to(tl.float32), mask=inside)
    tl.store(OWN + length + at, finite.to(tl.float32), mask=inside)
    tl.store(OWN + 2 * length + at, positives.to(tl.float32), mask=inside)
    tl.store(OWN + 3 * length + at, (weight * 0).to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=["n", "m", "stride_grad", "PARTNER", "ignore"])
def upstream_kernel(
    GRAD, stride_grad, SAVED, PARTNER, OWN_X, OWN_Y, PARTNER_WEIGHT, BIAS_GRAD, n, m, ignore,
    FORM: tl.constexpr, BOUNDED: tl.constexpr, MUTUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What the gradient's kernels take, from the gradient of values: OWN_X [4, n], OWN_Y [4, m] or None, PARTNER_WEIGHT [n]
    (``MUTUAL``: partners are each other's, the pair's score is that of both), BIAS_GRAD [n] or None."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    BOTH: tl.constexpr = OWN_Y is not None
    partner = partners(PARTNER, at, n, m)
    row, column, positives, score, bits, column_bits = upstream(
        GRAD, stride_grad, SAVED, partner, at, inside, n, m, ignore, FORM, BOTH
    )
    put(OWN_X, n, at, inside, row, bits, positives, FORM, BOUNDED)
    if OWN_Y is not None:
        put(OWN_Y, m, at, inside, column, column_bits, positives * 0, FORM, BOUNDED)
    if BIAS_GRAD is not None:
        tl.store(BIAS_GRAD + at, (row * tl.load(SAVED + 2 * n + at, mask=inside, other=0.0) + score).to(tl.float32),
                 mask=inside)  # fmt: skip
    if MUTUAL:
        there = inside & (partner >= 0) & (partner < n)
        theirs = partners(PARTNER, tl.where(there, partner, n), n, m)
        _, _, _, back, _, _ = upstream(GRAD, stride_grad, SAVED, theirs, partner, there, n, m, ignore, FORM, BOTH)
        score += tl.where(there, back, 0.0)
    tl.store(PARTNER_WEIGHT + at, score.to(tl.float32), mask=inside)
