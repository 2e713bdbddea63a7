"""Every public loss, once: what it takes, how it is called, and what says that it is right.

Every test of a property that losses share runs over this table, or over the part of it that the property concerns.

A loss that is new needs its entry here (``tests/losses/test_table.py`` asks for it), and nothing else to be tested on
every instruction set, dtype and odd shape, against its oracle and against eager PyTorch's own error, by gradcheck, on
Triton, over processes, as a module, compiled and under autocast.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl import losses
from tests.support import oracles


class Inputs(dict[str, Tensor]):
    """Tensors by their names in :data:`KINDS`."""

    def to(self, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> Inputs:
        return Inputs({k: t.to(device, dtype if t.is_floating_point() else None) for k, t in self.items()})

    def double(self) -> Inputs:
        return self.to(torch.float64)

    def leaves(self) -> Inputs:
        """Copies, of which those of numbers want a gradient."""
        return Inputs({k: t.detach().clone().requires_grad_(t.is_floating_point()) for k, t in self.items()})

    @property
    def differentiable(self) -> list[Tensor]:
        return [t for t in self.values() if t.is_floating_point()]


def labels_for(n: int) -> Tensor:
    """Classes of one, two and three rows, in no order."""
    y = torch.arange(n) // 3
    y[: n // 4] = torch.arange(n // 4) + (n + 2) // 3
    return y[torch.randperm(n, generator=torch.Generator().manual_seed(n))]


def targets_for(n: int, classes: int) -> Tensor:
    return torch.arange(n) * 7 % classes


def ignored(targets: Tensor) -> Tensor:
    targets[2::5] = -100
    return targets


def _rows(n: int, d: int, over: float = 1.0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64) / over**0.5


# What an input is, for n rows of d features, m others and a temperature.
KINDS: dict[str, Callable[[int, int, int, float], Tensor]] = {
    "x": lambda n, d, m, t: _rows(n, d, d),
    "y": lambda n, d, m, t: _rows(n, d, d),  # row by row the other view of x
    "labels": lambda n, d, m, t: labels_for(n),
    "couples": lambda n, d, m, t: torch.arange(n) // 2,
    "memory": lambda n, d, m, t: _rows(m, d, d),
    "memory_labels": lambda n, d, m, t: labels_for(m),
    "classes": lambda n, d, m, t: _rows(m, d, d),
    "targets": lambda n, d, m, t: targets_for(n, m),
    "negatives": lambda n, d, m, t: (torch.arange(n)[:, None] * 5 + torch.arange(4) * 7) % m,
    "head": lambda n, d, m, t: _rows(m, d, t),
    "head_bias": lambda n, d, m, t: torch.randn(m, dtype=torch.float64),
    "head_targets": lambda n, d, m, t: ignored(targets_for(n, m)),
    "duplicates": lambda n, d, m, t: labels_for(n),
    "memory_ids": lambda n, d, m, t: labels_for(m),
    "own_negatives": lambda n, d, m, t: torch.randn(n, 2, d, dtype=torch.float64) / d**0.5,
    "own_negative_ids": lambda n, d, m, t: (torch.arange(n)[:, None] * 2 + torch.arange(2)) % (n // 3 + 1),
    "soft_labels": lambda n, d, m, t: 0.05 + torch.rand(n, 4, dtype=torch.float64),
    "memory_soft_labels": lambda n, d, m, t: 0.05 + torch.rand(m, 4, dtype=torch.float64),
    "boundaries": lambda n, d, m, t: 0.9 + 0.4 * torch.rand(n + 2, dtype=torch.float64),
    "logits": lambda n, d, m, t: torch.randn(n, dtype=torch.float64),
    "noise_logits": lambda n, d, m, t: _rows(n, 3),
    "student": lambda n, d, m, t: torch.randn(4, n, d, dtype=torch.float64),
    "teacher": lambda n, d, m, t: torch.randn(2, n, d, dtype=torch.float64),
    "directions": lambda n, d, m, t: torch.nn.functional.normalize(torch.randn(d, 6, dtype=torch.float64), dim=0),
    "center": lambda n, d, m, t: torch.zeros(d, dtype=torch.float64),
    "temperature": lambda n, d, m, t: torch.tensor(t, dtype=torch.float64),
    "scale": lambda n, d, m, t: torch.tensor(1 / t, dtype=torch.float64),
    "bias": lambda n, d, m, t: torch.tensor(-3.0, dtype=torch.float64),
}
# How a process's part of an input goes with that of the others; the rest every process has whole.
OF_ROWS = (
    *("x", "y", "labels", "couples", "targets", "negatives", "head_targets", "logits", "noise_logits"),
    *("duplicates", "own_negatives", "own_negative_ids", "soft_labels"),
)
OF_VIEWS = ("student", "teacher")  # [views, N, K]: rows come second
OF_MEMORY = ("memory", "memory_labels", "memory_ids", "memory_soft_labels")


@dataclass(frozen=True)
class Subject:
    """A loss as it is called.

    Args:
        function: its name in :mod:`fastssl.functional`.
        inputs: names of positional arguments' inputs.
        options: the other arguments.
        keywords: inputs by the keyword that takes them, "keyword" or "keyword=input".
        loop: the oracle (:mod:`tests.support.oracles`).
        module: its name in :mod:`fastssl.losses`, and what its constructor is given where that is not ``options``.
        values: real-valued hyperparameters with the values at which their gradients are compared.
        of_pairs: a mean over pairs or triplets: rows have no loss of their own.
        jumps: rounding may decide which rows count, and the loss jumps there.
        least: how many rows it needs.
        unit: rows have length 1.
        detached: factors of it count as constants: its gradient is not the derivative.
        long_rows: options with which a row's loss depends on its own scores alone, for rows of very different lengths.
        composed: of another subject's kernels and torch: on Triton's interpreter it runs with the slow tests.
        call: where it is not the function itself that takes the inputs.
    """

    function: str
    inputs: str
    options: Mapping[str, Any] = field(default_factory=dict)
    keywords: str = ""
    loop: Callable[..., Any] | None = None
    module: tuple[str, Mapping[str, Any]] | str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    of_pairs: bool = False
    jumps: bool = False
    least: int = 1
    unit: bool = False
    detached: bool = False
    long_rows: Mapping[str, Any] | None = None
    composed: bool = False
    wrapper: Callable[..., Tensor] | None = None

    @functools.cached_property
    def accepted(self) -> frozenset[str]:
        """Names of the function's arguments."""
        return frozenset(inspect.signature(getattr(F, self.function)).parameters)

    @functools.cached_property
    def named(self) -> dict[str, str]:
        """Names of inputs by keyword."""
        pairs = (word.partition("=") for word in self.keywords.split())
        return {keyword: name or keyword for keyword, _, name in pairs}

    @property
    def names(self) -> list[str]:
        return [*self.inputs.split(), *self.named.values()]

    def make(
        self, n: int, d: int, dtype: torch.dtype = torch.float32, temperature: float = 0.2, m: int | None = None
    ) -> Inputs:
        """Inputs of ``n`` rows of ``d`` features, and ``m`` others; drawn in float64."""
        made = Inputs({k: KINDS[k](n, d, 2 * n + 3 if m is None else m, temperature) for k in self.names})
        if self.unit:
            made |= {k: torch.nn.functional.normalize(made[k], dim=1) for k in ("x", "y")}
        return Inputs(made).to(dtype)

    def __call__(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """The loss; ``options`` come before those of the table."""
        function = self.wrapper or getattr(F, self.function)
        by_name = {keyword: inputs[k] for keyword, k in self.named.items()}
        return function(*(inputs[k] for k in self.inputs.split()), **{**self.options, **by_name, **options})

    def gradients(self, inputs: Inputs, **options: Any) -> list[Tensor]:
        """The loss and its gradient for every input, as float64; rows are weighted unevenly where they are apart."""
        given = inputs.leaves()
        loss = self(given, **options)
        weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype, device=loss.device).reshape(loss.shape)
        wanted = given.differentiable
        grads = torch.autograd.grad((loss * weights).sum() if loss.dim() else loss, wanted, allow_unused=True)
        zeros = (torch.zeros_like(t) if g is None else g for g, t in zip(grads, wanted))
        return [loss.detach().double(), *(g.double() for g in zeros)]

    def as_module(self, inputs: Inputs) -> tuple[torch.nn.Module, list[Any]]:
        """The module with the same options, and what it is called with."""
        assert self.module is not None
        name, arguments = (self.module, self.options) if isinstance(self.module, str) else self.module
        kind, rest, given = getattr(losses, name), dict(inputs), dict(arguments)
        accepted = inspect.signature(kind).parameters
        for keyword, k in self.named.items():
            if keyword in accepted:
                value = rest.pop(k)
                given[keyword] = float(value) if value.numel() == 1 else value
        if "num_classes" in accepted and "classes" in rest:
            weight = rest.pop("classes")
            module = kind(*weight.shape, **given)
            module.weight = torch.nn.Parameter(weight)
        elif "prototypes" in accepted:
            module = kind(len(rest.pop("center")), **given)
        else:
            module = kind(**given)
        return module.to(next(iter(inputs.values())).dtype), list(rest.values())


