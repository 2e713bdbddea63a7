"""Losses of pytorch-metric-learning on rankings, histograms and angles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl._table import MAX_BINS, Metric
from fastssl.compat._peer import NotFused, plain, require_values
from fastssl.compat.metric_learning.calls import (
    COMPARED,
    FEW_ROWS,
    LossDict,
    fixed,
    metric_of,
    normalised_products,
    number_of,
    pairs_of,
    require_all,
    weighted,
)
from fastssl.compat.metric_learning.pairs import apart
from fastssl.compat.metric_learning.reducers import element, reducer_of
from fastssl.functional._pairs import Pairs
from fastssl.functional.custom import PairMasks
from fastssl.functional.custom import pair_loss as of_strips
from fastssl.functional.metric import positive_pairs
from fastssl.ops.operator import result_dtype
from fastssl.ops.statistics import NEGATIVES, AveragePrecision, LogSumExp, RankedList
from fastssl.ops.types import Relation


def fast_ap(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if ref_emb is not embeddings or ref_labels is not labels:
        raise NotFused("references")
    if not isinstance(loss.num_bins, int) or not 1 <= loss.num_bins <= MAX_BINS or loss.num_edges != loss.num_bins + 1:
        raise NotFused(f"{loss.num_bins} bins of {loss.num_edges} edges")
    pairs = pairs_of(loss, embeddings, labels, None, ref_emb, ref_labels)
    metric, normalize, sign = metric_of(loss)
    if sign < 0:
        raise NotFused("a similarity, set after construction")
    largest = 2.0 ** float(loss.distance.power)
    rows = pairs.reduce(AveragePrecision(loss.num_bins, largest), metric=metric, normalize=normalize)
    counted = rows.positives > 0
    require_values()
    if not bool((rows.value.detach() > 0).any()):
        return loss.zero_losses()
    values = 1 - rows.value / rows.positives.clamp(min=1)
    values = weighted(values, embeddings, labels, indices, using_ref=False)
    # An average precision of 1 is a loss of 0, up to roundings of the original's sum over bins.
    return element(loss, embeddings, values, counted, terms=(plain(loss.num_bins),), exact=~counted)


def _ranks(
    pairs: Pairs, ids: Tensor, wanted: int, scale: float, term: Callable[[Tensor, Tensor, PairMasks], Tensor]
) -> Tensor:
    """``term(higher, row, pairs)`` [R] of some rows: for each of the ``wanted`` entries of their own class, itself
    included, how much higher every entry is, [entries, N] between 0 and 1, and the entry's row; the original compares
    all entries with all, [N, N, N]."""

    def of_rows(s: Tensor, masks: PairMasks) -> Tensor:
        row, entry = (masks.positive | masks.self).nonzero(as_tuple=True)
        return term(torch.sigmoid((s[row] - s[row, entry][:, None]) * scale), row, masks)

    strip = max(1, COMPARED // max(1, wanted * len(ids)))
    return of_strips(pairs.x, term=of_rows, labels=ids, reduction="none", strip=strip)


def smooth_ap(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if ref_emb is not embeddings or ref_labels is not labels or embeddings.dtype == torch.float64:
        raise NotFused("references, or float64, which the original rounds to float32")
    pairs = pairs_of(loss, embeddings, labels, None, ref_emb, ref_labels)
    normalised_products(loss)
    (temperature,) = fixed(loss, "temperature")
    require_values()
    sizes = labels.unique(return_counts=True)[1]
    if not bool((sizes == sizes[0]).all()) or not temperature > 0:
        raise NotFused("classes of several sizes, or a temperature that is not above 0")
    # The original takes blocks of as many rows as there are classes for the classes.
    size, ids = len(sizes), torch.arange(len(labels), device=embeddings.device) // len(sizes)

    def precision(higher: Tensor, row: Tensor, masks: PairMasks) -> Tensor:
        own = (masks.positive | masks.self)[row]
        ranks = ((higher * own).sum(1) + 0.5) / (higher.sum(1) + 0.5)  # 1, and without an entry's comparison to itself
        return ranks.view(-1, size).mean(1)

    values = 1 - _ranks(pairs, ids, size, 1 / temperature, precision)
    values = weighted(values, embeddings, labels, indices, using_ref=False)
    return {"ap_loss": element(loss, embeddings, values, terms=(), name="ap_loss")["ap_loss"]}


def pnp(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    require_all(embeddings, labels, indices, ref_emb, ref_labels)
    pairs = pairs_of(loss, embeddings, labels, None, ref_emb, ref_labels)
    normalised_products(loss)
    b, alpha, anneal = fixed(loss, "b", "alpha", "anneal")
    require_values()
    _, codes, sizes = labels.unique(return_inverse=True, return_counts=True)
    counted = sizes[codes] > 1
    if not bool(counted.any()):
        return loss.zero_losses()
    shapes: dict[str, Callable[[Tensor], Tensor]] = {
        "Ds": lambda rank: torch.log(1 + rank),
        "Dq": lambda rank: 1 / (1 + rank) ** alpha,
        "Iu": lambda rank: (1 + rank) * torch.log(1 + rank),
        "Ib": lambda rank: 1 / b**2 * (b * rank - torch.log(1 + b * rank)),
        "O": lambda rank: rank,
    }
    if loss.variant not in shapes or not anneal > 0:
        raise NotFused("another variant, or a temperature that is not above 0")
    shape = shapes[loss.variant]

    def penalty(higher: Tensor, row: Tensor, masks: PairMasks) -> Tensor:
        of_entries = shape((higher * masks.negative[row]).sum(1))
        return higher.new_zeros(len(masks.negative)).index_add(0, row, of_entries) / (~masks.negative).sum(1)

    values = _ranks(pairs, codes, int(sizes.max()), 1 / anneal, penalty)[counted].mean()
    values = (1 - values if loss.variant == "Dq" else values).to(result_dtype(embeddings))
    return {"loss": {"losses": values, "indices": counted.nonzero()[:, 0], "reduction_type": "already_reduced"}}


def histogram(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    """The original's histograms of its similarities, each pair of a triplet once, without lists of all triplets."""
    require_all(embeddings, labels, indices, ref_emb, ref_labels)
    pairs_of(loss, embeddings, labels, None, ref_emb, ref_labels)
    normalised_products(loss)
    require_values()
    _, codes, sizes = labels.unique(return_inverse=True, return_counts=True)
    anchor = (sizes[codes] > 1) & (sizes[codes] < len(labels))
    if not bool(anchor.any()):
        return loss.zero_losses()
    a, b = torch.triu_indices(len(labels), len(labels), 1, device=embeddings.device)
    same = codes[a] == codes[b]
    similarities = loss.distance(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)))[a, b]
    if not bool((similarities.abs() < 1).all()):
        raise NotFused("pairs at the ends of the histogram, which rounding decides about")
    positive, negative = similarities[same & anchor[a]], similarities[~same & (anchor[a] | anchor[b])]
    value = (loss.compute_density(negative) * loss.compute_density(positive).cumsum(0)).sum()
    value = value.to(result_dtype(embeddings))
    return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}


