"""The compiled extension: loading it, why it is missing, its instruction set and memory budget."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch  # its libraries must be in the process before the extension is loaded

_C: ModuleType | None
try:
    _C = importlib.import_module("fastssl._C")
    reason = ""
except ImportError as error:
    _C = None
    reason = (
        f"the compiled kernels are missing ({error}); install a C++17 compiler (Debian: apt install g++) "
        "and reinstall: pip install --force-reinstall --no-deps fastssl"
    )

_memory_budget = int(os.environ.get("FASTSSL_MEMORY_BUDGET", 256 * 1024**2))


def set_memory_budget(bytes: int) -> None:
    """Sets how many bytes a loss may keep between its forward and its backward pass to save work.

    Tiles of the forward pass are kept while they fit, which saves a quarter of the arithmetic; else they are
    recomputed, or the gradients of a sum of the rows' losses are made with it, one strip of rows after another. The
    result is the same up to rounding. What large tiles, distance matrices and views gave back waits for the next
    ones, up to the budget (fresh pages are slow); a smaller budget frees it. 0 never keeps.

    Args:
        bytes: the budget of one call, in bytes; the default is 256 MiB (or ``FASTSSL_MEMORY_BUDGET``).

    Raises:
        TypeError: ``bytes`` is no integer.
        ValueError: ``bytes`` is negative.

    Example:
        >>> import fastssl
        >>> fastssl.set_memory_budget(1 << 30)
        >>> fastssl.get_memory_budget()
        1073741824
        >>> fastssl.set_memory_budget(256 << 20)
    """
    global _memory_budget
    if isinstance(bytes, bool) or not isinstance(bytes, int):
        raise TypeError(f"bytes: expected an integer, got {type(bytes).__name__}")
    if bytes < 0:
        raise ValueError(f"bytes: expected a budget >= 0, got {bytes}")
    _memory_budget = bytes
    if _C is not None:
        _C.set_pool_limit(bytes)


def get_memory_budget() -> int:
    """Returns the memory budget in bytes (see :func:`set_memory_budget`)."""
    return _memory_budget


def instruction_sets() -> list[str]:
    """Returns the names of the instruction sets that the kernels can use on this CPU, slowest first."""
    return [] if _C is None else list(_C.usable_isas())


def instruction_set(name: str | None = None) -> str | None:
    """Returns the instruction set in use; with ``name``, switches to it first.

    The environment variable ``FASTSSL_ISA`` does the same at import.

    Raises:
        ValueError: this CPU cannot run ``name``.
        RuntimeError: the kernels are not installed.
    """
    if _C is None:
        if name is not None:
            raise RuntimeError(reason)
        return None
    if name is not None:
        if name not in _C.usable_isas():
            raise ValueError(f"name: expected one of {list(_C.usable_isas())}, got {name!r}")
        _C.select_isa(name)
        _note_products()
    return str(_C.isa())


def multiplies(dtype: torch.dtype) -> bool:
    """Whether the instruction set in use multiplies rows of this 16-bit dtype as they are.

    The one that is chosen does so where it is faster than in float32.
    """
    return dtype == torch.bfloat16 and _multiplies_bf16


_multiplies_bf16 = False  # a global of Python, which Dynamo can read and guard


def _note_products() -> None:
    global _multiplies_bf16
    _multiplies_bf16 = _C is not None and bool(_C.multiplies_bf16())


_note_products()
if _C is not None:
    _C.set_pool_limit(_memory_budget)
if _C is not None and os.environ.get("FASTSSL_ISA"):
    instruction_set(os.environ["FASTSSL_ISA"])
