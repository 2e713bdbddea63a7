"""What a loss's page has beyond its docstring: a picture of its gradient, its names elsewhere, its measurements."""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import torch
from sphinx.application import Sphinx
from torch import Tensor

import fastssl.functional as F
from fastssl import losses

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
PAIRS = {("z0", "z1"), ("query", "key"), ("image_features", "text_features"), ("anchors", "positives")}
COLORS = ("#4477aa", "#ee6677", "#228833")


def rows_of(count: int, spread: float, seed: int) -> Tensor:
    """Rows of three directions in the plane, scattered around them."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.arange(count) % 3 * (2 * torch.pi / 3) + spread * torch.randn(count, generator=generator)
    length = 1 + 0.12 * torch.randn(count, generator=generator)
    return torch.stack([angle.cos(), angle.sin()], 1) * length[:, None]


def inputs(function: Any) -> dict[str, Tensor] | None:
    """Twelve rows in the plane for a loss of labels, of two views or of centres; None for other functions."""
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind != p.KEYWORD_ONLY]
    first, second = rows_of(12, 0.45, 0), rows_of(12, 0.45, 1)
    given: dict[str, Tensor] = {}
    if names[:1] == ["embeddings"]:
        given["embeddings"] = first
        if "labels" in names:
            given["labels"] = torch.arange(12) % 3
        for centres in {"weight", "proxies"} & set(names):
            given[centres] = rows_of(3, 0.0, 0)
    elif tuple(names[:2]) in PAIRS:
        given = dict(zip(names[:2], (first[:6], second[:6])))
        for scale in {"logit_scale", "logit_bias"} & set(names):
            given[scale] = torch.tensor(10.0 if scale == "logit_scale" else -10.0)
    return given or None


def draw(name: str, folder: Path) -> bool:
    """The direction in which descent moves each row. False for functions that are no losses of rows."""
    function = getattr(F, name)
    given = inputs(function)
    if given is None:
        return False
    moved = {k: v.clone().requires_grad_() for k, v in given.items() if v.dim() == 2}
    loss = function(**{**given, **moved})
    if loss.dim() or not loss.requires_grad:
        return False
    loss.backward()
    steps = {k: -v.grad for k, v in moved.items() if v.grad is not None}
    longest = max(float(s.norm(dim=1).max()) for s in steps.values())
    path = folder / f"{name}.svg"
    figure, axes = plt.subplots(figsize=(3.6, 3.6))
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="#bbbbbb", linewidth=0.8))
    groups = 3 if "labels" in given else 6
    for (key, x), marker in zip(moved.items(), "osv"):
        centres = key in ("weight", "proxies")
        at, step = x.detach(), steps[key] * (0.5 / max(longest, 1e-12))
        palette = COLORS if groups == 3 else [plt.get_cmap("Dark2")(i) for i in range(6)]
        colors = [palette[i % groups] for i in range(len(at))]
        axes.scatter(*at.T, c=colors, marker="*" if centres else marker, s=90 if centres else 28, zorder=3)
        axes.quiver(*at.T, *step.T, color=colors, angles="xy", scale_units="xy", scale=1, width=0.007, zorder=2)
    axes.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal")
    axes.axis("off")
    figure.savefig(path, bbox_inches="tight", transparent=True, metadata={"Date": None})
    plt.close(figure)
    return True


@cache
def modules() -> dict[str, list[str]]:
    """Modules of ``fastssl.losses`` by the function that they call."""
    found: dict[str, list[str]] = {}
    for module in losses.__all__:
        if named := re.search(r"fastssl\.functional\.(\w+)", getattr(losses, module).__doc__):
            found.setdefault(named[1], []).append(module)
    return found


@cache
def elsewhere() -> list[tuple[str, str]]:
    """Rows of the tables of docs/migrate.md: a call of another library, and the same here."""
    lines = (ROOT / "docs" / "migrate.md").read_text().splitlines()
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines if line.startswith("| `")]
    return [(row[0], row[1]) for row in cells if len(row) == 2]


@cache
def comparisons() -> list[dict[str, Any]]:
    results = ROOT / "benchmarks" / "results"
    return [
        {**row, "machine": content["machine"]["cpu"], "threads": content["machine"]["threads"]}
        for file in ("results.json", "metric.json")
        for content in [json.loads((results / file).read_text())]
        for row in content["comparisons"]
    ]


def additions(name: str, folder: Path) -> list[str]:
    lines: list[str] = []
    if draw(name, folder):
        lines += [f".. figure:: /api/figures/{name}.svg", f"   :alt: gradient of {name}", ""]
        lines += [
            "   Rows in the plane; equal colours belong together, stars are centres of classes.",
            "   Arrows: minus the gradient, that is where descent moves each row.",
            "",
        ]
    if made := modules().get(name):
        lines += ["As a module: " + ", ".join(f":class:`fastssl.losses.{m}`" for m in made) + ".", ""]
    names = [rf"F\.{name}\(", *(rf"fastssl\.losses\.{m}\(" for m in modules().get(name, ()))]
    if theirs := [there for there, here in elsewhere() if any(re.search(n, here) for n in names)]:
        lines += [".. rubric:: In other libraries", ""]
        lines += ["- " + re.sub("`([^`]+)`", r"``\1``", there) for there in theirs]
        lines += ["", ":doc:`/migrate` has the same call here for each.", ""]
    if rows := [row for row in comparisons() if row["loss"] == name]:
        lines += [".. rubric:: Measured", "", ".. list-table::", "   :header-rows: 1", ""]
        lines += ["   * - rows x features", "     - pass", "     - fused", "     - against", "     - ratio"]
        for row in rows:
            cells = [
                f"{row['rows']:,} x {row['features']}",
                row.get("pass", "forward + backward"),
                f"{row['fused_seconds'] * 1e3:.2f} ms",
                row["against"],
                f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
            ]
            lines += [f"   {'* ' if i == 0 else '  '}- {cell}" for i, cell in enumerate(cells)]
        machine = f"{rows[0]['machine']}, {rows[0]['threads']} threads"
        lines += ["", f"{machine}; :doc:`/benchmarks` says how, and has more.", ""]
    return lines


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    package, _, own = name.rpartition(".")
    if package == "fastssl.functional" and what == "function":
        folder = Path(app.srcdir) / "api" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        lines += ["", *additions(own, folder)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=900)  # after napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
