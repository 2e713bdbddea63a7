"""FastSSL: self-supervised learning on fused kernels.

``fastssl.functional`` has the losses as functions, ``fastssl.losses`` as modules; ``fastssl.methods``,
``fastssl.train`` and ``fastssl.evaluate`` build pretraining and its evaluation on them.
``fastssl.patch`` brings the losses into code that uses other libraries.
"""

from fastssl._version import __version__
from fastssl.compat import patch, patched, unpatch
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
    "patch",
    "patched",
    "set_memory_budget",
    "unpatch",
]
