"""Losses without pairs of rows: on features (Barlow Twins, VICReg), on matched rows (negative cosine similarity), on
prototypes and soft targets (SwAV, DINO, iBOT).

These are D x D, N x D or N x K: plain torch is at the limit of the machine, and a kernel would gain nothing (see
docs/decisions/0006).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.distributed.exchange import gather, layout
from fastssl.distributed.shards import Group, current, shardable, unsharded
from fastssl.functional import _check as check
from fastssl.functional._pairs import everywhere, once
from fastssl.functional._sums import sum_of
from fastssl.ops.reference.common import unit
from fastssl.ops.types import least_length

HALVES = (torch.float16, torch.bfloat16)


def _views(z0: Tensor, z1: Tensor, names: tuple[str, str] = ("z0", "z1")) -> tuple[Tensor, Tensor]:
    check.matrices(**{names[0]: z0, names[1]: z1})
    check.same_rows(names[1], z1, names[0], z0)
    return (z0, z1) if z0.dtype == z1.dtype and z0.dtype not in HALVES else (z0.float(), z1.float())


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b in the precision of a and b, also under autocast: sums of squares over features need it."""
    with torch.autocast(a.device.type, enabled=False):
        return a.T @ b


def _count(rows: Tensor) -> int:
    """How many rows all processes that share the loss have."""
    shards = current()
    return rows.shape[0] if shards is None else sum(layout(shards, "z0", rows))


@shardable
def barlow_twins(
    z0: Tensor, z1: Tensor, *, lambd: Tensor | float = 5e-3, eps: Tensor | float = 1e-5, group: Group = None
) -> Tensor:
    r"""Barlow Twins: pulls the cross-correlation matrix of both views' features to the identity.

    .. math:: L = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2, \quad
              C = \frac1N \hat{Z}_0^\top \hat{Z}_1, \quad \hat{z} = (z - \bar z) / \sqrt{\mathrm{var}(z) + \epsilon}

    Args:
        lambd: lambda >= 0, the weight of the off-diagonal terms.
        eps: added to the variance, as batch normalisation does.
        group: "world", a ProcessGroup or one dimension of a DeviceMesh: statistics are those of the rows of all its
            processes (:func:`fastssl.distributed.sharded` says what gradients are); None: of these rows alone.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.barlow_twins(torch.randn(8, 16), torch.randn(8, 16))

    Source: Zbontar et al., Barlow Twins, 2021, eq. 1-2.
    """
    z0, z1 = _views(z0, z1)
    lambd, eps = (check.value(n, v, z0.device, low=0) for n, v in (("lambd", lambd), ("eps", eps)))
    n = _count(z0)
    if n == 0:
        return (z0.sum() + z1.sum()) * 0
    centred = [z - everywhere(z.sum(0), by_rows=True) / n for z in (z0, z1)]
    a, b = (z / (everywhere(z.square().sum(0), by_rows=True) / n + eps).sqrt() for z in centred)
    c = everywhere(_product(a, b)) / n
    diagonal = c.diagonal()
    return (1 - diagonal).square().sum() + once(lambd) * (sum_of(c.square()) - diagonal.square().sum())


@shardable
def gaussian_information(a: Tensor, b: Tensor, *, eps: Tensor | float = 1e-6, group: Group = None) -> Tensor:
    r"""Information, in nats, that two sets of outputs give about what they share, if both are it with Gaussian noise
    of equal variance (IMAX maximises it).

    .. math:: I = \frac12 \log \frac{\det \Sigma(a + b)}{\det \Sigma(a - b)}

    with the covariances over rows; of scalars, one half of the logarithm of the ratio of the variances. It does not
    change when both are transformed by the same invertible matrix. VICReg's variance and invariance terms push the same
    two quantities apart, without the logarithm.

    Args:
        a: [N, D], float32, float64, bfloat16 or float16 (computed in float64); row i belongs to row i of ``b``.
        b: [N, D].
        eps: added to the diagonals of both covariances, in units of the mean variance of a + b and a - b: it bounds
            the information.
        group: "world", a ProcessGroup or one dimension of a DeviceMesh: covariances are those of the rows of all its
            processes (:func:`fastssl.distributed.sharded` says what gradients are); None: of these rows alone.

    Returns:
        A scalar in float32 (float64 for float64 outputs). It is 0 for constant outputs and for no rows.

    Example:
        >>> import torch, fastssl.functional as F
        >>> shared = torch.randn(1000, 2)
        >>> a, b = (shared + 0.1 * torch.randn(1000, 2) for _ in range(2))
        >>> 4 < float(F.gaussian_information(a, b)) < 6
        True

    Source: Becker and Hinton, Self-organizing Neural Network that Discovers Surfaces in Random-dot Stereograms, 1992;
    vectors: Becker, Mutual Information Maximization: Models of Cortical Self-organization, 1996.
    """
    dtype = torch.float64 if isinstance(a, Tensor) and a.dtype == torch.float64 else torch.float32
    a, b = (z.double() for z in _views(a, b, ("a", "b")))
    eps = once(check.value("eps", eps, a.device, low=0))
    n = _count(a)
    if n == 0:
        return ((a.sum() + b.sum()) * 0).to(dtype)
    covariances = []
    for z in (a + b, a - b):
        centred = z - everywhere(z.sum(0), by_rows=True) / n
        covariances.append(everywhere(_product(centred, centred)) / n)
    scale = sum(c.diagonal().mean() for c in covariances) / 2
    floor = torch.eye(a.shape[1], dtype=a.dtype, device=a.device) * (eps * scale + torch.finfo(a.dtype).tiny)
    total, difference = (torch.linalg.slogdet(c + floor).logabsdet for c in covariances)
    return ((total - difference) / 2).to(dtype)


