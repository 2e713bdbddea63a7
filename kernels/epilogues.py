"""What each loss does with a tile of scores: the twins of csrc/row/*.h and csrc/pair/loss.cpp.

``update`` folds a tile into four numbers a row (``_merge`` in fastssl/ops/triton/engine.py puts parts of a row together), ``slope`` is dL/ds, and
``parameter_gradients`` the derivatives of parameters. Scores of SUMS are in bits (log2), others as they are.
Numbers a row (``row_state``) and numbers of the other side (``col_state``) broadcast to the tile, so that one formula serves a
row's own loss and, for rows against themselves, that of the column.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastssl.kernels.tiles import INFINITY, LN2, LOG2E, LOG2E_REST

from fastssl._table import TileEpilogue

SUMS = tl.constexpr(TileEpilogue.sums.value)
SIGMOID = tl.constexpr(TileEpilogue.sigmoid.value)
LSE = tl.constexpr(TileEpilogue.lse.value)
HINGE = tl.constexpr(TileEpilogue.hinge.value)
SOFTPLUS = tl.constexpr(TileEpilogue.softplus.value)
LIFTED = tl.constexpr(TileEpilogue.lifted.value)
LIFTED_PULL = tl.constexpr(TileEpilogue.lifted_pull.value)
EXTREME = tl.constexpr(TileEpilogue.extreme.value)
RANKED_LIST = tl.constexpr(TileEpilogue.ranked_list.value)
MATRIX = tl.constexpr(TileEpilogue.matrix.value)
FAST_AP = tl.constexpr(TileEpilogue.fast_ap.value)


@triton.jit
def number(VALUE):
    """A number that is given as itself or in memory."""
    if VALUE.dtype.is_ptr():
        return tl.load(VALUE).to(tl.float32)
    else:
        return VALUE


@triton.jit
def exp2_by_polynomial(x):
    """2^x on the FMA units, for a share of the exponentials where the MUFU is the bound: 3e-7 of the value.

    x = k + f with |f| <= 1/2; a polynomial of degree 6 in f; k goes into the exponent. Below -126 the result is 0.
    """
    x = tl.minimum(tl.maximum(x, -127.0), 127.0)
    k = tl.floor(x + 0.5)
    f = x - k
    p = 1.5403530393381609e-4
    p = p * f + 1.3333558146428443e-3
    p = p * f + 9.6181291076284772e-3
    p = p * f + 5.5504108664821580e-2
    p = p * f + 2.4022650695910071e-1
    p = p * f + 6.9314718055994531e-1
    p = p * f + 1.0
    power = (k.to(tl.int32) + 127) << 23
    return p * power.to(tl.float32, bitcast=True)


@triton.jit
def exp2(x, SPLIT: tl.constexpr):
    """2^x; with ``SPLIT`` every other column by polynomial."""
    if SPLIT:
        BM: tl.constexpr = x.shape[0]
        BN: tl.constexpr = x.shape[1]
        even, odd = tl.split(tl.reshape(x, (BM, BN // 2, 2)))
        return tl.reshape(tl.join(tl.exp2(even), exp2_by_polynomial(odd)), (BM, BN))
    else:
        return tl.exp2(x)


@triton.jit
def exp(x):
    return tl.exp2(x * LOG2E)


@triton.jit
def exp_of_terms(x):
    """e^x of what is added up. log2(e) in two parts: with one rounding of it all terms would err the same way, and their
    sum with them. Shares of a sum, whose errors cancel, do without the second multiply-add."""
    return tl.exp2(x * LOG2E + x * LOG2E_REST)


@triton.jit
def rounded_product(a, b):
    """a * b, which no compiler fuses with what is added to it: a score that the backward pass computes again has the digits
    of the forward pass, whose log-sum it is compared with. Fused with that difference it would be off by half a unit of
    the score, so that exp of it were e^(half a unit) instead of 1."""
    return tl.fma(a, b, 0.0)


@triton.jit
def scaled(LOSS: tl.constexpr, s, scale, BIAS, rows, columns, n, m, BIAS_COLUMNS: tl.constexpr, SWAPPED: tl.constexpr):
    """Scale times products plus bias, in the unit of SUMS (bits) or of SIGMOID (natural)."""
    UNIT: tl.constexpr = LOG2E if LOSS == SUMS else 1.0
    s = rounded_product(s, scale * UNIT)
    if BIAS is not None:
        if BIAS_COLUMNS:
            if SWAPPED:
                s += tl.load(BIAS + rows, mask=rows < n, other=0.0).to(tl.float32)[:, None] * UNIT
            else:
                s += tl.load(BIAS + columns, mask=columns < m, other=0.0).to(tl.float32)[None, :] * UNIT
        else:
            s += tl.load(BIAS).to(tl.float32) * UNIT
    return s


@triton.jit
def log1p_of(e):
    """log(1 + e) for e in [0, 1], with the digits of a small e."""
    series = e * (1 - e * (0.5 - e * (0.3333333333 - e * 0.25)))
    return tl.where(e < 0.01, series, tl.log2(1 + e) * LN2)


@triton.jit
def softplus(z):
    return tl.maximum(z, 0.0) + log1p_of(exp_of_terms(-tl.abs(z)))


@triton.jit
def sigmoid(z):
    e = exp_of_terms(-tl.abs(z))
    return tl.where(z >= 0, 1.0, e) / (1 + e)


@triton.jit
def log_add(a, b):
    """log(e^a + e^b), -inf where both are; and the share of a in it."""
    top = tl.maximum(a, b)
    safe = tl.where(top == -INFINITY, 0.0, top)
    total = exp(a - safe) + exp(b - safe)
    share = exp(a - safe) / tl.where(total == 0, 1.0, total)
    return tl.where(top == -INFINITY, top, safe + tl.log2(total) * LN2), share


@triton.jit
def add_log_sum(most, total, bits, mask, SPLIT: tl.constexpr):
    """Folds scores in bits into a running maximum and the sum of their powers below it."""
    top = tl.maximum(most, tl.max(tl.where(mask, bits, -INFINITY), 1))
    safe = tl.where(top == -INFINITY, 0.0, top)
    part = tl.sum(tl.where(mask, exp2(bits - safe[:, None], SPLIT), 0.0), 1)
    return top, total * tl.exp2(most - safe) + part


@triton.jit
def add_natural_log_sum(most, total, value, mask):
    """The same for scores in natural units: the difference is taken before it is scaled, which keeps its digits."""
    top = tl.maximum(most, tl.max(tl.where(mask, value, -INFINITY), 1))
    safe = tl.where(top == -INFINITY, 0.0, top)
    part = tl.sum(tl.where(mask, exp(value - safe[:, None]), 0.0), 1)
    return top, total * exp(most - safe) + part


@triton.jit
def slot_slope(s, scale, shift, PART: tl.constexpr, CIRCLE: tl.constexpr):
    """d value / d s of a slot of LSE; with ``CIRCLE`` circle loss's factors, which count as constants."""
    if CIRCLE:
        if PART == 1:
            return -scale * tl.maximum(1 + shift - s, 0.0)
        else:
            return scale * tl.maximum(s + shift, 0.0)
    else:
        return scale + 0 * s


