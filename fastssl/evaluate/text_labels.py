"""Tasks of texts from few or all labels: networks that are fine-tuned alike, beside TF-IDF and a constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Corpus, ParallelCorpus, Splits
from fastssl.data.tokenizer import Tokenizer
from fastssl.evaluate.finetune_text import TextFineTuning, TextTask, count_empty, encode_texts
from fastssl.evaluate.metrics import metric_of
from fastssl.evaluate.tuning import tune
from fastssl.functional import _check as check
from fastssl.models.language import LanguageModel

Table = dict[str, dict[str, float]]


def few_text_labels(
    starts: Mapping[str, Callable[[int], LanguageModel]],
    tokenizer: Tokenizer,
    task: Splits,
    labels_per_class: Sequence[int] = (),
    *,
    seeds: int = 3,
    options: TextFineTuning | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Table:
    """Fine-tuning of several networks with the same labels, beside a logistic regression on TF-IDF and a constant.

    Args:
        starts: name -> the network to start from, of the seed: the same for every seed if it is pretrained, with other
            random weights if it is trained from scratch.
        tokenizer: the tokenizer of all of them.
        task: training and test texts (:func:`fastssl.data.open_splits`).
        labels_per_class: numbers of labels per class; (): all labels.
        seeds: draws of the labels, with a seed of the network and of the training each.
        options: see :class:`TextFineTuning`; its metric and seed are those of the task and of the draw.
        note: called with a line per result.

    Returns:
        Measure -> row -> mean over the seeds; with ``_se`` the standard error of the mean.

    Raises:
        ValueError: labels per class for a task without classes, or a task that is not one of labelled texts: all
            training texts of one class, or the training or the test texts with one score.

    Example:
        >>> import torch
        >>> from fastssl.data import Corpus, Splits, Tokenizer
        >>> from fastssl.evaluate import TextFineTuning, few_text_labels
        >>> from fastssl.models import build_language
        >>> data = Corpus(["good", "bad"] * 20, labels=[1, 0] * 20, classes=["no", "yes"])
        >>> network = {"name": "transformer", "vocabulary": 261, "width": 16, "depth": 1, "length": 8}
        >>> scratch = lambda seed: build_language(network)
        >>> how = TextFineTuning(least_steps=20, epochs=1, rates=(1e-2,))
        >>> task = Splits("toy", data.subset(range(30)), data.subset(range(30, 40)))
        >>> table = few_text_labels({"from scratch": scratch}, Tokenizer(), task, [8], seeds=1, options=how)
        >>> table["toy, 8 labels per class, top-1"]["constant"]
        50.0

    Source: the seeds and their spread matter as much as the method (Dodge et al., Fine-Tuning Pretrained Language
    Models, 2020).
    """
    train, test = task.train, task.test
    if not isinstance(train, Corpus) or not isinstance(test, Corpus) or train.labels is None:
        raise ValueError(
            f"data: expected labelled texts to fine-tune on, got {task.train!r} without labels: a table with a column "
            "label or score (another name: FILE.csv#label=NAME; pairs:FILE reads texts alone), or a folder with a "
            "sub-folder per class (text:FOLDER)"
        )
    if test.labels is None:
        raise ValueError(
            f"data: expected labelled test texts, the {len(test):,} of {task.name} have none; a labelled part "
            "beside them (dev, valid) is taken in their place"
        )
    if len(labels_per_class) and not len(train.classes):
        raise ValueError(f"labels: {task.name} has scores, not classes")
    labels_per_class = [check.count("labels_per_class", count) for count in labels_per_class]
    seeds = check.count("seeds", seeds)
    if len(labels_per_class):
        most = int(_counts(train.labels).max(initial=0))
        if max(labels_per_class) > most:
            raise ValueError(
                f"labels: expected at most {most} per class, the training texts of the largest class of {task.name}, "
                f"got {max(labels_per_class)}; without it all are taken"
            )
    known, tests = (np.flatnonzero(_known(labels, len(train.classes) > 0)) for labels in (train.labels, test.labels))
    for part, corpus, ids in (("training", train, known), ("test", test, tests)):
        _check_answers(part, corpus, ids, task)
    names = (task.metric, *task.others)
    table: Table = {}
    for count in labels_per_class or (0,):
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(seeds):
            chosen = balanced(train.labels, known, count, seed) if count else known
            data = _joined(train, chosen, test, tests)
            assert data.labels is not None
            labels = torch.from_numpy(data.labels)
            labels = labels.float() if labels.is_floating_point() else labels
            few, asked = np.arange(len(chosen)), np.arange(len(chosen), len(data))
            wanted = labels[asked]
            outputs = {}
            empty = 0 if seed else count_empty(data)
            if empty:
                note(f"{task.name}: {empty:,} of {len(data):,} texts are empty")
            for name, start in starts.items():
                network = start(seed)
                rows, cut = encode_texts(data, tokenizer, network)
                if cut and not seed:
                    note(f"{task.name}: {cut:,} of {len(data):,} texts are longer than the network, and were cut")
                given = options or TextFineTuning()
                given = replace(given, metric=task.metric, seed=seed)
                task_of = TextTask(network, tokenizer, rows, labels, given)
                outputs[name] = tune(task_of, labels, few, asked, given).outputs
                scores = ", ".join(f"{metric_of(m)(outputs[name], wanted):.1f} ({m})" for m in names)
                note(f"{_measure(task, count)}, draw {seed + 1} of {seeds}: {name} {scores}")
            outputs |= _baselines(data, labels, few, asked)
            for name, made in outputs.items():
                found.setdefault(name, []).append({m: metric_of(m)(made, wanted) for m in names})
        for metric in names:
            measure = f"{_measure(task, count)}, {metric}"
            values = {name: np.array([one[metric] for one in each]) for name, each in found.items()}
            table[measure] = {name: float(each.mean()) for name, each in values.items()}
            if seeds > 1:
                error = {name: float(each.std(ddof=1) / seeds**0.5) for name, each in values.items()}
                table[measure + "_se"] = error
    return table


def _check_answers(part: str, corpus: Corpus, ids: np.ndarray, task: Splits) -> None:
    """Checks that the labels of a part tell something: that networks can learn from them, or be judged by them.

    Raises:
        ValueError: no labels, classes of one kind to train on, or scores that are all the same.
    """
    assert corpus.labels is not None
    column = "" if corpus.columns is None else f" (column {(corpus.columns.score or corpus.columns.label)!r})"
    if not len(ids):
        raise ValueError(f"data: expected labelled {part} texts, the {len(corpus):,} of {task.name}{column} have none")
    given = np.unique(corpus.labels[ids])
    if len(given) > 1 or (part == "test" and len(corpus.classes)):
        return
    kind, one = ("classes", repr(corpus.classes[given[0]])) if len(corpus.classes) else ("scores", f"{given[0]:g}")
    raise ValueError(
        f"data: expected {part} texts with {kind} that differ, got {one} for all {len(ids):,} of {task.name}{column}"
    )


def _measure(task: Splits, count: int) -> str:
    return task.name if not count else f"{task.name}, {count} labels per class"


def _counts(labels: np.ndarray) -> np.ndarray:
    """How many rows each class has."""
    return np.bincount(labels[labels >= 0]) if labels.ndim == 1 else (labels > 0).sum(0)


def _known(labels: np.ndarray, of_classes: bool) -> np.ndarray:
    """Which rows have a label."""
    if labels.ndim == 2:
        return np.asarray((labels != 0).any(1))
    return np.asarray(labels >= 0 if of_classes else ~np.isnan(labels))


def balanced(labels: np.ndarray, among: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` rows of each class among some, or all there are, drawn by ``seed``."""
    order = np.random.default_rng(seed).permutation(among)
    if labels.ndim == 2:  # a row of several classes is drawn once
        drawn = np.concatenate([order[column[order] > 0][:count] for column in labels.T])
        return np.array(list(dict.fromkeys(drawn.tolist())), np.int64)
    return np.concatenate([order[labels[order] == k][:count] for k in np.unique(labels[among])])


