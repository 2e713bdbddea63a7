"""Pair losses of your own, strip by strip: torch expressions of scores and relations, in O(N D) memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastssl._table import Metric
from fastssl.distributed.exchange import layout
from fastssl.distributed.rows import columns_of, travelling
from fastssl.distributed.shards import Group, current, shardable, unsharded
from fastssl.functional import _check as check
from fastssl.functional._pairs import reduce_rows
from fastssl.functional.distance import _two, pairwise_distance
from fastssl.ops import get_memory_budget
from fastssl.ops.backend import resolve
from fastssl.ops.draws import Draws
from fastssl.ops.operator import differentiable_once, transforms

_TEMPORARIES = 8  # matrices of a strip's size that an expression and its gradient hold at once, about


@dataclass(frozen=True)
class PairMasks:
    """Boolean masks [R, M] of the pairs of R rows of x with all M rows of y, as :func:`pair_loss` passes to ``term``.

    Without labels row i of y is the positive of row i of x; within x itself there are then no positives.

    Args:
        positive: pairs with equal labels, each row with itself left out.
        negative: pairs with different labels.
        self: each row with itself.

    Example:
        >>> import torch, fastssl.functional as F
        >>> x, labels = torch.randn(8, 16), torch.arange(8) % 2
        >>> def count(s, pairs):
        ...     return pairs.positive.sum(1).to(s.dtype)
        >>> F.pair_loss(x, term=count, labels=labels)
        tensor(3.)
    """

    positive: Tensor
    negative: Tensor
    self: Tensor


@shardable
def pair_loss(
    x: Tensor,
    y: Tensor | None = None,
    *,
    term: Callable[..., Tensor],
    parameters: Sequence[Tensor] = (),
    score: str = "cosine",
    labels: Tensor | None = None,
    ref_labels: Tensor | None = None,
    reduction: str = "mean",
    strip: int | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""A custom pair loss, written as a torch expression.

    .. math:: L_i = \mathrm{term}(s_{i1}, \dots, s_{iM}; \text{relations})

    ``term(s, pairs, *parameters)`` gets the scores [R, M] of some whole rows and the masks of their pairs, and returns
    a value for every row [R], or for every pair [R, M], whose sum over columns is the row's. Statistics of a row (its
    logsumexp, its largest negative) are expressions over dimension 1, since rows come whole. Scores are computed by
    the fused kernels, forward and again backward, so that memory stays at O(N D) and a strip.

    Args:
        term: the expression, as above.
        parameters: further tensors for ``term``, such as a temperature; they receive gradients.
        score: "cosine" (the similarity) | "dot" | "euclidean" | "sqeuclidean" | "manhattan" | "chebyshev".
        labels: [N] integers or None.
        ref_labels: [M] integers, with ``labels`` and y.
        reduction: "mean" over rows | "active": over those above 0 | "sum" | "none".
        strip: rows per strip; None: as many as the memory budget allows.

    Raises:
        ValueError: wrong shape, device, score or reduction; ``term`` returned another shape, or uses a tensor that
            needs a gradient and is not among its parameters (the reference backend takes such tensors).

    Example:
        >>> import torch, fastssl.functional as F
        >>> def hardest_negative(s, pairs):
        ...     return s.masked_fill(~pairs.negative, -1).amax(1).clamp(min=0)
        >>> x = torch.randn(8, 16, requires_grad=True)
        >>> F.pair_loss(x, term=hardest_negative, labels=torch.arange(8) % 2).backward()

    Source: the algebra of every loss in this package.
    """
    if y is x and ref_labels is not None and ref_labels is not labels:  # columns have labels of their own
        check.matrix("x", x)
    else:
        y = _two(x, y)
    if y is not None and y.dtype != x.dtype:  # within autocast, which does not reach the second pass over the strips
        x, y = x.float(), y.float()
    check.reduction(reduction)
    check.choice("score", score, ("cosine", "dot", "euclidean", "sqeuclidean", "manhattan", "chebyshev"))
    if not callable(term):
        raise TypeError(f"term: expected a function of scores and masks, got {type(term).__name__}")
    if not isinstance(parameters, Sequence):
        raise TypeError(f"parameters: expected a sequence of tensors, got {type(parameters).__name__}")
    for parameter in parameters:
        check.tensor("parameters", parameter)
    backend = resolve(x.device, backend, x.dtype)  # backward passes, of other threads on a GPU, have no ``with`` block
    within, first_row = y is None, 0
    x_ids, y_ids = _ids(x, y, labels, ref_labels)
    shards = current()
    if shards is not None:
        y = x if y is None else y
        shared = columns_of(shards, y, layout(shards, "x" if within else "y", y))
        first_row = shared.first
        if labels is None:
            x_ids, y_ids = x_ids + first_row, y_ids + first_row
        y, y_ids = shared.gathered, shared.every(y_ids)
    m = y_ids.shape[0]
    if strip is None:
        size = 8 if x.dtype == torch.float64 else 4
        strip = max(32, get_memory_budget() // max(1, m * size * _TEMPORARIES))
    else:
        strip = check.count("strip", strip)

    def rows_of(some: Tensor, all_: Tensor, first: int, *given: Tensor) -> Tensor:
        s = pairwise_distance(some, all_, metric=score, backend=backend)
        return values_of(1 - s if score == "cosine" else s, slice(first, first + len(some)), *given)

    def values_of(s: Tensor, part: slice, *given: Tensor) -> Tensor:
        rows = torch.arange(part.start, part.stop, device=x.device)
        itself = (first_row + rows[:, None] == torch.arange(m, device=x.device)[None, :]) if within else None
        equal = x_ids[rows][:, None] == y_ids[None, :]
        none = torch.zeros_like(equal)
        pairs = PairMasks(equal if itself is None else equal & ~itself, ~equal, none if itself is None else itself)
        value = term(s.clone() if score != "cosine" or shards is not None else s, pairs, *given)  # it may write to s
        if not isinstance(value, Tensor) or value.shape not in ((len(s),), s.shape):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"term: expected a result of shape {(len(s),)} or {tuple(s.shape)}, got {shape}")
        return value.sum(1) if value.dim() == 2 else value

    values: Tensor
    if shards is not None and shared.gathered is None:
        how = Metric.dot if score == "cosine" else Metric[score], score == "cosine", backend
        values = travelling(values_of, x, shared, *how, *parameters, matrices=_TEMPORARIES)
    else:
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or transforms()
        again = traced or backend == "reference" or check.forward_mode()
        values = (_traced_strips if again else _Strips.apply)(rows_of, strip, x, y, *parameters)
    if reduction == "none":
        return values
    return reduce_rows(values, None, reduction)


