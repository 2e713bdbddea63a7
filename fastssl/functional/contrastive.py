"""Contrastive losses on embeddings: InfoNCE and NT-Xent with their relatives, supervised contrastive, uniformity and
differential entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastssl._table import Closing, Metric, Positives
from fastssl.distributed.collectives import gather_rows, replicate
from fastssl.distributed.exchange import layout
from fastssl.distributed.pair_loss import sup_con as shared_sup_con
from fastssl.distributed.rows import columns_of
from fastssl.distributed.shards import Group, current, shardable
from fastssl.functional import _check as check
from fastssl.functional._pairs import (
    IndicesTuple,
    Pairs,
    Rows,
    everywhere,
    fused_pairs,
    labelled,
    log_share_of_positives,
    reduce_rows,
    self_offset,
    shared,
    softplus_per_positive,
)
from fastssl.functional._row_terms import (
    check_own_negatives,
    column_ids,
    is_zero,
    negatives_of_rows,
    products,
    rows_in_full,
    smoothing,
    smoothing_gap,
    smoothing_gap_within,
    spread,
    weighted_sums,
)
from fastssl.functional._sums import by_row
from fastssl.functional.distance import nearest
from fastssl.ops.operator import result_dtype
from fastssl.ops.pair_loss import DCL, INFO_NCE, NT_XENT, SUP_CON, PairLoss
from fastssl.ops.reference.common import softplus
from fastssl.ops.statistics import NEGATIVES, Hinge, LogSumExp, LogSumExps, SoftplusPerPositive
from fastssl.ops.types import Relation


@shardable
def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: Tensor | float = 0.1,
    symmetric: bool = False,
    normalize: bool = True,
    eps: float | None = None,
    reduction: str = "mean",
    in_batch: bool = True,
    replicated_negatives: bool = False,
    ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    label_smoothing: Tensor | float = 0.0,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""InfoNCE: each query against all keys of the batch and, where given, a queue of negatives.

    .. math:: L_i = -\log \frac{\exp(q_i \cdot k_i / \tau)}{\sum_j \exp(q_i \cdot k_j / \tau)
              + \sum_m \exp(q_i \cdot n_m / \tau)}

    With negatives [N, K, D], such as mined hard negatives, the second sum of query i is over its own. With ``ids``,
    keys and negatives that have the id of query i but are not its key leave its sums: duplicates, equal captions, known
    false negatives. ``label_smoothing`` :math:`\epsilon` adds :math:`\epsilon (s_{ii} - \bar s_i)`, with
    :math:`\bar s_i` the mean score of the row, as in :func:`torch.nn.functional.cross_entropy`.

    With ``in_batch=False`` the first sum is the query's own key alone: the loss of MoCo, against the queue only. With
    ``symmetric`` the loss of row i is the mean of this and of the same with queries and keys exchanged.
    No [N, N] matrix is stored: memory is O((N + K) D) plus what the memory budget allows to keep.

    Args:
        query: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        key: [N, D]; row i is the positive of query i.
        negatives: [K, D], shared by all queries (a MoCo queue), [N, K, D], each query's own, or None; K may be 0.
        symmetric: also contrast each key with all queries; not together with ``negatives``.
        in_batch: contrast each query with the other queries' keys too; False: with its own key and ``negatives`` alone.
        replicated_negatives: with ``group``: every process has the same ``negatives``; else each has its part of them.
        negative_ids: [K] (or [N, K]), integers: ids of ``negatives``; None: they are negatives of every query.

    Returns:
        A scalar, or [N] for "none"; float64 for float64 inputs, else float32. 0 for N = 0.

    Raises:
        ValueError: wrong shape, device, temperature or reduction, ``negatives`` with ``symmetric``,
            ``in_batch=False`` without ``negatives``, ``negative_ids`` without ``ids``, or ``label_smoothing`` with
            ``ids``, ``in_batch=False`` or negatives of each query.

    Example:
        >>> import torch, fastssl.functional as F
        >>> query, key, queue = torch.randn(8, 16), torch.randn(8, 16), torch.randn(32, 16)
        >>> loss = F.info_nce(query.requires_grad_(), key, queue, temperature=0.07)
        >>> loss.backward()

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, eq. 4;
    the queue: He et al., Momentum Contrast, 2020, eq. 1.
    """
    tensors = {"query": query, "key": key}
    of_rows = isinstance(negatives, Tensor) and negatives.dim() == 3
    if negatives is not None and not of_rows:
        tensors["negatives"] = negatives
    check.matrices(**tensors)
    check.same_rows("key", key, "query", query)
    if negative_ids is not None and ids is None:
        raise ValueError("negative_ids: expected None without ids")
    if of_rows:
        assert negatives is not None
        check_own_negatives(query, negatives, negative_ids)
    queue = None if of_rows else negatives
    columns = column_ids(ids, query, "query", queue, None if of_rows else negative_ids)
    if check.flag("symmetric", symmetric) and negatives is not None:
        raise ValueError("negatives: expected None with symmetric=True (a queue has no queries of its own)")
    scale = check.inverse(check.value("temperature", temperature, query.device, positive=True))
    least = check.normalization(normalize, eps)
    check.reduction(reduction)
    check.flag("replicated_negatives", replicated_negatives)
    epsilon = smoothing(label_smoothing, query.device, ids)
    others = None  # log of the sum over each query's own negatives, less the key's score
    if of_rows and negatives is not None:
        others = negatives_of_rows(query, key, negatives, columns, negative_ids, scale, least)
    if not check.flag("in_batch", in_batch):
        if negatives is None:
            raise ValueError("in_batch: expected True without negatives (there is nothing else to contrast with)")
        if not is_zero(epsilon):
            raise ValueError("label_smoothing: expected 0 with in_batch=False")
        if others is not None:
            values = softplus(others)
        else:
            assert queue is not None
            values = _against_queue(query, key, queue, columns, scale, least, replicated_negatives, backend)
        return reduce_rows(values, None, reduction).to(result_dtype(query))
    if not is_zero(epsilon) and others is not None:
        raise ValueError("label_smoothing: expected 0 with negatives of each query")
    rows = fused_pairs(
        *(INFO_NCE, query, None, key, queue),
        names=("query", "negatives"),
        ids=columns,
        scale=scale,
        normalize=least,
        symmetric=symmetric,
        replicated=replicated_negatives,
        reduction=reduction if others is None and is_zero(epsilon) else "none",
        backend=backend,
    )
    if others is not None:
        values = torch.logaddexp(rows.double(), others)  # log(1 + A + B) from log(1 + A) and log B
    elif not is_zero(epsilon):
        values = rows + epsilon * smoothing_gap(
            query, key, scale, least, symmetric=symmetric, more_y=queue, replicated=replicated_negatives
        )
    else:
        return rows
    return reduce_rows(values, None, reduction).to(result_dtype(query))


