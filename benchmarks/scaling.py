"""Losses over several gloo processes on this machine: time, bytes, memory; and a cost model for GPUs. Writes
docs/scaling.md and benchmarks/results/scaling.json.

python benchmarks/scaling.py [--pairs 3] [--page]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import fastssl.functional as F
from fastssl.bench.harness import gemm_rate, machine
from fastssl.bench.memory import status
from fastssl.bench.run import write_atomically
from fastssl.distributed import traffic
from fastssl.distributed.exchange import Exchange
from fastssl.distributed.ring import all_peers, half_of_peers
from fastssl.distributed.shards import resolve
from fastssl.models import build_encoder

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "scaling.json", ROOT / "docs" / "scaling.md"
D = 128
# Published: Cheng et al. 2024, table 1, "Inf-CL": memory of the loss in GB, ViT-L/14 (768 features), A800 80 GB,
# automatic mixed precision, gradient cache of 128, without data offload.
INF_CL = {8: {32: 0.18, 64: 0.36, 128: 0.72, 256: 1.45}, 32: {32: 0.05, 64: 0.09, 128: 0.18, 256: 0.35, 1024: 1.44}}


@dataclass(frozen=True)
class Case:
    """A loss of ``rows`` rows over all processes: of two views together, or of each side; ``flops`` of one forward and
    backward pass that recomputes its tiles."""

    name: str
    call: Callable[..., torch.Tensor]
    flops: Callable[[int, int], float]
    half: bool  # rows against themselves: each pair of blocks once

    def bytes(self, rank: int, counts: list[int], features: int) -> int:
        """The least that a process sends: rows twice (forward, backward) and gradients back, 4 bytes per value."""
        plan, size = half_of_peers if self.half else all_peers, len(counts)
        behind = plan((rank - 1) % size, counts)
        # The ring: what the process behind wants at each step, and the gradients of what one was given.
        rows = sum(b.other.stop - b.other.start for b in behind)
        given = sum(b.other.stop - b.other.start for b in plan(rank, counts))
        return 4 * features * (2 * rows + given)


CASES = {
    "nt_xent": Case(
        "nt_xent", lambda x, y, **o: F.nt_xent(x, y, temperature=0.1, **o), lambda n, d: 4.0 * n * n * d, True
    ),
    "clip": Case("clip", lambda x, y, **o: F.clip_loss(x, y, 10.0, **o), lambda n, d: 8.0 * n * n * d, False),
}


def step_of(case: Case, x: torch.Tensor, y: torch.Tensor, **options: Any) -> Callable[[], None]:
    def step() -> None:
        x.grad = y.grad = None
        case.call(x, y, **options).backward()

    return step


def clock(step: Callable[[], Any]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def counts_of(case: Case, rows: int, size: int) -> list[int]:
    """Rows of one side that every process has."""
    n = rows // 2 if case.half else rows
    return [n * (r + 1) // size - n * r // size for r in range(size)]


def sides(case: Case, rows: int, features: int, rank: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's part of both sides."""
    g = torch.Generator().manual_seed(rank)
    mine = counts_of(case, rows, size)[rank]
    x, y = (torch.nn.functional.normalize(torch.randn(mine, features, generator=g), dim=1) for _ in range(2))
    return x.requires_grad_(), y.requires_grad_()


