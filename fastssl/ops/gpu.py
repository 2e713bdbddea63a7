"""Whether Triton kernels can run: asked when a CUDA tensor comes, since asking initialises CUDA."""

from __future__ import annotations

import importlib.util
import os

import torch

# TRITON_INTERPRET=1: Triton runs kernels on the CPU, in NumPy.
INTERPRETING = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
OLDEST = (8, 0)  # the compute capability that tiles were chosen for: Ampere


_answers: dict[int | None, str] = {}


def no_triton(index: int | None = None) -> str:
    """Why Triton kernels cannot run on CUDA device ``index`` (None: the current one); empty where they can.

    Importing fastssl must not ask: a process that has initialised CUDA cannot fork, nor change CUDA_VISIBLE_DEVICES.
    """
    if index not in _answers:
        _answers[index] = _ask(index)
    return _answers[index]


# As torch.compiler.assume_constant_result, which imports torch._dynamo, does: torch.compile asks instead of tracing.
no_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _ask(index: int | None) -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if INTERPRETING:
        return ""
    if not torch.cuda.is_available():
        return "no GPU is visible to torch (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, to test them)"
    return unsuitable(index)


def unsuitable(index: int | None = None) -> str:
    """Why kernels cannot run on a GPU that torch sees; empty where they can."""
    if torch.version.hip is not None:
        return "AMD GPUs have no tiles yet"
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        major, minor = capability
        return f"{torch.cuda.get_device_name(index)} has compute capability {major}.{minor}, the kernels need 8.0"
    return ""
