"""Benchmarks that can be trusted: alternating pairs, memory of fresh processes, the limit beside them."""

from fastssl.bench.cases import CASES, Case
from fastssl.bench.harness import Comparison, compare, fma_rate, gemm_rate, peak_memory

__all__ = ["CASES", "Case", "Comparison", "compare", "fma_rate", "gemm_rate", "peak_memory"]
