"""Corpora of files: text, JSON lines, folders of them, text8, WikiText; and of Hugging Face data sets."""

from __future__ import annotations

import io
import json
import os
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fastssl.data.chats import FORMS, chat_text, is_chat
from fastssl.data.columns import TextColumns, find_column, text_columns, with_inner
from fastssl.data.corpus import (
    READ_ON,
    UTF16,
    ZERO,
    Corpus,
    CorpusError,
    Numbered,
    _Strings,
    check_characters,
    check_size,
    known_encoding,
    known_errors,
    replaced,
    undecodable,
)
from fastssl.data.embedded_text import ParallelCorpus
from fastssl.data.labels import labels_of
from fastssl.data.source import digest
from fastssl.data.storage import (
    COMPRESSED,
    UNPACKED,
    File,
    Files,
    Stream,
    check_unpacked,
    checksum,
    each_entry,
    ending,
    entries,
    is_file,
    is_folder,
    is_url,
    join,
    kind_of,
    name_of,
    open_file,
    open_unpacked,
)

SUFFIXES = (".txt", ".jsonl")
SEPARATORS = ("blank-line", "line", "file")
_BLOCK = 4 * 2**20  # bytes per read of an index
_TEXT8_BYTES = 60_000  # per document: about 10,000 words
_BOM = b"\xef\xbb\xbf"
_UNLABELLED = "unsup"  # the sub-folder of IMDB's reviews without labels
_MARK = 1024  # first bytes, none of which is zero in a file of text


class FileTexts(_Strings):
    """Texts that are byte ranges of files.

    Args:
        files: the files, as :func:`open_unpacked` opens them.
        numbers: [N] number of the file of each text.
        begins, ends: [N] its bytes.
        key: the texts are under this key of JSON objects; None: they are the bytes themselves.
        errors: "strict", or "replace" for U+FFFD in place of bytes that are not of the encoding.
        encoding: that of the files.
    """

    def __init__(
        self,
        files: Files,
        numbers: np.ndarray,
        begins: np.ndarray,
        ends: np.ndarray,
        key: str | None = None,
        errors: str = "strict",
        encoding: str = "utf-8",
    ) -> None:
        self.files, self.numbers, self.begins, self.ends = files, numbers, begins, ends
        self.key, self.errors, self.encoding = key, errors, encoding

    def __len__(self) -> int:
        return len(self.begins)

    def _make(self, index: int) -> str:
        text = self._read(index)
        return text if self.key is None else self._value(text, index)

    def object(self, index: int) -> dict[str, Any]:
        """The JSON object of text ``index``.

        Raises:
            CorpusError: its line is none.
        """
        return self._object(self._read(index), index)

    def place(self, index: int) -> str:
        """The file and the line where text ``index`` begins; lines are counted for errors alone."""
        file, begin = self.files[int(self.numbers[index])], int(self.begins[index])
        lines = sum(file.read(at, min(_BLOCK, begin - at)).count(b"\n") for at in range(0, begin, _BLOCK))
        return f"{file.place}: line {lines + 1}"

    def _read(self, index: int) -> str:
        number, begin, end = (int(array[index]) for array in (self.numbers, self.begins, self.ends))
        file = self.files[number]
        check_size(end - begin, lambda: self.place(index), self._shorter(file.place))
        raw = file.read(begin, end - begin)
        if len(raw) != end - begin:
            raise CorpusError(
                f"{file.place}: expected bytes {begin} to {end}, it has {file.size}: the file has changed"
            )
        if self.errors == "strict" and b"\0" in raw and file.read(0, 2) not in UTF16:  # a file of another kind
            raise CorpusError(f"{self.place(index)}: {ZERO}, {READ_ON}")
        try:
            return raw.decode(self.encoding, self.errors).removeprefix("\ufeff").replace("\0", "\ufffd")
        except UnicodeDecodeError as error:
            start = file.read(0, 2) if begin else raw
            why = undecodable(error, self.encoding, start, begin, named=start[:2] not in UTF16)  # whose lines differ
            raise CorpusError(f"{file.place}: {why}, {READ_ON}") from error

    @staticmethod
    def _shorter(file: str) -> str:
        if kind_of(file) == ".jsonl":
            return "divide its text"
        return f"say what separates them (#separator=line or blank-line); a file of one line is text8:{file}"

    def _object(self, line: str, index: int) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{self.place(index)}: expected a JSON object per line ({error})") from error
        if not isinstance(found, dict):
            raise CorpusError(f"{self.place(index)}: expected a JSON object per line, got {type(found).__name__}")
        return with_inner(found)

    def _value(self, line: str, index: int) -> str:
        found = self._object(line, index)
        value: Any = found.get(str(self.key))
        if is_chat(value):
            try:
                value = chat_text(value)
            except ValueError as error:
                raise CorpusError(f"{self.place(index)}: {error}") from error
        if not isinstance(value, str):
            got = reprlib.repr(value) if self.key in found else f"the keys {', '.join(found)}"
            raise CorpusError(f"{self.place(index)}: expected a string under the key {self.key!r}, got {got}")
        if self.errors == "replace":
            return replaced(value)
        check_characters(value, lambda: self.place(index), "; #errors=replace reads on")
        return value

    @property
    def fingerprint(self) -> str:
        names = [os.path.basename(place) for place in self.files.places]
        other = [] if (self.encoding, self.errors) == ("utf-8", "strict") else [self.encoding, self.errors]
        return digest(str(self.key), *other, *names, *self._contents, self.numbers, self.begins, self.ends)

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
        if is_chat(text):
            try:
                text = chat_text(text)
            except ValueError as error:
                raise CorpusError(f"row {index}: {error}") from error
        if not isinstance(text, str):
            raise CorpusError(f"row {index}: expected a string in column {self.column}, got {reprlib.repr(text)}")
        return text

    @property
    def fingerprint(self) -> str:
        return digest(str(self.table._fingerprint), self.column)


