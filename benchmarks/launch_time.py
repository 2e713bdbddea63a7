"""How long Python and torch take to start a step on a GPU, without one: kernels are compiled, launched and not run.

python benchmarks/launch_time.py [--page] [--launches LOSS ...]

``benchmarks/launch_driver.c`` stands for CUDA's driver and writes launches down; tensors are on the CPU and stand for a
GPU's. Times are of the host alone, and lack what a driver takes: 2 to 3 us per kernel. ``--page`` writes a section of
docs/gpu.md. ``--launches``: a line of JSON for each loss, of how Triton's launcher launches its kernels and how a plan
does (tests/gpu/test_plan.py).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PARAMETERS = 128


class Launch(ctypes.Structure):
    _fields_ = [
        ("function", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared", ctypes.c_uint32),
        ("attributes", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("parameters", ctypes.c_uint64 * PARAMETERS),
    ]

    def described(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("function", "stream", "shared", "attributes")}
        return plain | {
            "grid": list(self.grid),
            "block": list(self.block),
            "parameters": list(self.parameters[: self.count]),
        }


class Session:
    """The driver, and fastssl made to believe that tensors of the CPU are on a Hopper GPU."""

    def __init__(self, driver: str) -> None:
        os.environ["TRITON_LIBCUDA_PATH"] = os.path.dirname(driver)
        self.driver = ctypes.CDLL(driver, mode=ctypes.RTLD_GLOBAL)
        self.driver.driver_launched.restype = ctypes.c_int64
        self.driver.driver_launches.restype = ctypes.POINTER(Launch)
        import torch

        torch._C._cuda_getDevice = lambda: None  # type: ignore[attr-defined]
        torch._C._cuda_getCurrentRawStream = lambda device: 7  # type: ignore[attr-defined]
        torch.cuda.current_device = lambda: 0
        torch.cuda.get_device_capability = lambda *_: (9, 0)
        from triton.backends.nvidia.driver import CudaDriver
        from triton.runtime.driver import driver as active

        active.set_active(CudaDriver())
        import fastssl.ops.gpu
        import fastssl.ops.triton.operators
        from fastssl.ops.triton import launch

        sys.modules["fastssl.ops.backend"].INTERPRETING = True  # type: ignore[attr-defined]
        fastssl.ops.gpu._answers[None] = ""
        instead = {
            "config": self.config,
            "has_config": lambda *_: True,
            "processors": lambda _: 4,
            "copies_add": lambda _: False,
        }
        for name, module in list(sys.modules.items()):
            if name.startswith("fastssl.ops.triton"):
                for each in instead.keys() & vars(module).keys():
                    setattr(module, each, instead[each])
        launch._scratch = lambda size, *_: torch.empty(size, dtype=torch.int8)
        self.find_compiled()

    def config(self, kernel: str, x: Any, d: int) -> Any:
        """Small tiles, which compile fast."""
        from fastssl.ops.triton import launch

        resident = max(16, 1 << (d - 1).bit_length()) if launch.bucket(d) <= launch.WIDEST_RESIDENT else 32
        return launch.Config(32, 32, resident, 4, 1)

    def find_compiled(self) -> None:
        """Tells the driver the sizes of a kernel's parameters, which nobody else knows."""
        from fastssl.ops.triton import launch

        find = launch._launch

        def told(kernel: Any, grid: Any, arguments: tuple[Any, ...], constants: Any, device: Any) -> Any:
            found = find(kernel, grid, arguments, constants, device)
            kinds = [kind for kind in found[0].src.signature.values() if kind != "constexpr"]
            sizes = [8 if k[0] == "*" or "64" in k else 1 if k in ("i1", "u1") else 4 for k in kinds] + [8]
            self.driver.driver_describe(
                ctypes.c_uint64(found[0].function), len(sizes), (ctypes.c_int * len(sizes))(*sizes)
            )
            return found

        launch._launch = told

    @contextmanager
    def launches(self) -> Iterator[list[dict[str, Any]]]:
        self.driver.driver_forget()
        found: list[dict[str, Any]] = []
        yield found
        array = self.driver.driver_launches()
        found += [array[k].described() for k in range(self.driver.driver_launched())]