class _Strips(torch.autograd.Function):
    """``rows_of`` strip by strip, again in the backward pass: nothing of a strip is kept but its rows' values."""

    @staticmethod
    def forward(ctx: Any, rows_of: Any, strip: int, x: Tensor, y: Tensor | None, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, *parameters)
        ctx.rows_of, ctx.strip, ctx.draws = rows_of, strip, Draws(x.device)
        columns = x if y is None else y
        values = x.new_empty(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
        for first in range(0, x.shape[0], strip):
            with torch.enable_grad() if first == 0 else torch.no_grad():
                # Everything is detached here: what still asks for a gradient came by another way.
                value = rows_of(
                    x[first : first + strip].detach(), columns.detach(), first, *(p.detach() for p in parameters)
                )
            if value.requires_grad:
                raise ValueError(
                    "term: uses a tensor that needs a gradient; expected it in parameters=(...), as an argument of term"
                )
            values[first : first + strip] = value
        return values

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *parameters = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        leaves = [(x if y is None else y).detach().requires_grad_(wanted[0] if y is None else wanted[1])]
        leaves += [p.detach().requires_grad_(w) for p, w in zip(parameters, wanted[2:])]
        # 16 bits would lose digits with every strip, and 32 with thousands: parameters, which are small, have 64.
        sums = [
            torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float64 if k else torch.float32))
            if t.requires_grad
            else None
            for k, t in enumerate(leaves)
        ]
        grad_x = sums[0] if y is None else (torch.zeros_like(x) if wanted[0] else None)
        with ctx.draws.again():
            for first in range(0, x.shape[0], ctx.strip):
                part = slice(first, first + ctx.strip)
                some = x[part].detach().requires_grad_(wanted[0])
                with torch.enable_grad():
                    value = ctx.rows_of(some, leaves[0], first, *leaves[1:])
                asked = [t for t in (some, *leaves) if t.requires_grad]
                if not value.requires_grad:
                    continue
                grads = iter(torch.autograd.grad(value, asked, grad[part].to(value.dtype), allow_unused=True))
                for total, leaf in zip((grad_x[part] if grad_x is not None else None, *sums), (some, *leaves)):
                    g = next(grads) if leaf.requires_grad else None
                    if g is not None and total is not None:
                        total += g
        columns, *others = (None if g is None else g.to(t.dtype) for g, t in zip(sums, leaves))
        of_rows = (columns, None) if y is None else (grad_x, columns)
        return (None, None, *of_rows, *others)


def _traced_strips(
    rows_of: Callable[..., Tensor], strip: int, x: Tensor, y: Tensor | None, *parameters: Tensor
) -> Tensor:
    """The same in a graph or a transform of torch.func, which cannot hold the gradient that ``_Strips`` takes within
    its backward pass, in forward mode, and by the reference backend, which has second derivatives. Transforms know no
    checkpoints: the scores of all strips are kept.

    Not by others in eager mode: a node for each of 256 strips of 64 rows leaves 970 MB of the heap in pieces,
    ``_Strips`` 90.
    """
    draws = not torch.compiler.is_compiling()
    again = functools.partial(checkpoint, rows_of, use_reentrant=False, preserve_rng_state=draws)
    run = rows_of if transforms() else again
    columns = x if y is None else y
    values = [run(part, columns, k * strip, *parameters) for k, part in enumerate(x.split(strip))]
    value = torch.cat(values).to(torch.promote_types(x.dtype, torch.float32))
    return value if value.requires_grad else value + x[:0].sum()  # of a term without scores: zeros, as of the kernels


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
        y: [M, D]; None: x itself, each row's distance to itself included.
        function: f, elementwise in torch; None: the distance itself.
        reduction: "sum" | "mean" | "min" | "max".

    Returns:
        [N]; float64 for float64 inputs, else float32.

    Raises:
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
    with unsharded():  # no loss
        return pair_loss(x, y, term=term, score=metric, reduction="none", backend=backend)
