"""Recurrent language methods: what a state sees, by gradient; losses by loops over torch's own cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastssl.data import Corpus, Tokenizer, Window
from fastssl.data.corruption import IGNORED
from fastssl.evaluate import TextFineTuning, finetune_text
from fastssl.methods import BiLM, SkipThoughts
from fastssl.models import LanguageModel, RecurrentNetwork, build_language
from fastssl.train.language import start_embeddings
from tests.support.language import SHAPE, method_of, tokens

LENGTHS = (4, 9, 1)


def row_of(rng: np.random.Generator, length: int) -> np.ndarray:
    return rng.integers(5, 261, length)


def walk(cell: Any, x: Tensor, state: Any) -> list[Tensor]:
    """The states of a torch cell along [T, D]."""
    states = []
    for row in x:
        state = cell(row[None], state)
        states.append((state[0] if isinstance(state, tuple) else state)[0])
    return states


def cell_of(layer: Any) -> Any:
    """torch's cell with the weights of a layer."""
    kind = torch.nn.LSTMCell if isinstance(layer, torch.nn.LSTM) else torch.nn.GRUCell
    cell = kind(layer.input_size, layer.hidden_size)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    return cell


def nats(method: Any, states: list[Tensor], wanted: list[int]) -> list[Tensor]:
    weight, bias = method.head()
    return [-(weight @ h + bias).log_softmax(0)[k] for h, k in zip(states, wanted)]


def test_bilm_is_the_formula() -> None:
    method, rng = method_of("bilm"), np.random.default_rng(0)
    assert isinstance(method, BiLM)
    network: Any = method.network.network
    windows = [Window(row_of(rng, n), np.zeros(1, np.int64)) for n in LENGTHS]
    batch = method.make(windows, None)  # type: ignore[arg-type]
    terms = []
    for window in windows:
        text = [method.tokenizer.cls, *window.ids.tolist(), method.tokenizer.sep]
        x = network.tokens.weight[text]
        for layer, order in ((network.forwards, 1), (network.backwards, -1)):
            given, wanted = x.flip(0) if order < 0 else x, text[::order]
            terms += nats(method, walk(cell_of(layer), given, None), wanted[1:])
    torch.testing.assert_close(method(batch), torch.stack(terms).mean())
    assert method.terms(batch) == len(terms)


def test_bilm_sees_one_side_of_each_token() -> None:
    method = method_of("bilm")
    network: Any = method.network
    rows = torch.randint(5, 261, (2, 32))
    rows[1, 20:] = method.tokenizer.pad
    seen: dict[str, Tensor] = {}
    network.embeddings().register_forward_hook(lambda *_: seen.update(x=_[2].requires_grad_()) or _[2])
    keep = rows != method.tokenizer.pad
    ahead, behind = network.hidden(rows, keep).chunk(2, 2)
    for row, length in ((0, 32), (1, 20)):
        for place in (0, 7, 19):
            for states, expected in ((ahead, range(place + 1)), (behind, range(place, length))):
                slope = torch.autograd.grad(states[row, place].square().sum(), seen["x"], retain_graph=True)[0]
                assert (slope[row].abs().sum(1) > 0).nonzero().flatten().tolist() == list(expected)
                assert not slope[1 - row].any()
    alone = network.hidden(rows[1:, :20])
    torch.testing.assert_close(alone, network.hidden(rows, keep)[1:, :20])


def test_skip_thoughts_is_the_formula() -> None:
    method, rng = method_of("skip-thoughts"), np.random.default_rng(1)
    assert isinstance(method, SkipThoughts)
    network: Any = method.network.network
    triples = [[row_of(rng, n) for n in sizes] for sizes in ((3, 4, 5), (6, 1, 2))]
    windows = [Window(np.concatenate(t), np.cumsum([0, *map(len, t[:-1])])) for t in triples]
    batch = method.make(windows, None)  # type: ignore[arg-type]
    sep, terms = method.tokenizer.sep, []
    for before, middle, behind in triples:
        about = walk(cell_of(network.forwards), network.tokens.weight[[*middle, sep]], None)[-1]
        for decoder, sentence in zip(method.decoders, (before, behind)):
            x = network.tokens.weight[[sep, *sentence]]
            given = torch.cat([x, about.expand(len(x), -1)], 1)
            terms += nats(method, walk(cell_of(decoder), given, about[None]), [*sentence, sep])
    torch.testing.assert_close(method(batch), torch.stack(terms).mean())
    assert method.terms(batch) == len(terms) == 3 + 5 + 6 + 2 + 4


def test_triples_are_consecutive_sentences() -> None:
    method = method_of("skip-thoughts")
    windows = method.prepare(tokens())
    batch = method.examples(windows.items(range(4)), 0)
    decode, width = method.tokenizer.decode, method.network.length

    def texts(rows: Tensor) -> list[str]:
        return [decode(row[row != IGNORED]) for row in rows]

    before, behind = batch.targets.split(width, 1)
    middle = texts(batch.tokens)
    assert texts(behind)[:-1] == middle[1:] and texts(before)[1:] == middle[:-1]  # of one document of six sentences


def test_embeddings_start_from_word_vectors() -> None:
    for name, dim in (("bilm", 32), ("skip-thoughts", 16)):
        method = method_of(name)
        assert method.network.dim == dim and method.network.states(torch.ones(2, 3).long(), None).shape == (2, 3, dim)  # type: ignore[arg-type]
        windows = method.prepare(tokens())
        assert start_embeddings(method.network, method.tokenizer, "word2vec", windows) > 20


@pytest.mark.parametrize(("name", "readout"), [("bilm", "mean"), ("skip-thoughts", "token")])
def test_their_networks_are_fine_tuned(name: str, readout: str) -> None:
    data, labels = Corpus(["good", "bad, and worse"] * 20), torch.arange(40) % 2
    how = TextFineTuning(least_steps=40, epochs=1, rates=(1e-2,), readout=readout)
    network = method_of(name).network
    found = finetune_text(network, Tokenizer(), data, labels, np.arange(30), np.arange(30, 40), how)
    assert found.score == 100


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_what_does_not_fit_is_named(name: str) -> None:
    network = build_language({**SHAPE, "name": name, "vocabulary": 261})
    assert isinstance(network, LanguageModel) and isinstance(network.network, RecurrentNetwork)
    with pytest.raises(ValueError, match=f"BERT expects one of bert, transformer, roberta, .*, got '{name}'"):
        from fastssl.methods import BERT

        BERT(network, method_of("bilm").tokenizer)
