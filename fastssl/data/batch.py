"""Batches: named tuples of tensors whose first dimension is the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fastssl.augment.planned import PackedViews, PlannedViews


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


def collate(parts: Sequence[B]) -> B:
    """Concatenates batches along their rows; planned views are packed."""

    def one(fields: tuple[Any, ...]) -> Any:
        if isinstance(fields[0], PlannedViews):
            return PlannedViews.cat(fields).packed()
        if len(fields) == 1:
            return fields[0]
        if isinstance(fields[0], Tensor):
            return torch.cat(fields)
        return [torch.cat(tensors) for tensors in zip(*fields)] if isinstance(fields[0], list) else fields[0]

    return type(parts[0])(*map(one, zip(*parts)))
