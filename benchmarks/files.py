"""From JPEG files to the encoder: images per second against torchvision, waiting time, memory, large listings.

python benchmarks/files.py rate|memory|listing... [--folder FOLDER] [--page]

Makes its files (500 x 375 pixels, quality 90) in FOLDER. ``rate`` needs torchvision. Adds to
benchmarks/results/files.json; ``--page`` writes the tables of docs/data.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import replace
from PIL import Image

import fastssl.data
from fastssl.bench.harness import machine
from fastssl.bench.memory import status
from fastssl.bench.run import write_atomically
from fastssl.data import Loader, Source, loader, threads
from fastssl.data.batch import Batch
from fastssl.methods import SimCLR
from fastssl.models import build_encoder
from fastssl.train import Pretraining, pretrain

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "files.json", ROOT / "docs" / "data.md"
SIZE, BATCH, SKIPPED = 64, 32, 2
STEMS = {"imagenet": "ImageNet's stem", "cifar": "32-pixel stem"}
PAIRS = {"imagenet": 5, "cifar": 3}
STEPS = {"imagenet": 8, "cifar": 3}
IDLE = 1.5  # load of a machine of two cores on which images per second mean something


def make_files(folder: Path, count: int, different: int = 512) -> Path:
    """Photographs of noise of several scales, about 60 kB each; more than ``different`` are links to these."""
    if (folder / str(count)).exists():
        return folder / str(count)
    root = folder / f"{count}.{os.getpid()}.making"
    rng = np.random.default_rng(0)
    for k in range(min(count, different)):
        path = root / f"class{k % 10}" / f"{k:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        total = np.zeros((375, 500, 3))
        for scale, weight in ((8, 60), (32, 40), (125, 25), (375, 8)):
            noise = rng.normal(0, 1, (scale * 3 // 4 + 1, scale, 3)).astype(np.float32)
            layers = [Image.fromarray(noise[:, :, c]).resize((500, 375), Image.Resampling.BICUBIC) for c in range(3)]
            total += weight * np.stack([np.asarray(layer) for layer in layers], 2)
        Image.fromarray((total + 128).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    for k in range(different, count):
        target = root / f"class{k % different % 10}" / f"{k % different:06}.jpg"
        os.link(target, target.with_name(f"{k:06}.jpg"))
    root.rename(folder / str(count))
    return folder / str(count)


def model(stem: str) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(build_encoder({"name": "resnet18", "size": SIZE, "stem": stem}))


# Images a second.


def cpu() -> float:
    """Seconds of all cores that this process and its threads have had."""
    times = os.times()
    return times.user + times.system


def children() -> float:
    """Those of processes that it started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def ours(root: Path, stem: str, out: Path) -> dict[str, float]:
    """``pretrain simclr --encoder resnet18``: images per second, CPU time per image, the share of a step that waits."""
    ends, spent, waits = [], [], []

    def on_step(progress: Any) -> None:
        ends.append(time.perf_counter())
        spent.append(cpu())
        waits.append(progress.waiting)

    images = fastssl.data.open(root).subset(np.arange(BATCH * (STEPS[stem] + SKIPPED)))
    options = Pretraining(epochs=1, batch_size=BATCH, warmup_epochs=0, checkpoint_minutes=1e6)
    pretrain(model(stem), images, options, out=out, overwrite=True, on_step=on_step)
    count = BATCH * STEPS[stem]
    return {
        "rate": count / (ends[-1] - ends[SKIPPED - 1]),
        "cpu_ms": 1e3 * (spent[-1] - spent[SKIPPED - 1]) / count,
        "waiting": waits[-1],
    }


