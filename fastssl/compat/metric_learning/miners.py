"""Miners of pytorch-metric-learning."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssl.compat._dtypes import in_autocast
from fastssl.compat._peer import NotFused, number, plain, require_matrices, require_values
from fastssl.compat.metric_learning.calls import COMPARED
from fastssl.compat.metric_learning.known import PEER

LISTED = 2**24  # distances of a miner that are compared at a time
LOOPED = 2**31 - 1  # entries of [N, M, M] from which on the original's triplets are made row by row


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


def hardest_miner(
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


def pair_miner(
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


def triplet_miner(miner: Any, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> Mined:
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


def angular_miner(miner: Any, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> Mined:
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
