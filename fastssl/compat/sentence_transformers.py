"""sentence-transformers: ranking losses with cosines or dot products, one-sided and symmetric, also cached, in one
process or several; all triplets of a batch; the similarities of GIST."""

from __future__ import annotations

import copy
import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

import fastssl.functional as F
from fastssl._table import Metric
from fastssl.compat._dtypes import multiplied
from fastssl.compat._peer import (
    Around,
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
)
from fastssl.compat._sizes import MATRIX, TRIPLETS
from fastssl.functional import _check as check
from fastssl.functional._pairs import Pairs
from fastssl.ops.operator import result_dtype
from fastssl.ops.statistics import Triplets
from fastssl.ops.types import Relation

RANKING = ("MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss")
CACHED = tuple(f"Cached{name}" for name in RANKING)
GIST = ("GISTEmbedLoss", "CachedGISTEmbedLoss")
_RANKING = (
    *("model", "scale", "similarity_fct", "gather_across_devices", "directions", "partition_mode"),
    *("hardness_mode", "hardness_strength"),
)
# cache, random_states: before version 6
_CACHE = ("mini_batch_size", "mini_batch_num_tokens", "show_progress_bar", "cache", "random_states")
_GIST = (
    *("model", "guide", "temperature", "must_retokenize", "tokenizer", "margin_strategy", "margin"),
    *("contrast_anchors", "contrast_positives", "gather_across_devices"),
)
KNOWN = {
    **{name: dict.fromkeys(_RANKING) for name in RANKING},
    **{name: dict.fromkeys((*_RANKING, *_CACHE, "loss")) for name in CACHED},
    **{
        name: {
            **dict.fromkeys((*_GIST, *_CACHE)),
            "calculate_loss": None,  # around the similarities; MatryoshkaLoss decorates it
            "similarity_fct": default(lambda: nn.CosineSimilarity(dim=-1)),
            "cross_entropy_loss": default(nn.CrossEntropyLoss),
        }
        for name in GIST
    },
    "BatchAllTripletLoss": dict.fromkeys(("sentence_embedder", "triplet_margin", "distance_metric")),
}
PEER = Peer("sentence_transformers", "sentence-transformers", "5.3", "7", KNOWN)


def _losses() -> types.ModuleType:
    try:
        return importlib.import_module("sentence_transformers.sentence_transformer.losses")
    except ImportError:  # before version 6
        return importlib.import_module("sentence_transformers.losses")


def targets() -> list[Target]:
    losses = _losses()
    mined, cached = losses.BatchAllTripletLoss, losses.CachedMultipleNegativesRankingLoss
    return [
        *(
            Target(getattr(losses, name), "compute_loss_from_embeddings", _ranking, _probe, min_rows=MATRIX)
            for name in RANKING
        ),
        Target(cached, "calculate_loss", _cached, _probe_cached, CACHED, again=_again_cached, after=_backward),
        Target(mined, "batch_all_triplet_loss", _all_triplets, _probe_triplets, min_rows=TRIPLETS),
        *(Target(getattr(losses, name), "sim_matrix", _cosines, _probe_cosines) for name in GIST),
    ]


def around() -> list[Around]:
    decorator = sys.modules[_losses().MatryoshkaLoss.__module__].CachedLossDecorator
    return [Around(decorator, "__call__", _of_the_class, shared=False)]


