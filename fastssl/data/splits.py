"""Data sets with a training part, a test part, and the metric by which the field compares results on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data import benchmarks
from fastssl.data.datasets import first_part, hub
from fastssl.data.embedded import emoji
from fastssl.data.opening import TEST, TRAIN, open, parts_of
from fastssl.data.source import Source


@dataclass
class Splits:
    """A task: ``train`` and ``test`` have the same classes; ``metric`` is a name of ``fastssl.evaluate.METRICS``;
    ``divided``: by those who made the data, not at random.

    Args:
        name: of the task.
        train: the training part.
        test: the test part.
        metric: a name of ``fastssl.evaluate.METRICS``.
        divided: by those who made the data, not at random.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ['a', 'b'])
        >>> from fastssl.data import Splits
        >>> task = Splits('toy', source, source)
    """

    name: str
    train: Source
    test: Source
    metric: str = "top-1"
    divided: bool = True


def divide(source: Source, share: float = 0.8, seed: int = 0) -> Splits:
    """Divides a data set that has no test part, at random.

    Args:
        source: of all items.
        share: of the training part.
        seed: of the division.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ['a', 'b'])
        >>> from fastssl.data import divide
        >>> len(divide(source, 0.5).train)
        2
    """
    order = np.random.default_rng([11, seed]).permutation(len(source))
    cut = int(share * len(order))
    name = source.name
    return Splits(
        name, source.subset(np.sort(order[:cut]), name), source.subset(np.sort(order[cut:]), name), divided=False
    )


def open_splits(data: Any, **options: Any) -> Splits:
    """Returns a task: what :func:`fastssl.data.open` takes, in two parts.

    Args:
        data: as for :func:`fastssl.data.open`. A folder with ``train`` and ``val`` (or ``test``) in it, a data set of
            the field ("cifar-10:FOLDER") and one of Hugging Face ("hf:PATH") have two parts; anything else is divided
            80 to 20, "emoji" all 1,871 of them.
        options: of :func:`fastssl.data.open`.

    Raises:
        ValueError: no such data set, or a folder without what its structure promises.
        ImportError: the extra is missing.

    Example:
        >>> from fastssl.data import open_splits
        >>> task = open_splits('digits')
        >>> len(task.train), len(task.test)
        (1437, 360)
    """
    if isinstance(data, Splits):
        return data
    if isinstance(data, str) and data == "emoji":
        return divide(emoji())
    if isinstance(data, (str, Path)):
        kind, _, root = str(data).partition(":")
        if root and kind in benchmarks.READERS:
            return Splits(kind, *benchmarks.read(kind, root), benchmarks.METRICS.get(kind, "top-1"))
        if root and kind == "hf":
            parts = hub(root)
            train, test = first_part(parts, TRAIN), first_part(parts, TEST)
            if train is None or test is None:
                raise ValueError(
                    f"data: expected parts train and test (or validation) in {root!r}, got {sorted(parts)}"
                )
            return Splits(Path(root).name, parts[train], parts[test])
        if parts_of(data) is not None:
            train_part, test_part = (open(data, part=part, **options) for part in ("train", "test"))
            if list(train_part.classes) != list(test_part.classes):
                raise ValueError(f"data: expected the same classes in both parts of {str(data)!r}")
            return Splits(train_part.name, train_part, test_part)
    return divide(open(data, **options))
