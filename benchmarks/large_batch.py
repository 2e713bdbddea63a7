"""Batches that exceed memory: memory and time of the cached step, and SimCLR with the whole data set as a batch.
Writes the figures of docs/large-batch.md and benchmarks/results/large_batch.json.

python benchmarks/large_batch.py [--page]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pages import replace
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.bench.harness import compare, gemm_rate, machine
from fastssl.bench.memory import status
from fastssl.bench.run import write_atomically
from fastssl.data import emoji
from fastssl.evaluate import encode, knn_accuracy
from fastssl.evaluate.features import centred
from fastssl.models import build_encoder
from fastssl.train import cached_step, load_encoder

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "large_batch.json", ROOT / "docs" / "large-batch.md"
SIZE, CHUNK = 64, 128
EPOCHS = 60


class Embedding(nn.Module):
    """ResNet-18 (ImageNet's stem) of uint8 images, and a projection. Group norm: each row by itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = build_encoder({"name": "resnet18", "size": SIZE, "stem": "imagenet"})
        self.head = nn.LazyLinear(128)
        for module in list(self.encoder.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.GroupNorm(16, child.num_features))

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images.float().div_(255))
        return self.head(features.flatten(1))


def loss(z: Tensor) -> Tensor:
    return F.nt_xent(*z.chunk(2), temperature=0.1)


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def memory(batch: int) -> dict[str, float]:
    """One step in this fresh process: what the process took at most, all of it."""
    model, x = Embedding(), images(batch)
    model(x[:2])
    began = time.perf_counter()
    cached_step(model, x, loss, chunk=CHUNK)
    return {
        "batch": batch,
        "peak_mib": status("VmHWM"),
        "images_mib": x.numel() / 2**20,
        "seconds": time.perf_counter() - began,
    }


def whole(model: nn.Module, x: Tensor) -> None:
    loss(model(x)).backward()


def against_whole(batch: int) -> dict[str, Any]:
    """Gradients and time beside the step without chunks, where both fit."""
    model, x = Embedding(), images(batch)
    model(x[:2])

    def gradient(step: Any) -> Tensor:
        model.zero_grad()
        step()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    steps = (lambda: cached_step(model, x, loss, chunk=CHUNK)), (lambda: whole(model, x))
    a, b = (gradient(step) for step in steps)
    times = compare(*steps, seconds=60, least=5)
    return {
        "batch": batch,
        "gradient": float((a - b).norm() / b.norm()),
        "ratio": 1 / times.ratio,
        "low": 1 / times.high,
        "high": 1 / times.low,
        "pairs": times.pairs,
    }


def simclr(batch: int, devices: int, chunk: int | None, lr: float) -> dict[str, Any]:
    """A run of the command line, and the k-NN of its encoder."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "fastssl", "pretrain", "simclr", "--epochs", str(EPOCHS), "--out", out]
        command += ["--batch-size", str(batch), "--devices", str(devices), "--lr", str(lr)]
        command += ["--chunk", str(chunk)] if chunk else []
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        encoder, state = load_encoder(out)
    data = emoji()
    features = centred(encode(encoder, data.nth_image(0), readout="spatial"))
    knn = knn_accuracy(features, torch.from_numpy(data.labels))
    return {
        "batch": min(batch, len(emoji("train"))),
        "devices": devices,
        "chunk": chunk,
        "lr": lr,
        "steps": state["step"],
        "seconds": seconds,
        "knn": knn,
    }


def page(results: dict[str, Any]) -> str:
    m, big, beside = results["machine"], results["memory"], results["whole"]
    lines = [
        f"{m['cpu']}, {m['threads']} threads; GEMM {results['gemm'] / 1e9:.0f} GFLOP/s. `python benchmarks/large_batch.py` repeats it.",
        "",
        f"`fastssl.train.cached_step` takes the loss of all embeddings and the encoder {CHUNK} images at a time. ResNet-18 (ImageNet's stem, group norm), "
        f"{SIZE} x {SIZE} pixels, NT-Xent:",
        "",
        f"- a batch of {big['batch']:,}: the whole process takes {big['peak_mib'] / 1024:.2f} GiB at most, {big['images_mib'] / 1024:.2f} of them the images; {big['seconds']:.0f} s;",
        f"- beside a step that keeps all activations, batch {beside['batch']}: {beside['ratio']:.2f} of its time ({beside['low']:.2f} to {beside['high']:.2f}, {beside['pairs']} pairs; "
        f"4 passes instead of 3 are 1.33), gradients within {beside['gradient']:.1g}.",
        "",
        f"SimCLR with all images at once. The emoji's training split has {results['simclr'][-1]['batch']:,} images: that is the largest batch there is. {EPOCHS} epochs each; k-NN as `fastssl evaluate` shows it.",
        "",
        "| batch | processes | chunk | rate | steps | k-NN | time, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results["simclr"]:
        lines.append(
            f"| {r['batch']:,} | {r['devices']} | {r['chunk'] or ''} | {r['lr']:g} | {r['steps']:,} | {r['knn']:.1f} | {r['seconds']:.0f} |"
        )
    lines += [
        "",
        "With the same number of epochs a large batch takes far fewer steps, and learns less on a data set this small. Large batches are for data sets with many steps per epoch.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, help="only one step of this batch, in this process")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.memory)))
        return
    if options.page:
        results = json.loads(RESULTS.read_text())
    else:
        results = {"machine": machine(), "gemm": gemm_rate()}
        done = subprocess.run(
            [sys.executable, __file__, "--memory", "8192"], check=True, capture_output=True, text=True
        )
        results["memory"] = json.loads(done.stdout)
        print(results["memory"], flush=True)
        results["whole"] = against_whole(512)
        print(results["whole"], flush=True)
        results["simclr"] = []
        for run in ((128, 1, None, 2e-3), (2048, 2, 256, 2e-3), (2048, 2, 256, 8e-3)):
            results["simclr"].append(simclr(*run))
            print(results["simclr"][-1], flush=True)
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    replace("large-batch", page(results), PAGE)


if __name__ == "__main__":
    main()
