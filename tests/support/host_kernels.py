"""Run by test_cuda_on_host with threads in an order that FASTSSL_SHIM_SEED draws: what the CUDA kernels give."""

from __future__ import annotations

from pathlib import Path

import torch

import fastssl.functional  # noqa: F401 (registers the operators)
from fastssl.augment import DINOAugment


def main(out: Path) -> None:
    torch.manual_seed(0)
    s, ids, given = torch.randn(9, 40), torch.arange(40) % 4, []
    params = torch.tensor([1.0, 0.3, 0.0])
    for loss in (0, 1):
        for grad in (None, torch.ones(9, dtype=torch.float64)):
            given.append(torch.ops.fastssl.sorted_rows(loss, s, ids, ids, None, None, 0, 40, 0, params, grad))
    given += torch.ops.fastssl.select_rows(s, 7, True, 3)
    images = torch.randint(0, 256, (4, 30, 30, 3), dtype=torch.uint8)
    for program in DINOAugment(24, 16, local=2).programs:
        given.append(program.apply(images, program.sample([(30, 30)] * 4, seed=1), backend="cuda"))
    torch.save(given, out)
