"""Metrics of representations. Percentages are 0 to 100."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.evaluate.given import class_ids, feature_rows, unit_rows

VOTES = 4096  # queries per chunk


def knn_accuracy(
    features: Tensor,
    labels: Tensor,
    k: int = 5,
    queries: Tensor | None = None,
    query_labels: Tensor | None = None,
    *,
    temperature: float | None = None,
    top: int = 1,
) -> float:
    """Accuracy of a k-NN classifier with cosine similarity (ties: the nearer neighbour).

    Args:
        features: [N, C], unit length.
        labels: [N].
        k: number of neighbours.
        queries: [M, C]; None: leave one out over ``features``.
        query_labels: [M].
        temperature: votes have weight exp(cosine / temperature), as in Wu et al. 2018 (0.07); None: equal weights.
        top: number of predicted classes, 5 for top-5 accuracy. Classes without a vote are not predicted.

    Raises:
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
    if top < 1:
        raise ValueError(f"top: expected at least 1, got {top}")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    own, features = queries is None, unit_rows(features)
    labels = class_ids(labels, features)
    q = features if queries is None else unit_rows(queries, "queries")
    truth = labels if query_labels is None else class_ids(query_labels, q, "query_labels")
    cosine, nearest = F.nearest(q, None if own else features, k, metric="dot", exclude_self=own)
    # Weights decrease with the rank of the neighbour, so slightly that it only breaks ties: by 1/2 over all of them.
    weight = (1 - torch.arange(k, dtype=torch.float64) / k**2).expand_as(nearest)
    if temperature is not None:
        weight = torch.exp((cosine - cosine[:, :1]).double() / temperature)
    # Classes that occur: labels may be large.
    names, numbers = labels.unique(return_inverse=True)
    right, classes = 0, len(names)
    for rows in torch.arange(len(q)).split(VOTES):  # bounds the [rows, classes] matrix of votes
        votes = torch.zeros(len(rows), classes, dtype=weight.dtype)
        votes.scatter_add_(1, numbers[nearest[rows]], weight[rows].contiguous())
        best = votes.topk(min(top, classes), 1)
        right += int(((names[best.indices] == truth[rows, None]) & (best.values > 0)).any(1).sum())
    return 100 * right / len(q)


def recall_at(query: Tensor, gallery: Tensor, k: int = 1) -> float:
    """Recall@K in percent: row i of ``gallery`` is among the k nearest rows (cosine) of row i of ``query``.

    Args:
        query: [N, C], unit length.
        gallery: [N, C], unit length.
        k: at most N.

    Raises:
        ValueError: features that are not finite or not of unit length, or other shapes.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import recall_at
        >>> recall_at(torch.eye(4), torch.eye(4), k=1)
        100.0
    """
    query, gallery = _pairs(query, gallery, "query", "gallery")
    _, nearest = F.nearest(query, gallery, k, metric="dot")
    return 100 * float((nearest == torch.arange(len(query))[:, None]).any(1).float().mean())


def alignment(x: Tensor, y: Tensor) -> float:
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
    x, y = _pairs(x, y, "x", "y")
    return float((x - y).square().sum(1).mean())


def _pairs(x: Tensor, y: Tensor, *names: str) -> tuple[Tensor, Tensor]:
    x, y = unit_rows(x, names[0]), unit_rows(y, names[1])
    if x.shape != y.shape:
        raise ValueError(f"{names[1]}: expected shape {tuple(x.shape)}, that of {names[0]}, got {tuple(y.shape)}")
    return x, y


def uniformity(x: Tensor, t: float = 2.0) -> float:
    """Log of the mean Gaussian potential of unit vectors (Wang and Isola 2020); lower is more uniform.

    Args:
        x: [N, D], of unit length (others are normalised).
        t: > 0.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import uniformity
        >>> uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        -8.0
    """
    return float(F.uniformity(feature_rows(x, "x"), t=t))


