"""What travels with its gradient. A loss is one number that every process has: its gradient is the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastssl.distributed.exchange import all_to_all, gather, scatter_sum
from fastssl.distributed.shards import Scaled, Shards
from fastssl.ops.operator import differentiable_once


def gather_rows(shards: Shards, rows: Tensor, counts: Sequence[int]) -> Tensor:
    """All rows, for what this process computes with them: gradients of all processes come back to their owner."""
    result: Tensor = _GatherRows.apply(shards, list(counts), rows)
    return result


def replicate(shards: Shards, values: Tensor, counts: Sequence[int]) -> Tensor:
    """All values, for what every process computes alike: each takes its own part of the gradient."""
    result: Tensor = _Replicate.apply(shards, list(counts), values)
    return result


def total(shards: Shards, value: Tensor, *, by_rows: bool = False) -> Tensor:
    """The sum over processes, in the order of ranks.

    Where every process goes on with it alike its gradient is the same for each; ``by_rows``: each goes on with its own
    rows, and the gradient is the sum of theirs.
    """
    result: Tensor = _Total.apply(shards, by_rows, value)
    return result


def share_of(shards: Shards, value: Tensor) -> Tensor:
    """A value that every process has, for what each computes alike: the gradient is divided among them."""
    result: Tensor = Scaled.apply(value, 1 / shards.size)
    return result


def sum_by_key(shards: Shards, keys: Tensor, values: Tensor) -> Tensor:
    """For every key of this process (all different), the sum of its values over processes that have it: O(N D / P).

    Each key has a process that adds: key modulo the number of processes.
    """
    if shards.size == 1:
        return values
    home = keys.remainder(shards.size)
    order = torch.argsort(home, stable=True)
    sending = torch.bincount(home, minlength=shards.size)
    every = gather(shards, sending[None], [1] * shards.size)
    result: Tensor = _SumByKey.apply(shards, keys, order, every.tolist(), values)
    return result


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shards: Shards, counts: list[int], rows: Tensor) -> Tensor:
        ctx.shards, ctx.counts = shards, counts
        return gather(shards, rows, counts)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, scatter_sum(ctx.shards, grad, ctx.counts)


class _Replicate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shards: Shards, counts: list[int], values: Tensor) -> Tensor:
        first = sum(counts[: shards.rank])
        ctx.mine = slice(first, first + counts[shards.rank])
        return gather(shards, values, counts)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, grad[ctx.mine]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shards: Shards, by_rows: bool, value: Tensor) -> Tensor:
        ctx.shards, ctx.by_rows = shards, by_rows
        return _sum(shards, value)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _sum(ctx.shards, grad) if ctx.by_rows else grad


def _sum(shards: Shards, value: Tensor) -> Tensor:
    if value.numel() <= 1024:
        return gather(shards, value[None], [1] * shards.size).sum(0)
    # Each process adds one part of it, then all get all parts: twice the bytes of one, however many processes.
    flat = value.flatten()
    part = -(-len(flat) // shards.size)
    counts = [max(0, min(part, len(flat) - r * part)) for r in range(shards.size)]
    return gather(shards, scatter_sum(shards, flat, counts), counts).reshape(value.shape)


class _SumByKey(torch.autograd.Function):
    """Linear and its own transpose: the gradient of a sum goes to every process that has the key."""

    @staticmethod
    def forward(
        ctx: Any, shards: Shards, keys: Tensor, order: Tensor, every: list[list[int]], values: Tensor
    ) -> Tensor:
        ctx.shards, ctx.order, ctx.every = shards, order, every
        ctx.save_for_backward(keys)
        return _sum_by_key(shards, keys, order, every, values)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None, Tensor]:
        (keys,) = ctx.saved_tensors
        return None, None, None, None, _sum_by_key(ctx.shards, keys, ctx.order, ctx.every, grad)


def _sum_by_key(shards: Shards, keys: Tensor, order: Tensor, every: list[list[int]], values: Tensor) -> Tensor:
    mine, ranks = every[shards.rank], range(shards.size)
    out_keys, out_values = keys[order].split(mine), values[order].split(mine)
    arriving = [every[r][shards.rank] for r in ranks]
    in_keys = all_to_all(shards, list(out_keys), arriving)
    in_values = all_to_all(shards, list(out_values), arriving)
    known, place = torch.unique(torch.cat(in_keys), return_inverse=True)
    sums = values.new_zeros((len(known), *values.shape[1:])).index_add_(0, place, torch.cat(in_values))
    back = all_to_all(shards, list(sums[place].split(arriving)), mine)
    result = torch.empty_like(values)
    result[order] = torch.cat(back)
    return result
