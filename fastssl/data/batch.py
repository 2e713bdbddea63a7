"""Batches: named tuples of tensors whose first dimension is the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor


class Batch(NamedTuple):
    """What a method of images learns from.

    Args:
        views: float tensors [B, 3, S, S], and whatever else a method needs of each item: masks, targets, tokens.
        labels: int64 [B], -1 where a class is not known; None: none are needed.
        ids: int64 [B], the numbers of the items; None: not known.

    Example:
        >>> import torch
        >>> from fastssl.data import Batch
        >>> len(Batch([torch.zeros(8, 3, 32, 32)] * 2).views)
        2
    """

    views: list[Tensor]
    labels: Tensor | None = None
    ids: Tensor | None = None


B = TypeVar("B", bound=tuple[Any, ...])


def map_tensors(function: Callable[[Tensor], Tensor], batch: B) -> B:
    """The batch with ``function`` of each of its tensors."""

    def one(field: Any) -> Any:
        if isinstance(field, Tensor):
            return function(field)
        return [function(t) for t in field] if isinstance(field, list) else field

    return type(batch)(*map(one, batch))


def collate(parts: Sequence[B]) -> B:
    """Batches of some rows each to one batch of all rows, in their order."""
    if len(parts) == 1:
        return parts[0]

    def one(fields: tuple[Any, ...]) -> Any:
        if isinstance(fields[0], Tensor):
            return torch.cat(fields)
        return [torch.cat(tensors) for tensors in zip(*fields)] if isinstance(fields[0], list) else fields[0]

    return type(parts[0])(*map(one, zip(*parts)))
