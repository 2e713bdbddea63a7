"""FastSSL: self-supervised learning on fused kernels.

``fastssl.functional`` has the losses as functions, ``fastssl.losses`` as modules; ``fastssl.methods``,
``fastssl.train`` and ``fastssl.evaluate`` build pretraining and its evaluation on them,
``fastssl.pretrain`` in one call.
``fastssl.patch`` brings the losses into code that uses other libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastssl._version import __version__

if TYPE_CHECKING:
    from fastssl.compat import patch, patched, unpatch
    from fastssl.ops import (  # type: ignore[no-redef]
        backend,
        get_memory_budget,
        info,
        instruction_set,
        instruction_sets,
        set_memory_budget,
    )
    from fastssl.train import pretrain

__all__ = [
    "__version__",
    "backend",
    "get_memory_budget",
    "info",
    "instruction_set",
    "instruction_sets",
    "patch",
    "patched",
    "pretrain",
    "set_memory_budget",
    "unpatch",
]

_OWNERS = {name: "fastssl.compat" for name in ("patch", "patched", "unpatch")} | {
    name: "fastssl.ops"
    for name in ("backend", "get_memory_budget", "info", "instruction_set", "instruction_sets", "set_memory_budget")
}
_OWNERS["pretrain"] = "fastssl.train"
_PARTS = {
    "augment", "compat", "data", "distributed", "evaluate", "functional", "losses", "methods", "models", "ops", "train",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Parts are imported when they are asked for: ``fastssl --help`` does not wait for torch."""
    if name in _OWNERS:
        value = getattr(importlib.import_module(_OWNERS[name]), name)
    elif name in _PARTS:
        value = importlib.import_module(f"fastssl.{name}")
    else:
        raise AttributeError(f"module 'fastssl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
