"""Corpora of files: text, JSON lines, folders of them, text8, WikiText; and of Hugging Face data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data.corpus import Corpus, CorpusError, Numbered, _Strings, conversion
from fastssl.data.source import digest
from fastssl.data.storage import Files, checksum, ending, entries, is_file, is_folder, join, name_of, open_file

SUFFIXES = (".txt", ".jsonl")
SEPARATORS = ("blank-line", "line", "file")
_BLOCK = 4 * 2**20  # bytes per read of an index
_TEXT8_BYTES = 60_000  # per document: about 10,000 words
_BOM = b"\xef\xbb\xbf"


class FileTexts(_Strings):
    """Texts that are byte ranges of files.

    Args:
        places: paths or URLs.
        numbers: [N] number of the file of each text.
        begins, ends: [N] its bytes.
        key: the texts are under this key of JSON objects; None: they are the bytes themselves.
        errors: "strict", or "replace" for U+FFFD in place of bytes that are no UTF-8.
    """

    def __init__(
        self,
        places: list[str],
        numbers: np.ndarray,
        begins: np.ndarray,
        ends: np.ndarray,
        key: str | None = None,
        errors: str = "strict",
    ) -> None:
        self.files, self.numbers, self.begins, self.ends = Files(places), numbers, begins, ends
        self.key, self.errors = key, errors

    def __len__(self) -> int:
        return len(self.begins)

    def _make(self, index: int) -> str:
        number, begin, end = (int(array[index]) for array in (self.numbers, self.begins, self.ends))
        file = self.files[number]
        raw = file.read(begin, end - begin)
        if len(raw) != end - begin:
            raise CorpusError(
                f"{file.place}: expected bytes {begin} to {end}, it has {file.size}: the file has changed"
            )
        try:
            text = raw.decode("utf-8", self.errors)
        except UnicodeDecodeError as error:
            start = file.read(0, 2) if begin else raw
            raise CorpusError(
                f"{file.place}: byte {begin + error.start} ({raw[error.start]:#04x}) is no UTF-8; {conversion(start)}, "
                "or read it from Python: text_corpus(..., errors='replace')"
            ) from error
        return text.removeprefix("\ufeff") if self.key is None else self._value(text, f"{file.place}: byte {begin}")

    def _value(self, line: str, where: str) -> str:
        try:
            found = json.loads(line.removeprefix("\ufeff"))
        except json.JSONDecodeError as error:
            raise CorpusError(f"{where}: expected a JSON object per line ({error})") from error
        if not isinstance(found, dict) or self.key not in found:
            keys = sorted(found) if isinstance(found, dict) else type(found).__name__
            raise CorpusError(f"{where}: expected a string under the key {self.key!r}, got {keys}")
        value = found[self.key]
        if not isinstance(value, str):
            raise CorpusError(f"{where}: expected a string under the key {self.key!r}, got {type(value).__name__}")
        if self.errors == "replace":
            return value.encode("utf-8", "replace").decode()
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"{where}: {value[error.start]!r} is half of a pair of UTF-16, no character; read the file from "
                "Python: text_corpus(..., errors='replace')"
            ) from error
        return value

    @property
    def fingerprint(self) -> str:
        names = [os.path.basename(place) for place in self.files.places]
        return digest(str(self.key), *names, *self._contents, self.numbers, self.begins, self.ends)

    @cached_property
    def _contents(self) -> list[str]:
        """A checksum of every file, opened for it alone."""
        return [checksum(open_file(place)) for place in self.files.places]


class ColumnTexts(_Strings):
    """A column of a Hugging Face data set."""

    def __init__(self, table: Any, column: str) -> None:
        self.table, self.column = table, column

    def __len__(self) -> int:
        return len(self.table)

    def _make(self, index: int) -> str:
        text = self.table[index][self.column]
        if not isinstance(text, str):
            raise CorpusError(f"row {index}: expected a string in column {self.column!r}, got {type(text).__name__}")
        return text

    @property
    def fingerprint(self) -> str:
        return digest(str(self.table._fingerprint), self.column)


def text_corpus(
    place: str | Path,
    *,
    separator: str | None = None,
    key: str = "text",
    errors: str = "strict",
    name: str | None = None,
) -> Corpus:
    """A corpus of text files; only an index of the documents is kept in memory.

    Args:
        place: path or URL of a ``.txt`` file, a ``.jsonl`` file (one JSON object per line, one document each), or a
            folder of such files, with one class per sub-folder if all of them are in sub-folders.
        separator: what separates the documents of a ``.txt`` file: "blank-line" (lines without other characters than
            white space; each line ends a sentence), "line", or "file" for one document per file. None: "file" in a
            folder; for a single file "blank-line" if it has blank lines between others, else "line".
        key: the key of the text in ``.jsonl`` files.
        errors: "strict": bytes that are no UTF-8 raise :class:`CorpusError` when their document is read; "replace":
            they become U+FFFD.
        name: name of the corpus; None: that of the file or folder.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no text files in a folder, or an unknown option.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import text_corpus
        >>> path = Path(tempfile.mkdtemp()) / "two.txt"
        >>> _ = path.write_text("First sentence.\\nSecond sentence.\\n\\nAnother document.\\n")
        >>> text_corpus(path).document(0)
        ['First sentence.', 'Second sentence.']
    """
    place = os.path.expanduser(str(place))
    if separator is not None and separator not in SEPARATORS:
        raise ValueError(f"separator: expected one of {', '.join(SEPARATORS)} or None, got {separator!r}")
    if errors not in ("strict", "replace"):
        raise ValueError(f"errors: expected 'strict' or 'replace', got {errors!r}")
    called = name or name_of(place)
    if is_file(place):
        begins, ends = _documents(place, separator)
        texts = FileTexts([place], np.zeros(len(begins), np.int32), begins, ends, _key(place, key), errors)
        return Corpus(texts, called, names=_numbered(place, len(begins)))
    if not is_folder(place):
        raise FileNotFoundError(f"place: no file or folder {place!r}")
    found = sorted(_below(place))
    if not found:
        raise ValueError(f"place: expected {' or '.join(SUFFIXES)} files in {place!r}, there are none")
    kinds = {ending(own) for own in found}
    if len(kinds) > 1:
        raise ValueError(f"place: expected files of one kind in {place!r}, got {', '.join(sorted(kinds))}")
    places = [join(place, own) for own in found]
    parts = [_documents(one, separator or "file") for one in places]
    counts = [len(begins) for begins, _ in parts]
    texts = FileTexts(
        places,
        np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        np.concatenate([begins for begins, _ in parts]),
        np.concatenate([ends for _, ends in parts]),
        _key(places[0], key),
        errors,
    )
    names: list[str] = []
    for own, count in zip(found, counts):
        names += [own] if separator in (None, "file") and kinds == {".txt"} else _numbered(own, count)
    labels, classes = None, sorted({own.partition("/")[0] for own in found})
    if all("/" in own for own in found):
        numbers = [classes.index(own.partition("/")[0]) for own in found]
        labels = np.repeat(np.array(numbers, np.int64), counts)
    return Corpus(texts, called, names=names, labels=labels, classes=classes if labels is not None else ())


def _key(place: str, key: str) -> str | None:
    return key if ending(place) == ".jsonl" else None


def _numbered(place: str, count: int) -> Numbered:
    return Numbered(f"{os.path.basename(place)}:", count)


def _below(folder: str) -> Iterator[str]:
    for own, is_a_folder in entries(folder).items():
        if is_a_folder:
            yield from (f"{own}/{name}" for name in _below(join(folder, own)))
        elif ending(own) in SUFFIXES:
            yield own


def _documents(place: str, separator: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The bytes at which the documents of a file begin and end."""
    if separator == "file" and ending(place) != ".jsonl":
        return np.zeros(1, np.int64), np.array([open_file(place).size], np.int64)
    begins, ends, filled = _lines(place)
    number = np.flatnonzero(filled)
    if ending(place) == ".jsonl":
        separator = "line"
    if separator is None:
        separator = "blank-line" if len(number) and number[-1] - number[0] >= len(number) else "line"
    if separator == "line" or not len(number):
        return begins[number], ends[number]
    gap = np.flatnonzero(np.diff(number) > 1)
    first, last = np.concatenate([number[:1], number[gap + 1]]), np.concatenate([number[gap], number[-1:]])
    return begins[first], ends[last]


