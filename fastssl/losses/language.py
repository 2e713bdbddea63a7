"""The language model loss as a module: see :mod:`fastssl.functional.language` for the formula and paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.losses._base import Loss


class LinearCrossEntropyLoss(Loss, function=F.linear_cross_entropy):
    example = "", "torch.randn(4, 16), torch.randn(100, 16), torch.tensor([3, 1, 4, 1])"

    def __init__(self, ignore_index: int = -100, reduction: str = "mean", backend: str | None = None) -> None: ...

    def dummy_inputs(self) -> tuple[Any, ...]:
        return torch.zeros(1, 1), torch.zeros(2, 1), torch.zeros(1, dtype=torch.int64)

    def forward(self, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.call(hidden, weight, targets, bias)
