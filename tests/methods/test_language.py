"""Language methods: losses of transformers, exact means, causality; each learns, resumes bit for bit, runs in bf16."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor

import fastssl.functional as F
from fastssl.data import Corpus, TokenBatch, Tokenizer, Window, Windows, tokenize_corpus
from fastssl.data.corruption import IGNORED, OBJECTIVES
from fastssl.data.windows import passage
from fastssl.methods import BERT, ELECTRA, GPT, T5, SentenceMethod, TextMethod, get
from fastssl.models import build_language, generate, generate_target
from fastssl.models.architectures import MASKED
from fastssl.models.generation import filtered, unwritten
from fastssl.models.language import OWN
from fastssl.ops import extension
from fastssl.train import Pretraining, load_checkpoint, load_encoder, load_method, pretrain
from fastssl.train.checkpoint import restore, save_checkpoint
from fastssl.train.gradients import Gradients, check_batch, split_batch
from fastssl.train.language import check_text_method
from tests.support.language import ALL_NETWORKS, SHAPE, SUBJECT_NETWORKS, corpus, method_of, tokens
from tests.support.resuming import resumes_bit_for_bit
from tests.support.training import gradients, relative

# Those with one loss of the tokens that are predicted; tests/methods/test_replaced.py has ELECTRA.
PREDICTING = [s for s in SUBJECT_NETWORKS if not issubclass(get(s[0]), (SentenceMethod, ELECTRA))]
OTHERS = [(name, network) for name, network in PREDICTING if network not in OWN]
CAUSAL = [network for name, network in ALL_NETWORKS if name == "gpt"]


@pytest.fixture(scope="module")
def file() -> Any:
    return tokens()


def batch_of(method: TextMethod, file: Any, rows: int = 12, seed: int = 0, epoch: int = 0) -> TokenBatch:
    windows = method.prepare(file)
    return method.examples(windows.items(range(rows)), seed, epoch)


@pytest.mark.parametrize(("name", "network"), PREDICTING)
def test_they_learn(name: str, network: str, file: Any) -> None:
    method = method_of(name, network)
    batch = batch_of(method, file)
    optimizer, losses = torch.optim.AdamW(method.parameters(), lr=3e-3), []
    for _ in range(40 if name == "bilm" else 25):
        loss = method(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert abs(losses[0] - math.log(261) - (math.log(2) if name == "bert" else 0)) < 1.5  # a uniform guess
    assert losses[-1] < losses[0] - 1
    metrics = method.pretext_metrics(batch)
    assert 0 <= metrics["accuracy"] <= 100 and metrics["chance"] == pytest.approx(100 / 261)


# The first of each family; what a checkpoint holds of other networks is tested by itself.
FAMILIES = [get(name).family for name, _ in SUBJECT_NETWORKS]


@pytest.mark.parametrize(
    ("name", "network"),
    [
        pytest.param(*s, marks=pytest.mark.slow if family in FAMILIES[:k] else ())
        for k, (s, family) in enumerate(zip(SUBJECT_NETWORKS, FAMILIES))
    ],
)
def test_they_resume_bit_for_bit(name: str, network: str, file: Any, tmp_path: Path) -> None:
    def run(out: str, **more: Any) -> TextMethod:
        method = method_of(name, network)
        more_rows = {"accumulate": 2} if method.separable else {}
        options = Pretraining(epochs=2, batch_size=20, clip=1.0, schedule="linear", betas=(0.9, 0.98), **more_rows)
        given = {"order": None} if name == "bert" and network in MASKED else None
        about = {"encoder_options": method.network.options, "method_options": given}
        pretrain(method, file, options, out=tmp_path / out, **about, **more)
        return method

    def check(progress: Any) -> None:
        assert progress.unit == "tokens" and progress.rate > 0

    whole = resumes_bit_for_bit(run, 3, check)
    loaded = load_method(tmp_path / "whole")
    assert isinstance(loaded, TextMethod) and loaded.tokenizer.fingerprint == whole.tokenizer.fingerprint
    batch = batch_of(whole, file)
    torch.testing.assert_close(loaded(batch), whole.eval()(batch))
    with pytest.raises(ValueError, match=f"checkpoint: {name} has no encoder of images"):
        load_encoder(tmp_path / "whole")
    (tmp_path / "whole" / "checkpoint" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json is not the one that the run was trained with"):
        load_method(tmp_path / "whole")


@pytest.mark.parametrize(("name", "network"), OTHERS)
def test_tied_weights_are_stored_once(name: str, network: str, tmp_path: Path) -> None:
    method = method_of(name, network)
    save_checkpoint(tmp_path / "c", method, torch.optim.SGD(method.parameters(), 0.1), {})
    stored = load_file(tmp_path / "c" / "tensors.safetensors")
    buffers = {id(b) for b in method.buffers()}
    kept = [v for v in method.state_dict(keep_vars=True).values() if id(v) in buffers]
    assert sum(v.numel() for v in stored.values()) == sum(v.numel() for v in (*method.parameters(), *kept))
    tensors, state = load_checkpoint(tmp_path / "c")
    assert state["tied"]
    other = method_of(name, network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    restore(other, tensors)
    assert all(torch.equal(a, b) for a, b in zip(method.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize(("name", "network"), SUBJECT_NETWORKS)
def test_they_run_in_bf16_and_are_keyed_by_item(name: str, network: str, file: Any) -> None:
    method = method_of(name, network)
    batch = batch_of(method, file)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch)
    loss.backward()
    assert bool(torch.isfinite(loss)) and loss.dtype == torch.float32
    windows, ids = method.prepare(file), np.arange(5, 17)
    whole = method.examples(windows.items(ids), 1, 2, ids)
    part = method.examples(windows.items(ids[[7, 3]]), 1, 2, ids[[7, 3]])
    for a, b in zip(whole, part):
        assert (a is None and b is None) or torch.equal(a[[7, 3]], b)
    other = method.examples(windows.items(ids), 1, 3, ids)
    same_in_every_epoch = ("gpt", "bilm", "skip-thoughts", "quick-thoughts", "sim-cse")
    drawn = name not in same_in_every_epoch
    same = whole.segments is not None and torch.equal(whole.segments, other.segments)  # type: ignore[arg-type]
    assert (torch.equal(whole.tokens, other.tokens) and (same or name != "xlnet")) != drawn


def compared(method: TextMethod, batch: TokenBatch, parts: int) -> tuple[float, float]:
    """How far loss and gradient are from those of the whole batch."""
    other = copy.deepcopy(method)
    expected = other(batch)
    expected.backward()
    options = Pretraining(accumulate=parts)
    check_batch(method, options, len(batch.ids))  # type: ignore[arg-type]
    fabric = Fabric(accelerator="cpu", devices=1)
    loss = Gradients(fabric, fabric.setup_module(method), method, options)(batch)
    return abs(float(loss - expected.detach())), relative(gradients(method), gradients(other))


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize(("name", "network"), PREDICTING)
def test_accumulated_gradients_are_those_of_the_batch(name: str, network: str, parts: int, file: Any) -> None:
    """With parts that have unequally many terms, and BERT's two means of different numbers of them."""
    single = name == "xlnet"  # its positions are always float32
    method = method_of(name, network).to(torch.float32 if single else torch.float64).eval()
    batch = batch_of(method, file)
    batch.targets[:5, 4:] = IGNORED
    batch.targets[6] = IGNORED
    counts = [method.terms(part) for part in split_batch(batch, 4)]
    assert len(set(counts)) > 1
    loss, gradient = compared(method, batch, parts)
    assert loss < (2e-6 if single else 1e-6) and gradient < (1e-5 if single else 1e-6)
    if parts > 1:  # the mean of means is another number
        means = torch.stack([method(part) for part in split_batch(batch, parts)]).mean()
        assert abs(float((means - method(batch)).detach())) > 1e-4