@shardable
def vicreg(
    z0: Tensor,
    z1: Tensor,
    *,
    invariance: Tensor | float = 25.0,
    variance: Tensor | float = 25.0,
    covariance: Tensor | float = 1.0,
    gamma: Tensor | float = 1.0,
    eps: Tensor | float = 1e-4,
    group: Group = None,
) -> Tensor:
    r"""VICReg: invariance between views, a hinge on the variance of each feature, and decorrelation of the features.

    .. math:: L = \lambda\, \mathrm{mse}(z_0, z_1) + \mu\, \tfrac12 \sum_z \tfrac1D \sum_d
              [\gamma - \sqrt{\mathrm{var}(z_d) + \epsilon}]_+
              + \nu \sum_z \tfrac1D \sum_{c \ne d} \mathrm{cov}(z)_{cd}^2

    Args:
        z0: [N, D], N >= 2, float32, float64, bfloat16 or float16 (computed in fp32).
        invariance: lambda.
        variance: mu; the mean over both views, as in the authors' code.
        covariance: nu; the sum over both views.
        gamma: the target standard deviation.
        eps: added to the variance.
        group: "world", a ProcessGroup or one dimension of a DeviceMesh: statistics are those of the rows of all its
            processes (:func:`fastssl.distributed.sharded` says what gradients are); None: of these rows alone.

    Raises:
        ValueError: wrong shape or device, fewer than two rows, or a wrong range.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.vicreg(torch.randn(8, 16), torch.randn(8, 16))

    Source: Bardes, Ponce, LeCun, VICReg, 2022, eq. 1-6.
    """
    z0, z1 = _views(z0, z1)
    n, d = _count(z0), z0.shape[1]
    if n < 2:
        raise ValueError(f"z0: expected at least 2 rows for a variance, got shape {tuple(z0.shape)}")
    weights = [
        once(check.value(k, v, z0.device, low=0))
        for k, v in (("invariance", invariance), ("variance", variance), ("covariance", covariance))
    ]
    gamma, eps = once(check.value("gamma", gamma, z0.device)), once(check.value("eps", eps, z0.device, low=0))
    centred = [z - everywhere(z.sum(0), by_rows=True) / n for z in (z0, z1)]
    variances = [everywhere(z.square().sum(0)) / (n - 1) for z in centred]
    spread = sum(torch.relu(gamma - (v + eps).sqrt()).mean() for v in variances) / 2
    off_diagonal = z0.new_zeros(())
    for z in centred:
        c = everywhere(_product(z, z)) / (n - 1)
        off_diagonal = off_diagonal + (sum_of(c.square()) - c.diagonal().square().sum()) / d
    distance = everywhere(sum_of((z0 - z1).square())) / (n * d)
    return weights[0] * distance + weights[1] * spread + weights[2] * off_diagonal


