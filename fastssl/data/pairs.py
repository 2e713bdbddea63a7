"""Pairs of texts in files: translations, summaries, questions and answers."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fastssl.data.columns import PAIRS, find_column, spaced, with_inner
from fastssl.data.corpus import Corpus, GivenTexts, decoded, replaced
from fastssl.data.embedded_text import ParallelCorpus
from fastssl.data.parts import PARTS
from fastssl.data.storage import alternatives, entries, is_folder, is_url, join, kind_of, matching, name_of
from fastssl.data.tmx import SUFFIX as TMX
from fastssl.data.tmx import tmx_pairs

SUFFIXES = (".tsv", ".csv", ".jsonl", TMX)
EMPTY = "with an empty text"


def part_file(folder: str | Path, part: str, suffixes: tuple[str, ...]) -> str:
    """The file of a folder that holds a part of a data set: ``train.tsv`` and ``test.tsv`` (or dev, valid, ...), also
    as a piece of a name: ``train-v1.1.json``, ``en_ewt-ud-train.conllu``.

    Raises:
        FileNotFoundError: there is none.
    """
    there = {
        name: re.split(r"[-_.]", name.lower()) for name in sorted(entries(str(folder))) if kind_of(name) in suffixes
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
    """Reads pairs of texts from a file, one pair per line, or from two files of parallel lines.

    Pairs with an empty text are left out and counted in ``skipped``.

    Args:
        place: path or URL of a ``.tsv`` file (without quotes), a ``.csv`` file, or a ``.jsonl`` file of objects; or a
            folder with ``train`` and ``test`` (or ``dev``, ``valid``) in such files. Of two files of parallel lines
            (OPUS, Moses) both, the source first: "Books.de-en.{de,en}"; or a folder with ``train.de``, ``train.en``,
            ``test.de`` and ``test.en``. Or a translation memory (``.tmx``), without the codes of markup in its texts.
            All of them may be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zst``).
        part: "train" or "test", of a folder.
        source, target: the columns or keys of the two texts (in an object "translation.de"), or the endings of parallel
            files in a folder; None: "source" and "target", else a pair that :func:`text_table` knows by its names, or,
            in a table whose first line has none, its two columns, without a heading. Of a translation memory the
            languages; None: that of its heading (``srclang``) and the only other one.
        encoding: that of the file; a translation memory says its own.
        errors: "strict": bytes that are not of the encoding are an error; "replace": they become U+FFFD.

    Returns:
        A :class:`ParallelCorpus`. Reading a pair of ``.jsonl`` of which a text is missing, or no string, raises
        :class:`CorpusError`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line without both texts, files of different numbers of lines, a file of another kind, without
            pairs, or without a given column.

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
    given = source is not None or target is not None
    known = [(source or "source", target or "target"), *(() if given else PAIRS)]
    sides, skipped = _sides(file, part, known[0]), dict[str, int]()
    pairs: list[Any]
    if sides is not None:
        pairs = _parallel(sides, [_lines(side, encoding, errors) for side in sides])
    else:
        if is_folder(file):
            file = part_file(file, part, SUFFIXES)
        if kind_of(file) not in SUFFIXES:
            raise ValueError(
                f"pairs: expected a file with {', '.join(SUFFIXES)} (also compressed), got {file!r}; two files of "
                "parallel lines are 'pairs:x.{de,en}', the source first"
            )
        if kind_of(file) == TMX:
            if (encoding, errors) != ("utf-8", "strict"):
                raise ValueError(f"encoding, errors: expected none, {file!r} is XML, which says its encoding")
            pairs, skipped = tmx_pairs(file, source, target)
        elif kind_of(file) == ".jsonl":
            pairs = list(_objects(file, _lines(file, encoding, errors), known))
        else:
            pairs = list(_rows(file, _lines(file, encoding, errors), known, given))
    if errors == "replace":  # of bytes this is done, of escapes in JSON not
        pairs = [tuple(replaced(own) if isinstance(own, str) else own for own in pair) for pair in pairs]
    whole = [pair for pair in pairs if not any(isinstance(text, str) and not text.strip() for text in pair[1:])]
    if not whole:
        left = f" but {len(pairs):,} {EMPTY}" if pairs else ""
        raise ValueError(f"pairs: expected pairs of texts in {file!r}, there are none{left}")
    numbers, *both = zip(*whole)
    first, second = (
        GivenTexts(side, lambda k: f"{file}: line {numbers[k]}", f"as {role}") for side, role in zip(both, known[0])
    )
    made = ParallelCorpus(Corpus(first, name), Corpus(second, name))
    made.skipped = skipped | ({EMPTY: len(pairs) - len(whole)} if len(whole) < len(pairs) else {})
    return made


