"""What ``--recipe small`` reaches in five minutes on two cores, beside the recipe that it replaced.

python benchmarks/five_minutes.py [emoji digits spectrograms] [--seeds 3] [--recipes small before]

Runs have a fixed number of epochs, those that take 600 processor seconds, so that other load on the machine changes nothing
but the wall time; the seconds that they took are written beside the scores. Every encoder and every baseline has the same
readout. Spectrograms of spoken digits took no part in any choice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from recipe_data import load, spectrogram
from recipe_scores import measures

from fastssl.augment import SimCLRAugment
from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.cli.demo import DIGITS_ENCODER, EMOJI_ENCODER, READ, WHITEN
from fastssl.cli.recipes import build_method
from fastssl.data import ArraySource, Source, digits, emoji, spoken_digits
from fastssl.evaluate import encode, evaluate
from fastssl.evaluate.features import centred
from fastssl.evaluate.report import projection_of
from fastssl.methods import SimCLR
from fastssl.models import build_encoder
from fastssl.train import Pretraining, pretrain, recipe

RESULTS = Path(__file__).parent / "results" / "five_minutes.json"
SPECTROGRAMS = {"name": "resnet", "size": 32, "width": 32, "blocks": 1}
ENCODERS = {"emoji": EMOJI_ENCODER, "digits": DIGITS_ENCODER, "spectrograms": SPECTROGRAMS}
# Epochs of 600 processor seconds, and of a tenth of that for 400 spectrograms.
EPOCHS = {
    "small": {"emoji": 400, "digits": 400, "spectrograms": 100},
    "before": {"emoji": 270, "digits": 300, "spectrograms": 70},
}
BEFORE: dict[str, Any] = {"batch_size": 512, "precision": "32-true"}  # of the recipe that "small" replaced
BEFORE_DIGITS: dict[str, Any] = {"batch_size": 256, "precision": "32-true"}
CROP, TEMPERATURE = (0.5, 1.0), 0.2  # its views and temperature of digits


def source_of(data: str) -> Source:
    if data == "spectrograms":
        import numpy as np

        spoken = spoken_digits()
        images = np.stack([spectrogram(signal) for signal in spoken.signals])
        return ArraySource(images, spoken.labels, list(spoken.classes), "spectrograms")
    return emoji("train") if data == "emoji" else digits()


def train(data: str, which: str, seed: int, share: float) -> tuple[Any, float, float]:
    """The encoder, processor seconds and minutes of a run."""
    source, encoder = source_of(data), ENCODERS[data]
    chosen = recipe("simclr", len(source), "small", embedded=source.embedded)
    epochs = max(1, round(share * EPOCHS[which][data]))
    options = Pretraining(**{**chosen.options, "epochs": epochs, "precision": "auto", "seed": seed})
    if which == "before":
        options = replace(options, **(BEFORE_DIGITS if data == "digits" else BEFORE))
    method: Any = build_method("simclr", encoder, source, seed)
    if which == "before" and data == "digits":
        torch.manual_seed(seed)
        views = SimCLRAugment(16, channels_last=True, **{**chosen.views, "crop": CROP})
        method = SimCLR(build_encoder(encoder), views, temperature=TEMPERATURE, spatial=True)
    start, wall = time.process_time(), time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        pretrain(method, source, options, out=out, encoder_options=encoder)
    return method.encoder.eval(), time.process_time() - start, (time.perf_counter() - wall) / 60


def scores(data: str, encoder: Any, rows: tuple[str, ...]) -> dict[str, Any]:
    """The measures of the table, whitened and plain, and what was held apart."""
    found: dict[str, Any] = {}
    small, encoder = encoder, encoder.at(READ) if data == "emoji" else encoder
    whiten = WHITEN if data == "emoji" else None
    for name, components in {"plain": None, "readout": whiten}.items():
        if name == "plain" or whiten is not None:
            whole = {"emoji": emoji(), "digits": digits()}.get(data) or source_of(data)
            judged = small if name == "plain" else encoder
            table = evaluate(judged, ENCODERS[data], whole, "spatial", rows, whiten=components)
            found[name] = {key: value for key, value in table.items() if isinstance(value, dict)}
    found.setdefault("readout", found["plain"])
    images = load(data, "cpu")
    first = encode(encoder, whole if data != "emoji" else emoji().nth_image(0))
    projection = projection_of(first, whiten)
    second = centred(encode(encoder, emoji().nth_image(1)), projection=projection) if data == "emoji" else None
    unit = centred(first, projection=projection)
    for name, chosen in (("apart", images.apart), ("chosen with", ~images.apart)):
        if bool(chosen.any()):
            found[name] = measures(unit, second, data, images, chosen)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", default=list(ENCODERS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="*", default=list(EPOCHS))
    parser.add_argument("--share", type=float, default=1.0, help="share of the epochs, for trials")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="folder for the encoders")
    options = parser.parse_args()
    state = json.loads(options.out.read_text()) if options.out.exists() else {"machine": machine(), "runs": []}
    for seed in options.seeds:
        for data in options.data:
            for which in options.recipes:
                about = {"data": data, "recipe": which, "seed": seed}
                if any(all(run[key] == value for key, value in about.items()) for run in state["runs"]):
                    continue
                encoder, seconds, minutes = train(data, which, seed, options.share)
                if options.keep is not None:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    torch.save(encoder.state_dict(), options.keep / f"{data}-{which}-{seed}.pt")
                rows = (
                    ("pretrained", "random", "pixels", "histogram")
                    if seed == 0 and which == "small"
                    else ("pretrained",)
                )
                run = {**about, "processor_seconds": seconds, "minutes": minutes, "scores": scores(data, encoder, rows)}
                state["runs"].append(run)
                write_atomically(options.out, json.dumps(state, indent=1) + "\n")
                print(f"{data} {which} {seed}: {seconds:.0f} s of processor, {minutes:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
