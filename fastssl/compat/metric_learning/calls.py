"""What a call of a loss of pytorch-metric-learning asks for: its rows, pairs, distances and hyperparameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastssl._table import Metric
from fastssl.compat._peer import (
    NotFused,
    kind_of,
    lasting,
    number,
    plain,
    require_alone,
    require_matrices,
    require_values,
)
from fastssl.compat.metric_learning.known import BY_MATRIX, PEER
from fastssl.functional import _check as check
from fastssl.functional._pairs import Pairs
from fastssl.ops.operator import result_dtype
from fastssl.ops.rows import pair_bits
from fastssl.ops.types import Relation

LossDict = dict[str, dict[str, Any]]
FEW_ROWS = 4  # the original has special cases for one pair and none
COMPARED = 2**20  # entries of rows that are compared at a time


def check_loss(loss: Any, embeddings: Tensor) -> None:
    require_matrices(embeddings)
    require_alone()
    if len(embeddings) <= FEW_ROWS:
        raise NotFused("a handful of rows")
    method = vars(loss).get("loss_method")
    if method is not None:
        wanted = "mat_based_loss" if kind_of(loss).__name__ in BY_MATRIX else "pair_based_loss"
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
        thresholds_of(part)
    metric_of(loss)  # before there is anything in a graph of torch.compile


def require_all(embeddings: Tensor, labels: Any, indices: Any, ref_emb: Any, ref_labels: Any) -> None:
    """All pairs of the rows with each other."""
    if indices is not None or ref_emb is not embeddings or ref_labels is not labels:
        raise NotFused("listed pairs or references")


def number_of(loss: Any, name: str, like: Tensor) -> Tensor | float:
    return number(name, getattr(loss, name), like)


def fixed(loss: Any, *names: str) -> list[float]:
    """Settings that may not be learned."""
    given = [getattr(loss, name) for name in names]
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in given):
        raise NotFused(f"{' or '.join(names)} is no plain number")
    return given


def metric_of(loss: Any) -> tuple[Metric, bool, float]:
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


def pairs_of(
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
    check_loss(loss, embeddings)
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


def thresholds_of(reducer: Any) -> list[float]:
    """The thresholds of a reducer."""
    if type(reducer).__name__ not in ("AvgNonZeroReducer", "ThresholdReducer"):
        return []
    given = [v for v in (reducer.low, reducer.high) if v is not None]
    if any(isinstance(v, Tensor) and v.numel() != 1 for v in given):
        raise NotFused("thresholds that are no numbers")
    return [plain(v) for v in given]


def _weights(embeddings: Tensor, labels: Tensor, indices: Any, using_ref: bool) -> Tensor | None:
    from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

    if indices is None:
        return None
    require_values()
    weights: Tensor = lmu.convert_to_weights(indices, labels, dtype=result_dtype(embeddings), using_ref=using_ref)
    return weights


def weighted(values: Tensor, embeddings: Tensor, labels: Any, indices: Any, *, using_ref: bool) -> Tensor:
    """Losses per row times the weights of listed rows: of anchors alone with ``using_ref``, as proxies are references
    in some of the library's losses."""
    weights = _weights(embeddings, labels, indices, using_ref=using_ref)
    return values if weights is None else values * weights.to(values.dtype)


def normalised_products(loss: Any) -> None:
    metric, normalize, _ = metric_of(loss)
    if metric != Metric.dot or not normalize:
        raise NotFused("another distance than the cosine")
