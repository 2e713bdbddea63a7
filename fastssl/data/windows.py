"""Sources of windows of a token file: of its stream, or of whole sentences of one document."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastssl.data.source import Item, Reduction, Source, check_index, digest
from fastssl.data.tokens import TokenFile


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
            one after the other; "sentences": as many whole sentences of one document as fit, without its end; a longer
            sentence is cut into pieces.

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
        if whole not in ("stream", "sentences"):
            raise ValueError(f"whole: expected 'stream' or 'sentences', got {whole!r}")
        if length < 1:
            raise ValueError(f"length: expected at least one token, got {length}")
        self.file, self.length, self.whole = file, length, whole
        self.start, self.stop = (0, file.total) if span is None else span
        if self.stop - self.start < 2:
            raise ValueError(f"data: expected at least two tokens, {file.name} has {self.stop - self.start} here")
        self.name, self.where, self.embedded = file.name, file.where, None
        if whole == "stream":
            self.starts = np.arange(self.start, self.stop - 1, length)
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
        return Item(tokens=Window(self.file.ids(start, stop), sentences, self, index), name=self.name_of(index))

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
        return f"tokens {self.starts[index]} to {self.stops[index]}"

    @property
    def fingerprint(self) -> str:
        return digest(self.file.fingerprint, self.whole, str((self.length, self.start, self.stop)))


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
