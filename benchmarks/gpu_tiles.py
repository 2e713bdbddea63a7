"""Sizes of tiles measured on the GPU at hand: every kernel with every candidate, into kernels/configs.json.

python benchmarks/gpu_tiles.py [--jobs 8] [--only reduce,gradient]

Each candidate runs a loss once and its kernel's launches are timed again alone; what does not fit or errs is left out.
Compilation takes nearly all the time, so that several processes work; timings take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import itertools
import json
import multiprocessing
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "kernels" / "configs.json"
LOCK = Path(tempfile.gettempdir()) / "fastssl-gpu-tiles.lock"
ROWS = {16: 16384, 32: 8192}
WARPS = {(128, 256): (8,), (256, 128): (8,), (128, 128): (4, 8), (128, 64): (4, 8), (256, 64): (8,), (64, 256): (4, 8)}


def tiles(sizes: list[tuple[int, int]], steps: tuple[int, ...], stages: tuple[int, ...], split: bool = False) -> Any:
    from fastssl.ops.triton.launch import Config

    for (bm, bn), step, stage in itertools.product(sizes, steps, stages):
        for warps in WARPS.get((bm, bn), (4,)):
            for some in (False, True) if split else (False,):
                yield Config(bm, bn, step, warps, stage, split=some)


def candidates(kernel: str, bits: int, depth: int) -> list[Any]:
    """More than the lists for chips that are not at hand: these are measured."""
    wide, resident = bits == 32, depth < 512
    plain = kernel.removeprefix("free_").removeprefix("row_")
    small = [(64, 64), (64, 32), (32, 32)]
    if plain == "product":
        if wide:
            return list(tiles([(64, 64), (128, 64), (128, 128), (32, 64)], (32,), (2, 3)))
        return list(tiles([(128, 256), (256, 128), (128, 128), (64, 256)], (64,), (3, 4)))
    if plain == "weights":
        if wide or kernel.startswith("row_"):
            return list(tiles([(128, 64), *small], (32,), (2, 3)))
        return list(tiles([(128, 256), (256, 128), (128, 128), (128, 64)], (64,), (3, 4)))
    if plain == "histogram":
        return list(tiles([(64, 64), (64, 32), (32, 32)], (32,), (2,)))
    sizes = [(128, 64), *small] if wide or kernel.startswith("row_") else [(128, 128), (128, 64), (64, 64), (128, 32)]
    if plain == "reduce":
        if not resident:
            large = [] if wide or kernel.startswith("row_") else [(256, 128)]
            return list(tiles([*large, *sizes], (32,) if wide else (64, 128), (2, 3)))
        return list(tiles(sizes, (depth,), (2, 3), split=kernel == "reduce" and not wide))
    return list(tiles(sizes, (depth,), (1, 2), split=kernel == "gradient" and not wide and depth <= 128))


def representative(kernel: str, n: int, d: int, dtype: torch.dtype) -> tuple[Any, list[torch.Tensor]]:
    import fastssl.functional as F

    def rows(count: int) -> torch.Tensor:
        return torch.randn(count, d, device="cuda", dtype=dtype, requires_grad=True)

    if kernel.startswith("free_"):
        unit = [torch.nn.functional.normalize(rows(n).detach(), dim=1).requires_grad_() for _ in range(2)]
        return (lambda a, b: F.clip_loss(a, b, 10.0)), unit
    if kernel == "histogram":
        labels = torch.arange(n, device="cuda") % 64
        return (lambda a: F.fast_ap(a, labels)), [rows(n)]
    if kernel.startswith("row_"):
        labels = torch.arange(n, device="cuda") % 64
        return (lambda a: F.multi_similarity(a, labels)), [rows(n)]
    return (lambda a, b: F.nt_xent(a, b, temperature=0.1)), [rows(n // 2), rows(n // 2)]


def launching() -> list[Any]:
    """The modules that launch kernels, each by a ``run`` of its own."""
    from fastssl.ops.triton import engine, launch, row_losses

    return [engine, launch, row_losses]


def measure(task: tuple[str, int, int, dict[str, Any]]) -> tuple[str, int, int, dict[str, Any], float | str]:
    """Milliseconds of a kernel's launches in one step of its loss."""
    kernel, bits, depth, tile = task
    from fastssl.ops.triton import engine, launch, operators
    from fastssl.ops.triton.launch import Config

    dtype = torch.float32 if bits == 32 else torch.bfloat16
    name = launch.key(launch.architecture(0), kernel, dtype, depth)
    chosen = Config(**tile)
    launch.CHOSEN[name] = dataclasses.replace(chosen, name=name)
    engine.WIDEST_RESIDENT = 0 if kernel.endswith(("weights", "product")) else 256
    launches: list[tuple[Any, ...]] = []
    run = launch.run

    def recording(kernel: Any, grid: Any, *arguments: Any, config: Any = None, **constants: Any) -> None:
        if config is not None and config.name == name:
            launches.append((kernel, grid, arguments, config, constants))
        run(kernel, grid, *arguments, config=config, **constants)

    for module in launching():
        module.run = recording
    operators.forget_replays()  # which are of other tiles, and pass ``run`` by
    try:
        torch.manual_seed(0)
        n = ROWS[bits] // (2 if kernel.startswith("row_") or kernel == "histogram" else 1)
        loss, inputs = representative(kernel, n, depth, dtype)
        grads = torch.autograd.grad(loss(*inputs), inputs)
        torch.cuda.synchronize()
        if (
            launch.CHOSEN[name].smaller() != launch.CHOSEN[name]
            and dataclasses.replace(launch.CHOSEN[name], name="") != chosen
        ):
            return (*task, "too large")
        if not launches:
            return (*task, "not launched")
        if not all(bool(g.isfinite().all()) for g in grads):
            return (*task, "not finite")
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            times = []
            for _ in range(7):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                for k, grid, arguments, config, constants in launches:
                    run(k, grid, *arguments, config=config, **constants)
                end.record()
                torch.cuda.synchronize()
                times.append(begin.elapsed_time(end))
        return (*task, statistics.median(times[2:]))
    except Exception as error:
        return (*task, f"{type(error).__name__}: {str(error)[:200]}")
    finally:
        for module in launching():
            module.run = run


