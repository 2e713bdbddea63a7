"""Sources of windows of a token file: of its stream, of whole sentences of one document, or of one to three."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastssl._options import integer
from fastssl.data.source import Item, Reduction, Source, check_index, digest
from fastssl.data.tokens import TokenFile

SENTENCES = {"sentence": 1, "pair": 2, "triple": 3}  # sentences per window
KINDS = ("stream", "sentences", *SENTENCES)


class Window(NamedTuple):
    """Consecutive tokens of a token file.

    Args:
        ids: int64 [T].
        sentences: int64, positions in ``ids`` at which sentences start, from 0 on.
        source: the source that the window was read from, for objectives that contrast it with other windows.
        place: its index there.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import Window
        >>> len(Window(np.arange(4), np.zeros(1, np.int64)).ids)
        4
    """

    ids: np.ndarray
    sentences: np.ndarray
    source: Windows | None = None
    place: int = 0


class Windows(Source):
    """Windows of a token file, as items with ``tokens`` (a :class:`Window`).

    Args:
        file: the token file.
        length: tokens per window, at most.
        span: tokens [start, stop) of the file to use; None: all.
        whole: "stream": windows of ``length`` + 1 tokens (inputs and the next tokens) over documents and their ends,
            one after the other, from the token before the span on, so that each token of it is a next token once: the
            first document of a file follows an end, too; "sentences": as many whole sentences of one document as fit,
            without its end; a longer sentence is cut into pieces; "sentence": each sentence, "pair" and "triple": each
            two and three consecutive sentences of one document, of at most ``length`` tokens each.

    Attributes:
        cut: number of sentences that are longer than ``length`` and lose their end, of all kinds but the first two.

    Raises:
        ValueError: an unknown kind, a ``length`` below 1, or a span with fewer than two tokens.

    Example:
        >>> import tempfile
        >>> from fastssl.data import Corpus, Tokenizer, Windows, tokenize_corpus
        >>> file = tokenize_corpus(Corpus(["A rose. Is it?"]), Tokenizer(), tempfile.mkdtemp() + "/one.tok")
        >>> [len(item.tokens.ids) for item in map(Windows(file, 10, whole="sentences").read, range(2))]
        [8, 7]
    """

    def __init__(
        self, file: TokenFile, length: int, span: tuple[int, int] | None = None, whole: str = "stream"
    ) -> None:
        if whole not in KINDS:
            raise ValueError(f"whole: expected one of {', '.join(KINDS)}, got {whole!r}")
        self.file, self.length, self.whole = file, integer("length", length, 1), whole
        self.start, self.stop = (0, file.total) if span is None else span
        if not 0 <= self.start <= self.stop <= file.total:
            raise ValueError(f"span: expected tokens from 0 to {file.total}, got {span}")
        if self.stop - self.start < 2:
            raise ValueError(f"data: expected at least two tokens, {file.name} has {self.stop - self.start} here")
        self.name, self.where, self.embedded = file.name, file.where, None
        self.unit = f"windows of up to {length} tokens (of more texts, or a smaller length)"
        self.cut = 0
        if whole in SENTENCES:
            self.starts, self.stops, self.cut = _runs(file, self.start, self.stop, SENTENCES[whole], length)
            if not len(self.starts):
                raise ValueError(
                    f"data: expected a document of at least {SENTENCES[whole]} sentences, {file.name} has none here; a "
                    "line break ends a sentence, and so does . ! or ? before a capital letter"
                )
        elif whole == "stream":
            self.starts = np.arange(self.start - 1, self.stop - 1, length)
            self.stops = np.minimum(self.starts + length + 1, self.stop)
        else:
            self.starts, self.stops = _sentences(file, self.start, self.stop, length)
        self.documents = np.searchsorted(file.documents, self.starts, side="right") - 1

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        start, stop = int(self.starts[check_index(index, len(self))]), int(self.stops[index])
        a, b = np.searchsorted(self.file.sentences, [start + 1, stop])
        sentences = np.concatenate([[0], self.file.sentences[a:b] - start])
        ids = self.file.ids(max(start, 0), stop)
        if start < 0:  # of a stream; an end precedes all other documents
            ids = np.concatenate([[self.file.tokenizer.sep], ids])
        if self.whole in SENTENCES:
            parts = [part[: self.length] for part in np.split(ids, sentences[1:])]
            ids, sentences = np.concatenate(parts), np.cumsum([0, *(len(part) for part in parts[:-1])])
            return Item(tokens=Window(ids, sentences, self, index), name=self.name_of(index))
        return Item(tokens=Window(ids, sentences, self, index), name=self.name_of(index))

    def elsewhere(self, index: int, draw: float) -> int | None:
        """The index of a window of another document than window ``index``, uniform by ``draw`` in [0, 1); None: all
        are of one document."""
        first, last = np.searchsorted(self.documents, [self.documents[index], self.documents[index] + 1])
        others = len(self) - int(last - first)
        if not others:
            return None
        chosen = min(int(draw * others), others - 1)
        return chosen if chosen < first else chosen + int(last - first)

    def name_of(self, index: int) -> str:
        return f"tokens {max(self.starts[index], 0)} to {self.stops[index]}"

    @property
    def fingerprint(self) -> str:
        began = ["from the token before"] if self.whole == "stream" else []
        return digest(self.file.fingerprint, self.whole, str((self.length, self.start, self.stop)), *began)

    @property
    def earlier_fingerprint(self) -> str:
        """That of earlier versions, whose windows of a stream began one token later."""
        return digest(self.file.fingerprint, self.whole, str((self.length, self.start, self.stop)))


def passage(window: Window, length: int, most: int) -> np.ndarray:
    """Whole sentences from within a window, as near to ``length`` tokens as there are, at most ``most``: as long as the
    text that they replace, and like it never the start of a document, so that neither tells the two apart."""
    ids, borders = window.ids, [*window.sentences[1:].tolist(), len(window.ids)]
    if len(borders) == 1:  # one sentence: its end, as where a window is cut
        return ids[-max(1, min(length, most, len(ids) // 2)) :]
    lengths = np.subtract.outer(borders[1:], borders[:-1]).T  # [first, last] sentence of a passage
    fits = (lengths > 0) & (lengths <= most)
    if not fits.any():
        return ids[borders[0] : borders[0] + most]
    distance = np.where(fits, np.abs(lengths - length), np.iinfo(np.int64).max)
    first, last = divmod(int(distance.argmin()), lengths.shape[1])
    return ids[borders[first] : borders[last + 1]]


def _runs(file: TokenFile, start: int, stop: int, count: int, length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """[start, stop) of every ``count`` consecutive sentences of one document, without its end; and how many sentences
    are longer than ``length``."""
    first, last = np.searchsorted(file.sentences, [start, stop])
    borders = file.sentences[first : last + (last < len(file.sentences) and file.sentences[last] == stop)]
    starts, stops = borders[: max(len(borders) - count, 0)], borders[count:]
    document = np.searchsorted(file.documents, starts, side="right") - 1
    end = file.documents[document + 1]
    inside = stops <= end
    ends = np.isin(borders[1:], file.documents)  # sentences with the end of a document
    cut = int((np.diff(borders) - ends > length).sum())
    return starts[inside], (stops - (stops == end))[inside], cut


def _sentences(file: TokenFile, start: int, stop: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """[start, stop) of every window of whole sentences."""
    windows: list[tuple[int, int]] = []
    for begin, end in zip(file.documents.tolist(), file.documents[1:].tolist()):
        place, last = max(begin, start), min(end - 1, stop)  # without the document's end
        while place < last:
            limit = place + length
            if limit >= last:
                cut = last
            else:
                cut = int(file.sentences[np.searchsorted(file.sentences, limit, side="right") - 1])
                cut = cut if cut > place else limit
            windows.append((place, cut))
            place = cut
    pairs = np.array(windows, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
