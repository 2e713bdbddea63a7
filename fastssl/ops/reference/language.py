"""Cross-entropy of a linear head, the loss of language models."""

from __future__ import annotations

import torch.nn.functional as TF
from torch import Tensor

from fastssl.ops.reference.common import in_full_precision, reduce


@in_full_precision
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    reduction: str,
    gradient_filter: float = 0.0,
) -> Tensor:
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    rows = TF.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
    return reduce(rows, reduction, (targets != ignore_index).sum())
