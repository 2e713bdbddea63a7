"""Which recipe is best for small data in five minutes on two CPU cores: ablations, and combinations of what helped.

python benchmarks/recipes.py --time                                  # what a step of each variant costs on this CPU
python benchmarks/recipes.py --device cuda --jobs 14 --minutes 7     # trains them for as many steps as that allows

Every variant differs in one thing from today's recipe. It trains for as many steps as five minutes on two cores allow it by
the measured cost of its step, so that a variant whose step costs twice as much has half of the steps. First every variant is
compared with today's recipe, with a part of the steps; then what helped is combined, and each part of the
combination left out again, with more. Scores on two thirds of the categories and digits choose; those on the rest, and
on the third data set, are written beside them under "apart", to be read once at the end. Views are made in batched torch, on
the device, of the same distributions as those of the package.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from recipe_data import SETS, load
from recipe_scores import score_network
from recipe_training import Variant, step_of, train

RESULTS = Path(__file__).parent / "results" / "recipes.json"
COSTS = Path(__file__).parent / "results" / "recipe_costs.json"
BUDGET = 600.0  # processor seconds: five minutes on two cores
# Shares of it in the first and the second phase: digits have converged long before.
SHARES = {"emoji": (0.5, 1.0), "digits": (0.25, 0.5), "spectrograms": (0.25, 0.25)}

# Part -> option -> what differs from today's recipe.
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "batch": {"batch 128": {"batch": 128}, "batch 64": {"batch": 64, "lr": 1e-3}},
    "rate": {"rate 1e-3": {"lr": 1e-3}, "rate 4e-3": {"lr": 4e-3}},
    "schedule": {"linear": {"schedule": "linear"}, "one cycle": {"warmup": 0.3}},
    "optimiser": {"LARS": {"optimizer": "lars", "lr": 1.0}, "Muon": {"optimizer": "muon", "lr": 0.02}},
    "decay": {"decay 0.1": {"decay": 0.1}, "decay 0.5": {"decay": 0.5}},
    "temperature": {
        "temperature 0.05": {"temperature": 0.05},
        "temperature 0.2": {"temperature": 0.2},
        "temperature 0.5": {"temperature": 0.5},
        "temperature 0.5 to 0.1": {"temperature": 0.5, "temperature_end": 0.1},
    },
    "crops": {
        "smaller crops": {"crop": (0.15, 1.0)},
        "larger crops": {"crop": (0.6, 1.0)},
        "four views": {"views": 4},
        "four local crops": {"local": 4},
    },
    "colours": {
        "no distortion": {"strength": 0.0, "gray": 0.0},
        "strength 0.25": {"strength": 0.25},
        "strength 1": {"strength": 1.0},
        "no grey": {"gray": 0.0},
    },
    "shape": {"rotation": {"rotate": 20.0}, "erasing": {"erase": 0.5}, "shear": {"shear": 0.3}},
    "positives": {
        "neighbours": {"neighbours": 0.5},
        "neighbours, weight 2": {"neighbours": 2.0},
        "relations": {"relations": 0.5},
        "prototypes": {"prototypes": 0.5},
    },
    "target": {"MoCo": {"target": "moco"}, "BYOL": {"target": "byol"}},
    "decorrelation": {"decorrelation": {"decorrelate": 0.02}, "VICReg": {"loss": "vicreg", "outputs": 512}},
    "head": {
        "head on the mean": {"spatial": False},
        "both heads": {"both": True},
        "wide head": {"hidden": 1024, "outputs": 256},
        "three layers": {"layers": 3},
    },
    "encoder": {
        "width 24": {"width": 24},
        "width 48": {"width": 48},
        "two blocks": {"blocks": 2},
        "patch stem, width 64": {"stem": "patch", "width": 64},
        "patch stem, width 96": {"stem": "patch", "width": 96},
        "lightness and colour": {"lab": True},
        "lightness and colour, no distortion": {"lab": True, "strength": 0.0, "gray": 0.0},
        "24 pixels first": {"small_first": True},
    },
}
TODAY = "today's"
FREE = {
    "lr",
    "decay",
    "schedule",
    "warmup",
    "temperature",
    "temperature_end",
    "crop",
    "strength",
    "gray",
    "rotate",
    "erase",
    "shear",
}
OPTIONS = {name: (part, changes) for part, options in PARTS.items() for name, changes in options.items()}


def settings(data: str, names: tuple[str, ...]) -> Variant:
    """The variant of a data set with the named options."""
    made = Variant(**SETS[data])
    for name in names:
        if name != TODAY:
            made = replace(made, **OPTIONS[name][1])
    return made


# ---------------------------------------------------------------------------------------------------------------- costs


def processor_seconds(step: Callable[[], Any]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def measure_costs(repeats: int, wanted: list[str]) -> None:
    """Processor seconds per step of the options that change it, alternating with today's: their ratio to it."""
    torch.set_num_threads(1)
    costs: dict[str, Any] = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    for data in ("emoji", "digits"):
        images = load(data, "cpu")
        base = step_of(settings(data, ()), images, torch.device("cpu"))
        for name in [TODAY, *OPTIONS]:
            if (wanted and name not in wanted) or (name != TODAY and set(OPTIONS[name][1]) <= FREE):
                continue
            own = step_of(settings(data, (name,)), images, torch.device("cpu"))
            pairs = [[processor_seconds(step) for step in (base, own)] for _ in range(2 * repeats + 2)][2:]
            both = [sum(column) / len(pairs) for column in zip(*pairs)]
            found = {
                "ratio": both[1] / both[0],
                "seconds": min(sum(p) for p in zip(*[iter(b for _, b in pairs)] * 2)) / 2,
            }
            costs.setdefault(data, {})[name] = found
            print(f"{data} {name}: {found['ratio']:.2f} of today's, {1e3 * found['seconds']:.0f} ms", flush=True)
            write(COSTS, costs)


