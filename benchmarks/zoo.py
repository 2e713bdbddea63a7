"""``make zoo``: every method on the emoji, with the same small budget and evaluation; writes docs/zoo.md.

python benchmarks/zoo.py [--epochs 20] [--seeds 3] [--batch 32] [--resume | --again] [METHOD ...]
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import Source, emoji
from fastssl.evaluate import encode, knn_accuracy, linear_probe, pixels, recall_at
from fastssl.evaluate.features import centred
from fastssl.methods import methods_of
from fastssl.models import Encoder
from fastssl.train import Pretraining, pretrain

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
LIGHTLY = ROOT / "benchmarks" / "results" / "lightly.json"
BEST = ROOT / "benchmarks" / "results" / "best.json"
DENSITY = ROOT / "benchmarks" / "results" / "density.json"
GENERATION = ROOT / "benchmarks" / "results" / "generation.json"
PAGE = ROOT / "docs" / "zoo.md"
SIZE, WIDTH, LR, DECAY, FOLDS = 32, 32, 1e-3, 0.1, 5
# Counting's targets are sums of its own outputs: a strong decay pulls what it counts to nothing. Of BiGAN's networks one
# runs away from the other with another optimizer than the paper's.
OWN: dict[str, dict[str, Any]] = {
    "counting": {"weight_decay": 1e-4},
    "bigan": {"lr": 3e-4, "weight_decay": 2.5e-5, "betas": (0.5, 0.999)},
}
MAP_DECAY = 1e-4  # of the probe on the map, the same for all: choosing it costs as much as pretraining
MEASURES = {
    "linear": "linear",
    "linear_without_flags": "without flags",
    "linear_map": "linear, 4 x 4 map",
    "knn": "k-NN, map",
    "recall": "Recall@1, map",
}


def folds(features: torch.Tensor, labels: torch.Tensor, decay: float | None = None) -> float:
    """Linear probe, the mean over five parts of the data that are the test in turn; its penalty is chosen in each."""
    parts = np.array_split(np.random.default_rng(7).permutation(len(labels)), FOLDS)
    scores = []
    for k in range(FOLDS):
        train = np.concatenate(parts[:k] + parts[k + 1 :])
        scores.append(linear_probe(features, labels, train, parts[k], decay, steps=60))
    return statistics.mean(scores)


def measures(pooled: Any, spatial: Any) -> dict[str, float]:
    """All columns, of two functions from images to features."""
    whole, held_out = emoji(), emoji("heldout")
    labels = torch.from_numpy(whole.labels)
    plain = np.flatnonzero(np.array(whole.classes)[whole.labels] != "Flags")
    mean, grid = pooled(whole.nth_image(0)), spatial(whole.nth_image(0))
    query, gallery = (centred(spatial(held_out.nth_image(k))) for k in range(2))
    return {
        "linear": folds(mean, labels),
        "linear_without_flags": folds(mean[plain], labels[plain]),
        "linear_map": folds(grid, labels, MAP_DECAY),
        "knn": knn_accuracy(centred(grid), labels),
        "recall": recall_at(query, gallery),
    }


def run_evaluation(encoder: Encoder) -> dict[str, float]:
    encoder.eval()
    return measures(*(functools.partial(encode, encoder, readout=readout) for readout in ("pooled", "spatial")))


def run(task: tuple[str, int, int, int, int]) -> dict[str, Any]:
    """Pretrains one method from one seed and evaluates its encoder; without epochs, the initial encoder."""
    name, seed, epochs, batch, threads = task
    torch.set_num_threads(threads)
    train: Source = emoji("train")
    options = encoder_for(name, None, SIZE, WIDTH)
    method = build_method(name, options, train, seed)
    result: dict[str, Any] = {"method": name, "seed": seed, "encoder": options["name"]}
    if not epochs:
        return {**result, "method": f"random {options['name']}", "measures": run_evaluation(method.encoder)}
    settings = {"lr": LR, "weight_decay": DECAY} | OWN.get(name, {})
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        pretrain(method, train, Pretraining(epochs=epochs, batch_size=batch, seed=seed, **settings), out=out)
        losses = [loss for _, loss in json.loads((Path(out) / "history.json").read_text())]
    return {
        **result,
        "parameters": sum(p.numel() for p in method.parameters() if p.requires_grad),
        "images_per_second": len(losses) * batch / (time.perf_counter() - start),
        "first_loss": losses[0],
        "last_loss": statistics.mean(losses[-20:]),
        "measures": run_evaluation(method.encoder),
    }


def gain(runs: list[dict[str, Any]], random: list[dict[str, Any]], key: str) -> tuple[float, float]:
    """Mean and standard error of what pretraining added, seed by seed: both begin from the same weights."""
    before = {r["seed"]: r["measures"][key] for r in random}
    gains = [r["measures"][key] - before[r["seed"]] for r in runs]
    return statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")


def page(results: dict[str, Any]) -> str:
    rows: dict[str, list[dict[str, Any]]] = {}
    for r in results["runs"]:
        rows.setdefault(r["method"], []).append(r)
    randoms = {name: rows.pop(name) for name in list(rows) if name.startswith("random ")}
    m, seeds = results["machine"], max(len(v) for v in rows.values())
    exceptions = "but " + "; ".join(
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in own.items()) for name, own in OWN.items()
    )
    lines = [
        "# Comparison of the methods",
        "",
        f"Every method pretrains from scratch on the {results['images']:,} emoji of the training split: {results['epochs']} epochs with batches of "
        f"{results['batch']}, AdamW with a rate of {LR} and a weight decay of {DECAY}, the same for all ({exceptions}). The encoder is then frozen and evaluated on 9 categories: a linear "
        f"probe on its pooled features (5-fold cross-validation over all 1,871 emoji), the same without the flags, which are easy, and on "
        "its 4 x 4 feature map; 5 nearest neighbours; and Recall@1 of the 374 held-out emoji among the images of another vendor. In percent, "
        f"mean ± standard error over {seeds} seeds. Gain: the linear probe relative to the same network before pretraining, from the same seed; **bold** if "
        "more than two standard errors. ▲: the linear probe on the feature map, as long as the pixels, beats that on raw pixels by more than two standard errors. Methods that compare two views take the images of two vendors.",
        "",
        f"{m['cpu']}, one thread per run. `python benchmarks/zoo.py --epochs {results['epochs']} --seeds {seeds} --batch {results['batch']}` repeats it "
        f"({results['minutes']:.0f} minutes here, two runs at a time and with other load, which reduces images/s).",
        "",
        "| method | encoder | parameters | images/s | gain | " + " | ".join(MEASURES.values()) + " |",
        "|---" * (5 + len(MEASURES)) + "|",
    ]

    def cell(runs: list[dict[str, Any]], key: str) -> str:
        values = [r["measures"][key] for r in runs]
        spread = f" ± {statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    raw = results["pixels"]
    lines.append("| (raw pixels) | | | | | " + " | ".join(f"{raw[key]:.1f}" for key in MEASURES) + " |")
    for runs in randoms.values():
        kind = runs[0]["encoder"]
        lines.append(f"| (random) | {kind} | | | | " + " | ".join(cell(runs, key) for key in MEASURES) + " |")
    order = sorted(rows, key=lambda n: -statistics.mean(r["measures"]["linear"] for r in rows[n]))
    better = 0
    for name in order:
        runs = rows[name]
        mean, error = gain(runs, randoms[f"random {runs[0]['encoder']}"], "linear")
        sure = mean > 2 * error
        better += sure
        on_map = [r["measures"]["linear_map"] - raw["linear_map"] for r in runs]
        beats = len(on_map) > 1 and statistics.mean(on_map) > 2 * statistics.stdev(on_map) / len(on_map) ** 0.5
        shown = f"{'**' if sure else ''}{mean:+.1f} ± {error:.1f}{'**' if sure else ''}"
        rate = statistics.mean(r["images_per_second"] for r in runs)
        cells = " | ".join(cell(runs, key) for key in MEASURES)
        parameters = f"{runs[0]['parameters'] / 1e6:.2f} M"
        lines.append(
            f"| {name}{' ▲' if beats else ''} | {runs[0]['encoder']} | {parameters} | {rate:,.0f} | {shown} | {cells} |"
        )
    lines += [
        "",
        f"{better} of {len(rows)} methods improve the linear probe of their initial network by more than two standard errors.",
    ]
    if BEST.exists():
        lines += best_section(json.loads(BEST.read_text()))
    if DENSITY.exists() and GENERATION.exists():
        lines += likelihood_section(json.loads(DENSITY.read_text()), json.loads(GENERATION.read_text()))
    if LIGHTLY.exists():
        peer = json.loads(LIGHTLY.read_text())
        here, there = (
            f"{statistics.mean(v):.1f} ± {statistics.stdev(v) / len(v) ** 0.5:.1f}"
            for v in (peer["knn"][k] for k in ("fastssl", "lightly"))
        )
        low, high = peer["step_ratio_middle_half"]
        lines += [
            "",
            "## SimCLR against lightly's",
            "",
            f"The same encoder, head, policy, {peer['epochs']} epochs with batches of {peer['batch']}, {peer['seeds']} seeds: k-NN on pooled features {here} here, {there} with lightly. "
            f"A step, data included, takes {peer['step_ratio']:.2f} ({low:.2f} to {high:.2f}) of the time of lightly's with a DataLoader of two workers, alternating epochs on {peer['machine']['threads']} threads "
            f"(`python benchmarks/against_lightly.py --epochs {peer['epochs']} --seeds {peer['seeds']}`; it needs lightly and torchvision).",
        ]
    return "\n".join(lines) + "\n"


def best_section(best: dict[str, Any]) -> list[str]:
    """The best method with a longer budget, against SimCLR in batches of 512."""
    columns = {
        "linear": "linear",
        "linear_without_flags": "linear without flags",
        "knn": "k-NN",
        "knn_without_flags": "k-NN without flags",
        "retrieval": "Recall@1",
        "minutes": "minutes",
    }
    lines = [
        "",
        "## The best method, trained longer, against SimCLR in batches of 512",
        "",
        f"Evaluated on the 4 x 4 feature map, centred, mean ± standard error over {best['seeds']} seeds; minutes on {best['threads']} thread(s). `python benchmarks/best.py` repeats it.",
        "",
        "| method | epochs | batch | " + " | ".join(columns.values()) + " |",
        "|" + "---|" * (3 + len(columns)),
    ]
    for name, row in best["methods"].items():
        cells = []
        for key in columns:
            values = [run[key] for run in row["runs"]]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f} ± {error:.1f}")
        lines.append(f"| {name} | {row['epochs']} | {row['batch_size']} | " + " | ".join(cells) + " |")
    return lines


def likelihood_section(density: dict[str, Any], generation: dict[str, Any]) -> list[str]:
    """Models of the binary digits, best first, beside what knows nothing of images."""
    found, of_pixels = density["likelihoods"], generation["likelihood"]
    rows = {name: (row["nats"], row["kind"]) for name, row in found["models"].items()}
    rows |= {
        name.removesuffix(", binary digits"): (table["nats (exact)"]["pretrained"], "exact")
        for name, table in of_pixels.items()
        if name.endswith(", binary digits") and name.removesuffix(", binary digits") not in rows
    }
    rows |= {name: (nats, "no network") for name, nats in found["baselines"].items()}
    lines = [
        "",
        "## Likelihoods",
        "",
        f"Distributions of the binary digits, 8 x 8, trained on {found['training']:,} and scored on the {found['held out']} held out: nats per image, less is better "
        "(AIS: an estimate; bound: no better than that). Recipes, training times and other data: [early-works.md](early-works.md#measured), [generation.md](generation.md#measured).",
        "",
        "| model | nats | |",
        "|---|---|---|",
    ]
    return lines + [
        f"| {name} | {nats:.2f} | {kind} |" for name, (nats, kind) in sorted(rows.items(), key=lambda row: row[1][0])
    ]


def drop(results: dict[str, Any], names: list[str]) -> None:
    """Takes runs of methods out, and their share of the minutes (that of the images they trained on a second)."""

    def seconds(runs: list[dict[str, Any]]) -> float:
        return sum(1 / r["images_per_second"] for r in runs if "images_per_second" in r)

    left = [r for r in results["runs"] if r["method"] not in names]
    results["minutes"] *= seconds(left) / seconds(results["runs"]) if left else 0.0
    results["runs"] = left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=list(methods_of("images")))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=torch.get_num_threads(), help="runs at a time, one thread each")
    parser.add_argument("--resume", action="store_true", help="keep what benchmarks/results/zoo.json has")
    parser.add_argument("--again", action="store_true", help="keep it, but not what it has of METHOD ...")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    options = parser.parse_args()
    names = options.methods or list(methods_of("images"))
    same = {"epochs": options.epochs, "batch": options.batch, "weight_decay": DECAY, "images": len(emoji("train"))}
    results: dict[str, Any] = {"machine": machine(), **same, "minutes": 0.0, "runs": []}
    if (options.resume or options.again or options.page) and RESULTS.exists():
        kept = json.loads(RESULTS.read_text())
        if any(kept.get(k) != v for k, v in same.items()):
            raise SystemExit(f"{RESULTS} was made with other settings or images: run without --resume")
        results = kept
    if options.again:
        drop(results, names)
    start = time.time() - 60 * results["minutes"]
    if not options.page:
        flat = functools.partial(pixels, size=SIZE)
        results["pixels"] = results.get("pixels") or measures(flat, flat)
        kinds = {encoder_for(name, None, SIZE, WIDTH)["name"]: name for name in names}
        tasks = [
            (name, seed, epochs, options.batch, 1)
            for seed in range(options.seeds)
            for epochs, group in ((0, kinds.values()), (options.epochs, names))
            for name in group
        ]
        done = {(r["method"], r["seed"]) for r in results["runs"]}
        label = {name: f"random {kind}" for kind, name in kinds.items()}
        tasks = [t for t in tasks if (t[0] if t[2] else label[t[0]], t[1]) not in done]
        with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=1) as pool:
            for r in pool.imap_unordered(run, tasks):
                results["runs"].append(r)
                results["minutes"] = (time.time() - start) / 60
                write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
                shown = ", ".join(f"{text} {r['measures'][key]:.1f}" for key, text in MEASURES.items())
                losses = f"loss {r['first_loss']:.2f} -> {r['last_loss']:.2f}, " if "first_loss" in r else ""
                print(f"{results['minutes']:5.1f} min  {r['method']} {r['seed']}: {losses}{shown}", flush=True)
    write_atomically(PAGE, page(results))


if __name__ == "__main__":
    main()
