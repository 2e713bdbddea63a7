"""Gradients of a row loss for its parameters: margins, shifts, paces and temperatures that are tensors.

Kernels give the gradient of the scores and of the scales that multiply them. For every other parameter v that needs a
gradient, column k of the outputs becomes ``out_k + (d out_k / d v) (v - v.detach())``: the same value, with the slope
of every row. It comes from counts that the kernel has given (a hinge's slope is how many pairs are active), from the
kernel once more (a squared hinge's is twice the hinge), or from one more pass over strips of scores in forward-mode
differentiation: O(N D) memory in any case.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastssl._table import RowLoss
from fastssl.functional._sums import by_row
from fastssl.ops.reference import rows as reference
from fastssl.ops.types import Relation

Values = list[Any]
Sweep = Callable[[Callable[[Tensor, slice], Tensor]], Tensor]  # applies a function to every strip of scores


def of_kernel(loss: RowLoss, values: Values) -> tuple[int, ...]:
    """Which parameters the kernels have a gradient for."""
    if loss == RowLoss.lse:
        return () if values[6] else (0, 1)
    return (0,) if loss == RowLoss.softplus else ()


def learned(loss: RowLoss, values: Values) -> list[int]:
    """Parameters that need a gradient which no kernel has."""
    given = of_kernel(loss, values)
    return [k for k, v in enumerate(values) if k not in given and isinstance(v, Tensor) and _needs_gradient(v)]


def _needs_gradient(t: Tensor) -> bool:
    if not torch.is_grad_enabled() or t.requires_grad:
        return torch.is_grad_enabled()
    functorch = torch._C._functorch  # torch.compile traces the first question, and not the second
    return functorch.maybe_current_level() is not None and functorch.is_functorch_wrapped_tensor(t)


def attach(
    out: Sequence[Tensor],
    loss: RowLoss,
    values: Values,
    places: list[int],
    relation: Relation,
    upper: bool,
    row_value: Tensor | None,
    sweep: Sweep,
    kernels: Callable[[Values], Tensor],
) -> list[Tensor]:
    """The outputs with the gradients of the parameters at ``places``; ``kernels``: those of other parameters."""
    columns = list(out)
    numbers = [v.detach() if isinstance(v, Tensor) else v for v in values]
    for place in places:
        moving = (values[place] - values[place].detach()).to(out[0].dtype)
        slopes = _from_kernels(loss, out, numbers, place, kernels)
        if slopes is None:
            slopes = _from_scores(loss, out, numbers, place, relation, upper, row_value, sweep)
        for k, slope in slopes.items():
            columns[k] = columns[k] + slope * by_row(moving, columns[k])
    return columns


def _from_kernels(
    loss: RowLoss, out: Sequence[Tensor], values: Values, place: int, kernels: Callable[[Values], Tensor]
) -> dict[int, Tensor | float] | None:
    """Slopes by output, where the outputs themselves say them, or those of other parameters."""
    if loss == RowLoss.lse and place in (2, 3) and not values[6]:
        return {place - 2: 1.0}
    if loss == RowLoss.hinge and place in (1, 2):
        column = 0 if place == 1 else 2
        if values[3] == 1:
            slope = out[column + 1].detach()
        else:
            with torch.no_grad():
                slope = 2 * kernels([*values[:3], 1.0, *values[4:]])[:, column]
        return {column: (-values[0] if place == 1 else values[0]) * slope}
    if place == 1 and (loss == RowLoss.semihard or (loss == RowLoss.triplet and not values[2])):
        return {0: out[1].detach()}
    return None


def _tangent(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The slope of a function of one number."""
    result: Tensor = torch.func.jvp(function, (at,), (torch.ones_like(at),))[1]
    return result


def _triplet_slopes(s: Tensor, positive: Tensor, negative: Tensor, sign: float, margin: Tensor) -> Tensor:
    """[N]: the slope of the sum of softplus over a row's triplets."""
    rows = [(sign * (a[p][:, None] - a[q]) + margin).sigmoid().sum() for a, p, q in zip(s, positive, negative)]
    return torch.stack(rows) if rows else s.new_zeros(0)


# One piece for a compiler: how many triplets a row has, the data decide.
torch.library.custom_op(
    "fastssl::triplet_slopes",
    _triplet_slopes,
    mutates_args=(),
    schema=torch.library.infer_schema(_triplet_slopes, mutates_args=()),
)
torch.library.register_fake("fastssl::triplet_slopes", lambda s, *_: s.new_empty(len(s)))


def _from_scores(
    loss: RowLoss,
    out: Sequence[Tensor],
    values: Values,
    place: int,
    relation: Relation,
    upper: bool,
    row_value: Tensor | None,
    sweep: Sweep,
) -> dict[int, Tensor | float]:
    """Slopes by output, from strips of scores."""
    if loss == RowLoss.lifted:
        row_value = out[0].detach() if row_value is None else row_value
        if place == 1:  # the margin moves the log-sums of rows and columns alike, and with them every J: as a shift
            slopes = _from_scores(loss, out, values, 2, relation, upper, row_value, sweep)
            return {**slopes, 0: 1.0}

    def slope(scores: Tensor, part: slice) -> Tensor:
        s = scores.double()
        m = s.shape[1]
        positive, negative = reference.masks(len(s), m, relation.of_rows(part, m), s.device)
        if upper:
            rows = torch.arange(part.start, part.start + len(s), device=s.device)
            later = torch.arange(m, device=s.device) > rows[:, None]
            positive, negative = positive & later, negative & later
        by_row = None if row_value is None else row_value.detach().double()
        if by_row is not None and loss != RowLoss.lifted:  # those of lifted structure are the columns'
            by_row = by_row[part]

        def outputs(v: Tensor) -> Tensor:
            filled = [*values[:place], v, *values[place + 1 :]]
            return reference.outputs(loss, s, positive, negative, filled, by_row)

        at = torch.as_tensor(values[place], dtype=s.dtype, device=s.device)
        if loss == RowLoss.triplet:  # of softplus
            function = torch.ops.fastssl.triplet_slopes.default if torch.compiler.is_compiling() else _triplet_slopes
            total = function(s, positive, negative, float(values[0]), at)
            return torch.stack([total, torch.zeros_like(total)], 1)
        if torch.compiler.is_compiling():  # which cannot trace what silences warnings
            return _tangent(outputs, at)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch loads forward mode's formulas as TorchScript
            return _tangent(outputs, at)

    with torch.no_grad():
        columns = sweep(slope).to(out[0].dtype).unbind(1)
    return dict(enumerate(columns))
