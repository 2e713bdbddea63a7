"""Which backend computes: ``reference`` (eager PyTorch, the oracle) or ``cpu`` (C++), chosen by device and dtype."""

from __future__ import annotations

import contextlib
import contextvars
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fastssl._version import __version__
from fastssl.ops import extension

NAMES = ("reference", "cpu")
_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("fastssl_backend", default=None)
_environment = os.environ.get("FASTSSL_BACKEND") or None
_warned: set[str] = set()


@dataclass(frozen=True)
class Backend:
    """One implementation of a loss per backend; both take the same arguments."""

    reference: Callable[..., Any]
    cpu: Callable[..., Any]


def _check_name(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"backend: expected one of {NAMES}, got {name!r}")
    return name


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Uses one backend within a ``with`` block.

    Args:
        name: ``"reference"`` or ``"cpu"``.

    Raises:
        ValueError: unknown name.

    Example:
        >>> import torch, fastssl, fastssl.functional as F
        >>> z0, z1 = torch.randn(8, 16), torch.randn(8, 16)
        >>> with fastssl.backend("reference"):
        ...     eager = F.nt_xent(z0, z1)
        >>> torch.testing.assert_close(F.nt_xent(z0, z1), eager)
    """
    token = _forced.set(_check_name(name))
    try:
        yield
    finally:
        _forced.reset(token)


def _warn_once(key: str, text: str) -> None:
    if key not in _warned:
        _warned.add(key)
        warnings.warn(text, RuntimeWarning, stacklevel=5)


def resolve(device: torch.device, requested: str | None) -> str:
    """Returns the name of the backend that computes for tensors on ``device``."""
    name = requested or (None if torch.compiler.is_compiling() else _forced.get()) or _environment
    if name is not None:
        _check_name(name)
        if name == "cpu" and device.type != "cpu":
            raise ValueError(f"backend: 'cpu' computes CPU tensors, got tensors on {device}")
        if name == "cpu" and extension._C is None:
            raise RuntimeError(f"backend 'cpu' is not usable: {extension.reason}")
        return name
    if device.type == "cpu" and extension._C is not None:
        return "cpu"
    if not torch.compiler.is_compiling():
        if device.type == "cpu":
            _warn_once("cpu", f"fastssl computes with the slow reference backend: {extension.reason}")
        else:
            _warn_once(
                device.type, f"fastssl has no kernels for {device.type!r} tensors yet: the reference backend computes"
            )
    return "reference"


def dispatch(loss: Backend, requested: str | None, device: torch.device, *args: Any, **kwargs: Any) -> Any:
    """Calls the implementation of ``loss`` for tensors on ``device``."""
    name = resolve(device, requested)
    function = loss.cpu if name == "cpu" else loss.reference
    return function(*args, **kwargs)


def info() -> dict[str, Any]:
    """Returns what ``fastssl info`` prints: versions, backends with reasons, instruction set, threads, budget."""
    cpu = extension._C is not None
    cuda = torch.cuda.is_available()
    return {
        "fastssl": __version__,
        "torch": torch.__version__,
        "backends": {
            "reference": {"usable": True, "why": "eager PyTorch, always there"},
            "cpu": {"usable": cpu, "why": "compiled kernels are installed" if cpu else extension.reason},
            "triton": {
                "usable": False,
                "why": "no Triton kernels in this version" + ("" if cuda else "; no GPU is visible to torch"),
            },
            "cuda": {
                "usable": False,
                "why": "no CUDA kernels in this version" + ("" if cuda else "; no GPU is visible to torch"),
            },
        },
        "instruction_set": extension.instruction_set(),
        "instruction_sets": extension.instruction_sets(),
        "bf16_dot_products": bool(extension._C.has_bf16_pairs()) if extension._C is not None else False,
        "threads": torch.get_num_threads(),
        "memory_budget": extension.get_memory_budget(),
        "forced_backend": _forced.get() or _environment,
    }
