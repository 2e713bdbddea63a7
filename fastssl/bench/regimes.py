"""Every loss on inputs that occur in training: learned embeddings, collapsed and repeated rows, label distributions,
temperatures from 0.005 to 1. ``python benchmarks/run.py regimes`` writes the table.

Each regime is timed in alternation with random rows of the same shape, and with eager PyTorch in the same regime.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl.functional as F
from fastssl.bench.harness import alternate, machine

TRAINED = Path(__file__).parent / "trained.npz"
PER_CLASS = 8
EAGER_ROWS = 512  # for which the reference of every loss takes milliseconds


@dataclass(frozen=True)
class Loss:
    """A loss, called as ``call(*inputs, temperature, **options)`` with ``sizes`` rows.

    ``kind``: its inputs: "views": two sets of matched rows; "labels": rows and labels; "classes": rows, class weights,
    labels; "vocabulary": hidden states, weights, targets. ``temperature``: the usual one, None if it has none.
    """

    kind: str
    call: Callable[..., Tensor]
    temperature: float | None = None
    sizes: tuple[int, ...] = (512, 2048)


EVERY_REGIME = 2048  # rows up to which every regime is measured; above only those of LARGE
LARGE = ("trained", "trained (CLIP)", "collapsed", "duplicates", "trained, temperature 0.01", "trained, scale 100")
WIDE = (512, 2048, 8192)
WIDEST = (*WIDE, 16_384)


def _label_loss(function: Callable[..., Tensor], **fixed: Any) -> Loss:
    return Loss("labels", lambda x, y, t, **o: function(x, y, **fixed, **o))


LOSSES: dict[str, Loss] = {
    "nt_xent": Loss("views", lambda a, b, t, **o: F.nt_xent(a, b, temperature=t, **o), 0.1, WIDEST),
    "info_nce": Loss("views", lambda a, b, t, **o: F.info_nce(a, b, temperature=t, **o), 0.1, WIDE),
    "clip_loss": Loss("views", lambda a, b, t, **o: F.clip_loss(a, b, 1 / t, **o), 0.1, WIDEST),
    "siglip_loss": Loss("views", lambda a, b, t, **o: F.siglip_loss(a, b, 1 / t, -10.0, **o), 0.1, WIDE),
    "sup_con": Loss("labels", lambda x, y, t, **o: F.sup_con(x, y, temperature=t, **o), 0.1, WIDE),
    "dcl": Loss("views", lambda a, b, t, **o: F.dcl(a, b, temperature=t, **o), 0.1),
    "rince": Loss("views", lambda a, b, t, **o: F.rince(a, b, **o)),
    "debiased_nt_xent": Loss("views", lambda a, b, t, **o: F.debiased_nt_xent(a, b, temperature=t, **o), 0.5),
    "hard_negative_nt_xent": Loss("views", lambda a, b, t, **o: F.hard_negative_nt_xent(a, b, temperature=t, **o), 0.5),
    "n_pair": Loss("views", lambda a, b, t, **o: F.n_pair(a, b, **o)),
    "multi_nt_xent": Loss("labels", lambda x, y, t, **o: F.multi_nt_xent(x, y, temperature=t, **o), 0.1),
    "mil_nce": Loss("labels", lambda x, y, t, **o: F.mil_nce(x, y, temperature=t, **o), 0.1),
    "soft_nearest_neighbor": Loss(
        "labels", lambda x, y, t, **o: F.soft_nearest_neighbor(x, y, temperature=t, **o), 1.0
    ),
    "contrastive": Loss("labels", lambda x, y, t, **o: F.contrastive(x, y, margin=1.0, **o), None, (512, 2048, 8192)),
    "triplet": _label_loss(F.triplet),
    "triplet_smooth": _label_loss(F.triplet, smooth=True),
    "triplet_hard": _label_loss(F.triplet, mining="hard"),
    "triplet_semihard": _label_loss(F.triplet, mining="semihard"),
    "lifted_structure": _label_loss(F.lifted_structure),
    "generalized_lifted_structure": _label_loss(F.generalized_lifted_structure),
    "nca": _label_loss(F.nca),
    "multi_similarity": _label_loss(F.multi_similarity),
    "circle": _label_loss(F.circle),
    "margin_loss": _label_loss(F.margin_loss),
    "tuplet_margin": _label_loss(F.tuplet_margin),
    "fast_ap": _label_loss(F.fast_ap),
    "ranked_list": _label_loss(F.ranked_list),
    "uniformity": Loss("labels", lambda x, y, t, **o: F.uniformity(x, **o)),
    "normalized_softmax": Loss(
        "classes", lambda x, w, y, t, **o: F.normalized_softmax(x, w, y, temperature=t, **o), 0.05
    ),
    "cos_face": Loss("classes", lambda x, w, y, t, **o: F.cos_face(x, w, y, **o)),
    "arc_face": Loss("classes", lambda x, w, y, t, **o: F.arc_face(x, w, y, **o)),
    "proxy_nca": Loss("classes", lambda x, w, y, t, **o: F.proxy_nca(x, w, y, **o)),
    "proxy_anchor": Loss("classes", lambda x, w, y, t, **o: F.proxy_anchor(x, w, y, **o)),
    "linear_cross_entropy": Loss("vocabulary", lambda h, w, y, t, **o: F.linear_cross_entropy(h, w, y, **o)),
}
# Other primitives on the same rows: (x, y) -> anything.
PRIMITIVES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "pairwise_distance": lambda x, y: F.pairwise_distance(x, y),
    "pairwise_distance_p1": lambda x, y: F.pairwise_distance(x, y, metric="manhattan"),
    "nearest": lambda x, y: F.nearest(x, y, 20),
    "kmeans": lambda x, y: _kmeans(x),
}


def _kmeans(x: Tensor) -> Any:
    from fastssl.models import kmeans

    return kmeans(x, max(2, len(x) // 64), iterations=5, tolerance=0.0)


@functools.cache
def _learned(run: str) -> tuple[Tensor, Tensor]:
    """Unit vectors of matching pairs from trained models: "simclr" (two images), "clip" (image, text)."""
    with np.load(TRAINED) as file:
        both = torch.from_numpy(file[run].astype(np.float32))
    return TF.normalize(both[:, 0], dim=1), TF.normalize(both[:, 1], dim=1)


def trained(run: str, n: int, d: int, noise: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Learned pairs, repeated with noise to ``n`` rows in any dimension, and the item of each."""
    x, y = _learned(run)
    item = torch.arange(n) % len(x)
    if d != x.shape[1]:
        turn = torch.randn(x.shape[1], d) / d**0.5
        x, y = x @ turn, y @ turn
    rows = (TF.normalize(TF.normalize(s[item], dim=1) + noise * torch.randn(n, d) / d**0.5, dim=1) for s in (x, y))
    return next(rows), next(rows), item


