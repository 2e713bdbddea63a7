"""The floating-point mode of the threads of torch's pool, and the instruction set of the kernels."""

from __future__ import annotations

import pytest
import torch

import fastssl
from fastssl.bench.harness import instruction_set
from fastssl.ops import extension

kernels = pytest.mark.skipif(extension._C is None, reason="the compiled kernels are not installed")


def modes() -> list[bool]:
    """Whether subnormal numbers are flushed to zero, the calling thread first."""
    return list(extension._C.float_modes(torch.get_num_threads()))  # type: ignore[union-attr]


ISAS = fastssl.instruction_sets()
# Of the others only pairs of bf16 rows are computed by code of their own (add_bf16_isa in csrc/CMakeLists.txt).
FLOAT_ISAS = [name for name in ISAS if name not in ("avx512_bf16", "amx", "neon_bf16")]

__all__ = ["FLOAT_ISAS", "ISAS", "instruction_set", "kernels", "modes"]
