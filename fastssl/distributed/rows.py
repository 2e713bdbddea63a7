"""Losses that look at whole rows of scores, where the other side's rows live in several processes.

"all_gather": all rows come once. "ring": for every strip of own rows the blocks go around once, and leave their scores
in it; the backward pass does so twice, once for the scores and once for the gradients. Memory is that of a strip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastssl.distributed.collectives import gather_rows
from fastssl.distributed.exchange import all_to_all, gather
from fastssl.distributed.shards import Shards
from fastssl.distributed.tour import Block, circle, tour, travels, zeros_for
from fastssl.ops import Backend, dispatch, get_memory_budget, rows
from fastssl.ops.reference import rows as reference
from fastssl.ops.rows import Metric, Relation, RowLoss

ROW_LOSS = Backend(reference.row_loss, rows.row_loss)
PAIRWISE = Backend(reference.pairwise, rows.pairwise)


@dataclass(frozen=True)
class Columns:
    """The other side of a row loss: this process's part of it, and what is known of all of it.

    ``gathered``: all rows, or None where they travel.
    """

    shards: Shards
    counts: Sequence[int]
    own: Tensor
    gathered: Tensor | None

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def first(self) -> int:
        """The place of this process's first row among all."""
        return sum(self.counts[: self.shards.rank])

    def every(self, values: Tensor) -> Tensor:
        """One value for each column, from those of one's own (no gradient)."""
        return gather(self.shards, values.detach(), self.counts)

    def fetch(self, places: Tensor) -> Tensor:
        """Rows by their place among all, with a gradient."""
        if self.gathered is not None:
            return self.gathered[places]
        result: Tensor = _Fetch.apply(self, places, self.own)
        return result


def columns_of(shards: Shards, own: Tensor, counts: Sequence[int]) -> Columns:
    ring = travels(shards, sum(counts), own.shape[1], own.element_size())
    return Columns(shards, counts, own, None if ring else gather_rows(shards, own, counts))


def row_loss(
    loss: RowLoss,
    x: Tensor,
    y: Columns,
    relation: Relation,
    values: list[float | Tensor],
    metric: Metric,
    normalize: bool,
    row_value: Tensor | None,
    backend: str | None,
) -> Tensor:
    """:func:`fastssl.ops.rows.row_loss` of this process's rows against all columns."""
    if y.gathered is not None:
        result: Tensor = dispatch(
            ROW_LOSS, backend, x.device, loss, x, y.gathered, relation, values, metric, normalize, row_value
        )
        return result
    if torch.is_autocast_enabled(x.device.type):
        x, y = x.float(), replace(y, own=y.own.float())
    parameters = [v for v in values if isinstance(v, Tensor)]
    result = _Travelling.apply(loss, y, relation, values, metric, normalize, backend, x, y.own, row_value, *parameters)
    return result


class _Travelling(torch.autograd.Function):
    """A row loss strip by strip: nothing of a strip is kept but what it gives for its rows."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: RowLoss,
        y: Columns,
        relation: Relation,
        values: list[float | Tensor],
        metric: Metric,
        normalize: bool,
        backend: str | None,
        x: Tensor,
        own: Tensor,
        row_value: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, own, row_value, *parameters)
        ctx.call = loss, replace(y, own=own.detach(), gathered=None), relation, values, metric, normalize, backend
        return torch.cat([_strip(ctx.call, x, own, part, row_value, parameters)[0] for part in _strips(y, x)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, own, row_value, *parameters = ctx.saved_tensors
        _, y, _, _, metric, normalize, backend = ctx.call
        wanted = ctx.needs_input_grad[7:]
        grad_x, grad_own = zeros_for(x), zeros_for(own)
        sums: list[Tensor | None] = [
            torch.zeros_like(t) if t is not None and w else None for t, w in zip((row_value, *parameters), wanted[2:])
        ]
        for part in _strips(y, x):
            with torch.enable_grad():
                value = row_value if row_value is None else row_value.detach().requires_grad_(wanted[2])
                given = [p.detach().requires_grad_(w) for p, w in zip(parameters, wanted[3:])]
                out, scores = _strip(ctx.call, x, own, part, value, given)
                asked = [scores, *(t for t in (value, *given) if t is not None and t.requires_grad)]
                found = iter(torch.autograd.grad(out, asked, grad[part], allow_unused=True))
            slope = next(found)
            for k, t in enumerate((value, *given)):
                if t is not None and t.requires_grad:
                    g, total = next(found), sums[k]
                    if g is not None and total is not None:
                        total += g
            some = x[part]

            def push(
                theirs: Tensor, first: int, some: Tensor = some, slope: Tensor = slope, part: slice = part
            ) -> Tensor:
                """The gradient of a block of the strip: to own rows at once, to the others' as a result."""
                with torch.enable_grad():
                    a, b = some.detach().requires_grad_(), theirs.detach().requires_grad_()
                    s = dispatch(PAIRWISE, backend, a.device, a, b, metric, normalize)
                    to_a, to_b = torch.autograd.grad(s, (a, b), slope[:, first : first + len(theirs)])
                grad_x[part] += to_a
                return to_b.to(grad_own.dtype)

            grad_own.add_(push(own, y.first))
            firsts = [sum(y.counts[:r]) for r in range(len(y.counts))]

            def visit(block: Block, theirs: Tensor, push: Any = push, firsts: list[int] = firsts) -> tuple[Tensor, ...]:
                return (push(theirs, firsts[block.peer]),)

            for mine, (back,) in tour(y.shards, circle, y.counts, (own,), visit, ring=True):
                grad_own[mine] += back
        return (
            *(None,) * 7,
            grad_x.to(x.dtype) if wanted[0] else None,
            grad_own.to(own.dtype) if wanted[1] else None,
            *sums,
        )


