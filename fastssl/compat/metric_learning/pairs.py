"""Losses of pytorch-metric-learning on pairs and triplets."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl._table import Metric
from fastssl.compat._dtypes import multiplied
from fastssl.compat._peer import NotFused, plain, require_values
from fastssl.compat.metric_learning.calls import LossDict, metric_of, normalised_products, number_of, pairs_of
from fastssl.compat.metric_learning.reducers import (
    element,
    least_of,
    nan_if_overflown,
    nothing,
    reduced,
    reducer_of,
    require_sums,
    tolerance_of,
    without_zeros,
)
from fastssl.functional._pairs import Pairs, Rows
from fastssl.functional.contrastive import sup_con, sup_con_rows
from fastssl.ops.operator import result_dtype
from fastssl.ops.pair_loss import LINEAR_CROSS_ENTROPY, SUP_CON, pair_loss
from fastssl.ops.statistics import (
    NEGATIVES,
    POSITIVES,
    HardestPair,
    Hinge,
    LiftedPairs,
    LogSumExp,
    LogSumExps,
    SoftplusPerPositive,
    Triplets,
)


def apart(pairs: Pairs, embeddings: Tensor, metric: Metric, normalize: bool, border: float) -> None:
    """Ranked lists leave out pairs at distance 0, which rounding may put apart: negatives, and positives above
    ``border``."""
    if metric == Metric.dot or (normalize and embeddings.shape[1] == 1):  # -1 and 1 are exact
        return
    require_values()
    with torch.no_grad():
        rows = pairs.reduce(HardestPair(1), metric=metric, normalize=normalize)
        nearest = rows.negative[rows.negatives > 0]
        squares = 1.0 if normalize else embeddings.double().square().sum(1)
    least = tolerance_of(embeddings, squares)
    least = math.sqrt(least) if metric == Metric.euclidean else least
    if border <= least or bool((nearest <= least).any()):
        raise NotFused("pairs at distance 0, which rounding decides about")


def contrastive(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    require_sums(loss, "pos_loss", "neg_loss")
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = metric_of(loss)
    without_zeros(normalize, embeddings, ref_emb)
    whole = pairs.within
    above, below = (number_of(loss, name, embeddings) for name in ("pos_margin", "neg_margin"))
    rows = pairs.reduce(
        Hinge(sign, above, below),
        metric=metric,
        normalize=normalize,
        upper=whole,
    )
    twice = 2 if whole else 1  # both orders of a pair are listed
    positive, positive_active, negative, negative_active = (column.sum() * twice for column in rows.out)
    positives, negatives = rows.positives.sum(), rows.negatives.sum()
    # The distance, or the similarity, of equal rows; products of rows of any length have none.
    identical = plain(loss.pos_margin) == (0 if sign > 0 else 1) and (sign > 0 or bool(normalize))
    if identical:
        require_values()
    if identical and bool(positive_active != positives):
        raise NotFused("positive pairs at no distance, which the original's rounding decides about")
    return {
        "pos_loss": reduced(loss, "pos_loss", embeddings, positive, positive_active, positives),
        "neg_loss": reduced(loss, "neg_loss", embeddings, negative, negative_active, negatives),
    }


def threshold_consistent(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    if ref_emb is not embeddings:
        raise NotFused("references, in whose stead the original takes rows of the embeddings")
    normalised_products(loss)
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    require_values()
    if not bool((embeddings.detach().double().norm(dim=1) > 1e-8).all()):
        raise NotFused("rows whose length the original raises to 1e-8")
    above, below = (number_of(loss, name, embeddings) for name in ("margin_plus", "margin_minus"))

    def sums(above: Tensor | float, below: Tensor | float) -> list[Tensor]:
        rows = pairs.reduce(Hinge(-1.0, above, below), metric=Metric.dot, normalize=True, upper=pairs.within)
        return [column.sum() for column in rows.out]

    positive, positive_active, negative, negative_active = sums(above, below)
    # Pairs at a margin add nothing to a sum, and to its divisor 1 or, by rounding, 0: one of 2,000 in float32, none in
    # float64, as no more get there by chance.
    eps = torch.finfo(result_dtype(embeddings)).eps
    with torch.no_grad():
        more, less = (sums(plain(above) + step, plain(below) - step) for step in (4 * eps, -4 * eps))
    if any(bool(more[k] - less[k] > 4096 * eps * less[k]) for k in (1, 3)):
        raise NotFused("pairs at a margin, which rounding decides about")
    parts = (positive, positive_active), (negative, negative_active)
    means = ((total / active.detach()).to(result_dtype(embeddings)) if active else 0 for total, active in parts)
    value = sum(weight * mean for weight, mean in zip((loss.lambda_plus, loss.lambda_minus), means))
    return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}


def triplet(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    require_sums(loss, "loss")
    if loss.swap or loss.triplets_per_anchor != "all":
        raise NotFused("swapped or sampled triplets")
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = metric_of(loss)
    smooth, margin = bool(loss.smooth_loss), number_of(loss, "margin", embeddings)
    if smooth and not normalize and type(reducer_of(loss, "loss")).__name__ == "AvgNonZeroReducer":
        raise NotFused("losses that may underflow, which the reducer does not count")
    require_values()
    if not smooth:
        without_zeros(normalize, embeddings, ref_emb)
    rows = pairs.reduce(Triplets(sign, margin, smooth), metric=metric, normalize=normalize)
    count = (rows.positives * rows.negatives).sum()
    if not count:
        return loss.zero_losses()
    active = count if smooth else rows.active.sum().detach()
    return {"loss": reduced(loss, "loss", embeddings, rows.total.sum(), active, count)}


def lifted(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    require_sums(loss, "loss")
    if indices is not None or ref_emb is not embeddings:
        raise NotFused("listed pairs or references")
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels)
    metric, normalize, sign = metric_of(loss)
    shifts = sign * number_of(loss, "neg_margin", embeddings), -sign * number_of(loss, "pos_margin", embeddings)
    rows = pairs.reduce(LiftedPairs(sign, *shifts), metric=metric, normalize=normalize)
    if nothing(loss, rows):
        return loss.zero_losses()
    total = (rows.total * nan_if_overflown(rows.lse, rows.negatives)).sum() / 2
    active = rows.active.sum().detach()
    return {"loss": reduced(loss, "loss", embeddings, total, active, rows.positives.sum())}


Line = tuple[Tensor | float, Tensor | float]  # a factor and a shift of scores


def _sums(pairs: Pairs, loss: Any, positive: Line, negative: Line, circle: bool = False) -> Rows:
    metric, normalize, _ = metric_of(loss)
    sums = LogSumExps(LogSumExp(*positive, POSITIVES), LogSumExp(*negative, NEGATIVES), circle)
    return pairs.reduce(sums, metric=metric, normalize=normalize)


def generalized_lifted(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels)
    sign = metric_of(loss)[2]
    shifts = -sign * number_of(loss, "pos_margin", embeddings), sign * number_of(loss, "neg_margin", embeddings)
    rows = _sums(pairs, loss, (sign, shifts[0]), (-sign, shifts[1]))
    zero = torch.zeros_like(rows.first)
    positive = torch.where(rows.positives > 0, rows.first, zero)
    negative = torch.where(rows.negatives > 0, rows.second, zero)
    both = (positive + negative) * nan_if_overflown(rows.second, rows.negatives)
    exact = ~rows.complete & (rows.positives == 0) & (rows.negatives == 0)
    losses = element(loss, embeddings, both, terms=(positive, negative), exact=exact)
    losses["loss"]["losses"] = torch.relu(losses["loss"]["losses"])
    losses["loss"]["losses"] = losses["loss"]["losses"].unsqueeze(1)  # the original's shape
    return losses


def multi_similarity(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels)
    sign = metric_of(loss)[2]
    alpha, beta, base = (number_of(loss, name, embeddings) for name in ("alpha", "beta", "base"))
    if plain(alpha) == 0 or plain(beta) == 0:
        raise NotFused("a factor of 0")
    a, b = alpha * sign, -beta * sign
    rows = _sums(pairs, loss, (a, -a * base), (b, -b * base))
    values = TF.softplus(rows.first) / alpha + TF.softplus(rows.second) / beta
    exact = (rows.positives == 0) & (rows.negatives == 0)
    losses = element(loss, embeddings, values, terms=rows.out[:2], exact=exact)
    losses["loss"]["losses"] = losses["loss"]["losses"].unsqueeze(1)
    return losses


def circle(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if any(isinstance(v, Tensor) for v in (loss.m, loss.op, loss.on, loss.delta_p, loss.delta_n)):
        raise NotFused("optima that are tensors")
    if loss.delta_p != 1 - loss.m or loss.op != 1 + loss.m or loss.on != -loss.m or loss.delta_n != loss.m:
        raise NotFused("optima that were set by hand")
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels)
    line = number_of(loss, "gamma", embeddings), number_of(loss, "m", embeddings)
    rows = _sums(pairs, loss, line, line, circle=True)
    zero = torch.zeros_like(rows.first)
    both = torch.where(rows.complete, rows.first, zero) + torch.where(rows.complete, rows.second, zero)
    values = torch.where(rows.complete, TF.softplus(both), zero)
    losses = element(loss, embeddings, values, terms=rows.out[:2], exact=~rows.complete)
    losses["loss"]["losses"] = losses["loss"]["losses"].unsqueeze(1)
    return losses


def sup_con_loss(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels)
    metric, normalize, sign = metric_of(loss)
    scale = -sign / number_of(loss, "temperature", embeddings)
    require_values()
    if pairs.within and metric == Metric.dot:
        ids = pairs.relation.x_ids
        assert ids is not None
        _, codes, sizes = torch.unique(ids, return_inverse=True, return_counts=True)
        if len(sizes) in (1, len(ids)):
            return loss.zero_losses()
        if not isinstance(scale, Tensor) and scale <= 0:
            raise NotFused("a negative temperature")
        values = sup_con(multiplied(embeddings)[0], ids, temperature=1 / scale, normalize=normalize, reduction="none")
        exact = sizes[codes] < 2
    else:
        if metric != Metric.dot:  # two sweeps, whose gradients are added before they are rounded to 16 bits, not after
            full = result_dtype(pairs.x)
            y = None if pairs.y is None else pairs.y.to(full)
            pairs = dataclasses.replace(pairs, x=pairs.x.to(full), y=y)
        values, rows = sup_con_rows(pairs, scale, metric, normalize)
        exact = rows.positives == 0
        if nothing(loss, rows):
            return loss.zero_losses()
    return element(loss, embeddings, values, terms=(_of_scores(pairs, scale, normalize),), exact=exact)


def _of_scores(pairs: Pairs, scale: Tensor | float, normalize: bool) -> float:
    """An upper bound of scaled scores."""
    if normalize:
        return 4 * abs(plain(scale))
    sides = (pairs.x, pairs.x if pairs.y is None else pairs.y)
    lengths = [float(t.detach().double().norm(dim=1).max()) for t in sides]
    return 4 * abs(plain(scale)) * max(lengths) ** 2


def nt_xent(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    require_sums(loss, "loss")
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = metric_of(loss)
    temperature = number_of(loss, "temperature", embeddings)
    if not normalize or not (2 if metric == Metric.dot else 4) <= 80 * plain(temperature):
        raise NotFused("shares that underflow, which the original cuts off")
    scale = -sign / temperature
    if metric == Metric.dot and (values := _of_one_positive(pairs, scale)) is not None:
        every = values.new_full((), len(values))

        def of_rows() -> float:
            return float(values.detach().min()) - tolerance_of(embeddings, 4 * plain(scale), values)

        return {"loss": reduced(loss, "loss", embeddings, values.sum(), every, every, of_rows)}
    rows = pairs.reduce(SoftplusPerPositive(scale), metric=metric, normalize=normalize)
    if nothing(loss, rows):
        return loss.zero_losses()
    count, largest = rows.positives.sum(), plain(scale) if metric == Metric.dot else 0.0
    least = least_of(embeddings, rows, largest, 4 * plain(scale))
    return {"loss": reduced(loss, "loss", embeddings, rows.total.sum(), count, count, least)}


def _of_one_positive(pairs: Pairs, scale: Tensor | float) -> Tensor | None:
    """NT-Xent [N] by the loss of pairs, which takes less time than sums of rows; None: not every row has one positive,
    and negatives."""
    x_ids, y_ids = pairs.relation.x_ids, pairs.relation.y_ids
    if x_ids is None or not len(x_ids):
        return None
    x: Tensor
    y: Tensor | None
    if pairs.within:
        order = x_ids.sort().values
        if len(order) % 2 or len(order) < 4:
            return None
        alone = (order[::2] == order[1::2]).all() & (order[1:-1:2] != order[2::2]).all()
        loss, (x,), y, ids = SUP_CON, multiplied(pairs.x), None, x_ids
    elif pairs.y is not None and y_ids is not None and len(y_ids) > 1 and pairs.relation.self_offset < 0:
        order, places = y_ids.sort()
        found = torch.searchsorted(order, x_ids).clamp(max=len(order) - 1)
        alone = (order[1:] != order[:-1]).all() & (order[found] == x_ids).all()
        (x, y), loss, ids = multiplied(pairs.x, pairs.y), LINEAR_CROSS_ENTROPY, places[found]
    else:
        return None
    require_values()
    if not bool(alone):
        return None
    return pair_loss(loss, x, None, y, ids=ids, scale=scale, normalize=True, reduction="none").double()


def tuplet(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    require_sums(loss, "loss")
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    normalised_products(loss)
    scale, margin = number_of(loss, "scale", embeddings), number_of(loss, "margin", embeddings)
    rows = pairs.reduce(SoftplusPerPositive(scale, margin), metric=Metric.dot, normalize=True)
    if nothing(loss, rows):
        return loss.zero_losses()
    count = rows.positives.sum()
    least = least_of(embeddings, rows, plain(scale), 4 * plain(scale))
    return {"loss": reduced(loss, "loss", embeddings, rows.total.sum(), count, count, least)}


def margin(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    from pytorch_metric_learning import reducers

    if loss.triplets_per_anchor != "all":
        raise NotFused("sampled triplets")
    if type(loss.reducer) is not reducers.MultipleReducers or any(
        type(r) is not reducers.DivisorReducer for r in loss.reducer.reducers.values()
    ):
        raise NotFused("a reducer that wants every entry")
    require_values()
    pairs = pairs_of(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = metric_of(loss)
    if loss.beta.dim() != 1 or not loss.beta.is_floating_point():
        raise NotFused("boundaries of another shape or kind")
    beta = loss.beta.to(embeddings.device, torch.promote_types(embeddings.dtype, torch.float32))
    if len(beta) > 1 and labels is None:
        raise NotFused("boundaries of classes without labels")
    per_row = beta.expand(len(embeddings)) if len(beta) == 1 else beta[labels.clone()]
    slack, nu = number_of(loss, "margin", embeddings), number_of(loss, "nu", embeddings)
    hinge = Hinge(sign, -sign * slack, sign * slack)
    rows = pairs.reduce(hinge, metric=metric, normalize=normalize, row_value=per_row)
    triplets = rows.positives * rows.negatives
    if not triplets.any():
        return loss.zero_losses()
    positive, positive_active, negative, negative_active = rows.out
    # A positive pair is in as many triplets as its anchor has negatives, and vice versa.
    total = (positive * rows.negatives + negative * rows.positives).sum()
    divisor = (positive_active * rows.negatives + negative_active * rows.positives).sum().detach()
    for name, reducer in loss.reducer.reducers.items():  # what the original leaves there
        if name == "margin_loss" or (loss.learn_beta and len(beta) > 1):
            reducer.divisor = divisor.long()
    value = (total / divisor.clamp(min=1)).to(result_dtype(embeddings))
    regularised: dict[str, Any] = loss.zero_loss()
    if loss.learn_beta and len(beta) == 1:
        regularised = {
            "losses": (beta * nu).to(result_dtype(embeddings)),
            "indices": None,
            "reduction_type": "already_reduced",
        }
    elif loss.learn_beta:
        weighted = (per_row * nu * triplets).sum() / divisor.clamp(min=1)
        regularised = {
            "losses": weighted.to(result_dtype(embeddings)),
            "indices": None,
            "reduction_type": "already_reduced",
        }
    return {
        "margin_loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"},
        "beta_reg_loss": regularised,
    }
