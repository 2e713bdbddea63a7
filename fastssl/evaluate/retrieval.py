"""Retrieval by cosine: of partners, and of classes as in papers on metric learning. Percentages are 0 to 100."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.evaluate.given import class_ids, leave_one_out, unit_rows, unit_sides
from fastssl.functional import _check as check
from fastssl.models.given import Values

STRIP = 2**22  # neighbours of the queries that are ranked at once
Counts = int | Sequence[int] | np.ndarray | Tensor  # one K, or several


@overload
def recall_at(query: Values, gallery: Values, k: int = 1) -> float: ...
@overload
def recall_at(query: Values, gallery: Values, k: Sequence[int] | np.ndarray | Tensor) -> list[float]: ...
def recall_at(query: Values, gallery: Values, k: Counts = 1) -> float | list[float]:
    r"""Recall@K of pairs in percent: row i of ``gallery`` is among the k nearest rows (cosine) of row i of ``query``.

    .. math:: \frac{100}{N} \sum_i [i \in \mathrm{kNN}(q_i)]

    Rows with equal cosines rank by their index. Recall@K by class, as in papers on metric learning:
    :func:`retrieval_scores`.

    Args:
        query: [N, C], unit length.
        gallery: [N, C], unit length.
        k: at most N, or several.

    Returns:
        The recall, or one for each k.

    Raises:
        TypeError: ``k`` that is no integer.
        ValueError: features that are not finite or not of unit length, other shapes, or ``k`` out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import recall_at
        >>> recall_at(torch.eye(4), torch.eye(4), k=1)
        100.0
        >>> recall_at(torch.eye(4)[[1, 0, 2, 3]], torch.eye(4), k=(1, 4))
        [50.0, 100.0]
    """
    x, y = unit_sides(query, gallery, ("query", "gallery"), paired=True)
    several = _counts(k, len(y))
    _, nearest = F.nearest(x, y, max(several, default=1), metric="dot")
    found = nearest == torch.arange(len(x), device=x.device)[:, None]
    recalls = [100 * float(found[:, :each].any(1).double().mean()) for each in several]
    return recalls if isinstance(_plain(k), Sequence) else recalls[0]


def retrieval_scores(
    features: Values,
    labels: Values,
    queries: Values | None = None,
    query_labels: Values | None = None,
    *,
    k: Counts = (),
) -> dict[str, float]:
    r"""Precision@1, R-precision, MAP@R (Musgrave et al. 2020) and Recall@K (Oh Song et al. 2016) of classes, percent.

    For a query with R rows of its class in the gallery, itself not counted, and :math:`r_j = 1` where its neighbour of
    rank j has its class:

    .. math::
        P@j &= \frac{1}{j} \sum_{i \le j} r_i \qquad
        \text{R-precision} = P@R \\
        \text{MAP@R} &= \frac{1}{R} \sum_{j \le R} r_j \, P@j \qquad
        \text{Recall@K} = \max_{j \le K} r_j

    Scores are means over the queries with R > 0: a row that is alone in its class, or a query whose class is not in the
    gallery, is left out. Rows with equal cosines rank by their index in ``features``. Queries are ranked in strips,
    without the matrix of cosines: a query takes memory of O(max(K, R)).

    Args:
        features: the gallery [N, C], unit length (cosine).
        labels: [N] integers.
        queries: [M, C], unit length; None: leave one out over ``features``.
        query_labels: [M] integers.
        k: K of Recall@K, or several, each at most the size of the gallery (N - 1, where one is left out).

    Returns:
        "precision_at_1", "r_precision" and "map_at_r", and "recall_at_K" for each K.

    Raises:
        TypeError: labels or ``k`` that are no integers.
        ValueError: no query has a row of its class in the gallery, features that are not finite or not of unit length,
            negative labels, queries without labels (or labels without queries), or ``k`` out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import retrieval_scores
        >>> x = torch.nn.functional.normalize(torch.eye(4)[[0, 0, 1, 1]] + 0.1, dim=1)
        >>> retrieval_scores(x, torch.tensor([0, 0, 1, 1]))["precision_at_1"]
        100.0
        >>> retrieval_scores(x, torch.tensor([0, 0, 1, 1]), x[:1], torch.tensor([1]), k=(2, 4))["recall_at_4"]
        100.0
    """
    if (queries is None) != (query_labels is None):
        raise ValueError("queries, query_labels: expected both or neither")
    own = queries is None
    x, q = (unit_rows(features),) * 2 if own else unit_sides(features, queries, ("features", "queries"))
    ids = class_ids(labels, x)
    wanted = ids if own else class_ids(query_labels, q, "query_labels", "queries")
    if own:
        leave_one_out(x)
    several = _counts(k, len(x) - own)
    # Numbers may be as large as hashes.
    numbers = torch.cat([ids, wanted]).unique(return_inverse=True)[1]
    ids, wanted = numbers[: len(x)], numbers[len(x) :]
    counts = torch.bincount(ids, minlength=int(numbers.max()) + 1)[wanted] - int(own)
    counted = (counts > 0).nonzero()[:, 0]
    if not len(counted):
        if own:
            raise ValueError("labels: expected a class of at least two rows")
        raise ValueError("query_labels: expected a class that is among labels, got none")
    q, wanted, counts = q[counted], wanted[counted], counts[counted]
    asked = max(several, default=1)
    most = max(int(counts.max()), asked)
    place = torch.arange(1, most + 1, device=x.device)
    sums: dict[str, float] = {}
    for rows, nearest in _neighbours(x, q, counted if own else None, most):
        right = ids[nearest] == wanted[rows, None]
        first = torch.where(right[:, :asked], place[:asked], most + 1).amin(1)  # rank of the first one that is right
        r = counts[rows]
        right &= place <= r[:, None]
        precision = right.cumsum(1, dtype=torch.float64) / place
        values = {
            "precision_at_1": first == 1,
            "r_precision": right.sum(1) / r.double(),
            "map_at_r": (precision * right).sum(1) / r,
            **{f"recall_at_{each}": first <= each for each in several},
        }
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + float(value.double().sum())
    return {name: 100 * total / len(q) for name, total in sums.items()}


def _neighbours(x: Tensor, q: Tensor, itself: Tensor | None, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Strips of queries, and the k rows of x that are nearest to each, without row ``itself[i]`` for query i."""
    for rows in torch.arange(len(q), device=q.device).split(max(1, STRIP // k)):
        if itself is None:
            yield rows, F.nearest(q[rows], x, k, metric="dot")[1]
            continue
        _, nearest = F.nearest(q[rows], x, k + 1, metric="dot")
        other = nearest != itself[rows, None]
        other[:, k] &= ~other.all(1)  # where many are equal to the row, it is not among the first k + 1
        yield rows, nearest[other].view(len(rows), k)


def _counts(k: Counts, most: int) -> list[int]:
    """K of Recall@K, one or several.

    Raises:
        TypeError: no integers.
        ValueError: one out of range.
    """
    given = _plain(k)
    return [check.count("k", each, high=most) for each in (given if isinstance(given, Sequence) else [given])]


def _plain(k: Counts) -> int | Sequence[int]:
    given: int | Sequence[int] = k.tolist() if isinstance(k, (np.ndarray, Tensor)) else k
    return given


__all__ = ["recall_at", "retrieval_scores"]
