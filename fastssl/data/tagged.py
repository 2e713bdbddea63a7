"""Sentences whose words have tags: parts of speech, or spans such as names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastssl._words import amount
from fastssl.data.corpus import Corpus, utf8

IGNORED_TAG = "-"  # of a word that is not scored
# Tags of spans: their first letters in each scheme, and what these are as IOB2. IOB1 has those of IOB2.
_SCHEMES = ("BI", "BIES", "BILU", "BMES")
_AS_IOB2 = {"B": "B", "S": "B", "U": "B", "I": "I", "M": "I", "E": "I", "L": "I"}


class Tagged:
    """Sentences, lists of words, with a tag for each word.

    Spans are tagged as IOB2: "B-KIND" begins one, "I-KIND" continues it, "O" is outside; tags as IOB1, IOBES, BILOU or
    BMES, and "B" and "I" without a kind, become such. Tags are numbered so that "O" is 0, and "B-KIND" and "I-KIND" of
    the k-th kind are 2 k + 1 and 2 k + 2; other tags in alphabetical order.

    Args:
        words: the words of each sentence.
        tags: their tags; "-" is not scored.

    Attributes:
        classes: the names of the tags by number.
        spans: whether the tags are spans.
        labels: int64 [N, W], numbers of tags; -100 where there is no word, or none that is scored.

    Raises:
        ValueError: no sentences, empty ones, or unequally many words and tags.

    Example:
        >>> from fastssl.data import Tagged
        >>> made = Tagged([["Mr", "Lincoln", "spoke"]], [["B-NAME", "I-NAME", "O"]])
        >>> made.classes, made.labels.tolist()
        (['O', 'B-NAME', 'I-NAME'], [[1, 2, 0]])
    """

    def __init__(self, words: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> None:
        if not len(words) or len(words) != len(tags):
            raise ValueError(f"tags: expected those of each sentence, at least one, got {len(tags)} for {len(words)}")
        for k, (some, theirs) in enumerate(zip(words, tags)):
            if not len(some) or len(some) != len(theirs):
                raise ValueError(f"tags: sentence {k} has {amount(len(some), 'word')} and {len(theirs)} tags")
        self.words, self.tags = [list(some) for some in words], [list(theirs) for theirs in tags]
        known = {tag for theirs in self.tags for tag in theirs} - {IGNORED_TAG}
        self.spans = _are_spans(known)
        if self.spans:
            as_iob2 = {tag: _AS_IOB2[tag[0]] + tag[1:] for tag in known - {"O"}}
            self.tags = [[as_iob2.get(tag, tag) for tag in theirs] for theirs in self.tags]
            kinds = sorted({tag[1:] for tag in known - {"O"}})
            self.classes = ["O", *(f"{part}{kind}" for kind in kinds for part in "BI")]
        else:
            self.classes = sorted(known)
        number = {tag: k for k, tag in enumerate(self.classes)} | {IGNORED_TAG: -100}
        self.labels = np.full((len(words), max(map(len, words))), -100, dtype=np.int64)
        for row, theirs in zip(self.labels, self.tags):
            row[: len(theirs)] = [number[tag] for tag in theirs]

    def __len__(self) -> int:
        return len(self.words)

    def subset(self, ids: Any) -> Tagged:
        """Some of the sentences; tags that they do not have are no classes."""
        return Tagged([self.words[int(k)] for k in ids], [self.tags[int(k)] for k in ids])


def _are_spans(known: set[str]) -> bool:
    """Whether tags are those of spans, of one scheme, all with a kind or none."""
    parts, kinds = {tag[:1] for tag in known - {"O"}}, {tag[1:] for tag in known - {"O"}}
    of_one = any(parts <= set(scheme) for scheme in _SCHEMES)
    bare = kinds == {""} and parts >= {"B", "I"}  # "B" alone may be a name
    return bool(known) and of_one and (bare or all(kind[:1] == "-" for kind in kinds))


def read_conll(path: str | Path, column: int | None = None) -> Tagged:
    """Reads a file of CoNLL: a word and its columns per line, an empty line after each sentence.

    Args:
        path: the file; lines that begin with "-DOCSTART-", comments (lines that begin with "#" and have other columns
            than the words), and words with an id such as "3-4" or "3.1" (CoNLL-U) are left out.
        column: the column of the tags; None: the last (names of CoNLL 2003), of the ten columns of CoNLL-U, whose words
            are in column 1, column 3 (parts of speech).

    Raises:
        OSError: no such file.
        ValueError: a line without that column, or with more or fewer than others of its sentence; no sentence.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import read_conll
        >>> file = Path(tempfile.mkdtemp()) / "names.txt"
        >>> _ = file.write_text("Lincoln NNP B-PER\\nspoke VBD O\\n\\nYes UH O\\n")
        >>> read_conll(file).words
        [['Lincoln', 'spoke'], ['Yes']]
    """
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    width, tabs = 0, False  # columns of a word, and whether tabs separate them
    columns = 0  # of the words of a sentence: some files have more, the more predicates it has
    unsure: dict[int, int] = {}  # lines with which a sentence begins that are comments, or the word "#"
    for number, line in enumerate(utf8(str(path)).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            words.append([])
            tags.append([])
            continue
        parts = line.split("\t") if "\t" in line else [part for part in line.split(" ") if part]
        if line.startswith("#"):
            if len(parts) != width or ("\t" in line) != tabs:
                continue
            if len(words[-1]) == (before := unsure.get(len(words) - 1, 0)):
                unsure[len(words) - 1] = before + 1
        if line.startswith("-DOCSTART-"):
            continue
        if not width:
            width, tabs = len(parts), "\t" in line
        of_conllu = len(parts) == 10
        place = column if column is not None else 3 if of_conllu else -1
        if not -len(parts) <= place < len(parts) or len(parts) < 2:
            raise ValueError(f"column: expected one of {len(parts)} in line {number} of {path}, got {column}")
        if of_conllu and not parts[0].isdigit():
            continue
        if not words[-1]:
            columns = len(parts)
        elif len(parts) != columns:  # such as a text without tags
            raise ValueError(
                f"path: expected {amount(columns, 'column')} in line {number} of {path}, as before, got {len(parts)}"
            )
        words[-1].append(parts[1 if of_conllu else 0])
        tags[-1].append(parts[place])
    known = {tag for s, row in enumerate(tags) for tag in row[unsure.get(s, 0) :]}
    for s, count in unsure.items():
        for k in reversed(range(count)):
            if tags[s][k] not in known:
                del words[s][k], tags[s][k]
    filled = [k for k, some in enumerate(words) if some]
    if not filled:
        raise ValueError(f"path: expected sentences in {path}, there are none")
    return Tagged([words[k] for k in filled], [tags[k] for k in filled])


def capitals(corpus: Corpus, ids: Any, longest: int = 40) -> Tagged:
    """Sentences in lower case, and which of their words were capitalised: spans "B-NAME", "I-NAME" of names, without
    any label of a person's. The first word of a sentence is not scored.

    Args:
        corpus: texts in a language with capitals.
        ids: indices of the documents.
        longest: words of a sentence; longer ones are left out.

    Raises:
        ValueError: no sentence.

    Example:
        >>> from fastssl.data import Corpus, capitals
        >>> capitals(Corpus(["We met Mr Lincoln. He spoke."]), [0]).tags
        [['-', 'O', 'B-NAME', 'I-NAME'], ['-', 'O']]
    """
    words, tags = [], []
    for sentence in (sentence for index in ids for sentence in corpus.document(int(index))):
        found = re.findall(r"\w+(?:[^\w\s]\w+)*", sentence)
        if not 2 <= len(found) <= longest:
            continue
        upper = [word[0].isupper() and word not in ("I", "O") for word in found]
        named = ["O" if not up else "I-NAME" if k > 1 and upper[k - 1] else "B-NAME" for k, up in enumerate(upper)]
        words.append([word.lower() for word in found])
        tags.append([IGNORED_TAG, *named[1:]])
    return Tagged(words, tags)
