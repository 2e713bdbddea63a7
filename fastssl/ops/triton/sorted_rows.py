"""What sorts or selects from whole rows: all triplets, semi-hard triplets, nearest rows.

Scores by Triton, strip by strip within the memory budget; a block of csrc/cuda/rows.h looks at each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fastssl._table import Metric, RowLoss
from fastssl.ops import extension
from fastssl.ops.triton import cuda, engine
from fastssl.ops.triton.engine import LaunchSpec, Side, Weights
from fastssl.ops.triton.launch import side

LOSS = {RowLoss.triplet: 0, RowLoss.semihard: 1}
WORDS = 10  # of 4 bytes a score, with what a block keeps beside a row


def _strips(n: int, m: int) -> Iterator[tuple[int, int]]:
    """(first row, rows) of strips whose scores and scratch fit the memory budget."""
    height = max(1, min(n, extension.get_memory_budget() // max(4 * WORDS * m, 1)))
    for first in range(0, n, height):
        yield first, min(height, n - first)


def _call(kind: RowLoss, s: Tensor, how: LaunchSpec, first: int, n: int, grad: Tensor | None) -> Tensor:
    assert how.params is not None
    result: Tensor = torch.ops.fastssl.sorted_rows.default(
        LOSS[kind],
        s,
        *(how.ids_x, how.ids_y, how.positive_bits, how.negative_bits),
        *(first, n, -1 if how.itself == engine.NOWHERE else how.offset),
        how.params[:3],  # on the device: a margin that is learned is not waited for
        grad,
    )
    return result


def forward(kind: RowLoss, a: Side, b: Side | None, how: LaunchSpec, m: int, given: Tensor | None) -> Tensor:
    """[2, N] in float64: the sum of a row's terms and how many are above 0."""
    device = a.rows.device
    cuda.require(device)
    if a.n == 0 or m == 0:
        return torch.zeros((2, a.n), dtype=torch.float64, device=device)
    parts = [
        _call(kind, _scores(a, b, how, given, first, rows), how, first, a.n, None) for first, rows in _strips(a.n, m)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _scores(a: Side, b: Side | None, how: LaunchSpec, given: Tensor | None, first: int, rows: int) -> Tensor:
    if given is not None:
        return given[first : first + rows].float()
    return engine.matrix(a, b, _as_matrix(how), first, rows)


def _as_matrix(how: LaunchSpec) -> LaunchSpec:
    return LaunchSpec(engine.MATRIX, how.metric, same=how.same)


def _gradients_of_strip(
    a: Side, b: Side, how: LaunchSpec, slopes: Tensor, first: int, needs: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None]:
    """What dL/ds of rows ``first``.. [rows, m] gives these rows, and all of y."""
    strip = a
    if len(slopes) < a.n:
        part = slice(first, first + len(slopes))
        factor, square, unit = (None if t is None else t[part] for t in (a.factor, a.square, a.unit))
        strip = replace(a, rows=a.rows[part], factor=factor, square=square, unit=unit)
    w = Weights(None, matrix=slopes)
    gx, gy, _, _ = engine.gradients(strip, b, replace(how, same=False), w, needs=needs, dtype=torch.float32)
    assert gx is not None
    return gx, gy


def backward(
    kind: RowLoss,
    a: Side,
    b: Side | None,
    how: LaunchSpec,
    grad: Tensor,
    m: int,
    needs: tuple[int, int],
    dtype: torch.dtype,
    given: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """dL/dx and dL/dy; ``grad`` [N]: of the sums."""
    cuda.require(a.rows.device)
    grad = grad.double().contiguous()
    if given is not None:
        strips = [
            _call(kind, _scores(a, b, how, given, i, h), how, i, a.n, grad[i : i + h]) for i, h in _strips(a.n, m)
        ]
        return torch.cat(strips).to(dtype), None
    other = a if b is None else b
    parts: list[Tensor] = []
    to_y: Tensor | None = None
    for i, h in _strips(a.n, m):
        slopes = _call(kind, _scores(a, b, how, None, i, h), how, i, a.n, grad[i : i + h])
        part_x, part_y = _gradients_of_strip(a, other, _as_matrix(how), slopes, i, (True, b is None or bool(needs[1])))
        parts.append(part_x)
        to_y = part_y if to_y is None or part_y is None else to_y.add_(part_y)
    to_x = parts[0] if len(parts) == 1 else torch.cat(parts)
    if b is None and to_y is not None:
        return (to_x + to_y).to(dtype), None
    return to_x.to(dtype) if needs[0] else None, None if to_y is None else to_y.to(dtype)


def nearest(
    x: Tensor, y: Tensor | None, k: int, metric: Metric, normalize: float, largest: bool, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    """As ``fastssl.ops.rows.nearest``."""
    cuda.require(x.device)
    how = LaunchSpec(engine.MATRIX, metric, same=y is None)
    a = side(x, normalize, how.sees_squares)
    b = None if y is None else side(y, normalize, how.sees_squares)
    m = a.n if b is None else b.n
    found = [
        torch.ops.fastssl.select_rows.default(engine.matrix(a, b, how, i, h), k, largest, i if exclude_self else -1)
        for i, h in _strips(a.n, m)
    ]
    return torch.cat([v for v, _ in found]), torch.cat([i for _, i in found])
