"""Sums of an empirical characteristic function, of exp(i t x) over rows at t = 0, step, 2 step, ..., and their gradient."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def turn(angle):
    """Cosine and sine, as Cephes' cosf and sinf; large angles are reduced in double. (Those of CUDA keep a table in
    local memory for them.)"""
    n = tl.floor(angle * 0.636619772 + 0.5)
    r = angle - n * 1.5703125 - n * 4.837512969970703e-4 - n * 7.549789948768648e-8
    if tl.max(tl.max(tl.abs(angle), 1), 0) > 5e4:
        wide = angle.to(tl.float64)
        turns = tl.floor(wide * 0.63661977236758134308 + 0.5)
        r = (wide - turns * 1.57079632679489661923).to(tl.float32)
        r = tl.where(r > 0.8, 0.8, tl.where(r < -0.8, -0.8, r))  # nothing is known of an angle that is so large
        n = (turns - 4 * tl.floor(turns * 0.25)).to(tl.float32)
    u = r * r
    sine = r + r * u * ((u * -1.9515295891e-4 + 8.3321608736e-3) * u - 1.6666654611e-1)
    cosine = ((u * 2.443315711809948e-5 - 1.388731625493765e-3) * u + 4.166664568298827e-2) * u * u - 0.5 * u + 1.0
    quadrant = n.to(tl.int32) & 3
    swapped = (quadrant & 1) != 0
    c, s = tl.where(swapped, sine, cosine), tl.where(swapped, cosine, sine)
    return tl.where((quadrant == 1) | (quadrant == 2), -c, c), tl.where(quadrant >= 2, -s, s)


@triton.jit
def turned(x, cosine, sine, first_cosine, first_sine, k, step):
    """cos(k step x) and sin(k step x) from those of k - 1; every eighth anew, before roundings add up."""
    if k % 8 == 0:
        return turn(x * (k * step))
    return cosine * first_cosine - sine * first_sine, sine * first_cosine + cosine * first_sine


@triton.jit
def place(X, view, rows, columns, n, m):
    """Addresses of X [views, n, m], and which are inside."""
    at = (view.to(tl.int64) * n + rows)[:, None] * m + columns[None, :]
    return X + at, (rows < n)[:, None] & (columns < m)[None, :]


@triton.jit(do_not_specialize=["n", "m", "step", "knots", "tiles", "views"])
def sums_kernel(X, OUT, n, m, step, knots, tiles, views, KNOTS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """OUT [parts, views, 2, knots, m]: of `tiles` times BR rows a part."""
    part, view = tl.program_id(1), tl.program_id(2)
    columns = tl.program_id(0) * BC + tl.arange(0, BC)
    points = tl.arange(0, KNOTS)
    cosines = tl.zeros((KNOTS, BC), tl.float32)
    sines = cosines
    for tile in range(tiles):
        rows = (part * tiles + tile) * BR + tl.arange(0, BR)
        at, inside = place(X, view, rows, columns, n, m)
        x = tl.load(at, mask=inside, other=0.0)
        first_cosine, first_sine = turn(x * step)
        cosine, sine = tl.full((BR, BC), 1.0, tl.float32), tl.zeros((BR, BC), tl.float32)
        cosines += tl.where((points == 0)[:, None], tl.sum(tl.where(inside, cosine, 0.0), 0)[None, :], 0.0)
        for k in range(1, knots):
            cosine, sine = turned(x, cosine, sine, first_cosine, first_sine, k, step)
            here = (points == k)[:, None]
            cosines += tl.where(here, tl.sum(tl.where(inside, cosine, 0.0), 0)[None, :], 0.0)
            sines += tl.where(here, tl.sum(sine, 0)[None, :], 0.0)  # of 0 where outside
    into = OUT + ((part.to(tl.int64) * views + view) * 2 * knots + points)[:, None] * m + columns[None, :]
    stored = (points < knots)[:, None] & (columns < m)[None, :]
    tl.store(into, cosines, mask=stored)
    tl.store(into + knots.to(tl.int64) * m, sines, mask=stored)


@triton.jit(do_not_specialize=["n", "m", "step", "knots"])
def gradients_kernel(X, WEIGHTS, OUT, n, m, step, knots, BR: tl.constexpr, BC: tl.constexpr):
    """OUT, as X: the sum over k of WEIGHTS[view, 0, k] sin(k step x) + WEIGHTS[view, 1, k] cos(k step x)."""
    view = tl.program_id(2)
    rows, columns = tl.program_id(0) * BR + tl.arange(0, BR), tl.program_id(1) * BC + tl.arange(0, BC)
    at, inside = place(X, view, rows, columns, n, m)
    x = tl.load(at, mask=inside, other=0.0)
    first_cosine, first_sine = turn(x * step)
    cosine, sine = tl.full((BR, BC), 1.0, tl.float32), tl.zeros((BR, BC), tl.float32)
    total = sine
    for k in range(1, knots):
        cosine, sine = turned(x, cosine, sine, first_cosine, first_sine, k, step)
        weight = WEIGHTS + (view.to(tl.int64) * 2 * knots + k) * m + columns
        by_sine = tl.load(weight, mask=columns < m, other=0.0)
        by_cosine = tl.load(weight + knots.to(tl.int64) * m, mask=columns < m, other=0.0)
        total += by_sine[None, :] * sine + by_cosine[None, :] * cosine
    into, _ = place(OUT, view, rows, columns, n, m)
    tl.store(into, total, mask=inside)
