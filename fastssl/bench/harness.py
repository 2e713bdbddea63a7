"""Measurements: medians of ratios of alternating calls, peak memory, and hardware limits."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fastssl.ops import extension
from fastssl.ops.backend import cpu_entry


@contextmanager
def _during(get: Callable[[], Any], set_: Callable[[Any], Any], value: Any) -> Iterator[None]:
    """Context in which a setting has another value."""
    before = get()
    set_(value)
    try:
        yield
    finally:
        set_(before)


def instruction_set(name: str) -> AbstractContextManager[None]:
    """Context in which the kernels use an instruction set."""
    return _during(extension.instruction_set, extension.instruction_set, name)


def memory_budget(size: int) -> AbstractContextManager[None]:
    """Context in which the kernels keep up to ``size`` bytes between the passes."""
    return _during(extension.get_memory_budget, extension.set_memory_budget, size)


def threads(count: int) -> AbstractContextManager[None]:
    """Context in which torch, and with it the kernels, run on ``count`` threads."""
    return _during(torch.get_num_threads, torch.set_num_threads, count)


@dataclass(frozen=True)
class Comparison:
    """Two implementations, timed in alternation.

    ``ratio``: median over pairs of other / fused; ``low`` and ``high``: its quartiles.
    """

    fused_seconds: float
    other_seconds: float
    ratio: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Within:
    """A function that is called within a context, such as a patch, whose entering and leaving are not timed."""

    function: Callable[..., Any]
    context: Callable[[], AbstractContextManager[Any]]

    def __call__(self, *arguments: Any) -> Any:
        with self.context():
            return self.function(*arguments)


# Fused losses are products for the most part.
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "fastssl::pair_loss", "fastssl::pair_loss_backward"}


def seconds_of_products(step: Callable[[], Any], repeats: int = 3) -> float:
    """Seconds per ``step`` on a CPU within torch's matrix products and fused losses of pairs, by torch's profiler: how
    far nothing but fewer or faster products would make it shorter."""
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(repeats):
            step()
    spent = sum(event.self_cpu_time_total for event in found.key_averages() if event.key in PRODUCTS)
    return spent / repeats / 1e6


def _clock(function: Callable[[], Any], repeats: int) -> float:
    if isinstance(function, Within):
        with function.context():
            function.function()  # what the first call within the context finds out is not timed either
            return _clock(function.function, repeats)
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def alternate(
    functions: Sequence[Callable[[], Any]], seconds: float, least: int = 5, most: int = 25
) -> list[list[float]]:
    """Times functions in alternation, in samples of at least 20 ms: [function][round].

    Args:
        functions: each is called twice before.
        seconds: approximate duration.
        least: minimum number of rounds.
        most: maximum number of rounds.
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
        other: the function that it is compared with.
        seconds: approximate duration.
        least: minimum number of pairs.
        most: maximum number of pairs.
    """
    a, b = alternate([fused, other], seconds, least, most)
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
    """FLOP/s of ``torch.mm`` on square fp32 matrices, the best of several calls."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    torch.mm(a, b)
    return 2 * size**3 / min(_clock(lambda: torch.mm(a, b), 1) for _ in range(repeats))


def fma_rate(seconds: float = 0.3) -> float:
    """Peak FLOP/s of multiply-adds on registers, all threads; 0 without kernels."""
    if extension._C is None:
        return 0.0
    return float(extension._C.fma_rate(torch.get_num_threads(), seconds))


def machine() -> dict[str, Any]:
    """The hardware and software that measurements depend on."""
    cpu = cpu_entry("model name") or platform.processor() or platform.machine()
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


def peak_memory(case: str, way: str, rows: int, features: int, dtype: str = "float32") -> float | None:
    """Peak memory in MiB of forward + backward beyond the inputs, in a fresh process; None: it failed."""
    return peak_memories([(case, way, rows, features, dtype)])[0]


def peak_memories(runs: Sequence[tuple[str, str, int, int, str]]) -> list[float | None]:
    """:func:`peak_memory` of several (case, way, rows, features, dtype), in processes that share their imports."""
    command = [sys.executable, "-m", "fastssl.bench.memory", *(str(value) for run in runs for value in run)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    peaks: list[float | None] = [json.loads(line) for line in done.stdout.splitlines()]
    return [*peaks, *[None] * (len(runs) - len(peaks))]


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
