"""Log-sums of scores over rows that live in several processes: what InfoNCE and its relatives are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastssl.distributed.exchange import gather
from fastssl.distributed.ring import Block, all_peers, half_of_peers, ring_pass, travels, zeros_for
from fastssl.distributed.shards import ALONE, Shards
from fastssl.ops import dispatch, get_memory_budget
from fastssl.ops.blocks import GRADIENTS, SUMS, kept_bytes
from fastssl.ops.operator import differentiable_once
from fastssl.ops.types import Ids, Scoring, Sums, Weights, least_length

LN2 = math.log(2)


def pair_sums(
    shards: Shards | None,
    counts: Sequence[int],
    x: Tensor,
    y: Tensor | None,
    scale: Tensor | float,
    bias: Tensor | float = 0.0,
    *,
    normalize: float,
    partner: Tensor | None = None,
    ids: Ids = (None, None),
    columns: bool = False,
    sigmoid: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the sums of exp(score) of this process's rows with all rows of y (None: of x, but themselves).

    Args:
        shards: the processes; None: this one alone.
        counts: rows of y that every process has.
        x: [n, D], this process's rows.
        y: [m, D], this process's rows of the other side; None: x on both sides.
        scale: of scores, a number or a tensor of one element.
        bias: added to scores.
        normalize: divide rows by their length first.
        partner: [n] int64, the one row of this process's y whose pair is not in the sums; -1: none.
        ids: of this process's rows of x and of y: pairs of equal ids are not in the sums.
        columns: also the sums of this process's y over all rows of x.
        sigmoid: sums of softplus(score) instead of log-sums of exponentials.

    Returns:
        By row [n], by column [m] (or [0]), and the scores of the pairs with partners [n] (0 where there is none); in
        float64, with gradients for x, y, scale and bias.
    """
    least = least_length(normalize, x.dtype)
    if torch.is_autocast_enabled(x.device.type):
        x, y = x.float(), None if y is None else y.float()
    x, y = x.contiguous(), None if y is None else y.contiguous()
    number, offset = (float(t.detach()) if isinstance(t, Tensor) else float(t) for t in (scale, bias))
    how = Scoring(number, offset, least, sigmoid)
    tensors = [t if isinstance(t, Tensor) else None for t in (scale, bias)]
    shards, x_ids, y_ids = shards or ALONE, *ids
    if x_ids is not None:
        y_ids = gather(shards, x_ids if y_ids is None else y_ids, counts)
    result: tuple[Tensor, Tensor, Tensor] = _PairSums.apply(
        shards, list(counts), how, partner, (x_ids, y_ids), columns, backend, x, y, *tensors
    )
    return result


@dataclass(frozen=True)
class _BlockIds:
    """Ids of the rows that meet: ``ids`` of this process's rows of x, and of the rows of y of all processes."""

    ids: Ids
    counts: Sequence[int]
    rank: int
    same: bool

    def own(self) -> Ids:
        return (self.ids[0], None) if self.same else self.block(Block(self.rank, slice(None), slice(None)))

    def block(self, block: Block) -> Ids:
        x_ids, y_ids = self.ids
        if x_ids is None or y_ids is None:
            return None, None
        return x_ids[block.own].contiguous(), y_ids.split(list(self.counts))[block.peer][block.other].contiguous()