def main() -> None:
    from fastssl.ops.triton import launch
    from fastssl.ops.triton.candidates import KERNELS, depths

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--only", help="kernels, separated by commas")
    parser.add_argument("--log", type=Path, help="every time, as JSON")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else KERNELS
    architecture = launch.architecture(0)
    tasks = [
        (kernel, bits, depth, {k: v for k, v in dataclasses.asdict(tile).items() if k != "name"})
        for kernel in wanted
        for bits in (16, 32)
        for depth in depths(kernel)
        for tile in candidates(kernel, bits, depth)
    ]
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    log = []
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for kernel, bits, depth, tile, time in pool.imap_unordered(measure, tasks):
            log.append([kernel, bits, depth, list(tile.values()), time])
            if isinstance(time, float):
                found.setdefault(f"{architecture}/{kernel}/{bits}/{depth}", []).append((time, tile))
    table = json.loads(CONFIGS.read_text())
    for name in sorted(found):
        best = min(found[name], key=lambda pair: pair[0])
        table["configs"][name] = best[1]
        print(f"{name:28} {best[0]:8.3f} ms {list(best[1].values())} (of {len(found[name])})", flush=True)
    import triton

    table["measured"][architecture] = f"{torch.cuda.get_device_name()}, Triton {triton.__version__}"
    CONFIGS.write_text(json.dumps(table, indent=1) + "\n")
    if options.log:
        options.log.write_text(json.dumps(log))


if __name__ == "__main__":
    main()
