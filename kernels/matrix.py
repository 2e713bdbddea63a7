"""Products with a chunk of weights, and what ends a gradient."""

from __future__ import annotations

import triton
import triton.language as tl
from fastssl.kernels.epilogues import number


@triton.jit(do_not_specialize=["n", "m"])
def product_kernel(
    W, B, OUT, n, m, d, stride_w, stride_b, stride_out,
    TURNED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
    SPECIALIZE: tl.constexpr, REDUCE: tl.constexpr,
):  # fmt: skip
    """OUT [n, d] += W B, W being [n, m] or, ``TURNED``, [m, n].

    One program for BM rows and BN features: nothing is added twice, in whatever order programs run.
    """
    features = tl.cdiv(d, BN)
    i0, f0 = tl.program_id(0) // features * BM, tl.program_id(0) % features * BN
    rows, columns = i0 + tl.arange(0, BM), f0 + tl.arange(0, BN)
    if TURNED:
        weights = tl.make_tensor_descriptor(W, shape=[m, n], strides=[stride_w, 1], block_shape=[BK, BM])
    else:
        weights = tl.make_tensor_descriptor(W, shape=[n, m], strides=[stride_w, 1], block_shape=[BM, BK])
    b_rows = tl.make_tensor_descriptor(B, shape=[m, d], strides=[stride_b, 1], block_shape=[BK, BN])
    acc = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(0, m, BK, warp_specialize=SPECIALIZE):
        if TURNED:
            w = weights.load([k, i0]).T
        else:
            w = weights.load([i0, k])
        acc = tl.dot(w, b_rows.load([k, f0]), acc, input_precision=PRECISION)
    if REDUCE:  # the copy engine adds: one program writes an element, so that the order is given
        into = tl.make_tensor_descriptor(OUT, shape=[n, d], strides=[stride_out, 1], block_shape=[BM, BN])
        into.atomic_add([i0, f0], acc)
    else:
        inside = (rows < n)[:, None] & (columns < d)[None, :]
        at = OUT + rows.to(tl.int64)[:, None] * stride_out + columns[None, :]
        tl.store(at, tl.load(at, mask=inside, other=0.0) + acc, mask=inside)


