"""Pages of the API reference: every name in ``__all__`` of every public package has one."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

PACKAGES = (
    "fastssl",
    "fastssl.functional",
    "fastssl.losses",
    "fastssl.augment",
    "fastssl.data",
    "fastssl.methods",
    "fastssl.models",
    "fastssl.train",
    "fastssl.evaluate",
    "fastssl.distributed",
    "fastssl.compat",
)


def summary(thing: Any) -> str:
    """The first sentence of a docstring, without the full stop."""
    return inspect.getdoc(thing).partition("\n\n")[0].replace("\n", " ").rstrip(".")


def title(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}\n"


def groups(package: Any, seen: dict[int, str]) -> dict[str, list[str]]:
    """Public functions and classes by the heading of the file that defines them, largest file first."""
    found: dict[str, list[str]] = {}
    for name in sorted(package.__all__, key=str.lower):
        thing = getattr(package, name)
        if callable(thing) and id(thing) not in seen:
            found.setdefault(summary(sys.modules[thing.__module__]), []).append(name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def constant(name: str, value: Any) -> str:
    """A constant by its keys, or its value."""
    text = "Keys: " + ", ".join(f"``{key}``" for key in value) + "." if isinstance(value, dict) else f"``{value!r}``"
    return f".. py:data:: {name}\n\n   {text}\n"


def page(name: str, seen: dict[int, str]) -> str:
    """The page of a package. ``seen``: pages of objects so far by their ids; each has one, under its first package."""
    package = importlib.import_module(name)
    blocks = [title(name), inspect.getdoc(package) or "", f".. currentmodule:: {name}\n"]
    for heading, names in groups(package, seen).items():
        table = [".. autosummary::", "   :toctree: generated", "   :nosignatures:", "", *(f"   {n}" for n in names)]
        blocks += [title(heading, "-"), "\n".join(table) + "\n"]
    public = {n: getattr(package, n) for n in sorted(package.__all__, key=str.lower) if not n.startswith("__")}
    if elsewhere := [seen[id(thing)] for thing in public.values() if id(thing) in seen]:
        blocks += [title("Also under this name", "-"), ", ".join(f":py:obj:`{path}`" for path in elsewhere) + "."]
    if constants := {n: value for n, value in public.items() if not callable(value)}:
        blocks += [title("Constants", "-"), *(constant(n, value) for n, value in constants.items())]
    seen.update({id(thing): f"{name}.{n}" for n, thing in public.items() if callable(thing) and id(thing) not in seen})
    return "\n\n".join(blocks)


def write(folder: Path) -> None:
    """Files that have not changed keep their time, so that the next build reads only what is new."""
    folder.mkdir(exist_ok=True)
    seen: dict[int, str] = {}
    pages = {name: page(name, seen) for name in PACKAGES}
    pages["index"] = "\n".join(
        [title("API reference"), ".. toctree::", "   :maxdepth: 1", "", *(f"   {n}" for n in PACKAGES), ""]
    )
    for path in folder.glob("generated/*.rst"):  # of names that are gone
        if path.stem not in seen.values():
            path.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def check(app: Sphinx, environment: Any) -> None:
    """An undocumented public name is an error."""
    known = {name for name, *_ in environment.get_domain("py").get_objects()}
    packages = {name: importlib.import_module(name) for name in PACKAGES}
    public = [(f"{name}.{n}", getattr(package, n)) for name, package in packages.items() for n in package.__all__]
    paged = {id(thing) for path, thing in public if path in known}
    missing = [path for path, thing in public if id(thing) not in paged and not path.endswith("__")]
    if missing:
        raise ExtensionError(f"names of __all__ without a page: {', '.join(missing)}")


def setup(app: Sphinx) -> dict[str, bool]:
    write(Path(app.srcdir) / "api")
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
