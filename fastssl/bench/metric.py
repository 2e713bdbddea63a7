"""Benchmarks of metric learning losses against eager PyTorch and other libraries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl.functional as F
from fastssl import compat
from fastssl.bench.cases import Case, Function
from fastssl.bench.harness import Within, compare_fresh, machine, peak_memory

PEER = "pytorch-metric-learning"
CLASSES = 100_000


def _shuffled(per_class: int) -> Callable[[int, int, torch.dtype], list[Tensor]]:
    def make(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
        return [torch.randn(rows, features).to(dtype), torch.arange(rows)[torch.randperm(rows)] // per_class]

    return make


def _two(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(rows, features).to(dtype) for _ in range(2)]


def _search(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(rows, features).to(dtype), torch.randn(10 * rows, features).to(dtype)]


def _faces(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    classes = CLASSES if rows > 64 else 100
    return [
        torch.randn(rows, features).to(dtype),
        torch.randn(classes, features).to(dtype),
        torch.randint(0, classes, (rows,)),
    ]


def _words(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(rows, features).to(dtype), torch.randn(10_000, features).to(dtype)]


def patched(name: str, **arguments: Any) -> Callable[[], Function]:
    """The library's object, called with the patch active."""
    return lambda: Within(unpatched(name, **arguments)(), partial(compat.patched, "pytorch_metric_learning"))


def unpatched(name: str, **arguments: Any) -> Callable[[], Function]:
    def build() -> Function:
        from pytorch_metric_learning import losses

        loss: Function = getattr(losses, name)(**arguments)
        return loss

    return build


def _of_peer(name: str, per_class: int, **arguments: Any) -> Case:
    """A loss of pytorch-metric-learning, patched ("fused") and unpatched."""
    return Case(
        _shuffled(per_class),
        lambda *inputs: patched(name, **arguments)()(*inputs),
        lambda *inputs: unpatched(name, **arguments)()(*inputs),
        {"patched": patched(name, **arguments), PEER: unpatched(name, **arguments)},
    )


def _eager_contrastive(x: Tensor, y: Tensor, margin: float = 10.0) -> Tensor:
    d, same = torch.cdist(x, x), y[:, None] == y[None, :]
    terms = torch.where(same, d**2, (margin - d).clamp(min=0) ** 2)
    n = len(x)
    return terms.triu(1).sum() / (n * (n - 1) / 2)


def _eager_lifted(x: Tensor, y: Tensor, margin: float = 1.0) -> Tensor:
    d, same = torch.cdist(x, x), y[:, None] == y[None, :]
    lse = (margin - d).masked_fill(same, -math.inf).logsumexp(1)
    J = d + torch.logaddexp(lse[:, None], lse[None, :])
    positive = same & ~torch.eye(len(x), dtype=torch.bool)
    return (J.clamp(min=0) ** 2 * positive).sum() / (2 * positive.sum())


def _eager_arc_face(x: Tensor, w: Tensor, y: Tensor, margin: float = math.radians(28.6), scale: float = 64.0) -> Tensor:
    cosine = TF.normalize(x, dim=1) @ TF.normalize(w, dim=1).T
    rows = torch.arange(len(x))
    own = cosine[rows, y]
    moved = own * math.cos(margin) - (1 - own.square()).clamp(min=1e-12).sqrt() * math.sin(margin)
    return TF.cross_entropy(cosine.index_put((rows, y), moved) * scale, y)


def _faiss() -> Function:
    import faiss

    def search(x: Tensor, y: Tensor) -> Any:
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(y.detach().numpy())
        return index.search(x.detach().numpy(), 20)

    return search


