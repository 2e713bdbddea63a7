"""Losses against learned class centres: rows against one centre a class, without the matrix of logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastssl._table import Metric
from fastssl.distributed.collectives import replicate, total
from fastssl.distributed.shards import Group, current, shardable
from fastssl.functional import _check as check
from fastssl.functional._pairs import Pairs, reduce_rows
from fastssl.functional._row_terms import products, rows_in_full
from fastssl.functional._sums import by_row, sum_of
from fastssl.ops.operator import result_dtype
from fastssl.ops.pair_loss import LINEAR_CROSS_ENTROPY, MARGIN_SOFTMAX, PairLoss, pair_loss
from fastssl.ops.reference.common import softplus
from fastssl.ops.statistics import NEGATIVES, POSITIVES, LogSumExp, LogSumExps
from fastssl.ops.types import Relation


def _against_classes(embeddings: Tensor, weight: Tensor, labels: Tensor, backend: str | None) -> Pairs:
    check.matrices(embeddings=embeddings, weight=weight)
    ids = check.ids("labels", labels, embeddings, "embeddings")
    classes = weight.shape[0]
    ids, embeddings = check.in_range("labels", ids, classes, embeddings)
    # Rows are read by several operators: what has other strides is copied once.
    x, y = embeddings.contiguous(), weight.contiguous()
    return Pairs(x, y, Relation(ids, torch.arange(classes, device=ids.device)), backend)


def _own_cosine(pairs: Pairs) -> Tensor:
    """The cosine of each row with the centre of its class."""
    assert pairs.y is not None and pairs.relation.x_ids is not None
    own = pairs.y.index_select(0, pairs.relation.x_ids)
    x, centre = rows_in_full(pairs.x, True), rows_in_full(own, True)
    return products(x, centre).to(x.dtype)


def _softmax(pairs: Pairs, loss: PairLoss, scale: Tensor | float, reduction: str, bias: Tensor | None = None) -> Tensor:
    """A loss over the logits of classes, of this process's rows."""
    return pair_loss(
        *(loss, pairs.x, None, pairs.y),
        ids=pairs.relation.x_ids,
        scale=scale,
        bias=bias,
        normalize=True,
        reduction=reduction,
        backend=pairs.backend,
    )


def margin_softmax(pairs: Pairs, scale: Tensor | float, penalty: Tensor | float) -> Tensor:
    """[N]: softplus(lse over the other classes - the target's logit + penalty), cross-entropy with a smaller logit."""
    return softplus(_softmax(pairs, MARGIN_SOFTMAX, scale, "none") + by_row(penalty, pairs.x))


@shardable
def normalized_softmax(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    temperature: Tensor | float = 0.05,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Normalized softmax: cross-entropy over cosines with class centres.

    .. math:: L_i = -\log \frac{\exp(\cos(x_i, w_{y_i}) / \tau)}{\sum_c \exp(\cos(x_i, w_c) / \tau)}

    Args:
        labels: [N] integers in [0, C).

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.normalized_softmax(torch.randn(8, 16), torch.randn(100, 16), torch.arange(8))

    Source: Zhai and Wu, Classification is a Strong Baseline for Deep Metric Learning, 2019, eq. 2.
    """
    pairs = _against_classes(embeddings, weight, labels, backend)
    scale = check.inverse(check.value("temperature", temperature, embeddings.device, positive=True))
    reduction = check.reduction(reduction)
    if current() is None and reduction != "active":
        return _softmax(pairs, LINEAR_CROSS_ENTROPY, scale, reduction)
    values = _softmax(pairs, LINEAR_CROSS_ENTROPY, scale, "none")
    return pairs.result(reduce_rows(values, None, reduction))


@shardable
def cos_face(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    margin: Tensor | float = 0.35,
    scale: Tensor | float = 64.0,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""CosFace: softmax cross-entropy over cosines, with an additive margin on the target's cosine.

    .. math:: L_i = -\log \frac{e^{s (\cos\theta_{y_i} - m)}}
              {e^{s (\cos\theta_{y_i} - m)} + \sum_{c \ne y_i} e^{s \cos\theta_c}}

    Args:
        labels: [N] integers in [0, C).
        margin: m, subtracted from the target's cosine.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.cos_face(torch.randn(8, 16), torch.randn(100, 16), torch.arange(8))

    Source: Wang et al., CosFace, 2018, eq. 4.
    """
    pairs = _against_classes(embeddings, weight, labels, backend)
    scale = check.value("scale", scale, embeddings.device, positive=True)
    values = margin_softmax(pairs, scale, scale * check.value("margin", margin, embeddings.device))
    return pairs.result(reduce_rows(values, None, check.reduction(reduction)))


@shardable
def arc_face(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    margin: Tensor | float = 28.6,
    scale: Tensor | float = 64.0,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""ArcFace: softmax cross-entropy over cosines, with an additive margin on the target's angle.

    .. math:: L_i = -\log \frac{e^{s \phi(\theta_{y_i})}}
              {e^{s \phi(\theta_{y_i})} + \sum_{c \ne y_i} e^{s \cos\theta_c}}, \quad
              \phi(\theta) = \cos(\theta + m) \text{ where } \theta \le \pi - m,
              \text{ else } \cos\theta - m \sin m

    Args:
        labels: [N] integers in [0, C).
        margin: m, added to the target's angle, in degrees.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.arc_face(torch.randn(8, 16), torch.randn(100, 16), torch.arange(8))

    Source: Deng et al., ArcFace, 2019, eq. 3; the branch beyond pi - m as in the authors' code.
    """
    pairs = _against_classes(embeddings, weight, labels, backend)
    scale = check.value("scale", scale, embeddings.device, positive=True)
    m = math.radians(1) * check.value("margin", margin, embeddings.device)
    values = margin_softmax(pairs, scale, arc_penalty(pairs, scale, m))
    return pairs.result(reduce_rows(values, None, check.reduction(reduction)))


def arc_penalty(pairs: Pairs, scale: Tensor | float, margin: Tensor | float) -> Tensor:
    """[N]: by how much the target's logit falls where ``margin`` is added to its angle."""
    cosine = _own_cosine(pairs)
    return by_row(scale, cosine) * (cosine - arc_margin(cosine, margin))


def arc_margin(cosine: Tensor, margin: Tensor | float) -> Tensor:
    """cos(arccos(cosine) + margin), decreasing all the way; the slope stays finite at +-1."""
    cosine = cosine.clamp(-1, 1)
    sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).tiny).sqrt()
    c: Tensor | float
    s: Tensor | float
    # Up to the angle pi - m: below 0 none is inside, above pi all are.
    if isinstance(margin, Tensor):
        m = margin.to(device=cosine.device, dtype=torch.float64)
        limit = math.pi - m.detach()
        inside = (cosine >= limit.clamp(0, math.pi).cos()) & (limit >= 0)
        c, s, margin = (by_row(t.to(cosine.dtype), cosine) for t in (m.cos(), m.sin(), m))
    else:  # without operations on tensors of one element: a small call is made of little else
        inside = cosine >= (math.cos(min(math.pi - margin, math.pi)) if margin <= math.pi else math.inf)
        c, s = math.cos(margin), math.sin(margin)
    return torch.where(inside, cosine * c - sine * s, cosine - margin * s)


