"""Losses on labelled rows as modules, with pytorch-metric-learning's names and call signature.

``loss(embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None)``: see
:mod:`fastssl.functional.metric` for formulas and papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.distributed import EmbeddingQueue, unsharded
from fastssl.functional import _check as check
from fastssl.functional._pairs import IndicesTuple, rows_in_reference
from fastssl.losses._base import Loss, Options


class LabelledLoss(Loss, Options):
    """A loss of :mod:`fastssl.functional` on labelled rows, with its options."""

    function: Callable[..., Tensor]

    def __init__(self, reduction: str = "mean", backend: str | None = None, **options: Any) -> None:
        nn.Module.__init__(self)
        self.reduction, self.backend = reduction, backend
        self.hold(**options)
        # Wrong options show now, not in the first step.
        type(self).function(torch.zeros(2, 1), torch.arange(2), **self.arguments())

    def arguments(self) -> dict[str, Any]:
        return {**self.options, "reduction": self.reduction, "backend": self.backend}

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        partners = {"indices_tuple": indices_tuple, "ref_emb": ref_emb, "ref_labels": ref_labels}
        given = {name: value for name, value in partners.items() if value is not None}
        return type(self).function(embeddings, labels, **given, **self.arguments())

    def extra_repr(self) -> str:
        parts = [f"{name}={value!r}" for name, value in self.options.items()]
        return ", ".join([*parts, super().extra_repr()])


class ContrastiveLoss(LabelledLoss):
    """:func:`fastssl.functional.contrastive` as a module.

    Args:
        margin: between rows of different classes.
        normalize: divide rows by their length first.
        reduction: "mean" | "sum" | "active": as pytorch-metric-learning averages.
        backend: "reference" | "cpu"; None chooses.
        positive_margin: rows of one class count with max(0, d - this).
        squared: False: distances beyond the margins instead of their squares.

    Example:
        >>> import torch
        >>> from fastssl.losses import ContrastiveLoss
        >>> loss = ContrastiveLoss(margin=0.5)(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.contrastive)

    def __init__(
        self,
        margin: float = 1.0,
        normalize: bool = False,
        reduction: str = "mean",
        backend: str | None = None,
        positive_margin: float = 0.0,
        squared: bool = True,
    ) -> None:
        options = {"positive_margin": positive_margin, "squared": squared}
        super().__init__(reduction, backend, margin=margin, normalize=normalize, **options)


class TripletMarginLoss(LabelledLoss):
    """:func:`fastssl.functional.triplet` as a module.

    Args:
        margin: in units of (squared) distance.
        mining: "all" | "hard" | "semihard".
        squared: compare squared distances.
        smooth: softplus instead of the hinge.
        normalize: divide rows by their length first.
        reduction: "mean" | "active" | "sum".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import TripletMarginLoss
        >>> loss = TripletMarginLoss(mining="hard")(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.triplet)

    def __init__(
        self,
        margin: float = 0.2,
        mining: str = "all",
        squared: bool = False,
        smooth: bool = False,
        normalize: bool = False,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(
            reduction, backend, margin=margin, mining=mining, squared=squared, smooth=smooth, normalize=normalize
        )


class LiftedStructureLoss(LabelledLoss):
    """:func:`fastssl.functional.lifted_structure` as a module.

    Args:
        margin: in units of distance.
        squared_hinge: False: the mean of J itself.
        normalize: divide rows by their length first.
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import LiftedStructureLoss
        >>> loss = LiftedStructureLoss()(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.lifted_structure)

    def __init__(
        self, margin: float = 1.0, squared_hinge: bool = True, normalize: bool = False, backend: str | None = None
    ) -> None:
        super().__init__("mean", backend, margin=margin, squared_hinge=squared_hinge, normalize=normalize)

    def arguments(self) -> dict[str, Any]:
        return {**self.options, "backend": self.backend}


