"""Results of pytorch-metric-learning's reducers from sums and counts, where losses per pair are never stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.compat._peer import NotFused, require_values
from fastssl.compat.metric_learning.calls import LossDict, thresholds_of
from fastssl.functional._pairs import Rows
from fastssl.ops.operator import result_dtype

ROUNDINGS = 16  # tolerance of the original's loss, in roundings of its largest term


def reducer_of(loss: Any, name: str) -> Any:
    reducer = loss.reducer
    if type(reducer).__name__ != "MultipleReducers":
        return reducer
    return dict(reducer.reducers.items()).get(name, reducer.default_reducer)


def require_sums(loss: Any, *names: str) -> None:
    """Raises NotFused, before lists of these names are computed, for a reducer that wants every entry of one."""
    for name in names:
        reducer = reducer_of(loss, name)
        kind = type(reducer).__name__
        if kind not in ("AvgNonZeroReducer", "MeanReducer", "SumReducer"):
            raise NotFused(f"{kind} wants every entry")
        if kind == "AvgNonZeroReducer" and thresholds_of(reducer) != [0.0]:
            raise NotFused("a threshold that was set by hand")


def tolerance_of(embeddings: Tensor, *terms: Tensor | float) -> float:
    """Tolerance between the original's losses and the fused ones: some roundings of their largest term."""
    largest = 1.0
    for t in terms:
        if isinstance(t, Tensor):
            t = t.detach()
            t = t[torch.isfinite(t)].abs()
            largest = max(largest, float(t.max()) if t.numel() else 0.0)
        else:
            largest = max(largest, abs(t))
    # In 16 bits the fused result follows float64, from which the original's rounding may differ.
    return ROUNDINGS * torch.finfo(result_dtype(embeddings)).eps * largest


def element(
    loss: Any,
    embeddings: Tensor,
    values: Tensor,
    rows: Tensor | None = None,
    *,
    terms: tuple[Tensor | float, ...],
    exact: Tensor | None = None,
    name: str = "loss",
) -> LossDict:
    """Losses per row, or of ``rows``.

    ``terms``: magnitude of the terms that the original sums; ``exact``: rows whose loss is bitwise equal to it.
    """
    thresholds = thresholds_of(reducer_of(loss, name))
    if thresholds or rows is not None:
        require_values()
    if thresholds:
        tolerance = tolerance_of(embeddings, *terms, values)
        for threshold in thresholds:
            near = ~((values.detach() - threshold).abs() > tolerance)
            if bool((near if exact is None else near & ~exact).any()):
                raise NotFused("losses at the reducer's threshold, to rounding")
    indices, kept = torch.arange(len(values), device=embeddings.device), values
    if rows is not None:
        indices, kept = indices[rows], values[rows]
    return {name: {"losses": kept.to(result_dtype(embeddings)), "indices": indices, "reduction_type": "element"}}


def reduced(
    loss: Any,
    name: str,
    embeddings: Tensor,
    total: Tensor,
    active: Tensor,
    count: Tensor,
    least: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """The reducer's result for a list with the given sum, number of entries above 0 and total number, of which
    :func:`require_sums` has said that it is enough.

    ``least``: for a list without zeros, the margin of its smallest entry over rounding errors.
    """
    kind = type(reducer_of(loss, name)).__name__
    if kind == "AvgNonZeroReducer" and least is not None:
        require_values()
        if not least() > 0:
            raise NotFused("losses at the reducer's threshold, to rounding")
    if kind != "SumReducer":
        total = total / (active if kind == "AvgNonZeroReducer" else count).clamp(min=1)
    value = total.to(result_dtype(embeddings))
    return {"losses": value, "indices": None, "reduction_type": "already_reduced"}


def nan_if_overflown(lse: Tensor, negatives: Tensor) -> Tensor:
    """1 per row; NaN for one whose distances to all negatives are infinite: its log-sum is that of no negatives, and
    the loss of a run that has diverged would be 0."""
    return torch.where((negatives > 0) & (lse.detach() == -math.inf), math.nan, 1.0).to(lse.dtype)


def nothing(loss: Any, rows: Rows) -> bool:
    require_values()
    return not bool(rows.positives.any()) or not bool(rows.negatives.any())


def without_zeros(normalize: float, *sides: Tensor) -> None:
    """Normalised rows of zeros are at one distance from all others: rounding decides which of them a margin counts."""
    if not normalize:
        return
    require_values()
    different = {id(side): side for side in sides}.values()
    if not all(bool(side.detach().any(1).all()) for side in different):
        raise NotFused("rows of zeros, which the original's rounding decides about")


def least_of(embeddings: Tensor, rows: Rows, largest: float, term: float) -> Callable[[], float]:
    """Margin of the smallest loss of a pair, softplus(lse of the negatives - score), over the original's rounding;
    ``largest``: an upper bound of scores."""

    def least() -> float:
        lse = rows.lse.detach()[rows.positives > 0]
        return float(TF.softplus(lse - largest).min()) - tolerance_of(embeddings, term, lse)

    return least
