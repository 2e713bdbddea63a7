"""Sums over rows whose bits no number of threads changes."""

from __future__ import annotations

from torch import Tensor

from fastssl.functional import _check as check

SERIAL = 1 << 14  # values that torch sums on one thread


def by_row(value: Tensor | float, rows: Tensor) -> Tensor | float:
    """A learned scalar once per row: its gradient is a sum of rows as :func:`sum_of` is."""
    learned = isinstance(value, Tensor) and value.requires_grad and value.dim() == 0
    if not isinstance(value, Tensor) or not learned or not check.readable(value) or rows.shape[0] <= SERIAL:
        return value
    return value.expand(rows.shape[0] // SERIAL + 1, 1).expand(-1, SERIAL).flatten()[: rows.shape[0]]


def sum_of(values: Tensor) -> Tensor:
    """The sum of all values, in an order that no number of threads changes."""
    values = values.flatten()
    if values.device.type != "cpu" or check.traced(values) or len(values) <= SERIAL:
        return values.sum()
    whole = len(values) // SERIAL * SERIAL
    return values[:whole].reshape(-1, SERIAL).sum(1).sum() + values[whole:].sum()
