"""Metrics of representations. Percentages are 0 to 100."""

from __future__ import annotations

import numpy as np
import torch

import fastssl.functional as F
from fastssl.evaluate.given import class_ids, leave_one_out, unit_length, unit_rows, unit_sides
from fastssl.evaluate.metrics import among_top
from fastssl.functional import _check as check
from fastssl.models.given import Values, feature_rows, float_rows

VOTES = 4096  # queries per chunk


def knn_accuracy(
    features: Values,
    labels: Values,
    k: int = 5,
    queries: Values | None = None,
    query_labels: Values | None = None,
    *,
    temperature: float | None = None,
    top: int = 1,
) -> float:
    """Accuracy of a k-NN classifier with cosine similarity.

    .. math:: \\hat y_i = \\arg\\max_c \\sum_{j \\in \\mathrm{kNN}(i)} w_{ij} [y_j = c]

    Neighbours with equal cosines rank by their index in ``features``. Among classes with as many votes, the one whose
    neighbours have the smaller ranks in sum is predicted; with ``temperature`` ranks do not count. Among classes that
    are equal in this too, it is the one with the smallest label.

    Args:
        features: [N, C], unit length.
        labels: [N].
        k: number of neighbours.
        queries: [M, C]; None: leave one out over ``features``.
        query_labels: [M].
        temperature: votes have weight exp(cosine / temperature), as in Wu et al. 2018 (0.07); None: equal weights.
        top: number of predicted classes, 5 for top-5 accuracy. Classes without a vote are not predicted.

    Raises:
        TypeError: labels that are no integers, or a number of another kind.
        ValueError: features that are not finite or not of unit length, negative labels, queries without labels (or
            labels without queries), or a number out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import knn_accuracy
        >>> x = torch.nn.functional.normalize(torch.eye(4)[[0, 0, 1, 1]] + 0.1, dim=1)
        >>> knn_accuracy(x, torch.tensor([0, 0, 1, 1]), k=1)
        100.0
    """
    if (queries is None) != (query_labels is None):
        raise ValueError("queries, query_labels: expected both or neither")
    k, top = check.count("k", k), check.count("top", top)
    if temperature is not None:
        temperature = check.number("temperature", temperature, positive=True)
    own = queries is None
    x, q = (unit_rows(features),) * 2 if own else unit_sides(features, queries, ("features", "queries"))
    ids = class_ids(labels, x)
    truth = ids if own else class_ids(query_labels, q, "query_labels", "queries")
    if own:
        leave_one_out(x)
    cosine, nearest = F.nearest(q, None if own else x, k, metric="dot", exclude_self=own)
    # Weights decrease with the rank of the neighbour, so slightly that it only breaks ties; integers add up exactly.
    weight = (k * k - torch.arange(k, dtype=torch.float64, device=x.device)).expand_as(nearest)
    if temperature is not None:
        weight = torch.exp((cosine - cosine[:, :1]).double() / temperature)
    # Classes that occur: labels may be large.
    names, numbers = ids.unique(return_inverse=True)
    place = torch.searchsorted(names, truth).clamp(max=len(names) - 1)
    known, right = names[place] == truth, 0
    for rows in torch.arange(len(q), device=x.device).split(VOTES):  # bounds the [rows, classes] matrix of votes
        votes = torch.zeros(len(rows), len(names), dtype=weight.dtype, device=x.device)
        votes.scatter_add_(1, numbers[nearest[rows]], weight[rows].contiguous())
        chosen = votes.gather(1, place[rows, None])[:, 0] > 0
        right += int((among_top(votes, place[rows], top) & chosen & known[rows]).sum())
    return 100 * right / len(q)


def alignment(x: Values, y: Values) -> float:
    """Mean squared distance of positive pairs of unit vectors (Wang and Isola 2020); 0 is best.

    Args:
        x: [N, D], unit length.
        y: [N, D], unit length; row i is the positive for row i of ``x``.

    Raises:
        ValueError: features that are not finite or not of unit length, or other shapes.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import alignment
        >>> x = torch.eye(4)
        >>> alignment(x, x)
        0.0
    """
    x, y = unit_sides(x, y, ("x", "y"), paired=True)
    return float((x - y).square().sum(1).mean())


