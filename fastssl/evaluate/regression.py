"""Numbers to predict from frozen features: ridge regression and nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl._words import amount
from fastssl.data import Source, Splits
from fastssl.evaluate.given import row_indices, unit_sides
from fastssl.evaluate.linear import standardise
from fastssl.evaluate.metrics import spearman
from fastssl.functional import _check as check
from fastssl.models.given import Values, as_tensor, feature_rows

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # per training row; the features of a row have a mean square sum of 1


def ridge_probe(features: Values, scores: Values, train: np.ndarray, test: np.ndarray) -> Tensor:
    """Numbers that ridge regression predicts from standardised features, float64 [test rows].

    The L2 penalty, of :data:`PENALTIES` times the number of training rows, is that of the largest R^2 on a validation
    fifth of these; then all are fitted.

    Args:
        features: [N, C].
        scores: [N], the number of each row.
        train: indices of the training rows, or a mask of N booleans.
        test: indices of the test rows, or a mask.

    Raises:
        ValueError: fewer than five training rows or no test rows, features or scores that are not finite, or another
            number of scores.

    Example:
        >>> import numpy as np, torch
        >>> from fastssl.evaluate import ridge_probe
        >>> x = torch.linspace(-1, 1, 60)[:, None]
        >>> found = ridge_probe(x, 3 * x[:, 0] + 40, np.arange(0, 60, 2), np.arange(1, 60, 2))
        >>> bool((found - (3 * x[1::2, 0] + 40)).abs().max() < 0.01)
        True
    """
    from sklearn.linear_model import RidgeCV

    x = feature_rows(features).cpu()  # where scikit-learn computes
    y = check_scores("scores", scores, len(x))
    train, test = row_indices(train, len(x), "train"), row_indices(test, len(x), "test")
    for name, rows, least in (("train", train, 5), ("test", test, 1)):
        if len(rows) < least:
            raise ValueError(f"{name}: expected at least {amount(least, 'row')}, got {len(rows)}")
    order = np.random.default_rng(len(train)).permutation(len(train))
    cut = max(2, len(train) // 5)  # R^2 of a single row is undefined
    x = standardise(x, train)
    fit = RidgeCV([len(train) * one for one in PENALTIES], scoring="r2", cv=[(order[cut:], order[:cut])])
    mean, scale = y[train].mean(), y[train].std(correction=0).clamp(min=torch.finfo(y.dtype).tiny)
    fit.fit(x[train].double().numpy(), ((y[train] - mean) / scale).numpy())
    return torch.from_numpy(fit.predict(x[test].double().numpy())) * scale + mean


def knn_regression(
    features: Values, scores: Values, queries: Values, k: int = 20, *, temperature: float | None = None
) -> Tensor:
    """Numbers of queries, float64 [M]: the mean over their nearest neighbours by cosine.

    Args:
        features: [N, C], unit length.
        scores: [N], the number of each row.
        queries: [M, C], unit length.
        k: number of neighbours.
        temperature: neighbours have weight exp(cosine / temperature), as those of
            :func:`fastssl.evaluate.knn_accuracy`; None: equal weights.

    Raises:
        ValueError: features that are not finite or not of unit length, scores that are not finite, another number of
            them, or a number out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import knn_regression
        >>> x = torch.eye(2)[[0, 0, 1, 1]]
        >>> knn_regression(x, torch.tensor([1.0, 3.0, 7.0, 7.0]), torch.eye(2), k=2).tolist()
        [2.0, 7.0]
    """
    x, q = unit_sides(features, queries, ("features", "queries"))
    y, k = check_scores("scores", scores, len(x)).to(x.device), check.count("k", k)
    cosine, nearest = F.nearest(q, x, k, metric="dot")
    weight = torch.ones_like(cosine, dtype=torch.float64)
    if temperature is not None:
        temperature = check.number("temperature", temperature, positive=True)
        weight = torch.exp((cosine - cosine[:, :1]).double() / temperature)
    return (weight * y[nearest]).sum(1) / weight.sum(1)


def check_scores(name: str, given: Values, count: int | None = None) -> Tensor:
    """Numbers to predict, or predicted, as float64 [N] on the CPU.

    Args:
        count: N, the rows of features; None: any number of them.

    Raises:
        ValueError: another number of them, or one that is not finite.
    """
    numbers = as_tensor(name, given)
    if numbers.dim() != 1 or (count is not None and len(numbers) != count):
        many = "numbers [N]" if count is None else f"{count} numbers, one per row of features"
        raise ValueError(f"{name}: expected {many}, got shape {tuple(numbers.shape)}")
    numbers = numbers.to("cpu", torch.float64)
    if not bool(numbers.isfinite().all()):
        wrong = int((~numbers.isfinite()).nonzero()[0])
        raise ValueError(f"{name}: expected finite numbers, got {numbers[wrong]:g} in row {wrong}: leave it out")
    return numbers


def regression_scores(predicted: Values, scores: Values) -> dict[str, float]:
    """How well numbers are predicted: R^2 (the explained share of their variance) and Spearman's correlation, both up
    to 100, and the mean absolute error.

    Args:
        predicted: [N].
        scores: [N].

    Raises:
        ValueError: fewer than two numbers, of one more than of the other, or one that is not finite.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import regression_scores
        >>> regression_scores(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0]))["mae"]
        0.3333333333333333
    """
    from sklearn.metrics import mean_absolute_error, r2_score

    found, wanted = check_scores("predicted", predicted), check_scores("scores", scores)
    if len(wanted) < 2 or len(found) != len(wanted):
        raise ValueError(
            f"predicted, scores: expected two or more numbers each, as many of both, got {len(found)} and {len(wanted)}"
        )
    pair = wanted.numpy(), found.numpy()
    return {
        "r2": 100 * float(r2_score(*pair)),
        "spearman": spearman(found, wanted),
        "mae": float(mean_absolute_error(*pair)),
    }


def known_scores(task: Splits, note: Callable[[str], None]) -> Splits:
    """A task without the images that have no number, which are counted.

    Raises:
        ValueError: numbers of the training or the test images that are all the same, or none.
    """
    parts: dict[str, Source] = {}
    for called, part in (("training", task.train), ("test", task.test)):
        labels = np.zeros(0) if part.labels is None else part.labels
        known = np.flatnonzero(~np.isnan(labels))
        if len(np.unique(labels[known])) < 2:
            got = f"{labels[known[0]]:g} for all {len(known):,}" if len(known) else f"none for all {len(part):,}"
            raise ValueError(f"data: expected {called} images with scores that differ, got {got} of {task.name}")
        if len(known) < len(part):
            left = f"{len(part) - len(known):,} of {len(part):,} {called} images"
            note(f"{task.name}: {left} have no score and are left out")
            part = part.subset(known, part.name)
        parts[called] = part
    return Splits(task.name, parts["training"], parts["test"], task.metric, task.others)
