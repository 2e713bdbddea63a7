"""``make gpu-check``: everything that needs a GPU, in one command, on any machine with torch and a GPU; no network.

Sections that do not need each other: environment, tests (on the GPU, in parallel), sanitizer (compute-sanitizer's memcheck,
where it is installed), benchmarks (against eager and torch.compile, and the libraries that are installed). Each leaves
its result in benchmarks/results/gpu.json as soon as it ends; ``--resume`` runs what has not passed yet. Without a GPU, or
where a section fails, it exits with an error: it cannot pass by doing nothing.

python benchmarks/gpu_check.py [--only tests,benchmarks] [--resume] [--dry-run] [--page]

--dry-run: all sections on Triton's interpreter with a few small cases, and no files. --page: only write the table of
docs/gpu.md and the plot anew from the JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.bench.run import write_atomically
from fastssl.ops.pair_loss import Positives
from fastssl.ops.reference import pair_loss

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
PLOT = ROOT / "benchmarks" / "results" / "gpu.svg"
PAGE = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- measured: benchmarks/gpu_check.py --page -->", "<!-- end -->"
TESTS = ("tests/gpu",)
VOCABULARY = 32768
SANITIZED = """
import torch, fastssl.functional as F
from fastssl.augment import SimCLRAugment
labels = torch.arange(300, device="cuda") % 30
for d in (40, 320):
    x = torch.randn(300, d, device="cuda", requires_grad=True)
    h = x.detach().bfloat16().requires_grad_()
    for loss in (F.sup_con(x, labels), F.nt_xent(h, h.flip(0)), F.clip_loss(x, x.flip(0), 0.1), F.contrastive(h, labels),
                 F.linear_cross_entropy(h, x.detach()[:90].bfloat16(), labels)):
        loss.backward()
for loss in (F.triplet(x, labels), F.triplet(x, labels, mining="semihard")):
    loss.backward()
