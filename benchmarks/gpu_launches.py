"""What the losses would launch on a GPU, recorded on the meta device: kernels, grids, types and constants."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastssl._table import Metric, RowLoss
from fastssl.ops.pair_loss import INFO_NCE, LINEAR_CROSS_ENTROPY, NT_XENT, SIGLIP, SUP_CON, PairLoss
from fastssl.ops.triton import engine
from fastssl.ops.triton.launch import Config, Observer
from fastssl.ops.types import Relation

# Of a multiprocessor a cycle: tensor flops (dense bf16; tf32 is half), special functions, warp instructions issued,
# bytes from L2 (the port's width). Of the chip: processors, clock under load, HBM. NVIDIA's data sheets and white papers.
CHIPS: dict[str, dict[str, float]] = {
    "A100": {"processors": 108, "GHz": 1.41, "tensor": 2048, "mufu": 16, "issue": 4, "l2": 64, "hbm": 2.0e12},
    "H100": {"processors": 132, "GHz": 1.755, "tensor": 4096, "mufu": 16, "issue": 4, "l2": 64, "hbm": 3.35e12},
    "B200": {"processors": 148, "GHz": 1.85, "tensor": 8192, "mufu": 16, "issue": 4, "l2": 64, "hbm": 8.0e12},
}
CHIP = {"sm_80": "A100", "sm_90": "H100", "sm_100": "B200"}


@dataclasses.dataclass(frozen=True)
class Pointer:
    """A tensor of a launch: all that compiling needs to know."""

    dtype: torch.dtype

    def element_size(self) -> int:
        return self.dtype.itemsize


@dataclasses.dataclass
class Launch:
    """One kernel as it would be launched; travels between processes."""

    module: str
    name: str
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    @property
    def kernel(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)

    def source(self) -> Any:
        """What Triton compiles: types, constants, and what is divisible by 16."""
        from triton.compiler import ASTSource

        names = list(self.kernel.arg_names)
        plain = {names[p.num] for p in self.kernel.params if p.do_not_specialize}
        values = dict(zip(names, self.arguments)) | {k: v for k, v in self.constants.items() if k in names}
        signature, constants, attributes = {}, {}, {}
        for position, name in enumerate(names):
            value = values[name]
            if isinstance(value, Pointer):
                kind = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}
                integer = {torch.int64: "i64", torch.int32: "i32"}
                signature[name] = "*" + (kind | integer)[value.dtype]
                attributes[(position,)] = [["tt.divisibility", 16]]
            elif value is None or name in self.constants or isinstance(value, bool):
                signature[name] = "constexpr"
                constants[name] = value
            elif isinstance(value, float):
                signature[name] = "fp32"
            elif value == 1 and name not in plain:
                signature[name] = "constexpr"
                constants[name] = 1
            else:
                signature[name] = "i64" if abs(value) >= 2**31 else "i32"
                if value % 16 == 0 and name not in plain:
                    attributes[(position,)] = [["tt.divisibility", 16]]
        return ASTSource(self.kernel, signature, constants, attributes)

    @property
    def options(self) -> dict[str, Any]:
        return {k: self.constants[k] for k in ("num_warps", "num_stages", "enable_fp_fusion") if k in self.constants}


class Recorder(Observer):
    def __init__(self, architecture: str, tiles: dict[str, Config] | None = None) -> None:
        super().__init__(architecture, int(CHIPS[CHIP[architecture]]["processors"]), tiles)
        self.launches: list[Launch] = []

    def launch(self, kernel: Any, grid: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        plain = tuple(Pointer(a.dtype) if isinstance(a, Tensor) else a for a in arguments)
        self.launches.append(
            Launch(kernel.fn.__module__, kernel.__name__, tuple(int(g) for g in grid), plain, constants)
        )


def rows(n: int, d: int, dtype: torch.dtype) -> Tensor:
    return torch.empty((n, d), dtype=dtype, device="meta", requires_grad=True)


def step(loss: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Forward and backward pass."""
    out = loss(*inputs)
    torch.autograd.grad(out.sum(), [t for t in inputs if t.requires_grad], allow_unused=True)


