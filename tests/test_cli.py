"""The command line, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fastssl
from fastssl.cli import app

runner = CliRunner()


def test_info_says_what_is_usable_and_why() -> None:
    text = runner.invoke(app, ["info"]).stdout
    for needed in (fastssl.__version__, "instruction set", "memory budget", "reference", "triton", "no GPU"):
        assert needed in text
    assert json.loads(runner.invoke(app, ["info", "--json"]).stdout) == fastssl.info()


def test_pretrain_resume_evaluate(tmp_path: Path) -> None:
    base = ["pretrain", "simclr", "--data", "digits", "--width", "4", "--batch-size", "512", "--out", str(tmp_path)]
    result = runner.invoke(app, [*base, "--epochs", "1"])
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, [*base, "--epochs", "1", "--resume"])
    assert result.exit_code == 0, result.output
    table = tmp_path / "table.json"
    result = runner.invoke(app, ["evaluate", str(tmp_path), "--out", str(table)])
    assert result.exit_code == 0 and "digits_one_label" in result.stdout, result.output
    assert set(json.loads(table.read_text())["digits_one_label"]) == {"pretrained", "random", "pixels"}


def test_folders_of_images_are_data(tmp_path: Path) -> None:
    from PIL import Image

    from fastssl.data import emoji

    data = emoji()
    for index in range(40):
        path = tmp_path / "images" / data.classes[data.labels[index * 40]] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[index * 40, 0]).save(path)
    out = tmp_path / "run"
    arguments = [
        "pretrain",
        "simclr",
        "--data",
        str(tmp_path / "images"),
        "--epochs",
        "2",
        "--batch-size",
        "20",
        "--width",
        "4",
    ]
    result = runner.invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, ["evaluate", str(out), "--data", str(tmp_path / "images")])
    assert result.exit_code == 0 and "knn" in result.stdout, result.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["pretrain", "byol"], "method"),
        (["pretrain", "simclr", "--data", "imagenet"], "imagenet"),
        (["evaluate", "/nonexistent"], "nonexistent"),
        (["pretrain", "simclr", "--epochs", "0"], "epochs"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], text: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "fastssl", *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "error:" in done.stdout and text in done.stdout and "Traceback" not in done.stderr


@pytest.mark.slow
def test_demo_leaves_a_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = [
        "demo",
        "--out",
        str(tmp_path),
        "--emoji-minutes",
        "0.1",
        "--digits-minutes",
        "0.05",
        "--bench-minutes",
        "0.05",
    ]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    for measure in ("knn", "linear", "retrieval", "digits_one_label"):
        assert all(0 <= report[measure][row] <= 100 for row in ("pretrained", "random", "pixels"))
    assert {"rows", "ratio", "extra_mib"} <= set(report["benchmark"]["nt_xent"])
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image") > 50 and "http://" not in page.replace("http://www.w3.org", "")
