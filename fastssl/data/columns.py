"""The columns of a table: which hold paths, texts, labels and scores, by their names or as the user names them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PATHS, LABELS, SCORES, TEXTS = (
    ("path", "file", "file_name", "filename", "image", "filepath", "image_name"),
    ("label", "labels", "class", "cls", "gold_label", "target"),
    ("score", "scores", "similarity", "similarity_score"),
    ("text", "caption"),
)
# Of images. filepath and title: open_clip; image_name and comment: Flickr30k; raw: its lists on Hugging Face.
CAPTIONS = (*TEXTS, "title", "comment", "captions", "raw")
URLS = ("url", "image_url", "img_url", "image_link")  # of images, as LAION's; of texts those of their pages
SENTENCES = (*TEXTS, "sentence", "content", "document")  # of tables without images
MESSAGES = ("messages", "conversations", "conversation")  # of chats
PAIRS = (
    ("text", "text_pair"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("source", "target"),
)


class NoTextsError(ValueError):
    """A table without a known column of texts or of paths."""


def path_column(columns: Iterable[str]) -> str:
    """What an error names as the column of paths: the one that is called as if it had them, or NAME."""
    found = [column for column in columns if re.search(r"image|img|photo|picture|file", column, re.IGNORECASE)]
    return found[0] if len(found) == 1 else "NAME"


@dataclass(frozen=True)
class TextColumns:
    """The columns of a table of texts.

    Args:
        text: that of the texts.
        text_pair: that of the second text of each pair.
        label: that of the classes.
        score: that of the numbers to predict.
    """

    text: str
    text_pair: str | None = None
    label: str | None = None
    score: str | None = None

    def __str__(self) -> str:
        return described({role: getattr(self, role) for role in ("text", "text_pair", "label", "score")})


def described(columns: Mapping[str, str | None]) -> str:
    """A line that says which column each role is read from."""
    return ", ".join(f"{role} from column {column!r}" for role, column in columns.items() if column is not None)


def numbers_in(column: str | None) -> str:
    """The rest of the line where a column called as one of classes has fractions."""
    return "" if column is None else f", the numbers in {column!r} are no classes: #score={column} predicts them"


def text_columns(there: Iterable[str], where: str, given: Mapping[str, str | None]) -> TextColumns:
    """The columns of texts, second texts, labels and scores of a table.

    Args:
        there: the columns of the table.
        where: name of the table in errors.
        given: "text", "text_pair", "label" or "score" -> the column of it, where it is not known by its name; None as
            if it were absent.

    Raises:
        ValueError: no column of texts, a given column that is not there, or a label and a score.

    Example:
        >>> from fastssl.data.columns import text_columns
        >>> text_columns(["premise", "hypothesis", "stars"], "nli.csv", {"label": "stars"})
        TextColumns(text='premise', text_pair='hypothesis', label='stars', score=None)
    """
    columns = list(there)
    chosen = {role: column for role, column in given.items() if column is not None}
    chosen = {role: known_column(columns, where, role, column) for role, column in chosen.items()}
    check_answers(where, chosen)
    text, second = chosen.get("text"), chosen.get("text_pair")
    if text is None and second is None:
        pairs = ((find_column(columns, first), find_column(columns, other)) for first, other in PAIRS)
        text, second = next((pair for pair in pairs if None not in pair), (None, None))
    if text is None:
        text = first_column([name for name in columns if name != second], (*SENTENCES, *MESSAGES))
    if text is None and first_column(columns, PATHS) is not None:
        raise ValueError(
            f"{where}: expected a column of texts ({', '.join(SENTENCES)}), got {', '.join(columns)}; images by their "
            "paths are read from .csv, .tsv, .jsonl, .json and .parquet files"
        )
    if text is None:
        known = f"of texts ({', '.join((*SENTENCES, *MESSAGES))}) or of paths ({', '.join(PATHS)})"
        unnamed = f"; two columns of texts without a first row of names are pairs:{where}" * (len(columns) == 2)
        raise NoTextsError(
            f"{where}: expected a column {known}, got {', '.join(columns) or 'none'}; others are named: "
            f"{where}#text=NAME, of pairs #text=NAME:text_pair=NAME, of images #path={path_column(columns)}{unnamed}"
        )
    label, score = chosen.get("label"), chosen.get("score")
    if label is None and score is None:
        free = [name for name in columns if name not in (text, second)]
        label = first_column(free, LABELS)
        score = first_column(free, SCORES) if label is None else None
    return TextColumns(text, second, label, score)


def check_answers(where: str, given: Mapping[str, str | None]) -> None:
    """Checks that a table is asked for classes, several of them per row, or numbers to predict.

    Raises:
        ValueError: for more than one of these.
    """
    asked = [f"{role}={given[role]}" for role in ("label", "labels", "score") if given.get(role) is not None]
    if len(asked) > 1:
        raise ValueError(f"{where}: expected a column of labels or of scores, got {' and '.join(asked)}")


def known_column(columns: Iterable[str], where: str, role: str, column: str) -> str:
    """The column called ``column`` (:func:`find_column`).

    Raises:
        ValueError: the table has none, or several in other cases.
    """
    columns = list(columns)
    found = find_column(columns, column)
    if found is None:
        raise ValueError(f"{role}: expected a column of {where} ({', '.join(columns)}), got {column!r}")
    return found


def find_column(columns: Iterable[str], name: str) -> str | None:
    """The column called ``name``: of exactly this name, else of the same characters in Unicode's composed form (NFC),
    else the only one of this name in another case.

    Example:
        >>> from fastssl.data.columns import find_column
        >>> find_column(["Text", "Größe"], "GRÖSSE"), find_column(["Text", "TEXT"], "text")
        ('Größe', None)
    """
    columns = list(columns)
    for form in (str, _composed, _folded):
        found = [column for column in columns if form(column) == form(name)]
        if len(found) == 1:
            return found[0]
    return None


def first_column(columns: Iterable[str], names: Iterable[str]) -> str | None:
    """The column of the first of the names that has one (:func:`find_column`)."""
    columns = list(columns)
    return next((found for name in names if (found := find_column(columns, name)) is not None), None)


def spaced(text: str, mark: str) -> bool:
    """Whether there are spaces between a separator of fields and a quotation mark, which is part of the field unless
    they are skipped."""
    return re.search(rf"{re.escape(mark)} +\"", text) is not None


def with_inner(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the fields of the objects in it, which are columns of their own.

    Example:
        >>> from fastssl.data.columns import with_inner
        >>> list(with_inner({"id": 1, "translation": {"de": "eins", "en": "one"}}))
        ['id', 'translation', 'translation.de', 'translation.en']
    """
    inner = {
        f"{name}.{key}": value
        for name, own in row.items()
        if isinstance(own, Mapping)
        for key, value in with_inner(own).items()
    }
    return {**row, **{name: value for name, value in inner.items() if name not in row}}


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def check_options(given: Iterable[str], where: str, known: Iterable[str]) -> None:
    """Checks the options behind a name of data.

    Raises:
        ValueError: one that ``where`` does not have.
    """
    known = list(known)
    other = next((name for name in given if name not in known), None)
    if other is not None:
        raise ValueError(f"data: expected options {', '.join(known)} of {where}, got {other!r}")


