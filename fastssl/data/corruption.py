"""Denoising objectives of text: vectorised, and pure functions of (tokens, seed, epoch, id).

An objective takes rows of unequal lengths (:class:`Ragged`), each of which ends with the tokenizer's ``sep``, and draws
keyed by item (:class:`Draws`), and returns the network's input and its target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastssl._words import amount
from fastssl.augment import uniform
from fastssl.data.tokenizer import Tokenizer
from fastssl.data.views import RESERVED_VIEW
from fastssl.ops import extension

IGNORED = -100  # the target of a position that does not count
LONGEST = 1 << 15  # tokens per row; a stream of draws has as many numbers


class Ragged(NamedTuple):
    """Rows of unequal lengths.

    Args:
        values: int64 [N], all rows one after the other.
        offsets: int64 [B + 1], where rows start.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> Ragged:
        """The concatenation of rows."""
        lengths = [len(row) for row in rows]
        values = np.concatenate([np.zeros(0, np.int64), *rows])
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @property
    def lengths(self) -> np.ndarray:
        """int64 [B]."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """The row of every value, int64 [N]."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    @property
    def columns(self) -> np.ndarray:
        """The position of every value in its row, int64 [N]."""
        return np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)

    def row(self, index: int) -> np.ndarray:
        """One row."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def select(self, keep: np.ndarray) -> Ragged:
        """The values at ``keep`` (bool [N]) alone."""
        at = np.flatnonzero(keep)
        return Ragged(self.values[at], np.searchsorted(at, self.offsets))

    def repeat(self, counts: np.ndarray) -> Ragged:
        """Every value ``counts`` times (int64 [N])."""
        ends = np.concatenate([[0], np.cumsum(counts)])
        return Ragged(np.repeat(self.values, counts), ends[self.offsets])

    def padded(self, width: int, fill: int) -> np.ndarray:
        """int64 [B, width].

        Raises:
            ValueError: a row is longer.
        """
        longest = int(self.lengths.max(initial=0))
        if longest > width:
            raise ValueError(f"length: expected at most {width} tokens per row, got {longest}")
        if len(self.values) == width * (len(self.offsets) - 1):
            return self.values.reshape(-1, width)
        result = np.full((len(self.offsets) - 1, width), fill, dtype=np.int64)
        result[np.arange(width) < self.lengths[:, None]] = self.values
        return result


class Draws:
    """Uniform draws in (0, 1) keyed by (seed, epoch, id): ``draws(stream, count)`` is float64 [B, count].

    Args:
        seed: seed of the run.
        epoch: epoch of the run.
        ids: [B] integers.
    """

    def __init__(self, seed: int, epoch: int, ids: np.ndarray) -> None:
        self.key = seed, epoch, np.asarray(ids, dtype=np.int64)

    def __call__(self, stream: int, count: int) -> np.ndarray:
        return uniform(*self.key, view=RESERVED_VIEW, block=self.block(stream, count), count=count)

    @staticmethod
    def block(stream: int, count: int) -> int:
        """The first block of a stream's counters, which has to have ``count`` numbers."""
        if count > LONGEST:
            raise ValueError(f"length: expected at most {LONGEST} tokens per row, got {count}")
        return stream * LONGEST // 4

    def ragged(self, stream: int, text: Ragged) -> np.ndarray:
        """One draw per value, [N]."""
        made = self(stream, int(text.lengths.max(initial=0)))
        if made.size == len(text.values):
            return made.reshape(-1)
        return made[np.arange(made.shape[1]) < text.lengths[:, None]]


