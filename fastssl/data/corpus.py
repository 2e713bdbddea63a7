"""``Corpus``: an indexed collection of documents, which are lists of sentences."""

from __future__ import annotations

import codecs
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from fastssl._words import amount
from fastssl.data.chats import chat_text, is_chat
from fastssl.data.columns import TextColumns
from fastssl.data.sentences import sentences
from fastssl.data.source import (
    Item,
    Reduction,
    Source,
    are_scores,
    check_index,
    check_strings,
    digest,
    labels_or_scores,
    several_texts,
)
from fastssl.data.storage import UNPACKED, content, ending, unpacked

UTF16 = (b"\xff\xfe", b"\xfe\xff")  # its byte order marks
LONGEST = 16 * 2**20  # bytes of a document: a tokenizer takes up to 200 times as much memory
ZERO = "expected text, got a zero byte; a file of another kind is opened by its own name"
READ_ON = "or read on with U+FFFD in place of such bytes (#errors=replace)"


def known_encoding(encoding: str) -> str:
    """``encoding``, if Python has it.

    Raises:
        ValueError: it has not.
    """
    try:
        if codecs.lookup(encoding)._is_text_encoding:
            return encoding
    except LookupError:
        pass
    raise ValueError(f"encoding: expected a name such as utf-8, latin-1 or utf-16, got {encoding!r}")


def undecodable(error: UnicodeDecodeError, encoding: str, start: bytes, at: int = 0, named: bool = True) -> str:
    """What to do about a byte that is not of an encoding.

    Args:
        error: what Python says of it.
        encoding: the encoding.
        start: the first bytes of the file.
        at: where the bytes begin that were decoded.
        named: whether another encoding can be named.
    """
    known = "utf-16" if start[:2] in UTF16 else "latin-1"
    name = "UTF-8" if encoding == "utf-8" else encoding
    byte = f"byte {at + error.start} ({error.object[error.start]:#04x}) is no {name}"
    other = f"name the encoding (#encoding={known}), or " if named else ""
    return f"{byte}; {other}convert the file (iconv -f {known} -t utf-8)"


def known_errors(errors: str) -> str:
    """``errors``, if it says what happens to bytes that are not of an encoding.

    Raises:
        ValueError: it does not.
    """
    if errors not in ("strict", "replace"):
        raise ValueError(f"errors: expected 'strict' or 'replace', got {errors!r}")
    return errors


def decoded(place: str, encoding: str, errors: str = "strict") -> str:
    """The text of a whole file, also of a compressed one, without a byte order mark; with "replace", U+FFFD in place of
    bytes that are not of the encoding, and of zeros.

    Raises:
        ValueError: an unknown encoding, bytes that are not of it, a zero, or a compressed file that is damaged.
    """
    try:
        text = _bytes(place).decode(known_encoding(encoding), known_errors(errors)).removeprefix("\ufeff")
        if errors == "strict" and "\0" in text:
            line = text.count("\n", 0, text.index("\0")) + 1
            raise ValueError(f"{place}: line {line}: {ZERO}, {READ_ON}")
        return text.replace("\0", "\ufffd")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: {undecodable(error, encoding, error.object)}, {READ_ON}") from error


def utf8(place: str) -> str:
    """The text of a whole file of UTF-8, of a kind that takes no options, without a byte order mark.

    Raises:
        ValueError: bytes that are no UTF-8.
    """
    try:
        return _bytes(place).decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: {undecodable(error, 'utf-8', error.object, named=False)}") from error


def _bytes(place: str) -> bytes:
    return b"".join(unpacked(place)) if ending(place) in UNPACKED else content(place)


class CorpusError(ValueError):
    """A document that cannot be read: bytes that are no UTF-8, a line that is no JSON, a missing key."""


def check_size(size: int, place: Callable[[], str], remedy: str) -> None:
    """Checks that a document is not longer than a tokenizer can take.

    Raises:
        CorpusError: it is; the error names its ``place``.
    """
    if size > LONGEST:
        raise CorpusError(f"{place()}: expected documents of at most {LONGEST:,} bytes, got one of {size:,}; {remedy}")


