"""L-BFGS with a strong Wolfe line search, for linear probes: fewer passes over memory than ``torch.optim.LBFGS``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Evaluated = tuple[float, Tensor]  # value and gradient at a point
Objective = Callable[[Sequence[int], Tensor], Sequence[Evaluated]]
T = TypeVar("T")
Search = Generator[Tensor, Evaluated, T]  # yields the points that it wants evaluated

HISTORY = 100  # pairs of steps and differences of gradients
SUFFICIENT, CURVATURE = 1e-4, 0.9  # constants of the Wolfe conditions
EVALUATIONS = 25  # of a line search


def minimize(
    objective: Objective,
    starts: Tensor,
    steps: int,
    gradient_tolerance: float = 1e-7,
    change_tolerance: float = 1e-9,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Minimises smooth functions by limited-memory BFGS (Nocedal & Wright 2006, algorithms 7.4 and 3.5).

    The two loops over the history need the scalar products of its vectors alone. These are kept, so that an iteration
    reads the history twice, as a matrix, instead of once for each scalar product and each sum. Several functions are
    evaluated together, each at a point of its own, until the last one is done.

    Args:
        objective: of numbers of functions and points [K, P], one for each: their values and gradients [P].
        starts: [functions, P].
        steps: maximum number of iterations.
        gradient_tolerance: stops where no entry of the gradient is larger.
        change_tolerance: stops where a step changes the value or every entry of the point by less.
        progress: called after each evaluation, of which there is mostly one per iteration, with their number and
            ``steps``.

    Returns:
        [functions, P].
    """
    searches = [_search(start, steps, gradient_tolerance, change_tolerance) for start in starts]
    points, found = {k: next(search) for k, search in enumerate(searches)}, list(starts)
    evaluations = 0
    while points:
        which = list(points)
        for k, evaluated in zip(which, objective(which, torch.stack([points[k] for k in which]))):
            try:
                points[k] = searches[k].send(evaluated)
            except StopIteration as end:
                found[k] = end.value
                del points[k]
        evaluations += 1
        progress(min(evaluations, steps), steps)
    return torch.stack(found)


def _search(x: Tensor, steps: int, gradient_tolerance: float, change_tolerance: float) -> Search[Tensor]:
    value, gradient = yield x
    history = _History(x)
    for step in range(steps):
        if float(gradient.abs().max()) <= gradient_tolerance:
            break
        direction = history.direction(gradient)
        slope = float(gradient @ direction)
        if slope > -change_tolerance:
            break
        first = min(1.0, 1.0 / float(gradient.abs().sum())) if step == 0 else 1.0
        length, found, new_gradient = yield from _line_search(x, value, slope, direction, first)
        taken = length * direction
        x = x + taken
        change, value = abs(found - value), found
        history.add(taken, new_gradient - gradient)
        gradient = new_gradient
        if change < change_tolerance or float(taken.abs().max()) <= change_tolerance:
            break
    return x


