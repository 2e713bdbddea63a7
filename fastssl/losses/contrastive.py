"""Contrastive losses as modules: see :mod:`fastssl.functional.contrastive` for formulas and papers."""

from __future__ import annotations

from torch import Tensor

import fastssl.functional as F
from fastssl.functional import _check as check
from fastssl.functional._pairs import IndicesTuple
from fastssl.losses._base import TemperatureLoss


class InfoNCELoss(TemperatureLoss):
    """:func:`fastssl.functional.info_nce` as a module.

    Args:
        temperature: > 0.
        symmetric: also contrast each key with all queries.
        normalize: divide rows by their length first.
        reduction: "mean" | "sum" | "none".
        learnable: learn the logarithm of the temperature.
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch, fastssl
        >>> from fastssl.losses import InfoNCELoss
        >>> loss = InfoNCELoss(temperature=0.07)(torch.randn(8, 16), torch.randn(8, 16))
    """

    def __init__(
        self,
        temperature: float = 0.1,
        symmetric: bool = False,
        normalize: bool = True,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(temperature, normalize, reduction, learnable, backend)
        self.symmetric = check.flag("symmetric", symmetric)

    def forward(self, query: Tensor, key: Tensor, negatives: Tensor | None = None) -> Tensor:
        return F.info_nce(
            query,
            key,
            negatives,
            temperature=self.temperature,
            symmetric=self.symmetric,
            normalize=self.normalize,
            reduction=self.reduction,
            backend=self.backend,
        )


class NTXentLoss(TemperatureLoss):
    """:func:`fastssl.functional.nt_xent` as a module.

    ``loss(z0, z1)`` takes two views. ``loss(embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None)``
    with integer labels is :func:`fastssl.functional.multi_nt_xent`, pytorch-metric-learning's loss of that name.

    Args:
        temperature: > 0.
        normalize: divide rows by their length first.
        reduction: "mean" | "sum" | "none".
        learnable: learn the logarithm of the temperature.
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import NTXentLoss
        >>> loss = NTXentLoss(temperature=0.1)(torch.randn(8, 16), torch.randn(8, 16))
    """

    def __init__(
        self,
        temperature: float = 0.5,
        normalize: bool = True,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(temperature, normalize, reduction, learnable, backend)

    def forward(
        self,
        z0: Tensor,
        z1: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        if z1 is None or (isinstance(z1, Tensor) and not z1.is_floating_point() and z1.dim() == 1):
            return F.multi_nt_xent(
                z0,
                z1,
                temperature=self.temperature,
                normalize=self.normalize,
                reduction=self.reduction,
                indices_tuple=indices_tuple,
                ref_emb=ref_emb,
                ref_labels=ref_labels,
                backend=self.backend,
            )
        return F.nt_xent(
            z0,
            z1,
            temperature=self.temperature,
            normalize=self.normalize,
            reduction=self.reduction,
            backend=self.backend,
        )


class SupConLoss(TemperatureLoss):
    """:func:`fastssl.functional.sup_con` as a module.

    Args:
        temperature: > 0.
        normalize: divide rows by their length first.
        reduction: "mean" | "sum" | "none".
        learnable: learn the logarithm of the temperature.
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import SupConLoss
        >>> loss = SupConLoss()(torch.randn(8, 16), torch.arange(8) % 2)
    """

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        return F.sup_con(
            embeddings,
            labels,
            indices_tuple=indices_tuple,
            ref_emb=ref_emb,
            ref_labels=ref_labels,
            temperature=self.temperature,
            normalize=self.normalize,
            reduction=self.reduction,
            backend=self.backend,
        )
