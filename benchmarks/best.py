"""The best method of the zoo with a longer budget, beside SimCLR in batches of 512; writes benchmarks/results/best.json.

python benchmarks/best.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import Any

import numpy as np
import torch
from zoo import BEST, MAP_DECAY, folds

from fastssl.bench.run import write_atomically
from fastssl.cli.demo import EMOJI_ENCODER
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import emoji
from fastssl.evaluate import encode, evaluate_emoji
from fastssl.train import Pretraining, pretrain

# SimCLR has four minutes, which are 180 epochs in fp32 on two cores.
SETTINGS: dict[str, dict[str, Any]] = {
    "simclr": {"epochs": 180, "batch_size": 512},
    "cmc": {"epochs": 200, "batch_size": 64, "lr": 1e-3, "weight_decay": 0.1},
}


def run(name: str, settings: dict[str, Any], seed: int) -> dict[str, float]:
    train = emoji("train")
    options = encoder_for(name, None, EMOJI_ENCODER["size"], EMOJI_ENCODER["width"])
    method = build_method(name, options, train, seed)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        pretrain(method, train, Pretraining(seed=seed, **settings), out=out, encoder_options=options)
    minutes = (time.perf_counter() - start) / 60
    encoder = method.encoder.eval()
    table = evaluate_emoji(encoder, options)
    whole = emoji()
    plain = np.flatnonzero(np.array(whole.classes)[whole.labels] != "Flags")
    grid = encode(encoder, whole.nth_image(0), readout="spatial")
    labels = torch.from_numpy(whole.labels)
    found = {key: float(table[key]["pretrained"]) for key in ("knn", "knn_without_flags", "linear", "retrieval")}
    return {**found, "linear_without_flags": folds(grid[plain], labels[plain], MAP_DECAY), "minutes": minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    methods: dict[str, Any] = {name: {**settings, "runs": []} for name, settings in SETTINGS.items()}
    for seed in range(options.seeds):
        for name, settings in SETTINGS.items():
            methods[name]["runs"].append(run(name, settings, seed))
            print(name, seed, {k: round(v, 1) for k, v in methods[name]["runs"][-1].items()}, flush=True)
    best = {"seeds": options.seeds, "threads": torch.get_num_threads(), "methods": methods}
    write_atomically(BEST, json.dumps(best, indent=1) + "\n")


if __name__ == "__main__":
    main()
