"""What the backends take and give besides tensors: relations of rows, and blocks of a pair matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def least_length(normalize: float, dtype: torch.dtype) -> float:
    """What rows of a dtype are divided by at least; 0: they are not normalised.

    ``normalize``: such a number, or True: 1e-12, as in torch, and for float16, where that is 0 and the gradient of a
    row of zeros infinite, the smallest number with all its digits.
    """
    if normalize is True:
        return 2.0**-14 if dtype == torch.float16 else 1e-12
    return float(normalize)


@dataclass(frozen=True)
class Relation:
    """Which pairs are positive and which negative: those of equal and of different ids, or those that are listed.

    ``y_ids`` None: the ids of x, for rows against themselves; ``self_offset``: row i of x is row (self_offset + i) % M
    of y and no partner of it (rows against themselves: 0); -1: it is not there.
    """

    x_ids: Tensor | None = None
    y_ids: Tensor | None = None
    positive_list: tuple[Tensor, Tensor] | None = None
    negative_list: tuple[Tensor, Tensor] | None = None
    self_offset: int = -1

    def of_rows(self, part: slice, m: int) -> Relation:
        """The same for some rows of x; ``m``: how many rows y has."""
        if self.positive_list is None:
            assert self.x_ids is not None
            y_ids = self.x_ids if self.y_ids is None else self.y_ids
            offset = self.self_offset if self.self_offset < 0 else (self.self_offset + part.start) % max(m, 1)
            return Relation(self.x_ids[part], y_ids, self_offset=offset)
        lists = []
        for pairs in (self.positive_list, self.negative_list):
            assert pairs is not None
            there = (pairs[0] >= part.start) & (pairs[0] < part.stop)
            lists.append((pairs[0][there] - part.start, pairs[1][there]))
        return Relation(positive_list=lists[0], negative_list=lists[1])


# Ids of the rows of x and of y (None where x meets itself), of which equal ones are no pair; None: all rows are pairs.
Ids = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Scoring:
    """How rows are compared: ``scale x . y + bias``, rows divided by their length first, or by
    ``normalize`` where that is larger; 0: as they are."""

    scale: float
    bias: float = 0.0
    normalize: float = 1e-12
    sigmoid: bool = False


@dataclass(frozen=True)
class Sums:
    """Of a block: log2 of the sums of exponentials by row and by column (sigmoid: sums of softplus by row).

    Rows against themselves leave a row's pair with itself out, and the pair with its partner is never among the sums:
    ``score`` has it. ``other``: sigmoid's sums of sigmoids.
    """

    x: Tensor
    y: Tensor
    score: Tensor
    other: Tensor
    kept: Tensor | None


@dataclass(frozen=True)
class Weights:
    """Gradients of the natural log-sums (sigmoid: of the sums) by row and column, and log2 of these over all blocks;
    ``partner``: the gradient of the score of each row's pair with its partner."""

    x: Tensor
    x_lse: Tensor | None
    y: Tensor | None = None
    y_lse: Tensor | None = None
    partner: Tensor | None = None