def _lines(place: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the lines of a file begin and end, and whether they have other characters than white space."""
    file = open_file(place)
    start = len(_BOM) if file.read(0, len(_BOM)) == _BOM else 0
    breaks, inked, before = [], [], 0
    for at in range(start, file.size, _BLOCK):
        block = np.frombuffer(file.read(at, _BLOCK), np.uint8)
        ink = np.cumsum(block > 32)
        here = np.flatnonzero(block == 10)
        breaks.append(here + at)
        inked.append(ink[here] + before)
        before += int(ink[-1]) if len(ink) else 0
    ends = np.concatenate([*breaks, [file.size]]).astype(np.int64)
    ink_at = np.concatenate([*inked, [before]]).astype(np.int64)
    begins = np.concatenate([[start], ends[:-1] + 1]).astype(np.int64)
    return begins, ends, np.diff(ink_at, prepend=0) > 0


def text8(place: str | Path) -> Corpus:
    """text8 and other files of one long line: documents of about 10,000 words, cut between words, of one sentence each.

    Args:
        place: path or URL of the file.

    Raises:
        FileNotFoundError: no such file.
        CorpusError: a stretch of 60,000 bytes without a space.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import text8
        >>> path = Path(tempfile.mkdtemp()) / "text8"
        >>> _ = path.write_text("anarchism originated as a term of abuse " * 10_000)
        >>> text8(path)
        Corpus('text8', 6 documents)
    """
    place = os.path.expanduser(str(place))
    if not is_file(place):
        raise FileNotFoundError(f"text8: no file {place!r}")
    file, cuts = open_file(place), [0]
    while file.size - cuts[-1] > 2 * _TEXT8_BYTES:
        found = file.read(cuts[-1] + _TEXT8_BYTES, _TEXT8_BYTES).find(b" ")
        if found < 0:
            raise CorpusError(f"{place}: expected words, found no space in {_TEXT8_BYTES} bytes from {cuts[-1]} on")
        cuts.append(cuts[-1] + _TEXT8_BYTES + found)
    begins, ends = np.array(cuts, np.int64), np.array([*cuts[1:], file.size], np.int64)
    texts = FileTexts([place], np.zeros(len(begins), np.int32), begins, ends)
    return Corpus(texts, "text8", names=_numbered(place, len(begins)), language="en")


def wikitext(place: str | Path, part: str = "train") -> Corpus:
    """An unpacked WikiText folder: one document per article, named by its title.

    Args:
        place: the folder, with ``wiki.train.tokens`` and the like (``.raw`` for the raw variant).
        part: "train", "valid" or "test".

    Raises:
        FileNotFoundError: no such file.
        CorpusError: no headings of articles.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import wikitext
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "wiki.train.tokens").write_text(" = Robert Boulter = \\n A text . \\n")
        >>> wikitext(folder).names
        ['Robert Boulter']
    """
    folder = Path(place).expanduser()
    paths = [folder / f"wiki.{part}.{kind}" for kind in ("tokens", "raw")]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"wikitext: expected {paths[0].name} or {paths[1].name} in {str(folder)!r}")
    begins, names, at = [], [], 0
    with path.open("rb") as file:
        for line in file:
            bare = line.strip()
            if bare.startswith(b"= ") and bare.endswith(b" =") and not bare.startswith(b"= ="):
                begins.append(at)
                names.append(bare[2:-2].decode("utf-8", "replace"))
            at += len(line)
    if not begins:
        raise CorpusError(f"{path}: expected headings of articles (' = Title = '), found none")
    starts, ends = np.array(begins, np.int64), np.array([*begins[1:], at], np.int64)
    texts = FileTexts([str(path)], np.zeros(len(starts), np.int32), starts, ends)
    return Corpus(texts, f"{folder.resolve().name}-{part}", names=names, language="en")


def hub_corpus(table: Any, name: str, columns: Sequence[str] = ("text", "sentence", "content", "document")) -> Corpus:
    """The texts of a Hugging Face data set, with class labels where it has a column of them.

    Raises:
        ValueError: none of ``columns`` is there.
    """
    import datasets

    kinds = table.features
    column = next((c for c in columns if c in kinds), None)
    if column is None:
        raise ValueError(f"name: expected a column {', '.join(columns)} in {name!r}, got {', '.join(kinds)}")
    label = next((c for c, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)), None)
    labels = None if label is None else np.asarray(table[label], np.int64)
    classes = () if label is None else list(kinds[label].names)
    return Corpus(ColumnTexts(table, column), name, names=Numbered("row ", len(table)), labels=labels, classes=classes)
