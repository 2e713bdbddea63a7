"""Token files: a corpus as ids, memory-mapped.

8 bytes   magic
ids       uint16 or uint32, all documents in order, each ended by the tokenizer's ``sep``
table     sentences int64 [S + 1] (where sentences start), documents int64 [D + 1] (where documents start), sizes int64
          [D] (bytes of their texts), labels int64 [D] (-1: none), checksums uint32 (of every ``BLOCK`` bytes of ids)
header    JSON: version, counts, dtype, checksum of the table, name, classes, fingerprint of the corpus, tokenizer
footer    offsets of table and header, length and checksum of the header, magic
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastssl._files import replacing
from fastssl._words import amount
from fastssl.data.container import FOOTER, write_end
from fastssl.data.corpus import Corpus
from fastssl.data.source import Item, Reduction, Source, check_index, digest
from fastssl.data.tokenizer import FILE, Tokenizer, tokenizer_of

log = logging.getLogger("fastssl")
MAGIC = b"FSSLTOK1"
VERSION = 1
BLOCK = 1 << 20  # bytes of ids per checksum
DOCUMENTS = 64  # encoded at a time
FEW = 20  # documents below which a part of a corpus is cut at a sentence instead


class TokenError(ValueError):
    """Not a token file, or a damaged one."""


def tokenize_corpus(
    corpus: Any, tokenizer: Tokenizer, path: str | Path, progress: Callable[[int, int], None] | None = None
) -> TokenFile:
    """Writes the tokens of a corpus to a file, atomically.

    Args:
        corpus: a :class:`Corpus`, or a list of texts. Empty sentences and documents are left out.
        tokenizer: see :func:`train_tokenizer`; it is stored in the file.
        path: path of the file.
        progress: called with the number of documents done, and of all.

    Raises:
        TypeError: ``corpus`` is neither.
        ValueError: a corpus without any token.

    Example:
        >>> import tempfile
        >>> from fastssl.data import Corpus, Tokenizer, tokenize_corpus
        >>> corpus = Corpus(["A rose is a rose.", "Is it?"])
        >>> tokenize_corpus(corpus, Tokenizer(), tempfile.mkdtemp() + "/two.tok")
        TokenFile('corpus', 27 tokens, 2 documents)
    """
    corpus = corpus if hasattr(corpus, "document") else Corpus(corpus)
    path = Path(path)
    dtype = np.dtype("<u2" if tokenizer.size <= 1 << 16 else "<u4")
    sentences, documents, sizes, labels, crcs = [0], [0], [], [], []
    pending, total = b"", 0
    given = getattr(corpus, "labels", None) if len(getattr(corpus, "classes", ())) else None
    if given is not None and given.ndim == 2:
        log.warning("%s has several classes per text, which a token file does not hold", corpus.name)
        given = None
    with replacing(path) as fresh, open(fresh, "wb") as file:
        file.write(MAGIC)
        for first in range(0, len(corpus), DOCUMENTS):
            texts = [[s for s in corpus.document(i) if s] for i in range(first, min(first + DOCUMENTS, len(corpus)))]
            flat = iter(tokenizer.encode([sentence for document in texts for sentence in document]))
            for k, document in enumerate(texts):
                parts = [ids for ids in itertools.islice(flat, len(document)) if len(ids)]
                if not parts:
                    continue
                ends = total + np.cumsum([len(ids) for ids in parts])
                ends[-1] += 1  # sep
                sentences += ends.tolist()
                total = sentences[-1]
                documents.append(total)
                sizes.append(sum(len(s.encode()) + 1 for s in document))
                labels.append(-1 if given is None else int(given[first + k]))
                pending += np.concatenate([*parts, [tokenizer.sep]]).astype(dtype).tobytes()
            while len(pending) >= BLOCK:
                crcs.append(zlib.crc32(pending[:BLOCK]))
                file.write(pending[:BLOCK])
                pending = pending[BLOCK:]
            if progress is not None:
                progress(min(first + DOCUMENTS, len(corpus)), len(corpus))
        if not total:
            raise ValueError(f"data: expected at least one token, {getattr(corpus, 'name', 'the corpus')} is empty")
        if pending:
            crcs.append(zlib.crc32(pending))
        file.write(pending)
        parts64 = [np.array(part, "<i8").tobytes() for part in (sentences, documents, sizes, labels)]
        table = b"".join([*parts64, np.array(crcs, "<u4").tobytes()])
        start = len(MAGIC) + total * dtype.itemsize
        header = {
            "version": VERSION,
            "tokens": total,
            "sentences": len(sentences) - 1,
            "documents": len(documents) - 1,
            "dtype": dtype.str,
            "name": str(getattr(corpus, "name", path.stem)),
            "classes": list(getattr(corpus, "classes", ())),
            "corpus": str(getattr(corpus, "fingerprint", "")),
            "tokenizer": tokenizer.to_json(),
        }
        write_end(file, MAGIC, start, table, header)
    return TokenFile(path)


def check_held_out(share: float) -> float:
    """A share of a corpus that is left out of training.

    Raises:
        ValueError: it is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"held_out: expected a share in [0, 1), got {share}")
    return share


