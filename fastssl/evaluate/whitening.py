"""Whitening of features by principal components, without labels."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.functional import _check as check
from fastssl.models.given import CHUNK, Values, feature_rows


def whitening(features: Values, components: int = 128, shrink: float = 0.0) -> Tensor:
    """The projection to the first principal components, each scaled to unit variance.

    .. math:: P = V \\, \\mathrm{diag}(\\lambda + \\epsilon \\bar\\lambda)^{-1/2}

    with eigenvalues lambda and eigenvectors V of the covariance. Cosines of raw features are decided by the few
    directions of largest variance; whitened, all directions count the same (Jegou and Chum, Negative Evidences and
    Co-occurrences in Image Retrieval: The Benefit of PCA and Whitening, 2012).

    Args:
        features: [N, C], from which the covariance is estimated.
        components: K, at most; fewer if the features span fewer directions.
        shrink: epsilon, in units of the mean of the K variances; > 0 for few features.

    Returns:
        P, float32 [C, K]; features are multiplied with it after their mean is subtracted.

    Raises:
        TypeError: features that are no real numbers, or ``components`` that is no integer.
        ValueError: fewer than two rows, values that are not finite, ``components`` < 1, or ``shrink`` < 0.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import whitening
        >>> x = torch.randn(500, 3) @ torch.tensor([[5.0, 0, 0], [4, 1, 0], [0, 0, 0.1]])
        >>> y = (x - x.mean(0)) @ whitening(x)
        >>> bool(torch.allclose(y.T @ y / 500, torch.eye(3), atol=1e-3))
        True
    """
    x = feature_rows(features)
    rows, columns = x.shape
    if rows < 2:
        raise ValueError(f"features: expected [N, C] with at least two rows, got {[rows, columns]}")
    components, shrink = check.count("components", components), check.number("shrink", shrink, low=0)
    mean = torch.stack([part.double().sum(0) for part in x.split(CHUNK)]).sum(0) / rows
    if columns <= rows:
        covariance = torch.zeros(columns, columns, dtype=torch.float64, device=x.device)
        for part in x.split(CHUNK):
            centred = part.double() - mean
            covariance.addmm_(centred.T, centred)
        variance, vectors = torch.linalg.eigh(covariance / rows)
    else:  # of the smaller matrix of products between rows, which has the same eigenvalues
        centred = x.double() - mean
        variance, between = torch.linalg.eigh(centred @ centred.T / rows)
        vectors = centred.T @ between / (rows * variance.clamp(min=1e-300)).sqrt()
    variance, vectors = variance.flip(0)[:components], vectors.flip(1)[:, :components]
    kept = variance > 1e-12 * variance[0].clamp(min=1e-300)
    variance, vectors = variance[kept], vectors[:, kept]
    return (vectors * (variance + shrink * variance.mean()).rsqrt()).float()