def _of_the_class(original: Callable[..., Tensor], decorator: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A decorator of a loss that was made before the patch holds the loss's original method."""
    held = decorator.fn
    if isinstance(held, types.MethodType):
        patched: Any = getattr(type(held.__self__), held.__name__, None)
        if getattr(patched, "__wrapped__", None) is held.__func__:
            decorator = copy.copy(decorator)
            decorator.fn = types.MethodType(patched, held.__self__)
    return original(decorator, *args, **kwargs)


def _probe(original: Callable[..., Tensor], loss: Any, embeddings: list[Tensor], labels: Any) -> Tensor:
    return original(loss, [t[:8].detach() for t in embeddings], labels)


def _ranking(loss: Any, embeddings: list[Tensor], labels: Any) -> Tensor:
    from sentence_transformers.util import cos_sim, dot_score

    require_matrices(*embeddings)
    if len(embeddings) < 2 or loss.hardness_mode is not None:
        raise NotFused("one column, or hardness weights")
    if loss.similarity_fct not in (cos_sim, dot_score) or not PEER.is_own(loss.similarity_fct):
        raise NotFused("another similarity")
    directions = sorted(loss.directions)
    symmetric = directions == ["doc_to_query", "query_to_doc"] and loss.partition_mode == "per_direction"
    if not symmetric and directions != ["query_to_doc"]:
        raise NotFused(f"directions {loss.directions} with partition {loss.partition_mode!r}")
    first = embeddings[0]
    like = first.shape, first.dtype, first.device
    if len(first) == 0 or any((t.shape, t.dtype, t.device) != like for t in embeddings):
        raise NotFused("no rows, or columns of several shapes, dtypes or devices")
    query, key, *rest = multiplied(*lasting(*embeddings))
    if symmetric and rest:
        raise NotFused("hard negatives with both directions")
    scale = number("scale", loss.scale, query)
    if not plain(scale) > 0:
        raise NotFused("a scale that is not above 0")
    negatives = torch.cat(rest) if rest else None
    options: dict[str, Any] = {
        "temperature": 1 / scale,
        "symmetric": symmetric,
        "normalize": loss.similarity_fct is cos_sim,
    }
    if loss.gather_across_devices and dist.is_initialized() and dist.get_world_size() > 1:
        # Local rows against the rows of all processes.
        return F.info_nce(query, key, negatives, **options, reduction="none", group="world").mean()
    return F.info_nce(query, key, negatives, **options)


def _probe_cached(original: Callable[..., Tensor], loss: Any, reps: list[list[Tensor]], *rest: Any, **_: Any) -> Tensor:
    labels = rest[:-1] if len(rest) == 2 else ()
    return original(loss, [[parts[0][:8].detach()] for parts in reps], *labels)


def _again_cached(original: Callable[..., Tensor], loss: Any, reps: list[list[Tensor]], *rest: Any, **_: Any) -> Tensor:
    return original(loss, reps)


def _cached(loss: Any, reps: list[list[Tensor]], *rest: Any, **_: Any) -> Tensor:
    """The loss of embeddings that are made in parts; the original computes it in parts, too."""
    settings = loss
    if "loss" in loss._modules:  # from version 6 on these are those of a loss within
        settings = loss.loss
        PEER.require_own(settings)
    if not all(parts and all(isinstance(t, Tensor) for t in parts) for parts in reps):
        raise NotFused("columns of no parts")
    return _ranking(settings, [torch.cat(parts) for parts in reps], None)


def _backward(result: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Gradients of the parts, for which the original goes backward within the method."""
    if not given["with_backward"]:
        return result
    with torch.autocast(result.device.type, enabled=False):
        result.backward()
    return result.detach()


def _probe_triplets(original: Callable[..., Tensor], loss: Any, labels: Tensor, embeddings: Tensor) -> Tensor:
    few = embeddings[:8].detach()
    return original(loss, torch.arange(len(few), device=few.device) // 2, few)


def _all_triplets(loss: Any, labels: Tensor, embeddings: Tensor) -> Tensor:
    require_matrices(embeddings)
    require_alone()
    if not isinstance(labels, Tensor) or labels.dtype not in check.INTEGERS or labels.numel() != len(embeddings):
        raise NotFused("labels that are no integers, or not one per row")
    sign, normalize = _distance(loss)
    # A copy: the original has read the labels when it returns.
    ids = labels.reshape(-1).to(embeddings.device, torch.int64, copy=True)
    pairs = Pairs(embeddings, None, Relation(ids, ids, self_offset=0))
    margin = number("margin", loss.triplet_margin, embeddings)
    metric = Metric.dot if normalize else Metric.euclidean
    rows = pairs.reduce(Triplets(sign, margin, False), metric=metric, normalize=normalize)
    count = rows.active.sum().detach()
    return (rows.total.sum() / count.clamp(min=1)).to(result_dtype(embeddings))


def _distance(loss: Any) -> tuple[float, bool]:
    """The sign with which larger means farther, and whether rows are normalised."""
    known = sys.modules[kind_of(loss).__module__].BatchHardTripletLossDistanceFunction
    function = loss.distance_metric
    if PEER.is_own(function) and function in (known.euclidean_distance, known.cosine_distance):
        return (1.0, False) if function is known.euclidean_distance else (-1.0, True)
    raise NotFused("another distance")


def _probe_cosines(original: Callable[..., Tensor], loss: Any, embed1: Tensor, embed2: Tensor) -> Tensor:
    return original(loss, embed1[:8].detach(), embed2[:8].detach())


def _cosines(loss: Any, embed1: Tensor, embed2: Tensor) -> Tensor:
    """Cosines as one product of matrices; the original makes all products of features, [N, M, D]."""
    require_matrices(embed1, embed2)
    require_alone()
    if not (embed1.requires_grad or embed2.requires_grad):
        raise NotFused("similarities of the guide, which are compared with each other")
    if embed1.shape[1] != embed2.shape[1] or embed1.dtype != embed2.dtype or embed1.device != embed2.device:
        raise NotFused("sizes, dtypes or devices that differ")
    cosines = F.pairwise_distance(embed1, embed2, metric="dot", normalize=True)
    return cosines.to(result_dtype(embed1))