F.nearest(x.detach(), None, 5)
SimCLRAugment(32)(torch.randint(0, 256, (4, 50, 60, 3), dtype=torch.uint8, device="cuda"), seed=0)
torch.cuda.synchronize()
"""


def environment(dry: bool) -> dict[str, Any]:
    import triton

    import fastssl

    found: dict[str, Any] = {
        "fastssl": fastssl.__version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "backends": fastssl.info()["backends"],
    }
    if not dry:
        properties = torch.cuda.get_device_properties(0)
        driver = shutil.which("nvidia-smi")
        query = [driver or "", "--query-gpu=driver_version", "--format=csv,noheader"]
        found |= {
            "driver": subprocess.run(query, capture_output=True, text=True).stdout.partition("\n")[0] if driver else "",
            "capability": list(torch.cuda.get_device_capability()),
            "processors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "bf16_product_tflops": round(product_rate(torch.bfloat16), 1),
            "copy_tb_s": round(copy_rate(), 2),
        }
        if not found["backends"]["triton"]["usable"]:
            raise RuntimeError(found["backends"]["triton"]["why"])
    return found


def milliseconds(run: Callable[[], Any], rounds: int = 7) -> float:
    """Median of single steps, after warming up."""
    if not torch.cuda.is_available():
        begin = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - begin)
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin_event.record()
        run()
        end_event.record()
        torch.cuda.synchronize()
        times.append(begin_event.elapsed_time(end_event))
    return statistics.median(times)


def product_rate(dtype: torch.dtype) -> float:
    a = torch.randn(8192, 8192, device="cuda", dtype=dtype)
    return 2 * 8192**3 / milliseconds(lambda: a @ a) / 1e9


def copy_rate() -> float:
    a = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    return 2 * 2**30 / milliseconds(lambda: b.copy_(a)) / 1e9


def tests(dry: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "-q", *TESTS]
    if dry:
        command += ["-k", "says_what or two_streams"]
    else:
        try:
            import xdist  # noqa: F401

            command += ["-n", str(max(1, min(16, (os.cpu_count() or 1) - 1)))]
        except ImportError:
            pass
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = done.stdout.strip().splitlines()
    failed = sorted(
        line.split(" - ")[0].removeprefix("FAILED ") for line in lines if line.startswith(("FAILED", "ERROR"))
    )
    result = {"summary": lines[-1] if lines else done.stderr[-2000:], "failed": failed}
    if done.returncode:
        log = ROOT / "benchmarks" / "results" / "gpu_tests.log"
        if not dry:
            log.write_text(done.stdout + done.stderr)
        raise Failure(result)
    return result


class Failure(Exception):
    """A section found something wrong; its argument is what it has to say."""


def sanitizer(dry: bool) -> dict[str, Any]:
    tool = shutil.which("compute-sanitizer")
    if dry:
        compile(SANITIZED, "sanitized", "exec")
        return {"memcheck": "not run"}
    if tool is None:
        return {"memcheck": "compute-sanitizer is not installed"}
    script = subprocess.run([sys.executable, "-c", SANITIZED], cwd=ROOT, capture_output=True, text=True)
    if script.returncode:
        raise Failure({"script": script.stderr[-2000:]})
    command = [tool, "--tool", "memcheck", "--error-exitcode", "1", sys.executable, "-c", SANITIZED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    found = {"memcheck": next((x for x in reversed(done.stdout.splitlines()) if "ERROR SUMMARY" in x), "no summary")}
    if done.returncode:
        raise Failure(found | {"log": done.stdout[-3000:] + done.stderr[-1000:]})
    return found


Case = tuple[list[Tensor], Callable[..., Tensor], Callable[..., Tensor]]


def cases(n: int, d: int, dtype: torch.dtype, device: str, vocabulary: int) -> dict[str, Case]:
    """Name -> inputs, ours, eager's."""

    def rows(count: int) -> Tensor:
        return torch.randn(count, d, device=device, dtype=dtype, requires_grad=True)

    def eager(*given: Any, positives: Positives, normalize: bool = False, symmetric: bool = False) -> Tensor:
        """In the dtype of the rows: x, more_x, y, more_y, ids, scale, bias."""
        call = pair_loss.__wrapped__  # type: ignore[attr-defined]
        return call(*given, positives, False, normalize, symmetric, -100, "mean")

    unit = [torch.nn.functional.normalize(rows(n).detach(), dim=1).requires_grad_() for _ in range(2)]
    targets = torch.randint(0, vocabulary, (n,), device=device)
    return {
        "NT-Xent": (
            [rows(n // 2), rows(n // 2)],
            lambda a, b: F.nt_xent(a, b, temperature=0.1, backend="triton"),
            lambda a, b: eager(a, b, None, None, None, 10.0, None, positives=Positives.halves, normalize=True),
        ),
        "CLIP": (
            unit,
            lambda a, b: F.clip_loss(a, b, 10.0, backend="triton"),
            lambda a, b: eager(a, None, b, None, None, 10.0, None, positives=Positives.diagonal, symmetric=True),
        ),
        "linear cross-entropy": (
            [rows(n), rows(vocabulary)],
            lambda h, w: F.linear_cross_entropy(h, w, targets, backend="triton"),
            lambda h, w: eager(h, None, w, None, targets, 1.0, None, positives=Positives.targets),
        ),
    }


def peers(loss: str, targets: Tensor) -> dict[str, Callable[..., Tensor]]:
    """The libraries with kernels for a loss, as far as they are installed."""
    found: dict[str, Callable[..., Tensor]] = {}
    if loss == "linear cross-entropy":
        with contextlib.suppress(ImportError):
            from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction

            found["Liger Kernel"] = lambda h, w: LigerFusedLinearCrossEntropyFunction.apply(h, w, targets)[0]
        with contextlib.suppress(ImportError):
            from cut_cross_entropy import linear_cross_entropy

            found["cut cross-entropy"] = lambda h, w: linear_cross_entropy(h, w, targets)
    if loss == "CLIP":
        with contextlib.suppress(ImportError):
            from inf_cl import cal_flash_loss

            def inf_cl(a: Tensor, b: Tensor) -> Tensor:
                options = {"scale": 10.0, "head_dim": min(256, a.shape[1])}
                return (cal_flash_loss(a, b, **options).mean() + cal_flash_loss(b, a, **options).mean()) / 2

            found["Inf-CL"] = inf_cl
    return found


def peak_mib(run: Callable[[], Any]) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def operations(run: Callable[[], Any]) -> int:
    """Kernels, copies and fills on the device in one step."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return sum(
        k.count
        for k in profiler.key_averages()
        if k.device_type == DeviceType.CUDA and "Sync" not in k.key and "Buffer" not in k.key
    )


def host_microseconds(run: Callable[[], Any], rounds: int = 50) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(rounds):
        run()
    spent = time.perf_counter() - begin
    torch.cuda.synchronize()
    return round(1e6 * spent / rounds)


def grid(dry: bool) -> list[tuple[int, int, torch.dtype]]:
    if dry:
        return [(16, 24, torch.float32)]
    bf16 = [(n, d, torch.bfloat16) for n in (1024, 4096, 8192, 16384, 32768, 65536) for d in (128, 512)]
    more = [(n, 768, torch.bfloat16) for n in (4096, 32768)]
    return [*bf16, *more, *((n, d, torch.float32) for n in (1024, 4096, 16384) for d in (128, 512))]


def compared(n: int, d: int, dtype: torch.dtype) -> bool:
    """With torch.compile, which takes seconds a case to compile."""
    return n in (1024, 4096, 16384, 32768) and dtype == torch.bfloat16 and d != 768


def benchmarks(dry: bool) -> dict[str, Any]:
    measured: list[dict[str, Any]] = []
    result = {"measured": measured}
    device = "cpu" if dry else "cuda"
    for n, d, dtype in grid(dry):
        for name, (inputs, ours, eager) in cases(n, d, dtype, device, 40 if dry else VOCABULARY).items():
            if d == 768 and name != "CLIP":
                continue

            def stepped(loss: Callable[..., Tensor], inputs: list[Tensor] = inputs) -> Callable[[], Any]:
                return lambda: torch.autograd.grad(loss(*inputs), inputs)

            step = stepped(ours)
            entry: dict[str, Any] = {"loss": name, "rows": n, "features": d, "dtype": str(dtype).removeprefix("torch.")}
            entry["ms"] = milliseconds(step)
            if not dry:
                entry["extra_mib"] = peak_mib(step)
                if n <= 4096:
                    entry |= {"host_us": host_microseconds(step), "device_operations": operations(step)}
            entry["against"] = {}
            ways = {"eager": eager}
            if not dry and compared(n, d, dtype):
                torch._dynamo.reset()
                ways["torch.compile"] = torch.compile(eager, dynamic=False)
            if not dry and n in (4096, 16384, 32768) and dtype == torch.bfloat16:
                ways |= peers(name, torch.randint(0, VOCABULARY, (n,), device=device))
            for way, loss in ways.items():
                try:
                    other = stepped(loss)
                    found = {"ms": milliseconds(other, 5)}
                    if not dry:
                        found["extra_mib"] = peak_mib(other)
                except torch.OutOfMemoryError:
                    found = {"error": "out of memory"}
                    torch.cuda.empty_cache()
                except Exception as error:  # another library's
                    if way in ("eager", "torch.compile"):
                        raise
                    found = {"error": f"{type(error).__name__}: {str(error)[:100]}"}
                entry["against"][way] = found
            entry["ms"] = (entry["ms"] + milliseconds(step)) / 2  # before and after the others
            measured.append(entry)
            print(json.dumps(entry), flush=True)
    return result


SECTIONS = {"environment": environment, "benchmarks": benchmarks, "tests": tests, "sanitizer": sanitizer}
ALONE = ("environment", "benchmarks")  # the others are processes of their own, and time nothing


# --- what is made of it ---------------------------------------------------------------------------------------------


def flops(m: dict[str, Any]) -> float:
    """Of the formulas: three products. (Ours makes four or, for rows against themselves, two of them half.)"""
    others = VOCABULARY if m["loss"] == "linear cross-entropy" else m["rows"]
    return 6.0 * m["rows"] * others * m["features"]


def table(results: dict[str, Any]) -> str:
    about, measured = results["environment"], results["benchmarks"]["measured"]
    lines = [
        f"Measured on {results['device']} (driver {about['driver']}, torch {about['torch']}, Triton {about['triton']}): forward and "
        "backward pass in milliseconds, medians. Eager and torch.compile are the textbook formulas, which store the matrix "
        f"of scores. A bf16 product of 8,192 x 8,192 matrices runs at {about['bf16_product_tflops']:.0f} TFLOP/s there; "
        f"the share is that of three products (forward, and two backward) in the time. Linear cross-entropy: {VOCABULARY:,} classes.",
        "",
        "| loss | dtype | rows | features | fastssl | eager | torch.compile | other libraries | share of the peak | extra memory, MiB | eager's |",
        "|" + "---|" * 11,
    ]
    for m in sorted(measured, key=lambda m: (m["loss"], m["dtype"], m["features"], m["rows"])):

        def cell(way: str, key: str, m: dict[str, Any] = m) -> str:
            found = m["against"].get(way, {})
            return found.get("error", f"{found[key]:,.{2 if key == 'ms' else 0}f}" if key in found else "")

        others = (way for way in m["against"] if way not in ("eager", "torch.compile"))
        libraries = "; ".join(f"{way} {cell(way, 'ms')}" for way in others if "ms" in m["against"][way])
        share = flops(m) / m["ms"] / 1e9 / about["bf16_product_tflops"]
        lines.append(
            f"| {m['loss']} | {m['dtype']} | {m['rows']:,} | {m['features']} | {m['ms']:,.2f} | {cell('eager', 'ms')} | "
            f"{cell('torch.compile', 'ms')} | {libraries} | {f'{100 * share:.0f} %' if m['dtype'] == 'bfloat16' else ''} | "
            f"{m['extra_mib']:,.0f} | {cell('eager', 'extra_mib')} |"
        )
    small = [m for m in measured if "host_us" in m and m["rows"] == 1024 and m["dtype"] == "bfloat16"]
    lines += [
        "",
        "Up to some thousand rows a step takes as long as the host needs to start it: "
        + "; ".join(
            f"{m['loss']}, {m['features']} features: {m['device_operations']} operations on the device, {m['host_us']:,.0f} us"
            for m in small
        )
        + ".",
    ]
    return "\n".join(lines)


def draw(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fastssl"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
    for axis, name in zip(axes, ("NT-Xent", "CLIP", "linear cross-entropy")):
        lines: dict[str, list[tuple[int, float]]] = {}
        for m in results["benchmarks"]["measured"]:
            if m["loss"] == name and m["features"] in (128, 512) and m["dtype"] == "bfloat16":
                for other, found in m["against"].items():
                    if "ms" in found:
                        lines.setdefault(f"{other}, {m['features']} features", []).append(
                            (m["rows"], found["ms"] / m["ms"])
                        )
        for other, points in sorted(lines.items()):
            axis.plot(*zip(*sorted(points)), marker="o", label=other)
        axis.set(title=f"{name}, bf16", xscale="log", yscale="log", xlabel="rows")
        axis.axhline(1, color="gray", lw=0.5)
        axis.legend(fontsize=7)
    axes[0].set_ylabel(f"times faster, {results['device']}")
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def write_page(results: dict[str, Any]) -> str:
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="sections, separated by commas")
    parser.add_argument("--resume", action="store_true", help="only what has not passed yet on this device")
    parser.add_argument("--dry-run", action="store_true", help="on the interpreter, a few small cases")
    parser.add_argument("--page", action="store_true", help="write docs/gpu.md's table and the plot from the JSON")
    options = parser.parse_args()
    if options.page:
        results = json.loads(RESULTS.read_text())
        write_atomically(PAGE, write_page(results))
        draw(results)
        return
    dry = options.dry_run
    if not dry and not torch.cuda.is_available():
        print("gpu-check: no GPU is visible to torch: nothing was checked", file=sys.stderr)
        raise SystemExit(2)
    device = "interpreter" if dry else torch.cuda.get_device_name()
    results = {"device": device, "passed": {}}
    if (options.resume or options.only) and RESULTS.exists():  # other sections' results of this device stay
        before = json.loads(RESULTS.read_text())
        results = before if before["device"] == device else results
    wanted = options.only.split(",") if options.only else list(SECTIONS)
    if options.resume:
        wanted = [name for name in wanted if not results["passed"].get(name)]

    def check(name: str) -> None:
        begin = time.perf_counter()
        try:
            found, passed = SECTIONS[name](dry), True
        except Exception as error:
            found = error.args[0] if isinstance(error, Failure) else {"error": f"{type(error).__name__}: {error}"}
            passed = False
        found["seconds"] = round(time.perf_counter() - begin, 1)
        results[name], results["passed"][name] = found, passed
        print(f"gpu-check: {name} {'passed' if passed else 'FAILED'} in {found['seconds']} s", flush=True)
        if not passed or name != "benchmarks":
            print(json.dumps(found, indent=1)[:4000], flush=True)
        if not dry:
            write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")

    for name in wanted:
        if name in ALONE:
            check(name)
    with ThreadPoolExecutor() as pool:
        list(pool.map(check, [name for name in wanted if name not in ALONE]))
    failed = [name for name in wanted if not results["passed"].get(name)]
    print(f"gpu-check on {device}: {', '.join(wanted)}; failed: {', '.join(failed) or 'none'}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
