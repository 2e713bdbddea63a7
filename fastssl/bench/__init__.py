"""Benchmarks: alternating pairs of calls, peak memory of fresh processes, and hardware limits for comparison."""

from fastssl.bench.cases import CASES, Case
from fastssl.bench.harness import Comparison, compare, fma_rate, gemm_rate, peak_memory

__all__ = ["CASES", "Case", "Comparison", "compare", "fma_rate", "gemm_rate", "peak_memory"]