def angular(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if indices is not None:
        raise NotFused("listed pairs")
    pairs = pairs_of(loss, embeddings, labels, None, ref_emb, ref_labels)
    ids = pairs.relation.x_ids
    assert ids is not None
    require_values()
    a, p = positive_pairs(pairs)
    if len(a) <= FEW_ROWS or bool((ids == ids[0]).all()):
        raise NotFused("a handful of pairs")
    metric, normalize, _ = metric_of(loss)
    if metric != Metric.euclidean or not normalize or type(reducer_of(loss, "loss")).__name__ == "ClassWeightedReducer":
        raise NotFused("another distance, or weights of classes")
    full = torch.promote_types(embeddings.dtype, torch.float32)
    x, y = (TF.normalize(t.to(full), dim=1) for t in (embeddings, ref_emb))
    alpha = number_of(loss, "alpha", embeddings)
    square = (alpha.tan() if isinstance(alpha, Tensor) else math.tan(alpha)) ** 2
    sums = x[a] + y[p]
    # The original does not normalise the negatives.
    rows = Pairs(sums, ref_emb.to(full), Relation(ids[a], pairs.relation.y_ids)).reduce(
        LogSumExp(4 * square, over=NEGATIVES), metric=Metric.dot, normalize=False
    )
    values = TF.softplus(rows.value - 2 * (1 + square) * (x[a] * y[p]).sum(1))
    terms = rows.value, 2 * (1 + plain(square))
    losses = element(loss, embeddings, values, terms=terms, exact=rows.negatives == 0)["loss"]["losses"]
    return {"loss": {"losses": losses.unsqueeze(1), "indices": (a, p), "reduction_type": "pos_pair"}}


def ranked_list(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    require_all(embeddings, labels, indices, ref_emb, ref_labels)
    pairs = pairs_of(loss, embeddings, labels, None, ref_emb, ref_labels)
    metric, normalize, _ = metric_of(loss)
    alpha, margin, *temperatures = (number_of(loss, name, embeddings) for name in ("alpha", "margin", "Tp", "Tn"))
    apart(pairs, embeddings, metric, normalize, plain(alpha) - plain(margin))
    ranked = RankedList(alpha, margin, temperatures[0], temperatures[1], constant=1e-5 * len(embeddings))
    rows = pairs.reduce(ranked, metric=metric, normalize=normalize)
    imbalance = number_of(loss, "imbalance", embeddings)
    values = (1 - imbalance) * rows.positive + imbalance * rows.negative
    return element(loss, embeddings, values, terms=(abs(plain(loss.alpha)), abs(plain(loss.margin))))
