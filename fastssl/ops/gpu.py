"""Whether Triton kernels can run in this process; asked once, without importing Triton."""

from __future__ import annotations

import importlib.util
import os

import torch

# TRITON_INTERPRET=1: Triton runs kernels on the CPU, in NumPy.
INTERPRETING = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def _reason() -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if INTERPRETING or torch.cuda.is_available():
        return ""
    return "no GPU is visible to torch (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, to test them)"


NO_TRITON = _reason()  # empty where they can
