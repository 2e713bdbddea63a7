"""The tutorials run, cell by cell, as the site's build runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastssl
from tests.support import ROOT

TUTORIALS = ROOT / "docs" / "tutorials"
QUICK = {"replace-a-loss", "your-own-loss", "reading-the-benchmark"}
# Less of everything, and the same code.
REDUCED = {
    **{"epochs=15": "epochs=1", "steps=150": "steps=5", "range(512)": "range(96)", "images[:512]": "images[:96]"},
    **{"randn(2048, 128": "randn(512, 128", "range(9)": "range(3)"},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
        for path in sorted(TUTORIALS.glob("*.md"))
        if path.stem != "index"
    ],
)
def test_cells_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = (TUTORIALS / f"{name}.md").read_text()
    cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", text, flags=re.S | re.M)
    assert cells
    scope: dict[str, object] = {"__name__": "__main__"}
    try:
        for cell in cells:
            for whole, part in REDUCED.items():
                cell = cell.replace(whole, part)
            exec(compile(cell, name, "exec"), scope)
    finally:
        fastssl.unpatch()


def test_every_tutorial_is_listed() -> None:
    listed = (TUTORIALS / "index.md").read_text().split()
    assert {path.stem for path in TUTORIALS.glob("*.md")} - {"index"} <= set(listed)