def _joined(train: Corpus, chosen: np.ndarray, test: Corpus, tests: np.ndarray) -> Corpus:
    """The chosen texts of both parts in memory."""

    def texts(side: str) -> list[str]:
        parts = ((train, chosen), (test, tests))
        return [(getattr(one, side) if side else one).text(int(k)) for one, ids in parts for k in ids]

    assert train.labels is not None and test.labels is not None
    labels = np.concatenate([train.labels[chosen], test.labels[tests]])
    if not isinstance(train, ParallelCorpus):
        return Corpus(texts(""), train.name, labels=labels, classes=train.classes)
    first = Corpus(texts("source"), train.name, labels=labels, classes=train.classes)
    return ParallelCorpus(first, Corpus(texts("target"), train.name))


def _baselines(data: Corpus, labels: Tensor, few: np.ndarray, asked: np.ndarray) -> dict[str, Tensor]:
    """Outputs of a linear model on TF-IDF (of both texts and of their products), and of a constant."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, RidgeCV

    known = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    if isinstance(data, ParallelCorpus):
        a, b = list(data.source.texts), list(data.target.texts)
        known.fit([a[k] for k in few] + [b[k] for k in few])
        left, right = known.transform(a), known.transform(b)
        x = hstack([left, right, left.multiply(right)]).tocsr()
    else:
        texts = list(data.texts)
        known.fit([texts[k] for k in few])
        x = known.transform(texts)
    y = labels[few].numpy()
    if labels.dim() == 2:
        shares = (y > 0).sum(0) / np.maximum((y != 0).sum(0), 1) - 0.5
        made = np.tile(shares, (len(asked), 1))
        for k, column in enumerate(y.T):
            own = np.flatnonzero(column)
            if len(np.unique(column[own])) > 1:
                fitted = LogisticRegression(C=10.0, max_iter=300).fit(x[few[own]], column[own])
                made[:, k] = fitted.decision_function(x[asked])
        return {"TF-IDF": torch.from_numpy(made), "constant": torch.from_numpy(shares).expand(len(asked), -1)}
    constant = torch.zeros(len(asked), 1 if labels.is_floating_point() else int(labels.max()) + 1)
    if labels.is_floating_point():
        fitted = RidgeCV(alphas=(0.1, 1.0, 10.0)).fit(x[few], y)
        return {"TF-IDF": torch.from_numpy(fitted.predict(x[asked]))[:, None], "constant": constant}
    constant[:, int(np.bincount(y).argmax())] = 1
    predicted = torch.from_numpy(LogisticRegression(C=10.0, max_iter=300).fit(x[few], y).predict(x[asked]))
    return {"TF-IDF": torch.nn.functional.one_hot(predicted, constant.shape[1]).float(), "constant": constant}