def text_corpus(
    place: str | Path,
    *,
    suffix: str | None = None,
    separator: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    score: str | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
    name: str | None = None,
) -> Corpus:
    """A corpus of text files; only an index of the documents, and their labels, are kept in memory. A document of more
    than 16 MiB raises :class:`CorpusError` when it is read.

    Args:
        place: path or URL of a ``.txt`` file, a ``.jsonl`` file (one JSON object per line, one document each), or a
            folder of such files, with one class per sub-folder if there are several (documents beside them, and in one
            called "unsup", are unlabelled). Files of other kinds are counted in ``skipped``. Compressed files
            (``.gz``, ``.bz2``, ``.xz``, ``.zst``) are unpacked into temporary ones.
        suffix: that of the files to read of a folder, such as ``.md`` or ``.py``; None: those above.
        separator: what separates the documents of a ``.txt`` file: "blank-line" (lines without other characters than
            white space; each line ends a sentence), "line", or "file" for one document per file. None: "file" in a
            folder; for a single file "blank-line" if it has blank lines between others, else "line".
        text, text_pair, label, score: keys of the text, of the second one of a pair, of the class and of a number to
            predict in ``.jsonl`` files; None: as of :func:`text_table`, by the first object. Labels and scores are read
            at once.
        encoding: that of the files, one in which bytes below 128 are ASCII.
        errors: "strict": bytes that are not of the encoding, and zeros, raise :class:`CorpusError` when their document
            is read; "replace": they become U+FFFD.
        name: name of the corpus; None: that of the file or folder.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no text files in a folder, an unknown option, or a label or a score that is none.

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
    if suffix is not None and (suffix != ending(suffix + suffix) or is_file(place)):
        got = f"{suffix!r} of the file {place!r}" if is_file(place) else repr(suffix)
        raise ValueError(f"suffix: expected that of the files of a folder, in lower case, such as .md, got {got}")
    known_errors(errors)
    if known_encoding(encoding) and bytes(range(128)).decode(encoding, "replace") != "".join(map(chr, range(128))):
        raise ValueError(f"encoding: expected one with the bytes of ASCII, got {encoding!r}; convert the file (iconv)")
    roles = (("text", text), ("text_pair", text_pair), ("label", label), ("score", score))
    given = {role: key for role, key in roles if key is not None}
    called = name or name_of(place)
    if is_file(place):
        files = Files([place], open_unpacked)  # opened for the index and for reading alike
        begins, ends = _documents(files[0], separator)
        texts = FileTexts(files, np.zeros(len(begins), np.int32), begins, ends, None, errors, encoding)
        return _labelled(Corpus(texts, called, names=_numbered(place, len(begins))), given)
    if not is_folder(place):
        raise FileNotFoundError(f"place: no file or folder {place!r}")
    there = sorted(_below(place))
    wanted = SUFFIXES if suffix is None else (suffix,)
    found = [own for own in there if kind_of(own) in wanted]
    others = Counter(ending(own) or "no suffix" for own in there if kind_of(own) not in wanted)
    if not found:
        packed = sorted(COMPRESSED.keys() & others)
        rest = ", ".join(sorted(set(others) - set(packed)))
        raise ValueError(
            f"place: expected {' or '.join(wanted)} files in {place!r}, there are none"
            + (f"; files with {', '.join(packed)} are to be unpacked" if packed else "")
            + (f"; files with {rest} are opened by their own names, texts of one kind with #suffix=.md" if rest else "")
        )
    kinds = {kind_of(own) for own in found}
    if len(kinds) > 1:
        raise ValueError(f"place: expected files of one kind in {place!r}, got {', '.join(sorted(kinds))}")
    bare = Counter(own[: -len(ending(own))] if ending(own) in UNPACKED else own for own in found)
    if (twice := next((own for own, count in bare.items() if count > 1), None)) is not None:
        raise ValueError(f"place: expected each file of {place!r} once, got {twice} also compressed; remove one")
    files = Files([join(place, own) for own in found], open_unpacked)
    parts = [_documents(files[k], separator or "file") for k in range(len(found))]
    counts = [len(begins) for begins, _ in parts]
    texts = FileTexts(
        files,
        np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        np.concatenate([begins for begins, _ in parts]),
        np.concatenate([ends for _, ends in parts]),
        None,
        errors,
        encoding,
    )
    names: list[str] = []
    for own, count in zip(found, counts):
        names += [own] if separator in (None, "file") and kinds != {".jsonl"} else _numbered(own, count)
    folders = [own.partition("/")[0] if "/" in own else _UNLABELLED for own in found]
    labels, classes = None, sorted(set(folders) - {_UNLABELLED})
    if len(classes) > 1 or (classes and _UNLABELLED not in folders):
        numbers = {_UNLABELLED: -1, **{name: k for k, name in enumerate(classes)}}
        own_labels = [numbers[own] for own in folders]
        labels = np.repeat(np.array(own_labels, np.int64), counts)
    corpus = Corpus(texts, called, names=names, labels=labels, classes=classes if labels is not None else ())
    corpus.skipped = {f"files with {kind}": count for kind, count in sorted(others.items())}
    return _labelled(corpus, given)


def _labelled(corpus: Corpus, given: dict[str, str]) -> Corpus:
    """A corpus of JSON lines by its keys: pairs of texts, labels and scores, where it has none of sub-folders."""
    texts: Any = corpus.texts
    place = texts.files.places[0]
    if kind_of(place) != ".jsonl":
        if given:
            raise ValueError(f"{next(iter(given))}: expected a key of .jsonl files, {place!r} is none")
        return corpus
    if not len(texts):
        return corpus
    answers = [given[role] for role in ("label", "score") if role in given]  # which the first object may lack
    first = texts.object(0)
    columns = text_columns([*first, *(key for key in answers if find_column(first, key) is None)], place, given)
    keyed = partial(FileTexts, texts.files, texts.numbers, texts.begins, texts.ends)
    labels, classes = corpus.labels, corpus.classes
    if answers or (labels is None and (columns.label or columns.score)):
        asked = str(columns.label or columns.score)
        rows = [{asked: texts.object(k).get(asked)} for k in range(len(texts))]
        labels, classes = labels_of(columns, rows, texts.place)
        if answers and labels is None:
            there = ", ".join(first)
            raise ValueError(
                f"{place}: expected labels or scores under the key {asked!r}, there are none; the first object: {there}"
            )
    made = Corpus(
        keyed(columns.text, texts.errors, texts.encoding),
        corpus.name,
        names=corpus.names,
        labels=labels,
        classes=classes,
    )
    if columns.text_pair is not None:
        made = ParallelCorpus(made, Corpus(keyed(columns.text_pair, texts.errors, texts.encoding), corpus.name))
    made.skipped, made.columns = dict(corpus.skipped), columns
    return made


def _numbered(place: str, count: int) -> Numbered:
    return Numbered(f"{os.path.basename(place)}:", count)


def holds_texts(place: str) -> bool:
    """Whether a folder and those in it hold text files of one kind, and no other files."""
    kinds = set[str]()
    for own in _below(place) if is_folder(place) else ():
        kinds.add(kind_of(own))
        if kinds not in ({".txt"}, {".jsonl"}):  # at the first image of a folder of images
            return False
    return bool(kinds)


def _below(folder: str) -> Iterator[str]:
    folders = []
    for own, is_a_folder in each_entry(folder):
        if is_a_folder and not own.startswith("."):
            folders.append(own)
        elif not own.startswith("."):
            yield own
    for own in folders:
        yield from (f"{own}/{name}" for name in _below(join(folder, own)))


def _documents(file: File, separator: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The bytes at which the documents of a file begin and end."""
    if separator == "file" and kind_of(file.place) != ".jsonl":
        return np.zeros(1, np.int64), np.array([file.size], np.int64)
    begins, ends, filled = _lines(file)
    number = np.flatnonzero(filled)
    if kind_of(file.place) == ".jsonl":
        separator = "line"
    if separator is None:
        separator = "blank-line" if len(number) and number[-1] - number[0] >= len(number) else "line"
    if separator == "line" or not len(number):
        return begins[number], ends[number]
    gap = np.flatnonzero(np.diff(number) > 1)
    first, last = np.concatenate([number[:1], number[gap + 1]]), np.concatenate([number[gap], number[-1:]])
    return begins[first], ends[last]


