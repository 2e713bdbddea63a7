"""Blocks of a pair matrix as eager PyTorch: what csrc/pair/block.cpp computes tile by tile."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fastssl.ops.reference.common import unit
from fastssl.ops.types import Ids, Scoring, Sums, Weights


def _scores(x: Tensor, y: Tensor | None, s: Scoring) -> Tensor:
    full = torch.promote_types(x.dtype, torch.float32)
    x = unit(x.to(full), s.normalize)
    return x @ (x if y is None else unit(y.to(full), s.normalize)).T * s.scale + s.bias


def _dense(scores: Tensor, same: bool, partner: Tensor | None, ids: Ids) -> Tensor:
    """Which pairs are in the sums."""
    dense = torch.ones_like(scores, dtype=torch.bool)
    x_ids, y_ids = ids[0], ids[0] if same else ids[1]
    if x_ids is not None and y_ids is not None:
        dense = x_ids[:, None] != y_ids
    if same:
        dense.fill_diagonal_(False)
    if partner is not None:
        rows = torch.nonzero(partner >= 0).flatten()
        dense[rows, partner[rows]] = False
    return dense


def _log2_sum(scores: Tensor, dim: int) -> Tensor:
    return torch.logsumexp(scores.double(), dim) / math.log(2)


def sums(x: Tensor, y: Tensor | None, partner: Tensor | None, ids: Ids, s: Scoring, columns: bool, keep: bool) -> Sums:
    with torch.no_grad():
        scores = _scores(x, y, s)
        dense = _dense(scores, y is None, partner, ids)
        score = scores.new_zeros(len(scores), dtype=torch.float64)
        if partner is not None:
            rows = torch.nonzero(partner >= 0).flatten()
            score[rows] = scores[rows, partner[rows]].double()
        none = score[:0]
        if s.sigmoid:
            rest = scores.masked_fill(~dense, float("-inf"))
            return Sums(
                torch.logaddexp(rest, torch.zeros_like(rest)).double().sum(1),
                none,
                score,
                rest.sigmoid().double().sum(1),
                None,
            )
        rest = scores.masked_fill(~dense, float("-inf"))
        by_row = _log2_sum(rest, 1) if rest.shape[1] else score - math.inf
        by_column = (
            (_log2_sum(rest, 0) if len(rest) else score.new_full((rest.shape[1],), -math.inf)) if columns else none
        )
        return Sums(by_row, by_column, score, none, None)


def gradients(
    x: Tensor,
    y: Tensor | None,
    partner: Tensor | None,
    ids: Ids,
    s: Scoring,
    kept: Tensor | None,
    w: Weights,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor]:
    full = torch.promote_types(x.dtype, torch.float32)
    leaves = [t.detach().to(full).requires_grad_() for t in (x, y) if t is not None]
    with torch.enable_grad():
        dot = _scores(leaves[0], leaves[1] if y is not None else None, replace(s, scale=1.0, bias=0.0))
        scores = dot.detach() * s.scale + s.bias
        same = y is None
        dense = _dense(scores, same, partner, ids)

        def share(weight: Tensor, lse: Tensor) -> Tensor:
            safe = lse.masked_fill(torch.isinf(lse), 0) * math.log(2)
            return (weight[:, None] * torch.exp(scores.double() - safe[:, None])).to(full)

        if s.sigmoid:
            g = w.x[:, None].to(full) * scores.sigmoid()
        else:
            assert w.x_lse is not None
            g = share(w.x, w.x_lse)
            if w.y is not None and not same:
                assert w.y_lse is not None
                safe = w.y_lse.masked_fill(torch.isinf(w.y_lse), 0) * math.log(2)
                g = g + (w.y[None, :] * torch.exp(scores.double() - safe[None, :])).to(full)
        g = torch.where(dense, g, torch.zeros_like(g))
        if partner is not None and w.partner is not None:
            rows = torch.nonzero(partner >= 0).flatten()
            at = torch.zeros_like(g)
            # Among the rows themselves the pair stands above and below, each time with the gradient of both.
            at[rows, partner[rows]] = w.partner[rows].to(full) * (0.5 if same else 1.0)
            g = g + at
        found = torch.autograd.grad(dot, leaves, g * s.scale)
    scale = (g.double() * (dot.detach().double())).sum()
    none = x.new_empty((0,), dtype=full)
    return found[0] if needs & 1 else none, found[1] if y is not None and needs & 2 else none, scale
