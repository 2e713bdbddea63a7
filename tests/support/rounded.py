"""Machine code of a product that is not to be fused with what follows: ``python -m tests.support.rounded 90``."""

from __future__ import annotations

import sys
from pathlib import Path

import triton
import triton.language as tl
from fastssl.kernels.epilogues import rounded_product
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.support import ROOT


@triton.jit
def plain(A, B, C, OUT):
    at = tl.arange(0, 128)
    tl.store(OUT + at, tl.load(A + at) * tl.load(B + at) - tl.load(C + at))


@triton.jit
def rounded(A, B, C, OUT):
    at = tl.arange(0, 128)
    tl.store(OUT + at, rounded_product(tl.load(A + at), tl.load(B + at)) - tl.load(C + at))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(ROOT) / "benchmarks"))
    from gpu_machine_code import disassembly, parse

    signature = dict.fromkeys(("A", "B", "C", "OUT"), "*fp32")
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    for kernel in (plain, rounded):
        compiled = triton.compile(ASTSource(kernel, signature, {}), target=target, options={"enable_fp_fusion": True})
        operations = {name.split(".")[0] for _, name, _ in parse(disassembly(compiled.asm["cubin"]))}
        print(kernel.__name__, *sorted(operations & {"FADD", "FMUL", "FFMA", "FADD2", "FMUL2", "FFMA2"}))
