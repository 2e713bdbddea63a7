"""The benchmark suite: all measurements of the README, as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fastssl._files import replacing
from fastssl.bench.cases import CASES
from fastssl.bench.harness import as_dict, compare, instruction_set, machine, memory_budget, peak_memory
from fastssl.ops import extension

SIZES = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
MAIN = 8192
FEATURES = (64, 128, 512, 768)
# FLOPs of NT-Xent: the upper triangle of the scores once or twice, and both products of the gradient.
SCHEDULES = {"kept tiles": 3, "recomputed tiles": 4}


def measure(
    loss: str,
    other: str,
    rows: int,
    features: int,
    dtype: torch.dtype = torch.float32,
    seconds: float = 8.0,
    backward: bool = True,
) -> dict[str, Any] | None:
    """One row of the results; None if ``other`` fails at this size or is not installed."""
    case = CASES[loss]
    inputs = case.inputs(rows, features, dtype)
    fused = case.step("fused", inputs, backward)
    try:
        peer = case.step(other, inputs, backward)
        peer()
    except (ImportError, RuntimeError, MemoryError):
        return None
    result = compare(fused, peer, seconds=seconds)
    return {
        "loss": loss,
        "against": other,
        "rows": rows,
        "features": features,
        "dtype": str(dtype).removeprefix("torch."),
        "pass": "forward + backward" if backward else "forward",
        **as_dict(result),
    }


def share_of_peak(rows: int = 8192, features: int = 128) -> list[dict[str, Any]]:
    """NT-Xent's FLOP/s as a fraction of the multiply-add peak measured in the same run, per instruction set.

    ``share``: relative to the peak before each step. ``share_at_load``: relative to the peak in the 3 ms after it, at
    the clock under load: vector loads draw more power than multiply-adds on registers, and some CPUs slow down.
    """
    from fastssl.bench.harness import fma_rate

    budget = extension.get_memory_budget()
    results = []
    case = CASES["nt_xent"]
    for name in [n for n in extension.instruction_sets() if n in ("avx2", "avx512")]:
        for schedule, units in SCHEDULES.items():
            with instruction_set(name), memory_budget(budget if schedule == "kept tiles" else 0):
                step = case.step("fused", case.inputs(rows, features))
                step()
                times, peaks, after = [], [], []
                for _ in range(9):
                    peaks.append(fma_rate(0.1))
                    start = time.perf_counter()
                    step()
                    times.append(time.perf_counter() - start)
                    after.append(fma_rate(0.003))
            flops = units * rows**2 * features
            share, share_at_load = (median(flops / t / p for t, p in zip(times, rates)) for rates in (peaks, after))
            results.append(
                {
                    "instruction_set": name,
                    "schedule": schedule,
                    "rows": rows,
                    "features": features,
                    "flops": flops,
                    "seconds": median(times),
                    "fma_gflops": median(peaks) / 1e9,
                    "share": share,
                    "share_at_load": share_at_load,
                }
            )
    return results


def with_avx2(rows: int = MAIN) -> list[dict[str, Any]]:
    """NT-Xent with the AVX2 kernels against eager, as on a CPU without AVX-512."""
    if extension.instruction_set() == "avx2" or "avx2" not in extension.instruction_sets():
        return []
    with instruction_set("avx2"):
        made = [measure("nt_xent", "eager", rows, features) for features in (128, 512)]
    return [{**row, "instruction_set": "avx2"} for row in made if row is not None]


def bf16_against_fp32(rows: int = 8192, features: int = 512) -> dict[str, Any] | None:
    """Fused bf16 against fused fp32; None if bf16 rows are converted to fp32."""
    if not extension.multiplies(torch.bfloat16):
        return None
    case = CASES["nt_xent"]
    half, full = (case.step("fused", case.inputs(rows, features, d)) for d in (torch.bfloat16, torch.float32))
    result = compare(half, full, seconds=15)
    return {"rows": rows, "features": features, **as_dict(result)}


def plan(quick: bool) -> Iterable[tuple[str, str, int, int, bool]]:
    """(loss, against, rows, features, backward) of the comparisons."""
    sizes = (64, 512, 2048) if quick else SIZES
    largest = min(MAIN, sizes[-1])
    for rows in sizes:
        yield "nt_xent", "eager", rows, 128, True
    for features in () if quick else FEATURES:
        if features != 128:
            yield "nt_xent", "eager", largest, features, True
    yield "nt_xent", "eager", largest, 128, False
    yield "nt_xent", "compile", largest, 128, True
    for rows in (64, 256, 512):
        yield "nt_xent", "pytorch-metric-learning", rows, 128, True
    for rows in (512, largest):
        yield "nt_xent", "lightly", rows, 128, True
    for loss in ("clip_loss", "siglip_loss", "sup_con", "info_nce"):
        middle = min(4096, largest)
        yield loss, "eager", middle, 128, True
        yield loss, "eager", largest, 128, True
        if loss in ("clip_loss", "siglip_loss"):
            yield loss, "compile", largest, 128, True
    yield "sup_con", "pytorch-metric-learning", min(2048, largest), 128, True
    yield "linear_cross_entropy", "eager", min(2048, largest), 512, True


def run(quick: bool = False, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs the suite and returns its results."""
    start = time.time()
    results: dict[str, Any] = {"machine": machine(), "comparisons": [], "memory": []}
    for loss, against, rows, features, backward in plan(quick):
        row = measure(loss, against, rows, features, seconds=2 if quick else 8, backward=backward)
        if row is None:
            report(f"{loss:22} {rows:6} x {features:<4} {against}: not possible here")
            continue
        results["comparisons"].append(row)
        report(
            f"{loss:22} {rows:6} x {features:<4} {row['fused_seconds'] * 1e3:9.2f} ms {row['ratio']:6.2f} x {against} "
            f"[{row['low']:.2f}, {row['high']:.2f}] {row['pass']}"
        )
    if extension._C is not None and not quick:
        results["share_of_peak"] = share_of_peak()
        for row in results["share_of_peak"]:
            share = f"{100 * row['share']:5.1f} % of {row['fma_gflops']:.0f} GFLOP/s"
            share += f", {100 * row['share_at_load']:.1f} % at the clock under load"
            report(f"{row['instruction_set']:8} {row['schedule']:17} {share}")
        results["avx2"] = with_avx2()
        for row in results["avx2"]:
            report(f"avx2: nt_xent {row['rows']} x {row['features']}: {row['ratio']:.2f} x eager")
        results["bf16"] = bf16_against_fp32()
        if results["bf16"]:
            report(f"bf16 against our fp32, 8,192 x 512: {results['bf16']['ratio']:.2f} x")
    memory = [("nt_xent", way, rows) for rows in ((2048,) if quick else (4096, 8192)) for way in ("fused", "eager")]
    memory += [] if quick else [("nt_xent", "fused", 65536)]
    for loss, way, rows in memory:
        started = time.perf_counter()
        peak = peak_memory(loss, way, rows, 128)
        row = {"loss": loss, "way": way, "rows": rows, "features": 128, "peak_mib": peak}
        results["memory"].append({**row, "process_seconds": time.perf_counter() - started})
        report(f"{loss:22} {rows:6} x 128  {way}: {'failed' if peak is None else f'{peak:.0f} MiB'}")
    if not quick:
        case = CASES["nt_xent"]
        step = case.step("fused", case.inputs(65536, 128))
        started = time.perf_counter()
        step()
        results["large"] = {"rows": 65536, "features": 128, "seconds": time.perf_counter() - started}
        report(f"nt_xent 65536 x 128: {results['large']['seconds']:.1f} s")
    results["minutes"] = (time.time() - start) / 60
    return results


def write_atomically(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no UTF-8
