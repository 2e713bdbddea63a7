"""Which backend computes: ``reference`` (eager PyTorch, the oracle), ``cpu`` or ``triton``, by device and dtype."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastssl._version import __version__
from fastssl.ops import extension
from fastssl.ops.gpu import INTERPRETING, no_triton
from fastssl.ops.scoped import Scoped

NAMES = ("reference", "cpu", "triton")
_forced: Scoped[str | None] = Scoped("fastssl_backend", None)
_environment = os.environ.get("FASTSSL_BACKEND") or None
_warned: set[str] = set()


@dataclass(frozen=True)
class Backend:
    """One implementation of a loss per backend; all take the same arguments.

    ``triton``: its name in ``fastssl.ops.triton.losses``, which is imported when it is called.
    """

    reference: Callable[..., Any]
    cpu: Callable[..., Any]
    triton: str

    def get(self, name: str) -> Callable[..., Any]:
        if name == "triton":
            from fastssl.ops.triton import losses

            function: Callable[..., Any] = getattr(losses, self.triton)
            return function
        return self.cpu if name == "cpu" else self.reference


def _check_name(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"backend: expected one of {NAMES}, got {name!r}")
    return name


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Uses one backend within a ``with`` block.

    Args:
        name: ``"reference"``, ``"cpu"`` or ``"triton"``.

    Raises:
        ValueError: unknown name.

    Example:
        >>> import torch, fastssl, fastssl.functional as F
        >>> z0, z1 = torch.randn(8, 16), torch.randn(8, 16)
        >>> with fastssl.backend("reference"):
        ...     eager = F.nt_xent(z0, z1)
        >>> torch.testing.assert_close(F.nt_xent(z0, z1), eager)
    """
    with _forced.set(_check_name(name)):
        yield


def _warn_once(key: str, text: str) -> None:
    if key not in _warned:
        _warned.add(key)
        warnings.warn(text, RuntimeWarning, stacklevel=5)


def why_not_cuda() -> str:
    """Why the CUDA kernels cannot run here; empty where they can."""
    from fastssl.ops.triton.cuda import reason

    return reason()


def resolve(device: torch.device, requested: str | None, dtype: torch.dtype | None = None) -> str:
    """Returns the name of the backend that computes for tensors on ``device``.

    Raises:
        ValueError: a backend is asked for that does not know the name, the device or the dtype.
        RuntimeError: it cannot run here.
    """
    name = requested or _forced.get() or _environment
    if name is not None:
        _check_name(name)
        if name == "cpu" and device.type != "cpu":
            raise ValueError(f"backend: 'cpu' computes CPU tensors, got tensors on {device}")
        if name == "cpu" and extension._C is None:
            raise RuntimeError(f"backend 'cpu' is not usable: {extension.reason}")
        if name == "triton":
            why = no_triton(device.index if device.type == "cuda" else None)
            if why:
                raise RuntimeError(f"backend 'triton' is not usable: {why}")
            if device.type != "cuda" and not INTERPRETING:
                raise ValueError(f"backend: 'triton' computes CUDA tensors, got tensors on {device}")
            if dtype == torch.float64:
                raise ValueError("backend: 'triton' computes float32, bfloat16 and float16, got float64")
        return name
    if device.type == "cpu" and extension._C is not None:
        return "cpu"
    why = no_triton(device.index) if device.type == "cuda" else ""
    if device.type == "cuda" and dtype != torch.float64 and not why:
        return "triton"
    if not torch.compiler.is_compiling():
        if device.type == "cpu":
            _warn_once("cpu", f"fastssl computes with the slow reference backend: {extension.reason}")
        elif device.type == "cuda" and dtype == torch.float64:
            _warn_once("cuda float64", "fastssl has no GPU kernels for float64: the reference backend computes")
        elif device.type == "cuda":
            _warn_once("cuda", f"fastssl computes with the slow reference backend: {why}")
        else:
            _warn_once(
                device.type, f"fastssl has no kernels for {device.type!r} tensors: the reference backend computes"
            )
    return "reference"


def dispatch(loss: Backend, requested: str | None, device: torch.device, *args: Any, **kwargs: Any) -> Any:
    """Calls the implementation of ``loss`` for tensors on ``device``."""
    dtype = None if device.type == "cpu" and requested is None else _dtype(args)
    return loss.get(resolve(device, requested, dtype))(*args, **kwargs)


def _dtype(arguments: tuple[Any, ...]) -> torch.dtype | None:
    """Of the rows: the first tensor of floating point numbers."""
    return next((a.dtype for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()), None)


def cpu_entry(name: str) -> str:
    """What Linux says about the first CPU ("vendor_id", "model name"); empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def info() -> dict[str, Any]:
    """Returns what ``fastssl info`` prints: versions, backends with reasons, instruction set, threads, budget."""
    cpu = extension._C is not None
    no_cuda, why = why_not_cuda(), no_triton()
    return {
        "fastssl": __version__,
        "torch": torch.__version__,
        "backends": {
            "reference": {"usable": True, "why": "eager PyTorch, always there"},
            "cpu": {"usable": cpu, "why": "compiled kernels are installed" if cpu else extension.reason},
            "triton": {"usable": not why, "why": why or "losses and distances of CUDA tensors"},
            "cuda": {"usable": not no_cuda, "why": no_cuda or "triplets, nearest rows and views on the GPU"},
        },
        "instruction_set": extension.instruction_set(),
        "instruction_sets": extension.instruction_sets(),
        "bf16_dot_products": extension.multiplies(torch.bfloat16),
        "threads": torch.get_num_threads(),
        "memory_budget": extension.get_memory_budget(),
        "forced_backend": _forced.get() or _environment,
    }