@triton.jit
def slot_value(s, scale, shift, PART: tl.constexpr, CIRCLE: tl.constexpr):
    if CIRCLE:
        factor = slot_slope(s, scale, shift, PART, CIRCLE)
        return rounded_product(factor, s - 1 + shift if PART == 1 else s - shift)
    else:
        return tl.fma(s, scale, shift)


@triton.jit
def takes(PART: tl.constexpr, positive, negative):
    """Part of a row: 1 positives, 2 negatives, 3 both."""
    if PART == 1:
        return positive
    elif PART == 2:
        return negative
    else:
        return positive | negative


@triton.jit
def share_of_sum(s, P, slot, weight, lse, positive, negative, PART: tl.constexpr, CIRCLE: tl.constexpr):
    """Upstream weight times the share of a pair in the log-sum of a slot of LSE."""
    p = weight * exp(slot_value(s, tl.load(P + slot), tl.load(P + 2 + slot), PART, CIRCLE) - lse)
    return tl.where(takes(PART, positive, negative), p, 0.0)


@triton.jit
def angular(s, P, MARGIN: tl.constexpr):
    """cos(arccos s - margin) and its derivative; P holds the margin's cosine and sine behind the parameters."""
    if MARGIN:
        opposite = tl.sqrt(tl.maximum(1 - s * s, 0.0))
        c, sine = tl.load(P + 6), tl.load(P + 7)
        return s * c + opposite * sine, c - s / tl.maximum(opposite, 1e-6) * sine
    else:
        return s, 1 + 0 * s


