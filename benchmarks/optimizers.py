"""AdamW and Muon for language methods, over the same steps; writes a table of docs/language.md.

python benchmarks/optimizers.py [gpt bert ...] [--epochs 1] [--data sotu] --page

Each row is one command, `fastssl pretrain METHOD --data sotu --optimizer ... --lr ...`, with the recipe's other settings; scores are
those of held-out text. "time of a step" is that with Muon over that with AdamW, the median of alternating pairs in one process.
Results of methods that are not named stay in benchmarks/results/optimizers.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pages import replace

from fastssl.bench.harness import alternate, machine
from fastssl.bench.run import write_atomically
from fastssl.cli.language import evaluate, load
from fastssl.data import TokenFile
from fastssl.models.precision import training_arithmetic
from fastssl.train import Pretraining, build_optimizer, load_checkpoint, recipe

ROOT = Path(__file__).parent
RESULTS, PAGE = ROOT / "results" / "optimizers.json", ROOT.parent / "docs" / "language.md"
ROWS = {
    "gpt": (("adamw", 1.5e-3), ("adamw", 3e-3), ("adamw", 6e-3), ("muon", 3e-3), ("muon", 6e-3)),
    "bert": (("adamw", 1.2e-3), ("adamw", 2.4e-3), ("muon", 2.4e-3)),
}
SHOWN = {"gpt": ("bits per byte", "accuracy"), "bert": ("perplexity", "accuracy")}


def measure(method: str, optimizer: str, rate: float, data: str, epochs: int) -> dict[str, Any]:
    """One run, in a process of its own, and its scores beside the baselines'."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / method
        options = ["--data", data, "--epochs", str(epochs), "--optimizer", optimizer, "--lr", str(rate)]
        command = [sys.executable, "-m", "fastssl", "pretrain", method, *options, "--out", str(out)]
        subprocess.run(command, check=True)
        state = load_checkpoint(out)[1]
        scores = evaluate(out, None)
        return {
            "optimizer": optimizer,
            "lr": rate,
            "steps": state["step"],
            "scores": {name: scores[name] for name in SHOWN[method]},
            **({"cost": cost(method, out)} if optimizer == "muon" else {}),
        }


def cost(name: str, run: Path, seconds: float = 15.0) -> float:
    """Time of a step with Muon over that with AdamW."""
    options = recipe(name, 0).options
    half = Pretraining(accelerator="cpu").resolved_precision == "bf16-mixed"

    def step_with(optimizer: str) -> Callable[[], None]:
        method, state = load(run)
        rows = method.prepare(TokenFile(Path(state["source"]["where"]))).items(range(options["batch_size"]))
        batch, chosen = method.examples(rows, 0), build_optimizer(method, optimizer, 1e-5, 0.1)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = method(batch)
            loss.backward()
            chosen.step()
            chosen.zero_grad()

        return step

    with training_arithmetic(torch.device("cpu")):
        times = alternate([step_with("muon"), step_with("adamw")], seconds)
    return statistics.median(a / b for a, b in zip(*times))


def page(results: dict[str, Any]) -> str:
    lines = []
    for method, result in results.items():
        steps = result["rows"][0]["steps"]
        lines += [
            f"{result['machine']}, {result['threads']} thread{'s' * (result['threads'] > 1)}: `{method}` on {result['data']}, {steps:,} steps, one seed.",
            "",
            f"| optimiser | learning rate | {' | '.join(SHOWN[method])} | time of a step |",
            "|---|---|" + "---|" * (len(SHOWN[method]) + 1),
        ]
        for row in result["rows"]:
            cells = [f"{row['scores'][name]['pretrained']:.2f}" for name in SHOWN[method]]
            lines.append(f"| {row['optimizer']} | {row['lr']:g} | {' | '.join(cells)} | {row.get('cost', 1):.2f} |")
        last = result["rows"][-1]["scores"]
        for name in ("unigram", "xz"):
            cells = [f"{last[key][name]:.2f}" if name in last[key] else "-" for key in SHOWN[method]]
            if any(cell != "-" for cell in cells):
                lines.append(f"| ({name}) | | {' | '.join(cells)} | |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", choices=[*ROWS, []])
    parser.add_argument("--data", default="sotu")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--page", action="store_true", help="write the table of docs/language.md")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    about = machine()
    for method in arguments.methods or ROWS:
        shared = {"data": arguments.data, "machine": about["cpu"], "threads": about["threads"]}
        rows: list[dict[str, Any]] = []
        for row in ROWS[method]:
            rows.append(measure(method, *row, arguments.data, arguments.epochs))
            results[method] = {"rows": rows, **shared}
            write_atomically(RESULTS, json.dumps(results, indent=1))
    if arguments.page:
        replace("optimizers", page(results), PAGE)


if __name__ == "__main__":
    main()
