"""``text:PATH``: files and folders of texts and tables, with their training and test parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from fastssl.data.columns import check_options
from fastssl.data.corpus import Corpus
from fastssl.data.parts import PARTS, find_labelled, find_part
from fastssl.data.source import Source
from fastssl.data.storage import entries, is_folder, join, kind_of, name_of
from fastssl.data.tables import SUFFIXES as TABLES
from fastssl.data.tables import text_table
from fastssl.data.text_files import SUFFIXES, text_corpus

_OPTIONS: dict[Callable[..., Corpus], tuple[str, ...]] = {
    text_table: ("text", "text_pair", "label", "labels", "score", "split", "encoding", "errors"),
    text_corpus: ("suffix", "separator", "text", "text_pair", "label", "score", "encoding", "errors"),
}


def texts(place: str, part: str = "train", **options: str) -> Corpus:
    """Opens a file or folder of texts (:func:`text_corpus`), a table of them (:func:`text_table`), or a part of a
    folder that has both: ``train.csv`` and ``test.csv``, sub-folders ``train`` and ``test``. Of several test parts
    (``test``, ``dev``, ``valid``) the first with labels is taken, if the training part has some.

    Args:
        place: path or URL.
        part: "train" or "test".
        options: arguments of the two functions.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: an unknown option, or as of the two functions.
    """
    place = os.path.expanduser(place)
    names = text_parts(place)
    if names is None:
        return _open(place, {**options, "part": part} if _is_table(place) else options)
    opened = cache(lambda stem: _open(join(place, names[stem]), options))
    train, chosen = (opened(find_labelled(names, one, opened)) for one in ("train", part))
    if part != "train":
        number_alike(chosen, train.classes)
    chosen.name, chosen.part = name_of(place.rstrip("/")), part
    return chosen


def text_parts(place: str) -> dict[str, str] | None:
    """The files and folders of a folder by their names without suffixes, if there are a training and a test part."""
    if not is_folder(place):
        return None
    stems: dict[str, str] = {}
    for name, is_a_folder in sorted(entries(place).items()):
        if is_a_folder or kind_of(name) in {*SUFFIXES, *TABLES}:
            stems.setdefault(name if is_a_folder else name_of(name), name)
    return stems if all(find_part(stems, part) for part in PARTS) else None


def number_alike(test: Source, trained: Sequence[str]) -> None:
    """Numbers the classes of a test part as those of the training part; others of its own follow."""
    classes = [*trained, *sorted(set(test.classes) - set(trained))]
    if list(test.classes) == classes or test.labels is None:
        return
    number = {name: k for k, name in enumerate(classes)}
    if test.labels.ndim == 2:  # a column per class
        labels = np.full((len(test.labels), len(classes)), -1, test.labels.dtype)
        labels[(test.labels == 0).all(1)] = 0
        labels[:, [number[name] for name in test.classes]] = test.labels
        test.labels, test.classes = labels, classes
        return
    numbers = np.array([number[name] for name in test.classes] or [0], np.int32)
    test.labels = np.where(test.labels >= 0, numbers[test.labels], test.labels).astype(test.labels.dtype)
    test.classes = classes


def _open(place: str, options: dict[str, Any]) -> Corpus:
    reader: Callable[..., Corpus] = text_table if _is_table(place) else text_corpus
    check_options(set(options) - {"part"}, place, _OPTIONS[reader])
    return reader(place, **options)


def _is_table(place: str) -> bool:
    return kind_of(place) in TABLES and kind_of(place) != ".jsonl"
