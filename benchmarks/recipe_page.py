"""The tables of docs/recipes.md, of what ``recipes.py``, ``five_minutes.py``, ``small_peers.py`` and
``encoder_options.py`` have measured.

python benchmarks/recipe_page.py [--apart]       # --apart: also what was held apart from all choices
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "recipes.json"
PAGE = ROOT / "docs" / "recipes.md"
FIVE = ROOT / "benchmarks" / "results" / "five_minutes.json"
FIVE_MARKS = ("<!-- five:begin (written by `python benchmarks/recipe_page.py`) -->", "<!-- five:end -->")
# Columns of the table of five minutes: data set, score, measure, heading.
REACHED = (
    ("emoji", "readout", "knn", "emoji: k-NN, 9 categories"),
    ("emoji", "readout", "retrieval", "emoji: Recall@1 of held-out ones"),
    ("digits", "readout", "digits_one_label", "digits: one label per class"),
    ("spectrograms", "readout", "knn", "spectrograms: k-NN"),
    ("spectrograms", "apart", "one_label", "spectrograms: one label per class"),
)
PEERS = ROOT / "benchmarks" / "results" / "small_peers.json"
PEER_NAMES = {"lightly": "lightly {}, SimCLR", "lightly-train": "LightlyTrain {}, SimCLR"}
ENCODERS = ROOT / "benchmarks" / "results" / "encoder_options.json"
ENCODER_MARKS = ("<!-- encoders:begin (written by `python benchmarks/recipe_page.py`) -->", "<!-- encoders:end -->")
NAMES = {"small": "recipe small", "before": "the recipe before"}
MARKS = ("<!-- ablations:begin (written by `python benchmarks/recipe_page.py`) -->", "<!-- ablations:end -->")
MEASURES = {"emoji": ("knn", "recall"), "digits": ("one_label",), "spectrograms": ("one_label",)}
TODAY = ["today's"]

Runs = list[dict[str, Any]]


def readout(runs: Runs) -> tuple[str, str]:
    """(weights, readout) that are best for today's recipe: those of all rows of a table."""
    today = [r for r in runs if r["names"] == TODAY] or runs
    keys = [(w, name) for w in ("last", "averaged") for name in today[0]["scores"][w]]

    def mean(key: tuple[str, str]) -> float:
        values = [statistics.mean(r["scores"][key[0]][key[1]].values()) for r in today if key[1] in r["scores"][key[0]]]
        return statistics.mean(values)

    return max(keys, key=mean)


def value(run: dict[str, Any], key: tuple[str, str], measure: str, part: str = "scores") -> float:
    return float(run[part][key[0]].get(key[1], {}).get(measure, float("nan")))


def row(runs: Runs, base: Runs, key: tuple[str, str], measure: str, part: str = "scores") -> str:
    """Mean, and the difference from today's with the same seed, with its standard error."""
    before = {r["seed"]: value(r, key, measure, part) for r in base}
    pairs = [(value(r, key, measure, part), before[r["seed"]]) for r in runs if r["seed"] in before]
    if not pairs:
        return "-"
    mean = statistics.mean(a for a, _ in pairs)
    gains = [a - b for a, b in pairs]
    if runs is base or all(g == 0 for g in gains):
        return f"{mean:.1f}"
    error = f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.1f}" if len(gains) > 1 else ""
    return f"{mean:.1f} ({statistics.mean(gains):+.1f}{error})"


