"""Losses that look at whole rows of scores, where the other side's rows live in several processes.

"all_gather": all rows come once. "ring": for every strip of own rows the blocks go around once, and leave their scores
in it; the backward pass does so twice, once for the scores and once for the gradients. Memory is that of a strip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastssl._table import Metric, RowLoss
from fastssl.distributed.collectives import gather_rows
from fastssl.distributed.exchange import all_to_all, gather
from fastssl.distributed.ring import Block, all_peers, ring_pass, travels, zeros_for
from fastssl.distributed.shards import Shards
from fastssl.ops import Backend, dispatch, get_memory_budget, rows
from fastssl.ops.draws import Draws
from fastssl.ops.operator import differentiable_once
from fastssl.ops.reference import rows as reference
from fastssl.ops.types import Relation

ROW_LOSS = Backend(reference.row_loss, rows.row_loss, "row_loss")
PAIRWISE = Backend(reference.pairwise, rows.pairwise, "pairwise")


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
    ring = sum(counts) > 0 and travels(shards, sum(counts), own.shape[1], own.element_size())
    return Columns(shards, counts, own, None if ring else gather_rows(shards, own, counts))


def row_loss(
    loss: RowLoss,
    x: Tensor,
    y: Columns,
    relation: Relation,
    values: list[float | Tensor],
    metric: Metric,
    normalize: float,
    row_value: Tensor | None,
    backend: str | None,
) -> Tensor:
    """:func:`fastssl.ops.rows.row_loss` of this process's rows against all columns."""
    if y.gathered is not None:
        result: Tensor = dispatch(
            ROW_LOSS, backend, x.device, loss, x, y.gathered, relation, values, metric, normalize, row_value
        )
        return result
    places = [k for k, v in enumerate(values) if isinstance(v, Tensor)]

    def consume(scores: Tensor, part: slice, value: Tensor | None, *given: Tensor) -> Tensor:
        filled = list(values)
        for k, v in zip(places, given):
            filled[k] = v
        some = relation.of_rows(part, y.total)
        if value is not None and loss != RowLoss.lifted:  # lifted structure's are those of columns
            value = value[part]
        call = loss, scores, None, some, filled, Metric.given, False, value
        result: Tensor = dispatch(ROW_LOSS, backend, x.device, *call)
        return result

    return travelling(consume, x, y, metric, normalize, backend, row_value, *(values[k] for k in places))


def travelling(
    consume: Callable[..., Tensor],
    x: Tensor,
    y: Columns,
    metric: Metric,
    normalize: float,
    backend: str | None,
    *tensors: Any,
    matrices: int = 4,
) -> Tensor:
    """What ``consume`` makes of this process's rows of scores, strip by strip, while blocks of columns go around.

    Args:
        consume: (scores [rows, M], which of the own rows, *tensors) -> [rows, ...], differentiable.
        x: [N, D], this process's rows.
        y: the columns, not gathered.
        metric: of the scores.
        normalize: divide rows by their length first.
        backend: of the scores.
        tensors: what ``consume`` takes besides, or None; gradients are theirs too.
        matrices: of a strip's size that are held at once, about.
    """
    if torch.is_autocast_enabled(x.device.type):
        x, y = x.float(), replace(y, own=y.own.float())
    how = _Strips(consume, replace(y, own=y.own.detach()), metric, normalize, backend, matrices)
    result: Tensor = _Travelling.apply(how, x, y.own, *tensors)
    return result


