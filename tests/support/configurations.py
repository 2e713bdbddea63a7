"""Configurations of the libraries that are patched: every setting changed, every method replaced, every part exchanged.

Each runs without and with the patch on copies of the same objects. A patched call may be fused or not; its loss, every
gradient, the state dict, settings and buffers afterwards and torch's random state must be the original's. Roundings of
16 bits are compared as errors against float64; those of a single number over several draws, as one says nothing.
"""

from __future__ import annotations

import copy
import functools
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

import fastssl

N, D, CLASSES = 24, 8, 6
DRAWS = 16
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALVES)
_INTERNALS = {*vars(nn.Module()), "_record_these"}


@dataclass
class Case:
    """One configuration.

    Args:
        peer: the library.
        title: says what is special.
        make: builds the loss.
        change: makes it special, and may return a function that undoes what is not the object's own.
        call: calls it with the rows.
        rows: how many matrices it takes.
        dtype: dtype of the rows.
        autocast: within a region of bfloat16.
        scores: the patched method returns scores, in 16 bits where the original does, from which a loss follows.
        draw: which rows.
    """

    peer: str
    title: str
    make: Callable[[], Any]
    call: Callable[..., Any]
    change: Callable[[Any], Callable[[], None] | None] = lambda loss: None
    rows: int = 1
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    scores: bool = False
    draw: int = 0

    def __str__(self) -> str:
        return f"{self.title}, {str(self.dtype)[6:]}{', autocast' if self.autocast else ''}"


@dataclass
class Outcome:
    error: type[BaseException] | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    random: Tensor | None = None


def _matrices(count: int, dtype: torch.dtype, draw: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(7 + draw)
    return [torch.randn(N, D, generator=g).to(torch.bfloat16).to(dtype).requires_grad_() for _ in range(count)]


def _sum(result: Any) -> Tensor:
    if isinstance(result, dict):
        return torch.stack([_sum(v).double() for v in result.values()]).sum()
    if isinstance(result, (tuple, list)):
        return torch.stack([_sum(v).double() for v in result]).sum()
    return result.sum()


def _state(loss: Any) -> dict[str, Any]:
    """What can be seen of an object and its parts afterwards."""
    found: dict[str, Any] = {}
    for path, module in loss.named_modules():
        for name, value in vars(module).items():
            if name not in _INTERNALS and isinstance(value, (int, float, str, bool, type(None), Tensor, dict)):
                found[f"{path}.{name}"] = value
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            found[f"{path}.{name}"] = value
    return copy.deepcopy({k: v.detach() if isinstance(v, Tensor) else v for k, v in found.items()})


def run(case: Case, dtype: torch.dtype | None = None, autocast: bool | None = None) -> Outcome:
    """The configuration as it stands, patched or not; in another dtype for what is right."""
    dtype, autocast = dtype or case.dtype, case.autocast if autocast is None else autocast
    torch.manual_seed(3)
    random.seed(3)
    outcome, undo = Outcome(), None
    try:
        loss = case.make()
        if case.dtype != torch.float32:
            loss = loss.to(case.dtype)
        loss = loss.to(dtype)  # what is right has the same weights
        undo = case.change(loss)
        rows = _matrices(case.rows, dtype, case.draw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    result = case.call(loss, *rows)
                    total = _sum(result)
                leaves = [*rows, *(p for p in loss.parameters() if p.requires_grad)]
                if total.requires_grad:
                    total.backward()
                grads = [leaf.grad for leaf in leaves]
            except Exception as error:
                outcome.error = type(error)
                return outcome
        outcome.tensors = {"loss": total.detach()}
        names = [f"rows {i}" for i in range(len(rows))] + [n for n, p in loss.named_parameters() if p.requires_grad]
        for name, grad in zip(names, grads):
            if grad is not None:
                outcome.tensors[name] = grad
        outcome.after = _state(loss)
        outcome.random = torch.get_rng_state()
        return outcome
    finally:
        if undo is not None:
            undo()


def _inexact(case: Case) -> bool:
    return case.dtype in HALVES or case.autocast


@dataclass
class Errors:
    """Of a result in 16 bits against float64: the original's and the patched one, and what rounding allows."""

    theirs: float
    ours: float
    rounding: float
    largest: float

    @property
    def excessive(self) -> bool:
        return not self.ours <= 1.5 * self.theirs + self.rounding

    def __str__(self) -> str:
        return f"error {self.theirs:.2e} became {self.ours:.2e} of {self.largest:.2e}"

    @staticmethod
    def pooled(errors: list[Errors]) -> Errors:
        """Over draws: RMS errors, and means of what they are measured by."""
        n = len(errors)
        theirs, ours = ((sum(getattr(e, k) ** 2 for e in errors) / n) ** 0.5 for k in ("theirs", "ours"))
        return Errors(theirs, ours, sum(e.rounding for e in errors) / n, sum(e.largest for e in errors) / n)


def _errors(case: Case, before: Outcome, after: Outcome) -> dict[str, Errors]:
    """Of every tensor that is finite and of one shape without the patch, with it and in float64."""
    found: dict[str, Errors] = {}
    right = run_unpatched(case, torch.float64, False)
    for name in before.tensors.keys() & after.tensors.keys() & right.tensors.keys():
        a, b, r = (outcome.tensors[name].double() for outcome in (before, after, right))
        if not a.shape == b.shape == r.shape or not (torch.isfinite(a).all() and torch.isfinite(r).all()):
            continue
        theirs, ours = (float((t - r).square().mean().sqrt()) for t in (a, b))
        # Gradients pass through the loss's dtype: its rounding is both's.
        width = max(torch.finfo(before.tensors[k].dtype).eps for k in (name, "loss"))
        width = max(width, 8 * torch.finfo(torch.float32).eps)
        largest = actual = float(r.abs().max())
        if case.scores:
            width = max(width, torch.finfo(torch.bfloat16 if case.autocast else case.dtype).eps)
            largest = max(largest, 1.0)
        found[name] = Errors(theirs, ours, width * (1e-3 + largest), actual)
    return found


def differences(case: Case, before: Outcome, after: Outcome) -> list[str]:
    """What is not the same, other than roundings of 16 bits."""
    if before.error or after.error:
        return [] if before.error == after.error else [f"error {before.error} became {after.error}"]
    found = []
    if before.tensors.keys() != after.tensors.keys():
        found.append(f"gradients of {sorted(before.tensors)} became those of {sorted(after.tensors)}")
    exact = not _inexact(case)
    for name in before.tensors.keys() & after.tensors.keys():
        a, b = before.tensors[name], after.tensors[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            found.append(f"{name}: {a.dtype} {tuple(a.shape)} became {b.dtype} {tuple(b.shape)}")
            continue
        a, b = a.double(), b.double()
        if not exact or not torch.isfinite(a).all():
            continue  # a cosine that rounding has left beyond 1, a square root at 0: ours need not be
        largest = 1 + float(a.abs().max()) if a.numel() else 1.0
        tight = before.tensors[name].dtype == torch.float64 == case.dtype
        if any(word in case.title for word in ("tensor", "learned", "numpy")):  # settings in float32
            tight = False
        allowed = (1e-8 if tight else 2e-4) * largest
        if not float((a - b).abs().max() if a.numel() else 0) <= allowed:
            found.append(f"{name}: {_brief(a)} became {_brief(b)}")
    if before.random is not None and after.random is not None and not torch.equal(before.random, after.random):
        found.append("random numbers were drawn")
    if before.after.keys() != after.after.keys():
        found.append(f"settings {sorted(before.after.keys() ^ after.after.keys())} came or went")
    for name in before.after.keys() & after.after.keys():
        if not _equal(before.after[name], after.after[name], exact):
            found.append(f"{name} afterwards: {before.after[name]} became {after.after[name]}")
    return found


def _brief(t: Tensor) -> str:
    return f"{float(t):.8g}" if t.numel() == 1 else f"|{float(t.norm()):.8g}|"


def _equal(a: Any, b: Any, exact: bool) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return bool(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)) or not exact
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k], exact) for k in a)
    return type(a) is type(b) and (a == b or (a != a and b != b))


