"""Run by test_triton: what a process finds that has neither Triton's interpreter nor a GPU, as JSON.

One process for several tests: each of them would import torch anew. How many features, and the sizes of batches.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from tests.support import ROOT


def asks_cuda_when_imported() -> bool:
    """fastssl, which is not to be imported before."""
    names, asked = ("is_available", "device_count", "_lazy_init"), []
    kept = [getattr(torch.cuda, name) for name in names]

    def ask(*_: Any) -> None:
        asked.append(1)
        raise AssertionError("CUDA was asked")

    for name in names:
        setattr(torch.cuda, name, ask)
    import fastssl
    import fastssl.functional
    import fastssl.losses
    import fastssl.ops.triton.operators  # noqa: F401

    for name, function in zip(names, kept):
        setattr(torch.cuda, name, function)
    return bool(asked)


def refusal() -> str:
    import fastssl.functional as F

    try:
        F.nt_xent(torch.randn(4, 4), torch.randn(4, 4), backend="triton")
    except Exception as error:
        return str(error)
    return ""


def newer_setting_of_precision() -> str:
    from fastssl.ops.triton.launch import precision

    torch.backends.cuda.matmul.fp32_precision = "tf32"
    return precision(torch.float32, False)


def compilations(d: int, sizes: list[int]) -> list[list[int]]:
    """For each dtype: the most of a launch, and of how many losses."""
    import gpu_launches

    every = [gpu_launches.variants("sm_90", d, t, sizes) for t in (torch.float32, torch.bfloat16, torch.float16)]
    return [[max(map(len, found.values())), len({key[0] for key in found})] for found in every]


def peak_of_a_million_rows() -> int:
    import gpu_static

    return int(gpu_static.peak_memory(1048576, 512)["peak"])


if __name__ == "__main__":
    assert not any(name.split(".")[0] == "fastssl" for name in sys.modules)
    found = {"asks CUDA": asks_cuda_when_imported(), "refusal": refusal()}
    sys.path.insert(0, str(ROOT / "benchmarks"))
    found["peak"] = peak_of_a_million_rows()
    found["compilations"] = compilations(*json.loads(sys.argv[1]))
    found["precision"] = newer_setting_of_precision()  # of this process: last
    print(json.dumps(found))
