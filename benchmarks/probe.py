"""The linear probe's L-BFGS against torch's and scikit-learn's: python benchmarks/probe.py [--rounds 3] [--page]

Each fits the same standardised features with the four penalties of the protocol, up to 100 iterations from zero weights;
in turn. The objective, summed over the penalties, tells how far they came. ``--page`` writes a
section of docs/evaluate.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import DOCS, replace
from torch import Tensor

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.data import digits, emoji
from fastssl.evaluate import encode
from fastssl.evaluate.linear import DECAYS, Fits, _fit_lbfgs, _loss, standardise
from fastssl.models import build_encoder

RESULTS = Path(__file__).parent / "results" / "probe.json"
STEPS = 100


def subjects() -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> training features, standardised, and labels: four fifths of the items."""
    torch.manual_seed(0)
    encoder = build_encoder({"name": "resnet", "size": 32, "width": 32, "blocks": 1}).eval()
    pictures, numbers = emoji(), digits()
    labels = {"emoji": torch.from_numpy(pictures.labels).long(), "digits": torch.from_numpy(numbers.labels).long()}
    features = {
        "emoji, encoder": encode(encoder, pictures.nth_image(0)),
        "emoji, pixels": torch.from_numpy(pictures.images[:, 0].astype(np.float32) / 255).flatten(1),
        "digits, encoder": encode(encoder, numbers),
    }
    found = {}
    for name, x in features.items():
        y = labels[name.partition(",")[0]]
        rows = np.random.default_rng(0).permutation(len(y))[: 4 * len(y) // 5]
        found[name] = standardise(x, rows)[rows], y[rows]
    return found


def ours(x: Tensor, y: Tensor, classes: int) -> Fits:
    return _fit_lbfgs(x, y, np.arange(len(x)), classes, DECAYS, STEPS)


def torchs(x: Tensor, y: Tensor, classes: int) -> Fits:
    fits = []
    for decay in DECAYS:
        weight = torch.zeros(classes, x.shape[1], requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

        def closure(
            w: Tensor = weight, b: Tensor = bias, decay: float = decay, optimizer: torch.optim.LBFGS = optimizer
        ) -> Tensor:
            optimizer.zero_grad()
            loss = _loss(x @ w.T + b, y) + decay * w.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        fits.append((weight.detach(), bias.detach()))
    return fits


def sklearns(x: Tensor, y: Tensor, classes: int) -> Fits:
    from sklearn.linear_model import LogisticRegression

    fits = []
    for decay in DECAYS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            model = LogisticRegression(C=1 / (2 * decay * len(x)), max_iter=STEPS).fit(x.numpy(), y.numpy())
        fits.append((torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()))
    return fits


def objective(x: Tensor, y: Tensor, fits: Fits) -> float:
    losses = [_loss(x @ w.T + b, y) + decay * w.square().sum() for decay, (w, b) in zip(DECAYS, fits)]
    return float(sum(losses))


def measure(rounds: int) -> dict[str, Any]:
    ways: dict[str, Callable[[Tensor, Tensor, int], Fits]] = {
        "fastssl": ours,
        "torch": torchs,
        "scikit-learn": sklearns,
    }
    table = {}
    for name, (x, y) in subjects().items():
        classes, seconds = int(y.max()) + 1, {way: [] for way in ways}  # type: ignore[var-annotated]
        reached = {}
        for _ in range(rounds):
            for way, fit in ways.items():
                began = time.perf_counter()
                fits = fit(x, y, classes)
                seconds[way].append(time.perf_counter() - began)
                reached[way] = objective(x, y, fits)
        table[name] = {
            "rows": len(x),
            "features": x.shape[1],
            "classes": classes,
            "seconds": {way: statistics.median(each) for way, each in seconds.items()},
            "objective": reached,
        }
        print(name, table[name], flush=True)
    return {"machine": machine(), "table": table}


def page(results: dict[str, Any]) -> str:
    ways = list(next(iter(results["table"].values()))["seconds"])
    lines = [
        f"{results['machine']['cpu']}, {results['machine']['threads']} threads: seconds of four fits, up to {STEPS} iterations each, "
        "and the sum of the four objectives.",
        "",
        "| features | rows x features, classes | "
        + " | ".join(ways)
        + " | "
        + " | ".join(f"objective, {w}" for w in ways)
        + " |",
        "|---|---|" + "---|" * (2 * len(ways)),
    ]
    for name, row in results["table"].items():
        cells = [f"{row['seconds'][way]:.2f}" for way in ways] + [f"{row['objective'][way]:.4f}" for way in ways]
        lines.append(
            f"| {name} | {row['rows']:,} x {row['features']:,}, {row['classes']} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="write the table of docs/evaluate.md")
    options = parser.parse_args()
    results = measure(options.rounds)
    write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    if options.page:
        replace("probe", page(results), DOCS / "evaluate.md")


if __name__ == "__main__":
    main()