def _lines(file: str, encoding: str, errors: str) -> list[str]:
    return [line.rstrip("\r") for line in decoded(file, encoding, errors).split("\n")]


def _sides(place: str, part: str, endings: tuple[str, str]) -> list[str] | None:
    """The two files of parallel lines: those that a pattern names, or those of a part in a folder; None: it is one
    file, or a folder of such."""
    if is_folder(place):
        suffixes = [f".{side.lower()}" for side in endings]
        parallel = set(suffixes) & {kind_of(name) for name in entries(place)}
        return [part_file(place, part, (suffix,)) for suffix in suffixes] if parallel else None
    if matching(place) == [place]:
        return None
    sides = [matching(one) for one in alternatives(place)]
    if [len(files) for files in sides] != [1, 1]:  # which of the files that a "*" matches is the source is not known
        got = ", ".join(itertools.chain(*sides)) or "none"
        raise ValueError(
            "pairs: expected two files of parallel lines, the source first in braces (pairs:x.{de,en}), got "
            f"{place!r}, which matches {got}"
        )
    return list(itertools.chain(*sides))


def _parallel(files: list[str], sides: list[list[str]]) -> list[tuple[int, str, str]]:
    """The numbers and pairs of lines, without those of which both are empty."""
    counts = [len(lines) - (lines[-1] == "") for lines in sides]
    if counts[0] != counts[1]:
        both = " and ".join(f"{count:,} in {file!r}" for file, count in zip(files, counts))
        raise ValueError(f"pairs: expected as many lines in both files, got {both}")
    numbered = enumerate(zip(*sides), 1)
    return [(number, first, second) for number, (first, second) in numbered if first.strip() or second.strip()]


def _found(there: Iterable[str], known: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The columns of the first pair of names that are both there."""
    pairs = ((find_column(there, first), find_column(there, second)) for first, second in known)
    return next(((first, second) for first, second in pairs if first is not None and second is not None), None)


def _objects(file: str, lines: list[str], known: list[tuple[str, str]]) -> Iterator[tuple[int, Any, Any]]:
    keys: tuple[str, str] | None = None  # those of the object before, where one lacks a text
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}: line {number}: no JSON ({error})") from error
        found = with_inner(found) if isinstance(found, dict) else found
        keys = _found(found, known) or keys if isinstance(found, dict) else None
        if keys is None:
            kinds = {key: type(value).__name__ for key, value in found.items()} if isinstance(found, dict) else None
            got = kinds or type(found).__name__
            raise ValueError(f"{file}: line {number}: expected texts under the keys {', '.join(known[0])}, got {got}")
        yield number, found.get(keys[0]), found.get(keys[1])


def _rows(file: str, lines: list[str], known: list[tuple[str, str]], given: bool) -> Iterator[tuple[int, str, str]]:
    if kind_of(file) == ".csv":
        skip = spaced("\n".join(lines), ",")
        reader = csv.reader((line + "\n" for line in lines), skipinitialspace=skip)
        ends, rows = [0], []
        for row in reader:  # one within quotation marks may have several lines
            rows.append((ends[-1] + 1, row))
            ends.append(reader.line_num)
    else:
        rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1)]
    rows = [(number, row) for number, row in rows if any(row)]
    first = rows[0][1] if rows else []
    heading, wanted = _found(first, known), " and ".join(known[0])
    if given and heading is None:
        raise ValueError(f"{file}: expected a heading with {wanted}, got {first or 'no lines'}")
    places = [first.index(column) for column in heading] if heading else [0, 1]
    for number, row in rows[heading is not None :]:
        if len(row) <= max(places) or (heading is None and len(row) != 2):
            other = "" if heading else f", or a heading with {wanted}"
            remedy = "" if heading else "; others are named: #source=NAME:target=NAME"
            raise ValueError(f"{file}: line {number}: expected two columns of text{other}, got {len(row)}{remedy}")
        yield number, row[places[0]], row[places[1]]
