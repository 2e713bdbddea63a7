"""Questions about texts: files of SQuAD, spans by brute force, the scores of SQuAD by hand, fine-tuning that learns."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.data import Questions, Tokenizer, open_questions, read_squad
from fastssl.evaluate import TextFineTuning, finetune_answers
from fastssl.evaluate.finetune_answers import LONGEST, AnswerTask, answer_f1, best_span, normalized
from tests.support.language import network_of

TEXT = "In 1,000 years, Mr. Lee's dog (a hound) barked twice."


def squad(path: Path, asked: list[tuple[str, str, int]]) -> Path:
    qas: list[dict[str, Any]] = [
        {"question": q, "answers": [{"text": a, "answer_start": s}, {"text": "x", "answer_start": 0}]}
        for q, a, s in asked
    ]
    qas.append({"question": "None?", "answers": [], "is_impossible": True})
    path.write_text(json.dumps({"version": "2.0", "data": [{"paragraphs": [{"context": TEXT, "qas": qas}]}]}))
    return path


@pytest.mark.parametrize("answer", ["1,000", "Mr. Lee", "Lee's dog", "a hound", "hound)", "twice.", "00 years"])
def test_answers_are_words_of_the_text(answer: str, tmp_path: Path) -> None:
    data = read_squad(squad(tmp_path / "dev.json", [("Which?", answer, TEXT.index(answer))]))
    assert len(data) == 1 and data.answers == [[answer, "x"]]
    found = data.between(0, *data.labels[0].tolist())
    assert answer in found and len(found) - len(answer) <= 2  # an answer may begin within a word
    again = data.subset([0, 0])
    assert again.labels.tolist() == data.labels.tolist() * 2 and again.answers[1] == data.answers[0]


def test_files_and_parts(tmp_path: Path) -> None:
    for name, count in (("train-v1.1.json", 3), ("dev-v1.1.json", 2)):
        squad(tmp_path / name, [("Who?", "Lee", TEXT.index("Lee"))] * count)
    splits = open_questions(f"squad:{tmp_path}")
    assert splits.train.tolist() == [0, 1, 2] and splits.test.tolist() == [3, 4]
    assert len(open_questions(f"squad:{tmp_path / 'train-v1.1.json'}").train) == 2
    for text, match in (
        ("[]", "expected a file of SQuAD"),
        ("{", "expected a file of SQuAD"),
        ('{"data": []}', "expected questions with answers, there are none"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=match):
            read_squad(tmp_path / "bad.json")
    for given, match in (
        (([], [], []), "texts, answers: expected those of each question, at least one"),
        ((["q"], ["text"], [[]]), "answers: expected at least one to question 0"),
        ((["q"], ["text"], [["tent"]]), "answers: 'tent' is not in the text of question 0"),
        ((["q"], ["text"], [["text"]], [1]), "answers: 'text' is not in the text of question 0, at character 1"),
    ):
        with pytest.raises(ValueError, match=match):
            Questions(*given)  # type: ignore[arg-type]


def test_the_best_span_is_that_of_all() -> None:
    torch.manual_seed(0)
    for words in (1, 2, 7, 40):
        scores = torch.randn(2, words)
        pairs = [(i, j) for i, j in itertools.product(range(words), repeat=2) if i <= j < i + LONGEST]
        assert best_span(scores) == max(pairs, key=lambda pair: float(scores[0, pair[0]] + scores[1, pair[1]]))


def test_scores_are_squads() -> None:
    assert normalized("The  Cat's, an owl!") == ["cats", "owl"]
    assert answer_f1("the big cat", "a cat") == pytest.approx(2 * 1 / (2 + 1))
    assert answer_f1("b b", "b") == pytest.approx(2 / 3) and answer_f1("b", "c") == 0 and answer_f1("the", "a") == 1


@pytest.mark.parametrize(("name", "network"), [("bert", "transformer"), ("gpt", "transformer")])
def test_answers_are_learnt(name: str, network: str) -> None:
    texts = ["we met mr x so", "so mr y left us"] * 10
    data = Questions(["Who?"] * 20, texts, [["x"], ["y"]] * 10)
    model, options = network_of(name, network), TextFineTuning(least_steps=60, epochs=1, rates=(1e-2,), batch_size=8)
    found = finetune_answers(model, Tokenizer(), data, range(14), range(14, 20), options)
    assert found.exact == found.f1 == 100 and found.texts == ["x", "y"] * 3 and found.cut == 0
    long = Questions(["Who, who, and who?"], ["a " * 20 + "b"], [["b"]])
    task = AnswerTask(model, Tokenizer(), long, options)
    assert task.cut == 1 and task.labels.tolist() == [[-100, -100]] and len(task.rows[0][0]) == model.length
    scores = task.scores(task.classifier(), np.arange(1))
    assert scores.shape == (1, 2, 21) and bool((scores[0, :, 20] < -1000).all())
    with pytest.raises(TypeError, match="data: expected fastssl.data.Questions, got list"):
        finetune_answers(model, Tokenizer(), [], [0], [0])  # type: ignore[arg-type]