@dataclass(frozen=True)
class _Strips:
    consume: Callable[..., Tensor]
    y: Columns
    metric: Metric
    normalize: float
    backend: str | None
    matrices: int

    def scores(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = dispatch(PAIRWISE, self.backend, x.device, x, y, self.metric, self.normalize)
        return result

    def strips(self, x: Tensor) -> list[slice]:
        """As many rows at a time as the budget has place for; as often on every process."""
        y, size = self.y, 8 if x.dtype == torch.float64 else 4
        height = max(32, get_memory_budget() // max(1, self.matrices * y.total * size) // 32 * 32)
        longest = max(int(t) for t in gather(y.shards, torch.tensor([len(x)], device=x.device), [1] * y.shards.size))
        return [slice(min(k, len(x)), min(k + height, len(x))) for k in range(0, max(longest, 1), height)]

    @torch.no_grad()
    def rows(self, some: Tensor) -> Tensor:
        """Some of the own rows against all columns."""
        y = self.y
        blocks: list[Tensor] = [some.new_empty(0)] * y.shards.size
        blocks[y.shards.rank] = self.scores(some, y.own)

        def compute_block(block: Block, theirs: Tensor) -> tuple[Tensor, ...]:
            blocks[block.peer] = self.scores(some, theirs)
            return ()

        for _ in ring_pass(y.shards, all_peers, y.counts, (y.own,), compute_block, ring=True):
            pass
        return torch.cat(blocks, 1)

    def push(self, slope: Tensor, some: Tensor, grad_x: Tensor, grad_y: Tensor) -> None:
        """The gradient of a strip's scores: to the own rows at once, to the others' as blocks go around."""
        y = self.y
        firsts = [sum(y.counts[:r]) for r in range(len(y.counts))]

        def block_of(theirs: Tensor, rank: int) -> Tensor:
            with torch.enable_grad():
                a, b = some.detach().requires_grad_(), theirs.detach().requires_grad_()
                part = slope[:, firsts[rank] : firsts[rank] + len(theirs)]
                to_a, to_b = torch.autograd.grad(self.scores(a, b), (a, b), part)
            grad_x.add_(to_a)
            return to_b.to(grad_y.dtype)

        def compute_block(block: Block, theirs: Tensor) -> tuple[Tensor, ...]:
            return (block_of(theirs, block.peer),)

        grad_y.add_(block_of(y.own, y.shards.rank))
        for mine, (back,) in ring_pass(y.shards, all_peers, y.counts, (y.own,), compute_block, ring=True):
            grad_y[mine] += back


class _Travelling(torch.autograd.Function):
    """Nothing of a strip is kept but what it gives for its rows."""

    @staticmethod
    def forward(ctx: Any, how: _Strips, x: Tensor, own: Tensor, *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, own, *tensors)
        ctx.how, ctx.draws = how, Draws(x.device)
        return torch.cat([how.consume(how.rows(x[part]), part, *tensors) for part in how.strips(x)])

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, own, *tensors = ctx.saved_tensors
        how, wanted = ctx.how, ctx.needs_input_grad[3:]
        grad_x, grad_y = zeros_for(x), zeros_for(own)
        sums = [torch.zeros_like(t) if w else None for t, w in zip(tensors, wanted)]
        with ctx.draws.again():
            for part in how.strips(x):
                scores = how.rows(x[part]).requires_grad_()
                given = [t if t is None else t.detach().requires_grad_(w) for t, w in zip(tensors, wanted)]
                asked = [scores, *(t for t, w in zip(given, wanted) if w)]
                with torch.enable_grad():
                    out = how.consume(scores, part, *given)
                    if not out.requires_grad:
                        out = out + 0 * scores.sum()
                    found = iter(torch.autograd.grad(out, asked, grad[part].to(out.dtype), allow_unused=True))
                slope = next(found)
                for total in sums:
                    g = next(found) if total is not None else None
                    if g is not None and total is not None:
                        total += g
                slope = torch.zeros_like(scores) if slope is None else slope
                how.push(slope, x[part], grad_x[part], grad_y)
        x_wanted, y_wanted = ctx.needs_input_grad[1:3]
        return None, grad_x.to(x.dtype) if x_wanted else None, grad_y.to(own.dtype) if y_wanted else None, *sums


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
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        shards, order, mine, arriving, local, shape = ctx.call
        parts = all_to_all(shards, list(grad[order].split(mine)), arriving)
        result = grad.new_zeros(shape)
        for where, part in zip(local, parts):
            result.index_add_(0, where, part)
        return None, None, result
