"""``python -m fastssl.bench.memory CASE WAY ROWS FEATURES DTYPE ...``: peak memory of a step for every five arguments.

Each is measured in a process of its own, forked after the imports, which take longer than the steps.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import torch

from fastssl.bench.cases import CASES
from fastssl.bench.metric import METRIC_CASES

LONGEST = 600  # seconds of a step, which fails after


def status(key: str) -> float:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key + ":"))
    return float(line.split()[1]) / 1024


def measure(name: str, way: str, rows: int, features: int, dtype: torch.dtype) -> float:
    """Peak memory in MiB of one step of a case beyond its inputs."""
    case = {**CASES, **METRIC_CASES}[name]
    # A small step first: one-time allocations of libraries do not count.
    case.step(way, case.inputs(64, features, dtype))()
    step = case.step(way, case.inputs(rows, features, dtype))
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset the peak
    step()
    return status("VmHWM") - before


def main(argv: list[str]) -> None:
    for name, way, rows, features, dtype in zip(*[iter(argv)] * 5):
        child = os.fork()
        if child == 0:
            signal.alarm(LONGEST)
            print(json.dumps(measure(name, way, int(rows), int(features), getattr(torch, dtype))), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            print("null", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
