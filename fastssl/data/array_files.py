"""Images in NumPy's files: ``.npy``, and ``.npz`` with labels and parts, such as MedMNIST's and Keras's."""

from __future__ import annotations

import io
import logging
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastssl.augment.images import CHANNELS
from fastssl.data.arrays import ArraySource
from fastssl.data.columns import check_options, find_column
from fastssl.data.files import FileSource
from fastssl.data.labels import numbered_labels
from fastssl.data.parts import PARTS
from fastssl.data.source import Source, as_array, checked_labels, checked_scores
from fastssl.data.storage import content, is_url, name_of, parent
from fastssl.data.value_range import ValueRange

log = logging.getLogger("fastssl")
IN_PARTS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))  # MedMNIST, Keras
WHOLE = (("images", "labels"), ("x", "y"))


def stack(place: str, **options: Any) -> Source:
    """A ``.npy`` file: images [N, H, W, C], memory-mapped, or one image [H, W, C].

    Args:
        place: path or URL.
        options: options of :class:`FileSource`; of a stack ``value_range`` alone.

    Raises:
        ValueError: no array.
    """
    try:
        if is_url(place):
            array = np.load(io.BytesIO(content(place)), allow_pickle=False)
        else:
            array = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"data: {place!r} cannot be read as an array ({error})") from error
    if array.ndim in (4, 5):
        return ArraySource(array, name=name_of(place), value_range=options.get("value_range"))
    if array.ndim == 3 and array.shape[-1] not in CHANNELS:
        log.warning(
            "data: %s, of shape %s, is one image [H, W, C]; grey images are saved as [N, H, W, 1]", place, array.shape
        )
    return FileSource([os.path.basename(place)], name=name_of(place), root=parent(place), **options)


def archive(place: str, part: str, given: Mapping[str, str], value_range: ValueRange | None = None) -> Source:
    """A ``.npz`` file, one of whose arrays is the images, and another one may be their labels: integers, or names.

    Without options these are its only array; "images" and "labels", or "x" and "y"; or those of the part,
    "train_images" and "train_labels" (MedMNIST), or "x_train" and "y_train" (Keras).

    Args:
        place: path or URL.
        part: "train" or "test", where it has both.
        given: "images", "labels" -> names of arrays.
        value_range: as of :class:`ArraySource`.

    Raises:
        ValueError: no such arrays, or none that can be read.
    """
    check_options(given, place, ("images", "labels"))
    try:
        arrays = np.load(io.BytesIO(content(place)), allow_pickle=False)
        names = list(getattr(arrays, "files", ()))
        wanted, of_part = (given, False) if given else _known(names, part)
        chosen = {role: arrays[name] for role, name in wanted.items() if name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"data: {place!r} cannot be read as arrays ({error})") from error
    if "images" not in chosen or len(chosen) < len(wanted):
        got = "".join(f", got {key}={name}" for key, name in given.items())
        raise ValueError(
            f"data: expected the array of images, and that of labels if there is one, as "
            f"{place}#images=NAME:labels=NAME, with names of {', '.join(names)}{got}"
        )
    source = ArraySource(chosen["images"], name=name_of(place), value_range=value_range)
    source.part = part if of_part else None
    return labelled(source, chosen["labels"]) if "labels" in chosen else source


def _known(names: list[str], part: str) -> tuple[dict[str, str], bool]:
    """The arrays of images and labels by their names, and whether they are of a part."""
    for forms in IN_PARTS:
        found = {own: _first(names, forms, PARTS[own]) for own in PARTS}
        if all(found.values()):
            return found[part], True
    if len(names) == 1:
        return {"images": names[0]}, False
    return next(filter(None, (_first(names, forms, ("",)) for forms in WHOLE)), {}), False


def _first(names: list[str], forms: tuple[str, str], parts: Iterable[str]) -> dict[str, str]:
    """The images, and their labels if there are any, of the first part that has images."""
    for part in parts:
        images, labels = (find_column(names, form.format(part)) for form in forms)
        if images is not None:
            return {"images": images, **({} if labels is None else {"labels": labels})}
    return {}


def scored(source: Source, scores: Any) -> Source:
    """The source with a number to predict per item."""
    source.labels = checked_scores(scores, len(source))
    return source


def labelled(source: Source, labels: Any) -> Source:
    """The source with labels, integers or names of classes."""
    given = as_array(labels)
    if given.ndim == 1 and given.dtype.kind in "UO":
        labels, source.classes = numbered_labels(given.tolist(), "labels[{}]".format)
        labels = np.full(len(given), -1) if labels is None else labels
    source.labels = checked_labels(labels, len(source))
    return source
