"""Run by test_distributed: every loss over 1 to 8 processes against the same loss in one, both schedules.

Eight processes (four where time matters), once; smaller worlds are groups of them. What is wrong goes to the file that
is named.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import fastssl
import fastssl.functional as F
import fastssl.losses
from fastssl.distributed import EmbeddingQueue, sharded
from fastssl.train import cached_step
from tests.support.subjects import OF_MEMORY, OF_ROWS, OF_VIEWS, SHARDED, SUBJECTS, Inputs, Subject, labels_for

# How N = 41 rows lie over a world, and 26 of a memory: uneven, with processes that have none.
COUNTS = {
    1: ([41], [26]),
    2: ([37, 4], [0, 26]),
    3: ([20, 0, 21], [9, 9, 8]),
    4: ([1, 17, 3, 20], [6, 20, 0, 0]),
    8: ([9, 0, 5, 7, 1, 2, 17, 0], [0, 1, 2, 3, 4, 5, 6, 5]),
}
N, M, D = 41, 26, 12
SCHEDULES, DTYPES = ("all_gather", "ring"), (torch.float64, torch.float32)
# Worlds, schedules and dtypes: all of them where time is no matter, else the smaller worlds, with each schedule in each
# dtype.
EVERY = [(size, schedule, dtype) for size in COUNTS for schedule in SCHEDULES for dtype in DTYPES]
FEW = [
    (1, "ring", torch.float64),
    (2, "all_gather", torch.float64),
    (3, "ring", torch.float64),
    (2, "all_gather", torch.float32),
    (4, "ring", torch.float32),
]
# Beside the table as it stands, what takes another way over processes.
OTHERWISE: dict[str, dict[str, Any]] = {
    "nt_xent, cold": {"temperature": 0.01},
    "nt_xent, as they are": {"normalize": False},
    "nt_xent, none": {"reduction": "none"},
    "info_nce, sum": {"reduction": "sum"},
    "siglip_loss, none": {"reduction": "none"},
    "debiased_nt_xent, sum": {"reduction": "sum"},
    "contrastive, sum": {"reduction": "sum"},
    "triplet, active": {"reduction": "active", "squared": True},
    "sup_con, active": {"reduction": "active"},
    "sup_con_memory, active": {"reduction": "active"},
    "multi_nt_xent, active": {"reduction": "active"},
    "nca, active": {"reduction": "active"},
    "triplet_hard, smooth": {"smooth": True},
    "triplet_semihard, sum": {"reduction": "sum"},
    "pair_loss, none": {"reduction": "none"},
}


def cases() -> dict[str, Subject]:
    found = {name: SUBJECTS[name] for name in SHARDED}
    for name, options in OTHERWISE.items():
        subject = SUBJECTS[name.partition(",")[0]]
        found[name] = dataclasses.replace(subject, options={**subject.options, **options})
    found["info_nce, same queue"] = Subject("info_nce", "x y", {"replicated_negatives": True}, "negatives=classes")
    found["sup_con_memory, strangers"] = SUBJECTS["sup_con_memory"]
    found["sup_con, couples"] = Subject("sup_con", "x couples")
    return found


CASES = cases()


# In float32, where time matters: one of each function, and what takes another way.
FEW_IN_FLOAT32 = [name for name, subject in CASES.items() if name == subject.function or name not in SHARDED]


def inputs_of(subject: Subject, dtype: torch.dtype) -> Inputs:
    torch.manual_seed(3)
    return subject.make(N, D, dtype, 0.3, M)


def run(
    subject: Subject, inputs: Inputs, fold: Callable[[Tensor], Tensor] | None = None, **options: Any
) -> list[Tensor]:
    """The loss and the gradient of every input of numbers, and, in float64, of every hyperparameter."""
    leaves = inputs.leaves()
    names = learned(subject, inputs)
    values = {k: torch.tensor(subject.values[k], dtype=torch.float64, requires_grad=True) for k in names}
    loss = subject(leaves, **values, **options)
    if fold is not None:
        loss = fold(loss)
    wanted = [*leaves.differentiable, *values.values()]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [loss.detach(), *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, wanted))]


def learned(subject: Subject, inputs: Inputs) -> list[str]:
    """Hyperparameters that are tensors."""
    of_double = all(t.dtype == torch.float64 for t in inputs.values() if t.is_floating_point())
    return [name for name in subject.values if of_double and name not in subject.options]


def distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    size = float(b.double().norm())
    return float((a.double() - b.double()).norm()) / max(size, 1e-12)


PARTED = OF_ROWS + OF_VIEWS + OF_MEMORY


def part(name: str, t: Tensor, size: int, rank: int) -> Tensor:
    """What a process has of an input."""
    if name not in PARTED:
        return t
    counts = COUNTS[size][1 if name in OF_MEMORY else 0]
    return t.narrow(1 if name in OF_VIEWS else 0, sum(counts[:rank]), counts[rank])


@functools.cache
def in_one_process(name: str, dtype: torch.dtype, backend: str | None) -> tuple[Inputs, list[Tensor]]:
    """All inputs, the loss of one process and its gradients."""
    subject, every = CASES[name], inputs_of(CASES[name], dtype)
    if name.endswith("strangers"):  # a third of the classes is in no column
        every["labels"] = every["labels"] + 1000 * (torch.arange(N) % 3 == 0)
    options: dict[str, Any] = {"backend": backend} if backend is not None and "backend" in subject.accepted else {}
    # Two views: first all first ones here, but all of a process there; a mean says as much.
    fold = Tensor.sum if subject.options.get("reduction") == "none" else None
    return every, run(subject, every, fold, **options)


def check(
    name: str, size: int, group: Any, schedule: str, dtype: torch.dtype, backend: str | None = None
) -> list[tuple[str, float]]:
    """Relative distances of the loss and of every gradient from one process."""
    subject, rank = CASES[name], dist.get_rank(group)
    every, whole = in_one_process(name, dtype, backend)
    mine = Inputs({k: part(k, t, size, rank) for k, t in every.items()})
    options: dict[str, Any] = {"backend": backend} if backend is not None and "backend" in subject.accepted else {}
    here = options | {"group": group} | ({"schedule": schedule} if "schedule" in subject.accepted else {})
    fold = (lambda values: total_of(values, group)) if subject.options.get("reduction") == "none" else None
    got = run(subject, mine, fold, **here)
    found = [("loss", distance(got[0], whole[0]))]
    names = [*(k for k, t in every.items() if t.is_floating_point()), *learned(subject, every)]
    for k, g, expected in zip(names, got[1:], whole[1:]):
        if k in PARTED:  # relative to the whole gradient: a row's own may be tiny
            size_of = max(float(expected.double().norm()), 1e-12)
            found.append((k, float((g.double() - part(k, expected, size, rank).double()).norm()) / size_of))
        else:  # a share; the sum is the gradient
            total = g.clone()
            dist.all_reduce(total, group=group)
            found.append((k, distance(total, expected)))
    return found


def total_of(values: Tensor, group: Any) -> Tensor:
    """The sum over all processes' rows of what each has."""
    from fastssl.distributed.collectives import total
    from fastssl.distributed.shards import resolve

    return total(resolve(group), values.sum())


