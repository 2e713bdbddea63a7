"""Fine-tuning of networks with a decoder on pairs of texts: translation, summaries, definitions."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fastssl._options import integer, plain_fields
from fastssl.data import ParallelCorpus, TokenBatch
from fastssl.data.corruption import IGNORED, Ragged
from fastssl.data.tokenizer import Tokenizer
from fastssl.evaluate.features import progress_bar
from fastssl.evaluate.overlap import TextScores, text_scores
from fastssl.methods import BART, T5, TextMethod
from fastssl.models.frozen import training_mode
from fastssl.models.generation import generate_target, unwritten
from fastssl.models.language import LanguageModel
from fastssl.models.modes import evaluation_mode
from fastssl.models.precision import autocast, check_precision, training_arithmetic
from fastssl.ops.draws import drawing_apart

_DECODERS: dict[str, type[TextMethod]] = {"t5": T5, "bart": BART}
_ROWS = 32  # pairs per batch in evaluation


@dataclass
class TranslationTuning:
    """Options of :func:`finetune_translation`: AdamW, linear warm-up over a tenth of the steps, then linear to 0.

    Args:
        steps: number of steps.
        batch_size: pairs per step.
        rate: learning rate after the warm-up.
        weight_decay: weight decay of AdamW.
        clip: largest norm of the gradient.
        seed: seed of order and dropout.
        precision: of the training: "32-true", "bf16-mixed", or "auto": "bf16-mixed" where that is faster.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> from fastssl.evaluate import TranslationTuning
        >>> TranslationTuning(steps=500, rate=5e-4).check()
    """

    steps: int = 1000
    batch_size: int = 32
    rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    precision: str = "auto"

    def check(self) -> None:
        plain_fields(self)
        check_precision(self.precision)
        for name in ("steps", "batch_size"):
            integer(name, getattr(self, name), 1)
        for name in ("rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number > 0, got {getattr(self, name)}")


@dataclass
class Translated:
    """The result of a fine-tuning on pairs.

    Attributes:
        scores: of the texts that were written.
        nats: mean cross-entropy of the test targets' tokens, each given those before it.
        texts: what was written for each test text, the most probable token at each step.
        cut: pairs whose texts were cut to the network's length.
    """

    scores: TextScores
    nats: float
    texts: list[str] = field(repr=False)
    cut: int = 0


def finetune_translation(
    network: LanguageModel,
    tokenizer: Tokenizer,
    pairs: ParallelCorpus,
    train: Any,
    test: Any,
    options: TranslationTuning | None = None,
) -> Translated:
    """Fine-tunes a copy of a network with a decoder to write the second text of each pair, and scores what it writes.

    Args:
        network: "t5" or "bart", pretrained, or randomly initialised for the same network from scratch; not modified.
        tokenizer: the tokenizer of its tokens, of both languages.
        pairs: the texts and their targets; texts longer than the network are cut at their end.
        train: indices of the pairs to train on.
        test: indices of the pairs to score.
        options: see :class:`TranslationTuning`.

    Raises:
        TypeError: no pairs of texts.
        ValueError: a network without a decoder, no pairs to train on or to score, or wrong options.

    Example:
        >>> from fastssl.data import Corpus, ParallelCorpus, Tokenizer
        >>> from fastssl.evaluate import TranslationTuning, finetune_translation
        >>> from fastssl.models import build_language
        >>> pairs = ParallelCorpus(Corpus(["uno", "dos"] * 8), Corpus(["one", "two"] * 8))
        >>> shape = {"width": 32, "depth": 1, "heads": 2, "length": 8}
        >>> network = build_language({"name": "bart", "vocabulary": 361, **shape})
        >>> how = TranslationTuning(steps=60, batch_size=8, rate=1e-2)
        >>> finetune_translation(network, Tokenizer(), pairs, range(14), range(14, 16), how).texts
        ['one', 'two']
    """
    options = options or TranslationTuning()
    options.check()
    if not isinstance(pairs, ParallelCorpus):
        raise TypeError(f"pairs: expected a fastssl.data.ParallelCorpus, got {type(pairs).__name__}")
    if network.kind not in _DECODERS:
        raise ValueError(f"network: expected one with a decoder ({', '.join(_DECODERS)}), got {network.kind!r}")
    train, test = np.asarray(train, np.int64), np.asarray(test, np.int64)
    if not len(train) or not len(test):
        raise ValueError(f"train, test: expected at least one pair each, got {len(train)} and {len(test)}")
    task = _Pairs(network, tokenizer, pairs, np.concatenate([train, test]))
    method: Any = _DECODERS[network.kind](copy.deepcopy(network), tokenizer)
    with drawing_apart():
        _train(method, task, train, options)
    with evaluation_mode(method), torch.no_grad():
        nats = terms = 0.0
        for first in range(0, len(test), _ROWS):
            batch = task.batch(test[first : first + _ROWS])
            count = method.terms(batch)
            nats, terms = nats + float(method(batch)) * count, terms + count
        texts: list[str] = []
        how: dict[str, Any] = {"end": tokenizer.sep, "temperature": 0, "never": unwritten(network, tokenizer)}
        with progress_bar("translation") as show:
            for first in range(0, len(test), _ROWS):
                sources = [task.rows[int(row)][0] for row in test[first : first + _ROWS]]
                written = generate_target(method.network, sources, network.length, **how)
                texts += [tokenizer.decode(ids) for ids in written]
                show(len(texts), len(test))
    scores = text_scores(texts, [pairs.pair(int(row))[1] for row in test])
    return Translated(scores, nats / terms, texts, task.cut)


class _Pairs:
    """Tokens of texts and targets, each with its end."""

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer, pairs: ParallelCorpus, rows: np.ndarray) -> None:
        self.pad, self.device, self.cut = tokenizer.pad, next(network.parameters()).device, 0
        room, sides = network.length - 1, zip(*(pairs.pair(int(row)) for row in rows))
        encoded = [tokenizer.encode(list(side)) for side in sides]
        self.rows: dict[int, list[np.ndarray]] = {}
        for row, both in zip(rows, zip(*encoded)):
            self.cut += max(map(len, both)) > room
            self.rows[int(row)] = [np.append(ids[:room], tokenizer.sep).astype(np.int64) for ids in both]

    def batch(self, rows: np.ndarray) -> TokenBatch:
        sides = [Ragged.of([self.rows[int(row)][side] for row in rows]) for side in range(2)]
        made = [side.padded(int(side.lengths.max()), fill) for side, fill in zip(sides, (self.pad, IGNORED))]
        return TokenBatch(*(torch.from_numpy(one).to(self.device) for one in made))


def _train(method: Any, task: _Pairs, train: np.ndarray, options: TranslationTuning) -> None:
    torch.manual_seed(options.seed)
    decayed = [[p for p in method.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False)]
    groups = [{"params": p, "weight_decay": d} for p, d in zip(decayed, (options.weight_decay, 0.0))]
    optimizer = torch.optim.AdamW(groups, options.rate, betas=(0.9, 0.98))
    size, warm = min(options.batch_size, len(train)), max(1, options.steps // 10)
    per_epoch = len(train) // size
    training_mode(method)
    half = autocast(options.precision, task.device)
    with progress_bar("fine-tuning") as show, training_arithmetic(task.device):
        for step in range(options.steps):
            if step % per_epoch == 0:
                order = np.random.default_rng([options.seed, step // per_epoch]).permutation(train)
            place = step % per_epoch * size
            share = min((step + 1) / warm, (options.steps - step) / max(options.steps - warm, 1))
            for group in optimizer.param_groups:
                group["lr"] = options.rate * share
            with half:
                loss = method(task.batch(order[place : place + size]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(method.parameters(), options.clip)
            optimizer.step()
            show(step + 1, options.steps)


__all__ = ["Translated", "TranslationTuning", "finetune_translation"]
