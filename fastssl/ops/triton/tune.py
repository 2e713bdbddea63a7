"""Sizes of tiles measured on the machine itself: FASTSSL_AUTOTUNE=1 tries candidates at the first call, keeps the best.

Without it the table in kernels/configs.json is used: the first call waits for one compilation a kernel, not for tuning.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_best: dict[str, dict[str, Any]] | None = None


def store() -> Path:
    home = os.environ.get("FASTSSL_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fastssl"
    )
    return Path(home) / "tiles.json"


def _name(kernel: str, x: Tensor, depth: int) -> str:
    from fastssl.ops.triton.launch import key

    return f"{torch.cuda.get_device_name(x.device)}/{key('', kernel, x.dtype, depth)}"


def _load() -> dict[str, dict[str, Any]]:
    global _best
    if _best is None:
        path = store()
        _best = json.loads(path.read_text()) if path.exists() else {}
    return _best


def remember(name: str, best: dict[str, Any]) -> None:
    """Adds to the store, which is written to a temporary name and renamed."""
    table = _load()
    table[name] = best
    path = store()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as f:
        json.dump(table, f, indent=1)
    os.replace(f.name, path)


@functools.cache
def _tuning(name: str) -> list[bool]:
    return [False]


def stored(kernel: str, x: Tensor, depth: int) -> Any:
    """The tiles that were measured to be best here, or None; measures first where FASTSSL_AUTOTUNE=1 asks for it."""
    from fastssl.ops.triton.launch import Config

    table = _load()
    if not table and os.environ.get("FASTSSL_AUTOTUNE") != "1":
        return None
    name = _name(kernel, x, depth)
    busy = _tuning(name)
    if os.environ.get("FASTSSL_AUTOTUNE") == "1" and name not in table and not busy[0]:
        busy[0] = True
        try:
            _measure(name, kernel, x, depth)
        finally:
            busy[0] = False
    if busy[0]:
        return _trial.get(name)
    return Config(**table[name]) if name in table else None


_trial: dict[str, Any] = {}
TUNED_ROWS = 8192


def _measure(name: str, kernel: str, x: Tensor, depth: int) -> None:
    """Times NT-Xent's forward (reduce) or backward pass (the others) with every candidate."""
    from dataclasses import asdict

    import triton.testing

    import fastssl.functional as F
    from fastssl.ops.triton.candidates import candidates
    from fastssl.ops.triton.launch import architecture

    z = [torch.randn(TUNED_ROWS // 2, depth, dtype=x.dtype, device=x.device, requires_grad=True) for _ in range(2)]

    def forward() -> Tensor:
        return F.nt_xent(z[0], z[1], temperature=0.1, backend="triton")

    loss = forward() if kernel != "reduce" else None

    def backward() -> None:
        assert loss is not None
        torch.autograd.grad(loss, z, retain_graph=True)

    times = {}
    for candidate in candidates(architecture(x.device.index or 0), kernel, x.dtype, depth):
        _trial[name] = candidate
        try:
            times[candidate] = triton.testing.do_bench(forward if kernel == "reduce" else backward)
        except Exception:  # out of shared memory or registers: another candidate will do
            continue
    _trial.pop(name, None)
    if times:
        remember(name, asdict(min(times, key=lambda c: times[c])))
