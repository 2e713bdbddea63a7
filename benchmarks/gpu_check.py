"""``make gpu-check``: everything that needs a GPU, in one command: the tests on it, compute-sanitizer, the losses against
eager, torch.compile and the libraries that people use, and the times that gpu_static.py predicted.

Writes benchmarks/results/gpu.json (with the device's name) and gpu.svg. Without a GPU, or where a step fails, it exits
with an error: it cannot pass by doing nothing. Peers that are not installed are named as missing.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.bench.run import write_atomically
from fastssl.ops.reference import contrastive, language, multimodal

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
PLOT = ROOT / "benchmarks" / "results" / "gpu.svg"
STATIC = ROOT / "benchmarks" / "gpu_static.json"
PEERS = {"inf_cl": "Inf-CL", "cut_cross_entropy": "cut cross-entropy", "liger_kernel": "Liger"}
TESTS = ("tests/test_triton.py", "tests/test_cuda_on_host.py")
SANITIZED = "import torch, fastssl.functional as F\n" + "\n".join(
    (
        "x = torch.randn(300, 40, device='cuda', requires_grad=True)",
        "y = torch.arange(300, device='cuda') % 30",
        "for loss in (F.sup_con(x, y), F.triplet(x, y), F.triplet(x, y, mining='semihard'), F.lifted_structure(x, y)):",
        "    loss.backward()",
        "F.nearest(x.detach(), None, 5)",
        "from fastssl.augment import SimCLRAugment",
        "SimCLRAugment(32)(torch.randint(0, 256, (4, 50, 60, 3), dtype=torch.uint8, device='cuda'), seed=0)",
        "torch.cuda.synchronize()",
    )
)


def milliseconds(step: Callable[[], Any], rounds: int = 20) -> float:
    """Median of single steps, after warming up."""
    for _ in range(5):
        step()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 7) -> dict[str, float]:
    """Median times of steps in turn, and the median ratio."""
    both = [(milliseconds(ours, 5), milliseconds(theirs, 5)) for _ in range(pairs)]
    return {
        "ours_ms": statistics.median(a for a, _ in both),
        "theirs_ms": statistics.median(b for _, b in both),
        "ratio": statistics.median(b / a for a, b in both),
    }


def step(loss: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        torch.autograd.grad(loss(*inputs), inputs)

    return run


def peak_mib(run: Callable[[], None]) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def cases(n: int, d: int) -> dict[str, tuple[list[Tensor], Callable[..., Tensor], dict[str, Callable[..., Tensor]]]]:
    """Name -> inputs, ours, and the others by name."""

    def rows(count: int) -> Tensor:
        return torch.randn(count, d, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    unit = [torch.nn.functional.normalize(rows(n).detach(), dim=1).requires_grad_() for _ in range(2)]
    eager_nt = lambda a, b: contrastive.nt_xent.__wrapped__(a, b, 10.0, True, "mean")  # noqa: E731
    eager_clip = lambda a, b: multimodal.info_nce.__wrapped__(a, b, None, 10.0, True, False, "mean")  # noqa: E731
    vocabulary = 8 * n
    targets = torch.randint(0, vocabulary, (n,), device="cuda")
    eager_head = lambda h, w: language.linear_cross_entropy.__wrapped__(h, w, targets, None, -100, "mean")  # noqa: E731
    heads: dict[str, Callable[..., Tensor]] = {"eager": eager_head, "compile": torch.compile(eager_head)}
    clips: dict[str, Callable[..., Tensor]] = {"eager": eager_clip, "compile": torch.compile(eager_clip)}
    if importlib.util.find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy

        heads["cut cross-entropy"] = lambda h, w: linear_cross_entropy(h, w, targets)
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        heads["Liger"] = lambda h, w: liger_fused_linear_cross_entropy(h, w, targets)
    if importlib.util.find_spec("inf_cl"):
        from inf_cl import cal_inf_loss

        scale = torch.tensor(10.0, device="cuda")
        clips["Inf-CL"] = lambda a, b: cal_inf_loss(a.float(), b.float(), scale=scale)
    return {
        "NT-Xent": (
            [rows(n // 2), rows(n // 2)],
            lambda a, b: F.nt_xent(a, b, temperature=0.1),
            {"eager": eager_nt, "compile": torch.compile(eager_nt)},
        ),
        "CLIP": (unit, lambda a, b: F.clip_loss(a, b, 10.0), clips),
        "linear cross-entropy": (
            [rows(n), rows(vocabulary)],
            lambda h, w: F.linear_cross_entropy(h, w, targets),
            heads,
        ),
    }


def measure() -> list[dict[str, Any]]:
    results = []
    for n in (1024, 4096, 16384, 32768, 65536):
        for d in (128, 512):
            for name, (inputs, ours, others) in cases(n, d).items():
                entry: dict[str, Any] = {"loss": name, "rows": n, "features": d, "against": {}}
                entry["ms"] = milliseconds(step(ours, inputs))
                entry["extra_mib"] = peak_mib(step(ours, inputs))
                for other, loss in others.items():
                    try:
                        entry["against"][other] = paired(step(ours, inputs), step(loss, inputs))
                        entry["against"][other]["extra_mib"] = peak_mib(step(loss, inputs))
                    except torch.OutOfMemoryError:
                        entry["against"][other] = {"error": "out of memory"}
                        torch.cuda.empty_cache()
                results.append(entry)
                print(json.dumps(entry), flush=True)
    return results


def beside_predictions(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """NT-Xent's times beside the model's for the nearest chip."""
    major, _ = torch.cuda.get_device_capability()
    chip = {9: "H100", 10: "B200"}.get(major)
    predicted = {
        (p["n"], p["d"]): p["seconds"] for p in json.loads(STATIC.read_text())["predictions"] if p["chip"] == chip
    }
    return [
        {
            "rows": m["rows"],
            "features": m["features"],
            "ms": m["ms"],
            "predicted_ms": 1e3 * predicted[m["rows"], m["features"]],
        }
        for m in measured
        if m["loss"] == "NT-Xent" and (m["rows"], m["features"]) in predicted
    ]


def draw(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
    for axis, name in zip(axes, ("NT-Xent", "CLIP", "linear cross-entropy")):
        lines: dict[str, list[tuple[int, float]]] = {}
        for m in results["measured"]:
            if m["loss"] == name and m["features"] == 512:
                for other, found in m["against"].items():
                    if "ratio" in found:
                        lines.setdefault(other, []).append((m["rows"], found["ratio"]))
        for other, points in lines.items():
            axis.plot(*zip(*points), marker="o", label=other)
        axis.set(title=f"{name}, 512 features, bf16", xscale="log", yscale="log", xlabel="rows")
        axis.axhline(1, color="gray", lw=0.5)
        axis.legend()
    axes[0].set_ylabel(f"times faster, {results['device']}")
    figure.tight_layout()
    figure.savefig(PLOT)


def main() -> None:
    if not torch.cuda.is_available():
        print("gpu-check: no GPU is visible to torch: nothing was checked", file=sys.stderr)
        raise SystemExit(2)
    print(
        f"gpu-check on {torch.cuda.get_device_name()}; missing peers: {[v for k, v in PEERS.items() if not importlib.util.find_spec(k)]}"
    )
    done = []
    subprocess.run([sys.executable, "-m", "pytest", *TESTS], cwd=ROOT, check=True)
    done.append("tests")
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        raise SystemExit("gpu-check: compute-sanitizer was not found (it comes with the CUDA toolkit)")
    for kind in ("memcheck", "racecheck"):
        command = [sanitizer, "--tool", kind, "--error-exitcode", "1", sys.executable, "-c", SANITIZED]
        subprocess.run(command, cwd=ROOT, check=True)
        done.append(kind)
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "done": done}
    results["measured"] = measure()
    results["predictions"] = beside_predictions(results["measured"])
    write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    draw(results)
    for p in results["predictions"]:
        print(f"NT-Xent {p['rows']:>8,} x {p['features']}: {p['ms']:.3f} ms, predicted {p['predicted_ms']:.3f}")
    print(f"gpu-check: {', '.join(done)} and {len(results['measured'])} measurements passed")


if __name__ == "__main__":
    main()