class GeneralizedLiftedStructureLoss(LabelledLoss):
    """:func:`fastssl.functional.generalized_lifted_structure` as a module.

    Args:
        margin: in units of distance.
        normalize: divide rows by their length first.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import GeneralizedLiftedStructureLoss
        >>> loss = GeneralizedLiftedStructureLoss()(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.generalized_lifted_structure)

    def __init__(
        self, margin: float = 1.0, normalize: bool = False, reduction: str = "mean", backend: str | None = None
    ) -> None:
        super().__init__(reduction, backend, margin=margin, normalize=normalize)


class NPairsLoss(Loss, Options):
    """:func:`fastssl.functional.n_pair` as a module; called with anchors and positives.

    Args:
        l2_reg: weight of the squared lengths.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import NPairsLoss
        >>> loss = NPairsLoss(l2_reg=0.02)(torch.randn(8, 16), torch.randn(8, 16))
    """

    def __init__(self, l2_reg: float = 0.0, reduction: str = "mean", backend: str | None = None) -> None:
        super().__init__(reduction, backend)
        self.hold(l2_reg=l2_reg)
        F.n_pair(torch.zeros(2, 1), torch.zeros(2, 1), l2_reg=l2_reg)  # a wrong weight shows now

    def forward(self, anchors: Tensor, positives: Tensor) -> Tensor:
        return F.n_pair(anchors, positives, **self.options, reduction=self.reduction, backend=self.backend)

    def extra_repr(self) -> str:
        return f"l2_reg={self.l2_reg}, {super().extra_repr()}"


class MILNCELoss(LabelledLoss):
    """:func:`fastssl.functional.mil_nce` as a module.

    Args:
        temperature: > 0.
        normalize: divide rows by their length first.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import MILNCELoss
        >>> loss = MILNCELoss()(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.mil_nce)

    def __init__(
        self, temperature: float = 0.07, normalize: bool = True, reduction: str = "mean", backend: str | None = None
    ) -> None:
        super().__init__(reduction, backend, temperature=temperature, normalize=normalize)


