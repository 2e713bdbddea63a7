"""Losses over the whole matrix of pairs.

InfoNCE (van den Oord et al. 2018), NT-Xent (Chen et al. 2020), supervised contrastive (Khosla et al. 2020), CLIP
(Radford et al. 2021), SigLIP (Zhai et al. 2023), the cross-entropy of a linear head, and softmax losses without the
positive in the denominator (decoupled contrastive learning, Yeh et al. 2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl._table import VALUES, Closing, Positives
from fastssl.ops.reference.common import in_full_precision, reduce, softplus, unit


@in_full_precision
def pair_loss(
    x: Tensor,
    more_x: Tensor | None,
    y: Tensor | None,
    more_y: Tensor | None,
    ids: Tensor | None,
    scale: Tensor | float,
    bias: Tensor | float | None,
    positives: Positives,
    closing: Closing,
    normalize: float,
    symmetric: bool,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    rows = unit(x if more_x is None else torch.cat([x, more_x]), normalize)
    columns = rows if y is None else unit(y if more_y is None else torch.cat([y, more_y]), normalize)
    logits = rows @ columns.T * scale
    if bias is not None:
        logits = logits + bias
    n = len(rows)
    if y is None:
        itself = torch.eye(n, dtype=torch.bool, device=rows.device)
        logits = logits.masked_fill(itself, float("-inf"))
    target = torch.arange(n, device=rows.device)
    if positives == Positives.halves:
        target = target.roll(n // 2)
    if ids is not None and positives in (Positives.diagonal, Positives.halves):
        same = ids[:n, None] == ids
        same[torch.arange(n, device=rows.device), target] = False
        logits = logits.masked_fill(same, float("-inf"))
    if positives == Positives.classes:
        assert ids is not None
        return reduce(_mean_over_positives(logits, (ids[:, None] == ids) & ~itself, rows), reduction)
    if closing == Closing.sigmoid_loss:
        sign = 2 * torch.eye(n, dtype=logits.dtype, device=logits.device) - 1
        return reduce(-TF.logsigmoid(sign * logits).sum(1), reduction)
    if closing != Closing.cross_entropy:
        partner = ids if positives == Positives.targets else target
        return reduce(_closed(closing, logits, partner, ignore_index), reduction)
    if positives == Positives.targets:
        assert ids is not None
        values = TF.cross_entropy(logits, ids, ignore_index=ignore_index, reduction="none")
        return reduce(values, reduction, (ids != ignore_index).sum())
    values = TF.cross_entropy(logits, target, reduction="none")
    if symmetric:
        values = (values + TF.cross_entropy(logits.T, target, reduction="none")) / 2
    return reduce(values, reduction)


def _closed(closing: Closing, logits: Tensor, partner: Tensor | None, ignore_index: int) -> Tensor:
    assert partner is not None
    counted = partner != ignore_index
    place = torch.where(counted, partner, torch.zeros_like(partner))[:, None]
    own = torch.arange(logits.shape[1], device=logits.device) == place
    others = logits.masked_fill(own, float("-inf")).logsumexp(1)
    values = VALUES[closing](others, logits.gather(1, place)[:, 0], softplus)
    return torch.where(counted, values, torch.zeros_like(values))


def _mean_over_positives(logits: Tensor, positive: Tensor, rows: Tensor) -> Tensor:
    count = positive.sum(1)
    log_denominator = logits.logsumexp(1) if len(logits) > 1 else logits.new_zeros(len(logits))
    mean = torch.where(positive, logits, torch.zeros_like(logits)).sum(1) / count.clamp(min=1)
    # A row without positives contributes 0, unless it is not finite.
    return torch.where((count > 0) | ~torch.isfinite(rows).all(1), log_denominator - mean, torch.zeros_like(mean))
