"""Metrics of the benchmark data sets, in percent, of scores [N, classes] and labels; of GLUE also correlations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssl.evaluate.given import class_ids, signs
from fastssl.models.given import Values, as_tensor

Metric = Callable[[Values, Values], float]


def known(
    prepare: Callable[[Tensor, Any], tuple[Tensor, Tensor]],
) -> Callable[[Callable[[Tensor, Tensor], float]], Metric]:
    """Metrics of scores and labels, tensors or arrays, that ``prepare`` checks; NaN where a score is: of a classifier
    that diverged there is none."""

    def decorate(metric: Callable[[Tensor, Tensor], float]) -> Metric:
        @functools.wraps(metric)
        def call(scores: Values, labels: Values) -> float:
            given, wanted = prepare(as_tensor("scores", scores), labels)
            return float("nan") if bool(given.isnan().any()) else metric(given, wanted)

        return call

    return decorate


def _of_classes(scores: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
    """Scores [N, classes] and classes [N].

    Raises:
        TypeError: labels that are no integers.
        ValueError: other shapes, no rows, or labels that have no score.
    """
    scores, labels = _table(scores), as_tensor("labels", labels)
    classes = scores.shape[1]
    wanted = class_ids(labels.long() if labels.dtype == torch.bool else labels, scores, of="scores")
    if int(wanted.max()) >= classes:
        raise ValueError(f"labels: expected classes from 0 to {classes - 1}, as scores has, got {int(wanted.max())}")
    return scores, wanted


def _of_signs(scores: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
    """Scores [N, classes] and labels [N, classes] of -1, 0 and 1.

    Raises:
        TypeError: booleans as labels.
        ValueError: other shapes, no rows, other labels, or no -1 among them.
    """
    scores, wanted = _table(scores), as_tensor("labels", labels)
    if wanted.shape != scores.shape:
        raise ValueError(f"labels: expected shape {tuple(scores.shape)}, that of scores, got {tuple(wanted.shape)}")
    wanted = signs(wanted).to(scores.device)
    return scores.masked_fill(wanted == 0, 0), wanted  # NaN where it is ignored, too


def _table(scores: Tensor) -> Tensor:
    if scores.dim() != 2 or not scores.numel():
        raise ValueError(f"scores: expected [N, classes] with at least one row, got shape {tuple(scores.shape)}")
    return scores


def _of_numbers(scores: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
    """Numbers [N] or [N, 1], and numbers [N], as float64.

    Raises:
        ValueError: other shapes, or no rows.
    """
    wanted = as_tensor("labels", labels)
    if wanted.dim() != 1 or not len(wanted):
        raise ValueError(f"labels: expected [N] with at least one row, got shape {tuple(wanted.shape)}")
    if scores.shape not in ((len(wanted),), (len(wanted), 1)):
        raise ValueError(f"scores: expected {len(wanted)} numbers, one per label, got shape {tuple(scores.shape)}")
    return scores.reshape(-1).double(), wanted.to(scores.device, torch.float64)


def _of_words(scores: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
    """Scores [N, W, classes], and labels [N, W].

    Raises:
        ValueError: other shapes.
    """
    wanted = as_tensor("labels", labels)
    if scores.dim() != 3 or wanted.shape != scores.shape[:2]:
        raise ValueError(
            f"scores, labels: expected [N, W, classes] and [N, W], got shapes {tuple(scores.shape)} and "
            f"{tuple(wanted.shape)}"
        )
    return scores, wanted.to(scores.device)


def among_top(scores: Tensor, labels: Tensor, top: int) -> Tensor:
    """Whether the class of a row [N] is among the ``top`` ones with the largest scores [N, classes]; of equal scores,
    the first class is the larger."""
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(1) < top


@known(_of_classes)
def top_1(scores: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy; of equal scores, that of the first class counts as the largest.

    Args:
        scores: [N, classes].
        labels: [N] integers, 0 to classes - 1.

    Raises:
        TypeError: labels that are no integers.
        ValueError: other shapes, no rows, or labels out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import top_1
        >>> top_1(torch.eye(4), torch.tensor([0, 1, 1, 3]))
        75.0
    """
    return 100 * float(among_top(scores, labels, 1).double().mean())


@known(_of_classes)
def top_5(scores: Tensor, labels: Tensor) -> float:
    """Top-5 accuracy, as :func:`top_1`. Labels: [N]."""
    return 100 * float(among_top(scores, labels, 5).double().mean())


@known(_of_classes)
def mean_per_class(scores: Tensor, labels: Tensor) -> float:
    """Mean per-class accuracy, over the classes that occur.

    Args:
        scores: [N, classes].
        labels: [N] integers, 0 to classes - 1.

    Raises:
        TypeError: labels that are no integers.
        ValueError: other shapes, no rows, or labels out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import mean_per_class
        >>> mean_per_class(torch.eye(3), torch.tensor([0, 1, 1]))
        75.0
    """
    right = among_top(scores, labels, 1).double()
    counts = torch.bincount(labels)
    sums = torch.zeros(len(counts), dtype=torch.float64, device=scores.device).index_add_(0, labels, right)
    return 100 * float((sums[counts > 0] / counts[counts > 0]).mean())


