"""The data of a run when it is evaluated, embedded or resumed: its range of values, and whether it has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import fastssl.data
from fastssl.cli import app
from fastssl.cli.evaluation import ranges_as_trained
from fastssl.evaluate import read_features
from fastssl.models.folder import load_state

runner = CliRunner()


def _scans(folder: Path, count: int = 16) -> Path:
    draws = np.random.default_rng(0)
    for k in range(count):
        path = folder / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 4096, (16, 16), dtype=np.uint16)).save(path)
    return folder


def _pretrained(data: str, out: Path, *more: str) -> str:
    small = ("--size", "16", "--width", "4", "--batch-size", "8", "--epochs", "1", "--precision", "32-true")
    result = runner.invoke(app, ["pretrain", "simclr", "--data", data, "--out", str(out), *small, *more])
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    return result.output


def _embedded(run: Path, out: Path, *data: str) -> tuple[np.ndarray, str]:
    result = runner.invoke(app, ["embed", str(run), *data, "--out", str(out)])
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    return read_features(out).features.numpy(), " ".join(result.output.split())


def test_a_run_reads_other_data_with_its_range(tmp_path: Path) -> None:
    scans, run = _scans(tmp_path / "scans"), tmp_path / "run"
    output = _pretrained(f"{scans}#range=0,4095", run)
    assert "values from 0 to 4,095" in " ".join(output.split())
    state = load_state(run)
    assert state["source"]["value_range"] == [0, 4095] and state["source"]["where"] == f"{scans}#range=0,4095"
    own, said = _embedded(run, tmp_path / "own.npz")
    assert "has changed" not in said
    copied = _scans(tmp_path / "copied")
    assert np.array_equal(_embedded(run, tmp_path / "other.npz", "--data", str(copied))[0], own)
    assert not np.array_equal(_embedded(run, tmp_path / "deep.npz", "--data", f"{copied}#range=0,65535")[0], own)
    with ranges_as_trained([state]):
        assert fastssl.data.open(copied).value_range == (0, 4095)
        assert fastssl.data.open("digits").value_range is None
    with pytest.raises(ValueError, match="expected one range of values"), ranges_as_trained([state, {"source": {}}]):
        pass

    result = runner.invoke(app, ["pretrain", "simclr", "--out", str(run), "--resume", "--epochs", "2"])
    assert result.exit_code == 0, result.output
    other = ["pretrain", "simclr", "--out", str(run), "--resume", "--data", f"{scans}#range=0,4000"]
    assert "resume with the same data" in str(runner.invoke(app, other).exception)


@pytest.mark.parametrize("method", ("simclr", "pixelcnn"))
def test_data_that_has_changed_is_named(tmp_path: Path, method: str) -> None:
    """Also of a method that trains on the training split alone."""
    scans, run = _scans(tmp_path / "scans"), tmp_path / "run"
    small = ["--size", "8", "--width", "8", "--batch-size", "4", "--epochs", "1"]
    result = runner.invoke(app, ["pretrain", method, "--data", str(scans), "--out", str(run), *small])
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    count = load_state(run)["source"]["items"]
    assert "has changed" not in _embedded(run, tmp_path / "a.npz")[1]
    (scans / "a" / "0.png").rename(scans / "a" / "zero.png")
    said = _embedded(run, tmp_path / "b.npz")[1]
    assert said.count("has changed since the run was trained") == 1
    assert f"of {count} items names or labels differ" in said
    (scans / "b" / "3.png").unlink()
    (scans / "b" / "5.png").unlink()
    result = runner.invoke(app, ["evaluate", str(run), "--only"])
    said = " ".join(result.output.split())
    assert said.count(f"{count} items then, {14 if count == 16 else 11} now") == 1, said
    assert "has changed" not in _embedded(run, tmp_path / "c.npz", "--data", str(scans))[1]
