"""Tables whose rows say which part they belong to: a column of splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastssl.data.parts import PARTS, find_part

SPLITS = ("split", "partition", "subset")
BOTH = {"restval": "train"}  # of Karpathy's splits: trained on as well


def split_rows(values: Sequence[Any]) -> dict[str, np.ndarray] | None:
    """The rows of each part, by their names in a column of splits.

    Args:
        values: a name per row.

    Returns:
        "train" and "test" -> indices, int64; None: other values than names of parts, or not both.

    Example:
        >>> from fastssl.data.table_splits import split_rows
        >>> split_rows(["train", "test", "restval", "val"])
        {'train': array([0, 2]), 'test': array([1])}
        >>> split_rows(["left", "right"])
    """
    known = {name for names in PARTS.values() for name in names} | set(BOTH)
    folded = [value.strip().casefold() if isinstance(value, str) else None for value in values]
    if not set(folded) <= known:
        return None
    there = [BOTH.get(name or "", name) for name in folded]
    found = {part: find_part(set(filter(None, there)), part) for part in PARTS}
    if None in found.values():
        return None
    return {part: np.flatnonzero(np.array([name == own for name in there])) for part, own in found.items()}