def _matrix(metric: str, p: float) -> Case:
    def weighted(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
        def call(x: Tensor, y: Tensor) -> Tensor:
            return _Given.apply(function(x, y))

        return call

    return Case(
        _two,
        weighted(lambda x, y: F.pairwise_distance(x, y, metric=metric)),
        weighted(lambda x, y: torch.cdist(x, y, p=p)),
    )


class _Given(torch.autograd.Function):
    """A scalar whose backward pass returns a precomputed matrix of ones: only the matrix's own backward is timed."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        ctx.gradient = _ones(matrix.shape)
        return matrix[0, 0].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        result: Tensor = ctx.gradient
        return result


_kept_ones: dict[torch.Size, Tensor] = {}


def _ones(shape: torch.Size) -> Tensor:
    if shape not in _kept_ones:
        _kept_ones[shape] = torch.ones(shape)
    return _kept_ones[shape]


def _on_labels(function: Callable[..., Tensor], per_class: int = 8, **options: Any) -> Case:
    def fused(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y, **options)

    def eager(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y, backend="reference", **options)

    return Case(_shuffled(per_class), fused, eager)


def _on_views(function: Callable[..., Tensor], **options: Any) -> Case:
    def fused(a: Tensor, b: Tensor) -> Tensor:
        return function(a, b, **options)

    return Case(_two, fused, fused)


def _on_classes(function: Callable[..., Tensor]) -> Case:
    def make(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
        return [*_two(rows, features, dtype), torch.randint(0, rows, (rows,))]

    return Case(make, function, function)


def _own(s: Tensor, pairs: F.PairMasks) -> Tensor:
    logits = (10 * s).masked_fill(pairs.self, -math.inf)
    return logits.logsumexp(1) - 10 * torch.where(pairs.positive, s, 0).sum(1) / pairs.positive.sum(1).clamp(min=1)


def _sampled(center: Tensor, table: Tensor) -> Tensor:
    n = len(center)
    return F.negative_sampling(
        center, table, torch.arange(n) % len(table), torch.arange(n * 10).reshape(n, 10) % len(table)
    )


def _projected(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [*_two(rows, features, dtype)[:1], torch.nn.functional.normalize(torch.randn(features, 1024), dim=0)]


def _eager_sigreg(x: Tensor, directions: Tensor) -> Tensor:
    """As LeJEPA's authors and lightly compute it."""
    t = torch.linspace(0, 3, 17)
    angles, normal = (x @ directions.detach()).unsqueeze(-1) * t, (-t.square() / 2).exp()
    weights = torch.full((17,), 3 / 8)
    weights[[0, -1]] = 3 / 16
    error = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    return (error @ (weights * normal)).mean() * len(x)


METRIC_CASES: dict[str, Case] = {
    "pml_nt_xent_pairs": _of_peer("NTXentLoss", 2, temperature=0.1),
    "pml_nt_xent": _of_peer("NTXentLoss", 8, temperature=0.1),
    "pml_triplet": _of_peer("TripletMarginLoss", 16),
    "pml_lifted": _of_peer("LiftedStructureLoss", 16),
    "pml_contrastive": _of_peer("ContrastiveLoss", 8),
    "pml_multi_similarity": _of_peer("MultiSimilarityLoss", 8),
    "pml_circle": _of_peer("CircleLoss", 8),
    "pml_sup_con": _of_peer("SupConLoss", 8),
    "contrastive": Case(_shuffled(8), lambda x, y: F.contrastive(x, y, margin=10.0), _eager_contrastive),
    "lifted_structure": Case(_shuffled(8), lambda x, y: F.lifted_structure(x, y), _eager_lifted),
    "cdist_p2": _matrix("euclidean", 2.0),
    "cdist_p1": _matrix("manhattan", 1.0),
    "nearest": Case(
        _search,
        lambda x, y: F.nearest(x, y, 20, metric="dot")[0],
        lambda x, y: (x @ y.T).topk(20).values,
        {"faiss": _faiss},
    ),
    "arc_face": Case(_faces, lambda x, w, y: F.arc_face(x, w, y), _eager_arc_face),
    # The others, for the memory that they take.
    "triplet_all": _on_labels(F.triplet),
    "triplet_smooth": _on_labels(F.triplet, smooth=True),
    "triplet_hard": _on_labels(F.triplet, mining="hard"),
    "triplet_semihard": _on_labels(F.triplet, mining="semihard"),
    "generalized_lifted_structure": _on_labels(F.generalized_lifted_structure),
    "soft_nearest_neighbor": _on_labels(F.soft_nearest_neighbor),
    "nca": _on_labels(F.nca),
    "multi_nt_xent": _on_labels(F.multi_nt_xent),
    "sincere": _on_labels(F.sincere),
    "mil_nce": _on_labels(F.mil_nce),
    "multi_similarity": _on_labels(F.multi_similarity),
    "circle": _on_labels(F.circle),
    "margin_loss": _on_labels(F.margin_loss),
    "tuplet_margin": _on_labels(F.tuplet_margin),
    "fast_ap": _on_labels(F.fast_ap),
    "angular": _on_labels(F.angular),
    "ranked_list": _on_labels(F.ranked_list),
    "sup_con_labels": _on_labels(F.sup_con),
    "n_pair": _on_views(F.n_pair),
    "dcl": _on_views(F.dcl),
    "rince": _on_views(F.rince),
    "debiased_nt_xent": _on_views(F.debiased_nt_xent),
    "hard_negative_nt_xent": _on_views(F.hard_negative_nt_xent),
    "alignment": _on_views(F.alignment),
    "barlow_twins": _on_views(F.barlow_twins),
    "vicreg": _on_views(F.vicreg),
    "sigreg": Case(_projected, lambda x, a: F.sigreg(x, a.detach()), _eager_sigreg),
    "negative_cosine_similarity": _on_views(F.negative_cosine_similarity),
    "uniformity": Case(_shuffled(8), lambda x, y: F.uniformity(x), lambda x, y: F.uniformity(x)),
    "koleo": Case(_shuffled(8), lambda x, y: F.koleo(x), lambda x, y: F.koleo(x, backend="reference")),
    "normalized_softmax": _on_classes(F.normalized_softmax),
    "cos_face": _on_classes(F.cos_face),
    "proxy_nca": _on_classes(F.proxy_nca),
    "proxy_anchor": _on_classes(F.proxy_anchor),
    "negative_sampling": Case(_words, _sampled, _sampled),
    "pair_loss": Case(
        _shuffled(8), lambda x, y: F.pair_loss(x, term=_own, labels=y), lambda x, y: F.pair_loss(x, term=_own, labels=y)
    ),
}
LARGE = 32_768  # rows at which the memory of every loss is measured
PLAN: list[tuple[str, str, int, int]] = [
    ("pml_nt_xent_pairs", PEER, 512, 128),
    ("pml_triplet", PEER, 2048, 128),
    ("pml_lifted", PEER, 256, 128),
    ("pml_contrastive", PEER, 4096, 128),
    ("pml_multi_similarity", PEER, 4096, 128),
    ("pml_circle", PEER, 4096, 128),
    ("pml_sup_con", PEER, 4096, 128),
    ("contrastive", "eager", 8192, 128),
    ("lifted_structure", "eager", 8192, 128),
    ("cdist_p2", "eager", 4096, 128),
    ("cdist_p1", "eager", 4096, 128),
    ("sigreg", "eager", 512, 64),
    ("sigreg", "eager", 4096, 64),
    ("nearest", "faiss", 10_000, 128),
    ("arc_face", "eager", 4096, 256),
]
MEMORY: list[tuple[str, str, int, int]] = [
    ("pml_nt_xent", "patched", 2048, 128),
    ("pml_triplet", "patched", 2048, 128),
    ("pml_triplet", PEER, 2048, 128),
    ("pml_lifted", "patched", 1024, 128),
    ("contrastive", "fused", 8192, 128),
    ("contrastive", "eager", 8192, 128),
    ("lifted_structure", "fused", 8192, 128),
    ("arc_face", "fused", 4096, 256),
    ("arc_face", "eager", 4096, 256),
    ("sigreg", "fused", 4096, 64),
    ("sigreg", "eager", 4096, 64),
]


def run_metric(quick: bool = False, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs this part of the suite and returns its results."""
    start = time.time()
    results: dict[str, Any] = {"machine": machine(), "comparisons": [], "memory": [], "large": []}
    for loss, against, rows, features in PLAN:
        if quick:
            rows = min(rows, 256)
        row = compare_fresh(loss, against, rows, features, 1 if quick else 8)
        if "failed" in row:
            report(f"{loss:22} {rows:6} x {features:<4} {against}: not possible here ({row['failed']})")
            continue
        results["comparisons"].append(row)
        report(
            f"{loss:22} {rows:6} x {features:<4} {against}: {row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        )
    for loss, way, rows, features in [] if quick else MEMORY:
        peak = peak_memory(loss, way, rows, features)
        results["memory"].append({"loss": loss, "way": way, "rows": rows, "features": features, "peak_mib": peak})
        report(f"{loss:22} {rows:6} x {features:<4} {way}: {'-' if peak is None else f'{peak:.0f}'} MiB")
    for loss in (
        [] if quick else [k for k in METRIC_CASES if k not in ("nearest", "arc_face") and k[:4] not in ("pml_", "cdis")]
    ):
        peak = peak_memory(loss, "fused", LARGE, 128)
        results["large"].append({"loss": loss, "rows": LARGE, "features": 128, "peak_mib": peak})
        report(f"{loss:30} {LARGE} rows: {'failed' if peak is None else f'{peak:.0f} MiB'}")
    results["minutes"] = (time.time() - start) / 60
    return results
