"""``make gpu-static``: what the compilers make of the GPU kernels, on a machine without a GPU.

Every kernel and configuration that would be launched is compiled ahead of time for sm_80, sm_90 and sm_100; registers,
spills, shared memory, occupancy and the instructions of the main loop are read from the machine code; a model predicts
times from them. Writes benchmarks/gpu_static.json and docs/gpu_static.md; exits with 1 where a chosen configuration
spills, misses the matrix instructions of its architecture, needs too much shared memory or runs too few warps.

python benchmarks/gpu_static.py [--choose] [--quick] [--jobs 2]

--choose: choose tiles anew for every kernel and write kernels/configs.json. --quick: the kernels of NT-Xent alone.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastssl
from fastssl.bench.run import write_atomically
from fastssl.ops.rows import Metric, Relation, RowLoss
from fastssl.ops.triton import engine
from fastssl.ops.triton.candidates import ARCHITECTURES, KERNELS, SHARED, candidates, depths
from fastssl.ops.triton.launch import Config, Observer, _table, key

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "gpu_static.json"
CONFIGS = ROOT / "kernels" / "configs.json"
PAGE = ROOT / "docs" / "gpu_static.md"

# Of a multiprocessor a cycle: tensor flops (dense bf16; tf32 is half), special functions, warp instructions issued,
# bytes from L2 (the port's width). Of the chip: processors, clock under load, HBM. NVIDIA's data sheets and white papers.
CHIPS: dict[str, dict[str, float]] = {
    "A100": {"processors": 108, "GHz": 1.41, "tensor": 2048, "mufu": 16, "issue": 4, "l2": 64, "hbm": 2.0e12},
    "H100": {"processors": 132, "GHz": 1.755, "tensor": 4096, "mufu": 16, "issue": 4, "l2": 64, "hbm": 3.35e12},
    "B200": {"processors": 148, "GHz": 1.85, "tensor": 8192, "mufu": 16, "issue": 4, "l2": 64, "hbm": 8.0e12},
}
CHIP = {"sm_80": "A100", "sm_90": "H100", "sm_100": "B200"}
REGISTERS, WARPS = 65536, 64  # of a multiprocessor
SHARED_TOTAL = {"sm_80": 167_936, "sm_90": 233_472, "sm_100": 233_472}
MATRIX = {
    "sm_80": {16: ("HMMA",), 32: ("HMMA",)},
    "sm_90": {16: ("HGMMA",), 32: ("HGMMA", "HMMA")},
    "sm_100": {16: ("UTCHMMA",), 32: ("UTCHMMA", "HMMA")},
}
COPIES = ("LDGSTS", "UTMALDG", "UBLKCP")


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
        return {k: self.constants[k] for k in ("num_warps", "num_stages") if k in self.constants}


class Recorder(Observer):
    def __init__(self, architecture: str, tiles: dict[str, Config] | None = None) -> None:
        super().__init__(architecture, int(CHIPS[CHIP[architecture]]["processors"]), tiles)
        self.launches: list[Launch] = []

    def launch(self, kernel: Any, grid: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        plain = tuple(Pointer(a.dtype) if isinstance(a, Tensor) else a for a in arguments)
        self.launches.append(
            Launch(kernel.fn.__module__, kernel.__name__, tuple(int(g) for g in grid), plain, constants)
        )


# --- what would be launched -----------------------------------------------------------------------------------------


def rows(n: int, d: int, dtype: torch.dtype) -> Tensor:
    return torch.empty((n, d), dtype=dtype, device="meta", requires_grad=True)


def step(loss: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Forward and backward pass."""
    out = loss(*inputs)
    torch.autograd.grad(out.sum(), [t for t in inputs if t.requires_grad], allow_unused=True)


