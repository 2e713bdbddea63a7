"""``make zoo``: every method on the emoji, with the same small budget, judged the same way; writes docs/zoo.md.

python benchmarks/zoo.py [--epochs 30] [--seeds 3] [METHOD ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.cli.recipes import build_method
from fastssl.data import emoji
from fastssl.evaluate import evaluate
from fastssl.methods import METHODS
from fastssl.train import Pretraining, pretrain

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
PAGE = ROOT / "docs" / "zoo.md"
ENCODER = {"name": "resnet", "size": 32, "width": 32, "blocks": 1}
MEASURES = {
    "knn": "k-NN",
    "knn_without_flags": "k-NN without flags",
    "linear": "linear probe",
    "retrieval": "Recall@1 across vendors",
}


def run(name: str, seed: int, epochs: int, batch: int) -> dict[str, Any]:
    """Pretrains one method and judges its encoder beside a random one and raw pixels."""
    method = build_method(name, ENCODER, "emoji", seed)
    options = Pretraining(epochs=epochs, batch_size=batch, seed=seed, lr=1e-3)
    train = emoji("train")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        pretrain(method, train, options, out=out, encoder_options=ENCODER)
        history = json.loads((Path(out) / "history.json").read_text())
    seconds = time.perf_counter() - start
    table = evaluate(method.encoder, ENCODER, emoji())
    losses = [loss for _, loss in history]
    return {
        "method": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in method.parameters() if p.requires_grad),
        "images_per_second": len(history) * batch / seconds,
        "first_loss": losses[0],
        "last_loss": statistics.mean(losses[-5:]),
        "table": table,
    }


def page(results: dict[str, Any]) -> str:
    rows: dict[str, list[dict[str, Any]]] = {}
    for r in results["runs"]:
        rows.setdefault(r["method"], []).append(r)
    m = results["machine"]
    seeds = max(len(v) for v in rows.values())
    lines = [
        "# The methods on one table",
        "",
        f"Every method pretrains the same residual network on the {results['images']:,} emoji of the training split, {results['epochs']} epochs with "
        f"batches of {results['batch']}, the same optimiser and no tuning of its own; the encoder is then frozen and judged on 9 categories "
        "(k-NN, linear probe) and on finding an emoji of another vendor (Recall@1), in percent. Methods that compare two views get the "
        f"drawings of two vendors as views. {seeds} seed{'s' if seeds > 1 else ''}{' (mean)' if seeds > 1 else ''}; {m['cpu']}, {m['threads']} threads. "
        f"`python benchmarks/zoo.py --epochs {results['epochs']} --seeds {seeds} --batch {results['batch']}` repeats it ({results['minutes']:.0f} minutes).",
        "",
        "| method | parameters | images/s | " + " | ".join(MEASURES.values()) + " |",
        "|---" * (3 + len(MEASURES)) + "|",
    ]

    def cell(runs: list[dict[str, Any]], key: str, column: str) -> str:
        values = [r["table"][key][column] for r in runs if key in r["table"] and column in r["table"][key]]
        if not values:
            return "-"
        spread = f" ± {statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    every = [r for runs in rows.values() for r in runs]
    for column, label in (("random", "(random encoder)"), ("pixels", "(raw pixels)")):
        lines.append(f"| {label} | | | " + " | ".join(cell(every[:1], key, column) for key in MEASURES) + " |")
    order = sorted(rows, key=lambda n: -statistics.mean(r["table"]["linear"]["pretrained"] for r in rows[n]))
    for name in order:
        runs = rows[name]
        rate = statistics.mean(r["images_per_second"] for r in runs)
        cells = " | ".join(cell(runs, key, "pretrained") for key in MEASURES)
        lines.append(f"| {name} | {runs[0]['parameters'] / 1e6:.2f} M | {rate:,.0f} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    start = time.time()
    results: dict[str, Any] = {
        "machine": machine(),
        "epochs": options.epochs,
        "batch": options.batch,
        "images": len(emoji("train")),
        "runs": [],
    }
    for name in options.methods or METHODS:
        for seed in range(options.seeds):
            r = run(name, seed, options.epochs, options.batch)
            results["runs"].append(r)
            table = {k: v.get("pretrained") if isinstance(v, dict) else v for k, v in r["table"].items()}
            shown = ", ".join(f"{MEASURES[k]} {table[k]:.1f}" for k in MEASURES if k in table)
            print(f"{name} {seed}: loss {r['first_loss']:.2f} -> {r['last_loss']:.2f}, {shown}", flush=True)
            results["minutes"] = (time.time() - start) / 60
            write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    write_atomically(PAGE, page(results))


if __name__ == "__main__":
    main()
