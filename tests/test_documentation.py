"""Docstring examples run; public functions have formula, arguments, errors, example and source."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import fastssl
import fastssl.functional as F
from fastssl import losses

MODULES = [
    m.name
    for m in pkgutil.walk_packages(fastssl.__path__, "fastssl.")
    if not m.name.endswith(("__main__", "_C")) and ".kernels" not in m.name
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it holds"
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", [name for name in F.__all__ if inspect.isfunction(getattr(F, name))])
def test_losses_are_documented(name: str) -> None:
    text = getattr(F, name).__doc__
    for part in (".. math::", "Args:", "Returns:", "Raises:", "Example:", "Source:"):
        assert part in text, f"{name} lacks {part}"


@pytest.mark.parametrize("name", losses.__all__)
def test_modules_are_documented(name: str) -> None:
    text = getattr(losses, name).__doc__
    assert "fastssl.functional" in text and "Example:" in text


@pytest.mark.parametrize("page", ["README.md", "docs/migrate.md", "docs/augment.md"])
def test_examples_of_pages_run(page: str) -> None:
    text = (Path(__file__).parent.parent / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert blocks
    for block in blocks:
        try:
            exec(compile(block, page, "exec"), {})
        finally:
            fastssl.unpatch()
