"""torch operators, the choice of backend and the reference formulas: all that knows about backends."""

from fastssl.ops.backend import Backend, backend, dispatch, info
from fastssl.ops.extension import (
    get_memory_budget,
    instruction_set,
    instruction_sets,
    set_memory_budget,
)

__all__ = [
    "Backend",
    "backend",
    "dispatch",
    "get_memory_budget",
    "info",
    "instruction_set",
    "instruction_sets",
    "set_memory_budget",
]
