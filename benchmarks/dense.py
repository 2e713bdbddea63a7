"""Detection and segmentation of emoji scenes by pretrained encoders; writes the tables of docs/dense.md.

python benchmarks/dense.py pretrain segmentation detection speed --page [--methods simclr byol ...] [--seeds 3]
python benchmarks/dense.py pretrain labels --page --methods simclr --seeds 6
python benchmarks/dense.py pretrain boxes --page --methods simclr --epochs 300 --label-steps 2400

"pretrain" trains every method on the training emoji, with the same network and epochs, once for each seed; runs are kept in runs/dense.
"segmentation" and "detection" train heads on the frozen encoders, beside random, supervised and untrained ones, "labels"
compares segmentation with shares of the training scenes, over more steps, "boxes" detection, "speed" times COCO's mAP against faster-coco-eval. What has been measured with
the same settings is kept in runs/dense and not measured again; results of parts that are not named stay in
benchmarks/results/dense.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import replace

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.cli.recipes import build_method
from fastssl.data import Detections, Objects, Splits, emoji, scenes
from fastssl.data.objects import objects_of
from fastssl.evaluate import DenseTuning, Detection, Segmentation, Start, coco_ap, compare_dense, supervised_encoder
from fastssl.evaluate.dense_protocol import Results, settings_of
from fastssl.evaluate.report import random_encoder
from fastssl.models import Encoder
from fastssl.train import Pretraining, load_encoder, pretrain

ROOT = Path(__file__).parent
RESULTS, PAGE, RUNS = ROOT / "results" / "dense.json", ROOT.parent / "docs" / "dense.md", Path("runs/dense")
METHODS = ("simclr", "moco", "byol", "barlow-twins", "vicreg", "swav", "rotnet", "context-encoder")
TUNED = ", tuned"  # rows whose layers are all trained
ENCODER: dict[str, Any] = {"name": "resnet", "size": 32, "width": 32, "blocks": 1}
# Parts with shares of the labelled scenes: the task, and its rows.
FEW: dict[str, tuple[str, tuple[str, ...]]] = {
    "labels": ("segmentation", ("simclr", f"simclr{TUNED}", "random", "scratch")),
    "boxes": ("detection", (f"simclr{TUNED}", "scratch")),
}
MAIN = {"segmentation": "mIoU", "detection": "VOC AP50, 11 points"}
SHOWN = {
    "segmentation": ("mIoU", "pixel accuracy", "boundary F"),
    "detection": ("VOC AP50, 11 points", "COCO AP", "COCO AP small", "COCO AP medium"),
}


def folder(name: str, epochs: int, seed: int) -> Path:
    return RUNS / f"{name}-{epochs}-{seed}"


def pretrain_one(name: str, epochs: int, seed: int) -> None:
    out, data = folder(name, epochs, seed), emoji("train")
    if (out / "done").exists():
        return
    began = time.process_time()
    options = Pretraining(epochs=epochs, batch_size=128, precision="auto", seed=seed)
    pretrain(build_method(name, ENCODER, data, seed), data, options, out=out, encoder_options=ENCODER, overwrite=True)
    (out / "done").write_text(f"{time.process_time() - began:.0f}")
    print(f"{name} {seed}: {time.process_time() - began:.0f} s of CPU", flush=True)


@functools.cache
def supervised(seed: int) -> Encoder:
    return supervised_encoder(random_encoder(ENCODER, seed), emoji("train"))


def starts(methods: list[str], tuned: list[str], epochs: int, seeds: int) -> dict[str, Start]:
    def of(name: str) -> Callable[[int], Encoder]:
        return lambda seed: load_encoder(folder(name, epochs, seed))[0]

    def random(seed: int) -> Encoder:
        return random_encoder(ENCODER, seed)

    done = [name for name in methods if all((folder(name, epochs, k) / "done").exists() for k in range(seeds))]
    rows = {name: Start(of(name), True) for name in done}
    rows |= {f"{name}{TUNED}": Start(of(name), False) for name in done if name in tuned}
    return rows | {
        "supervised": Start(supervised, True),
        "random": Start(random, True),
        "scratch": Start(random, False),
    }


def run(part: str, arguments: argparse.Namespace, labels: float = 1.0, rows: tuple[str, ...] = ()) -> dict[str, Any]:
    data = Splits(
        "scenes", scenes(arguments.train, size=arguments.size), scenes(arguments.test, "test", size=arguments.size)
    )
    task: Any = Segmentation(data.train.classes) if part == "segmentation" else Detection(data.train.classes)
    options = DenseTuning(steps=arguments.label_steps if rows else arguments.steps)
    some = {
        name: start
        for name, start in starts(arguments.methods, arguments.tuned, arguments.epochs, arguments.seeds).items()
        if not rows or name in rows
    }
    settings = settings_of(data, options, torch.device("cpu"), labels=labels)
    kept = RUNS / f"{part}-{arguments.train}-{100 * labels:g}-{options.steps}-{arguments.epochs}.json"
    results = Results(kept, settings)
    table = compare_dense(some, task, data, options, labels=labels, seeds=arguments.seeds, results=results, note=note)
    measured: dict[str, Any] = {
        "epochs": arguments.epochs,
        "scenes": arguments.train,
        "test": arguments.test,
        "size": arguments.size,
        "steps": options.steps,
    }
    return {
        "table": table,
        "gap": gap(results, MAIN[part]),
        "seeds": arguments.seeds,
        "machine": machine()["cpu"],
        **measured,
    }


def gap(results: Results, measure: str) -> dict[str, float]:
    """A measure of the tuned encoder above that from scratch, of the same seeds: they share labels and order."""
    own, scratch = (
        {
            name.rpartition(", ")[2]: values[measure]
            for name, values in results.values.items()
            if name.startswith(f"{row}, ")
        }
        for row in (f"simclr{TUNED}", "scratch")
    )
    gaps = [own[seed] - scratch[seed] for seed in own if seed in scratch]
    return {"mean": statistics.mean(gaps), "se": statistics.stdev(gaps) / len(gaps) ** 0.5} if len(gaps) > 1 else {}


def note(text: str) -> None:
    print(text, flush=True)


def boxes_of(images: int, classes: int, seed: int = 0) -> tuple[list[Detections], list[Objects]]:
    """As many boxes as COCO's validation set has, 7 objects and 100 detections per image."""
    r = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(images):
        n = int(r.poisson(7.2))
        corner, side = r.uniform(0, 400, (n, 2)), np.exp(r.uniform(2, 5.4, (n, 2)))
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        labels = r.choice(classes, 3)[r.integers(0, 3, n)]
        truth.append(objects_of((640, 640), np.minimum(boxes, 640), labels, crowd=r.random(n) < 0.01))
        near = np.concatenate([np.repeat(boxes, 5, 0), r.uniform(0, 200, (max(0, 100 - 5 * n), 4)).astype(np.float32)])
        near = near[:100] + r.normal(0, 6, near[:100].shape).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        guessed = np.concatenate([np.repeat(labels, 5), r.integers(0, classes, max(0, 100 - 5 * n))])[:100]
        found.append(Detections(near, r.random(len(near)).astype(np.float32), guessed))
    return found, truth


