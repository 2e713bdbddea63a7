"""Pages that live above docs/ (contributing, changelog) become pages of the site; links to them lead there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
PAGES = {"CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog", "benchmarks/README.md": "measuring"}
PAGES |= {f"fastssl/data/{kind}/LICENSES.md": f"licences-{kind}" for kind in ("emoji", "text")}


def target(path: Path, start: Path) -> str | None:
    """A link of a page in docs/ to ``path``, if that is a page of the site."""
    up = "../" * len(start.relative_to(ROOT / "docs").parts)
    for source, name in PAGES.items():
        if path == ROOT / source:
            return f"{up}{name}.md"
    if path == ROOT / "README.md":
        return f"{up}index.md"
    if path.is_relative_to(ROOT / "docs") and path.is_dir():
        return f"{up}{path.relative_to(ROOT / 'docs')}/index.md"
    if path.is_relative_to(ROOT / "docs"):
        return f"{up}{path.relative_to(ROOT / 'docs')}"
    return None


def relink(text: str, folder: Path, start: Path) -> str:
    """Relative links of a text that stands in ``folder``, for a page of the site in ``start``."""

    def link(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        found = (folder / path).resolve()
        return f"]({target(found, start) or os.path.relpath(found, start)}{anchor})" if found.exists() else match[0]

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)", link, text)


def read(app: Sphinx, name: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(name))
    copied = next((ROOT / p for p, n in PAGES.items() if n == name), None)
    if copied is not None:
        source[0] = relink(copied.read_text(), copied.parent, ROOT / "docs")
    elif path.suffix == ".md":
        source[0] = relink(source[0], path.parent, path.parent)


def setup(app: Sphinx) -> dict[str, bool]:
    for name in PAGES.values():  # a file that the text above takes the place of
        page = Path(app.srcdir) / f"{name}.md"
        if not page.exists():
            page.write_text("")
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
