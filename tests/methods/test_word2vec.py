"""Word2Vec: draws against their distributions, steps against autograd, bits, resuming, bad input."""

from __future__ import annotations

import gzip
import os
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2, chisquare

import fastssl
import fastssl.functional as F
from fastssl.data import Corpus
from fastssl.data import words as words_module
from fastssl.data.words import number_words, words_of
from fastssl.evaluate import word_analogies, word_similarity
from fastssl.methods import Word2Vec, load_word_vectors
from fastssl.models import WordVectors, word_vectors
from fastssl.ops import extension
from tests.support.modes import FLOAT_ISAS, instruction_set

C: Any = extension._C
pytestmark = pytest.mark.skipif(C is None, reason="needs the compiled kernels")
VOCABULARY = 40


def kernel(ids: np.ndarray, counts: np.ndarray | None = None, keep: float = 1.0, **changes: Any) -> Any:
    counts = np.ones(VOCABULARY) if counts is None else counts
    options = dict(
        power=0.75, tree=False, window=3, negatives=4, cbow=False, shared=True, seed=7
    ) | changes  # fmt: skip
    return C.Words(ids.astype(np.int32), np.full(len(counts), keep, np.float32), counts, **options)


def text(sentences: int = 6, words: int = 30, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = [np.append(rng.integers(0, VOCABULARY, words), -1) for _ in range(sentences)]
    return np.concatenate(made)


def windows(kernel: Any, epoch: int, begin: int, end: int) -> list[tuple[np.ndarray, ...]]:
    inputs, input_weights, input_ends, outputs, output_ends, targets, weights = kernel.windows(epoch, begin, end)
    a, b = np.append(0, input_ends), np.append(0, output_ends)
    return [
        (
            *(x[a[k] : a[k + 1]] for x in (inputs, input_weights)),
            *(x[b[k] : b[k + 1]] for x in (outputs, targets, weights)),
        )
        for k in range(len(input_ends))
    ]


CASES = [
    dict(cbow=cbow, tree=tree, shared=shared, negatives=negatives)
    for cbow in (False, True)
    for tree, shared, negatives in ((False, True, 4), (False, False, 4), (False, True, 11), (True, True, 0))
]


@pytest.mark.parametrize("dim", [1, 24])
@pytest.mark.parametrize("case", CASES, ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items()))
def test_a_step_is_autograds(case: dict[str, Any], dim: int, isa: str) -> None:
    """Each window in turn, by gradient descent on the formula in float64."""
    ids = text(2)
    k = kernel(ids, np.arange(1.0, VOCABULARY + 1), **case)
    stride, rows = -(-dim // 16) * 16, VOCABULARY - case["tree"]
    rng = np.random.default_rng(1)
    x, y = np.zeros((VOCABULARY, stride), np.float32), np.zeros((rows, stride), np.float32)
    x[:, :dim], y[:, :dim] = rng.normal(0, 0.7, (VOCABULARY, dim)), rng.normal(0, 0.7, (rows, dim))
    a, b = torch.tensor(x).double(), torch.tensor(y).double()
    loss = terms = 0.0
    found = windows(k, 0, 0, len(ids))
    assert len(found) > 20
    for number, (inputs, times, outputs, targets, weights) in enumerate(found):
        assert len(set(inputs)) == len(inputs) and len(set(outputs)) == len(outputs)
        a.requires_grad_(), b.requires_grad_()
        hidden = a[torch.tensor(np.repeat(inputs, times.astype(int))).long()]
        hidden = hidden.mean(0, keepdim=True) if case["cbow"] else hidden
        scores = hidden @ b[torch.tensor(outputs).long()].T
        signs = torch.tensor(2 * targets - 1).double()
        value = -(torch.tensor(weights).double() * torch.nn.functional.logsigmoid(signs * scores)).sum()
        ga, gb = torch.autograd.grad(value, [a, b])
        a, b = (a - 0.05 * ga).detach(), (b - 0.05 * gb).detach()
        if number % 8 == 0:
            loss, terms = loss + value.item(), terms + len(hidden)
    with instruction_set(isa):
        k.set_tables(x, y, 1, 0.05, 0.05, False, 1 << 12)
        end, got, pairs = k.train(0, 0, 1)
    assert end == len(ids) and pairs == terms and got == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(torch.tensor(x).double(), a, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(torch.tensor(y).double(), b, rtol=1e-4, atol=2e-6)
    assert not x[:, dim:].any() and not y[:, dim:].any()


@pytest.fixture(params=FLOAT_ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_negatives_have_the_function_of_the_same_name() -> None:
    """The loss of pairs is that of ``F.negative_sampling``."""
    ids = text(1)
    k = kernel(ids, shared=False, negatives=3)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(VOCABULARY, 16)).astype(np.float32) for _ in range(2))
    inputs, times, outputs, targets, weights = windows(k, 0, 0, len(ids))[0]
    assert times.tolist() == [1]
    repeated = np.repeat(outputs, weights.astype(int))[1:]
    rows = torch.tensor(x)[torch.tensor(inputs).long()]
    negatives = torch.tensor(repeated).long().expand(1, -1)
    wanted = F.negative_sampling(rows, torch.tensor(y), torch.tensor(outputs[:1]), negatives)
    k.set_tables(x, y, 1, 0.0, 0.0, True, 1)  # the first step's first segment holds one centre
    assert targets.tolist()[0] == 1 and k.train(0, 0, 1)[1] > 0
    scores = torch.tensor(x[inputs] @ y[outputs].T)
    signs = torch.tensor(2 * targets - 1)
    own = -(torch.tensor(weights) * torch.nn.functional.logsigmoid(signs * scores)).sum()
    assert own.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_noise_windows_and_subsampling_have_their_distributions(shared: bool) -> None:
    counts = np.arange(1.0, 21.0) ** 2
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 20, 40_000)
    k = kernel(ids, counts, keep=0.5, negatives=6, window=4, shared=shared, cbow=True)
    found = windows(k, 0, 0, len(ids))
    centres = np.array([w[2][0] for w in found])
    kept = len(found)
    assert abs(kept / len(ids) - 0.5) < 0.01
    share = counts**0.75 / (counts**0.75).sum()
    drawn = np.zeros(20)
    for centre, (_, _, outputs, _, weights) in zip(centres, found):
        np.add.at(drawn, outputs[1:], weights[1:])
        assert centre not in outputs[1:] and len(set(outputs)) == len(outputs)
    expected = share * 6 * kept - share * 6 * np.bincount(centres, minlength=20)  # noise that is the word is left out
    # A pool's 128 draws serve 128 windows, six times each: counts vary seven times as much as if they were independent.
    statistic = ((drawn - expected) ** 2 / expected).sum() / (7 if shared else 1)
    assert chi2.sf(statistic, 19) > 1e-3
    reach = np.bincount([int(w[1].sum()) // 2 for w in found[10:-10]], minlength=5)[1:]
    assert chisquare(reach).pvalue > 1e-3
    parts = [w for begin, end in ((0, 8000), (8000, 8001), (8001, 12_000)) for w in windows(k, 0, begin, end)]
    for one, other in zip(parts, found):  # a stretch has the windows of the whole
        assert all(len(a) == len(b) and (a == b).all() for a, b in zip(one, other))
    assert [w[2][0] for w in windows(k, 1, 0, 1000)] != centres[:500].tolist()


def test_probabilities_of_the_tree_sum_to_one() -> None:
    counts = np.random.default_rng(0).integers(1, 100, 37).astype(float)
    k = kernel(np.array([0, 1, -1]), counts, tree=True)
    y = torch.randn(36, 8, dtype=torch.float64)
    x = torch.randn(8, dtype=torch.float64)
    total, bits = 0.0, 0.0
    for word in range(37):
        one = kernel(np.array([word, (word + 1) % 37, -1]), counts, tree=True, window=1)
        _, _, nodes, targets, _ = windows(one, 0, 0, 1)[0]
        signs = torch.tensor(2 * targets - 1).double()
        total += torch.sigmoid(signs * (y[torch.tensor(nodes).long()] @ x)).prod().item()
        bits += len(nodes) * counts[word] / counts.sum()
    share = counts / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    assert total == pytest.approx(1, abs=1e-12) and entropy <= bits < entropy + 1  # Huffman's bound
    assert k.windows(0, 0, 3)[0].tolist() == [1, 0]


SENTENCES = [
    [f"w{k}" for k in row] for row in np.minimum(np.random.default_rng(0).geometric(0.05, (300, 20)), 60)
]  # fmt: skip
SMALL = dict(dim=20, min_count=1, epochs=3, subsample=1e-2, lr=0.05)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus([" ".join(s) for s in SENTENCES])


@pytest.mark.threads
@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
@pytest.mark.parametrize("objective", ["negative-sampling", "hierarchical-softmax"])
def test_the_same_bits_for_any_number_of_threads(architecture: str, objective: str, corpus: Corpus) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            method = Word2Vec(architecture=architecture, objective=objective, **SMALL)
            found.append((method.fit(corpus).vectors, method.outputs, method.history))
    finally:
        torch.set_num_threads(before)
    for vectors, outputs, history in found[1:]:
        assert torch.equal(vectors, found[0][0]) and torch.equal(outputs, found[0][1]) and history == found[0][2]
    assert found[0][2][-1] < found[0][2][0]


def test_instruction_sets_agree(corpus: Corpus) -> None:
    found = []
    for name in FLOAT_ISAS:
        with instruction_set(name):
            found.append(Word2Vec(**SMALL).fit(corpus).vectors)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", ["negative-sampling", "hierarchical-softmax", "softmax"])
def test_resumes_bit_for_bit(objective: str, corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {**SMALL, "objective": objective, "epochs": 2}
    whole = Word2Vec(**options)
    wanted = whole.fit(corpus)
    seen = []

    def stop(p: Any) -> None:
        seen.append(p)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Word2Vec(**options).fit(corpus, out=tmp_path, on_step=stop)
    assert 0 < seen[-1].words < seen[-1].total
    with pytest.raises(ValueError, match="holds a run already"):
        Word2Vec(**options).fit(corpus, out=tmp_path)
    with pytest.raises(ValueError, match="dim: the checkpoint was made with 20, got 21"):
        Word2Vec(**{**options, "dim": 21}).fit(corpus, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="another corpus"):
        Word2Vec(**options).fit(SENTENCES[1:], out=tmp_path, resume=True)
    rest = Word2Vec(**options)
    vectors = rest.fit(corpus, out=tmp_path, resume=True)
    assert torch.equal(vectors.vectors, wanted.vectors) and rest.history == whole.history
    loaded = load_word_vectors(tmp_path)
    assert torch.equal(loaded.vectors, wanted.vectors) and loaded.words == wanted.words
    assert loaded.counts is not None and loaded.counts.sum() == 6000
    assert not caplog.text
    Word2Vec(**options).fit(corpus, out=tmp_path / "empty", resume=True)
    assert "resume: no checkpoint in" in caplog.text and "nothing is left" not in caplog.text
    Word2Vec(**options).fit(corpus, out=tmp_path, resume=True)
    assert "resume: the run has all of its 2 epochs, nothing is left to do" in caplog.text
    longer = Word2Vec(**{**options, "epochs": 3})
    assert not torch.equal(longer.fit(corpus, out=tmp_path, resume=True).vectors, wanted.vectors)
    assert longer.history[:2] == whole.history and len(longer.history) == 3
    with pytest.raises(ValueError, match="epochs: the checkpoint has 3 already, got 2"):
        Word2Vec(**options).fit(corpus, out=tmp_path, resume=True)


def test_hogwild_learns_as_well(corpus: Corpus) -> None:
    losses = []
    for reproducible in (True, False):
        method = Word2Vec(**SMALL, reproducible=reproducible)
        method.fit(corpus)
        losses.append(method.history[-1])
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
@pytest.mark.parametrize("objective", ["negative-sampling", "hierarchical-softmax", "softmax"])
def test_words_of_one_context_become_neighbours(architecture: str, objective: str) -> None:
    rng = np.random.default_rng(0)
    animals, tools = ["cat", "dog", "cow", "hen"], ["saw", "axe", "nail", "file"]
    sentences = [
        [rng.choice(animals), "eats", rng.choice(["grass", "corn"])] if k % 2 else
        [rng.choice(tools), "cuts", rng.choice(["wood", "stone"])] for k in range(2000)
    ]  # fmt: skip
    vectors = Word2Vec(
        16, architecture=architecture, objective=objective, min_count=1, subsample=0, epochs=6, lr=0.1
    ).fit(sentences)
    for group in (animals, tools):
        others = {word for word, _ in vectors.most_similar(group[0], 3)}
        assert others == set(group) - {group[0]}, others


def test_exact_softmax_is_the_formula() -> None:
    method = Word2Vec(8, objective="softmax", min_count=1, epochs=1, subsample=0, lr=0.0, min_lr=0.0)
    vectors = method.fit(SENTENCES[:20])
    assert method.outputs is not None
    logits = vectors.vectors @ method.outputs.T
    numbered = number_words(SENTENCES[:20], 1)
    k = kernel(numbered.ids, numbered.counts.astype(float), window=5, negatives=0, seed=0)
    found = windows(k, 0, 0, len(numbered.ids))
    pairs = [(i, w[2][0]) for w in found for i in np.repeat(w[0], w[1].astype(int))]
    a, b = torch.tensor(np.array(pairs).T).long()
    wanted = torch.nn.functional.cross_entropy(logits[a].double(), b)
    assert method.history[0] == pytest.approx(wanted.item(), rel=1e-5)


def test_counting() -> None:
    texts = ["The dog\u2019s day, the DOG'S day.", "naïve Naïve 日本 x_y o'clock' 'tis", "\U0001f600"]
    numbered = number_words(Corpus(texts), 1)
    found = dict(zip(numbered.words, numbered.counts.tolist()))
    assert found == {
        "the": 2, "dog's": 2, "day": 2, "naïve": 2, "日本": 1, "x": 1, "y": 1, "o'clock": 1, "tis": 1
    }  # fmt: skip
    assert numbered.words[:4] == ["the", "dog's", "day", "naïve"]
    words = [numbered.words[k] if k >= 0 else "." for k in numbered.ids]
    assert words[:7] == ["the", "dog's", "day", "the", "dog's", "day", "."]
    assert number_words(Corpus(texts), 2).words == ["the", "dog's", "day", "naïve"]
    assert number_words(Corpus(texts), 1, max_words=1).ids.tolist() == [0, 0, -1, -1, -1]
    plain = number_words(SENTENCES, 2)
    unique, counts = np.unique(np.concatenate(SENTENCES), return_counts=True)
    assert dict(zip(plain.words, plain.counts.tolist())) == {w: c for w, c in zip(unique, counts) if c >= 2}
    assert (np.diff(plain.counts) <= 0).all() and (plain.ids == -1).sum() == len(SENTENCES)


def test_many_words_go_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = number_words(SENTENCES, 3)
    monkeypatch.setattr(words_module, "IN_MEMORY", 100)
    found = number_words(SENTENCES, 3)
    assert isinstance(found.ids, np.memmap) and (found.ids == wanted.ids).all() and found.words == wanted.words
    assert Word2Vec(**SMALL).fit(SENTENCES).vectors.isfinite().all()


@pytest.mark.parametrize(
    ("sentences", "options"),
    [
        ([["one", "one", "one"]], {}),
        ([["a", "b"]], {"dim": 1}),
        ([["a", "b"], [], ["c"]], {"objective": "hierarchical-softmax"}),
        ([["one", "two"]], {"objective": "softmax", "architecture": "cbow"}),
        ([["a", "b"] * 50], {"window": 1000, "negatives": 100, "subsample": 1e-3}),
        ([["a", "b", "a"]], {"shared_negatives": False, "dim": 33}),
    ],
)
def test_small_corpora(sentences: list[list[str]], options: dict[str, Any]) -> None:
    vectors = Word2Vec(**{"dim": 5, "min_count": 1, "subsample": 0, **options}).fit(sentences)
    assert len(vectors) == len({w for s in sentences for w in s}) and vectors.vectors.isfinite().all()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dim": 0}, "dim"), ({"dim": 2.5}, "dim"), ({"window": 0}, "window"), ({"negatives": -1}, "negatives"),
        ({"lr": float("nan")}, "lr"), ({"lr": -1.0}, "lr"), ({"subsample": float("inf")}, "subsample"),
        ({"power": float("nan")}, "power"), ({"architecture": "glove"}, "architecture: expected one of skip"),
        ({"objective": "ns"}, "objective"), ({"epochs": 0}, "epochs"), ({"seed": -1}, "seed"),
        ({"min_count": 0}, "min"), ({"reproducible": "False"}, "reproducible: expected True or False"),
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Word2Vec(**options)


def test_bad_data() -> None:
    with pytest.raises(ValueError, match="no word occurs 5 times"):
        Word2Vec().fit([["rare"]])
    for texts in ([], ["", " "], ["!!!", "..."]):
        for count in (1, 5):
            with pytest.raises(ValueError, match="expected words, there are none: its texts have no letters"):
                Word2Vec(min_count=count).fit(Corpus(texts))
    with pytest.raises(TypeError, match="got a string"):
        Word2Vec().fit(["a sentence"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="got int"):
        Word2Vec().fit([[1]])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="word2vec takes texts"):
        Word2Vec().fit("digits")
    with pytest.raises(RuntimeError, match="not finite"):
        Word2Vec(**{**SMALL, "lr": 1e30, "min_lr": 1e30}).fit(SENTENCES)
    with pytest.raises(ValueError, match=r"Word2Vec\(\)\.fit"):
        fastssl.pretrain("word2vec", "sotu", out="runs")
    with pytest.raises(ValueError, match="minutes"):
        Word2Vec().fit(SENTENCES, minutes=0)
    with pytest.raises(ValueError, match="resume"):
        Word2Vec().fit(SENTENCES, resume=True)
    with pytest.raises(ValueError, match=r"no word had a neighbour to predict that subsample=1e-12 keeps"):
        Word2Vec(min_count=1, subsample=1e-12).fit([["a", "b"]] * 20)
    with pytest.raises(ValueError, match=r"no word had a neighbour to predict$"):
        Word2Vec(min_count=1, subsample=0).fit([["a"], ["b"]] * 20)


def test_the_kernel_refuses_what_would_crash() -> None:
    ids = np.array([0, 1], np.int32)
    for wrong in (np.array([0, VOCABULARY]), np.array([-2, 0])):
        with pytest.raises(ValueError, match="ids"):
            kernel(wrong)
    for options in (dict(counts=np.zeros(VOCABULARY)), dict(counts=np.full(VOCABULARY, np.nan)), dict(window=0)):
        with pytest.raises(ValueError):
            kernel(ids, **options)
    k = kernel(ids)
    with pytest.raises(ValueError, match="set them"):
        k.train(0, 0, 1)
    good = np.zeros((VOCABULARY, 16), np.float32)
    for x, y, rate in (
        (good[1:], good, 0.1), (good, good[:, :8].copy(), 0.1), (good[:, :15].copy(), good, 0.1),
        (good, good.copy(), float("nan")), (good, good.copy(), -1.0),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            k.set_tables(x, y, 1, rate, 0.0, True, 64)
    k.set_tables(good, good.copy(), 1, 0.1, 0.0, True, 64)
    for begin in (-1, 5):
        with pytest.raises(ValueError, match="begin"):
            k.train(0, begin, 1)
    assert k.train(0, 1 << 20, 1)[0] == 1 << 20 and k.train(0, 0, 0)[0] == 0
    with pytest.raises(ValueError, match="positions"):
        k.windows(0, 0, 3)


def test_minutes_give_the_number_of_epochs(corpus: Corpus, tmp_path: Path) -> None:
    """The same as with that number from the beginning, also where the run was stopped."""

    def stop(p: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Word2Vec(**SMALL).fit(corpus, minutes=0.01, out=tmp_path, on_step=stop)
    method = Word2Vec(**SMALL)
    vectors = method.fit(corpus, minutes=0.01, out=tmp_path, resume=True)
    assert method.epochs >= 1 and len(method.history) == method.epochs
    whole = Word2Vec(**{**SMALL, "epochs": method.epochs})
    assert torch.equal(vectors.vectors, whole.fit(corpus).vectors) and whole.history == method.history


VECTORS = WordVectors(
    ["king", "queen", "man", "woman", "apple"],
    torch.tensor([[1.0, 1, 0], [1, -1, 0], [0.1, 1, 0], [0.1, -1, 0], [-1, 0, 1]]),
)


def test_vectors_of_words() -> None:
    v = VECTORS
    assert v.similarity("king", "man") == pytest.approx((1.1) / (2**0.5 * 1.01**0.5), rel=1e-5)
    assert v.most_similar("king", 2)[0][0] == "man" and len(v.most_similar("king", 100)) == 4
    assert v.most_similar(["king", "woman"], 1, negative="man")[0][0] == "queen"
    for method in ("3cosadd", "3cosmul"):
        assert v.analogy("man", "king", "woman", method=method)[0][0] == "queen"
    assert v.doesnt_match(["king", "queen", "man", "woman", "apple"]) == "apple"
    assert v.nearest(v[["queen", "apple"]], 1)[1][0][0] == "apple"
    assert "king" in v and "prince" not in v and next(iter(v)) == "king" and len(v) == 5
    with pytest.raises(KeyError, match=r"'kingg' is not among the 5 words; did you mean 'king'"):
        v["kingg"]
    for wrong, error in (
        (lambda: WordVectors(["a"], torch.zeros(2, 3)), ValueError),
        (lambda: WordVectors(["a", "a"], torch.zeros(2, 3)), ValueError),
        (lambda: WordVectors(["a"], torch.zeros(3)), TypeError),
        (lambda: v.analogy("man", "king", "woman", method="cos"), ValueError),
        (lambda: v.most_similar([]), ValueError),
        (lambda: WordVectors(["a b"], torch.zeros(1, 2)).save("/nowhere/x"), ValueError),
    ):
        with pytest.raises(error):
            wrong()


@pytest.mark.parametrize("name", ["v.txt", "v.bin"])
def test_files_of_word2vec(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    vectors = WordVectors(["a", "日本", "ü"], torch.randn(3, 7))
    vectors.save(path)
    loaded = WordVectors.load(path)
    assert loaded.words == vectors.words and torch.equal(loaded.vectors, vectors.vectors)
    assert torch.equal(load_word_vectors(path).vectors, vectors.vectors)
    whole = path.read_bytes()
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(whole))
    assert torch.equal(WordVectors.load(packed).vectors, vectors.vectors)
    packed.write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(ValueError, match=r"gz: cannot be decompressed"):
        WordVectors.load(packed)
    path.write_bytes(whole[:-80] if name == "v.txt" else whole[:-9])
    with pytest.raises(ValueError, match=str(path)):
        WordVectors.load(path)
    path.write_bytes(b"no header")
    with pytest.raises(ValueError, match="words dimensions"):
        WordVectors.load(path)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("announced", [0, 2, 4])
def test_files_with_other_words_than_the_first_line_announces(binary: bool, announced: int, tmp_path: Path) -> None:
    path = tmp_path / "v"
    WordVectors(["a", "b", "c"], torch.randn(3, 7)).save(path, binary=binary)
    path.write_bytes(path.read_bytes().replace(b"3 7", b"%d 7" % announced, 1))
    with pytest.raises(ValueError, match=f"expected {announced} words" + ("" if binary else ".*got 3 lines after it")):
        WordVectors.load(path, binary=binary)


def test_files_of_glove_and_words_that_are_there_twice(tmp_path: Path) -> None:
    """GloVe's have no first line; of some that people publish, words occur several times."""
    path = tmp_path / "glove.txt"
    path.write_text("the 0.5 1 -2\nof 1e-2 2 3\nthe 7 7 7\n")
    with pytest.warns(UserWarning, match=r"glove.txt: 1 of 3 words are there before, such as 'the'"):
        loaded = WordVectors.load(path)
    assert loaded.words == ["the", "of"]
    assert torch.equal(loaded.vectors, torch.tensor([[0.5, 1, -2], [0.01, 2, 3]]))
    path.write_text("the 0.5 1 -2\nof 1 2")
    with pytest.raises(ValueError, match=r"glove.txt: expected 2 lines of a word and 3 numbers, line 2 differs"):
        WordVectors.load(path)


def test_words_of_glove_with_spaces_and_what_is_no_file_of_glove(tmp_path: Path) -> None:
    """As ". . ." and "at name@domain.com" in glove.840B.300d.txt."""
    path = tmp_path / "glove.txt"
    for ending in ("", "\n", "\n\n", "\r\n"):
        path.write_bytes(b"the 0.5 1 -2\n. . . 1 2 3\nat name@domain.com 4 5 6" + ending.encode())
        loaded = WordVectors.load(path)
        assert loaded.words == ["the", ". . .", "at name@domain.com"]
        assert torch.equal(loaded.vectors, torch.tensor([[0.5, 1, -2], [1, 2, 3], [4, 5, 6]]))
    path.write_text("the 0.5 1 -2")
    assert WordVectors.load(path).vectors.shape == (1, 3)
    path.write_text("the 0.5 1 -2\nof 1 2 3 4\n")
    with pytest.raises(ValueError, match="expected 2 lines of a word and 3 numbers, line 2 differs"):
        WordVectors.load(path)
    path.write_text("the\t0.5\t1\nof\t2\t3\n")
    with pytest.raises(ValueError, match="expected a first line 'words dimensions'"):
        WordVectors.load(path)


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_what_is_written_and_the_reverse(binary: bool, tmp_path: Path) -> None:
    models = pytest.importorskip("gensim.models")
    vectors = WordVectors(["a", "日本", "ü"], torch.randn(3, 7))
    vectors.save(tmp_path / "ours", binary=binary)
    read = models.KeyedVectors.load_word2vec_format(tmp_path / "ours", binary=binary)
    assert read.index_to_key == vectors.words and (read.vectors == vectors.vectors.numpy()).all()
    read.save_word2vec_format(tmp_path / "theirs", binary=binary)
    back = WordVectors.load(tmp_path / "theirs", binary=binary)
    assert back.words == vectors.words
    torch.testing.assert_close(back.vectors, vectors.vectors)


@pytest.mark.parametrize("kind", ["text", "binary", "glove"])
def test_the_first_words_of_a_file(kind: str, tmp_path: Path) -> None:
    path, vectors = tmp_path / "v", WordVectors(["a", "b", "c"], torch.randn(3, 7))
    vectors.save(path, binary=kind == "binary")
    if kind == "glove":
        path.write_bytes(path.read_bytes().partition(b"\n")[2])
    for limit in (1, 2, 3, 4, None):
        read = WordVectors.load(path, limit=limit)
        assert read.words == vectors.words[:limit]
        assert torch.equal(read.vectors, vectors.vectors[:limit])
    path.write_bytes(path.read_bytes()[:-9])  # of the last word
    assert WordVectors.load(path, limit=2).words == ["a", "b"]
    with pytest.raises(ValueError, match="limit: expected an integer >= 1, got 0"):
        WordVectors.load(path, limit=0)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["text", "binary", "glove"])
def test_no_more_is_read_than_the_first_words(
    kind: str, packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_vectors, "_CHUNK", 1 << 16)  # bytes that are read at once
    vectors = WordVectors([f"w{k}" for k in range(2500)], torch.randn(2500, 100))
    vectors.save(tmp_path / "v", binary=kind == "binary")
    content = (tmp_path / "v").read_bytes()
    content = content.partition(b"\n")[2] if kind == "glove" else content
    path = tmp_path / f"v.w2v{packed}"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    tracemalloc.start()
    read = WordVectors.load(path, limit=20)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read.words == vectors.words[:20] and torch.equal(read.vectors, vectors.vectors[:20])
    assert most < len(content) / 2
    whole = WordVectors.load(path)
    assert whole.words == vectors.words and torch.equal(whole.vectors, vectors.vectors)
    path.write_bytes(path.read_bytes()[: os.path.getsize(path) // 2])  # of which the first words are there
    assert WordVectors.load(path, limit=20).words == read.words
    if kind != "glove" or packed:
        with pytest.raises(ValueError, match="cannot be decompressed" if packed else "expected"):
            WordVectors.load(path)


@pytest.mark.parametrize("binary", [False, True])
def test_words_that_are_no_utf8(binary: bool, tmp_path: Path) -> None:
    """word2vec.c cuts long words within a character."""
    path = tmp_path / "v"
    WordVectors(["a", "büro"], torch.randn(2, 7)).save(path, binary=binary)
    path.write_bytes(path.read_bytes().replace("ü".encode(), "ü".encode()[:1]))
    with pytest.raises(ValueError, match=r"xc3ro' is no UTF-8 \(errors='replace' and 'ignore' read it\)"):
        WordVectors.load(path, binary=binary)
    for errors, word in (("replace", "b\ufffdro"), ("ignore", "bro")):
        assert WordVectors.load(path, binary=binary, errors=errors).words == ["a", word]
    with pytest.raises(ValueError, match="errors: expected one of strict, ignore, replace, got 'none'"):
        WordVectors.load(path, binary=binary, errors="none")


def test_the_numbers_are_gensims(tmp_path: Path) -> None:
    """As docs/migrate.md has them."""
    models = pytest.importorskip("gensim.models")
    rng = np.random.default_rng(0)
    words = [f"w{k}" for k in range(60)]
    rows = rng.normal(size=(60, 8)).astype(np.float32) * rng.uniform(0.1, 3, size=(60, 1)).astype(np.float32)
    theirs, ours = models.KeyedVectors(8), WordVectors(words, rows)
    theirs.add_vectors(words, rows)
    pairs = (
        (theirs.most_similar(["w1", "w2"], ["w3"], 9), ours.most_similar(["w1", "w2"], 9, negative=["w3"])),
        (theirs.most_similar(negative=["w3"], topn=9), ours.most_similar(negative=["w3"], k=9)),
        (theirs.similar_by_vector(rows[4]), ours.nearest(rows[4][None])[0]),
    )
    for expected, found in pairs:
        assert [word for word, _ in found] == [word for word, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-5)
    both = torch.cosine_similarity(ours[["w1", "w2"]].mean(0), ours[["w3"]].mean(0), 0)
    assert float(both) == pytest.approx(theirs.n_similarity(["w1", "w2"], ["w3"]), abs=1e-5)
    np.testing.assert_allclose(ours.unit[ours.index["w5"]], theirs.get_vector("w5", norm=True), rtol=1e-5)
    assert ours.index == theirs.key_to_index and ours.words == theirs.index_to_key
    questions, judged = tmp_path / "questions.txt", tmp_path / "judged.tsv"
    asked = [rng.choice(words[:6], 4, replace=False) for _ in range(90)]
    questions.write_text(": a\n" + "".join(" ".join(four) + "\n" for four in asked))
    judged.write_text("".join(f"{a}\t{b}\t{k % 7}\n" for k, (a, b, *_) in enumerate(asked)))
    few = ours[words[:6]]
    theirs, ours = models.KeyedVectors(8), WordVectors(words[:6], few)
    theirs.add_vectors(words[:6], few.numpy())
    right = word_analogies(ours, questions)["all"]
    assert right == pytest.approx(100 * theirs.evaluate_word_analogies(questions)[0]) and 5 < right < 95
    rho = theirs.evaluate_word_pairs(judged)[1].statistic
    assert word_similarity(ours, judged)["rho"] == pytest.approx(100 * rho)


def test_what_is_no_word_is_named() -> None:
    v: Any = VECTORS
    calls: tuple[tuple[Any, str], ...] = (
        (lambda: v[0], "words: expected a string or several, got int 0"),
        (lambda: v[:2], "words: expected a string or several, got slice"),
        (lambda: v[None], "words: expected a string or several, got NoneType"),
        (lambda: v[[0]], "word: expected a string, got int 0"),
        (lambda: v.similarity("king", 3), "word: expected a string, got int 3"),
        (lambda: v.most_similar([v["king"]]), "word: expected a string, got Tensor"),
        (lambda: v.nearest(["king"]), "queries: expected numbers, got strings"),
    )
    for call, message in calls:
        with pytest.raises(TypeError, match=message):
            call()
    assert v.nearest(v[["queen"]].tolist(), 1) == v.nearest(v[["queen"]].numpy(), 1) == v.nearest(v[["queen"]], 1)
    assert v.most_similar(negative="king", k=9) == v.most_similar([], 9, negative=["king"])
    assert v.doesnt_match(word for word in ("king", "queen", "apple")) == "apple"


def test_vectors_that_are_not_finite_are_named() -> None:
    with pytest.raises(ValueError, match="vectors: expected finite values, that of 'b' has others"):
        WordVectors(["a", "b"], torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]))
    with pytest.raises(ValueError, match="that of 'a' has others"):  # in float32
        WordVectors(["a", "b"], torch.tensor([[0.0, 1e300], [1.0, 0.0]], dtype=torch.float64))
    some = WordVectors(["a", "b", "c", "d"], torch.eye(4))
    for wrong in (0, -1, 1.5):
        for call in (
            lambda k: some.most_similar("a", k),
            lambda k: some.nearest(some[["a"]], k),
            lambda k: some.analogy("a", "b", "c", k),
        ):
            with pytest.raises(ValueError, match=f"k: expected an integer >= 1, got {wrong}"):
                call(wrong)


def test_words_are_letters_in_every_plane() -> None:
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940"
    marked = ["\u845b\U000e0100\u57ce\u5e02", "\u1002\ufe00\u102c"]  # with selectors of variants
    text = f"great\U0001f600 day \U0001f44d \u2764\ufe0f \U00010400x \U00020000 na\u00efve {hindi}"
    assert words_of(" ".join([*marked, "1\ufe0f\u20e3"])) == [*marked, "1"]
    assert words_of(text) == ["great", "day", "\U00010428x", "\U00020000", "na\u00efve", hindi]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("suffix", [".bin", ".txt", ".vec"])
def test_files_are_read_by_their_content(binary: bool, suffix: str, tmp_path: Path) -> None:
    """A file of text that was called .bin gave other words and numbers, without an error."""
    vectors = WordVectors(["é", "日本", "x", "1"], torch.randn(4, 3))
    vectors.save(tmp_path / f"v{suffix}", binary=binary)
    found = load_word_vectors(tmp_path / f"v{suffix}")
    assert found.words == vectors.words and torch.equal(found.vectors, vectors.vectors)


def test_bytes_after_the_last_vector_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "v.bin"
    WordVectors(["a", "b"], torch.randn(2, 4)).save(path)
    path.write_bytes(path.read_bytes() + b"c 1 2 3 4")
    with pytest.raises(ValueError, match="expected 2 words, 9 bytes follow them"):
        load_word_vectors(path)


def test_queries_of_another_shape_are_named() -> None:
    with pytest.raises(ValueError, match=r"queries: expected vectors \[N, 4\], got shape \(4,\)"):
        WordVectors(["a", "b"], torch.randn(2, 4)).nearest(torch.ones(4))