def policy() -> Any:
    """SimCLR's views as torchvision makes them: what ``SimCLRAugment(64)`` draws."""
    from torchvision import transforms as T

    jitter = T.ColorJitter(0.8, 0.8, 0.8, 0.2)
    return T.Compose(
        [
            T.RandomResizedCrop(SIZE),
            T.RandomHorizontalFlip(),
            T.RandomApply([jitter], 0.8),
            T.RandomGrayscale(0.2),
            T.RandomApply([T.GaussianBlur(2 * (SIZE // 20) + 1, (0.1, 2.0))], 0.5),
            T.ToTensor(),
            T.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


class TwoViews:
    def __init__(self) -> None:
        self.make = policy()

    def __call__(self, image: Any) -> Any:
        return self.make(image), self.make(image)


PRECISION = Pretraining().resolved_precision  # of ``pretrain`` on this machine


def steps(stem: str, batches: Iterable[Batch], bf16: bool = False) -> dict[str, float]:
    """The same steps in a plain loop: images per second, CPU time per image of this process."""
    method = model(stem).train()
    optimizer = torch.optim.AdamW(method.parameters(), 2e-3)
    began = spent = 0.0
    for k, batch in enumerate(batches):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = method(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if k + 1 == SKIPPED:
            began, spent = time.perf_counter(), cpu()
    count = BATCH * STEPS[stem]
    return {"rate": count / (time.perf_counter() - began), "cpu_ms": 1e3 * (cpu() - spent) / count}


def their_loader(root: Path, images: int) -> Any:
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import ImageFolder

    data = Subset(ImageFolder(str(root), TwoViews()), range(images))
    return DataLoader(data, BATCH, shuffle=True, num_workers=2, drop_last=True)


def theirs(root: Path, stem: str) -> dict[str, float]:
    """The same method, fed by ImageFolder, transforms and a DataLoader with two workers."""
    images = BATCH * (STEPS[stem] + SKIPPED)
    before, ids = children(), torch.arange(BATCH)
    found = steps(stem, (Batch(list(views), None, ids) for views, _ in their_loader(root, images)))
    gc.collect()  # workers are counted when they have ended
    found["cpu_ms"] += 1e3 * (children() - before) / images
    return found


def encoder_alone(stem: str) -> dict[str, float]:
    """The same steps on a batch that is ready, in the precision of ``pretrain``."""
    views = [torch.rand(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    batches = (Batch(views, None, torch.arange(BATCH)) for _ in range(STEPS[stem] + SKIPPED))
    return steps(stem, batches, PRECISION == "bf16-mixed")


def loader_alone(source: Source, workers: int | None = None) -> dict[str, float]:
    began, spent = time.perf_counter(), cpu()
    count = sum(len(batch.ids) for batch in Loader(source, model("imagenet"), BATCH, workers=workers))
    return {"rate": count / (time.perf_counter() - began), "cpu_ms": 1e3 * (cpu() - spent) / count}


def their_loader_alone(root: Path, images: int) -> dict[str, float]:
    began, before = time.perf_counter(), children()
    count = sum(len(labels) for _, labels in their_loader(root, images))
    seconds = time.perf_counter() - began
    gc.collect()
    return {"rate": count / seconds, "cpu_ms": 1e3 * (children() - before) / count}


def on_cores(own: set[int], others: set[int]) -> Callable[[int], ThreadPoolExecutor]:
    """This thread on some cores, threads of loaders on others: a pool of such threads."""
    os.sched_setaffinity(0, own)
    real = threads._alone

    def alone() -> None:
        real()
        os.sched_setaffinity(0, others)

    return lambda workers: ThreadPoolExecutor(workers, initializer=alone)


def apart(root: Path, stem: str) -> dict[str, float]:
    """Encoder on one core, loader on another: beside each of them alone. Run in a process of its own."""
    torch.set_num_threads(1)
    source = fastssl.data.open(root).subset(np.arange(BATCH * 12))
    loader.background_pool = on_cores({0}, {1})  # type: ignore[assignment]
    rates: dict[str, list[float]] = {"together": [], "encoder": [], "loader": []}
    for _ in range(3):
        rates["encoder"].append(encoder_alone(stem)["rate"])
        rates["loader"].append(loader_alone(source, 1)["rate"])
        with tempfile.TemporaryDirectory() as out:
            rates["together"].append(ours(root, stem, Path(out))["rate"])
    return {name: statistics.median(values) for name, values in rates.items()}


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def rate(folder: Path) -> dict[str, Any]:
    root, count = make_files(folder, 1024), 256
    torch.set_num_threads(1)  # threads that wait for each other take CPU time too
    source = fastssl.data.open(root).subset(np.arange(count))
    loaders = [(loader_alone(source), their_loader_alone(root, count)) for _ in range(3)]
    found: dict[str, Any] = {"batch": BATCH, "size": SIZE, "load": os.getloadavg()[0], "precision": PRECISION}
    found["loader"], found["their_loader"] = (medians(runs) for runs in zip(*loaders))
    for stem in STEMS:
        runs = []
        with tempfile.TemporaryDirectory() as out:
            for _ in range(PAIRS[stem]):
                runs.append((ours(root, stem, Path(out)), theirs(root, stem), encoder_alone(stem)))
                print(stem, runs[-1], flush=True)
        found[stem] = {
            **{name: medians(each) for name, each in zip(("ours", "theirs", "encoder"), zip(*runs))},
            "ratios": [a["rate"] / b["rate"] for a, b, _ in runs],
            "cpu_ratios": [b["cpu_ms"] / a["cpu_ms"] for a, b, _ in runs],
        }
    found["apart"] = json.loads(_fresh("apart", str(root), "imagenet"))
    return found


# Memory.


EPOCHS, LAST = 3, 20  # steps at an epoch's end over which the median is taken: prefetched batches come and go


def epochs_of(root: Path) -> dict[str, list[float]]:
    """Resident MiB of ``pretrain`` at the end of each epoch (median of the last steps), and the most in each."""
    torch.manual_seed(0)
    method = SimCLR(build_encoder({"name": "resnet", "size": 32, "width": 8}))
    resident: list[list[float]] = [[] for _ in range(EPOCHS)]

    def on_step(progress: Any) -> None:
        resident[progress.epoch].append(status("VmRSS"))

    with tempfile.TemporaryDirectory() as out:
        options = Pretraining(epochs=EPOCHS, batch_size=128, warmup_epochs=0, checkpoint_minutes=1e6)
        pretrain(method, root, options, out=Path(out), on_step=on_step)
    return {
        "mib_after_epochs": [statistics.median(epoch[-LAST:]) for epoch in resident],
        "most_mib": [max(epoch) for epoch in resident],
    }


def memory(folder: Path) -> dict[str, Any]:
    root = make_files(folder, 20_000)
    return {"files": 20_000, **json.loads(_fresh("epochs", str(root)))}


# Long listings.


def _million(folder: Path) -> Path:
    root = folder / "million"
    if not (root / "999").is_dir():
        for c in range(1000):
            (root / f"{c:03}.making").mkdir(parents=True)
            for k in range(1000):
                os.close(os.open(root / f"{c:03}.making" / f"{k:06}.jpg", os.O_CREAT))
            (root / f"{c:03}.making").rename(root / f"{c:03}")
    return root


def start(root: Path) -> dict[str, float]:
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of importing torch
    began = time.perf_counter()
    source = fastssl.data.open(root)
    seconds = time.perf_counter() - began
    assert len(source) == 1_000_000 and source.labels is not None and source.labels.dtype == np.int32
    return {"seconds": seconds, "mib": status("VmRSS") - before, "peak_mib": status("VmHWM") - before}


def listing(folder: Path) -> dict[str, Any]:
    root = _million(folder)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FASTSSL_CACHE"] = cache
        first, second = (json.loads(_fresh("start", str(root))) for _ in range(2))
    return {"files": 1_000_000, "first": first, "second": second}


def _fresh(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False, env={**os.environ}
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()[-1]


def page(results: dict[str, Any]) -> Iterator[str]:
    m = results["rate" if "rate" in results else next(iter(results))]["machine"]
    yield f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}; JPEG files of 500 x 375 pixels that the script makes."

    def other(what: str) -> str:
        own = results[what]["machine"]
        return "" if own["torch"] == m["torch"] else f" (torch {own['torch']})"

    yield ""
    if "rate" in results:
        r = results["rate"]
        yield "`python benchmarks/files.py rate --page` (needs torchvision) repeats this: SimCLR on ResNet-18 at 64 pixels, batches of 32, one thread for the encoder; the same"
        yield "method and optimiser fed by `ImageFolder`, torchvision's transforms and a `DataLoader` with 2 workers, alternating, medians. CPU time is that of all threads and"
        idle = r["load"] < IDLE
        busy = f" The machine had other load ({r['load']:.1f}): images per second are omitted."
        bf16 = "bf16, which this processor multiplies faster than fp32; the plain loop in fp32, as such loops are"
        how = bf16 if r["precision"] == "bf16-mixed" else "fp32, as the plain loop"
        yield f"workers, which matters when cores are shared.{'' if idle else busy} `pretrain` chose {how}."
        yield ""
        yield "| ms of CPU per image | `pretrain` | torchvision | ratio | encoder only | images/s: `pretrain`, torchvision | waiting for data |"
        yield "|---|---|---|---|---|---|---|"
        for stem, name in STEMS.items():
            s = r[stem]
            rates = f"{s['ours']['rate']:.1f}, {s['theirs']['rate']:.1f} (ratio {statistics.median(s['ratios']):.2f})"
            yield (
                f"| ResNet-18, {name} | {s['ours']['cpu_ms']:.1f} | {s['theirs']['cpu_ms']:.1f} | **{statistics.median(s['cpu_ratios']):.2f}** "
                f"({min(s['cpu_ratios']):.2f} to {max(s['cpu_ratios']):.2f}) | {s['encoder']['cpu_ms']:.1f} | "
                f"{rates if idle else ''} | {100 * s['ours']['waiting']:.1f} % of a step |"
            )
        rates = f"{r['loader']['rate']:.0f}, {r['their_loader']['rate']:.0f}"
        yield f"| only reading and views | {r['loader']['cpu_ms']:.1f} | {r['their_loader']['cpu_ms']:.1f} | **{r['their_loader']['cpu_ms'] / r['loader']['cpu_ms']:.2f}** | | {rates if idle else ''} | |"
        yield ""
        a = r["apart"]
        if idle:
            yield f"- Encoder and loader on a core of their own each ({STEMS['imagenet']}): {a['together']:.0f} images per second together, {a['encoder']:.0f} the encoder and {a['loader']:.0f} the loader alone."
        bounds = ", ".join(
            f"{r[stem]['theirs']['cpu_ms'] / r[stem]['encoder']['cpu_ms']:.2f} ({name})" for stem, name in STEMS.items()
        )
        yield f"- The encoder is the limit: with shared cores, a loader of zero cost would reach a ratio of {bounds}."
    if "memory" in results:
        mib = results["memory"]["mib_after_epochs"]
        yield (
            f"- `files.py memory`: {results['memory']['files']:,} files, `pretrain` of a small ResNet, three epochs: {', '.join(f'{x:.0f}' for x in mib)} MiB resident after each,"
        )
        yield f"  at most {', '.join(f'{x:.0f}' for x in results['memory']['most_mib'])} during each{other('memory')}."
    if "listing" in results:
        a, b = results["listing"]["first"], results["listing"]["second"]
        yield (
            f"- `files.py listing`: {results['listing']['files']:,} files in 1,000 folders open in {a['seconds']:.1f} s, the second time in {b['seconds']:.1f} s; then they take "
            f"{b['mib']:.0f} MiB, and took {a['peak_mib']:.0f} and {b['peak_mib']:.0f} at most while they were listed{other('listing')}."
        )


def main() -> None:
    fresh: dict[str, Callable[..., Any]] = {
        "apart": lambda root, stem: apart(Path(root), stem),
        "epochs": lambda root: epochs_of(Path(root)),
        "start": lambda root: start(Path(root)),
    }
    if len(sys.argv) > 1 and sys.argv[1] in fresh:
        print(json.dumps(fresh[sys.argv[1]](*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="rate, memory, listing")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fastssl-files")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    for what in arguments.what:
        found = {"rate": rate, "memory": memory, "listing": listing}[what](arguments.folder)
        results = {
            **(json.loads(RESULTS.read_text()) if RESULTS.exists() else {}),
            what: found | {"machine": machine()},
        }
        write_atomically(RESULTS, json.dumps(results, indent=1))
        print(what, results[what], flush=True)
    if arguments.page:
        results = json.loads(RESULTS.read_text())
        replace("files", "\n".join(page(results)), PAGE)


if __name__ == "__main__":
    main()