def pair_losses(n: int, d: int, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], None]]]:
    from fastssl.ops.triton import losses

    def loss(kind: PairLoss, x: Tensor, more_x: Any, y: Any, scale: Any, bias: Any = None, **o: Any) -> Tensor:
        flags = (o.get("normalize", True), o.get("symmetric", False), -100, "mean")
        return losses.pair_loss(x, more_x, y, None, o.get("ids"), scale, bias, kind.positives, kind.closing, *flags)

    scale, bias = (torch.empty((), dtype=torch.float32, device="meta", requires_grad=True) for _ in range(2))
    ids = torch.empty(n, dtype=torch.int64, device="meta")
    x, y = rows(n, d, dtype), rows(n, d, dtype)
    views = functools.partial(rows, n // 2, d, dtype)
    plain = {"normalize": False}
    yield "nt_xent", lambda: step(lambda a, b: loss(NT_XENT, a, b, None, 10.0), views(), views())
    yield (
        "nt_xent, learned temperature",
        lambda: step(lambda a, b, t: loss(NT_XENT, a, b, None, t), views(), views(), scale),
    )
    yield "info_nce", lambda: step(lambda a, b: loss(INFO_NCE, a, None, b, 10.0), x, y)
    yield "clip_loss", lambda: step(lambda a, b, t: loss(INFO_NCE, a, None, b, t, symmetric=True, **plain), x, y, scale)
    yield "siglip_loss", lambda: step(lambda a, b, t, c: loss(SIGLIP, a, None, b, t, c, **plain), x, y, scale, bias)
    yield "nt_xent, ids", lambda: step(lambda a, b: loss(NT_XENT, a, b, None, 10.0, ids=ids), views(), views())
    yield (
        "clip_loss, ids",
        lambda: step(lambda a, b, t: loss(INFO_NCE, a, None, b, t, symmetric=True, ids=ids, **plain), x, y, scale),
    )
    yield (
        "siglip_loss, ids",
        lambda: step(lambda a, b, t, c: loss(SIGLIP, a, None, b, t, c, ids=ids, **plain), x, y, scale, bias),
    )
    yield "sup_con", lambda: step(lambda a: loss(SUP_CON, a, None, None, 10.0, ids=ids), x)
    weight, offset = rows(2 * n, d, dtype), torch.empty(2 * n, dtype=dtype, device="meta", requires_grad=True)
    yield (
        "linear_cross_entropy",
        lambda: step(
            lambda a, w, c: loss(LINEAR_CROSS_ENTROPY, a, None, w, 1.0, c, ids=ids, **plain), x, weight, offset
        ),
    )


VALUES: dict[RowLoss, tuple[float, ...]] = {
    RowLoss.lse: (10.0, 10.0, 0, 0, 1, 2, 0),
    RowLoss.hinge: (1, 0, 1, 2),
    RowLoss.softplus: (10.0, 0.1),
    RowLoss.extreme: (1,),
    RowLoss.lifted: (1, 1, 0, 1),
    RowLoss.fast_ap: (10.0, 4.0),
    RowLoss.ranked_list: (1.2, 0.4, 1.0, 3.0, 0.1),
}


def row_losses(n: int, d: int, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], None]]]:
    from fastssl.ops.triton import losses as L

    ids = torch.empty(n, dtype=torch.int64, device="meta")
    metrics = {
        RowLoss.lse: Metric.dot,
        RowLoss.softplus: Metric.dot,
        RowLoss.fast_ap: Metric.sqeuclidean,
    }

    def of(kind: RowLoss, values: tuple[float, ...], metric: Metric) -> Callable[[], None]:
        padded = [*values, *(0.0,) * (12 - len(values))]
        relation = Relation(ids, self_offset=0)
        return lambda: step(
            lambda a: L.row_loss(kind, a, None, relation, list(padded), metric, True), rows(n, d, dtype)
        )

    for kind, values in VALUES.items():
        yield f"row loss {kind.name}", of(kind, values, metrics.get(kind, Metric.euclidean))
    circle = (16.0, 16.0, 0.25, 0.25, 1, 2, 1)
    yield "row loss lse (circle)", of(RowLoss.lse, circle, Metric.dot)
    for metric in (Metric.euclidean, Metric.manhattan, Metric.chebyshev):
        yield (
            f"pairwise_distance {metric.name}",
            functools.partial(
                step, lambda a, b, metric=metric: L.pairwise(a, b, metric, False), rows(n, d, dtype), rows(n, d, dtype)
            ),
        )

    yield (
        "characteristic function",
        lambda: step(
            lambda a: L.characteristic(a, 3 / 16, 17),
            torch.empty((2, n, 1024), dtype=torch.float32, device="meta", requires_grad=True),
        ),
    )


def record(architecture: str, work: Callable[[], None], tiles: dict[str, Config] | None = None) -> list[Launch]:
    with Recorder(architecture, tiles) as recorder:
        work()
    return recorder.launches


def identity(architecture: str, launch: Launch) -> str:
    """Two launches with one identity are one compilation."""
    source = launch.source()
    fixed = {k: v for k, v in source.constants.items()}
    return json.dumps(
        [architecture, launch.name, source.signature, str(fixed), str(source.attrs), launch.options], sort_keys=True
    )


def variants(architecture: str, d: int, dtype: torch.dtype, sizes: Iterable[int]) -> dict[tuple[str, ...], set[str]]:
    """What Triton compiles for batches of these (even) sizes: identities by loss, kernel, its constants and which
    arguments it is without."""
    found: dict[tuple[str, ...], set[str]] = {}
    for n in sizes:
        for name, work in (*pair_losses(n, d, dtype), *row_losses(n, d, dtype)):
            for launch in record(architecture, work):
                missing = [k for k, argument in enumerate(launch.arguments) if argument is None]
                key = name, launch.name, str(launch.constants), str(missing)
                found.setdefault(key, set()).add(identity(architecture, launch))
    return found


def representative(kernel: str, n: int, d: int, dtype: torch.dtype) -> Callable[[], None]:
    """NT-Xent for its kernels, CLIP for those of scores without bounds, log-sums for those of row losses."""
    kinds = {"histogram": "row loss fast_ap", "row": "row loss lse", "free": "clip_loss"}
    name = kinds.get(kernel.split("_")[0], "nt_xent")
    return next(w for k, w in (*pair_losses(n, d, dtype), *row_losses(n, d, dtype)) if k == name)


def family(launch: Launch) -> str:
    """The name under which a launch's tiles are tabled."""
    name, c = launch.name.removesuffix("_kernel"), launch.constants
    return engine.family(c["LOSS"], c["BOUNDED"], c["RELATION"]) + name if "LOSS" in c else name
