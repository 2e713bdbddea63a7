"""What users give as numbers: tensors, NumPy arrays or lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.functional import _check as check

Values = Tensor | np.ndarray | Sequence[Any]  # that users may give
CHUNK = 8192  # rows of features that are processed at once


def as_tensor(name: str, given: Any) -> Tensor:
    """The numbers of a tensor, an array or a list (of tensors, too), without a copy where the memory can be shared, and
    without their gradient; floats of Python become float32.

    Raises:
        TypeError: strings, other objects or a sparse tensor.
        ValueError: rows of different lengths.
    """
    if isinstance(given, Tensor):
        return check.tensor(name, given).detach()
    if isinstance(given, (list, tuple)) and given and all(isinstance(row, Tensor) for row in given):
        rows = [as_tensor(name, row) for row in given]
        try:
            return torch.stack(rows)  # NumPy has no bfloat16, no gradients and no GPUs
        except RuntimeError as error:
            raise ValueError(f"{name}: expected tensors of one shape, on one device: {error}") from None
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name}: expected rows of one length: {error}") from None
    if array.dtype.kind in "OSU" and any(isinstance(value, (str, bytes)) for value in array.flat):
        how = f": encode them as integers, numpy.unique({name}, return_inverse=True)[1]" if "labels" in name else ""
        raise TypeError(f"{name}: expected numbers, got strings{how}")
    if array.dtype.kind not in "biufc" or array.dtype == np.longdouble:
        raise TypeError(f"{name}: expected numbers, got {type(given).__name__} of {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype == np.float64 and not hasattr(given, "dtype"):
        array = array.astype(np.float32)
    return torch.as_tensor(array)


def float_rows(given: Any, name: str = "features") -> Tensor:
    """Features [N, C], of float32 or float64; those of 16 bits and integers become float32.

    Raises:
        TypeError: booleans or complex numbers.
        ValueError: another shape, or no rows.
    """
    rows = as_tensor(name, given)
    if rows.is_complex() or rows.dtype == torch.bool:
        raise TypeError(f"{name}: expected real numbers, got {rows.dtype}")
    if rows.dim() != 2:
        raise ValueError(f"{name}: expected 2 dimensions [rows, features], got shape {tuple(rows.shape)}")
    if not len(rows):
        raise ValueError(f"{name}: expected at least one row")
    if not rows.shape[1]:
        raise ValueError(f"{name}: expected at least one feature, got shape {tuple(rows.shape)}")
    return rows if rows.dtype == torch.float64 else rows.float()


def feature_rows(given: Any, name: str = "features") -> Tensor:
    """:func:`float_rows` that are finite.

    Raises:
        ValueError: values that are not finite: the first row that has some is named.
    """
    features = float_rows(given, name)
    for k, rows in enumerate(features.split(CHUNK)):
        wrong = ~torch.isfinite(rows).all(1)
        if bool(wrong.any()):
            raise ValueError(f"{name}: expected finite values, row {k * CHUNK + int(wrong.nonzero()[0])} has others")
    return features


__all__ = ["CHUNK", "Values", "as_tensor", "feature_rows", "float_rows"]
