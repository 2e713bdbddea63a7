"""``torch.ops.fastssl.pair_block``: what a block of a pair matrix adds to its rows' sums, and its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.ops.backend import Backend
from fastssl.ops.operator import interruptible
from fastssl.ops.pair_loss import BLOCK, LARGEST_TILE
from fastssl.ops.types import Ids, Scoring, Sums, Weights, least_length


def kept_bytes(x: Tensor, n: int, m: int, same: bool) -> int:
    """Of the tiles that a block of n by m rows keeps for its backward pass."""
    rows, columns = (-(-k // BLOCK) * BLOCK for k in (n, m))
    numel = rows * (rows + LARGEST_TILE) // 2 if same else rows * columns
    return numel * (8 if x.dtype == torch.float64 else 4)


def _sums_cpu(
    x: Tensor, y: Tensor | None, partner: Tensor | None, ids: Ids, s: Scoring, columns: bool, keep: bool
) -> Sums:
    with interruptible():
        sums, by_column, score, other, kept = torch.ops.fastssl.pair_block.default(
            x, y, partner, *ids, s.scale, s.bias, least_length(s.normalize, x.dtype), s.sigmoid, columns, keep
        )
    return Sums(sums, by_column, score, other, kept if keep else None)


def _gradients_cpu(
    x: Tensor,
    y: Tensor | None,
    partner: Tensor | None,
    ids: Ids,
    s: Scoring,
    kept: Tensor | None,
    w: Weights,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor]:
    with interruptible():
        result: tuple[Tensor, Tensor, Tensor] = torch.ops.fastssl.pair_block_backward.default(
            *(x, y, partner, *ids, s.scale, s.bias, least_length(s.normalize, x.dtype), s.sigmoid),
            *(kept, w.x, w.x_lse, w.y, w.y_lse, w.partner, needs),
        )
    return result


def _backends() -> tuple[Backend, Backend]:
    from fastssl.ops.reference import blocks as reference

    return Backend(reference.sums, _sums_cpu, "sums"), Backend(reference.gradients, _gradients_cpu, "gradients")


SUMS, GRADIENTS = _backends()
