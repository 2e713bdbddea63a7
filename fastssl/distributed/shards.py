"""Which processes share a loss: the group, how rows are laid out over it, and how they meet."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from fastssl.distributed.alike import arguments_of, calling
from fastssl.ops.scoped import Scoped

SCHEDULES = ("auto", "all_gather", "ring")
P = ParamSpec("P")
R = TypeVar("R")
Group = Any  # "world", a ProcessGroup, or a DeviceMesh of one dimension


@dataclass(frozen=True)
class Shards:
    """A group of processes that hold the rows of a batch in turn: those of rank 0, then those of rank 1, ..."""

    group: Any  # None: this process alone
    rank: int
    size: int
    schedule: str = "auto"
    averaged: bool = False

    def peer(self, rank: int) -> int:
        """The global rank of one of the group."""
        return dist.get_global_rank(self.group, rank % self.size)


ALONE = Shards(None, 0, 1)


def resolve(group: Group, schedule: str = "auto") -> Shards:
    """The processes that ``group`` names.

    Raises:
        TypeError: no group.
        ValueError: a mesh of several dimensions, an unknown schedule, or a group that this process is not part of.
        RuntimeError: torch.distributed is not initialised.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {SCHEDULES}, got {schedule!r}")
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"group: got {group!r}, but torch.distributed is not initialised: call "
            "torch.distributed.init_process_group first (torchrun sets what it needs)"
        )
    if isinstance(group, str):
        if group != "world":
            raise ValueError(f"group: expected 'world', a ProcessGroup or a DeviceMesh, got {group!r}")
        group = dist.group.WORLD
    elif hasattr(group, "get_group") and hasattr(group, "ndim"):  # DeviceMesh
        if group.ndim != 1:
            raise ValueError(f"group: expected one dimension of a DeviceMesh (mesh['name']), got {group.ndim}")
        group = group.get_group()
    elif group is dist.GroupMember.NON_GROUP_MEMBER:  # what new_group gives to the others
        raise ValueError("group: this process is not part of it")
    elif not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group: expected 'world', a ProcessGroup or a DeviceMesh, got {type(group).__name__}")
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError("group: this process is not part of it")
    return Shards(group, rank, dist.get_world_size(group), schedule)


_current: Scoped[Shards | None] = Scoped("fastssl_shards", None)


def current() -> Shards | None:
    """The processes that losses are shared with, where they are."""
    return _current.get()


@contextlib.contextmanager
def sharded(group: Group = "world", schedule: str = "auto", averaged: bool = False) -> Iterator[Shards]:
    """Within it every pair loss compares this process's rows with those of all processes of a group.

    What ``group=`` of a function does for one call, for code that calls losses itself: modules, methods, other
    libraries through :func:`fastssl.patch`. A loss is then that of the concatenated batch, the same on all
    processes. All of them must call the same losses in the same order.

    **Gradients** of a process's own rows are those of that one loss, not divided by anything; those of tensors that
    every process has (a temperature, proxies, network weights behind the rows) are this process's share of it: their
    *sum* over processes is the gradient. ``DistributedDataParallel`` and FSDP *average*: for them multiply the loss by
    the number of processes before ``backward``, or say ``averaged=True``. Every process must take ``backward`` of the
    same loss.

    Args:
        group: "world", a ProcessGroup, or one dimension of a DeviceMesh.
        schedule: how rows meet. "all_gather": every process gets all rows once, O(N D) memory; "ring": blocks of rows
            travel while the last ones are computed with, O(N D / P) memory and the same result; "auto": all_gather
            as long as all rows fit the memory budget (:func:`fastssl.set_memory_budget`).
        averaged: gradients are multiplied by the number of processes: an engine that averages them gets it right, also
            where a method adds terms of its own rows alone. :func:`fastssl.train.pretrain` does so.

    Raises:
        TypeError: no group.
        ValueError: an unknown schedule or a mesh of several dimensions.
        RuntimeError: torch.distributed is not initialised; in a loss: a process that died or did not answer within
            the group's timeout, named by its rank.

    Example:
        >>> from fastssl.distributed import sharded
        >>> def training_step(encoder, loss, x0, x1):  # under torchrun
        ...     with sharded("world"):
        ...         return loss(encoder(x0), encoder(x1))
    """
    shards = replace(resolve(group, schedule), averaged=averaged)
    with _current.set(shards):
        yield shards


@contextlib.contextmanager
def unsharded() -> Iterator[None]:
    """Within it losses see this process's rows alone."""
    with _current.set(None):
        yield


def outside_of_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.compiler.disable``, which imports torch._dynamo, for seconds: only torch.compile needs it."""
    hidden = torch._disable_dynamo(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return hidden(*args, **kwargs) if torch.compiler.is_compiling() else function(*args, **kwargs)

    return call


def _of_inference(argument: Any) -> bool:
    """Whether this is a tensor made within inference_mode, such as labels or a teacher's rows, or holds one."""
    if isinstance(argument, torch.Tensor):
        return argument.is_inference()
    return isinstance(argument, (list, tuple)) and any(map(_of_inference, argument))  # listed pairs, parameters


def _copied(argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return tuple(map(_copied, argument))
    return argument.clone() if _of_inference(argument) else argument


def copies_inference(function: Callable[P, R]) -> Callable[P, R]:
    """Copies tensors made within inference_mode, which torch does not save for a backward pass."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        saves = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if saves and _of_inference((*args, *kwargs.values())):
            args = tuple(map(_copied, args))  # type: ignore[assignment]
            kwargs = {name: _copied(given) for name, given in kwargs.items()}  # type: ignore[assignment]
        return function(*args, **kwargs)

    return call


def shardable(loss: Callable[P, R]) -> Callable[P, R]:
    """Gives meaning to the arguments ``group`` and ``schedule`` of a loss: :func:`sharded` for the call."""

    @outside_of_graphs  # collectives and blocks
    def shared(*args: P.args, **kwargs: P.kwargs) -> R:
        with sharded(kwargs["group"], kwargs.get("schedule", "auto")):  # type: ignore[arg-type]
            return of_all(*args, **kwargs)

    @outside_of_graphs
    def within(*args: P.args, **kwargs: P.kwargs) -> R:
        shards = current()
        if shards is None or not shards.averaged:
            return of_all(*args, **kwargs)
        with _current.set(replace(shards, averaged=False)):  # once, also where one loss calls another
            value = of_all(*args, **kwargs)
        return Scaled.apply(value, shards.size)

    def of_all(*args: P.args, **kwargs: P.kwargs) -> R:
        with calling(loss.__name__, lambda: arguments_of(loss, args, kwargs)):
            return loss(*args, **kwargs)

    @copies_inference
    @functools.wraps(loss)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs.get("group") is not None:
            return shared(*args, **kwargs)
        return loss(*args, **kwargs) if current() is None else within(*args, **kwargs)

    return wrapper


class Scaled(torch.autograd.Function):
    """A value whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.factor, None
