"""``fastssl report RUN...``: compares runs on one page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl._version import __version__
from fastssl._words import amount
from fastssl.augment import Views
from fastssl.augment.images import to_show
from fastssl.bench.run import write_atomically
from fastssl.data import ArraySource, Source, open_splits
from fastssl.data import open as open_source
from fastssl.data.opening import EMBEDDED
from fastssl.data.source import are_scores
from fastssl.evaluate import clustering_scores, encode, evaluate, kmeans, rank_me
from fastssl.evaluate.features import centred, labels_of
from fastssl.evaluate.report import check_classes
from fastssl.methods import Method
from fastssl.models import Encoder, hamming
from fastssl.report import figures
from fastssl.report.html import template
from fastssl.train import load_encoder, load_method
from fastssl.train.resuming import CHANGEABLE_ON_RESUME

ViewsOf = Callable[[str, str | None, int], Views | None]
MEASURES = {
    "linear": "linear probe",
    "linear_top5": "linear probe, top-5",
    "knn": "k-NN",
    "knn_top5": "k-NN, top-5",
    "linear_r2": "ridge regression, R^2",
    "linear_spearman": "ridge regression, Spearman",
    "knn_r2": "k-NN, R^2",
    "knn_without_flags": "k-NN without flags",
    "retrieval": "Recall@1 across vendors",
    "digits_linear": "linear probe",
    "digits_one_label": "one label per class",
    "digits_five_labels": "five labels per class",
}
# Student's t, two-sided 95 %, by degrees of freedom.
_T95 = (math.nan, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass
class Group:
    """Runs of one method on one encoder and data set that differ in their seeds."""

    name: str
    encoders: list[Encoder] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of the 95 % confidence interval; None for a single value."""
    if len(values) < 2:
        return float(np.mean(values)), None
    t = _T95[len(values) - 1] if len(values) <= len(_T95) else 1.96
    return float(np.mean(values)), float(t * np.std(values, ddof=1) / math.sqrt(len(values)))


def _groups(runs: Sequence[Path]) -> list[Group]:
    groups: dict[tuple[Any, ...], Group] = {}
    seen: set[Path] = set()
    for path in runs:
        if path.resolve() in seen:  # an interval is over seeds
            continue
        seen.add(path.resolve())
        encoder, state = load_encoder(path)
        options = {k: v for k, v in state["options"].items() if k not in {"seed", *CHANGEABLE_ON_RESUME}} | {
            "epochs": state["epochs"]
        }
        source = state.get("source", {})
        data = (source.get("fingerprint", state["data"]), source.get("sizes"))
        key = (state["method"], str(state["encoder"]), data, str(options), str(state.get("method_options")))
        group = groups.setdefault(key, Group(state["method"]))
        group.encoders.append(encoder)
        group.states.append(state)
        group.paths.append(path)
    named = list(groups.values())
    for method in {g.name for g in named}:  # groups of the same method are distinguished by their folders
        alike = [g for g in named if g.name == method]
        if len(alike) > 1:
            for group, folder in zip(alike, short_paths([g.paths[0] for g in alike])):
                group.name = f"{method} ({folder})"
    return named


