"""Docstring examples run; public functions have formula, arguments, errors, example and source."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import fastssl
import fastssl.functional as F
from fastssl import losses
from fastssl.methods import METHODS
from tests.support import ROOT

MODULES = [
    m.name
    for m in pkgutil.walk_packages(fastssl.__path__, "fastssl.")
    if not m.name.endswith(("__main__", "_C", "modeling_fastssl")) and ".kernels" not in m.name
]  # modeling_fastssl needs transformers: tests/evaluate/test_protocols.py loads it


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


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/migrate.md",
        "docs/augment.md",
        "docs/encoders.md",
        "docs/evaluate.md",
        "docs/distributed.md",
        "docs/data.md",
    ],
)
def test_examples_of_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert blocks
    for block in blocks:
        try:
            exec(compile(block, page, "exec"), {})
        finally:
            fastssl.unpatch()


def _sections() -> dict[str, str]:
    """The example of every method in docs/methods.md."""
    text = (ROOT / "docs" / "methods.md").read_text()
    return dict(re.findall(r"^## (\S+)\n.*?```python\n(.*?)```", text, flags=re.S | re.M))


def test_the_page_of_methods_is_what_they_say() -> None:
    spec = importlib.util.spec_from_file_location("methods_page", ROOT / "benchmarks" / "methods_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == (ROOT / "docs" / "methods.md").read_text(), "run python benchmarks/methods_page.py"
    assert set(_sections()) == {*METHODS, "cpc-signal"}
    assert all(example.count("\n") <= 20 for example in _sections().values())


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("byol", "clip", "cpc-signal") else pytest.mark.slow) for n in _sections()],
)
def test_examples_of_methods_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for one epoch on few items."""
    monkeypatch.chdir(tmp_path)
    example = _sections()[name].replace("epochs=20", "epochs=1").replace('"width": 32', '"width": 8')
    example = example.replace('emoji("train")', 'emoji("train").subset(range(64), "emoji-train")')
    example = example.replace("tones()", "tones(64)")
    example = example.replace("emoji(), readout", 'emoji().subset(range(256), "emoji"), readout')
    exec(compile(example, name, "exec"), {})
    assert list(tmp_path.glob("runs/*/checkpoint/tensors.safetensors"))
