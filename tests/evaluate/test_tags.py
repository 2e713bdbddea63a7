"""Words with tags: spans by brute force, CoNLL files, fine-tuning that learns them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastssl.data import Corpus, IndexSplits, Tagged, Tokenizer, capitals, open_tagged, read_conll
from fastssl.evaluate import METRICS, TextFineTuning, compare_tags, finetune_tags
from fastssl.evaluate.finetune_tags import TagTask
from fastssl.evaluate.linear import _loss
from tests.support.language import network_of


def spans(tags: list[int]) -> set[tuple[int, int, int]]:
    """All (first, last, kind) such that the words are of one kind and continue each other, as long as possible."""
    kind = [-1 if tag <= 0 else (tag - 1) // 2 for tag in tags]
    joined = [k > 0 and tags[k] > 0 and tags[k] % 2 == 0 and kind[k] == kind[k - 1] for k in range(len(tags))]
    return {
        (a, b, kind[a])
        for a in range(len(tags))
        for b in range(a, len(tags))
        if kind[a] >= 0
        and not joined[a]
        and all(joined[k] for k in range(a + 1, b + 1))
        and (b + 1 == len(tags) or not joined[b + 1])
    }


TAGS = st.lists(st.integers(0, 4), min_size=6, max_size=6)


@settings(max_examples=200, deadline=None)
@given(TAGS, TAGS, st.integers(0, 6))
def test_f1_is_that_of_all_spans(truth: list[int], found: list[int], words: int) -> None:
    labels, scores = torch.tensor([truth]), torch.nn.functional.one_hot(torch.tensor([found]), 5)
    labels[:, words:] = -100
    right, ours = spans(truth[:words]), spans([*found[:words], *[0] * (6 - words)])
    common = len(right & ours)
    precision, recall = common / max(len(ours), 1), common / max(len(right), 1)
    expected = 200 * precision * recall / (precision + recall) if common else 0.0
    assert METRICS["span F1"](scores, labels) == pytest.approx(expected)
    if words:
        share = np.mean(np.array(truth[:words]) == np.array(found[:words]))
        assert METRICS["word accuracy"](scores, labels) == pytest.approx(100 * share)


def written_as(scheme: str, length: int, found: set[tuple[int, int, str]]) -> list[str]:
    """The tags of spans (first, last, kind) that do not overlap, by what each scheme says of them."""
    tags = ["O"] * length
    for first, last, kind in sorted(found):
        inside, end, single = {"BILU": "ILU", "BIES": "IES", "BMES": "MES"}.get(scheme, "IIB")
        touches = any(last_before == first - 1 and own == kind for _, last_before, own in found)
        begin = "I" if scheme == "IOB1" and not touches else "B"
        for k in range(first, last + 1):
            tags[k] = f"{begin if k == first else end if k == last else inside}-{kind}"
        if first == last:
            tags[first] = f"{begin if scheme == 'IOB1' else single}-{kind}"
    return tags


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=8, max_size=8), st.sampled_from(["IOB1", "BIES", "BILU", "BMES"]))
def test_spans_are_those_of_every_scheme(given: list[int], scheme: str) -> None:
    names = ["O", "B-P", "I-P", "B-Q", "I-Q"]
    found = {(first, last, "PQ"[kind]) for first, last, kind in spans(given)}
    every = [["B-P", "I-P", "B-Q", "I-Q"], written_as("IOB2", 8, found)]  # so that all kinds occur
    data = Tagged([["w"] * 4, ["w"] * 8], [["S-P", "S-P", "S-Q", "S-Q"], written_as(scheme, 8, found)])
    if scheme in ("IOB1", "BILU"):
        data = Tagged([["w"] * 4, ["w"] * 8], [["B-P", "B-P", "B-Q", "B-Q"], written_as(scheme, 8, found)])
    assert data.spans and data.classes == names
    assert {(a, b, "PQ"[k]) for a, b, k in spans(data.labels[1].tolist())} == found
    perfect = torch.nn.functional.one_hot(torch.from_numpy(Tagged([["w"] * 4, ["w"] * 8], every).labels[1:]), 5)
    assert METRICS["span F1"](perfect, data.labels[1:]) == (100 if found else 0)


@pytest.mark.parametrize(
    ("tags", "classes"),
    [
        (["B", "I", "O"], ["O", "B", "I"]),
        (["S", "O", "B", "E", "I"], ["O", "B", "I"]),
        (["B", "O"], None),  # of other things
        (["B-P", "I", "O"], None),
        (["L-P", "E-P", "O"], None),  # of two schemes
        (["NOUN", "VERB", "O"], None),
        (["O", "-"], ["O"]),
    ],
)
def test_tags_of_spans_are_known_by_their_form(tags: list[str], classes: list[str] | None) -> None:
    data = Tagged([["w"] * len(tags)], [tags])
    assert data.spans is (classes is not None) and data.classes == (classes or sorted(set(tags)))


def test_the_loss_counts_every_word_once() -> None:
    logits, labels = torch.randn(3, 4, 5), torch.randint(0, 5, (3, 4))
    labels[0, 2:] = labels[2] = -100
    terms = [-logits[n, w].log_softmax(0)[labels[n, w]] for n in range(3) for w in range(4) if labels[n, w] >= 0]
    torch.testing.assert_close(_loss(logits, labels), torch.stack(terms).mean())
    assert float(_loss(logits, torch.full((3, 4), -100))) == 0


def test_files_of_conll_are_read(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("-DOCSTART- -X- O O\n\nMr NNP B-NP B-PER\nX NNP I-NP I-PER\n\n\nso RB B-NP O\n")
    made = read_conll(names)
    assert made.words == [["Mr", "X"], ["so"]] and made.spans and made.classes == ["O", "B-PER", "I-PER"]
    assert made.labels.tolist() == [[1, 2], [0, -100]]
    speech = tmp_path / "speech.conllu"
    line = "{}\t{}\tlemma\t{}\t_\t_\t0\troot\t_\t_\n"
    rows = (("1-2", "au", "_"), ("1", "a", "ADP"), ("2", "le", "DET"), ("3", "mot", "NOUN"))
    speech.write_text("# text\n" + "".join(line.format(*row) for row in rows))
    made = read_conll(speech, column=3)
    assert made.words == [["a", "le", "mot"]] and made.classes == ["ADP", "DET", "NOUN"] and not made.spans
    prices = tmp_path / "prices.txt"  # comments and words that begin with #, line ends of Windows, a strange space
    prices.write_bytes("# from 2000\npay VB O\r\n# # O\r\na\u2028b NN O\r\n".encode())
    assert read_conll(prices, column=1).words == [["pay", "#", "a\u2028b"]]
    for comments, line in (  # with as many columns as a word
        ("# sent_id = 2\n# new doc x\n", "{} NNP B-NP {}\n"),
        ("# newdoc\n", "{} {}\n"),
        ("# text = Hello Peter\n", "1\t{}\t_\t_\t{}\n"),
    ):
        rows = [line.format(*row) for row in (("Mr", "O"), ("#", "O"), ("Peter", "B-PER"))]
        prices.write_text(rows[0] + "\n" + comments + "".join(rows[1:]))
        made = read_conll(prices)
        assert set(made.classes) <= {"O", "B-PER", "I-PER"}, comments
        assert [len(sentence) for sentence in made.words] == [1, 2]
    with pytest.raises(ValueError, match=r"column: expected one of 4 in line 3 of .*names.txt, got 7"):
        read_conll(names, column=7)
    (tmp_path / "plain.txt").write_text("A text.\nIts second line.\n")
    with pytest.raises(ValueError, match=r"path: expected 2 columns in line 2 of .*plain.txt, as before, got 3"):
        read_conll(tmp_path / "plain.txt")
    with pytest.raises(FileNotFoundError, match="data: no file or folder '.*none'"):
        open_tagged(f"conll:{tmp_path / 'none'}")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="path: expected sentences in"):
        read_conll(tmp_path / "empty.txt")


def test_names_are_the_capitals_inside_sentences() -> None:
    made = capitals(Corpus(["The state of New York met Mr. O'Neil. I do. Yes."]), [0])
    assert made.words[0] == ["the", "state", "of", "new", "york", "met", "mr", "o'neil"]
    first = dict(zip(made.words[0], made.tags[0]))
    assert first["new"] == "B-NAME" and first["york"] == "I-NAME" and first["met"] == "O" and first["the"] == "-"


@pytest.mark.parametrize(("name", "network"), [("bert", "transformer"), ("gpt", "transformer")])
def test_tags_are_learnt_and_words_without_room_are_not_seen(name: str, network: str) -> None:
    data = Tagged(
        [["we", "met", "mr", "x"], ["so", "ms", "y"]] * 10, [["O", "O", "B-N", "I-N"], ["O", "B-N", "I-N"]] * 10
    )
    model = network_of(name, network)
    options = TextFineTuning(least_steps=60, epochs=1, rates=(1e-2,), batch_size=8)
    found = finetune_tags(model, Tokenizer(), data, range(14), range(14, 20), options)
    assert found.score == 100 and found.outputs.shape == (6, 4, 3) and found.cut == 0
    assert found == finetune_tags(model, Tokenizer(), data, range(14), range(14, 20), options)
    long = Tagged([["a" * 10] * 4], [["X", "Y", "X", "Y"]])
    task = TagTask(model, Tokenizer(), long, options)
    first = len(model.opening(Tokenizer()))
    assert task.places.tolist() == [[first, first + 11, first + 22, -1]] and len(task.rows[0][0]) == model.length
    scores = task.scores(task.classifier(), np.arange(1))
    assert scores.shape == (1, 4, 2) and bool((scores[0, 3] == 0).all()) and task.cut == 1
    few = replace(options, least_steps=1)
    some = IndexSplits(
        "some", Tagged([*long.words, *data.words], [*long.tags, *data.tags]), np.arange(9), np.arange(9, 12)
    )
    notes: list[str] = []
    compare_tags({"it": lambda seed: model}, Tokenizer(), some, seeds=1, options=few, note=notes.append)
    assert notes[0] == "some: 1 of 12 sentences are longer than the network, and were cut"


def test_bad_input_is_named() -> None:
    for given_, match in (
        (([], []), "tags: expected those of each sentence, at least one, got 0 for 0"),
        (([["a"]], [["X", "Y"]]), "tags: sentence 0 has 1 word and 2 tags"),
        (([[]], [[]]), "tags: sentence 0 has 0 words"),
    ):
        with pytest.raises(ValueError, match=match):
            Tagged(*given_)
    with pytest.raises(TypeError, match="data: expected fastssl.data.Tagged, got Corpus"):
        finetune_tags(network_of("bert", "transformer"), Tokenizer(), Corpus(["a"]), [0], [0])  # type: ignore[arg-type]
