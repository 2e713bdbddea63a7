"""Losses of metric learning on labelled rows: pairs, triplets, lifted structure, tuplets and ranks.

No list of pairs or triplets and no [N, N] matrix is formed: memory is O(N D) plus a strip of scores.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastssl._table import MAX_BINS, Metric
from fastssl.distributed.shards import Group, shardable
from fastssl.functional import _check as check
from fastssl.functional._pairs import (
    IndicesTuple,
    Pairs,
    Rows,
    everywhere,
    labelled,
    log_share_of_positives,
    mean,
    once,
    reduce_rows,
    softplus_per_positive,
)
from fastssl.functional._row_terms import rows_in_full
from fastssl.functional._sums import by_row, sum_of
from fastssl.functional.distance import pairwise_distance
from fastssl.ops.reference.common import softplus
from fastssl.ops.statistics import (
    NEGATIVES,
    POSITIVES,
    AveragePrecision,
    HardestPair,
    Hinge,
    LiftedPairs,
    LogSumExp,
    LogSumExps,
    RankedList,
    SemihardTriplets,
    Triplets,
)


@shardable
def contrastive(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    margin: Tensor | float = 1.0,
    positive_margin: Tensor | float = 0.0,
    squared: bool = True,
    normalize: bool = False,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""The contrastive loss: pulls pairs of one class together and pushes other pairs at least a margin apart.

    .. math:: L = \frac{1}{|\{i<j\}|} \sum_{i<j} [y_i = y_j]\, d_{ij}^2 + [y_i \ne y_j] \max(0, m - d_{ij})^2,
              \quad d_{ij} = |x_i - x_j|

    Against ``ref_emb``, or over listed pairs, the mean is over those pairs. pytorch-metric-learning's
    ``ContrastiveLoss()`` is ``squared=False, normalize=True, reduction="active"``.

    Args:
        margin: m >= 0, in units of distance.
        positive_margin: m_p >= 0: a pair of one class contributes max(0, d - m_p).
        squared: False: the hinges themselves, not their squares.
        reduction: "mean" | "sum" over pairs | "active": the mean of the positives above 0 plus that of the negatives
            above 0.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.contrastive(torch.randn(8, 16, requires_grad=True), torch.arange(8) % 2)
        >>> loss.backward()

    Source: Hadsell, Chopra, LeCun, Dimensionality Reduction by Learning an Invariant Mapping, 2006, eq. 4 (twice it);
    Chopra et al., 2005.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    margin, positive_margin = (
        check.value(name, given, embeddings.device, low=0)
        for name, given in (("margin", margin), ("positive_margin", positive_margin))
    )
    normalize, power = check.flag("normalize", normalize), 2 if check.flag("squared", squared) else 1
    check.choice("reduction", reduction, ("mean", "sum", "active"))
    rows = pairs.reduce(
        Hinge(1, positive_margin, margin, power),
        metric=Metric.euclidean,
        normalize=normalize,
        upper=pairs.within,
    )
    if reduction == "active":
        return pairs.result(
            mean(sum_of(rows.positive), rows.positive_active.sum().detach())
            + mean(sum_of(rows.negative), rows.negative_active.sum().detach())
        )
    total = sum_of(rows.positive + rows.negative)
    n = embeddings.shape[0]
    count: Tensor | float = n * (n - 1) / 2 if pairs.within else (rows.positives + rows.negatives).sum()
    if pairs.columns is not None and ref_emb is None:
        total, count = total / 2, count / 2  # each pair stands in two rows
    return pairs.result(everywhere(total) if reduction == "sum" else mean(total, count))


@shardable
def triplet(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    margin: Tensor | float = 0.2,
    mining: str = "all",
    squared: bool = False,
    smooth: bool = False,
    normalize: bool = False,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""The triplet loss: each positive nearer to its anchor than each negative, by a margin.

    .. math:: L = \mathrm{mean}_{(a, p, n)} \max(0, d_{ap} - d_{an} + m)

    ``mining="all"``: every triplet, in O(N^2 log N) by sorting each row's positives, never as a list. "hard": for
    every anchor its farthest positive and nearest negative. "semihard": for every positive pair the nearest negative
    that is farther away than the positive, else the farthest negative.

    Args:
        margin: m, in units of (squared) distance.
        mining: "all" | "hard" | "semihard".
        squared: compare squared distances, as FaceNet does.
        smooth: softplus(d_ap - d_an + m) instead of the hinge (Hermans' soft margin with m = 0).
        reduction: "mean" over all triplets | "active": over those above 0 | "sum".
        indices_tuple: only these: (anchors, positives, negatives) are triplets, whose distances are looked up in the
            [N, M] matrix; (anchors, positives, anchors, negatives) make all triplets of these pairs.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.triplet(torch.randn(8, 16), torch.arange(8) % 2, margin=0.2, mining="hard")

    Source: Schroff, Kalenichenko, Philbin, FaceNet, 2015, eq. 1-4; Hermans, Beyer, Leibe, In Defense of the Triplet
    Loss, 2017 (hard mining, soft margin).
    """
    check.choice("mining", mining, ("all", "hard", "semihard"))
    check.choice("reduction", reduction, ("mean", "active", "sum"))
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    margin, normalize = check.value("margin", margin, embeddings.device), check.flag("normalize", normalize)
    smooth = check.flag("smooth", smooth)
    metric = Metric.sqeuclidean if check.flag("squared", squared) else Metric.euclidean
    if smooth and mining == "semihard":
        raise ValueError("smooth: semi-hard triplets take the hinge, got smooth=True")
    if indices_tuple is not None and len(indices_tuple) == 3:
        return _listed_triplets(pairs, indices_tuple, margin, squared, smooth, normalize, reduction, mining)
    if mining == "hard":
        rows = pairs.reduce(HardestPair(1), metric=metric, normalize=normalize)
        gaps = torch.where(rows.complete, rows.positive - rows.negative, torch.zeros_like(rows.positive))
        z = gaps + by_row(margin, gaps)
        terms = torch.where(rows.complete, softplus(z) if smooth else z.clamp(min=0), torch.zeros_like(z))
        total, count = sum_of(terms), rows.complete.sum()
        active = (rows.complete & (z > 0)).sum()
    else:
        triplets = Triplets(1, margin, smooth) if mining == "all" else SemihardTriplets(1, margin)
        rows = pairs.reduce(triplets, metric=metric, normalize=normalize)
        total, active = sum_of(rows.total), rows.active.sum().detach()
        per_row = rows.negatives if mining == "all" else (rows.negatives > 0).to(rows.negatives.dtype)
        count = (rows.positives * per_row).sum()
    if reduction == "sum":
        return pairs.result(everywhere(total))
    hinged = reduction == "active" and not smooth  # softplus is above 0 everywhere
    return pairs.result(mean(total, (active if hinged else count).to(total.dtype)))


