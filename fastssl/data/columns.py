"""The columns of a table: which hold paths, texts, labels and scores, by their names or as the user names them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PATHS, LABELS, SCORES, TEXTS = (
    ("path", "file", "file_name", "filename", "image"),
    ("label", "labels", "class", "cls", "gold_label"),
    ("score", "scores", "similarity", "similarity_score"),
    ("text", "caption"),
)
SENTENCES = (*TEXTS, "sentence", "content", "document")  # of tables without images
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
        known = ((role, getattr(self, role)) for role in ("text", "text_pair", "label", "score"))
        return ", ".join(f"{role} from column {column!r}" for role, column in known if column is not None)


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
    for role, column in chosen.items():
        known_column(columns, where, role, column)
    if chosen.get("label") is not None and chosen.get("score") is not None:
        both = f"label={chosen['label']} and score={chosen['score']}"
        raise ValueError(f"{where}: expected a column of labels or of scores, got {both}")
    pair = next((pair for pair in PAIRS if set(pair) <= set(columns)), None)
    text, second = chosen.get("text"), chosen.get("text_pair")
    if text is None and second is None and pair is not None:
        text, second = pair
    elif text is None:
        text = next((name for name in SENTENCES if name in columns and name != second), None)
    if text is None:
        known = f"of texts ({', '.join(SENTENCES)}) or of paths ({', '.join(PATHS)})"
        raise ValueError(
            f"{where}: expected a column {known}, got {', '.join(columns)}; texts in another one: {where}#text=NAME"
        )
    label, score = chosen.get("label"), chosen.get("score")
    if label is None and score is None:
        free = [name for name in columns if name not in (text, second)]
        label = next((name for name in LABELS if name in free), None)
        score = next((name for name in SCORES if name in free), None) if label is None else None
    return TextColumns(text, second, label, score)


def known_column(columns: Iterable[str], where: str, role: str, column: str) -> str:
    """``column``, if the table has it.

    Raises:
        ValueError: it has not.
    """
    columns = list(columns)
    if column not in columns:
        raise ValueError(f"{role}: expected a column of {where} ({', '.join(columns)}), got {column!r}")
    return column


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
    """A name of data and the options behind it: ``reviews.csv#text=review:label=stars``. A file that has the whole name
    has no options.

    Raises:
        ValueError: an option without a value, or one that is there twice.

    Example:
        >>> from fastssl.data.columns import split_options
        >>> split_options("text:reviews.jsonl#text=review:label=stars")
        ('text:reviews.jsonl', {'text': 'review', 'label': 'stars'})
    """
    place, mark, given = name.rpartition("#")
    if not mark or "=" not in given or os.path.exists(name) or os.path.exists(name.partition(":")[2]):
        return name, {}
    options: dict[str, str] = {}
    for option in given.split(":"):
        key, equals, value = option.partition("=")
        if not equals or not key or not value:
            raise ValueError(f"data: expected options as {place}#text=COLUMN:label=COLUMN, got {name!r}")
        if key in options:
            raise ValueError(f"data: expected one {key}, got two in {name!r}")
        options[key] = value
    return place, options
