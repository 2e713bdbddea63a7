"""Pair losses of your own, strip by strip: torch expressions of scores and relations, in O(N D) memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastssl.functional import _check as check
from fastssl.functional.distance import _two, pairwise_distance
from fastssl.ops import get_memory_budget

_TEMPORARIES = 8  # matrices of a strip's size that an expression and its gradient hold at once, about


@dataclass(frozen=True)
class PairMasks:
    """Which pairs of a strip [R, M] are which: boolean masks.

    ``positive``: equal labels, without the row itself; ``negative``: different labels; ``self``: the row itself.
    Without labels row i of y is the positive of row i of x; within x itself there are then no positives.
    """

    positive: Tensor
    negative: Tensor
    self: Tensor


def pair_loss(
    x: Tensor,
    y: Tensor | None = None,
    *,
    term: Callable[[Tensor, PairMasks], Tensor],
    score: str = "cosine",
    labels: Tensor | None = None,
    ref_labels: Tensor | None = None,
    reduction: str = "mean",
    strip: int | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""A pair loss that you write as a torch expression.

    .. math:: L_i = \mathrm{term}(s_{i1}, \dots, s_{iM}; \text{relations})

    ``term(s, pairs)`` gets the scores [R, M] of some whole rows and the masks of their pairs, and returns a value for
    every row [R], or for every pair [R, M], whose sum over columns is the row's. Statistics of a row (its logsumexp,
    its largest negative) are expressions over dimension 1, since rows come whole. Tensors that ``term`` uses, such
    as a temperature, receive their gradients. Scores are computed by the fused kernels, forward and again backward,
    so that memory stays at O(N D) and a strip.

    Args:
        x: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        y: [M, D]; None: x itself.
        term: the expression.
        score: "cosine" (the similarity) | "dot" | "euclidean" | "sqeuclidean" | "manhattan" | "chebyshev".
        labels: [N] integers or None.
        ref_labels: [M] integers, with ``labels`` and y.
        reduction: "mean" over rows | "sum" | "none".
        strip: rows at a time; None: as many as the memory budget allows.
        backend: "reference" | "cpu"; None chooses.

    Returns:
        A scalar, or [N] for "none"; float64 for float64 inputs, else float32.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device, score or reduction, or ``term`` returned another shape.

    Example:
        >>> import torch, fastssl.functional as F
        >>> def hardest_negative(s, pairs):
        ...     return s.masked_fill(~pairs.negative, -1).amax(1).clamp(min=0)
        >>> x = torch.randn(8, 16, requires_grad=True)
        >>> F.pair_loss(x, term=hardest_negative, labels=torch.arange(8) % 2).backward()

    Source: the algebra of every loss in this package.
    """
    y = _two(x, y)
    check.reduction(reduction)
    check.choice("score", score, ("cosine", "dot", "euclidean", "sqeuclidean", "manhattan", "chebyshev"))
    if not callable(term):
        raise TypeError(f"term: expected a function of scores and masks, got {type(term).__name__}")
    columns = x if y is None else y
    n, m = x.shape[0], columns.shape[0]
    x_ids, y_ids = _ids(x, y, labels, ref_labels)
    if strip is None:
        size = 8 if x.dtype == torch.float64 else 4
        strip = max(32, get_memory_budget() // max(1, m * size * _TEMPORARIES))
    strip = check.count("strip", strip)

    def rows_of(some: Tensor, all_: Tensor, first: int) -> Tensor:
        s = pairwise_distance(some, all_, metric=score, backend=backend)
        if score == "cosine":
            s = 1 - s
        rows = torch.arange(first, first + len(some), device=x.device)
        itself = (rows[:, None] == torch.arange(m, device=x.device)[None, :]) if y is None else None
        equal = x_ids[rows][:, None] == y_ids[None, :]
        none = torch.zeros_like(equal)
        pairs = PairMasks(equal if itself is None else equal & ~itself, ~equal, none if itself is None else itself)
        value = term(s, pairs)
        if not isinstance(value, Tensor) or value.shape not in ((len(some),), s.shape):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"term: expected a result of shape {(len(some),)} or {tuple(s.shape)}, got {shape}")
        return value.sum(1) if value.dim() == 2 else value

    pieces = [
        checkpoint(rows_of, x[first : first + strip], columns, first, use_reentrant=False)
        for first in range(0, n, strip)
    ]
    values = torch.cat(pieces) if pieces else x.new_zeros((0,), dtype=torch.promote_types(x.dtype, torch.float32))
    if reduction == "none":
        return values
    return values.sum() if reduction == "sum" else values.sum() / max(n, 1)


def _ids(x: Tensor, y: Tensor | None, labels: Tensor | None, ref_labels: Tensor | None) -> tuple[Tensor, Tensor]:
    if labels is None:
        if ref_labels is not None:
            raise TypeError("labels: expected a torch.Tensor beside ref_labels, got NoneType")
        columns = x if y is None else y
        return tuple(torch.arange(t.shape[0], device=x.device) for t in (x, columns))  # type: ignore[return-value]
    x_ids = check.ids("labels", labels, x, "x")
    if y is None:
        return x_ids, x_ids
    return x_ids, check.ids("ref_labels", ref_labels, y, "y")


def pairwise_reduce(
    x: Tensor,
    y: Tensor | None = None,
    *,
    function: Callable[[Tensor], Tensor] | None = None,
    reduction: str = "sum",
    metric: str = "euclidean",
    backend: str | None = None,
) -> Tensor:
    r"""One value per row of x over its distances to all rows of y, without the matrix.

    .. math:: r_i = \sum_j f(d_{ij}), \quad \frac1M \sum_j f(d_{ij}), \quad \min_j f(d_{ij}), \quad \max_j f(d_{ij})

    Args:
        x: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        y: [M, D]; None: x itself, each row's distance to itself included.
        function: f, elementwise in torch; None: the distance itself.
        reduction: "sum" | "mean" | "min" | "max".
        metric: as :func:`pairwise_distance`.
        backend: "reference" | "cpu"; None chooses.

    Returns:
        [N]; float64 for float64 inputs, else float32.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device, metric or reduction, or min and max over no rows.

    Example:
        >>> import torch, fastssl.functional as F
        >>> F.pairwise_reduce(torch.randn(8, 16), function=lambda d: torch.exp(-d), reduction="mean").shape
        torch.Size([8])

    Source: the row reductions of :func:`pairwise_distance`.
    """
    check.choice("reduction", reduction, ("sum", "mean", "min", "max"))
    columns = x if y is None else y
    cosine = metric == "cosine"

    def term(s: Tensor, pairs: PairMasks) -> Tensor:
        d = 1 - s if cosine else s
        value = d if function is None else function(d)
        if reduction in ("min", "max"):
            return value.amin(1) if reduction == "min" else value.amax(1)
        return value.sum(1) if reduction == "sum" else value.mean(1)

    check.choice("metric", metric, ("euclidean", "sqeuclidean", "cosine", "dot", "manhattan", "chebyshev"))
    check.matrix("x", x)
    if check.matrix("y" if y is not None else "x", columns).shape[0] == 0 and reduction != "sum":
        raise ValueError(f"reduction: {reduction!r} over no rows is undefined; expected at least one row of y")
    return pair_loss(x, y, term=term, score=metric, reduction="none", backend=backend)
