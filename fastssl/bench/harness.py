"""Measuring: pairs of calls in turn, medians of their ratios, peak memory, the machine's own limits."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fastssl.ops import extension


@dataclass(frozen=True)
class Comparison:
    """Two ways to compute the same, timed in turn.

    ``ratio``: median over pairs of other / fused; ``low`` and ``high``: the middle half of the pairs.
    """

    fused_seconds: float
    other_seconds: float
    ratio: float
    low: float
    high: float
    pairs: int


def _clock(function: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def in_turn(
    functions: Sequence[Callable[[], Any]], seconds: float, least: int = 5, most: int = 25
) -> list[list[float]]:
    """Times of functions that take turns, each in samples of at least 20 ms: [function][round].

    Args:
        functions: each is called twice before.
        seconds: about how long it may take.
        least: rounds at least.
        most: rounds at most.
    """
    once = [max(min(_clock(f, 1), _clock(f, 1)), 1e-6) for f in functions]
    repeats = [max(1, round(0.02 / t)) for t in once]
    rounds = min(most, max(least, int(seconds / sum(t * k for t, k in zip(once, repeats)))))
    times: list[list[float]] = [[] for _ in functions]
    for k in range(rounds):
        order = range(len(functions))
        for i in order if k % 2 == 0 else reversed(order):
            times[i].append(_clock(functions[i], repeats[i]))
    return times


def compare(
    fused: Callable[[], Any], other: Callable[[], Any], *, seconds: float = 10.0, least: int = 5, most: int = 60
) -> Comparison:
    """Times two functions in alternation, each in samples of at least 20 ms.

    Args:
        fused: the function under test.
        other: what it is compared with.
        seconds: about how long it may take.
        least: pairs at least.
        most: pairs at most.
    """
    a, b = in_turn([fused, other], seconds, least, most)
    ratios = sorted(y / x for x, y in zip(a, b))
    return Comparison(
        statistics.median(a),
        statistics.median(b),
        statistics.median(ratios),
        ratios[len(ratios) // 4],
        ratios[(3 * len(ratios)) // 4],
        len(ratios),
    )


def gemm_rate(size: int = 2048, repeats: int = 5) -> float:
    """Floating point operations a second of ``torch.mm`` on square fp32 matrices, the best of some calls."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    torch.mm(a, b)
    return 2 * size**3 / min(_clock(lambda: torch.mm(a, b), 1) for _ in range(repeats))


def fma_rate(seconds: float = 0.3) -> float:
    """Operations a second of multiply-adds on registers, all threads: this machine's roof; 0 without kernels."""
    if extension._C is None:
        return 0.0
    return float(extension._C.fma_rate(torch.get_num_threads(), seconds))


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), cpu)
    except OSError:
        pass
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "instruction_set": extension.instruction_set(),
        "memory_budget_mib": extension.get_memory_budget() / 2**20,
        "fma_gflops": round(fma_rate() / 1e9, 1),
        "gemm_gflops": round(gemm_rate() / 1e9, 1),
    }


def peak_memory(
    case: str, way: str, rows: int, features: int, dtype: str = "float32", timeout: float = 600
) -> float | None:
    """Peak memory in MiB that forward + backward takes beyond the inputs, in a fresh process; None: it failed."""
    command = [sys.executable, "-m", "fastssl.bench.memory", case, way, str(rows), str(features), dtype]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return float(json.loads(done.stdout.strip().splitlines()[-1])["peak_mib"])


def as_dict(comparison: Comparison) -> dict[str, Any]:
    return asdict(comparison)


def compare_fresh(loss: str, against: str, rows: int, features: int, seconds: float) -> dict[str, Any]:
    """One comparison of :mod:`fastssl.bench.pairs`, or ``{"failed": why}`` where this machine cannot make it.

    In a process of its own: what ran before leaves warm or scattered memory behind, which changes eager's times by a
    third.
    """
    arguments = [loss, against, str(rows), str(features), str(seconds)]
    run = subprocess.run(
        [sys.executable, "-m", "fastssl.bench.pairs", *arguments], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        return {"failed": (run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result
