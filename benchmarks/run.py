"""``make bench``: measures everything, writes benchmarks/results/ and the tables of README and docs/. About 40 minutes.

python benchmarks/run.py [--quick] [pairs | metric | augment | channels | regimes]      one part alone: losses on two views or on
labels, views, views of grey and multi-channel images, every loss on trained, collapsed and repeated rows
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pages

from fastssl.bench.augment import run_augment
from fastssl.bench.channels import run_channels
from fastssl.bench.metric import run_metric
from fastssl.bench.regimes import run_regimes
from fastssl.bench.run import run, write_atomically

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "results.json"
METRIC = HERE / "results" / "metric.json"
AUGMENT = HERE / "results" / "augment.json"
CHANNELS = HERE / "results" / "channels.json"
REGIMES = HERE / "results" / "regimes.json"


def plot(results: dict[str, Any], path: Path) -> None:
    """Ratio to eager over rows, per loss."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "fastssl"
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    losses = sorted({r["loss"] for r in results["comparisons"]})
    for loss in losses:
        rows = [
            r
            for r in results["comparisons"]
            if r["loss"] == loss and r["against"] == "eager" and r["pass"] != "forward" and r["features"] in (128, 512)
        ]
        rows = sorted((r for r in rows if r["features"] == rows[0]["features"]), key=lambda r: r["rows"])
        axes[0].plot([r["rows"] for r in rows], [r["ratio"] for r in rows], marker="o", label=loss)
    axes[0].set(xscale="log", yscale="log", xlabel="rows", ylabel="times as fast as eager")
    axes[0].axhline(1, color="0.7", linewidth=1)
    axes[0].legend(frameon=False, fontsize=8)
    for way in ("fused", "eager"):
        rows = [r for r in results["memory"] if r["way"] == way and r["peak_mib"] is not None]
        axes[1].plot([r["rows"] for r in rows], [r["peak_mib"] for r in rows], marker="o", label=way)
    axes[1].set(xscale="log", yscale="log", xlabel="rows", ylabel="NT-Xent: extra memory, MiB")
    axes[1].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    parts = [a for a in sys.argv[1:] if not a.startswith("--")] or ["pairs", "metric", "augment", "channels", "regimes"]

    def report(line: str) -> None:
        print(line, flush=True)

    if "pairs" in parts:
        results = run(quick, report)
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
        plot(results, HERE / "results" / "ratios.svg")
        if not quick:
            pages.write_benchmarks(results)
    if "metric" in parts:
        results = run_metric(quick, report)
        write_atomically(METRIC, json.dumps(results, indent=1) + "\n")
        if not quick:
            pages.write_metric(results)
    if "augment" in parts:
        results = run_augment(quick, report)
        write_atomically(AUGMENT, json.dumps(results, indent=1) + "\n")
        if not quick:
            pages.write_augment(results)
    if "channels" in parts:
        results = run_channels(quick, report)
        write_atomically(CHANNELS, json.dumps(results, indent=1) + "\n")
        if not quick:
            pages.write_channels(results)
    if "regimes" in parts:
        results = run_regimes(quick, report)
        write_atomically(REGIMES, json.dumps(results, indent=1) + "\n")
        if not quick:
            pages.write_regimes(results)
    if not quick:
        pages.write_front()


if __name__ == "__main__":
    main()
