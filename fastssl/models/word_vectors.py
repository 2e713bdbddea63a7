"""``WordVectors``: vectors of words, their neighbours and analogies, and the files of word2vec."""

from __future__ import annotations

import difflib
import gzip
import io
import warnings
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl._files import replacing
from fastssl._options import integer
from fastssl._words import amount
from fastssl.models.given import Values, as_tensor

_SEARCHED = 50_000  # most frequent words among which a misspelt one is looked for
_ERRORS = ("strict", "ignore", "replace")
_CHUNK = 1 << 20  # bytes read at once
_SMALL = 1e-3  # of 3CosMul's denominator


class UnknownWordError(KeyError):
    """A word without a vector."""

    def __str__(self) -> str:
        return str(self.args[0])


def _numbers_of_occurrences(counts: Values, words: int) -> np.ndarray:
    given = as_tensor("counts", counts)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"counts: expected integers, got {given.dtype}")
    if given.shape != (words,):
        raise ValueError(f"counts: expected one for each of {words} words, got shape {tuple(given.shape)}")
    numbers: np.ndarray = given.cpu().numpy().astype(np.int64)
    if len(numbers) and numbers.min() < 0:
        raise ValueError(f"counts: expected integers >= 0, got {numbers.min()}")
    return numbers


class WordVectors:
    """One vector per word.

    Args:
        words: the words, most frequent first.
        vectors: [V, D], float32.
        counts: [V] how often each occurs in the corpus, or None.

    Raises:
        TypeError: ``vectors`` is no matrix of floating point numbers, or counts that are no integers.
        ValueError: another number of vectors or counts than words, a count below 0, a word twice, or values that are
            not finite.

    Example:
        >>> import torch
        >>> from fastssl.models import WordVectors
        >>> vectors = WordVectors(["king", "man", "queen", "woman"], torch.tensor([[2., 1], [0, 1], [2, -1], [0, -1]]))
        >>> vectors.most_similar("king", 1)[0][0]
        'queen'
        >>> vectors.analogy("man", "king", "woman")[0][0]
        'queen'
        >>> "prince" in vectors, vectors["king"].shape
        (False, torch.Size([2]))
    """

    def __init__(self, words: Sequence[str], vectors: Tensor | np.ndarray, counts: Values | None = None) -> None:
        vectors = torch.as_tensor(vectors)
        if vectors.dim() != 2 or not vectors.is_floating_point():
            raise TypeError(f"vectors: expected floats [V, D], got {vectors.dtype} of shape {tuple(vectors.shape)}")
        if len(words) != len(vectors):
            raise ValueError(f"vectors: expected one for each of {len(words)} words, got {len(vectors)}")
        vectors = vectors.float()
        if not bool(torch.isfinite(vectors).all()):
            wrong = int((~torch.isfinite(vectors).all(1)).nonzero()[0])
            raise ValueError(f"vectors: expected finite values, that of {words[wrong]!r} has others")
        self.words, self.vectors = list(words), vectors.contiguous()
        self.counts = None if counts is None else _numbers_of_occurrences(counts, len(words))
        self.index = {word: k for k, word in enumerate(self.words)}
        if len(self.index) != len(self.words):
            twice = next(word for k, word in enumerate(self.words) if self.index[word] != k)
            raise ValueError(f"words: {twice!r} is there twice")
        self._unit: Tensor | None = None

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __getitem__(self, word: str | Sequence[str]) -> Tensor:
        """The vector [D] of a word, or the vectors [N, D] of several.

        Raises:
            TypeError: no strings; ``vectors`` and ``words`` are those by number.
            UnknownWordError: a word without a vector.
        """
        return self.vectors[self._number(word)] if isinstance(word, str) else self.vectors[self._numbers(word)]

    def __repr__(self) -> str:
        return f"WordVectors({amount(len(self), 'word')}, {amount(self.vectors.shape[1], 'dimension')})"

    @property
    def unit(self) -> Tensor:
        """The vectors at unit length (a vector of zeros stays one)."""
        if self._unit is None:
            self._unit = torch.nn.functional.normalize(self.vectors, dim=1, eps=1e-30)
        return self._unit

    def _number(self, word: str) -> int:
        if not isinstance(word, str):
            raise TypeError(f"word: expected a string, got {type(word).__name__} {word!r}")
        number = self.index.get(word)
        if number is None:
            lower = word.lower()
            near = [lower] if lower in self.index else difflib.get_close_matches(lower, self.words[:_SEARCHED], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UnknownWordError(f"word: {word!r} is not among the {len(self):,} words{hint}")
        return number

    def _numbers(self, words: str | Iterable[str]) -> list[int]:
        if not isinstance(words, Iterable):
            raise TypeError(f"words: expected a string or several, got {type(words).__name__} {words!r}")
        return [self._number(word) for word in ([words] if isinstance(words, str) else words)]

    def similarity(self, a: str, b: str) -> float:
        """The cosine of two words' vectors."""
        x, y = self.unit[self._numbers([a, b])]
        return float(x @ y)

    def nearest(self, queries: Values, k: int = 10) -> list[list[tuple[str, float]]]:
        """The k words nearest to each of several vectors, with cosines, nearest first.

        Args:
            queries: [N, D].
            k: number of words.

        Raises:
            ValueError: queries of another shape, or k below 1.
        """
        k = integer("k", k, 1)
        dim, queries = self.vectors.shape[1], as_tensor("queries", queries)
        if queries.dim() != 2 or queries.shape[1] != dim:
            raise ValueError(f"queries: expected vectors [N, {dim}], got shape {tuple(queries.shape)}")
        unit = torch.nn.functional.normalize(queries.float(), dim=1, eps=1e-30)
        cosines, numbers = F.nearest(unit, self.unit, min(k, len(self)), metric="dot")
        return [[(self.words[n], v) for n, v in zip(*row)] for row in zip(numbers.tolist(), cosines.tolist())]

    def most_similar(
        self, positive: str | Sequence[str] = (), k: int = 10, *, negative: str | Sequence[str] = ()
    ) -> list[tuple[str, float]]:
        """The words nearest to the mean of the unit vectors of ``positive`` and of minus those of ``negative``.

        Args:
            positive: a word, or several.
            k: number of words.
            negative: words to be far from.

        Returns:
            Pairs of a word and its cosine, nearest first, without the words given.

        Raises:
            UnknownWordError: a word without a vector.
            ValueError: no words, or k below 1.
        """
        k = integer("k", k, 1)
        plus, minus = self._numbers(positive), self._numbers(negative)
        if not plus and not minus:
            raise ValueError("positive: expected at least one word")
        query = self.unit[plus].sum(0) - self.unit[minus].sum(0)
        return self._without({*plus, *minus}, query, k)

    def _without(self, given: set[int], query: Tensor, k: int) -> list[tuple[str, float]]:
        wanted = min(k + len(given), len(self))
        names = {self.words[number] for number in given}
        return [pair for pair in self.nearest(query[None], wanted)[0] if pair[0] not in names][:k]

    def analogy(self, a: str, b: str, c: str, k: int = 1, *, method: str = "3cosadd") -> list[tuple[str, float]]:
        """The words that are to ``c`` as ``b`` is to ``a``.

        Args:
            a, b, c: "man", "king", "woman".
            k: number of words.
            method: "3cosadd" maximises cos(x, b) - cos(x, a) + cos(x, c) (Mikolov et al., Linguistic Regularities in
                Continuous Space Word Representations, 2013); "3cosmul" cos(x, b) cos(x, c) / (cos(x, a) + 0.001) with
                cosines moved to [0, 1] (Levy and Goldberg, Linguistic Regularities in Sparse and Explicit Word
                Representations, 2014).

        Raises:
            UnknownWordError: a word without a vector.
            ValueError: unknown method, or k below 1.
        """
        k = integer("k", k, 1)
        numbers = self._numbers([a, b, c])
        scores = self.analogy_scores(torch.tensor([numbers]), method)[0]
        scores[numbers] = -torch.inf
        values, found = scores.topk(min(k, len(self) - len(set(numbers))))
        return [(self.words[n], v) for n, v in zip(found.tolist(), values.tolist())]

    def analogy_scores(self, rows: Tensor, method: str = "3cosadd") -> Tensor:
        """Scores [N, V] of all words for analogies given by the numbers of their words, [N, 3]: see :meth:`analogy`.

        Raises:
            ValueError: unknown method.
        """
        if method not in ("3cosadd", "3cosmul"):
            raise ValueError(f"method: expected '3cosadd' or '3cosmul', got {method!r}")
        cosines = self.unit[rows] @ self.unit.T
        if method == "3cosadd":
            return cosines[:, 1] - cosines[:, 0] + cosines[:, 2]
        cosines = (cosines + 1) / 2
        return cosines[:, 1] * cosines[:, 2] / (cosines[:, 0] + _SMALL)

    def doesnt_match(self, words: Iterable[str]) -> str:
        """The word that is farthest from the mean of all of them.

        Raises:
            UnknownWordError: a word without a vector.
            ValueError: no words.
        """
        words = list(words)
        rows = self.unit[self._numbers(words)]
        if not words:
            raise ValueError("words: expected at least one")
        return words[int((rows @ rows.mean(0)).argmin())]

    def save(self, path: str | Path, *, binary: bool | None = None) -> None:
        """Writes a file of word2vec, which gensim's ``KeyedVectors.load_word2vec_format`` reads.

        Args:
            path: the file; it is replaced when the new one is complete.
            binary: float32 bytes instead of text (which has all digits too); None: if the name ends in ``.bin``.

        Raises:
            ValueError: a word with white space, or an empty one, which the format cannot hold.
        """
        wrong = next((word for word in self.words if not word or word.split() != [word]), None)
        if wrong is not None:
            raise ValueError(f"words: {wrong!r} has white space, which the files of word2vec cannot hold")
        path = Path(path)
        binary = path.suffix == ".bin" if binary is None else binary
        rows = self.vectors.numpy()
        with replacing(path) as fresh, fresh.open("wb") as file:
            file.write(f"{len(self)} {rows.shape[1]}\n".encode())
            for word, row in zip(self.words, rows):
                if binary:
                    file.write(word.encode() + b" " + row.tobytes())
                else:
                    file.write(f"{word} {' '.join([f'{x:.9g}' for x in row.tolist()])}\n".encode())

    @classmethod
    def load(
        cls, path: str | Path, *, binary: bool | None = None, limit: int | None = None, errors: str = "strict"
    ) -> WordVectors:
        """Reads a file of word2vec, as written by :meth:`save`, gensim or word2vec.c, or of GloVe (text without the
        first line, in whose words there may be spaces); also one compressed by gzip. Of a word that is there several
        times the first vector is taken.

        Args:
            path: the file.
            binary: whether it holds float32 bytes; None: the file tells.
            limit: read so many words at most, the first, and nothing behind them; None: all.
            errors: what becomes of bytes in words that are no UTF-8, as of :meth:`bytes.decode`: "strict" (an error),
                "ignore" or "replace". word2vec.c cuts long words within a character.

        Warns:
            UserWarning: words that are there several times.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no such format, a file that ends too early, numbers that are not finite, a limit below 1, or
                ``errors`` that is none of the three.
        """
        if errors not in _ERRORS:
            raise ValueError(f"errors: expected one of {', '.join(_ERRORS)}, got {errors!r}")
        most = None if limit is None else integer("limit", limit, 1)
        path = Path(path)
        with path.open("rb") as raw:
            packed = path.suffix == ".gz"
            file: BinaryIO = io.BufferedReader(gzip.GzipFile(fileobj=raw), _CHUNK) if packed else raw
            try:
                names, rows = _read(file, path, path.with_suffix("") if packed else path, binary, most)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ValueError(f"{path}: cannot be decompressed ({error})") from error
        words = [_decoded(name, path, errors) for name in names]
        first = {word: k for k, word in reversed(list(enumerate(words)))}
        if len(first) < len(words):
            kept = sorted(first.values())
            twice = next(word for k, word in enumerate(words) if first[word] != k)
            many = len(words) - len(kept)
            warnings.warn(
                f"{path}: {many:,} of {len(words):,} words are there before, such as {twice!r}; the first is taken",
                stacklevel=2,
            )
            words, rows = [words[k] for k in kept], rows[kept]
        return cls(words, torch.from_numpy(rows))


def _read(
    file: BinaryIO, path: Path, named: Path, binary: bool | None, most: int | None
) -> tuple[list[bytes], np.ndarray]:
    """The words and vectors of a file, of which no more is read than they need; ``named``: without ``.gz``."""
    header = file.readline()
    sizes = header.split()
    if len(sizes) == 2 and all(size.isdigit() for size in sizes) and int(sizes[1]) > 0:
        count, dim = map(int, sizes)
        if binary is None:
            binary = count > 0 and _holds_bytes(file, dim, named.suffix == ".bin")
        read = _read_binary if binary else _read_text
        return read(file, count, dim, path, count if most is None else min(most, count))
    if not binary and len(sizes) > 2 and _is_number(sizes[-1]) and b" " in header.rstrip():
        return _read_glove(list(islice(chain([header], _filled(file)), most)), path)
    raise ValueError(f"{path}: expected a first line 'words dimensions', got {header[:40]!r}")


def _holds_bytes(file: BinaryIO, dim: int, named: bool) -> bool:
    """Whether the first vector is float32 bytes: of a file that is named so unless it is a line of numbers, of another
    only if it cannot be text."""
    at = file.tell()
    data = file.read(_CHUNK + 4 * dim)
    file.seek(at)
    if named:
        fields = data.split(b"\n", 1)[0].split()
        return not (len(fields) == dim + 1 and all(map(_is_number, fields[1:])))
    first = data[data.find(b" ") + 1 :][: 4 * dim]
    return any((byte < 32 and byte not in b"\t\n\r") or byte >= 127 for byte in first)


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_binary(file: BinaryIO, count: int, dim: int, path: Path, kept: int) -> tuple[list[bytes], np.ndarray]:
    words: list[bytes] = []
    values, data, at = bytearray(), b"", 0  # the first line may promise more than there is memory for
    for k in range(kept):
        while (end := data.find(b" ", at)) < 0 or end + 1 + 4 * dim > len(data):
            more = file.read(_CHUNK + 4 * dim)
            if not more:
                raise ValueError(f"{path}: expected {amount(count, 'word')}, the file ends after {k}")
            data, at = data[at:] + more, 0
        words.append(data[at:end].lstrip(b"\n"))
        at = end + 1 + 4 * dim
        values += data[end + 1 : at]
    if kept == count and (left := data[at:] + file.read()).strip():
        raise ValueError(f"{path}: expected {amount(count, 'word')}, {len(left)} bytes follow them")
    return words, np.frombuffer(values, "<f4").astype(np.float32, copy=False).reshape(-1, dim)


def _filled(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, without empty ones at its end."""
    empty: list[bytes] = []
    for line in file:
        empty.append(line)
        if line.strip():
            yield from empty
            empty = []


def _read_text(file: BinaryIO, count: int, dim: int, path: Path, kept: int) -> tuple[list[bytes], np.ndarray]:
    lines = _filled(file)
    split = (line.rstrip(b"\n").split(b" ") for line in islice(lines, kept))
    # word2vec.c ends lines with a space.
    words, rows = _rows((p[:-1] if not p[-1].strip() else p for p in split), kept, dim, path, 2)
    left = sum(1 for _ in lines) if kept == count else 0
    if len(words) < kept or left:
        got = amount(len(words) + left, "line")
        raise ValueError(f"{path}: expected {amount(count, 'word')}, as its first line says, got {got} after it")
    return words, rows


def _read_glove(lines: list[bytes], path: Path) -> tuple[list[bytes], np.ndarray]:
    """Lines of a word, in which there may be spaces (". . ." in glove.840B.300d), and as many numbers as the first."""
    dim = len(lines[0].rstrip().split(b" ")) - 1

    def parts(line: bytes) -> list[bytes]:
        found = line.rstrip().rsplit(b" ", dim)
        _, space, last = found[0].rpartition(b" ")
        return [*found, last] if space and _is_number(last) else found  # a number too many

    return _rows(map(parts, lines), len(lines), dim, path, 1)


def _rows(split: Iterable[list[bytes]], count: int, dim: int, path: Path, first: int) -> tuple[list[bytes], np.ndarray]:
    """Words and vectors of lines that are split; ``first``: the number of the first line in its file."""
    words: list[bytes] = []
    values = array("f")
    for k, parts in enumerate(split):
        if len(parts) != dim + 1:
            raise ValueError(
                f"{path}: expected {amount(count, 'line')} of a word and {dim} numbers, line {k + first} differs"
            )
        words.append(parts[0])
        try:
            values.extend([float(x) for x in parts[1:]])
        except ValueError as error:
            raise ValueError(f"{path}: line {k + first}: {error}") from error
    return words, np.frombuffer(values, np.float32).reshape(-1, dim)


def _decoded(word: bytes, path: Path, errors: str) -> str:
    try:
        return word.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: {word!r} is no UTF-8 (errors='replace' and 'ignore' read it); is the file binary (binary=True)?"
        ) from error
