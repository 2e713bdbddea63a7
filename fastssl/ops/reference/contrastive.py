"""InfoNCE (van den Oord et al. 2018), NT-Xent (Chen et al. 2020), supervised contrastive (Khosla et al. 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.ops.reference.common import in_full_precision, reduce, unit


@in_full_precision
def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None,
    scale: Tensor | float,
    symmetric: bool,
    normalize: bool,
    reduction: str,
) -> Tensor:
    q, k = unit(query, normalize), unit(key, normalize)
    keys = k if negatives is None else torch.cat([k, unit(negatives, normalize)])
    logits = q @ keys.T * scale
    target = torch.arange(q.shape[0], device=q.device)
    rows = TF.cross_entropy(logits, target, reduction="none")
    if symmetric:
        rows = (rows + TF.cross_entropy(logits.T, target, reduction="none")) / 2
    return reduce(rows, reduction)


@in_full_precision
def nt_xent(z0: Tensor, z1: Tensor, scale: Tensor | float, normalize: bool, reduction: str) -> Tensor:
    n = z0.shape[0]
    z = unit(torch.cat([z0, z1]), normalize)
    logits = z @ z.T * scale
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), float("-inf"))
    positive = torch.arange(2 * n, device=z.device).roll(n)
    return reduce(TF.cross_entropy(logits, positive, reduction="none"), reduction)


@in_full_precision
def sup_con(embeddings: Tensor, labels: Tensor, scale: Tensor | float, normalize: bool, reduction: str) -> Tensor:
    z = unit(embeddings, normalize)
    n = z.shape[0]
    self_pair = torch.eye(n, dtype=torch.bool, device=z.device)
    logits = z @ z.T * scale
    positive = (labels[:, None] == labels[None, :]) & ~self_pair
    count = positive.sum(1)
    log_denominator = logits.masked_fill(self_pair, float("-inf")).logsumexp(1) if n > 1 else logits.new_zeros(n)
    mean_positive = (logits * positive).sum(1) / count.clamp(min=1)
    # A row without positives contributes 0, unless it is not finite.
    rows = torch.where(
        (count > 0) | ~torch.isfinite(z).all(1), log_denominator - mean_positive, torch.zeros_like(mean_positive)
    )
    return reduce(rows, reduction)
