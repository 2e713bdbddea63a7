"""A process in which Triton's compiled kernels are launched without a GPU, on a driver that writes launches down.

Tensors are on the CPU and stand for a GPU's. ``python -m tests.support.driver_session DRIVER [LOSS ...]`` prints a line
of JSON for each loss: how its kernels were launched by Triton's launcher, and how by a plan.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
            before = len(launch._compiled)
            found = find(kernel, grid, arguments, constants, device)
            kinds = [kind for kind in found[0].src.signature.values() if kind != "constexpr"]
            sizes = [8 if k[0] == "*" or "64" in k else 1 if k in ("i1", "u1") else 4 for k in kinds] + [8]
            self.driver.driver_describe(
                ctypes.c_uint64(found[0].function), len(sizes), (ctypes.c_int * len(sizes))(*sizes)
            )
            return found if len(launch._compiled) == before else find(kernel, grid, arguments, constants, device)

        launch._launch = told

    @contextmanager
    def launches(self) -> Iterator[list[dict[str, Any]]]:
        self.driver.driver_forget()
        found: list[dict[str, Any]] = []
        yield found
        array = self.driver.driver_launches()
        found += [array[k].described() for k in range(self.driver.driver_launched())]


def losses() -> dict[str, Callable[[], Any]]:
    import torch

    import fastssl.functional as F

    torch.manual_seed(0)
    rows = {d: [torch.randn(24, d, requires_grad=True) for _ in range(2)] for d in (40, 300)}
    narrow = [x.detach().bfloat16().requires_grad_() for x in rows[40]]
    scale, labels = torch.tensor(3.0, requires_grad=True), torch.arange(24) % 5
    return {
        "nt_xent": lambda: F.nt_xent(*rows[40], temperature=0.3),
        "nt_xent of many features": lambda: F.nt_xent(*rows[300], temperature=0.3),
        "clip_loss": lambda: F.clip_loss(*narrow, scale),
        "linear_cross_entropy": lambda: F.linear_cross_entropy(*narrow, labels, reduction="sum"),
        "multi_similarity": lambda: F.multi_similarity(rows[40][0], labels),
        "triplet": lambda: F.triplet(rows[40][0], labels),
    }


def main() -> None:
    session = Session(sys.argv[1])
    import fastssl
    from fastssl.ops.triton import operators, plan

    for name, loss in losses().items():
        if sys.argv[2:] and name not in sys.argv[2:]:
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


if __name__ == "__main__":
    main()
