"""The mode of a module: training or evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Within it the module is in evaluation mode; afterwards, also after an exception or Ctrl-C, in the one before."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
