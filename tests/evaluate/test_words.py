"""Word vectors: similarities and analogies against plain loops, classes of glosses, and the commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fastssl.data
from fastssl.cli import app
from fastssl.evaluate import gloss_classes, mean_vectors, word_analogies, word_similarity
from fastssl.evaluate.words import holds_analogies
from fastssl.methods import load_word_vectors
from fastssl.models import WordVectors
from fastssl.ops import extension

pytestmark = pytest.mark.skipif(extension._C is None, reason="needs the compiled kernels")
WORDS = ["king", "queen", "man", "woman", "paris", "france", "rome", "italy"]


@pytest.fixture(scope="module")
def vectors() -> WordVectors:
    return WordVectors(WORDS, torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), np.arange(8, 0, -1))


def test_similarity_is_spearmans(vectors: WordVectors, tmp_path: Path) -> None:
    pairs = [("king", "queen", 8.0), ("Man", "woman", 7.5), ("paris", "rome", 7.5), ("king", "italy", 1.0)]
    for separator, heading in (("\t", "# a comment\nWord 1\tWord 2\tHuman\n"), (",", ""), (" ", "\n")):
        path = tmp_path / "pairs"
        path.write_text(heading + "".join(separator.join(map(str, p)) + "\n" for p in [*pairs, ("x", "man", 1)]))
        found = word_similarity(vectors, path)
        assert found["pairs"] == 4 and found["unknown"] == 1
        cosines = np.array([vectors.similarity(a.lower(), b) for a, b, _ in pairs])
        ranks = [4.0, 2.5, 2.5, 1.0], cosines.argsort().argsort() + 1.0
        assert found["rho"] == pytest.approx(100 * np.corrcoef(*ranks)[0, 1], rel=1e-6)
    for score in ("high", "nan", "inf"):
        path.write_text(f"king queen 1\nking man {score}\n")
        with pytest.raises(ValueError, match="line 2: expected two words and a score"):
            word_similarity(vectors, path)
    path.write_text("a b 1\n")
    with pytest.raises(ValueError, match="pairs of known words, got 0 of 1"):
        word_similarity(vectors, path)


@pytest.mark.parametrize("method", ["3cosadd", "3cosmul"])
def test_analogies_are_those_asked_one_by_one(method: str, vectors: WordVectors, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    asked = [rng.permutation(WORDS)[:4].tolist() for _ in range(40)]
    path = tmp_path / "questions"
    lines = [": first", *(" ".join(q) for q in asked[:30]), "x man king queen", ": second one"]
    path.write_text("\n".join([*lines, *(" ".join(q).upper() for q in asked[30:])]))
    found = word_analogies(vectors, path, method=method)
    right = np.array([vectors.analogy(*q[:3], method=method)[0][0] == q[3] for q in asked])
    assert found["all"] == pytest.approx(100 * right.mean()) and found["asked"] == 40 and found["unknown"] == 1
    assert found["first"] == pytest.approx(100 * right[:30].mean()) and 0 < right.mean() < 1
    assert found["second one"] == pytest.approx(100 * right[30:].mean())
    for text, why in (("king man queen\n", "four words"), ("a b c d\n", "none of 1")):
        path.write_text(text)
        with pytest.raises(ValueError, match=why):
            word_analogies(vectors, path)


def test_means_of_texts(vectors: WordVectors) -> None:
    found = mean_vectors(vectors, ["The King, the QUEEN, a man's king", "", "nothing known"])
    share = torch.tensor([8.0, 7.0]) / 36
    weight = 1e-3 / (1e-3 + share)
    wanted = 2 * weight[0] * vectors.unit[0] + weight[1] * vectors.unit[1]  # "man's" is another word
    torch.testing.assert_close(found[0], torch.nn.functional.normalize(wanted, dim=0))
    assert not found[1:].any()


def test_parts_of_the_glosses() -> None:
    train, test = fastssl.data.open("glosses-train"), fastssl.data.glosses("test")
    assert len(test) == 4000 and len(train) == 117_659 - 4000 and not {*train.names} & {*test.names}
    assert test.labels is not None and test.labels.min() == 0


@pytest.mark.slow
def test_classes_of_glosses() -> None:
    """Vectors that say the class of a word are right where TF-IDF, which has seen few words, is not."""
    nouns = fastssl.data.glosses("nouns")
    classes: dict[str, np.ndarray] = {}
    for k in range(len(nouns)):
        for word in fastssl.data.words.words_of(nouns.text(k)):
            classes.setdefault(word, np.zeros(26, np.float32))[nouns.labels[k]] += 1
    table = gloss_classes(WordVectors(list(classes), np.stack(list(classes.values()))), [5], seeds=1)
    rows = table["glosses_5_labels"]
    assert rows["word vectors"] > rows["TF-IDF"] + 10 > rows["random vectors"] + 10


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_commands(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 6)) + "." for _ in range(300)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines))
    (tmp_path / "pairs.tsv").write_text("king\tqueen\t3\nman\twoman\t2\nparis\trome\t1\n")
    out, corpus = tmp_path / "run", str(tmp_path / "corpus.txt")
    base = ["pretrain", "word2vec", "--data", corpus, "--out", str(out), "--epochs", "2"]
    made = run(*base, "--set", "dim=8", "--lr", "0.1")
    assert "8 words, 8 dimensions" in made and f"fastssl nearest {out}" in made
    vectors = load_word_vectors(out)
    state = json.loads((out / "checkpoint" / "state.json").read_text())
    assert state["data"] == "corpus" and state["source"]["where"] == corpus and state["options"]["lr"] == 0.1
    found = run("nearest", str(out), "king", "queen", "--minus", "man", "--k", "2")
    wanted = vectors.most_similar(["king", "queen"], 2, negative="man")
    assert [line.split() for line in found.splitlines()] == [[f"{c:.3f}", w] for w, c in wanted]
    table = run("evaluate", str(out), "--data", str(tmp_path / "pairs.tsv"))
    assert f"{word_similarity(vectors, tmp_path / 'pairs.tsv')['rho']:.2f}" in table
    for arguments, why in (
        (["nearest", str(out), "kin"], "did you mean 'king'"),
        (["pretrain", "word2vec", "--data", corpus, "--out", str(out)], "holds a run already"),
        (["pretrain", "word2vec", "--data", "digits", "--out", str(tmp_path / "x")], "word2vec takes texts"),
        (["pretrain", "word2vec", "--size", "32", "--out", str(tmp_path / "x")], "size: word2vec has no such option"),
        (["pretrain", "word2vec", "--set", "width=3", "--out", str(tmp_path / "x")], "set: expected NAME=VALUE"),
        (["pretrain", "simclr", "--set", "dim=3"], "set: expected NAME=VALUE with a name of temperature"),
        (["evaluate", str(out), "--data", "none.txt"], "expected glosses, or files"),
        (["evaluate", str(out), "--protocol", "layers"], "evaluated on --data alone"),
    ):
        with pytest.raises((ValueError, TypeError), match=why):
            run(*arguments)


@pytest.mark.parametrize(
    "counts, kind, message",
    [
        ([3, -1], ValueError, "integers >= 0, got -1"),
        ([3.0, 1.0], TypeError, "integers, got torch.float"),
        (np.array([True, False]), TypeError, "integers, got torch.bool"),
        ([3], ValueError, "one for each of 2 words"),
        ([[3], [1]], ValueError, "one for each of 2 words"),
        (["3", "1"], TypeError, "numbers, got strings"),
    ],
)
def test_counts_of_words(counts: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"counts: expected {message}"):
        WordVectors(["a", "b"], torch.eye(2), counts)
    for given in ([3, 1], torch.tensor([3, 1]), np.array([3, 1], np.uint16)):
        kept = WordVectors(["a", "b"], torch.eye(2), given).counts
        assert kept is not None and kept.dtype == np.int64 and kept.tolist() == [3, 1]


@pytest.mark.parametrize(
    "text, analogies",
    [
        (": family\nking queen man woman\n", True),
        ("# a comment\n\n: family\nking queen man woman\n", True),
        ("king queen man woman\nparis france rome italy\n", True),
        ("king queen man woman\nking queen nan woman\n", True),
        ("\ufeffking\tqueen\tman\twoman\r\n", True),
        ("a\tb\tc\td\n: family\nking queen man woman", True),
        ("king queen 3\nman woman 2\n", False),
        ("one,other,mean,deviation\nking,queen,3,1\nman,woman,2,1\n", False),
        ("king queen 3 1\nman woman 2 4\n", False),
    ],
)
def test_files_of_pairs_and_of_analogies(text: str, analogies: bool, vectors: WordVectors, tmp_path: Path) -> None:
    path = tmp_path / "judged.txt"
    path.write_text(text, encoding="utf-8")
    vectors.save(tmp_path / "vectors.txt")
    assert holds_analogies(path) == analogies
    table = run("evaluate", str(tmp_path / "vectors.txt"), "--data", str(path))
    assert ("judged: asked" in table) == analogies and ("judged: rho" in table) != analogies


def test_files_of_other_encodings_are_named(vectors: WordVectors, tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("king queen 3\nman woman 2\n", encoding="utf-16")
    for read in (word_similarity, word_analogies):
        with pytest.raises(
            ValueError, match=r"pairs.txt: byte 0 \(0xff\) is no UTF-8; convert the file \(iconv -f utf-16"
        ):
            read(vectors, path)


def test_sections_do_not_replace_totals(vectors: WordVectors, tmp_path: Path) -> None:
    a, b, c, d, *_ = vectors.words
    path = tmp_path / "questions.txt"
    path.write_text(f"{a} {b} {c} {d}\n: asked\n{a} {b} {c} {d}\n: all\n{a} {c} {b} {d}\n")
    found = word_analogies(vectors, path)
    assert found["asked"] == 3 and {"without a heading", "section asked", "section all"} <= set(found)


def test_scores_that_are_all_equal_are_an_error(vectors: WordVectors, tmp_path: Path) -> None:
    a, b, *_ = vectors.words
    path = tmp_path / "pairs.tsv"
    path.write_text(f"{a}\t{b}\t9\n{b}\t{a}\t9\n")
    with pytest.raises(ValueError, match="expected scores that differ, got 9 for all of 2 pairs"):
        word_similarity(vectors, path)


def test_counts_are_printed_as_integers(vectors: WordVectors, tmp_path: Path) -> None:
    vectors.save(tmp_path / "v.txt")
    pairs, questions = tmp_path / "judged.tsv", tmp_path / "questions.txt"
    pairs.write_text("king\tqueen\t8\nking\titaly\t1\nman\twoman\t7\nx\tman\t1\n" + "paris\trome\t6\n" * 1200)
    questions.write_text(": all\nking queen man woman\nparis france rome italy\n")
    found = CliRunner().invoke(app, ["evaluate", str(tmp_path / "v.txt"), "--data", f"{pairs},{questions}"])
    rows = dict(re.findall(r"(\w+: \w+) *[│|] *([\d.,-]+)", found.output))
    assert rows["judged: pairs"] == "1,203" and rows["judged: unknown"] == "1", found.output
    assert rows["questions: asked"] == "2" and re.fullmatch(r"-?\d+\.\d\d", rows["judged: rho"])
