"""``make gpu-static``: what the compilers make of the GPU kernels, on a machine without a GPU.

Every kernel and configuration that would be launched is compiled ahead of time for sm_80, sm_90 and sm_100; registers,
spills, shared memory, occupancy and the instructions of the main loop are read from the machine code; a model predicts
times from them. Writes benchmarks/gpu_static.json and docs/gpu_static.md; exits with 1 where a chosen configuration
spills, misses the matrix instructions of its architecture, needs too much shared memory or runs too few warps.

python benchmarks/gpu_static.py [--choose] [--quick] [--check [--again]] [--jobs 2]

--choose: choose tiles anew for every kernel and write kernels/configs.json. --quick: the kernels of NT-Xent alone.
--check: no files but benchmarks/gpu_static_check.json, which says of which sources all kernels passed: the same sources and
compilers give the same machine code, and are not compiled twice (--again: they are).
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import torch
from gpu_launches import CHIP, CHIPS, Launch, Pointer, family, identity, pair_losses, record, representative, row_losses
from gpu_machine_code import MATRIX_KERNELS, attempt, attempt_one, resources, tool
from gpu_model import peak_memory, seconds

import fastssl
from fastssl.bench.run import write_atomically
from fastssl.ops.triton.candidates import ARCHITECTURES, KERNELS, candidates, depths
from fastssl.ops.triton.launch import Config, _table, key

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "gpu_static.json"
CONFIGS = ROOT / "kernels" / "configs.json"
PAGE = ROOT / "docs" / "gpu_static.md"
CHECKED = ROOT / "benchmarks" / "gpu_static_check.json"


# --- choosing -------------------------------------------------------------------------------------------------------


def choose(pool: Any, quick: bool, missing: bool) -> dict[str, Config]:
    """For every kernel the candidate with the least predicted time of NT-Xent that passes for all losses."""
    chosen: dict[str, Config] = {k: Config(**v) for k, v in _table().items()} if missing else {}
    for architecture in reversed(ARCHITECTURES):
        for dtype in (torch.bfloat16, torch.float32):
            for kernel in KERNELS:
                for depth in depths(kernel):
                    name = key(architecture, kernel, dtype, depth)
                    if name in chosen or (missing and kernel.endswith(("gradient", "reduce"))):
                        continue
                    options = candidates(architecture, kernel, dtype, depth)
                    ranked = rank(pool, architecture, kernel, dtype, depth, options, chosen)
                    for candidate in ranked:
                        if not quick and not holds(pool, architecture, kernel, dtype, depth, candidate, chosen):
                            continue
                        chosen[name] = candidate
                        break
                    print(name, chosen.get(name, "NONE"), flush=True)
    return chosen


def defaults(architecture: str) -> dict[str, Config]:
    """Any candidate for every kernel: recording needs some."""
    return {
        key(architecture, kernel, dtype, depth): candidates(architecture, kernel, dtype, depth)[-1]
        for kernel in KERNELS
        for dtype in (torch.bfloat16, torch.float32)
        for depth in depths(kernel)
    }


def rank(
    pool: Any,
    architecture: str,
    kernel: str,
    dtype: torch.dtype,
    depth: int,
    options: list[Config],
    chosen: dict[str, Config],
) -> list[Config]:
    bits = 32 if dtype == torch.float32 else 16
    tasks, launches = [], []
    for option in options:
        tiles = defaults(architecture) | chosen | {key(architecture, kernel, dtype, depth): option}
        found = record(architecture, representative(kernel, 32768, depth, dtype), tiles)
        launch = next((q for q in found if family(q) == kernel), None)
        if launch is None:  # weights of narrow rows are stored for triplets and by pairwise_distance alone
            return options
        launches.append(launch)
        tasks.append((architecture, bits, launch))
    times = []
    for option, launch, found in zip(options, launches, pool.map(attempt, tasks)):
        if "error" in found or found["failures"]:
            continue
        times.append((seconds(CHIPS[CHIP[architecture]], launch, found, depth)["seconds"], len(times), option))
    return [option for _, _, option in sorted(times)]


def holds(
    pool: Any, architecture: str, kernel: str, dtype: torch.dtype, depth: int, option: Config, chosen: dict[str, Config]
) -> bool:
    """Whether no loss fails with these tiles."""
    bits = 32 if dtype == torch.float32 else 16
    tiles = defaults(architecture) | chosen | {key(architecture, kernel, dtype, depth): option}
    tasks = {}
    for _, work_ in (*pair_losses(4096, depth, dtype), *row_losses(4096, depth, dtype)):
        for launch in record(architecture, work_, tiles):
            if family(launch) == kernel:
                tasks[identity(architecture, launch)] = (architecture, bits, launch)
    for task, found in zip(tasks.values(), pool.imap(resources, tasks.values())):
        if "error" in found or found["failures"]:
            print(
                f"  {option}: LOSS {task[2].constants.get('LOSS')}: {found.get('error') or found['failures']}",
                flush=True,
            )
            return False
    return True


# --- the report -----------------------------------------------------------------------------------------------------


def survey(pool: Any, quick: bool, check: bool = False) -> list[dict[str, Any]]:
    """Every kernel that would be launched, each compiled once for each architecture.

    ``check``: without fp16, whose kernels have the tiles, registers and instructions of bf16's.
    """
    tasks: dict[str, tuple[str, int, Launch]] = {}
    about: dict[str, dict[str, Any]] = {}
    for architecture in ARCHITECTURES:
        for dtype in (torch.bfloat16, torch.float32) if check else (torch.bfloat16, torch.float16, torch.float32):
            bits = 32 if dtype == torch.float32 else 16
            for d in (128, 512) if quick else (64, 128, 256, 512):
                some = list(pair_losses(4096, d, dtype))
                some = (
                    some[:1] if quick else some + (list(row_losses(4096, d, dtype)) if dtype != torch.float16 else [])
                )
                for loss, work_ in some:
                    for launch in record(architecture, work_):
                        name = identity(architecture, launch)
                        given = next(t.dtype for t in launch.arguments if isinstance(t, Pointer))
                        tasks.setdefault(name, (architecture, 32 if given == torch.float32 else bits, launch))
                        entry = about.setdefault(
                            name,
                            {
                                "architecture": architecture,
                                "kernel": launch.name,
                                "dtype": str(given)[6:],
                                "d": d,
                                "losses": [],
                                "tiles": [launch.constants.get(k) for k in ("BM", "BN", "BK")],
                            },
                        )
                        if loss not in entry["losses"]:
                            entry["losses"].append(loss)
    print(f"{len(tasks)} kernels to compile", flush=True)
    results = []
    # The instructions of tiles without masks are wanted of NT-Xent's kernels, for which the model predicts times.
    work_ = [(*task, not check and "nt_xent" in about[name]["losses"]) for name, task in tasks.items()]
    for k, (name, found) in enumerate(zip(tasks, pool.imap(attempt_one, work_, chunksize=4))):
        results.append({**about[name], **found})
        if k % 100 == 99:
            print(f"{k + 1} compiled", flush=True)
    return results


def cuda_kernels() -> list[dict[str, Any]]:
    """Registers and spills of csrc/cuda, from the library that CMake built; nothing where nvcc was missing."""
    from fastssl.ops.triton.cuda import LIBRARY

    if not LIBRARY.exists():
        return []
    text = subprocess.run(
        [tool("cuobjdump"), "-res-usage", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    result, architecture, name = [], "", ""
    for line in text.splitlines():
        found = re.search(r"arch = (sm_\w+)", line)
        architecture = found.group(1) if found else architecture
        found = re.search(r"Function (\w+)", line)
        if found:
            name = next((k for k in ("SortedRows", "SelectRows", "MakeViews") if k in found.group(1)), "")
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line)
        if found and name:
            registers, stack, shared, local = map(int, found.groups())
            entry = {"architecture": architecture, "kernel": name, "registers": registers, "stack": stack}
            result.append({**entry, "shared": shared, "spills": local})
            name = ""
    return result


def predictions(pool: Any) -> list[dict[str, Any]]:
    """NT-Xent in bf16, forward and backward, on H100 and B200, beside eager's memory traffic."""
    results = []
    for architecture in ("sm_90", "sm_100"):
        chip = CHIPS[CHIP[architecture]]
        for d in (128, 512):
            for n in (4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576):
                with_budget = fastssl.get_memory_budget()
                launches = record(architecture, representative("reduce", n, d, torch.bfloat16))
                fastssl.set_memory_budget(with_budget)
                kinds = {identity(architecture, q): q for q in launches}
                found = dict(zip(kinds, pool.map(attempt, [(architecture, 16, q) for q in kinds.values()])))
                total, flops, parts = 0.0, 0.0, collections.defaultdict(float)
                for launch in launches:
                    if launch.name not in MATRIX_KERNELS:
                        continue
                    t = seconds(chip, launch, found[identity(architecture, launch)], d)
                    total += t["seconds"]
                    flops += t["flops"]
                    for bound in ("tensor", "issue", "mufu", "l2", "hbm"):
                        parts[f"{launch.name[:-7]}: {bound}"] += t[bound]
                    parts[f"{launch.name[:-7]}: seconds"] += t["seconds"]
                peak = chip["tensor"] * chip["GHz"] * 1e9 * chip["processors"]
                # eager: logits written and read by mask, log-softmax, its gradient and two products (bf16 logits, fp32 softmax)
                eager_bytes = n * n * (2 + 2 + 2 + 2 + 4 + 4 + 4 + 4 + 2 + 2 + 2)
                eager = max(6 * n * n * d / peak, eager_bytes / chip["hbm"])
                results.append(
                    {
                        "chip": CHIP[architecture],
                        "n": n,
                        "d": d,
                        "seconds": total,
                        "flops": flops,
                        "share_of_peak": flops / total / peak,
                        "eager_seconds": eager,
                        "eager_bytes": eager_bytes,
                        "parts": dict(parts),
                    }
                )
    return results