def feature_spread(features: Tensor) -> float:
    """Standard deviation over the batch of unit vectors, times sqrt(C): about 1 for vectors that are uniform on the
    sphere, 0 after complete collapse (Chen and He 2021, SimSiam).

    Args:
        features: [N, C].

    Example:
        >>> import torch
        >>> from fastssl.evaluate import feature_spread
        >>> feature_spread(torch.ones(8, 4))
        0.0
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    return float(unit.std(0, correction=0).mean() * features.shape[1] ** 0.5)


def rank_me(features: Tensor, eps: float = 1e-7) -> float:
    """RankMe: effective rank of the features, the exponential of the entropy of their singular values.

    Garrido et al., RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
    Rank, 2023.

    Args:
        features: [N, C], with N considerably larger than C.
        eps: added to the normalised singular values.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import rank_me
        >>> round(rank_me(torch.eye(4)), 3)
        4.0
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp(min=1e-300) + eps
    return float(torch.exp(-(shares * shares.log()).sum()))


def retrieval_scores(features: Tensor, labels: Tensor) -> dict[str, float]:
    """Precision@1, R-precision and MAP@R, leave one out (Musgrave et al. 2020), in percent.

    For a row with R other rows of its class: R-precision is the fraction of its class among its R nearest neighbours,
    MAP@R averages the precision at the correct ones. Rows that are alone in their class are left out.

    Args:
        features: [N, C], unit length (cosine).
        labels: [N].

    Raises:
        ValueError: no class has two rows, features that are not finite or not of unit length, or negative labels.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import retrieval_scores
        >>> x = torch.nn.functional.normalize(torch.eye(4)[[0, 0, 1, 1]] + 0.1, dim=1)
        >>> retrieval_scores(x, torch.tensor([0, 0, 1, 1]))["precision_at_1"]
        100.0
    """
    features = unit_rows(features)
    labels = class_ids(labels, features).unique(return_inverse=True)[1]  # numbers may be as large as hashes
    counts = torch.bincount(labels)[labels] - 1
    most = int(counts.max())
    if most < 1:
        raise ValueError("labels: expected a class of at least two rows")
    _, nearest = F.nearest(features, None, most, metric="dot", exclude_self=True)
    place = torch.arange(1, most + 1)
    right = (labels[nearest] == labels[:, None]) & (place[None] <= counts[:, None])
    precision = right.cumsum(1) / place
    counted = counts > 0
    r = counts[counted]
    return {
        "precision_at_1": 100 * float((labels[nearest[:, 0]] == labels)[counted].float().mean()),
        "r_precision": 100 * float((right[counted].sum(1) / r).mean()),
        "map_at_r": 100 * float(((precision * right)[counted].sum(1) / r).mean()),
    }


def clustering_scores(clusters: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Agreement of clusters and classes: normalised mutual information, adjusted Rand index (both up to 100), and the
    accuracy of the best one-to-one matching (Hungarian algorithm).

    Args:
        clusters: [N], any values that can be sorted (a cluster of noise, -1, is one like the others).
        labels: [N].

    Raises:
        ValueError: different lengths, or none.

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import clustering_scores
        >>> clustering_scores(np.array([1, 1, 0]), np.array([0, 0, 1]))['accuracy']
        100.0
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    clusters, labels = np.asarray(clusters), np.asarray(labels)
    if clusters.shape != labels.shape or clusters.ndim != 1 or not len(labels):
        raise ValueError(f"clusters: expected as many as labels, got shapes {clusters.shape} and {labels.shape}")
    (found, of), (classes, wanted) = (np.unique(side, return_inverse=True) for side in (clusters, labels))
    table = np.zeros((len(found), len(classes)), dtype=np.int64)
    np.add.at(table, (of, wanted), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {
        "nmi": 100 * float(normalized_mutual_info_score(labels, clusters)),
        "ari": 100 * float(adjusted_rand_score(labels, clusters)),
        "accuracy": 100 * float(table[rows, columns].sum() / len(labels)),
    }
