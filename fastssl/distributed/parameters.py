"""Parameters that processes hold a shard of each (FSDP2), and their whole values."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def full_tensor(value: Any) -> Any:
    """The unsharded tensor; a collective call."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def shard_like(value: Any, parameter: Tensor) -> Any:
    """This process's shard of a whole value of a parameter or of its optimiser state, placed as the parameter is; a
    collective call."""
    from torch.distributed.tensor import distribute_tensor

    if not isinstance(value, Tensor) or not hasattr(parameter, "placements") or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
