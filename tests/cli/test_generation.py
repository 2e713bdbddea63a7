"""Generative methods from the command line: pretrain, generate, evaluate, on files."""

from __future__ import annotations

import inspect
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fastssl.cli import app
from fastssl.cli.generation import check_kinds, parse_settings
from fastssl.data import read_wav
from fastssl.methods import load_word_vectors
from fastssl.models import WordVectors


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    return result.output


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, ValueError), (arguments, result.output, result.exception)
    return str(result.exception)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files that the standard library wrote, in 16 and 24 bits and stereo."""
    root = tmp_path_factory.mktemp("speech")
    for k in range(8):
        path = root / ("no" if k % 2 else "yes") / f"{k}.wav"
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            channels, width = 1 + (k % 3 == 0), 2 + (k % 4 == 0)
            file.setparams((channels, width, 8000, 0, "NONE", ""))
            tone = np.repeat(np.sin(np.arange(300) * 0.1 * (1 + k)), channels) * (2 ** (8 * width - 1) - 1)
            file.writeframes(b"".join(int(v).to_bytes(width, "little", signed=True) for v in tone))
    return root


@pytest.mark.parametrize(
    ("given", "wanted"), [("a=1", 1), ("a=true", True), ("a=False", False), ("a=None", None), ("a=row", "row")]
)
def test_values_of_settings(given: str, wanted: object) -> None:
    found = parse_settings([given])["a"]
    assert found == wanted and type(found) is type(wanted)


def some_options(
    size: int = 1, rate: float | None = None, flag: bool = True, name: str = "a", pair: tuple = ()
) -> None:
    pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 2, "rate": 1, "flag": False, "name": "b", "pair": [1, 2]}, None),
        ({"rate": None, "other": object()}, None),
        ({"size": 2.0}, "set: expected an integer as size, got 2.0"),
        ({"size": True}, "set: expected an integer as size, got True"),
        ({"size": None}, "set: expected an integer as size, got None"),
        ({"rate": "fast"}, "set: expected a number or null as rate, got 'fast'"),
        ({"flag": "maybe"}, "set: expected true or false as flag, got 'maybe'"),
        ({"flag": 1}, "set: expected true or false as flag, got 1"),
        ({"name": 3}, "set: expected a name as name, got 3"),
    ],
)
def test_kinds_of_settings(settings: dict[str, object], message: str | None) -> None:
    if message is None:
        check_kinds(inspect.signature(some_options).parameters, settings)
        return
    with pytest.raises(ValueError) as caught:
        check_kinds(inspect.signature(some_options).parameters, settings)
    assert str(caught.value) == message


def test_waveforms(speech: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    settings = ["--width", "8", "--depth", "3", "--set", "window=64", "--set", "skip=8"]
    call("pretrain", "wavenet", "--data", str(speech), "--out", run, "--epochs", "1", "--batch-size", "2", *settings)
    assert "2 waveforms: " in call("generate", run, "--count", "2", "--seconds", "0.01")
    samples, rate = read_wav(f"{run}/samples-2.wav")
    assert (len(samples), rate) == (80, 8000)
    call("evaluate", run, "--out", str(tmp_path / "scores.json"))
    bits = json.loads((tmp_path / "scores.json").read_text())["bits per sample"]
    assert set(bits) == {"pretrained", "linear prediction", "independent", "xz"} and 0 < bits["pretrained"] < 16
    for more in (["--protocol", "layers"], ["--readout", "spatial"], ["--only"]):
        assert "waveforms are evaluated on --data alone" in refused("evaluate", run, *more)
    assert "top_k: wavenet has no such option" in refused("generate", run, "--top-k", "3")
    assert "count: expected an integer >= 1, got 0" in refused("generate", run, "--count", "0")
    assert "set: expected an integer as count, got 'two'" in refused("generate", run, "--set", "count=two")
    assert "seed: expected an integer >= 0, got -1" in refused("generate", run, "--seed", "-1")
    assert "expected an integer as window, got 'wide'" in refused(
        "pretrain", "wavenet", "--data", str(speech), "--out", str(tmp_path / "other"), "--set", "window=wide"
    )


def test_word_vectors(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a rose is a rose\n" * 20)
    run = str(tmp_path / "run")
    options = ["word2vec", "--data", str(tmp_path / "text.txt"), "--out", run, "--set", "dim=4", "--set", "min_count=1"]
    assert "subsample=0 keeps all" in refused("pretrain", *options, "--set", "subsample=1e-12")
    assert "expected true or false as reproducible" in refused("pretrain", *options, "--set", "reproducible=maybe")
    options += ["--set", "subsample=0", "--set", "reproducible=True", "--overwrite"]
    call("pretrain", *options, "--epochs", "1")
    first = load_word_vectors(run)
    assert "word2vec.txt" in call("export", run)
    call("export", run, "--to", "word2vec", "--out", str(tmp_path / "vectors.bin"))
    for path in (f"{run}/word2vec.txt", str(tmp_path / "vectors.bin")):
        read = WordVectors.load(path)
        assert read.words == first.words and np.array_equal(read.vectors, first.vectors)
    assert "to: expected word2vec" in refused("export", run, "--to", "onnx")
    assert "out: expected a file" in refused("export", str(tmp_path / "vectors.bin"))


@pytest.mark.usefixtures("one_seed")
@pytest.mark.parametrize(
    ("name", "settings"),
    [("pixelcnn", ["levels=4"]), ("pixelrnn", ["levels=4", "lstm=row"]), ("igpt", ["colors=4", "heads=2"])],
)
def test_pixels(name: str, settings: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(24):
        path = tmp_path / "dots" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)
    run = str(tmp_path / "run")
    more = [word for one in settings for word in ("--set", one)]
    call(
        *("pretrain", name, "--data", str(tmp_path / "dots"), "--out", run, "--epochs", "1", "--batch-size", "4"),
        *("--size", "4", "--width", "6", "--blocks", "1", "--channels", "3", *more),
    )
    assert "3 images: " in call("generate", run, "--count", "3")
    assert Image.open(f"{run}/samples.png").size[0] >= 4
    call("evaluate", run, "--out", str(tmp_path / "scores.json"))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["nats (exact)"]["pretrained"] > 0
    assert "seconds: " in refused("generate", run, "--seconds", "1")
