"""ELECTRA and XLNet: losses of transformers, what is drawn, and what a position sees."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastssl.data import train_tokenizer
from fastssl.data.corruption import IGNORED, Draws, permuted_spans
from fastssl.evaluate import evaluate_language
from fastssl.methods import ELECTRA, get
from fastssl.models.language_export import export_language
from fastssl.train.gradients import split_batch
from tests.support.language import method_of, tokens
from tests.support.training import gradients, relative

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def file() -> Any:
    return tokens()


def electra(file: Any, rows: int = 12, **options: Any) -> tuple[Any, Any]:
    method: Any = method_of("electra", "electra", **options)
    return method, method.examples(method.prepare(file).items(range(rows)), 0)


def test_both_losses_and_their_gradients_are_transformers(file: Any) -> None:
    method, batch = electra(file)
    method.eval()
    generator, discriminator = copy.deepcopy((method.generator, method.network.network))  # share embeddings, as ours
    keep = batch.tokens != 0
    given, changed = method.replaced(batch, method.hidden(batch))
    theirs = generator(input_ids=batch.tokens, attention_mask=keep, labels=batch.targets).loss
    theirs = theirs + 50 * discriminator(input_ids=given, attention_mask=keep, labels=changed).loss
    theirs.backward()
    ours = method(batch)
    ours.backward()
    assert abs(float((ours - theirs).detach())) < 1e-5 * float(theirs.detach())
    assert relative(gradients(method.network.network), gradients(discriminator)) < 1e-5
    assert relative(gradients(method.generator), gradients(generator)) < 1e-5


def test_masked_tokens_alone_are_replaced_and_none_that_was_drawn_again_counts(file: Any) -> None:
    method, batch = electra(file, share=0.5)
    masked = batch.targets != IGNORED
    assert bool((batch.tokens[masked] == method.tokenizer.mask).all()) and bool((batch.tokens[:, 0] == 2).all())
    text = torch.where(masked, batch.targets, batch.tokens)
    often = int(text[masked].mode().values)
    with torch.no_grad():
        method.generator.generator_lm_head.bias[often] += 6
    replaced, changed = method.replaced(batch, method.hidden(batch))
    again = masked & (text == often) & (replaced == often)
    assert bool(again.any()) and not bool(changed[again].any())
    assert torch.equal(changed, (replaced != text).float())
    assert torch.equal(replaced[~masked], batch.tokens[~masked])


def test_tokens_are_drawn_as_often_as_they_are_probable(file: Any) -> None:
    method, batch = electra(file)
    with torch.no_grad():
        method.generator.generator_lm_head.bias[:20] += torch.linspace(3, 6, 20)
        hidden = method.hidden(batch)
        shares = (method.rows(hidden, batch.targets)[0] @ method.head()[0].T + method.head()[1]).softmax(1).sum(0)
    counts = torch.zeros(261)
    for seed in range(300):
        again = batch._replace(draws=torch.rand(batch.draws.shape, generator=torch.Generator().manual_seed(seed)))
        drawn = method.replaced(again, hidden)[0][batch.targets != IGNORED]
        counts += torch.bincount(drawn, minlength=261)
    expected = 300 * shares
    often = expected > 20
    assert int(often.sum()) >= 20
    statistic = float(((counts - expected)[often] ** 2 / expected[often]).sum())
    assert (statistic - int(often.sum())) / (2 * int(often.sum())) ** 0.5 < 4


def test_electra_learns_and_its_means_are_those_of_the_parts(file: Any) -> None:
    method, batch = electra(file)
    optimizer, losses = torch.optim.AdamW(method.parameters(), lr=3e-3), []
    for _ in range(40):
        found = method.means(batch)
        optimizer.zero_grad()
        torch.stack(found).sum().backward()
        optimizer.step()
        losses.append([float(loss.detach()) for loss in found])
    assert losses[-1][0] < losses[0][0] - 1 and losses[-1][1] < losses[0][1] - 5
    assert all(p.grad is not None for p in method.parameters())
    method.eval()
    whole = torch.stack(method.means(batch))
    parts = split_batch(batch, 3)
    weights = torch.tensor([method.terms(part) for part in parts], dtype=torch.float64)
    means = torch.stack([torch.stack(method.means(part)) for part in parts]).double()
    torch.testing.assert_close((weights * means).sum(0) / weights.sum(0), whole.double(), rtol=1e-5, atol=1e-6)
    training, held_out = (method.prepare(file, span) for span in file.divide(0.2))
    assert 0 < evaluate_language(method, held_out, training)["accuracy"]["pretrained"] <= 100


def test_nothing_to_predict_is_zero_and_bad_options_are_named(file: Any) -> None:
    method, batch = electra(file)
    batch.targets.fill_(IGNORED)
    assert float(method.means(batch)[0].detach()) == 0
    for options, match in (({"share": 1.0}, "share"), ({"size": 0.0}, "size"), ({"weight": -1.0}, "weight")):
        with pytest.raises(ValueError, match=f"{match}: expected a"):
            method_of("electra", "electra", **options)
    with pytest.raises(ValueError, match="network: ELECTRA expects one of electra, got 'transformer'"):
        ELECTRA(method_of("bert", "transformer").network, method.tokenizer)


@pytest.mark.parametrize("name", ["bert", "sim-cse", "electra", "xlnet", "t5", "bart", "gpt"])
def test_transformers_loads_what_is_exported(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from transformers import AutoModel, AutoTokenizer

    made = train_tokenizer(["the state of the union, 1790"], "bpe", 270)
    method = method_of(name, get(name).networks[0], made)
    AutoModel.from_pretrained(export_language(method.network, made, tmp_path / name))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
    found, pair = tokenizer("the state")["input_ids"], tokenizer("the state", "1790")["input_ids"]
    first, second = (ids.tolist() for ids in made.encode(["the state", "1790"]))
    cls, sep = ([made.cls] if name not in ("t5", "bart") else []), [made.sep]
    if name == "gpt":  # continues a text
        assert (found, pair) == (sep + first, sep + first + sep + second)
    else:
        assert (found, pair) == (cls + first + sep, cls + first + sep + second + sep)
    named = f"the {made.text_of(made.mask)} state{made.text_of(made.sep)}"
    ours = made.encode([named])[0].tolist()
    assert made.mask not in ours and made.mask in tokenizer(named)["input_ids"]
    as_text = AutoTokenizer.from_pretrained(tmp_path / name, split_special_tokens=True)
    assert as_text(named, add_special_tokens=False)["input_ids"] == ours


def test_a_sixth_of_the_tokens_is_predicted_in_spans_and_in_random_order() -> None:
    lengths = np.array([0, 1, 5, 600, 601, 599] + [300] * 200)
    ranks = permuted_spans(lengths, Draws(0, 0, np.arange(len(lengths))))
    predicted = ranks >= 0
    assert not bool(predicted[np.arange(601) >= lengths[:, None]].any())
    for row in ranks[predicted.any(1)]:
        assert sorted(row[row >= 0]) == list(range((row >= 0).sum()))
    assert predicted.sum() / lengths.sum() == pytest.approx(1 / 6, rel=0.03)
    assert (predicted.sum(1) <= lengths // 6 + 5).all()
    first = [row[row >= 0][0] / max((row >= 0).sum() - 1, 1) for row in ranks[6:]]
    assert abs(np.mean(first) - 0.5) < 0.1  # the first target of the text is anywhere in the order


def test_a_position_sees_the_context_and_what_comes_before_it_in_the_order(file: Any) -> None:
    method: Any = method_of("xlnet", "xlnet").eval()
    batch = method.examples(method.prepare(file).items(range(1)), 0)
    seen: dict[str, Tensor] = {}
    method.network.embeddings().register_forward_hook(lambda *_: seen.update(x=_[2].requires_grad_()) or _[2])
    hidden = method.hidden(batch)
    ranks = batch.segments[0]
    places = (ranks >= 0).nonzero().flatten()
    assert len(places) > 2
    for k, place in enumerate(places):
        (slope,) = torch.autograd.grad(hidden[0, k].square().sum(), seen["x"], retain_graph=True)
        touched = slope[:, 0].abs().sum(1) > 0  # [T, B, D]
        assert torch.equal(touched, (ranks < ranks[place]) & (batch.tokens[0] != method.tokenizer.pad))
