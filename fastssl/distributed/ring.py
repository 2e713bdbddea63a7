"""How blocks of rows meet: which pairs of blocks a process computes, and how the other side's rows get to it.

Processes stand in a circle. At step k a process computes with rows of the k-th next one. Rows against themselves need
each pair of blocks once: floor(P / 2) steps, where the two that face each other across an even circle take half of
their pair each. Two sets of rows need all pairs: P - 1 steps. Under the "ring" schedule blocks come from the next
process, one step at a time, while the last one is computed with; under "all_gather" all of them come first. What a
process finds out about others' rows (sums by column, gradients) goes straight to their owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastssl.distributed.exchange import Exchange, gather
from fastssl.distributed.shards import Shards
from fastssl.ops.extension import get_memory_budget


@dataclass(frozen=True)
class Block:
    """Some own rows against some rows of a peer; ``other`` has a beginning and an end."""

    peer: int
    own: slice
    other: slice


Plan = Callable[[int, Sequence[int]], list[Block]]


def all_peers(rank: int, counts: Sequence[int]) -> list[Block]:
    """Two sets of rows: all of one's own against all of every other process."""
    peers = [(rank + k) % len(counts) for k in range(1, len(counts))]
    return [Block(q, slice(None), slice(0, counts[q])) for q in peers]


def half_of_peers(rank: int, counts: Sequence[int]) -> list[Block]:
    """Rows against themselves: each pair of blocks by one process; those opposite each other share it."""
    blocks = all_peers(rank, counts)[: len(counts) // 2]
    if blocks and len(counts) % 2 == 0:
        peer = blocks[-1].peer
        middle = (counts[max(rank, peer)] + 1) // 2  # the higher rank's rows are cut
        if rank < peer:
            blocks[-1] = Block(peer, slice(None), slice(0, middle))
        else:
            blocks[-1] = Block(peer, slice(middle, None), blocks[-1].other)
    return blocks


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def travels(shards: Shards, total_rows: int, features: int, size: int) -> bool:
    """Whether blocks go around the ring: as told, or where all rows are more than the memory budget."""
    if shards.schedule == "auto":
        return total_rows * features * size > get_memory_budget()
    return shards.schedule == "ring"


def _others(
    shards: Shards, plan: Plan, counts: Sequence[int], payload: tuple[Tensor, ...], ring: bool
) -> Iterator[tuple[Block, tuple[Tensor, ...]]]:
    """The blocks of this process with what their peers hold of ``payload``, in order."""
    rank, own = shards.rank, plan(shards.rank, counts)
    if not ring:
        everything = [gather(shards, t, counts) for t in payload]
        first = [sum(counts[:r]) for r in range(len(counts))]
        for block in own:
            part = slice(first[block.peer] + block.other.start, first[block.peer] + block.other.stop)
            yield block, tuple(t[part] for t in everything)
        return
    behind, ahead = (rank - 1) % shards.size, (rank + 1) % shards.size
    wanted = plan(behind, counts)  # what the process behind needs at each step, we hold one step earlier

    def start(step: int, held: tuple[Tensor, ...]) -> tuple[Exchange, tuple[Tensor, ...]]:
        coming = tuple(t.new_empty((_size(own[step].other), *t.shape[1:])) for t in payload)
        going = [(t[wanted[step].other], behind) for t in held]
        return Exchange(shards, going, [(t, ahead) for t in coming]), coming

    pending = start(0, payload) if own else None
    for step, block in enumerate(own):
        assert pending is not None
        exchange, rows = pending
        exchange.wait()
        pending = start(step + 1, rows) if step + 1 < len(own) else None
        yield block, rows


def ring_pass(
    shards: Shards,
    plan: Plan,
    counts: Sequence[int],
    payload: tuple[Tensor, ...],
    compute_block: Callable[..., tuple[Tensor, ...]],
    *,
    ring: bool,
) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Computes this process's blocks and gives back what others found out about its own rows.

    ``compute_block(block, *rows)`` computes with a peer's part of ``payload`` and returns what its owner should get:
    tensors with a row for each of ``rows`` (or nothing). Yields (which of the own rows, what was found), in the order
    of steps whatever arrived first.
    """
    last: tuple[Exchange, slice, tuple[Tensor, ...]] | None = None
    for step, (block, rows) in enumerate(_others(shards, plan, counts, payload, ring)):
        found = compute_block(block, *rows)
        if not found:
            continue
        asker = (shards.rank - step - 1) % shards.size  # its block of this step has rows of ours
        about = plan(asker, counts)[step].other
        coming = tuple(t.new_empty((_size(about), *t.shape[1:])) for t in found)
        exchange = Exchange(shards, [(t, block.peer) for t in found], [(t, asker) for t in coming])
        if last is not None:
            last[0].wait()
            yield last[1:]
        last = exchange, about, coming
    if last is not None:
        last[0].wait()
        yield last[1:]


def zeros_for(x: Tensor) -> Tensor:
    """The place of a gradient that several blocks add to: never 16 bits."""
    return torch.zeros(x.shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32, device=x.device)
