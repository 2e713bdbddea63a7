"""Kernels of Triton, interpreted where there is no GPU."""

from __future__ import annotations

import importlib.util

from tests.support import TRITON_DEVICE

if TRITON_DEVICE == "cpu" and importlib.util.find_spec("triton"):
    from tests.support.interpreter import without_repeated_patches

    without_repeated_patches()
