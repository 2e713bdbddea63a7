"""Run by test_distributed: every pair loss over 1 to 8 processes against the same loss in one, both schedules.

Eight processes, once; smaller worlds are groups of them. What is wrong goes to the file that is named first.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import fastssl
import fastssl.functional as F
import fastssl.losses
from fastssl.distributed import EmbeddingQueue, sharded

WORLD = 8
# How N = 41 rows lie over a world, and 26 of a memory: uneven, with processes that have none.
COUNTS = {
    1: ([41], [26]),
    2: ([37, 4], [0, 26]),
    3: ([20, 0, 21], [9, 9, 8]),
    4: ([1, 17, 3, 20], [6, 20, 0, 0]),
    8: ([9, 0, 5, 7, 1, 2, 17, 0], [0, 1, 2, 3, 4, 5, 6, 5]),
}
Case = tuple[Callable[..., Tensor], str]


def labels(n: int, classes: int = 7) -> Tensor:
    return (torch.arange(n) * 5 + torch.arange(n) // 11) % classes


def term(s: Tensor, pairs: Any) -> Tensor:
    return torch.where(pairs.positive, 1 - s, torch.where(pairs.negative, s.clamp(min=0) ** 2, 0 * s))


def warm(s: Tensor, pairs: Any, t: Tensor) -> Tensor:
    return torch.where(pairs.positive, s, torch.exp(-s / t)).sum(1)


# What each takes: x, y: 41 rows; m: 26 rows; c, k: labels of 41 and 26; p, t, s: tensors that every process has.
CASES: dict[str, Case] = {
    "nt_xent": (lambda x, y, t, **o: F.nt_xent(x, y, temperature=t, **o), "xyt"),
    "nt_xent, cold": (lambda x, y, **o: F.nt_xent(x, y, temperature=0.01, **o), "xy"),
    "nt_xent, as they are": (lambda x, y, **o: F.nt_xent(x, y, normalize=False, **o), "xy"),
    "nt_xent, none": (lambda x, y, **o: F.nt_xent(x, y, reduction="none", **o), "xy"),
    "info_nce": (lambda x, y, t, **o: F.info_nce(x, y, temperature=t, **o), "xyt"),
    "info_nce, sum": (lambda x, y, **o: F.info_nce(x, y, reduction="sum", **o), "xy"),
    "info_nce, symmetric": (lambda x, y, t, **o: F.info_nce(x, y, temperature=t, symmetric=True, **o), "xyt"),
    "info_nce, queue": (lambda x, y, m, **o: F.info_nce(x, y, m, **o), "xym"),
    "info_nce, same queue": (lambda x, y, p, **o: F.info_nce(x, y, p, replicated_negatives=True, **o), "xyp"),
    "clip": (lambda x, y, s, **o: F.clip_loss(x, y, s, **o), "xys"),
    "siglip": (lambda x, y, s, t, **o: F.siglip_loss(x, y, s, t, **o), "xyst"),
    "siglip, none": (lambda x, y, **o: F.siglip_loss(x, y, 2.0, -1.0, reduction="none", **o), "xy"),
    "sup_con": (lambda x, c, t, **o: F.sup_con(x, c, temperature=t, **o), "xct"),
    "sup_con, pairs": (lambda x, c, **o: F.sup_con(x, c // 2, **o), "xi"),
    "sup_con, memory": (
        lambda x, c, m, k, t, **o: F.sup_con(x, c, ref_emb=m, ref_labels=k, temperature=t, **o),
        "xcmkt",
    ),
    "multi_nt_xent": (lambda x, c, t, **o: F.multi_nt_xent(x, c, temperature=t, **o), "xct"),
    "mil_nce": (lambda x, c, **o: F.mil_nce(x, c, **o), "xc"),
    "dcl": (lambda x, y, **o: F.dcl(x, y, **o), "xy"),
    "dcl, weighted": (lambda x, y, **o: F.dcl(x, y, sigma=0.5, **o), "xy"),
    "hard_negative": (lambda x, y, **o: F.hard_negative_nt_xent(x, y, **o), "xy"),
    "debiased": (lambda x, y, **o: F.debiased_nt_xent(x, y, reduction="sum", **o), "xy"),
    "alignment": (lambda x, y, **o: F.alignment(x, y, **o), "xy"),
    "uniformity": (lambda x, **o: F.uniformity(x, **o), "x"),
    "contrastive": (lambda x, c, **o: F.contrastive(x, c, margin=3.0, **o), "xc"),
    "contrastive, memory": (lambda x, c, m, k, **o: F.contrastive(x, c, ref_emb=m, ref_labels=k, **o), "xcmk"),
    "contrastive, sum": (lambda x, c, **o: F.contrastive(x, c, margin=3.0, reduction="sum", **o), "xc"),
    "triplet": (lambda x, c, **o: F.triplet(x, c, **o), "xc"),
    "triplet, active": (lambda x, c, **o: F.triplet(x, c, reduction="active", squared=True, **o), "xc"),
    "triplet, hard": (lambda x, c, **o: F.triplet(x, c, mining="hard", smooth=True, **o), "xc"),
    "triplet, semihard": (lambda x, c, **o: F.triplet(x, c, mining="semihard", margin=1.0, reduction="sum", **o), "xc"),
    "lifted": (lambda x, c, **o: F.lifted_structure(x, c, margin=3.0, **o), "xc"),
    "lifted, J": (lambda x, c, **o: F.lifted_structure(x, c, squared_hinge=False, **o), "xc"),
    "generalized lifted": (lambda x, c, **o: F.generalized_lifted_structure(x, c, margin=3.0, **o), "xc"),
    "n_pair": (lambda x, y, **o: F.n_pair(x, y, l2_reg=0.1, **o), "xy"),
    "soft nearest": (lambda x, c, s, **o: F.soft_nearest_neighbor(x, c, temperature=s, **o), "xcs"),
    "nca": (lambda x, c, **o: F.nca(x, c, log=True, **o), "xc"),
    "multi_similarity": (lambda x, c, **o: F.multi_similarity(x, c, **o), "xc"),
    "circle": (lambda x, c, **o: F.circle(x, c, gamma=20, **o), "xc"),
    "margin": (lambda x, c, b, **o: F.margin_loss(x, c, beta=b, nu=0.1, **o), "xcb"),
    "tuplet_margin": (lambda x, c, **o: F.tuplet_margin(x, c, scale=8, **o), "xc"),
    "fast_ap": (lambda x, c, **o: F.fast_ap(x, c, **o), "xc"),
    "angular": (lambda x, c, **o: F.angular(x, c, **o), "xc"),
    "angular, memory": (lambda x, c, m, k, **o: F.angular(x, c, ref_emb=m, ref_labels=k, **o), "xcmk"),
    "ranked_list": (lambda x, c, **o: F.ranked_list(x, c, **o), "xc"),
    "normalized_softmax": (lambda x, p, c, **o: F.normalized_softmax(x, p, c, **o), "xpc"),
    "cos_face": (lambda x, p, c, **o: F.cos_face(x, p, c, **o), "xpc"),
    "arc_face": (lambda x, p, c, **o: F.arc_face(x, p, c, **o), "xpc"),
    "proxy_nca": (lambda x, p, c, **o: F.proxy_nca(x, p, c, **o), "xpc"),
    "proxy_anchor": (lambda x, p, c, **o: F.proxy_anchor(x, p, c, **o), "xpc"),
    "linear_cross_entropy": (lambda x, p, c, **o: F.linear_cross_entropy(x, p, c - (c == 2) * 102, **o), "xpc"),
    "nce": (lambda u, v, **o: F.nce(u, v, **o), "uv"),
    "negative_sampling": (
        lambda x, p, c, **o: F.negative_sampling(x, p, c, torch.stack([c, (c + 1) % 7], 1), **o),
        "xpc",
    ),
    "barlow_twins": (lambda x, y, schedule="", **o: F.barlow_twins(x, y, **o), "xy"),
    "vicreg": (lambda x, y, schedule="", **o: F.vicreg(x, y, **o), "xy"),
    "pair_loss, parameter": (
        lambda x, y, t, **o: F.pair_loss(x, y, term=warm, parameters=(t,), score="euclidean", reduction="none", **o),
        "xyt",
    ),
    "pair_loss": (lambda x, c, **o: F.pair_loss(x, term=term, labels=c, **o), "xc"),
}
ROWS, MEMORY = "xycuvi", "mk"


def inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    return {
        "x": randn(41, 12),
        "y": randn(41, 12),
        "m": randn(26, 12),
        "c": labels(41),
        "i": torch.arange(41),
        "k": labels(26),
        "p": randn(7, 12),
        "b": 1 + randn(7).abs(),
        "t": torch.tensor(0.3, dtype=dtype),
        "s": torch.tensor(2.0, dtype=dtype),
        "u": randn(41),
        "v": randn(41, 3),
    }


def run(
    call: Callable[..., Tensor], names: str, tensors: dict[str, Tensor], **options: Any
) -> tuple[Tensor, list[Any]]:
    leaves = [tensors[n].clone().requires_grad_(tensors[n].is_floating_point()) for n in names]
    loss = call(*leaves, **options)
    weight = torch.arange(1, loss.numel() + 1, dtype=loss.dtype).reshape(loss.shape)
    if loss.dim():  # each row its own upstream gradient
        weight = weight + options.get("_first", 0)
    grads = torch.autograd.grad(loss, [t for t in leaves if t.requires_grad], weight if loss.dim() else None)
    return loss.detach(), list(grads)


def distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    size = float(b.double().norm())
    return float((a.double() - b.double()).norm()) / max(size, 1e-12)


def check(
    name: str, size: int, group: Any, schedule: str, dtype: torch.dtype, backend: str | None = None
) -> list[tuple[str, float]]:
    """Relative distances of the loss and of every gradient from one process."""
    call, names = CASES[name]
    rank = dist.get_rank(group)
    every = inputs(dtype)
    mine = dict(every)
    for letters, counts in zip((ROWS, MEMORY), COUNTS[size]):
        first = sum(counts[:rank])
        for letter in letters:
            if letter in every:
                mine[letter] = every[letter][first : first + counts[rank]]
    if backend is not None:
        call = (
            functools.partial(call, backend=backend)
            if name not in ("alignment", "nce", "barlow_twins", "vicreg")
            else call
        )
    whole, grads = run(call, names, every)
    if whole.dim():  # two views: first all first ones here, but all of a process there; a mean says as much
        whole, grads = run(lambda *a, **o: call(*a, **o).sum(), names, every)
        loss, got = run(lambda *a, **o: fold(call(*a, group=group, schedule=schedule, **o), group), names, mine)
    else:
        loss, got = run(call, names, mine, group=group, schedule=schedule)
    found = [("loss", distance(loss, whole))]
    letters = [n for n in names if every[n].is_floating_point()]
    for letter, g, expected in zip(letters, got, grads):
        counts = COUNTS[size][0 if letter in ROWS else 1]
        if letter in ROWS + MEMORY:
            first = sum(counts[:rank])
            part = expected[first : first + counts[rank]]
            # Relative to the whole gradient: a row's own may be tiny.
            size_of = max(float(expected.double().norm()), 1e-12)
            found.append((letter, float((g.double() - part.double()).norm()) / size_of))
        else:  # a share; the sum is the gradient
            total = g.clone()
            dist.all_reduce(total, group=group)
            found.append((letter, distance(total, expected)))
    return found


def fold(values: Tensor, group: Any) -> Tensor:
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
    x, y = inputs(torch.float32)["x"], inputs(torch.float32)["y"]
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
        first_place = queue.push(x[mine], labels(41)[mine])
        kept, ids = queue.filled()
        assigned = F.sinkhorn(x[mine])
        memory = fastssl.losses.CrossBatchMemory(fastssl.losses.ContrastiveLoss(), 12, 120)
        one = memory(x[mine], labels(41)[mine]) + memory(y[mine], labels(41)[mine])
    memory = fastssl.losses.CrossBatchMemory(fastssl.losses.ContrastiveLoss(), 12, 120)
    other = memory(x, labels(41)) + memory(y, labels(41))
    if not torch.equal(kept, x) or not torch.equal(ids, labels(41)) or first_place != first:
        wrong.append(["queue", rank, first_place])
    if distance(assigned, F.sinkhorn(x)[mine]) > 1e-6 or distance(one, other) > 2e-6:
        wrong.append(["sinkhorn, memory", rank, float(one), float(other)])

    def expect(text: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except (ValueError, TypeError) as error:
            if text in str(error):
                return
            wrong.append([text, rank, str(error)])
        else:
            wrong.append([text, rank, "no error"])

    width = 12 - rank
    expect(": expected the same features", lambda: F.contrastive(x[:, :width], labels(41), group=group))
    expect("schedule: expected one of", lambda: F.nt_xent(x, y, group=group, schedule="star"))
    expect("group: expected 'world'", lambda: F.nt_xent(x, y, group="all"))
    expect("group: expected 'world'", lambda: F.nt_xent(x, y, group=3))
    pairs = (torch.tensor([0]),) * 4
    expect("indices_tuple: expected None", lambda: F.triplet(x, indices_tuple=pairs, group=group))
    expect("indices_tuple: expected None", lambda: F.sup_con(x, indices_tuple=pairs, group=group))
    return wrong


LIMIT = {torch.float64: 1e-12, torch.float32: 2e-6}


def worker(rank: int, port: int, out: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    groups = {
        size: dist.new_group(list(range(WORLD - size, WORLD))) for size in COUNTS
    }  # ranks differ from global ones
    wrong: list[list[Any]] = []
    worst = {str(d): 0.0 for d in LIMIT}
    budget = fastssl.get_memory_budget()
    for size, group in groups.items():
        if rank < WORLD - size:
            continue
        for name in CASES:
            for dtype in LIMIT:
                for schedule in ("all_gather", "ring"):
                    # No tile is kept, strips are as low as they can be.
                    fastssl.set_memory_budget(1 if schedule == "ring" else budget)
                    try:
                        found = check(name, size, group, schedule, dtype)
                        if size == 3 and dtype == torch.float64:
                            found += check(name, size, group, schedule, dtype, backend="reference")
                    except Exception as error:
                        raise RuntimeError(f"{name}, {size} processes, {schedule}, {dtype}: {error}") from error
                    for what, value in found:
                        worst[str(dtype)] = max(worst[str(dtype)], value)
                        if not value <= LIMIT[dtype]:
                            wrong.append([name, size, dist.get_rank(group), schedule, str(dtype), what, value])
    fastssl.set_memory_budget(budget)
    if rank >= WORLD - 2:
        wrong += engines(groups[2])
    Path(f"{out}.{rank}").write_text(json.dumps({"wrong": wrong, "worst": worst}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(worker, (int(sys.argv[2]), sys.argv[1]), nprocs=WORLD)
    print(fastssl.__version__)