def table(runs: Runs, phase: int, sets: tuple[str, ...], part: str = "scores", prefix: str = "") -> list[str]:
    found = [r for r in runs if r["phase"] == phase and part in r]
    keys = {d: readout([r for r in found if r["data"] == d]) for d in sets if any(r["data"] == d for r in found)}
    columns = [(d, prefix + m) for d in keys for m in MEASURES[d]]
    names: dict[tuple[str, ...], None] = {}
    for r in sorted(found, key=lambda r: r["names"] != TODAY):
        names[tuple(r["names"])] = None
    lines = [
        "| options | seeds | " + " | ".join(f"{d}: {m}" for d, m in columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for name in names:
        cells, seeds = [], 0
        for d, m in columns:
            own = [r for r in found if r["data"] == d and tuple(r["names"]) == name]
            base = [r for r in found if r["data"] == d and r["names"] == TODAY]
            seeds = max(seeds, len(own))
            cells.append(row(own, base, keys[d], m, part) if own else "-")
        lines.append(f"| {', '.join(name)} | {seeds} | " + " | ".join(cells) + " |")
    about = "; ".join(f"{d}: {name}, {weights} weights" for d, (weights, name) in keys.items())
    return [*lines, "", f"Readouts: {about}."]


def page(state: dict[str, Any], apart: bool) -> str:
    runs = [r for r in state["runs"] if "scores" in r]
    lines = ["One option at a time:", "", *table(runs, 1, ("emoji", "digits")), "", "Combinations:", ""]
    lines += table(runs, 2, ("emoji", "digits"))
    if apart:
        lines += ["", "Held apart:", "", *table(runs, 2, ("emoji", "digits", "spectrograms"), "apart")]
    return "\n".join(lines)


def cell(scores: list[dict[str, Any]], score: str, measure: str) -> str:
    """The mean over runs with its standard error."""
    found = [s[score][measure] for s in scores if measure in s.get(score, {})]
    values = [v["pretrained"] if isinstance(v, dict) else v for v in found]
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{error}" if values else "-"


def five_minutes(state: dict[str, Any], peers: Runs) -> str:
    """Means over seeds with their standard errors, beside other libraries and the features that nobody trained."""
    runs, about = state["runs"], state["machine"]
    lines = ["| | " + " | ".join(heading for *_, heading in REACHED) + " |", "|---" * (1 + len(REACHED)) + "|"]
    for which, name in NAMES.items():
        cells = []
        for data, score, measure, _ in REACHED:
            own = [r["scores"] for r in runs if (r["recipe"], r["data"]) == (which, data)]
            cells.append(cell(own, score, measure))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for peer, name in PEER_NAMES.items():
        theirs = [r for r in peers if r["peer"] == peer]
        if theirs:
            cells = [cell([r["scores"] for r in theirs if r["data"] == d], s, m) for d, s, m, _ in REACHED]
            lines.append(f"| {name.format(theirs[0]['version'])} | " + " | ".join(cells) + " |")
    for baseline in ("random", "pixels", "histogram"):
        cells = []
        for data, score, measure, _ in REACHED:
            given = (r["scores"][score].get(measure) for r in runs if r["data"] == data)
            values = [v[baseline] for v in given if isinstance(v, dict) and baseline in v]
            cells.append(f"{values[0]:.1f}" if values else "-")
        lines.append(f"| {'random encoder' if baseline == 'random' else baseline} | " + " | ".join(cells) + " |")
    seconds = {
        d: [r["processor_seconds"] for r in runs if (r["data"], r["recipe"]) == (d, "small")]
        for d in ("emoji", "digits")
    }
    spent = ", ".join(f"{d} {min(values):.0f} to {max(values):.0f}" for d, values in seconds.items())
    seeds = max(len([r for r in runs if (r["data"], r["recipe"]) == (d, "small")]) for d in seconds)
    lines += [
        "",
        f"{about['cpu']}, {about['threads']} threads, {seeds} seeds, the same epochs in each; processor seconds: {spent}.",
    ]
    return "\n".join(lines)


def encoders(state: dict[str, Any]) -> str:
    lines = ["| encoder or head | a step costs | epochs | k-NN | Recall@1 |", "|---|---|---|---|---|"]
    for r in state["runs"]:
        found = r["chosen with"]
        lines.append(f"| {r['name']} | {r['cost']:.1f} | {r['epochs']} | {found['knn']:.1f} | {found['recall']:.1f} |")
    return "\n".join(lines)


def written(text: str, marks: tuple[str, str], made: str) -> str:
    before, after = text.partition(marks[0])[0], text.partition(marks[1])[2]
    return f"{before}{marks[0]}\n{made}\n{marks[1]}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--print", action="store_true", help="only print the tables")
    options = parser.parse_args()
    made = page(json.loads(options.results.read_text()), options.apart)
    if options.print:
        print(made)
        return
    text = written(PAGE.read_text(), MARKS, made)
    if FIVE.exists():
        peers = json.loads(PEERS.read_text())["runs"] if PEERS.exists() else []
        text = written(text, FIVE_MARKS, five_minutes(json.loads(FIVE.read_text()), peers))
    if ENCODERS.exists():
        text = written(text, ENCODER_MARKS, encoders(json.loads(ENCODERS.read_text())))
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