def negative_cosine_similarity(prediction: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Negative cosine similarity of matched rows, as in BYOL and SimSiam; detach the target yourself.

    .. math:: L_i = - \frac{p_i \cdot t_i}{|p_i| |t_i|}

    Args:
        prediction: [N, D], float32, float64, bfloat16 or float16 (computed in fp32).
        target: [N, D]; row i is the target of prediction i.
        reduction: "mean" | "sum" | "none".

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.negative_cosine_similarity(torch.randn(8, 16), torch.randn(8, 16).detach())

    Source: Chen and He, Exploring Simple Siamese Representation Learning, 2021, eq. 1.
    """
    views = _views(prediction, target, ("prediction", "target"))
    p, t = (unit(z, least_length(True, prediction.dtype)) for z in views)
    rows = -(p * t).sum(1)
    if check.reduction(reduction, active=False) == "none":
        return rows
    return sum_of(rows) if reduction == "sum" else sum_of(rows) / max(rows.shape[0], 1)


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    r"""Balanced assignment of rows to prototypes by the Sinkhorn-Knopp algorithm: the targets of SwAV.

    .. math:: Q = \mathrm{diag}(u) \exp(S / \epsilon) \mathrm{diag}(v), \quad
              \textstyle\sum_k Q_{ik} = 1,\ \sum_i Q_{ik} \to N / K

    No epsilon overflows: where exponentials would underflow, the iterations run in the logarithm.

    Args:
        scores: [N, K], scores of rows against prototypes: float32, float64, bfloat16 or float16 (computed in fp32).
        epsilon: > 0, the entropic regularization.
        iterations: number of normalizations of columns, then rows.

    Returns:
        [N, K], rows sum to 1; no gradient.

    Example:
        >>> import torch, fastssl.functional as F
        >>> q = F.sinkhorn(torch.randn(8, 4))

    Source: Caron et al., SwAV, 2020, eq. 3-5; Cuturi, 2013.
    """
    check.matrix("scores", scores)
    scores = scores.detach()  # of tangents, too, which no_grad lets through
    epsilon = check.number("epsilon", epsilon, positive=True)
    iterations = check.count("iterations", iterations)
    shards = current()
    if shards is not None:  # columns are those of all processes' rows
        counts = layout(shards, "scores", scores)
        with unsharded():
            every = sinkhorn(gather(shards, scores, counts), epsilon=epsilon, iterations=iterations)
        return every.split(counts)[shards.rank]
    result = torch.promote_types(scores.dtype, torch.float32)
    logits = scores.to(torch.float64 if epsilon < 1e-30 else result) / epsilon
    if logits.numel() == 0:
        return logits.to(result)
    shifted = logits - logits.max()
    if not check.traced(shifted) and float(shifted.min()) > -60:
        # Exponentials and their products are far from the limits of fp32: the two scalings are vectors, and an
        # iteration is two products with the matrix.
        e = shifted.exp()
        row = torch.ones(e.shape[0], dtype=e.dtype, device=e.device)
        with torch.autocast(e.device.type, enabled=False):
            for _ in range(iterations):
                column = e.shape[0] / e.shape[1] / (row @ e)  # N / K a column, so that neither scaling runs away
                row = 1 / (e @ column)
        return e.mul_(row[:, None]).mul_(column[None, :]).to(result)
    log_q = logits
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q, 0, keepdim=True)
        log_q = log_q - torch.logsumexp(log_q, 1, keepdim=True)
    return log_q.exp().to(result)


def swapped_prediction(
    scores0: Tensor, scores1: Tensor, *, temperature: Tensor | float = 0.1, epsilon: float = 0.05
) -> Tensor:
    r"""SwAV: each view predicts the other's Sinkhorn assignment.

    .. math:: L = -\frac{1}{2N} \sum_i \sum_k q_{ik}^{(1)} \log p_{ik}^{(0)} + q_{ik}^{(0)} \log p_{ik}^{(1)},
              \quad p = \mathrm{softmax}(s / \tau)

    Args:
        scores0: [N, K], cosines of one view's rows with the prototypes: float32, float64, bfloat16 or float16 (computed
            in fp32).
        scores1: [N, K], the other view's.
        epsilon: of :func:`sinkhorn`.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.swapped_prediction(torch.randn(8, 4), torch.randn(8, 4))

    Source: Caron et al., SwAV, 2020, eq. 1-2.
    """
    s0, s1 = _views(scores0, scores1, ("scores0", "scores1"))
    temperature = check.value("temperature", temperature, s0.device, positive=True)
    losses = [
        -sum_of((sinkhorn(target, epsilon=epsilon) * torch.log_softmax(prediction / temperature, 1)).sum(1))
        for prediction, target in ((s0, s1), (s1, s0))
    ]
    return (losses[0] + losses[1]) / (2 * max(s0.shape[0], 1))


def centred_softmax(logits: Tensor, center: Tensor, *, temperature: Tensor | float = 0.04) -> Tensor:
    r"""The teacher's distribution of DINO and iBOT: centred, sharpened, without gradient.

    .. math:: p_i = \mathrm{softmax}((z_i - c) / \tau)

    Args:
        logits: [..., K], float32, float64, bfloat16 or float16.

    Returns:
        [..., K], of the dtype that ``logits`` and ``center`` have together.

    Raises:
        TypeError: no floating point numbers.
        ValueError: a centre of another shape.

    Example:
        >>> import torch, fastssl.functional as F
        >>> p = F.centred_softmax(torch.randn(8, 4), torch.zeros(4))

    Source: Caron et al., DINO, 2021, eq. 1 and 4; Zhou et al., iBOT, 2022.
    """
    check.floats(logits=logits, center=center)
    if logits.dim() < 1 or center.shape != logits.shape[-1:]:
        raise ValueError(f"center: expected shape {tuple(logits.shape[-1:])}, got {tuple(center.shape)}")
    temperature = check.value("temperature", temperature, logits.device, positive=True)
    return torch.softmax((logits - center).detach() / temperature, -1)


def _of_views(per_patch: Tensor, mask: Tensor) -> Tensor:
    """[N], for each view the mean over its masked patches, of [N, P], or [M] of the masked ones alone."""
    shape = tuple(per_patch.shape) if per_patch.dim() == 2 else None
    if check.tensor("mask", mask).dtype != torch.bool or mask.dim() != 2 or shape not in (None, tuple(mask.shape)):
        wanted = "[views, patches]" if shape is None else shape
        raise ValueError(f"mask: expected booleans of shape {wanted}, got {mask.dtype} {tuple(mask.shape)}")
    masked = mask.to(per_patch.dtype)
    if shape is None:
        places = mask.nonzero().T
        if places.shape[1] != len(per_patch):
            raise ValueError(
                f"mask: expected {len(per_patch)} masked patches, a row of student each, got {places.shape[1]}"
            )
        per_patch = torch.zeros_like(masked).index_put(tuple(places), per_patch)
    return (per_patch * masked).sum(1) / masked.sum(1).clamp(min=1)


def dino(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    *,
    student_temperature: Tensor | float = 0.1,
    teacher_temperature: Tensor | float = 0.04,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy with the teacher's centred softmax as target: DINO over views, iBOT over masked patches.

    .. math:: L = \mathrm{mean}_{v \ne w} \mathrm{mean}_i -\sum_k p^t_{wik} \log p^s_{vik}

    Without ``mask`` every student view is compared with every teacher view but the one of its index. With it, each
    view is compared with itself, at the masked positions only (iBOT), whose mean is taken for each view first.

    Args:
        student: [V, N, K], logits of all views, the teacher's first: float32, float64, bfloat16 or float16; with
            ``mask`` [N, P, K], those of patches, or [M, K], those of the M masked patches alone, in the mask's order.
        teacher: [W, N, K], W <= V; with ``mask`` of the student's shape.
        student_temperature: > 0.
        teacher_temperature: > 0.
        mask: [N, P] booleans, patches that the student did not see.

    Returns:
        A scalar of the dtype of the student's logits.

    Raises:
        TypeError: no floating point numbers, or float64 beside others.
        ValueError: other shapes.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.dino(torch.randn(4, 8, 16), torch.randn(2, 8, 16), torch.zeros(16))

    Source: Caron et al., DINO, 2021, eq. 3; Zhou et al., iBOT, 2022, eq. 2.
    """
    check.floats(student=student, teacher=teacher, center=center)
    for name, t in (("student", student), ("teacher", teacher)):
        if torch.float64 in (t.dtype, student.dtype, center.dtype) and not t.dtype == student.dtype == center.dtype:
            raise TypeError(f"{name}: expected student, teacher and center of one dtype where one is float64")
        if t.dim() != 3 and (mask is None or t.dim() != 2):
            raise ValueError(f"{name}: expected 3 dimensions, got shape {tuple(t.shape)}")
    if mask is not None and teacher.shape != student.shape:
        raise ValueError(f"teacher: expected shape {tuple(student.shape)} as student, got {tuple(teacher.shape)}")
    if teacher.shape[1:] != student.shape[1:] or teacher.shape[0] > student.shape[0]:
        raise ValueError(f"teacher: expected views of shape {tuple(student.shape[1:])}, got {tuple(teacher.shape)}")
    temperature = check.value("student_temperature", student_temperature, student.device, positive=True)
    dtype = student.dtype
    student, teacher = (t.float() if t.dtype in HALVES else t for t in (student, teacher))  # sums over all rows
    targets = centred_softmax(teacher, center, temperature=teacher_temperature)
    log_p = torch.log_softmax(student / temperature, -1)
    if mask is not None:
        return _of_views(-(targets * log_p).sum(-1), mask).mean().to(dtype)
    # All pairs of views at once; those of one view with itself are taken out again.
    cross = -_product(targets.flatten(1).T, log_p.flatten(1).T) / max(student.shape[1], 1)
    own = torch.arange(teacher.shape[0], device=student.device)
    count = cross.numel() - len(own)
    return ((cross.sum() - cross[own, own].sum()) / max(count, 1)).to(dtype)
