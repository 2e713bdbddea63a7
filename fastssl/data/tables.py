"""Tables of image files with labels and texts, or of texts with labels: CSV, TSV, JSON and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data.corpus import Corpus, conversion
from fastssl.data.files import FileSource
from fastssl.data.labels import numbered_labels
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
            text (or caption). Names of columns in any case. Labels are integers or names; an empty label
            is unknown.
        options: options of :class:`FileSource`.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no rows, no column of paths, a row without a path, or with more fields than the heading; bytes that
            are no UTF-8.

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
    columns = _columns(rows)
    where, label, text = (_column(columns, names) for names in (PATHS, LABELS, TEXTS))
    if where is None:
        raise ValueError(f"{path}: expected a column of paths ({', '.join(PATHS)}), got {', '.join(columns)}")
    for k, row in enumerate(rows):
        if not row.get(where):
            raise ValueError(f"{path}: row {k + 1} has no {where}")
    labels, classes = _labels(path, rows, label)
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
    columns = _columns(rows)
    text, label = _column(columns, SENTENCES), _column(columns, LABELS)
    if text is None:
        known = f"of texts ({', '.join(SENTENCES)}) or of paths ({', '.join(PATHS)})"
        raise ValueError(f"{path}: expected a column {known}, got {', '.join(columns)}")
    for k, row in enumerate(rows):
        if not isinstance(row.get(text), str):
            raise ValueError(f"{path}: row {k + 1}: expected a string in column {text}, got {row.get(text)!r}")
    labels, classes = _labels(path, rows, label)
    return Corpus([row[text] for row in rows], name_of(path), labels=labels, classes=classes)


def open_table(path: str | Path, **options: Any) -> FileSource | Corpus:
    """The images that a table lists, or the texts of one without a column of paths."""
    rows = _rows(str(path))
    where, text = (_column(_columns(rows), names) for names in (PATHS, SENTENCES))
    images = where is not None and (text is None or any(row.get(where) for row in rows))
    return _images(str(path), rows, **options) if images else _texts(str(path), rows)


def _columns(rows: list[dict[str, Any]]) -> dict[str, None]:
    """The columns of a table, in the order in which rows name them."""
    return {name: None for row in rows for name in row}


def _column(columns: dict[str, None], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)


def _labels(path: str, rows: list[dict[str, Any]], column: str | None) -> tuple[np.ndarray | None, list[str]]:
    if column is None:
        return None, []
    return numbered_labels([row.get(column) for row in rows], lambda k: f"{path}: row {k + 1}")


def _rows(path: str) -> list[dict[str, Any]]:
    """The rows of a table, at least one; names of columns in lower case."""
    kind = ending(path)
    try:
        text = content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is no UTF-8; {conversion(error.object)}") from error
    try:
        if kind in (".csv", ".tsv"):
            rows: Any = _fields(path, text, kind)
        elif kind == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = json.loads(text)
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected a list of objects, got {type(rows).__name__}")
    if not rows:
        raise ValueError(f"{path}: expected rows, found none")
    made = [{str(name).strip().lower(): value for name, value in row.items()} for row in rows]
    twice = next((row for row, lower in zip(rows, made) if len(lower) < len(row)), None)
    if twice is not None:
        raise ValueError(f"{path}: expected columns of different names, got {', '.join(map(repr, twice))}")
    return made


def _fields(path: str, text: str, kind: str) -> list[dict[str, Any]]:
    """Rows of a file with a heading, whose fields may contain line breaks in quotation marks. Where those of a ``.tsv``
    file do not enclose whole fields they are characters like others."""
    csv.field_size_limit(2**31 - 1)  # 128 KiB by default

    def read(**how: Any) -> list[dict[str, Any]]:
        return list(csv.DictReader(io.StringIO(text, newline=""), **how))

    if kind == ".csv":
        rows = read()
    else:
        try:
            rows = read(delimiter="\t", strict=True)
        except csv.Error:
            rows = read(delimiter="\t", quoting=csv.QUOTE_NONE)
    for k, row in enumerate(rows):
        if None in row:
            surplus: Any = row[None]  # type: ignore[index]
            raise ValueError(
                f"{path}: row {k + 1}: expected {len(row) - 1} fields, got {len(row) - 1 + len(surplus)}; a field that "
                "contains the separator stands in quotation marks"
            )
        if kind == ".tsv" and any(isinstance(value, str) and "\t" in value for value in row.values()):
            raise ValueError(f"{path}: row {k + 1}: a field in quotation marks contains a tab; save the table as .csv")
    return rows
