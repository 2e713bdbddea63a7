"""Run by test_triton: the GPU kernels, interpreted, in two gloo processes under DDP and FSDP2, on both schedules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastssl.functional as F

WORLD, ROWS, OWN = 2, 19, 8  # 8 and 11 rows
LOSSES: dict[str, Any] = {
    "nt_xent": lambda a, b, y, **o: F.nt_xent(a, b, temperature=0.1, **o),
    "clip_loss": lambda a, b, y, **o: F.clip_loss(a, b, torch.tensor(5.0), **o),
    "siglip_loss": lambda a, b, y, **o: F.siglip_loss(a, b, torch.tensor(5.0), torch.tensor(-2.0), **o),
    "sup_con": lambda a, b, y, **o: F.sup_con(a, y, temperature=0.1, **o),
    "contrastive": lambda a, b, y, **o: F.contrastive(a, y, **o),
    "soft_nearest_neighbor": lambda a, b, y, **o: F.soft_nearest_neighbor(b, y, **o),
}


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))


def gradients(net: Any, parts: list[Tensor], y: Tensor, name: str, **options: Any) -> None:
    a, b = net(torch.cat(parts)).chunk(2)
    loss = LOSSES[name](a, b, y, **options)
    (loss * (WORLD if "group" in options else 1)).backward()  # DDP and FSDP average over processes


def worker(rank: int, out: Path) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (WORLD,))
    torch.manual_seed(0)
    views, y = [torch.randn(ROWS, 12) for _ in range(2)], torch.arange(ROWS) % 4
    mine = slice(0, OWN) if rank == 0 else slice(OWN, ROWS)
    far = {}
    for name in LOSSES:
        whole = network().double()
        gradients(whole, [v.double() for v in views], y, name, backend="reference")
        for engine in ("ddp", "fsdp"):
            for schedule in ("all_gather", "ring"):
                net: Any = network()
                if engine == "ddp":
                    net = DistributedDataParallel(net)
                else:
                    fully_shard(net, mesh=mesh)
                options = {"group": "world", "schedule": schedule, "backend": "triton"}
                gradients(net, [v[mine] for v in views], y[mine], name, **options)
                ours: list[Any] = [p.grad for p in net.parameters()]
                ours = [g.full_tensor() if engine == "fsdp" else g for g in ours]
                # All parameters in one: a distance does not feel the last layer's bias, whose gradient is 0.
                right = torch.cat([p.grad.flatten() for p in whole.parameters() if p.grad is not None])
                difference = torch.cat([g.flatten() for g in ours]) - right
                far[f"{name}, {engine}, {schedule}"] = float(difference.norm() / right.norm())
    (out / f"far.{rank}").write_text(json.dumps(far))
    dist.barrier()
    dist.destroy_process_group()
