"""Losses with learned class centres as modules: see :mod:`fastssl.functional.proxy` for formulas and papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.functional import _check as check
from fastssl.losses._base import Loss, Options


class ProxyLoss(Loss, Options):
    """A loss against class centres, which are its parameter ``weight`` [num_classes, embedding_size]."""

    function: Callable[..., Tensor]

    def __init__(
        self, num_classes: int, embedding_size: int, reduction: str = "mean", backend: str | None = None, **options: Any
    ) -> None:
        super().__init__(reduction, backend)
        check.count("num_classes", num_classes)
        check.count("embedding_size", embedding_size)
        self.hold(**options)
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, std=embedding_size**-0.5)
        type(self).function(torch.zeros(1, 1), torch.ones(2, 1), torch.zeros(1, dtype=torch.int64), **self.arguments())

    def arguments(self) -> dict[str, Any]:
        return {**self.options, "reduction": self.reduction, "backend": self.backend}

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return type(self).function(embeddings, self.weight.to(embeddings.dtype), labels, **self.arguments())

    def extra_repr(self) -> str:
        classes, size = self.weight.shape
        parts = [f"num_classes={classes}", f"embedding_size={size}", *(f"{k}={v!r}" for k, v in self.options.items())]
        return ", ".join([*parts, super().extra_repr()])


class NormalizedSoftmaxLoss(ProxyLoss):
    """:func:`fastssl.functional.normalized_softmax` as a module.

    Args:
        num_classes: C.
        embedding_size: D.
        temperature: > 0.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import NormalizedSoftmaxLoss
        >>> loss = NormalizedSoftmaxLoss(100, 16)(torch.randn(8, 16), torch.arange(8))
    """

    function = staticmethod(F.normalized_softmax)

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        temperature: float = 0.05,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(num_classes, embedding_size, reduction, backend, temperature=temperature)


class CosFaceLoss(ProxyLoss):
    """:func:`fastssl.functional.cos_face` as a module.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: of the cosine.
        scale: > 0.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import CosFaceLoss
        >>> loss = CosFaceLoss(100, 16)(torch.randn(8, 16), torch.arange(8))
    """

    function = staticmethod(F.cos_face)

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.35,
        scale: float = 64.0,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(num_classes, embedding_size, reduction, backend, margin=margin, scale=scale)


class ArcFaceLoss(ProxyLoss):
    """:func:`fastssl.functional.arc_face` as a module.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: in degrees.
        scale: > 0.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import ArcFaceLoss
        >>> loss = ArcFaceLoss(100, 16)(torch.randn(8, 16), torch.arange(8))
    """

    function = staticmethod(F.arc_face)

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 28.6,
        scale: float = 64.0,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(num_classes, embedding_size, reduction, backend, margin=margin, scale=scale)


class ProxyNCALoss(ProxyLoss):
    """:func:`fastssl.functional.proxy_nca` as a module.

    Args:
        num_classes: C.
        embedding_size: D.
        scale: > 0.
        include_positive: a softmax over all proxies (ProxyNCA++).
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import ProxyNCALoss
        >>> loss = ProxyNCALoss(100, 16)(torch.randn(8, 16), torch.arange(8))
    """

    function = staticmethod(F.proxy_nca)

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: float = 1.0,
        include_positive: bool = False,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(
            num_classes, embedding_size, reduction, backend, scale=scale, include_positive=include_positive
        )


class ProxyAnchorLoss(ProxyLoss):
    """:func:`fastssl.functional.proxy_anchor` as a module.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: of the cosine.
        alpha: > 0, the scale.
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import ProxyAnchorLoss
        >>> loss = ProxyAnchorLoss(100, 16)(torch.randn(8, 16), torch.arange(8))
    """

    function = staticmethod(F.proxy_anchor)

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.1,
        alpha: float = 32.0,
        backend: str | None = None,
    ) -> None:
        super().__init__(num_classes, embedding_size, "mean", backend, margin=margin, alpha=alpha)

    def arguments(self) -> dict[str, Any]:
        return {**self.options, "backend": self.backend}
