"""Sums of an empirical characteristic function, of exp(i t x) over rows at t = 0, step, 2 step, ..., and their gradient."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def turned(x, cosine, sine, first_cosine, first_sine, k, step):
    """cos(k step x) and sin(k step x) from those of k - 1; every eighth anew, before roundings add up."""
    if k % 8 == 0:
        angle = x * (k * step)
        return tl.cos(angle), tl.sin(angle)
    return cosine * first_cosine - sine * first_sine, sine * first_cosine + cosine * first_sine


@triton.jit
def place(X, view, rows, columns, n, m):
    """Addresses of X [views, n, m], and which are inside."""
    at = (view.to(tl.int64) * n + rows)[:, None] * m + columns[None, :]
    return X + at, (rows < n)[:, None] & (columns < m)[None, :]


@triton.jit(do_not_specialize=["n", "m", "step", "knots", "tiles"])
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
        first_cosine, first_sine = tl.cos(x * step), tl.sin(x * step)
        cosine, sine = tl.where(inside, 1.0, 0.0), tl.zeros((BR, BC), tl.float32)
        cosines += tl.where((points == 0)[:, None], tl.sum(cosine, 0)[None, :], 0.0)
        cosine, sine = first_cosine, first_sine
        for k in range(1, knots):
            if k > 1:
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
    rows, columns = tl.program_id(1) * BR + tl.arange(0, BR), tl.program_id(0) * BC + tl.arange(0, BC)
    at, inside = place(X, view, rows, columns, n, m)
    x = tl.load(at, mask=inside, other=0.0)
    first_cosine, first_sine = tl.cos(x * step), tl.sin(x * step)
    cosine, sine = first_cosine, first_sine
    total = tl.zeros((BR, BC), tl.float32)
    for k in range(1, knots):
        if k > 1:
            cosine, sine = turned(x, cosine, sine, first_cosine, first_sine, k, step)
        weight = WEIGHTS + (view.to(tl.int64) * 2 * knots + k) * m + columns
        by_sine = tl.load(weight, mask=columns < m, other=0.0)
        by_cosine = tl.load(weight + knots.to(tl.int64) * m, mask=columns < m, other=0.0)
        total += by_sine[None, :] * sine + by_cosine[None, :] * cosine
    into, _ = place(OUT, view, rows, columns, n, m)
    tl.store(into, total, mask=inside)