def worker(rank: int, size: int, port: int, jobs: list[tuple[str, dict[str, Any]]], results: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    for job, options in jobs:
        found: list[Any] = [None] * size
        dist.all_gather_object(found, JOBS[job](rank, size, **options))
        if rank == 0:
            results.put((job, options, found))
    dist.barrier()
    dist.destroy_process_group()


def speed(rank: int, size: int, case: str, rows: int, schedule: str, pairs: int) -> dict[str, Any]:
    """Alternating pairs: rank 0 alone with all rows, the others at rest; then all of them."""
    kind = CASES[case]
    shared = step_of(kind, *sides(kind, rows, D, rank, size), group="world", schedule=schedule)
    alone = step_of(kind, *sides(kind, rows, D, 0, 1))
    shared()
    if rank == 0:
        alone()
    times: list[list[float]] = []
    sent = 0
    for _ in range(pairs):
        dist.barrier()
        single = clock(alone) if rank == 0 else 0.0
        dist.barrier()
        before = traffic.sent
        together = clock(shared)
        sent = traffic.sent - before
        times.append([single, together])
    return {"times": times, "sent": sent}


def memory(rank: int, size: int, case: str, rows: int, schedule: str) -> dict[str, float]:
    """Peak memory of one step above what there was, inputs included there; and the bytes sent."""
    kind = CASES[case]
    step_of(kind, *sides(kind, 1024, D, rank, size), group="world", schedule=schedule)()
    x, y = sides(kind, rows, D, rank, size)
    step = step_of(kind, x, y, group="world", schedule=schedule)
    dist.barrier()
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    sent = traffic.sent
    step()
    least = kind.bytes(rank, [k * (2 if kind.half else 1) for k in counts_of(kind, rows, size)], D)
    return {"peak_mib": status("VmHWM") - before, "sent": traffic.sent - sent, "least": least}


def link(rank: int, size: int, repeats: int = 30) -> list[tuple[int, float]]:
    """Seconds of an exchange with the neighbours, by bytes."""
    shards, found = resolve("world"), []
    for power in (3, 10, 14, 18, 20, 22, 24):
        here, there = torch.zeros(2**power // 4), torch.zeros(2**power // 4)
        times = []
        for _ in range(repeats if power < 22 else 8):
            dist.barrier()
            began = time.perf_counter()
            Exchange(shards, [(here, (rank - 1) % size)], [(there, (rank + 1) % size)]).wait()
            times.append(time.perf_counter() - began)
        found.append((2**power, statistics.median(times)))
    return found


def training(rank: int, size: int, batch: int, pairs: int) -> dict[str, Any]:
    """A SimCLR step (ResNet, 32 pixels): one process with the whole batch, then all under DDP, in turn."""
    encoder = {"name": "resnet", "size": 32, "width": 32}

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(build_encoder(encoder), torch.nn.Flatten(), torch.nn.LazyLinear(64))

    images = torch.randn(2 * batch // size, 3, 32, 32)
    net = network()
    net(images[:2])
    ddp = torch.nn.parallel.DistributedDataParallel(net)
    single, whole = network(), torch.randn(2 * batch, 3, 32, 32)
    single(whole[:2])

    def shared() -> None:
        (F.nt_xent(*ddp(images).chunk(2), group="world") * size).backward()

    def alone() -> None:
        F.nt_xent(*single(whole).chunk(2)).backward()

    shared()
    times = []
    for _ in range(pairs):
        dist.barrier()
        one = clock(alone) if rank == 0 else 0.0
        dist.barrier()
        times.append([one, clock(shared)])
    return {"times": times}


JOBS: dict[str, Callable[..., Any]] = {"speed": speed, "memory": memory, "link": link, "training": training}


def launch(size: int, jobs: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any], list[Any]]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(r, size, port, jobs, queue)) for r in range(size)]
    for p in processes:
        p.start()
    found = [queue.get(timeout=1800) for _ in jobs]
    for p in processes:
        p.join()
    return found


def ratio(found: list[Any]) -> tuple[float, float, float, float]:
    """Median and middle half of one process's time over that of the slowest of all; and the latter's median."""
    per_pair = list(zip(*(f["times"] for f in found)))
    together = [max(t[1] for t in pair) for pair in per_pair]
    ratios = sorted(pair[0][0] / all_ for pair, all_ in zip(per_pair, together))
    quarter = len(ratios) // 4
    return statistics.median(ratios), ratios[quarter], ratios[-1 - quarter], statistics.median(together)


# The cost model: what a step takes on P processes.


@dataclass(frozen=True)
class Machine:
    """``rate``: FLOP/s of a process in these kernels; links: bytes per second and seconds per message."""

    name: str
    rate: float
    bandwidth: float
    latency: float
    node: int = 1 << 30  # processes that the first kind of link connects
    far_bandwidth: float = 0.0
    far_latency: float = 0.0

    def links(self, size: int) -> tuple[float, float]:
        """The slowest link of a ring."""
        return (self.bandwidth, self.latency) if size <= self.node else (self.far_bandwidth, self.far_latency)


