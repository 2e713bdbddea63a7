"""Sources: indexed collections of items, for images, text and signals alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fastssl._words import amount
from fastssl.data.objects import Objects

CLIP = "a clip"  # what frames of videos share
_SIZES = 1024  # of files that tell data apart


class Item(NamedTuple):
    """An item of a source; absent fields are None.

    Args:
        images: uint8 arrays [H, W, C] of any size: one, or several images of the same object. C is 1, 3, 4 (alpha is
            dropped for RGB encoders), or the number of channels of the encoder.
        tokens: integers [T], or a :class:`Window` of a token file.
        signal: floats [T].
        text: a string.
        label: an integer; -1 if the class is unknown.
        name: name of the item in messages and reports.
        rate: samples of the signal per second.
        objects: what is where in the image, :class:`Objects`.

    Example:
        >>> from fastssl.data import Item
        >>> Item(label=3).label
        3
    """

    images: tuple[np.ndarray, ...] | None = None
    tokens: Any = None
    signal: np.ndarray | None = None
    text: str | None = None
    label: int | None = None
    name: str | None = None
    rate: int | None = None
    objects: Objects | None = None


# (height, width) of an image to the factor 1, 2, 4 or 8 by which it may be decoded smaller.
Reduction = Callable[[tuple[int, int]], int]


def several_texts(texts: Any, name: str = "texts") -> Any:
    """``texts``, unless it is one string, whose characters would be taken for texts.

    Raises:
        TypeError: ``texts`` is a string.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{name}: expected a sequence of strings, got one {type(texts).__name__}")
    return texts


def check_strings(texts: Sequence[Any], name: str = "texts") -> None:
    """Checks that texts are some: "None" would be read as a text.

    Raises:
        TypeError: one of them is no string.
    """
    wrong = next((k for k, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"{name}: expected strings, got {type(texts[wrong]).__name__} at {wrong}")


class Source:
    """An indexed collection of items. Subclasses define ``__len__`` and ``read``, must be picklable and thread-safe.

    Attributes:
        name: name of the data set in logs.
        classes: names of the classes; empty if there are none.
        labels: one integer per item; or one float, a number to predict (NaN: unknown), of data without classes; None if
            labels are available only with each item.
        embedded: name of the embedded data set that the items belong to, or None.
        where: argument with which :func:`fastssl.data.open` opens the source again, or None.
        skipped: reasons for which files were left out -> number of files.
        part: "train" or "test", where the data has both, of which this is one; or None.
        orientation: whether the EXIF orientation of image files is applied.
        value_range: the values of pixels that are read as 0 and 255; None: those of their dtype.
        classes_from: where the classes would be, for errors of data with fewer than two; None: nothing to say.
        motions: [N, 6], the motion of the camera between the two images of each item, as of
            :class:`fastssl.data.FrameSource`; None: not known.
        shared: what items of equal ``image_ids`` have in common.
        unit: what its items are called in errors.

    Raises:
        NotImplementedError: the subclass does not define a method.

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
    skipped: Mapping[str, int] = MappingProxyType({})
    part: str | None = None
    orientation: bool = True
    value_range: tuple[float, float] | None = None
    classes_from: str | None = None
    motions: np.ndarray | None = None
    shared: str = "an image"
    unit: str = "items"

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        """Returns item ``index``.

        Args:
            index: 0 to ``len(source) - 1``.
            reduce: chooses the factor by which images are decoded smaller, for decoders that support it.

        Raises:
            IndexError: no such item.
            ImageError: an unreadable image.
        """
        raise NotImplementedError

    def items(self, ids: Iterable[int]) -> list[Item]:
        """Reads several items in order."""
        return [self.read(int(index)) for index in ids]

    def label_of(self, index: int) -> int | None:
        """The class of an item; None: it has none, several, or a number to predict."""
        single = self.labels is not None and self.labels.ndim == 1 and not are_scores(self.labels)
        return int(self.labels[index]) if single else None  # type: ignore[index]

    def name_of(self, index: int) -> str:
        """The name of an item in messages, without reading it."""
        return f"item {index}"

    def text_of(self, index: int) -> str | None:
        """The text of an item, without its image where the source can read it alone."""
        return self.read(index).text

    @property
    def image_ids(self) -> np.ndarray | None:
        """int64 [N], the first index that has the image of each item, where an image is listed several times, such as
        once for each of its captions, or that is of the same clip; None: all images differ, as far as the source
        knows."""
        return None

    @property
    def without_text(self) -> np.ndarray | None:
        """Indices of the items without a text, or with an empty one, as far as the source knows without reading them;
        None: it does not."""
        return None

    @property
    def fingerprint(self) -> str:
        """A hash that changes when items are added, removed, renamed or relabelled; compared on resuming."""
        parts = [type(self).__name__, str(len(self)), *self.classes]
        numbers = np.float64 if are_scores(self.labels) else np.int32
        labels = [] if self.labels is None else [np.asarray(self.labels, numbers)]
        return digest(*parts, *labels, *self._read_as())

    def _read_as(self) -> list[str]:
        """What a fingerprint says of a range of values."""
        return [] if self.value_range is None else [f"values {self.value_range}"]

    @property
    def content_key(self) -> str:
        """A hash for results that are kept: it changes with the fingerprint, and when the content of the items does
        (size and time of change of files, pixels of arrays). Sources of items that change otherwise override it; that
        of a torch data set, which cannot tell, is another one each time that it is opened."""
        return self.fingerprint

    def size_of(self, index: int) -> int | None:
        """Bytes of an item's file; None: it has none of its own, or not on this machine."""
        return None

    def subset(self, ids: Any, name: str | None = None) -> Source:
        """The source of the items at ``ids``, in that order."""
        return Subset(self, np.asarray(ids, dtype=np.int64), name)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {amount(len(self), 'item')}, {amount(len(self.classes), 'class')})"
        )


