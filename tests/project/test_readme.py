"""What README and docs/pretraining.md tell a newcomer to type, typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastssl.cli import app
from tests.support import ROOT

TEXT = "\n".join((ROOT / page).read_text() for page in ("README.md", "docs/pretraining.md"))
BLOCKS = [text for language, text in re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.S | re.M) if not language]
# Less of everything: the network, the images and the batches are small.
CHEAP = {"resnet18": ["resnet", "--width", "4"], "224": ["32"], "256": ["8"]}


@pytest.mark.usefixtures("one_seed")
def test_a_folder_of_photographs_becomes_features_in_plain_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for k in range(16):
        path = tmp_path / "photos" / ("cats" if k % 2 else "dogs") / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    block = next(b for b in BLOCKS if b.startswith("fastssl data photos/"))
    lines = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert [line[0] for line in lines] == ["data", "pretrain", "evaluate", "embed", "export"]
    for line in lines:
        typed = [word for part in line for word in CHEAP.get(part, [part])]
        result = CliRunner().invoke(app, typed + ["--epochs", "1"] * (line[0] == "pretrain"))
        assert result.exit_code == 0, (typed, result.output, result.exception)
    python = next(b for b in BLOCKS if b.startswith("import torch  # and nothing else"))
    assert "fastssl" not in python.replace("encoder.pt2", "")
    scope: dict[str, Any] = {"images": torch.zeros(2, 3, 32, 32)}
    exec(python, scope)
    with np.load("features.npz") as kept:
        assert kept["features"].shape == (16, 16) and scope["features"].shape == (2, 16)
        assert sorted(kept["labels"].tolist()) == [0] * 8 + [1] * 8