def predict(m: Machine, rows: int, features: int, size: int, schedule: str, width: int = 4) -> dict[str, float]:
    """Seconds and bytes of memory of a CLIP step's loss: ``rows`` images and texts each.

    Compute: 8 N^2 D / P flops. all_gather: (P - 1) n D values arrive before anything is computed, gradients of as many
    go back. ring: as many, but a step's transfer hides behind the block before it, forward and backward.
    """
    bandwidth, latency = m.links(size)
    n = rows / size
    compute = 8.0 * rows * n * features / m.rate
    block, grads = n * features * width / bandwidth, n * features * 4 / bandwidth
    steps = size - 1
    if schedule == "all_gather":
        seconds = compute + steps * (block + grads) + 2 * latency * math.ceil(math.log2(max(2, size)))
        # All texts, gradients of own rows, one block's gradient and one that arrives.
        memory = rows * features * width + n * features * (2 * 4 + 2 * 4)
    else:
        forward, backward = compute / 4 / size, 3 * compute / 4 / size
        seconds = (
            forward + backward + steps * (max(forward, block + latency) + max(backward, block + grads + 2 * latency))
        )
        # Two travelling blocks, gradients of own rows, one block's gradient and one that arrives.
        memory = n * features * (2 * width + 2 * 4 + 2 * 4)
    return {"seconds": seconds, "memory": memory, "compute": compute}


GPU = Machine(
    "H100, NVLink 4 in a node of 8, InfiniBand NDR (400 Gb/s) per GPU", 0.5 * 989e12, 450e9, 8e-6, 8, 50e9, 15e-6
)


def fit(results: dict[str, Any]) -> Machine:
    """This machine: the rate of one process, and the line through the times of exchanges."""
    points = results["link"]
    sizes, seconds = [float(b) for b, _ in points], [s for _, s in points]
    latency = seconds[0]
    bandwidth = sizes[-1] / max(1e-9, seconds[-1] - latency)
    rates = [r["flops"] / r["alone"] for r in results["speed"] if r["case"] == "clip"]
    return Machine("this machine", statistics.median(rates), bandwidth, latency)


