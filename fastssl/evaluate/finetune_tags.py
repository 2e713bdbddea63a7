"""Fine-tuning of language models on the words of sentences: parts of speech, names and other spans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Tagged
from fastssl.data.tokenizer import Tokenizer
from fastssl.evaluate.finetune_text import TextClassifier, TextFineTuning, TextTask
from fastssl.evaluate.tuning import FineTuned, tune
from fastssl.models.language import LanguageModel


def finetune_tags(
    network: LanguageModel,
    tokenizer: Tokenizer,
    data: Tagged,
    train: Any,
    test: Any,
    options: TextFineTuning | None = None,
) -> FineTuned:
    """Fine-tunes a copy of a language model with a linear classifier of the first token of each word (Devlin et al.
    2019, section 5.3); rate and steps as :func:`finetune` selects them.

    Words that do not fit into the network are not seen, and count as the first class; ``cut`` of the result says in how
    many sentences.

    Args:
        network: pretrained, or randomly initialised for the same network from scratch; not modified.
        tokenizer: the tokenizer of its tokens.
        data: the sentences and their tags.
        train: indices of the sentences to train on.
        test: indices of the sentences to score.
        options: see :class:`TextFineTuning`; its metric is "span F1" where the tags are spans, else "word accuracy",
            and there is no readout.

    Raises:
        TypeError: ``data`` is of another type.
        ValueError: fewer than two sentences to train on, or wrong options.

    Example:
        >>> from fastssl.data import Tagged, Tokenizer
        >>> from fastssl.evaluate import TextFineTuning, finetune_tags
        >>> from fastssl.models import build_language
        >>> data = Tagged([["we", "met", "mr", "x"], ["so", "mr", "y", "left"]] * 10, [["O", "O", "B-N", "I-N"],
        ...     ["O", "B-N", "I-N", "O"]] * 10)
        >>> shape = {"name": "transformer", "vocabulary": 261, "width": 16, "depth": 1, "length": 20}
        >>> network, how = build_language(shape), TextFineTuning(least_steps=40, epochs=1, rates=(1e-2,))
        >>> finetune_tags(network, Tokenizer(), data, range(14), range(14, 20), how).score
        100.0
    """
    if not isinstance(data, Tagged):
        raise TypeError(f"data: expected fastssl.data.Tagged, got {type(data).__name__}")
    options = TextFineTuning(**{**vars(options or TextFineTuning()), "metric": tag_metric(data)})
    labels = torch.from_numpy(data.labels)
    task = TagTask(network, tokenizer, data, options)
    return replace(tune(task, labels, np.asarray(train), np.asarray(test), options), cut=task.cut)


def tag_metric(data: Tagged) -> str:
    """The metric of tags: of spans, or of words."""
    return "span F1" if data.spans else "word accuracy"


class TagTask(TextTask):
    """A language model with a linear classifier of words, on sentences whose tokens are in memory."""

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer, data: Tagged, options: TextFineTuning) -> None:
        first, last = network.opening(tokenizer), network.closing(tokenizer)
        room = network.length - len(first) - len(last)
        rows, self.places, self.cut = [], np.full(data.labels.shape, -1, dtype=np.int64), 0
        for words, places in zip(data.words, self.places):
            encoded = tokenizer.encode(words)
            starts = np.cumsum([0, *map(len, encoded[:-1])])
            self.cut += sum(map(len, encoded)) > room
            # Where a word has no token of its own, or no room, there is nothing to classify.
            seen = (starts < room) & np.array([len(ids) > 0 for ids in encoded])
            places[: len(words)] = np.where(seen, starts + len(first), -1)
            tokens = np.concatenate([first, np.concatenate(encoded)[:room], last]).astype(np.int64)
            rows.append((tokens, np.zeros(len(tokens), dtype=np.int64)))
        super().__init__(network, tokenizer, rows, torch.from_numpy(data.labels), options)
        self.outputs, self.shape = len(data.classes), (data.labels.shape[1], len(data.classes))

    def classifier(self) -> TextClassifier:
        return TagClassifier(self.network, self.pad, self.outputs)

    def inputs(self, chosen: np.ndarray) -> tuple[Tensor, ...]:
        return *super().inputs(chosen), torch.from_numpy(self.places[chosen])


class TagClassifier(TextClassifier):
    """A language model with a linear classifier of the states at some places."""

    def forward(self, tokens: Tensor, segments: Tensor, places: Tensor) -> Tensor:  # type: ignore[override]
        """Scores [B, W, outputs] of the words whose first tokens are at ``places`` [B, W]; -1: 0."""
        states = self.network.states(tokens, tokens != self.pad, segments)
        at = places.clamp(min=0)[:, :, None].expand(-1, -1, states.shape[2])
        scores: Tensor = self.head(self.dropout(states.gather(1, at)))
        return scores.masked_fill((places < 0)[:, :, None], 0.0)


__all__ = ["finetune_tags"]