def run_unpatched(case: Case, dtype: torch.dtype, autocast: bool) -> Outcome:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fastssl.unpatch()
    return run(case, dtype, autocast)


def _both(case: Case) -> tuple[Outcome, Outcome, int]:
    """Without and with the patch, and how many calls ran fused."""
    before = run_unpatched(case, case.dtype, case.autocast)
    fastssl.patch(case.peer, min_rows=0)
    try:
        after = run(case)
        fused = sum(calls.fused for calls in fastssl.patched()[case.peer].values())
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            fastssl.unpatch()
    return before, after, fused


def compare(case: Case) -> tuple[list[str], int]:
    """Differences, and how many calls ran fused; with 16 bits, errors against float64 above the original's."""
    before, after, fused = _both(case)
    found = differences(case, before, after)
    if not _inexact(case) or before.error or after.error:
        return found, fused
    errors = _errors(case, before, after)
    excessive = {name for name, e in errors.items() if e.excessive}
    single = {name for name in excessive if before.tensors[name].numel() == 1}
    if single:  # where the original's error happens to be small
        others = [replace(case, draw=draw) for draw in range(1, DRAWS)]
        draws = [errors, *(_errors(other, *_both(other)[:2]) for other in others)]
        pooled = {name: Errors.pooled([draw[name] for draw in draws if name in draw]) for name in single}
        errors, excessive = errors | pooled, excessive - {name for name, e in pooled.items() if not e.excessive}
    return found + [f"{name}: {errors[name]}" for name in sorted(excessive)], fused


# --- changes ---------------------------------------------------------------------------------------------------------


def _halved(rows: Tensor) -> Tensor:
    """Rows as those that a layer returns within autocast; float64 stands for what is right."""
    return rows.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") and rows.dtype == torch.float32 else rows


