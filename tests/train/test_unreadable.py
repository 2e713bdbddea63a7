"""Unreadable images and damaged checkpoints: passed over where that was asked for, named otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastssl.data import digits
from fastssl.train import Pretraining, load_checkpoint, pretrain

ENCODER = {"name": "resnet", "size": 16, "width": 4}


def _folder(root: Path, broken: list[int], count: int = 20) -> Path:
    r = np.random.default_rng(0)
    for k in range(count):
        path = root / "photos" / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if k in broken:
            path.write_bytes(b"")
        else:
            Image.fromarray(r.integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(path)
    return root


@pytest.mark.parametrize(
    ("method", "broken"), [*(("simclr", broken) for broken in ([0], [1], [0, 1, 2], [19])), ("igpt", [0])], ids=str
)
def test_unreadable_images_are_skipped_wherever_they_are(method: str, broken: list[int], tmp_path: Path) -> None:
    data, encoder = _folder(tmp_path / "data", broken), ENCODER
    if method == "igpt":  # whose palette is fitted to them
        encoder = {"name": "igpt", "size": 4, "colors": 8, "width": 8, "blocks": 1, "heads": 2}
    options = Pretraining(epochs=1, batch_size=8, on_error="skip")
    pretrain(method, str(data), options, out=tmp_path / "run", encoder=encoder)
    assert load_checkpoint(tmp_path / "run")[1]["method"] == method
    with pytest.raises(Exception, match=f"{broken[0]:02}.png"):
        pretrain(method, str(data), Pretraining(epochs=1, batch_size=8), out=tmp_path / "other", encoder=encoder)


def test_no_readable_image(tmp_path: Path) -> None:
    data = _folder(tmp_path / "data", [*range(8)], 8)
    with pytest.raises(ValueError, match="none of the 8 items"):
        options = Pretraining(epochs=1, batch_size=8, on_error="skip")
        pretrain("simclr", str(data), options, out=tmp_path / "run", encoder=ENCODER)


@pytest.mark.parametrize(("file", "left"), [("tensors.safetensors", 100), ("state.json", 1)])
def test_damaged_checkpoints_are_named(file: str, left: int, tmp_path: Path) -> None:
    options = Pretraining(epochs=1, batch_size=8)
    pretrain("simclr", digits().subset(range(16)), options, out=tmp_path / "run", encoder=ENCODER)
    path = tmp_path / "run" / "checkpoint" / file
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=f"{file} is damaged or cut off"):
        load_checkpoint(tmp_path / "run")
    path.unlink()
    with pytest.raises(ValueError, match="^checkpoint: expected a run .* with state.json and tensors.safetensors"):
        pretrain("simclr", digits().subset(range(16)), out=tmp_path / "run", resume=True)  # no new run in its place