def _own_term(scores: Tensor, pairs: F.PairMasks, temperature: Tensor) -> Tensor:
    logits = (scores / temperature).masked_fill(pairs.self, float("-inf"))
    log_p = scores / temperature - logits.logsumexp(1, keepdim=True)
    return -torch.where(pairs.positive, log_p, 0).sum(1) / pairs.positive.sum(1).clamp(min=1)


def _own(x: Tensor, *, labels: Tensor, temperature: Tensor, **options: Any) -> Tensor:
    return F.pair_loss(x, term=_own_term, parameters=(temperature,), labels=labels, **options)


MEMORY = "ref_emb=memory ref_labels=memory_labels"
T = {"temperature": 0.3}
PLAIN = {"temperature": 1.0, "normalize": False}

# fmt: off
SUBJECTS: dict[str, Subject] = {
    "info_nce": Subject("info_nce", "x y", keywords="temperature", loop=oracles.info_nce, module="InfoNCELoss",
        values=T, long_rows=PLAIN),
    "info_nce_symmetric": Subject("info_nce", "x y", options={"symmetric": True}, keywords="temperature",
        loop=functools.partial(oracles.info_nce, symmetric=True), module="InfoNCELoss"),
    "info_nce_queue": Subject("info_nce", "x y memory", keywords="temperature", loop=oracles.info_nce, values=T,
        long_rows=PLAIN),
    "info_nce_distinct": Subject("info_nce", "x y memory",
        keywords="ids=duplicates negative_ids=memory_ids temperature", loop=oracles.info_nce_distinct, values=T,
        long_rows=PLAIN),
    "info_nce_own_negatives": Subject("info_nce", "x y own_negatives",
        keywords="ids=duplicates negative_ids=own_negative_ids temperature", composed=True,
        loop=oracles.info_nce_own, values=T,
        long_rows=PLAIN),
    "info_nce_smoothed": Subject("info_nce", "x y memory", options={"label_smoothing": 0.2}, keywords="temperature",
        composed=True,
        loop=functools.partial(oracles.info_nce, smoothing=0.2),
        values={"temperature": 0.3, "label_smoothing": 0.1}),
    "info_nce_symmetric_smoothed": Subject("info_nce", "x y", options={"symmetric": True, "label_smoothing": 0.2},
        keywords="temperature", composed=True,
        loop=functools.partial(oracles.info_nce, symmetric=True, smoothing=0.2)),
    "nt_xent_distinct": Subject("nt_xent", "x y", keywords="ids=duplicates temperature",
        loop=oracles.nt_xent, values=T, long_rows=PLAIN),
    "nt_xent_smoothed": Subject("nt_xent", "x y", options={"label_smoothing": 0.2}, keywords="temperature",
        composed=True,
        loop=functools.partial(oracles.nt_xent, smoothing=0.2),
        values={"temperature": 0.3, "label_smoothing": 0.1}),
    "clip_loss_distinct": Subject("clip_loss", "x y", keywords="logit_scale=scale ids=duplicates",
        loop=oracles.clip_loss, values={"logit_scale": 8.0}, unit=True, long_rows={"logit_scale": 1.0}),
    "clip_loss_smoothed": Subject("clip_loss", "x y", options={"label_smoothing": 0.2},
        keywords="logit_scale=scale", composed=True,
        loop=functools.partial(oracles.clip_loss, smoothing=0.2),
        values={"logit_scale": 8.0, "label_smoothing": 0.1}, unit=True),
    "siglip_loss_distinct": Subject("siglip_loss", "x y", keywords="logit_scale=scale logit_bias=bias ids=duplicates",
        loop=oracles.siglip_loss, values={"logit_scale": 8.0, "logit_bias": -4.0}, unit=True,
        long_rows={"logit_scale": 1.0, "logit_bias": -1.0}),
    "sup_con_soft": Subject("sup_con", "x soft_labels", keywords="temperature", composed=True,
        loop=oracles.sup_con_soft, values=T),
    "sup_con_soft_memory": Subject("sup_con", "x soft_labels",
        keywords="ref_emb=memory ref_labels=memory_soft_labels temperature", composed=True,
        loop=oracles.sup_con_soft, values=T),
    "nt_xent": Subject("nt_xent", "x y", keywords="temperature", loop=oracles.nt_xent, module="NTXentLoss", values=T,
        long_rows=PLAIN),
    "sup_con": Subject("sup_con", "x labels", keywords="temperature", loop=oracles.sup_con, module="SupConLoss",
        values=T, long_rows=PLAIN),
    "sup_con_memory": Subject("sup_con", "x labels", keywords=f"{MEMORY} temperature", loop=oracles.sup_con,
        values=T),
    "multi_nt_xent": Subject("multi_nt_xent", "x labels", keywords="temperature", loop=oracles.multi_nt_xent,
        values=T, long_rows=PLAIN),
    "multi_nt_xent_memory": Subject("multi_nt_xent", "x labels", keywords=f"{MEMORY} temperature",
        loop=oracles.multi_nt_xent),
    "sincere": Subject("sincere", "x labels", keywords="temperature", loop=oracles.sincere, module="SINCERELoss",
        values=T, long_rows=PLAIN),
    "mil_nce": Subject("mil_nce", "x labels", keywords="temperature", loop=oracles.mil_nce, module="MILNCELoss",
        values=T, long_rows=PLAIN),
    "dcl": Subject("dcl", "x y", keywords="temperature", loop=oracles.dcl, module="DCLLoss"),
    "dcl_weighted": Subject("dcl", "x y", options={"sigma": 0.5}, keywords="temperature",
        loop=functools.partial(oracles.dcl, sigma=0.5), module="DCLWLoss", values={"temperature": 0.3, "sigma": 0.4},
        detached=True),
    "rince": Subject("rince", "x y", keywords="temperature", loop=oracles.rince, module="RINCELoss",
        values={"temperature": 0.3, "q": 0.6, "lam": 0.2}, composed=True),
    "rince_plain": Subject("rince", "x y", options={"q": 0.01, "lam": 1.0}, keywords="temperature",
        loop=functools.partial(oracles.rince, q=0.01, lam=1.0), composed=True),
    "hard_negative_nt_xent": Subject("hard_negative_nt_xent", "x y", keywords="temperature",
        loop=oracles.hard_negative, module="HardNegativeNTXentLoss",
        values={"temperature": 0.6, "tau_plus": 0.05, "beta": 0.8}),
    "debiased_nt_xent": Subject("debiased_nt_xent", "x y", keywords="temperature",
        loop=functools.partial(oracles.hard_negative, beta=0.0), module=("HardNegativeNTXentLoss", {"beta": 0.0}),
        values={"temperature": 0.6, "tau_plus": 0.05}),
    "alignment": Subject("alignment", "x y", loop=oracles.alignment, module="AlignmentLoss", values={"alpha": 1.7}),
    "uniformity": Subject("uniformity", "x", loop=oracles.uniformity, module="UniformityLoss", values={"t": 1.6}),
    "koleo": Subject("koleo", "x", loop=oracles.koleo, module="KoLeo", values={"eps": 0.1}, composed=True),
    "clip_loss": Subject("clip_loss", "x y", keywords="logit_scale=scale", loop=oracles.clip_loss, module="CLIPLoss",
        values={"logit_scale": 8.0}, unit=True, long_rows={"logit_scale": 1.0}),
    "siglip_loss": Subject("siglip_loss", "x y", keywords="logit_scale=scale logit_bias=bias",
        loop=oracles.siglip_loss, module="SigLIPLoss", values={"logit_scale": 8.0, "logit_bias": -4.0}, unit=True,
        long_rows={"logit_scale": 1.0, "logit_bias": -1.0}),
    "linear_cross_entropy": Subject("linear_cross_entropy", "x head head_targets", keywords="bias=head_bias",
        loop=oracles.linear_cross_entropy, module="LinearCrossEntropyLoss",
        values={"label_smoothing": 0.1, "z_loss": 0.02, "softcap": 3.0}, long_rows={}),
    "contrastive": Subject("contrastive", "x labels", options={"margin": 1.5}, loop=oracles.contrastive,
        module="ContrastiveLoss", values={"margin": 1.1, "positive_margin": 0.6}, of_pairs=True),
    "contrastive_memory": Subject("contrastive", "x labels", options={"margin": 1.5}, keywords=MEMORY,
        loop=oracles.contrastive, of_pairs=True),
    "contrastive_active": Subject("contrastive", "x labels",
        options={"margin": 1.5, "squared": False, "reduction": "active"},
        values={"margin": 1.1, "positive_margin": 0.6}, of_pairs=True),
    "triplet": Subject("triplet", "x labels", options={"margin": 0.3},
        loop=functools.partial(oracles.triplet, mining="all"), module="TripletMarginLoss", values={"margin": 0.4},
        of_pairs=True),
    "triplet_smooth": Subject("triplet", "x labels", options={"margin": 0.3, "smooth": True},
        loop=functools.partial(oracles.triplet, mining="all", smooth=True), module="TripletMarginLoss",
        values={"margin": 0.4}, of_pairs=True),
    "triplet_hard": Subject("triplet", "x labels", options={"margin": 0.3, "mining": "hard"},
        loop=functools.partial(oracles.triplet, mining="hard"), module="TripletMarginLoss", values={"margin": 0.4},
        of_pairs=True),
    "triplet_semihard": Subject("triplet", "x labels",
        options={"margin": 0.3, "mining": "semihard", "squared": True},
        loop=functools.partial(oracles.triplet, mining="semihard", score=oracles.square), module="TripletMarginLoss",
        values={"margin": 0.4}, of_pairs=True, jumps=True),
    "lifted_structure": Subject("lifted_structure", "x labels", loop=oracles.lifted_structure,
        module="LiftedStructureLoss", values={"margin": 0.7}),
    "lifted_structure_unsquared": Subject("lifted_structure", "x labels", options={"squared_hinge": False},
        loop=functools.partial(oracles.lifted_structure, squared=False), module="LiftedStructureLoss",
        values={"margin": 0.7}),
    "generalized_lifted_structure": Subject("generalized_lifted_structure", "x labels",
        loop=oracles.generalized_lifted_structure, module="GeneralizedLiftedStructureLoss", values={"margin": 0.7},
        long_rows={}),
    "n_pair": Subject("n_pair", "x y", options={"l2_reg": 0.1}, loop=oracles.n_pair, module="NPairsLoss",
        values={"l2_reg": 0.1}, long_rows={"l2_reg": 0.0}),
    "soft_nearest_neighbor": Subject("soft_nearest_neighbor", "x labels", keywords="temperature",
        loop=oracles.soft_nearest_neighbor, module="SoftNearestNeighborLoss", values={"temperature": 0.9},
        long_rows={"temperature": 1.0}),
    "nca": Subject("nca", "x labels", loop=functools.partial(oracles.nca, log=False), module="NCALoss",
        values={"scale": 0.8}, long_rows={}),
    "nca_log": Subject("nca", "x labels", options={"log": True}, loop=functools.partial(oracles.nca, log=True),
        module="NCALoss", values={"scale": 0.8}),
    "multi_similarity": Subject("multi_similarity", "x labels", options={"beta": 20.0},
        loop=oracles.multi_similarity, module="MultiSimilarityLoss", values={"alpha": 2.1, "beta": 9.0, "base": 0.4},
        long_rows={"beta": 5.0, "normalize": False}),
    "multi_similarity_memory": Subject("multi_similarity", "x labels", options={"beta": 20.0}, keywords=MEMORY,
        loop=oracles.multi_similarity),
    "circle": Subject("circle", "x labels", options={"gamma": 16.0}, loop=oracles.all_peers,
        module=("CircleLoss", {"m": 0.25, "gamma": 16.0}), values={"margin": 0.3, "gamma": 7.0}, detached=True,
        long_rows={"gamma": 4.0, "normalize": False}),
    "margin_loss": Subject("margin_loss", "x labels", options={"nu": 0.05}, keywords="beta=boundaries",
        loop=oracles.margin_loss, values={"margin": 0.25, "beta": 1.1, "nu": 0.02}, of_pairs=True),
    "margin_loss_one_boundary": Subject("margin_loss", "x labels", options={"beta": 1.1}, module="MarginLoss",
        of_pairs=True),
    "tuplet_margin": Subject("tuplet_margin", "x labels", options={"scale": 16.0}, loop=oracles.tuplet_margin,
        module="TupletMarginLoss", values={"margin": 6.0, "scale": 8.0}),
    "fast_ap": Subject("fast_ap", "x labels", loop=oracles.fast_ap, module="FastAPLoss"),
    "angular": Subject("angular", "x labels", loop=oracles.angular, module="AngularLoss", values={"alpha": 38.0}),
    "angular_memory": Subject("angular", "x labels", keywords=MEMORY),
    "ranked_list": Subject("ranked_list", "x labels",
        options={"positive_temperature": 1.0, "negative_temperature": 3.0}, loop=oracles.ranked_list,
        module=("RankedListLoss", {"Tp": 1.0, "Tn": 3.0, "alpha": 1.2}),
        values={"margin": 0.35, "alpha": 1.3, "imbalance": 0.4, "positive_temperature": 0.7,
            "negative_temperature": 2.5},
        long_rows={"normalize": False, "alpha": 3.0, "positive_temperature": 0.0, "negative_temperature": 10.0}),
    "normalized_softmax": Subject("normalized_softmax", "x classes targets", keywords="temperature",
        loop=oracles.normalized_softmax, module="NormalizedSoftmaxLoss", values={"temperature": 0.2}),
    "cos_face": Subject("cos_face", "x classes targets", options={"scale": 16.0},
        loop=functools.partial(oracles.margin_softmax, scale=16.0, phi=lambda c: c - 0.35), module="CosFaceLoss",
        values={"margin": 0.3, "scale": 9.0}),
    "arc_face": Subject("arc_face", "x classes targets", options={"scale": 16.0},
        loop=functools.partial(oracles.margin_softmax, scale=16.0, phi=oracles.arc), module="ArcFaceLoss",
        values={"margin": 25.0, "scale": 9.0}),
    "proxy_nca": Subject("proxy_nca", "x classes targets", loop=functools.partial(oracles.proxy_nca, include=False),
        module="ProxyNCALoss", values={"scale": 2.1}),
    "proxy_nca_pp": Subject("proxy_nca", "x classes targets", options={"include_positive": True},
        loop=functools.partial(oracles.proxy_nca, include=True), module="ProxyNCALoss"),
    "proxy_anchor": Subject("proxy_anchor", "x classes targets", options={"alpha": 8.0}, loop=oracles.proxy_anchor,
        module="ProxyAnchorLoss", values={"margin": 0.15, "alpha": 7.0}),
    "negative_sampling": Subject("negative_sampling", "x classes targets negatives", loop=oracles.negative_sampling,
        module="NegativeSamplingLoss"),
    "nce": Subject("nce", "logits noise_logits", loop=oracles.nce, module="NCELoss"),
    "barlow_twins": Subject("barlow_twins", "x y", loop=oracles.barlow_twins, module="BarlowTwinsLoss",
        values={"lambd": 0.01, "eps": 0.1}),
    "vicreg": Subject("vicreg", "x y", loop=oracles.vicreg, module="VICRegLoss",
        values={"invariance": 20.0, "variance": 21.0, "covariance": 1.5, "gamma": 1.3, "eps": 0.01}, least=2),
    "negative_cosine_similarity": Subject("negative_cosine_similarity", "x y",
        loop=oracles.negative_cosine_similarity, module="NegativeCosineSimilarity", detached=True),
    "swapped_prediction": Subject("swapped_prediction", "x y", keywords="temperature",
        loop=oracles.swapped_prediction, module="SwAVLoss", values=T, detached=True),
    "dino": Subject("dino", "student teacher center", loop=oracles.dino, module="DINOLoss",
        values={"student_temperature": 0.4, "teacher_temperature": 0.3}, detached=True),
    "sigreg": Subject("sigreg", "x", keywords="directions", loop=oracles.sigreg, module="SIGRegLoss"),
    "lejepa": Subject("lejepa", "student", keywords="directions", loop=oracles.lejepa, values={"lambd": 0.3},
        composed=True),
    "lejepa_global_views": Subject("lejepa", "student", keywords="directions", options={"global_views": 2},
        loop=functools.partial(oracles.lejepa, global_views=2), module="LeJEPALoss", composed=True),
    "pair_loss": Subject("pair_loss", "x", keywords="labels temperature", loop=oracles.sup_con, wrapper=_own),
}
# fmt: on

