"""Every row of the table of docs/migrate.md runs, on both sides, and gives the same numbers."""

from __future__ import annotations

import copy
import importlib
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
import fastssl.functional as F
from tests.support import ROOT
from tests.support.peers import lightly, package

GUIDE = ROOT / "docs" / "migrate.md"
LIBRARIES = ("pytorch_metric_learning", "lightly", "open_clip", "sentence_transformers", "faiss")


def _rows() -> list[tuple[str, str]]:
    """The first piece of code of both cells of every row of the table of calls."""
    table = GUIDE.read_text().split("| before | after |")[1].split("\n\n")[0]
    cells = [re.findall(r"`([^`]+)`", cell) for line in table.splitlines()[2:] for cell in line.strip("|").split(" | ")]
    return [(before[0], after[0]) for before, after in zip(cells[::2], cells[1::2], strict=True)]


def _run(code: str, names: dict[str, Any]) -> Any:
    *first, last = code.split("; ")
    exec("; ".join(first), names)
    return eval(last, names)


def _import(code: str, names: dict[str, Any]) -> None:
    for library in LIBRARIES:
        if not code.startswith(library) and f" {library}." not in code:
            continue
        if library == "lightly":
            lightly()
        elif library == "open_clip":
            package(library)
        names[library] = pytest.importorskip(library)
        for part in re.findall(rf"{library}\.(\w+)\.", code):
            importlib.import_module(f"{library}.{part}")


def _tensors(result: Any) -> list[Tensor]:
    return [torch.as_tensor(t) for t in result] if isinstance(result, tuple) else [result]


@pytest.mark.parametrize(("before", "after"), _rows(), ids=[before[:60] for before, _ in _rows()])
@pytest.mark.parametrize("alone", [0, 3])
def test_a_row_of_the_guide(before: str, after: str, alone: int) -> None:
    """``alone``: rows without positives."""
    g = torch.Generator().manual_seed(0)

    def rows(n: int = 32) -> Tensor:
        return torch.randn(n, 16, generator=g)

    names: dict[str, Any] = {"torch": torch, "fastssl": fastssl, "F": F, "labels": torch.arange(32) % 8}
    names["labels"][:alone] = torch.arange(90, 90 + alone)
    names |= {name: rows().requires_grad_() for name in ("embeddings", "z0", "z1")}
    names |= {name: torch.nn.functional.normalize(rows(), dim=1) for name in ("image", "text")}
    names |= {"x": rows(), "y": rows(50), "hidden": rows(), "weight": rows(40), "targets": torch.arange(32)}
    names |= {"scale": torch.tensor(10.0), "bias": torch.tensor(-5.0)}
    features = [{"sentence_embedding": rows()} for _ in range(2)]
    names |= {"sentence_features": features, "model": torch.nn.Identity()}
    _import(before, names)
    torch.manual_seed(0)
    theirs = _run(before, names)
    if "memory_bank" in after:  # of the call before: it has taken in this batch since
        torch.manual_seed(0)
        exec(before.split("; ")[0], names)
        names["theirs"] = copy.deepcopy(names["theirs"])
    ours = _run(after, names)
    for a, b in zip(_tensors(theirs), _tensors(ours), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_the_guide_has_rows_of_every_library() -> None:
    text = " ".join(before for before, _ in _rows())
    assert len(_rows()) >= 15 and all(library in text for library in LIBRARIES)
