"""Written texts against references: ROUGE-L by brute force, sacrebleu's own scores; fine-tuning on pairs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastssl.data import Corpus, ParallelCorpus, Tokenizer, verses
from fastssl.evaluate import TranslationTuning, finetune_translation, rouge_l, text_scores
from fastssl.evaluate.overlap import _common
from fastssl.models import build_language, generate_target
from tests.support.language import network_of

WORDS = st.lists(st.sampled_from("abcd"), max_size=7)


def longest(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence, among all of the first list."""
    for size in range(len(a), 0, -1):
        for chosen in itertools.combinations(a, size):
            rest = iter(b)
            if all(word in rest for word in chosen):
                return size
    return 0


@settings(max_examples=150, deadline=None)
@given(WORDS, WORDS)
def test_rouge_l_is_that_of_all_subsequences(a: list[str], b: list[str]) -> None:
    common = longest(a, b)
    assert _common(a, b) == _common(b, a) == common
    precision, recall = common / max(len(a), 1), common / max(len(b), 1)
    expected = 200 * precision * recall / (precision + recall) if common else 0.0
    assert rouge_l([" ".join(a)], [" ".join(b)]) == pytest.approx(expected)


def test_scores_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    written = ["In the beginning God made the sky.", "And there was light!"]
    right = ["In the beginning, God created the heavens and the earth.", "And there was light."]
    found = text_scores(written, right)
    assert found.bleu == pytest.approx(sacrebleu.corpus_bleu(written, [right]).score)
    assert found.chrf == pytest.approx(sacrebleu.corpus_chrf(written, [right]).score)
    assert found.rouge_l == pytest.approx((100 * 2 * 5 / (7 + 10) + 100) / 2) == pytest.approx(rouge_l(written, right))
    assert "tok:13a" in found.signatures[0] and "nc:6" in found.signatures[1]
    same = text_scores(right, right)
    assert same.bleu == pytest.approx(100) and same.chrf == pytest.approx(100) and same.rouge_l == 100
    assert rouge_l(["Año  NUEVO"], ["año nuevo"]) == 100


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_network_learns_to_translate(name: str) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("sacrebleu")
    network, tokenizer = network_of(name, name), Tokenizer()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pairs = ParallelCorpus(Corpus(["uno", "dos", "tres"] * 8), Corpus(["one", "two", "six"] * 8))
    options = TranslationTuning(steps=80, batch_size=12, rate=2e-2)
    found = finetune_translation(network, tokenizer, pairs, range(18), range(18, 24), options)
    assert found.texts == ["one", "two", "six"] * 2 and found.nats < 0.2 and found.scores.rouge_l == 100
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    again = finetune_translation(network, tokenizer, pairs, range(18), range(18, 24), options)
    assert again == found


def test_its_loss_is_that_of_transformers_and_long_texts_are_cut() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("sacrebleu")
    network, tokenizer = network_of("t5", "t5"), Tokenizer()
    pairs = ParallelCorpus(Corpus(["a b", "c" * 50]), Corpus(["ab", "d e"]))
    options = TranslationTuning(steps=1, rate=1e-12, weight_decay=0)
    found = finetune_translation(network, tokenizer, pairs, [0], [0, 1], options)
    assert found.cut == 1
    nats = terms = 0.0
    theirs: Any = network.network
    for k in range(2):
        source, target = (
            torch.from_numpy(np.append(tokenizer.encode([text])[0][:31], tokenizer.sep))[None] for text in pairs.pair(k)
        )
        with torch.no_grad():
            nats += float(theirs(input_ids=source, labels=target).loss) * target.shape[1]
        terms += target.shape[1]
        never = (0, 1, 2, 4, *range(tokenizer.size, network.vocabulary))  # no sentinels
        how: dict[str, Any] = {"end": tokenizer.sep, "temperature": 0, "never": never}
        assert found.texts[k] == tokenizer.decode(generate_target(network, source[0].numpy(), 32, **how)[0])
    assert found.nats == pytest.approx(nats / terms, rel=1e-5)


def test_bad_input_is_named() -> None:
    for bad, match in (((["a"], []), "expected one for each prediction, .* got 0 for 1"), (([], []), "at least one")):
        with pytest.raises(ValueError, match=match):
            text_scores(*bad)
    with pytest.raises(TypeError, match="predictions: expected a list of texts, got one text"):
        rouge_l("abc", ["abc"])
    pairs, network = ParallelCorpus(Corpus(["a"]), Corpus(["b"])), network_of("bert", "transformer")
    with pytest.raises(ValueError, match=r"network: expected one with a decoder \(t5, bart\), got 'transformer'"):
        finetune_translation(network, Tokenizer(), pairs, [0], [0])
    with pytest.raises(TypeError, match="pairs: expected a fastssl.data.ParallelCorpus, got Corpus"):
        finetune_translation(network, Tokenizer(), Corpus(["a"]), [0], [0])  # type: ignore[arg-type]
    for options, match in (({"steps": 0}, "steps: expected an integer"), ({"rate": 0.0}, "rate: expected a number")):
        with pytest.raises(ValueError, match=match):
            TranslationTuning(**options).check()  # type: ignore[arg-type]
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="train, test: expected at least one pair each, got 0 and 1"):
        finetune_translation(network_of("t5", "t5"), Tokenizer(), pairs, [], [0])


def test_verses_are_aligned_in_both_directions() -> None:
    there, back = verses("en-es"), verses("es-en")
    assert isinstance(there, ParallelCorpus) and isinstance(back, ParallelCorpus)
    assert there.pair(5) == back.pair(5)[::-1] and back.embedded == "verses-es-en"


def test_parts_in_evaluation_mode_stay_in_it() -> None:
    """As in pretraining: a layer that was frozen within a network in training mode."""
    pairs = ParallelCorpus(Corpus(["uno", "dos"] * 8), Corpus(["one", "two"] * 8))
    shape = {"width": 16, "depth": 1, "heads": 2, "length": 8}
    network = build_language({"name": "bart", "vocabulary": 361, **shape}).train()
    off = next(part for part in network.modules() if isinstance(part, torch.nn.LayerNorm)).eval()
    seen = []
    off.register_forward_hook(lambda part, *_: seen.append(part.training))
    how = TranslationTuning(steps=2, batch_size=8)
    finetune_translation(network, Tokenizer(), pairs, range(14), range(14, 16), how)
    assert seen and not any(seen)