def page(report: dict[str, Any]) -> str:
    lines = [
        "# What the compilers make of the GPU kernels",
        "",
        "Written by `make gpu-static` (Triton "
        f"{report['triton']}), which compiles every kernel that would be launched for sm_80, sm_90 and sm_100 on a machine without a GPU and reads the machine code. "
        "Nothing on this page was measured on a GPU: `make gpu-check` does that where there is one.",
        "",
        f"{report['compiled']} compilations; {report['failed']} of them with a spill where tiles were not measured on the chip, without the matrix instructions of their architecture, with too much shared memory or fewer than two warps.",
        "",
        "## NT-Xent's kernels, bf16",
        "",
        "| architecture | kernel | features | tile (rows x columns x step) | registers | spills | shared, KiB | blocks on a processor | matrix instructions | asynchronous copies | exp2 in the loop, per thread | stages |",
        "|" + "---|" * 12,
    ]
    for r in report["kernels"]:
        if (
            "nt_xent" not in r["losses"]
            or r["dtype"] != "bfloat16"
            or r["kernel"] not in MATRIX_KERNELS
            or "error" in r
        ):
            continue
        matrix = ", ".join(f"{n} {op}" for op, n in r["matrix"].items())
        copies = ", ".join(f"{n} {op}" for op, n in r["copies"].items())
        lines.append(
            f"| {r['architecture']} | {r['kernel'][:-7]} | {r['d']} | {' x '.join(map(str, r['tiles']))} | {r['registers']} | {r['spills']} | "
            f"{r['shared'] / 1024:.0f} | {r['occupancy']} | {matrix} | {copies} | {r['mix']['tiles'][1] or r['mix']['total'][1]} | {r['stages']} |"
        )
    lines += [
        "",
        "## Times that the model predicts: NT-Xent, bf16, forward + backward",
        "",
        "A launch takes as long as its slowest bound: tensor cores, instructions issued, special functions (exp2), bytes from L2 "
        "(64 a cycle and processor), HBM. Matrix instructions and the others overlap only where a processor holds two blocks or warps are specialised; else their times add up. "
        "Share of peak: the flops of the schedule that is launched / time / the dense bf16 peak at the clock in benchmarks/gpu_static.py. Eager: its flops at full peak or the bytes of its [N, N] "
        "matrices (30 per pair: logits, mask, softmax, their gradients) at full HBM bandwidth, whichever takes longer.",
        "",
        "| chip | rows | features | ms | share of the tensor peak | eager at best, ms |",
        "|---|---|---|---|---|---|",
    ]
    for p in report["predictions"]:
        lines.append(
            f"| {p['chip']} | {p['n']:,} | {p['d']} | {1e3 * p['seconds']:.3g} | {100 * p['share_of_peak']:.0f} % | {1e3 * p['eager_seconds']:.3g} |"
        )
    shown = next((p for p in report["predictions"] if (p["chip"], p["n"], p["d"]) == ("H100", 32768, 512)), None)
    if shown:
        lines += [
            "",
            "### The arithmetic for one line: H100, 32,768 rows, 512 features",
            "",
            f"{shown['flops']:.3e} flops of products; {1e3 * shown['seconds']:.2f} ms; {100 * shown['share_of_peak']:.1f} % of the peak. Milliseconds at each bound:",
            "",
            "| kernel | tensor | instructions | exp2 | L2 | HBM | predicted |",
            "|---|---|---|---|---|---|---|",
        ]
        for kernel in dict.fromkeys(k.split(":")[0] for k in shown["parts"]):
            cells = " | ".join(
                f"{1e3 * shown['parts'][f'{kernel}: {bound}']:.3f}"
                for bound in ("tensor", "issue", "mufu", "l2", "hbm", "seconds")
            )
            lines.append(f"| {kernel} | {cells} |")
    if report["cuda"]:
        lines += [
            "",
            "## The CUDA kernels (csrc/cuda, nvcc)",
            "",
            "| architecture | kernel | registers | stack, bytes | local memory, bytes |",
            "|---|---|---|---|---|",
            *(
                f"| {c['architecture']} | {c['kernel']} | {c['registers']} | {c['stack']} | {c['spills']} |"
                for c in report["cuda"]
            ),
        ]
    m = report["memory"]
    lines += [
        "",
        "## Memory",
        "",
        f"NT-Xent, {m['n']:,} rows x {m['d']} features, bf16, forward + backward, counted tensor by tensor on the meta device: {m['peak'] / 2**30:.2f} GiB at most, "
        f"of which {m['inputs'] / 2**30:.2f} GiB are the inputs.",
    ]
    return "\n".join(lines) + "\n"


