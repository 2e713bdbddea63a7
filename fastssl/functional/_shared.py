"""InfoNCE and its relatives over the rows of several processes: log-sums of blocks, and formulas on top."""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.distributed.blocks import pair_sums
from fastssl.distributed.collectives import sum_by_key
from fastssl.distributed.exchange import gather, layout
from fastssl.distributed.shards import Shards
from fastssl.functional._pairs import reduce_rows
from fastssl.ops.operator import result_dtype


def _softplus(d: Tensor) -> Tensor:
    """log(1 + e^d) to the last bit; torch's softplus is linear above 20, which is 2e-9 off."""
    return torch.logaddexp(d, torch.zeros_like(d))


def nt_xent(
    shards: Shards,
    z0: Tensor,
    z1: Tensor,
    scale: Tensor | float,
    normalize: bool,
    reduction: str,
    backend: str | None,
) -> Tensor:
    counts = [2 * count for count in layout(shards, "z0", z0)]
    n, z = len(z0), torch.cat([z0, z1])
    partner = torch.arange(2 * n, device=z.device).roll(n)
    lse, _, score = pair_sums(shards, counts, z, None, scale, normalize=normalize, partner=partner, backend=backend)
    return reduce_rows(_softplus(lse - score), None, reduction).to(result_dtype(z0))


def info_nce(
    shards: Shards,
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None,
    scale: Tensor | float,
    symmetric: bool,
    normalize: bool,
    reduction: str,
    replicated: bool,
    backend: str | None,
) -> Tensor:
    counts = layout(shards, "query", query)
    everywhere = key
    if negatives is not None and not replicated:
        counts = [a + b for a, b in zip(counts, layout(shards, "negatives", negatives))]
        everywhere = torch.cat([key, negatives])
    partner = torch.arange(len(query), device=query.device)
    lse, by_key, score = pair_sums(
        shards,
        counts,
        query,
        everywhere,
        scale,
        normalize=normalize,
        partner=partner,
        columns=symmetric,
        backend=backend,
    )
    if negatives is not None and replicated:
        more, _, _ = pair_sums(None, [len(negatives)], query, negatives, scale, normalize=normalize, backend=backend)
        lse = torch.logaddexp(lse, more)
    values = _softplus(lse - score)
    if symmetric:
        values = (values + _softplus(by_key - score)) / 2
    return reduce_rows(values, None, reduction).to(result_dtype(query))


def siglip(
    shards: Shards,
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    reduction: str,
    backend: str | None,
) -> Tensor:
    counts = layout(shards, "image_features", image)
    partner = torch.arange(len(image), device=image.device)
    others, _, score = pair_sums(
        shards, counts, image, text, scale, bias, normalize=False, partner=partner, sigmoid=True, backend=backend
    )
    return reduce_rows(others + _softplus(-score), None, reduction).to(result_dtype(image))


def sup_con(
    shards: Shards,
    embeddings: Tensor,
    labels: Tensor,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
    own_offset: int,
    scale: Tensor | float,
    normalize: bool,
    reduction: str,
    backend: str | None,
) -> Tensor:
    """``own_offset``: row i of the embeddings is row (own_offset + i) of ``ref_emb``; -1: it is not there."""
    y, y_ids = (embeddings, labels) if ref_emb is None or ref_labels is None else (ref_emb, ref_labels)
    counts = layout(shards, "embeddings" if ref_emb is None else "ref_emb", y)
    every = gather(shards, y_ids, counts)
    n, itself = len(embeddings), own_offset >= 0
    _, codes, sizes = torch.unique(torch.cat([every, labels]), return_inverse=True, return_counts=True)
    y_codes, x_codes = codes[: len(every)], codes[len(every) :]
    sizes = torch.bincount(y_codes, minlength=len(sizes))
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
    unit_x, unit_y = (TF.normalize(t.to(full), dim=1) if normalize else t.to(full) for t in (embeddings, y))
    sums = torch.zeros(len(keys), y.shape[1], dtype=full, device=y.device).index_add(0, place[: len(y)], unit_y)
    others = sum_by_key(shards, keys, sums)[place[len(y) :]]
    if itself:
        others = others - (unit_x if ref_emb is None else unit_y[partner])
    mean_score = scale * (unit_x * others).sum(1, dtype=torch.float64) / positives.clamp(min=1)
    counted = positives > 0
    if ref_emb is None:
        values = torch.where(partner >= 0, _softplus(lse - score), lse - mean_score)
    else:
        values = lse - mean_score
    values = torch.where(counted, values, torch.zeros_like(values))
    return reduce_rows(values, None, reduction).to(result_dtype(embeddings))