def _strips(y: Columns, x: Tensor) -> list[slice]:
    """As many rows at a time as the budget has place for scores and their gradient; as often on every process."""
    size = 8 if x.dtype == torch.float64 else 4
    height = max(32, get_memory_budget() // max(1, 4 * y.total * size) // 32 * 32)
    longest = max(int(t) for t in gather(y.shards, torch.tensor([len(x)], device=x.device), [1] * y.shards.size))
    return [slice(min(k, len(x)), min(k + height, len(x))) for k in range(0, max(longest, 1), height)]


def _strip(
    call: Any, x: Tensor, own: Tensor, part: slice, row_value: Tensor | None, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """What the loss gives for some of the own rows, and their scores: a leaf of its graph."""
    loss, y, relation, values, metric, normalize, backend = call
    some = x[part]
    blocks: list[Tensor | None] = [None] * y.shards.size
    with torch.no_grad():
        blocks[y.shards.rank] = dispatch(PAIRWISE, backend, x.device, some, own, metric, normalize)

        def visit(block: Block, theirs: Tensor) -> tuple[Tensor, ...]:
            blocks[block.peer] = dispatch(PAIRWISE, backend, x.device, some, theirs, metric, normalize)
            return ()

        for _ in tour(y.shards, circle, y.counts, (own,), visit, ring=True):
            pass
        scores = torch.cat([b for b in blocks if b is not None], 1)
        blocks.clear()
    scores.requires_grad_(torch.is_grad_enabled())
    left = iter(parameters)
    given = [next(left) if isinstance(v, Tensor) else v for v in values]
    if relation.self_offset >= 0:
        relation = replace(relation, self_offset=(relation.self_offset + part.start) % max(1, y.total))
    relation = replace(relation, x_ids=relation.x_ids[part])
    by_row = row_value is not None and loss != RowLoss.lifted
    out = dispatch(
        ROW_LOSS,
        backend,
        x.device,
        loss,
        scores,
        None,
        relation,
        given,
        Metric.given,
        False,
        row_value[part] if by_row and row_value is not None else row_value,
    )
    return out, scores


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Columns, places: Tensor, own: Tensor) -> Tensor:
        shards, size = y.shards, y.shards.size
        ends = torch.tensor(list(y.counts), device=places.device).cumsum(0)
        home = torch.searchsorted(ends, places, right=True)
        order = torch.argsort(home, stable=True)
        asking = torch.bincount(home, minlength=size)
        every = gather(shards, asking[None], [1] * size).tolist()
        mine, arriving = every[shards.rank], [every[r][shards.rank] for r in range(size)]
        wishes = all_to_all(shards, list(places[order].split(mine)), arriving)
        local = [w - y.first for w in wishes]
        rows_ = all_to_all(shards, [own[w] for w in local], mine)
        result = own.new_empty((len(places), *own.shape[1:]))
        result[order] = torch.cat(rows_)
        ctx.call = shards, order, mine, arriving, local, own.shape
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        shards, order, mine, arriving, local, shape = ctx.call
        parts = all_to_all(shards, list(grad[order].split(mine)), arriving)
        result = grad.new_zeros(shape)
        for where, part in zip(local, parts):
            result.index_add_(0, where, part)
        return None, None, result
