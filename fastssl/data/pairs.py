"""Pairs of texts in files: translations, summaries, questions and answers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastssl.data.columns import find_column
from fastssl.data.corpus import Corpus, decoded
from fastssl.data.embedded_text import ParallelCorpus
from fastssl.data.parts import PARTS
from fastssl.data.storage import ending, entries, is_folder, is_url, join, name_of

SUFFIXES = (".tsv", ".csv", ".jsonl")


def part_file(folder: str | Path, part: str, suffixes: tuple[str, ...]) -> str:
    """The file of a folder that holds a part of a data set: ``train.tsv`` and ``test.tsv`` (or dev, valid, ...), also
    as a piece of a name: ``train-v1.1.json``, ``en_ewt-ud-train.conllu``.

    Raises:
        FileNotFoundError: there is none.
    """
    there = {
        name: re.split(r"[-_.]", name.lower()) for name in sorted(entries(str(folder))) if ending(name) in suffixes
    }
    known = (name for wanted in PARTS[part] for name, pieces in there.items() if wanted in pieces)
    found = next(known, None)
    if found is None:
        wanted = " or ".join(f"{part}{suffix}" for suffix in suffixes)
        raise FileNotFoundError(f"data: expected {wanted} in {str(folder)!r}")
    return join(str(folder), found)


def text_pairs(
    place: str | Path,
    part: str = "train",
    *,
    source: str | None = None,
    target: str | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
) -> Any:
    """Reads pairs of texts from a file, one pair per line.

    Args:
        place: path or URL of a ``.tsv`` file (without quotes), a ``.csv`` file, or a ``.jsonl`` file of objects; or a
            folder with ``train`` and ``test`` (or ``dev``, ``valid``) in such files.
        part: "train" or "test", of a folder.
        source, target: the columns or keys of the two texts; None: "source" and "target", or, in a table whose first
            line names neither, its two columns, without a heading.
        encoding: that of the file.
        errors: "strict": bytes that are not of the encoding are an error; "replace": they become U+FFFD.

    Returns:
        A :class:`ParallelCorpus`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line without both texts, a file of another kind, without pairs, or without a given column.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import text_pairs
        >>> file = Path(tempfile.mkdtemp()) / "pairs.tsv"
        >>> _ = file.write_text("uno\\tone\\ndos\\ttwo\\n")
        >>> text_pairs(file).pair(1)
        ('dos', 'two')
    """
    file = str(place) if is_url(str(place)) else str(Path(place).expanduser())
    name = name_of(file)
    if is_folder(file):
        file = part_file(file, part, SUFFIXES)
    if ending(file) not in SUFFIXES:
        raise ValueError(f"pairs: expected a file with {', '.join(SUFFIXES)}, got {file!r}")
    columns = (source or "source", target or "target")
    lines = decoded(file, encoding, errors).split("\n")
    if ending(file) == ".jsonl":
        pairs = list(_objects(file, lines, columns))
    else:
        pairs = list(_rows(file, lines, columns, source is not None or target is not None))
    if not pairs:
        raise ValueError(f"pairs: expected pairs of texts in {file!r}, there are none")
    sources, targets = zip(*pairs)
    return ParallelCorpus(Corpus(list(sources), name), Corpus(list(targets), name))


def _objects(file: str, lines: list[str], columns: tuple[str, str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}: line {number}: no JSON ({error})") from error
        keys = [find_column(found, column) for column in columns] if isinstance(found, dict) else [None]
        texts = [None if key is None else found[key] for key in keys]
        if not all(isinstance(text, str) for text in texts):
            kinds = {key: type(value).__name__ for key, value in found.items()} if isinstance(found, dict) else None
            got = kinds or type(found).__name__
            raise ValueError(f"{file}: line {number}: expected texts under the keys {', '.join(columns)}, got {got}")
        yield str(texts[0]), str(texts[1])


def _rows(file: str, lines: list[str], columns: tuple[str, str], given: bool) -> Iterator[tuple[str, str]]:
    lines = [line.rstrip("\r") for line in lines]
    if ending(file) == ".csv":
        rows = list(csv.reader(line + "\n" for line in lines))
    else:
        rows = [line.split("\t") for line in lines]
    first = next((k for k, row in enumerate(rows) if any(row)), 0)
    heading = [find_column(rows[first], column) for column in columns] if rows else [None]
    named = None not in heading
    if given and not named:
        raise ValueError(
            f"{file}: expected a heading with {' and '.join(columns)}, got {rows[first] if rows else 'no lines'}"
        )
    places = [rows[first].index(str(column)) for column in heading] if named else [0, 1]
    for number, row in enumerate(rows[first + named :], first + named + 1):
        if not any(row):
            continue
        if len(row) <= max(places) or (not named and len(row) != 2):
            other = "" if named else f", or a heading with {' and '.join(columns)}"
            raise ValueError(f"{file}: line {number}: expected two columns of text{other}, got {len(row)}")
        yield row[places[0]], row[places[1]]