def replaced(text: str) -> str:
    """The text with U+FFFD in place of what escapes of JSON may write and no text has (:func:`check_characters`)."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def check_characters(text: str, place: Callable[[], str], remedy: str = "") -> None:
    """Checks that a text has none of what escapes of JSON may write and no text has.

    Raises:
        CorpusError: it has a zero, or half of a pair of UTF-16; the error names its ``place``.
    """
    if "\0" in text:
        raise CorpusError(f"{place()}: expected text, got a zero character{remedy}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{place()}: {text[error.start]!r} is half of a pair of UTF-16, no character{remedy}"
        ) from error


class Corpus(Source):
    """An indexed collection of documents, of at most 16 MiB each. Nothing but an index is kept in memory of texts that
    are read from files.

    Args:
        texts: one string per document: a list, or any picklable sequence that reads its texts when they are asked for.
        name: name of the corpus in logs and checkpoints.
        names: names of the documents; None: "document 0" and so on.
        labels: one integer per document, -1 for unknown classes; floats without classes: a score per
            document, NaN if unknown, which is not in its items; [N, classes] of -1 (absent), 0 (unknown) and 1 for
            several classes per document; or None.
        classes: names of the classes.
        language: ISO 639 code of the language, where it is known.

    Raises:
        TypeError: ``texts`` is a string, or holds something other than strings.
        ValueError: names or labels of another length, or a label without a class.

    Example:
        >>> from fastssl.data import Corpus
        >>> corpus = Corpus(["A sentence. Another one.", ""], labels=[1, 0], classes=["short", "long"])
        >>> corpus.document(0), corpus.document(1)
        (['A sentence.', 'Another one.'], [])
        >>> corpus.subset([1]).names
        ['document 1']
    """

    columns: TextColumns | None = None  # of the table that it was read from

    def __init__(
        self,
        texts: Sequence[str],
        name: str = "corpus",
        *,
        names: Sequence[str] | None = None,
        labels: Any = None,
        classes: Sequence[str] = (),
        language: str | None = None,
    ) -> None:
        if isinstance(several_texts(texts), (list, tuple)):
            check_strings(texts)
        elif not hasattr(texts, "__len__"):
            raise TypeError(f"texts: expected a sequence of strings, got {type(texts).__name__}")
        if names is not None and len(names) != len(texts):
            raise ValueError(f"names: expected {len(texts)}, got {len(names)}")
        self.texts, self.name, self.language = texts, name, language
        self.names: Sequence[str] = Numbered("document ", len(texts)) if names is None else names
        self.classes = list(classes)
        if labels is not None:
            self.labels = labels_or_scores(labels, len(texts), self.classes)
            if self.labels.ndim == 2 and self.labels.shape[1] != len(self.classes):
                raise ValueError(
                    f"labels: expected a column for each of {amount(len(self.classes), 'class')}, got "
                    f"{self.labels.shape[1]}"
                )
            known = len(self.labels) and not are_scores(self.labels)
            if known and not -1 <= self.labels.min() <= self.labels.max() < len(self.classes):
                raise ValueError(f"labels: expected -1 to {len(self.classes) - 1}, one of {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.texts)

    def text(self, index: int) -> str:
        """The text of document ``index``.

        Raises:
            IndexError: no such document.
            CorpusError: an unreadable document, or one of more than 16 MiB.
        """
        text = self.texts[check_index(index, len(self))]

        def place() -> str:
            return f"{self.name}, {self.name_of(index)}"

        check_size(len(text), place, "divide its text")  # of files: before
        check_characters(text, place)
        return text

    def document(self, index: int) -> list[str]:
        """The sentences of document ``index`` (:func:`fastssl.data.sentences`); an empty document has none.

        Raises:
            IndexError: no such document.
            CorpusError: an unreadable document, or one of more than 16 MiB.
        """
        return sentences(self.text(index))

    def documents(self) -> Iterator[list[str]]:
        """The sentences of every document, in order."""
        return (self.document(index) for index in range(len(self)))

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        label = self.label_of(check_index(index, len(self)))
        return Item(text=self.text(index), label=label, name=self.name_of(index))

    def name_of(self, index: int) -> str:
        return self.names[index]

    def subset(self, ids: Any, name: str | None = None) -> Corpus:
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(self):
            raise IndexError(f"ids: expected 0 to {len(self) - 1}, got {int(ids.min())} to {int(ids.max())}")
        labels = None if self.labels is None else self.labels[ids]
        chosen = Corpus(
            Picked(self.texts, ids),
            name or self.name,
            names=[self.names[k] for k in ids.tolist()],
            labels=labels,
            classes=self.classes,
            language=self.language,
        )
        chosen.columns = self.columns
        return chosen

    @property
    def fingerprint(self) -> str:
        """A hash that changes with the documents: of the texts in memory, of the index of those in files."""
        return digest(super().fingerprint, fingerprint_of(self.texts))

    def __repr__(self) -> str:
        classes = f", {amount(len(self.classes), 'class')}" if self.classes else ""
        return f"{type(self).__name__}({self.name!r}, {amount(len(self), 'document')}{classes})"


def join(corpora: Iterable[Corpus], name: str | None = None) -> Corpus:
    """The documents of several corpora, one after the other, without labels.

    Raises:
        ValueError: no corpora.

    Example:
        >>> from fastssl.data import Corpus
        >>> from fastssl.data.corpus import join
        >>> join([Corpus(["One."]), Corpus(["Two.", "Three."])])
        Corpus('corpus+corpus', 3 documents)
    """
    corpora = list(corpora)
    if not corpora:
        raise ValueError("corpora: expected at least one")
    languages = {corpus.language for corpus in corpora}
    return Corpus(
        Chained([corpus.texts for corpus in corpora]),
        name or "+".join(corpus.name for corpus in corpora),
        names=Chained([corpus.names for corpus in corpora]),
        language=languages.pop() if len(languages) == 1 else None,
    )


def fingerprint_of(texts: Sequence[str]) -> str:
    own = getattr(texts, "fingerprint", None)
    return own if isinstance(own, str) else digest(*(text.encode("utf-8", "surrogatepass") for text in texts))


class _Strings(Sequence[str]):
    """Strings made when they are asked for."""

    def _make(self, index: int) -> str:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._make(k) for k in range(*index.indices(len(self)))]
        return self._make(check_index(index + len(self) if index < 0 else index, len(self)))


class Numbered(_Strings):
    """``prefix`` and a number."""

    def __init__(self, prefix: str, count: int) -> None:
        self.prefix, self.size = prefix, count

    def __len__(self) -> int:
        return self.size

    def _make(self, index: int) -> str:
        return f"{self.prefix}{index}"


class GivenTexts(_Strings):
    """Texts in memory, some of which may be none: these raise :class:`CorpusError` when they are read.

    Args:
        values: a string, or a chat (:func:`chat_text`), per document.
        where: a name for document k in errors.
        what: how its text is named there: "in column text".

    Raises:
        ValueError: none of the values is a string.
    """

    def __init__(self, values: Sequence[Any], where: Callable[[int], str], what: str) -> None:
        self.values, self.wrong = list(values), dict[int, str]()
        for k, value in enumerate(self.values):
            try:
                self.values[k] = text = chat_text(value) if is_chat(value) else value
                if not isinstance(text, str):
                    raise ValueError(f"expected a string {what}, got {reprlib.repr(value)}")
            except ValueError as error:
                self.wrong[k] = f"{where(k)}: {error}"
        if self.wrong and len(self.wrong) == len(self.values):
            raise ValueError(self.wrong[0])

    def __len__(self) -> int:
        return len(self.values)

    def _make(self, index: int) -> str:
        if index in self.wrong:
            raise CorpusError(self.wrong[index])
        text: str = self.values[index]
        return text

    @property
    def fingerprint(self) -> str:
        texts = (None if k in self.wrong else text for k, text in enumerate(self.values))
        return digest(*(text if text is None else text.encode("utf-8", "surrogatepass") for text in texts))


class Picked(_Strings):
    """The strings at ``ids``."""

    def __init__(self, strings: Sequence[str], ids: np.ndarray) -> None:
        self.strings, self.ids = strings, ids

    def __len__(self) -> int:
        return len(self.ids)

    def _make(self, index: int) -> str:
        return self.strings[int(self.ids[index])]

    @property
    def fingerprint(self) -> str:
        return digest(fingerprint_of(self.strings), self.ids)


class Chained(_Strings):
    """Several sequences of strings, one after the other."""

    def __init__(self, parts: list[Sequence[str]]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _make(self, index: int) -> str:
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - (int(self.ends[part - 1]) if part else 0)]

    @property
    def fingerprint(self) -> str:
        return digest(*map(fingerprint_of, self.parts))