def subset(draws: np.ndarray, size: np.ndarray, count: np.ndarray) -> np.ndarray:
    """bool [B, W]: of the first ``size`` columns of each row, ``count`` that are chosen uniformly."""
    width = draws.shape[1]
    if not width:
        return np.zeros(draws.shape, dtype=bool)
    # Draws are multiples of 2^-32: with less than that added no two are equal.
    keys = draws + np.arange(width) * (0.5 / (width << 32))
    keys[np.arange(width) >= size[:, None]] = 2
    last = np.maximum(count, 1) - 1
    places = np.unique(last)  # a few where rows are equally long
    ordered = np.partition(keys, places, axis=1) if len(places) <= 4 else np.sort(keys, axis=1)
    bound = ordered[np.arange(len(keys)), last]
    return (keys <= bound[:, None]) & (count > 0)[:, None]


def composition(draws: np.ndarray, total: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Uniform compositions of ``total`` into ``parts`` positive numbers: int64 [B, max(parts)], then zeros."""
    width = int(parts.max(initial=0))
    cuts = subset(draws[:, : max(int(total.max(initial=0)) - 1, 0)], total - 1, parts - 1)
    rows, places = np.nonzero(cuts)
    inner = np.maximum(parts - 1, 0)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(inner) - inner, inner)
    ends = np.zeros((len(total), width + 1), dtype=np.int64)
    ends[rows, rank + 1] = places + 1
    ends[np.arange(len(total)), parts] = total
    return np.maximum(np.diff(ends, axis=1), 0)


def mask(
    text: Ragged,
    draws: Draws,
    tokenizer: Tokenizer,
    share: float = 0.15,
    *,
    frozen: np.ndarray | None = None,
    continues: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masking: of ``share`` of the tokens 80 % become [MASK], 10 % a random token, 10 % stay.

    Args:
        text: the tokens.
        draws: draws of the items.
        tokenizer: for [MASK] and random tokens.
        share: share of the tokens that are predicted.
        frozen: bool [N], tokens that are never predicted (special ones).
        continues: bool [V] (:meth:`Tokenizer.continues`): words are masked as a whole; None: single tokens.

    Returns:
        Inputs and targets, int64 [N]; a target is the original token, or -100 where none is predicted.
    """
    values = text.values
    drawn = draws.ragged(0, text)
    if continues is None:
        chosen = drawn < share
    else:
        starts = ~continues[values] | (text.columns == 0)
        if frozen is not None:
            starts |= frozen
        first = np.maximum.accumulate(np.where(starts, np.arange(len(values)), 0))
        chosen, drawn = drawn[first] < share, draws.ragged(1, text) * share
    if frozen is not None:
        chosen &= ~frozen
    at = np.flatnonzero(chosen)
    how = drawn[at] / share  # uniform again
    inputs, targets = values.copy(), np.full(len(values), IGNORED, dtype=np.int64)
    originals = values[at]
    targets[at] = originals
    place = (how - 0.8) * 10 * len(tokenizer.ordinary)
    random = tokenizer.ordinary[np.clip(place, 0, len(tokenizer.ordinary) - 1).astype(np.int64)]
    inputs[at] = np.where(how < 0.8, tokenizer.mask, np.where(how < 0.9, random, originals))
    return inputs, targets


def unmask(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The text of :func:`mask`."""
    return np.where(targets == IGNORED, inputs, targets)


def noise_spans(
    lengths: np.ndarray, draws: Draws, share: float = 0.15, mean: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """T5's spans: round(L share) tokens in round(L share / mean) spans, at least one, uniform among all partitions.

    Returns:
        Starts and lengths of the spans, int64 [B, S] each; unused ones have length 0.
    """
    noise = np.clip(np.round(lengths * share).astype(np.int64), np.minimum(lengths, 1), np.maximum(lengths - 1, 0))
    noise = np.where(lengths == 1, 1, noise)
    spans = np.maximum(np.round(noise / mean).astype(np.int64), np.minimum(noise, 1))
    spans = np.where(lengths > 1, np.minimum(spans, lengths - noise), spans)
    kept = lengths - noise
    if extension._C is not None:
        seed, epoch, ids = draws.key
        first, second = (draws.block(k, int(part.max(initial=0))) for k, part in enumerate((noise, kept)))
        key = seed & (2**64 - 1), epoch & 0xFFFFFFFF, ids, RESERVED_VIEW
        made: tuple[np.ndarray, np.ndarray] = extension._C.noise_spans(*key, first, second, lengths, noise, spans)
        return made
    return _noise_spans(draws, noise, kept, spans)


def _noise_spans(draws: Draws, noise: np.ndarray, kept: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by NumPy: without the extension, and the oracle of tests."""
    inside = composition(draws(0, int(noise.max(initial=0))), noise, spans)
    between = composition(draws(1, int(kept.max(initial=0))), kept, np.minimum(spans, kept))
    width = inside.shape[1]
    between = np.pad(between, ((0, 0), (0, width - between.shape[1])))
    starts = np.cumsum(between, 1) + np.cumsum(inside, 1) - inside
    return starts, inside


def permuted_spans(lengths: np.ndarray, draws: Draws, every: int = 6, longest: int = 5) -> np.ndarray:
    """XLNet's targets: spans of 1 to ``longest`` tokens, each within ``every`` times as many, in random order.

    Returns:
        int64 [B, W]: the rank of each token in the order of prediction, from 0 on; -1: it is context.
    """
    width = int(lengths.max(initial=0))
    most = width // every + 1
    size = 1 + (draws(0, most) * longest).astype(np.int64)
    first = np.cumsum(size, 1) * every - size * every
    first += (draws(1, most) * (size * every - size + 1)).astype(np.int64)
    chosen = np.zeros((len(lengths), width), dtype=bool)
    for k in range(longest):
        row, number = np.nonzero((k < size) & (first + k < lengths[:, None]))
        chosen[row, first[row, number] + k] = True
    keys = np.where(chosen, draws(2, width), 2)
    ranks = np.empty(keys.shape, dtype=np.int64)
    np.put_along_axis(ranks, np.argsort(keys, axis=1, kind="stable"), np.arange(width)[None], 1)
    return np.where(chosen, ranks, -1)


@dataclass(frozen=True)
class Pair:
    """An objective's example: the encoder's input and the decoder's target."""

    inputs: Ragged
    targets: Ragged


def _ends(text: Ragged) -> np.ndarray:
    """bool [N]: the last token of each row."""
    last = np.zeros(len(text.values), dtype=bool)
    last[text.offsets[1:] - 1] = True
    return last


def _marked(text: Ragged, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool [N], tokens inside spans; the first token of every span, and the number of the span in its row."""
    row, number = np.nonzero(lengths)
    first, each = text.offsets[row] + starts[row, number], lengths[row, number]
    noise = np.zeros(len(text.values), dtype=bool)
    noise[np.repeat(first - (np.cumsum(each) - each), each) + np.arange(each.sum())] = True
    return noise, first, number


def spans(text: Ragged, draws: Draws, tokenizer: Tokenizer, share: float = 0.15, mean: float = 3.0) -> Pair:
    """T5: each span becomes one sentinel, in order (:attr:`Tokenizer.sentinels`); the target lists sentinels and spans.

    Raises:
        ValueError: a row needs more sentinels than there are.
    """
    starts, lengths = noise_spans(text.lengths - 1, draws, share, mean)
    sentinels = tokenizer.sentinels
    if lengths.shape[1] > len(sentinels):
        most = amount(len(sentinels), "span")
        raise ValueError(f"length: expected at most {most} per row, got {lengths.shape[1]}; use a shorter length")
    last = tokenizer.size + len(sentinels) - 1
    if extension._C is not None:
        kept, kept_ends, cut, cut_ends = extension._C.cut_spans(text.values, text.offsets, starts, lengths, last)
        made = Pair(Ragged(kept, kept_ends), Ragged(cut, cut_ends))
    else:
        made = _cut_spans(text, starts, lengths, last)
    if sentinels[0] != last:  # they are tokens of the vocabulary
        for values in (made.inputs.values, made.targets.values):
            at = np.flatnonzero(values >= tokenizer.size)
            values[at] = sentinels[last - values[at]]
    return made


def _cut_spans(text: Ragged, starts: np.ndarray, lengths: np.ndarray, last: int) -> Pair:
    """The pair of :func:`spans` by NumPy: without the extension, and the oracle of tests."""
    noise, first, number = _marked(text, starts, lengths)
    sentinel = last - number
    marked, keep = text.values.copy(), ~noise
    marked[first], keep[first] = sentinel, True
    chosen = noise | _ends(text)
    begins = np.zeros(len(noise), dtype=bool)
    begins[first] = True
    counts = 1 + begins[np.flatnonzero(chosen)]
    targets = text.select(chosen).repeat(counts)
    targets.values[(np.cumsum(counts) - counts)[counts == 2]] = sentinel
    return Pair(Ragged(marked, text.offsets).select(keep), targets)


def drop(text: Ragged, draws: Draws, tokenizer: Tokenizer, share: float = 0.15, mean: float = 3.0) -> Pair:
    """T5's "drop": spans are left out; the target is what was dropped."""
    noise, _, _ = _marked(text, *noise_spans(text.lengths - 1, draws, share, mean))
    return Pair(text.select(~noise), text.select(noise | _ends(text)))


def prefix(text: Ragged, draws: Draws, tokenizer: Tokenizer) -> Pair:
    """The first part, cut uniformly, with its end; the target is the rest."""
    cut = (draws(0, 1)[:, 0] * text.lengths).astype(np.int64)
    column, cuts = text.columns, np.repeat(cut, text.lengths)
    return Pair(text.select((column < cuts) | _ends(text)), text.select(column >= cuts))


def bert(text: Ragged, draws: Draws, tokenizer: Tokenizer, share: float = 0.15) -> Pair:
    """T5's "BERT-style": 15 % masked as in BERT; the target is the whole text."""
    inputs, _ = mask(text, draws, tokenizer, share, frozen=_ends(text))
    return Pair(Ragged(inputs, text.offsets), text)


def deshuffle(text: Ragged, draws: Draws, tokenizer: Tokenizer) -> Pair:
    """All tokens in random order; the target is the text."""
    keys = draws.ragged(0, text)
    keys[text.offsets[1:] - 1] = 2  # the end stays
    return Pair(Ragged(text.values[np.argsort(keys + 4.0 * text.rows, kind="stable")], text.offsets), text)


def delete(text: Ragged, draws: Draws, tokenizer: Tokenizer, share: float = 0.15) -> Pair:
    """BART's token deletion; the target is the text."""
    return Pair(text.select((draws.ragged(0, text) >= share) | _ends(text)), text)


def rotate(text: Ragged, draws: Draws, tokenizer: Tokenizer) -> Pair:
    """BART's document rotation: the text starts at a random token; the target is the text."""
    lengths = text.lengths - 1
    by = np.repeat((draws(0, 1)[:, 0] * lengths).astype(np.int64), text.lengths)
    each, column = np.repeat(lengths, text.lengths), text.columns
    place = np.where(column < each, (column + by) % np.maximum(each, 1), column)
    return Pair(Ragged(text.values[place + np.repeat(text.offsets[:-1], text.lengths)], text.offsets), text)


def permute_sentences(text: Ragged, draws: Draws, tokenizer: Tokenizer, starts: np.ndarray) -> Pair:
    """BART's sentence permutation; ``starts`` (bool [N]) marks the first token of each sentence."""
    sentence = np.cumsum(starts) - 1
    key = draws.ragged(4, text)[starts]
    keys = key[sentence] + 4.0 * text.rows
    keys[text.offsets[1:] - 1] += 2
    return Pair(Ragged(text.values[np.lexsort((sentence, keys))], text.offsets), text)


_POISSON = np.cumsum([math.exp(-3) * 3.0**k / math.factorial(k) for k in range(20)])


def infill(text: Ragged, draws: Draws, tokenizer: Tokenizer, share: float = 0.3) -> Pair:
    """BART's text infilling: spans of Poisson(3) tokens, ``share`` of them, become one [MASK] each, also empty ones."""
    size = text.lengths - 1
    noise = np.ceil(size * share).astype(np.int64)
    most = int(noise.max(initial=0)) + 16
    lengths = np.searchsorted(_POISSON, draws(0, most), side="right")
    ends = np.cumsum(lengths, 1)
    used = ends - lengths < noise[:, None]
    lengths = np.where(used, np.minimum(lengths, noise[:, None] - (ends - lengths)), 0)
    count, free = used.sum(1), size - lengths.sum(1)
    slots = subset(draws(1, int((free + count).max(initial=0))), free + count, count)  # of spans among kept tokens
    row, slot = np.nonzero(slots)
    rank = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    taken = np.cumsum(lengths, 1) - lengths
    first = text.offsets[row] + slot - rank + taken[row, rank]
    change = np.zeros(len(text.values) + 1, dtype=np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, first + lengths[row, rank], -1)
    kept = np.cumsum(change[:-1]) == 0
    inserted = np.bincount(first, minlength=len(text.values))
    counts = inserted + kept
    inputs = text.repeat(counts)
    begin = np.cumsum(counts) - counts
    at = np.repeat(begin, inserted) + np.arange(inserted.sum()) - np.repeat(np.cumsum(inserted) - inserted, inserted)
    inputs.values[at] = tokenizer.mask
    return Pair(inputs, text)


def bart(text: Ragged, draws: Draws, tokenizer: Tokenizer, starts: np.ndarray) -> Pair:
    """BART: sentences permuted, then text infilling; the target is the text."""
    return Pair(infill(permute_sentences(text, draws, tokenizer, starts).inputs, draws, tokenizer).inputs, text)


def sentences(text: Ragged, draws: Draws, tokenizer: Tokenizer, starts: np.ndarray, share: float = 0.3) -> Pair:
    """PEGASUS: ``share`` of the sentences of each row, at least one, become [MASK]; the target is these sentences."""
    first = np.flatnonzero(starts)
    of_row = text.rows[first]
    count = np.bincount(of_row, minlength=len(text.lengths))
    width = int(count.max(initial=0))
    hidden = subset(draws(5, width), count, np.minimum(np.maximum(np.round(count * share).astype(np.int64), 1), count))
    chosen = hidden[of_row, np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)]
    last = _ends(text)
    inside = chosen[np.cumsum(starts) - 1] & ~last
    inputs = Ragged(np.where(inside, tokenizer.mask, text.values), text.offsets).select(~inside | (inside & starts))
    return Pair(inputs, text.select(inside | last))


OBJECTIVES: dict[str, Callable[..., Pair]] = {
    "spans": spans,
    "prefix": prefix,
    "bert": bert,
    "deshuffle": deshuffle,
    "drop": drop,
    "infill": infill,
    "delete": delete,
    "rotate": rotate,
    "permute-sentences": permute_sentences,
    "bart": bart,
    "sentences": sentences,
}
BY_SENTENCE = ("permute-sentences", "bart", "sentences")  # objectives that take the starts of sentences


def corrupt(objective: str, windows: Sequence[Any], draws: Draws, tokenizer: Tokenizer) -> Pair:
    """Applies an objective to windows (:class:`fastssl.data.Window`), each with ``sep`` appended.

    Args:
        objective: a name of :data:`OBJECTIVES`.
        windows: the windows.
        draws: draws of the items.
        tokenizer: tokenizer of the windows.
    """
    text = Ragged.of([np.append(window.ids, tokenizer.sep) for window in windows])
    if objective not in BY_SENTENCE:
        return OBJECTIVES[objective](text, draws, tokenizer)
    starts = np.zeros(len(text.values), dtype=bool)
    starts[text.offsets[:-1]] = True
    for offset, window in zip(text.offsets, windows):
        starts[offset + window.sentences] = True
    return OBJECTIVES[objective](text, draws, tokenizer, starts)
