"""Renders the template of the demo report."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from fastssl._version import __version__
from fastssl.bench.run import write_atomically
from fastssl.data import emoji
from fastssl.models import Encoder
from fastssl.report import figures

EMOJI_ROWS = {
    "knn": ("k-NN, 9 categories", "5 neighbours, leave one out, all 1,871"),
    "knn_without_flags": ("k-NN without flags", "flags are easy"),
    "linear": ("linear probe", "mean of 3 splits"),
    "retrieval": ("retrieval, Recall@1", "Google to Twitter, 374 held-out emoji"),
}
DIGITS_ROWS = {
    "digits_one_label": ("one label per class", "nearest neighbour, 20 draws"),
    "digits_five_labels": ("five labels per class", "nearest neighbour, 20 draws"),
    "digits_linear": ("linear probe", "mean of 3 splits"),
}
COLUMNS = {"pretrained": "SimCLR", "random": "random encoder", "pixels": "raw pixels", "histogram": "colour histogram"}


def _table(report: dict[str, Any], rows: dict[str, tuple[str, str]]) -> dict[str, Any]:
    columns = [c for c in COLUMNS if any(c in report[r] for r in rows)]
    lines = []
    for key, (name, note) in rows.items():
        values = [report[key].get(c) for c in columns]
        best = max(v for v in values if v is not None)
        spread = report.get(key + "_std", {})
        cells = [
            {
                "text": "-" if v is None else f"{v:.1f}",
                "best": v == best,
                "spread": f"± {spread[c]:.1f}" if c in spread else "",
            }
            for c, v in zip(columns, values)
        ]
        lines.append({"name": name, "note": note, "cells": cells})
    return {"columns": [COLUMNS[c] for c in columns], "lines": lines}


def verdict(report: dict[str, Any]) -> list[str]:
    """The summary sentences of the results."""
    sentences = []
    knn, retrieval, one = report["knn"], report["retrieval"], report["digits_one_label"]
    for name, table in (
        ("k-NN on the categories", knn),
        ("Retrieval of the other vendor's image", retrieval),
        ("Digits with one label per class", one),
    ):
        others = {COLUMNS[k]: v for k, v in table.items() if k != "pretrained"}
        parts = [f"{table['pretrained'] - v:+.1f} points against the {k}" for k, v in others.items()]
        sentences.append(f"{name}: SimCLR reaches {table['pretrained']:.1f} %: {', '.join(parts)}.")
    return sentences


def template(name: str) -> Any:
    """A template of this package, with the common ``style``.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[report]``.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ImportError("the report needs the extra: pip install fastssl[report]") from error
    folder = files("fastssl.report")
    environment = Environment(autoescape=True)
    environment.globals["style"] = (folder / "style.css").read_text()
    return environment.from_string((folder / name).read_text(encoding="utf-8"))


def write_report(out: Path, report: dict[str, Any], encoder: Encoder) -> Path:
    """Writes ``report.html`` to ``out`` and returns its path.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[report]``.
    """
    page = template("template.html").render(
        version=__version__,
        report=report,
        machine=report["machine"],
        nt_xent=report["benchmark"]["nt_xent"],
        clip=report["benchmark"]["clip_loss"],
        emoji_table=_table(report, EMOJI_ROWS),
        digits_table=_table(report, DIGITS_ROWS),
        verdict=verdict(report),
        curve=figures.learning_curve(report["training"]),
        speed=figures.speed_and_memory(report["benchmark"]),
        neighbours=figures.neighbours(encoder, emoji("heldout"), emoji(), report["whiten"]),
        map=figures.map_of_embedding(encoder, emoji()),
    )
    path = out / "report.html"
    write_atomically(path, page)
    return path