def pair_losses(n: int, d: int, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], None]]]:
    from fastssl.ops.triton import losses as L

    scale, bias = (torch.empty((), dtype=torch.float32, device="meta", requires_grad=True) for _ in range(2))
    ids = torch.empty(n, dtype=torch.int64, device="meta")
    x, y = rows(n, d, dtype), rows(n, d, dtype)
    yield (
        "nt_xent",
        lambda: step(lambda a, b: L.nt_xent(a, b, 10.0, True, "mean"), rows(n // 2, d, dtype), rows(n // 2, d, dtype)),
    )
    yield (
        "nt_xent, learned temperature",
        lambda: step(
            lambda a, b, t: L.nt_xent(a, b, t, True, "mean"), rows(n // 2, d, dtype), rows(n // 2, d, dtype), scale
        ),
    )
    yield "info_nce", lambda: step(lambda a, b: L.info_nce(a, b, None, 10.0, False, True, "mean"), x, y)
    yield "clip_loss", lambda: step(lambda a, b, t: L.clip_loss(a, b, t, "mean"), x, y, scale)
    yield "siglip_loss", lambda: step(lambda a, b, t, c: L.siglip_loss(a, b, t, c, "mean"), x, y, scale, bias)
    yield "sup_con", lambda: step(lambda a: L.sup_con(a, ids, 10.0, True, "mean"), x)
    weight, offset = rows(2 * n, d, dtype), torch.empty(2 * n, dtype=dtype, device="meta", requires_grad=True)
    yield (
        "linear_cross_entropy",
        lambda: step(lambda a, w, c: L.linear_cross_entropy(a, w, ids, c, -100, "mean"), x, weight, offset),
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


def record(architecture: str, work: Callable[[], None], tiles: dict[str, Config] | None = None) -> list[Launch]:
    with Recorder(architecture, tiles) as recorder:
        work()
    return recorder.launches


# --- what the compilers make of it ----------------------------------------------------------------------------------


def tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def compiled(architecture: str, launch: Launch, mix: bool = True) -> dict[str, Any]:
    """Resources and instructions of the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", int(architecture[3:]), 32)
    options = {**launch.options, "enable_fp_fusion": True}
    kernel = triton.compile(launch.source(), target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(kernel.asm["cubin"])
        f.flush()
        usage = subprocess.run(
            [tool("cuobjdump"), "-res-usage", f.name], capture_output=True, text=True, check=True
        ).stdout
    sass = disassembly(kernel.asm["cubin"])
    found = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    warps = int(getattr(kernel.metadata, "num_warps", launch.options.get("num_warps", 4)))
    # Warps that only copy or compute beside the main ones, which warp specialisation adds.
    text = kernel.asm["ttgir"]
    total = re.search(r'"ttg.total-num-warps"\s*=\s*(\d+)', text)
    all_warps = int(total.group(1)) if total else warps
    instructions = parse(sass)
    counts = collections.Counter(op for _, op, _ in instructions)
    spills = sum(v for op, v in counts.items() if op.startswith(("STL", "LDL")))
    return {
        "registers": found.get("REG", 0),
        "spills": spills,
        "stack": found.get("STACK", 0),
        "shared": int(kernel.metadata.shared),
        "warps": all_warps,
        "compute_warps": warps,
        "matrix": {op: n for op in ("HMMA", "HGMMA", "UTCHMMA") if (n := count(counts, op))},
        "copies": {op: n for op in COPIES if (n := count(counts, op))},
        "mix": mix_of(target, launch, options, instructions) if mix else None,
        "stages": launch.options.get("num_stages", 1),
    }


def mix_of(
    target: Any, launch: Launch, options: dict[str, Any], instructions: list[tuple[int, str, int | None]]
) -> Any:
    """Of tiles without edges, diagonal or partners: all but a few in a row of tiles."""
    if launch.constants.get("INTERIOR") is False:
        import triton

        inside = dataclasses.replace(launch, constants=launch.constants | {"INTERIOR": True})
        instructions = parse(disassembly(triton.compile(inside.source(), target=target, options=options).asm["cubin"]))
    return dataclasses.asdict(Mix.of(instructions))


def disassembly(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        return subprocess.run([tool("nvdisasm"), "-c", f.name], capture_output=True, text=True, check=True).stdout


def count(counts: collections.Counter[str], prefix: str) -> int:
    return sum(n for op, n in counts.items() if op.split(".")[0] == prefix)


def parse(sass: str) -> list[tuple[int, str, int | None]]:
    """(address, operation, target of a branch) of every instruction; labels resolved."""
    result: list[tuple[int, str, int | None]] = []
    labels: dict[str, int] = {}
    pending: list[str] = []
    branches: list[tuple[int, str]] = []
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            pending.append(label.group(1))
            continue
        found = re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)", line)
        if not found:
            continue
        address = int(found.group(1), 16)
        for name in pending:
            labels[name] = address
        pending = []
        result.append((address, found.group(2), None))
        goal = re.search(r"`\((\.L_x_\d+)\)", found.group(3))
        if found.group(2).startswith("BRA") and goal:
            branches.append((len(result) - 1, goal.group(1)))
    for index, name in branches:
        address, op, _ = result[index]
        result[index] = (address, op, labels.get(name))
    return result


MATRIX_OPERATIONS = ("HMMA", "HGMMA", "UTCHMMA")
SPIN = 12  # instructions: shorter loops wait for a barrier


@dataclasses.dataclass
class Mix:
    """Instructions and special functions of a thread: in all; in the loop over tiles, the shortest one with matrix
    instructions and exponentials (where warps are specialised, with exponentials); in the shortest with matrix
    instructions, which may be the loop over features inside it."""

    total: tuple[int, int]
    tiles: tuple[int, int]
    steps: tuple[int, int]

    @classmethod
    def of(cls, instructions: list[tuple[int, str, int | None]]) -> Mix:
        def tally(body: list[tuple[int, str, int | None]]) -> tuple[int, int]:
            return len(body), sum(op.startswith("MUFU") for _, op, _ in body)

        loops = []
        for index, (address, _, goal) in enumerate(instructions):
            if goal is not None and goal <= address:
                body = [i for i in instructions[: index + 1] if i[0] >= goal]
                if len(body) >= SPIN:
                    loops.append(body)
        matrix = [q for q in loops if any(op.split(".")[0] in MATRIX_OPERATIONS for _, op, _ in q)]
        special = [q for q in loops if any(op == "MUFU.EX2" for _, op, _ in q)]
        both = [q for q in matrix if q in special] or special or matrix
        tiles = tally(min(both, key=len)) if both else (0, 0)
        return cls(tally(instructions), tiles, tally(min(matrix, key=len)) if matrix else (0, 0))


def occupancy(architecture: str, found: dict[str, Any]) -> int:
    """Blocks of a kernel on one multiprocessor at once."""
    threads = 32 * found["warps"]
    by_registers = REGISTERS // max(1, (found["registers"] + 7) // 8 * 8 * threads)
    by_shared = SHARED_TOTAL[architecture] // max(1, found["shared"] + 1024)
    return max(0, min(by_registers, by_shared, WARPS // found["warps"], 32))


def failures(architecture: str, name: str, bits: int, found: dict[str, Any]) -> list[str]:
    """What makes a chosen configuration unacceptable."""
    wrong = []
    if found["spills"] or found["stack"]:
        wrong.append(f"{found['spills']} spills, {found['stack']} bytes of stack")
    if name in MATRIX_KERNELS and not any(op in found["matrix"] for op in MATRIX[architecture][bits]):
        wrong.append(f"none of {MATRIX[architecture][bits]}")
    if found["shared"] > SHARED[architecture]:
        wrong.append(f"{found['shared']} bytes of shared memory")
    if occupancy(architecture, found) * found["warps"] < 2:
        wrong.append("fewer than two warps")
    if name in MATRIX_KERNELS and found["stages"] < 2:
        wrong.append("fewer than 2 stages")
    return wrong


MATRIX_KERNELS = ("reduce_kernel", "gradient_kernel", "weights_kernel", "product_kernel", "histogram_kernel")
KIND = {f"{k}_kernel": k for k in KERNELS}


def attempt(task: tuple[str, int, Launch], mix: bool = True) -> dict[str, Any]:
    architecture, bits, launch = task
    warnings.simplefilter("ignore")
    try:
        found = compiled(architecture, launch, mix)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    uses = launch.constants.get("METRIC", 0) in (3, 4, 5) or launch.constants.get("SCORES") is False
    wrong = failures(architecture, launch.name if not uses else "elementwise", bits, found)
    return {**found, "occupancy": occupancy(architecture, found), "failures": wrong}


def attempt_one(task: tuple[str, int, Launch, bool]) -> dict[str, Any]:
    *rest, mix = task
    return attempt((rest[0], rest[1], rest[2]), mix)


def resources(task: tuple[str, int, Launch]) -> dict[str, Any]:
    return attempt(task, mix=False)


def identity(architecture: str, launch: Launch) -> str:
    """Two launches with one identity are one compilation."""
    source = launch.source()
    fixed = {k: v for k, v in source.constants.items()}
    return json.dumps(
        [architecture, launch.name, source.signature, str(fixed), str(source.attrs), launch.options], sort_keys=True
    )


# --- the model ------------------------------------------------------------------------------------------------------


def seconds(chip: dict[str, float], launch: Launch, found: dict[str, Any], d: int) -> dict[str, float]:
    """Time of a launch by its bounds: tensor cores, instructions issued, exponentials, L2, HBM.

    Matrix instructions and the others overlap where a multiprocessor holds two blocks (or warps are specialised); else
    their times add up.
    """
    clock = chip["GHz"] * 1e9 * chip["processors"]
    tiles, flops_a_tile, bytes_a_tile, hbm = work(launch, d)
    wide = "fp32" in str(launch.source().signature.get("A", launch.source().signature.get("W", "")))
    rate = chip["tensor"] / (2 * 3 if wide else 1)  # tf32 at half the rate, three products
    warps = found["compute_warps"]
    run, special_run = executed(launch, found["mix"], tiles, d)
    tensor = tiles * flops_a_tile / rate
    issued = run * warps / chip["issue"]
    special = special_run * warps * 32 / chip["mufu"]
    l2 = tiles * bytes_a_tile / chip["l2"]
    waves = -(-launch_blocks(launch) // int(chip["processors"] * max(1, found["occupancy"])))
    balance = waves * chip["processors"] * max(1, found["occupancy"]) / max(1, launch_blocks(launch))
    apart = max(issued, special)
    overlapped = found["occupancy"] >= 2 or found["warps"] > found["compute_warps"]
    cycles = max(tensor, apart, l2) if overlapped else max(tensor + apart, l2)
    return {
        "tensor": tensor / clock,
        "issue": issued / clock,
        "mufu": special / clock,
        "l2": l2 / clock,
        "hbm": hbm / chip["hbm"],
        "seconds": max(cycles / clock * min(balance, 2.0), hbm / chip["hbm"]),
        "flops": tiles * flops_a_tile,
    }


def launch_blocks(launch: Launch) -> int:
    total = 1
    for g in launch.grid:
        total *= g
    return total


def executed(launch: Launch, mix: dict[str, Any], tiles: float, d: int) -> tuple[float, float]:
    """Instructions, and special functions among them, that each warp of all blocks runs."""
    c, blocks = launch.constants, launch_blocks(launch)
    result = []
    for k in range(2):
        total, a_tile, a_step = mix["total"][k], mix["tiles"][k], mix["steps"][k]
        if launch.name in ("weights_kernel", "product_kernel"):  # one loop, over features or over the other side's rows
            trips = -(-d // c["BK"]) if launch.name == "weights_kernel" else tiles / max(1, blocks)
            result.append(blocks * (total - a_step + a_step * trips))
        else:
            more = 0 if c.get("RESIDENT", True) else a_step * (-(-d // c["BK"]) - 1)
            result.append(blocks * (total - a_tile) + tiles * (a_tile + more))
    return result[0], result[1]


def work(launch: Launch, d: int) -> tuple[float, float, float, float]:
    """(tiles, tensor flops a tile, bytes from L2 a tile, bytes of HBM) of a launch."""
    c = launch.constants
    names = dict(zip(launch.kernel.arg_names, launch.arguments))
    size = next(t.element_size() for t in launch.arguments if isinstance(t, Pointer))
    if launch.name == "product_kernel":
        n, m = names["n"], names["m"]
        tiles = -(-n // c["BM"]) * -(-d // c["BN"]) * -(-m // c["BK"])
        flops = 2.0 * c["BM"] * c["BN"] * c["BK"]
        return tiles, flops, (c["BM"] + c["BN"]) * c["BK"] * size, (n * m + m * d) * size + 8 * n * d
    if launch.name == "weights_kernel":
        h, b = names["height"], names["breadth"]
        tiles = -(-h // c["BM"]) * -(-b // c["BN"])
        moved = (c["BM"] + c["BN"]) * d * size + c["BM"] * c["BN"] * names["OUT"].element_size()
        return tiles, 2.0 * c["BM"] * c["BN"] * d, moved, (h + b) * d * size + h * b * names["OUT"].element_size()
    n, m = names["n"], names["m"]
    tiles = -(-n // c["BM"]) * -(-m // c["BN"])
    if c.get("TRIANGLE"):
        tiles = tiles / 2 + -(-n // c["BM"]) / 2
    products = 2 if launch.name == "gradient_kernel" else 1
    moved = c["BN"] * d * size + (0 if c.get("RESIDENT", True) else c["BM"] * d * size)
    return tiles, 2.0 * products * c["BM"] * c["BN"] * d, moved, 2 * (n + m) * d * size


# --- choosing -------------------------------------------------------------------------------------------------------


def representative(kernel: str, n: int, d: int, dtype: torch.dtype) -> Callable[[], None]:
    """NT-Xent for its kernels, CLIP for those of scores without bounds, log-sums for those of row losses."""
    kinds = {"histogram": "row loss fast_ap", "row": "row loss lse", "free": "clip_loss"}
    name = kinds.get(kernel.split("_")[0], "nt_xent")
    return next(w for k, w in (*pair_losses(n, d, dtype), *row_losses(n, d, dtype)) if k == name)


def choose(pool: Any, quick: bool, missing: bool) -> dict[str, Config]:
    """For every kernel the candidate with the least predicted time of NT-Xent that no loss makes spill."""
    chosen: dict[str, Config] = {k: Config(**v) for k, v in _table().items()} if missing else {}
    for architecture in reversed(ARCHITECTURES):
        for dtype in (torch.bfloat16, torch.float32):
            for kernel in KERNELS:
                for depth in depths(kernel):
                    name = key(architecture, kernel, dtype, depth)
                    if name in chosen or (missing and kernel.endswith(("gradient", "reduce"))):
                        continue
                    options = candidates(architecture, kernel, dtype, depth)
                    ranked = rank(pool, architecture, kernel, dtype, depth, options, chosen)
                    for candidate in ranked:
                        if not quick and not holds(pool, architecture, kernel, dtype, depth, candidate, chosen):
                            continue
                        chosen[name] = candidate
                        break
                    print(name, chosen.get(name, "NONE"), flush=True)
    return chosen


def defaults(architecture: str) -> dict[str, Config]:
    """Any candidate for every kernel: recording needs some."""
    return {
        key(architecture, kernel, dtype, depth): candidates(architecture, kernel, dtype, depth)[-1]
        for kernel in KERNELS
        for dtype in (torch.bfloat16, torch.float32)
        for depth in depths(kernel)
    }


def rank(
    pool: Any,
    architecture: str,
    kernel: str,
    dtype: torch.dtype,
    depth: int,
    options: list[Config],
    chosen: dict[str, Config],
) -> list[Config]:
    bits = 32 if dtype == torch.float32 else 16
    tasks, launches = [], []
    for option in options:
        tiles = defaults(architecture) | chosen | {key(architecture, kernel, dtype, depth): option}
        found = record(architecture, representative(kernel, 32768, depth, dtype), tiles)
        launch = next((q for q in found if family(q) == kernel), None)
        if launch is None:  # weights of narrow rows are stored for triplets and by pairwise_distance alone
            return options
        launches.append(launch)
        tasks.append((architecture, bits, launch))
    times = []
    for option, launch, found in zip(options, launches, pool.map(attempt, tasks)):
        if "error" in found or found["failures"]:
            continue
        times.append((seconds(CHIPS[CHIP[architecture]], launch, found, depth)["seconds"], len(times), option))
    return [option for _, _, option in sorted(times)]


def family(launch: Launch) -> str:
    """The name under which a launch's tiles are tabled."""
    name, c = launch.name.removesuffix("_kernel"), launch.constants
    return engine.family(c["LOSS"], c["BOUNDED"], c["RELATION"]) + name if "LOSS" in c else name


def holds(
    pool: Any, architecture: str, kernel: str, dtype: torch.dtype, depth: int, option: Config, chosen: dict[str, Config]
) -> bool:
    """Whether no loss fails with these tiles."""
    bits = 32 if dtype == torch.float32 else 16
    tiles = defaults(architecture) | chosen | {key(architecture, kernel, dtype, depth): option}
    tasks = {}
    for _, work_ in (*pair_losses(4096, depth, dtype), *row_losses(4096, depth, dtype)):
        for launch in record(architecture, work_, tiles):
            if family(launch) == kernel:
                tasks[identity(architecture, launch)] = (architecture, bits, launch)
    for task, found in zip(tasks.values(), pool.imap(resources, tasks.values())):
        if "error" in found or found["failures"]:
            print(
                f"  {option}: LOSS {task[2].constants.get('LOSS')}: {found.get('error') or found['failures']}",
                flush=True,
            )
            return False
    return True


# --- the report -----------------------------------------------------------------------------------------------------


def survey(pool: Any, quick: bool, mix: bool = True) -> list[dict[str, Any]]:
    """Every kernel that would be launched, each compiled once for each architecture."""
    tasks: dict[str, tuple[str, int, Launch]] = {}
    about: dict[str, dict[str, Any]] = {}
    for architecture in ARCHITECTURES:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            bits = 32 if dtype == torch.float32 else 16
            for d in (128, 512) if quick else (64, 128, 256, 512):
                some = list(pair_losses(4096, d, dtype))
                some = (
                    some[:1] if quick else some + (list(row_losses(4096, d, dtype)) if dtype != torch.float16 else [])
                )
                for loss, work_ in some:
                    for launch in record(architecture, work_):
                        name = identity(architecture, launch)
                        given = next(t.dtype for t in launch.arguments if isinstance(t, Pointer))
                        tasks.setdefault(name, (architecture, 32 if given == torch.float32 else bits, launch))
                        entry = about.setdefault(
                            name,
                            {
                                "architecture": architecture,
                                "kernel": launch.name,
                                "dtype": str(given)[6:],
                                "d": d,
                                "losses": [],
                                "tiles": [launch.constants.get(k) for k in ("BM", "BN", "BK")],
                            },
                        )
                        if loss not in entry["losses"]:
                            entry["losses"].append(loss)
    print(f"{len(tasks)} kernels to compile", flush=True)
    results = []
    # The instructions of tiles without masks are wanted of NT-Xent's kernels, for which the model predicts times.
    work_ = [(*task, mix and "nt_xent" in about[name]["losses"]) for name, task in tasks.items()]
    for k, (name, found) in enumerate(zip(tasks, pool.imap(attempt_one, work_, chunksize=4))):
        results.append({**about[name], **found})
        if k % 100 == 99:
            print(f"{k + 1} compiled", flush=True)
    return results


def cuda_kernels() -> list[dict[str, Any]]:
    """Registers and spills of csrc/cuda, from the library that CMake built; nothing where nvcc was missing."""
    from fastssl.ops.triton.cuda import LIBRARY

    if not LIBRARY.exists():
        return []
    text = subprocess.run(
        [tool("cuobjdump"), "-res-usage", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    result, architecture, name = [], "", ""
    for line in text.splitlines():
        found = re.search(r"arch = (sm_\w+)", line)
        architecture = found.group(1) if found else architecture
        found = re.search(r"Function (\w+)", line)
        if found:
            name = next((k for k in ("SortedRows", "SelectRows", "MakeViews") if k in found.group(1)), "")
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line)
        if found and name:
            registers, stack, shared, local = map(int, found.groups())
            entry = {"architecture": architecture, "kernel": name, "registers": registers, "stack": stack}
            result.append({**entry, "shared": shared, "spills": local})
            name = ""
    return result


def predictions(pool: Any) -> list[dict[str, Any]]:
    """NT-Xent in bf16, forward and backward, on H100 and B200, beside eager's memory traffic."""
    results = []
    for architecture in ("sm_90", "sm_100"):
        chip = CHIPS[CHIP[architecture]]
        for d in (128, 512):
            for n in (4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576):
                with_budget = fastssl.get_memory_budget()
                launches = record(architecture, representative("reduce", n, d, torch.bfloat16))
                fastssl.set_memory_budget(with_budget)
                kinds = {identity(architecture, q): q for q in launches}
                found = dict(zip(kinds, pool.map(attempt, [(architecture, 16, q) for q in kinds.values()])))
                total, flops, parts = 0.0, 0.0, collections.defaultdict(float)
                for launch in launches:
                    if launch.name not in MATRIX_KERNELS:
                        continue
                    t = seconds(chip, launch, found[identity(architecture, launch)], d)
                    total += t["seconds"]
                    flops += t["flops"]
                    for bound in ("tensor", "issue", "mufu", "l2", "hbm"):
                        parts[f"{launch.name[:-7]}: {bound}"] += t[bound]
                    parts[f"{launch.name[:-7]}: seconds"] += t["seconds"]
                peak = chip["tensor"] * chip["GHz"] * 1e9 * chip["processors"]
                # eager: logits written and read by mask, log-softmax, its gradient and two products (bf16 logits, fp32 softmax)
                eager_bytes = n * n * (2 + 2 + 2 + 2 + 4 + 4 + 4 + 4 + 2 + 2 + 2)
                eager = max(6 * n * n * d / peak, eager_bytes / chip["hbm"])
                results.append(
                    {
                        "chip": CHIP[architecture],
                        "n": n,
                        "d": d,
                        "seconds": total,
                        "flops": flops,
                        "share_of_peak": flops / total / peak,
                        "eager_seconds": eager,
                        "eager_bytes": eager_bytes,
                        "parts": dict(parts),
                    }
                )
    return results


class Ledger(torch.utils._python_dispatch.TorchDispatchMode):
    """Bytes of all tensors that are alive, on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import weakref

        out = function(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, Tensor) and t.device.type == "meta":
                storage = t.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.drop, storage._cdata)
        return out

    def drop(self, which: int) -> None:
        self.now -= self.alive.pop(which, 0)


def peak_memory(n: int, d: int) -> dict[str, int]:
    """Of NT-Xent, forward and backward, bf16: inputs, gradients and all that lies between.

    The operators' own functions are called, since a dispatch mode does not see what happens within an operator.
    """
    from fastssl.ops.triton import operators

    with Recorder("sm_90"), Ledger() as ledger, torch.no_grad():
        z = [torch.empty((n // 2, d), dtype=torch.bfloat16, device="meta") for _ in range(2)]
        inputs = ledger.now
        x, partner = torch.cat(z), torch.empty(n, dtype=torch.int64, device="meta")
        scale = torch.empty(1, device="meta")
        rest = (x, None, partner, None, scale, None, True, False, False, True, 0.0)
        out = operators.pair_sums(*rest)
        grad = torch.empty_like(out)
        to_x, *_ = operators.pair_sums_backward(grad, out, *rest, 1)
        kept = (to_x[: n // 2], to_x[n // 2 :])
        assert kept[0].shape == z[0].shape
    return {"n": n, "d": d, "peak": ledger.most, "inputs": inputs}


def page(report: dict[str, Any]) -> str:
    lines = [
        "# What the compilers make of the GPU kernels",
        "",
        "Written by `make gpu-static` (Triton "
        f"{report['triton']}), which compiles every kernel that would be launched for sm_80, sm_90 and sm_100 on a machine without a GPU and reads the machine code. "
        "Nothing on this page was measured on a GPU: `make gpu-check` does that where there is one.",
        "",
        f"{report['compiled']} compilations; {report['failed']} of them with a spill, without the matrix instructions of their architecture, with too much shared memory or fewer than two warps.",
        "",
        "## NT-Xent's kernels, bf16",
        "",
        "| architecture | kernel | features | tile (rows x columns x step) | registers | spills | shared, KiB | blocks on a processor | matrix instructions | asynchronous copies | exp2 in the loop, a thread | stages |",
        "|" + "---|" * 12,
    ]
    for r in report["kernels"]:
        if (
            "nt_xent" not in r["losses"]
            or r["dtype"] != "bfloat16"
            or r["kernel"] not in MATRIX_KERNELS
            or "error" in r
        ):
            continue
        matrix = ", ".join(f"{n} {op}" for op, n in r["matrix"].items())
        copies = ", ".join(f"{n} {op}" for op, n in r["copies"].items())
        lines.append(
            f"| {r['architecture']} | {r['kernel'][:-7]} | {r['d']} | {' x '.join(map(str, r['tiles']))} | {r['registers']} | {r['spills']} | "
            f"{r['shared'] / 1024:.0f} | {r['occupancy']} | {matrix} | {copies} | {r['mix']['tiles'][1] or r['mix']['total'][1]} | {r['stages']} |"
        )
    lines += [
        "",
        "## Times that the model predicts: NT-Xent, bf16, forward + backward",
        "",
        "A launch takes as long as its slowest bound: tensor cores, instructions issued, special functions (exp2), bytes from L2 "
        "(64 a cycle and processor), HBM. Matrix instructions and the others overlap only where a processor holds two blocks or warps are specialised; else their times add up. "
        "Share of peak: the flops of the schedule that is launched / time / the dense bf16 peak at the clock in benchmarks/gpu_static.py. Eager: its flops at full peak or the bytes of its [N, N] "
        "matrices (30 a pair: logits, mask, softmax, their gradients) at full HBM bandwidth, whichever takes longer.",
        "",
        "| chip | rows | features | ms | share of the tensor peak | eager at best, ms |",
        "|---|---|---|---|---|---|",
    ]
    for p in report["predictions"]:
        lines.append(
            f"| {p['chip']} | {p['n']:,} | {p['d']} | {1e3 * p['seconds']:.3g} | {100 * p['share_of_peak']:.0f} % | {1e3 * p['eager_seconds']:.3g} |"
        )
    shown = next((p for p in report["predictions"] if (p["chip"], p["n"], p["d"]) == ("H100", 32768, 512)), None)
    if shown:
        lines += [
            "",
            "### The arithmetic for one line: H100, 32,768 rows, 512 features",
            "",
            f"{shown['flops']:.3e} flops of products; {1e3 * shown['seconds']:.2f} ms; {100 * shown['share_of_peak']:.1f} % of the peak. Milliseconds at each bound:",
            "",
            "| kernel | tensor | instructions | exp2 | L2 | HBM | predicted |",
            "|---|---|---|---|---|---|---|",
        ]
        for kernel in dict.fromkeys(k.split(":")[0] for k in shown["parts"]):
            cells = " | ".join(
                f"{1e3 * shown['parts'][f'{kernel}: {bound}']:.3f}"
                for bound in ("tensor", "issue", "mufu", "l2", "hbm", "seconds")
            )
            lines.append(f"| {kernel} | {cells} |")
    if report["cuda"]:
        lines += [
            "",
            "## The CUDA kernels (csrc/cuda, nvcc)",
            "",
            "| architecture | kernel | registers | stack, bytes | local memory, bytes |",
            "|---|---|---|---|---|",
            *(
                f"| {c['architecture']} | {c['kernel']} | {c['registers']} | {c['stack']} | {c['spills']} |"
                for c in report["cuda"]
            ),
        ]
    m = report["memory"]
    lines += [
        "",
        "## Memory",
        "",
        f"NT-Xent, {m['n']:,} rows x {m['d']} features, bf16, forward + backward, counted tensor by tensor on the meta device: {m['peak'] / 2**30:.2f} GiB at most, "
        f"of which {m['inputs'] / 2**30:.2f} GiB are the inputs.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="choose tiles anew and write kernels/configs.json")
    parser.add_argument("--quick", action="store_true", help="the kernels of NT-Xent alone, and no files")
    parser.add_argument("--check", action="store_true", help="no files: only fail where a kernel does not do")
    parser.add_argument("--missing", action="store_true", help="with --choose: only what the table lacks and must have")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import triton

    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        if options.choose:
            chosen = choose(pool, options.quick, options.missing)
            text = {k: dataclasses.asdict(v) for k, v in chosen.items()}
            about = "tiles of each kernel by architecture / kernel / bits / features, chosen by benchmarks/gpu_static.py --choose"
            write_atomically(CONFIGS, json.dumps({"about": about, "configs": text}, indent=1) + "\n")
            return
        kernels = survey(pool, options.quick, mix=not options.check)
        failed = [r for r in kernels if "error" in r or r["failures"]]
        cuda = cuda_kernels()
        failed += [
            {
                "architecture": c["architecture"],
                "kernel": c["kernel"],
                "dtype": "",
                "d": "",
                "losses": [],
                "failures": "stack",
            }
            for c in cuda
            if c["spills"]
        ]
        report = {
            "triton": triton.__version__,
            "compiled": len(kernels),
            "failed": len(failed),
            "chips": CHIPS,
            "kernels": kernels,
        }
        if not options.quick and not options.check:
            report |= {"cuda": cuda}
            report |= {"predictions": predictions(pool), "memory": peak_memory(1048576, 512)}
            write_atomically(RESULTS, json.dumps(report, indent=1) + "\n")
            write_atomically(PAGE, page(report))
    for r in failed:
        print(
            f"{r['architecture']} {r['kernel']} {r['dtype']} d={r['d']} {r['losses'][:3]}: {r.get('error') or r['failures']}"
        )
    print(f"gpu-static: {len(kernels)} kernels compiled, {len(failed)} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
