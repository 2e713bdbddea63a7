"""Sentence encoders: pairs are sentences that follow each other, the loss is InfoNCE, and what follows is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from fastssl.data import Corpus, TokenFile, Tokenizer, Windows, tokenize_corpus
from fastssl.evaluate import next_sentence
from fastssl.methods import QuickThoughts, SimCSE
from fastssl.models import build_language
from tests.support.language import SHAPE, SUBJECT_NETWORKS, method_of, tokens

SENTENCES = [s for s in SUBJECT_NETWORKS if s[0] in ("quick-thoughts", "sim-cse")]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> TokenFile:
    """Documents of sentences on one letter each: a sentence tells which one follows."""
    rng = np.random.default_rng(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    orders = [rng.permutation(26)[:2].repeat(3) for _ in range(60)]
    texts = [" ".join(f"{letters[k].upper()}{letters[k] * 3}." for k in order) for order in orders]
    return tokenize_corpus(Corpus(texts), Tokenizer(), tmp_path_factory.mktemp("counted") / "a.tok")


@pytest.mark.parametrize(("kind", "count"), [("sentence", 1), ("pair", 2)])
@pytest.mark.parametrize("span", [None, (37, 301)])
def test_windows_of_sentences_are_those_of_the_file(kind: str, count: int, span: Any) -> None:
    """Against a loop over documents; a span cuts documents and sentences."""
    file, length = tokens(), 17
    start, stop = span or (0, file.total)
    expected = []
    for index in range(len(file)):
        begin, end = file.documents[index : index + 2].tolist()
        borders = [b for b in file.sentences.tolist() if begin <= b < end]
        parts = [(a, b) for a, b in zip(borders, [*borders[1:], end - 1])]
        for k in range(len(parts) - count + 1):
            chosen = parts[k : k + count]
            inside = chosen[0][0] >= start and (chosen[-1][1] <= stop - (chosen[-1][1] == end - 1))
            if inside:
                expected.append([file.ids(a, min(b, a + length)).tolist() for a, b in chosen])
    windows = Windows(file, length, span, kind)
    found = [item.tokens for item in windows.items(range(len(windows)))]
    assert [[part.tolist() for part in np.split(w.ids, w.sentences[1:])] for w in found] == expected
    assert len(expected) >= 5 and windows.cut > 0


def test_examples_are_consecutive_sentences(counted: TokenFile) -> None:
    method = method_of("quick-thoughts", "transformer")
    windows = method.prepare(counted)
    batch = method.examples(windows.items(range(5)), 0)
    t = Tokenizer()
    assert [t.decode(row) for row in batch.tokens[1:]] == [t.decode(row) for row in batch.targets[:-1]]
    assert bool((batch.tokens[:, 0] == t.cls).all()) and bool(((batch.tokens == t.sep).sum(1) == 1).all())


@pytest.mark.parametrize(("name", "network"), SENTENCES)
def test_the_loss_is_that_of_the_formula(name: str, network: str) -> None:
    method = method_of(name, network).eval()
    batch = method.examples(method.prepare(tokens()).items(range(8)), 0)
    first, second = method.represent(*method.inputs(batch))
    scores = TF.normalize(first) @ TF.normalize(second).T / 0.05
    expected = (TF.cross_entropy(scores, torch.arange(8)) + TF.cross_entropy(scores.T, torch.arange(8))) / 2
    torch.testing.assert_close(method(batch), expected, rtol=1e-5, atol=1e-6)
    right = 100 * float((scores.argmax(1) == torch.arange(8)).float().mean())
    assert method.pretext_metrics(batch) == {"accuracy": right, "chance": 12.5}


def test_quick_thoughts_finds_what_follows(counted: TokenFile) -> None:
    method = method_of("quick-thoughts", "transformer")
    windows = method.prepare(counted)
    assert isinstance(method, QuickThoughts)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    for step in range(60):
        ids = np.random.default_rng(step).permutation(len(windows))[:24]
        loss = method(method.examples(windows.items(ids), 0, 0, ids))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    table = next_sentence(method, windows)["next sentence of 100"]
    assert table["chance"] == 1 and table["pretrained"] > 5 and set(table) == {
        "pretrained", "random network", "TF-IDF", "chance"
    }  # fmt: skip
    with pytest.raises(ValueError, match="data: expected at least 100 pairs of consecutive sentences, got"):
        next_sentence(method, Windows(counted, 10, (0, 60)))


def test_simcse_compares_dropout_masks() -> None:
    pytest.importorskip("transformers")
    method = method_of("sim-cse", "bert")
    assert isinstance(method, SimCSE) and method.network.options["dropout"] == 0.1
    batch = method.examples(method.prepare(tokens()).items(range(6)), 0)
    assert torch.equal(batch.tokens, batch.targets)
    first, second = method.represent(*method.inputs(batch))
    assert not torch.allclose(first, second)
    first, second = method.eval().represent(*method.inputs(batch))
    torch.testing.assert_close(first, second)


def test_what_does_not_fit_is_named() -> None:
    shape = {**SHAPE, "name": "transformer", "vocabulary": 261}
    with pytest.raises(ValueError, match="network: QuickThoughts expects a transformer with causal=False"):
        QuickThoughts(build_language(shape), Tokenizer())
    with pytest.raises(ValueError, match="outputs: expected an integer >= 1, got 0"):
        QuickThoughts(build_language({**shape, "causal": False}), Tokenizer(), outputs=0)
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="network: SimCSE compares two dropout masks, and expects dropout > 0"):
        SimCSE(build_language({**shape, "name": "bert"}), Tokenizer())
