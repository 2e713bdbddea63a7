"""Data sets of other libraries: map-style data sets of torch, and Hugging Face data sets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fastssl.data.captions import captions_of
from fastssl.data.columns import check_answers, check_options, described, first_column, known_column, numbers_in
from fastssl.data.decode import as_pixels
from fastssl.data.labels import class_labels, fraction_among, scores_of
from fastssl.data.source import Item, Reduction, Source, check_index, checked_labels, digest, empty_texts
from fastssl.data.storage import ending
from fastssl.data.table_splits import SPLITS, split_rows
from fastssl.data.tables import listed_images, lists_images
from fastssl.data.text_files import hub_corpus
from fastssl.data.value_range import ValueRange, checked_range

IMAGES = ("image", "img", "images", "pixel_values")
LABELS = ("label", "fine_label", "labels", "target")
TEXTS = ("text", "caption", "captions")
SAVED = ("dataset_dict.json", "dataset_info.json")  # what datasets.save_to_disk writes


class DatasetSource(Source):
    """A map-style data set, such as torchvision's: items are images, (image, label) pairs, or mappings.

    Labels are available up front if the data set has an attribute ``targets`` or ``labels``, else only with each item.

    Args:
        dataset: has ``__len__`` and ``__getitem__``; images are arrays, tensors or Pillow images of any size, without
            random transforms.
        name: name of the data set in logs and checkpoints; None: the name of its class.
        value_range: as of :func:`fastssl.data.read_image`, of all images.

    Raises:
        TypeError: (on access) items without an image, labels that are no integers, or texts that are no strings.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import DatasetSource
        >>> len(DatasetSource([(np.zeros((8, 8, 3), np.uint8), 0)] * 4, 'toy'))
        4
    """

    def __init__(self, dataset: Any, name: str | None = None, *, value_range: ValueRange | None = None) -> None:
        self.value_range = checked_range(value_range)
        self.dataset, self.name = dataset, name or type(dataset).__name__
        self.classes = [str(c) for c in getattr(dataset, "classes", [])]
        for key in ("targets", "labels"):
            listed = getattr(dataset, key, None)
            if listed is not None and len(listed) == len(dataset):
                self.labels = checked_labels(listed, len(dataset)).astype(np.int32)
                break

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        given = self.dataset[check_index(index, len(self))]
        name = self.name_of(index)
        if isinstance(given, Item):
            return given
        if isinstance(given, Mapping):
            image, label, text = (
                next((given[k] for k in keys if k in given), None) for keys in (IMAGES, LABELS, TEXTS)
            )
        elif isinstance(given, (tuple, list)):
            image, second = given[0], given[1] if len(given) > 1 else None
            label, text = (None, second) if isinstance(second, str) or _are_texts(second) else (second, None)
        else:
            image, label, text = given, None, None
            if image is None:
                raise TypeError(f"{name}: expected an image, an (image, label) pair or a mapping, got None")
        if image is None:
            raise TypeError(f"{name}: expected an item with one of {IMAGES}, got {sorted(given)}")
        several = image if isinstance(image, (tuple, list)) else [image]
        images = tuple(as_pixels(one, name, self.value_range) for one in several)
        known = None if label is None else _label(label, name)
        return Item(images=images, label=known, text=_text(text, name), name=name)

    @cached_property
    def content_key(self) -> str:
        return digest(self.fingerprint, os.urandom(16))  # what its items are is not known before they are read


def _label(given: Any, name: str) -> int:
    array = np.asarray(given)
    if array.size != 1 or array.dtype.kind not in "iub":
        raise TypeError(f"{name}: expected an integer as label, got {type(given).__name__} {str(given)[:40]}")
    return int(array.reshape(()))


def _are_texts(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and bool(given) and isinstance(given[0], str)


def _text(given: Any, name: str) -> str | None:
    if given is not None and not isinstance(given, str):
        remedy = ""
        if isinstance(given, (list, tuple)):
            remedy = (
                "; an item has one text: give an item for each caption of an image, or list them in a table "
                "(path,text) with a row for each, or in annotations of COCO"
            )
        raise TypeError(f"{name}: expected a string as text, got {type(given).__name__} {str(given)[:40]}{remedy}")
    return given


class HubSource(Source):
    """A Hugging Face data set with a column of images, and optionally of labels and of texts.

    Labels are of the type ``ClassLabel``; or, without one, integers or names in a column label, fine_label, labels
    or target, but for numbers that are no classes.

    Args:
        table: a ``datasets.Dataset``; a row with a list of texts is an item for each.
        name: name of the data set in logs and checkpoints.
        columns: "image", "label" or "text" -> the column of it, where it is not the first of its type; "score" -> the
            column of numbers to predict, in place of labels.
        value_range: as of :func:`fastssl.data.read_image`, of all images.

    Raises:
        ValueError: no column of images, a column of another type, labels and scores, or a score that is no number.
    """

    def __init__(
        self,
        table: Any,
        name: str,
        columns: Mapping[str, str] = MappingProxyType({}),
        *,
        value_range: ValueRange | None = None,
    ) -> None:
        import datasets

        self.value_range = checked_range(value_range)
        self.table, self.name = table, name
        kinds = table.features
        images = [column for column, kind in kinds.items() if isinstance(kind, datasets.Image)]
        if not images:
            raise ValueError(f"name: expected a column of images in {name!r}, got {kinds}")
        typed = [column for column, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
        plain = [column for column, kind in kinds.items() if isinstance(kind, datasets.Value)]
        self.image = columns.get("image", images[0])
        check_answers(name, columns)
        self.score = columns.get("score")
        self.label = columns.get("label", next((c for c in LABELS if c in typed), typed[0] if typed else None))
        self.label, measured = self.label if self.score is None else None, None
        if self.label is None and self.score is None and (found := first_column(plain, LABELS)) is not None:
            self.label, measured = (found, None) if fraction_among(table[found][:]) is None else (None, found)
        self.text = columns.get("text", next((c for c in TEXTS if c in kinds), None))
        chosen = {"image": self.image, "label": self.label, "text": self.text, "score": self.score}
        self.columns = described(chosen) + numbers_in(measured)
        self.rows, self.texts = np.arange(len(table)), None
        self.captions: Any = table.select_columns([] if self.text is None else [self.text])  # are read without images
        if self.text is not None and (isinstance(kinds[self.text], list) or hasattr(kinds[self.text], "feature")):
            several = captions_of(name, self.captions[self.text][:], self.text)
            self.rows = np.repeat(self.rows, [len(texts) for texts in several])
            self.texts = [text for texts in several for text in texts]
        answers = (("label", self.label, typed + plain), ("score", self.score, plain))
        for role, column, of in (("image", self.image, images), *answers):
            if column is not None and column not in of:
                raise ValueError(f"{role}: expected a column of {role}s ({', '.join(of)}) of {name!r}, got {column!r}")
        labels = None
        if self.label in typed:
            self.classes = list(kinds[self.label].names)
            labels = checked_labels(np.asarray(table[self.label]), len(table))
        elif self.label is not None:
            labels, self.classes = class_labels(table[self.label][:], lambda k: f"{name}: row {k}", self.label)
        labels = None if labels is None else labels.astype(np.int32)
        if self.score is not None:
            labels = scores_of(table[self.score][:], lambda k: f"{name}: row {k}")
        self.labels = None if labels is None else labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        row = self.table[int(self.rows[check_index(index, len(self))])]
        given = self.texts[index] if self.texts is not None else None if self.text is None else row[self.text]
        return Item(
            images=(as_pixels(row[self.image], self.name_of(index), self.value_range),),
            label=self.label_of(index),
            text=_text(given, self.name_of(index)),
            name=str(index),
        )

    def text_of(self, index: int) -> str | None:
        if self.texts is not None:
            return _text(self.texts[index], self.name_of(index))
        return None if self.text is None else _text(self.captions[index][self.text], self.name_of(index))

    def _all_texts(self) -> Sequence[Any] | None:
        return self.texts if self.texts is not None or self.text is None else self.captions[self.text][:]

    @property
    def without_text(self) -> np.ndarray | None:
        return empty_texts(self._all_texts(), len(self))

    @cached_property
    def fingerprint(self) -> str:
        return digest(super().fingerprint, *(text if text is None else str(text) for text in self._all_texts() or ()))

    @property
    def image_ids(self) -> np.ndarray | None:
        if self.texts is None:
            return None
        return np.searchsorted(self.rows, self.rows)  # of rows in ascending order, the first index of each

    @property
    def content_key(self) -> str:
        return digest(self.fingerprint, str(self.table._fingerprint))


def hub(
    path: str, options: Mapping[str, Any] = MappingProxyType({}), /, split: str | None = None, **columns: str
) -> dict[str, Source]:
    """The splits of a Hugging Face data set, saved on disk or by name: of images, or corpora.

    Args:
        path: a folder that ``save_to_disk`` has written, a folder of Parquet or Arrow files, a Parquet file, or a name.
        options: those of :class:`FileSource` for images that a folder or file lists by their paths; of images in it
            ``value_range`` alone.
        split: open this split alone, also one by its name in a column of splits.
        columns: "image", "text", "text_pair", "label" or "score" -> the column of it (in an object "translation.de"),
            where it is not found by its name or type; "name" -> the configuration to load; "path" and "images" as of
            :func:`fastssl.data.table`.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[datasets]``.
        ValueError: no such split, or a column neither of images nor of texts.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{path}: Parquet files and data sets of Hugging Face need the extra: pip install fastssl[datasets]"
        ) from error
    configuration, path = columns.pop("name", None), os.path.expanduser(path)
    if Path(path).is_file() and ending(path) != ".parquet":
        raise ValueError(
            f"data: expected a folder, a Parquet file or a name of a data set, got hf:{path}; tables of other "
            "kinds are opened by their own names"
        )
    try:
        if any((Path(path) / file).is_file() for file in SAVED):
            parts = datasets.load_from_disk(path)
        elif Path(path).is_file():
            parts = datasets.load_dataset("parquet", data_files=path)
        else:
            parts = datasets.load_dataset(path, configuration)
    except (OSError, ImportError):
        raise
    except Exception as error:  # the library and pyarrow raise errors of their own
        raise ValueError(f"data: hf:{path} cannot be read ({error})") from error
    tables: dict[str, Any] = dict(parts) if isinstance(parts, Mapping) else {"train": parts}
    if split is not None:
        tables = {split: _split(tables, split, path)}
    elif len(tables) == 1:
        tables = _divided(*tables.values()) or tables
    name, where = (Path(path).stem, path) if Path(path).is_file() else (Path(path).name, f"hf:{path}")
    made: dict[str, Source] = {}
    for key, table in tables.items():
        listed = path if Path(path).is_file() else os.path.join(path, key)
        of_paths = os.path.exists(path) and _lists_images(where, table, columns)
        made[key] = (
            listed_images(listed, table.to_list(), columns, None, **options)
            if of_paths
            else _read(table, name, columns, where, options.get("value_range"))
        )
        made[key].name = name
    return made