def _lines(file: File) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the lines of a file begin and end, and whether they have other characters than white space."""
    place = file.place
    mark = file.read(0, _MARK)
    if mark[:2] in UTF16:  # whose lines of ASCII would be read as UTF-8, with zeros between the letters
        raise CorpusError(
            f"{place}: expected lines of UTF-8 or the like, got UTF-16; convert it (iconv -f utf-16 -t utf-8)"
        )
    check_unpacked(place, mark)
    start = len(_BOM) if mark.startswith(_BOM) else 0
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
    files = Files([place], open_unpacked)
    file, cuts = files[0], [0]
    while file.size - cuts[-1] > 2 * _TEXT8_BYTES:
        found = file.read(cuts[-1] + _TEXT8_BYTES, _TEXT8_BYTES).find(b" ")
        if found < 0:
            raise CorpusError(f"{place}: expected words, found no space in {_TEXT8_BYTES} bytes from {cuts[-1]} on")
        cuts.append(cuts[-1] + _TEXT8_BYTES + found)
    begins, ends = np.array(cuts, np.int64), np.array([*cuts[1:], file.size], np.int64)
    texts = FileTexts(files, np.zeros(len(begins), np.int32), begins, ends)
    return Corpus(texts, "text8", names=_numbered(place, len(begins)), language="en")


def wikitext(place: str | Path, part: str = "train") -> Corpus:
    """An unpacked WikiText folder: one document per article, named by its title; text before the first title is one,
    too, without a name.

    Args:
        place: the folder, or its URL, with ``wiki.train.tokens`` and the like (``.raw`` for the raw variant), which may
            be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zst``).
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
    folder = os.path.expanduser(str(place))
    kinds = [f"wiki.{part}.{kind}" for kind in ("tokens", "raw")]
    there = entries(folder) if is_folder(folder) else ()
    own = next((kind + packed for kind in kinds for packed in ("", *UNPACKED) if kind + packed in there), None)
    if own is None:
        raise FileNotFoundError(f"wikitext: expected {' or '.join(kinds)} (also compressed) in {folder!r}")
    path = join(folder, own)
    files = Files([path], open_unpacked)
    begins, names, at, before = [], [], 0, False
    for line in io.BufferedReader(Stream(files[0]), _BLOCK):
        bare = line.strip()
        if bare.startswith(b"= ") and bare.endswith(b" =") and not bare.startswith(b"= ="):
            begins.append(at)
            names.append(bare[2:-2].decode("utf-8", "replace"))
        before = before or bool(bare and not begins)
        at += len(line)
    if not begins:
        raise CorpusError(f"{path}: expected headings of articles (' = Title = '), found none")
    if before:
        begins, names = [0, *begins], ["", *names]
    starts, ends = np.array(begins, np.int64), np.array([*begins[1:], at], np.int64)
    texts = FileTexts(files, np.zeros(len(starts), np.int32), starts, ends)
    called = name_of(folder) if is_url(folder) else os.path.basename(os.path.realpath(folder))
    return Corpus(texts, f"{called}-{part}", names=names, language="en")