def _part(loss: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        loss = getattr(loss, name)
    return loss


def _put(part: Any, name: str, value: Any) -> None:
    if name in part._parameters or name in part._buffers or name in part._modules or name in vars(part):
        delattr(part, name)
    setattr(part, name, value)


def _set(path: tuple[str, ...], name: str, value: Callable[[], Any]) -> Callable[[Any], None]:
    return lambda loss: _put(_part(loss, path), name, value())


def _alternatives(value: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    if isinstance(value, bool):
        yield str(not value), lambda: not value
    elif isinstance(value, (int, float)):
        for other in (value * 1.5 + 0.125, -1.0 * value - 0.25, 0, value * 0.5 + 1):
            yield f"{other:g}", lambda other=other: other
        v = float(value) * 1.25 + 0.0625
        yield "tensor", lambda: torch.tensor(v)
        yield "tensor [1]", lambda: torch.tensor([v])
        yield "float64 tensor [1]", lambda: torch.tensor([v], dtype=torch.float64)
        yield "learned", lambda: nn.Parameter(torch.tensor(v))
        yield "learned [1]", lambda: nn.Parameter(torch.tensor([v]))
        yield "learned buffer", lambda: torch.tensor(v, requires_grad=True)
        try:
            import numpy

            yield "numpy", lambda: numpy.float32(v)
        except ImportError:
            pass
    elif value is None:
        yield "0.3", lambda: 0.3
    elif isinstance(value, str):
        yield "other", lambda: "other"
    elif isinstance(value, Tensor) and value.is_floating_point():
        other = (value.detach() * 1.25).bfloat16().to(value.dtype)  # the same in all dtypes
        yield "times 1.25", lambda: other.clone()
        yield "learned", lambda: nn.Parameter(other.clone())
    elif isinstance(value, Tensor):
        yield "reversed", lambda: value.flip(0)


def settings(
    make: Callable[[], Any], parts: tuple[tuple[str, ...], ...]
) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Every attribute of a loss and of its parts, set to other values."""
    sample = make()
    for path in parts:
        part = _part(sample, path)
        for name, value in (*vars(part).items(), *part._parameters.items(), *part._buffers.items()):
            if name in _INTERNALS or name == "training":
                continue
            for text, other in _alternatives(value):
                yield f"{'.'.join((*path, name))} = {text}", _set(path, name, other)
        yield f"{'.'.join((*path, 'an_attribute'))} of the user's own", _set(path, "an_attribute", lambda: 1)


def _larger(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result * 1.5 if result.is_floating_point() else result
    if isinstance(result, dict):
        return {k: _larger(v) if k in ("losses", "loss", "pos_loss", "neg_loss") else v for k, v in result.items()}
    if isinstance(result, tuple):
        return tuple(_larger(v) for v in result)
    return result


def methods(make: Callable[[], Any], parts: tuple[tuple[str, ...], ...]) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Every method of the library's, replaced on the object, on its class, by a subclass, by a partial; and hooks."""
    sample = make()
    for path in parts:
        part = _part(sample, path)
        names = sorted(
            {
                name
                for owner in type(part).__mro__
                if owner not in nn.Module.__mro__
                for name, value in vars(owner).items()
                if isinstance(value, types.FunctionType) and not name.startswith("__")
            }
        )
        for name in names:
            title = ".".join((*path, name))
            yield f"{title} on the object", functools.partial(_on_object, path, name)
            yield f"{title} on the class", functools.partial(_on_class, path, name)
            yield f"{title} by a subclass", functools.partial(_by_subclass, path, name)
            yield f"{title} by a partial", functools.partial(_by_partial, path, name)
        for hook in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
            yield f"{'.'.join((*path, hook))}", functools.partial(_hook, path, hook)


def _on_object(path: tuple[str, ...], name: str, loss: Any) -> None:
    part = _part(loss, path)
    original = getattr(part, name)
    object.__setattr__(part, name, lambda *args, **kwargs: _larger(original(*args, **kwargs)))


def _by_partial(path: tuple[str, ...], name: str, loss: Any) -> None:
    part = _part(loss, path)
    original = getattr(type(part), name)

    def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _larger(original(self, *args, **kwargs))

    object.__setattr__(part, name, functools.partial(functools.wraps(original)(replaced), part))


def _on_class(path: tuple[str, ...], name: str, loss: Any) -> Callable[[], None]:
    kind = type(_part(loss, path))
    owner = next(c for c in kind.__mro__ if name in vars(c))
    original = vars(owner)[name]

    def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _larger(original(self, *args, **kwargs))

    setattr(owner, name, functools.wraps(original)(replaced))
    return lambda: setattr(owner, name, original)


def _by_subclass(path: tuple[str, ...], name: str, loss: Any) -> None:
    part = _part(loss, path)
    kind = type(part)
    original = getattr(kind, name)

    def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _larger(original(self, *args, **kwargs))

    part.__class__ = type(kind.__name__, (kind,), {name: replaced, "__module__": kind.__module__})


def _hook(path: tuple[str, ...], hook: str, loss: Any) -> None:
    def called(module: Any, given: Any, *result: Any) -> Any:
        if hook == "register_forward_pre_hook":
            return tuple(_larger(a) for a in given) if path else None
        return _larger(result[0]) if hook == "register_forward_hook" else None

    getattr(_part(loss, path), hook)(called)


# --- the libraries ---------------------------------------------------------------------------------------------------


def metric_learning() -> Iterator[Case]:
    yield from losses_of_metric_learning()
    yield from miners_of_metric_learning()


def losses_of_metric_learning() -> Iterator[Case]:
    from pytorch_metric_learning import distances, losses, miners, reducers, regularizers

    proxies = {"num_classes": CLASSES, "embedding_size": D}
    names: dict[str, dict[str, Any]] = {
        "AngularLoss": {}, "ArcFaceLoss": proxies, "CircleLoss": {"gamma": 8}, "ContrastiveLoss": {},
        "CosFaceLoss": proxies, "FastAPLoss": {}, "GeneralizedLiftedStructureLoss": {}, "HistogramLoss": {},
        "LiftedStructureLoss": {},
        "MarginLoss": {}, "MultiSimilarityLoss": {}, "NCALoss": {}, "NTXentLoss": {"temperature": 0.2},
        "NormalizedSoftmaxLoss": proxies, "ProxyAnchorLoss": proxies, "ProxyNCALoss": proxies,
        "PNPLoss": {"anneal": 0.1}, "RankedListLoss": {"margin": 0.4, "Tn": 2.0}, "SmoothAPLoss": {"temperature": 0.1},
        "SupConLoss": {}, "ThresholdConsistentMarginLoss": {"margin_minus": 0.2}, "TripletMarginLoss": {},
        "TupletMarginLoss": {"scale": 8},
    }  # fmt: skip
    names = {name: given for name, given in names.items() if hasattr(losses, name)}  # of older versions
    y = torch.arange(N) % CLASSES
    half = (torch.rand(N, N, generator=torch.Generator().manual_seed(1)) < 0.4) & ~torch.eye(N, dtype=torch.bool)
    same = y[:, None] == y[None, :]
    pairs = (*(same & half).nonzero(as_tuple=True), *(~same & half).nonzero(as_tuple=True))
    a, p = (same & half).nonzero(as_tuple=True)
    triplets = (a, p, (p + 1) % N)
    other = torch.arange(N) % CLASSES
    ways: dict[str, tuple[int, Callable[..., Any]]] = {
        "labels": (1, lambda loss, x: loss(x, y)),
        "references": (2, lambda loss, x, r: loss(x, y, ref_emb=r, ref_labels=other)),
        "references without gradient": (2, lambda loss, x, r: loss(x, y, ref_emb=r.detach(), ref_labels=other)),
        "pairs": (1, lambda loss, x: loss(x, y, pairs)),
        "triplets": (1, lambda loss, x: loss(x, y, triplets)),
        "pairs without labels": (1, lambda loss, x: loss(x, indices_tuple=pairs)),
        "pairs of references": (2, lambda loss, x, r: loss(x, y, pairs, ref_emb=r, ref_labels=other)),
        "one class": (1, lambda loss, x: loss(x, torch.zeros_like(y))),
        "all apart": (1, lambda loss, x: loss(x, torch.arange(N) % max(CLASSES, 6))),
        "no rows": (1, lambda loss, x: loss(x[:0], y[:0])),
        "two rows": (1, lambda loss, x: loss(x[:2], y[:2])),
        "duplicates": (1, lambda loss, x: loss(torch.cat([x[:12], x[:12]]), torch.cat([y[:12], y[:12]]))),
        "not contiguous": (1, lambda loss, x: loss(x.T.contiguous().T, y)),
        "long rows": (1, lambda loss, x: loss(torch.cat([300 * x[:1], x[1:]]), y)),
        "views": (2, lambda loss, x, r: losses.SelfSupervisedLoss(loss)(x, r)),
        "memory": (1, lambda loss, x: losses.CrossBatchMemory(loss, D, 40)(x, y)),
        "int32 labels": (1, lambda loss, x: loss(x, y.int())),
        "float labels": (1, lambda loss, x: loss(x, y.float())),
    }
    found_distances: dict[str, Callable[[], Any]] = {
        "CosineSimilarity": distances.CosineSimilarity,
        "DotProductSimilarity": distances.DotProductSimilarity,
        "DotProductSimilarity, not normalised": lambda: distances.DotProductSimilarity(normalize_embeddings=False),
        "LpDistance": distances.LpDistance,
        "LpDistance, squared": lambda: distances.LpDistance(power=2),
        "LpDistance, p = 1": lambda: distances.LpDistance(p=1),
        "LpDistance, not normalised": lambda: distances.LpDistance(normalize_embeddings=False),
        "LpDistance, power 3": lambda: distances.LpDistance(power=3),
        "SNRDistance": distances.SNRDistance,
        "CosineSimilarity, squared": lambda: distances.CosineSimilarity(power=2),
        "CosineSimilarity, statistics": lambda: distances.CosineSimilarity(collect_stats=True),
    }
    found_reducers: dict[str, Callable[[], Any]] = {
        "MeanReducer": reducers.MeanReducer,
        "SumReducer": reducers.SumReducer,
        "AvgNonZeroReducer": reducers.AvgNonZeroReducer,
        "ThresholdReducer(low=0)": lambda: reducers.ThresholdReducer(low=0),
        "ThresholdReducer(low=0.3)": lambda: reducers.ThresholdReducer(low=0.3),
        "ThresholdReducer(high=0.7)": lambda: reducers.ThresholdReducer(high=0.7),
        "PerAnchorReducer": reducers.PerAnchorReducer,
        "PerAnchorReducer(AvgNonZero)": lambda: reducers.PerAnchorReducer(reducers.AvgNonZeroReducer()),
        "DivisorReducer": reducers.DivisorReducer,
        "ClassWeightedReducer": lambda: reducers.ClassWeightedReducer(torch.linspace(0.5, 2, CLASSES)),
        "DoNothingReducer": reducers.DoNothingReducer,
        "MultipleReducers": lambda: reducers.MultipleReducers(
            {"loss": reducers.SumReducer(), "pos_loss": reducers.SumReducer()}, reducers.AvgNonZeroReducer()
        ),
    }
    found_miners: dict[str, Callable[[], Any]] = {
        "BatchHardMiner": miners.BatchHardMiner,
        "BatchEasyHardMiner": miners.BatchEasyHardMiner,
        "MultiSimilarityMiner": lambda: miners.MultiSimilarityMiner(epsilon=0.2),
        "TripletMarginMiner": lambda: miners.TripletMarginMiner(margin=0.3),
        "TripletMarginMiner, hard": lambda: miners.TripletMarginMiner(margin=0.3, type_of_triplets="hard"),
        "PairMarginMiner": lambda: miners.PairMarginMiner(0.2, 1.2),
        "AngularMiner": lambda: miners.AngularMiner(20),
        "DistanceWeightedMiner": lambda: miners.DistanceWeightedMiner(),
        "HDCMiner": lambda: miners.HDCMiner(0.5),
        "UniformHistogramMiner": lambda: miners.UniformHistogramMiner(10, 4),
        "EmbeddingsAlreadyPackagedAsTriplets": miners.EmbeddingsAlreadyPackagedAsTriplets,
    }

    def case(name: str, title: str, way: str = "labels", change: Any = None, **more: Any) -> Case:
        rows, call = ways[way]
        make = functools.partial(getattr(losses, name), **{**names[name], **more})
        options = {} if change is None else {"change": change}
        return Case("pytorch_metric_learning", f"{name}: {title}", make, call, rows=rows, **options)

    parts: tuple[tuple[str, ...], ...] = ((), ("distance",), ("reducer",))
    for name in names:
        for way in ways:
            yield case(name, way, way)
        for title, distance in found_distances.items():
            try:
                getattr(losses, name)(**names[name], distance=distance())
            except Exception:
                continue
            for way in ("labels", "references", "pairs"):
                yield case(name, f"{title}, {way}", way, distance=distance())
        for title, reducer in found_reducers.items():
            for way in ("labels", "pairs"):
                yield case(name, f"{title}, {way}", way, change=_set((), "reducer", reducer))
        for title, miner in found_miners.items():
            made = case(name, title)
            made.call = lambda loss, x, miner=miner: loss(x, y, miner()(x.detach().float(), y))
            yield made
        for title, given in {
            "embeddings": {"embedding_regularizer": regularizers.LpRegularizer(), "embedding_reg_weight": 0.3},
            "statistics": {"collect_stats": True},
        }.items():
            yield case(name, title, **given)
        if names[name] is proxies:
            yield case(name, "weights", weight_regularizer=regularizers.LpRegularizer(), weight_reg_weight=0.3)
        if name == "MarginLoss":
            for classes in (None, CLASSES):
                yield case(name, f"learned beta, {classes}", learn_beta=True, nu=0.1, num_classes=classes)
        make = functools.partial(getattr(losses, name), **names[name])
        inner = [path for path in parts if path != ("reducer",) or type(make().reducer).__name__ != "MultipleReducers"]
        if len(inner) == 2:
            inner += [("reducer", "default_reducer")]
        for title, change in settings(make, tuple(inner)):
            yield case(name, title, change=change)
        for title, change in methods(make, tuple(inner)):
            yield case(name, title, change=change)
    views: dict[str, tuple[int, Callable[..., Any]]] = {
        "views": (2, lambda loss, x, r: loss(x, ref_emb=r)),
        "the second without gradient": (2, lambda loss, x, r: loss(x, ref_emb=r.detach())),
        "labels": (2, lambda loss, x, r: loss(x, y, ref_emb=r, ref_labels=y)),
        "one row": (2, lambda loss, x, r: loss(x[:1], ref_emb=r[:1])),
        "two rows": (2, lambda loss, x, r: loss(x[:2], ref_emb=r[:2])),
        "other lengths": (2, lambda loss, x, r: loss(x, ref_emb=r[:5])),
        "mixed dtypes": (2, lambda loss, x, r: loss(x, ref_emb=r.double())),
    }
    kinds = {"VICRegLoss": losses.VICRegLoss, "VICRegLoss, statistics": lambda: losses.VICRegLoss(collect_stats=True)}
    yield from _stock("pytorch_metric_learning", kinds, views, lambda loss: ((), ("reducer",)))


def _mined(labels: Tensor, **others: Tensor) -> Callable[..., Tensor]:
    """A number that depends on every mined index and on their order."""

    def call(miner: Any, x: Tensor) -> Tensor:
        lists = miner(x, labels, **{k: v.to(x.dtype) if v.is_floating_point() else v for k, v in others.items()})
        places = [torch.linspace(1, 2, len(t), dtype=torch.float64) for t in lists]
        return torch.stack([(t * w).sum() + len(t) for t, w in zip(lists, places)]).sum()

    return call


def miners_of_metric_learning() -> Iterator[Case]:
    from pytorch_metric_learning import distances, miners

    kinds: dict[str, Callable[[], Any]] = {
        f"TripletMarginMiner, {kind}": functools.partial(miners.TripletMarginMiner, 0.1, kind)
        for kind in ("all", "hard", "semihard", "easy", "unknown")
    }
    for name in ("CosineSimilarity", "DotProductSimilarity", "SNRDistance"):
        kinds[f"TripletMarginMiner, {name}"] = lambda name=name: miners.TripletMarginMiner(
            0.1, distance=getattr(distances, name)()
        )
    kinds["AngularMiner"] = miners.AngularMiner
    kinds["BatchHardMiner"] = miners.BatchHardMiner
    for pair in (("easy", "semihard"), ("semihard", "hard"), ("all", "easy")):
        kinds[f"BatchEasyHardMiner, {', '.join(pair)}"] = functools.partial(miners.BatchEasyHardMiner, *pair)
    kinds["BatchEasyHardMiner, ranges"] = lambda: miners.BatchEasyHardMiner("hard", "hard", (0.3, 1.3), (0.5, 1.4))
    kinds["PairMarginMiner"] = lambda: miners.PairMarginMiner(0.9, 1.3)
    kinds["PairMarginMiner, CosineSimilarity"] = lambda: miners.PairMarginMiner(
        0.4, -0.1, distance=distances.CosineSimilarity()
    )
    kinds["AngularMiner, statistics"] = lambda: miners.AngularMiner(collect_stats=True)
    kinds["TripletMarginMiner, statistics"] = lambda: miners.TripletMarginMiner(collect_stats=True)
    y = torch.arange(N) % CLASSES
    other = torch.randn(17, D, generator=torch.Generator().manual_seed(2))
    calls: dict[str, tuple[int, Callable[..., Any]]] = {
        "labels": (1, _mined(y)),
        "references": (1, _mined(y, ref_emb=other, ref_labels=torch.arange(17) % 4)),
        "one class": (1, _mined(0 * y)),
        "all apart": (1, _mined(torch.arange(N))),
        "float labels": (1, _mined(y.float())),
        "duplicates": (1, lambda miner, x: _mined(y)(miner, x[torch.arange(N) // 2])),
        "no rows": (1, lambda miner, x: _mined(y[:0])(miner, x[:0])),
        "called twice": (1, lambda miner, x: _mined(y)(miner, x) + _mined(y.flip(0))(miner, 2 * x)),
    }
    yield from _stock("pytorch_metric_learning", kinds, calls, lambda miner: ((), ("distance",)))


def _stock(
    peer: str,
    kinds: dict[str, Callable[[], Any]],
    calls: dict[str, tuple[int, Callable[..., Any]]],
    parts: Callable[[Any], tuple[tuple[str, ...], ...]],
) -> Iterator[Case]:
    for name, make in kinds.items():
        for title, (rows, call) in calls.items():
            yield Case(peer, f"{name}: {title}", make, call, rows=rows)
        rows, call = next(iter(calls.values()))
        for title, change in (*settings(make, parts(make())), *methods(make, parts(make()))):
            yield Case(peer, f"{name}: {title}", make, call, change, rows)


def lightly() -> Iterator[Case]:
    from lightly.loss.dcl_loss import DCLLoss, DCLWLoss, negative_mises_fisher_weights
    from lightly.loss.hypersphere_loss import HypersphereLoss
    from lightly.loss.koleo_loss import KoLeoLoss
    from lightly.loss.macl_loss import MACLLoss
    from lightly.loss.ntx_ent_loss import NTXentLoss
    from lightly.loss.vicreg_loss import VICRegLoss

    def plain() -> Any:
        loss = NTXentLoss(0.3)
        loss.memory_bank.bank_ptr.zero_()  # not initialised by the library
        return loss

    kinds: dict[str, Callable[[], Any]] = {
        "NTXentLoss": plain,
        "NTXentLoss with a bank": lambda: NTXentLoss(0.3, memory_bank_size=(40, D)),
        "DCLLoss": lambda: DCLLoss(0.3),
        "DCLWLoss": lambda: DCLWLoss(0.3, sigma=0.6),
        "DCLLoss, weighted": lambda: DCLLoss(0.3, weight_fn=negative_mises_fisher_weights),
        "DCLLoss, weights of one's own": lambda: DCLLoss(0.3, weight_fn=lambda a, b: (a - b).square().sum(1)),
        "DCLLoss, a partial": lambda: DCLLoss(
            0.3, weight_fn=functools.partial(lambda a, b, sigma: (a * b).sum(1) * sigma, sigma=0.4)
        ),
    }
    kinds["VICRegLoss"] = VICRegLoss
    kinds["HypersphereLoss"] = HypersphereLoss
    kinds["MACLLoss"] = MACLLoss
    calls: dict[str, tuple[int, Callable[..., Any]]] = {
        "two views": (2, lambda loss, x, z: loss(x, z)),
        "the second without gradient": (2, lambda loss, x, z: loss(x, z.detach())),
        "the first without gradient": (2, lambda loss, x, z: loss(x.detach(), z)),
        "three steps": (2, lambda loss, x, z: loss(x, z) + loss(z, x) + loss(x, z)),
        "keywords": (2, lambda loss, x, z: loss(out1=z, out0=x)),
        "one row": (2, lambda loss, x, z: loss(x[:1], z[:1])),
        "two rows": (2, lambda loss, x, z: loss(x[:2], z[:2])),
        "other lengths": (2, lambda loss, x, z: loss(x, z[:5])),
        "evaluation": (2, lambda loss, x, z: loss.eval()(x, z)),
        "three dimensions": (2, lambda loss, x, z: loss(x[None], z[None])),
        "mixed dtypes": (2, lambda loss, x, z: loss(x, z.double())),
        "16 bits beside others": (2, lambda loss, x, z: loss(_halved(x), z)),
        "others beside 16 bits": (2, lambda loss, x, z: loss(x, _halved(z))),
        "a wrong argument": (2, lambda loss, x, z: loss(x, z, 3)),
    }

    def parts(loss: Any) -> tuple[tuple[str, ...], ...]:
        return ((), ("cross_entropy",), ("memory_bank",)) if hasattr(loss, "cross_entropy") else ((),)

    yield from _stock("lightly", kinds, calls, parts)
    of_one_view: dict[str, tuple[int, Callable[..., Any]]] = {
        "a view": (1, lambda loss, x: loss(x)),
        "keywords": (1, lambda loss, x: loss(x=x)),
        "one row": (1, lambda loss, x: loss(x[:1])),
        "two rows": (1, lambda loss, x: loss(x[:2])),
        "rows of zeros": (1, lambda loss, x: loss(torch.cat([x, 0 * x[:1]]))),
        "three dimensions": (1, lambda loss, x: loss(x[None])),
        "a wrong argument": (1, lambda loss, x: loss(x, 3)),
    }
    yield from _stock("lightly", {"KoLeoLoss": KoLeoLoss}, of_one_view, lambda loss: ((), ("pairwise_distance",)))


def open_clip() -> Iterator[Case]:
    from open_clip.loss import ClipLoss, CoCaLoss, SigLipLoss

    def unit(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=1)

    scales: dict[str, Callable[[], Any]] = {
        "a number": lambda: 8.0,
        "an integer": lambda: 8,
        "a tensor": lambda: torch.tensor(8.0),
        "a learned tensor": lambda: nn.Parameter(torch.tensor(2.0)).exp(),
        "a tensor [1]": lambda: torch.tensor([8.0]),
        "a float64 tensor": lambda: torch.tensor(8.0, dtype=torch.float64),
        "a float64 tensor [1]": lambda: torch.tensor([8.0], dtype=torch.float64),
        "a bfloat16 tensor": lambda: torch.tensor(8.0, dtype=torch.bfloat16),
        "an integer tensor": lambda: torch.tensor(8),
        "a tensor for each row": lambda: torch.linspace(1, 8, N)[:, None],
        "a negative number": lambda: -3.0,
        "zero": lambda: 0.0,
    }
    kinds: dict[str, Callable[[], Any]] = {
        "ClipLoss": ClipLoss,
        "ClipLoss, cached": lambda: ClipLoss(cache_labels=True),
    }
    calls: dict[str, tuple[int, Callable[..., Any]]] = {
        f"scale {title}": (2, lambda loss, x, z, scale=scale: loss(unit(x), unit(z), scale()))
        for title, scale in scales.items()
    } | {
        f"bias {title}": (2, lambda loss, x, z, bias=bias: loss(unit(x), unit(z), 8.0, bias()))
        for title, bias in scales.items()
    }
    calls |= {
        "a dictionary": (2, lambda loss, x, z: loss(unit(x), unit(z), 8.0, output_dict=True)),
        "keywords": (2, lambda loss, x, z: loss(logit_scale=8.0, text_features=z, image_features=x)),
        "other lengths": (2, lambda loss, x, z: loss(x, z[:5], 8.0)),
        "no rows": (2, lambda loss, x, z: loss(x[:0], z[:0], 8.0)),
        "mixed dtypes": (2, lambda loss, x, z: loss(x, z.double(), 8.0)),
        "16 bits beside others": (2, lambda loss, x, z: loss(_halved(unit(x)), unit(z), 8.0)),
        "others beside 16 bits": (2, lambda loss, x, z: loss(unit(x), _halved(unit(z)), 8.0)),
        "long rows": (2, lambda loss, x, z: loss(30 * x, z, 1.0)),
    }
    yield from _stock("open_clip", kinds, calls, lambda loss: ((),))
    bias = {
        title: (rows, lambda loss, *args, call=call: call(functools.partial(_with_bias, loss), *args))
        for title, (rows, call) in calls.items()
        if not title.startswith("bias")
    }
    bias |= {title: call for title, call in calls.items() if title.startswith("bias")}
    yield from _stock("open_clip", {"SigLipLoss": SigLipLoss}, bias, lambda loss: ((),))
    logits, tokens = (
        torch.randn(N, 3, 7, generator=torch.Generator().manual_seed(4)),
        torch.arange(3 * N).reshape(N, 3) % 7,
    )
    coca = {"captions": (2, lambda loss, x, z: loss(unit(x), unit(z), logits.to(x.dtype), tokens, 8.0))}
    yield from _stock("open_clip", {"CoCaLoss": lambda: CoCaLoss(1.0, 0.7)}, coca, lambda loss: ((), ("caption_loss",)))


def _with_bias(loss: Any, *args: Any, **kwargs: Any) -> Any:
    return loss(*args, **kwargs, logit_bias=-2.0)


class _Model(nn.Sequential):
    """Stands for a model whose features are its embeddings."""

    max_seq_length = 8

    def __init__(self, tokenizer: Any = None) -> None:
        super().__init__(nn.Identity())
        self.tokenizer = tokenizer


class _Guide(_Model):
    """A guide with embeddings of its own, of which some are alike."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        given = features["sentence_embedding"]
        return {"sentence_embedding": given.round() if given.dim() == 2 else given}


def sentence_transformers() -> Iterator[Case]:
    import importlib

    from sentence_transformers.util import cos_sim, dot_score, euclidean_sim
    from transformers import PreTrainedTokenizerBase

    from fastssl.compat.sentence_transformers import GIST, PEER, RANKING

    targets = importlib.import_module("fastssl.compat.sentence_transformers").targets()
    losses = importlib.import_module(targets[0].owner.__module__.rsplit(".", 1)[0])
    cached = (losses.CachedMultipleNegativesRankingLoss, losses.CachedMultipleNegativesSymmetricRankingLoss)
    kinds: dict[str, Callable[[], Any]] = {}
    both = ("query_to_doc", "doc_to_query")
    options: dict[str, dict[str, Any]] = {
        "joint": {"directions": both},
        "each": {"directions": both, "partition_mode": "per_direction"},
        "all": {"directions": (*both, "query_to_query", "doc_to_doc")},
        "hard": {"hardness_mode": "all_negatives", "hardness_strength": 2.0},
        "gathered": {"gather_across_devices": True},
    }
    functions = {"dot": dot_score, "Euclidean": euclidean_sim, "own": lambda a, b: cos_sim(a, b) ** 2}

    def columns(loss: Any, *x: Tensor) -> Tensor:
        return loss([{"sentence_embedding": t} for t in x], None)

    for owner in (*(getattr(losses, name) for name in RANKING), *cached):
        parts = {"mini_batch_size": 10} if owner in cached else {}
        made = functools.partial(owner, _Model(), **parts)
        kinds[owner.__name__] = made
        for title, function in functions.items():
            kinds[f"{owner.__name__}, {title}"] = functools.partial(made, scale=5.0, similarity_fct=function)
        if "Symmetric" not in owner.__name__:
            kinds |= {
                f"{owner.__name__}, {title}": functools.partial(made, **given) for title, given in options.items()
            }
    forward: dict[str, tuple[int, Callable[..., Any]]] = {
        "pairs": (2, columns),
        "hard negatives": (4, columns),
        "one column": (1, columns),
        "evaluation": (2, lambda loss, *x: columns(loss.eval(), *(t.detach() for t in x))),
        "the second without gradient": (2, lambda loss, a, b: columns(loss, a, b.detach())),
        "two steps": (2, lambda loss, a, b: columns(loss, a, b) + 2 * columns(loss, b, a)),
    }
    calls: dict[str, tuple[int, Callable[..., Any]]] = forward | {
        "embeddings": (2, lambda loss, *x: loss.compute_loss_from_embeddings(list(x), None)),
        "other lengths": (2, lambda loss, a, b: loss.compute_loss_from_embeddings([a, b[:5]], None)),
        "keywords": (2, lambda loss, *x: loss.compute_loss_from_embeddings(labels=None, embeddings=list(x))),
        "Matryoshka": (2, lambda loss, *x: _matryoshka(losses, loss, x)),
    }

    def of(*words: str) -> dict[str, Callable[[], Any]]:
        return {title: make for title, make in kinds.items() if title.startswith(words)}

    def parts_of(loss: Any) -> tuple[tuple[str, ...], ...]:
        within = loss._modules.get("loss")
        return ((),) if type(within).__name__ not in PEER.known else ((), ("loss",))

    yield from _stock("sentence_transformers", of(*RANKING), calls, parts_of)
    in_parts = forward | {
        "embeddings in parts": (2, lambda loss, *x: loss.calculate_loss([list(t.split(7)) for t in x])),
        "backward within": (2, _backward_within),
        "Matryoshka": (2, lambda loss, *x: _matryoshka(losses, loss, x)),
        "no parts": (2, lambda loss, *x: loss.calculate_loss([[], []])),
    }
    yield from _stock("sentence_transformers", of("Cached"), in_parts, parts_of)
    tokenizer = type("Tokenizer", (PreTrainedTokenizerBase,), {"get_vocab": lambda self: {}})
    gist = {
        name: functools.partial(getattr(losses, name), _Model(tokenizer()), _Guide(tokenizer()), 0.2) for name in GIST
    }
    for name, make in list(gist.items()):
        for title, given in {
            "relative": {"margin_strategy": "relative", "margin": 0.1},
            "positives alone": {"contrast_anchors": False},
            "anchors alone": {"contrast_positives": False},
        }.items():
            gist[f"{name}, {title}"] = functools.partial(make, **given)
    triples = {"pairs": (2, columns), "triples": (3, columns), "four": (4, columns)}
    for case in _stock("sentence_transformers", gist, triples, lambda loss: ((), ("similarity_fct",))):
        case.scores = True
        yield case
    distances = sys.modules[losses.BatchAllTripletLoss.__module__].BatchHardTripletLossDistanceFunction
    triplets = {
        "BatchAllTripletLoss": functools.partial(losses.BatchAllTripletLoss, _Model(), margin=0.7),
        "BatchAllTripletLoss, cosines": functools.partial(
            losses.BatchAllTripletLoss, _Model(), distances.cosine_distance, 0.3
        ),
        "BatchAllTripletLoss, squares": functools.partial(
            losses.BatchAllTripletLoss, _Model(), functools.partial(distances.euclidean_distance, squared=True)
        ),
    }
    y = torch.arange(N) % CLASSES

    def labelled(labels: Tensor) -> tuple[int, Callable[..., Any]]:
        return 1, lambda loss, x: loss([{"sentence_embedding": x}], labels)

    labels = {
        "labels": labelled(y),
        "int32 labels": labelled(y.int()),
        "float labels": labelled(y.float()),
        "labels [N, 1]": labelled(y[:, None]),
        "one class": labelled(0 * y),
        "all apart": labelled(torch.arange(N)),
        "too few labels": labelled(y[:5]),
        "no rows": (1, lambda loss, x: loss([{"sentence_embedding": x[:0]}], y[:0])),
        "two rows": (1, lambda loss, x: loss([{"sentence_embedding": x[:2]}], y[:2])),
        "duplicates": (1, lambda loss, x: loss([{"sentence_embedding": x[torch.arange(N) // 2]}], y)),
    }
    yield from _stock("sentence_transformers", triplets, labels, lambda loss: ((),))


def _matryoshka(losses: Any, loss: Any, x: tuple[Tensor, ...]) -> Tensor:
    model = loss.model
    model.get_embedding_dimension = model.get_sentence_embedding_dimension = lambda: D
    return losses.MatryoshkaLoss(model, loss, [D, D // 2])([{"sentence_embedding": t} for t in x], None)


def _backward_within(loss: Any, *x: Tensor) -> Tensor:
    """The gradients that the method itself leaves at the parts."""
    parts = [[t.detach().requires_grad_() for t in rows.split(7)] for rows in x]
    loss.calculate_loss(parts, with_backward=True)
    return torch.stack(
        [(torch.cat([t.grad for t in own]) * rows.roll(1, 1)).sum() for own, rows in zip(parts, x)]
    ).sum()


GENERATORS = {
    "pytorch_metric_learning": metric_learning,
    "lightly": lightly,
    "open_clip": open_clip,
    "sentence_transformers": sentence_transformers,
}
WAYS = [(dtype, False) for dtype in DTYPES] + [(torch.float32, True), (torch.bfloat16, True)]


def every(peer: str, ways: int = len(WAYS)) -> list[Case]:
    """All configurations; each in ``ways`` of the combinations of dtypes and autocast, which go around."""
    result: list[Case] = []
    for index, case in enumerate(GENERATORS[peer]()):
        for k in range(ways):
            twin = copy.copy(case)
            twin.dtype, twin.autocast = WAYS[(index + k) % len(WAYS)]
            result.append(twin)
    return result
