"""Data sets in memory, and which of their rows are trained on: tagged words, questions about texts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastssl.data.opening import open
from fastssl.data.pairs import part_file
from fastssl.data.questions import Questions, read_squad
from fastssl.data.storage import is_file, is_folder, name_of
from fastssl.data.tagged import Tagged, capitals, read_conll

CONLL = (".txt", ".conll", ".conllu", ".iob", ".iob2", ".bio", ".tsv")  # suffixes of files of tagged words
TRAIN = 0.8  # share of what has no parts


@dataclass
class IndexSplits:
    """Rows to train on and others to test on, of a data set in memory.

    Args:
        name: name of the data set.
        data: all rows, :class:`Tagged` or :class:`Questions`.
        train: indices of the training rows, int64 [N].
        test: indices of the test rows, int64 [M].

    Example:
        >>> import numpy as np
        >>> from fastssl.data import IndexSplits, Tagged
        >>> data = Tagged([["he", "spoke"], ["so"]], [["PRON", "VERB"], ["ADV"]])
        >>> splits = IndexSplits("toy", data, np.array([0]), np.array([1]))
    """

    name: str
    data: Any
    train: np.ndarray
    test: np.ndarray


def open_tagged(data: str) -> IndexSplits:
    """Opens sentences with tagged words as a training and a test part.

    Args:
        data: "conll:FILE" (:func:`read_conll`), split 80 to 20 at random; "conll:FOLDER" with ``train`` and ``test``
            (or ``dev``, ``valid``) in such files; "capitals:CORPUS", the capitalised words of any corpus
            (:func:`capitals`), split 80 to 20 by documents.

    Raises:
        ValueError: another name.
        FileNotFoundError: no such file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import open_tagged
        >>> file = Path(tempfile.mkdtemp()) / "names.conll"
        >>> _ = file.write_text("Lincoln B-PER\\nspoke O\\n\\n" * 10)
        >>> len(open_tagged(f"conll:{file}").train)
        8
    """
    kind, _, place = data.partition(":")
    if kind not in ("conll", "capitals") or not place:
        raise ValueError(f"data: expected conll:FILE, conll:FOLDER or capitals:CORPUS, got {data!r}")
    place = os.path.expanduser(place)  # which shells do only at the start of a word
    if kind == "capitals":
        corpus: Any = open(place)
        name, parts = corpus.name, [capitals(corpus, some) for some in _divided(len(corpus))]
    elif is_folder(place):
        name, parts = name_of(place), [read_conll(part_file(place, part, CONLL)) for part in ("train", "test")]
    else:
        whole = read_conll(_file(place))
        return IndexSplits(name_of(place), whole, *_divided(len(whole)))
    words, tags = ([*getattr(parts[0], side), *getattr(parts[1], side)] for side in ("words", "tags"))
    return _behind(name, len(parts[0]), Tagged(words, tags))


def open_questions(data: str) -> IndexSplits:
    """Opens questions about texts as a training and a test part.

    Args:
        data: "squad:FILE" (:func:`read_squad`), split 80 to 20 at random; "squad:FOLDER" with ``train-v1.1.json`` and
            ``dev-v1.1.json`` (or ``train.json``, ``dev.json``) in it.

    Raises:
        ValueError: another name.
        FileNotFoundError: no such file.

    Example:
        >>> from fastssl.data import open_questions
        >>> open_questions("squad")
        Traceback (most recent call last):
        ...
        ValueError: data: expected squad:FILE or squad:FOLDER, got 'squad'
    """
    kind, _, place = data.partition(":")
    if kind != "squad" or not place:
        raise ValueError(f"data: expected squad:FILE or squad:FOLDER, got {data!r}")
    place = os.path.expanduser(place)
    if not is_folder(place):
        whole = read_squad(_file(place))
        return IndexSplits(name_of(place), whole, *_divided(len(whole)))
    parts = [read_squad(part_file(place, part, (".json",))) for part in ("train", "test")]
    sides: Any = (
        [*getattr(parts[0], side), *getattr(parts[1], side)] for side in ("questions", "texts", "answers", "starts")
    )
    return _behind(name_of(place), len(parts[0]), Questions(*sides))


def _file(place: str) -> str:
    if not is_file(place):
        raise FileNotFoundError(f"data: no file or folder {place!r}")
    return place


def _divided(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and others, at random."""
    order = np.random.default_rng([11, 0]).permutation(count)
    cut = int(TRAIN * count)
    return np.sort(order[:cut]), np.sort(order[cut:])


def _behind(name: str, count: int, data: Tagged | Questions) -> IndexSplits:
    """``count`` rows to train on, then those to test on."""
    return IndexSplits(name, data, np.arange(count), np.arange(count, len(data)))
