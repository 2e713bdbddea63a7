"""Means of a feature map over a grid of cells."""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor


def cell_means(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """``adaptive_avg_pool2d``. Its gradient on a GPU is summed in any order: where determinism is asked for there, two
    matrix products."""
    if features.is_cuda and torch.are_deterministic_algorithms_enabled():
        return by_products(features, grid)
    return TF.adaptive_avg_pool2d(features, grid)


def by_products(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sums over the rows and the columns of each cell, by matrices of zeros and ones, which 16 bits hold."""
    rows, columns = (_members(s, cells, features) for s, cells in zip(features.shape[2:], grid))
    sums = ((features @ columns).transpose(2, 3) @ rows).transpose(2, 3)
    return sums / (rows.sum(0)[:, None] * columns.sum(0))


def _members(size: int, cells: int, like: Tensor) -> Tensor:
    """[size, cells]: 1 where a place belongs to a cell. Cells of a size that they do not divide overlap, as torch's."""
    place = torch.arange(size, device=like.device)[:, None]
    cell = torch.arange(cells, device=like.device)
    begin, end = cell * size // cells, (cell * size + size + cells - 1) // cells
    return ((place >= begin) & (place < end)).to(like.dtype)
