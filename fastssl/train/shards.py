"""A method whose parameters are sharded over processes (FSDP2): what the loop needs besides Fabric's strategy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn


def strategy(devices: int) -> Any:
    """Fabric's strategy: every process holds its part of each parameter, gradient and optimiser state."""
    from lightning_fabric.strategies import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    def parallelize(method: nn.Module, mesh: Any) -> nn.Module:
        fully_shard(method, mesh=mesh["data_parallel"], ignored_params=set(scalars(method)))
        if hasattr(method, "represent"):
            register_fsdp_forward_method(method, "represent")
        return method

    return ModelParallelStrategy(parallelize, data_parallel_size=devices, tensor_parallel_size=1)


def scalars(method: nn.Module) -> list[nn.Parameter]:
    """Parameters of one value (a logit scale), which every process keeps whole."""
    return [p for p in method.parameters() if p.dim() == 0]


def average_scalars(method: nn.Module) -> None:
    """Their gradients, as FSDP averages those of the others."""
    for p in scalars(method):
        if p.grad is not None:
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()


def whole(value: Any) -> Any:
    """A tensor with all of its parts; every process has to ask."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def part_like(value: Any, parameter: Tensor) -> Any:
    """This process's part of an optimiser's state, as the parameter is parted."""
    from torch.distributed.tensor import distribute_tensor

    if not isinstance(value, Tensor) or not hasattr(parameter, "placements") or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]


@contextlib.contextmanager
def unsharded_parameters(method: nn.Module) -> Iterator[None]:
    """Within it, parts of the method may be called by themselves."""
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


__all__ = ["average_scalars", "is_sharded", "part_like", "scalars", "strategy", "unsharded_parameters", "whole"]