def steps_for(data: str, names: tuple[str, ...], costs: dict[str, Any], share: float) -> int:
    """Steps of five minutes; the costs of options multiply."""
    known = costs["emoji" if data == "spectrograms" else data]
    seconds = known[TODAY]["seconds"]
    for name in names:
        seconds *= known[name]["ratio"] if name in known else 1.0
    return max(4, round(share * BUDGET / seconds))


# ----------------------------------------------------------------------------------------------------------------- runs


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One training and its scores; what fails is recorded."""
    start = time.perf_counter()
    try:
        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        device = torch.device(task["device"])
        variant = settings(task["data"], tuple(task["names"]))
        images = load(task["data"], task["device"])
        last, averaged = train(variant, images, task["steps"], task["seed"], device)
        scores = {"last": score_network(last, task["data"]), "averaged": score_network(averaged, task["data"])}
        made = {"scores": {k: v[0] for k, v in scores.items()}, "apart": {k: v[1] for k, v in scores.items()}}
    except Exception:
        made = {"failed": traceback.format_exc()[-2000:]}
    return {**task, **made, "seconds": time.perf_counter() - start}


def best(result: dict[str, Any]) -> float:
    """The score that chooses: the mean over measures, of the better weights and the best readout."""
    return max(sum(m.values()) / len(m) for weights in result["scores"].values() for m in weights.values())


def gains(results: list[dict[str, Any]], data: str, phase: int) -> dict[str, float]:
    """Option -> mean gain over today's recipe with the same seed."""
    found = [r for r in results if r["data"] == data and r["phase"] == phase and "scores" in r]
    base = {r["seed"]: best(r) for r in found if r["names"] == [TODAY]}
    rows: dict[str, list[float]] = {}
    for r in found:
        if r["seed"] in base and len(r["names"]) == 1:
            rows.setdefault(r["names"][0], []).append(best(r) - base[r["seed"]])
    return {name: sum(v) / len(v) for name, v in rows.items()}


def chosen(gain: dict[str, float], least: float) -> tuple[str, ...]:
    """The best option of every part, if it gains enough."""
    names = []
    for options in PARTS.values():
        known = [name for name in options if name in gain]
        top = max(known, key=lambda name: gain[name], default=None)
        if top is not None and gain[top] > least:
            names.append(top)
    return tuple(names)


