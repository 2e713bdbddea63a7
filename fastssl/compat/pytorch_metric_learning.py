"""pytorch-metric-learning: ``compute_loss`` of its losses, for the library's distances, reducers and indices; triplets.

Losses per row are passed to the reducer. Losses per pair or triplet are never materialised: the results of the
reducers Mean, Sum, AvgNonZero and Divisor are computed from their sum and counts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl._table import MAX_BINS, Metric
from fastssl.compat import _everywhere as everywhere
from fastssl.compat._dtypes import BY_DIFFERENCES, in_autocast, multiplied
from fastssl.compat._peer import (
    Around,
    Check,
    NotFused,
    Peer,
    Target,
    default,
    kind_of,
    lasting,
    number,
    plain,
    require_alone,
    require_matrices,
    require_values,
)
from fastssl.compat._sizes import (
    HISTOGRAMS,
    MASKED_MATRICES,
    MATRIX,
    PAIRS_OF_PAIRS,
    TRIPLETS,
    require_covariances,
    require_scores,
)
from fastssl.functional import _check as check
from fastssl.functional._pairs import Pairs, Rows
from fastssl.functional.contrastive import sup_con, sup_con_rows
from fastssl.functional.custom import PairMasks
from fastssl.functional.custom import pair_loss as of_strips
from fastssl.functional.metric import positive_pairs
from fastssl.functional.proxy import _against_classes, arc_penalty, margin_softmax, proxy_softmax
from fastssl.functional.redundancy import vicreg
from fastssl.ops.operator import result_dtype
from fastssl.ops.pair_loss import LINEAR_CROSS_ENTROPY, SUP_CON, pair_loss
from fastssl.ops.rows import pair_bits
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
    SoftplusPerPositive,
    Triplets,
)
from fastssl.ops.types import Relation

LossDict = dict[str, dict[str, Any]]
FEW_ROWS = 4  # the original has special cases for one pair and none
IGNORED = -100  # label of rows whose cross-entropy is 0
COMPARED = 2**20  # entries of rows that are compared at a time
LISTED = 2**24  # distances of a miner that are compared at a time
LOOPED = 2**31 - 1  # entries of [N, M, M] from which on the original's triplets are made row by row
ROUNDINGS = 16  # tolerance of the original's loss, in roundings of its largest term

_RECORDS = ("collect_stats", "_record_these")
_LOSS = (*_RECORDS, "embedding_regularizer", "embedding_reg_weight", "distance", "reducer")
_PAIRS = (*_LOSS, "loss_method")
_WEIGHTED = (*_LOSS, "weight_regularizer", "weight_reg_weight", "weight_init_func", "num_classes")
_MINER = (*_RECORDS, "distance", "num_pos_pairs", "num_neg_pairs", "num_triplets")
_DISTANCE = (*_RECORDS, "normalize_embeddings", "p", "power", "is_inverted")


def _any(*names: str) -> dict[str, Check]:
    return dict.fromkeys(names)


_CROSS_ENTROPY: dict[str, Check] = {"cross_entropy": default(lambda: nn.CrossEntropyLoss(reduction="none"))}
KNOWN: dict[str, dict[str, Check]] = {
    "AngularLoss": _any(*_LOSS, "alpha"),
    "ArcFaceLoss": {**_any(*_WEIGHTED, "W", "margin", "scale"), **_CROSS_ENTROPY},
    "CircleLoss": {
        **_any(*_PAIRS, "m", "gamma", "op", "on", "delta_p", "delta_n"),
        "soft_plus": default(lambda: nn.Softplus(beta=1)),
    },
    "ContrastiveLoss": _any(*_PAIRS, "pos_margin", "neg_margin"),
    "CosFaceLoss": {**_any(*_WEIGHTED, "W", "margin", "scale"), **_CROSS_ENTROPY},
    "FastAPLoss": _any(*_LOSS, "num_bins", "num_edges"),
    "GeneralizedLiftedStructureLoss": _any(*_PAIRS, "pos_margin", "neg_margin"),
    "HistogramLoss": _any(*_LOSS, "delta"),
    "LiftedStructureLoss": _any(*_PAIRS, "pos_margin", "neg_margin"),
    "MarginLoss": _any(*_LOSS, "margin", "nu", "learn_beta", "beta", "triplets_per_anchor"),
    "MultiSimilarityLoss": _any(*_PAIRS, "alpha", "beta", "base"),
    "NCALoss": _any(*_LOSS, "softmax_scale"),
    "NTXentLoss": _any(*_PAIRS, "temperature"),
    "NormalizedSoftmaxLoss": {**_any(*_WEIGHTED, "W", "temperature", "embedding_size"), **_CROSS_ENTROPY},
    "PNPLoss": _any(*_LOSS, "b", "alpha", "anneal", "variant"),
    "ProxyAnchorLoss": _any(*_WEIGHTED, "proxies", "margin", "alpha"),
    "ProxyNCALoss": _any(*_WEIGHTED, "proxies", "softmax_scale", "proxy_labels"),
    "RankedListLoss": _any(*_LOSS, "margin", "imbalance", "alpha", "Tp", "Tn"),
    "SmoothAPLoss": _any(*_LOSS, "temperature"),
    "SupConLoss": _any(*_PAIRS, "temperature"),
    "ThresholdConsistentMarginLoss": _any(*_LOSS, "lambda_plus", "lambda_minus", "margin_plus", "margin_minus"),
    "TripletMarginLoss": _any(*_LOSS, "margin", "swap", "smooth_loss", "triplets_per_anchor"),
    "TupletMarginLoss": _any(*_PAIRS, "margin", "scale"),
    "VICRegLoss": _any(*_LOSS, "invariance_lambda", "variance_mu", "covariance_v", "eps"),
    "AngularMiner": _any(
        *(*_MINER, "angle", "average_angle", "average_angle_above_threshold", "average_angle_below_threshold"),
        *("min_angle", "max_angle", "std_of_angle"),
    ),
    **dict.fromkeys(
        ("BatchEasyHardMiner", "BatchHardMiner"),
        _any(
            *(*_MINER, "pos_strategy", "neg_strategy", "allowed_pos_range", "allowed_neg_range"),
            *(f"{how}_{what}" for how in ("easiest", "hardest") for what in ("triplet", "pos_pair", "neg_pair")),
        ),
    ),
    "PairMarginMiner": _any(*_MINER, "pos_margin", "neg_margin", "pos_pair_dist", "neg_pair_dist"),
    "TripletMarginMiner": _any(
        *(*_MINER, "margin", "type_of_triplets", "avg_triplet_margin", "pos_pair_dist", "neg_pair_dist")
    ),
    "CosineSimilarity": _any(*_DISTANCE),
    "DotProductSimilarity": _any(*_DISTANCE),
    "LpDistance": _any(*_DISTANCE),
    "AvgNonZeroReducer": _any(*_RECORDS, "low", "high"),
    "ClassWeightedReducer": _any(*_RECORDS, "weights"),
    "DivisorReducer": _any(*_RECORDS, "divisor"),
    "MeanReducer": _any(*_RECORDS),
    "MultipleReducers": _any(*_RECORDS, "reducers", "default_reducer"),
    "SumReducer": _any(*_RECORDS),
    "ThresholdReducer": _any(*_RECORDS, "low", "high"),
}
PEER = Peer("pytorch_metric_learning", "pytorch-metric-learning", "2.5", "3", KNOWN)
_BY_MATRIX = ("CircleLoss", "GeneralizedLiftedStructureLoss", "MultiSimilarityLoss", "SupConLoss")
_MIN_ROWS = {
    **dict.fromkeys(("LiftedStructureLoss", "NTXentLoss", "TupletMarginLoss"), PAIRS_OF_PAIRS),
    **dict.fromkeys(
        (
            *("AngularLoss", "HistogramLoss", "MarginLoss", "PNPLoss", "SmoothAPLoss"),
            *("ThresholdConsistentMarginLoss", "TripletMarginLoss"),
        ),
        TRIPLETS,
    ),
    **dict.fromkeys(("MultiSimilarityLoss", "SupConLoss"), MASKED_MATRICES),
    "FastAPLoss": HISTOGRAMS,
}
_OF_CLASSES = ("ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss", "ProxyNCALoss")


def targets() -> list[Target]:
    from pytorch_metric_learning import losses, miners

    table: dict[str, Callable[..., LossDict]] = {
        "AngularLoss": _angular,
        "ArcFaceLoss": _arc_face,
        "CircleLoss": _circle,
        "ContrastiveLoss": _contrastive,
        "CosFaceLoss": _cos_face,
        "FastAPLoss": _fast_ap,
        "GeneralizedLiftedStructureLoss": _generalized_lifted,
        "HistogramLoss": _histogram,
        "LiftedStructureLoss": _lifted,
        "MarginLoss": _margin,
        "MultiSimilarityLoss": _multi_similarity,
        "NCALoss": _nca,
        "NTXentLoss": _nt_xent,
        "NormalizedSoftmaxLoss": _normalized_softmax,
        "PNPLoss": _pnp,
        "ProxyAnchorLoss": _proxy_anchor,
        "ProxyNCALoss": _proxy_nca,
        "RankedListLoss": _ranked_list,
        "SmoothAPLoss": _smooth_ap,
        "SupConLoss": _sup_con,
        "ThresholdConsistentMarginLoss": _threshold_consistent,
        "TripletMarginLoss": _triplet,
        "TupletMarginLoss": _tuplet,
    }
    return [
        *(
            Target(
                *(getattr(losses, name), "compute_loss", fused, _probe),
                min_rows=_MIN_ROWS.get(name, MATRIX),
                few=require_scores if name in _OF_CLASSES else None,
                again=_again,
            )
            for name, fused in table.items()
            if hasattr(losses, name)  # SmoothAPLoss: from version 2.6 on
        ),
        Target(losses.VICRegLoss, "covariance_loss", _covariance, _probe_covariance, few=require_covariances),
        Target(miners.AngularMiner, "mine", _angular_miner, _probe, loss=False),
        Target(
            *(miners.BatchEasyHardMiner, "mine", _hardest_miner, _probe, ("BatchHardMiner",)),
            min_rows=MATRIX,
            loss=False,
        ),
        Target(miners.PairMarginMiner, "mine", _pair_miner, _probe, min_rows=MATRIX, loss=False),
        Target(miners.TripletMarginMiner, "mine", _triplet_miner, _probe, loss=False),
    ]


def around() -> list[Around]:
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

    owners = (losses.BaseMetricLossFunction, losses.CrossBatchMemory, losses.SelfSupervisedLoss)
    return [
        *(Around(owner, "forward", everywhere.of_all_rows) for owner in owners),
        Around(DistributedLossWrapper, "forward", everywhere.as_it_gathers),
    ]


def _again(original: Callable[..., LossDict], loss: Any, embeddings: Tensor, labels: Any, *rest: Any) -> LossDict:
    """The original, with lists of pairs and triplets reduced as :func:`_reduced` does."""
    losses = original(loss, embeddings, labels, *rest)
    for name, entry in losses.items():
        kinds = ["pos_pair", "neg_pair", "triplet"]
        kinds += ["element"] if kind_of(loss).__name__ == "MarginLoss" else []  # the regularisation of a beta per class
        if entry["reduction_type"] in kinds and kind_of(loss).__name__ != "AngularLoss":
            entry["losses"] = _reducer(loss, name)({name: entry}, embeddings, labels)
    return losses


def _probe(
    original: Callable[..., LossDict],
    loss: Any,
    embeddings: Tensor,
    labels: Any,
    indices: Any,
    ref_emb: Tensor,
    ref_labels: Any,
) -> LossDict:
    rows = torch.arange(8 if len(embeddings) <= BY_DIFFERENCES else 32, device=embeddings.device)
    weight = getattr(loss, "proxies", None)
    classes = loss.W.shape[1] if hasattr(loss, "W") else 8 if weight is None else len(weight)
    x, y = embeddings.detach()[rows % len(embeddings)], (rows // 2).clamp(max=classes - 1)
    others = x if ref_emb is embeddings else ref_emb.detach()[rows % len(ref_emb)]
    return original(loss, x, y, None, others, y if ref_labels is labels else y.clone())


def _probe_covariance(original: Callable[..., Tensor], loss: Any, emb: Tensor, ref_emb: Tensor) -> Tensor:
    return original(loss, emb[:8].detach(), ref_emb[:8].detach())


def _covariance(loss: Any, emb: Tensor, ref_emb: Tensor) -> Tensor:
    """Of VICReg, whose other terms take little time: the entries beside the diagonal are not gathered."""
    require_matrices(emb, ref_emb)
    require_alone()
    if emb.shape != ref_emb.shape or emb.dtype != ref_emb.dtype or emb.device != ref_emb.device or len(emb) < 2:
        raise NotFused("shapes, dtypes or devices that differ, or one row")
    return vicreg(emb, ref_emb, invariance=0.0, variance=0.0)


def _check_miner(miner: Any, labels: Tensor, ref_labels: Tensor) -> None:
    if miner.collect_stats or in_autocast():
        raise NotFused("statistics are collected, or autocast")
    if labels.dim() != 1 or ref_labels.dim() != 1 or labels.device != ref_labels.device:
        raise NotFused("labels of another shape or device")


def _relations(labels: Tensor, ref_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs are of one class, each row with itself left out, and which of two, [N, M]."""
    different = labels[:, None] != ref_labels[None, :]
    same = ~different
    return (same.fill_diagonal_(False) if ref_labels is labels else same), different


