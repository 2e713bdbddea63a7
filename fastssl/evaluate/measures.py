"""Measures of representations. Percentages are 0 to 100."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F


def knn_accuracy(
    features: Tensor, labels: Tensor, k: int = 5, queries: Tensor | None = None, query_labels: Tensor | None = None
) -> float:
    """Accuracy of the majority of the k nearest neighbours by cosine (ties: the nearer one), leave one out.

    Args:
        features: [N, C], unit length.
        labels: [N].
        k: neighbours.
        queries: [M, C]; None: each row against the others.
        query_labels: [M].
    """
    own = queries is None
    q = features if queries is None else queries
    truth = labels if query_labels is None else query_labels
    _, nearest = F.nearest(q, None if own else features, k, metric="dot", exclude_self=own)
    votes = torch.nn.functional.one_hot(labels[nearest], int(labels.max()) + 1).float()
    # A vote is worth slightly less the farther it comes from: decides ties only.
    weight = 1 - 1e-3 * torch.arange(k, dtype=torch.float32)
    predicted = (votes * weight[None, :, None]).sum(1).argmax(1)
    return 100 * float((predicted == truth).float().mean())


def recall_at_1(query: Tensor, gallery: Tensor) -> float:
    """How often row i of ``gallery`` is the nearest (cosine) to row i of ``query``. Both [N, C], unit length."""
    nearest = (query @ gallery.T).argmax(1)
    return 100 * float((nearest == torch.arange(len(query))).float().mean())


DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)


def linear_probe(
    features: Tensor, labels: Tensor, train: np.ndarray, test: np.ndarray, decay: float | None = None, steps: int = 100
) -> float:
    """Test accuracy of multinomial logistic regression on standardised features (L-BFGS from zero weights).

    Args:
        features: [N, C].
        labels: [N].
        train: indices of the training rows.
        test: indices of the test rows.
        decay: L2 penalty; None: the one of :data:`DECAYS` that does best on a fifth of the training rows.
        steps: iterations of L-BFGS.
    """
    if decay is None:
        order = np.random.default_rng(len(train)).permutation(train)
        cut = max(1, len(order) // 5)
        scores = [linear_probe(features, labels, order[cut:], order[:cut], d, steps) for d in DECAYS]
        decay = DECAYS[int(np.argmax(scores))]
    mean, scale = features[train].mean(0), features[train].std(0).clamp(min=1e-6)
    x = ((features - mean) / scale) / features.shape[1] ** 0.5
    classes = int(labels.max()) + 1
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")
    x_train, y_train = x[train], labels[train]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x_train @ weight.T + bias, y_train) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        predicted = (x[test] @ weight.T + bias).argmax(1)
    return 100 * float((predicted == labels[test]).float().mean())


def low_shot(features: Tensor, labels: Tensor, shots: int, draws: int = 20, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the nearest-neighbour accuracy with ``shots`` labels a class.

    Args:
        features: [N, C], unit length.
        labels: [N].
        shots: labelled rows of each class; the other rows are the test.
        draws: how often the labelled rows are drawn.
        seed: of the draws.
    """
    results = []
    numbers = labels.numpy()
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        support = np.concatenate([rng.permutation(np.flatnonzero(numbers == c))[:shots] for c in np.unique(numbers)])
        rest = np.setdiff1d(np.arange(len(numbers)), support)
        nearest = (features[rest] @ features[support].T).argmax(1)
        results.append(100 * float((labels[support][nearest] == labels[rest]).float().mean()))
    return float(np.mean(results)), float(np.std(results))


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance of positive pairs of unit vectors (Wang and Isola 2020); 0 is best."""
    return float((x - y).square().sum(1).mean())


def uniformity(x: Tensor, t: float = 2.0) -> float:
    """Log of the mean Gaussian potential of unit vectors (Wang and Isola 2020); lower is more uniform."""
    return float(torch.pdist(x).square().mul(-t).exp().mean().log())


def feature_spread(features: Tensor) -> float:
    """Standard deviation of unit vectors, over the batch, times the root of their length: about 1 where they fill the
    sphere, 0 where all are the same (Chen and He 2021, SimSiam).

    Args:
        features: [N, C].
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    return float(unit.std(0, correction=0).mean() * features.shape[1] ** 0.5)


def rank_me(features: Tensor, eps: float = 1e-7) -> float:
    """RankMe: how many dimensions the features fill, the exponential of the entropy of their singular values.

    Garrido et al., RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
    Rank, 2023.

    Args:
        features: [N, C], N rows of which are enough to fill C dimensions.
        eps: added to the shares.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp(min=1e-300) + eps
    return float(torch.exp(-(shares * shares.log()).sum()))


def retrieval_scores(features: Tensor, labels: Tensor) -> dict[str, float]:
    """Precision@1, R-precision and MAP@R of each row among the others (Musgrave et al. 2020), in percent.

    For a row with R others of its class: the share of its class among its R nearest, and the mean of the precision at
    each of them that is right. Rows alone in their class are left out.

    Args:
        features: [N, C], unit length (cosine).
        labels: [N].

    Raises:
        ValueError: no class has two rows.
    """
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
    """How well clusters are the classes: normalised mutual information, adjusted Rand index (both up to 100), and the
    accuracy of the best one-to-one matching of clusters with classes.

    Args:
        clusters: [N] integers.
        labels: [N] integers.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    size = int(max(clusters.max(), labels.max())) + 1
    table = np.zeros((size, size), dtype=np.int64)
    np.add.at(table, (clusters, labels), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {
        "nmi": 100 * float(normalized_mutual_info_score(labels, clusters)),
        "ari": 100 * float(adjusted_rand_score(labels, clusters)),
        "accuracy": 100 * float(table[rows, columns].sum() / len(labels)),
    }