class _PairSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        shards: Shards,
        counts: list[int],
        how: Scoring,
        partner: Tensor | None,
        ids: Ids,
        columns: bool,
        backend: str | None,
        x: Tensor,
        y: Tensor | None,
        scale: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        same, rows = y is None, x if y is None else y
        plan = half_of_peers if same else all_peers
        ring = travels(shards, sum(counts), x.shape[1], x.element_size())
        blocks = plan(shards.rank, counts)
        sizes = [(len(x), len(rows)), *((len(x[b.own]), b.other.stop - b.other.start) for b in blocks)]
        needed = sum(kept_bytes(x, n, m, same and k == 0) for k, (n, m) in enumerate(sizes))
        keep = not ring and any(ctx.needs_input_grad) and needed <= get_memory_budget()
        kept: list[Tensor | None] = []

        ids_of = _BlockIds(ids, counts, shards.rank, same)

        def sums(x: Tensor, y: Tensor | None, ids: Ids, partner: Tensor | None = None, columns: bool = False) -> Sums:
            found: Sums = dispatch(SUMS, backend, x.device, x, y, partner, ids, how, columns, keep)
            kept.append(found.kept)
            return found

        own = sums(x, y, ids_of.own(), partner, columns and not same)
        by_row, by_column, other = own.x, own.y, own.other
        merge = torch.add if how.sigmoid else torch.logaddexp2

        def compute_block(block: Block, theirs: Tensor) -> tuple[Tensor, ...]:
            found = sums(x[block.own], theirs, ids_of.block(block), columns=columns or same)
            by_row[block.own] = merge(by_row[block.own], found.x)
            if how.sigmoid:
                other[block.own] += found.other
            return (found.y,) if columns or same else ()

        mine = by_row if same else by_column
        for part, (found,) in ring_pass(shards, plan, counts, (rows,), compute_block, ring=ring):
            mine[part] = merge(mine[part], found)
        ctx.save_for_backward(x, y, partner, *ids, by_row.clone(), by_column.clone(), other, *kept)
        ctx.call = shards, counts, how, columns, backend, plan, ring
        unit = 1.0 if how.sigmoid else LN2
        return by_row * unit, by_column * unit, own.score

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_row: Tensor, grad_column: Tensor, grad_score: Tensor) -> tuple[Tensor | None, ...]:
        shards, counts, how, columns, backend, plan, ring = ctx.call
        x, y, partner, x_ids, y_ids, by_row, by_column, other, *kept = ctx.saved_tensors
        same, rows = y is None, x if y is None else y
        ids_of = _BlockIds((x_ids, y_ids), counts, shards.rank, same)
        needs = 1 * ctx.needs_input_grad[7] + 2 * ctx.needs_input_grad[8] + 4 * ctx.needs_input_grad[9]
        grad_row, grad_column, grad_score = (g.contiguous().double() for g in (grad_row, grad_column, grad_score))
        lse = None if how.sigmoid else by_row
        a_column = grad_column if columns else None
        both = grad_score
        if same and partner is not None:  # both directions of a pair are one score
            both = torch.where(partner >= 0, grad_score + grad_score[partner.clamp(min=0)], grad_score)
        weights = Weights(grad_row, lse, a_column, by_column if columns else None, both)
        tiles = iter(kept)
        gx, gy, total = dispatch(
            GRADIENTS, backend, x.device, x, y, partner, ids_of.own(), how, next(tiles, None), weights, needs
        )
        grad_x, grad_y = (g if g.numel() or not len(t) else zeros_for(t) for g, t in ((gx, x), (gy, rows)))
        # Of rows against themselves the other side's gradient is theirs as well.
        block_needs = needs | 2 * bool(same and needs & 1)
        back = grad_x if same else grad_y
        payload: tuple[Tensor, ...] = (rows, grad_row, by_row) if same else (rows,)
        if columns and not same:
            payload = (rows, grad_column, by_column)

        def compute_block(block: Block, theirs: Tensor, *sides: Tensor) -> tuple[Tensor, ...]:
            nonlocal total
            part = Weights(grad_row[block.own], None if lse is None else lse[block.own], *sides)
            rows, pairs = x[block.own], ids_of.block(block)
            to_x, to_y, to_scale = dispatch(
                GRADIENTS, backend, x.device, rows, theirs, None, pairs, how, next(tiles, None), part, block_needs
            )
            if block_needs & 1:
                grad_x[block.own] += to_x
            total = total + to_scale
            return (to_y,) if block_needs & 2 else ()

        for part, (found,) in ring_pass(shards, plan, counts, payload, compute_block, ring=ring):
            back[part] += found
        to_bias = (grad_row * other).sum() + grad_score.sum() if ctx.needs_input_grad[10] else None
        if to_bias is not None and not how.sigmoid:
            to_bias = torch.zeros_like(to_bias)
        return (
            *(None,) * 7,
            grad_x.to(x.dtype) if needs & 1 else None,
            grad_y.to(rows.dtype) if needs & 2 else None,
            total if needs & 4 else None,
            to_bias,
        )