@pytest.mark.parametrize(("name", "network"), PREDICTING)
def test_heads_within_autocast_multiply_as_linear_layers(
    name: str, network: str, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 where the CPU has such products, which was left to fp32; the logits are not rounded, as a layer's are."""
    method = method_of(name, network).eval()
    batch = batch_of(method, file)
    hidden = method.hidden(batch).detach()
    rows, wanted = method.rows(hidden, batch.targets)
    weight, bias = (None if t is None else t.detach().double() for t in method.head())
    given: list[torch.dtype] = []

    def entropy(hidden: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        given.extend((hidden.dtype, weight.dtype))
        return linear_cross_entropy(hidden, weight, *rest)

    linear_cross_entropy = F.linear_cross_entropy
    monkeypatch.setattr(F, "linear_cross_entropy", entropy)
    assert weight is not None
    right = float(TF.cross_entropy(TF.linear(rows.double(), weight, bias), wanted))
    errors = []
    for has_products in (False, True):
        monkeypatch.setattr(extension, "multiplies", lambda dtype, has=has_products: has)
        with torch.autocast("cpu", torch.bfloat16):
            errors.append(abs(float(method.entropy(hidden, batch.targets)) - right))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = TF.linear(rows, weight.float(), None if bias is None else bias.float())
    layer = abs(float(TF.cross_entropy(rounded.float(), wanted)) - right)
    assert given[1:] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert all(error <= 1.5 * layer + 2e-3 * right for error in errors)


@pytest.mark.parametrize(("name", "network"), PREDICTING)
def test_nothing_to_predict_is_zero(name: str, network: str, file: Any) -> None:
    method = method_of(name, network, **({"order": None} if name == "bert" else {}))
    batch = batch_of(method, file)
    batch.targets.fill_(IGNORED)
    loss = method(batch)
    loss.backward()
    assert float(loss.detach()) == 0 and method.terms(batch) == 0
    assert all(bool((p.grad == 0).all()) for p in method.parameters() if p.grad is not None)
    fabric = Fabric(accelerator="cpu", devices=1)
    assert float(Gradients(fabric, fabric.setup_module(method), method, Pretraining(accumulate=3))(batch)) == 0


@pytest.mark.parametrize(
    ("name", "network"), [s for s in ALL_NETWORKS if s[1] not in OWN and (s[0] in ("bert", "gpt") or s in OTHERS)]
)
def test_losses_and_gradients_are_transformers(name: str, network: str, file: Any) -> None:
    method = method_of(name, network, **({"packed": False} if name == "gpt" else {})).eval()
    batch = batch_of(method, file)
    other: Any = copy.deepcopy(method.network.network)
    if name == "gpt":
        batch.targets[:, -1] = IGNORED  # transformers predicts tokens of its input alone
        labels = torch.full_like(batch.targets, IGNORED)
        labels[:, 1:] = batch.targets[:, :-1]
        theirs = other(input_ids=batch.tokens, labels=labels).loss
    elif network == "bert":
        keep, kinds = batch.tokens != 0, batch.segments
        given = {"attention_mask": keep, "token_type_ids": kinds, "next_sentence_label": batch.labels}
        theirs = other(input_ids=batch.tokens, labels=batch.targets, **given).loss
    elif name == "xlnet":
        ranks, given = batch.segments.tolist(), {"attention_mask": (batch.tokens != 0).float()}  # type: ignore[union-attr]
        unseen = [[[float(j >= 0 and j >= i) for j in row] for i in row] for row in ranks]
        places = [[k for k, rank in enumerate(row) if rank >= 0] for row in ranks]
        queries = torch.zeros(*batch.targets.shape, batch.tokens.shape[1])
        for b, row in enumerate(places):
            queries[b, range(len(row)), row] = 1
            assert batch.targets[b, : len(row)].tolist() == batch.tokens[b, row].tolist()
            assert bool((batch.targets[b, len(row) :] == IGNORED).all())
        given |= {"perm_mask": torch.tensor(unseen), "target_mapping": queries}
        theirs = other(input_ids=batch.tokens, labels=batch.targets, **given).loss
    else:
        theirs = other(input_ids=batch.tokens, attention_mask=batch.tokens != 0, labels=batch.targets).loss
    theirs.backward()
    ours = method(batch)
    ours.backward()
    assert abs(float((ours - theirs).detach())) < 1e-5
    assert relative(gradients(method.network.network), gradients(other)) < 1e-5


@pytest.mark.parametrize("network", CAUSAL)
def test_gpt_sees_earlier_tokens_of_its_document_alone(network: str) -> None:
    method = method_of("gpt", network).eval()
    row = torch.randint(5, 261, (32,))
    row[10] = method.tokenizer.sep
    batch = method.make([Window(torch.cat([row, row[:1]]).numpy(), np.zeros(1, np.int64))], None)  # type: ignore[arg-type]
    embedding = method.network.embeddings()
    seen: dict[str, Tensor] = {}
    embedding.register_forward_hook(lambda *_: seen.update(x=_[2].requires_grad_()) or _[2])  # type: ignore[func-returns-value]
    with torch.enable_grad():
        hidden = method.hidden(batch)
        for place in (5, 10, 11, 20):
            (slope,) = torch.autograd.grad(hidden[0, place].square().sum(), seen["x"], retain_graph=True)
            begin = 10 if place >= 10 else 0  # [SEP] opens the second document
            touched = slope[0].abs().sum(1) > 0
            assert touched.nonzero().flatten().tolist() == list(range(begin, place + 1))
    # Packed documents have the loss of separate ones.
    parts = (row[:10], row[10:])
    alone = [method.network.hidden(part[None])[0] for part in parts]
    torch.testing.assert_close(hidden[0], torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_gpt_continues_texts_as_it_was_trained(tmp_path: Path) -> None:
    """The layout of training is that of ``generate``: what was learnt by heart is continued exactly."""
    texts = ["the quick brown fox jumps", "a slow green turtle walks", "one two three four five"]
    torch.manual_seed(0)
    shape = {"name": "transformer", "vocabulary": 261, "width": 48, "depth": 2, "heads": 4, "length": 64}
    method = GPT(build_language(shape), Tokenizer())
    batches = method.prepare(tokenize_corpus(Corpus(texts * 40), method.tokenizer, tmp_path / "few.tok"))
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for step in range(150):
        ids = np.random.default_rng(step).permutation(len(batches))[:16]
        optimizer.zero_grad()
        method(method.examples(batches.items(ids), 0, step, ids)).backward()
        optimizer.step()
    method.eval()
    for text in texts:
        made = method.generate(1, prompt=text[:7], temperature=0, tokens=40)
        assert list(made.values) == [text]


@pytest.mark.parametrize(("name", "network"), [s for s in PREDICTING if s[0] not in ("gpt", "bilm", "xlnet")])
def test_targets_are_not_visible(name: str, network: str, file: Any) -> None:
    """What is predicted does not depend on the token itself, but on others on both sides."""
    method = method_of(name, network).eval()
    batch = batch_of(method, file, 4)
    hidden = method.hidden(batch)
    other = batch._replace(targets=batch.targets.clone())
    place = int((batch.targets[0] != IGNORED).nonzero()[2])
    other.targets[0, place] = 7
    changed = method.hidden(other)
    if name == "bert":
        assert torch.equal(hidden, changed)  # targets are no input
        masked = batch.targets != IGNORED
        kept = batch._replace(tokens=torch.where(masked, batch.tokens, batch.tokens))
        assert (kept.tokens[masked] == method.tokenizer.mask).float().mean() > 0.6
        kept.tokens[0, 1] = 9
        assert bool((method.hidden(kept)[0, -20:] != hidden[0, -20:]).any())
    else:
        assert torch.equal(hidden[0, : place + 1], changed[0, : place + 1])
        assert not torch.equal(hidden[0, place + 1], changed[0, place + 1])


def test_second_texts_follow_or_are_of_another_document(file: Any) -> None:
    everything = {
        order: method_of("bert", "transformer", order=order, share=0.01) for order in ("next", "swapped", None)
    }
    for order, method in everything.items():
        assert isinstance(method, BERT)
        windows = method.prepare(file)
        ids = np.arange(min(64, len(windows)))
        batch = method.examples(windows.items(ids), 0, 0, ids)
        labels = None if batch.labels is None else batch.labels.tolist()
        assert (labels is None) == (order is None)
        for k, window in enumerate(item.tokens for item in windows.items(ids)):
            row = torch.where(batch.targets[k] == IGNORED, batch.tokens[k], batch.targets[k])
            row = row[row != method.tokenizer.pad].tolist()
            assert row[0] == method.tokenizer.cls and row[-1] == method.tokenizer.sep
            cut = row.index(method.tokenizer.sep)
            first, second = row[1:cut], row[cut + 1 : -1]
            text = window.ids.tolist()
            if labels is None:
                assert first == text and not bool(batch.segments[k].any())  # type: ignore[index]
                continue
            assert batch.segments[k].tolist().count(1) == len(second) + 1  # type: ignore[index]
            if labels[k] == 0:
                assert first + second == text
            elif order == "swapped":
                assert second + first == text
            else:
                assert first == text[: len(first)]
                others = np.flatnonzero(windows.documents != windows.documents[ids[k]])
                assert any(_within(second, windows.read(i).tokens.ids.tolist()) for i in others)
        if labels is not None:
            assert 0.25 < np.mean(labels) < 0.75


def _within(part: list[int], whole: list[int]) -> bool:
    return any(whole[k : k + len(part)] == part for k in range(len(whole) - len(part) + 1))


def test_lengths_do_not_tell_whether_a_text_follows(tmp_path: Path) -> None:
    """Neither that of the first text, nor of the second, nor of both; and no second text is the start of a document."""
    rng = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join("abcdefgh"[k] for k in rng.integers(0, 8, rng.integers(2, 9))).capitalize() + "."

    texts = [" ".join(sentence() for _ in range(rng.integers(2, 12))) for _ in range(200)]
    method = method_of("bert", "transformer", order="next")
    windows = method.prepare(tokenize_corpus(Corpus(texts), method.tokenizer, tmp_path / "many.tok"))
    ids = np.arange(len(windows))
    lengths, labels = [], []
    for epoch in range(4):
        batch = method.examples(windows.items(ids), 0, epoch, ids)
        filled, second = batch.tokens != method.tokenizer.pad, batch.segments == 1  # type: ignore[operator]
        lengths.append(torch.stack([(filled & ~second).sum(1), second.sum(1), filled.sum(1)], 1))
        labels.append(batch.labels)
    table, wanted = torch.cat(lengths), torch.cat(labels)  # type: ignore[arg-type]
    for column in table.T:
        right = torch.stack([((column > at) == wanted).float().mean() for at in range(int(column.max()))])
        assert float(torch.maximum(right, 1 - right).max()) < 0.62
    short = Window(np.arange(12), np.array([0, 3, 5, 9]))
    assert passage(short, 4, 10).tolist() == [5, 6, 7, 8] and passage(short, 40, 5).tolist() == [5, 6, 7, 8]
    assert passage(short, 2, 1).tolist() == [3] and passage(Window(np.arange(6), np.zeros(1)), 2, 5).tolist() == [4, 5]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_t5_takes_every_objective(objective: str, file: Any) -> None:
    pytest.importorskip("transformers")
    method = method_of("t5", "t5", objective=objective)
    loss = method(batch_of(method, file))
    loss.backward()
    assert bool(torch.isfinite(loss))


@pytest.mark.parametrize("network", CAUSAL)
def test_generation(network: str) -> None:
    model = method_of("gpt", network).network.eval()
    prompt = np.arange(5, 15)
    made = generate(model, prompt, 40, rows=3, temperature=0.8, seed=4)  # beyond the length of 32
    assert made.shape == (3, 50) and bool((made[:, :10] == prompt).all())
    assert np.array_equal(generate(model, prompt, 40, rows=1, temperature=0.8, seed=4)[0], made[0])
    assert not np.array_equal(made[0], made[1])
    greedy = generate(model, prompt, 20, temperature=0)[0]
    weight, bias = model.head()
    ids = torch.from_numpy(prompt)[None]
    for _ in range(20):  # the same without a cache
        scores = model.hidden(ids)[:, -1] @ weight.T
        ids = torch.cat([ids, (scores if bias is None else scores + bias).argmax(1, keepdim=True)], 1)
    assert greedy.tolist() == ids[0].tolist()
    assert not set(generate(model, prompt, 30, never=tuple(range(5, 250)))[0, 10:]) & set(range(5, 250))
    for wrong, match in (({"count": 0}, "count"), ({"top_p": 0.0}, "top_p"), ({"temperature": -1.0}, "temperature")):
        with pytest.raises(ValueError, match=match):
            generate(model, prompt, **{"count": 5, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prompt: expected at least one token"):
        generate(model, prompt[:0], 5)
    causal = build_language({"name": "transformer", "vocabulary": 10, "width": 8, "causal": False})
    with pytest.raises(ValueError, match="network: expected a causal one"):
        generate(causal, prompt[:1], 5)


# Keys and values of all tokens and of a window; the others are slow tests.
CONTINUED = {("gpt2", None), ("llama", None), ("gemma3_text", 8)}


@pytest.mark.parametrize(
    ("network", "window"),
    [
        pytest.param(
            name,
            window,
            marks=() if (name, window) in CONTINUED or "transformer" in name else pytest.mark.slow,
        )
        for name, window in (*((name, None) for name in CAUSAL), ("mistral", 8), ("gemma3_text", 8), ("phi3", 8))
    ],
)
def test_prompts_of_any_lengths_are_continued_as_each_alone(network: str, window: int | None) -> None:
    """Prompts that fit, that are cut on the way, and that are longer than the context, in one call."""
    model = build_language({"name": network, "vocabulary": 261, "width": 32, "depth": 2, "heads": 2, "length": 32})
    if window is not None:  # of sliding attention, shorter than prompts
        config: Any = model.network.config
        model = build_language({**model.options, "config": {**config.to_diff_dict(), "sliding_window": window}})
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 261, size) for size in (1, 20, 5, 12, 30, 32, 50, 20, 41, 1)]
    for how in ({"temperature": 0}, {"rows": 3, "seed": 3, "top_k": 50}):
        made = generate(model, prompts, 16, **how)  # type: ignore[arg-type]
        for prompt, rows in zip(prompts, made, strict=True):
            assert np.array_equal(rows, generate(model, prompt, 16, **how)), len(prompt)  # type: ignore[arg-type]
    assert len(generate(model, prompts[:1], 2)) == 1 and len(generate(model, [prompts[0]] * 70, 2)) == 70
    with pytest.raises(ValueError, match="prompt: expected at least one token"):
        generate(model, [prompts[0], prompts[0][:0]], 5)


@pytest.mark.parametrize("network", ["transformer", "gpt2", "llama"])
def test_prompts_are_continued_in_one_pass_and_no_further_than_their_ends(network: str) -> None:
    model = method_of("gpt", network).network
    prompts = [np.arange(5, 6 + k) for k in range(16)]
    own, shapes = model.hidden_next, []

    def hidden_next(tokens: Tensor, *more: Any) -> Any:
        shapes.append(tuple(tokens.shape))
        return own(tokens, *more)

    model.hidden_next = hidden_next  # type: ignore[method-assign]
    made = np.stack([row[0, -10:] for row in generate(model, prompts, 10, seed=1, top_k=20)])
    assert shapes == [(16, 16), *[(16, 1)] * 9]  # every token is read once
    end = int(np.bincount(made[:, 2:].ravel()).argmax())  # as if it were that of a text
    places = [int(np.argmax(row == end)) if end in row else 10 for row in made]
    shapes.clear()
    ended = np.stack([row[0, -10:] for row in generate(model, prompts, 10, seed=1, top_k=20, end=end)])
    assert [rows for rows, _ in shapes] == [sum(place >= step for place in places) for step in range(10)]
    assert len(set(places)) > 2 and any(place < 9 for place in places)
    for row, whole, place in zip(ended, made, places, strict=True):
        assert row.tolist() == [*whole[:place], *[end] * (10 - place)]


def test_states_with_a_cache_are_those_of_the_whole_text() -> None:
    net: Any = method_of("gpt", "transformer").network.network
    tokens, generator = torch.arange(5, 101).reshape(4, 24), torch.Generator().manual_seed(0)
    keep = torch.rand(4, 24, generator=generator) < 0.8
    keep[:, 0] = True
    cuts = [0, 1, 7, 8, 9, 20, 24]
    with torch.no_grad():
        for given in (None, keep, keep[:, None].expand(4, 24, 24)):
            cache, parts = net.cache(), []
            for a, b in itertools.pairwise(cuts):
                seen = None if given is None else given[:, :b] if given.dim() == 2 else given[:, a:b, :b]
                parts.append(net(tokens[:, a:b], seen, cache=cache))
            torch.testing.assert_close(torch.cat(parts, 1), net(tokens, given), rtol=0, atol=1e-5)
        for seen in cache:
            seen.select(torch.tensor([2, 0]))
        some, more = torch.tensor([2, 0]), torch.full((4, 1), 7)
        wanted = net(torch.cat([tokens, more], 1), torch.cat([keep, more > 0], 1))[some, -1:]
        found = net(more[:2], torch.cat([keep[some], more[:2] > 0], 1), cache=cache)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_decoders_write_for_texts_of_any_lengths_as_for_each_alone(name: str) -> None:
    pytest.importorskip("transformers")
    method = method_of(name).eval()
    if name == "bart":  # with random weights it repeats the start, which is the end
        bias_of: Any = method.network.network.final_logits_bias
        bias_of[0, method.tokenizer.sep] = -100
    prompts = ["The state of the union.", "My", "", "My fellow [MASK]"]
    for how in ({"temperature": 0.0}, {"seed": 3, "top_k": 50}):
        alone = [method.generate(2, prompt=text, tokens=12, **how).values for text in prompts]  # type: ignore[call-arg]
        together = method.generate(2, prompt=prompts, tokens=12, **how).values  # type: ignore[call-arg]
        assert together == [text for texts in alone for text in texts]
    for wrong, kind, match in (
        ([], ValueError, "at least one text"),
        (3, TypeError, "a text or a list of texts, got 3"),
    ):
        with pytest.raises(kind, match=f"prompt: expected {match}"):
            method.generate(prompt=wrong)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_decoders_write_with_a_cache_as_without(name: str) -> None:
    pytest.importorskip("transformers")
    method = method_of(name).eval()
    model, t = method.network, method.tokenizer
    if name == "bart":  # with random weights it repeats the start, which is the end
        bias_of: Any = model.network.final_logits_bias
        bias_of[0, t.sep] = -100
    source = np.append(np.arange(40, 52), t.sep)
    greedy = generate_target(model, source, 20, end=t.sep, temperature=0)[0]
    tokens = torch.from_numpy(source)[None]
    weight, bias = model.head()
    before = torch.tensor([[t.pad if name == "t5" else t.sep]])
    for _ in range(20):
        scores = model.decoded(tokens, tokens != t.pad, before)[:, -1] @ weight.T
        before = torch.cat([before, (scores if bias is None else scores + bias).argmax(1, keepdim=True)], 1)
        if int(before[0, -1]) == t.sep:
            break
    expected = before[0, 1:].tolist()
    assert greedy.tolist() == [k for k in expected if k != t.sep] and len(greedy)
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": len(expected)}
    forced = {"forced_eos_token_id": None} if name == "bart" else {}
    theirs = model.network.generate(tokens, **options, **forced)[0, 1:].tolist()  # type: ignore[operator,union-attr]
    assert theirs[: len(greedy)] == greedy.tolist()
    rows, sizes = generate_target(model, source, 12, end=t.sep, rows=3, seed=5), []
    decode_next = model.decode_next
    model.decode_next = lambda tokens, *more: sizes.append(len(tokens)) or decode_next(tokens, *more)  # type: ignore
    end = int(rows[1][4])  # as if it were that of a text: rows behind it are no longer computed
    ended = generate_target(model, source, 12, end=end, rows=3, seed=5)
    places = [row.tolist().index(end) if end in row else len(row) for row in rows]
    assert [row.tolist() for row in ended] == [row[:k].tolist() for row, k in zip(rows, places, strict=True)]
    assert sizes == [sum(k >= step for k in places) for step in range(12)]
    assert np.array_equal(generate_target(model, source, 12, end=t.sep, rows=1, seed=5)[0], rows[0])
    assert not np.array_equal(rows[0], rows[1])
    for wrong, match in ((source[:0], "source: expected 1 to 32 tokens, got 0"), (np.arange(40), "got 40")):
        with pytest.raises(ValueError, match=match):
            generate_target(model, wrong, 5, end=t.sep)
    with pytest.raises(ValueError, match="network: expected one with a decoder"):
        generate_target(method_of("gpt", "transformer").network, source, 5, end=t.sep)


def test_prompts_of_t5_have_sentinels() -> None:
    pytest.importorskip("transformers")
    method = method_of("t5", "t5")
    seen: dict[str, Tensor] = {}
    encoded = method.network.encoded
    method.network.encoded = lambda tokens, keep: seen.update(tokens=tokens) or encoded(tokens, keep)  # type: ignore
    texts = method.generate(2, 1, prompt="The <extra_id_0> of [MASK].", tokens=6).values  # type: ignore[call-arg]
    t = method.tokenizer
    row = seen["tokens"][0].tolist()
    assert row.count(t.size + 99) == 1 and row.count(t.mask) == 1 and row[-1] == t.sep and len(texts) == 2
    assert t.decode([k for k in row if k < t.size]).replace(" ", "") == "Theof."
    assert isinstance(method, T5)
    ids = np.concatenate([[t.size + 99], t.encode(["a b"])[0], [t.size + 98]])
    assert method._text(ids) == "<extra_id_0> a b <extra_id_1>"


def test_embeddings_without_a_token_are_never_written() -> None:
    """Vocabularies of transformers are padded to multiples of 64."""
    t = Tokenizer()
    method = GPT(build_language({"name": "transformer", "vocabulary": 320, "width": 16, "length": 32}), t)
    with torch.no_grad():
        method.network.network.bias[t.size :] = 50  # type: ignore[index, operator]
        method.network.network.bias[t.encode(["a"])[0][-1]] = 40  # type: ignore[index, operator]
    assert method.generate(1, prompt="b", tokens=5).values == ["baaaaa"]
    special, behind = {t.pad, t.unk, t.cls, t.mask}, set(range(t.size, 320))
    assert set(unwritten(method.network, t)) == special | behind
    method.network.vocabulary = 384
    assert set(unwritten(method.network, t, t.sentinels)) == special | set(range(t.size + 100, 384))


def test_sampled_tokens_follow_the_scores() -> None:
    from scipy import stats

    model = build_language(
        {"name": "transformer", "vocabulary": 8, **{k: SHAPE[k] for k in ("width", "depth", "heads")}}
    )
    with torch.no_grad():
        model.network.bias.copy_(torch.randn(8))  # type: ignore[operator,union-attr]
    weight, bias = model.head()
    p = (model.hidden(torch.tensor([[3]]))[:, -1] @ weight.T + bias).double().softmax(1)[0].detach().numpy()  # type: ignore[operator]
    drawn = generate(model, np.array([3]), 1, rows=20_000)[:, 1]
    assert stats.chisquare(np.bincount(drawn, minlength=8), 20_000 * p).pvalue > 1e-4
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert filtered(logits, top_k=2)[0].tolist() == pytest.approx([0, 0, *torch.tensor([2.0, 3.0]).softmax(0).tolist()])
    shares = logits.softmax(1)[0]
    assert float(shares[3]) < 0.7 < float(shares[2:].sum())
    assert (filtered(logits, top_p=0.7)[0] > 0).tolist() == [False, False, True, True]
    assert filtered(logits, temperature=0)[0].tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(filtered(logits, 2.0)[0], TF.softmax(logits.double() / 2, 1)[0])


def test_what_does_not_fit_is_named(file: Any, tmp_path: Path) -> None:
    method = method_of("gpt", "transformer")
    network = method.network
    small = build_language({**network.options, "vocabulary": 100})
    for given, match in (
        ((small, Tokenizer()), r"network: expected a vocabulary of at least 261, .* got 100"),
        ((build_language({**network.options, "causal": False}), Tokenizer()), "GPT expects a causal transformer"),
    ):
        with pytest.raises(ValueError, match=match):
            GPT(*given)
    with pytest.raises(ValueError, match="causal=False"):
        BERT(network, Tokenizer())
    both = build_language({**network.options, "causal": False})
    for options, match in (
        ({"share": 0.0}, "share"),
        ({"order": "previous"}, "order: expected 'next'"),
        ({"whole_words": True}, "whole_words: expected a tokenizer of words"),
    ):
        with pytest.raises(ValueError, match=match):
            BERT(both, Tokenizer(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length: expected more than 3"):
        BERT(build_language({**both.options, "length": 3}), Tokenizer())
    with pytest.raises(TypeError, match="network: expected one of"):
        GPT(torch.nn.Linear(2, 2), Tokenizer())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tokenizer: expected"):
        GPT(network, "bytes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data: expected a token file"):
        method.prepare(corpus())
    with pytest.raises(ValueError, match="data: expected windows of stream of at most 32 tokens"):
        method.prepare(Windows(file, 64))
    one = tokenize_corpus(Corpus(["One. Two. Three."]), Tokenizer(), tmp_path / "one.tok")
    with pytest.raises(ValueError, match="order: 'next' needs several documents, corpus has one"):
        method_of("bert", "transformer").prepare(one)
    for data, options in ((Corpus(["One. Two. Three."] * 2), {}), (Corpus(["One. Two."]), {"order": "swapped"})):
        check_text_method("bert", {}, data, None, options)
    with pytest.raises(ValueError, match="order: 'next' needs several documents, corpus has one"):
        check_text_method("bert", {}, Corpus(["One. Two. Three."]), None, {})  # before it is tokenized
    with pytest.raises(ValueError, match="expected at least 2 windows of up to 32 tokens .*smaller length.* has 1$"):
        pretrain(method, Windows(file, 32, (0, 20)), Pretraining(epochs=1), out=tmp_path / "run")
    for wrong, match in (
        ({"name": "rnn"}, "network: expected one of transformer"),
        ({"heads": 3}, "heads: expected a divisor of width"),
        ({"depth": 0}, "depth: expected an integer >= 1"),
        ({"dropout": 1.0}, "dropout: expected a share"),
        ({"size": 3}, "network: expected width, depth"),
    ):
        with pytest.raises(ValueError, match=match):
            build_language({**network.options, **wrong})


def test_embeddings_start_from_word_vectors(file: Any, tmp_path: Path) -> None:
    from fastssl.models import WordVectors
    from fastssl.train.language import start_embeddings

    method = method_of("gpt", "transformer")
    table, windows = method.network.embeddings().weight, method.prepare(file)
    before = table.detach().clone()
    used = np.unique(file.ids(0, file.total))
    assert start_embeddings(method.network, method.tokenizer, "word2vec", windows) == len(
        used
    )  # every token that occurs
    moved = (table != before).any(1).nonzero().flatten().tolist()
    assert moved == used.tolist() and float(table[moved].detach().std()) == pytest.approx(float(before.std()), rel=0.01)
    WordVectors(["a", "b", "€"], torch.randn(3, 16)).save(tmp_path / "few.txt")
    fresh = method_of("gpt", "transformer")
    assert start_embeddings(fresh.network, fresh.tokenizer, f"word2vec:{tmp_path / 'few.txt'}") == 6  # a space, bytes
    at = int(file.tokenizer.encode(["a"])[0][1])
    given = WordVectors.load(tmp_path / "few.txt")["a"]
    assert float(TF.cosine_similarity(fresh.network.embeddings().weight[at], given, 0)) == pytest.approx(1, abs=1e-5)
    WordVectors(["€"], torch.randn(1, 16)).save(tmp_path / "none.txt")
    WordVectors(["a"], torch.randn(1, 8)).save(tmp_path / "small.txt")
    for init, match in (
        (f"word2vec:{tmp_path / 'none.txt'}", "init: none of the 261 tokens"),
        (f"word2vec:{tmp_path / 'small.txt'}", "init: expected vectors of 16 dimensions, got 8"),
        ("glove", "init: expected 'word2vec'"),
    ):
        with pytest.raises(ValueError, match=match):
            start_embeddings(fresh.network, fresh.tokenizer, init, windows)


def test_tokens_that_are_no_words_start_from_the_words_they_are_part_of() -> None:
    """A token's own word first; else the mean over words, each as often as it occurs."""
    from fastssl.models import WordVectors
    from fastssl.train.language import _of_tokens

    rows, counts = torch.randn(4, 6), np.array([5, 1, 3, 2])
    vectors = WordVectors(["the", "seaside", "seas", "alone"], rows, counts)
    names = ["[UNK]", "the", "sea", "s", "ide", "alone"]  # without the marks of a tokenizer
    pieces = [np.array(ids) for ids in ([1], [2, 3, 4], [2, 3], [5])]
    start, known = _of_tokens(vectors, names, pieces)
    assert known.tolist() == [False, True, True, True, True, True]
    both = (rows[1] + 3 * rows[2]).double() / 4
    for token, right in ((1, rows[0]), (2, both), (3, both), (4, rows[1]), (5, rows[3])):
        torch.testing.assert_close(start[token], right.double())
    assert not _of_tokens(vectors, ["x"] * 6, [ids for ids in pieces if len(ids) > 1] + [np.zeros(0, int)] * 2)[1].any()


def test_other_tokenizers_are_refused(file: Any) -> None:
    pytest.importorskip("tokenizers")
    from fastssl.data import train_tokenizer

    made = train_tokenizer(["the state of the union"], "bpe", 270)
    with pytest.raises(ValueError, match=r"tokenizer: .*toy.tok was written with another one"):
        method_of("gpt", "transformer", made).prepare(file)
    assert get("gpt").whole == "stream"  # type: ignore[attr-defined]
