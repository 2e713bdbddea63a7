"""Fine-tuning of language models: classes or scores of texts and of pairs of texts, from few labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastssl.data import Corpus, ParallelCorpus
from fastssl.data.tokenizer import Tokenizer
from fastssl.evaluate.linear import linear_head
from fastssl.evaluate.tuning import FineTuned, Tuning, tune
from fastssl.models.language import LanguageModel
from fastssl.models.modes import evaluation_mode

_DROPOUT = 0.1  # before the classifier, as in BERT
_POOL = 8  # batches whose texts are sorted by length
_ROWS = 256  # texts per batch in evaluation


@dataclass
class TextFineTuning(Tuning):
    """Options of the fine-tuning of texts (Devlin et al. 2019, section 4.1): AdamW, linear warm-up, dropout before the
    classifier. Classes of texts start from a linear probe of the network (Kumar et al., Fine-Tuning can Distort
    Pretrained Features, 2022), without which few labels undo what pretraining has found.

    Args:
        epochs: maximum number of epochs over the labelled rows; at least ``least_steps`` steps are taken.
        least_steps: minimum number of steps, for small data sets.
        most_steps: maximum number of steps, for large data sets; None: that of ``epochs``.
        batch_size: rows per step.
        rates: candidate learning rates, selected on a validation fifth of the training rows.
        weight_decay: weight decay of AdamW.
        patience: validation checks without improvement after which a learning rate is abandoned.
        checks: validation checks per run.
        metric: a name of :data:`fastssl.evaluate.METRICS`.
        seed: seed of all random draws.
        precision: of the training: "32-true", "bf16-mixed", or "auto": "bf16-mixed" where that is faster.
        readout: "mean" over the tokens, or "token": [CLS] of bidirectional networks (BERT), the last token of causal
            ones (GPT) and of decoders (BART). From random weights and few labels the mean is much better.
        head: what the weights of the classifier of texts start from, "probe" or "zero"; regressions, and classifiers of
            words and of several classes per text, start from zero.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> from fastssl.evaluate import TextFineTuning
        >>> options = TextFineTuning(epochs=3, rates=(5e-4,))
    """

    epochs: int = 10
    batch_size: int = 32
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    weight_decay: float = 0.01
    readout: str = "mean"
    head: str = "probe"

    def check(self) -> None:
        super().check()
        if self.readout not in ("mean", "token"):
            raise ValueError(f"readout: expected 'mean' or 'token', got {self.readout!r}")
        if self.head not in ("probe", "zero"):
            raise ValueError(f"head: expected 'probe' or 'zero', got {self.head!r}")


def finetune_text(
    network: LanguageModel,
    tokenizer: Tokenizer,
    data: Corpus,
    labels: Tensor,
    train: np.ndarray,
    test: np.ndarray,
    options: TextFineTuning | None = None,
) -> FineTuned:
    """Fine-tunes a copy of a language model with a linear classifier; rate and steps as :func:`finetune` selects them.

    Texts longer than the network are cut at their end, pairs at the end of the longer text; ``cut`` of the result says
    how many.

    Args:
        network: pretrained, or randomly initialised for the same network from scratch; not modified.
        tokenizer: the tokenizer of its tokens.
        data: a corpus; a :class:`fastssl.data.ParallelCorpus` for pairs of texts.
        labels: [N] integers, or floats for a regression, or [N, classes] of -1, 0 (unknown) and 1 for several classes
            per text, with a metric of those ("micro F1").
        train: indices of the labelled rows.
        test: indices of the test rows.
        options: see :class:`TextFineTuning`.

    Raises:
        ValueError: fewer than two training rows, scores that are all the same or not finite, or wrong options.

    Example:
        >>> import numpy as np, torch
        >>> from fastssl.data import Corpus, Tokenizer
        >>> from fastssl.evaluate import TextFineTuning, finetune_text
        >>> from fastssl.models import build_language
        >>> data, labels = Corpus(["good", "bad"] * 20), torch.arange(40) % 2
        >>> network = build_language({"name": "transformer", "vocabulary": 261, "width": 16, "depth": 1, "length": 8})
        >>> how = TextFineTuning(least_steps=20, epochs=1, rates=(1e-2,))
        >>> finetune_text(network, Tokenizer(), data, labels, np.arange(30), np.arange(30, 40), how).score
        100.0
    """
    options = options or TextFineTuning()
    rows, cut = encode_texts(data, tokenizer, network)
    task = TextTask(network, tokenizer, rows, labels, options)
    return replace(tune(task, labels, train, test, options), cut=cut)


def count_empty(data: Corpus) -> int:
    """How many texts have no other characters than white space, or of pairs, one that has none."""
    pairs = map(data.pair, range(len(data))) if isinstance(data, ParallelCorpus) else ((text,) for text in data.texts)
    return sum(not all(map(str.strip, texts)) for texts in pairs)


def encode_texts(
    data: Corpus, tokenizer: Tokenizer, network: LanguageModel
) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """Tokens and segments of every text, and how many texts were cut to the network's length: ``[CLS] A [SEP]`` or
    ``[CLS] A [SEP] B [SEP]``; of causal networks ``[SEP] A`` or ``[SEP] A [SEP] B``, of those with a decoder without
    [CLS]."""
    first, last = network.opening(tokenizer), network.closing(tokenizer)
    if isinstance(data, ParallelCorpus):
        sides = [list(data.source.texts), list(data.target.texts)]
    else:
        sides = [list(data.texts)]
    encoded = [tokenizer.encode(side) for side in sides]
    room = network.length - len(first) - (len(sides) - 1) - len(last)
    if room < len(sides):
        least = network.length - room + len(sides)
        raise ValueError(f"network: expected a length of at least {least}, got {network.length}")
    rows, cut = [], 0
    for texts in zip(*encoded):
        first_length, *others = [len(ids) for ids in texts]
        cut += first_length + sum(others) > room
        kept = min(first_length, max(room - sum(others), -(-room // len(texts))))  # the longer one loses its end
        lengths = [kept, *(min(length, room - kept) for length in others)]
        parts = [np.append(ids[:length], tokenizer.sep) for ids, length in zip(texts, lengths)]
        parts[-1] = np.concatenate([parts[-1][:-1], last])
        tokens = np.concatenate([first, *parts]).astype(np.int64)
        segments = np.zeros(len(tokens), dtype=np.int64)
        if len(parts) > 1:
            segments[len(first) + len(parts[0]) :] = 1
        rows.append((tokens, segments))
    return rows, cut


class TextClassifier(nn.Module):
    """A language model with a linear classifier of its states.

    Args:
        network: the network; a copy is taken.
        pad: id of the padding.
        outputs: number of classes; 1 for a regression.
        readout: see :class:`TextFineTuning`.
    """

    def __init__(self, network: LanguageModel, pad: int, outputs: int, readout: str = "mean") -> None:
        super().__init__()
        self.network, self.pad, self.readout = copy.deepcopy(network), pad, readout
        self.dropout, self.head = nn.Dropout(_DROPOUT), nn.Linear(network.dim, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """Scores [B, outputs] of padded tokens [B, T]."""
        result: Tensor = self.head(self.dropout(self.features(tokens, segments)))
        return result

    def features(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """What the classifier reads, [B, C]."""
        keep = tokens != self.pad
        states = self.network.states(tokens, keep, segments)
        if self.readout == "mean":
            weights = keep.to(states.dtype)[:, :, None]
            pooled: Tensor = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
            return pooled
        at = torch.zeros_like(tokens[:, 0]) if self.network.bidirectional else keep.sum(1) - 1
        return states[torch.arange(len(states)), at]


class TextTask:
    """A language model with a linear classifier, on texts whose tokens are in memory."""

    def __init__(
        self,
        network: LanguageModel,
        tokenizer: Tokenizer,
        rows: Sequence[tuple[np.ndarray, np.ndarray]],
        labels: Tensor,
        options: TextFineTuning,
    ) -> None:
        self.network, self.pad, self.rows, self.options = network, tokenizer.pad, rows, options
        self.labels, self.probes = labels, dict[bytes, tuple[Tensor, Tensor]]()
        of_classes = not labels.is_floating_point()
        self.outputs = labels.shape[1] if labels.dim() == 2 else int(labels.max()) + 1 if of_classes else 1
        self.shape: tuple[int, ...] = (self.outputs,)  # of the scores of a row

    def classifier(self) -> TextClassifier:
        """A copy of the network with a new classifier."""
        return TextClassifier(self.network, self.pad, self.outputs, self.options.readout)

    def start(self, rate: float, rows: np.ndarray) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = self.classifier()
        if self.options.head == "probe" and self.labels.dim() == 1 and not self.labels.is_floating_point():
            weight, bias = self._probe(model, rows)
            with torch.no_grad():
                model.head.weight.copy_(weight)
                model.head.bias.copy_(bias)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in model.parameters() if (p.dim() > 1) == matrix], "weight_decay": decay}
            for matrix, decay in ((True, self.options.weight_decay), (False, 0.0))
        ]
        return model, torch.optim.AdamW(groups, rate)

    def _probe(self, model: TextClassifier, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Weight and bias of a linear probe of the network on some rows, the same for every rate."""
        key = rows.tobytes()
        if key not in self.probes:
            features = self._over(model, model.features, rows, (self.network.dim,))
            self.probes[key] = linear_head(features, self.labels[torch.from_numpy(rows)], self.outputs)
        return self.probes[key]

    def inputs(self, chosen: np.ndarray) -> tuple[Tensor, ...]:
        """What the network takes of some rows."""
        width = max(len(self.rows[k][0]) for k in chosen)
        made = np.full((2, len(chosen), width), self.pad, dtype=np.int64)
        made[1] = 0
        for row, k in enumerate(chosen):
            for side, values in enumerate(self.rows[k]):
                made[side, row, : len(values)] = values
        tokens, segments = torch.from_numpy(made)
        return tokens, segments

    def batches(self, rows: np.ndarray, size: int, epochs: int) -> Iterator[tuple[Any, Tensor]]:
        lengths = np.array([len(self.rows[k][0]) for k in rows])
        for epoch in range(epochs):
            rng = np.random.default_rng([self.options.seed, epoch])
            order = rng.permutation(len(rows))
            order = order[: len(order) // size * size]
            # Texts of like lengths together, within pools of some batches: half the padding.
            pools = [order[at : at + _POOL * size] for at in range(0, len(order), _POOL * size)]
            order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
            for ids in rng.permutation(order.reshape(-1, size)):
                yield self.inputs(rows[ids]), torch.from_numpy(ids)

    def scores(self, model: nn.Module, rows: np.ndarray) -> Tensor:
        return self._over(model, model, rows, self.shape)

    @torch.no_grad()
    def _over(self, model: nn.Module, call: Callable[..., Tensor], rows: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        """[N, *shape]: what a call of the model's gives of rows, in evaluation mode."""
        result = torch.zeros(len(rows), *shape)
        order = np.argsort([len(self.rows[k][0]) for k in rows], kind="stable")  # texts of like lengths together
        with evaluation_mode(model):
            for at in range(0, len(order), _ROWS):
                some = order[at : at + _ROWS]
                result[torch.from_numpy(some)] = call(*self.inputs(rows[some])).float()
        return result
