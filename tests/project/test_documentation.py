"""Docstring examples run; public functions have formula, arguments, errors, example and source."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import fastssl
import fastssl.functional as F
from fastssl import losses
from fastssl._docs import Docstring
from fastssl.data import Splits
from fastssl.methods import METHODS
from tests.support import ROOT

MODULES = [
    m.name
    for m in pkgutil.walk_packages(fastssl.__path__, "fastssl.")
    if not m.name.endswith(("__main__", "_C", "_fastssl")) and ".kernels" not in m.name
]  # code of exports needs transformers: tests/models/test_export.py loads it


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it holds"
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def _check_docstring(documented: Any, parameters: set[str], inputs: set[str]) -> None:
    """Formula, all parameters, shapes, dtypes, result, errors, example and paper."""
    text, name = inspect.cleandoc(documented.__doc__), documented.__name__
    doc = Docstring.parse(text)
    for part in (".. math::", "Args:", "Returns:", "Raises:", "Example:", "Source:"):
        assert part in text, f"{name} lacks {part}"
    assert set(doc.entries["Args"]) == parameters, name
    assert set(doc.entries.get("Inputs", ())) == inputs, name
    arrays = "".join(doc.entries["Inputs" if inputs else "Args"].values())
    assert re.search(r"\[(N|n|V|\.\.\.)[],]", arrays), f"{name} names no shape"
    assert "float32" in arrays, f"{name} names no dtypes"
    assert {"TypeError", "ValueError"} <= set(doc.entries["Raises"]), name


@pytest.mark.parametrize("name", [name for name in F.__all__ if inspect.isfunction(getattr(F, name))])
def test_losses_are_documented(name: str) -> None:
    function = getattr(F, name)
    _check_docstring(function, set(inspect.signature(function).parameters), set())


@pytest.mark.parametrize("name", losses.__all__)
def test_modules_are_documented(name: str) -> None:
    module = getattr(losses, name)
    inputs = set(inspect.signature(module.forward).parameters) - {"self"}
    _check_docstring(module, set(inspect.signature(module).parameters), inputs)
    assert "fastssl.functional" in module.__doc__ and f"{name}(" in module.__doc__


# Runs of minutes, objects of a run, and what needs an extra: docs/evaluate.md and docs/data.md show them.
WITHOUT_EXAMPLE = {
    *(
        "evaluate",
        "evaluate_digits",
        "evaluate_emoji",
        "evaluate_splits",
        "evaluate_with",
        "class_embeddings",
        "gloss_classes",
        "zero_shot",
    ),
    *("HubSource", "Progress", "Trainer", "load_checkpoint", "save_checkpoint"),
}


@pytest.mark.parametrize("package", ["augment", "data", "evaluate", "models", "train"])
def test_exported_names_are_documented(package: str) -> None:
    """What a name is, all its parameters, the errors that its source raises, and an example."""
    module = importlib.import_module(f"fastssl.{package}")
    lacking: dict[str, list[str]] = {}
    for name in module.__all__:
        exported = inspect.unwrap(getattr(module, name)) if callable(getattr(module, name)) else None
        if exported is None or (inspect.isclass(exported) and issubclass(exported, BaseException)):
            continue
        doc = Docstring.parse(exported.__doc__ or "")
        described = ",".join(doc.entries.get("Args", {}))  # "kernels, strides: ..." describes two
        lacks = [p for p in inspect.signature(exported).parameters if not re.search(rf"\b{p}\b", described)]
        lacks += [] if doc.text else ["a summary"]
        lacks += [] if "Example" in doc.bodies or name in WITHOUT_EXAMPLE else ["Example"]
        lacks += ["Raises"] if "raise " in inspect.getsource(exported) and "Raises" not in doc.entries else []
        if lacks:
            lacking[name] = lacks
    assert not lacking


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.stem != "methods"]


# Less of everything, and the same code.
REDUCED = {"epochs=20": "epochs=8", "epochs=2,": "epochs=1,", "range(2000)": "range(200)"}


@pytest.mark.usefixtures("one_seed")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python\n" in page.read_text()], ids=lambda page: page.stem
)
def test_examples_of_pages_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        for whole, part in REDUCED.items():
            block = block.replace(whole, part)
        try:
            exec(compile(block, page.name, "exec"), {})
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


def _few(task: Splits) -> Splits:
    """A seventh of a task, of all classes."""
    train, test = (part.subset(range(0, len(part), 7)) for part in (task.train, task.test))
    return Splits(task.name, train, test)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("rbm", "cpc-signal") else pytest.mark.slow) for n in _sections()],
)
def test_examples_of_methods_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for one epoch on few items."""
    monkeypatch.chdir(tmp_path)
    example = _sections()[name].replace("epochs=20", "epochs=1").replace('"width": 32', '"width": 8')
    example = example.replace('emoji("train")', 'emoji("train").subset(range(64), "emoji-train")')
    example = example.replace("tones()", "tones(64)").replace("sotu()", "sotu().subset(range(0, 233, 40))")
    example = example.replace('open_splits("spoken-digits")', 'few(open_splits("spoken-digits"))')
    example = example.replace("emoji(), readout", 'emoji().subset(range(256), "emoji"), readout')
    exec(compile(example, name, "exec"), {"few": _few})
    assert list(tmp_path.glob("runs/*/checkpoint/tensors.safetensors"))
