"""``torch.ops.fastssl.pair_block``: what a block of a pair matrix adds to its rows' sums, and its gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastssl.ops.backend import Backend
from fastssl.ops.pair_loss import BLOCK, LARGEST_TILE


@dataclass(frozen=True)
class Scoring:
    """How rows are compared: ``scale x . y + bias``, rows divided by their length first where told."""

    scale: float
    bias: float = 0.0
    normalize: bool = True
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


def kept_bytes(x: Tensor, n: int, m: int, same: bool) -> int:
    """Of the tiles that a block of n by m rows keeps for its backward pass."""
    rows, columns = (-(-k // BLOCK) * BLOCK for k in (n, m))
    numel = rows * (rows + LARGEST_TILE) // 2 if same else rows * columns
    return numel * (8 if x.dtype == torch.float64 else 4)


def _sums_cpu(x: Tensor, y: Tensor | None, partner: Tensor | None, s: Scoring, columns: bool, keep: bool) -> Sums:
    sums, by_column, score, other, kept = torch.ops.fastssl.pair_block.default(
        x, y, partner, s.scale, s.bias, s.normalize, s.sigmoid, columns, keep
    )
    return Sums(sums, by_column, score, other, kept if keep else None)


def _gradients_cpu(
    x: Tensor, y: Tensor | None, partner: Tensor | None, s: Scoring, kept: Tensor | None, w: Weights, needs: int
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.fastssl.pair_block_backward.default(
        x, y, partner, s.scale, s.bias, s.normalize, s.sigmoid, kept, w.x, w.x_lse, w.y, w.y_lse, w.partner, needs
    )
    return result


def _backends() -> tuple[Backend, Backend]:
    from fastssl.ops.reference import blocks as reference

    return Backend(reference.sums, _sums_cpu, "sums"), Backend(reference.gradients, _gradients_cpu, "gradients")


SUMS, GRADIENTS = _backends()
