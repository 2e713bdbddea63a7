"""Soft histograms of rows of scores, for FastAP."""

from __future__ import annotations

import triton
import triton.language as tl
from fastssl.kernels.tiles import relation, scores


@triton.jit(do_not_specialize=["n", "m", "offset", "bins", "width"])
def histogram_kernel(
    A, B, n, m, d, stride_a, stride_b, FA, FB, QA, QB, IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS, offset, OUT, bins, width,
    METRIC: tl.constexpr, RELATION: tl.constexpr, ITSELF: tl.constexpr, SAME: tl.constexpr, EXACT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """OUT [n, 2, bins + 2]: positives and negatives of a row in tents around the edges 0, width, ..., bins * width."""
    a0 = tl.program_id(0) * BM
    rows = a0 + tl.arange(0, BM)
    a_rows = tl.make_tensor_descriptor(A, shape=[n, d], strides=[stride_a, 1], block_shape=[BM, BK])
    b_rows = tl.make_tensor_descriptor(B, shape=[m, d], strides=[stride_b, 1], block_shape=[BN, BK])
    fa = tl.full((BM,), 1.0, tl.float32)
    if FA is not None:
        fa = tl.load(FA + rows, mask=rows < n, other=0.0)
    qa = fa
    if QA is not None:
        qa = tl.load(QA + rows, mask=rows < n, other=0.0)
    edges = tl.arange(0, EDGES)
    ours = tl.zeros((BM, EDGES), tl.float32)
    others = ours
    for b0 in tl.range(0, m, BN):
        columns = b0 + tl.arange(0, BN)
        s = scores(A, B, a_rows, b_rows, A, a0, b0, n, m, d, stride_a, stride_b, FA, FB, fa, qa, QB, METRIC, SAME, EXACT,
                   False, BM, BN, BK, False, PRECISION)  # fmt: skip
        positive, negative = relation(rows[:, None], columns[None, :], IDS_X, IDS_Y, POSITIVE_BITS, NEGATIVE_BITS,
                                      n, m, offset, RELATION, ITSELF, False)  # fmt: skip
        at = s / width
        for edge in range(0, bins + 1):
            tent = 1 - tl.abs(at - edge)
            tent = tl.where(tent <= 0, 0.0, tent)  # NaN stays
            here = (edges == edge)[None, :]
            ours += tl.where(here, tl.sum(tl.where(positive, tent, 0.0), 1)[:, None], 0.0)
            others += tl.where(here, tl.sum(tl.where(negative, tent, 0.0), 1)[:, None], 0.0)
    into = OUT + rows.to(tl.int64)[:, None] * 2 * (bins + 2) + edges[None, :]
    inside = (rows < n)[:, None] & (edges <= bins)[None, :]
    tl.store(into, ours, mask=inside)
    tl.store(into + bins + 2, others, mask=inside)