@known(_of_signs)
def eleven_point_map(scores: Tensor, labels: Tensor) -> float:
    r"""11-point mAP: mean over classes of the average precision at recalls 0, 0.1, ..., 1 (PASCAL VOC 2007).

    .. math:: AP = \frac{1}{11} \sum_{r \in \{0, 0.1, \dots, 1\}} \max_{t:\, R(t) \ge r} P(t)

    with precision P(t) and recall R(t) of the rows whose score is at least t. Rows with equal scores are found
    together, whatever their order is.

    Args:
        scores: [N, classes].
        labels: [N, classes] of -1, 0 (difficult, ignored) and 1.

    Raises:
        TypeError: booleans as labels.
        ValueError: no class has a positive row, no label is -1, other shapes, or other labels.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import eleven_point_map
        >>> eleven_point_map(torch.tensor([[0.9], [0.1]]), torch.tensor([[1], [-1]]))
        100.0
    """
    results = []
    for c in range(scores.shape[1]):
        counted = labels[:, c] != 0
        truth = labels[counted, c] > 0
        if not bool(truth.any()):
            continue
        values, order = scores[counted, c].sort(descending=True)
        _, groups = values.unique_consecutive(return_counts=True)
        found = groups.cumsum(0)  # rows whose score is at least each of those that occur
        hits = truth[order].double().cumsum(0)[found - 1]
        precision = hits / found
        # Recall is a ratio of counts: in integers, 3 of 10 is exactly 0.3.
        points = [precision[10 * hits >= k * truth.sum()].max() for k in range(11)]
        results.append(float(torch.stack(points).mean()))
    if not results:
        raise ValueError("labels: expected a class with at least one positive")
    return 100 * sum(results) / len(results)


def _micro_or_macro(scores: Tensor, labels: Tensor, average: str) -> float:
    from sklearn.metrics import f1_score

    truth, predicted = (labels > 0).cpu().numpy(), ((scores > 0) & (labels != 0)).cpu().numpy()
    return 100 * float(f1_score(truth, predicted, average=average, zero_division=0))


@known(_of_signs)
def micro_f1(scores: Tensor, labels: Tensor) -> float:
    """F1 of all pairs of a row and a class, of which those with a positive score are predicted; 0 if nothing is right.

    Args:
        scores: [N, classes].
        labels: [N, classes] of -1, 0 (unknown, ignored) and 1.

    Raises:
        TypeError: booleans as labels.
        ValueError: no label is -1, other shapes, or other labels.

    Example:
        >>> import torch
        >>> from fastssl.evaluate.metrics import micro_f1
        >>> micro_f1(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1, -1], [1, 1]]))
        66.66666666666666
    """
    return _micro_or_macro(scores, labels, "micro")


@known(_of_signs)
def macro_f1(scores: Tensor, labels: Tensor) -> float:
    """Mean over classes of the F1 of each, as :func:`micro_f1`; 0 for a class that neither occurs nor is predicted."""
    return _micro_or_macro(scores, labels, "macro")


@known(_of_signs)
def mean_ap(scores: Tensor, labels: Tensor) -> float:
    """Mean over classes of the average precision, the sum of precisions times steps of recall. As :func:`micro_f1`.

    Raises:
        ValueError: no class has a positive row, or as there.
    """
    from sklearn.metrics import average_precision_score

    counted = ((column != 0).cpu().numpy() for column in labels.T)
    columns = [
        ((truth > 0).cpu().numpy()[own], found.double().cpu().numpy()[own])
        for truth, found, own in zip(labels.T, scores.T, counted)
    ]
    each = [average_precision_score(truth, found) for truth, found in columns if truth.any()]
    if not each:
        raise ValueError("labels: expected a class with at least one positive")
    return 100 * float(sum(each) / len(each))


@known(_of_classes)
def f1(scores: Tensor, labels: Tensor) -> float:
    """F1 score of class 1: the harmonic mean of its precision and recall; 0 if nothing is right.

    Args:
        scores: [N, 2].
        labels: [N] of 0 and 1.

    Raises:
        TypeError: labels that are no integers.
        ValueError: other shapes, no rows, or labels out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate.metrics import f1
        >>> f1(torch.eye(2)[[1, 1, 0, 0]], torch.tensor([1, 0, 1, 0]))
        50.0
    """
    predicted, truth = scores.argmax(1) == 1, labels == 1
    total = int(predicted.sum() + truth.sum())
    return 200 * int((predicted & truth).sum()) / total if total else 0.0


