"""Losses over the pair matrix of the rows of several processes: log-sums of blocks, and one closing on top."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastssl._table import VALUES, Positives
from fastssl.distributed.blocks import pair_sums
from fastssl.distributed.collectives import sum_by_key
from fastssl.distributed.exchange import gather, layout
from fastssl.distributed.shards import Shards
from fastssl.ops.pair_loss import PairLoss
from fastssl.ops.reference.common import softplus, unit
from fastssl.ops.types import least_length


def pair_loss(
    loss: PairLoss,
    shards: Shards,
    x: Tensor,
    more_x: Tensor | None,
    y: Tensor | None,
    more_y: Tensor | None,
    *,
    names: tuple[str, str] = ("x", "y"),
    ids: Tensor | None = None,
    scale: Tensor | float,
    bias: Tensor | float = 0.0,
    normalize: float,
    symmetric: bool = False,
    replicated: bool = False,
    backend: str | None,
) -> Tensor:
    """[N] in float64, as :func:`fastssl.ops.pair_loss.pair_loss` with the rows of all processes.

    Args:
        ids: of this process's rows.
        names: of x and of ``more_y``, for errors.
        replicated: ``more_y`` is the same in every process; else each has its part.
    """
    if loss.positives == Positives.classes:
        assert ids is not None
        return sup_con(shards, x, ids, None, None, 0, scale, normalize, backend)
    n = len(x)
    counts = layout(shards, names[0], x)
    partner = torch.arange(n, device=x.device)
    if more_x is not None:
        x, partner, counts = (
            torch.cat([x, more_x]),
            torch.arange(2 * n, device=x.device).roll(n),
            [2 * c for c in counts],
        )
    alone = more_y if replicated else None
    if more_y is not None and not replicated:
        assert y is not None
        y, counts = torch.cat([y, more_y]), [a + b for a, b in zip(counts, layout(shards, names[1], more_y))]
    options: dict[str, Any] = {"normalize": normalize, "backend": backend}
    of_x = of_y = of_alone = None
    if ids is not None:
        of_x, m = ids[: len(x)], len(x if y is None else y)
        of_y, of_alone = None if y is None else ids[:m], ids[m:]
    lse, by_column, score = pair_sums(
        *(shards, counts, x, y, scale, bias),
        ids=(of_x, of_y),
        partner=partner,
        columns=symmetric,
        sigmoid=loss.sigmoid,
        **options,
    )
    if loss.sigmoid:
        return lse + softplus(-score)
    if alone is not None:
        more = pair_sums(None, [len(alone)], x, alone, scale, ids=(of_x, of_alone), **options)
        lse = torch.logaddexp(lse, more[0])
    values = VALUES[loss.closing](lse, score, softplus)
    return (values + softplus(by_column - score)) / 2 if symmetric else values


def sup_con(
    shards: Shards,
    embeddings: Tensor,
    labels: Tensor,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
    own_offset: int,
    scale: Tensor | float,
    normalize: float,
    backend: str | None,
    weights: Tensor | None = None,
) -> Tensor:
    """[N] in float64. ``own_offset``: row i of the embeddings is row (own_offset + i) of ``ref_emb``; -1: it is not
    there. ``weights``: of this process's columns in the mean over positives, in float64."""
    y, y_ids = (embeddings, labels) if ref_emb is None or ref_labels is None else (ref_emb, ref_labels)
    counts = layout(shards, "embeddings" if ref_emb is None else "ref_emb", y)
    every = gather(shards, y_ids, counts)
    n, itself = len(embeddings), own_offset >= 0
    # Classes by number: of all columns, alike on every process; one more for those that no column has.
    classes, y_codes = torch.unique(every, return_inverse=True)
    x_codes = torch.searchsorted(classes, labels)
    known = torch.cat([classes, classes.new_zeros(1)])[x_codes] == labels
    x_codes = torch.where(known, x_codes, len(classes))
    sizes = torch.bincount(y_codes, minlength=len(classes) + 1)
    positives = (sizes[x_codes] - int(itself)).double()
    # Two rows of a class that are both here are each other's only positive: NT-Xent's form, exact for small losses.
    partner = torch.full((n,), -1, device=labels.device)
    if ref_emb is None:
        order = torch.argsort(labels, stable=True)
        ids, pair = labels[order], sizes[x_codes][order] == 2
        together = (ids[1:] == ids[:-1]) & pair[1:]
        a, b = order[:-1][together], order[1:][together]
        partner[a], partner[b] = b, a
    elif itself:
        partner = (own_offset + torch.arange(n, device=labels.device)) % len(y)
    lse, _, score = pair_sums(
        shards,
        counts,
        embeddings,
        None if ref_emb is None else y,
        scale,
        normalize=normalize,
        partner=partner,
        backend=backend,
    )
    # The sum over positives of dot products is linear: sums of classes, each over all processes.
    first = sum(counts[: shards.rank])
    keys, place = torch.unique(torch.cat([y_codes[first : first + len(y)], x_codes]), return_inverse=True)
    full = torch.promote_types(embeddings.dtype, torch.float32)
    unit_x, unit_y = (unit(t.to(full), least_length(normalize, t.dtype)) for t in (embeddings, y))
    own = unit_x if ref_emb is None else unit_y
    if weights is not None:
        unit_y = torch.cat([unit_y.double() * weights[:, None], weights[:, None]], 1)
        own = unit_y
    sums = unit_y.new_zeros(len(keys), unit_y.shape[1]).index_add(0, place[: len(y)], unit_y)
    others = sum_by_key(shards, keys, sums)[place[len(y) :]]
    if itself:
        others = others - (own if ref_emb is None else own[partner])
    if weights is not None:
        others, total = others[:, :-1], others[:, -1]
        positives = torch.where(total > 0, total, torch.zeros_like(total))
    divisor = torch.where(positives > 0, positives, torch.ones_like(positives))
    mean_score = scale * (unit_x * others).sum(1, dtype=torch.float64) / divisor
    values = lse - mean_score
    if ref_emb is None:
        values = torch.where(partner >= 0, softplus(lse - score), values)
    return torch.where(positives > 0, values, torch.zeros_like(values))