class Subset(Source):
    """A subset of a source.

    Args:
        source: the whole source.
        ids: [N] integers, indices of the items.
        name: name in logs and checkpoints; None: that of ``source``.

    Raises:
        IndexError: an index out of range.

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
        self.orientation, self.shared, self.classes_from = source.orientation, source.shared, source.classes_from
        self.value_range = source.value_range
        self.labels = None if source.labels is None else np.asarray(source.labels)[ids]
        self.motions = None if source.motions is None else source.motions[ids]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        return self.source.read(int(self.ids[check_index(index, len(self))]), reduce)

    def name_of(self, index: int) -> str:
        return self.source.name_of(int(self.ids[index]))

    def text_of(self, index: int) -> str | None:
        return self.source.text_of(int(self.ids[index]))

    def size_of(self, index: int) -> int | None:
        return self.source.size_of(int(self.ids[index]))

    @property
    def image_ids(self) -> np.ndarray | None:
        whole = self.source.image_ids
        return None if whole is None else first_indices(whole[self.ids].tolist())

    @property
    def without_text(self) -> np.ndarray | None:
        whole = self.source.without_text
        return None if whole is None else np.flatnonzero(np.isin(self.ids, whole))

    @property
    def fingerprint(self) -> str:
        return digest(self.source.fingerprint, self.ids)

    @property
    def content_key(self) -> str:
        return digest(self.source.content_key, self.ids)


class CheckedSource(Source):
    """A source whose items are checked when they are read, so that those that a method cannot process are unreadable.

    Args:
        source: the source.
        check: raises an error of reading, such as :class:`fastssl.data.AudioError`, that names the item.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> from fastssl.data.source import CheckedSource
        >>> seen = []
        >>> source = CheckedSource(ArraySource(np.zeros((4, 8, 8, 3), np.uint8)), lambda item: seen.append(item.label))
        >>> _ = source.read(1)
        >>> len(source), len(seen)
        (4, 1)
    """

    def __init__(self, source: Source, check: Callable[[Item], None]) -> None:
        self.source, self.check = source, check
        self.name, self.classes, self.labels = source.name, source.classes, source.labels
        self.embedded, self.where, self.skipped = source.embedded, source.where, source.skipped
        self.orientation, self.value_range = source.orientation, source.value_range

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        item = self.source.read(index, reduce)
        self.check(item)
        return item

    def name_of(self, index: int) -> str:
        return self.source.name_of(index)

    def text_of(self, index: int) -> str | None:
        return self.source.text_of(index)

    def size_of(self, index: int) -> int | None:
        return self.source.size_of(index)

    @property
    def image_ids(self) -> np.ndarray | None:
        return self.source.image_ids

    @property
    def without_text(self) -> np.ndarray | None:
        return self.source.without_text

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    @property
    def content_key(self) -> str:
        return self.source.content_key


class ConcatSource(Source):
    """The concatenation of several sources with the same classes.

    Args:
        sources: the sources, in order.
        name: name in logs and checkpoints; None: that of the first source.

    Raises:
        ValueError: no sources.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ['a', 'b'])
        >>> from fastssl.data import ConcatSource
        >>> len(ConcatSource([source, source]))
        8
    """

    def __init__(self, sources: Sequence[Source], name: str | None = None) -> None:
        if not sources:
            raise ValueError("sources: expected at least one")
        self.sources = list(sources)
        self.ends = np.cumsum([len(s) for s in self.sources])
        self.name, self.classes = name or self.sources[0].name, self.sources[0].classes
        known = [s.labels for s in self.sources]
        of = {are_scores(k): s.name for k, s in zip(known, self.sources) if k is not None}
        if len(of) > 1:
            raise ValueError(
                f"sources: expected classes or numbers to predict, got numbers of {of[True]} and classes of {of[False]}"
            )
        self.labels = None if any(k is None for k in known) else np.concatenate([np.asarray(k) for k in known])
        self.classes_from = next((s.classes_from for s in self.sources if s.classes_from is not None), None)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _place(self, index: int) -> tuple[Source, int]:
        k = int(np.searchsorted(self.ends, check_index(index, len(self)), side="right"))
        return self.sources[k], index - (int(self.ends[k - 1]) if k else 0)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        source, own = self._place(index)
        return source.read(own, reduce)

    def name_of(self, index: int) -> str:
        source, own = self._place(index)
        return source.name_of(own)

    def text_of(self, index: int) -> str | None:
        source, own = self._place(index)
        return source.text_of(own)

    def size_of(self, index: int) -> int | None:
        source, own = self._place(index)
        return source.size_of(own)

    @property
    def image_ids(self) -> np.ndarray | None:
        parts = [source.image_ids for source in self.sources]
        if all(part is None for part in parts):
            return None
        starts = [0, *self.ends[:-1]]
        own = (np.arange(len(source)) if part is None else part for source, part in zip(self.sources, parts))
        return np.concatenate([start + ids for start, ids in zip(starts, own)])

    @property
    def without_text(self) -> np.ndarray | None:
        parts, starts = [source.without_text for source in self.sources], [0, *self.ends[:-1]]
        known = [start + ids for start, ids in zip(starts, parts) if ids is not None]
        return np.concatenate(known) if len(known) == len(parts) else None

    @property
    def fingerprint(self) -> str:
        return digest(*(s.fingerprint for s in self.sources))

    @property
    def content_key(self) -> str:
        return digest(*(s.content_key for s in self.sources))


def sizes_key(source: Source) -> str | None:
    """A hash of the sizes of up to 1,024 files: it tells data apart whose names are alike, and is that of a copy; None:
    items without files, whose fingerprint tells."""
    ids = np.unique(np.linspace(0, len(source) - 1, min(len(source), _SIZES)).round().astype(int))
    sizes = [source.size_of(int(index)) for index in ids]
    return None if sizes.count(None) == len(sizes) else digest(str(sizes))


def check_index(index: int, count: int) -> int:
    """Returns the index.

    Raises:
        IndexError: it is out of range.
    """
    if not 0 <= index < count:
        raise IndexError(f"index: expected 0 to {count - 1}, got {index}")
    return index


def empty_texts(texts: Iterable[str | None] | None, count: int) -> np.ndarray:
    """int64 [K], indices of the texts of ``count`` items that are absent or blank; None: there are no texts."""
    if texts is None:
        return np.arange(count)
    return np.array([k for k, text in enumerate(texts) if not (text or "").strip()], dtype=np.int64)


def first_indices(keys: Iterable[Hashable]) -> np.ndarray | None:
    """int64 [N], the index of the first key that equals each; None: all differ."""
    first: dict[Hashable, int] = {}
    ids = np.fromiter((first.setdefault(key, k) for k, key in enumerate(keys)), np.int64)
    return ids if len(first) < len(ids) else None


def digest(*parts: str | bytes | np.ndarray | None) -> str:
    """A hash of strings and arrays; None is another part than an empty string."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            made.update(f"{part.dtype.str}{part.shape}".encode())
            made.update(np.ascontiguousarray(part).data)
        else:
            part = b"\xff" if part is None else part  # no UTF-8
            made.update(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
        made.update(b"\0")
    return made.hexdigest()


def are_scores(labels: Any) -> bool:
    """Whether labels are numbers to predict, one float per item, and no classes."""
    return labels is not None and as_array(labels).ndim == 1 and as_array(labels).dtype.kind == "f"


def as_array(labels: Any) -> np.ndarray:
    """Labels as an array.

    Raises:
        ValueError: lists of different lengths, such as the names of several classes per item.
    """
    try:
        return np.asarray(labels)
    except ValueError as error:
        raise ValueError(
            "labels: expected one per item, or [N, classes] of 0 and 1, got lists of different lengths"
        ) from error


def checked_scores(scores: Any, count: int, name: str = "scores") -> np.ndarray:
    """Numbers to predict as float64 [N], NaN where unknown, given as [N] or a column [N, 1]; ``name``: in errors.

    Raises:
        ValueError: a wrong number or dtype of them, or infinite ones.
    """
    array = np.asarray(scores)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.shape != (count,) or (count and array.dtype.kind not in "iuf"):
        raise ValueError(f"{name}: expected {count} numbers, got {array.dtype} of shape {array.shape}")
    array = array.astype(np.float64)
    if bool(np.isinf(array).any()):
        wrong = int(np.isinf(array).argmax())
        raise ValueError(
            f"{name}: expected finite numbers, or NaN for unknown ones, got {array[wrong]:g} for item {wrong}"
        )
    return array


def labels_or_scores(labels: Any, count: int, classes: Sequence[str]) -> np.ndarray:
    """Labels of any kind: floats of data without classes are numbers to predict (:func:`checked_scores`), others
    classes (:func:`checked_labels`).

    Raises:
        ValueError: as of the two functions.
    """
    of_scores = are_scores(labels) and not classes
    return checked_scores(labels, count, "labels") if of_scores else checked_labels(labels, count)


def checked_labels(labels: Any, count: int) -> np.ndarray:
    """Labels as int64: one per item, as [N] or a column [N, 1]; or, for several per item, [N, classes] of -1 (absent),
    0 (ignored) and 1, or of 0 (absent) and 1 alone, which are made -1 and 1.

    Raises:
        ValueError: a wrong number or dtype of labels, or others than these.
    """
    array = as_array(labels)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim not in (1, 2) or len(array) != count or (count and array.dtype.kind not in "iu"):
        remedy = "; numbers to predict are given by scores= of fastssl.data.open" if array.dtype.kind == "f" else ""
        raise ValueError(f"labels: expected {count} integers, got {array.dtype} of shape {array.shape}{remedy}")
    if array.size and (int(array.min()) < -1 or int(array.max()) >= 2**31):
        wrong = int(array.min()) if int(array.min()) < -1 else int(array.max())
        raise ValueError(f"labels: expected 0 to {2**31 - 1:,}, or -1 for unknown classes, got {wrong}")
    if array.ndim == 2 and array.size and int(array.max()) > 1:
        raise ValueError(
            f"labels: expected one per item, or -1, 0 or 1 per item and class, got {array.max()} in shape {array.shape}"
        )
    array = array.astype(np.int64, copy=False)
    return 2 * array - 1 if array.ndim == 2 and not (array < 0).any() else array
