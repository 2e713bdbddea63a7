"""Small batches while other processes use the cores: ``python benchmarks/busy.py [--seconds 0.6]``.

Time of forward + backward of NT-Xent, fused and eager, on all threads and on one, with no other process and with 1 to
``os.cpu_count()`` that never rest. Medians, and means where they differ: one step in ten that takes 30 ms counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

import fastssl.functional as F

ROWS = (64, 128, 256, 512, 1024)


def microseconds(step: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Median and mean."""
    for _ in range(3):
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 8:
        start = time.perf_counter_ns()
        step()
        times.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(times), statistics.mean(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.6, help="of each measurement")
    seconds = parser.parse_args().seconds
    threads = torch.get_num_threads()
    print("| busy processes | rows | threads | fused, us: median (mean) | eager, us: median (mean) | ratio of means |")
    print("|---|---|---|---|---|---|")
    for busy in range((os.cpu_count() or 1) + 1):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            time.sleep(0.5)
            for rows in ROWS:
                a, b = (torch.randn(rows, 128, requires_grad=True) for _ in range(2))

                def step(backend: str | None = None, a: torch.Tensor = a, b: torch.Tensor = b) -> None:
                    a.grad = b.grad = None
                    F.nt_xent(a, b, backend=backend).backward()

                for count in sorted({1, threads}):
                    torch.set_num_threads(count)
                    fused = microseconds(step, seconds)
                    eager = microseconds(lambda: step("reference"), seconds)
                    cells = (f"{median:,.0f} ({mean:,.0f})" for median, mean in (fused, eager))
                    print(
                        f"| {busy} | {rows} | {count} |",
                        " | ".join(cells),
                        f"| {eager[1] / fused[1]:.1f} |",
                        flush=True,
                    )
        finally:
            for other in others:
                other.kill()
                other.wait()


if __name__ == "__main__":
    main()
