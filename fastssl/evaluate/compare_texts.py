"""Fine-tuning of several networks on the same tagged sentences, questions, or pairs of texts, beside baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Corpus, IndexSplits, ParallelCorpus, Splits, Tagged
from fastssl.data.tokenizer import Tokenizer
from fastssl.evaluate.finetune_answers import finetune_answers
from fastssl.evaluate.finetune_tags import finetune_tags, tag_metric
from fastssl.evaluate.finetune_text import TextFineTuning
from fastssl.evaluate.metrics import metric_of
from fastssl.evaluate.overlap import TextScores, text_scores
from fastssl.evaluate.translation import TranslationTuning, finetune_translation
from fastssl.functional import _check as check
from fastssl.models.language import LanguageModel

Table = dict[str, dict[str, float]]
Starts = Mapping[str, Callable[[int], LanguageModel]]
Scores = dict[str, dict[str, float]]  # of a draw: row -> measure -> value


def compare_tags(
    starts: Starts,
    tokenizer: Tokenizer,
    task: IndexSplits,
    sentences: Sequence[int] = (),
    *,
    seeds: int = 3,
    options: TextFineTuning | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Table:
    """Fine-tuning of several networks on the words of the same sentences (:func:`finetune_tags`), beside the most
    frequent tag of each word.

    Args:
        starts: name -> the network to start from, of the seed.
        tokenizer: the tokenizer of all of them.
        task: training and test sentences (:func:`fastssl.data.open_tagged`).
        sentences: numbers of sentences to train on, drawn at random; (): all of them.
        seeds: draws of the sentences, with a seed of the network and of the training each.
        options: see :class:`TextFineTuning`; its metric and seed are those of the tags and of the draw.
        note: called with a line per result.

    Returns:
        Measure -> row -> mean over the seeds; with ``_se`` the standard error of the mean.

    Raises:
        ValueError: fewer than one seed, or than two sentences to train on.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import Tagged, IndexSplits, Tokenizer
        >>> from fastssl.evaluate import TextFineTuning, compare_tags
        >>> from fastssl.models import build_language
        >>> data = Tagged([["mr", "x", "left"]] * 20, [["B-N", "I-N", "O"]] * 20)
        >>> task = IndexSplits("toy", data, np.arange(14), np.arange(14, 20))
        >>> shape = {"name": "transformer", "vocabulary": 261, "width": 16, "depth": 1, "length": 20}
        >>> how = TextFineTuning(least_steps=5, epochs=1, rates=(1e-2,))
        >>> starts = {"from scratch": lambda seed: build_language(shape)}
        >>> compare_tags(starts, Tokenizer(), task, [8], seeds=1, options=how)["toy, 8 sentences, span F1"][
        ...     "most frequent tag"]
        100.0
    """

    def score(chosen: np.ndarray, seed: int) -> Scores:
        data = task.data.subset([*chosen, *task.test])
        few, asked = np.arange(len(chosen)), np.arange(len(chosen), len(data))
        given = replace(options or TextFineTuning(), seed=seed)
        outputs = {}
        for name, start in starts.items():
            made = finetune_tags(start(seed), tokenizer, data, few, asked, given)
            if made.cut and not seed:
                note(f"{task.name}: {made.cut:,} of {len(data):,} sentences are longer than the network, and were cut")
            outputs[name] = made.outputs
        outputs["most frequent tag"] = _most_frequent(data, few, asked)
        labels = torch.from_numpy(data.labels[asked])
        metrics = dict.fromkeys((tag_metric(data), "word accuracy"))
        return {name: {m: metric_of(m)(made, labels) for m in metrics} for name, made in outputs.items()}

    return _over_draws(score, f"{task.name}", "sentences", task.train, sentences, seeds, note)


def compare_answers(
    starts: Starts,
    tokenizer: Tokenizer,
    task: IndexSplits,
    questions: Sequence[int] = (),
    *,
    seeds: int = 3,
    options: TextFineTuning | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Table:
    """Fine-tuning of several networks on the same questions about texts (:func:`finetune_answers`).

    Args:
        starts: name -> the network to start from, of the seed.
        tokenizer: the tokenizer of all of them.
        task: training and test questions (:func:`fastssl.data.open_questions`).
        questions: numbers of questions to train on, drawn at random; (): all of them.
        seeds: draws of the questions, with a seed of the network and of the training each.
        options: see :class:`TextFineTuning`; its seed is that of the draw.
        note: called with a line per result.

    Returns:
        Measure ("exact", "F1") -> row -> mean over the seeds; with ``_se`` the standard error of the mean.

    Raises:
        ValueError: fewer than one seed, or than two questions to train on.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import IndexSplits, Questions, Tokenizer
        >>> from fastssl.evaluate import TextFineTuning, compare_answers
        >>> from fastssl.models import build_language
        >>> data = Questions(["Who?"] * 20, ["mr x"] * 20, [["x"]] * 20)
        >>> task = IndexSplits("toy", data, np.arange(14), np.arange(14, 20))
        >>> shape = {"name": "transformer", "vocabulary": 261, "width": 16, "depth": 1, "length": 20, "causal": False}
        >>> how = TextFineTuning(least_steps=5, epochs=1, rates=(1e-2,))
        >>> starts = {"from scratch": lambda seed: build_language(shape)}
        >>> list(compare_answers(starts, Tokenizer(), task, [8], seeds=1, options=how))
        ['toy, 8 questions, exact', 'toy, 8 questions, F1']
    """

    def score(chosen: np.ndarray, seed: int) -> Scores:
        data = task.data.subset([*chosen, *task.test])
        few, asked = np.arange(len(chosen)), np.arange(len(chosen), len(data))
        given, found = replace(options or TextFineTuning(), seed=seed), {}
        for name, start in starts.items():
            made = finetune_answers(start(seed), tokenizer, data, few, asked, given)
            if made.cut and not seed:
                note(f"{task.name}: {made.cut:,} of {len(data):,} texts are longer than the network, and were cut")
            found[name] = {"exact": made.exact, "F1": made.f1}
        return found

    return _over_draws(score, task.name, "questions", task.train, questions, seeds, note)


def _most_frequent(data: Tagged, few: np.ndarray, asked: np.ndarray) -> Tensor:
    """Outputs of a table: the most frequent tag of each known word, of the others the most frequent one of all."""
    known: dict[str, Counter[int]] = {}
    for k in few:
        for word, label in zip(data.words[k], data.labels[k].tolist()):
            if label >= 0:
                known.setdefault(word, Counter())[label] += 1
    total: Counter[int] = sum(known.values(), Counter())
    common = {word: counts.most_common(1)[0][0] for word, counts in known.items()}
    other = total.most_common(1)[0][0] if total else 0
    outputs = torch.zeros(len(asked), data.labels.shape[1], len(data.classes))
    for row, k in zip(outputs, asked):
        for place, word in enumerate(data.words[k]):
            row[place, common.get(word, other)] = 1
    return outputs


def compare_translation(
    starts: Starts,
    tokenizer: Tokenizer,
    task: Splits,
    pairs: Sequence[int] = (),
    *,
    seeds: int = 3,
    most: int = 200,
    options: TranslationTuning | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Table:
    """Fine-tuning of several networks with a decoder on the same pairs of texts (:func:`finetune_translation`), beside
    the source texts themselves.

    Args:
        starts: name -> the network to start from, of the seed.
        tokenizer: the tokenizer of all of them.
        task: training and test pairs (:func:`fastssl.data.open_splits` of "pairs:FILE", "verses-es-en", ...).
        pairs: numbers of pairs to train on, drawn at random; (): all of them.
        seeds: draws of the pairs, with a seed of the network and of the training each.
        most: number of test pairs at most, drawn at random, the same for all.
        options: see :class:`TranslationTuning`; its seed is that of the draw.
        note: called with a line per result.

    Returns:
        Measure (BLEU, chrF, ROUGE-L, nats per token) -> row -> mean over the seeds; with ``_se`` the standard error of
        the mean.

    Raises:
        TypeError: no pairs of texts.
        ValueError: fewer than one seed, or a network without a decoder.

    Example:
        >>> from fastssl.data import Corpus, ParallelCorpus, Splits, Tokenizer
        >>> from fastssl.evaluate import TranslationTuning, compare_translation
        >>> from fastssl.models import build_language
        >>> data = ParallelCorpus(Corpus(["uno", "dos"] * 8), Corpus(["one", "two"] * 8))
        >>> task = Splits("toy", data.subset(range(14)), data.subset(range(14, 16)))
        >>> shape = {"name": "t5", "vocabulary": 361, "width": 16, "depth": 1, "heads": 2, "length": 8}
        >>> starts = {"from scratch": lambda seed: build_language(shape)}
        >>> table = compare_translation(starts, Tokenizer(), task, seeds=1, options=TranslationTuning(steps=2))
        >>> sorted(table["toy, nats per token"])
        ['from scratch']
    """
    train, test = task.train, task.test
    if not isinstance(train, ParallelCorpus) or not isinstance(test, ParallelCorpus):
        raise TypeError(f"data: expected pairs of texts (pairs:FILE, verses-es-en), got {train!r}")
    asked = np.sort(np.random.default_rng(0).permutation(len(test))[:most])
    if len(asked) < len(test):
        note(f"{task.name}: {len(asked):,} of {len(test):,} test pairs")
    wanted = [test.pair(int(k)) for k in asked]
    copied = text_scores(*([pair[side] for pair in wanted] for side in range(2)))

    def score(chosen: np.ndarray, seed: int) -> Scores:
        sides = zip(*(train.pair(int(k)) for k in chosen), *wanted)
        data = ParallelCorpus(*(Corpus(list(side)) for side in sides))
        few, rest = range(len(chosen)), range(len(chosen), len(data))
        given = replace(options or TranslationTuning(), seed=seed)
        found: Scores = {}
        for name, start in starts.items():
            made = finetune_translation(start(seed), tokenizer, data, few, rest, given)
            if made.cut and not seed:
                note(f"{task.name}: {made.cut:,} of {len(data):,} pairs are longer than the network, and were cut")
            found[name] = _measures(made.scores) | {"nats per token": made.nats}
        return found | {"source text": _measures(copied)}

    return _over_draws(score, task.name, "pairs", np.arange(len(train)), pairs, seeds, note)


def _measures(scores: TextScores) -> dict[str, float]:
    return {"BLEU": scores.bleu, "chrF": scores.chrf, "ROUGE-L": scores.rouge_l}


def _over_draws(
    score: Callable[[np.ndarray, int], Scores],
    task: str,
    unit: str,
    train: np.ndarray,
    counts: Sequence[int],
    seeds: int,
    note: Callable[[str], None],
) -> Table:
    """The table of the scores of every draw of ``counts`` rows."""
    counts, seeds = [check.count(unit, count) for count in counts], check.count("seeds", seeds)
    table: Table = {}
    for count in counts or (len(train),):
        name = f"{task}, {count:,} {unit}" if counts else task
        draws: list[Scores] = []
        for seed in range(seeds):
            chosen = np.random.default_rng(seed).permutation(train)[:count] if counts else train
            draws.append(score(chosen, seed))
            for row, found in draws[-1].items():
                values = ", ".join(f"{value:.2f} ({measure})" for measure, value in found.items())
                note(f"{name}, draw {seed + 1} of {seeds}: {row} {values}")
        for measure in dict.fromkeys(measure for found in draws[0].values() for measure in found):
            rows = {r: np.array([draw[r][measure] for draw in draws]) for r in draws[0] if measure in draws[0][r]}
            table[f"{name}, {measure}"] = {row: float(values.mean()) for row, values in rows.items()}
            if seeds > 1:
                error = {row: float(values.std(ddof=1) / seeds**0.5) for row, values in rows.items()}
                table[f"{name}, {measure}_se"] = error
    return table


__all__ = ["compare_answers", "compare_tags", "compare_translation"]