@shardable
def proxy_nca(
    embeddings: Tensor,
    proxies: Tensor,
    labels: Tensor,
    *,
    scale: Tensor | float = 1.0,
    include_positive: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""ProxyNCA: NCA against one proxy per class, under squared Euclidean distances of normalized rows.

    .. math:: L_i = -\log \frac{e^{-s |x_i - p_{y_i}|^2}}{\sum_{c \ne y_i} e^{-s |x_i - p_c|^2}}

    Args:
        labels: [N] integers in [0, C).
        include_positive: include the target in the denominator, as ProxyNCA++ does: a softmax, never negative.

    Returns:
        A scalar, or [N] for "none"; float64 for float64 inputs, else float32. With one class and without
        ``include_positive`` the denominator is empty and the loss 0.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.proxy_nca(torch.randn(8, 16), torch.randn(100, 16), torch.arange(8))

    Source: Movshovitz-Attias et al., No Fuss Distance Metric Learning using Proxies, 2017, eq. 4; Teh et al.,
    ProxyNCA++, 2020.
    """
    pairs = _against_classes(embeddings, proxies, labels, backend)
    scale = check.value("scale", scale, embeddings.device, positive=True)
    values = proxy_softmax(pairs, scale, check.flag("include_positive", include_positive))
    return pairs.result(reduce_rows(values, None, check.reduction(reduction)))


def proxy_softmax(pairs: Pairs, scale: Tensor | float, include_positive: bool) -> Tensor:
    """[N]: NCA against proxies. Of normalized rows -|x - p|^2 is 2 x.p less 2, or less 1 where the proxy is 0."""
    assert pairs.y is not None
    zero = (pairs.y == 0).all(1).to(result_dtype(pairs.x))
    of_all = include_positive or len(pairs.y) == 1  # of one class both are 0
    return _softmax(pairs, LINEAR_CROSS_ENTROPY if of_all else MARGIN_SOFTMAX, 2 * scale, "none", zero * scale)


@shardable
def proxy_anchor(
    embeddings: Tensor,
    proxies: Tensor,
    labels: Tensor,
    *,
    margin: Tensor | float = 0.1,
    alpha: Tensor | float = 32.0,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Proxy-Anchor: each proxy is an anchor, against all rows of the batch.

    .. math:: L = \frac{1}{|P^+|} \sum_{p \in P^+} \log\Big(1 + \sum_{x \in X_p^+} e^{-\alpha (s(x, p) - \delta)}\Big)
              + \frac{1}{|P|} \sum_{p} \log\Big(1 + \sum_{x \in X_p^-} e^{\alpha (s(x, p) + \delta)}\Big)

    Args:
        labels: [N] integers in [0, C).
        margin: delta, on the cosine.
        alpha: > 0, the scale.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.proxy_anchor(torch.randn(8, 16), torch.randn(100, 16), torch.arange(8))

    Source: Kim et al., Proxy Anchor Loss for Deep Metric Learning, 2020, eq. 4.
    """
    pairs = _against_classes(embeddings, proxies, labels, backend)
    alpha = check.value("alpha", alpha, embeddings.device, positive=True)
    delta = check.value("margin", margin, embeddings.device)
    relation = pairs.relation
    turned = Pairs(proxies, embeddings, Relation(relation.y_ids, relation.x_ids), backend)  # proxies are the anchors
    shift = alpha * delta
    parts = LogSumExps(LogSumExp(-alpha, shift, POSITIVES), LogSumExp(alpha, shift, NEGATIVES))
    rows = turned.reduce(parts, metric=Metric.dot, normalize=True)
    sums, counts = torch.stack(rows.out[:2]), rows.positives
    shards = current()
    if shards is not None:  # every process has all proxies: the log-sums over its rows meet those of the others
        counts = total(shards, counts)
        every = replicate(shards, sums[None], [1] * shards.size)
        none = torch.isinf(every).all(0)
        sums = every.masked_fill(none, 0).logsumexp(0).masked_fill(none, -math.inf)
    positive = sum_of(softplus(sums[0])) / (counts > 0).sum().clamp(min=1)
    return pairs.result(positive + sum_of(softplus(sums[1])) / max(1, proxies.shape[0]))
