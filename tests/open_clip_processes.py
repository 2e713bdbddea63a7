"""Run by test_parity with two processes: open_clip's losses and gradients, before and after the patch.

python -m tests.open_clip_processes PORT
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import fastssl
from tests.test_compat import _package


def run(kind: Any, options: dict[str, Any], rank: int) -> list[torch.Tensor]:
    """The loss, gradients of own features, and the average over processes of the scale's gradient."""
    g = torch.Generator().manual_seed(rank)
    x, y = (
        torch.nn.functional.normalize(torch.randn(9, 6, generator=g, dtype=torch.float64), dim=1).requires_grad_()
        for _ in range(2)
    )
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    loss = kind(rank=rank, world_size=2, **options)(x, y, scale, bias)
    loss.backward()
    shared = torch.stack([scale.grad, bias.grad])  # type: ignore[list-item]
    dist.all_reduce(shared)
    return [loss.detach(), x.grad, y.grad, shared / 2]  # type: ignore[list-item]


def worker(rank: int, port: str) -> None:
    _package("open_clip")
    from open_clip.loss import ClipLoss, SigLipLoss

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    cases = [
        (ClipLoss, {"local_loss": True, "gather_with_grad": True}),
        (ClipLoss, {"local_loss": False, "gather_with_grad": True}),
        (ClipLoss, {"local_loss": False, "gather_with_grad": False}),  # stays theirs
        *((SigLipLoss, {"dist_impl": impl}) for impl in ("bidir", "shift", "reduce", "gather")),
    ]
    for kind, options in cases:
        before = run(kind, options, rank)
        fastssl.patch("open_clip")
        after = run(kind, options, rank)
        fastssl.unpatch()
        for a, b in zip(before, after):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=f"{kind.__name__} {options}: {a} and {b}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(worker, (sys.argv[1],), nprocs=2)
