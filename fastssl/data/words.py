"""Words of a corpus: counted, numbered by frequency, and the corpus as their numbers."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastssl._options import integer
from fastssl.data.corpus import Corpus
from fastssl.data.source import digest
from fastssl.ops import extension

IN_MEMORY = 64 * 2**20  # words; more of them go to a temporary file
_DROPPED = -2


class NumberedWords(NamedTuple):
    """A corpus as numbers of its words.

    Attributes:
        words: the vocabulary, most frequent first.
        counts: int64, how often each occurs.
        ids: int32, the words of the corpus in order, -1 at the end of each sentence; memory-mapped if there are many.
        rarer: number of different words that the vocabulary leaves out.
    """

    words: list[str]
    counts: np.ndarray
    ids: np.ndarray
    rarer: int = 0

    @property
    def fingerprint(self) -> str:
        """A hash of the vocabulary, its counts and the length of the corpus."""
        return digest("\n".join(self.words), self.counts, str(len(self.ids)))


def number_words(
    corpus: Corpus | Iterable[Sequence[str]],
    min_count: int = 5,
    max_words: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> NumberedWords:
    """Counts the words of a corpus and numbers them by frequency.

    Words of a :class:`Corpus` are runs of letters, marks and digits in lower case, with apostrophes inside
    ("nation's"). The words of sentences that are given as lists of strings are these strings.

    Args:
        corpus: a corpus, or sentences: lists of words.
        min_count: rarer words are left out, as if they were not in the text.
        max_words: keep at most that many, the most frequent; None: all.
        progress: called with the number of documents done and that of all.

    Raises:
        TypeError: a sentence that is a string, or a word that is none.
        ValueError: ``min_count`` or ``max_words`` below 1.
        RuntimeError: the compiled kernels are missing.

    Example:
        >>> from fastssl.data.words import number_words
        >>> words, counts, ids, rarer = number_words([["a", "rose", "is"], ["a", "rose"]], min_count=2)
        >>> words, counts.tolist(), ids.tolist(), rarer
        (['a', 'rose'], [2, 2], [0, 1, -1, 0, 1, -1], 1)
    """
    min_count = integer("min_count", min_count, 1)
    if max_words is not None:
        max_words = integer("max_words", max_words, 1)
    if extension._C is None:
        raise RuntimeError(extension.reason)
    counter = extension._C.WordCounter()
    store = _Store()
    for part in _of_corpus(corpus, counter, progress) if isinstance(corpus, Corpus) else _of_lists(corpus, counter):
        store.append(part)
    counts = np.asarray(counter.counts())
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= min_count][:max_words]
    number = np.full(len(counts) + 1, _DROPPED, np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    number[-1] = -1  # the end of a sentence
    words = counter.words()
    return NumberedWords(
        [words[k] for k in order.tolist()], counts[order], store.renumbered(number), len(words) - len(order)
    )


def words_of(text: str) -> list[str]:
    """The words of a text, as :func:`number_words` counts them.

    Raises:
        RuntimeError: the compiled kernels are missing.

    Example:
        >>> from fastssl.data.words import words_of
        >>> words_of("The nation's 2 roses.")
        ['the', "nation's", '2', 'roses']
    """
    if extension._C is None:
        raise RuntimeError(extension.reason)
    counter = extension._C.WordCounter()
    numbers = counter.add_text(text.lower(), _letters())
    words = counter.words()
    return [words[k] for k in numbers.tolist() if k >= 0]


def _of_corpus(corpus: Corpus, counter: Any, progress: Callable[..., None] | None) -> Iterator[np.ndarray]:
    letters = _letters()
    for index in range(len(corpus)):
        text = "\n".join(corpus.document(index)).lower()
        if text:
            yield counter.add_text(text + "\n", letters)
        if progress is not None and index % 256 == 255:
            progress(index + 1, len(corpus))


def _of_lists(sentences: Iterable[Sequence[str]], counter: Any) -> Iterator[np.ndarray]:
    for sentence in sentences:
        if isinstance(sentence, (str, bytes)):
            raise TypeError("corpus: expected lists of words, got a string; give a Corpus of texts, or split the words")
        wrong = next((word for word in sentence if not isinstance(word, str)), None)
        if wrong is not None:
            raise TypeError(f"corpus: expected words, got {type(wrong).__name__}")
        yield np.append(counter.add_words(list(sentence)), np.int32(-1))


@cache
def _letters() -> bytes:
    """A bit for every code point up to the last that may belong to a word. The marks that make a character an emoji or
    a key do not."""
    points = np.zeros(0xE0200, bool)
    for first, last in ((0, 1 << 18), (0xE0100, 0xE0200)):  # there are no letters between
        points[first:last] = np.fromiter(map(_is_letter, map(chr, range(first, last))), bool)
    points[[0xFE0E, 0xFE0F, 0x20E3]] = False
    return np.packbits(points, bitorder="little").tobytes()


def _is_letter(c: str) -> bool:
    return c.isalnum() or unicodedata.category(c).startswith("M")


class _Store:
    """Numbers in memory, or, from ``IN_MEMORY`` on, in a temporary file that vanishes with the last reference."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.waiting, self.written = 0, 0
        self.file: Any = None

    def append(self, part: np.ndarray) -> None:
        self.parts.append(part)
        self.waiting += len(part)
        if self.waiting > IN_MEMORY:
            self._write()

    def _write(self) -> None:
        self.file = self.file or tempfile.TemporaryFile(prefix="fastssl-words-")  # noqa: SIM115
        for part in self.parts:
            self.file.write(part.astype(np.int32, copy=False).data)
        self.written += self.waiting
        self.parts, self.waiting = [], 0

    def renumbered(self, number: np.ndarray) -> np.ndarray:
        """All numbers as ``number[old]``, without those that are dropped."""
        if self.file is None:
            old = np.concatenate([np.zeros(0, np.int32), *self.parts])
            return _renumber(old, number)
        self._write()
        self.file.flush()
        whole = np.memmap(self.file, np.int32, "r+", shape=(self.written,))
        end = 0
        for begin in range(0, self.written, IN_MEMORY):
            new = _renumber(np.array(whole[begin : begin + IN_MEMORY]), number)
            whole[end : end + len(new)] = new
            end += len(new)
        return whole[:end]


def _renumber(old: np.ndarray, number: np.ndarray) -> np.ndarray:
    new = number[old]
    return new[new != _DROPPED]
