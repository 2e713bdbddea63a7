"""Losses on two views and on features as modules: see :mod:`fastssl.functional` for formulas and papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.functional import _check as check
from fastssl.losses._base import Options


class ViewLoss(Options):
    """A loss of :mod:`fastssl.functional` on matched rows, with its options."""

    function: Callable[..., Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.hold(**options)
        type(self).function(torch.ones(2, 1), torch.ones(2, 1), **options)  # wrong options show now

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        return type(self).function(z0, z1, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class DCLLoss(ViewLoss):
    """:func:`fastssl.functional.dcl` as a module.

    Args:
        temperature: > 0.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import DCLLoss
        >>> loss = DCLLoss()(torch.randn(8, 16), torch.randn(8, 16))
    """

    function = staticmethod(F.dcl)

    def __init__(self, temperature: float = 0.1, reduction: str = "mean", backend: str | None = None) -> None:
        super().__init__(temperature=temperature, reduction=reduction, backend=backend)


class DCLWLoss(ViewLoss):
    """:func:`fastssl.functional.dcl` with its weights as a module.

    Args:
        temperature: > 0.
        sigma: concentration of the weights.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import DCLWLoss
        >>> loss = DCLWLoss()(torch.randn(8, 16), torch.randn(8, 16))
    """

    function = staticmethod(F.dcl)

    def __init__(
        self, temperature: float = 0.1, sigma: float = 0.5, reduction: str = "mean", backend: str | None = None
    ) -> None:
        super().__init__(temperature=temperature, sigma=sigma, reduction=reduction, backend=backend)


class HardNegativeNTXentLoss(ViewLoss):
    """:func:`fastssl.functional.hard_negative_nt_xent` as a module; beta = 0 is the debiased loss.

    Args:
        temperature: > 0.
        tau_plus: share of negatives of the anchor's class.
        beta: how much harder negatives weigh.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import HardNegativeNTXentLoss
        >>> loss = HardNegativeNTXentLoss()(torch.randn(8, 16), torch.randn(8, 16))
    """

    function = staticmethod(F.hard_negative_nt_xent)

    def __init__(
        self,
        temperature: float = 0.5,
        tau_plus: float = 0.1,
        beta: float = 1.0,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(temperature=temperature, tau_plus=tau_plus, beta=beta, reduction=reduction, backend=backend)


class BarlowTwinsLoss(ViewLoss):
    """:func:`fastssl.functional.barlow_twins` as a module.

    Args:
        lambd: weight of what is off the diagonal.

    Example:
        >>> import torch
        >>> from fastssl.losses import BarlowTwinsLoss
        >>> loss = BarlowTwinsLoss()(torch.randn(8, 16), torch.randn(8, 16))
    """

    function = staticmethod(F.barlow_twins)

    def __init__(self, lambd: float = 5e-3) -> None:
        super().__init__(lambd=lambd)


class VICRegLoss(ViewLoss):
    """:func:`fastssl.functional.vicreg` as a module.

    Args:
        invariance: weight of the distance between views.
        variance: weight of the spread.
        covariance: weight of the correlations.

    Example:
        >>> import torch
        >>> from fastssl.losses import VICRegLoss
        >>> loss = VICRegLoss()(torch.randn(8, 16), torch.randn(8, 16))
    """

    function = staticmethod(F.vicreg)

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__(invariance=invariance, variance=variance, covariance=covariance)


class NegativeCosineSimilarity(ViewLoss):
    """:func:`fastssl.functional.negative_cosine_similarity` as a module.

    Args:
        reduction: "mean" | "sum" | "none".

    Example:
        >>> import torch
        >>> from fastssl.losses import NegativeCosineSimilarity
        >>> loss = NegativeCosineSimilarity()(torch.randn(8, 16), torch.randn(8, 16))
    """

    function = staticmethod(F.negative_cosine_similarity)

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class AlignmentLoss(ViewLoss):
    """:func:`fastssl.functional.alignment` as a module.

    Args:
        alpha: > 0.

    Example:
        >>> import torch
        >>> from fastssl.losses import AlignmentLoss
        >>> loss = AlignmentLoss()(torch.randn(8, 16), torch.randn(8, 16))
    """

    function = staticmethod(F.alignment)

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__(alpha=alpha)


class UniformityLoss(Options):
    """:func:`fastssl.functional.uniformity` as a module.

    Args:
        t: > 0.
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import UniformityLoss
        >>> loss = UniformityLoss()(torch.randn(8, 16))
    """

    def __init__(self, t: float = 2.0, backend: str | None = None) -> None:
        super().__init__()
        self.backend = backend
        self.hold(t=t)
        F.uniformity(torch.zeros(2, 1), t=t)  # a wrong t shows now

    def forward(self, embeddings: Tensor) -> Tensor:
        return F.uniformity(embeddings, **self.options, backend=self.backend)

    def extra_repr(self) -> str:
        return f"t={self.t}"


class SwAVLoss(ViewLoss):
    """:func:`fastssl.functional.swapped_prediction` as a module.

    Args:
        temperature: > 0.
        epsilon: of the assignment.

    Example:
        >>> import torch
        >>> from fastssl.losses import SwAVLoss
        >>> loss = SwAVLoss()(torch.randn(8, 4), torch.randn(8, 4))
    """

    function = staticmethod(F.swapped_prediction)

    def __init__(self, temperature: float = 0.1, epsilon: float = 0.05) -> None:
        super().__init__(temperature=temperature, epsilon=epsilon)


class DINOLoss(nn.Module):
    """:func:`fastssl.functional.dino` as a module, with the running centre of the teacher's logits.

    Args:
        prototypes: K, the size of the logits.
        student_temperature: > 0.
        teacher_temperature: > 0.
        center_momentum: how much of the centre stays at each call in training mode.

    Example:
        >>> import torch
        >>> from fastssl.losses import DINOLoss
        >>> loss = DINOLoss(16)(torch.randn(4, 8, 16), torch.randn(2, 8, 16))
    """

    center: Tensor

    def __init__(
        self,
        prototypes: int,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.center_momentum = check.number("center_momentum", center_momentum, low=0, high=1)
        self.register_buffer("center", torch.zeros(check.count("prototypes", prototypes)))

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        loss = F.dino(
            student,
            teacher,
            self.center,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
            mask=mask,
        )
        if self.training:
            mean = teacher.detach().flatten(0, -2).mean(0).to(self.center)
            self.center = self.center * self.center_momentum + mean * (1 - self.center_momentum)
        return loss

    def extra_repr(self) -> str:
        return f"prototypes={len(self.center)}, center_momentum={self.center_momentum}"


class MultipleNegativesRankingLoss(nn.Module):
    """:func:`fastssl.functional.info_nce` with sentence-transformers' signature.

    ``loss(sentence_features, labels)`` embeds each column of a batch with ``model`` and contrasts every anchor (the
    first column) with all candidates of the batch: its positive (the second), the others' positives, and all hard
    negatives (further columns).

    Args:
        model: maps a dictionary of features to one with "sentence_embedding" [N, D]; None: the features are the
            embeddings themselves.
        scale: the inverse of the temperature.

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