def uniformity(x: Values, t: float = 2.0) -> float:
    """Log of the mean Gaussian potential of unit vectors (Wang and Isola 2020); lower is more uniform.

    Args:
        x: [N, D], of unit length (others are normalised).
        t: > 0.

    Raises:
        TypeError: features that are no real numbers.
        ValueError: features of another shape or that are not finite, or ``t`` out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import uniformity
        >>> uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        -8.0
    """
    return float(F.uniformity(feature_rows(x, "x"), t=t))


def feature_spread(features: Values) -> float:
    """Standard deviation over the batch of unit vectors, times sqrt(C): about 1 for vectors that are uniform on the
    sphere, 0 after complete collapse (Chen and He 2021, SimSiam).

    Args:
        features: [N, C]; of values that are not finite, the spread is NaN.

    Raises:
        TypeError: features that are no real numbers.
        ValueError: another shape.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import feature_spread
        >>> feature_spread(torch.ones(8, 4))
        0.0
    """
    unit = unit_length(float_rows(features).float())
    return float(unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5)


def rank_me(features: Values, eps: float = 1e-7) -> float:
    """RankMe: effective rank of the features, the exponential of the entropy of their singular values.

    .. math:: \\exp\\Big(-\\sum_k p_k \\log p_k\\Big), \\qquad p_k = \\sigma_k / \\sum_j \\sigma_j + \\epsilon

    Garrido et al., RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
    Rank, 2023.

    Args:
        features: [N, C], with N considerably larger than C.
        eps: added to the normalised singular values, >= 0.

    Raises:
        TypeError: features that are no real numbers.
        ValueError: features of another shape or that are not finite, or ``eps`` out of range.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import rank_me
        >>> round(rank_me(torch.eye(4)), 3)
        4.0
    """
    values = torch.linalg.svdvals(feature_rows(features).double())
    shares = values / values.sum().clamp(min=1e-300) + check.number("eps", eps, low=0)
    return float(torch.exp(torch.special.entr(shares).sum()))


def clustering_scores(clusters: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Agreement of clusters and classes: normalised mutual information, adjusted Rand index (both up to 100), and the
    accuracy of the best one-to-one matching (Hungarian algorithm).

    Args:
        clusters: [N], any values that can be sorted (a cluster of noise, -1, is one like the others).
        labels: [N].

    Raises:
        TypeError: values that cannot be sorted, such as None beside numbers.
        ValueError: different lengths, or none, or NaN.

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import clustering_scores
        >>> clustering_scores(np.array([1, 1, 0]), np.array([0, 0, 1]))['accuracy']
        100.0
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    clusters, labels = np.asarray(clusters), np.asarray(labels)
    for name, side in (("clusters", clusters), ("labels", labels)):
        if side.ndim != 1 or not len(side):
            raise ValueError(f"{name}: expected [N] with at least one row, got shape {side.shape}")
        if side.dtype.kind == "f" and bool(np.isnan(side).any()):
            raise ValueError(f"{name}: expected no NaN, row {int(np.isnan(side).argmax())} has it")
    if len(clusters) != len(labels):
        raise ValueError(f"clusters: expected as many as labels, got {len(clusters)} and {len(labels)}")
    try:
        (found, of), (classes, wanted) = (np.unique(side, return_inverse=True) for side in (clusters, labels))
    except TypeError as error:
        raise TypeError(f"clusters, labels: expected values that can be sorted: {error}") from None
    table = np.zeros((len(found), len(classes)), dtype=np.int64)
    np.add.at(table, (of, wanted), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {
        "nmi": 100 * float(normalized_mutual_info_score(wanted, of)),
        "ari": 100 * float(adjusted_rand_score(wanted, of)),
        "accuracy": 100 * float(table[rows, columns].sum() / len(labels)),
    }