def page(results: dict[str, Any]) -> str:
    m, here = results["machine"], fit(results)
    lines = [
        "# Losses over several processes",
        "",
        f"{m['cpu']}, {m['threads']} cores, gloo over the loopback, one thread per process; GEMM {results['gemm'] / 1e9:.0f} GFLOP/s on all cores. "
        "`python benchmarks/scaling.py` repeats everything on this page.",
        "",
        "## Communication volume, and its lower bound",
        "",
        "P processes hold n = N / P rows of D values each. With X = Y (NT-Xent, SupCon) every pair of "
        "blocks is computed once: each process receives floor(P / 2) blocks, and for even P the last one is shared by the two opposite "
        "processes, one of which needs half the rows. The rows of a block are sent once for the sums and once for the gradients, and its "
        "gradient is sent back: 3 n D values per block. Two sets of rows (InfoNCE, CLIP, SigLIP) need P - 1 blocks. Column "
        "sums and the column statistics for the gradients are 24 bytes per row, besides 12 D: they make the difference between lower bound and sent.",
        "",
        "| loss | schedule | processes | rows | peak memory above the inputs, MiB per process | sent, MiB | lower bound, MiB | sent / bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results["memory"]:
        sent, least = max(f["sent"] for f in r["found"]), max(f["least"] for f in r["found"])
        over = max(f["sent"] / f["least"] for f in r["found"])
        peak = max(f["peak_mib"] for f in r["found"])
        least_text = f"{least / 2**20:.2f} | {over:.3f}" if r["schedule"] == "ring" else "| "
        lines.append(
            f"| {r['case']} | {r['schedule']} | {r['size']} | {r['rows']:,} | {peak:.1f} | {sent / 2**20:.2f} | {least_text} |"
        )
    lines += [
        "",
        f"## Time: one process against P processes (D = {D}, forward and backward)",
        "",
        "Alternating pairs: median of the ratios, interquartile range in brackets. The machine has two cores, also for 4 processes. Tiles of the forward pass are kept if they "
        "fit the memory budget, which saves a quarter of the arithmetic: one process keeps them for 8,192 rows, for 16,384 only the processes of all_gather do; the ring never does. Local batches are smaller, for batch norm and for the caches.",
        "",
        "| loss | schedule | processes | rows | speedup over one process | time, ms | model, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results["speed"]:
        model = ""
        if r["case"] == "clip":
            seconds = predict(here, r["rows"], D, r["size"], r["schedule"])["seconds"] * max(
                1, r["size"] / m["threads"]
            )
            model = f"{1000 * seconds:,.0f}"
        lines.append(
            f"| {r['case']} | {r['schedule']} | {r['size']} | {r['rows']:,} ({r['kind']}) | {r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f}) | "
            f"{1000 * r['seconds']:,.0f} | {model} |"
        )
    for r in results["training"]:
        lines.append(
            f"| SimCLR step, ResNet, 32 pixels, DDP | auto | {r['size']} | batch {r['batch']} | {r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f}) | "
            f"{1000 * r['seconds']:,.0f} | |"
        )
    lines += [
        "",
        f"The model of this machine: {here.rate / 1e9:.0f} GFLOP/s per process, {here.bandwidth / 1e9:.2f} GB/s and {1e6 * here.latency:.0f} us per message, fitted to the loss of "
        "one process and to exchanges of 8 bytes to 16 MiB.",
        "",
        "## Model of GPUs",
        "",
        f"Not measured: {GPU.name}; half of the dense bf16 peak in the kernels ({GPU.rate / 1e12:.0f} TFLOP/s), {GPU.bandwidth / 1e9:.0f} GB/s and {1e6 * GPU.latency:.0f} us in a node, "
        f"{GPU.far_bandwidth / 1e9:.0f} GB/s and {1e6 * GPU.far_latency:.0f} us between nodes. CLIP loss, 768 features in bf16, gradients in fp32. Memory: that of the schedule besides its inputs, without the kernels' tiles.",
        "",
        "| GPUs | batch | all_gather, s | ring, s | of it compute | all_gather, GB per GPU | ring, GB per GPU | chosen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in (8, 32, 128, 512, 2048, 16384):
        for batch in (2**15, 2**18, 2**20, 2**22, 2**24):
            if batch < 16 * size:
                continue
            gathered, ring = (predict(GPU, batch, 768, size, s, 2) for s in ("all_gather", "ring"))
            # A tenth of 80 GB is for the loss.
            fits = gathered["memory"] <= 8e9
            chosen = "all_gather" if fits and gathered["seconds"] <= ring["seconds"] else "ring"
            lines.append(
                f"| {size:,} | {batch:,} | {gathered['seconds']:.3g} | {ring['seconds']:.3g} | {ring['compute'] / ring['seconds']:.0%} | "
                f"{gathered['memory'] / 1e9:.2f} | {ring['memory'] / 1e9:.2f} | {chosen} |"
            )
    lines += [
        "",
        "## Beside Inf-CL's published memory",
        "",
        "Inf-CL (Cheng et al. 2024, table 1) publishes the memory of the loss with ViT-L/14 (768 features) on A800 80 GB GPUs with mixed precision, and time only for whole training steps (figure 4), in which the loss hardly counts. Ours is the model "
        "above with features in fp32, as automatic mixed precision leaves them; it is arithmetic, no measurement on a GPU.",
        "",
        "| GPUs | batch | Inf-CL, GB a GPU (published) | ring here, GB a GPU (model) |",
        "|---|---|---|---|",
    ]
    for size, rows in INF_CL.items():
        for thousands, published in rows.items():
            ours = predict(GPU, thousands * 1024, 768, size, "ring", 4)["memory"]
            lines.append(f"| {size} | {thousands}k | {published:.2f} | {ours / 1e9:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="only write the page again")
    options = parser.parse_args()
    if options.page:
        results = json.loads(RESULTS.read_text())
    else:
        results = {"machine": machine(), "gemm": gemm_rate(), "speed": [], "memory": [], "training": []}
        for size in (2, 4):
            jobs: list[tuple[str, dict[str, Any]]] = []
            for case in CASES:
                for schedule in ("all_gather", "ring"):
                    for rows in (16384, 8192) if size == 2 else (16384,):  # weak scaling: 4,096 rows per process
                        jobs.append(
                            ("speed", {"case": case, "rows": rows, "schedule": schedule, "pairs": options.pairs})
                        )
                    if size == 4:
                        jobs.append(("memory", {"case": case, "rows": 32768, "schedule": schedule}))
            jobs += [("training", {"batch": 256, "pairs": options.pairs})]
            jobs += [("link", {})] if size == 2 else []
            for job, given, found in launch(size, jobs):
                print(size, job, given, flush=True)
                if job == "link":
                    results["link"] = found[0]
                elif job == "memory":
                    results["memory"].append({**given, "size": size, "found": found})
                else:
                    median, low, high, seconds = ratio(found)
                    alone = statistics.median(t[0] for t in found[0]["times"])
                    row = {
                        **given,
                        "size": size,
                        "ratio": median,
                        "low": low,
                        "high": high,
                        "seconds": seconds,
                        "alone": alone,
                    }
                    if job == "speed":
                        row["kind"] = f"{given['rows'] // size:,} a process"
                        row["flops"] = CASES[given["case"]].flops(given["rows"], D)
                    results[job].append(row)
            write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    write_atomically(PAGE, page(results))


if __name__ == "__main__":
    main()
