"""The floating-point mode of the threads of torch's pool."""

from __future__ import annotations

import pytest
import torch

from fastssl.ops import extension

kernels = pytest.mark.skipif(extension._C is None, reason="the compiled kernels are not installed")


def modes() -> list[bool]:
    """Whether subnormal numbers are flushed to zero, the calling thread first."""
    return list(extension._C.float_modes(torch.get_num_threads()))  # type: ignore[union-attr]
