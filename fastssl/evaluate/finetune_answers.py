"""Fine-tuning of language models on questions whose answers are words of a text (SQuAD)."""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Questions
from fastssl.data.tokenizer import Tokenizer
from fastssl.evaluate.finetune_text import TextClassifier, TextFineTuning, TextTask
from fastssl.evaluate.tuning import tune
from fastssl.models.language import LanguageModel

LONGEST = 30  # words of an answer
_NEVER = -1e4  # score of a word that the network has not seen


@dataclass
class Answered:
    """The result of a fine-tuning on questions.

    Attributes:
        exact: questions whose answer is one of those given, in percent.
        f1: mean F1 of the words of the answer and of the given one that fits best, in percent.
        texts: the answers.
        cut: questions whose text was cut to the network's length.
    """

    exact: float
    f1: float
    texts: list[str] = field(repr=False)
    cut: int = 0


def finetune_answers(
    network: LanguageModel,
    tokenizer: Tokenizer,
    data: Questions,
    train: Any,
    test: Any,
    options: TextFineTuning | None = None,
) -> Answered:
    """Fine-tunes a copy of a language model to find the first and the last word of the answer (Devlin et al. 2019,
    section 4.2); rate and steps as :func:`finetune` selects them.

    The answer is the span of at most 30 words with the highest sum of both scores. Texts longer than the network are
    cut at their end; an answer behind it is not trained on, and not found.

    Args:
        network: pretrained, or randomly initialised for the same network from scratch; not modified.
        tokenizer: the tokenizer of its tokens.
        data: the questions.
        train: indices of the questions to train on.
        test: indices of the questions to answer.
        options: see :class:`TextFineTuning`; its metric is the accuracy of the first and last words, and there is no
            readout.

    Raises:
        TypeError: ``data`` is of another type.
        ValueError: fewer than two questions to train on, or wrong options.

    Example:
        >>> from fastssl.data import Questions, Tokenizer
        >>> from fastssl.evaluate import TextFineTuning, finetune_answers
        >>> from fastssl.models import build_language
        >>> data = Questions(["Who?"] * 20, ["so mr x", "mr y left"] * 10, [["x"], ["y"]] * 10)
        >>> shape = {"name": "transformer", "vocabulary": 261, "width": 16, "depth": 1, "length": 20, "causal": False}
        >>> how = TextFineTuning(least_steps=60, epochs=1, rates=(1e-2,))
        >>> finetune_answers(build_language(shape), Tokenizer(), data, range(14), range(14, 20), how).exact
        100.0
    """
    if not isinstance(data, Questions):
        raise TypeError(f"data: expected fastssl.data.Questions, got {type(data).__name__}")
    options = TextFineTuning(**{**vars(options or TextFineTuning()), "metric": "word accuracy"})
    train, test = np.asarray(train), np.asarray(test)
    task = AnswerTask(network, tokenizer, data, options)
    outputs = tune(task, task.labels, train, test, options).outputs
    texts = [data.between(int(k), *best_span(scores)) for k, scores in zip(test, outputs)]
    pairs = [(text, data.answers[int(k)]) for k, text in zip(test, texts)]
    exact = np.mean([any(normalized(text) == normalized(one) for one in some) for text, some in pairs])
    f1 = np.mean([max(answer_f1(text, one) for one in some) for text, some in pairs])
    return Answered(100 * float(exact), 100 * float(f1), texts, task.cut)


def best_span(scores: Tensor) -> tuple[int, int]:
    """The first and the last word, at most 30 words, with the highest sum of scores [2, W]."""
    first, last = scores
    sums = first[:, None] + last[None]
    place = torch.arange(len(first))
    allowed = (place >= place[:, None]) & (place < place[:, None] + LONGEST)
    best = int(sums.masked_fill(~allowed, -torch.inf).argmax())
    return best // len(first), best % len(first)


def normalized(text: str) -> list[str]:
    """The words of an answer as SQuAD compares them: lower case, without punctuation and articles."""
    text = "".join(mark for mark in text.lower() if mark not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def answer_f1(text: str, right: str) -> float:
    """F1 of the words of an answer, counted as often as they occur."""
    ours, theirs = normalized(text), normalized(right)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs)) if common else float(ours == theirs)


class AnswerTask(TextTask):
    """A language model with a score of each word as the first and as the last of the answer."""

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer, data: Questions, options: TextFineTuning) -> None:
        first, last = network.opening(tokenizer), network.closing(tokenizer)
        width = max(len(words) for words in data.words)
        self.places = np.full((len(data), width), -1, dtype=np.int64)
        rows, self.cut = [], 0
        known: dict[str, list[np.ndarray]] = {}
        labels = torch.from_numpy(data.labels).clone()
        for k, (question, text, words) in enumerate(zip(data.questions, data.texts, data.words)):
            if text not in known:
                known[text] = tokenizer.encode([text[begin:end] for begin, end in words.tolist()])
            encoded, room = known[text], network.length - len(first) - 1 - len(last)
            asked = tokenizer.encode([question])[0][: room // 2]
            room -= len(asked)
            starts = np.cumsum([0, *map(len, encoded[:-1])])
            self.cut += sum(map(len, encoded)) > room
            seen = (starts < room) & np.array([len(ids) > 0 for ids in encoded])
            before = len(first) + len(asked) + 1
            self.places[k, : len(words)] = np.where(seen, starts + before, -1)
            tokens = np.concatenate([first, asked, [tokenizer.sep], np.concatenate(encoded)[:room], last])
            segments = (np.arange(len(tokens)) >= before).astype(np.int64)
            rows.append((tokens.astype(np.int64), segments))
            labels[k][torch.from_numpy(self.places[k][data.labels[k]] < 0)] = -100
        super().__init__(network, tokenizer, rows, labels, options)
        self.labels, self.shape = labels, (2, width)

    def classifier(self) -> TextClassifier:
        return AnswerClassifier(self.network, self.pad, 2)

    def inputs(self, chosen: np.ndarray) -> tuple[Tensor, ...]:
        return *super().inputs(chosen), torch.from_numpy(self.places[chosen])


class AnswerClassifier(TextClassifier):
    """A language model with two scores of the states at some places."""

    def forward(self, tokens: Tensor, segments: Tensor, places: Tensor) -> Tensor:  # type: ignore[override]
        """Scores [B, 2, W] of the words whose first tokens are at ``places`` [B, W]; -1: not seen."""
        states = self.network.states(tokens, tokens != self.pad, segments)
        scores: Tensor = self.head(self.dropout(states)).gather(1, places.clamp(min=0)[:, :, None].expand(-1, -1, 2))
        return scores.masked_fill((places < 0)[:, :, None], _NEVER).transpose(1, 2)


__all__ = ["Answered", "finetune_answers"]