def _listed_triplets(
    pairs: Pairs,
    indices: IndicesTuple,
    margin: Tensor | float,
    squared: bool,
    smooth: bool,
    normalize: bool,
    reduction: str,
    mining: str,
) -> Tensor:
    if mining != "all":
        raise ValueError(f"mining: expected 'all' with listed triplets, got {mining!r}")
    metric = "sqeuclidean" if squared else "euclidean"
    d = pairwise_distance(pairs.x, pairs.y, metric=metric, normalize=normalize, backend=pairs.backend)
    a, p, n = (t.to(d.device) for t in indices)
    z = d[a, p] - d[a, n] + by_row(margin, a)
    terms = softplus(z) if smooth else z.clamp(min=0)
    if reduction == "sum":
        return sum_of(terms)
    return mean(sum_of(terms), float((z > 0).sum()) if reduction == "active" and not smooth else float(len(z)))


@shardable
def lifted_structure(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: Tensor | float = 1.0,
    squared_hinge: bool = True,
    normalize: bool = False,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Lifted structured embedding: each positive pair against all negatives of both its rows.

    .. math:: J_{ij} = d_{ij} + \log\Big( \sum_{k: y_k \ne y_i} e^{m - d_{ik}} + \sum_{l: y_l \ne y_j} e^{m - d_{jl}}
              \Big), \qquad L = \frac{1}{2 |P|} \sum_{(i, j) \in P} \max(0, J_{ij})^2

    Args:
        margin: m, in units of distance.
        squared_hinge: False: the mean of J itself.

    Returns:
        A scalar; float64 for float64 inputs, else float32. Pairs whose rows have no negative contribute 0.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.lifted_structure(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Song, Xiang, Jegelka, Savarese, Deep Metric Learning via Lifted Structured Feature Embedding, 2016, eq. 4.
    """
    pairs = labelled(embeddings, labels, backend=backend)
    margin, squared = check.value("margin", margin, embeddings.device), check.flag("squared_hinge", squared_hinge)
    check.flag("normalize", normalize)
    by_column = None
    if pairs.columns is not None:
        with torch.no_grad():
            negatives = pairs.reduce(LogSumExp(-1, margin, NEGATIVES), metric=Metric.euclidean, normalize=normalize)
        by_column = pairs.columns.every(negatives.value)
    rows = pairs.reduce(
        LiftedPairs(1, margin, squared=squared),
        metric=Metric.euclidean,
        normalize=normalize,
        row_value=by_column,
    )
    total = mean(sum_of(rows.total), rows.positives.sum())  # both orders of a pair stand above and below
    return pairs.result(total / 2 if squared else total)


@shardable
def generalized_lifted_structure(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    margin: Tensor | float = 1.0,
    normalize: bool = False,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Generalized lifted structure: the lifted structured loss over all positives of an anchor at once.

    .. math:: L_a = \Big[ \log \sum_{p} e^{d_{ap}} + \log \sum_{n} e^{m - d_{an}} \Big]_+

    Args:
        margin: m, in units of distance.
        reduction: "mean" over rows with a positive and a negative | "active": over those above 0 | "sum" | "none".

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.generalized_lifted_structure(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Hermans, Beyer, Leibe, In Defense of the Triplet Loss, 2017, section 2.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    margin = check.value("margin", margin, embeddings.device)
    sums = LogSumExps(LogSumExp(1, over=POSITIVES), LogSumExp(-1, margin, NEGATIVES))
    rows = pairs.reduce(sums, metric=Metric.euclidean, normalize=check.flag("normalize", normalize))
    values = _sum_of_complete(rows).clamp(min=0)
    return pairs.result(reduce_rows(values, rows.complete, check.reduction(reduction)))


def _sum_of_complete(rows: Rows) -> Tensor:
    """The sum of both columns where a row has positives and negatives, else 0."""
    zero = torch.zeros_like(rows.first)
    first, second = (torch.where(rows.complete, column, zero) for column in rows.out[:2])
    return first + second


@shardable
def n_pair(
    anchors: Tensor,
    positives: Tensor,
    *,
    l2_reg: Tensor | float = 0.0,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Multi-class N-pair loss: every anchor against the positives of all others.

    .. math:: L = \frac1N \sum_i \log\Big(1 + \sum_{j \ne i} e^{a_i \cdot p_j - a_i \cdot p_i}\Big)
              + \frac{\lambda}{2 N} \sum_i |a_i|^2 + |p_i|^2

    Args:
        anchors: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides; not normalised.
        positives: [N, D]; row i has the class of anchor i, and of no other anchor.
        l2_reg: lambda >= 0, on the squared lengths.
        reduction: "mean" | "sum" | "none" over anchors.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.n_pair(torch.randn(8, 16), torch.randn(8, 16), l2_reg=0.02)

    Source: Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, 2016, eq. 4.
    """
    from fastssl.functional.contrastive import info_nce

    check.matrices(anchors=anchors, positives=positives)
    check.same_rows("positives", positives, "anchors", anchors)
    check.reduction(reduction, active=False)
    l2_reg = check.value("l2_reg", l2_reg, anchors.device, low=0)
    loss = info_nce(anchors, positives, temperature=1.0, normalize=False, reduction=reduction, backend=backend)
    if not isinstance(l2_reg, Tensor) and l2_reg == 0:
        return loss
    lengths = (anchors.to(loss.dtype).square().sum(1) + positives.to(loss.dtype).square().sum(1)) / 2
    if reduction != "none":
        l2_reg = once(l2_reg)
    return loss + l2_reg * reduce_rows(lengths, None, reduction)


@shardable
def soft_nearest_neighbor(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: Tensor | float = 1.0,
    normalize: bool = False,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Soft nearest neighbours: -log of the probability that a stochastic neighbour has the anchor's class.

    .. math:: L_i = -\log \frac{\sum_{j \ne i,\, y_j = y_i} e^{-|x_i - x_j|^2 / T}}
              {\sum_{k \ne i} e^{-|x_i - x_k|^2 / T}}

    A row without positives contributes 0; the mean is over all rows.

    Args:
        temperature: T > 0; a number or a tensor of one element, which receives a gradient.

    Example:
        >>> import torch, fastssl.functional as F
        >>> temperature = torch.tensor(2.0, requires_grad=True)
        >>> F.soft_nearest_neighbor(torch.randn(8, 16), torch.arange(8) % 2, temperature=temperature).backward()

    Source: Frosst, Papernot, Hinton, Analyzing and Improving Representations with the Soft Nearest Neighbor Loss,
    2019, eq. 1; Salakhutdinov and Hinton, 2007.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    scale = -check.inverse(check.value("temperature", temperature, embeddings.device, positive=True))
    log_share, counted = log_share_of_positives(pairs, scale, Metric.sqeuclidean, check.flag("normalize", normalize))
    values = torch.where(counted, -log_share, torch.zeros_like(log_share))
    return pairs.result(reduce_rows(values, None, check.reduction(reduction)))


@shardable
def nca(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    scale: Tensor | float = 1.0,
    log: bool = False,
    normalize: bool = False,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Neighbourhood components analysis: one minus the probability that a stochastic neighbour has the anchor's class.

    .. math:: L_i = 1 - p_i, \quad p_i = \frac{\sum_{j \ne i,\, y_j = y_i} e^{-s |x_i - x_j|^2}}
              {\sum_{k \ne i} e^{-s |x_i - x_k|^2}}

    Args:
        log: -log p_i instead, the paper's second objective.
        reduction: "mean" over rows with a positive | "active": over those above 0 | "sum" | "none".

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.nca(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Goldberger, Roweis, Hinton, Salakhutdinov, Neighbourhood Components Analysis, 2004, eq. 1-3 and 6.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    scale = -check.value("scale", scale, embeddings.device, positive=True)
    log_share, counted = log_share_of_positives(pairs, scale, Metric.sqeuclidean, check.flag("normalize", normalize))
    values = -log_share if check.flag("log", log) else -torch.expm1(log_share)
    return pairs.result(reduce_rows(values, counted, check.reduction(reduction)))


@shardable
def multi_similarity(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    alpha: Tensor | float = 2.0,
    beta: Tensor | float = 50.0,
    base: Tensor | float = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Multi-similarity loss on cosines, without its pair mining (pass a miner's ``indices_tuple`` for that).

    .. math:: L_i = \frac1\alpha \log\Big(1 + \sum_{p} e^{-\alpha (s_{ip} - \lambda)}\Big)
              + \frac1\beta \log\Big(1 + \sum_{n} e^{\beta (s_{in} - \lambda)}\Big)

    Args:
        alpha: > 0, sharpness for positives.
        beta: > 0, sharpness for negatives.
        base: lambda, the similarity that both sums are relative to.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.multi_similarity(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, 2019, eq. 15.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    alpha, beta = (check.value(n, v, embeddings.device, positive=True) for n, v in (("alpha", alpha), ("beta", beta)))
    base = check.value("base", base, embeddings.device)
    sums = LogSumExps(LogSumExp(-alpha, alpha * base, POSITIVES), LogSumExp(beta, -beta * base, NEGATIVES))
    rows = pairs.reduce(sums, metric=Metric.dot, normalize=check.flag("normalize", normalize))
    values = softplus(rows.first) / alpha + softplus(rows.second) / beta
    return pairs.result(reduce_rows(values, None, check.reduction(reduction)))


@shardable
def circle(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    margin: Tensor | float = 0.25,
    gamma: Tensor | float = 256.0,
    normalize: bool = True,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Circle loss on cosines with pair-wise labels: each similarity is weighted by its distance from its optimum.

    .. math:: L_i = \mathrm{softplus}\Big( \log \sum_n e^{\gamma \alpha_n (s_n - m)}
              + \log \sum_p e^{-\gamma \alpha_p (s_p - 1 + m)} \Big), \quad
              \alpha_p = [1 + m - s_p]_+,\ \alpha_n = [s_n + m]_+

    No gradient passes through the weighting factors alpha, as in the paper.

    Args:
        margin: m, the relaxation margin. Defaults are the paper's, 0.25 and 256; :class:`fastssl.CircleLoss` has those
            of pytorch-metric-learning, 0.4 and 80.
        gamma: > 0, the scale factor.
        reduction: "mean" over rows with a positive and a negative | "active": over those above 0 | "sum" | "none".

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.circle(torch.randn(8, 16), torch.arange(8) % 2, margin=0.4, gamma=80)

    Source: Sun et al., Circle Loss: A Unified Perspective of Pair Similarity Optimization, 2020, eq. 4-8.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    gamma = check.value("gamma", gamma, embeddings.device, positive=True)
    margin = check.value("margin", margin, embeddings.device)
    sums = LogSumExps(LogSumExp(gamma, margin, POSITIVES), LogSumExp(gamma, margin, NEGATIVES), self_paced=True)
    rows = pairs.reduce(sums, metric=Metric.dot, normalize=check.flag("normalize", normalize))
    return pairs.result(reduce_rows(softplus(_sum_of_complete(rows)), rows.complete, check.reduction(reduction)))


@shardable
def margin_loss(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    margin: Tensor | float = 0.2,
    beta: Tensor | float = 1.2,
    nu: Tensor | float = 0.0,
    normalize: bool = True,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Margin loss: a hinge on distances around a boundary beta, which may be learned, for all classes or per class.

    .. math:: L = \frac{\sum_{ij} \max(0, \alpha + y_{ij} (d_{ij} - \beta_i))}{|\{\text{terms} > 0\}|}
              + \nu\, \overline{\beta}, \quad y_{ij} = \pm 1

    Args:
        margin: alpha, in units of distance.
        beta: the boundary: a number, a tensor of one element, or [classes], indexed by ``labels``; tensors receive
            a gradient.
        nu: weight of the mean boundary, a regularizer of learned boundaries.
        reduction: "mean" or "active": over pairs above 0 | "sum".

    Example:
        >>> import torch, fastssl.functional as F
        >>> beta = torch.full((2,), 1.2, requires_grad=True)
        >>> F.margin_loss(torch.randn(8, 16), torch.arange(8) % 2, beta=beta).backward()

    Source: Wu, Manmatha, Smola, Krahenbuhl, Sampling Matters in Deep Embedding Learning, 2017, eq. 5-6.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    check.choice("reduction", reduction, ("mean", "active", "sum"))
    margin, nu = (check.value(n, v, embeddings.device) for n, v in (("margin", margin), ("nu", nu)))
    n = embeddings.shape[0]
    if isinstance(beta, Tensor) and beta.numel() != 1:
        if beta.dim() != 1 or not beta.dtype.is_floating_point:
            raise ValueError(f"beta: expected one value or a vector [classes], got shape {tuple(beta.shape)}")
        ids = check.ids("labels", labels, embeddings, "embeddings")
        if ids.device.type == "cpu":
            check.among("labels", ids, len(beta))
        there = ids.clamp(0, len(beta) - 1)
        per_row = torch.where(ids == there, beta.index_select(0, there), float("nan"))  # on a GPU nothing is read back
    else:
        value = check.value("beta", beta, embeddings.device)
        per_row = (
            value.expand(n) if isinstance(value, Tensor) else embeddings.new_full((n,), value, dtype=torch.float64)
        )
    rows = pairs.reduce(
        Hinge(1, -margin, margin),
        metric=Metric.euclidean,
        normalize=check.flag("normalize", normalize),
        row_value=per_row.to(embeddings.device),
    )
    total = sum_of(rows.positive + rows.negative)
    active = (rows.positive_active + rows.negative_active).sum().detach()
    total = everywhere(total) if reduction == "sum" else mean(total, active)
    if isinstance(nu, Tensor) or nu:
        total = total + once(nu) * mean(sum_of(per_row.to(total.dtype)), n)
    return pairs.result(total)


@shardable
def tuplet_margin(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    margin: Tensor | float = 5.73,
    scale: Tensor | float = 64.0,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Tuplet margin loss: each positive pair against all negatives of its anchor, with a slack margin on the angle.

    .. math:: L_{ap} = \log\Big(1 + \sum_n e^{s (\cos\theta_{an} - \cos(\theta_{ap} - \beta))}\Big)

    Args:
        margin: beta, in degrees.
        reduction: "mean" over positive pairs | "active": over those whose anchor has a negative, whose loss is above 0
            (where it is rounded to 0, too: pytorch-metric-learning's ``AvgNonZeroReducer`` leaves these out) | "sum" |
            "none": the sum of each row's pairs.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.tuplet_margin(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Yu and Tao, Deep Metric Learning with Tuplet Margin Loss, 2019, eq. 4.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    scale = check.value("scale", scale, embeddings.device, positive=True)
    slack = math.radians(1) * check.value("margin", margin, embeddings.device)
    return softplus_per_positive(pairs, scale, slack, reduction, normalize=True)


@shardable
def fast_ap(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    bins: int = 10,
    reduction: str = "mean",
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""FastAP: one minus the average precision of each row's ranking, from soft histograms of squared distances.

    .. math:: L_i = 1 - \frac{1}{N_i^+} \sum_b \frac{h_b^+ H_b^+}{H_b}

    Rows are divided by their length: squared distances lie in [0, 4], which the histogram covers.

    Args:
        bins: of the histogram, 1 to 64.
        reduction: "mean" over rows with a positive | "active": over those above 0 | "sum" | "none".

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.fast_ap(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Cakir et al., Deep Metric Learning to Rank, 2019, eq. 8-9.
    """
    pairs = labelled(embeddings, labels, None, ref_emb, ref_labels, backend)
    bins = check.count("bins", bins, high=MAX_BINS)
    rows = pairs.reduce(AveragePrecision(bins, 4.0), metric=Metric.sqeuclidean, normalize=True)
    values = 1 - rows.value / rows.positives.clamp(min=1)
    return pairs.result(reduce_rows(values, rows.positives > 0, check.reduction(reduction)))


@shardable
def angular(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: Tensor | float = 40.0,
    reduction: str = "mean",
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Angular loss: bounds the angle at the negative of each (anchor, positive, negative) triangle by alpha.

    .. math:: L_{ap} = \log\Big(1 + \sum_n e^{4 \tan^2\!\alpha\, (\hat x_a + \hat x_p) \cdot \hat x_n
              - 2 (1 + \tan^2\!\alpha) \hat x_a \cdot \hat x_p}\Big), \qquad \hat x = x / |x|

    Each of the P positive pairs is one row of the computation: memory is O(P D).

    Args:
        alpha: in degrees, above 0 and below 90.
        reduction: "mean" over positive pairs | "active": over those above 0 | "sum" | "none": [P], one per pair.

    Returns:
        A scalar, or [P] for "none"; float64 for float64 inputs, else float32.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.angular(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Wang et al., Deep Metric Learning with Angular Loss, 2017, eq. 8.
    """
    check.matrix("embeddings", embeddings)
    if ref_emb is not None:
        check.matrices(embeddings=embeddings, ref_emb=ref_emb)
    slope = math.radians(1) * check.value("alpha", alpha, embeddings.device, low=0.01, high=89.99)
    square = (slope.tan() if isinstance(slope, Tensor) else math.tan(slope)) ** 2
    x = rows_in_full(embeddings, True)
    y = x if ref_emb is embeddings else None if ref_emb is None else rows_in_full(ref_emb, True)
    pairs = labelled(x, labels, None, y, ref_labels, backend)
    a, p = positive_pairs(pairs)
    ids, anchors, other = pairs.relation.x_ids, x.index_select(0, a), pairs.fetch(p)
    assert ids is not None
    partners = pairs.between(anchors + other, ids[a])
    rows = partners.reduce(LogSumExp(4 * square, over=NEGATIVES), metric=Metric.dot, normalize=False)
    values = softplus(rows.value - 2 * (1 + square) * (anchors * other).sum(1))
    return pairs.result(reduce_rows(values, None, check.reduction(reduction)))


def positive_pairs(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The positive pairs of labels as indices, sorted by anchor, without an [N, M] mask."""
    relation = pairs.relation
    assert relation.x_ids is not None
    x_ids, y_ids = relation.x_ids, relation.x_ids if relation.y_ids is None else relation.y_ids
    order = torch.argsort(y_ids, stable=True)
    grouped = y_ids[order]
    first, last = torch.searchsorted(grouped, x_ids), torch.searchsorted(grouped, x_ids, right=True)
    counts = last - first
    anchors = torch.repeat_interleave(torch.arange(x_ids.shape[0], device=x_ids.device), counts)
    within = torch.arange(anchors.shape[0], device=x_ids.device) - torch.repeat_interleave(
        counts.cumsum(0) - counts, counts
    )
    partners = order[first[anchors] + within]
    if relation.self_offset >= 0:
        other = partners != (anchors + relation.self_offset) % max(y_ids.shape[0], 1)
        anchors, partners = anchors[other], partners[other]
    return anchors, partners


@shardable
def ranked_list(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: Tensor | float = 0.4,
    alpha: Tensor | float | None = None,
    imbalance: Tensor | float = 0.5,
    positive_temperature: Tensor | float = 0.0,
    negative_temperature: Tensor | float = 10.0,
    normalize: bool = True,
    reduction: str = "mean",
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Ranked list loss: positives within alpha - m, negatives beyond alpha, each weighted by its violation.

    .. math:: L_i = (1 - \lambda) \frac{\sum_p w_p u_p}{\sum_p w_p + c} + \lambda \frac{\sum_n w_n u_n}{\sum_n w_n + c},
              \quad u_p = [d_{ip} - (\alpha - m)]_+,\ u_n = [\alpha - d_{in}]_+,\ w = e^{T u}

    The gradient passes through the weights; c = 1e-5 M for M partners keeps empty lists at 0. Pairs at distance 0
    count in neither list, as in pytorch-metric-learning.

    Args:
        margin: m, between the boundaries of positives and negatives.
        alpha: the least distance of negatives; None: 1 + margin / 2.
        imbalance: lambda in [0, 1], the weight of the negatives.
        positive_temperature: T of the positives' weights.
        negative_temperature: T of the negatives' weights.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.ranked_list(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Wang et al., Ranked List Loss for Deep Metric Learning, 2019, eq. 5-11.
    """
    pairs = labelled(embeddings, labels, None, ref_emb, ref_labels, backend)
    imbalance = check.value("imbalance", imbalance, embeddings.device, low=0, high=1)
    margin = check.value("margin", margin, embeddings.device)
    ranked = RankedList(
        alpha=1 + margin / 2 if alpha is None else check.value("alpha", alpha, embeddings.device),
        margin=margin,
        positive_temperature=check.value("positive_temperature", positive_temperature, embeddings.device),
        negative_temperature=check.value("negative_temperature", negative_temperature, embeddings.device),
        constant=1e-5 * pairs.partners,
    )
    rows = pairs.reduce(ranked, metric=Metric.euclidean, normalize=check.flag("normalize", normalize))
    imbalance = by_row(imbalance, rows.positive)
    values = (1 - imbalance) * rows.positive + imbalance * rows.negative
    return pairs.result(reduce_rows(values, None, check.reduction(reduction)))
