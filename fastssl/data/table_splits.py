"""Tables whose rows say which part they belong to: a column of splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np

from fastssl.data.parts import PARTS, find_part
from fastssl.data.source import Source

AnySource = TypeVar("AnySource", bound=Source)
SPLITS = ("split", "partition", "subset")
BOTH = {"restval": "train"}  # of Karpathy's splits: trained on as well


def split_rows(values: Sequence[Any]) -> dict[str, np.ndarray] | None:
    """The rows of each part, by their names in a column of splits.

    Args:
        values: a name per row.

    Returns:
        "train" and "test" -> indices, int64; None: they are not both there. Rows of neither, such as those of "extra"
        or of an empty cell, are in no part: what is held out would be among them if all were trained on.

    Example:
        >>> from fastssl.data.table_splits import split_rows
        >>> split_rows(["train", "test", "restval", "val"])
        {'train': array([0, 2]), 'test': array([1])}
        >>> split_rows(["train", "extra"])
    """
    folded = [value.strip().casefold() if isinstance(value, str) else None for value in values]
    there = [BOTH.get(name or "", name) for name in folded]
    found = {part: find_part(set(filter(None, there)), part) for part in PARTS}
    if None in found.values():
        return None
    return {part: np.flatnonzero(np.array([name == own for name in there])) for part, own in found.items()}


def of_part(
    path: str, source: AnySource, rows: list[dict[str, Any]], column: str | None, part: str | None, split: str | None
) -> AnySource:
    """The items of a part, or of one split, where a column says which they are.

    Args:
        path: path of the table, for errors.
        source: an item for each of ``rows``.
        rows: the rows of the table.
        column: the column of splits; None: there is none.
        part: "train" or "test"; None: all items.
        split: a value of the column, in place of a part.

    Raises:
        ValueError: no row of the ``split``.
    """
    values = [None if column is None else row.get(column) for row in rows]
    if split is not None:
        own = np.flatnonzero([value == split for value in values])
        if not len(own):
            there = ", ".join(sorted({str(value) for value in values})) if column is not None else "no such column"
            raise ValueError(f"split: expected one of {path} ({there}), got {split!r}")
    elif part is None or (parts := split_rows(values)) is None:
        return source
    else:
        own = parts[part]
    chosen = source.subset(own, source.name)
    left = Counter(str(value) for value in np.delete(np.array(values, object), own))
    chosen.skipped = {**source.skipped, **{f"in {column} {name!r}": count for name, count in sorted(left.items())}}
    chosen.part = part if split is None else None
    return cast(AnySource, chosen)