class SoftNearestNeighborLoss(LabelledLoss):
    """:func:`fastssl.functional.soft_nearest_neighbor` as a module.

    Args:
        temperature: > 0.
        normalize: divide rows by their length first.
        reduction: "mean" | "sum" | "none".
        learnable: learn the logarithm of the temperature.
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import SoftNearestNeighborLoss
        >>> loss = SoftNearestNeighborLoss(learnable=True)(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.soft_nearest_neighbor)

    def __init__(
        self,
        temperature: float = 1.0,
        normalize: bool = False,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(reduction, backend, temperature=temperature, normalize=normalize)
        self.log_temperature: nn.Parameter | None = None
        if check.flag("learnable", learnable):
            self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    def arguments(self) -> dict[str, Any]:
        learned = getattr(self, "log_temperature", None)
        return {**super().arguments(), **({} if learned is None else {"temperature": learned.exp()})}


class NCALoss(LabelledLoss):
    """:func:`fastssl.functional.nca` as a module.

    Args:
        scale: > 0, the inverse of a temperature.
        log: -log p instead of 1 - p.
        normalize: divide rows by their length first.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import NCALoss
        >>> loss = NCALoss(log=True)(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.nca)

    def __init__(
        self,
        scale: float = 1.0,
        log: bool = False,
        normalize: bool = False,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(reduction, backend, scale=scale, log=log, normalize=normalize)


class MultiSimilarityLoss(LabelledLoss):
    """:func:`fastssl.functional.multi_similarity` as a module.

    Args:
        alpha: sharpness for positives.
        beta: sharpness for negatives.
        base: the similarity that both sides are measured from.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import MultiSimilarityLoss
        >>> loss = MultiSimilarityLoss()(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.multi_similarity)

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(reduction, backend, alpha=alpha, beta=beta, base=base)


class CircleLoss(LabelledLoss):
    """:func:`fastssl.functional.circle` as a module.

    Args:
        m: the relaxation.
        gamma: the scale.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import CircleLoss
        >>> loss = CircleLoss()(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.circle)

    def __init__(
        self, m: float = 0.4, gamma: float = 80.0, reduction: str = "mean", backend: str | None = None
    ) -> None:
        super().__init__(reduction, backend, margin=m, gamma=gamma)


class MarginLoss(LabelledLoss):
    """:func:`fastssl.functional.margin_loss` as a module.

    Args:
        margin: alpha, in units of distance.
        nu: weight of the mean boundary.
        beta: the boundary.
        learn_beta: whether it is a parameter.
        num_classes: a boundary for every class; None: one.
        reduction: "mean" | "sum".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import MarginLoss
        >>> loss = MarginLoss(learn_beta=True, num_classes=2)(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.margin_loss)

    def __init__(
        self,
        margin: float = 0.2,
        nu: float = 0.0,
        beta: float = 1.2,
        learn_beta: bool = False,
        num_classes: int | None = None,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(reduction, backend, margin=margin, nu=nu)
        boundary = torch.full((num_classes or 1,), check.number("beta", beta))
        self.beta: Tensor
        if check.flag("learn_beta", learn_beta):
            self.beta = nn.Parameter(boundary)
        else:
            self.register_buffer("beta", boundary)

    def arguments(self) -> dict[str, Any]:
        beta = self._buffers.get("beta", self._parameters.get("beta"))
        return {**super().arguments(), **({} if beta is None else {"beta": beta})}


class TupletMarginLoss(LabelledLoss):
    """:func:`fastssl.functional.tuplet_margin` as a module.

    Args:
        margin: in degrees.
        scale: > 0.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import TupletMarginLoss
        >>> loss = TupletMarginLoss()(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.tuplet_margin)

    def __init__(
        self, margin: float = 5.73, scale: float = 64.0, reduction: str = "mean", backend: str | None = None
    ) -> None:
        super().__init__(reduction, backend, margin=margin, scale=scale)


class FastAPLoss(LabelledLoss):
    """:func:`fastssl.functional.fast_ap` as a module.

    Args:
        num_bins: of the histogram.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import FastAPLoss
        >>> loss = FastAPLoss()(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.fast_ap)

    def __init__(self, num_bins: int = 10, reduction: str = "mean", backend: str | None = None) -> None:
        super().__init__(reduction, backend, bins=num_bins)


class AngularLoss(LabelledLoss):
    """:func:`fastssl.functional.angular` as a module.

    Args:
        alpha: in degrees.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import AngularLoss
        >>> loss = AngularLoss()(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.angular)

    def __init__(self, alpha: float = 40.0, reduction: str = "mean", backend: str | None = None) -> None:
        super().__init__(reduction, backend, alpha=alpha)


class RankedListLoss(LabelledLoss):
    """:func:`fastssl.functional.ranked_list` as a module.

    Args:
        margin: between both sets.
        Tn: temperature of the negatives.
        imbalance: share of the negatives in the loss.
        alpha: the least distance of negatives; None: 1 + margin / 2.
        Tp: temperature of the positives.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Example:
        >>> import torch
        >>> from fastssl.losses import RankedListLoss
        >>> loss = RankedListLoss(margin=0.4, Tn=3)(torch.randn(8, 16), torch.arange(8) % 2)
    """

    function = staticmethod(F.ranked_list)

    def __init__(
        self,
        margin: float = 0.4,
        Tn: float = 10.0,
        imbalance: float = 0.5,
        alpha: float | None = None,
        Tp: float = 0.0,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__(
            reduction,
            backend,
            margin=margin,
            alpha=1 + margin / 2 if alpha is None else alpha,
            imbalance=imbalance,
            positive_temperature=Tp,
            negative_temperature=Tn,
        )


class CrossBatchMemory(nn.Module):
    """Cross-batch memory (XBM): any loss on labels against the embeddings of past batches.

    Every call puts the batch into a ring buffer, without gradient, and compares the batch with all that is in it;
    a row is no partner of its own copy. The losses are those of :mod:`fastssl.functional` on labels. Where losses are
    shared (:func:`fastssl.distributed.sharded`) every process remembers its own rows, and meets those of all.

    Args:
        loss: a module that takes ``ref_emb`` and ``ref_labels``.
        embedding_size: D.
        memory_size: rows that are kept, at least one batch.
        dtype: of what is kept: torch.float16 or torch.bfloat16 takes half the memory; None: that of the embeddings.

    Example:
        >>> import torch
        >>> from fastssl.losses import ContrastiveLoss, CrossBatchMemory
        >>> memory = CrossBatchMemory(ContrastiveLoss(), embedding_size=16, memory_size=64)
        >>> loss = memory(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Wang et al., Cross-Batch Memory for Embedding Learning, 2020, algorithm 1.
    """

    def __init__(
        self, loss: nn.Module, embedding_size: int, memory_size: int = 1024, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.loss, self.dtype = loss, dtype
        check.count("embedding_size", embedding_size)
        check.count("memory_size", memory_size)
        kept = torch.float32 if dtype is None else dtype
        self.queue = EmbeddingQueue(
            memory_size, embedding_size, labelled=True, normalize=False, begin="empty", dtype=kept
        )

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        check.matrix("embeddings", embeddings)
        ids = check.ids("labels", labels, embeddings, "embeddings")
        size, n = len(self.queue.embeddings), embeddings.shape[0]
        if n > size:
            raise ValueError(f"embeddings: expected at most memory_size={size} rows, got {n}")
        self.queue.to(device=embeddings.device, dtype=embeddings.dtype if self.dtype is None else self.dtype)
        with unsharded():  # each process remembers its own rows
            first = self.queue.push(embeddings, ids)
        memory, memory_labels = self.queue.filled()
        memory = memory.to(embeddings.dtype)
        with rows_in_reference(first):
            loss: Tensor = self.loss(embeddings, ids, ref_emb=memory, ref_labels=memory_labels)
        return loss