def _correlation(a: Tensor, b: Tensor) -> float:
    """Correlation of [N] or, over all columns, [N, C], times 100; 0 if either side is constant."""
    if bool((a == a[:1]).all()) or bool((b == b[:1]).all()):
        return 0.0  # where rounding of the mean would leave something
    a, b = (_centred(side) for side in (a, b))
    return 100 * float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def _centred(values: Tensor) -> Tensor:
    """Centred, of a magnitude of 1: squares neither overflow nor vanish."""
    scaled = values / values.abs().max()
    centred = scaled - scaled.mean(0)
    return centred / centred.abs().max()


@known(_of_classes)
def matthews(scores: Tensor, labels: Tensor) -> float:
    """Matthews' correlation of predicted and true classes, times 100; 0 if either is constant.

    Args:
        scores: [N, classes].
        labels: [N] integers, 0 to classes - 1.

    Raises:
        TypeError: labels that are no integers.
        ValueError: other shapes, no rows, or labels out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate.metrics import matthews
        >>> matthews(torch.eye(2)[[1, 1, 0, 0]], torch.tensor([1, 1, 0, 0]))
        100.0
    """
    one_hot = torch.eye(scores.shape[1], dtype=torch.float64, device=scores.device)
    return _correlation(one_hot[scores.argmax(1)], one_hot[labels])


@known(_of_numbers)
def pearson(scores: Tensor, labels: Tensor) -> float:
    """Pearson's correlation, times 100; 0 if either side is constant.

    Args:
        scores: [N, 1] or [N].
        labels: [N].

    Raises:
        ValueError: other shapes, or no rows.

    Example:
        >>> import torch
        >>> from fastssl.evaluate.metrics import pearson
        >>> round(pearson(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2.0, 4.0, 6.0])))
        100
    """
    return _correlation(scores, labels)


@known(_of_numbers)
def spearman(scores: Tensor, labels: Tensor) -> float:
    """Spearman's correlation, that of the ranks, times 100; equal values share the mean of their ranks.

    Args:
        scores: [N, 1] or [N].
        labels: [N].

    Raises:
        ValueError: other shapes, or no rows.

    Example:
        >>> import torch
        >>> from fastssl.evaluate.metrics import spearman
        >>> round(spearman(torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([2.0, 4.0, 6.0])))
        100
    """

    def ranks(values: Tensor) -> Tensor:
        _, place, count = values.unique(return_inverse=True, return_counts=True)
        ends = count.cumsum(0).double()
        return (ends - (count - 1) / 2)[place]

    return _correlation(ranks(scores), ranks(labels))


@known(_of_words)
def word_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Accuracy of words. Scores: [N, W, classes], labels: [N, W], -100: no word."""
    scored = labels >= 0
    return 100 * float((scores.argmax(2) == labels)[scored].double().mean())


@known(_of_words)
def span_f1(scores: Tensor, labels: Tensor) -> float:
    """F1 of spans (Tjong Kim Sang & De Meulder 2003): a span is right if its first word, last word and kind are.

    Scores: [N, W, classes], labels: [N, W] of :class:`fastssl.data.Tagged`: 0 outside; 2 k + 1 begins a span of kind k,
    2 k + 2 continues it, or begins one behind something else; -100: no word.
    """
    found = torch.where(labels >= 0, scores.argmax(2), 0)
    theirs, ours = (_spans(tags.clamp(min=0).tolist()) for tags in (labels, found))
    return 100 * 2 * len(theirs & ours) / max(len(theirs) + len(ours), 1)


def _spans(rows: list[list[int]]) -> set[tuple[int, int, int, int]]:
    """Row, first word, last word and kind of every span."""
    spans = set()
    for row, tags in enumerate(rows):
        first = None
        for k, tag in enumerate([*tags, 0]):
            kind = (tag - 1) // 2
            continues = first is not None and tag > 0 and tag % 2 == 0 and kind == (tags[first] - 1) // 2
            if first is not None and not continues:
                spans.add((row, first, k - 1, (tags[first] - 1) // 2))
                first = None
            if first is None and tag > 0:
                first = k
    return spans


CORRELATIONS = ("Pearson", "Spearman")  # of numbers, not of classes
METRICS: dict[str, Metric] = {
    "top-1": top_1,
    "top-5": top_5,
    "mean per class": mean_per_class,
    "11-point mAP": eleven_point_map,
    "F1": f1,
    "micro F1": micro_f1,
    "macro F1": macro_f1,
    "mean AP": mean_ap,
    "Matthews": matthews,
    "Pearson": pearson,
    "Spearman": spearman,
    "word accuracy": word_accuracy,
    "span F1": span_f1,
}


def metric_of(name: str) -> Metric:
    """The metric function of a name.

    Raises:
        ValueError: unknown name.
    """
    if name not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {name!r}")
    return METRICS[name]
