"""Embedded texts, without download: addresses, verses in two languages, and the glosses of WordNet."""

from __future__ import annotations

import json
import lzma
import re
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from fastssl._words import amount
from fastssl.data.corpus import Corpus, _Strings
from fastssl.data.source import Item, Reduction, digest

HELD_OUT = 4000  # of 82,115 nouns
_SPLIT_SEED = 20240
PARTIES = {
    "n": "none",
    "f": "Federalist",
    "dr": "Democratic-Republican",
    "nr": "National Republican",
    "d": "Democratic",
    "w": "Whig",
    "r": "Republican",
    "wd": "Whig, later Democratic",
    "nu": "National Union",
}


@cache
def _lines(name: str) -> list[str]:
    """The lines of an embedded file, unpacked once per process."""
    packed = (files("fastssl.data") / "text" / name).read_bytes()
    return lzma.decompress(packed).decode("utf-8").splitlines()


@cache
def _column(name: str, column: int | None) -> list[str]:
    if column is None:
        return [json.loads(line)["text"] for line in _lines(name)]
    return [line.split("\t")[column] for line in _lines(name)]


@cache
def _rows_of_synsets() -> dict[str, int]:
    return {name: row for row, name in enumerate(_column("glosses.tsv.xz", 0))}


class EmbeddedTexts(_Strings):
    """Texts of an embedded file: a column, or for None the key "text" of JSON lines. Pickles by name."""

    def __init__(self, name: str, column: int | None) -> None:
        self.name, self.column = name, column

    def __len__(self) -> int:
        return len(_column(self.name, self.column))

    def _make(self, index: int) -> str:
        return _column(self.name, self.column)[index]

    @property
    def fingerprint(self) -> str:
        return digest(self.name, str(self.column), str(len(self)))


def sotu(labels: str = "president") -> Corpus:
    """233 State of the Union addresses, 1790 to 2021: 1.8 million words.

    Args:
        labels: the classes: "president" or "party".

    Returns:
        A corpus in order of time, with names such as "1862_abraham_lincoln_r". Licences:
        ``fastssl/data/text/LICENSES.md``.

    Raises:
        ValueError: unknown ``labels``.

    Example:
        >>> import fastssl.data
        >>> fastssl.data.sotu()
        Corpus('sotu', 233 documents, 43 classes)
        >>> fastssl.data.sotu().document(0)[0][:60]
        'Fellow-Citizens of the Senate and House of Representatives: '
    """
    if labels not in ("president", "party"):
        raise ValueError(f"labels: expected 'president' or 'party', got {labels!r}")
    names = [json.loads(line)["name"] for line in _lines("sotu.jsonl.xz")]
    if labels == "president":
        found = [" ".join(name.split("_")[1:-1]).title() for name in names]
    else:
        found = [PARTIES[name.split("_")[-1]] for name in names]
    classes = list(dict.fromkeys(found))  # in order of time
    numbers = [classes.index(one) for one in found]
    corpus = Corpus(
        EmbeddedTexts("sotu.jsonl.xz", None), "sotu", names=names, labels=numbers, classes=classes, language="en"
    )
    corpus.embedded = "sotu"
    return corpus


FIRST_OF_PAIRS = "the first text of each pair; the second ones are left out (open them by their column: #text=NAME)"


class ParallelCorpus(Corpus):
    """A corpus with a second text for each document: its translation, or the second sentence of a pair.

    Args:
        source: the documents.
        target: their second texts, in the same order.

    Raises:
        ValueError: corpora of different lengths.

    Example:
        >>> from fastssl.data import Corpus, ParallelCorpus
        >>> pairs = ParallelCorpus(Corpus(["God said."]), Corpus(["Dijo Dios."]))
        >>> pairs.pair(0)
        ('God said.', 'Dijo Dios.')
    """

    def __init__(self, source: Corpus, target: Corpus) -> None:
        if len(source) != len(target):
            raise ValueError(f"target: expected {amount(len(source), 'document')}, got {len(target)}")
        super().__init__(
            source.texts,
            source.name,
            names=source.names,
            labels=source.labels,
            classes=source.classes,
            language=source.language,
        )
        self.source, self.target = source, target

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        self.target.text(index)  # an item whose second text cannot be read is unreadable
        return super().read(index, reduce)

    def pair(self, index: int) -> tuple[str, str]:
        """Document ``index`` and its second text."""
        return self.source.text(index), self.target.text(index)

    def subset(self, ids: Any, name: str | None = None) -> ParallelCorpus:
        chosen = ParallelCorpus(self.source.subset(ids, name), self.target.subset(ids))
        chosen.labels, chosen.classes = None if self.labels is None else self.labels[np.asarray(ids)], self.classes
        chosen.columns = self.columns
        return chosen

    @property
    def fingerprint(self) -> str:
        return digest(self.source.fingerprint, self.target.fingerprint)


