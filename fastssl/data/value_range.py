"""Pixels of more than 8 bits to uint8: by one range of values for all images of a data set."""

from __future__ import annotations

import functools
import logging
import math
from contextvars import ContextVar
from typing import Any

import numpy as np

from fastssl.data.bands import ImageError

ValueRange = tuple[float, float]
REMEDY = "the range of all images is named behind the data, #range=LOW,HIGH (value_range= in Python)"
_SIXTEEN = (0.0, 65535.0)
_told: set[str] = set()  # of a process, whose threads read thousands of images
log = logging.getLogger("fastssl")

# Of data that is opened without a range: that of a run which is evaluated or resumed.
trained: ContextVar[ValueRange | None] = ContextVar("fastssl_value_range", default=None)


def checked_range(value_range: Any) -> ValueRange | None:
    """Two numbers, the values that become 0 and 255; None: none is given.

    Raises:
        ValueError: something else, or not the lower one first.
    """
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"value_range: expected two numbers, the lower one first, got {value_range!r}")
    return low, high


def take_range(options: dict[str, str]) -> ValueRange | None:
    """Removes "range" from the options behind a name of data, and returns it.

    Raises:
        ValueError: it is no range.

    Example:
        >>> from fastssl.data.value_range import take_range
        >>> take_range({"range": "0,4095"})
        (0.0, 4095.0)
    """
    given = options.pop("range", None)
    if given is None:
        return None
    try:
        return checked_range(given.split(","))
    except ValueError as error:
        raise ValueError(f"data: expected #range=LOW,HIGH, two numbers, the lower one first, got {given!r}") from error


def described_range(value_range: ValueRange) -> str:
    """The words of a range: "values from 0 to 4,095"."""
    low, high = (f"{value:,.10g}" for value in value_range)
    return f"values from {low} to {high}"


def eight_bits(values: np.ndarray, name: str, value_range: ValueRange | None = None) -> np.ndarray:
    """Values of any dtype to uint8. A value becomes the same in every image: with a range round(255 (v - low) / (high -
    low)), values outside of it are clipped, and NaN, which marks pixels without a value, is 0. Without one uint8 and
    booleans are unchanged, the range of uint16 is 0 to 65,535, that of floats 0 to 1, and other integers are levels
    from 0 to 255.

    Raises:
        ImageError: without a range, values outside of that of the dtype.
    """
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if value_range is None:
        if values.dtype == np.uint8:
            return values
        value_range = _of_dtype(values, name)
        if value_range is None:
            return values.astype(np.uint8)
    if kind == "u" and values.dtype.itemsize <= 2:  # a table is faster, and needs no floats of a whole stack
        return _table(8 * values.dtype.itemsize, value_range)[values]
    if values.ndim <= 3:
        return _scaled(values, value_range)
    made = np.empty(values.shape, np.uint8)
    for own, out in zip(values, made):
        out[...] = eight_bits(own, name, value_range)
    return made


@functools.lru_cache(maxsize=8)
def _table(bits: int, value_range: ValueRange) -> np.ndarray:
    """The level of every value of so many bits."""
    return _scaled(np.arange(1 << bits), value_range)


def tell_once(line: str) -> None:
    """Says which range is used, of the first image of more than 8 bits that has none."""
    if not _told:
        _told.add(line)
        log.warning("%s", line)


def _of_dtype(values: np.ndarray, name: str) -> ValueRange | None:
    """The range of a dtype; None: levels from 0 to 255."""
    of_sixteen = values.dtype.kind == "u" and values.dtype.itemsize == 2
    if of_sixteen and _told:  # the line below, which needs the extremes
        return _SIXTEEN
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if values.dtype.kind == "f":
        if not 0 <= low <= high <= 1:  # nor NaN
            raise ImageError(f"{name}: expected floats in [0, 1], or uint8, got {low:g} to {high:g}; {REMEDY}")
        return 0.0, 1.0
    if of_sixteen:
        tell_once(
            f"{name}: values of 16 bits are read as from 0 to 65,535 (here {low} to {high}); if those of all images "
            "are of another range, name it behind the data: #range=LOW,HIGH"
        )
        return _SIXTEEN
    if not 0 <= low <= high <= 255:
        got = f"{values.dtype} from {low} to {high}"
        raise ImageError(f"{name}: expected integers from 0 to 255, or uint16, got {got}; {REMEDY}")
    return None


def _scaled(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    low, high = value_range
    floats = values.astype(np.float64)  # exact for integers, so that equal values are equal in any dtype
    scaled = (np.clip(floats, low, high) - low) * 255 / (high - low)
    return np.nan_to_num(scaled, copy=False, nan=0).round().astype(np.uint8)
