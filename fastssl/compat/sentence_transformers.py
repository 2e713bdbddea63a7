"""sentence-transformers: MultipleNegativesRankingLoss with cosines or dot products, one-sided and symmetric, in one
process or several."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

import fastssl.functional as F
from fastssl.compat._peer import NotFused, Peer, Target, number, plain, require_matrices

NAMES = ("MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss")
_SETTINGS = ("model", "scale", "similarity_fct", "gather_across_devices", "directions", "partition_mode")
KNOWN = {name: dict.fromkeys((*_SETTINGS, "hardness_mode", "hardness_strength")) for name in NAMES}
PEER = Peer("sentence_transformers", "sentence-transformers", "5.3", "7", KNOWN)


def targets() -> list[Target]:
    try:
        losses = importlib.import_module("sentence_transformers.sentence_transformer.losses")
    except ImportError:  # before version 6
        losses = importlib.import_module("sentence_transformers.losses")
    return [Target(getattr(losses, name), "compute_loss_from_embeddings", _ranking, _probe) for name in NAMES]


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
    query, key, *rest = embeddings
    like = query.shape, query.dtype, query.device
    if len(query) == 0 or any((t.shape, t.dtype, t.device) != like for t in embeddings):
        raise NotFused("no rows, or columns of several shapes, dtypes or devices")
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