def sources() -> dict[str, str]:
    """All that the machine code depends on: a digest of the files that make launches and kernels, and the compiler."""
    import triton

    patterns = ("kernels/*", "csrc/cuda/*", "fastssl/_table.py", "fastssl/ops/*.py", "fastssl/ops/triton/*.py")
    patterns += ("fastssl/ops/reference/common.py", "benchmarks/gpu_*.py")
    sha = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()):
        sha.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return {"sha256": sha.hexdigest(), "triton": triton.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="choose tiles anew and write kernels/configs.json")
    parser.add_argument("--quick", action="store_true", help="the kernels of NT-Xent alone, and no files")
    parser.add_argument("--check", action="store_true", help="no files: only fail where a kernel does not do")
    parser.add_argument("--again", action="store_true", help="with --check: also where these sources have passed")
    parser.add_argument("--missing", action="store_true", help="with --choose: only what the table lacks and must have")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import triton

    compiled_from = sources()  # not what they are when all is compiled, an hour later
    if options.check and not options.again and CHECKED.exists():
        checked = json.loads(CHECKED.read_text())
        if {k: checked.get(k) for k in compiled_from} == compiled_from:
            print(f"gpu-static: the {checked['compiled']} kernels of these sources have passed ({CHECKED.name})")
            return
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        if options.choose:
            chosen = choose(pool, options.quick, options.missing)
            text = {k: {f: x for f, x in dataclasses.asdict(v).items() if f != "name"} for k, v in chosen.items()}
            # What was measured (gpu_tiles.py) stays.
            before = json.loads(CONFIGS.read_text())
            kept = {k: v for k, v in before["configs"].items() if k.split("/")[0] in before["measured"]}
            write_atomically(CONFIGS, json.dumps(before | {"configs": text | kept}, indent=1) + "\n")
            return
        kernels = survey(pool, options.quick, options.check)
        failed = [r for r in kernels if "error" in r or r["failures"]]
        cuda = cuda_kernels()
        failed += [
            {
                "architecture": c["architecture"],
                "kernel": c["kernel"],
                "dtype": "",
                "d": "",
                "losses": [],
                "failures": "stack",
            }
            for c in cuda
            if c["spills"]
        ]
        report = {
            "triton": triton.__version__,
            "compiled": len(kernels),
            "failed": len(failed),
            "chips": CHIPS,
            "kernels": kernels,
        }
        if not options.quick and not options.check:
            report |= {"cuda": cuda}
            report |= {"predictions": predictions(pool), "memory": peak_memory(1048576, 512)}
            write_atomically(RESULTS, json.dumps(report, indent=1) + "\n")
            write_atomically(PAGE, page(report))
    for r in failed:
        print(
            f"{r['architecture']} {r['kernel']} {r['dtype']} d={r['d']} {r['losses'][:3]}: {r.get('error') or r['failures']}"
        )
    print(f"gpu-static: {len(kernels)} kernels compiled, {len(failed)} failed")
    if failed:
        raise SystemExit(1)
    if options.check and not options.quick:
        write_atomically(CHECKED, json.dumps(compiled_from | {"compiled": len(kernels)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
