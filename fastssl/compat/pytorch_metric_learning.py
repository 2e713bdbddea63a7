"""pytorch-metric-learning: ``compute_loss`` of its losses, for its own distances, reducers and indices.

A loss per row goes to the reducer as it always did. A loss per pair or triplet would be the list that the kernels
avoid, so its sum and counts become what the reducers Mean, Sum, AvgNonZero and Divisor make of that list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.compat import NotFused, require_matrices
from fastssl.functional import _check as check
from fastssl.functional._pairs import Pairs, Rows
from fastssl.functional.contrastive import sup_con, sup_con_rows
from fastssl.functional.metric import NEGATIVES, POSITIVES, positive_pairs
from fastssl.functional.proxy import _against_classes, _own_cosine, arc_margin
from fastssl.ops.rows import MAX_BINS, Metric, Relation, RowLoss, pair_bits

LossDict = dict[str, dict[str, Any]]
FEW_ROWS = 4  # the original has rules of its own for one pair and none


def targets() -> list[tuple[type, str, Callable[..., Any]]]:
    from pytorch_metric_learning import losses

    table = {
        "AngularLoss": _angular,
        "ArcFaceLoss": _arc_face,
        "CircleLoss": _circle,
        "ContrastiveLoss": _contrastive,
        "CosFaceLoss": _cos_face,
        "FastAPLoss": _fast_ap,
        "GeneralizedLiftedStructureLoss": _generalized_lifted,
        "LiftedStructureLoss": _lifted,
        "MarginLoss": _margin,
        "MultiSimilarityLoss": _multi_similarity,
        "NCALoss": _nca,
        "NTXentLoss": _nt_xent,
        "NormalizedSoftmaxLoss": _normalized_softmax,
        "ProxyAnchorLoss": _proxy_anchor,
        "ProxyNCALoss": _proxy_nca,
        "RankedListLoss": _ranked_list,
        "SupConLoss": _sup_con,
        "TripletMarginLoss": _triplet,
        "TupletMarginLoss": _tuplet,
    }
    return [(getattr(losses, name), "compute_loss", fused) for name, fused in table.items() if hasattr(losses, name)]


def _reducers(loss: Any) -> list[Any]:
    reducer = loss.reducer
    return [*reducer.reducers.values(), reducer.default_reducer] if hasattr(reducer, "reducers") else [reducer]


def _check_loss(loss: Any, embeddings: Tensor) -> None:
    require_matrices(embeddings)
    if len(embeddings) <= FEW_ROWS:
        raise NotFused("a handful of rows")
    if any(getattr(m, "collect_stats", False) for m in (loss, loss.distance, loss.reducer, *_reducers(loss))):
        raise NotFused("statistics are collected")


def _metric(loss: Any) -> tuple[Metric, bool, float]:
    """Metric, whether rows are normalised, and the sign that makes larger farther."""
    from pytorch_metric_learning import distances

    d = loss.distance
    if type(d) in (distances.CosineSimilarity, distances.DotProductSimilarity) and d.power == 1 and d.p == 2:
        return Metric.dot, bool(d.normalize_embeddings), -1.0
    if type(d) is distances.LpDistance and d.p == 2 and d.power in (1, 2):
        return (Metric.euclidean if d.power == 1 else Metric.sqeuclidean), bool(d.normalize_embeddings), 1.0
    raise NotFused(f"distance {type(d).__name__} with p={d.p}, power={d.power}")


def _pairs(
    loss: Any,
    embeddings: Tensor,
    labels: Tensor | None,
    indices: Any,
    ref_emb: Tensor,
    ref_labels: Tensor | None,
    *,
    listed: str = "as a mask",
) -> Pairs:
    """``listed``: what the original does with listed pairs: "as a mask", "one by one" (repeats count), or "no"."""
    _check_loss(loss, embeddings)
    y = None if ref_emb is embeddings else ref_emb
    if ref_emb.dtype != embeddings.dtype or ref_emb.device != embeddings.device or len(ref_emb) <= FEW_ROWS:
        raise NotFused("references of another kind, or a handful of them")
    if indices is None:
        if (
            labels is None
            or ref_labels is None
            or labels.dtype not in check.INTEGERS
            or ref_labels.dtype not in check.INTEGERS
        ):
            raise NotFused("labels that are no integers")
        offset = 0 if ref_labels is labels else -1
        if offset == 0 and y is not None and len(embeddings) > len(ref_emb):
            raise NotFused("the same labels for more rows than references")
        if y is None and ref_labels is not labels:
            raise NotFused("the same rows with other labels")
        return Pairs(
            embeddings, y, Relation(labels.long().contiguous(), ref_labels.long().contiguous(), self_offset=offset)
        )
    if listed == "no" or (listed == "one by one" and len(indices) == 3):
        raise NotFused("listed triplets")
    lists = [t.to(embeddings.device).long().contiguous() for t in indices]
    a, p, b, n = (lists[0], lists[1], lists[0], lists[2]) if len(lists) == 3 else lists
    if all(len(t) <= 1 for t in lists):
        raise NotFused("a handful of listed pairs")
    rows, columns = len(embeddings), len(ref_emb)
    try:
        (positive_bits, distinct_p), (negative_bits, distinct_n) = (
            pair_bits(pair, rows, columns) for pair in ((a, p), (b, n))
        )
    except RuntimeError as error:
        raise NotFused("listed pairs out of range") from error
    if listed == "one by one" and (distinct_p < len(a) or distinct_n < len(b)):
        raise NotFused("pairs that are listed more than once")
    if bool((positive_bits & negative_bits).any()):
        raise NotFused("pairs that are both positive and negative")
    return Pairs(embeddings, y, Relation(positive_list=(a, p), negative_list=(b, n)))


def _element(embeddings: Tensor, values: Tensor, rows: Tensor | None = None) -> LossDict:
    indices, kept = torch.arange(len(values), device=embeddings.device), values
    if rows is not None:
        indices, kept = indices[rows], values[rows]
    return {"loss": {"losses": kept.to(embeddings.dtype), "indices": indices, "reduction_type": "element"}}


def _reduced(loss: Any, name: str, embeddings: Tensor, total: Tensor, active: Tensor, count: Tensor) -> dict[str, Any]:
    """What the loss's reducer makes of a list with this sum, this many entries above 0 and this many in all."""
    from pytorch_metric_learning import reducers

    reducer = loss.reducer
    if type(reducer) is reducers.MultipleReducers:
        named = dict(reducer.reducers.items())
        reducer = named.get(name, reducer.default_reducer)
    divisor = {
        reducers.AvgNonZeroReducer: active,
        reducers.MeanReducer: count,
        getattr(reducers, "SumReducer", None): torch.ones_like(total),
    }.get(type(reducer))
    if divisor is None:
        raise NotFused(f"{type(reducer).__name__} wants every entry")
    value = (total / divisor.clamp(min=1)).to(embeddings.dtype)
    return {"losses": value, "indices": None, "reduction_type": "already_reduced"}


