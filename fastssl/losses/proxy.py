"""Classification and proxy losses as modules: see :mod:`fastssl.functional.proxy` for formulas and papers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.functional import _check as check
from fastssl.losses._base import Loss, Real


class ProxyLoss(Loss):
    """A loss against class weights (proxies), its parameter ``weight`` [num_classes, embedding_size]."""

    example = "100, 16", "torch.randn(8, 16), torch.arange(8)"

    def __init__(self, *, num_classes: int, embedding_size: int, **options: Any) -> None:
        num_classes = check.count("num_classes", num_classes)
        embedding_size = check.count("embedding_size", embedding_size)
        super().__init__(**options)
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, std=embedding_size**-0.5)

    def dummy_inputs(self) -> tuple[Any, ...]:
        return torch.zeros(1, 1), torch.zeros(2, 1), torch.zeros(1, dtype=torch.int64)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.call(embeddings, self.weight.to(embeddings.dtype), labels)

    def extra_repr(self) -> str:
        classes, size = self.weight.shape
        return f"num_classes={classes}, embedding_size={size}, {super().extra_repr()}"


class NormalizedSoftmaxLoss(ProxyLoss, function=F.normalized_softmax):
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        temperature: Real = 0.05,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...


class CosFaceLoss(ProxyLoss, function=F.cos_face):
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: Real = 0.35,
        scale: Real = 64.0,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...


class ArcFaceLoss(ProxyLoss, function=F.arc_face):
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: Real = 28.6,
        scale: Real = 64.0,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...


class ProxyNCALoss(ProxyLoss, function=F.proxy_nca):
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: Real = 1.0,
        include_positive: bool = False,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...


class ProxyAnchorLoss(ProxyLoss, function=F.proxy_anchor):
    reduction = "mean"

    def __init__(
        self, num_classes: int, embedding_size: int, margin: Real = 0.1, alpha: Real = 32.0, backend: str | None = None
    ) -> None: ...
