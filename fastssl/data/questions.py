"""Questions whose answers are words of a text: SQuAD."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data.corpus import utf8

_WORD = re.compile(r"\w+|[^\w\s]")


class Questions:
    """Questions, each about a text, and their answers, which are in it.

    Args:
        questions: the questions.
        texts: the text of each.
        answers: one or more answers to each.
        starts: where in the text the first answer begins, in characters; None: at its first occurrence.

    Attributes:
        words: of every text its words and marks as (first, last + 1), in characters: int64 [W, 2].
        labels: int64 [N, 2], numbers of the first and the last word of the first answer.

    Raises:
        ValueError: no questions, unequally many texts or answers, or an answer that is not where it should be.

    Example:
        >>> from fastssl.data import Questions
        >>> made = Questions(["Who spoke?"], ["So Mr. Lee spoke."], [["Mr. Lee"]])
        >>> made.labels.tolist(), made.between(0, 1, 3)
        ([[1, 3]], 'Mr. Lee')
    """

    def __init__(
        self,
        questions: Sequence[str],
        texts: Sequence[str],
        answers: Sequence[Sequence[str]],
        starts: Sequence[int] | None = None,
    ) -> None:
        if not len(questions) or not len(questions) == len(texts) == len(answers):
            raise ValueError(
                f"texts, answers: expected those of each question, at least one, got {len(texts)} and {len(answers)} "
                f"for {len(questions)}"
            )
        self.questions, self.texts, self.answers = list(questions), list(texts), [list(some) for some in answers]
        self.starts: list[int] = []
        known: dict[str, np.ndarray] = {}  # many questions are about one text
        self.words, self.labels = [], np.zeros((len(texts), 2), dtype=np.int64)
        for k, (text, some) in enumerate(zip(self.texts, self.answers)):
            if not some or not some[0].strip():
                raise ValueError(f"answers: expected at least one to question {k}, got {some}")
            begin = text.find(some[0]) if starts is None else starts[k]
            if begin < 0 or text[begin : begin + len(some[0])] != some[0]:
                raise ValueError(f"answers: {some[0]!r} is not in the text of question {k}, at character {begin}")
            self.starts.append(begin)
            if text not in known:
                known[text] = np.array([found.span() for found in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)
            words = known[text]
            inside = np.flatnonzero((words[:, 1] > begin) & (words[:, 0] < begin + len(some[0])))
            if not len(inside):
                raise ValueError(f"answers: expected words, got {some[0]!r} to question {k}")
            self.words.append(words)
            self.labels[k] = inside[[0, -1]]

    def __len__(self) -> int:
        return len(self.questions)

    def between(self, index: int, first: int, last: int) -> str:
        """The text of question ``index`` from one word to another."""
        words = self.words[index]
        return self.texts[index][int(words[first, 0]) : int(words[last, 1])]

    def subset(self, ids: Any) -> Questions:
        """Some of the questions."""
        chosen = [int(k) for k in ids]
        sides = (self.questions, self.texts, self.answers, self.starts)
        return Questions(*([side[k] for k in chosen] for side in sides))  # type: ignore[arg-type]


def read_squad(path: str | Path) -> Questions:
    """Reads a file of SQuAD (Rajpurkar et al. 2016); questions without an answer (version 2) are left out.

    Args:
        path: the file, such as ``train-v1.1.json``.

    Raises:
        OSError: no such file.
        ValueError: not a file of SQuAD, or without questions that have answers.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import read_squad
        >>> answer = {"text": "Lee", "answer_start": 3}
        >>> asked = [{"question": "Who spoke?", "answers": [answer]}]
        >>> file = Path(tempfile.mkdtemp()) / "dev.json"
        >>> _ = file.write_text(json.dumps({"data": [{"paragraphs": [{"context": "Mr Lee spoke.", "qas": asked}]}]}))
        >>> read_squad(file).labels.tolist()
        [[1, 1]]
    """
    rows: list[tuple[str, str, list[str], int]] = []
    try:
        for article in json.loads(utf8(str(path)))["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    found = asked["answers"]
                    if found:
                        texts = [answer["text"] for answer in found]
                        rows.append((asked["question"], paragraph["context"], texts, int(found[0]["answer_start"])))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a file of SQuAD, data of paragraphs of questions, got {error!r}") from error
    if not rows:
        raise ValueError(f"{path}: expected questions with answers, there are none")
    try:
        return Questions(*(list(side) for side in zip(*rows)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
