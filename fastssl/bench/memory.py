"""``python -m fastssl.bench.memory CASE WAY ROWS FEATURES DTYPE``: peak memory of one step in this process."""

from __future__ import annotations

import json
import sys
import time

import torch


def status(key: str) -> float:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key + ":"))
    return float(line.split()[1]) / 1024


def main(argv: list[str]) -> None:
    from fastssl.bench.cases import CASES
    from fastssl.bench.metric import METRIC_CASES

    case, way, rows, features, dtype = (
        {**CASES, **METRIC_CASES}[argv[0]],
        argv[1],
        int(argv[2]),
        int(argv[3]),
        getattr(torch, argv[4]),
    )
    # A small step first: one-time allocations of libraries do not count.
    case.step(way, case.inputs(64, features, dtype))()
    step = case.step(way, case.inputs(rows, features, dtype))
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset the peak
    start = time.perf_counter()
    step()
    print(json.dumps({"peak_mib": status("VmHWM") - before, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main(sys.argv[1:])
