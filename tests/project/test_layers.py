"""Imports point down: in the package by its layers, in the C++ by its folders; and never in a circle."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import fastssl.functional as F
from tests.support import ROOT

# From the lowest. A module imports, when it is loaded, from its own layer and from those before it.
LAYERS = (
    "_version",
    "_table",
    "_docs",
    "_options",
    "_logs",
    "_words",
    "_files",
    "_graph",
    "kernels",
    "ops",
    "augment",
    "distributed",
    "functional",
    "losses",
    "compat",
    "data",
    "models",
    "methods",
    "evaluate",
    "train",
    "bench",
    "report",
    "cli",
)
# What a function may import from above, so that `import fastssl` loads little: attributes of the package.
LATER = {("fastssl", "ops"), ("fastssl", "compat"), ("fastssl", "train"), ("cli", "fastssl")}
LOADED = {"_version", "_docs", "_table"}  # what the package itself imports at once
# The folders of csrc, from the lowest.
FOLDERS = (
    "core",
    "simd",
    "augment",
    "pair",
    "row",
    "words",
    "density",
    "characteristic",
    "wave",
    "elementwise",
    "attention",
    "cuda",
    "operators",
    "bindings",
)
BESIDE = {"_C", "_cuda", "__main__"}  # of no layer


def modules() -> dict[str, Path]:
    found = {}
    for top, name in ((ROOT / "fastssl", "fastssl"), (ROOT / "kernels", "fastssl.kernels")):
        for path in top.rglob("*.py"):
            parts = path.relative_to(top).with_suffix("").parts
            found[".".join((name, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


MODULES = modules()


def imports(tree: ast.AST, later: bool = False) -> Iterator[tuple[str, bool]]:
    """Modules of ours, and whether they are imported by a function or for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, later) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in MODULES else str(node.module)), later
        if isinstance(node, ast.expr):  # has no statements
            continue
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from imports(node, later or inside or types)


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


@functools.cache
def found_imports() -> dict[str, set[tuple[str, bool]]]:
    """What each module imports of ours, and when: all files are read once."""
    return {
        module: {(name, when) for name, when in imports(ast.parse(path.read_text())) if name in MODULES}
        for module, path in MODULES.items()
    }


def edges(later: bool) -> dict[str, set[str]]:
    """What each module imports when it is loaded, or ``later``."""
    return {module: {name for name, when in found if when == later} for module, found in found_imports().items()}


def upward(later: bool) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for module, names in edges(later).items():
        for name in names:
            pair = layer(module), layer(name)
            if pair[0] == pair[1] or set(pair) & BESIDE:
                continue
            root = pair[1] == "fastssl" or (pair[0] == "fastssl" and pair[1] not in LOADED)
            if root or (pair[0] != "fastssl" and LAYERS.index(pair[0]) < LAYERS.index(pair[1])):
                found.setdefault(pair, []).append(f"{module} imports {name}")
    return found


def test_every_folder_has_its_layer() -> None:
    assert {layer(module) for module in MODULES} - BESIDE - {"fastssl"} == set(LAYERS)


def test_modules_import_from_below() -> None:
    assert upward(later=False) == {}


def test_functions_import_from_above_only_what_is_lazy() -> None:
    found = upward(later=True)
    assert {pair: names for pair, names in found.items() if pair not in LATER} == {}
    assert set(found) == LATER  # what is no longer needed goes


def test_no_modules_import_each_other() -> None:
    """When they are loaded; with one module that imports for a function, what it is imported by may be half loaded."""
    graph = edges(later=False)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            pytest.fail(" -> ".join((*path[path.index(module) :], module)))
        if module not in done:
            for name in graph[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_files_of_the_benchmarks_import_in_one_direction() -> None:
    """Functions too: what measures a case does not know who asks for it."""
    graph = {k: v | edges(later=True)[k] for k, v in edges(later=False).items() if layer(k) == "bench"}
    for module, names in graph.items():
        for name in names & set(graph):
            assert module == "fastssl.bench" or module not in graph[name], f"{module} and {name} import each other"


def includes() -> Iterator[tuple[Path, Path]]:
    """Files of csrc, and the file of ours that each of their includes names."""
    root = ROOT / "csrc"
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")):
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M):
            if name == "table.h":  # made from fastssl/_table.py
                continue
            beside, from_root = (path.parent / name).resolve(), (root / name).resolve()
            found = beside if beside.is_file() else from_root
            assert found.is_file(), f"{path}: there is no {name}"
            yield path.relative_to(root), found.relative_to(root)


def test_every_folder_of_csrc_has_its_place() -> None:
    assert {path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()} == set(FOLDERS)


def test_includes_point_down() -> None:
    place = {name: k for k, name in enumerate(FOLDERS)}
    found = list(includes())
    assert len(found) > 50
    assert [f"{a} includes {b}" for a, b in found if place[a.parts[0]] < place[b.parts[0]]] == []


def test_kernels_know_no_python_and_the_module_no_torch() -> None:
    """torch brings headers of pybind11, of which those of 2.10 and 2.11 refuse its stable ABI."""
    files = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu")]
    module = [path for path in files if path.parent.name == "bindings"]
    for path in files:
        foreign = r"#\s*include\s*<torch/" if path in module else r"#\s*include\s*<(pybind11/|Python\.h)"
        assert not re.search(foreign, path.read_text()), path
    assert any("<pybind11/" in path.read_text() for path in module)
    assert any("<torch/" in path.read_text() for path in files)


def test_no_headers_include_each_other() -> None:
    graph: dict[Path, set[Path]] = {}
    for a, b in includes():
        graph.setdefault(a, set()).add(b)

    def visit(file: Path, path: tuple[Path, ...]) -> None:
        assert file not in path, " -> ".join(map(str, (*path, file)))
        for other in graph.get(file, ()):
            visit(other, (*path, file))

    for file in graph:
        visit(file, ())


def test_losses_are_imported_without_the_compiler() -> None:
    """torch._dynamo takes seconds to import."""
    program = """
import sys
import torch
import torch.distributed as dist
import fastssl.functional as F
import fastssl.evaluate, fastssl.losses, fastssl.methods, fastssl.train
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
z = torch.randn(2, 32, 16, requires_grad=True)
torch.autograd.grad(F.nt_xent(2 * z[0], z[1], temperature=0.2, group="world") + z.sum(), z)
assert not {"torch._dynamo", "triton"} & set(sys.modules)
dist.destroy_process_group()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_distributed_loss_of_a_compiled_step_is_one_graph_break() -> None:
    z = torch.randn(2, 32, 16, requires_grad=True)

    def step(z: torch.Tensor) -> torch.Tensor:
        return F.nt_xent(2 * z[0], z[1], temperature=0.2, group="world") + z.sum()

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        (eager,) = torch.autograd.grad(step(z), z)
        (compiled,) = torch.autograd.grad(torch.compile(step, backend="eager")(z), z)
        assert torch.equal(eager, compiled)
        assert torch._dynamo.explain(step)(z).graph_break_count == 1
    finally:
        dist.destroy_process_group()
        torch._dynamo.reset()
