"""SimCLR here against SimCLR of lightly: the same encoder, head, policy, batches and steps; epochs timed in turn.

python benchmarks/against_lightly.py [--epochs 20] [--seeds 3] [--batch 256]     (needs lightly and torchvision)

lightly's side is what its examples do: its SimCLRTransform (torchvision on Pillow images) in a DataLoader with two
workers, its projection head and its NTXentLoss. Every turn takes one epoch of each side, data included: between its epochs
lightly's workers are gone, so that they do not work in our turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastssl.augment import SimCLRAugment
from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.data import emoji
from fastssl.data.loader import epoch_order
from fastssl.evaluate import encode, knn_accuracy
from fastssl.evaluate.features import centred
from fastssl.methods import SimCLR
from fastssl.models import build_encoder
from fastssl.train import build_optimizer, learning_rate_factor

RESULTS = Path(__file__).parent / "results" / "lightly.json"
ENCODER = {"name": "resnet", "size": 32, "width": 32, "blocks": 1}
TEMPERATURE, LR = 0.1, 1e-3


class Pairs(torch.utils.data.Dataset[Any]):
    """Two drawings of an item, in a random order, each through lightly's transform."""

    def __init__(self, images: np.ndarray, transform: Any) -> None:
        from PIL import Image

        self.images = [[Image.fromarray(drawing) for drawing in item] for item in images]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = np.random.permutation(2)
        return self.transform(self.images[index][first]), self.transform(self.images[index][second])


def sides(seed: int, batch: int, epochs: int) -> dict[str, tuple[nn.Module, Iterator[float]]]:
    """Name -> (encoder, epochs): every ``next`` takes one epoch and gives the seconds of a step."""
    data = emoji("train")
    per_epoch = len(data) // batch

    def schedule(optimizer: torch.optim.Optimizer, step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = LR * learning_rate_factor(step, epochs * per_epoch, 2 * per_epoch)

    def finish(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def ours(encoder: Any) -> Iterator[float]:
        views = SimCLRAugment(32, crop=(0.3, 1.0), strength=0.5, blur=0.0, channels_last=True)
        method = SimCLR(encoder, views, temperature=TEMPERATURE).train()
        optimizer = build_optimizer(method, "adamw", LR, 1e-4)
        for epoch in range(epochs):
            start = time.perf_counter()
            order = epoch_order(len(data), seed, epoch)
            for position in range(per_epoch):
                rows = order[position * batch : (position + 1) * batch]
                schedule(optimizer, epoch * per_epoch + position)
                finish(method(method.examples(data.items(rows), seed, epoch, rows)), optimizer)
            yield (time.perf_counter() - start) / per_epoch

    def lightlys(encoder: Any) -> Iterator[float]:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        normalize = {"mean": [0.5] * 3, "std": [0.5] * 3}
        transform = SimCLRTransform(
            input_size=32, cj_strength=0.5, min_scale=0.3, gaussian_blur=0.0, normalize=normalize
        ).transforms[0]
        head = SimCLRProjectionHead(encoder.dim, 256, 128)
        method, loss = nn.Sequential(encoder, head).train(), NTXentLoss(temperature=TEMPERATURE)
        optimizer = build_optimizer(method, "adamw", LR, 1e-4)
        loader = torch.utils.data.DataLoader(
            Pairs(data.images, transform), batch, shuffle=True, drop_last=True, num_workers=2
        )
        for epoch in range(epochs):
            start = time.perf_counter()
            for position, (first, second) in enumerate(loader):
                schedule(optimizer, epoch * per_epoch + position)
                x = torch.cat([first, second]).contiguous(memory_format=torch.channels_last)
                z0, z1 = method(x).chunk(2)
                finish(loss(z0, z1), optimizer)
            yield (time.perf_counter() - start) / per_epoch

    made = {}
    for name, run in (("fastssl", ours), ("lightly", lightlys)):
        torch.manual_seed(seed)
        encoder = build_encoder(ENCODER)
        made[name] = (encoder, run(encoder))
    return made


def knn(encoder: Any) -> float:
    whole = emoji()
    unit = centred(encode(encoder, whole.nth_image(0), "pooled"))
    return knn_accuracy(unit, torch.from_numpy(whole.labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    scores: dict[str, list[float]] = {"fastssl": [], "lightly": []}
    seconds: dict[str, list[float]] = {"fastssl": [], "lightly": []}
    for seed in range(options.seeds):
        made = sides(seed, options.batch, options.epochs)
        for _ in range(options.epochs):
            for name, (_, epochs) in made.items():
                seconds[name].append(next(epochs))
        for name, (encoder, _) in made.items():
            scores[name].append(knn(encoder))
        print(f"seed {seed}: k-NN {scores['fastssl'][-1]:.1f} here, {scores['lightly'][-1]:.1f} lightly", flush=True)
    ratios = sorted(a / b for a, b in zip(seconds["fastssl"], seconds["lightly"]))
    result = {
        "machine": machine(),
        **vars(options),
        "knn": scores,
        "step_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "step_ratio": statistics.median(ratios),
        "step_ratio_middle_half": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
    }
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "machine"}, indent=1))


if __name__ == "__main__":
    main()