def _against_queue(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    columns: Tensor | None,
    scale: Tensor | float,
    normalize: float,
    replicated: bool,
    backend: str | None,
) -> Tensor:
    """[N]: each query against its own key and the queue, softplus(lse of the queue - own score)."""
    if columns is None:
        columns = torch.cat([torch.full((len(t),), k, device=query.device) for k, t in enumerate((query, negatives))])
    ids, others = columns.split([len(query), len(negatives)])
    shards, met = current(), None
    if shards is not None and not replicated:
        met = columns_of(shards, negatives, layout(shards, "negatives", negatives))
        others = met.every(others)
    rows = Pairs(query, negatives, Relation(ids, others), backend, met).reduce(
        LogSumExp(scale, over=NEGATIVES), metric=Metric.dot, normalize=normalize
    )
    q, k = (rows_in_full(t, normalize) for t in (query, key))
    return softplus(rows.value - scale * products(q, k).to(rows.value.dtype))


def _scale_of_views(z0: Tensor, z1: Tensor, temperature: Tensor | float) -> Tensor | float:
    """The inverse of the temperature, of two views with as many rows."""
    check.matrices(z0=z0, z1=z1)
    check.same_rows("z1", z1, "z0", z0)
    return check.inverse(check.value("temperature", temperature, z0.device, positive=True))