def _hardest_miner(
    miner: Any, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From the original's distances, by masks instead of lists of all pairs."""
    _check_miner(miner, labels, ref_labels)
    strategies = miner.pos_strategy, miner.neg_strategy
    if not set(strategies) <= {miner.HARD, miner.SEMIHARD, miner.EASY}:
        raise NotFused("all pairs")
    require_values()
    distances, (same, different) = miner.distance(embeddings, ref_emb), _relations(labels, ref_labels)

    def extremes(pairs: Tensor, largest: bool, within: Any, beyond: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row the smallest or the largest distance, its column, and whether there is one."""
        pairs = pairs.clone()
        if beyond is not None:
            pairs &= ~(distances >= beyond[:, None] if largest else distances <= beyond[:, None])
        if within is not None:
            pairs &= ~((distances > within[1]) | (distances < within[0]))
        limits = torch.finfo(distances.dtype)
        values, columns = (
            distances.masked_fill(~pairs, limits.min).max(1)
            if largest
            else distances.masked_fill(~pairs, limits.max).min(1)
        )
        return values, columns, pairs.any(1)

    def positives(beyond: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        largest = (miner.pos_strategy != miner.EASY) != miner.distance.is_inverted
        return extremes(same, largest, miner.allowed_pos_range, beyond)

    def negatives(beyond: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        largest = (miner.neg_strategy == miner.EASY) != miner.distance.is_inverted
        return extremes(different, largest, miner.allowed_neg_range, beyond)

    if miner.pos_strategy == miner.SEMIHARD:
        of_negatives = negatives()
        of_positives = positives(of_negatives[0])
    else:
        of_positives = positives()
        of_negatives = negatives(of_positives[0] if miner.neg_strategy == miner.SEMIHARD else None)
    anchors = (of_positives[2] & of_negatives[2]).nonzero()[:, 0]
    return anchors, of_positives[1][anchors], anchors, of_negatives[1][anchors]


def _pair_miner(
    miner: Any, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
) -> tuple[Tensor, ...]:
    """From the original's distances, by masks instead of lists of all pairs."""
    _check_miner(miner, labels, ref_labels)
    if any(isinstance(v, Tensor) and v.dim() > 0 for v in (miner.pos_margin, miner.neg_margin)):
        raise NotFused("margins that are no numbers")
    require_values()
    distances, (same, different) = miner.distance(embeddings, ref_emb), _relations(labels, ref_labels)
    if miner.distance.is_inverted:
        far, near = distances < miner.pos_margin, distances > miner.neg_margin
    else:
        far, near = distances > miner.pos_margin, distances < miner.neg_margin
    return (*(same & far).nonzero(as_tuple=True), *(different & near).nonzero(as_tuple=True))


Mined = tuple[Tensor, Tensor, Tensor]


def _mined(
    miner: Any, labels: Tensor, ref_labels: Tensor, limit: Any, wanted: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Mined:
    """Triplets in the original's order, [pairs, M] at a time instead of lists of [N, M, M].

    ``limit``: what decides about them; ``wanted(anchors, positives, different)``: some pairs, and which of all rows are
    of other classes than the anchors [pairs, M]; returns which of these make a triplet.
    """
    _check_miner(miner, labels, ref_labels)
    if isinstance(limit, Tensor) and limit.dim() > 0:
        raise NotFused("a margin that is no number")
    looped = len(labels) * len(ref_labels) ** 2 >= LOOPED
    if looped and labels.dtype not in (torch.int32, torch.int64):
        raise NotFused("anchors in the dtype of the labels, which does not index rows")
    require_values()
    same, different = _relations(labels, ref_labels)
    pairs = (same & different.any(1)[:, None]).nonzero(as_tuple=True)
    # As the original's: those of anchors, and all three where no anchor has a positive and a negative.
    own = labels.dtype if looped else torch.int64
    kinds = (own, torch.int64, torch.int64) if len(pairs[0]) else (own, own, own)
    found = []
    for a, p in zip(*(t.split(max(1, LISTED // max(1, len(ref_labels)))) for t in pairs)):
        pair, negative = wanted(a, p, different[a]).nonzero(as_tuple=True)
        found.append((a[pair], p[pair], negative))
    columns = zip(*found) if found else ((pairs[0],),) * 3
    anchors, positives, negatives = (torch.cat(column).to(kind) for column, kind in zip(columns, kinds))
    return anchors, positives, negatives


def _triplet_miner(miner: Any, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> Mined:
    """From the original's distances."""
    distances = functools.cache(lambda: miner.distance(embeddings, ref_emb))

    def wanted(a: Tensor, p: Tensor, different: Tensor) -> Tensor:
        margin = distances()[a] - distances()[a, p][:, None]
        if miner.distance.is_inverted:
            margin = -margin
        if miner.type_of_triplets == "easy":
            return different & (margin > miner.margin)
        different &= margin <= miner.margin
        if miner.type_of_triplets == "hard":
            different &= margin <= 0
        elif miner.type_of_triplets == "semihard":
            different &= margin > 0
        return different

    return _mined(miner, labels, ref_labels, miner.margin, wanted)


def _angular_miner(miner: Any, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> Mined:
    """By products of rows; the original's formula decides about negatives that are near the border, to rounding."""
    from pytorch_metric_learning import distances

    PEER.require_own(miner.distance)
    if type(miner.distance) is not distances.LpDistance or miner.distance.p != 2:
        raise NotFused("another distance")
    require_matrices(embeddings, ref_emb)
    if embeddings.dtype not in (torch.float32, torch.float64) or ref_emb.dtype != embeddings.dtype:
        raise NotFused("rows of 16 bits, or of two dtypes")
    angle = plain(number("angle", miner.angle, embeddings))
    if not 0 < angle < math.pi / 2:
        raise NotFused("an angle that all triplets have, or none")
    apart, tangent = miner.distance.pairwise_distance, 2 * math.tan(angle)
    squares = ref_emb.square().sum(1)

    def exact(a: Tensor, p: Tensor, n: Tensor) -> Tensor:
        sides = embeddings[a], ref_emb[p]
        return torch.atan(apart(*sides) / (2 * apart(ref_emb[n], (sides[0] + sides[1]) / 2))) > angle

    def wanted(a: Tensor, p: Tensor, different: Tensor) -> Tensor:
        anchors, positives = embeddings[a], ref_emb[p]
        centers, border = (anchors + positives) / 2, (apart(anchors, positives) / tangent).square()
        own = centers.square().sum(1)
        beyond = torch.addmm(own[:, None] + squares, centers, ref_emb.t(), alpha=-2).sub_(border[:, None])
        # Rounding, and what torch adds to every difference of a pairwise distance, 1e-6.
        size = (own + border)[:, None] + squares
        added = 4e-6 * embeddings.shape[1] ** 0.5
        near = different & ~(beyond.abs() > 1e-4 * size + added * size.sqrt() + added**2)
        different &= beyond < 0
        for pair, n in zip(*(t.split(max(1, COMPARED // embeddings.shape[1])) for t in near.nonzero(as_tuple=True))):
            different[pair, n] = exact(a[pair], p[pair], n)
        return different

    return _mined(miner, labels, ref_labels, angle, wanted)


def _check_loss(loss: Any, embeddings: Tensor) -> None:
    require_matrices(embeddings)
    require_alone()
    if len(embeddings) <= FEW_ROWS:
        raise NotFused("a handful of rows")
    method = vars(loss).get("loss_method")
    if method is not None:
        wanted = "mat_based_loss" if kind_of(loss).__name__ in _BY_MATRIX else "pair_based_loss"
        # Not ``method != loss.wanted``, which torch.compile takes for true of a loss within another module.
        own = getattr(method, "__self__", None) is loss and method.__func__ is getattr(kind_of(loss), wanted)
        if not own:
            raise NotFused("another loss_method than the library's")
    parts = [loss.distance, loss.reducer]
    if type(loss.reducer).__name__ == "MultipleReducers":
        parts += [*loss.reducer.reducers.values(), loss.reducer.default_reducer]
    for part in parts:
        PEER.require_own(part)
    if any(m.collect_stats for m in (loss, *parts)):
        raise NotFused("statistics are collected")
    for part in parts:
        _thresholds(part)
    _metric(loss)  # before there is anything in a graph of torch.compile


def _require_all(embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> None:
    """All pairs of the rows with each other."""
    if indices is not None or ref_emb is not embeddings or ref_labels is not labels:
        raise NotFused("listed pairs or references")


def _number(loss: Any, name: str, like: Tensor) -> Tensor | float:
    return number(name, getattr(loss, name), like)


def _fixed(loss: Any, *names: str) -> list[float]:
    """Settings that may not be learned."""
    given = [getattr(loss, name) for name in names]
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in given):
        raise NotFused(f"{' or '.join(names)} is no plain number")
    return given


def _metric(loss: Any) -> tuple[Metric, bool, float]:
    """Metric, whether rows are normalised, and the sign with which larger means farther."""
    from pytorch_metric_learning import distances

    d = loss.distance
    products = (distances.CosineSimilarity, distances.DotProductSimilarity)
    if d.is_inverted is not (type(d) in products) or any(isinstance(v, Tensor) for v in (d.p, d.power)):
        raise NotFused(f"distance {type(d).__name__} with is_inverted={d.is_inverted}")
    if type(d) in products and d.power == 1 and d.p == 2:
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
    """``listed``: how the original treats listed pairs: "as a mask", "one by one" (repetitions count), or "no"."""
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
        x, y = _lasting(embeddings, y)
        # Copies: the originals have read the labels when they return, and a buffer of them may be written to again.
        own, others = (t.to(torch.int64, copy=True).contiguous() for t in (labels, ref_labels))
        return Pairs(x, y, Relation(own, own if offset == 0 and y is None else others, self_offset=offset))
    if listed == "no" or (listed == "one by one" and len(indices) == 3):
        raise NotFused("listed triplets")
    require_values()
    lists = [t.to(embeddings.device).long().contiguous() for t in indices]
    a, p, b, n = (lists[0], lists[1], lists[0], lists[2]) if len(lists) == 3 else lists
    if all(len(t) <= 1 for t in lists):
        raise NotFused("a handful of listed pairs")
    rows, columns = len(embeddings), len(ref_emb)
    repeated, both = _repetitions((a, p), (b, n), rows, columns)
    if listed == "one by one" and repeated:
        raise NotFused("pairs that are listed more than once")
    if both:
        raise NotFused("pairs that are both positive and negative")
    x, y = _lasting(embeddings, y)
    return Pairs(x, y, Relation(positive_list=(a, p), negative_list=(b, n)))


def _lasting(x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    own, *others = lasting(*(t for t in (x, y) if t is not None))
    return own, others[0] if others else None


def _repetitions(positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor], n: int, m: int) -> tuple[bool, bool]:
    """Whether a pair is listed more than once, and whether one is both positive and negative."""
    lists = (positive, negative)
    if positive[0].device.type == "cpu":
        try:
            bits, distinct = zip(*(pair_bits(pair, n, m) for pair in lists))
        except RuntimeError as error:
            raise NotFused("listed pairs out of range") from error
        repeated = any(count < len(pair[0]) for count, pair in zip(distinct, lists))
        return repeated, bool((bits[0] & bits[1]).any())
    for a, b in lists:
        if len(a) and not (0 <= int(a.min()) <= int(a.max()) < n and 0 <= int(b.min()) <= int(b.max()) < m):
            raise NotFused("listed pairs out of range")
    keys = [torch.unique(a * m + b) for a, b in lists]
    repeated = any(len(key) < len(pair[0]) for key, pair in zip(keys, lists))
    return repeated, bool(torch.isin(keys[0], keys[1]).any())


def _reducer(loss: Any, name: str) -> Any:
    reducer = loss.reducer
    if type(reducer).__name__ != "MultipleReducers":
        return reducer
    return dict(reducer.reducers.items()).get(name, reducer.default_reducer)


def _thresholds(reducer: Any) -> list[float]:
    """The thresholds of a reducer."""
    if type(reducer).__name__ not in ("AvgNonZeroReducer", "ThresholdReducer"):
        return []
    given = [v for v in (reducer.low, reducer.high) if v is not None]
    if any(isinstance(v, Tensor) and v.numel() != 1 for v in given):
        raise NotFused("thresholds that are no numbers")
    return [plain(v) for v in given]


def _require_sums(loss: Any, *names: str) -> None:
    """Raises NotFused, before lists of these names are computed, for a reducer that wants every entry of one."""
    for name in names:
        reducer = _reducer(loss, name)
        kind = type(reducer).__name__
        if kind not in ("AvgNonZeroReducer", "MeanReducer", "SumReducer"):
            raise NotFused(f"{kind} wants every entry")
        if kind == "AvgNonZeroReducer" and _thresholds(reducer) != [0.0]:
            raise NotFused("a threshold that was set by hand")


def _tolerance(embeddings: Tensor, *terms: Tensor | float) -> float:
    """Tolerance between the original's losses and the fused ones: some roundings of their largest term."""
    largest = 1.0
    for t in terms:
        if isinstance(t, Tensor):
            t = t.detach()
            t = t[torch.isfinite(t)].abs()
            largest = max(largest, float(t.max()) if t.numel() else 0.0)
        else:
            largest = max(largest, abs(t))
    # In 16 bits the fused result follows float64, from which the original's rounding may differ.
    return ROUNDINGS * torch.finfo(result_dtype(embeddings)).eps * largest


def _element(
    loss: Any,
    embeddings: Tensor,
    values: Tensor,
    rows: Tensor | None = None,
    *,
    terms: tuple[Tensor | float, ...],
    exact: Tensor | None = None,
    name: str = "loss",
) -> LossDict:
    """Losses per row, or of ``rows``.

    ``terms``: magnitude of the terms that the original sums; ``exact``: rows whose loss is bitwise equal to it.
    """
    thresholds = _thresholds(_reducer(loss, name))
    if thresholds or rows is not None:
        require_values()
    if thresholds:
        tolerance = _tolerance(embeddings, *terms, values)
        for threshold in thresholds:
            near = ~((values.detach() - threshold).abs() > tolerance)
            if bool((near if exact is None else near & ~exact).any()):
                raise NotFused("losses at the reducer's threshold, to rounding")
    indices, kept = torch.arange(len(values), device=embeddings.device), values
    if rows is not None:
        indices, kept = indices[rows], values[rows]
    return {name: {"losses": kept.to(result_dtype(embeddings)), "indices": indices, "reduction_type": "element"}}


def _reduced(
    loss: Any,
    name: str,
    embeddings: Tensor,
    total: Tensor,
    active: Tensor,
    count: Tensor,
    least: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """The reducer's result for a list with the given sum, number of entries above 0 and total number, of which
    :func:`_require_sums` has said that it is enough.

    ``least``: for a list without zeros, the margin of its smallest entry over rounding errors.
    """
    kind = type(_reducer(loss, name)).__name__
    if kind == "AvgNonZeroReducer" and least is not None:
        require_values()
        if not least() > 0:
            raise NotFused("losses at the reducer's threshold, to rounding")
    if kind != "SumReducer":
        total = total / (active if kind == "AvgNonZeroReducer" else count).clamp(min=1)
    value = total.to(result_dtype(embeddings))
    return {"losses": value, "indices": None, "reduction_type": "already_reduced"}


def _nan_if_overflown(lse: Tensor, negatives: Tensor) -> Tensor:
    """1 per row; NaN for one whose distances to all negatives are infinite: its log-sum is that of no negatives, and
    the loss of a run that has diverged would be 0."""
    return torch.where((negatives > 0) & (lse.detach() == -math.inf), math.nan, 1.0).to(lse.dtype)


def _nothing(loss: Any, rows: Rows) -> bool:
    require_values()
    return not bool(rows.positives.any()) or not bool(rows.negatives.any())


def _without_zeros(normalize: float, *sides: Tensor) -> None:
    """Normalised rows of zeros are at one distance from all others: rounding decides which of them a margin counts."""
    if not normalize:
        return
    require_values()
    different = {id(side): side for side in sides}.values()
    if not all(bool(side.detach().any(1).all()) for side in different):
        raise NotFused("rows of zeros, which the original's rounding decides about")


def _apart(pairs: Pairs, embeddings: Tensor, metric: Metric, normalize: bool, border: float) -> None:
    """Ranked lists leave out pairs at distance 0, which rounding may put apart: negatives, and positives above
    ``border``."""
    if metric == Metric.dot or (normalize and embeddings.shape[1] == 1):  # -1 and 1 are exact
        return
    require_values()
    with torch.no_grad():
        rows = pairs.reduce(HardestPair(1), metric=metric, normalize=normalize)
        nearest = rows.negative[rows.negatives > 0]
        squares = 1.0 if normalize else embeddings.double().square().sum(1)
    least = _tolerance(embeddings, squares)
    least = math.sqrt(least) if metric == Metric.euclidean else least
    if border <= least or bool((nearest <= least).any()):
        raise NotFused("pairs at distance 0, which rounding decides about")


def _contrastive(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    _require_sums(loss, "pos_loss", "neg_loss")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = _metric(loss)
    _without_zeros(normalize, embeddings, ref_emb)
    whole = pairs.within
    above, below = (_number(loss, name, embeddings) for name in ("pos_margin", "neg_margin"))
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
        "pos_loss": _reduced(loss, "pos_loss", embeddings, positive, positive_active, positives),
        "neg_loss": _reduced(loss, "neg_loss", embeddings, negative, negative_active, negatives),
    }


def _threshold_consistent(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    if ref_emb is not embeddings:
        raise NotFused("references, in whose stead the original takes rows of the embeddings")
    _normalised_products(loss)
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    require_values()
    if not bool((embeddings.detach().double().norm(dim=1) > 1e-8).all()):
        raise NotFused("rows whose length the original raises to 1e-8")
    above, below = (_number(loss, name, embeddings) for name in ("margin_plus", "margin_minus"))

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


def _triplet(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    _require_sums(loss, "loss")
    if loss.swap or loss.triplets_per_anchor != "all":
        raise NotFused("swapped or sampled triplets")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = _metric(loss)
    smooth, margin = bool(loss.smooth_loss), _number(loss, "margin", embeddings)
    if smooth and not normalize and type(_reducer(loss, "loss")).__name__ == "AvgNonZeroReducer":
        raise NotFused("losses that may underflow, which the reducer does not count")
    require_values()
    if not smooth:
        _without_zeros(normalize, embeddings, ref_emb)
    rows = pairs.reduce(Triplets(sign, margin, smooth), metric=metric, normalize=normalize)
    count = (rows.positives * rows.negatives).sum()
    if not count:
        return loss.zero_losses()
    active = count if smooth else rows.active.sum().detach()
    return {"loss": _reduced(loss, "loss", embeddings, rows.total.sum(), active, count)}


def _lifted(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    _require_sums(loss, "loss")
    if indices is not None or ref_emb is not embeddings:
        raise NotFused("listed pairs or references")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    metric, normalize, sign = _metric(loss)
    shifts = sign * _number(loss, "neg_margin", embeddings), -sign * _number(loss, "pos_margin", embeddings)
    rows = pairs.reduce(LiftedPairs(sign, *shifts), metric=metric, normalize=normalize)
    if _nothing(loss, rows):
        return loss.zero_losses()
    total = (rows.total * _nan_if_overflown(rows.lse, rows.negatives)).sum() / 2
    active = rows.active.sum().detach()
    return {"loss": _reduced(loss, "loss", embeddings, total, active, rows.positives.sum())}


Line = tuple[Tensor | float, Tensor | float]  # a factor and a shift of scores


def _sums(pairs: Pairs, loss: Any, positive: Line, negative: Line, circle: bool = False) -> Rows:
    metric, normalize, _ = _metric(loss)
    sums = LogSumExps(LogSumExp(*positive, POSITIVES), LogSumExp(*negative, NEGATIVES), circle)
    return pairs.reduce(sums, metric=metric, normalize=normalize)


def _generalized_lifted(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    sign = _metric(loss)[2]
    shifts = -sign * _number(loss, "pos_margin", embeddings), sign * _number(loss, "neg_margin", embeddings)
    rows = _sums(pairs, loss, (sign, shifts[0]), (-sign, shifts[1]))
    zero = torch.zeros_like(rows.first)
    positive = torch.where(rows.positives > 0, rows.first, zero)
    negative = torch.where(rows.negatives > 0, rows.second, zero)
    both = (positive + negative) * _nan_if_overflown(rows.second, rows.negatives)
    exact = ~rows.complete & (rows.positives == 0) & (rows.negatives == 0)
    losses = _element(loss, embeddings, both, terms=(positive, negative), exact=exact)
    losses["loss"]["losses"] = torch.relu(losses["loss"]["losses"])
    losses["loss"]["losses"] = losses["loss"]["losses"].unsqueeze(1)  # the original's shape
    return losses


def _multi_similarity(
    loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any
) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    sign = _metric(loss)[2]
    alpha, beta, base = (_number(loss, name, embeddings) for name in ("alpha", "beta", "base"))
    if plain(alpha) == 0 or plain(beta) == 0:
        raise NotFused("a factor of 0")
    a, b = alpha * sign, -beta * sign
    rows = _sums(pairs, loss, (a, -a * base), (b, -b * base))
    values = TF.softplus(rows.first) / alpha + TF.softplus(rows.second) / beta
    exact = (rows.positives == 0) & (rows.negatives == 0)
    losses = _element(loss, embeddings, values, terms=rows.out[:2], exact=exact)
    losses["loss"]["losses"] = losses["loss"]["losses"].unsqueeze(1)
    return losses


def _circle(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if any(isinstance(v, Tensor) for v in (loss.m, loss.op, loss.on, loss.delta_p, loss.delta_n)):
        raise NotFused("optima that are tensors")
    if loss.delta_p != 1 - loss.m or loss.op != 1 + loss.m or loss.on != -loss.m or loss.delta_n != loss.m:
        raise NotFused("optima that were set by hand")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    line = _number(loss, "gamma", embeddings), _number(loss, "m", embeddings)
    rows = _sums(pairs, loss, line, line, circle=True)
    zero = torch.zeros_like(rows.first)
    both = torch.where(rows.complete, rows.first, zero) + torch.where(rows.complete, rows.second, zero)
    values = torch.where(rows.complete, TF.softplus(both), zero)
    losses = _element(loss, embeddings, values, terms=rows.out[:2], exact=~rows.complete)
    losses["loss"]["losses"] = losses["loss"]["losses"].unsqueeze(1)
    return losses


def _sup_con(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels)
    metric, normalize, sign = _metric(loss)
    scale = -sign / _number(loss, "temperature", embeddings)
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
        values, rows = sup_con_rows(pairs, scale, metric, normalize)
        exact = rows.positives == 0
        if _nothing(loss, rows):
            return loss.zero_losses()
    return _element(loss, embeddings, values, terms=(_of_scores(pairs, scale, normalize),), exact=exact)


def _of_scores(pairs: Pairs, scale: Tensor | float, normalize: bool) -> float:
    """An upper bound of scaled scores."""
    if normalize:
        return 4 * abs(plain(scale))
    sides = (pairs.x, pairs.x if pairs.y is None else pairs.y)
    lengths = [float(t.detach().double().norm(dim=1).max()) for t in sides]
    return 4 * abs(plain(scale)) * max(lengths) ** 2


def _nt_xent(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    _require_sums(loss, "loss")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = _metric(loss)
    temperature = _number(loss, "temperature", embeddings)
    if not normalize or not (2 if metric == Metric.dot else 4) <= 80 * plain(temperature):
        raise NotFused("shares that underflow, which the original cuts off")
    scale = -sign / temperature
    if metric == Metric.dot and (values := _of_one_positive(pairs, scale)) is not None:
        every = values.new_full((), len(values))

        def of_rows() -> float:
            return float(values.detach().min()) - _tolerance(embeddings, 4 * plain(scale), values)

        return {"loss": _reduced(loss, "loss", embeddings, values.sum(), every, every, of_rows)}
    rows = pairs.reduce(SoftplusPerPositive(scale), metric=metric, normalize=normalize)
    if _nothing(loss, rows):
        return loss.zero_losses()
    count, largest = rows.positives.sum(), plain(scale) if metric == Metric.dot else 0.0
    least = _least(embeddings, rows, largest, 4 * plain(scale))
    return {"loss": _reduced(loss, "loss", embeddings, rows.total.sum(), count, count, least)}


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


def _least(embeddings: Tensor, rows: Rows, largest: float, term: float) -> Callable[[], float]:
    """Margin of the smallest loss of a pair, softplus(lse of the negatives - score), over the original's rounding;
    ``largest``: an upper bound of scores."""

    def least() -> float:
        lse = rows.lse.detach()[rows.positives > 0]
        return float(TF.softplus(lse - largest).min()) - _tolerance(embeddings, term, lse)

    return least


def _tuplet(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    _require_sums(loss, "loss")
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    _normalised_products(loss)
    scale, margin = _number(loss, "scale", embeddings), _number(loss, "margin", embeddings)
    rows = pairs.reduce(SoftplusPerPositive(scale, margin), metric=Metric.dot, normalize=True)
    if _nothing(loss, rows):
        return loss.zero_losses()
    count = rows.positives.sum()
    least = _least(embeddings, rows, plain(scale), 4 * plain(scale))
    return {"loss": _reduced(loss, "loss", embeddings, rows.total.sum(), count, count, least)}


def _margin(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    from pytorch_metric_learning import reducers

    if loss.triplets_per_anchor != "all":
        raise NotFused("sampled triplets")
    if type(loss.reducer) is not reducers.MultipleReducers or any(
        type(r) is not reducers.DivisorReducer for r in loss.reducer.reducers.values()
    ):
        raise NotFused("a reducer that wants every entry")
    require_values()
    pairs = _pairs(loss, embeddings, labels, indices, ref_emb, ref_labels, listed="one by one")
    metric, normalize, sign = _metric(loss)
    if loss.beta.dim() != 1 or not loss.beta.is_floating_point():
        raise NotFused("boundaries of another shape or kind")
    beta = loss.beta.to(embeddings.device, torch.promote_types(embeddings.dtype, torch.float32))
    if len(beta) > 1 and labels is None:
        raise NotFused("boundaries of classes without labels")
    per_row = beta.expand(len(embeddings)) if len(beta) == 1 else beta[labels.clone()]
    slack, nu = _number(loss, "margin", embeddings), _number(loss, "nu", embeddings)
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


def _weights(embeddings: Tensor, labels: Tensor, indices: Any, using_ref: bool) -> Tensor | None:
    from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

    if indices is None:
        return None
    require_values()
    weights: Tensor = lmu.convert_to_weights(indices, labels, dtype=result_dtype(embeddings), using_ref=using_ref)
    return weights


def _weighted(values: Tensor, embeddings: Tensor, labels: Any, indices: Any, *, using_ref: bool) -> Tensor:
    """Losses per row times the weights of listed rows: of anchors alone with ``using_ref``, as proxies are references
    in some of the library's losses."""
    weights = _weights(embeddings, labels, indices, using_ref=using_ref)
    return values if weights is None else values * weights.to(values.dtype)


def _shares_scale(loss: Any, embeddings: Tensor) -> Tensor | float:
    scale = _number(loss, "softmax_scale", embeddings)
    if not 0.01 <= plain(scale) <= 20:
        raise NotFused("shares that underflow, which the original drops, or a row's own that do not")
    return scale


def _nca_losses(loss: Any, pairs: Pairs, embeddings: Tensor, labels: Tensor, indices: Any) -> LossDict:
    metric, normalize, sign = _metric(loss)
    scale = _shares_scale(loss, embeddings)
    if not normalize:
        raise NotFused("distances of any size: shares underflow, which the original drops, or a row's own do not")
    sums = LogSumExps(LogSumExp(-sign * scale, over=POSITIVES), LogSumExp(-sign * scale, over=NEGATIVES))
    rows = pairs.reduce(sums, metric=metric, normalize=normalize)
    counted = rows.positives > 0
    values = TF.softplus(rows.second - torch.where(counted, rows.first, torch.zeros_like(rows.first)))
    values = _weighted(values, embeddings, labels, indices, using_ref=pairs.y is not None)
    return _element(loss, embeddings, values, counted, terms=(4 * plain(scale),), exact=~counted)


def _nca(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    if pairs.y is not None and pairs.relation.self_offset >= 0:
        raise NotFused("the same labels for other rows")
    return _nca_losses(loss, pairs, embeddings, labels, indices)


def _fast_ap(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if ref_emb is not embeddings or ref_labels is not labels:
        raise NotFused("references")
    if not isinstance(loss.num_bins, int) or not 1 <= loss.num_bins <= MAX_BINS or loss.num_edges != loss.num_bins + 1:
        raise NotFused(f"{loss.num_bins} bins of {loss.num_edges} edges")
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    metric, normalize, sign = _metric(loss)
    if sign < 0:
        raise NotFused("a similarity, set after construction")
    largest = 2.0 ** float(loss.distance.power)
    rows = pairs.reduce(AveragePrecision(loss.num_bins, largest), metric=metric, normalize=normalize)
    counted = rows.positives > 0
    require_values()
    if not bool((rows.value.detach() > 0).any()):
        return loss.zero_losses()
    values = 1 - rows.value / rows.positives.clamp(min=1)
    values = _weighted(values, embeddings, labels, indices, using_ref=False)
    # An average precision of 1 is a loss of 0, up to roundings of the original's sum over bins.
    return _element(loss, embeddings, values, counted, terms=(plain(loss.num_bins),), exact=~counted)


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


def _smooth_ap(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if ref_emb is not embeddings or ref_labels is not labels or embeddings.dtype == torch.float64:
        raise NotFused("references, or float64, which the original rounds to float32")
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    _normalised_products(loss)
    (temperature,) = _fixed(loss, "temperature")
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
    values = _weighted(values, embeddings, labels, indices, using_ref=False)
    return {"ap_loss": _element(loss, embeddings, values, terms=(), name="ap_loss")["ap_loss"]}


def _pnp(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    _require_all(embeddings, labels, indices, ref_emb, ref_labels)
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    _normalised_products(loss)
    b, alpha, anneal = _fixed(loss, "b", "alpha", "anneal")
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


def _histogram(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    """The original's histograms of its similarities, each pair of a triplet once, without lists of all triplets."""
    _require_all(embeddings, labels, indices, ref_emb, ref_labels)
    _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    _normalised_products(loss)
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


def _angular(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if indices is not None:
        raise NotFused("listed pairs")
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    ids = pairs.relation.x_ids
    assert ids is not None
    require_values()
    a, p = positive_pairs(pairs)
    if len(a) <= FEW_ROWS or bool((ids == ids[0]).all()):
        raise NotFused("a handful of pairs")
    metric, normalize, _ = _metric(loss)
    if metric != Metric.euclidean or not normalize or type(_reducer(loss, "loss")).__name__ == "ClassWeightedReducer":
        raise NotFused("another distance, or weights of classes")
    full = torch.promote_types(embeddings.dtype, torch.float32)
    x, y = (TF.normalize(t.to(full), dim=1) for t in (embeddings, ref_emb))
    alpha = _number(loss, "alpha", embeddings)
    square = (alpha.tan() if isinstance(alpha, Tensor) else math.tan(alpha)) ** 2
    sums = x[a] + y[p]
    # The original does not normalise the negatives.
    rows = Pairs(sums, ref_emb.to(full), Relation(ids[a], pairs.relation.y_ids)).reduce(
        LogSumExp(4 * square, over=NEGATIVES), metric=Metric.dot, normalize=False
    )
    values = TF.softplus(rows.value - 2 * (1 + square) * (x[a] * y[p]).sum(1))
    terms = rows.value, 2 * (1 + plain(square))
    losses = _element(loss, embeddings, values, terms=terms, exact=rows.negatives == 0)["loss"]["losses"]
    return {"loss": {"losses": losses.unsqueeze(1), "indices": (a, p), "reduction_type": "pos_pair"}}


def _ranked_list(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    _require_all(embeddings, labels, indices, ref_emb, ref_labels)
    pairs = _pairs(loss, embeddings, labels, None, ref_emb, ref_labels)
    metric, normalize, _ = _metric(loss)
    alpha, margin, *temperatures = (_number(loss, name, embeddings) for name in ("alpha", "margin", "Tp", "Tn"))
    _apart(pairs, embeddings, metric, normalize, plain(alpha) - plain(margin))
    ranked = RankedList(alpha, margin, temperatures[0], temperatures[1], constant=1e-5 * len(embeddings))
    rows = pairs.reduce(ranked, metric=metric, normalize=normalize)
    imbalance = _number(loss, "imbalance", embeddings)
    values = (1 - imbalance) * rows.positive + imbalance * rows.negative
    return _element(loss, embeddings, values, terms=(abs(plain(loss.alpha)), abs(plain(loss.margin))))


def _classes(loss: Any, embeddings: Tensor, labels: Any, ref_emb: Any, ref_labels: Any, weight: Tensor) -> Pairs:
    _check_loss(loss, embeddings)
    if ref_emb is not embeddings or ref_labels is not labels or labels is None or labels.dtype != torch.int64:
        raise NotFused("references, or labels of another dtype than int64")
    if torch.compiler.is_compiling():  # labels out of range are refused when the graph runs, as the original's are
        if kind_of(loss).__name__ == "NormalizedSoftmaxLoss" or weight.shape[0] >= -IGNORED:  # others index by it
            labels = labels.where(labels != IGNORED, 0)
    elif labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= weight.shape[0]):
        raise NotFused("labels out of range")
    if weight.dtype != embeddings.dtype or weight.device != embeddings.device:
        raise NotFused("weights of another dtype or device")
    return _against_classes(embeddings, weight, labels.clone(), None)  # as in _pairs


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
    values = _weighted(values, pairs.x, labels, indices, using_ref=False)
    losses = _element(loss, pairs.x, values, terms=(3 * scale, math.log(pairs.partners)))
    loss.add_weight_regularization_to_loss_dict(losses, loss.W.t())
    return losses


def _weight_of(loss: Any, embeddings: Tensor) -> Tensor:
    _check_loss(loss, embeddings)
    if not isinstance(loss.W, Tensor) or loss.W.dim() != 2 or len(loss.W) != embeddings.shape[1]:
        raise NotFused("weights of another shape")
    if kind_of(loss).__name__ != "NormalizedSoftmaxLoss" and loss.num_classes != loss.W.shape[1]:
        raise NotFused("weights of other classes than num_classes")
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
    pairs = _within_autocast(_classes(loss, embeddings, labels, ref_emb, ref_labels, _weight_of(loss, embeddings)))
    scale = 1 / _number(loss, "temperature", embeddings)
    return _softmax(loss, pairs, labels, indices, scale, 0.0)


def _cos_face(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    _normalised_products(loss)
    pairs = _within_autocast(_classes(loss, embeddings, labels, ref_emb, ref_labels, _weight_of(loss, embeddings)))
    scale = _number(loss, "scale", embeddings)
    return _softmax(loss, pairs, labels, indices, scale, scale * _number(loss, "margin", embeddings))


def _arc_face(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    _normalised_products(loss)
    pairs = _within_autocast(_classes(loss, embeddings, labels, ref_emb, ref_labels, _weight_of(loss, embeddings)))
    margin = _number(loss, "margin", embeddings)
    if isinstance(margin, Tensor) and margin.requires_grad:
        raise NotFused("a learned margin, which the original refuses")
    scale = _number(loss, "scale", embeddings)
    return _softmax(loss, pairs, labels, indices, scale, arc_penalty(pairs, scale, margin))


def _proxies(loss: Any, embeddings: Tensor) -> Tensor:
    _check_loss(loss, embeddings)
    if loss.proxies.dtype != embeddings.dtype or loss.proxies.device != embeddings.device:
        loss.cast_types(embeddings.dtype, embeddings.device)
    return loss.proxies


def _proxy_nca(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    proxies = _proxies(loss, embeddings)
    require_values()
    if not torch.equal(loss.proxy_labels.to("cpu", torch.int64), torch.arange(len(proxies))):
        raise NotFused("other labels of proxies than their places")
    pairs = _classes(loss, embeddings, labels, ref_emb, ref_labels, proxies)
    if _metric(loss) == (Metric.sqeuclidean, True, 1.0):
        scale = _shares_scale(loss, embeddings)
        values = proxy_softmax(pairs, scale, True)
        values = _weighted(values, embeddings, labels, indices, using_ref=True)
        losses = _element(loss, embeddings, values, terms=(4 * plain(scale),))
    else:
        losses = _nca_losses(loss, pairs, embeddings, labels, indices)
    loss.add_weight_regularization_to_loss_dict(losses, proxies)
    return losses


def _proxy_anchor(loss: Any, embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> LossDict:
    if indices is not None:
        raise NotFused("listed pairs")
    _normalised_products(loss)
    proxies = _proxies(loss, embeddings)
    require_values()
    relation = _classes(loss, embeddings, labels, ref_emb, ref_labels, proxies).relation
    if loss.num_classes != len(proxies):
        raise NotFused("proxies of other classes than num_classes")
    alpha, delta = _number(loss, "alpha", embeddings), _number(loss, "margin", embeddings)
    sums = LogSumExps(LogSumExp(-alpha, alpha * delta, POSITIVES), LogSumExp(alpha, alpha * delta, NEGATIVES))
    pairs = Pairs(proxies, embeddings, Relation(relation.y_ids, relation.x_ids))
    rows = pairs.reduce(sums, metric=Metric.dot, normalize=True)
    divisors = {"pos_loss": int((rows.positives > 0).sum()), "neg_loss": loss.num_classes}
    losses: LossDict = {}
    for name, column, count in zip(divisors, rows.out, (rows.positives, rows.negatives)):
        terms = (column, 4 * plain(alpha) * (1 + abs(plain(delta))))
        losses |= _element(loss, embeddings, TF.softplus(column), terms=terms, exact=count == 0, name=name)
        losses[name]["divisor"] = divisors[name]
    loss.add_weight_regularization_to_loss_dict(losses, proxies)
    return losses
