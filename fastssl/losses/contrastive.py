"""Contrastive losses as modules: see :mod:`fastssl.functional.contrastive` for formulas and papers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.functional._pairs import IndicesTuple
from fastssl.losses._base import LabelledLoss, Loss, Real, TemperatureLoss, ViewLoss


class InfoNCELoss(TemperatureLoss, ViewLoss, function=F.info_nce):
    def __init__(
        self,
        temperature: Real = 0.1,
        symmetric: bool = False,
        normalize: bool = True,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
        label_smoothing: Real = 0.0,
        eps: float | None = None,
    ) -> None: ...

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        negatives: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        negative_ids: Tensor | None = None,
    ) -> Tensor:
        return self.call(query, key, negatives, ids=ids, negative_ids=negative_ids)


class NTXentLoss(TemperatureLoss, ViewLoss, function=F.nt_xent):
    """``loss(z0, z1)`` takes two views. ``loss(embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None)``
    with integer labels is :func:`fastssl.functional.multi_nt_xent`, pytorch-metric-learning's loss of that name.
    """

    def __init__(
        self,
        temperature: Real = 0.5,
        normalize: bool = True,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
        label_smoothing: Real = 0.0,
        eps: float | None = None,
    ) -> None: ...

    def forward(
        self,
        z0: Tensor,
        z1: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        ids: Tensor | None = None,
    ) -> Tensor:
        if z1 is None or (isinstance(z1, Tensor) and not z1.is_floating_point()):
            options = self.options
            if options.pop("label_smoothing") != 0 or ids is not None:
                raise ValueError("label_smoothing, ids: expected two views, got labels")
            return F.multi_nt_xent(
                z0, z1, indices_tuple=indices_tuple, ref_emb=ref_emb, ref_labels=ref_labels, **options
            )
        return self.call(z0, z1, ids=ids)


class SupConLoss(TemperatureLoss, LabelledLoss, function=F.sup_con):
    def __init__(
        self,
        temperature: Real = 0.1,
        normalize: bool = True,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
        eps: float | None = None,
    ) -> None: ...

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        weights: Tensor | None = None,
    ) -> Tensor:
        options = {"indices_tuple": indices_tuple, "ref_emb": ref_emb, "ref_labels": ref_labels, "weights": weights}
        return self.call(embeddings, labels, **options)


class SINCERELoss(TemperatureLoss, LabelledLoss, function=F.sincere):
    def __init__(
        self,
        temperature: Real = 0.1,
        normalize: bool = True,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
        eps: float | None = None,
    ) -> None: ...


class MILNCELoss(LabelledLoss, function=F.mil_nce):
    def __init__(
        self,
        temperature: Real = 0.07,
        normalize: bool = True,
        reduction: str = "mean",
        backend: str | None = None,
        eps: float | None = None,
    ) -> None: ...


class DCLLoss(ViewLoss, function=F.dcl):
    def __init__(self, temperature: Real = 0.1, reduction: str = "mean", backend: str | None = None) -> None: ...


class DCLWLoss(ViewLoss, function=F.dcl):
    """With the weights of DCLW."""

    def __init__(
        self, temperature: Real = 0.1, sigma: Real = 0.5, reduction: str = "mean", backend: str | None = None
    ) -> None: ...


class RINCELoss(ViewLoss, function=F.rince):
    def __init__(
        self,
        temperature: Real = 0.5,
        q: Real = 0.5,
        lam: Real = 0.025,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...


class HardNegativeNTXentLoss(ViewLoss, function=F.hard_negative_nt_xent):
    def __init__(
        self,
        temperature: Real = 0.5,
        tau_plus: Real = 0.1,
        beta: Real = 1.0,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...


class AlignmentLoss(ViewLoss, function=F.alignment):
    def __init__(self, alpha: Real = 2.0) -> None: ...


class _RowsLoss(Loss):
    """A loss of rows without labels."""

    example = "", "torch.randn(8, 16)"

    def dummy_inputs(self) -> tuple[Any, ...]:
        return (torch.zeros(2, 1),)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.call(embeddings)


class UniformityLoss(_RowsLoss, function=F.uniformity):
    def __init__(self, t: Real = 2.0, backend: str | None = None) -> None: ...


class KoLeo(_RowsLoss, function=F.koleo):
    def __init__(self, eps: Real = 1e-8, reduction: str = "mean", backend: str | None = None) -> None: ...


class MultipleNegativesRankingLoss(nn.Module):
    r""":func:`fastssl.functional.info_nce` with the signature of sentence-transformers.

    .. math:: L = -\frac1N \sum_i \log \frac{\exp(s \cos(a_i, p_i))}{\sum_j \exp(s \cos(a_i, c_j))}

    with c all candidates of the batch: the positives p of all anchors a and the hard negatives.

    Args:
        model: maps a dictionary of features to one with "sentence_embedding" [N, D]; None: the features are embeddings.
        scale: s > 0, the inverse of the temperature.

    Inputs:
        sentence_features: inputs of ``model``: anchors, positives and optionally hard negatives; embeddings [N, D] are
            float32, float64, bfloat16 or float16 (computed in fp32).
        labels: ignored.

    Returns:
        A scalar; float64 for float64 inputs, else float32.

    Raises:
        TypeError: embeddings of the wrong type or dtype.
        ValueError: fewer than two columns, or embeddings of the wrong shape or device.

    Example:
        >>> import torch
        >>> from fastssl.losses import MultipleNegativesRankingLoss
        >>> loss = MultipleNegativesRankingLoss(None)([torch.randn(8, 16), torch.randn(8, 16)])

    Source: Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply, 2017, eq. 4.
    """

    def __init__(self, model: nn.Module | None, scale: float = 20.0) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, sentence_features: Any, labels: Tensor | None = None) -> Tensor:
        columns = [
            features if self.model is None else self.model(features)["sentence_embedding"]
            for features in sentence_features
        ]
        if len(columns) < 2:
            raise ValueError(f"sentence_features: expected anchors and candidates, got {len(columns)} column(s)")
        negatives = torch.cat(columns[2:]) if len(columns) > 2 else None
        return F.info_nce(columns[0], columns[1], negatives, temperature=1 / self.scale)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"
