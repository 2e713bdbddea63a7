"""k-means clustering of features, on F.nearest, and PCA whitening."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.functional import _check as check
from fastssl.models.given import CHUNK, Values, as_tensor, feature_rows


def kmeans(
    features: Values, clusters: int, *, iterations: int = 50, seed: int = 0, tolerance: float = 1e-4
) -> tuple[Tensor, Tensor, float]:
    """Lloyd's algorithm with greedy k-means++ initialisation, on squared Euclidean distances.

    An empty cluster is reinitialised as one row of the largest one, which it splits (as in DeepCluster).

    Args:
        features: [N, C], float32 or float64, or integers or floats of 16 bits (computed in float32).
        clusters: number of clusters K, at most N.
        iterations: maximum number of times that centroids move, >= 0.
        seed: seed of the initialisation, >= 0.
        tolerance: stops when the cost decreases by less than this fraction, >= 0.

    Returns:
        Centroids [K, C], the cluster of each row [N], which is that of the nearest centroid, and the mean squared
        distance to it.

    Raises:
        TypeError: features that are no numbers, or a number of another kind.
        ValueError: more clusters than rows, or none; another number out of range; features of another shape or that are
            not finite.

    Example:
        >>> import torch
        >>> from fastssl.models import kmeans
        >>> centres, cluster, cost = kmeans(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2)
        >>> bool(cluster[0] == cluster[1]) and bool(cluster[2] == cluster[3]) and bool(cluster[0] != cluster[2])
        True

    Source: Lloyd 1982; Arthur and Vassilvitskii, k-means++, 2007 (its greedy version); Caron et al., DeepCluster,
        2018 (repair).
    """
    x = as_tensor("features", features)
    x = feature_rows(x if x.is_floating_point() or x.is_complex() else x.float()).contiguous()
    clusters = check.count("clusters", clusters, high=len(x))
    iterations, seed = check.count("iterations", iterations, low=0), check.count("seed", seed, low=0)
    tolerance = check.number("tolerance", tolerance, low=0)
    scale = _scale(x)
    x = x / scale if scale != 1 else x
    rng = np.random.default_rng(seed)
    centres = _plus_plus(x, clusters, rng)
    cost = float("inf")
    for move in range(iterations + 1):
        distance, index = F.nearest(x, centres, 1, metric="sqeuclidean")
        cluster = index[:, 0]
        counts = torch.bincount(cluster, minlength=clusters)
        for empty in torch.nonzero(counts == 0)[:, 0].tolist():
            largest = int(counts.argmax())
            rows = torch.nonzero(cluster == largest)[:, 0]
            row = rows[int(rng.integers(len(rows)))]
            cluster[row], centres[empty], distance[row] = empty, x[row], 0
            counts[largest] -= 1
            counts[empty] += 1
        before, cost = cost, float(distance.mean())
        if move == iterations or before - cost <= tolerance * cost:
            break
        sums = torch.zeros_like(centres).index_add_(0, cluster, x)
        centres = sums / counts[:, None].clamp(min=1)
    return centres * scale, cluster, cost * scale * scale


def _scale(x: Tensor) -> float:
    """A power of two, which rounds nothing, to divide rows by whose squares vanish or overflow; else 1."""
    largest = max(float(rows.abs().max()) for rows in x.split(CHUNK))
    return 1.0 if largest == 0 or 1e-8 < largest < 1e8 else 2.0 ** math.floor(math.log2(largest))


def _plus_plus(x: Tensor, clusters: int, rng: np.random.Generator) -> Tensor:
    """Greedy k-means++: draws 2 + log K candidates with probability proportional to the squared distance to the
    previous centroids and takes the one that lowers the cost most, as scikit-learn does. With a single candidate the
    final cost is up to twice as high where there are many separate clusters."""
    candidates = 2 + int(math.log(clusters))
    around = x - x.mean(0)  # the expanded square keeps its digits, and they only choose between candidates
    lengths = around.square().sum(1)
    chosen = [int(rng.integers(len(x)))]
    least = (x - x[chosen[0]]).square().sum(1).double()
    for _ in range(clusters - 1):
        share = (least / least.sum()).cpu().numpy() if float(least.sum()) > 0 else np.full(len(x), 1 / len(x))
        drawn = rng.choice(len(x), size=candidates, p=share / share.sum())
        squares = torch.addmm(lengths + lengths[drawn][:, None], around[drawn], around.T, alpha=-2)
        costs = torch.minimum(squares.clamp(min=0), least).sum(1)
        chosen.append(int(drawn[int(costs.argmin())]))
        least = torch.minimum(least, (x - x[chosen[-1]]).square().sum(1).double())
    return x[chosen].clone()


def pca_whiten(features: Values, dim: int) -> Tensor:
    """PCA-whitens features to ``dim`` dimensions and normalises them to unit length (Jegou and Chum 2012).

    Args:
        features: [N, C].
        dim: number of principal components, at most the rank of the features.

    Raises:
        TypeError: features that are no real numbers, or ``dim`` that is no integer.
        ValueError: features of another shape or that are not finite, or ``dim`` < 1.

    Example:
        >>> import torch
        >>> from fastssl.models import pca_whiten
        >>> pca_whiten(torch.randn(32, 8), 4).shape
        torch.Size([32, 4])
    """
    given, dim = as_tensor("features", features), check.count("dim", dim)
    rows = feature_rows(given)
    dtype = given.dtype if given.is_floating_point() else rows.dtype
    x = rows.double()
    x = x - x.mean(0)
    _, values, axes = torch.linalg.svd(x, full_matrices=False)
    kept = min(dim, int((values > values[:1] * 1e-6).sum()) if len(values) else 0)
    white = x @ axes[:kept].T / values[:kept] * max(len(x) - 1, 1) ** 0.5
    return torch.nn.functional.normalize(white, dim=1).to(dtype)
