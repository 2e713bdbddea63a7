"""Two builds of FastSSL against each other, over every loss of the tests' table.

    python benchmarks/versions.py bits  OLD NEW       same values and gradients, bit for bit?
    python benchmarks/versions.py times OLD NEW [--rows 16,64,256] [--threads 1] [--rounds 5]

OLD and NEW are folders that hold a built ``fastssl/`` (a checkout, or ``pip install --target FOLDER some.whl``). Each
side runs in processes of its own with the python of this one; ``times`` takes turns. A loss that one of the builds lacks
is named. ``bits`` exits with 1 where results differ.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ((7, 5), (40, 17), (300, 64))
DTYPES = ("float32", "float64", "bfloat16")
TEMPERATURES = (0.01, 0.07, 0.5)


def subjects() -> dict[str, Any]:
    """The table of this checkout, called in the build that is on the path."""
    sys.path.append(str(ROOT))
    from tests.support.subjects import SUBJECTS

    return SUBJECTS


def bits() -> dict[str, Any]:
    """Loss and gradients of every case, or the name of the error."""
    import torch

    import fastssl

    results: dict[str, Any] = {}
    for isa in fastssl.instruction_sets():
        fastssl.instruction_set(isa)
        for name, subject in subjects().items():
            for n, d in SHAPES:
                for dtype in DTYPES:
                    for temperature in TEMPERATURES:
                        torch.manual_seed(n)
                        try:
                            inputs = subject.make(n, d, getattr(torch, dtype), temperature)
                            results[f"{name} {n}x{d} {dtype} {temperature} {isa}"] = subject.gradients(inputs)
                        except Exception as error:
                            results[f"{name} {n}x{d} {dtype} {temperature} {isa}"] = type(error).__name__
    return results


def times(rows: list[int], threads: int) -> dict[str, float]:
    """Microseconds of forward + backward with 128 features: the median of at least 10 calls in 0.3 s."""
    import torch

    torch.set_num_threads(threads)
    results = {}
    for name, subject in subjects().items():
        for n in rows:
            torch.manual_seed(n)
            try:
                given = subject.make(n, 128).leaves()
                leaves = given.differentiable

                def step(subject: Any = subject, given: Any = given, leaves: Any = leaves) -> None:
                    for leaf in leaves:
                        leaf.grad = None
                    subject(given).sum().backward()

                for _ in range(3):
                    step()
            except Exception:
                continue
            samples: list[int] = []
            end = time.perf_counter() + 0.3
            while time.perf_counter() < end or len(samples) < 10:
                start = time.perf_counter_ns()
                step()
                samples.append(time.perf_counter_ns() - start)
            results[f"{name} {n}"] = statistics.median(samples) / 1e3
    return results


def run(build: Path, *arguments: str) -> dict[str, Any]:
    """One side, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results"
        command = [sys.executable, __file__, "side", str(out), str(build), *arguments]
        subprocess.run(command, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(build)})
        return dict(pickle.loads(out.read_bytes()))


def side(out: str, build: str, what: str, rows: str = "", threads: str = "1") -> None:
    import fastssl

    if not Path(fastssl.__file__).is_relative_to(Path(build).resolve()):
        raise SystemExit(f"versions.py: {build} holds no fastssl: python found {fastssl.__file__}")
    results = bits() if what == "bits" else times([int(n) for n in rows.split(",")], int(threads))
    Path(out).write_bytes(pickle.dumps(results))


def same(a: Any, b: Any) -> bool:
    import torch

    if isinstance(a, str) or isinstance(b, str):
        return bool(a == b) if isinstance(a, str) and isinstance(b, str) else False
    return len(a) == len(b) and all(torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)) for x, y in zip(a, b))


def main() -> None:
    if sys.argv[1:2] == ["side"]:
        side(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bits", "times"])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rows", default="16,64,256")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    builds = (given.old.resolve(), given.new.resolve())
    if given.what == "bits":
        old, new = (run(build, "bits") for build in builds)
        common = [k for k in old if k in new and "TypeError" not in (old[k], new[k])]  # an argument that one lacks
        differ = [k for k in common if not same(old[k], new[k])]
        print(*differ, sep="\n")
        print(f"{len(common)} cases, {len(differ)} differ; {len(old) - len(common)} only in one of the builds")
        raise SystemExit(bool(differ))
    samples: list[list[dict[str, float]]] = [[], []]
    for k in range(given.rounds):
        for i in (0, 1) if k % 2 == 0 else (1, 0):
            samples[i].append(run(builds[i], "times", given.rows, given.threads))
    print("| loss, rows | old, us | new, us | new / old |\n|---|---|---|---|")
    for key in samples[0][0] | samples[1][0]:
        sides = [[s[key] for s in side if key in s] for side in samples]
        if not all(sides):
            print(f"| {key} | only in the {'old' if sides[0] else 'new'} build | | |")
            continue
        a, b = (statistics.median(s) for s in sides)
        print(f"| {key} | {a:,.0f} | {b:,.0f} | {b / a:.2f} |")


if __name__ == "__main__":
    main()