def _labels(regime: str, n: int) -> Tensor:
    if regime == "one class":
        return torch.zeros(n, dtype=torch.int64)
    if regime == "all classes different":
        return torch.arange(n)
    if regime == "long-tailed labels":
        return (torch.rand(n).pow(4) * n / PER_CLASS).long()
    return torch.arange(n)[torch.randperm(n)] // PER_CLASS


def _strided(t: Tensor) -> Tensor:
    wide = torch.empty(t.shape[1] * 2, t.shape[0], dtype=t.dtype)
    view = wide.T[:, ::2]
    return view.copy_(t)


ROWS = (
    "half trained", "trained", "trained (CLIP)", "collapsed", "duplicates", "zero rows", "lengths", "strided",
)  # fmt: skip
LABELS = ("one class", "all classes different", "long-tailed labels")
TEMPERATURES = (0.005, 0.01, 0.03, 1.0)
SCALES = {"siglip_loss": (1.0, 100.0, 1000.0), "clip_loss": (1.0, 100.0, 1000.0)}
DEVIATIONS = (5.0, 16.0, 48.0)


def rows(regime: str, n: int, d: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two sets of matched rows, and the labels if the regime defines them."""
    x, y = (TF.normalize(torch.randn(n, d), dim=1) for _ in range(2))
    if regime in ("trained", "trained (CLIP)", "half trained"):
        a, b, item = trained("clip" if "CLIP" in regime else "simclr", n, d)
        if regime == "half trained":
            a, b = TF.normalize(a + x, dim=1), TF.normalize(b + y, dim=1)
        return a, b, item
    if regime == "collapsed":
        return x[:1].repeat(n, 1), x[:1].repeat(n, 1), None
    if regime == "duplicates":
        return x[torch.arange(n) % 16], x[torch.arange(n) % 16], None
    if regime == "zero rows":
        x[::10], y[5::10] = 0, 0
    if regime == "lengths":
        x, y = x * torch.exp(3 * torch.randn(n, 1)), y * torch.exp(3 * torch.randn(n, 1))
    if regime == "strided":
        x, y = _strided(x), _strided(y)
    return x, y, None


def inputs(loss: Loss, regime: str, n: int, d: int) -> list[Tensor]:
    """The arguments of a loss, requiring gradients; ``regime``: one of ROWS, LABELS, or "random"."""
    torch.manual_seed(0)
    if loss.kind == "vocabulary":
        deviation = float(regime.split()[-1]) if regime.startswith("deviation") else 0.3
        hidden, weight = torch.randn(n, d), torch.randn(4 * n, d) * deviation / d**0.5
        return [hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, 4 * n, (n,))]
    half = loss.kind == "views"
    x, y, items = rows(regime, n // 2 if half else n, d)
    if half:
        return [x.requires_grad_(), y.requires_grad_()]
    labels = _labels(regime, n) if items is None else items
    if loss.kind == "labels":
        return [x.requires_grad_(), labels]
    # The same number of classes, and so the same shape, in every regime (for learned rows those of the first items).
    weight = y[: max(n // PER_CLASS, 2)].detach().clone()
    return [x.requires_grad_(), weight.requires_grad_(), labels % len(weight)]


def step(loss: Loss, tensors: list[Tensor], temperature: float | None, **options: Any) -> Callable[[], None]:
    trained_tensors = [t for t in tensors if t.requires_grad]

    def run() -> None:
        for t in trained_tensors:
            t.grad = None
        loss.call(*tensors, temperature, **options).backward()

    return run


def plan(name: str, loss: Loss) -> Iterator[tuple[str, str, float | None]]:
    """(title, regime of the inputs, temperature)."""
    if loss.kind == "vocabulary":
        for deviation in DEVIATIONS:
            yield f"logits of deviation {deviation:g}", f"deviation {deviation}", None
        return
    for regime in ROWS:
        if regime == "lengths" and name in ("clip_loss", "siglip_loss"):
            continue  # the loss takes unit rows
        yield regime, regime, loss.temperature
    if loss.kind != "views":
        for regime in LABELS:
            yield regime, regime, loss.temperature
    if loss.temperature is not None:
        for t in [1 / s for s in SCALES[name]] if name in SCALES else TEMPERATURES:
            label = f"scale {1 / t:g}" if name in SCALES else f"temperature {t:g}"
            for regime in ("random", "trained"):
                yield f"{regime}, {label}", regime, t


@contextmanager
def flushing() -> Iterator[None]:
    """Context with torch.set_flush_denormal(True) on all compute threads that can be reached."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def ratio(a: list[float], b: list[float]) -> float:
    """Median over rounds of a / b."""
    return statistics.median(x / y for x, y in zip(a, b))


def measure(
    name: str, title: str, regime: str, temperature: float | None, n: int, d: int, seconds: float
) -> dict[str, Any]:
    """One loss in one regime: its time, relative to random rows, and relative to eager in the same regime."""
    loss = LOSSES[name]
    there, base = inputs(loss, regime, n, d), inputs(loss, "random", n, d)
    runs = [step(loss, there, temperature), step(loss, base, loss.temperature)]
    if n <= EAGER_ROWS:
        runs.append(step(loss, there, temperature, backend="reference"))
    times = alternate(runs, seconds)
    row: dict[str, Any] = {"loss": name, "regime": title, "rows": n, "features": d}
    row |= {"seconds": statistics.median(times[0]), "against_random": ratio(times[0], times[1])}
    if len(runs) > 2:
        row["eager_against_fused"] = ratio(times[2], times[0])
    return row


def primitive(name: str, regime: str, n: int, d: int, seconds: float) -> dict[str, Any]:
    """The same for other primitives."""
    torch.manual_seed(0)
    function = PRIMITIVES[name]
    (x, y, _), (a, b, _) = rows(regime, n, d), rows("random", n, d)
    times = alternate([lambda: function(x, y), lambda: function(a, b)], seconds)
    row = {"loss": name, "regime": regime, "rows": n, "features": d}
    return row | {"seconds": statistics.median(times[0]), "against_random": ratio(times[0], times[1])}


def separated(name: str, regime: str, n: int, seconds: float) -> dict[str, Any]:
    """CLIP (n pairs) and NT-Xent (n rows) at temperature 0.01, relative to random rows at the same and at the usual
    temperature, to eager, and to eager with flushed subnormal numbers."""
    loss, cold = LOSSES[name], 0.01
    size = 2 * n if name == "clip_loss" else n
    there, base = inputs(loss, regime, size, 128), inputs(loss, "random", size, 128)
    fused, eager = step(loss, there, cold), step(loss, there, cold, backend="reference")
    times = alternate([fused, step(loss, base, cold), step(loss, base, 0.1), eager], seconds, 3)
    with flushing():
        flushed = alternate([fused, eager], seconds, 3)
    return {
        **{"loss": name, "regime": regime, "rows": n, "features": 128, "temperature": cold},
        "seconds": statistics.median(times[0]),
        "against_random": ratio(times[0], times[1]),
        "against_random_at_0.1": ratio(times[0], times[2]),
        "eager_against_fused": ratio(times[3], times[0]),
        "flushing_eager_against_fused": ratio(flushed[1], flushed[0]),
    }


def confident(deviation: float, seconds: float, shape: tuple[int, int, int] = (2048, 512, 32_000)) -> dict[str, Any]:
    """A language model head: time relative to logits of standard deviation 0.3, and relative to eager."""
    n, d, vocabulary = shape

    def head(deviation: float) -> list[Tensor]:
        torch.manual_seed(0)
        weight = torch.randn(vocabulary, d) * deviation / d**0.5
        return [torch.randn(n, d).requires_grad_(), weight.requires_grad_(), torch.randint(0, vocabulary, (n,))]

    loss = LOSSES["linear_cross_entropy"]
    there, flat = head(deviation), head(0.3)
    runs = [step(loss, there, None), step(loss, flat, None), step(loss, there, None, backend="reference")]
    times = alternate(runs, seconds, 3)
    return {
        **{"loss": "linear_cross_entropy", "regime": f"logits of deviation {deviation:g}", "rows": n, "features": d},
        **{"vocabulary": vocabulary, "seconds": statistics.median(times[0])},
        "against_flat": ratio(times[0], times[1]),
        "eager_against_fused": ratio(times[2], times[0]),
    }


def run_regimes(quick: bool = False, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs this part of the suite and returns its results."""
    start, budget = time.time(), 0.1 if quick else 0.3
    results: dict[str, Any] = {"machine": machine(), "rows": [], "separated": [], "heads": []}

    def add(part: str, row: dict[str, Any]) -> None:
        results[part].append(row)
        ratios = ", ".join(f"{k} {v:.2f}" for k, v in row.items() if "against" in k)
        report(f"{row['loss']:28} {row['rows']:6} {row['regime']:28} {1e3 * row['seconds']:9.2f} ms  {ratios}")

    for name in ("clip_loss", "nt_xent"):
        for n in (512,) if quick else (2048, 8192):
            for regime in ("trained", "trained (CLIP)"):
                add("separated", separated(name, regime, n, 10 * budget))
    for deviation in (0.3, *DEVIATIONS):
        add("heads", confident(deviation, 10 * budget, (256, 64, 2000) if quick else (2048, 512, 32_000)))
    for name, loss in LOSSES.items():
        for n in (512,) if quick else loss.sizes:
            for title, regime, temperature in plan(name, loss):
                if n > EVERY_REGIME and title not in LARGE:
                    continue
                add("rows", measure(name, title, regime, temperature, n, 128, budget))
    for name in PRIMITIVES:
        for n in (512,) if quick else (512, 2048):
            for regime in ROWS:
                add("rows", primitive(name, regime, n, 128, budget))
    for d in () if quick else (2, 16, 512, 4096):
        for name in ("nt_xent", "contrastive"):
            for regime in ("trained", "collapsed", "duplicates"):
                add("rows", measure(name, regime, regime, LOSSES[name].temperature, 1024, d, budget))
    results["minutes"] = (time.time() - start) / 60
    return results
