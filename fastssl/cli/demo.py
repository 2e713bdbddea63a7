"""``fastssl demo``: benchmark, pretrain, evaluate and report in one command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fastssl.bench.harness import as_dict, compare, machine, peak_memories
from fastssl.bench.run import write_atomically
from fastssl.cli.recipes import build_method
from fastssl.cli.show import console, echo, item_progress, print_measures, run_pretraining
from fastssl.data import digits, emoji
from fastssl.evaluate import evaluate_digits, evaluate_emoji
from fastssl.evaluate.features import progress_bars
from fastssl.train import Pretraining, load_encoder, recipe

EMOJI_ENCODER = {"name": "resnet", "size": 32, "width": 32, "blocks": 1}
DIGITS_ENCODER = {"name": "resnet", "size": 16, "width": 16, "blocks": 1}
# The readout of emoji, for the encoder and all baselines: images as they are, twice as large as the crops of training,
# and whitened features. (Digits lie in clusters along few directions, which whitening would undo.)
READ, WHITEN = 64, 512


def run_demo(out: Path, emoji_minutes: float, digits_minutes: float, bench_minutes: float, seed: int) -> dict[str, Any]:
    """Runs the demo and returns the content of ``report.json``."""
    from fastssl.report import write_report

    started = time.time()
    report: dict[str, Any] = {"seed": seed, "whiten": WHITEN, "read": READ}
    console.rule("fused against eager")
    report["machine"], report["benchmark"] = machine(), benchmark(bench_minutes)

    console.rule("SimCLR on emoji")
    train = emoji("train")
    options = recipe_options("emoji", emoji_minutes, seed)
    model = build_method("simclr", EMOJI_ENCODER, train, seed)
    run_pretraining(model, train, options, out / "emoji", encoder_options=EMOJI_ENCODER, overwrite=True)
    encoder, state = load_encoder(out / "emoji")
    with progress_bars(item_progress):
        table = evaluate_emoji(encoder.at(READ), EMOJI_ENCODER, whiten=WHITEN)
    print_measures(table)
    report.update(table)
    report["training"] = {
        "emoji": {"history": state["history"], "epochs": state["epochs"], "seconds": state["seconds"]}
    }

    console.rule("SimCLR on digits")
    options = recipe_options("digits", digits_minutes, seed)
    train = digits()
    model = build_method("simclr", DIGITS_ENCODER, train, seed)
    run_pretraining(model, train, options, out / "digits", encoder_options=DIGITS_ENCODER, overwrite=True)
    digit_encoder, state = load_encoder(out / "digits")
    with progress_bars(item_progress):
        table = evaluate_digits(digit_encoder, DIGITS_ENCODER)
    print_measures(table)
    report.update(table)
    report["training"]["digits"] = {"history": state["history"], "epochs": state["epochs"], "seconds": state["seconds"]}

    report["minutes"] = (time.time() - started) / 60
    write_atomically(out / "report.json", json.dumps(report, indent=1))
    page = write_report(out, report, encoder.at(READ))
    echo(f"report: {page.resolve()}\nfigures: {(out / 'report.json').resolve()}")
    return report


def recipe_options(data: str, minutes: float, seed: int) -> Pretraining:
    """The recipe "small" of SimCLR, for as long as given."""
    options = recipe("simclr", 0, "small", embedded=data).options
    return Pretraining(**{**options, "minutes": minutes, "seed": seed, "precision": "auto"})


def benchmark(minutes: float) -> dict[str, Any]:
    """NT-Xent and the CLIP loss against eager PyTorch: time, and peak memory of fresh processes."""
    from fastssl.bench.cases import CASES

    results: dict[str, Any] = {}
    sizes = (256, 1024, 4096) if minutes >= 0.25 else (256, 1024)
    seconds = 60 * minutes / (2 * len(sizes))
    for loss in ("nt_xent", "clip_loss"):
        case, rows_of = CASES[loss], []
        peaks = iter(peak_memories([(loss, way, rows, 128, "float32") for rows in sizes for way in ("fused", "eager")]))
        for rows in sizes:
            inputs = case.inputs(rows, 128)
            result = compare(case.step("fused", inputs), case.step("eager", inputs), seconds=seconds, least=3)
            memory = {"fused": next(peaks), "eager": next(peaks)}
            rows_of.append({"rows": rows, "features": 128, **as_dict(result), "memory_mib": memory})
            shown = ", ".join(f"{way} {mib:.0f} MiB" for way, mib in memory.items() if mib is not None)
            echo(f"{loss:10} {rows:6} x 128: {result.ratio:5.2f} x eager; extra memory: {shown}")
        last = rows_of[-1]
        results[loss] = {
            "rows": last["rows"],
            "ratio": last["ratio"],
            "extra_mib": last["memory_mib"]["fused"],
            "eager_extra_mib": last["memory_mib"]["eager"],
            "sizes": rows_of,
        }
    return results