class TokenFile(Source):
    """The tokens of a corpus in a file (see :func:`tokenize_corpus`), memory-mapped; an item is a document.

    Header and table are verified when the file is opened, the ids of each MiB when they are first read.

    Args:
        path: path of the file.

    Raises:
        TokenError: not a token file, one of another version, or a cut or damaged one.
        FileNotFoundError: no such file.

    Example:
        >>> import tempfile
        >>> from fastssl.data import Corpus, Tokenizer, tokenize_corpus
        >>> file = tokenize_corpus(Corpus(["A rose.", "Is it?"]), Tokenizer(), tempfile.mkdtemp() + "/two.tok")
        >>> file.read(0).text
        'A rose.'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.where = os.path.abspath(self.path)
        size = os.path.getsize(self.path)
        with open(self.path, "rb") as file:
            magic = file.read(len(MAGIC))
            if magic != MAGIC:
                raise TokenError(f"{self.path}: not a token file")
            file.seek(max(size - FOOTER.size, 0))
            footer = file.read()
            if len(footer) < FOOTER.size or not footer.endswith(MAGIC):
                raise TokenError(f"{self.path}: cut (it does not end as a token file does)")
            table, header, length, crc, _ = FOOTER.unpack(footer)
            if not len(MAGIC) <= table <= header or header + length + FOOTER.size != size:
                raise TokenError(f"{self.path}: cut or damaged (its parts do not add up to {size} bytes)")
            file.seek(table)
            raw, text = file.read(header - table), file.read(length)
        if zlib.crc32(text) != crc:
            raise TokenError(f"{self.path}: damaged (checksum of the header)")
        about = json.loads(text)
        if about["version"] != VERSION:
            raise TokenError(f"{self.path}: expected version {VERSION}, got {about['version']}; tokenize it again")
        if zlib.crc32(raw) != about["table_crc"]:
            raise TokenError(f"{self.path}: damaged (checksum of the table)")
        counts = about["sentences"] + 1, about["documents"] + 1, about["documents"], about["documents"]
        cuts = np.cumsum([0, *counts]) * 8
        parts = [np.frombuffer(raw[a:b], "<i8") for a, b in zip(cuts, cuts[1:])]
        self.sentences, self.documents, self.sizes, labels = parts
        self.labels = labels if bool((labels >= 0).any()) else None
        self.name, self.classes = about["name"], about["classes"]
        self.corpus: str = about["corpus"]
        self._fingerprint = digest(text)
        self.tokenizer = tokenizer_of(about["tokenizer"])
        self._ids = np.memmap(self.path, about["dtype"], "r", len(MAGIC), (about["tokens"],))
        self._crcs = np.frombuffer(raw[cuts[-1] :], "<u4")
        self._verified = np.zeros(len(self._crcs), dtype=bool)

    def __len__(self) -> int:
        return len(self.documents) - 1

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        start, stop = self.documents[check_index(index, len(self)) :][:2].tolist()
        label = None if self.labels is None else int(self.labels[index])
        ids = self.ids(start, stop - 1)
        return Item(tokens=ids, text=self.tokenizer.decode(ids), label=label, name=self.name_of(index))

    @property
    def total(self) -> int:
        """Number of tokens."""
        return len(self._ids)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def ids(self, start: int, stop: int) -> np.ndarray:
        """The ids at [start, stop), int64.

        Raises:
            TokenError: they are damaged.
        """
        size = self._ids.itemsize
        for block in range(start * size // BLOCK, -(-stop * size // BLOCK)):
            if not self._verified[block]:
                per = BLOCK // size
                if zlib.crc32(self._ids[block * per : (block + 1) * per].tobytes()) != self._crcs[block]:
                    raise TokenError(f"{self.path}: damaged (checksum of the tokens from {block * per} on)")
                self._verified[block] = True
        return self._ids[start:stop].astype(np.int64)

    def unknown(self) -> int:
        """The number of tokens that stand for what the tokenizer has no token for.

        Raises:
            TokenError: a damaged file.
        """
        size = 2**22
        return sum(
            int((self.ids(at, min(at + size, self.total)) == self.tokenizer.unk).sum())
            for at in range(0, self.total, size)
        )

    def divide(self, held_out: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """The tokens [start, stop) of the training part, and of the last ``held_out`` (a share) of the corpus, cut
        between documents, or between sentences if there are few documents.

        Raises:
            ValueError: ``held_out`` is not in [0, 1), or leaves nothing to train on.
        """
        if check_held_out(held_out) == 0:
            return (0, self.total), (self.total, self.total)
        places = self.documents if len(self.documents) > FEW else self.sentences
        cut = int(places[np.abs(places - (1 - held_out) * self.total).argmin()])
        if cut == 0:
            raise ValueError(
                f"held_out: expected a smaller share, {held_out} of {self.name} leaves nothing to train on"
            )
        return (0, cut), (cut, self.total)

    def bytes_of(self, start: int, stop: int) -> int:
        """Bytes of the text of the tokens [start, stop), in proportion where it is a part of a document."""
        inside = np.diff(np.clip(self.documents, start, stop)) / np.maximum(np.diff(self.documents), 1)
        return round(float((inside * self.sizes).sum()))

    def texts(self, start: int, stop: int) -> Iterator[str]:
        """The texts of the documents in [start, stop), decoded; of parts of documents where it cuts some."""
        for a, b in zip(self.documents, self.documents[1:]):
            if b > start and a < stop:
                yield self.tokenizer.decode(self.ids(max(int(a), start), min(int(b), stop)))

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.__init__(path)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"TokenFile({self.name!r}, {amount(self.total, 'token')}, {amount(len(self), 'document')})"


def load_tokenizer(where: str | Path) -> Tokenizer:
    """Loads a tokenizer: "bytes", a ``tokenizer.json``, a folder with one (a run, a Hugging Face model), or that of a
    token file.

    Args:
        where: name or path.

    Raises:
        FileNotFoundError: no such file.
        ImportError: without the extra ``text``, for anything but bytes.
        ValueError: not a tokenizer.

    Example:
        >>> from fastssl.data import load_tokenizer
        >>> load_tokenizer("bytes")
        Tokenizer('bytes', 261 tokens)
    """
    if str(where) == "bytes":
        return Tokenizer()
    path = Path(where).expanduser()
    for candidate in (path, *(path / of / FILE for of in (".", "checkpoint", "checkpoint.old"))):
        if candidate.is_file():
            if candidate.suffix == ".tok":
                return TokenFile(candidate).tokenizer
            try:
                return tokenizer_of(candidate.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"tokenizer: {str(candidate)!r} cannot be read as a {FILE} ({error})") from error
    raise FileNotFoundError(
        f"tokenizer: expected 'bytes', a {FILE}, a token file, or a folder with one of these, got {str(where)!r}; "
        "wordpiece, bpe and unigram are trained (--tokenizer of the commands, train_tokenizer)"
    )
