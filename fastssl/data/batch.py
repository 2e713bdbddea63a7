"""Batches: named tuples of tensors whose first dimension is the rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fastssl.augment.planned import PackedViews, PlannedViews
from fastssl.ops.augment import recycled


class Batch(NamedTuple):
    """A batch of an image method.

    Args:
        views: float tensors [B, 3, S, S], and further inputs of the method per item: masks, targets, tokens.
        labels: int64 [B], -1 for unknown classes; None: no labels.
        ids: int64 [B], indices of the items; None: unknown.

    Example:
        >>> import torch
        >>> from fastssl.data import Batch
        >>> len(Batch([torch.zeros(8, 3, 32, 32)] * 2).views)
        2
    """

    views: list[Tensor]
    labels: Tensor | None = None
    ids: Tensor | None = None


class TokenBatch(NamedTuple):
    """A batch of a language method.

    Args:
        tokens: int64 [B, T], inputs, padded.
        targets: int64 [B, U], tokens to predict; -100: none.
        segments: int64 [B, T]: which of two texts (BERT), which document of the window (GPT), or the rank in the order
            of prediction (XLNet) a token belongs to; None: there are none.
        labels: int64 [B], whether the second text follows the first (BERT); None: there are none.
        ids: int64 [B], indices of the items.
        draws: float32 [B, T] in (0, 1), from which a network draws tokens (ELECTRA); None: it draws none.

    Example:
        >>> import torch
        >>> from fastssl.data import TokenBatch
        >>> TokenBatch(torch.zeros(2, 4), torch.zeros(2, 4)).tokens.shape
        torch.Size([2, 4])
    """

    tokens: Tensor
    targets: Tensor
    segments: Tensor | None = None
    labels: Tensor | None = None
    ids: Tensor | None = None
    draws: Tensor | None = None


B = TypeVar("B", bound=tuple[Any, ...])


def map_tensors(function: Callable[[Tensor], Tensor], batch: B) -> B:
    """Applies ``function`` to every tensor of a batch."""

    def one(field: Any) -> Any:
        if isinstance(field, Tensor):
            return function(field)
        if isinstance(field, PackedViews):
            return field.map(function)
        return [function(t) for t in field] if isinstance(field, list) else field

    return type(batch)(*map(one, batch))


def collate(parts: Sequence[B], cat: Callable[[Sequence[Tensor]], Tensor] = torch.cat) -> B:  # type: ignore[assignment]
    """Concatenates batches along their rows, tensors by ``cat``; planned views are packed."""

    def one(fields: tuple[Any, ...]) -> Any:
        if isinstance(fields[0], PlannedViews):
            return PlannedViews.cat(fields, cat).packed()
        if isinstance(fields[0], Tensor):
            return cat(fields)
        return [cat(tensors) for tensors in zip(*fields)] if isinstance(fields[0], list) else fields[0]

    return type(parts[0])(*map(one, zip(*parts)))


class Assembly:
    """A batch put together from parts, which the threads that made them copy to their place.

    The memory is pinned, or comes from earlier batches: in fresh pages a batch of views takes longer to copy than to
    make.

    Args:
        sizes: number of items of each part.
        pin_memory: in pinned memory.
    """

    def __init__(self, sizes: Sequence[int], pin_memory: bool) -> None:
        self.sizes, self.pin_memory = list(sizes), pin_memory
        self.parts: list[Any] = [None] * len(self.sizes)
        self._starts = [sum(self.sizes[:k]) for k in range(len(self.sizes))]
        self._rooms: list[Tensor | None] | None = None  # of each tensor of a part, if it has rows per item
        self._lock = threading.Lock()

    def put(self, k: int, part: Any) -> None:
        """Copies part ``k``; one of fewer items than were expected, or None, stays where it is."""
        if part is not None and (self.pin_memory or len(self.sizes) > 1):
            with self._lock:
                if self._rooms is None:
                    tensors: list[Tensor] = []
                    map_tensors(lambda t: tensors.append(t) or t, part)  # type: ignore[func-returns-value]
                    self._rooms = [self._room(t, self.sizes[k]) for t in tensors]
            rooms = iter(self._rooms)
            part = map_tensors(lambda t: self._placed(t, next(rooms, None), k), part)
        self.parts[k] = part

    def finished(self) -> Any:
        """The batch, of what parts there are; None: there are none."""
        made = [part for part in self.parts if part is not None]
        self.parts = []
        batch: Any = collate(made, self._cat) if made else None
        if batch is None or not self.pin_memory:
            return batch
        return map_tensors(lambda t: t if t.is_pinned() else t.pin_memory(), batch)

    def _room(self, part: Tensor, items: int) -> Tensor | None:
        """Memory for all parts; None: ``part`` has no rows per item."""
        if part.dim() == 0 or part.numel() == 0 or len(part) % items:
            return None
        return self._empty(len(part) // items * sum(self.sizes), part)

    def _placed(self, part: Tensor, room: Tensor | None, k: int) -> Tensor:
        if room is None or part.dtype != room.dtype or part.shape[1:] != room.shape[1:]:
            return part
        each = len(room) // sum(self.sizes)
        if len(part) != each * self.sizes[k]:
            return part
        return room[each * self._starts[k] :][: len(part)].copy_(part)

    def _cat(self, tensors: Sequence[Tensor]) -> Tensor:
        """``torch.cat``, but where the tensors are all that a room holds it is done."""
        for room in self._rooms or ():
            if room is not None and room.data_ptr() == tensors[0].data_ptr():
                row = room.stride(0) * room.element_size()
                ends = [t.data_ptr() + len(t) * row for t in tensors]
                followed = ends[:-1] == [t.data_ptr() for t in tensors[1:]]
                if followed and ends[-1] == room.data_ptr() + len(room) * row:
                    return room
        if len(tensors) == 1 and not self.pin_memory:
            return tensors[0]
        whole = self._empty(sum(map(len, tensors)), tensors[0])
        return torch.cat(list(tensors), out=whole)

    def _empty(self, rows: int, like: Tensor) -> Tensor:
        """Memory for ``rows``, as those of ``like`` lie in theirs."""
        strides = like.stride()
        order = sorted(range(like.dim()), key=lambda d: -strides[d])
        if order[0] != 0 or not like.permute(order).is_contiguous():
            order = list(range(like.dim()))
        shape = [rows, *(like.shape[d] for d in order[1:])]
        memory = (
            torch.empty(shape, dtype=like.dtype, pin_memory=True) if self.pin_memory else recycled(shape, like.dtype)
        )
        return memory.permute([order.index(d) for d in range(like.dim())])
