"""Absolute times with pytest-benchmark: ``pytest benchmarks --benchmark-columns=median,iqr``. Ratios: run.py."""

from __future__ import annotations

import os
from typing import Any

import pytest

from fastssl.bench import CASES

LARGEST = int(os.environ.get("FASTSSL_BENCH_ROWS", 8192))
SIZES = [n for n in (16, 64, 256, 1024, 4096, 8192, 16384, 65536) if n <= LARGEST]


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("features", [64, 128, 512, 768])
@pytest.mark.parametrize("way", ["fused", "eager"])
@pytest.mark.parametrize("loss", CASES)
def test_forward_and_backward(benchmark: Any, loss: str, way: str, rows: int, features: int) -> None:
    if way == "eager" and rows > 16384:
        pytest.skip("eager needs more memory than machines have")
    case = CASES[loss]
    benchmark.group = f"{loss} {rows} x {features}"
    benchmark(case.step(way, case.inputs(rows, features)))
