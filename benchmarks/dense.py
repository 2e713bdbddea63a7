"""Detection and segmentation of emoji scenes by pretrained encoders; writes the tables of docs/dense.md.

python benchmarks/dense.py pretrain segmentation detection labels speed --page [--methods simclr byol ...] [--seeds 3]

"pretrain" trains every method on the training emoji, with the same network and epochs; runs are kept in runs/dense, those
that are there are kept. "segmentation" and "detection" train heads on the frozen encoders, "labels" do so with few labels,
"speed" times the mAP. Results that are in benchmarks/results/dense.json are not computed again, unless with --again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from fastssl.cli.recipes import build_method
from fastssl.data import emoji
from fastssl.train import Pretraining, pretrain

ROOT = Path(__file__).parent
RUNS = Path("runs/dense")
METHODS = ("simclr", "moco", "byol", "barlow-twins", "vicreg", "swav", "rotnet", "context-encoder", "sup-con", "jigsaw")
ENCODER = {"name": "resnet", "size": 32, "width": 32, "blocks": 1}


def pretrain_one(name: str, epochs: int) -> None:
    out, data = RUNS / name, emoji("train")
    if (out / "done").exists():
        return
    began = time.process_time()
    options = Pretraining(epochs=epochs, batch_size=128, seed=0)
    pretrain(build_method(name, ENCODER, data, 0), data, options, out=out, encoder_options=ENCODER, overwrite=True)
    (out / "done").write_text(f"{time.process_time() - began:.0f}")
    print(f"{name}: {time.process_time() - began:.0f} s of CPU", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--methods", nargs="+", default=[*METHODS])
    parser.add_argument("--epochs", type=int, default=30, help="of pretraining")
    arguments = parser.parse_args()
    if "pretrain" in arguments.parts:
        for name in arguments.methods:
            pretrain_one(name, arguments.epochs)


if __name__ == "__main__":
    main()