def build_driver(folder: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("a C compiler is needed (Debian: apt install gcc)")
    library = os.path.join(folder, "libcuda.so.1")
    source = str(ROOT / "benchmarks" / "launch_driver.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
    os.symlink("libcuda.so.1", os.path.join(folder, "libcuda.so"))
    return library


def losses(few: int = 40, many: int = 300) -> dict[str, Callable[[], Any]]:
    """Losses of small batches, by name; ``few``, ``many``: features that a program keeps, and that it reads in steps."""
    import torch

    import fastssl.functional as F

    torch.manual_seed(0)
    rows = {d: [torch.randn(24, d, requires_grad=True) for _ in range(2)] for d in (few, many)}
    narrow = [x.detach().bfloat16().requires_grad_() for x in rows[few]]
    scale, labels = torch.tensor(3.0, requires_grad=True), torch.arange(24) % 5
    return {
        "nt_xent": lambda: F.nt_xent(*rows[few], temperature=0.3),
        "nt_xent, many features": lambda: F.nt_xent(*rows[many], temperature=0.3),
        "clip_loss": lambda: F.clip_loss(*narrow, scale),
        "linear_cross_entropy": lambda: F.linear_cross_entropy(*narrow, labels, reduction="sum"),
        "multi_similarity": lambda: F.multi_similarity(rows[few][0], labels),
        "triplet": lambda: F.triplet(rows[few][0], labels),
    }


def compare_launches(session: Session, names: list[str]) -> None:
    import fastssl
    from fastssl.ops.triton import operators, plan

    for name, loss in losses().items():
        if names and name not in names:
            continue
        with fastssl.backend("triton"):
            calls = []
            for _ in range(4):
                with session.launches() as forward:
                    value = loss()
                with session.launches() as backward:
                    value.backward()
                calls.append((forward, backward))
        plans = [p for function in operators.REPLAYED for p in function.plans.values() if isinstance(p, plan.Plan)]
        kernels = [step for p in plans for step in p.steps if isinstance(step, plan.Kernels)]
        by_driver = sum(step.compiled is not None for step in kernels)
        operators.forget_replays()
        print(json.dumps({"loss": name, "calls": calls, "kernels": len(kernels), "by_driver": by_driver}), flush=True)


def microseconds(step: Callable[[], Any], calls: int = 5, rounds: int = 1500) -> float:
    """Of a call when nothing interrupts it: the 50th of 1,000 rounds."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            step()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[rounds // 20] / calls * 1e6


def measure(session: Session) -> str:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    import fastssl
    from fastssl.ops.triton import operators, replay

    torch.set_num_threads(1)
    names: list[str] = []

    class Count(TorchDispatchMode):
        """Operations of torch that are kernels on a GPU."""

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            views = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
            allocates = "empty" in function._schema.name or "detach" in function._schema.name
            if function.namespace == "aten" and not views and not allocates:
                names.append(str(function))
            return function(*args, **(kwargs or {}))

    lines = ["| loss | kernels | operations of torch | us per step, prepared anew | replayed | of which forward |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, loss in losses(128, 512).items():
        if name == "triplet":  # most of it is sorting, which would run here
            continue
        with fastssl.backend("triton"):

            def step(loss: Callable[[], Any] = loss) -> None:
                loss().backward()

            for _ in range(4):
                step()
            names.clear()
            with session.launches() as launched, Count():
                step()
            replayed, forward = microseconds(step), microseconds(loss)
            operators.forget_replays()
            longest, replay.LONGEST = replay.LONGEST, -1
            anew = microseconds(step, calls=2)
            replay.LONGEST = longest
            operators.forget_replays()
        lines.append(
            f"| {name.replace('many', '512')} | {len(launched)} | {len(names)} | {anew:,.0f} | {replayed:,.0f} | {forward:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--launches", nargs="*", metavar="LOSS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = Session(build_driver(folder))
        if options.launches is not None:
            return compare_launches(session, options.launches)
        table = measure(session)
    print(table)
    if options.page:
        from pages import replace

        replace("benchmarks/launch_time.py --page", table, ROOT / "docs" / "gpu.md")


if __name__ == "__main__":
    main()