def split_options(name: str) -> tuple[str, dict[str, str]]:
    r"""A name of data and the options behind it: ``reviews.csv#text=review:label=stars``. A ":" or "#" of a column
    stands behind a backslash. A file that has the whole name has no options.

    Raises:
        ValueError: an option without a value, or one that is there twice.

    Example:
        >>> from fastssl.data.columns import split_options
        >>> split_options("text:reviews.jsonl#text=review:label=stars")
        ('text:reviews.jsonl', {'text': 'review', 'label': 'stars'})
        >>> split_options(r"a.csv#text=title\: long")
        ('a.csv', {'text': 'title: long'})
    """
    *before, given = re.split(r"(?<!\\)#", name)
    place = name[: -len(given) - 1]
    if not before or "=" not in given or os.path.exists(name) or os.path.exists(name.partition(":")[2]):
        return name, {}
    options: dict[str, str] = {}
    for option in re.split(r"(?<!\\):", given):
        key, equals, value = option.partition("=")
        if not equals or not key or not value:
            raise ValueError(f"data: expected options as {place}#text=COLUMN:label=COLUMN, got {name!r}")
        if key in options:
            raise ValueError(f"data: expected one {key}, got two in {name!r}")
        options[key] = re.sub(r"\\([:#])", r"\1", value)
    return place, options