def combinations(results: list[dict[str, Any]], sets: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """(data, options) of the second phase: what helped each set, what helped both, and that without each of its parts."""
    per_set = {data: gains(results, data, 1) for data in sets}
    shared = set.intersection(*(set(g) for g in per_set.values()))
    # In units of each set's spread of gains, so that no set decides alone.
    spread = {d: max(1e-6, torch.tensor(list(g.values())).std().item()) for d, g in per_set.items() if len(g) > 1}
    mean = {n: sum(per_set[d][n] / spread[d] for d in spread) / max(1, len(spread)) for n in shared}
    both, strict = chosen(mean, 0.25), chosen(mean, 0.75)
    plans: list[tuple[str, ...]] = [(TODAY,), both, strict]
    plans += [tuple(n for n in both if n != left) for left in both]
    wanted = [(data, plan) for plan in plans for data in sets]
    wanted += [(data, chosen(per_set[data], 0.3 * spread.get(data, 1.0))) for data in sets]
    wanted += [("spectrograms", plan) for plan in (*plans[:3],)]
    return [(data, plan) for data, plan in dict.fromkeys(wanted) if plan]


def first_tasks(sets: list[str], wanted: list[str], seeds: int) -> Iterator[tuple[str, tuple[str, ...], int]]:
    for seed in range(seeds):
        for name in [TODAY, *(wanted or OPTIONS)]:
            for data in sets:
                yield data, (name,), seed


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


class Pool:
    """Processes that run tasks until a deadline; whatever runs then is ended and left out."""

    def __init__(self, jobs: int, state: dict[str, Any], out: Path) -> None:
        self.jobs, self.state, self.out = jobs, state, out

    def run(self, tasks: list[dict[str, Any]], deadline: float) -> None:
        context = multiprocessing.get_context("spawn")
        with context.Pool(self.jobs) as pool:
            for result in self._results(pool, tasks, deadline):
                self.state["runs"].append(result)
                self.state["minutes"] = (time.time() - self.state["started"]) / 60
                write(self.out, self.state)
                shown = result.get("failed", "").strip().splitlines()[-1:] or [f"{best(result):.1f}"]
                names = " + ".join(result["names"])
                print(
                    f"{self.state['minutes']:5.2f} min  {result['data']} {names} seed {result['seed']} "
                    f"{result['steps']} steps {result['seconds']:.0f} s: {shown[0]}",
                    flush=True,
                )

    @staticmethod
    def _results(pool: Any, tasks: list[dict[str, Any]], deadline: float) -> Iterator[dict[str, Any]]:
        made = pool.imap_unordered(run, tasks)
        for _ in tasks:
            try:
                yield made.next(timeout=max(0.1, deadline - time.time()))
            except multiprocessing.TimeoutError:
                print("time is up", flush=True)
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("options", nargs="*", help="names of options, default all")
    parser.add_argument("--time", action="store_true", help="measure what steps cost on this CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=7.0, help="limit of the whole command")
    parser.add_argument("--first", type=float, default=0.55, help="share of it for the first phase")
    parser.add_argument("--share", type=float, default=1.0, help="share of all steps, for trials")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="*", default=["emoji", "digits"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.time:
        measure_costs(options.repeats, options.options)
        return
    started = time.time()
    costs = json.loads(COSTS.read_text())
    state: dict[str, Any] = {
        "started": started,
        "minutes": 0.0,
        "torch": torch.__version__,
        "arguments": {k: str(v) for k, v in vars(options).items()},
        "base": {data: asdict(Variant(**given)) for data, given in SETS.items()},
        "runs": [],
    }
    pool = Pool(options.jobs, state, options.out)

    def task(data: str, names: tuple[str, ...], seed: int, phase: int) -> dict[str, Any]:
        steps = steps_for(data, names, costs, options.share * SHARES[data][phase - 1])
        about = {"data": data, "names": list(names), "seed": seed, "phase": phase}
        return {**about, "steps": steps, "device": options.device}

    first = [task(*t, 1) for t in first_tasks(options.sets, options.options, options.seeds)]
    pool.run(first, started + 60 * options.minutes * options.first)
    try:
        plans = combinations(state["runs"], options.sets)
    except Exception:
        plans, state["failed"] = [], traceback.format_exc()
    second = [task(data, plan, seed, 2) for seed in range(options.seeds) for data, plan in plans]
    pool.run(second, started + 60 * options.minutes)
    write(options.out, state)
    failed = sum("failed" in r for r in state["runs"])
    print(f"{len(state['runs'])} runs, {failed} failed, {(time.time() - started) / 60:.1f} minutes: {options.out}")


if __name__ == "__main__":
    main()
