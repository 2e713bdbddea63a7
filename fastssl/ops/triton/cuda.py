"""The compiled CUDA kernels (csrc/cuda): loading them, and why they cannot run."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from fastssl.ops import extension
from fastssl.ops.gpu import unsuitable

LIBRARY = Path(__file__).parents[2] / "_cuda.kernels.so"


def reason(index: int | None = None) -> str:
    """Why they cannot run on CUDA device ``index`` (None: the current one); empty where they can."""
    if extension._C is None:
        return extension.reason
    if torch.cuda.is_available() and (why := unsuitable(index)):
        return why
    if not LIBRARY.exists():
        return "the CUDA kernels were not built: install nvcc (the CUDA toolkit) and reinstall fastssl"
    return "" if torch.cuda.is_available() else "no GPU is visible to torch"


@functools.cache
def _load() -> None:
    torch.ops.load_library(str(LIBRARY))


def require(device: torch.device) -> None:
    """Makes the kernels ready for tensors on ``device``; on the CPU they run as loops, to be tested.

    Raises:
        RuntimeError: they cannot run.
    """
    if device.type == "cuda":
        why = reason(device.index)
        if why:
            raise RuntimeError(f"backend 'cuda' is not usable: {why}")
        _load()
    elif extension._C is None:
        raise RuntimeError(f"backend 'cuda' is not usable: {extension.reason}")
