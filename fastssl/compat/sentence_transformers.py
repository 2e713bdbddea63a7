"""sentence-transformers: MultipleNegativesRankingLoss with cosines or products, one-sided and symmetric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.compat import NotFused, require_matrices


def targets() -> list[tuple[type, str, Callable[..., Any]]]:
    try:
        from sentence_transformers.sentence_transformer import losses
    except ImportError:  # before version 6
        from sentence_transformers import losses

    names = ("MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss")
    return [(getattr(losses, name), "compute_loss_from_embeddings", _ranking) for name in names]


def _ranking(loss: Any, embeddings: list[Tensor], labels: Tensor) -> Tensor:
    from sentence_transformers.util import cos_sim, dot_score

    require_matrices(*embeddings)
    if len(embeddings) < 2 or loss.gather_across_devices or loss.hardness_mode is not None:
        raise NotFused("one column, several processes, or hardness weights")
    if loss.similarity_fct not in (cos_sim, dot_score):
        raise NotFused("another similarity")
    symmetric = set(loss.directions) == {"query_to_doc", "doc_to_query"} and loss.partition_mode == "per_direction"
    if not symmetric and set(loss.directions) != {"query_to_doc"}:
        raise NotFused(f"directions {loss.directions} with partition {loss.partition_mode!r}")
    query, key, *rest = embeddings
    if len(query) == 0 or any(t.shape != query.shape or t.dtype != query.dtype for t in embeddings):
        raise NotFused("no rows, or columns of several shapes or dtypes")
    if symmetric and rest:
        raise NotFused("hard negatives with both directions")
    negatives = torch.cat(rest) if rest else None
    return F.info_nce(
        query,
        key,
        negatives,
        temperature=1 / loss.scale,
        symmetric=symmetric,
        normalize=loss.similarity_fct is cos_sim,
    )
