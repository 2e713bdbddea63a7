"""Benchmark cases: each loss fused, eager, compiled, and in other libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.bench.harness import Within

TEMPERATURE = 0.1
Function = Callable[..., Tensor]


@dataclass
class Case:
    """A loss: how its inputs are made (``rows``: rows of the pair matrix) and its implementations."""

    make: Callable[[int, int, torch.dtype], list[Tensor]]
    fused: Function
    eager: Function | None = None  # None: the fused one with backend="reference"
    peers: dict[str, Callable[[], Function]] = field(default_factory=dict)
    _compiled: dict[tuple[int, ...], Function] = field(default_factory=dict, repr=False)

    @property
    def _eager(self) -> Function:
        return self.eager or functools.partial(self.fused, backend="reference")

    def inputs(self, rows: int, features: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        torch.manual_seed(0)
        return [t.requires_grad_() if t.is_floating_point() else t for t in self.make(rows, features, dtype)]

    def function(self, way: str) -> Function:
        """``way``: "fused", "eager", "compile" or a peer's name. ImportError where the peer is not installed."""
        if way == "fused":
            return self.fused
        if way == "eager":
            return self._eager
        if way == "compile":
            return torch.compile(self._eager, dynamic=False)
        return self.peers[way]()

    def step(self, way: str, inputs: list[Tensor], backward: bool = True) -> Callable[[], Any]:
        """One call, forward + backward (or forward alone without a graph)."""
        function = self.function(way)
        if isinstance(function, Within):
            return Within(self._run(function.function, inputs, backward), function.context)
        return self._run(function, inputs, backward)

    @staticmethod
    def _run(function: Function, inputs: list[Tensor], backward: bool) -> Callable[[], Any]:
        trained = [t for t in inputs if t.requires_grad]

        def run() -> Any:
            if not backward:
                with torch.no_grad():
                    return function(*inputs)
            for t in trained:
                t.grad = None
            function(*inputs).backward()

        return run


def _two_views(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(rows // 2, features).to(dtype) for _ in range(2)]


def _pairs(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.nn.functional.normalize(torch.randn(rows, features), dim=1).to(dtype) for _ in range(2)]


def _scaled_pairs(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [*_pairs(rows, features, dtype), torch.tensor(1 / TEMPERATURE)]


def _siglip_inputs(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [*_scaled_pairs(rows, features, dtype), torch.tensor(-10.0)]


def _labelled(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(rows, features).to(dtype), torch.arange(rows) % max(2, rows // 8)]


def _vocabulary(rows: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    return [
        torch.randn(rows, features).to(dtype),
        (torch.randn(4 * rows, features) / features**0.5).to(dtype),
        torch.randint(0, 4 * rows, (rows,)),
    ]


def _metric_learning_nt_xent() -> Function:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    loss = SelfSupervisedLoss(NTXentLoss(temperature=TEMPERATURE))
    return lambda z0, z1: loss(z0, z1)


def _metric_learning_sup_con() -> Function:
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(temperature=TEMPERATURE)
    return lambda embeddings, labels: loss(embeddings, labels)


def _lightly_nt_xent() -> Function:
    remove = _stand_in_for_torchvision()
    try:
        from lightly.loss.ntx_ent_loss import NTXentLoss
    finally:
        remove()  # other benchmarks of this process look for torchvision itself

    loss = NTXentLoss(temperature=TEMPERATURE)
    return lambda z0, z1: loss(z0, z1)


def _stand_in_for_torchvision() -> Callable[[], None]:
    """Replaces torchvision, which lightly imports but its losses do not use, by empty modules if it is missing.

    Returns what removes them again.
    """
    import importlib.abc
    import importlib.machinery
    import importlib.util
    import sys
    import types

    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return lambda: None
    if importlib.util.find_spec("lightly") is None:
        raise ImportError("lightly is not installed")

    class Empty(types.ModuleType):
        def __getattr__(self, name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            ours = name.split(".")[0] == "torchvision"
            return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None

        def create_module(self, spec: Any) -> types.ModuleType:
            module = Empty(spec.name)
            module.__path__ = []
            return module

        def exec_module(self, module: types.ModuleType) -> None:
            pass

    finder = Finder()
    sys.meta_path.append(finder)

    def remove() -> None:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]

    return remove


CASES: dict[str, Case] = {
    "nt_xent": Case(
        _two_views,
        lambda z0, z1, **o: F.nt_xent(z0, z1, temperature=TEMPERATURE, **o),
        peers={"pytorch-metric-learning": _metric_learning_nt_xent, "lightly": _lightly_nt_xent},
    ),
    "info_nce": Case(
        _pairs,
        lambda q, k, **o: F.info_nce(q, k, temperature=TEMPERATURE, **o),
    ),
    "clip_loss": Case(
        _scaled_pairs,
        lambda x, y, s, **o: F.clip_loss(x, y, s, **o),
    ),
    "siglip_loss": Case(
        _siglip_inputs,
        lambda x, y, s, b, **o: F.siglip_loss(x, y, s, b, **o),
    ),
    "sup_con": Case(
        _labelled,
        lambda z, y, **o: F.sup_con(z, y, temperature=TEMPERATURE, **o),
        peers={"pytorch-metric-learning": _metric_learning_sup_con},
    ),
    "linear_cross_entropy": Case(
        _vocabulary,
        lambda h, w, t, **o: F.linear_cross_entropy(h, w, t, **o),
    ),
}