def _lists_images(where: str, table: Any, columns: Mapping[str, str]) -> bool:
    """Whether a table lists images by their paths: one that holds some, or other bytes, does if it is said so."""
    import datasets

    kinds = table.features
    if "path" not in columns and any(
        isinstance(kind, (datasets.Image, dict)) or _is_bytes(kind) for kind in kinds.values()
    ):
        return False
    strings = [name for name, kind in kinds.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    return lists_images(where, strings, columns, table.__getitem__)


def _split(tables: Mapping[str, Any], split: str, path: str) -> Any:
    """The rows of one split: those that a column of the only table says, or a table."""
    there = set(tables)
    if len(tables) == 1:  # which is called "train" even where it has all splits
        (table,) = tables.values()
        column = first_column(table.features, SPLITS)
        values = [] if column is None else table[column][:]
        if split in values:
            return table.select([k for k, value in enumerate(values) if value == split])
        there = set(map(str, values)) or there
    if split not in tables:
        raise ValueError(f"split: expected one of {path} ({', '.join(sorted(there))}), got {split!r}")
    return tables[split]


def _divided(table: Any) -> dict[str, Any] | None:
    """The parts of a table with a column of splits; None: it has none."""
    column = first_column(table.features, SPLITS)
    rows = None if column is None else split_rows(table[column][:])
    return None if rows is None else {part: table.select(own) for part, own in rows.items()}


def _encoded(kinds: Mapping[str, Any], image: str | None) -> list[str]:
    """The columns of images that are not typed so, as pandas and pyarrow write them: of a name of images, or the one
    that is given, of bytes, alone or with a path."""
    named = IMAGES if image is None else [image]
    found = first_column([name for name, kind in kinds.items() if _is_bytes(kind)], named)
    return [] if found is None else [found]


def _is_bytes(kind: Any) -> bool:
    pair = isinstance(kind, dict) and kind.keys() == {"bytes", "path"}
    return getattr(kind["bytes"] if pair else kind, "dtype", "") in ("binary", "large_binary")


def _read(
    table: Any, name: str, columns: Mapping[str, str], where: str, value_range: ValueRange | None = None
) -> Source:
    import datasets

    if not any(isinstance(kind, datasets.Image) for kind in table.features.values()):
        for column in _encoded(table.features, columns.get("image")):
            table = table.cast_column(column, datasets.Image())
    images = any(isinstance(kind, datasets.Image) for kind in table.features.values())
    if not images and any(isinstance(kind, (dict, datasets.Translation)) for kind in table.features.values()):
        table = table.flatten()  # the fields of objects are columns: "translation.de"
    known = ("image", "label", "text", "score") if images else ("text", "text_pair", "label", "score")
    check_options(columns, name, (*known, "name"))
    columns = {role: known_column(table.features, name, role, column) for role, column in columns.items()}
    if images:
        return HubSource(table, name, columns, value_range=value_range)
    return hub_corpus(table, name, columns, where)