def short_paths(paths: Sequence[Path]) -> list[str]:
    """The shortest suffixes of paths that are distinct."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts))):
        short = ["/".join(p[-count:]) for p in parts]
        if len(set(short)) == len(short):
            return short
    return [str(path) for path in paths]


def title_of(groups: Sequence[Group]) -> str:
    """The title of the page: the number of methods, or the method, and of settings."""
    methods = list(dict.fromkeys(g.states[0]["method"] for g in groups))
    if len(methods) > 1:
        return f"{amount(len(methods), 'method')}" + (
            f", {amount(len(groups), 'setting')}" if len(groups) > len(methods) else ""
        )
    return f"{methods[0]}" + (f", {amount(len(groups), 'setting')}" if len(groups) > 1 else "")


def shown_name(name: str | None) -> str:
    """The caption of an image: its name without the path of the data set."""
    text = name or ""
    return "/".join(Path(text).parts[-2:]) if Path(text).is_absolute() else text


def _measures(
    group: Group, unit: list[Tensor], data: Source, data_name: str, baselines: dict[str, Any], labels: Tensor | None
) -> dict[str, tuple[float, float | None]]:
    """Measures of a group of runs; ``unit``: the centred unit features of each encoder."""
    values: dict[str, list[float]] = {}
    for encoder, state, rows in zip(group.encoders, group.states, unit):
        if labels is not None or are_scores(data.labels):
            rows_wanted = ("pretrained",) if baselines else ("pretrained", "random", "pixels")
            table = evaluate(encoder, state["encoder"], data_name, "spatial", rows_wanted)
            for key, text in MEASURES.items():
                if key in table:
                    values.setdefault(text, []).append(table[key]["pretrained"])
                    for column in ("random", "pixels"):
                        if column in table[key]:
                            baselines.setdefault(column, {})[text] = table[key][column]
        if labels is not None:
            clusters = kmeans(rows, len(data.classes))[1]
            values.setdefault("k-means, NMI", []).append(clustering_scores(clusters.numpy(), labels.numpy())["nmi"])
        values.setdefault("RankMe", []).append(rank_me(rows))
    return {text: interval(numbers) for text, numbers in values.items()}


def _labels(data: Source, data_name: str, note: Callable[[str], None]) -> Tensor | None:
    """The class per image if the data provides labels to evaluate with; else ``note`` is called with the reason, but
    for numbers to predict, which are evaluated, too."""
    if are_scores(data.labels):
        return None
    try:
        labels = labels_of(data)
        if data_name in EMBEDDED or not open_splits(data_name).divided:
            check_classes(data, labels)
    except ValueError as error:
        note(f"no evaluation with labels: {error}")
        return None
    return labels if labels.dim() == 1 else None


def _curves(groups: list[Group]) -> str:
    plt = figures._pyplot()
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.4 * rows), squeeze=False, layout="tight")
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    for axis, group in zip(axes.flat, groups):
        for state in group.states:
            steps, losses = np.array(state["history"], dtype=float).T
            window = max(1, len(losses) // 40)
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            axis.plot(steps[window - 1 :], smooth, linewidth=1.6, alpha=0.85, color=figures.ACCENT)
        axis.set_title(group.name, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.set_ylabel("loss", fontsize=9)
    return figures._svg(figure)


def _confusion(unit: Tensor, data: Source, labels: Tensor) -> str:
    """Confusion matrix of the nearest neighbour's class, each row in percent."""
    plt = figures._pyplot()
    _, nearest = F.nearest(unit, None, 1, metric="dot", exclude_self=True)
    count = len(data.classes)
    table = torch.zeros(count, count).index_put_((labels, labels[nearest[:, 0]]), torch.ones(()), accumulate=True)
    share = 100 * table / table.sum(1, keepdim=True).clamp(min=1)
    figure, axis = plt.subplots(figsize=(0.45 * count + 2.2, 0.45 * count + 1.6))
    axis.imshow(share.numpy(), cmap="Oranges", vmin=0, vmax=100)
    names = [c.encode("utf-8", "backslashreplace").decode() for c in data.classes]  # names of folders may be no UTF-8
    short = [c if len(c) < 18 else c[:16] + "…" for c in names]
    axis.set_xticks(range(count), short, rotation=60, ha="right", fontsize=8, parse_math=False)
    axis.set_yticks(range(count), short, fontsize=8, parse_math=False)
    for i in range(count):
        for j in range(count):
            if share[i, j] >= 1:
                color = "white" if share[i, j] > 60 else figures.INK
                axis.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=7.5, color=color)
    return figures._svg(figure)


def _neighbours(
    groups: list[Group], data: Source, labelled: bool, queries: int = 6, shown: int = 7
) -> list[dict[str, Any]]:
    """Nearest neighbours: among second images if items have two, else among the other items."""
    chosen = np.sort(np.random.default_rng(3).permutation(len(data))[:queries])
    two = isinstance(data, ArraySource) and len(data.read(0).images or ()) > 1
    labels = labels_of(data) if labelled else None
    rows: list[dict[str, Any]] = []
    for item in data.items(chosen):
        rows.append({"query": figures.thumbnail(item, 0), "name": shown_name(item.name), "ranked": []})
    for group in groups:
        encoder = group.encoders[0]
        query = centred(encode(encoder, data))
        gallery = centred(encode(encoder, data.nth_image(1))) if two else query  # type: ignore[attr-defined]
        _, index = F.nearest(query[chosen], gallery, min(shown + (not two), len(data) - (not two)), metric="dot")
        for row, order, own in zip(rows, index[:, 0 if two else 1 :].tolist(), chosen):
            same = [j == own if two else labels is not None and bool(labels[j] == labels[own]) for j in order]
            row["ranked"].append(
                [
                    {"image": figures.thumbnail(item, int(two)), "name": shown_name(item.name), "right": right}
                    for item, right in zip(data.items(order), same)
                ]
            )
    return rows


