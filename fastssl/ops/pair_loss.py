"""Losses over the pair matrix of two sides of rows: one operator, ``torch.ops.fastssl.pair_loss``; losses are data.

A loss says which pairs are positive and what is made of a row's sums over its pairs; sides, scale, bias and reduction
are arguments. The CPU's operator, Triton's kernels, the reference and
:mod:`fastssl.distributed.pair_loss` read the same declaration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastssl._table import Closing, Keep, Positives, Reduction
from fastssl.ops import extension, reference
from fastssl.ops.backend import resolve
from fastssl.ops.operator import KeepingOperator, result_dtype
from fastssl.ops.types import least_length


@dataclass(frozen=True)
class PairLoss:
    """A loss over the pair matrix: its positives, and what is made of the sums of a row (:class:`Closing`)."""

    positives: Positives
    closing: Closing = Closing.cross_entropy

    @property
    def sigmoid(self) -> bool:
        """Every pair is a binary question; else each row is a softmax over its pairs."""
        return self.closing == Closing.sigmoid_loss


INFO_NCE = PairLoss(Positives.diagonal)
NT_XENT = PairLoss(Positives.halves)
DCL = PairLoss(Positives.halves, Closing.decoupled)
SUP_CON = PairLoss(Positives.classes, Closing.sup_con)
SIGLIP = PairLoss(Positives.diagonal, Closing.sigmoid_loss)
LINEAR_CROSS_ENTROPY = PairLoss(Positives.targets)
MARGIN_SOFTMAX = PairLoss(Positives.targets, Closing.decoupled)


BLOCK = 32  # kBlock in csrc/core/types.h
LARGEST_TILE = 256  # kMaxTileBlocks * kBlock in csrc/pair/tile.h
# Multiply-adds of a pass up to which a loss that is one value makes its gradients in the forward pass: calls cost as
# much as the arithmetic there, and little is lost where nobody asks for the gradient.
SMALL = 1 << 26
STRIP = 256  # least rows of a strip: blocks_per_strip in csrc/pair/loss.cpp


def _rows(x: Tensor, more_x: Tensor | None, y: Tensor | None, more_y: Tensor | None) -> tuple[int, int, bool]:
    """Rows of both sides of the pair matrix, and whether they are the same rows."""
    n = x.shape[0] + (0 if more_x is None else more_x.shape[0])
    if y is None:
        return n, n, True
    return n, y.shape[0] + (0 if more_y is None else more_y.shape[0]), False


def _blocks(n: int) -> int:
    return (n + BLOCK - 1) // BLOCK


def kept_numel(keep: int, x: Tensor, more_x: Tensor | None, y: Tensor | None, more_y: Tensor | None) -> int:
    """Elements that the forward pass keeps: ``kept_numel`` in csrc/pair/loss.cpp, in symbols for tracing."""
    n, m, same = _rows(x, more_x, y, more_y)
    rows, columns = _blocks(n) * BLOCK, _blocks(m) * BLOCK
    if keep == Keep.tiles:
        return rows * (rows + LARGEST_TILE) // 2 if same else rows * columns
    if keep == Keep.attention:
        return rows * _blocks(x.shape[1]) * BLOCK
    if keep == Keep.gradients:
        return (n if same else n + m) * x.shape[1]
    if keep == Keep.products:
        return (rows + columns) * _blocks(x.shape[1]) * BLOCK
    return 0


def pair_loss(
    loss: PairLoss,
    x: Tensor,
    more_x: Tensor | None = None,
    y: Tensor | None = None,
    more_y: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    scale: Tensor | float = 1.0,
    bias: Tensor | float | None = None,
    normalize: float,
    symmetric: bool = False,
    ignore_index: int = -100,
    reduction: str,
    gradient_filter: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Rows of x and ``more_x`` against those of y and ``more_y`` (None: against themselves), on any backend.

    Args:
        loss: its positives and its epilogue.
        x: [N, D].
        more_x: more rows of this side.
        y: [M, D].
        more_y: more rows of this side.
        ids: int64, targets or classes [N] where the loss has them; else ids of the columns [M], the first N of which
            are those of the rows: rows of equal ids are not negatives of each other.
        scale: of the products, a number or a tensor of one element.
        bias: added to every score: a number, a tensor of one element or of one per row of y.
        normalize: divide rows by their length first, or by this number where it is larger (``least_length``).
        symmetric: the mean of the loss by rows and by columns.
        ignore_index: the target of rows that do not count.
        reduction: "mean" | "sum" | "none".
        gradient_filter: see :func:`fastssl.functional.linear_cross_entropy`.
        backend: "reference" | "cpu" | "triton"; None chooses.
    """
    name, normalize = resolve(x.device, backend, x.dtype), least_length(normalize, x.dtype)
    if name != "cpu":
        sides = (x, more_x, y, more_y, ids, scale, bias)
        options = (loss.positives, loss.closing, normalize, symmetric, ignore_index, reduction)
        if name == "reference":
            return reference.pair_loss(*sides, *options)
        from fastssl.ops.triton import losses

        return losses.pair_loss(*sides, *options, gradient_filter)
    scale_tensor, factor = (scale, 1.0) if isinstance(scale, Tensor) else (None, float(scale))
    if bias is not None and not isinstance(bias, Tensor):
        bias = torch.full((), bias, dtype=torch.float64, device=x.device)
    keep = _choose_keep(loss, x, more_x, y, more_y, scale_tensor, bias, symmetric, reduction)
    constants = (
        loss.positives.value,
        loss.closing.value,
        normalize,
        symmetric,
        ignore_index,
        Reduction[reduction].value,
    )
    return _OPERATOR(x, more_x, y, more_y, ids, scale_tensor, bias, factor, *constants, keep.value)