@shardable
def nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: Tensor | float = 0.5,
    normalize: bool = True,
    eps: float | None = None,
    reduction: str = "mean",
    ids: Tensor | None = None,
    label_smoothing: Tensor | float = 0.0,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""NT-Xent, the loss of SimCLR: every view against all other 2n - 1 views of the batch.

    .. math:: L_i = -\log \frac{\exp(z_i \cdot z_{p(i)} / \tau)}{\sum_{j \neq i} \exp(z_i \cdot z_j / \tau)}

    with z the 2n rows of ``z0`` and ``z1`` in that order and p(i) the other view of the same image. With ``ids``, views
    of other images with the id of image i leave its sum.
    No [2n, 2n] matrix is stored; only its upper triangle is ever computed.

    Args:
        z0: [n, D], first views: float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        z1: [n, D], second views.

    Returns:
        A scalar, or [2n] for "none" (first views, then second); float64 for float64 inputs, else float32.
        0 for n = 0; for n = 1 there are no negatives and the loss is 0.

    Example:
        >>> import torch, fastssl.functional as F
        >>> z0, z1 = torch.randn(256, 128, requires_grad=True), torch.randn(256, 128, requires_grad=True)
        >>> F.nt_xent(z0, z1, temperature=0.1).backward()

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020, eq. 1.
    """
    scale = _scale_of_views(z0, z1, temperature)
    least = check.normalization(normalize, eps)
    check.reduction(reduction)
    epsilon, of_image = smoothing(label_smoothing, z0.device, ids), column_ids(ids, z0, "z0")
    rows = fused_pairs(
        *(NT_XENT, z0, z1),
        names=("z0", "z1"),
        ids=None if of_image is None else torch.cat([of_image, of_image]),
        scale=scale,
        normalize=least,
        reduction=reduction if is_zero(epsilon) else "none",
        backend=backend,
    )
    if is_zero(epsilon):
        return rows
    values = rows + epsilon * smoothing_gap_within(z0, z1, scale, least)
    return reduce_rows(values, None, reduction).to(result_dtype(z0))


@shardable
def sup_con(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: Tensor | float = 0.1,
    normalize: bool = True,
    eps: float | None = None,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    weights: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Supervised contrastive loss (the form with the sum outside the logarithm).

    .. math:: L_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log
              \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{j \neq i} \exp(z_i \cdot z_j / \tau)}

    P(i): the other rows with the label of row i. A row without any contributes 0 and counts in the mean.

    Labels [N, C] of floats are soft or of several classes at once: the mean over P(i) becomes the mean over all other
    rows with weights :math:`w_{ip} = l_i \cdot l_p`, in memory O(N (C + D)). For one-hot labels it is the same loss.

    With ``weights`` :math:`w`, it becomes :math:`\frac{1}{\sum_p w_p} \sum_p w_p (\dots)`, and rows whose positives
    all weigh 0 contribute 0. ``F.sup_con(image, ids, ref_emb=text, ref_labels=ids, weights=...)`` is InfoNCE with
    several weighted positives per row; the mean of it and of the same from text to image is CLIP's loss with them
    (UniCL's for equal weights). Memory is O(N D).

    Args:
        embeddings: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides; or [B, V, D], V views
            of B examples with one label each, as their B V rows in this order.
        labels: [N] (or [B]), integers; [N, C] (or [B, C]), floats >= 0; None with [B, V, D]: each example is a class.
        ref_labels: [M], integers, or [M, C], floats: the labels of ``ref_emb``.
        weights: [N], or [M] with ``ref_emb``, floats >= 0: the weight of each row as a positive of others; not together
            with labels of floats. They receive a gradient.

    Example:
        >>> import torch, fastssl.functional as F
        >>> embeddings, labels = torch.randn(32, 16, requires_grad=True), torch.arange(32) % 4
        >>> F.sup_con(embeddings, labels).backward()

    Source: Khosla et al., Supervised Contrastive Learning, 2020, eq. 2 (L_out).
    """
    if isinstance(embeddings, Tensor) and embeddings.dim() == 3:
        embeddings, labels = _views_as_rows(embeddings, labels, indices_tuple)
    if isinstance(labels, Tensor) and labels.is_floating_point() and labels.dim() == 2:
        if indices_tuple is not None:
            raise TypeError("indices_tuple: expected None with labels of floats, whose pairs all have weights")
        if weights is not None:
            raise TypeError("weights: expected None with labels of floats, whose pairs have weights already")
        scale = check.inverse(check.value("temperature", temperature, embeddings.device, positive=True))
        least = check.normalization(normalize, eps)
        check.reduction(reduction)
        values = _soft_sup_con(embeddings, labels, ref_emb, ref_labels, scale, least, backend)
        return reduce_rows(values, None, reduction).to(result_dtype(embeddings))
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend, share=False)
    scale = check.inverse(check.value("temperature", temperature, embeddings.device, positive=True))
    least = check.normalization(normalize, eps)
    check.reduction(reduction)
    if weights is not None:
        weights = _weights(weights, pairs.x if pairs.y is None else pairs.y)
    elif pairs.within:  # half the flops by symmetry
        return fused_pairs(
            *(SUP_CON, embeddings),
            ids=pairs.relation.x_ids,
            scale=scale,
            normalize=least,
            reduction=reduction,
            backend=backend,
        )
    shards, relation = current(), pairs.relation
    if shards is not None:
        assert relation.x_ids is not None
        rows = (pairs.x, relation.x_ids, pairs.y, relation.y_ids, relation.self_offset)
        values = shared_sup_con(shards, *rows, scale, least, backend, weights)
        return pairs.result(reduce_rows(values, None, reduction))
    values, _ = sup_con_rows(pairs, scale, Metric.dot, least, weights)
    return pairs.result(reduce_rows(values, None, reduction))


def _views_as_rows(
    embeddings: Tensor, labels: Tensor | None, indices_tuple: IndicesTuple | None
) -> tuple[Tensor, Tensor | None]:
    """[B, V, D] as [B V, D], with the labels of the rows."""
    examples, views, features = embeddings.shape
    rows = embeddings.reshape(examples * views, features)
    if indices_tuple is not None:
        return rows, labels
    if labels is None:
        shards = current()
        first = 0 if shards is None else shards.rank << 40
        labels = first + torch.arange(examples, device=embeddings.device)
    given = check.tensor("labels", labels)
    if given.dim() not in (1, 2) or len(given) != examples:
        raise ValueError(f"labels: expected {examples}, one per example of embeddings, got shape {tuple(given.shape)}")
    return rows, given.repeat_interleave(views, 0)


