"""A source of data: items by number, the same for images, text and signals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Item(NamedTuple):
    """What a source gives for a number; what it does not have is None.

    Args:
        images: uint8 arrays [H, W, C] of any size (C = 1, 3, 4, whose last channel is left out where 3 are asked for,
            or as many as the encoder takes): one, or several drawings of the same thing.
        tokens: integers [T].
        signal: floats [T].
        text: a string.
        label: an integer; -1 where the class is not known.
        name: what messages and reports call the item.

    Example:
        >>> from fastssl.data import Item
        >>> Item(label=3).label
        3
    """

    images: tuple[np.ndarray, ...] | None = None
    tokens: np.ndarray | None = None
    signal: np.ndarray | None = None
    text: str | None = None
    label: int | None = None
    name: str | None = None


# (height, width) of an image to 1, 2, 4 or 8: by how much its decoder may make it smaller.
Reduction = Callable[[tuple[int, int]], int]


class Source:
    """Items by number. Subclasses define ``__len__`` and ``read``; a source is picklable, and read by many threads.

    ``name`` is what logs call the data, ``classes`` the names of its labels (empty where there are none), ``labels``
    one integer an item, or None where they are not known before an item is read. ``embedded`` names the set that comes
    with the package, where the items are of one: nothing else that is so called is taken for it. ``where`` opens it
    again, where that can be written down.

    Raises:
        NotImplementedError: a method that the subclass does not define.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import Item
        >>> from fastssl.data import Source
        >>> class Grey(Source):
        ...     name, classes, labels = 'grey', (), None
        ...     def __len__(self):
        ...         return 4
        ...     def read(self, index, reduce=None):
        ...         return Item((np.full((8, 8, 3), 64 * index, np.uint8),))
        >>> int(Grey().subset([1, 2]).read(0).images[0].max())
        64
    """

    name: str = "data"
    classes: Sequence[str] = ()
    labels: np.ndarray | None = None
    embedded: str | None = None
    where: str | None = None
    skipped: Mapping[str, int] = MappingProxyType({})  # why files were left out -> how many

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        """Returns item ``index``.

        Args:
            index: 0 to ``len(source) - 1``.
            reduce: asked for images whose decoder can make a half, a quarter or an eighth of the pixels for less work.

        Raises:
            IndexError: no such item.
            ImageError: an image that cannot be read.
        """
        raise NotImplementedError

    def items(self, ids: Iterable[int]) -> list[Item]:
        """Several items, read one after the other."""
        return [self.read(int(index)) for index in ids]

    def name_of(self, index: int) -> str:
        """What messages call an item; it is not read for that."""
        return f"item {index}"

    @property
    def fingerprint(self) -> str:
        """What a checkpoint compares on resuming: changes when items are added, taken away, renamed or relabelled."""
        parts = [type(self).__name__, str(len(self)), *self.classes]
        return digest(*parts, *([] if self.labels is None else [np.asarray(self.labels, np.int32)]))

    def subset(self, ids: Any, name: str | None = None) -> Source:
        """The items at ``ids``, in that order."""
        return Subset(self, np.asarray(ids, dtype=np.int64), name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self):,} items, {len(self.classes)} classes)"


class Subset(Source):
    """Some items of another source.

    Args:
        source: of the items.
        ids: [N] integers, the numbers of the items.
        name: what logs and checkpoints call it; None: that of ``source``.

    Raises:
        IndexError: a number that ``source`` does not have.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ['a', 'b'])
        >>> from fastssl.data import Subset
        >>> len(Subset(source, np.array([0, 2])))
        2
    """

    def __init__(self, source: Source, ids: np.ndarray, name: str | None = None) -> None:
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(source):
            raise IndexError(f"ids: expected 0 to {len(source) - 1}, got {int(ids.min())} to {int(ids.max())}")
        self.source, self.ids = source, ids
        self.name, self.classes, self.embedded = name or source.name, source.classes, source.embedded
        self.labels = None if source.labels is None else np.asarray(source.labels)[ids]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        return self.source.read(int(self.ids[in_range(index, len(self))]), reduce)

    def name_of(self, index: int) -> str:
        return self.source.name_of(int(self.ids[index]))

    @property
    def fingerprint(self) -> str:
        return digest(self.source.fingerprint, self.ids)


class Joined(Source):
    """Several sources one after the other, of the same classes.

    Args:
        sources: in their order, of the same classes.
        name: what logs and checkpoints call it; None: their names.

    Raises:
        ValueError: no source, or sources of different classes.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ['a', 'b'])
        >>> from fastssl.data import Joined
        >>> len(Joined([source, source]))
        8
    """

    def __init__(self, sources: Sequence[Source], name: str | None = None) -> None:
        if not sources:
            raise ValueError("sources: expected at least one")
        self.sources = list(sources)
        self.ends = np.cumsum([len(s) for s in self.sources])
        self.name, self.classes = name or self.sources[0].name, self.sources[0].classes
        known = [s.labels for s in self.sources]
        self.labels = None if any(k is None for k in known) else np.concatenate([np.asarray(k) for k in known])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _place(self, index: int) -> tuple[Source, int]:
        k = int(np.searchsorted(self.ends, in_range(index, len(self)), side="right"))
        return self.sources[k], index - (int(self.ends[k - 1]) if k else 0)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        source, own = self._place(index)
        return source.read(own, reduce)

    def name_of(self, index: int) -> str:
        source, own = self._place(index)
        return source.name_of(own)

    @property
    def fingerprint(self) -> str:
        return digest(*(s.fingerprint for s in self.sources))


def in_range(index: int, count: int) -> int:
    """The index, if there is such an item.

    Raises:
        IndexError: there is none.
    """
    if not 0 <= index < count:
        raise IndexError(f"index: expected 0 to {count - 1}, got {index}")
    return index


def digest(*parts: str | bytes | np.ndarray) -> str:
    """A short hash of texts and arrays."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            made.update(f"{part.dtype.str}{part.shape}".encode())
            made.update(np.ascontiguousarray(part).data)
        else:
            made.update(part.encode() if isinstance(part, str) else part)
        made.update(b"\0")
    return made.hexdigest()


def checked_labels(labels: Any, count: int) -> np.ndarray:
    """One integer an item, or a row of -1, 0 and 1 where an item has several classes.

    Raises:
        ValueError: other labels.
    """
    array = np.asarray(labels)
    if array.ndim not in (1, 2) or len(array) != count or (count and array.dtype.kind not in "iu"):
        raise ValueError(f"labels: expected {count} integers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64, copy=False)
