"""Lists of image files with labels and texts: CSV, TSV, JSON and JSON lines."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data.files import FileSource

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
PATHS, LABELS, TEXTS = (
    ("path", "file", "file_name", "filename", "image"),
    ("label", "class", "cls"),
    ("text", "caption"),
)


def table(path: str | Path, **options: Any) -> FileSource:
    """Returns the images that a table lists, relative to the table's folder.

    Args:
        path: of a ``.csv`` or ``.tsv`` file with a header, a ``.json`` file with a list of objects, or a ``.jsonl``
            file with an object a line. Columns: path (or file, file_name, image), label (or class) and text (or
            caption). Labels are integers or names; an empty one is not known.
        options: of :class:`FileSource`.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no rows, no column of paths, or a row without a path.
    """
    path = Path(path)
    rows = _rows(path)
    if not rows:
        raise ValueError(f"{path}: expected rows, found none")
    where, label, text = (next((k for k in names if k in rows[0]), None) for names in (PATHS, LABELS, TEXTS))
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
        path.stem,
        root=path.resolve().parent,
        texts=texts,
        **options,
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    content = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() in (".csv", ".tsv"):
        return list(csv.DictReader(content.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    try:
        if path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in content.splitlines() if line.strip()]
        else:
            rows = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected a list of objects, got {type(rows).__name__}")
    return rows


def _labels(given: list[Any]) -> tuple[np.ndarray | None, list[str]]:
    """Integers stay what they are, names are numbered in their order; -1 where there is none."""
    known = [str(value).strip() for value in given if value not in (None, "")]
    if not known:
        return None, []
    if all(value.lstrip("-").isdecimal() for value in known):
        labels = [-1 if value in (None, "") else int(value) for value in given]
        return np.array(labels), [str(k) for k in range(max(labels) + 1)]
    classes = sorted(set(known))
    number = {name: k for k, name in enumerate(classes)}
    return np.array([-1 if v in (None, "") else number[str(v).strip()] for v in given]), classes
