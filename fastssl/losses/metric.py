"""Losses on labelled rows as modules, with pytorch-metric-learning's names and call signature.

``loss(embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None)``: see
:mod:`fastssl.functional.metric` for formulas and papers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.functional import _check as check
from fastssl.losses._base import LabelledLoss, LearnableTemperature, Real, ViewLoss


class ContrastiveLoss(LabelledLoss, function=F.contrastive):
    def __init__(
        self,
        margin: Real = 1.0,
        normalize: bool = False,
        reduction: str = "mean",
        backend: str | None = None,
        positive_margin: Real = 0.0,
        squared: bool = True,
    ) -> None: ...


class TripletMarginLoss(LabelledLoss, function=F.triplet):
    def __init__(
        self,
        margin: Real = 0.2,
        mining: str = "all",
        squared: bool = False,
        smooth: bool = False,
        normalize: bool = False,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...


class LiftedStructureLoss(LabelledLoss, function=F.lifted_structure):
    reduction = "mean"

    def __init__(
        self, margin: Real = 1.0, squared_hinge: bool = True, normalize: bool = False, backend: str | None = None
    ) -> None: ...


class GeneralizedLiftedStructureLoss(LabelledLoss, function=F.generalized_lifted_structure):
    def __init__(
        self, margin: Real = 1.0, normalize: bool = False, reduction: str = "mean", backend: str | None = None
    ) -> None: ...


class NPairsLoss(ViewLoss, function=F.n_pair):
    def __init__(self, l2_reg: Real = 0.0, reduction: str = "mean", backend: str | None = None) -> None: ...

    def forward(self, anchors: Tensor, positives: Tensor) -> Tensor:
        return self.call(anchors, positives)


class SoftNearestNeighborLoss(LearnableTemperature, LabelledLoss, function=F.soft_nearest_neighbor):
    def __init__(
        self,
        temperature: Real = 1.0,
        normalize: bool = False,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
    ) -> None: ...


class NCALoss(LabelledLoss, function=F.nca):
    def __init__(
        self,
        scale: Real = 1.0,
        log: bool = False,
        normalize: bool = False,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...


class MultiSimilarityLoss(LabelledLoss, function=F.multi_similarity):
    def __init__(
        self,
        alpha: Real = 2.0,
        beta: Real = 50.0,
        base: Real = 0.5,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...


class CircleLoss(LabelledLoss, function=F.circle, m="margin"):
    def __init__(
        self, m: Real = 0.4, gamma: Real = 80.0, reduction: str = "mean", backend: str | None = None
    ) -> None: ...


class MarginLoss(LabelledLoss, function=F.margin_loss):
    """
    Args:
        beta: initial boundary.
        learn_beta: make ``beta`` a parameter.
        num_classes: number of classes, for one boundary per class; None: a single boundary.
    """

    beta: Tensor
    example = "learn_beta=True, num_classes=2", LabelledLoss.example[1]

    def __init__(
        self,
        margin: Real = 0.2,
        nu: Real = 0.0,
        beta: float = 1.2,
        learn_beta: bool = False,
        num_classes: int | None = None,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...

    def set_options(self, *, beta: float, learn_beta: bool, num_classes: int | None, **options: Any) -> None:
        boundary = torch.full((num_classes or 1,), check.number("beta", beta))
        super().set_options(
            beta=nn.Parameter(boundary) if check.flag("learn_beta", learn_beta) else boundary, **options
        )


class TupletMarginLoss(LabelledLoss, function=F.tuplet_margin):
    def __init__(
        self, margin: Real = 5.73, scale: Real = 64.0, reduction: str = "mean", backend: str | None = None
    ) -> None: ...


class FastAPLoss(LabelledLoss, function=F.fast_ap, num_bins="bins"):
    def __init__(self, num_bins: int = 10, reduction: str = "mean", backend: str | None = None) -> None: ...


class AngularLoss(LabelledLoss, function=F.angular):
    def __init__(self, alpha: Real = 40.0, reduction: str = "mean", backend: str | None = None) -> None: ...


class RankedListLoss(LabelledLoss, function=F.ranked_list, Tn="negative_temperature", Tp="positive_temperature"):
    def __init__(
        self,
        margin: Real = 0.4,
        Tn: Real = 10.0,
        imbalance: Real = 0.5,
        alpha: Real | None = None,
        Tp: Real = 0.0,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None: ...
