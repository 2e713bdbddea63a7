"""Tables of image files with labels and texts, or of texts with labels: CSV, TSV, JSON and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data.corpus import Corpus
from fastssl.data.files import FileSource
from fastssl.data.storage import content, ending, is_url, name_of, parent

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
PATHS, LABELS, TEXTS = (
    ("path", "file", "file_name", "filename", "image"),
    ("label", "class", "cls"),
    ("text", "caption"),
)
SENTENCES = (*TEXTS, "sentence", "content", "document")  # of tables without images


def table(path: str | Path, **options: Any) -> FileSource:
    """Returns the images listed in a table, relative to the folder of the table.

    Args:
        path: path or URL of a ``.csv`` or ``.tsv`` file with a header, a ``.json`` file with a list of objects, or a
            ``.jsonl`` file with one object per line. Columns: path (or file, file_name, image), label (or class) and
            text (or caption). Labels are integers or names; an empty label is unknown.
        options: options of :class:`FileSource`.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no rows, no column of paths, or a row without a path.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp()) / 'cat' / '0.png'
        >>> path.parent.mkdir()
        >>> Image.new('RGB', (8, 8)).save(path)
        >>> from fastssl.data import table
        >>> listed = path.parent / 'listed.csv'
        >>> _ = listed.write_text('path,label\\n0.png,cat\\n')
        >>> len(table(listed))
        1
    """
    return _images(str(path), _rows(str(path)), **options)


def _images(path: str, rows: list[dict[str, Any]], **options: Any) -> FileSource:
    where, label, text = (_column(rows[0], names) for names in (PATHS, LABELS, TEXTS))
    if where is None:
        raise ValueError(f"{path}: expected a column of paths ({', '.join(PATHS)}), got {', '.join(map(str, rows[0]))}")
    for k, row in enumerate(rows):
        if not row.get(where):
            raise ValueError(f"{path}: row {k + 1} has no {where}")
    labels, classes = _labels([row.get(label) for row in rows]) if label else (None, [])
    texts = [str(row.get(text) or "") for row in rows] if text else None
    return FileSource(
        [str(row[where]) for row in rows],
        labels,
        classes,
        name_of(path),
        root=parent(path if is_url(path) else os.path.realpath(path)),
        texts=texts,
        **options,
    )


def text_table(path: str | Path) -> Corpus:
    """Returns the texts of a table, in memory, with their labels.

    Args:
        path: path or URL of a table as of :func:`table`. Columns: text (or sentence, content, document), and label (or
            class): integers or names; an empty label is unknown.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no rows, no column of texts, or a row whose text is no string.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import text_table
        >>> path = Path(tempfile.mkdtemp()) / 'reviews.csv'
        >>> _ = path.write_text('text,label\\nA joy.,good\\nA bore.,bad\\n')
        >>> text_table(path).classes
        ['bad', 'good']
    """
    return _texts(str(path), _rows(str(path)))


def _texts(path: str, rows: list[dict[str, Any]]) -> Corpus:
    text, label = _column(rows[0], SENTENCES), _column(rows[0], LABELS)
    if text is None:
        known = f"of texts ({', '.join(SENTENCES)}) or of paths ({', '.join(PATHS)})"
        raise ValueError(f"{path}: expected a column {known}, got {', '.join(map(str, rows[0]))}")
    for k, row in enumerate(rows):
        if not isinstance(row.get(text), str):
            raise ValueError(f"{path}: row {k + 1}: expected a string in column {text}, got {row.get(text)!r}")
    labels, classes = _labels([row.get(label) for row in rows]) if label else (None, [])
    return Corpus([row[text] for row in rows], name_of(path), labels=labels, classes=classes)


def open_table(path: str | Path, **options: Any) -> FileSource | Corpus:
    """The images that a table lists, or the texts of one without a column of paths."""
    rows = _rows(str(path))
    return _images(str(path), rows, **options) if _column(rows[0], PATHS) else _texts(str(path), rows)


def _column(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


def _rows(path: str) -> list[dict[str, Any]]:
    """The rows of a table, at least one."""
    text, kind = content(path).decode("utf-8-sig"), ending(path)
    try:
        if kind in (".csv", ".tsv"):  # whose fields may contain line breaks
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ",")
            rows: Any = list(reader)
        elif kind == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = json.loads(text)
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected a list of objects, got {type(rows).__name__}")
    if not rows:
        raise ValueError(f"{path}: expected rows, found none")
    return rows


def _labels(given: list[Any]) -> tuple[np.ndarray | None, list[str]]:
    """Labels from integers, or from names in sorted order; -1 if empty."""
    known = [str(value).strip() for value in given if value not in (None, "")]
    if not known:
        return None, []
    if all(value.lstrip("-").isdecimal() for value in known):
        labels = [-1 if value in (None, "") else int(value) for value in given]
        return np.array(labels), [str(k) for k in range(max(labels) + 1)]
    classes = sorted(set(known))
    number = {name: k for k, name in enumerate(classes)}
    return np.array([-1 if v in (None, "") else number[str(v).strip()] for v in given]), classes
