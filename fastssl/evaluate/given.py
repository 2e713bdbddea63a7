"""Checks of what is evaluated: features, classes, and which rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.evaluate.features import CHUNK


def feature_rows(features: Any, name: str = "features") -> Tensor:
    """Finite features [N, C], of float32 or float64; those of 16 bits become float32.

    Raises:
        TypeError: no floating point numbers.
        ValueError: another shape, no rows, or values that are not finite: the first row that has some is named.
    """
    given = torch.as_tensor(features).detach()
    if not given.is_floating_point():
        raise TypeError(f"{name}: expected floating point numbers, got {given.dtype}")
    if given.dim() != 2:
        raise ValueError(f"{name}: expected 2 dimensions [rows, features], got shape {tuple(given.shape)}")
    if not len(given):
        raise ValueError(f"{name}: expected at least one row")
    for k, rows in enumerate(given.split(CHUNK)):
        wrong = ~torch.isfinite(rows).all(1)
        if bool(wrong.any()):
            raise ValueError(f"{name}: expected finite values, row {k * CHUNK + int(wrong.nonzero()[0])} has others")
    return given if given.dtype == torch.float64 else given.float()


def unit_rows(features: Any, name: str = "features") -> Tensor:
    """:func:`feature_rows` of unit length, or 0: products are cosines.

    Raises:
        ValueError: a row of another length.
    """
    given = feature_rows(features, name)
    for k, rows in enumerate(given.split(CHUNK)):
        lengths = torch.linalg.vector_norm(rows, dim=1)
        wrong = ((lengths - 1).abs() > 0.02) & (lengths != 0)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"{name}: expected rows of unit length, that of row {k * CHUNK + row} is {float(lengths[row]):.4g}: "
                f"torch.nn.functional.normalize({name}, dim=1)"
            )
    return given


def class_ids(labels: Any, rows: Tensor, name: str = "labels") -> Tensor:
    """Classes [N] from 0 on, of any integer dtype, as int64.

    Raises:
        TypeError: no integers.
        ValueError: a wrong number of them, or negative ones.
    """
    given = torch.as_tensor(labels).detach()
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got {given.dtype}")
    if given.shape != rows.shape[:1]:
        found = len(given) if given.dim() == 1 else f"shape {tuple(given.shape)}"
        raise ValueError(f"{name}: expected {len(rows)}, one per row of features, got {found}")
    given = given.long()
    if given.numel() and int(given.min()) < 0:
        raise ValueError(f"{name}: expected classes from 0 on, got {int(given.min())}: leave unlabelled rows out")
    return given


def row_indices(rows: Any, count: int, name: str) -> np.ndarray:
    """Indices of rows, given as such or as a mask of ``count`` booleans.

    Raises:
        TypeError: neither.
        ValueError: a mask of another length.
        IndexError: an index out of range.
    """
    given = np.asarray(rows)
    if given.dtype == bool:
        if given.shape != (count,):
            raise ValueError(f"{name}: expected a mask of {count} booleans, got shape {given.shape}")
        return np.flatnonzero(given)
    if given.size and (not np.issubdtype(given.dtype, np.integer) or given.dtype == np.uint8):  # old masks are of uint8
        raise TypeError(f"{name}: expected integers or booleans, got {given.dtype}")
    if given.size and not -count <= int(given.min()) <= int(given.max()) < count:
        raise IndexError(f"{name}: expected 0 to {count - 1}, got {int(given.min())} to {int(given.max())}")
    return given.astype(np.int64)


__all__ = ["class_ids", "feature_rows", "row_indices", "unit_rows"]
