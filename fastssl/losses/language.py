"""The language model loss as a module: see :mod:`fastssl.functional.language` for the formula and paper."""

from __future__ import annotations

from torch import Tensor

import fastssl.functional as F
from fastssl.losses._base import Loss


class LinearCrossEntropyLoss(Loss):
    """:func:`fastssl.functional.linear_cross_entropy` as a module.

    Args:
        ignore_index: the target that is left out.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import LinearCrossEntropyLoss
        >>> loss = LinearCrossEntropyLoss()(torch.randn(4, 16), torch.randn(100, 16), torch.tensor([3, 1, 4, 1]))
    """

    def __init__(self, ignore_index: int = -100, reduction: str = "mean", backend: str | None = None) -> None:
        super().__init__(reduction, backend)
        self.ignore_index = ignore_index

    def forward(self, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear_cross_entropy(
            hidden,
            weight,
            targets,
            bias,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            backend=self.backend,
        )
