"""Embeddings that are pulled to an isotropic Gaussian: sketched isotropic Gaussian regularization, and LeJEPA."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastssl.distributed.exchange import gather, layout
from fastssl.distributed.shards import Group, current, shardable
from fastssl.functional import _check as check
from fastssl.functional._pairs import everywhere, once
from fastssl.functional._sums import sum_of
from fastssl.ops.characteristic import characteristic
from fastssl.ops.extension import get_memory_budget
from fastssl.ops.operator import is_transformed, result_dtype


@shardable
def sigreg(
    embeddings: Tensor,
    directions: Tensor | int = 1024,
    *,
    t_max: float = 3.0,
    knots: int = 17,
    group: Group = None,
    backend: str | None = None,
) -> Tensor:
    r"""Sketched isotropic Gaussian regularization (SIGReg): the Epps-Pulley statistic of the embeddings' projections on
    random directions, a test for N(0, 1), in the mean over directions.

    .. math:: L = \frac{N}{M} \sum_m \int_{-t_{max}}^{t_{max}} e^{-t^2 / 2} \Big| \frac1N \sum_n
              e^{i t\, a_m \cdot z_n} - e^{-t^2 / 2} \Big|^2 dt

    by the trapezoidal rule with ``knots`` points on [0, t_max]: the integrand is even. Kernels evaluate one sine and
    one cosine per projection, and store none of the N M ``knots`` terms. The N M projections are kept for the backward
    pass where the memory budget holds them (:func:`fastssl.set_memory_budget`), and else are made again, in parts.

    Args:
        embeddings: [N, D], or [V, N, D] for the mean over views: float32, float64, bfloat16 or float16 (computed in
            fp32), any strides.
        directions: [D, M], a unit vector per column, or M, how many are drawn from torch's generator (with ``group``
            from that of its first process).
        t_max: > 0, where the integral ends.
        knots: at least 2.
        group: "world", a ProcessGroup or one dimension of a DeviceMesh: the statistic is that of the rows of all its
            processes (:func:`fastssl.distributed.sharded` says what gradients are); None: of these rows alone.

    Returns:
        A scalar in float32 (float64 for float64 embeddings); 0 for no rows.

    Raises:
        TypeError: no floating point numbers.
        ValueError: another shape or device, or a value out of range.

    Example:
        >>> import torch, fastssl.functional as F
        >>> z = torch.randn(256, 16)
        >>> F.sigreg(z, 64) < F.sigreg(3 * z, 64)
        tensor(True)

    Source: Balestriero and LeCun, LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics, 2025;
    Epps and Pulley, A Test for Normality Based on the Empirical Characteristic Function, 1983.
    """
    check.floats(embeddings=embeddings)
    if embeddings.dim() not in (2, 3) or embeddings.shape[-1] == 0:
        raise ValueError(f"embeddings: expected shape [N, D] or [V, N, D], D >= 1, got {tuple(embeddings.shape)}")
    z = embeddings if embeddings.dim() == 3 else embeddings[None]
    return _sigreg(z.to(result_dtype(z)), _total_rows(z), directions, t_max, knots, backend)


@shardable
def lejepa(
    views: Tensor,
    directions: Tensor | int = 1024,
    *,
    global_views: int | None = None,
    lambd: Tensor | float = 0.05,
    t_max: float = 3.0,
    knots: int = 17,
    group: Group = None,
    backend: str | None = None,
) -> Tensor:
    r"""LeJEPA: every view predicts the mean of the global views, and each view's embeddings are pulled to an isotropic
    Gaussian.

    .. math:: L = \lambda\, \frac1V \sum_v \mathrm{SIGReg}(z_v) + (1 - \lambda) \frac{1}{V N D} \sum_{v, n}
              \Big\| z_{vn} - \frac1G \sum_{g \le G} z_{gn} \Big\|^2

    There is no stop-gradient, no second network and no schedule.

    Args:
        views: [V, N, D], the global views first: float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        directions: [D, M], a unit vector per column, or M, as in :func:`sigreg`.
        global_views: G, of how many views the mean is the target; None: of all.
        lambd: lambda in [0, 1].
        t_max: of :func:`sigreg`.
        knots: of :func:`sigreg`.

    Returns:
        A scalar in float32 (float64 for float64 views); 0 for no rows.

    Raises:
        TypeError: no floating point numbers.
        ValueError: another shape or device, or a value out of range.

    Example:
        >>> import torch, fastssl.functional as F
        >>> views = torch.randn(4, 32, 16, requires_grad=True)
        >>> loss = F.lejepa(views, 256, global_views=2)

    Source: Balestriero and LeCun, LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics, 2025.
    """
    check.floats(views=views)
    if views.dim() != 3 or views.shape[0] == 0 or views.shape[2] == 0:
        raise ValueError(f"views: expected shape [V, N, D], V and D >= 1, got {tuple(views.shape)}")
    targets = len(views) if global_views is None else check.count("global_views", global_views, high=len(views))
    lambd = once(check.value("lambd", lambd, views.device, low=0, high=1))
    z = views.to(result_dtype(views))
    n = _total_rows(z)
    gaussian = _sigreg(z, n, directions, t_max, knots, backend)
    squares = (z - z[:targets].mean(0)).square().flatten()
    distance = everywhere(sum_of(squares)) / max(len(z) * n * z.shape[2], 1)
    return lambd * gaussian + (1 - lambd) * distance


def _total_rows(z: Tensor) -> int:
    """How many rows [V, N, D] have in all processes that share the loss."""
    shards = current()
    if shards is None:
        return z.shape[1]
    views, n, d = z.shape
    return sum(layout(shards, "embeddings", z.new_empty(()).expand(n, views * d)))  # for its shape


def _sigreg(z: Tensor, n: int, directions: Tensor | int, t_max: float, knots: int, backend: str | None) -> Tensor:
    """Of [V, N, D] in the dtype of the computation, of ``n`` rows in all processes."""
    t_max, knots = check.number("t_max", t_max, positive=True), check.count("knots", knots, low=2)
    a, step = _directions(directions, z), t_max / (knots - 1)
    sums = everywhere(_sums(z, a, step, knots, backend))
    return sums.sum().to(z.dtype) * 0 if n == 0 else epps_pulley(sums, n, step).to(z.dtype)


def _sums(z: Tensor, a: Tensor, step: float, knots: int, backend: str | None) -> Tensor:
    """Of the projections of z on the columns of a, [V, 2, knots, M]; not more of them at a time than the memory budget
    holds, and then they are made again for the gradient."""

    def part(z: Tensor, a: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return characteristic(z @ a, step, knots, backend)

    most = max(1, get_memory_budget() // max(z.element_size() * z.shape[0] * z.shape[1], 1))
    if most >= a.shape[1] or check.traced(z) or is_transformed((z, a)):
        return part(z, a)
    return torch.cat(
        [checkpoint(part, z, some, use_reentrant=False, preserve_rng_state=False) for some in a.split(most, 1)], 3
    )


def epps_pulley(sums: Tensor, n: int, step: float) -> Tensor:
    """The mean statistic of columns of ``n`` values whose characteristic function has the sums [V, 2, knots, M]."""
    cosines, sines = (sums / n).unbind(1)
    t = torch.arange(sums.shape[2], dtype=torch.float64, device=sums.device)[:, None] * step
    normal = (-t.square() / 2).exp()
    weights = torch.where((t == 0) | (t == t[-1]), 0.5, 1.0) * normal * (2 * step)  # of both halves of the integral
    statistics = ((cosines - normal).square() + sines.square()).mul(weights).sum(1) * n
    return sum_of(statistics.flatten()) / statistics.numel()


def _directions(given: Tensor | int, z: Tensor) -> Tensor:
    d = z.shape[-1]
    if isinstance(given, Tensor):
        check.floats(directions=given)
        if given.dim() != 2 or given.shape[0] != d or given.shape[1] == 0:
            raise ValueError(f"directions: expected shape [{d}, M], M >= 1, got {tuple(given.shape)}")
        if given.device != z.device:
            raise ValueError(f"directions: expected a tensor on {z.device} as the embeddings, got {given.device}")
        return given.to(z.dtype)
    drawn = torch.randn(d, check.count("directions", given), dtype=z.dtype, device=z.device)
    shards = current()
    if shards is not None:  # those of its first process
        drawn = gather(shards, drawn if shards.rank == 0 else drawn[:0], [d] + [0] * (shards.size - 1))
    return drawn / drawn.norm(dim=0)
