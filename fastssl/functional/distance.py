"""Distances between rows: the matrix where one is wanted, and the nearest and farthest rows without it."""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl._table import Metric
from fastssl.distributed.shards import copies_inference
from fastssl.functional import _check as check
from fastssl.ops import Backend, dispatch, rows
from fastssl.ops.reference import rows as reference
from fastssl.ops.types import least_length

PAIRWISE = Backend(reference.pairwise, rows.pairwise, "pairwise")
NEAREST = Backend(reference.nearest, rows.nearest, "nearest")

METRICS = ("euclidean", "sqeuclidean", "cosine", "dot", "manhattan", "chebyshev")


def kernel_metric(metric: str) -> Metric:
    """A cosine is the product of normalised rows."""
    check.choice("metric", metric, METRICS)
    return Metric.dot if metric == "cosine" else Metric[metric]


def _two(x: Tensor, y: Tensor | None) -> Tensor | None:
    if y is None or y is x:
        check.matrix("x", x)
        return None
    check.matrices(x=x, y=y)
    return y


@copies_inference
def pairwise_distance(
    x: Tensor,
    y: Tensor | None = None,
    *,
    metric: str = "euclidean",
    normalize: bool = False,
    backend: str | None = None,
) -> Tensor:
    r"""The matrix of distances between all rows of x and all rows of y.

    .. math:: D_{ij} = d(x_i, y_j)

    =========== ===============================================
    metric      entry
    =========== ===============================================
    euclidean   :math:`|x_i - y_j|_2`
    sqeuclidean :math:`|x_i - y_j|_2^2`
    manhattan   :math:`|x_i - y_j|_1`
    chebyshev   :math:`|x_i - y_j|_\infty`
    cosine      :math:`1 - x_i \cdot y_j / (|x_i| |y_j|)`
    dot         :math:`x_i \cdot y_j`, which is no distance
    =========== ===============================================

    Near pairs are computed from their difference, so small distances keep their digits (but cosine's, which are 1 minus
    a product); the gradient at distance 0 is 0.

    Args:
        metric: see above.

    Returns:
        [N, M]; float64 for float64 inputs, else float32.

    Example:
        >>> import torch, fastssl.functional as F
        >>> F.pairwise_distance(torch.randn(8, 16), torch.randn(5, 16), metric="manhattan").shape
        torch.Size([8, 5])

    Source: as ``torch.cdist``.
    """
    y = _two(x, y)
    least = least_length(check.flag("normalize", normalize) or metric == "cosine", x.dtype)
    matrix = dispatch(PAIRWISE, backend, x.device, x, y, kernel_metric(metric), least)
    return 1 - matrix if metric == "cosine" else matrix


def nearest(
    x: Tensor,
    y: Tensor | None,
    k: int,
    *,
    metric: str = "cosine",
    exclude_self: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The k rows of y that are nearest to each row of x, nearest first, without the [N, M] matrix.

    .. math:: d(x_i, y_{j_1}) \le d(x_i, y_{j_2}) \le \dots \le d(x_i, y_{j_k}) \le d(x_i, y_j) \text{ for all others}

    Equal distances rank by index, NaN behind all others. Where an input needs a gradient, the values receive one;
    indices have none.

    Args:
        x: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides: queries.
        y: [M, D]: keys; None: x itself.
        k: how many, 1 to M.
        metric: as :func:`pairwise_distance`; with "dot" the largest products are the nearest.
        exclude_self: leave out each row itself; only where y is None.

    Returns:
        values [N, k], as entries of :func:`pairwise_distance`, and indices [N, k] int64.

    Raises:
        ValueError: wrong shape, device, metric or k.

    Example:
        >>> import torch, fastssl.functional as F
        >>> distances, indices = F.nearest(torch.randn(8, 16), torch.randn(100, 16), k=5)

    Source: exact search, as faiss' flat indices do it.
    """
    return _select(x, y, k, metric, exclude_self, backend, nearest_first=True)


def farthest(
    x: Tensor,
    y: Tensor | None,
    k: int,
    *,
    metric: str = "cosine",
    exclude_self: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The k rows of y that are farthest from each row of x, farthest first: see :func:`nearest`.

    .. math:: d(x_i, y_{j_1}) \ge d(x_i, y_{j_2}) \ge \dots \ge d(x_i, y_{j_k}) \ge d(x_i, y_j) \text{ for all others}

    Args:
        k: how many, 1 to M.
        metric: as :func:`pairwise_distance`; with "dot" the smallest products are the farthest.
        exclude_self: leave out each row itself; only where y is None.

    Returns:
        values [N, k] and indices [N, k] int64.

    Raises:
        ValueError: wrong shape, device, metric or k.

    Example:
        >>> import torch, fastssl.functional as F
        >>> distances, indices = F.farthest(torch.randn(8, 16), None, k=2, metric="euclidean")

    Source: exact search, as :func:`nearest`.
    """
    return _select(x, y, k, metric, exclude_self, backend, nearest_first=False)


def _select(
    x: Tensor, y: Tensor | None, k: int, metric: str, exclude_self: bool, backend: str | None, nearest_first: bool
) -> tuple[Tensor, Tensor]:
    y = _two(x, y)
    kernel = kernel_metric(metric)
    if check.flag("exclude_self", exclude_self) and y is not None:
        raise ValueError("exclude_self: rows have no self among other rows; expected y=None")
    keys = x if y is None else y
    most = keys.shape[0] - int(exclude_self)
    if x.shape[0] and most < 1:
        wanted = "at least two rows, as each leaves itself out" if exclude_self else "at least one row to search"
        raise ValueError(f"{'x' if y is None else 'y'}: expected {wanted}, got shape {tuple(keys.shape)}")
    k = check.count("k", k, high=most if x.shape[0] else None)
    if x.shape[0] == 0:
        return x.new_zeros((0, k), dtype=torch.promote_types(x.dtype, torch.float32)), torch.zeros(
            (0, k), dtype=torch.int64, device=x.device
        )
    largest = nearest_first == (kernel == Metric.dot)
    with torch.no_grad():
        least = least_length(metric == "cosine", x.dtype)
        given = x.detach(), None if y is None else y.detach()
        values, indices = dispatch(NEAREST, backend, x.device, *given, k, kernel, least, largest, exclude_self)
    if check.forward_mode() or (torch.is_grad_enabled() and (x.requires_grad or keys.requires_grad)):
        return _distances(x, keys[indices], metric), indices
    return (1 - values if metric == "cosine" else values), indices


def _distances(x: Tensor, selected: Tensor, metric: str) -> Tensor:
    """Distances of each row to its own rows [N, k, D], for their gradient."""
    least = least_length(True, x.dtype)
    if x.dtype in (torch.float16, torch.bfloat16):
        x, selected = x.float(), selected.float()
    if metric in ("dot", "cosine"):
        if metric == "cosine":
            x, selected = TF.normalize(x, dim=1, eps=least), TF.normalize(selected, dim=2, eps=least)
        with torch.autocast(x.device.type, enabled=False):
            product = torch.einsum("nd,nkd->nk", x, selected)
        return 1 - product if metric == "cosine" else product
    difference = x[:, None, :] - selected
    if metric == "sqeuclidean":
        return difference.square().sum(2)
    order = {"euclidean": 2.0, "manhattan": 1.0, "chebyshev": float("inf")}[metric]
    return torch.linalg.vector_norm(difference, order, dim=2)