def _soft_sup_con(
    embeddings: Tensor,
    labels: Tensor,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
    scale: Tensor | float,
    normalize: float,
    backend: str | None,
) -> Tensor:
    """[N] in float64: lse of all partners less their mean score with weights l_i . l_j, which is a product of sums."""
    check.matrix("embeddings", embeddings)
    own = _soft_labels("labels", labels, embeddings, None)
    of_columns = own
    if ref_emb is not None and isinstance(ref_emb, Tensor):
        of_columns = _soft_labels("ref_labels", ref_labels, ref_emb, own)
    ids, ref_ids = (None if t is None else t.new_zeros(t.shape[:1], dtype=torch.int64) for t in (embeddings, ref_emb))
    pairs = labelled(embeddings, ids, None, ref_emb, ref_ids, backend)
    lse = pairs.reduce(LogSumExp(scale), metric=Metric.dot, normalize=normalize).value.double()
    x = rows_in_full(embeddings, normalize)
    y = x if ref_emb is None else rows_in_full(ref_emb, normalize)
    of_labels = torch.cat([weighted_sums(of_columns.to(y.dtype), y).double(), of_columns.sum(0)[:, None]], 1)
    totals = everywhere(of_labels, by_rows=True)  # [C, D + 1]
    sums = spread(own, totals)
    score, weight = products(x, sums[:, :-1].to(x.dtype)), sums[:, -1]
    offset = 0 if ref_emb is None else self_offset.get()
    if offset >= 0 and x.shape[0]:
        itself = (offset + torch.arange(x.shape[0], device=x.device)) % y.shape[0]
        with_itself = products(own, of_columns[itself])
        score = score - with_itself * products(x, y[itself])
        weight = (weight - with_itself).clamp(min=0)
    # A weight that rounding alone made is none.
    counted = weight > 1e-12 * sums[:, -1].detach()
    zero = torch.zeros_like(lse)
    mean_score = score / torch.where(counted, weight, torch.ones_like(weight))
    return torch.where(counted, torch.where(counted, lse, zero) - scale * mean_score, zero)


def _soft_labels(name: str, labels: object, rows: Tensor, like: Tensor | None) -> Tensor:
    """Labels [N, C] in float64."""
    t = check.tensor(name, labels)
    if (
        not t.is_floating_point()
        or t.dim() != 2
        or t.shape[0] != rows.shape[0]
        or (like is not None and t.shape[1] != like.shape[1])
    ):
        classes = "C" if like is None else str(like.shape[1])
        raise ValueError(
            f"{name}: expected floats [{rows.shape[0]}, {classes}], got {t.dtype} of shape {tuple(t.shape)}"
        )
    if t.device != rows.device:
        raise ValueError(f"{name}: expected a tensor on {rows.device}, got one on {t.device}")
    _check_not_negative(name, t)
    return t.double()


def _check_not_negative(name: str, t: Tensor) -> None:
    """Where that costs no synchronisation and no tracing."""
    if check.readable(t) and t.numel():
        smallest, largest = (float(v) for v in torch.aminmax(t.detach()))
        if not smallest >= 0:
            raise ValueError(f"{name}: expected values >= 0, got {smallest}")
        if math.isinf(largest):
            raise ValueError(f"{name}: expected finite values, got {largest}")


def _weights(given: object, rows: Tensor) -> Tensor:
    """Weights of rows in float64."""
    t = check.tensor("weights", given)
    check.floats(weights=t)
    if t.shape != rows.shape[:1] or t.device != rows.device:
        raise ValueError(
            f"weights: expected floats [{len(rows)}] on {rows.device}, got {t.dtype} of shape {tuple(t.shape)} on "
            f"{t.device}"
        )
    _check_not_negative("weights", t)
    return t.double()


def sup_con_rows(
    pairs: Pairs, scale: Tensor | float, metric: Metric, normalize: float, weights: Tensor | None = None
) -> tuple[Tensor, Rows]:
    """lse of all partners - the positives' mean score, for rows of any partners; scores times ``scale``.

    ``weights``: of the columns in the mean, in float64, with the dot product.
    """
    rows = pairs.reduce(LogSumExp(scale), metric=metric, normalize=normalize)
    counts = rows.positives
    if metric == Metric.dot:
        x = rows_in_full(pairs.x, normalize).double()
        y = x if pairs.y is None else rows_in_full(pairs.y, normalize).double()
        if weights is not None:
            y, ones = y * weights[:, None], weights.new_ones(len(x), 1)
            counts = _products_with_positives(pairs, ones, weights[:, None]).to(rows.value.dtype)
        sums = _products_with_positives(pairs, x, y).to(rows.value.dtype)
    else:  # a hinge at 0 is the sum of distances
        sums = pairs.reduce(Hinge(1, 0, -1e30), metric=metric, normalize=normalize).positive
    counted, zero = counts > 0, torch.zeros_like(rows.value)
    divisor = counts.clamp(min=1) if weights is None else torch.where(counted, counts, torch.ones_like(counts))
    values = torch.where(counted, rows.value, zero) - scale * (sums / divisor)
    return torch.where(counted, values, zero), rows


