"""pytorch-metric-learning: ``compute_loss`` of its losses, for the library's distances, reducers and indices; triplets.

Losses per row are passed to the reducer. Losses per pair or triplet are never materialised: the results of the
reducers Mean, Sum, AvgNonZero and Divisor are computed from their sum and counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssl.compat import _everywhere as everywhere
from fastssl.compat._dtypes import BY_DIFFERENCES
from fastssl.compat._peer import Around, NotFused, Target, kind_of, require_alone, require_matrices
from fastssl.compat._sizes import MATRIX, require_covariances, require_pairs, require_scores
from fastssl.compat.metric_learning.calls import LossDict
from fastssl.compat.metric_learning.classes import arc_face, cos_face, nca, normalized_softmax, proxy_anchor, proxy_nca
from fastssl.compat.metric_learning.known import MIN_ROWS, OF_CLASSES, PEER, ROWS_ON_CPU
from fastssl.compat.metric_learning.miners import angular_miner, hardest_miner, pair_miner, triplet_miner
from fastssl.compat.metric_learning.pairs import (
    circle,
    contrastive,
    generalized_lifted,
    lifted,
    margin,
    multi_similarity,
    nt_xent,
    sup_con_loss,
    threshold_consistent,
    triplet,
    tuplet,
)
from fastssl.compat.metric_learning.ranks import angular, fast_ap, histogram, pnp, ranked_list, smooth_ap
from fastssl.compat.metric_learning.reducers import reducer_of
from fastssl.functional.redundancy import vicreg

__all__ = ["PEER", "around", "targets"]


def targets() -> list[Target]:
    from pytorch_metric_learning import losses, miners

    table: dict[str, Callable[..., LossDict]] = {
        "AngularLoss": angular,
        "ArcFaceLoss": arc_face,
        "CircleLoss": circle,
        "ContrastiveLoss": contrastive,
        "CosFaceLoss": cos_face,
        "FastAPLoss": fast_ap,
        "GeneralizedLiftedStructureLoss": generalized_lifted,
        "HistogramLoss": histogram,
        "LiftedStructureLoss": lifted,
        "MarginLoss": margin,
        "MultiSimilarityLoss": multi_similarity,
        "NCALoss": nca,
        "NTXentLoss": nt_xent,
        "NormalizedSoftmaxLoss": normalized_softmax,
        "PNPLoss": pnp,
        "ProxyAnchorLoss": proxy_anchor,
        "ProxyNCALoss": proxy_nca,
        "RankedListLoss": ranked_list,
        "SmoothAPLoss": smooth_ap,
        "SupConLoss": sup_con_loss,
        "ThresholdConsistentMarginLoss": threshold_consistent,
        "TripletMarginLoss": triplet,
        "TupletMarginLoss": tuplet,
    }
    return [
        *(
            Target(
                *(getattr(losses, name), "compute_loss", fused, _probe),
                min_rows=MIN_ROWS.get(name, MATRIX),
                few=require_scores if name in OF_CLASSES else _few,
                again=_again,
            )
            for name, fused in table.items()
            if hasattr(losses, name)  # SmoothAPLoss: from version 2.6 on
        ),
        Target(losses.VICRegLoss, "covariance_loss", _covariance, _probe_covariance, few=require_covariances),
        Target(miners.AngularMiner, "mine", angular_miner, _probe, few=_few, loss=False),
        Target(
            *(miners.BatchEasyHardMiner, "mine", hardest_miner, _probe, ("BatchHardMiner",)),
            min_rows=MATRIX,
            loss=False,
        ),
        Target(miners.PairMarginMiner, "mine", pair_miner, _probe, min_rows=MATRIX, loss=False),
        Target(miners.TripletMarginMiner, "mine", triplet_miner, _probe, few=_few, loss=False),
    ]


def around() -> list[Around]:
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

    owners = (losses.BaseMetricLossFunction, losses.CrossBatchMemory, losses.SelfSupervisedLoss)
    return [
        *(Around(owner, "forward", everywhere.of_all_rows) for owner in owners),
        Around(DistributedLossWrapper, "forward", everywhere.as_it_gathers),
    ]


def _few(loss: Any, given: Any) -> None:
    if rows := ROWS_ON_CPU.get(kind_of(loss).__name__):
        require_pairs(rows, given)


def _again(original: Callable[..., LossDict], loss: Any, embeddings: Tensor, labels: Any, *rest: Any) -> LossDict:
    """The original, with lists of pairs and triplets reduced as :func:`reduced` does."""
    losses = original(loss, embeddings, labels, *rest)
    for name, entry in losses.items():
        kinds = ["pos_pair", "neg_pair", "triplet"]
        kinds += ["element"] if kind_of(loss).__name__ == "MarginLoss" else []  # the regularisation of a beta per class
        if entry["reduction_type"] in kinds and kind_of(loss).__name__ != "AngularLoss":
            entry["losses"] = reducer_of(loss, name)({name: entry}, embeddings, labels)
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
