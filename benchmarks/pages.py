"""Writes measured tables into README.md and docs/, between their comments; no figure there is typed by hand.

python benchmarks/pages.py runs/demo/report.json [...]          the demo's table, of one seed or several
python benchmarks/pages.py benchmarks/results/results.json      a table of the benchmarks
python benchmarks/pages.py                                      the front page's table and picture, from all results
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

README = Path(__file__).parent.parent / "README.md"
RESULTS = Path(__file__).parent / "results"
DOCS = README.parent / "docs"
BENCHMARKS, MIGRATE, AUGMENT = (DOCS / name for name in ("benchmarks.md", "migrate.md", "augment.md"))
NAMES = {
    "nt_xent": "NT-Xent",
    "info_nce": "InfoNCE",
    "clip_loss": "CLIP",
    "siglip_loss": "SigLIP",
    "sup_con": "SupCon",
    "linear_cross_entropy": "linear cross-entropy",
}


def replace(section: str, text: str, path: Path = BENCHMARKS) -> None:
    """Puts ``text`` between the comments of ``section``."""
    page = path.read_text()
    pattern = rf"(<!-- {section}:begin[^>]*-->\n).*?(<!-- {section}:end -->)"
    page, count = re.subn(pattern, lambda m: m.group(1) + text + "\n" + m.group(2), page, flags=re.S)
    if count != 1:
        raise SystemExit(f"{path.name} has no section {section}")
    path.write_text(page)


def write_benchmarks(results: dict[str, Any]) -> None:
    machine = results["machine"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, kernels {machine['instruction_set']}; "
        f"fp32, temperature 0.1, inputs `torch.randn`; alternating calls in one process, median ratio of the pairs (interquartile range). "
        f"This machine: {machine['fma_gflops']:.0f} GFLOP/s of multiply-adds on registers, {machine['gemm_gflops']:.0f} "
        "of torch's matrix product. `make bench` repeats it; all figures: "
        "[results.json](../benchmarks/results/results.json), [plot](../benchmarks/results/ratios.svg).",
        "",
        "| loss | rows x features | pass | fused | against | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for r in results["comparisons"]:
        lines.append(
            f"| {NAMES[r['loss']]} | {r['rows']:,} x {r['features']} | {r['pass']} | {1e3 * r['fused_seconds']:.2f} ms "
            f"| {r['against']} | **{r['ratio']:.2f}** ({r['low']:.2f} to {r['high']:.2f}) |"
        )
    memory = {(r["way"], r["rows"]): r["peak_mib"] for r in results["memory"]}
    lines += ["", "| NT-Xent, 128 features: extra memory of a fresh process | fused | eager |", "|---|---|---|"]
    for rows in sorted({rows for _, rows in memory}):
        cells = [memory.get((way, rows)) for way in ("fused", "eager")]
        shown = [f"{c:,.0f} MiB" if c is not None else "-" for c in cells]
        lines.append(f"| {rows:,} rows | {shown[0]} | {shown[1]} |")
    lines.append("")
    if results.get("large"):
        large = results["large"]
        lines.append(
            f"- NT-Xent, {large['rows']:,} x {large['features']}: {large['seconds']:.1f} s, forward + backward."
        )
    if results.get("bf16"):
        b = results["bf16"]
        lines.append(f"- bf16 inputs, {b['rows']:,} x {b['features']}: {b['ratio']:.2f} times our own fp32.")
    for r in results.get("avx2", []):
        lines.append(f"- NT-Xent with the AVX2 kernels, {r['rows']:,} x {r['features']}: {r['ratio']:.2f} times eager.")
    for s in results.get("share_of_peak", []):
        lines.append(
            f"- {s['instruction_set']}, {s['schedule']}, {s['rows']:,} x {s['features']}: {100 * s['share']:.0f} % of the "
            f"{s['fma_gflops']:.0f} GFLOP/s that multiply-adds on registers reach, {100 * s['share_at_load']:.0f} % of what "
            "they reach in the 3 ms after, at the clock that the step leaves."
        )
    replace("benchmarks", "\n".join(lines))


def write_regimes(results: dict[str, Any]) -> None:
    machine = results["machine"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, kernels {machine['instruction_set']}, fp32, forward + backward; "
        "`python benchmarks/run.py regimes` repeats it, all figures: [regimes.json](../benchmarks/results/regimes.json). Trained "
        "rows: embeddings of SimCLR and CLIP runs on emoji, repeated with noise. First at temperature 0.01 (logit scale 100), "
        "where well-trained models end:",
        "",
        "| loss | rows x 128 | fused | time against random rows | against eager | against eager that flushes subnormal numbers |",
        "|---|---|---|---|---|---|",
    ]
    for r in results["separated"]:
        lines.append(
            f"| {NAMES[r['loss']]}, {r['regime']} | {r['rows']:,} | {1e3 * r['seconds']:.1f} ms | {r['against_random']:.2f} "
            f"| **{r['eager_against_fused']:.1f}** | {r['flushing_eager_against_fused']:.1f} |"
        )
    lines += [
        "",
        "| linear cross-entropy, rows x features x classes | fused | time against deviation 0.3 | against eager |",
        "|---|---|---|---|",
    ]
    for r in results["heads"]:
        lines.append(
            f"| {r['regime']}, {r['rows']:,} x {r['features']} x {r['vocabulary']:,} | {1e3 * r['seconds']:.0f} ms "
            f"| {r['against_flat']:.2f} | **{r['eager_against_fused']:.1f}** |"
        )
    by_loss: dict[str, list[dict[str, Any]]] = {}
    for r in results["rows"]:
        by_loss.setdefault(r["loss"], []).append(r)
    lines += [
        "",
        "Every loss and primitive in every regime (trained, half trained, collapsed, repeated and zero rows, lengths, strides, "
        "label distributions, temperatures 0.005 to 1, logit scales 1 to 1,000, 512 to 16,384 rows): time against the same call "
        "on random rows.",
        "",
        "| | regimes | trained | median | worst | which |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in by_loss.items():
        worst = max(rows, key=lambda r: r["against_random"])
        learned = [r["against_random"] for r in rows if r["regime"] == "trained"]
        shown = f"{max(learned):.2f}" if learned else "-"
        middle = sorted(r["against_random"] for r in rows)[len(rows) // 2]
        lines.append(
            f"| `{name}` | {len(rows)} | {shown} | {middle:.2f} | {worst['against_random']:.2f} "
            f"| {worst['regime']}, {worst['rows']:,} rows |"
        )
    replace("regimes", "\n".join(lines))


METRIC = {
    "pml_nt_xent_pairs": "`NTXentLoss`, patched, 2 rows per class",
    "pml_nt_xent": "`NTXentLoss`, patched, 8 per class",
    "pml_triplet": "`TripletMarginLoss` (all triplets), patched, 16 per class",
    "pml_lifted": "`LiftedStructureLoss`, patched, 16 per class",
    "pml_contrastive": "`ContrastiveLoss`, patched",
    "pml_multi_similarity": "`MultiSimilarityLoss`, patched",
    "pml_circle": "`CircleLoss`, patched",
    "pml_sup_con": "`SupConLoss`, patched",
    "contrastive": "`F.contrastive`, Euclidean",
    "lifted_structure": "`F.lifted_structure`, Euclidean",
    "cdist_p2": "`F.pairwise_distance`, p = 2 (eager: `torch.cdist`)",
    "cdist_p1": "`F.pairwise_distance`, p = 1 (eager: `torch.cdist`)",
    "sigreg": "`F.sigreg`, 1,024 directions",
    "nearest": "`F.nearest`, k = 20, ten times as many keys (forward)",
    "arc_face": "`F.arc_face`, 100,000 classes",
}


def write_metric(results: dict[str, Any]) -> None:
    machine = results["machine"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, kernels {machine['instruction_set']}, fp32, forward + backward, alternating calls, median "
        f"ratio (middle half); {machine['gemm_gflops']:.0f} GFLOP/s of torch's matrix product. `python benchmarks/run.py metric` repeats it.",
        "",
        "| | rows x features | here | against | ratio |",
        "|---|---|---|---|---|",
    ]
    for r in results["comparisons"]:
        lines.append(
            f"| {METRIC[r['loss']]} | {r['rows']:,} x {r['features']} | {1e3 * r['fused_seconds']:.1f} ms | {r['against']} "
            f"| **{r['ratio']:.1f}** ({r['low']:.1f} to {r['high']:.1f}) |"
        )
    lines += ["", "| extra memory of a fresh process | rows | how | MiB |", "|---|---|---|---|"]
    for r in results["memory"]:
        peak = "not possible" if r["peak_mib"] is None else f"{r['peak_mib']:,.0f}"
        lines.append(f"| {METRIC[r['loss']]} | {r['rows']:,} | {r['way']} | {peak} |")
    large = [r for r in results["large"] if r["peak_mib"] is not None]
    if large:
        most = max(large, key=lambda r: r["peak_mib"])
        lines += [
            "",
            f"{len(large)} of {len(results['large'])} losses were run at {most['rows']:,} rows: the most extra memory is "
            f"{most['peak_mib']:,.0f} MiB (`{most['loss']}`).",
        ]
    replace("metric", "\n".join(lines))
    replace("metric", "\n".join(lines), MIGRATE)


def write_augment(results: dict[str, Any]) -> None:
    machine = results["machine"]
    lines = [
        f"{machine['cpu']}, kernels {machine['instruction_set']}, torch {machine['torch']}. SimCLR's full policy (crop, flip, jitter, grey, blur, "
        "normalise to float CHW), images per second, alternating calls on the same images, median ratio (interquartile range). "
        "`python benchmarks/run.py augment` repeats it.",
        "",
        "| pixels | threads | here | against | there | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for r in results["comparisons"]:
        lines.append(
            f"| {r['from']} -> {r['to']}, {r['taps']} taps | {r['threads']} | {r['images'] / r['fused_seconds']:,.0f} | {r['against']} "
            f"| {r['images'] / r['other_seconds']:,.0f} | **{r['ratio']:.1f}** ({r['low']:.1f} to {r['high']:.1f}) |"
        )
    lines.append("")
    for r in results["threads"]:
        lines.append(f"- {r['from']} -> {r['to']}: 2 threads are {r['ratio']:.2f} times as fast as 1.")
    lines += [
        f"- Beside a process that takes one of two cores, 256 -> 224: {r['library']} {r['alone']:,.0f} -> {r['beside']:,.0f} images/s."
        for r in results["neighbour"]
    ]
    loading = results["loading"]
    d = loading["decoder"]
    lines.append(
        f"- JPEG files of 500 x 375 to two 224 views, `Loader`, 2 cores: {d['images'] / d['fused_seconds']:,.0f} images/s, "
        f"{100 * d['share']:.0f} % of what decoding alone reaches ({d['images'] / d['other_seconds']:,.0f})."
    )
    if "torchvision" in loading:
        t = loading["torchvision"]
        lines.append(
            f"- torchvision's `ImageFolder` with the same transforms and two workers: {t['images'] / t['other_seconds']:,.0f} images/s; "
            f"ratio {t['ratio']:.1f} ({t['low']:.1f} to {t['high']:.1f})."
        )
    if "converted" in loading:
        c = loading["converted"]
        lines.append(
            f"- The same `ImageFolder` with `from_torchvision(transform)`, two workers: {c['images'] / c['fused_seconds']:,.0f} images/s; "
            f"ratio to the transform itself {c['ratio']:.1f} ({c['low']:.1f} to {c['high']:.1f})."
        )
    b = results["breakdown"]
    lines += [
        "",
        f"One view, 256 -> 224, one thread. Limit: its arithmetic at {b['instructions_per_second'] / 1e9:.0f} billion multiplications and as many "
        f"additions per second (measured) and its result written at {b['write_bytes_per_second'] / 1e9:.1f} GB/s (measured).",
        "",
        "| operation | microseconds | limit | share |",
        "|---|---|---|---|",
    ]
    for r in b["rows"]:
        lines.append(
            f"| {r['operation']} | {r['microseconds']:.0f} | {r['limit']:.0f} | {100 * r['limit'] / r['microseconds']:.0f} % |"
        )
    if results.get("converted"):
        lines += [
            "",
            "A crop, one transform and the normalisation, 256 -> 224, one thread, images per second, against the transform itself of Pillow images:",
            "",
            "| transform | of | here | there | ratio |",
            "|---|---|---|---|---|",
        ]
    for r in results.get("converted", ()):
        lines.append(
            f"| {r['transform']} | {r['against']} | {r['images'] / r['fused_seconds']:,.0f} | {r['images'] / r['other_seconds']:,.0f} "
            f"| **{r['ratio']:.1f}** ({r['low']:.1f} to {r['high']:.1f}) |"
        )
    replace("augment", "\n".join(lines), AUGMENT)
    short = [
        "| SimCLR's policy, one thread, images per second | "
        + " | ".join(["here", *(n for n in _peers(results))])
        + " |"
    ]
    short.append("|---" * (len(_peers(results)) + 2) + "|")
    for size in dict.fromkeys((r["from"], r["to"]) for r in results["comparisons"]):
        rows = [r for r in results["comparisons"] if (r["from"], r["to"]) == size and r["threads"] == 1]
        own = sorted(r["images"] / r["fused_seconds"] for r in rows)[len(rows) // 2]
        cells = [f"{r['images'] / r['other_seconds']:,.0f} ({r['ratio']:.1f} x)" for r in rows]
        short.append(f"| {size[0]} -> {size[1]} pixels | {own:,.0f} | " + " | ".join(cells) + " |")
    replace("augment", "\n".join(short))


def write_channels(results: dict[str, Any]) -> None:
    machine = results["machine"]
    lines = [
        f"{machine['cpu']}, one thread, torch {machine['torch']}, kernels {machine['instruction_set']}: crop, flip, brightness, contrast, blur and normalise, against the",
        "same views by torch's operators (`interpolate`, `conv2d`, ...) with the same draws, alternating calls, median ratio (interquartile range). `python benchmarks/run.py channels` repeats it.",
        "",
        "| channels | " + " | ".join(f"{a} -> {b} pixels" for a, b in _sizes(results)) + " |",
        "|---|" + "---|" * len(_sizes(results)),
    ]
    for channels in sorted({r["channels"] for r in results["rows"]}):
        rows = [r for r in results["rows"] if r["channels"] == channels]
        cells = [f"**{r['ratio']:.1f}** ({r['low']:.1f} to {r['high']:.1f})" for r in rows]
        lines.append(f"| {channels} | " + " | ".join(cells) + " |")
    replace("channels", "\n".join(lines), AUGMENT)


def _sizes(results: dict[str, Any]) -> list[tuple[int, int]]:
    return list(dict.fromkeys((r["from"], r["to"]) for r in results["rows"]))


def _peers(results: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(r["against"] for r in results["comparisons"]))


def write_demo(reports: list[dict[str, Any]]) -> None:
    """The demo's table: of runs with several seeds their mean and its standard error."""
    columns = {
        "pretrained": "SimCLR",
        "random": "random encoder",
        "pixels": "raw pixels",
        "histogram": "colour histogram",
    }
    rows = {
        "knn": "emoji: k-NN on 9 categories",
        "knn_without_flags": "the same without flags",
        "linear": "emoji: linear probe",
        "retrieval": "held-out emoji: Recall@1 across vendors",
        "digits_one_label": "digits: one label per class",
        "digits_five_labels": "digits: five labels per class",
        "digits_linear": "digits: linear probe",
    }
    machine = reports[0]["machine"]
    spent = {data: [r["training"][data] for r in reports] for data in ("emoji", "digits")}
    minutes, emoji, digits = (
        _range([r["minutes"] for r in reports]),
        *(_range([t["seconds"] / 60 for t in spent[data]]) for data in spent),
    )
    epochs = {data: _range([t["epochs"] for t in spent[data]], 0) for data in spent}
    seeds = ", ".join(str(r["seed"]) for r in reports)
    lines = [
        f"`fastssl demo --seed` {seeds}, on {machine['cpu']}, {machine['threads']} threads: {minutes} minutes, of which "
        f"{emoji} pretrain on emoji ({epochs['emoji']} epochs) and {digits} on digits ({epochs['digits']} epochs). Percent right, "
        "encoders frozen; the random encoder is the same network untrained (mean of 3)."
        + (" Mean over the seeds and its standard error." if len(reports) > 1 else ""),
        "",
        "| | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for key, name in rows.items():
        cells = []
        for column in columns:
            values = [r[key][column] for r in reports if r[key].get(column) is not None]
            cells.append(_mean(values) if column == "pretrained" else f"{values[0]:.1f}" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "An emoji's category is largely its colour, and colour is all that the histogram knows: it is the baseline to beat on the first three rows, and it cannot find the same emoji drawn by another vendor.",
    ]
    replace("demo", "\n".join(lines))


def _range(values: list[float], digits: int = 1) -> str:
    low, high = (f"{f(values):.{digits}f}" for f in (min, max))
    return low if low == high else f"{low} to {high}"


def _mean(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.1f}" if len(values) < 2 else f"{mean:.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def _named(results: dict[str, Any], /, **values: Any) -> dict[str, Any] | None:
    """A comparison; None: the library was not installed."""
    return next((r for r in results["comparisons"] if all(r[k] == v for k, v in values.items())), None)


def write_front() -> None:
    """The front page's table and picture, from the results of every part."""
    pairs, metric, augment, words = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("results", "metric", "augment", "words")
    )
    one = {"pass": "forward + backward", "features": 128}
    tensors = {"from": 256, "threads": 1, "against": "torchvision, tensors"}
    table = [
        ("`F.nt_xent`, 8,192 x 128", "eager PyTorch", _named(pairs, loss="nt_xent", rows=8192, against="eager", **one)),
        (
            "`F.clip_loss`, 8,192 x 128",
            "eager PyTorch",
            _named(pairs, loss="clip_loss", rows=8192, against="eager", **one),
        ),
        ("`F.nt_xent`, 8,192 x 128", "lightly", _named(pairs, loss="nt_xent", rows=8192, against="lightly", **one)),
        (
            "`TripletMarginLoss`, all triplets, patched, 2,048 x 128",
            "pytorch-metric-learning",
            _named(metric, loss="pml_triplet", rows=2048),
        ),
        ("SimCLR's views, 256 to 224 pixels, one thread", "torchvision", _named(augment, **tensors)),
        ("`Word2Vec`, skip-gram, reproducible", "gensim", {"ratio": words["speed"]["ratio"]["reproducible"]}),
    ]
    lines = ["| measured (2 CPU cores) | against | times as fast |", "|---|---|---|"]
    for what, whom, r in table:
        if r is None:
            print(f"README: no row for {what}, {whom} was not measured", flush=True)
        else:
            lines.append(f"| {what} | {whom} | **{r['ratio']:.1f}** |")
    replace("front", "\n".join(lines), README)
    draw_front(pairs, DOCS / "figures" / "front.svg")


def draw_front(results: dict[str, Any], path: Path) -> None:
    """Time and memory of NT-Xent by rows, eager and fused."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    rows = [
        r
        for r in results["comparisons"]
        if (r["loss"], r["against"], r["features"], r["pass"]) == ("nt_xent", "eager", 128, "forward + backward")
    ]
    for key, name, color in (("other_seconds", "eager PyTorch", "#bb5566"), ("fused_seconds", "FastSSL", "#004488")):
        left.loglog(
            [r["rows"] for r in rows], [1e3 * r[key] for r in rows], "o-", color=color, label=name, markersize=4
        )
    left.set(title="NT-Xent, 128 features, forward + backward", xlabel="rows", ylabel="milliseconds")
    for way, name, color in (("eager", "eager PyTorch", "#bb5566"), ("fused", "FastSSL", "#004488")):
        kept = sorted((r["rows"], r["peak_mib"]) for r in results["memory"] if r["way"] == way)
        right.loglog(*zip(*kept), "o-", color=color, label=name, markersize=4)
    right.set(title="extra memory", xlabel="rows", ylabel="MiB")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with plt.rc_context({"svg.hashsalt": "fastssl"}):  # the same file for the same figures
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write(data: dict[str, Any]) -> None:
    """A results file's own table: which one, says what it holds."""
    if "separated" in data:
        write_regimes(data)
    elif "breakdown" in data:
        write_augment(data)
    elif "rows" in data:
        write_channels(data)
    else:
        (write_metric if "share_of_peak" not in data else write_benchmarks)(data)


if __name__ == "__main__":
    results = [json.loads(Path(argument).read_text()) for argument in sys.argv[1:]]
    demos = [data for data in results if "training" in data]
    if demos:
        write_demo(demos)
    for data in results:
        if "training" not in data:
            write(data)
    write_front()