def speed(images: int = 5000, classes: int = 80, repeats: int = 3) -> dict[str, Any]:
    """Both from their own records of the same boxes, in turn; faster-coco-eval's files are loaded beforehand."""
    from faster_coco_eval import COCO, COCOeval_faster

    found, truth = boxes_of(images, classes)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for k, (d, o) in enumerate(zip(found, truth)):
        for (x0, y0, x1, y1), label, crowd, area in zip(o.boxes.tolist(), o.labels, o.crowd, o.areas):
            one = {"id": len(annotations) + 1, "image_id": k + 1, "category_id": int(label), "iscrowd": int(crowd)}
            annotations.append({**one, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(area)})
        for (x0, y0, x1, y1), score, label in zip(d.boxes.tolist(), d.scores, d.labels):
            one = {"image_id": k + 1, "category_id": int(label), "score": float(score)}
            results.append({**one, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    whole = {"images": [{"id": k + 1, "width": 640, "height": 640} for k in range(images)]}
    wanted = COCO(
        {**whole, "annotations": annotations, "categories": [{"id": c, "name": str(c)} for c in range(classes)]}
    )
    given = wanted.loadRes(results)

    def theirs() -> float:
        judged = COCOeval_faster(wanted, given, "bbox", print_function=lambda *_: None)
        judged.run()
        return 100 * float(judged.stats[0])

    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    values = {}
    for _ in range(repeats):
        for name, function in (("ours", lambda: coco_ap(found, truth, classes)["AP"]), ("theirs", theirs)):
            began = time.process_time()
            values[name] = function()
            times[name].append(time.process_time() - began)
    assert abs(values["ours"] - values["theirs"]) < 1e-6, values
    seconds = {name: statistics.median(each) for name, each in times.items()}
    counts = {"images": images, "classes": classes, "objects": len(annotations), "detections": len(results)}
    return {**counts, "AP": values["ours"], "seconds": seconds, "machine": machine()["cpu"]}


def table_of(part: str, result: dict[str, Any]) -> list[str]:
    table, main = result["table"], MAIN[part]
    rows = sorted(table[main], key=lambda row: -table[main][row])
    shown = [name for name in SHOWN[part] if name in table]
    lines = [
        f"{part.capitalize()}: {result['machine']}; {result['scenes']:,} training and {result['test']:,} test scenes of "
        f"{result['size']} pixels, {result['steps']} steps, mean ± standard error over {result['seeds']} seeds.",
        "",
        "| encoder | trained | " + " | ".join(shown) + " | above random |",
        "|---|---|" + "---|" * (len(shown) + 1),
    ]
    for row in rows:
        cells = [f"{table[name][row]:.1f} ± {table[name + '_se'][row]:.1f}" for name in shown]
        gain = table[main][row] - table[main]["random"]
        error = (table[main + "_se"][row] ** 2 + table[main + "_se"]["random"] ** 2) ** 0.5
        above = "" if row == "random" else f"{gain:+.1f}"
        above = f"**{above}**" if row != "random" and gain > 2 * error else above
        lines.append(
            f"| {row.removesuffix(TUNED)} | {'all' if row == 'scratch' or row.endswith(TUNED) else 'head'} | {' | '.join(cells)} | {above} |"
        )
    return [*lines, ""]


def table_of_shares(task: str, steps: int, shares: dict[str, Any]) -> list[str]:
    main, first = MAIN[task], next(iter(shares.values()))
    rows = [*first["table"][main]]
    lines = [
        f"{task.capitalize()}: shares of {first['scenes']:,} labelled scenes, after {first['epochs']} epochs of pretraining: {first['machine']}; "
        f"{first['test']:,} test scenes of {first['size']} pixels, {steps:,} steps.",
        "",
        f"| {main}, {first['seeds']} seeds | {' | '.join(rows)} | tuned over scratch, by seed |",
        "|---|" + "---|" * (len(rows) + 1),
    ]
    for share, result in shares.items():
        means, errors = result["table"][main], result["table"][f"{main}_se"]
        cells = [f"{means[row]:.1f} ± {errors[row]:.1f}" for row in rows]
        above = "{mean:+.1f} ± {se:.1f}".format(**result["gap"])
        lines.append(f"| {share} % of the scenes | {' | '.join(cells)} | {above} |")
    return [*lines, ""]


def page(results: dict[str, Any]) -> str:
    lines: list[str] = []
    for part in MAIN:
        if part in results:
            lines += table_of(part, results[part])
    for part, (task, _) in FEW.items():
        for steps, shares in results.get(part, {}).items():
            lines += table_of_shares(task, int(steps), shares)
            lines += ["![mIoU against labels](../benchmarks/results/dense.svg)", ""] if part == "labels" else []
    if "speed" in results:
        r = results["speed"]
        lines.append(
            f"COCO's AP of {r['images']:,} images, {r['classes']} classes, {r['objects']:,} objects and "
            f"{r['detections']:,} detections: {r['seconds']['ours']:.2f} s of CPU, faster-coco-eval "
            f"{r['seconds']['theirs']:.2f} s (without loading its records); both give {r['AP']:.4f}."
        )
    return "\n".join(lines).rstrip() + "\n"


def figure(results: dict[str, Any]) -> None:
    """mIoU against the share of labelled scenes."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    drawing, axis = plt.subplots(figsize=(6, 3.2))
    shares = [*results["labels"].values()][-1]
    percent = [float(share) for share in shares]
    for row in FEW["labels"][1]:
        values, errors = ([one["table"][name][row] for one in shares.values()] for name in ("mIoU", "mIoU_se"))
        axis.errorbar(percent, values, errors, marker="o", capsize=3, label=row.replace(TUNED, ", all layers"))
    axis.set(xscale="log", xlabel="labelled scenes, %", ylabel="mIoU")
    axis.set_xticks(percent, [*shares])
    axis.legend(frameon=False, fontsize=9)
    drawing.savefig(RESULTS.with_suffix(".svg"), bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["pretrain", *MAIN, *FEW, "speed", []])
    parser.add_argument("--methods", nargs="+", default=[*METHODS])
    parser.add_argument("--tuned", nargs="*", default=["simclr"], help="methods whose layers are all trained, too")
    parser.add_argument("--epochs", type=int, default=30, help="of pretraining")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=600, help="training scenes")
    parser.add_argument("--test", type=int, default=200, help="test scenes")
    parser.add_argument("--size", type=int, default=96, help="of a scene, in pixels")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--label-steps", type=int, default=800, help="of a share of the scenes")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 1.0], help="of the scenes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--page", action="store_true", help="write the tables of docs/dense.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if "pretrain" in arguments.parts:
        for name in arguments.methods:
            for seed in range(arguments.seeds):
                pretrain_one(name, arguments.epochs, seed)
    for part in MAIN:
        if part in arguments.parts:
            _keep(part, run(part, arguments))
    for part, (task, rows) in FEW.items():
        if part in arguments.parts:
            shares = {f"{100 * share:g}": run(task, arguments, share, rows) for share in arguments.shares}
            _keep(part, shares, f"{arguments.label_steps}")
    if "speed" in arguments.parts:
        _keep("speed", speed())
    if arguments.page:
        kept = json.loads(RESULTS.read_text())
        replace("dense", page(kept), PAGE)
        if "labels" in kept:
            figure(kept)


def _keep(part: str, made: dict[str, Any], steps: str | None = None) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[part] = made if steps is None else {**results.get(part, {}), steps: made}
    write_atomically(RESULTS, json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
