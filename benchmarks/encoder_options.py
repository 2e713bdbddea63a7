"""The emoji's encoder and head changed one at a time, each for as many epochs as take the same processor time.

python benchmarks/encoder_options.py [NAME ...] [--epochs 240] [--seed 0]

An option's cost is the processor time of its step beside today's, measured before each run on one thread; --epochs are
those of today's encoder. Scores choose by six of nine categories; the readout is that of the demo.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipe_data import load
from recipe_scores import measures
from torch import nn

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.cli.demo import EMOJI_ENCODER, READ, WHITEN
from fastssl.cli.recipes import build_method
from fastssl.data import emoji
from fastssl.evaluate import encode
from fastssl.evaluate.features import centred
from fastssl.evaluate.report import projection_of
from fastssl.methods import SimCLR
from fastssl.models import Encoder
from fastssl.models.resnet import ResidualBlock, SmallResNet
from fastssl.train import Pretraining, build_optimizer, pretrain, recipe

RESULTS = Path(__file__).parent / "results" / "encoder_options.json"


def patches(size: int, width: int) -> SmallResNet:
    """A stem of patches of 4 pixels, and two stages."""
    network = SmallResNet(width, 1, 2)
    network.stem = nn.Sequential(nn.Conv2d(3, width, size, size, bias=False), nn.BatchNorm2d(width))
    network.stages = nn.Sequential(ResidualBlock(width, width, 1), ResidualBlock(width, 2 * width, 2))
    network.channels = 2 * width
    return network


def deeper() -> SmallResNet:
    """A second block in the last stage."""
    network = SmallResNet(32, 1, 2)
    network.stages.append(ResidualBlock(128, 128, 1))
    return network


OPTIONS: dict[str, dict[str, Any]] = {
    "today's": {},
    "head of 1,024 and 256": {"hidden": 1024, "outputs": 256},
    "width 48": {"network": lambda: SmallResNet(48, 1, 2)},
    "two blocks in the last stage": {"network": deeper},
    "patches of 4, width 64": {"network": lambda: patches(4, 64)},
    "patches of 4, width 96": {"network": lambda: patches(4, 96)},
}


def method_of(name: str, seed: int) -> SimCLR:
    today: Any = build_method("simclr", EMOJI_ENCODER, emoji("train"), seed)
    options = dict(OPTIONS[name])
    if not options:
        return today  # type: ignore[no-any-return]
    torch.manual_seed(seed)
    encoder = today.encoder
    if "network" in options:
        encoder = Encoder(options.pop("network")().to(memory_format=torch.channels_last), EMOJI_ENCODER["size"])
    return SimCLR(encoder, today.augment, temperature=today.temperature, **options)


def step_seconds(method: SimCLR) -> float:
    """Processor seconds of a step, the least of 20."""
    optimizer, times = build_optimizer(method.train(), "adamw", 2e-3, 1e-4), []
    batch = method.examples(emoji("train").items(np.arange(128)), 0)
    for _ in range(25):
        begin = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = method(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.process_time() - begin)
    return min(times[5:])


def run(name: str, epochs: int, seed: int) -> dict[str, Any]:
    source = emoji("train")
    cost = 1.0 if not OPTIONS[name] else step_seconds(method_of(name, seed)) / step_seconds(method_of("today's", seed))
    chosen = recipe("simclr", len(source), "small", embedded=source.embedded).options
    chosen |= {"epochs": max(10, round(epochs / cost)), "precision": "auto", "seed": seed}
    method, begin = method_of(name, seed), time.process_time()
    with tempfile.TemporaryDirectory() as out:
        pretrain(method, source, Pretraining(**chosen), out=out)
    seconds = time.process_time() - begin
    encoder, images = method.encoder.eval().at(READ), load("emoji", "cpu")
    first = encode(encoder, emoji().nth_image(0))
    projection = projection_of(first, WHITEN)
    unit, second = (
        centred(first, projection=projection),
        centred(encode(encoder, emoji().nth_image(1)), projection=projection),
    )
    found = {"name": name, "seed": seed, "cost": cost, "epochs": chosen["epochs"], "processor_seconds": seconds}
    for part, rows in (("chosen with", ~images.apart), ("all", torch.ones_like(images.apart))):
        found[part] = measures(unit, second, "emoji", images, rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(OPTIONS))
    parser.add_argument("--epochs", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        found = run(name, options.epochs, options.seed)
        state = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machine": machine(), "runs": []}
        state["runs"] = [r for r in state["runs"] if (r["name"], r["seed"]) != (name, options.seed)] + [found]
        write_atomically(RESULTS, json.dumps(state, indent=1) + "\n")
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
