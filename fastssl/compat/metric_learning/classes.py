"""Losses of pytorch-metric-learning on weights of classes, proxies and shares."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl._table import Metric
from fastssl.compat._dtypes import multiplied
from fastssl.compat._peer import NotFused, kind_of, plain, require_values
from fastssl.compat.metric_learning.calls import (
    LossDict,
    check_loss,
    metric_of,
    normalised_products,
    number_of,
    pairs_of,
    weighted,
)
from fastssl.compat.metric_learning.reducers import element
from fastssl.functional._pairs import Pairs
from fastssl.functional.proxy import _against_classes, arc_penalty, margin_softmax, proxy_softmax
from fastssl.ops.statistics import NEGATIVES, POSITIVES, LogSumExp, LogSumExps
from fastssl.ops.types import Relation

IGNORED = -100  # label of rows whose cross-entropy is 0


def _shares_scale(loss: Any, embeddings: Tensor) -> Tensor | float:
    scale = number_of(loss, "softmax_scale", embeddings)
    if not 0.01 <= plain(scale) <= 20:
        raise NotFused("shares that underflow, which the original drops, or a row's own that do not")
    return scale


def _nca_losses(loss: Any, pairs: Pairs, embeddings: Tensor, labels: Tensor, indices: Any) -> LossDict:
    metric, normalize, sign = metric_of(loss)
    scale = _shares_scale(loss, embeddings)
    if not normalize:
        raise NotFused("distances of any size: shares underflow, which the original drops, or a row's own do not")
    sums = LogSumExps(LogSumExp(-sign * scale, over=POSITIVES), LogSumExp(-sign * scale, over=NEGATIVES))
    rows = pairs.reduce(sums, metric=metric, normalize=normalize)
    counted = rows.positives > 0
    values = TF.softplus(rows.second - torch.where(counted, rows.first, torch.zeros_like(rows.first)))
    values = weighted(values, embeddings, labels, indices, using_ref=pairs.y is not None)
    return element(loss, embeddings, values, counted, terms=(4 * plain(scale),), exact=~counted)


def nca(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = pairs_of(loss, embeddings, labels, None, ref_emb, ref_labels)
    if pairs.y is not None and pairs.relation.self_offset >= 0:
        raise NotFused("the same labels for other rows")
    return _nca_losses(loss, pairs, embeddings, labels, indices)


def _classes(loss: Any, embeddings: Tensor, labels: Any, ref_emb: Any, ref_labels: Any, weight: Tensor) -> Pairs:
    check_loss(loss, embeddings)
    if ref_emb is not embeddings or ref_labels is not labels or labels is None or labels.dtype != torch.int64:
        raise NotFused("references, or labels of another dtype than int64")
    if torch.compiler.is_compiling():  # labels out of range are refused when the graph runs, as the original's are
        if kind_of(loss).__name__ == "NormalizedSoftmaxLoss" or weight.shape[0] >= -IGNORED:  # others index by it
            labels = labels.where(labels != IGNORED, 0)
    elif labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= weight.shape[0]):
        raise NotFused("labels out of range")
    if weight.dtype != embeddings.dtype or weight.device != embeddings.device:
        raise NotFused("weights of another dtype or device")
    return _against_classes(embeddings, weight, labels.clone(), None)  # as in pairs_of


def _within_autocast(pairs: Pairs) -> Pairs:
    """Rows and classes in the dtype in which the original multiplies them."""
    assert pairs.y is not None
    x, y = multiplied(pairs.x, pairs.y)
    return replace(pairs, x=x, y=y)


def _softmax(
    loss: Any, pairs: Pairs, labels: Tensor, indices: Any, scale: Tensor | float, penalty: Tensor | float
) -> LossDict:
    values = margin_softmax(pairs, scale, penalty)
    if torch.compiler.is_compiling():
        values = values.where(labels != IGNORED, 0)
    values = weighted(values, pairs.x, labels, indices, using_ref=False)
    losses = element(loss, pairs.x, values, terms=(3 * scale, math.log(pairs.partners)))
    loss.add_weight_regularization_to_loss_dict(losses, loss.W.t())
    return losses


def _weight_of(loss: Any, embeddings: Tensor) -> Tensor:
    check_loss(loss, embeddings)
    if not isinstance(loss.W, Tensor) or loss.W.dim() != 2 or len(loss.W) != embeddings.shape[1]:
        raise NotFused("weights of another shape")
    if kind_of(loss).__name__ != "NormalizedSoftmaxLoss" and loss.num_classes != loss.W.shape[1]:
        raise NotFused("weights of other classes than num_classes")
    if loss.W.dtype != embeddings.dtype or loss.W.device != embeddings.device:
        loss.cast_types(embeddings.dtype, embeddings.device)
    return loss.W.t()


def normalized_softmax(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    normalised_products(loss)
    pairs = _within_autocast(_classes(loss, embeddings, labels, ref_emb, ref_labels, _weight_of(loss, embeddings)))
    scale = 1 / number_of(loss, "temperature", embeddings)
    return _softmax(loss, pairs, labels, indices, scale, 0.0)


def cos_face(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    normalised_products(loss)
    pairs = _within_autocast(_classes(loss, embeddings, labels, ref_emb, ref_labels, _weight_of(loss, embeddings)))
    scale = number_of(loss, "scale", embeddings)
    return _softmax(loss, pairs, labels, indices, scale, scale * number_of(loss, "margin", embeddings))


def arc_face(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    normalised_products(loss)
    pairs = _within_autocast(_classes(loss, embeddings, labels, ref_emb, ref_labels, _weight_of(loss, embeddings)))
    margin = number_of(loss, "margin", embeddings)
    if isinstance(margin, Tensor) and margin.requires_grad:
        raise NotFused("a learned margin, which the original refuses")
    scale = number_of(loss, "scale", embeddings)
    return _softmax(loss, pairs, labels, indices, scale, arc_penalty(pairs, scale, margin))


def _proxies(loss: Any, embeddings: Tensor) -> Tensor:
    check_loss(loss, embeddings)
    if loss.proxies.dtype != embeddings.dtype or loss.proxies.device != embeddings.device:
        loss.cast_types(embeddings.dtype, embeddings.device)
    return loss.proxies


def proxy_nca(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    proxies = _proxies(loss, embeddings)
    require_values()
    if not torch.equal(loss.proxy_labels.to("cpu", torch.int64), torch.arange(len(proxies))):
        raise NotFused("other labels of proxies than their places")
    pairs = _classes(loss, embeddings, labels, ref_emb, ref_labels, proxies)
    if metric_of(loss) == (Metric.sqeuclidean, True, 1.0):
        scale = _shares_scale(loss, embeddings)
        values = proxy_softmax(pairs, scale, True)
        values = weighted(values, embeddings, labels, indices, using_ref=True)
        losses = element(loss, embeddings, values, terms=(4 * plain(scale),))
    else:
        losses = _nca_losses(loss, pairs, embeddings, labels, indices)
    loss.add_weight_regularization_to_loss_dict(losses, proxies)
    return losses


def proxy_anchor(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if indices is not None:
        raise NotFused("listed pairs")
    normalised_products(loss)
    proxies = _proxies(loss, embeddings)
    require_values()
    relation = _classes(loss, embeddings, labels, ref_emb, ref_labels, proxies).relation
    if loss.num_classes != len(proxies):
        raise NotFused("proxies of other classes than num_classes")
    alpha, delta = number_of(loss, "alpha", embeddings), number_of(loss, "margin", embeddings)
    sums = LogSumExps(LogSumExp(-alpha, alpha * delta, POSITIVES), LogSumExp(alpha, alpha * delta, NEGATIVES))
    pairs = Pairs(proxies, embeddings, Relation(relation.y_ids, relation.x_ids))
    rows = pairs.reduce(sums, metric=Metric.dot, normalize=True)
    divisors = {"pos_loss": int((rows.positives > 0).sum()), "neg_loss": loss.num_classes}
    losses: LossDict = {}
    for name, column, count in zip(divisors, rows.out, (rows.positives, rows.negatives)):
        terms = (column, 4 * plain(alpha) * (1 + abs(plain(delta))))
        losses |= element(loss, embeddings, TF.softplus(column), terms=terms, exact=count == 0, name=name)
        losses[name]["divisor"] = divisors[name]
    loss.add_weight_regularization_to_loss_dict(losses, proxies)
    return losses