@triton.jit
def ranked(s, part, alpha, border, temperature, SIDE: tl.constexpr):
    u = s - border if SIDE == 0 else alpha - s
    counted = part & ~(u <= 0) & ~(s <= 0)  # NaN counts
    return tl.where(counted, u, 0.0), tl.where(counted, exp(temperature * u), 0.0)


@triton.jit
def lifted_term(s, row_state, col_state, sign, shift, SQUARED: tl.constexpr):
    """J, its share that is the row's own log-sum's, and the derivative of the term."""
    both, share = log_add(row_state, col_state)
    counted = both > -INFINITY
    J = sign * s + shift + tl.where(counted, both, 0.0)
    if SQUARED:
        return J, share, tl.where(counted, 2 * tl.where(J <= 0, 0.0, J), 0.0), counted
    else:
        return J, share, tl.where(counted, 1.0, 0.0), counted


@triton.jit
def empty(LOSS: tl.constexpr, BM: tl.constexpr):
    """The four numbers of a row before its first tile."""
    zero = tl.zeros((BM,), tl.float32)
    least = tl.full((BM,), -float("inf"), tl.float32)
    if LOSS == SUMS:
        return least, zero, zero, zero
    elif LOSS == LSE:
        return least, zero, least, zero
    elif LOSS == EXTREME:
        return least, zero - 1, -least, zero - 1
    else:
        return zero, zero, zero, zero


