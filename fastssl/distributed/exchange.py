"""Messages between processes: the one way in which anything travels, counted, with the name of who does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastssl.distributed import alike
from fastssl.distributed.shards import Shards, current
from fastssl.ops.extension import get_memory_budget

Message = tuple[Tensor, int]  # what, and the rank in the group that it goes to or comes from


@dataclass
class Traffic:
    """Bytes of rows, gradients and sums that this process has sent for sharded losses."""

    sent: int = 0


traffic = Traffic()


class Exchange:
    """Sends and receives at once; nothing may be changed or read before ``wait``. Empty tensors do not travel."""

    def __init__(self, shards: Shards, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        self.shards = shards
        parts: list[tuple[Any, Tensor, int]] = [(dist.isend, t.contiguous(), r) for t, r in sends if t.numel()]
        traffic.sent += sum(t.numel() * t.element_size() for _, t, _ in parts)
        parts += [(dist.irecv, t, r) for t, r in receives if t.numel()]
        self._tensors = [t for _, t, _ in parts]  # alive while they travel
        self._peers = [r for _, _, r in parts]
        self._works: list[Any] = []
        if not parts:
            return
        operations = [dist.P2POp(f, t, shards.peer(r), shards.group) for f, t, r in parts]
        try:
            self._works = dist.batch_isend_irecv(operations)
        except RuntimeError as error:
            raise self._unanswered(sorted(set(self._peers)), error) from error

    def wait(self) -> None:
        for k, work in enumerate(self._works):
            try:
                work.wait()
            except RuntimeError as error:
                # NCCL has one handle for all of a batch.
                peers = [self._peers[k]] if len(self._works) == len(self._peers) else sorted(set(self._peers))
                raise self._unanswered(peers, error) from error
        self._works, self._tensors = [], []

    def _unanswered(self, peers: list[int], error: Exception) -> RuntimeError:
        who = " or ".join(map(str, peers))
        return RuntimeError(
            f"rank {self.shards.rank} of {self.shards.size}: rank {who} has died or did not answer within the group's "
            f"timeout: {str(error).splitlines()[0]}"
        )


def gather(shards: Shards, rows: Tensor, counts: Sequence[int]) -> Tensor:
    """All rows, those of rank 0 first; ``counts``: how many every process has."""
    if shards.size == 1:
        return rows
    parts = [rows.new_empty((count, *rows.shape[1:])) for count in counts]
    others = [r for r in range(shards.size) if r != shards.rank]
    parts[shards.rank] = rows.contiguous()
    Exchange(shards, [(parts[shards.rank], r) for r in others], [(parts[r], r) for r in others]).wait()
    return torch.cat(parts)


def scatter_sum(shards: Shards, rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Of values for all rows, the sum over processes for one's own; always added in the order of ranks."""
    if shards.size == 1:
        return rows
    mine = list(rows.split(list(counts)))
    others = [r for r in range(shards.size) if r != shards.rank]
    parts = {r: torch.empty_like(mine[shards.rank], memory_format=torch.contiguous_format) for r in others}
    Exchange(shards, [(mine[r], r) for r in others], [(parts[r], r) for r in others]).wait()
    parts[shards.rank] = mine[shards.rank]
    total = parts[0].clone()
    for r in range(1, shards.size):
        total += parts[r]
    return total


def all_to_all(shards: Shards, parts: Sequence[Tensor], arriving: Sequence[int]) -> list[Tensor]:
    """``parts[r]`` goes to rank r; ``arriving``: how many rows come from each."""
    got = [parts[0].new_empty((count, *parts[0].shape[1:])) for count in arriving]
    others = [r for r in range(shards.size) if r != shards.rank]
    Exchange(shards, [(parts[r], r) for r in others], [(got[r], r) for r in others]).wait()
    got[shards.rank] = parts[shards.rank]
    return got


def all_rows(*parts: Tensor) -> tuple[tuple[Tensor, ...], int]:
    """The rows of all processes that share losses now (:func:`sharded`), without gradient; alone: one's own.

    ``parts`` have a row each for the same items. Returns them whole, and where this process's own rows begin.
    """
    shards, rows = current(), tuple(t.detach() for t in parts)
    if shards is None:
        return rows, 0
    counts = layout(shards, "rows", rows[0])
    return tuple(gather(shards, t, counts) for t in rows), sum(counts[: shards.rank])


def gather_numbers(shards: Shards, numbers: Sequence[int], device: torch.device) -> list[list[int]]:
    """A few integers of every process."""
    own = torch.tensor([list(numbers)], dtype=torch.int64, device=device)
    result: list[list[int]] = gather(shards, own, [1] * shards.size).tolist()
    return result


def layout(shards: Shards, name: str, rows: Tensor) -> list[int]:
    """How many rows every process has.

    Raises:
        ValueError: processes whose rows have other features or another dtype, that call another loss or one with other
            arguments, or, where the schedule follows from the memory budget, another budget.
    """
    if shards.size == 1:
        return [rows.shape[0]]
    codes = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64)
    code = codes.index(rows.dtype) if rows.dtype in codes else len(codes)
    width = rows.shape[1] if rows.dim() == 2 else 1
    budget = get_memory_budget() if shards.schedule == "auto" else 0
    call = alike.described()
    table = gather_numbers(shards, (rows.shape[0], width, code, budget, alike.code(call)), rows.device)
    for rank, (_, other, dtype, theirs, _) in enumerate(table):
        if other != width or dtype != code:
            raise ValueError(
                f"{name}: expected the same features and dtype on every process, got {width} of {rows.dtype} on rank "
                f"{shards.rank} and {other}{'' if dtype == code else ' of another dtype'} on rank {rank}"
            )
        if theirs != budget:
            raise ValueError(
                f"schedule: 'auto' expects the same memory budget on every process (fastssl.set_memory_budget), got "
                f"{budget} on rank {shards.rank} and {theirs} on rank {rank}"
            )
    if len({numbers[-1] for numbers in table}) > 1:
        raise ValueError(alike.difference(shards.rank, _gather_texts(shards, call, rows.device)))
    return [count for count, *_ in table]


def _gather_texts(shards: Shards, lines: list[str], device: torch.device) -> list[list[str]]:
    own = torch.tensor(list("\n".join(lines).encode()), dtype=torch.uint8, device=device)
    counts = [count for (count,) in gather_numbers(shards, [len(own)], device)]
    return [bytes(part.tolist()).decode().splitlines() for part in gather(shards, own, counts).split(counts)]