class _History:
    """The last steps s and differences of gradients y, and their scalar products."""

    def __init__(self, like: Tensor) -> None:
        self.pairs = like.new_empty(2, 0, len(like))  # s, y, grown as they come
        self.s_y, self.y_y = np.empty((0, 0)), np.empty((0, 0))
        self.count = 0

    def add(self, s: Tensor, y: Tensor) -> None:
        """Forgets the oldest pair if there are too many; leaves out one without curvature."""
        if float(s @ y) <= 1e-10:
            return
        if self.count == self.pairs.shape[1]:
            if self.count == HISTORY:
                self.pairs[:, :-1] = self.pairs[:, 1:].clone()
                self.s_y, self.y_y, self.count = self.s_y[1:, 1:], self.y_y[1:, 1:], self.count - 1
            else:
                grown = self.pairs.new_empty(2, min(HISTORY, max(8, 2 * self.count)), self.pairs.shape[2])
                grown[:, : self.count] = self.pairs
                self.pairs = grown
        self.pairs[0, self.count], self.pairs[1, self.count] = s, y
        self.count += 1
        with_s, with_y = self.products(torch.stack([s, y]))
        self.s_y = np.block([[self.s_y, with_y[0, :-1, None]], [with_s[1]]])
        self.y_y = np.block([[self.y_y, with_y[1, :-1, None]], [with_y[1]]])

    def products(self, vectors: Tensor) -> np.ndarray:
        """[vectors, 2, pairs]: scalar products of vectors [V, P] with all s and all y."""
        flat = self.pairs[:, : self.count]
        return torch.stack([flat[k] @ vectors.T for k in range(2)]).permute(2, 0, 1).double().cpu().numpy()

    def direction(self, gradient: Tensor) -> Tensor:
        """-H g, from the coefficients of s, y and g."""
        n = self.count
        if n == 0:
            return -gradient
        s_g, y_g = self.products(gradient[None])[0]
        of_s, of_y, alpha, rho = np.zeros(n), np.zeros(n), np.zeros(n), 1 / np.diagonal(self.s_y)
        for i in range(n - 1, -1, -1):
            alpha[i] = rho[i] * (s_g[i] + self.s_y[i] @ of_y)
            of_y[i] -= alpha[i]
        scale = 1 / (rho[-1] * self.y_y[-1, -1])
        of_y *= scale
        for i in range(n):
            beta = rho[i] * (scale * y_g[i] + self.y_y[i] @ of_y + self.s_y[:, i] @ of_s)
            of_s[i] = alpha[i] - beta
        coefficients = torch.from_numpy(np.stack([of_s, of_y])).to(gradient)
        sums = coefficients[0] @ self.pairs[0, :n] + coefficients[1] @ self.pairs[1, :n]
        return -(sums + scale * gradient)


def _line_search(
    x: Tensor, value: float, slope: float, direction: Tensor, first: float
) -> Search[tuple[float, float, Tensor]]:
    """Length, value and gradient of a step that meets the strong Wolfe conditions, or the best that was found."""
    rounding = 2 * torch.finfo(x.dtype).eps * abs(value)
    low = (0.0, value, slope)
    best = high = None
    length = first
    for _ in range(EVALUATIONS):
        found, gradient = yield x + length * direction
        new_slope = float(gradient @ direction)
        point = length, found, new_slope, gradient
        too_high = not found <= value + SUFFICIENT * length * slope + rounding or (
            best is not None and found > low[1] + rounding
        )
        if not too_high and abs(new_slope) <= -CURVATURE * slope:
            return length, found, gradient
        if too_high:
            high = point[:3]
        else:
            if high is None and new_slope < 0:  # not far enough
                low, best = point[:3], point
                length *= 4
                continue
            if high is None or new_slope * (high[0] - low[0]) >= 0:
                high = low
            low, best = point[:3], point
        if abs(high[0] - low[0]) * float(direction.abs().max()) < 1e-9:
            break
        length = _between(low, high)
    if best is None:  # no step that is small enough: a change of 0 ends the iterations
        return 0.0, value, (yield x)[1]
    return best[0], best[1], best[3]


def _between(low: tuple[float, float, float], high: tuple[float, float, float]) -> float:
    """The minimum of the cubic through two points with their slopes, away from both."""
    (a, fa, ga), (b, fb, gb) = low, high
    d1 = ga + gb - 3 * (fa - fb) / (a - b)
    square = d1 * d1 - ga * gb
    left, right = min(a, b), max(a, b)
    margin = 0.1 * (right - left)
    if square >= 0 and np.isfinite(square):
        d2 = np.copysign(np.sqrt(square), b - a)
        denominator = gb - ga + 2 * d2
        if denominator != 0:
            return float(np.clip(b - (b - a) * (gb + d2 - d1) / denominator, left + margin, right - margin))
    return (left + right) / 2