def engines(group: Any) -> list[list[Any]]:
    """The same gradient of a network under DDP and FSDP2, from compiled code, with checkpointing, in two steps."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.checkpoint import checkpoint

    rank, size = dist.get_rank(group), 2
    mesh = DeviceMesh.from_group(group, "cpu")
    x, y = (inputs_of(SUBJECTS["nt_xent"], torch.float32)[k] for k in "xy")
    first = sum(COUNTS[size][0][:rank])
    mine = slice(first, first + COUNTS[size][0][rank])

    def network() -> torch.nn.Module:
        torch.manual_seed(1)
        return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))

    def embed(net: Any) -> tuple[Tensor, ...]:
        return tuple(net(torch.cat([x[mine], y[mine]])).chunk(2))

    whole = network()
    F.nt_xent(whole(x), whole(y)).backward()
    expected = [p.grad for p in whole.parameters()]
    wrong: list[list[Any]] = []

    def same(what: str, grads: list[Any]) -> None:
        far = max(float((g - e).norm() / e.norm()) for g, e in zip(grads, expected) if e is not None)
        if not far <= 2e-6:
            wrong.append([what, rank, far])

    ddp = DistributedDataParallel(network(), process_group=group)
    (F.nt_xent(*embed(ddp), group=group) * size).backward()  # DDP averages
    same("ddp", [p.grad for p in ddp.parameters()])
    for p in ddp.parameters():
        p.grad = None
    half = lambda: F.nt_xent(*embed(ddp), group=mesh, schedule="ring") * size / 2  # noqa: E731
    with ddp.no_sync():
        half().backward()
    half().backward()
    same("ddp, two steps", [p.grad for p in ddp.parameters()])
    fsdp = network()
    fully_shard(fsdp, mesh=mesh)
    (F.nt_xent(*embed(fsdp), group=mesh) * size).backward()
    same("fsdp", [p.grad.full_tensor() for p in fsdp.parameters()])

    def summed(net: torch.nn.Module) -> list[Any]:
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        for g in grads:
            dist.all_reduce(g, group=group)
        return grads

    net = network()
    z = checkpoint(net, torch.cat([x[mine], y[mine]]), use_reentrant=False)
    loss = checkpoint(lambda t: F.nt_xent(*t.chunk(2), group=group), z, use_reentrant=False)
    loss.backward()
    same("checkpoint", summed(net))
    net = network()
    torch.compile(lambda a, b: F.nt_xent(a, b, group=group), backend="eager")(*embed(net)).backward()
    same("compile", summed(net))
    net = network()
    with sharded(group):
        torch.compile(lambda a, b: F.nt_xent(a, b) * 1, backend="eager")(*embed(net)).backward()
        fastssl.losses.NTXentLoss()(*embed(network()))
    same("compile, within", summed(net))

    with sharded(group):
        queue = EmbeddingQueue(60, 12, labelled=True, normalize=False, begin="empty")
        first_place = queue.push(x[mine], labels_for(N)[mine])
        kept, ids = queue.filled()
        assigned = F.sinkhorn(x[mine])
        memory = fastssl.losses.CrossBatchMemory(fastssl.losses.ContrastiveLoss(), 12, 120)
        one = memory(x[mine], labels_for(N)[mine]) + memory(y[mine], labels_for(N)[mine])
    memory = fastssl.losses.CrossBatchMemory(fastssl.losses.ContrastiveLoss(), 12, 120)
    other = memory(x, labels_for(N)) + memory(y, labels_for(N))
    if not torch.equal(kept, x) or not torch.equal(ids, labels_for(N)) or first_place != first:
        wrong.append(["queue", rank, first_place])
    if distance(assigned, F.sinkhorn(x)[mine]) > 1e-6 or distance(one, other) > 2e-6:
        wrong.append(["sinkhorn, memory", rank, float(one), float(other)])

    def expect(text: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except (ValueError, TypeError, RuntimeError) as error:
            if text in str(error):
                return
            wrong.append([text, rank, str(error)])
        else:
            wrong.append([text, rank, "no error"])

    width = 12 - rank
    expect(": expected the same features", lambda: F.contrastive(x[:, :width], labels_for(N), group=group))
    t, name = (0.1, 1.1)[rank], ("nt_xent", "dcl")[rank]
    values = f"got {t} on rank {rank} and {(1.1, 0.1)[rank]} on rank {1 - rank}"
    expect(
        f"temperature: expected the same on every process, {values}",
        lambda: F.nt_xent(x, y, temperature=t, group=group),
    )
    with sharded(group):
        expect(f"loss: expected the same on every process, got {name} on", lambda: getattr(F, name)(x, y))
    reduction = ("sum", "mean")[rank]
    expect("reduction: expected the same", lambda: F.triplet(x, labels_for(N), reduction=reduction, group=group))
    optional = x[:3] if rank else None
    expect("negatives: expected the same", lambda: F.info_nce(x, y, optional, group=group))
    expect("schedule: expected one of", lambda: F.nt_xent(x, y, group=group, schedule="star"))
    expect("group: expected 'world'", lambda: F.nt_xent(x, y, group="all"))
    expect("group: expected 'world'", lambda: F.nt_xent(x, y, group=3))
    pairs = (torch.tensor([0]),) * 4
    expect("indices_tuple: expected None", lambda: F.triplet(x, indices_tuple=pairs, group=group))
    expect("indices_tuple: expected None", lambda: F.sup_con(x, indices_tuple=pairs, group=group))
    lone = dist.new_group([dist.get_global_rank(group, 0)], use_local_synchronization=True) if rank == 0 else NOT_MINE
    if rank:
        expect("group: this process is not part of it", lambda: F.nt_xent(x, y, group=lone))
    budget = fastssl.get_memory_budget()
    fastssl.set_memory_budget(budget - rank)
    expect("schedule: 'auto' expects the same memory budget", lambda: F.triplet(x, labels_for(N), group=group))
    fastssl.set_memory_budget(budget)

    def twice() -> None:
        a = x[mine].clone().requires_grad_()
        (g,) = torch.autograd.grad(F.nt_xent(a, y[mine], group=group), a, create_graph=True)
        g.sum().backward()

    expect("have no second derivative", twice)
    none, few = x[:0].clone().requires_grad_(), torch.arange(0)
    for schedule in SCHEDULES:  # no rows anywhere
        if float(F.triplet(none, few, group=group, schedule=schedule)) or float(F.dcl(none, none, group=group)):
            wrong.append(["no rows", rank, schedule])
    own = x if rank == 0 else x[:0]  # all rows are those of one process
    net, alone = network(), network()
    parts = cached_step(net, own, lambda z: F.sup_con(z, labels_for(N)[: len(z)], group=group), chunk=16)
    whole_loss = cached_step(alone, x, lambda z: F.sup_con(z, labels_for(N)), chunk=16)
    expected = [p.grad for p in alone.parameters()]
    same("cached_step, no rows", summed(net))
    if distance(parts, whole_loss) > 2e-6:
        wrong.append(["cached_step, no rows", rank, float(parts)])
    return wrong


NOT_MINE = dist.GroupMember.NON_GROUP_MEMBER
LIMIT = {torch.float64: 1e-12, torch.float32: 2e-6}


def worker(rank: int, out: Path, every: bool) -> None:
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    groups = {  # ranks differ from global ones
        size: dist.new_group(list(range(world - size, world))) for size in COUNTS if size <= world
    }
    wrong: list[list[Any]] = []
    worst = {str(d): 0.0 for d in LIMIT}
    budget = fastssl.get_memory_budget()
    for size, schedule, dtype in EVERY if every else FEW:
        if rank < world - size:
            continue
        # No tile is kept, strips are as low as they can be.
        fastssl.set_memory_budget(1 if schedule == "ring" else budget)
        for name in CASES if every or dtype == torch.float64 else FEW_IN_FLOAT32:
            try:
                found = check(name, size, groups[size], schedule, dtype)
                if size == (3 if every else 2) and dtype == torch.float64:
                    found += check(name, size, groups[size], schedule, dtype, backend="reference")
            except Exception as error:
                raise RuntimeError(f"{name}, {size} processes, {schedule}, {dtype}: {error}") from error
            for what, value in found:
                worst[str(dtype)] = max(worst[str(dtype)], value)
                if not value <= LIMIT[dtype]:
                    wrong.append([name, size, dist.get_rank(groups[size]), schedule, str(dtype), what, value])
    fastssl.set_memory_budget(budget)
    if rank >= world - 2:
        wrong += engines(groups[2])
    (out / f"found.{rank}").write_text(json.dumps({"wrong": wrong, "worst": worst}))
    dist.barrier()
    dist.destroy_process_group()
