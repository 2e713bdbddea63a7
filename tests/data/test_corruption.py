"""Denoising objectives: what was taken away can be put back, and as much is taken away as the papers say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fastssl.data import Tokenizer, Window
from fastssl.data.corruption import (
    BY_SENTENCE,
    OBJECTIVES,
    Draws,
    Ragged,
    _cut_spans,
    _noise_spans,
    composition,
    corrupt,
    mask,
    noise_spans,
    subset,
    unmask,
)
from fastssl.data.tokenizer import SENTINELS

TOKENIZER = Tokenizer()
V = TOKENIZER.size


def windows_of(lengths: list[int], sentence: int = 7) -> list[Window]:
    """Rows whose tokens are all different from their neighbours, in sentences of a few tokens."""
    rng = np.random.default_rng(sum(lengths))
    return [Window(rng.integers(5, V, n), np.arange(0, n, sentence)) for n in lengths]


def restored(objective: str, inputs: np.ndarray, targets: np.ndarray, window: Window) -> np.ndarray:
    """The text, by a loop over tokens, from the pair alone where it suffices."""
    sep, source, target = TOKENIZER.sep, inputs.tolist(), targets.tolist()
    assert source[-1] == target[-1] == sep
    if objective == "spans":
        spans: dict[int, list[int]] = {}
        for token in target[:-1]:
            if token >= V:
                key = token
                assert key not in spans and token == V + SENTINELS - 1 - len(spans)  # unique and in order
                spans[key] = []
            else:
                spans[key].append(token)
        return np.array([t for token in source[:-1] for t in spans.get(token, [token])])
    if objective == "prefix":
        return np.array(source[:-1] + target[:-1])
    if objective == "sentences":
        ends = [*window.sentences[1:].tolist(), len(window.ids)]
        lengths = dict(enumerate(np.diff([0, *ends]).tolist()))
        text: list[int] = []
        rest = target[:-1]
        for token in source[:-1]:
            if token == TOKENIZER.mask:
                size = lengths[list(window.sentences).index(len(text))]
                text, rest = text + rest[:size], rest[size:]
            else:
                text.append(token)
        assert not rest
        return np.array(text)
    return np.array(target[:-1])


def contains(whole: list[int], part: list[int]) -> bool:
    """Whether ``part`` is a subsequence of ``whole``."""
    rest = iter(whole)
    return all(token in rest for token in part)


def composed(joined: list[int], parts: list[tuple[int, ...]]) -> bool:
    """Whether ``joined`` is all of ``parts`` in some order; one may begin like another."""
    if not parts:
        return not joined
    return any(
        composed(joined[len(part) :], [*parts[:k], *parts[k + 1 :]])
        for k, part in enumerate(parts)
        if part not in parts[:k] and tuple(joined[: len(part)]) == part
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=5), seed=st.integers(0, 2**40), epoch=st.integers(0, 99)
)
def test_texts_are_restored(objective: str, lengths: list[int], seed: int, epoch: int) -> None:
    rows = windows_of(lengths)
    ids = np.arange(len(rows)) * 7
    pair = corrupt(objective, rows, Draws(seed, epoch, ids), TOKENIZER)
    for k, window in enumerate(rows):
        source, target, text = pair.inputs.row(k), pair.targets.row(k), window.ids.tolist()
        if objective == "drop":  # complementary parts of the text, which does not say where they were
            assert contains(text, source[:-1].tolist()) and contains(text, target[:-1].tolist())
            assert sorted([*source[:-1], *target[:-1]]) == sorted(text)
        else:
            assert restored(objective, source, target, window).tolist() == text
        if objective in ("deshuffle", "permute-sentences", "rotate"):
            assert sorted(source) == sorted([*text, TOKENIZER.sep])
        if objective == "rotate":
            assert any(source[:-1].tolist() == text[j:] + text[:j] for j in range(len(text)))
        if objective == "delete":
            assert contains(text, source[:-1].tolist())
        if objective == "permute-sentences":
            parts = sorted(map(tuple, np.split(window.ids, window.sentences[1:])))
            assert composed(source[:-1].tolist(), parts)
        # Keyed by item: alone it is the same.
        alone = corrupt(objective, [window], Draws(seed, epoch, ids[k : k + 1]), TOKENIZER)
        assert np.array_equal(alone.inputs.row(0), source) and np.array_equal(alone.targets.row(0), target)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=5), seed=st.integers(0, 2**40))
def test_masks_are_undone(lengths: list[int], seed: int) -> None:
    text = Ragged.of([w.ids for w in windows_of(lengths)])
    inputs, targets = mask(text, Draws(seed, 0, np.arange(len(lengths))), TOKENIZER)
    assert np.array_equal(unmask(inputs, targets), text.values)
    assert np.array_equal((targets != -100) | (inputs == text.values), np.ones(len(text.values), bool))


def test_masks_are_those_of_the_paper() -> None:
    rows, width = 2000, 500
    values = np.random.default_rng(0).integers(5, V, rows * width)
    text = Ragged(values, np.arange(0, rows * width + 1, width))
    frozen = np.zeros(len(values), bool)
    frozen[::10] = True
    inputs, targets = mask(text, Draws(3, 1, np.arange(rows)), TOKENIZER, frozen=frozen)
    chosen = targets != -100
    assert not chosen[frozen].any()
    free = int((~frozen).sum())
    assert stats.binomtest(int(chosen.sum()), free, 0.15).pvalue > 1e-4
    count = int(chosen.sum())
    masked = int((inputs[chosen] == TOKENIZER.mask).sum())
    changed = int(((inputs != values) & (inputs != TOKENIZER.mask)).sum())
    same = count - masked - changed
    expected = np.array([0.8, 0.1 * 255 / 256, 0.1 + 0.1 / 256]) * count
    assert stats.chisquare([masked, changed, same], expected).pvalue > 1e-4
    random = inputs[(inputs != values) & (inputs != TOKENIZER.mask)]
    assert stats.chisquare(np.bincount(random - 5, minlength=256)).pvalue > 1e-4


def test_whole_words_are_masked_whole() -> None:
    continues = np.arange(V) % 2 == 1
    values = np.random.default_rng(0).integers(5, V, 20_000)
    text = Ragged(values, np.array([0, 7_000, 20_000]))
    _, targets = mask(text, Draws(0, 0, np.arange(2)), TOKENIZER, continues=continues)
    starts = ~continues[values]
    starts[[0, 7_000]] = True
    word = np.cumsum(starts)
    share = np.bincount(word, targets != -100) / np.maximum(np.bincount(word), 1)
    assert set(np.unique(share[1:])) <= {0.0, 1.0}
    assert 0.12 < (targets != -100).mean() < 0.18


@pytest.mark.parametrize("length", [1, 2, 3, 20, 512])
def test_spans_are_t5s(length: int) -> None:
    rows = 2000 if length == 512 else 500
    starts, lengths = noise_spans(np.full(rows, length), Draws(1, 0, np.arange(rows)))
    noise = max(1, round(length * 0.15))
    spans = max(1, round(noise / 3))
    assert bool((lengths.sum(1) == noise).all()) and bool(((lengths > 0).sum(1) == spans).all())
    ends = starts + lengths
    assert bool((starts[:, 1:] > ends[:, :-1]).all()) and bool((ends[:, -1] <= length).all())  # apart, and inside
    if length == 512:
        places = np.bincount((starts[:, 0]) // 8)[:4]
        assert stats.chisquare(np.bincount(lengths[:, 0], minlength=9)[1:9] + 1, None).pvalue < 1e-4  # short ones
        assert places[0] > places[-1]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 300), min_size=0, max_size=6),
    seed=st.integers(-5, 2**64 - 1),
    share=st.floats(0.01, 0.99),
    mean=st.floats(1, 9),
)
def test_spans_are_those_of_numpy(lengths: list[int], seed: int, share: float, mean: float) -> None:
    """Bit for bit what stands in for the extension, also where a token is most of its row."""
    text = Ragged.of([np.arange(n + 1) + 5 for n in lengths])
    draws = Draws(seed, 2**32 + 7, np.arange(len(lengths)) * 2**33)
    starts, inside = noise_spans(text.lengths - 1, draws, share, mean)
    noise, spans_of_row = inside.sum(1), (inside > 0).sum(1)
    expected = _noise_spans(draws, noise, text.lengths - 1 - noise, spans_of_row)
    assert np.array_equal(starts, expected[0]) and np.array_equal(inside, expected[1])
    if inside.shape[1] <= SENTINELS:
        made = OBJECTIVES["spans"](text, draws, TOKENIZER, share, mean)
        right = _cut_spans(text, starts, inside, V + SENTINELS - 1)
        for got, wanted in ((made.inputs, right.inputs), (made.targets, right.targets)):
            assert np.array_equal(got.values, wanted.values) and np.array_equal(got.offsets, wanted.offsets)


def test_subsets_and_compositions_are_uniform() -> None:
    rows = 30_000
    draws = Draws(5, 0, np.arange(rows))
    chosen = subset(draws(0, 6), np.full(rows, 5), np.full(rows, 2))
    assert not chosen[:, 5].any() and bool((chosen.sum(1) == 2).all())
    kinds = np.unique(chosen @ (1 << np.arange(6)), return_counts=True)[1]
    assert len(kinds) == math.comb(5, 2) and stats.chisquare(kinds).pvalue > 1e-4
    made = composition(draws(1, 6), np.full(rows, 6), np.full(rows, 3))
    counts = np.unique(made @ np.array([100, 10, 1]), return_counts=True)[1]
    assert len(counts) == math.comb(5, 2) and stats.chisquare(counts).pvalue > 1e-4


def test_infilling_is_poisson() -> None:
    rows, width = 300, 400
    text = Ragged.of([np.append(np.arange(5, 5 + width) + 1000, TOKENIZER.sep) for _ in range(rows)])
    pair = OBJECTIVES["infill"](text, Draws(0, 0, np.arange(rows)), TOKENIZER)
    gaps: list[int] = []
    for k in range(rows):
        row = pair.inputs.row(k)[:-1]
        kept = row[row != TOKENIZER.mask]
        assert width - len(kept) == math.ceil(0.3 * width)
        ids = np.concatenate([[1004], row, [1005 + width]])
        at = (
            np.flatnonzero((ids[1:-1] == TOKENIZER.mask) & (ids[:-2] != TOKENIZER.mask) & (ids[2:] != TOKENIZER.mask))
            + 1
        )
        gaps += (ids[at + 1] - ids[at - 1] - 1).tolist()
    counts = np.bincount(gaps, minlength=9)[:9]
    shares = stats.poisson.pmf(np.arange(9), 3)
    # The last span of each row is cut, and spans next to each other are not counted: a bias of about a percent.
    assert np.abs(counts / counts.sum() - shares / shares.sum()).max() < 0.02 and counts[0] > 0


@pytest.mark.parametrize("objective", ["spans", "drop"])
def test_spans_of_long_texts_are_refused_or_work(objective: str) -> None:
    rows = windows_of([2100])
    if objective == "spans":
        with pytest.raises(ValueError, match="length: expected at most 100 spans per row, got 105"):
            corrupt(objective, rows, Draws(0, 0, np.arange(1)), TOKENIZER)
        return
    assert corrupt(objective, rows, Draws(0, 0, np.arange(1)), TOKENIZER).targets.lengths[0] == 316


def test_rows_are_padded_or_refused() -> None:
    rows: Any = Ragged.of([np.arange(3), np.arange(5)])
    assert rows.padded(5, -1).tolist() == [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]]
    with pytest.raises(ValueError, match="length: expected at most 4 tokens per row, got 5"):
        rows.padded(4, 0)
    assert set(BY_SENTENCE) < set(OBJECTIVES)


def test_sentinels_of_the_vocabulary_take_the_place_of_those_behind_it() -> None:
    """As T5's own."""
    own, text = Tokenizer(), Ragged.of([np.arange(5, 40), np.arange(50, 61)])
    own.sentinels = np.array([250, 260, 240, 230, 220])
    expected = OBJECTIVES["spans"](text, Draws(0, 0, np.arange(2)), TOKENIZER)
    made = OBJECTIVES["spans"](text, Draws(0, 0, np.arange(2)), own)
    place = {V + SENTINELS - 1 - k: token for k, token in enumerate(own.sentinels)}
    assert int((expected.inputs.values >= V).sum()) > 2
    for got, wanted in ((made.inputs, expected.inputs), (made.targets, expected.targets)):
        assert got.values.tolist() == [place.get(token, token) for token in wanted.values.tolist()]
    with pytest.raises(ValueError, match="expected at most 5 spans per row, got 15"):
        OBJECTIVES["spans"](Ragged.of([np.arange(5, 256), np.arange(5, 60)]), Draws(0, 0, np.arange(2)), own, 0.18)