def _nothing(loss: Any, rows: Rows) -> bool:
    return not bool(rows.positives.any()) or not bool(rows.negatives.any())


def _contrastive(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = _metric(loss)
    whole = pairs.within
    rows = pairs.rows(
        RowLoss.hinge,
        sign,
        float(loss.pos_margin),
        float(loss.neg_margin),
        1,
        metric=metric,
        normalize=normalize,
        upper=whole,
    )
    twice = 2 if whole else 1  # the list holds both orders of a pair
    positive, positive_active, negative, negative_active = (column.sum() * twice for column in rows.out)
    return {
        "pos_loss": _reduced(loss, "pos_loss", embeddings, positive, positive_active, rows.positives.sum()),
        "neg_loss": _reduced(loss, "neg_loss", embeddings, negative, negative_active, rows.negatives.sum()),
    }


def _triplet(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if loss.swap or loss.triplets_per_anchor != "all":
        raise NotFused("swapped or sampled triplets")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = _metric(loss)
    smooth = bool(loss.smooth_loss)
    rows = pairs.rows(RowLoss.triplet, sign, float(loss.margin), float(smooth), metric=metric, normalize=normalize)
    count = (rows.positives * rows.negatives).sum()
    if not count:
        return loss.zero_losses()
    active = count if smooth else rows.out[1].sum().detach()
    return {"loss": _reduced(loss, "loss", embeddings, rows.out[0].sum(), active, count)}


def _lifted(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if indices is not None or ref_emb is not embeddings:
        raise NotFused("listed pairs or references")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    metric, normalize, sign = _metric(loss)
    rows = pairs.rows(
        RowLoss.lifted, sign, sign * loss.neg_margin, -sign * loss.pos_margin, 1, metric=metric, normalize=normalize
    )
    if _nothing(loss, rows):
        return loss.zero_losses()
    total, active = rows.out[1].sum() / 2, rows.out[2].sum().detach()
    return {"loss": _reduced(loss, "loss", embeddings, total, active, rows.positives.sum())}


def _sums(
    pairs: Pairs, loss: Any, positive: tuple[float, float], negative: tuple[float, float], circle: bool = False
) -> Rows:
    metric, normalize, _ = _metric(loss)
    return pairs.rows(
        RowLoss.lse,
        *(positive[0], negative[0], positive[1], negative[1]),
        *(POSITIVES, NEGATIVES, float(circle)),
        metric=metric,
        normalize=normalize,
    )


def _generalized_lifted(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    sign = _metric(loss)[2]
    rows = _sums(pairs, loss, (sign, -sign * loss.pos_margin), (-sign, sign * loss.neg_margin))
    zero = torch.zeros_like(rows.out[0])
    positive = torch.where(rows.positives > 0, rows.out[0], zero)
    negative = torch.where(rows.negatives > 0, rows.out[1], zero)
    losses = _element(embeddings, torch.relu(positive + negative))
    losses["loss"]["losses"] = losses["loss"]["losses"].unsqueeze(1)  # the original's shape
    return losses


def _multi_similarity(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    sign = _metric(loss)[2]
    a, b, base = float(loss.alpha) * sign, -float(loss.beta) * sign, float(loss.base)
    rows = _sums(pairs, loss, (a, -a * base), (b, -b * base))
    values = TF.softplus(rows.out[0]) / loss.alpha + TF.softplus(rows.out[1]) / loss.beta
    losses = _element(embeddings, values)
    losses["loss"]["losses"] = losses["loss"]["losses"].unsqueeze(1)
    return losses


def _circle(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if loss.delta_p != 1 - loss.m or loss.op != 1 + loss.m or loss.on != -loss.m or loss.delta_n != loss.m:
        raise NotFused("optima that were set by hand")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    rows = _sums(pairs, loss, (float(loss.gamma), float(loss.m)), (float(loss.gamma), float(loss.m)), circle=True)
    zero = torch.zeros_like(rows.out[0])
    both = torch.where(rows.complete, rows.out[0], zero) + torch.where(rows.complete, rows.out[1], zero)
    losses = _element(embeddings, torch.where(rows.complete, TF.softplus(both), zero))
    losses["loss"]["losses"] = losses["loss"]["losses"].unsqueeze(1)
    return losses


def _sup_con(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    metric, normalize, sign = _metric(loss)
    scale = -sign / float(loss.temperature)
    if pairs.within and metric == Metric.dot:
        ids = pairs.relation.x_ids
        assert ids is not None
        if bool((ids == ids[0]).all()) or len(torch.unique(ids)) == len(ids):
            return loss.zero_losses()
        values = sup_con(embeddings, ids, temperature=1 / scale, normalize=normalize, reduction="none")
    else:
        values, rows = sup_con_rows(pairs, scale, metric, normalize)
        if _nothing(loss, rows):
            return loss.zero_losses()
    return _element(embeddings, values)


def _nt_xent(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = _metric(loss)
    if not normalize or (2 if metric == Metric.dot else 4) > 80 * float(loss.temperature):
        raise NotFused("shares that underflow, which the original cuts off")
    rows = pairs.rows(RowLoss.softplus, -sign / float(loss.temperature), 0, metric=metric, normalize=normalize)
    if _nothing(loss, rows):
        return loss.zero_losses()
    count = rows.positives.sum()
    return {"loss": _reduced(loss, "loss", embeddings, rows.out[0].sum(), count, count)}


def _tuplet(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    rows = pairs.rows(RowLoss.softplus, float(loss.scale), float(loss.margin), metric=Metric.dot, normalize=True)
    if _nothing(loss, rows):
        return loss.zero_losses()
    count = rows.positives.sum()
    return {"loss": _reduced(loss, "loss", embeddings, rows.out[0].sum(), count, count)}


def _margin(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    from pytorch_metric_learning import reducers

    if loss.triplets_per_anchor != "all":
        raise NotFused("sampled triplets")
    if type(loss.reducer) is not reducers.MultipleReducers or any(
        type(r) is not reducers.DivisorReducer for r in loss.reducer.reducers.values()
    ):
        raise NotFused("a reducer that wants every entry")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = _metric(loss)
    beta = loss.beta.to(embeddings)
    if len(beta) > 1 and labels is None:
        raise NotFused("boundaries of classes without labels")
    per_row = beta.expand(len(embeddings)) if len(beta) == 1 else beta[labels]
    slack = float(loss.margin)
    rows = pairs.rows(
        RowLoss.hinge, sign, -sign * slack, sign * slack, 1, metric=metric, normalize=normalize, row_value=per_row
    )
    triplets = rows.positives * rows.negatives
    if not triplets.any():
        return loss.zero_losses()
    positive, positive_active, negative, negative_active = rows.out
    # Every positive pair stands in as many triplets as its anchor has negatives, and the other way round.
    total = (positive * rows.negatives + negative * rows.positives).sum()
    divisor = (positive_active * rows.negatives + negative_active * rows.positives).sum().detach()
    for reducer in loss.reducer.reducers.values():
        reducer.divisor = divisor.long()
    value = (total / divisor.clamp(min=1)).to(embeddings.dtype)
    regularised: dict[str, Any] = loss.zero_loss()
    if loss.learn_beta and len(beta) == 1:
        regularised = {"losses": beta * loss.nu, "indices": None, "reduction_type": "already_reduced"}
    elif loss.learn_beta:
        weighted = (per_row * loss.nu * triplets).sum() / divisor.clamp(min=1)
        regularised = {"losses": weighted.to(embeddings.dtype), "indices": None, "reduction_type": "already_reduced"}
    return {
        "margin_loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"},
        "beta_reg_loss": regularised,
    }


def _weights(embeddings: Tensor, labels: Tensor, indices: Any, using_ref: bool = False) -> Tensor | None:
    from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

    if indices is None:
        return None
    weights: Tensor = lmu.convert_to_weights(indices, labels, dtype=embeddings.dtype, using_ref=using_ref)
    return weights


def _nca_losses(loss: Any, pairs: Pairs, embeddings: Tensor, labels: Tensor, indices: Any) -> LossDict:
    metric, normalize, sign = _metric(loss)
    scale = float(loss.softmax_scale)
    if not normalize or scale * 4 > 80:
        raise NotFused("shares that underflow, which the original drops")
    rows = pairs.rows(
        RowLoss.lse, -sign * scale, -sign * scale, 0, 0, POSITIVES, NEGATIVES, metric=metric, normalize=normalize
    )
    counted = rows.positives > 0
    values = TF.softplus(rows.out[1] - torch.where(counted, rows.out[0], torch.zeros_like(rows.out[0])))
    weights = _weights(embeddings, labels, indices, using_ref=pairs.y is not None)
    if weights is not None:
        values = values * weights.to(values.dtype)
    return _element(embeddings, values, counted)


def _nca(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    if pairs.y is not None and pairs.relation.self_offset >= 0:
        raise NotFused("the same labels for other rows")
    return _nca_losses(loss, pairs, embeddings, labels, indices)


def _fast_ap(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if ref_emb is not embeddings or ref_labels is not labels or loss.num_bins > MAX_BINS:
        raise NotFused("references, or many bins")
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    metric, normalize, _ = _metric(loss)
    largest = 2.0 ** float(loss.distance.power)
    rows = pairs.rows(RowLoss.fast_ap, float(loss.num_bins), largest, metric=metric, normalize=normalize)
    counted = rows.positives > 0
    if not bool((rows.out[0].detach() > 0).any()):
        return loss.zero_losses()
    values = 1 - rows.out[0] / rows.positives.clamp(min=1)
    weights = _weights(embeddings, labels, indices)
    if weights is not None:
        values = values * weights.to(values.dtype)
    return _element(embeddings, values, counted)


def _angular(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if indices is not None:
        raise NotFused("listed pairs")
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    ids = pairs.relation.x_ids
    assert ids is not None
    a, p = positive_pairs(pairs)
    if len(a) <= FEW_ROWS or bool((ids == ids[0]).all()):
        raise NotFused("a handful of pairs")
    x, y = TF.normalize(embeddings, dim=1), TF.normalize(ref_emb, dim=1)
    square = float(torch.tan(loss.alpha) ** 2)
    sums = x[a] + y[p]
    # The original takes the negatives as they are, not normalised.
    rows = Pairs(sums, ref_emb, Relation(ids[a], pairs.relation.y_ids)).rows(
        RowLoss.lse, 4 * square, 0, 0, 0, NEGATIVES, 0, metric=Metric.dot, normalize=False
    )
    values = TF.softplus(rows.out[0] - 2 * (1 + square) * (x[a] * y[p]).sum(1)).to(embeddings.dtype)
    return {"loss": {"losses": values.unsqueeze(1), "indices": (a, p), "reduction_type": "pos_pair"}}


def _ranked_list(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if indices is not None or ref_emb is not embeddings or ref_labels is not labels:
        raise NotFused("listed pairs or references")
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    metric, normalize, _ = _metric(loss)
    rows = pairs.rows(
        RowLoss.ranked_list,
        *(float(loss.alpha), float(loss.margin), float(loss.Tp), float(loss.Tn), 1e-5 * len(embeddings)),
        metric=metric,
        normalize=normalize,
    )
    return _element(embeddings, (1 - loss.imbalance) * rows.out[0] + loss.imbalance * rows.out[1])


def _classes(loss: Any, embeddings: Tensor, labels: Any, ref_emb: Any, ref_labels: Any, weight: Tensor) -> Pairs:
    _check_loss(loss, embeddings)
    if ref_emb is not embeddings or ref_labels is not labels or labels is None or labels.dtype not in check.INTEGERS:
        raise NotFused("references, or labels that are no integers")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= weight.shape[0]):
        raise NotFused("labels out of range")
    if weight.dtype != embeddings.dtype or weight.device != embeddings.device:
        raise NotFused("weights of another dtype or device")
    return _against_classes(embeddings, weight, labels, None)


def _softmax(loss: Any, pairs: Pairs, labels: Tensor, indices: Any, scale: float, target: Tensor) -> LossDict:
    rows = pairs.rows(RowLoss.lse, scale, 0, 0, 0, NEGATIVES, 0, metric=Metric.dot, normalize=True)
    values = TF.softplus(rows.out[0] - scale * target.to(rows.out[0].dtype))
    weights = _weights(pairs.x, labels, indices)
    if weights is not None:
        values = values * weights.to(values.dtype)
    losses = _element(pairs.x, values)
    loss.add_weight_regularization_to_loss_dict(losses, loss.W.t())
    return losses


def _weight_of(loss: Any, embeddings: Tensor) -> Tensor:
    if loss.W.dtype != embeddings.dtype or loss.W.device != embeddings.device:
        loss.cast_types(embeddings.dtype, embeddings.device)
    return loss.W.t()


def _normalised_products(loss: Any) -> None:
    metric, normalize, _ = _metric(loss)
    if metric != Metric.dot or not normalize:
        raise NotFused("another distance than the cosine")


def _normalized_softmax(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    _normalised_products(loss)
    pairs = _classes(loss, embeddings, labels, ref_emb, ref_labels, _weight_of(loss, embeddings))
    return _softmax(loss, pairs, labels, indices, 1 / float(loss.temperature), _own_cosine(pairs))


def _cos_face(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = _classes(loss, embeddings, labels, ref_emb, ref_labels, _weight_of(loss, embeddings))
    return _softmax(loss, pairs, labels, indices, float(loss.scale), _own_cosine(pairs) - float(loss.margin))


def _arc_face(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = _classes(loss, embeddings, labels, ref_emb, ref_labels, _weight_of(loss, embeddings))
    target = arc_margin(_own_cosine(pairs), float(loss.margin))
    return _softmax(loss, pairs, labels, indices, float(loss.scale), target)


def _proxies(loss: Any, embeddings: Tensor) -> Tensor:
    if loss.proxies.dtype != embeddings.dtype or loss.proxies.device != embeddings.device:
        loss.cast_types(embeddings.dtype, embeddings.device)
    return loss.proxies


def _proxy_nca(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    proxies = _proxies(loss, embeddings)
    pairs = _classes(loss, embeddings, labels, ref_emb, ref_labels, proxies)
    losses = _nca_losses(loss, pairs, embeddings, labels, indices)
    loss.add_weight_regularization_to_loss_dict(losses, proxies)
    return losses


def _proxy_anchor(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if indices is not None:
        raise NotFused("listed pairs")
    _normalised_products(loss)
    proxies = _proxies(loss, embeddings)
    relation = _classes(loss, embeddings, labels, ref_emb, ref_labels, proxies).relation
    alpha, delta = float(loss.alpha), float(loss.margin)
    rows = Pairs(proxies, embeddings, Relation(relation.y_ids, relation.x_ids)).rows(
        RowLoss.lse,
        *(-alpha, alpha, alpha * delta, alpha * delta, POSITIVES, NEGATIVES),
        metric=Metric.dot,
        normalize=True,
    )
    indices = torch.arange(len(proxies), device=embeddings.device)
    divisors = {"pos_loss": int((rows.positives > 0).sum()), "neg_loss": loss.num_classes}
    losses: LossDict = {
        name: {
            "losses": TF.softplus(column).to(embeddings.dtype),
            "indices": indices,
            "reduction_type": "element",
            "divisor": divisors[name],
        }
        for name, column in zip(divisors, rows.out)
    }
    loss.add_weight_regularization_to_loss_dict(losses, proxies)
    return losses
