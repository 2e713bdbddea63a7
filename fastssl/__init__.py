"""FastSSL: self-supervised learning on fused kernels.

``fastssl.functional`` has the losses as functions, ``fastssl.losses`` as modules; ``fastssl.methods``,
``fastssl.train`` and ``fastssl.evaluate`` build pretraining and its evaluation on them.
"""

from fastssl._version import __version__
from fastssl.ops import (
    backend,
    get_memory_budget,
    info,
    instruction_set,
    instruction_sets,
    set_memory_budget,
)

__all__ = [
    "__version__",
    "backend",
    "get_memory_budget",
    "info",
    "instruction_set",
    "instruction_sets",
    "set_memory_budget",
]
