"""Sampling of WaveNet and WaveRNN, and likelihoods of pixels and waveforms.

python benchmarks/generation.py [sampling] [recurrent] [likelihood] [--page]

``recurrent``: codes per second of WaveRNN in torch operations and of the fused step. ``sampling``: codes per second of the whole network per code, of queues in torch operations and of the fused step, in
alternating rounds on one thread. ``likelihood``: runs of one to four minutes on the embedded data with one thread, a fixed number of epochs each, scored on
the test split; they go on after those that benchmarks/results/generation.json has. ``--page`` writes the tables of docs/generation.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import replace

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.data import open_splits
from fastssl.evaluate import evaluate_audio, evaluate_density
from fastssl.methods import AudioMethod
from fastssl.models import build_audio
from fastssl.train import Pretraining, pretrain, recipe

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "generation.json", ROOT / "docs" / "generation.md"
ROUNDS, ROWS = 5, 16
CODES = {"whole network": 4, "queues": 100, "torch operations": 100, "fused step": 8000}  # per round
EMOJI = {"size": 16, "channels": 3}
# Name of a row -> method, data, epochs, options of its network.
RUNS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "PixelCNN, binary digits": ("pixelcnn", "digits", 60, {"size": 8}),
    "PixelCNN, one stack, binary digits": ("pixelcnn", "digits", 60, {"size": 8, "gated": False}),
    "PixelRNN, diagonal BiLSTM, binary digits": ("pixelrnn", "digits", 40, {"size": 8}),
    "PixelRNN, row LSTM, binary digits": ("pixelrnn", "digits", 40, {"size": 8, "lstm": "row"}),
    "PixelCNN, emoji, 256 levels": ("pixelcnn", "emoji", 15, {**EMOJI, "levels": 256, "width": 48, "dropout": 0.0}),
    "image GPT, emoji, 64 colours": ("igpt", "emoji", 15, dict(EMOJI)),
    "WaveNet, spoken digits": ("wavenet", "spoken-digits", 10, {}),
    "WaveNet, tones": ("wavenet", "tones", 4, {}),
    "WaveRNN, 16 bits, spoken digits": ("wavernn", "spoken-digits", 40, {}),
}


def sampling() -> dict[str, Any]:
    """Median codes per second, and the medians of the ratios within a round."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network: Any = build_audio({"name": "wavenet"}).eval()
    history = torch.zeros(1, network.receptive, dtype=torch.int64)

    def whole(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                network(history)

    ways = {
        "whole network": whole,
        "queues": lambda count: network.sampler(1, backend="reference").run(_codes(1, count), 0, 1.0, 0),
        "fused step": lambda count: network.sampler(1, backend="cpu").run(_codes(1, count), 0, 1.0, 0),
        f"fused step, {ROWS} rows": lambda count: network.sampler(ROWS, backend="cpu").run(
            _codes(ROWS, count // ROWS), 0, 1.0, 0
        ),
    }
    return _rates(ways)


def recurrent_sampling() -> dict[str, Any]:
    """The same of WaveRNN, whose whole network is a step already."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network: Any = build_audio({"name": "wavernn"}).eval()

    def step(backend: str, rows: int = 1) -> Any:
        return lambda count: network.sampler(rows, backend=backend).run(_codes(rows, count // rows), 0, 1.0, 0)

    return _rates(
        {
            "torch operations": step("reference"),
            "fused step": step("cpu"),
            f"fused step, {ROWS} rows": step("cpu", ROWS),
        }
    )


def _rates(ways: dict[str, Any]) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, sample in ways.items():
            count = CODES.get(name, CODES["fused step"])
            began = time.perf_counter()
            sample(count)
            if turn:  # the first is for warming up
                rates[name].append(count / (time.perf_counter() - began))
    first = rates[next(iter(ways))]
    return {
        name: {
            "codes per second": statistics.median(found),
            "ratio": statistics.median([rate / whole for rate, whole in zip(found, first)]),
        }
        for name, found in rates.items()
    }


def _codes(rows: int, count: int) -> np.ndarray:
    return np.zeros((rows, count), np.int32)


def likelihood(done: dict[str, Any], save: Any) -> None:
    """Bits per value on the test split of every run."""
    torch.set_num_threads(1)
    for name, (method, data, epochs, network) in RUNS.items():
        if name in done:
            continue
        task, began = open_splits(data), time.process_time()
        settings = recipe(method, 0, embedded=task.train.embedded)
        options = Pretraining(**{**settings.options, "epochs": epochs})
        encoder = {"name": method, **settings.network, **network}
        with tempfile.TemporaryDirectory() as out:
            made: Any = pretrain(method, task.train, options, out=out, encoder=encoder)
        seconds = time.process_time() - began
        score = evaluate_audio if isinstance(made, AudioMethod) else evaluate_density
        table = {**score(made, task.test, task.train), "epochs": epochs, "processor seconds": seconds}
        print(name, json.dumps(table, indent=1), flush=True)
        save(name, table)


def page(results: dict[str, Any]) -> str:
    """The tables."""
    parts = " ".join(part for part in ("sampling", "recurrent", "likelihood") if part in results)
    lines = [f"{results['machine']}; `python benchmarks/generation.py {parts} --page` repeats it.", ""]
    if "sampling" in results:
        lines += ["| WaveNet, 20 layers, one thread | codes per second | times the whole network |", "|---|---|---|"]
        for name, row in results["sampling"].items():
            lines.append(f"| {name} | {row['codes per second']:,.0f} | {row['ratio']:,.0f} |")
        lines.append("")
    if "recurrent" in results:
        lines += ["| WaveRNN, 128 units, one thread | codes per second | times torch operations |", "|---|---|---|"]
        for name, row in results["recurrent"].items():
            lines.append(f"| {name} | {row['codes per second']:,.0f} | {row['ratio']:,.0f} |")
        lines.append("")
    if "likelihood" in results:
        lines += ["Bits per value, held out; one thread:", ""]
        lines += [
            "| | epochs | seconds | pretrained | independent | other | xz | PNG |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, table in results["likelihood"].items():
            bits = table.get("bits per value") or table["bits per sample"]
            independent = bits.get("independent pixels", bits.get("independent"))
            other = next((f"{v:.3f} ({k})" for k, v in bits.items() if k.startswith(("mixture", "linear"))), "-")
            cells = [bits["pretrained"], independent, other, bits["xz"], bits.get("PNG", "-")]
            spent = f"{table['epochs']} | {table['processor seconds']:.0f}"
            lines.append(
                f"| {name} | {spent} | " + " | ".join(c if isinstance(c, str) else f"{c:.3f}" for c in cells) + " |"
            )
        nats = [(name, table["nats (exact)"]) for name, table in results["likelihood"].items() if "binary" in name]
        lines += ["", "In nats per image: " + "; ".join(
            f"{name} {row['pretrained']:.2f}" for name, row in nats
        ) + "".join(f"; mixture of 50 {row['mixture of 50']:.2f}" for _, row in nats[:1]) + "."]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=["sampling", "recurrent", "likelihood", []])
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def write() -> None:
        results["machine"] = machine()["cpu"]
        write_atomically(RESULTS, json.dumps(results, indent=1))

    def save(name: str, table: dict[str, Any]) -> None:
        results.setdefault("likelihood", {})[name] = table
        write()

    if "sampling" in given.parts:
        results["sampling"] = sampling()
        print(json.dumps(results["sampling"], indent=1))
        write()
    if "recurrent" in given.parts:
        results["recurrent"] = recurrent_sampling()
        print(json.dumps(results["recurrent"], indent=1))
        write()
    if "likelihood" in given.parts:
        likelihood(results.get("likelihood", {}), save)
    if given.page:
        replace("generation", page(results), PAGE)


if __name__ == "__main__":
    main()
