"""Terms of a row's loss beside the pair matrix, in O(N D): label smoothing, own negatives, weights of positives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.distributed.shards import current
from fastssl.functional import _check as check
from fastssl.functional._pairs import everywhere
from fastssl.ops.reference.common import unit
from fastssl.ops.types import least_length

NO_ID = torch.iinfo(torch.int64).min  # of rows that are negatives of every query


def smoothing(value: object, device: torch.device, ids: Tensor | None) -> Tensor | float:
    """A valid ``label_smoothing``."""
    given = check.value("label_smoothing", value, device, low=0.0, high=1.0)
    if ids is not None and (isinstance(given, Tensor) or given > 0):
        raise ValueError("label_smoothing: expected 0 with ids (pairs that are left out have no probability)")
    return given


def is_zero(value: Tensor | float) -> bool:
    return not isinstance(value, Tensor) and value == 0


def column_ids(
    ids: Tensor | None, rows: Tensor, name: str, negatives: Tensor | None = None, negative_ids: Tensor | None = None
) -> Tensor | None:
    """Ids of the columns: those of ``rows``, then those of ``negatives``."""
    if ids is None:
        return None
    own = check.ids("ids", ids, rows, name)
    if negatives is None:
        return own
    if negative_ids is None:
        return torch.cat([own, own.new_full((len(negatives),), NO_ID)])
    return torch.cat([own, check.ids("negative_ids", negative_ids, negatives, "negatives")])


def rows_in_full(x: Tensor, normalize: float) -> Tensor:
    """Rows in float32 or float64, normalised."""
    return unit(x.to(torch.promote_types(x.dtype, torch.float32)), least_length(normalize, x.dtype))


def products(a: Tensor, b: Tensor) -> Tensor:
    """[N] in float64: a_i . b_i."""
    return (a * b).sum(-1, dtype=torch.float64)


def weighted_sums(weights: Tensor, rows: Tensor) -> Tensor:
    """[C, D], weights^T rows of [N, C] and [N, D]: sums over rows in an order that no number of threads changes."""
    count = rows.shape[0]
    chunk = max(1, min(256, count))
    missing = -count % chunk
    weights, rows = (TF.pad(t, (0, 0, 0, missing)).reshape(-1, chunk, t.shape[1]) for t in (weights, rows))
    with torch.autocast(rows.device.type, enabled=False):
        return torch.bmm(weights.transpose(1, 2), rows).sum(0)


def weighted_sum(weights: Tensor, rows: Tensor) -> Tensor:
    """[D], the sum of rows [N, D] times weights [N], in an order that no number of threads changes (a product's depends
    on it), and without a copy of all rows."""
    chunk, total = 1 << 12, rows.new_zeros(rows.shape[1])
    for w, part in zip(weights.split(chunk), rows.split(chunk)):
        total = total + (w[:, None] * part).sum(0)
    return total


class _Spread(torch.autograd.Function):
    """weights @ sums, [N, C] and [C, D], whose gradient of ``sums`` is a :func:`weighted_sums`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, sums: Tensor) -> Tensor:
        return weights @ sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        weights, sums = ctx.saved_tensors
        return grad @ sums.T, weighted_sums(weights, grad)

    @staticmethod
    def jvp(ctx: Any, of_weights: Tensor, of_sums: Tensor) -> Tensor:
        weights, sums = ctx.saved_tensors
        return of_weights @ sums + weights @ of_sums


def spread(weights: Tensor, sums: Tensor) -> Tensor:
    result: Tensor = _Spread.apply(weights, sums)
    return result


def smoothing_gap(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float,
    normalize: float,
    *,
    symmetric: bool = False,
    more_y: Tensor | None = None,
    replicated: bool = False,
) -> Tensor:
    """[N] in float64: the score of (i, i) less the mean score of row i's columns, y and ``more_y``.

    The mean of scores is one product with the mean of rows; ``symmetric``: the mean of this and of the columns'.
    """
    a, b = rows_in_full(x, normalize), rows_in_full(y, normalize)
    own = products(a, b)
    total, count = _sum_of(b)
    if more_y is not None:
        more = rows_in_full(more_y, normalize)
        more_total, more_count = (more.sum(0, dtype=torch.float64), more.shape[0]) if replicated else _sum_of(more)
        total, count = total + more_total, count + more_count
    mean = products(a, _mean(total, count).to(a.dtype))
    if symmetric:
        total, count = _sum_of(a)
        mean = (mean + products(b, _mean(total, count).to(b.dtype))) / 2
    return scale * (own - mean)


def smoothing_gap_within(z0: Tensor, z1: Tensor, scale: Tensor | float, normalize: float) -> Tensor:
    """The same for two views, each row against all others: [2 N]."""
    a, b = rows_in_full(z0, normalize), rows_in_full(z1, normalize)
    own, (of_a, count), (of_b, _) = products(a, b), _sum_of(a), _sum_of(b)
    total = (of_a + of_b).to(a.dtype)
    mean = torch.cat([products(z, total) - products(z, z) for z in (a, b)]) / (2 * count - 1)
    return scale * (torch.cat([own, own]) - mean)


def _sum_of(rows: Tensor) -> tuple[Tensor, Tensor | float]:
    """The sum of the rows of all processes, and how many there are."""
    total = rows.sum(0, dtype=torch.float64)
    if current() is None:
        return total, rows.shape[0]
    count = torch.full((1,), float(len(rows)), dtype=total.dtype, device=rows.device)
    both = everywhere(torch.cat([total, count]), by_rows=True)
    return both[:-1], both[-1].detach()


def _mean(total: Tensor, count: Tensor | float) -> Tensor:
    return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def negatives_of_rows(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    ids: Tensor | None,
    negative_ids: Tensor | None,
    scale: Tensor | float,
    normalize: float,
) -> Tensor:
    """[N] in float64: log of the sum of exp(score) over a row's own negatives [N, K, D], less its positive's score."""
    q, k, own = rows_in_full(query, normalize), rows_in_full(key, normalize), rows_in_full(negatives, False)
    dots = products(q[:, None], own)
    if normalize:  # afterwards: there are K times as many of these rows
        dots = dots / own.norm(dim=-1).clamp(min=least_length(normalize, negatives.dtype))
    scores = scale * (dots - products(q, k)[:, None])
    if negative_ids is not None:
        assert ids is not None
        scores = scores.masked_fill(negative_ids == ids[:, None], float("-inf"))
    if scores.shape[1] == 0:
        return scores.sum(1) + float("-inf")
    return scores.logsumexp(1)


def check_own_negatives(query: Tensor, negatives: Tensor, negative_ids: object) -> None:
    """Negatives [N, K, D] of each query, and their ids [N, K]."""
    check.matrices(query=query, negatives=negatives.flatten(0, 1))
    if negatives.shape[0] != query.shape[0]:
        raise ValueError(
            f"negatives: expected [K, D], or [{query.shape[0]}, K, D], K for each query, got shape "
            f"{tuple(negatives.shape)}"
        )
    if negative_ids is None:
        return
    given = check.tensor("negative_ids", negative_ids)
    if given.dtype not in check.INTEGERS:
        raise TypeError(f"negative_ids: expected integers, got {given.dtype}")
    if given.shape != negatives.shape[:2] or given.device != query.device:
        raise ValueError(
            f"negative_ids: expected shape {tuple(negatives.shape[:2])} on {query.device}, got {tuple(given.shape)} on "
            f"{given.device}"
        )
