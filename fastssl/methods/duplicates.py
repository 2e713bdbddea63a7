"""Ids of the duplicates in a batch of images and texts, which are not negatives of each other."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.distributed.exchange import all_rows

HASH_BASE = 6364136223846793005  # odd: powers do not vanish modulo 2^64


def hash_rows(tokens: Tensor) -> Tensor:
    """int64 [B], equal for equal rows of tokens [B, L] on all processes."""
    powers = torch.full_like(tokens[:1], HASH_BASE, dtype=torch.int64).cumprod(1)
    return ((tokens.long() + 1) * powers).sum(1)


def duplicate_ids(tokens: Tensor, images: Tensor | None) -> Tensor:
    """int64 [B], equal for rows of equal tokens [B, L], or that :func:`connected_ids` connects with ``images`` [B]."""
    texts = hash_rows(tokens)
    return texts if images is None else connected_ids(images, texts)


def connected_ids(images: Tensor, texts: Tensor) -> Tensor:
    """int64 [B], equal for rows that a chain of equal images or equal texts connects, over the rows of all processes
    that share losses now.

    Args:
        images: int64 [B], ids of the images.
        texts: int64 [B], ids of the texts.

    Example:
        >>> import torch
        >>> from fastssl.methods.duplicates import connected_ids
        >>> connected_ids(torch.tensor([7, 7, 8, 9]), torch.tensor([1, 2, 2, 3])).tolist()
        [0, 0, 0, 3]
    """
    rows, start = all_rows(images, texts)
    sides = [side.unique(return_inverse=True)[1] for side in rows]
    ids, before = torch.arange(len(rows[0]), device=images.device), None
    while before is None or not torch.equal(ids, before):
        before = ids
        for side in sides:  # the least id of every image, then of every text
            ids = torch.full_like(ids, len(ids)).scatter_reduce(0, side, ids, "amin")[side]
    return ids[start : start + len(images)]