FUSED = [name for name, subject in SUBJECTS.items() if "backend" in subject.accepted]
# Losses of two sets of rows, the second of which may come from elsewhere in another dtype.
TWO_SIDED = [name for name, subject in SUBJECTS.items() if {"y", "memory", "classes", "head"} & set(subject.names)]
LABELLED = [name for name, subject in SUBJECTS.items() if "labels" in subject.names]
WITH_TEMPERATURE = [name for name, subject in SUBJECTS.items() if {"temperature", "scale", "head"} & set(subject.names)]
SHARDED = [name for name, subject in SUBJECTS.items() if "group" in subject.accepted]
PAIR_ENGINE = [
    name
    for name, subject in SUBJECTS.items()
    if subject.function in ("info_nce", "nt_xent", "clip_loss", "siglip_loss", "linear_cross_entropy")
    or name == "sup_con"
]


def file_of(subject: Subject) -> str:
    """The file of a loss: one of its family."""
    return str(inspect.unwrap(getattr(F, subject.function)).__module__)


def slow_but_one(names: Iterable[str], kind: Callable[[str], Any] = lambda name: file_of(SUBJECTS[name])) -> list[Any]:
    """Names, of which all but the first of each kind are slow tests: kinds of subjects are their families."""
    names = list(names)
    kinds = [kind(name) for name in names]
    return [
        pytest.param(name, marks=[pytest.mark.slow] if kinds.index(of) < k else [])
        for k, (name, of) in enumerate(zip(names, kinds))
    ]


def composed_are_slow(names: Iterable[str]) -> list[Any]:
    """Names of subjects, of which those without kernels of their own are slow tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] if SUBJECTS[name].composed else []) for name in names]


def variants_are_slow(names: Iterable[str]) -> list[Any]:
    """Names of subjects, of which only one of each function, with kernels of its own, is not a slow test."""
    slow = {n: SUBJECTS[n].composed or n != SUBJECTS[n].function for n in SUBJECTS}
    return [pytest.param(n, marks=[pytest.mark.slow] if slow[n] else []) for n in names]


def known(faults: dict[str, str], names: Iterable[Any]) -> list[Any]:
    """Names of subjects, perhaps with marks, of which some are known to fail."""
    marks = {name: [pytest.mark.xfail(reason=reason, strict=True)] for name, reason in faults.items()}
    given = (pytest.param(name) if isinstance(name, str) else name for name in names)
    return [pytest.param(*one.values, marks=[*one.marks, *marks.get(one.values[0], [])]) for one in given]
