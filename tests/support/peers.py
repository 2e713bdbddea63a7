"""Libraries that are patched, imported without what they need besides."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import pytest


def package(name: str) -> None:
    """Makes ``import name.module`` work without what ``name/__init__.py`` imports besides."""
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            pytest.skip(f"{name} is not installed")
        module = types.ModuleType(name)
        module.__path__, module.__spec__ = list(spec.submodule_search_locations), spec
        sys.modules[name] = module


def lightly() -> None:
    """Its losses; torchvision, which they do not use, is not missed while they are imported."""
    package("lightly")
    if "lightly.loss" in sys.modules:
        return
    from fastssl.bench.cases import _stand_in_for_torchvision

    remove = _stand_in_for_torchvision()
    try:
        for name in ("lightly.utils.dist", "lightly.loss"):
            importlib.import_module(name)
    finally:
        remove()  # other libraries look for torchvision itself


def metric_learning() -> Any:
    pytest.importorskip("pytorch_metric_learning")
    import pytorch_metric_learning as pml
    import pytorch_metric_learning.losses

    return pml