@triton.jit
def update(LOSS: tl.constexpr, state, s, positive, negative, columns, row_state0, col_state0, col_state1, P, BOUNDED: tl.constexpr,
           POSITIVES: tl.constexpr, VARIANT: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    """The four numbers of a row after one more tile. P: the parameters, as csrc/row/*.h orders them.

    ``VARIANT``: the parts of both slots and circle (LSE: first + 4 second + 16 circle; part 1 positives, 2 negatives,
    3 both), a margin (SOFTPLUS), squared hinges (HINGE, LIFTED).
    """
    a, b, c, e = state
    if LOSS == SUMS:
        if BOUNDED:  # no score is far from 0: exponentials as they are
            b += tl.sum(tl.where(negative, exp2(s, SPLIT), 0.0), 1)  # a constant mask costs nothing
            a = tl.maximum(a, 0.0)
        else:
            a, b = add_log_sum(a, b, s, negative, SPLIT)
        if POSITIVES:
            c += tl.sum(tl.where(positive, s, 0.0), 1)
            e += tl.sum(positive.to(tl.float32), 1)
    elif LOSS == SIGMOID:
        a += tl.sum(tl.where(negative, softplus(s), 0.0), 1)
        b += tl.sum(tl.where(negative, sigmoid(s), 0.0), 1)
    elif LOSS == LSE:
        FIRST: tl.constexpr = VARIANT % 4
        SECOND: tl.constexpr = (VARIANT // 4) % 4
        CIRCLE: tl.constexpr = VARIANT // 16
        if FIRST:
            value = slot_value(s, tl.load(P), tl.load(P + 2), FIRST, CIRCLE)
            a, b = add_natural_log_sum(a, b, value, takes(FIRST, positive, negative))
        if SECOND:
            value = slot_value(s, tl.load(P + 1), tl.load(P + 3), SECOND, CIRCLE)
            c, e = add_natural_log_sum(c, e, value, takes(SECOND, positive, negative))
    elif LOSS == HINGE:
        sign, near, far = tl.load(P), tl.load(P + 1), tl.load(P + 2)
        u, v = sign * (s - near - row_state0), sign * (far + row_state0 - s)
        pulled, pushed = positive & ~(u <= 0), negative & ~(v <= 0)  # NaN counts
        a += tl.sum(tl.where(pulled, u * u if VARIANT else u, 0.0), 1)
        b += tl.sum(pulled.to(tl.float32), 1)
        c += tl.sum(tl.where(pushed, v * v if VARIANT else v, 0.0), 1)
        e += tl.sum(pushed.to(tl.float32), 1)
    elif LOSS == SOFTPLUS:
        phi, _ = angular(s, P, VARIANT)
        z = row_state0 - tl.load(P) * phi
        a += tl.sum(tl.where(positive, softplus(z), 0.0), 1)
        b += tl.sum(tl.where(positive, sigmoid(z), 0.0), 1)
    elif LOSS == LIFTED:
        J, share, derivative, counted = lifted_term(s, row_state0, col_state0, tl.load(P), tl.load(P + 2), VARIANT)
        counted = counted & positive
        term = tl.where(J <= 0, 0.0, J * J) if VARIANT else J
        a += tl.sum(tl.where(counted, term, 0.0), 1)
        b += tl.sum((counted & (J > 0)).to(tl.float32), 1)
    elif LOSS == LIFTED_PULL:  # col_state1: the sum of the upstream gradients of both rows
        J, share, derivative, counted = lifted_term(s, row_state0, col_state0, tl.load(P), tl.load(P + 2), VARIANT)
        a += tl.sum(tl.where(positive & counted, col_state1 * derivative * share, 0.0), 1)
    elif LOSS == EXTREME:
        d = tl.load(P) * s
        far, at_far = tl.max(tl.where(positive, d, -INFINITY), 1, return_indices=True)
        near, at_near = tl.min(tl.where(negative, d, INFINITY), 1, return_indices=True)
        far = tl.where(tl.max((positive & (d != d)).to(tl.int32), 1) > 0, float("nan"), far)  # maxima pass NaN by
        near = tl.where(tl.max((negative & (d != d)).to(tl.int32), 1) > 0, float("nan"), near)
        further, nearer = (far > a) | (far != far), (near < c) | (near != near)
        first = tl.min(columns, 0)
        b = tl.where(further, (first + at_far).to(tl.float32), b)
        e = tl.where(nearer, (first + at_near).to(tl.float32), e)
        a, c = tl.where(further, far, a), tl.where(nearer, near, c)
    elif LOSS == RANKED_LIST:
        alpha = tl.load(P)
        u, w = ranked(s, positive, alpha, alpha - tl.load(P + 1), tl.load(P + 2), 0)
        a, b = a + tl.sum(w * u, 1), b + tl.sum(w, 1)
        u, w = ranked(s, negative, alpha, alpha - tl.load(P + 1), tl.load(P + 3), 1)
        c, e = c + tl.sum(w * u, 1), e + tl.sum(w, 1)
    return a, b, c, e


@triton.jit
def slope(LOSS: tl.constexpr, s, positive, negative, columns, row_state, col_state0, P, BOUNDED: tl.constexpr,
          POSITIVES: tl.constexpr, VARIANT: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    """dL/ds, from a row's four numbers ``row_state``:

    SUMS: weight and log2-sum (BOUNDED: weight / sum, unused), weight of positives' scores; SIGMOID: weight;
    LSE: weight, log-sum, weight, log-sum; HINGE: weight, weight, threshold; SOFTPLUS: log-sum, weight, pull;
    LIFTED: log-sum, weight, pull (col_state0: the column's log-sum); EXTREME: weight, column, weight, column;
    RANKED_LIST: weight, ratio, weight, ratio.
    """
    o0, o1, o2, o3 = row_state
    if LOSS == SUMS:
        if BOUNDED:
            g = tl.where(negative, exp2(s, SPLIT) * o0, 0.0)
        else:
            g = tl.where(negative, o0 * exp2(s - o1, SPLIT), 0.0)
        if POSITIVES:
            g = tl.where(positive, g + o2, g)
    elif LOSS == SIGMOID:
        g = tl.where(negative, o0 * sigmoid(s), 0.0)
    elif LOSS == LSE:
        FIRST: tl.constexpr = VARIANT % 4
        SECOND: tl.constexpr = (VARIANT // 4) % 4
        CIRCLE: tl.constexpr = VARIANT // 16
        g = tl.zeros_like(s)
        if FIRST:
            p = share_of_sum(s, P, 0, o0, o1, positive, negative, FIRST, CIRCLE)
            g += p * slot_slope(s, tl.load(P), tl.load(P + 2), FIRST, CIRCLE)
        if SECOND:
            p = share_of_sum(s, P, 1, o2, o3, positive, negative, SECOND, CIRCLE)
            g += p * slot_slope(s, tl.load(P + 1), tl.load(P + 3), SECOND, CIRCLE)
    elif LOSS == HINGE:
        sign, near, far = tl.load(P), tl.load(P + 1), tl.load(P + 2)
        u, v = sign * (s - near - o2), sign * (far + o2 - s)
        pull = tl.where(positive & ~(u <= 0), o0 * (2 * u if VARIANT else 1.0), 0.0)
        push = tl.where(negative & ~(v <= 0), o1 * (2 * v if VARIANT else 1.0), 0.0)
        g = sign * (pull - push)
    elif LOSS == SOFTPLUS:
        scale = tl.load(P)
        phi, turn = angular(s, P, VARIANT)
        ours = -scale * o1 * sigmoid(o0 - scale * phi) * turn
        theirs = o2 * exp(rounded_product(s, scale) - o0) * scale
        g = tl.where(positive, ours, 0.0) + tl.where(negative, theirs, 0.0)
    elif LOSS == LIFTED:
        sign = tl.load(P)
        J, share, derivative, counted = lifted_term(s, o0, col_state0, sign, tl.load(P + 2), VARIANT)
        safe = tl.where(o0 == -INFINITY, 0.0, o0)
        theirs = -sign * o2 * exp(tl.load(P + 1) - sign * s - safe)
        g = tl.where(positive & counted, o1 * derivative * sign, 0.0) + tl.where(negative, theirs, 0.0)
    elif LOSS == EXTREME:
        at = columns.to(tl.float32)
        g = tl.load(P) * (tl.where(at == o1, o0, 0.0) + tl.where(at == o3, o2, 0.0))
    else:
        tl.static_assert(LOSS == RANKED_LIST)
        alpha = tl.load(P)
        border = alpha - tl.load(P + 1)
        u, w = ranked(s, positive, alpha, border, tl.load(P + 2), 0)
        g = o0 * w * (1 + tl.load(P + 2) * (u - o1))
        u, w = ranked(s, negative, alpha, border, tl.load(P + 3), 1)
        g -= o2 * w * (1 + tl.load(P + 3) * (u - o3))
    return g


@triton.jit
def parameter_gradients(LOSS: tl.constexpr, s, positive, negative, row_state, P, VARIANT: tl.constexpr):
    """Derivatives of the first two parameters, for row losses that have such gradients: LSE and SOFTPLUS."""
    o0, o1, o2, o3 = row_state
    if LOSS == LSE:
        FIRST: tl.constexpr = VARIANT % 4
        SECOND: tl.constexpr = (VARIANT // 4) % 4
        CIRCLE: tl.constexpr = VARIANT // 16
        first, second = tl.zeros_like(s), tl.zeros_like(s)
        if FIRST:
            first = share_of_sum(s, P, 0, o0, o1, positive, negative, FIRST, CIRCLE) * s
        if SECOND:
            second = share_of_sum(s, P, 1, o2, o3, positive, negative, SECOND, CIRCLE) * s
        return tl.sum(first, 1), tl.sum(second, 1)
    else:
        tl.static_assert(LOSS == SOFTPLUS)
        scale = tl.load(P)
        phi, _ = angular(s, P, VARIANT)
        ours = tl.where(positive, -o1 * sigmoid(o0 - scale * phi) * phi, 0.0)
        theirs = tl.where(negative, o2 * exp(rounded_product(s, scale) - o0) * s, 0.0)
        total = tl.sum(ours + theirs, 1)
        return total, tl.zeros_like(total)