def _products_with_positives(pairs: Pairs, x: Tensor, y: Tensor) -> Tensor:
    """[N], the sum of the products of each row of x with those rows of y that are positives of it: that with their
    sum."""
    relation = pairs.relation
    n, m = x.shape[0], y.shape[0]
    if relation.positive_list is not None:
        keys = torch.unique(relation.positive_list[0] * m + relation.positive_list[1])
        places = torch.stack([keys // max(m, 1), keys % max(m, 1)])
        ones = y.new_ones(keys.shape)
        listed = torch.sparse_coo_tensor(places, ones, (n, m), is_coalesced=True, check_invariants=False)
        return (x * torch.sparse.mm(listed, y)).sum(1)
    assert relation.x_ids is not None
    y_ids = relation.x_ids if relation.y_ids is None else relation.y_ids
    ids = torch.cat([y_ids, relation.x_ids])
    codes = torch.searchsorted(ids.sort().values, ids)  # as many as ids, so that fake tensors have a shape
    sums = y.new_zeros((n + m, y.shape[1])).index_add(0, codes[:m], y)
    products = (x * sums[codes[m:]]).sum(1)
    if relation.self_offset < 0 or n == 0:
        return products
    itself = (relation.self_offset + torch.arange(n, device=x.device)) % m
    own = (x * y[itself]).sum(1)
    return products - torch.where(y_ids[itself] == relation.x_ids, own, torch.zeros_like(own))


@shardable
def multi_nt_xent(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: Tensor | float = 0.07,
    normalize: bool = True,
    eps: float | None = None,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""NT-Xent with any number of positives: every positive pair against all negatives of its anchor.

    .. math:: L_{ap} = -\log \frac{\exp(s_{ap} / \tau)}{\exp(s_{ap} / \tau) + \sum_n \exp(s_{an} / \tau)}

    As in pytorch-metric-learning, the other positives of an anchor are not in the denominator. Computed in two passes
    over each row, without a list of pairs and negatives. A pair whose anchor has no negative contributes 0.

    Args:
        reduction: "mean" over positive pairs | "active": over those whose anchor has a negative, whose loss is above 0
            (where it is rounded to 0, too: pytorch-metric-learning's ``AvgNonZeroReducer`` leaves these out) | "sum" |
            "none": the sum of each row's pairs.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.multi_nt_xent(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Chen et al., SimCLR, 2020, eq. 1, for each positive pair of a class.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    scale = check.inverse(check.value("temperature", temperature, embeddings.device, positive=True))
    return softplus_per_positive(pairs, scale, 0.0, reduction, check.normalization(normalize, eps))


@shardable
def sincere(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: Tensor | float = 0.1,
    normalize: bool = True,
    eps: float | None = None,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""SINCERE: supervised InfoNCE in which an anchor's other positives do not repel.

    .. math:: L_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log \frac{\exp(s_{ip} / \tau)}
              {\exp(s_{ip} / \tau) + \sum_{n \in N(i)} \exp(s_{in} / \tau)}

    P(i), N(i): the other rows with the label of row i, and the rows with another label. :func:`sup_con` has the other
    positives in the denominator too. A row without positives contributes 0 and does not count in the mean.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.sincere(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Feeney and Hughes, SINCERE: Supervised Information Noise-Contrastive Estimation REvisited, 2023, eq. 7.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    scale = check.inverse(check.value("temperature", temperature, embeddings.device, positive=True))
    rows = pairs.reduce(SoftplusPerPositive(scale), metric=Metric.dot, normalize=check.normalization(normalize, eps))
    values = rows.total / rows.positives.clamp(min=1)
    return pairs.result(reduce_rows(values, rows.positives > 0, check.reduction(reduction)))


@shardable
def mil_nce(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: Tensor | float = 0.07,
    normalize: bool = True,
    eps: float | None = None,
    reduction: str = "mean",
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""MIL-NCE: the sum over an anchor's positives against the sum over its negatives (multiple-instance learning).

    .. math:: L_i = -\log \frac{\sum_p \exp(s_{ip} / \tau)}
              {\sum_p \exp(s_{ip} / \tau) + \sum_n \exp(s_{in} / \tau)}

    Args:
        reduction: "mean" over rows with a positive | "active": over those above 0 | "sum" | "none".

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.mil_nce(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Miech et al., End-to-End Learning of Visual Representations from Uncurated Instructional Videos, 2020,
    eq. 1.
    """
    pairs = labelled(embeddings, labels, indices_tuple, ref_emb, ref_labels, backend)
    scale = check.inverse(check.value("temperature", temperature, embeddings.device, positive=True))
    log_share, counted = log_share_of_positives(pairs, scale, Metric.dot, check.normalization(normalize, eps))
    return pairs.result(reduce_rows(-log_share, counted, check.reduction(reduction)))


def _two_views(z0: Tensor, z1: Tensor, backend: str | None) -> tuple[Pairs, Tensor]:
    """Both views below each other, and the cosine of each row with its other view, twice."""
    z = torch.cat([z0, z1])
    ids = torch.arange(z0.shape[0], device=z.device).repeat(2)
    cosine = (rows_in_full(z0, True) * rows_in_full(z1, True)).sum(1)
    shards = current()
    if shards is not None:
        ids = ids + sum(layout(shards, "z0", z0)[: shards.rank])  # no image of one process is one of another's
        return shared(shards, z, ids, None, None, 0, backend), cosine.repeat(2)
    return Pairs(z, None, Relation(ids, self_offset=0), backend), cosine.repeat(2)


@shardable
def dcl(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: Tensor | float = 0.1,
    sigma: Tensor | float | None = None,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Decoupled contrastive learning: NT-Xent without the positive in its denominator.

    .. math:: L_i = -w_i\, s_{ip} / \tau + \log \sum_{n} \exp(s_{in} / \tau), \quad w_i = 1 \text{ (DCL) or }
              2 - \frac{\exp(s_{ip} / \sigma)}{\mathrm{mean}_j \exp(s_{jp} / \sigma)} \text{ (DCLW)}

    Negatives are all rows of both views but the pair itself; no gradient passes through the weights.

    Args:
        sigma: None: DCL; a number > 0: the concentration of DCLW's weights.
        reduction: "mean" | "sum" | "none" over the 2 N rows.

    Returns:
        A scalar, or [2 N] for "none"; float64 for float64 inputs, else float32. Rows without negatives (N = 1)
        contribute 0.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.dcl(torch.randn(8, 16), torch.randn(8, 16), sigma=0.5)

    Source: Yeh et al., Decoupled Contrastive Learning, 2022, eq. 4 and 6.
    """
    scale = _scale_of_views(z0, z1, temperature)
    reduction = check.reduction(reduction, active=False)  # a logarithm alone may be below 0
    shards = current()
    alone = (z0.shape[0] if shards is None else sum(layout(shards, "z0", z0))) == 1  # no row has a negative
    whole = sigma is None and not alone
    values = fused_pairs(
        *(DCL, z0, z1),
        names=("z0", "z1"),
        scale=scale,
        normalize=True,
        reduction=reduction if whole else "none",
        backend=backend,
    )
    if whole:
        return values
    if sigma is not None:
        spread = check.inverse(check.value("sigma", sigma, z0.device, positive=True))
        cosine = products(rows_in_full(z0, True), rows_in_full(z1, True)).to(values.dtype).repeat(2)
        weight = 2 - _softmax_over_rows(cosine.detach() * spread)
        values = values + (1 - weight) * by_row(scale, cosine) * cosine
    counted = torch.zeros_like(values, dtype=torch.bool) if alone else None
    return reduce_rows(values, counted, reduction).to(result_dtype(z0))


def _softmax_over_rows(values: Tensor) -> Tensor:
    """Softmax over the rows of all processes, times how many they are."""
    shards = current()
    if shards is None:
        return values.shape[0] * torch.softmax(values, 0)
    every = replicate(shards, values, layout(shards, "values", values))
    return every.shape[0] * torch.exp(values - every.logsumexp(0))


@shardable
def rince(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: Tensor | float = 0.5,
    q: Tensor | float = 0.5,
    lam: Tensor | float = 0.025,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Robust InfoNCE, for views some of which show nothing in common.

    .. math:: L_i = -\frac{e^{q s_{ip} / \tau}}{q} + \frac{1}{q} \Big( \lambda \big( e^{s_{ip} / \tau}
              + \sum_{n} e^{s_{in} / \tau} \big) \Big)^q

    Towards q = 0 this is NT-Xent plus :math:`\log \lambda`, whose gradient is largest for the pairs that disagree most;
    with q = 1 each positive pair pulls by its exponential, so that pairs which disagree are left alone. Negatives are
    all rows of both views but the pair itself. The loss may be below 0; it grows like :math:`e^{q / \tau}`.

    Args:
        q: in (0, 1], robustness; 0.1 to 0.5 in the paper's experiments.
        lam: in (0, 1], the weight of the negatives.
        reduction: "mean" | "sum" | "none" over the 2 N rows.

    Returns:
        A scalar, or [2 N] for "none"; float64 for float64 inputs, else float32.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.rince(torch.randn(8, 16), torch.randn(8, 16), q=0.1)

    Source: Chuang et al., Robust Contrastive Learning against Noisy Views, 2022, eq. 5.
    """
    scale = _scale_of_views(z0, z1, temperature)
    power = check.value("q", q, z0.device, positive=True, high=1.0)
    weight = check.value("lam", lam, z0.device, positive=True, high=1.0)
    reduction = check.reduction(reduction, active=False)
    others = fused_pairs(
        *(PairLoss(Positives.halves, Closing.log_sum), z0, z1),
        names=("z0", "z1"),
        scale=scale,
        normalize=True,
        reduction="none",
        backend=backend,
    )
    scale, power = (by_row(v, others) for v in (scale, power))
    score = scale * products(rows_in_full(z0, True), rows_in_full(z1, True)).repeat(2)
    log_weight = by_row(weight.double().log(), others) if isinstance(weight, Tensor) else math.log(weight)
    values = torch.exp(power * score) * torch.expm1(power * (softplus(others.double() - score) + log_weight)) / power
    return reduce_rows(values, None, reduction).to(result_dtype(z0))


@shardable
def hard_negative_nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: Tensor | float = 0.5,
    tau_plus: Tensor | float = 0.1,
    beta: Tensor | float = 1.0,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""NT-Xent with debiased, hardness-weighted negatives.

    .. math:: L_i = -\log \frac{e^{s_p}}{e^{s_p} + N g}, \quad g = \max\Big( \frac{1}{1 - \tau^+} \Big(
              \frac{\sum_n e^{(1 + \beta) s_n}}{\sum_n e^{\beta s_n}} - \tau^+ e^{s_p} \Big),\ e^{-1/\tau} \Big)

    with s the cosines over the temperature and N = 2n - 2 negatives. ``beta=0`` is the debiased contrastive loss;
    ``tau_plus=0`` too is NT-Xent.

    Args:
        z0: [n, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        z1: [n, D], the other view; row i belongs to row i.
        tau_plus: in [0, 1), the prior probability that a negative has the anchor's class.
        beta: >= 0, the concentration of the negatives' weights: larger values weigh hard negatives more.
        reduction: "mean" | "active": over those above 0 | "sum" | "none" over the 2 n rows.

    Returns:
        A scalar, or [2 n] for "none"; float64 for float64 inputs, else float32. Rows without negatives contribute 0.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.hard_negative_nt_xent(torch.randn(8, 16), torch.randn(8, 16), beta=0.5)

    Source: Robinson et al., Contrastive Learning with Hard Negative Samples, 2021, eq. 4; Chuang et al., Debiased
    Contrastive Learning, 2020, eq. 7-8.
    """
    scale = _scale_of_views(z0, z1, temperature)
    pairs, cosine = _two_views(z0, z1, backend)
    tau_plus = check.value("tau_plus", tau_plus, z0.device, low=0, high=1 - 1e-9)
    beta = check.value("beta", beta, z0.device, low=0)
    weighted, weights = (LogSumExp(s * scale, over=NEGATIVES) for s in (1 + beta, beta))
    rows = pairs.reduce(LogSumExps(weighted, weights), metric=Metric.dot, normalize=True)
    counted = rows.negatives > 0
    zero = torch.zeros_like(rows.first)
    scale, tau_plus = (by_row(v, zero) for v in (scale, tau_plus))
    positive = cosine.to(zero.dtype) * scale
    harder = torch.where(counted, rows.first - rows.second, zero)
    # Everything relative to the positive's exponential: log(1 + N g / e^s) loses nothing where the loss is small.
    share = (torch.exp(harder - positive) - tau_plus) / (1 - tau_plus)
    share = torch.maximum(share, torch.exp(-scale - positive))
    return pairs.result(reduce_rows(torch.log1p(rows.negatives * share), counted, check.reduction(reduction)))


@shardable
def debiased_nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: Tensor | float = 0.5,
    tau_plus: Tensor | float = 0.1,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""NT-Xent corrected for false negatives: :func:`hard_negative_nt_xent` with beta = 0.

    .. math:: L_i = -\log \frac{e^{s_p}}{e^{s_p} + N g}, \quad g = \max\Big( \frac{1}{1 - \tau^+} \Big(
              \frac1N \sum_n e^{s_n} - \tau^+ e^{s_p} \Big),\ e^{-1/\tau} \Big)

    Args:
        z0: [n, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        z1: [n, D], the other view; row i belongs to row i.
        tau_plus: in [0, 1), the prior probability that a negative has the anchor's class.
        reduction: "mean" | "active": over those above 0 | "sum" | "none" over the 2 n rows.

    Returns:
        A scalar, or [2 n] for "none"; float64 for float64 inputs, else float32. Rows without negatives contribute 0.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.debiased_nt_xent(torch.randn(8, 16), torch.randn(8, 16))

    Source: Chuang et al., Debiased Contrastive Learning, 2020, eq. 7-8.
    """
    return hard_negative_nt_xent(
        z0, z1, temperature=temperature, tau_plus=tau_plus, beta=0.0, reduction=reduction, backend=backend
    )


@shardable
def alignment(
    z0: Tensor,
    z1: Tensor,
    *,
    alpha: Tensor | float = 2.0,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Alignment: the mean distance of positive pairs on the unit sphere, to a power.

    .. math:: L = \frac1N \sum_i |\hat{z}_{0i} - \hat{z}_{1i}|^\alpha

    Computed in O(N D) by plain torch.

    Args:
        alpha: > 0.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.alignment(torch.randn(8, 16), torch.randn(8, 16))

    Source: Wang and Isola, Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere, 2020, eq. 5.
    """
    check.matrices(z0=z0, z1=z1)
    check.same_rows("z1", z1, "z0", z0)
    alpha = check.value("alpha", alpha, z0.device, positive=True)
    difference = rows_in_full(z0, True) - rows_in_full(z1, True)
    plain = not isinstance(alpha, Tensor) and alpha == 2
    rows = (
        difference.square().sum(1)
        if plain
        else torch.linalg.vector_norm(difference, dim=1) ** by_row(alpha, difference)
    )
    return reduce_rows(rows, None, "mean")


@shardable
def uniformity(
    embeddings: Tensor,
    *,
    t: Tensor | float = 2.0,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Uniformity: the logarithm of the mean Gaussian potential over all pairs of normalized rows.

    .. math:: L = \log \frac{2}{N (N - 1)} \sum_{i < j} e^{-t |\hat{z}_i - \hat{z}_j|^2}

    Args:
        t: > 0.

    Returns:
        A scalar; float64 for float64 inputs, else float32. 0 for fewer than two rows.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.uniformity(torch.randn(8, 16))

    Source: Wang and Isola, 2020, eq. 6.
    """
    check.matrix("embeddings", embeddings)
    t = check.value("t", t, embeddings.device, positive=True)
    ids = embeddings.new_zeros(embeddings.shape[:1], dtype=torch.int64)
    pairs = labelled(embeddings, ids, backend=backend)
    within, n = pairs.within, pairs.partners
    rows = pairs.reduce(LogSumExp(-t), metric=Metric.sqeuclidean, normalize=True, upper=within)
    if n < 2:
        return pairs.result(rows.value.new_zeros(()) + 0 * embeddings.sum())
    if pairs.columns is not None:  # every pair stands above and below
        values = replicate(pairs.columns.shards, rows.value, pairs.columns.counts)
        return pairs.result(torch.logsumexp(values, 0) - math.log(n * (n - 1)))
    return pairs.result(torch.logsumexp(rows.value[:-1], 0) - rows.value.new_full((), n * (n - 1) / 2).log())


@shardable
def koleo(
    embeddings: Tensor,
    *,
    eps: Tensor | float = 1e-8,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
) -> Tensor:
    r"""KoLeo: spreads normalized rows by the Kozachenko-Leonenko estimate of their differential entropy.

    .. math:: L_i = -\log\left(|\hat x_i - \hat x_{n(i)}| + \epsilon\right), \quad
              n(i) = \mathrm{argmin}_{j \ne i} |\hat x_i - \hat x_j|

    The nearest row is found without the [N, N] matrix, and counts as given: the gradient is that of one distance per
    row, to both of its ends, as in DINOv2. Equal distances rank by index. Where two rows are equal the loss is
    :math:`-\log \epsilon`, and the gradient of their distance 0: they have no direction in which to part.

    Args:
        eps: > 0, added to the distances.
        reduction: "mean" | "sum" | "none".
        group: "world", a ProcessGroup or one dimension of a DeviceMesh: nearest rows are those among the rows of all
            its processes, which every process gathers (:func:`fastssl.distributed.sharded` says what gradients are);
            None: among these rows alone.

    Returns:
        A scalar, or [N] for "none"; float64 for float64 inputs, else float32. 0 for fewer than two rows.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.koleo(torch.randn(8, 16))

    Source: Sablayrolles, Douze, Schmid and Jegou, Spreading Vectors for Similarity Search, 2019, section 3; Oquab et
    al., DINOv2, 2023, section 4.
    """
    check.matrix("embeddings", embeddings)
    eps = check.value("eps", eps, embeddings.device, positive=True)
    check.reduction(reduction, active=False)
    every = rows = rows_in_full(embeddings, True)
    shards, first = current(), 0
    if shards is not None:
        counts = layout(shards, "embeddings", rows)
        every, first = gather_rows(shards, rows, counts), sum(counts[: shards.rank])
    if every.shape[0] < 2:
        return reduce_rows(0 * rows.sum(1), None, reduction)
    # The row itself is one of the two nearest, or is as near as both.
    _, near = nearest(rows.detach(), every.detach(), 2, metric="euclidean", backend=backend)
    itself = first + torch.arange(rows.shape[0], device=rows.device)
    other = torch.where(near[:, 0] == itself, near[:, 1], near[:, 0])
    distances = torch.linalg.vector_norm(rows - every.index_select(0, other), dim=1)
    return reduce_rows(-(distances + eps).log(), None, reduction)