def verses(language: str = "en") -> Corpus:
    """31,044 verses of the Bible in English and Spanish, aligned: 750,000 and 700,000 words.

    Args:
        language: "en", "es", or "en-es" and "es-en" for pairs.

    Returns:
        A corpus of one verse per document, with names such as "Genesis 1:1" and the 66 books as classes; of pairs a
        :class:`ParallelCorpus`. Licences: ``fastssl/data/text/LICENSES.md``.

    Raises:
        ValueError: unknown ``language``.

    Example:
        >>> import fastssl.data
        >>> fastssl.data.verses("en-es").pair(2)
        ('God said, “Let there be light,” and there was light.', 'Y dijo Dios: Sea la luz: y fué la luz.')
    """
    columns = {"en": 1, "es": 2}
    if language in ("en-es", "es-en"):
        first, second = language.split("-")
        pairs = ParallelCorpus(verses(first), verses(second))
        pairs.name = pairs.embedded = f"verses-{language}"
        return pairs
    if language not in columns:
        raise ValueError(f"language: expected 'en', 'es', 'en-es' or 'es-en', got {language!r}")
    names = _column("verses.tsv.xz", 0)
    books = [re.sub(r" \d+:\d+$", "", name) for name in names]
    classes = {book: k for k, book in enumerate(dict.fromkeys(books))}
    corpus = Corpus(
        EmbeddedTexts("verses.tsv.xz", columns[language]),
        f"verses-{language}",
        names=names,
        labels=[classes[book] for book in books],
        classes=list(classes),
        language=language,
    )
    corpus.embedded = corpus.name
    return corpus


class Glosses(Corpus):
    """The glosses of WordNet 3.0: see :func:`glosses`."""

    def words(self, index: int) -> list[str]:
        """The words (and collocations, with spaces) of synset ``index``."""
        return _column("glosses.tsv.xz", 2)[self._place(index)].replace("_", " ").split(",")

    def hypernyms(self, index: int) -> list[str]:
        """The names of the more general synsets of synset ``index``."""
        listed = _column("glosses.tsv.xz", 3)[self._place(index)]
        return listed.split(",") if listed else []

    def _place(self, index: int) -> int:
        return _rows_of_synsets()[self.names[index]]

    def subset(self, ids: Any, name: str | None = None) -> Glosses:
        chosen = super().subset(ids, name)
        return Glosses(
            chosen.texts, chosen.name, names=chosen.names, labels=chosen.labels, classes=self.classes, language="en"
        )


def glosses(part: str = "all") -> Glosses:
    """The 117,659 synsets of WordNet 3.0, one gloss (with its examples) each: 1.5 million words.

    Args:
        part: "all"; "nouns": the 82,115 synsets that have a class; "test": 4,000 of them, to classify; "train": all
            but those.

    Returns:
        A corpus named by synset ("00001740n"), with the 26 lexicographer classes of nouns; label -1 for verbs,
        adjectives and adverbs. ``words(i)``: the words of a synset; ``hypernyms(i)``: names of the more general ones.
        The WordNet licence: ``fastssl/data/text/LICENSE.wordnet``.

    Raises:
        ValueError: unknown ``part``.

    Example:
        >>> import fastssl.data
        >>> glosses = fastssl.data.glosses()
        >>> glosses.words(4), glosses.hypernyms(4), glosses.classes[glosses.labels[4]]
        (['object', 'physical object'], ['00001930n'], 'noun.Tops')
    """
    if part not in ("all", "nouns", "train", "test"):
        raise ValueError(f"part: expected 'all', 'nouns', 'train' or 'test', got {part!r}")
    kinds = _column("glosses.tsv.xz", 1)
    classes = sorted({kind for kind in kinds if kind.startswith("noun.")})
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number.get(kind, -1) for kind in kinds])
    whole = Glosses(
        EmbeddedTexts("glosses.tsv.xz", 4),
        "glosses",
        names=_column("glosses.tsv.xz", 0),
        labels=labels,
        classes=classes,
        language="en",
    )
    nouns = np.flatnonzero(labels >= 0)
    test = np.sort(np.random.default_rng(_SPLIT_SEED).permutation(nouns)[:HELD_OUT])
    ids = {
        "all": np.arange(len(labels)),
        "nouns": nouns,
        "test": test,
        "train": np.setdiff1d(np.arange(len(labels)), test),
    }
    chosen = whole if part == "all" else whole.subset(ids[part], f"glosses-{part}")
    chosen.embedded = chosen.name
    return chosen
