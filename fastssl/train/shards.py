"""Parameters sharded over processes (FSDP2): what the training loop needs besides Fabric's strategy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import nn

from fastssl.methods import Method


def strategy(devices: int, timeout: timedelta) -> Any:
    """Fabric's FSDP2 strategy: every process holds its shard of each parameter, gradient and optimiser state."""
    from lightning_fabric.strategies import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    def parallelize(method: nn.Module, mesh: Any) -> nn.Module:
        for p in method.parameters():  # FSDP takes no others, such as kernels whose channels are last
            p.data = p.data.contiguous()
        for p in scalar_parameters(method):  # which it leaves where they are
            p.data = p.data.to(mesh["data_parallel"].device_type)
        fully_shard(method, mesh=mesh["data_parallel"], ignored_params=set(scalar_parameters(method)))
        for name in ("represent", "means"):  # called in place of forward
            if getattr(type(method), name, None) is not getattr(Method, name):
                register_fsdp_forward_method(method, name)
        return method

    return ModelParallelStrategy(parallelize, data_parallel_size=devices, tensor_parallel_size=1, timeout=timeout)


def scalar_parameters(method: nn.Module) -> list[nn.Parameter]:
    """0-d parameters (a logit scale), which FSDP2 cannot shard and every process replicates."""
    return [p for p in method.parameters() if p.dim() == 0]


def average_scalars(method: nn.Module) -> None:
    """Averages the gradients of replicated scalars over processes, as FSDP does for sharded parameters."""
    for p in scalar_parameters(method):
        if p.grad is not None:
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()


@contextlib.contextmanager
def unsharded_parameters(method: nn.Module) -> Iterator[None]:
    """Context in which submodules can be called on their own: parameters are gathered, then sharded again."""
    unshard = getattr(method, "unshard", None)
    if unshard is None:
        yield
        return
    unshard()
    try:
        yield
    finally:
        method.reshard()  # type: ignore[operator]


def is_sharded(parameters: Any) -> bool:
    return any(hasattr(p, "full_tensor") for p in parameters)


__all__ = [
    "average_scalars",
    "is_sharded",
    "scalar_parameters",
    "strategy",
    "unsharded_parameters",
]