def hub_corpus(
    table: Any, name: str, given: Mapping[str, str] = MappingProxyType({}), where: str | None = None
) -> Corpus:
    """The texts of a Hugging Face data set, or its pairs of texts, with their labels or scores.

    Args:
        table: a ``datasets.Dataset``.
        name: name of the data set in logs and checkpoints.
        given: "text", "text_pair", "label" or "score" -> the column of it; else as of :func:`text_table`, where a
            column of type ``ClassLabel`` is one of labels and a ``label`` of floats one of scores.
        where: how the data set was named, in errors; None: ``name``.

    Raises:
        ValueError: no column of texts, or a label or a score that is none.
    """
    import datasets

    kinds = table.features
    classes_of = [column for column, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    typed = (datasets.Value, datasets.ClassLabel)
    plain = [column for column, kind in kinds.items() if isinstance(kind, typed) or _of_chats(kind)]
    roles, where = dict(given), where or name

    def known(roles: Mapping[str, str]) -> TextColumns:
        try:
            return text_columns(plain, where, roles)
        except ValueError as error:
            others = [f"{column} ({type(kind).__name__})" for column, kind in kinds.items() if column not in plain]
            more = f"; columns of other types are no texts: {', '.join(others)}" if others else ""
            raise ValueError(f"{error}{more}") from error

    if not set(given) & {"label", "score"}:
        found = known(given)
        if found.label is None and found.score is None and classes_of:
            roles["label"] = classes_of[0]
        elif found.label is not None and str(getattr(kinds[found.label], "dtype", "")).startswith("float"):
            roles["score"] = found.label
    columns = known(roles)
    asked, classes = columns.label or columns.score, []
    labels: np.ndarray | None = None
    if asked in classes_of and columns.label is not None:
        labels, classes = np.asarray(table[asked], np.int64), list(kinds[asked].names)
    elif asked is not None:
        labels, classes = labels_of(columns, [{asked: value} for value in table[asked]], lambda k: f"{where}: row {k}")
    names = Numbered("row ", len(table))
    corpus = Corpus(ColumnTexts(table, columns.text), name, names=names, labels=labels, classes=classes)
    if columns.text_pair is not None:
        corpus = ParallelCorpus(corpus, Corpus(ColumnTexts(table, columns.text_pair), name, names=names))
    corpus.columns = columns
    return corpus


def _of_chats(kind: Any) -> bool:
    """Whether a column of a Hugging Face data set holds lists of messages."""
    inner = kind[0] if isinstance(kind, list) else getattr(kind, "feature", None)
    return isinstance(inner, Mapping) and any(set(form) <= inner.keys() for form in FORMS)