def _sheet(pictures: dict[str, Tensor], scale: int = 2) -> list[dict[str, Any]]:
    """Rows of eight images each."""
    rows = []
    for name, images in pictures.items():
        levels = ((images[:8].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        shown = [torch.from_numpy(to_show(x.numpy())) for x in levels]
        strip = torch.cat([torch.nn.functional.pad(x, (0, 0, 2, 2, 2, 2), value=255) for x in shown], 1)
        larger = strip.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        rows.append({"name": name, "image": figures.png(larger.numpy())})
    return rows


@torch.no_grad()
def _does(group: Group, data: Source, views_of: ViewsOf) -> dict[str, Any]:
    """Pretext metrics and visualisations of a group's method on held-out images, if it has any."""
    state = group.states[0]
    try:
        default = views_of(state["method"], embedded_of(state), group.encoders[0].size)
        method: Method = load_method(group.paths[0], None if state.get("views") else default)
    except ValueError as error:
        return {"missing": str(error)}
    if "text" in method.needs or method.needs_dataset_features:
        return {}
    rows = np.random.default_rng(5).permutation(len(data))[:64]
    batch = method.examples(data.items(rows), 0, 0, rows)
    found: dict[str, Any] = {
        "pretext_metrics": method.pretext_metrics(batch),
        "images": _sheet(method.visualize(batch)),
    }
    table = getattr(method, "table", None)
    if isinstance(table, np.ndarray):
        least, mean = hamming(table)
        found["note"] = (
            f"{amount(len(table), 'permutation')}, Hamming distance of two: at least {least}, {mean:.2f} on average"
        )
    return found if found["pretext_metrics"] or found["images"] else {}


def embedded_of(state: dict[str, Any]) -> str | None:
    """The embedded data set that a run was trained on; None: other data."""
    if "source" in state:
        return state["source"]["embedded"]
    return {"emoji": "emoji", "emoji-train": "emoji", "digits": "digits"}.get(state["data"])  # older checkpoints


def compare_runs(
    runs: Sequence[Path], out: Path, data: str, note: Callable[[str], None], views_of: ViewsOf = lambda *_: None
) -> Path:
    """Writes a page that compares runs.

    Args:
        runs: folders of runs; runs that differ only in their seeds form a group, with confidence intervals.
        out: the page, written atomically.
        data: "emoji" (neighbours and images are from the 374 held-out emoji), "digits" or a folder.
        note: called with a line per step.
        views_of: maps method, data and size to the training views; None: the method's default.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[report]``.
        ValueError: a folder without a checkpoint.
    """
    made = template("compare.html")
    groups = _groups(runs)
    images = open_source("emoji-all" if data == "emoji" else data, part="test")
    unseen = open_source("emoji-heldout") if data == "emoji" else images
    data_name = "emoji-all" if data == "emoji" else data
    labels = _labels(images, data_name, note)
    baselines: dict[str, Any] = {}
    lines: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for group in groups:
        note(f"{group.name}: {amount(len(group.states), 'run')}")
        unit = [centred(encode(encoder, images)) for encoder in group.encoders]
        values = _measures(group, unit, images, data_name, baselines, labels)
        lines.append({"name": group.name, "runs": len(group.states), "values": values})
        parts.append(
            {
                "name": group.name,
                "does": _does(group, unseen, views_of),
                "confusion": _confusion(unit[0], images, labels)
                if labels is not None and 1 < len(images.classes) <= 30
                else None,
                "map": figures.map_of_embedding(group.encoders[0], images, 1300, 24) if len(images) >= 100 else None,
            }
        )
    columns = list(lines[0]["values"])
    best = {c: max(line["values"][c][0] for line in lines if c in line["values"]) for c in columns}
    page = made.render(
        version=__version__,
        data=images.name,
        emoji=images.embedded == "emoji",
        count=len(images),
        lines=sorted(lines, key=lambda line: -line["values"][columns[0]][0]),
        columns=columns,
        best=best,
        baselines=baselines,
        curves=_curves(groups),
        neighbours=_neighbours(groups, unseen, labels is not None),
        labelled=labels is not None,
        title=title_of(groups),
        names=[g.name for g in groups],
        two=len(unseen.read(0).images or ()) > 1,
        parts=parts,
        runs=[{"path": str(p), "state": s} for g in groups for p, s in zip(g.paths, g.states)],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)
    return out