@triton.jit(do_not_specialize=["n", "splits"])
def finish_kernel(
    G, TOTAL, X, F, SCALE, OUT, n, d, stride_x, splits,
    DISTANCE: tl.constexpr, LEAST: tl.constexpr, SCALED: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The end of a gradient: OUT [n, d] from the sums of weights times rows G [splits, n, d], added in order.

    ``DISTANCE``: (sum of weights) x - G, TOTAL [n] being those sums; ``LEAST`` above 0: through x / |x|, F being 1 / |x|, and
    where |x| is below ``LEAST``, as in torch, a constant. ``SCALED``: G has that factor of its row in it already. ``UNIT``: X is normalised.
    """
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < n
    factor = tl.full((BLOCK,), 1.0, tl.float32)
    if LEAST > 0:
        factor = tl.load(F + rows, mask=inside, other=0.0)
    total = tl.zeros((BLOCK,), tl.float32)
    if DISTANCE:
        total = tl.load(TOTAL + rows, mask=inside, other=0.0)
    scale = 1.0
    if SCALE is not None:
        scale = number(SCALE)
    along = tl.zeros((BLOCK,), tl.float32)
    for sweep in tl.static_range(2):
        if LEAST > 0 or sweep == 1:
            for f0 in range(0, d, CHUNK):
                features = f0 + tl.arange(0, CHUNK)
                there = inside[:, None] & (features < d)[None, :]
                g = tl.zeros((BLOCK, CHUNK), tl.float32)
                for k in range(0, splits):
                    place = (rows + k * n.to(tl.int64))[:, None] * d + features[None, :]
                    g += tl.load(G + place, mask=there, other=0.0)
                if SCALED:
                    g = g / factor[:, None]
                x = tl.load(X + rows.to(tl.int64)[:, None] * stride_x + features[None, :], mask=there, other=0.0)
                x = x.to(tl.float32)
                if not UNIT:
                    x = x * factor[:, None]
                if DISTANCE:
                    g = total[:, None] * x - g
                if sweep == 0:
                    along += tl.sum(g * x, 1)
                else:
                    if LEAST > 0:
                        plain = factor >= 1.0 / LEAST
                        g = tl.where(plain[:, None], g, g - along[:, None] * x) * factor[:, None]
                    place = rows.to(tl.int64)[:, None] * d + features[None, :]
                    tl.store(OUT + place, (g * scale).to(OUT.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["n", "m"])
def partner_kernel(
    A, B, FA, FB, PARTNER, OUT, n, m, d, stride_a, stride_b, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """OUT [n]: the product of each row of A with the row of B that PARTNER names; 0 where it is negative."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < n
    partner = tl.load(PARTNER + rows, mask=inside, other=-1).to(tl.int64)
    paired = inside & (partner >= 0) & (partner < m)
    total = tl.zeros((BLOCK,), tl.float32)
    for f0 in range(0, d, CHUNK):
        features = f0 + tl.arange(0, CHUNK)
        there = paired[:, None] & (features < d)[None, :]
        a = tl.load(A + rows.to(tl.int64)[:, None] * stride_a + features[None, :], mask=there, other=0.0)
        b = tl.load(B + partner[:, None] * stride_b + features[None, :], mask=there, other=0.0)
        total += tl.sum(a.to(tl.float32) * b.to(tl.float32), 1)
    if FA is not None:
        total *= tl.load(FA + rows, mask=inside, other=0.0) * tl.load(FB + partner, mask=paired, other=0.0)
    tl.store(OUT + rows, total, mask=inside)


@triton.jit(do_not_specialize=["n", "m", "row0", "column0", "height", "breadth"])
def axis_kernel(
    G, S, A, B, FA, FB, OUT, n, m, d, stride_g, stride_a, stride_b, row0, column0, height, breadth,
    TURNED: tl.constexpr, LARGEST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """OUT [n, d] += what dL/ds of a chunk G [height, breadth] gives through sums or maxima of |x - y|.

    One program for BM rows and a feature. ``LARGEST``: only the feature that is the distance S counts. ``TURNED``: A's rows
    are the chunk's columns.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    feature = tl.program_id(1)
    own, others = (column0, row0) if TURNED else (row0, column0)
    count, length = (breadth, height) if TURNED else (height, breadth)
    inside = rows < count
    a = tl.load(A + (own + rows).to(tl.int64) * stride_a + feature, mask=inside, other=0.0).to(tl.float32)
    if FA is not None:
        a *= tl.load(FA + own + rows, mask=inside, other=0.0)
    total = tl.zeros((BM,), tl.float32)
    for start in range(0, length, BN):
        columns = start + tl.arange(0, BN)
        there = columns < length
        b = tl.load(B + (others + columns).to(tl.int64) * stride_b + feature, mask=there, other=0.0).to(tl.float32)
        if FB is not None:
            b *= tl.load(FB + others + columns, mask=there, other=0.0)
        if TURNED:
            place = columns.to(tl.int64)[None, :] * stride_g + rows[:, None]
        else:
            place = rows.to(tl.int64)[:, None] * stride_g + columns[None, :]
        both = inside[:, None] & there[None, :]
        g = tl.load(G + place, mask=both, other=0.0)
        difference = a[:, None] - b[None, :]
        sign = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))
        if LARGEST:
            sign = tl.where(tl.abs(difference) == tl.load(S + place, mask=both, other=0.0), sign, 0.0)
        total += tl.sum(g * sign, 1)
    into = OUT + (own + rows).to(tl.int64) * d + feature
    tl.store(into, tl.load(into, mask=inside, other=0.0) + total, mask=inside)
