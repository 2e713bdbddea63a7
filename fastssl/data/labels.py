"""Labels as files give them: integers or names of classes."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastssl._words import amount
from fastssl.data.columns import TextColumns

log = logging.getLogger("fastssl")
UNKNOWN = -1
_INTEGER = re.compile(r"[+-]?[0-9]+(\.0+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_MISSING = ("na", "n/a", "nan", "null", "none")  # what pandas and spreadsheets write into empty cells
_COUNTED = 1_000_000  # integers from here on are names (ids): classes are not counted up to them


def numbered_labels(given: Sequence[Any], where: Callable[[int], str]) -> tuple[np.ndarray | None, list[str]]:
    """Numbers of classes and their names.

    Args:
        given: for each item an integer, a name, or what is unknown: None, NaN, white space, -1. Integers are numbers of
            classes; where one is 1,000,000 or more, or no integer, all are names, numbered in their order. Names
            such as "NA" and "nan" are classes as others are, with a warning.
        where: a name for item k in errors.

    Returns:
        int64 [N], -1 where unknown, and the names; (None, []) if all are unknown.

    Raises:
        ValueError: a label of another kind, or a negative one other than -1.

    Example:
        >>> from fastssl.data.labels import numbered_labels
        >>> numbered_labels(["cat", "", "ant"], str)
        (array([ 1, -1,  0]), ['ant', 'cat'])
    """
    if all(value is None for value in given):
        return None, []
    texts = [_text(value, where, k) for k, value in enumerate(given)]
    known = [text for text in texts if text]
    integers = all(map(_INTEGER.fullmatch, known))
    if integers:
        texts = [text and str(int(text.partition(".")[0])) for text in texts]
        wrong = next((k for k, text in enumerate(texts) if text[:1] == "-" and text != str(UNKNOWN)), None)
        if wrong is not None:
            raise ValueError(
                f"{where(wrong)}: expected a label of 0 and more, a name, or -1 if unknown, got {texts[wrong]}"
            )
    texts = ["" if text == str(UNKNOWN) else text for text in texts]
    known = [text for text in texts if text]
    if not known:
        return None, []
    names = sorted(set(known), key=int) if integers else sorted(set(known))
    missing = Counter(text for text in known if text.lower() in _MISSING)
    if missing:
        counts = ", ".join(f"{name!r} ({amount(count, 'item')})" for name, count in sorted(missing.items()))
        first = where(next(k for k, text in enumerate(texts) if text in missing))
        log.warning("%s and others: labels %s are classes; cells of unknown labels are left empty", first, counts)
    if integers and int(names[-1]) < _COUNTED:
        names = [str(k) for k in range(int(names[-1]) + 1)]
    number = {name: k for k, name in enumerate(names)}
    return np.array([number[text] if text else UNKNOWN for text in texts], dtype=np.int64), names


def labels_of(
    columns: TextColumns, rows: Sequence[Mapping[str, Any]], where: Callable[[int], str]
) -> tuple[np.ndarray | None, list[str]]:
    """Numbers of classes and their names, or scores (float64, NaN where unknown) and no names, of rows of a table.

    Args:
        columns: their columns.
        rows: a mapping per item.
        where: a name for item k in errors.

    Raises:
        ValueError: a label that is a fraction or of another kind, or a score that is no number.

    Example:
        >>> from fastssl.data.columns import TextColumns
        >>> from fastssl.data.labels import labels_of
        >>> labels_of(TextColumns("text", score="stars"), [{"stars": "4.5"}, {"stars": ""}], str)
        (array([4.5, nan]), [])
    """
    if columns.score is not None:
        return scores_of([row.get(columns.score) for row in rows], where), []
    if columns.label is None:
        return None, []
    given = [row.get(columns.label) for row in rows]
    known = [value for value in given if value not in (None, "")]
    if known and all(isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()) for value in known):
        remedy = f"{_named(columns.label)}, with a point as decimal mark"
        raise _no_classes(given, known[0], where, columns.label, remedy)
    return class_labels(given, where, columns.label)


def listed_labels(given: Sequence[Any], where: Callable[[int], str]) -> tuple[np.ndarray | None, list[str]]:
    """Several classes per item, int64 [N, classes] of -1 (absent), 0 (unknown) and 1, of a list of them for each, and
    their names; (None, []) if all are unknown.

    Args:
        given: for each item a list of integers or of names (:func:`numbered_labels`), or None, which is unknown.
        where: a name for item k in errors.

    Raises:
        ValueError: something else, or lists with fewer than two classes in all.

    Example:
        >>> from fastssl.data.labels import listed_labels
        >>> labels, classes = listed_labels([["joy", "fear"], [], None], str)
        >>> labels.tolist(), classes
        ([[1, 1], [-1, -1], [0, 0]], ['fear', 'joy'])
    """
    rows: list[list[Any]] = []
    for k, own in enumerate(given):
        if not (own is None or isinstance(own, (list, tuple))) or any(value in (None, "") for value in own or ()):
            raise ValueError(f"{where(k)}: expected a list of classes, as other items have, or null, got {own!r}")
        rows.append(list(own or ()))
    items = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    numbers, classes = numbered_labels([value for own in rows for value in own], lambda k: where(int(items[k])))
    if numbers is None or (numbers < 0).any():
        raise ValueError(f"{where(0)} and others: expected lists of classes, got none in them, or -1")
    if len(classes) < 2:
        raise ValueError(f"{where(0)} and others: expected lists of several classes, got {classes[0]!r} alone in them")
    labels = np.full((len(rows), len(classes)), -1, np.int64)
    labels[[own is None for own in given]] = 0
    labels[items, numbers] = 1
    return labels, classes


def several_labels(columns: Mapping[str, Sequence[Any]], where: Callable[[int], str]) -> np.ndarray:
    """Several classes per item, int64 [N, classes] of -1 (absent), 0 (unknown) and 1, of a column for each.

    Args:
        columns: name of a class -> for each item 1 or 0 (or 1 or -1), or what is unknown: None, white space.
        where: a name for item k in errors.

    Raises:
        ValueError: another value, both 0 and -1, or unknown ones where none is absent, as if an empty cell said so.

    Example:
        >>> from fastssl.data.labels import several_labels
        >>> several_labels({"cat": ["1", "0"], "dog": ["", "1.0"]}, str).tolist()
        [[1, 0], [-1, 1]]
    """

    def value(given: Any, k: int, column: str) -> float:
        text = _text(given, where, k)
        if text and not (_INTEGER.fullmatch(text) and int(text.partition(".")[0]) in (-1, 0, 1)):
            raise ValueError(
                f"{where(k)}: expected 1, 0 (or -1) or an empty cell (unknown) of a class in column {column!r}, got "
                f"{text!r}"
            )
        return int(text.partition(".")[0]) if text else math.nan

    read = np.array([[value(given, k, column) for k, given in enumerate(own)] for column, own in columns.items()]).T
    absent = [sign for sign in (0, -1) if (read == sign).any()]
    if len(absent) > 1:
        raise ValueError(f"labels: expected 0 or -1 where a class is absent, got both in columns {', '.join(columns)}")
    if not absent and np.isnan(read).any():
        raise ValueError(
            "labels: expected 0 where a class is absent, as an empty cell is unknown, in columns "
            f"{', '.join(columns)}; there are only 1 and empty cells"
        )
    return np.where(np.isnan(read), 0, np.where(read == 1, 1, -1)).astype(np.int64)


def scores_of(given: Sequence[Any], where: Callable[[int], str]) -> np.ndarray | None:
    """Numbers to predict, float64 [N], NaN where unknown; None if all are.

    Args:
        given: for each item a number, or what is unknown: None, NaN, white space.
        where: a name for item k in errors.

    Raises:
        ValueError: one that is no number, or infinite.
    """
    scores = np.array([_score(value, where, k) for k, value in enumerate(given)], np.float64)
    return None if np.isnan(scores).all() else scores


def _named(column: str) -> str:
    return f"numbers to predict are named as such: #score={column}"


def class_labels(
    given: Sequence[Any], where: Callable[[int], str], column: str, remedy: str | None = None
) -> tuple[np.ndarray | None, list[str]]:
    """:func:`numbered_labels` of a column of a table, of lists :func:`listed_labels`; fractions are no names of classes
    if all are numbers.

    Args:
        given: as of :func:`numbered_labels`.
        where: a name for item k in errors.
        column: name of the column.
        remedy: for fractions, the end of the error; None: how a column of numbers is named.

    Raises:
        ValueError: a label that is a fraction, or as of :func:`numbered_labels`.
    """
    if isinstance(next((value for value in given if value is not None), None), (list, tuple)):
        return listed_labels(given, where)
    remedy = _named(column) if remedy is None else remedy
    fraction = fraction_among(given)
    if fraction is not None:
        raise _no_classes(given, fraction, where, column, remedy)
    return numbered_labels(given, where)


def fraction_among(given: Sequence[Any]) -> Any:
    """The first fraction of values that are all numbers, or empty; else None."""
    fraction = next((value for value in given if _is_fraction(value)), None)
    return fraction if all(_is_number(value) for value in given if value not in (None, "")) else None


def _no_classes(given: Sequence[Any], one: Any, where: Callable[[int], str], column: str, remedy: str) -> ValueError:
    return ValueError(f"{where(given.index(one))}: expected classes in column {column!r}, got {one!r}; {remedy}")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and math.isfinite(float(value)) and not float(value).is_integer()


def _score(value: Any, where: Callable[[int], str], k: int) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    if isinstance(value, bool) or not _is_number(value) or math.isinf(float(value)):
        comma = isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip())
        remedy = "; the decimal mark is a point" if comma else ""
        raise ValueError(f"{where(k)}: expected a finite number as score, got {value!r}{remedy}")
    return float(value)


def _text(value: Any, where: Callable[[int], str], k: int) -> str:
    """A label as text, "" if unknown."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not value.is_integer()):
        several = isinstance(value, (list, tuple, np.ndarray))
        remedy = "; several classes per item are a column of 0 and 1 for each: #labels={cat,dog}" if several else ""
        raise ValueError(f"{where(k)}: expected an integer or a name as label, got {value!r}{remedy}")
    return str(value).strip()