def _choose_keep(
    loss: PairLoss,
    x: Tensor,
    more_x: Tensor | None,
    y: Tensor | None,
    more_y: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    symmetric: bool,
    reduction: str,
) -> Keep:
    """The cheapest way to the gradients that fits the memory budget."""
    if not torch.is_grad_enabled():
        return Keep.nothing
    sides = [t.requires_grad for t in (x, more_x, y, more_y) if t is not None]
    learns_bias = bias is not None and bias.requires_grad
    if not (any(sides) or learns_bias or (scale is not None and scale.requires_grad)):
        return Keep.nothing
    one_sided = y is not None and not (symmetric or loss.sigmoid or learns_bias)
    if one_sided and not any(t is not None and t.requires_grad for t in (y, more_y)):
        return Keep.attention
    if torch.compiler.is_exporting():
        return Keep.nothing  # the number of rows stays a symbol: no decision may depend on it
    size, budget = 8 if x.dtype == torch.float64 else 4, extension.get_memory_budget()
    n, m, _ = _rows(x, more_x, y, more_y)
    scalar = reduction != "none" and all(sides)
    if scalar and n * m * x.shape[1] <= SMALL:
        return Keep.gradients
    if kept_numel(Keep.tiles, x, more_x, y, more_y) * size <= budget:
        return Keep.tiles
    # Strips of rows, one after another; where the CPU multiplies bf16, scores cost no more than reading kept ones.
    cheap = x.dtype == torch.bfloat16 and extension.multiplies(torch.bfloat16)
    if scalar and y is not None and not symmetric and not cheap:
        strip, products = STRIP * _blocks(m) * BLOCK, kept_numel(Keep.products, x, more_x, y, more_y)
        if strip * size <= budget // 4 and products * size <= budget // 4 * 3:
            return Keep.products
    return Keep.nothing


def _fake(x, more_x, y, more_y, ids, scale, bias, factor, positives, closing, normalize, symmetric, *rest):
    _, reduction, keep = rest
    n, m, _ = _rows(x, more_x, y, more_y)
    result = result_dtype(x)
    stats = 2 * n + (2 * m if symmetric else 0) + 1
    biases = 0 if bias is None else bias.numel()
    if keep == Keep.gradients:
        stats += 1 + biases
    if keep == Keep.products and biases > 1:
        stats += biases
    return (
        x.new_empty((n,) if reduction == 0 else (), dtype=result),
        x.new_empty((stats,), dtype=torch.float64),
        x.new_empty((kept_numel(keep, x, more_x, y, more_y),), dtype=result),
    )


_OPERATOR = KeepingOperator("pair_loss", tensors=7, differentiable=(0, 1, 2, 3, 5, 6), fake=_fake)
