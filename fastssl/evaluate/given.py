"""Checks of what is evaluated: features, classes, and which rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl._words import amount
from fastssl.models.given import CHUNK, as_tensor, feature_rows, float_rows


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


def unit_length(rows: Tensor) -> Tensor:
    """Rows of unit length, or 0, also where the squares of their values vanish or overflow, as those of a collapsed
    encoder do."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    extreme = (lengths < 1e-12) | (lengths == torch.inf)
    if bool(extreme.any()):
        largest = rows.abs().amax(1, keepdim=True)
        rows = torch.where(extreme & (largest > 0), rows / largest, rows)
    return torch.nn.functional.normalize(rows, dim=1)


def unit_sides(x: Any, y: Any, names: tuple[str, str], *, paired: bool = False) -> tuple[Tensor, Tensor]:
    """:func:`unit_rows` of two sides with the same number of features, or of pairs, in the wider of their dtypes.

    Raises:
        ValueError: another number of features, or of pairs another shape.
    """
    x, y = float_rows(x, names[0]), float_rows(y, names[1])
    if paired and x.shape != y.shape:
        raise ValueError(f"{names[1]}: expected shape {tuple(x.shape)}, that of {names[0]}, got {tuple(y.shape)}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[1]}: expected {amount(x.shape[1], 'feature')} as {names[0]}, got shape {tuple(y.shape)}"
        )
    x, y = unit_rows(x, names[0]), unit_rows(y, names[1])
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


def class_ids(labels: Any, rows: Tensor, name: str = "labels", of: str = "features") -> Tensor:
    """Classes [N] from 0 on, of any integer dtype, as int64 on the device of their rows.

    Raises:
        TypeError: no integers.
        ValueError: a wrong number of them, or negative ones.
    """
    given = as_tensor(name, labels)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got {given.dtype}")
    if given.shape != rows.shape[:1]:
        found = len(given) if given.dim() == 1 else f"shape {tuple(given.shape)}"
        raise ValueError(f"{name}: expected {len(rows)}, one per row of {of}, got {found}")
    unsigned, given = given.dtype == torch.uint64, given.to(rows.device, torch.int64)
    if given.numel() and int(given.min()) < 0:
        if unsigned:
            raise ValueError(
                f"{name}: expected classes below 2^63, got {int(given.min()) + 2**64}: number them, "
                f"numpy.unique({name}, return_inverse=True)[1]"
            )
        raise ValueError(f"{name}: expected classes from 0 on, got {int(given.min())}: leave unlabelled rows out")
    return given


def leave_one_out(rows: Tensor, name: str = "features") -> None:
    """Raises ValueError for a single row, which has no neighbour but itself."""
    if len(rows) < 2:
        raise ValueError(f"{name}: expected at least two rows, as each is left out of its neighbours, got one")


def signs(labels: Any, name: str = "labels") -> Tensor:
    """Labels of -1, 0 and 1, of any dtype, as int8.

    Raises:
        TypeError: booleans, whose False would be 0 (ignored).
        ValueError: other numbers, or no -1, as of labels 0 and 1.
    """
    given = as_tensor(name, labels)
    if given.dtype == torch.bool:
        raise TypeError(f"{name}: expected -1 (absent), 0 (ignored) and 1 (present), got booleans")
    numbers = given.double()  # PyTorch has no comparisons of unsigned integers of 16 bits and more
    found = numbers.sign().to(torch.int8)
    if not bool((found == numbers).all()):
        raise ValueError(f"{name}: expected -1, 0 and 1, got {float(numbers[found != numbers][0]):g}")
    if not bool((found < 0).any()):
        raise ValueError(f"{name}: expected -1 where a class is absent (0 is ignored), got none")
    return found


def row_indices(rows: Any, count: int, name: str) -> np.ndarray:
    """Indices of rows, given as such or as a mask of ``count`` booleans.

    Raises:
        TypeError: neither.
        ValueError: a mask of another length, or indices of another shape.
        IndexError: an index out of range.
    """
    given = np.asarray(rows)
    if given.dtype != bool and given.ndim != 1:
        raise ValueError(f"{name}: expected indices [rows], got shape {given.shape}")
    if given.dtype == bool:
        if given.shape != (count,):
            raise ValueError(f"{name}: expected a mask of {count} booleans, got shape {given.shape}")
        return np.flatnonzero(given)
    if given.size and (not np.issubdtype(given.dtype, np.integer) or given.dtype == np.uint8):  # old masks are of uint8
        raise TypeError(f"{name}: expected integers or booleans, got {given.dtype}")
    if given.size and not -count <= int(given.min()) <= int(given.max()) < count:
        raise IndexError(f"{name}: expected 0 to {count - 1}, got {int(given.min())} to {int(given.max())}")
    return given.astype(np.int64)


__all__ = [
    "class_ids",
    "feature_rows",
    "leave_one_out",
    "row_indices",
    "signs",
    "unit_length",
    "unit_rows",
    "unit_sides",
]
