"""``fastssl pretrain --resume``: what is not given is what the checkpoint was made with, whatever recipes say today."""

from __future__ import annotations

import os
import re
import signal
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fastssl.augment import Augment, RandomResizedCrop, RandomVerticalFlip, Views
from fastssl.cli import app
from fastssl.methods import DINO, SimCLR, VICReg, Word2Vec
from fastssl.models import build_encoder
from fastssl.train import Pretraining, load_checkpoint, load_method, pretrain, recipe
from tests.support.language import corpus

runner = CliRunner()
# Of an uninterrupted run and its first part alike: the same learning rate in both.
STEADY = ["--schedule", "constant", "--warmup-epochs", "0", "--seed", "7", "--precision", "32-true"]
IMAGES = ["--batch-size", "16", "--size", "12", "--width", "4", "--lr", "0.003", *STEADY]
TEXTS = ["--network", "transformer", "--tokenizer", "bpe", "--vocabulary", "300", "--held-out", "0.2", "--width", "16"]
TEXTS += ["--depth", "1", "--heads", "2", "--length", "32", "--batch-size", "16", *STEADY]
SOUNDS = ["--batch-size", "2", "--set", "window=2000", "--width", "4", "--depth", "3", *STEADY]


def call(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, ["pretrain", *map(str, arguments)])
    assert result.exit_code == code or (code and result.exception), result.output + str(result.exception)
    return result.output if code == 0 else str(result.exception)


def same(one: Path, two: Path) -> bool:
    a, b = load_checkpoint(one)[0], load_checkpoint(two)[0]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def other_recipes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Doubles all numbers of all recipes."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(one) for key, one in value.items()}
        if isinstance(value, list):
            return [changed(one) for one in value]
        return value if isinstance(value, (bool, str)) else value * 2

    def change() -> None:
        given = recipe.__globals__
        read = given["_read"]
        monkeypatch.setitem(given, "_read", lambda name: changed(read(name)))

    return change


def pictures(folder: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    np.save(folder / "pictures.npy", images)
    return folder / "pictures.npy"


def speech(folder: Path) -> Path:
    draws = np.random.default_rng(0)
    for k in range(6):
        with wave.open(str(folder / f"{k}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(draws.integers(-3000, 3000, 4000).astype("<i2").tobytes())
    return folder


def texts(folder: Path) -> Path:
    given = corpus(30)
    (folder / "texts.txt").write_text("\n\n".join(given.text(k) for k in range(len(given))))
    return folder / "texts.txt"


@pytest.mark.parametrize(
    ("method", "data", "options"),
    [
        ("simclr", pictures, [*IMAGES, "--temperature", "0.3", "--no-spatial"]),
        ("vicreg", pictures, [*IMAGES, "--encoder", "vit", "--channels", "1", "--accumulate", "2"]),
        ("rbm", pictures, ["--batch-size", "16", "--size", "6", "--set", "persistent=4", *STEADY, "--width", "8"]),
        ("gpt", texts, TEXTS),
        ("wavenet", speech, SOUNDS),
    ],
)
def test_options_left_out_are_those_of_the_run(
    method: str,
    data: Callable[[Path], Path],
    options: list[str],
    tmp_path: Path,
    other_recipes: Callable[[], None],
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    first = [method, *options, "--data", data(folder)]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    call(*first, "--epochs", "2", "--out", whole)
    call(*first, "--epochs", "1", "--out", parts)
    rate = recipe(method, 0).options["lr"]
    other_recipes()
    assert recipe(method, 0).options["lr"] == 2 * rate
    said = call(method, "--out", parts, "--epochs", "2", "--resume")
    assert f"recipe of {parts}" in said and same(whole, parts)
    call(method, "--out", parts, "--resume")  # all of its epochs, not those of a recipe
    call(*first, "--epochs", "2", "--out", parts, "--resume")  # the same command as before
    assert same(whole, parts) and load_checkpoint(parts)[1]["options"]["epochs"] == 2


def test_words(tmp_path: Path) -> None:
    file, out = texts(tmp_path), tmp_path / "run"
    options: dict[str, Any] = {"dim": 12, "min_count": 2, "epochs": 3, "seed": 3, "lr": 0.05}
    wanted = Word2Vec(**options).fit(file)

    def stop(progress: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Word2Vec(**options).fit(file, out=out, on_step=stop)
    assert load_checkpoint(out)[1]["epoch"] < 3
    call("word2vec", "--out", out, "--resume")
    vectors = load_checkpoint(out)[0]["inputs"]
    assert torch.equal(vectors, wanted.vectors)
    message = call("word2vec", "--out", out, "--resume", "--set", "dim=13", code=2)
    assert message == "dim: the checkpoint was made with 12, got 13; resume with the same"


@pytest.mark.parametrize("method", ["simclr", "bert", "wavenet", "word2vec"])
def test_no_run_to_resume(method: str, tmp_path: Path) -> None:
    message = call(method, "--out", tmp_path / "none", "--resume", code=2)  # not a run on other data, by default
    assert message.startswith("out: no run to resume in") and "--data" in message
    assert not (tmp_path / "none").exists()


def test_by_name_in_python(tmp_path: Path, other_recipes: Callable[[], None]) -> None:
    data = pictures(tmp_path)

    def run(out: str, **more: Any) -> Any:
        settings = Pretraining(epochs=2, batch_size=16, seed=5)
        given = {"size": 12, "encoder": "vit", "method_options": {"momentum": 0.9}}
        return pretrain("moco", data, settings, out=tmp_path / out, **given, **more)

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", on_step=stop)
    other_recipes()
    pretrain("moco", data, out=tmp_path / "parts", resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")
    for given, message in (
        ({"size": 16}, "size: the checkpoint was made with 12, got 16"),
        ({"encoder": "resnet"}, "name: the checkpoint was made with 'vit', got 'resnet'"),
        ({"channels": 1}, "channels: the checkpoint was made with 3, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain("moco", data, out=tmp_path / "parts", resume=True, **given)


def test_the_options_of_an_object(tmp_path: Path) -> None:
    data, encoder = pictures(tmp_path), {"name": "resnet", "size": 12, "width": 4}

    def run(out: str, options: Pretraining | None, **more: Any) -> Any:
        torch.manual_seed(0)
        return pretrain(VICReg(build_encoder(encoder)), data, options, out=tmp_path / out, **more)

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    options = Pretraining(epochs=2, batch_size=16, seed=5, optimizer="sgd", lr=0.01)
    run("whole", options)
    with pytest.raises(KeyboardInterrupt):
        run("parts", options, on_step=stop)
    run("parts", None, resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(ValueError, match="method: the checkpoint was made with 'vicreg', got 'simclr'"):
        pretrain(SimCLR(build_encoder(encoder)), data, out=tmp_path / "parts", resume=True)


def test_a_module_of_the_users_own(tmp_path: Path, other_recipes: Callable[[], None]) -> None:
    def run(out: str, options: Pretraining | None, **more: Any) -> Any:
        torch.manual_seed(0)
        network = torch.nn.Conv2d(3, 8, 3, 2)
        return pretrain("vicreg", data, options, out=tmp_path / out, encoder=network, size=12, **more)

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    data, options = pictures(tmp_path), Pretraining(epochs=2, batch_size=16, seed=5)
    run("whole", options)
    with pytest.raises(KeyboardInterrupt):
        run("parts", options, on_step=stop)
    other_recipes()
    run("parts", None, resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")
    message = "encoder: the checkpoint was made with a module; resume it in Python, with the same encoder="
    assert call("vicreg", "--out", tmp_path / "parts", "--resume", code=2) == message


def test_options_that_contradict_the_checkpoint_name_both_values(tmp_path: Path) -> None:
    images, language = tmp_path / "images", tmp_path / "language"
    call("simclr", *IMAGES, "--data", pictures(tmp_path), "--epochs", "1", "--out", images)
    call("gpt", *TEXTS, "--data", texts(tmp_path), "--epochs", "1", "--out", language)
    for method, out, option, before, now in (
        ("simclr", images, "--lr", 0.003, 0.5),
        ("simclr", images, "--batch-size", 16, 8),
        ("simclr", images, "--seed", 7, 0),
        ("simclr", images, "--accumulate", 1, 2),
        ("simclr", images, "--precision", "'32-true'", "bf16-mixed"),
        ("simclr", images, "--optimizer", "'adamw'", "sgd"),
        ("simclr", images, "--width", 4, 8),
        ("simclr", images, "--encoder", "'resnet'", "vit"),
        ("simclr", images, "--channels", 3, 1),
        ("simclr", images, "--size", 12, 32),
        ("simclr", images, "--minutes", None, 3.0),
        ("simclr", images, "--data", "pictures of 40 items", "digits"),
        ("byol", images, "--dry-run", "'simclr'", "byol"),
        ("gpt", language, "--depth", 1, 3),
        ("gpt", language, "--network", "'transformer'", "gpt2"),
        ("gpt", language, "--held-out", "tokens [0, ", 0.5),
        ("gpt", language, "--vocabulary", 300, 299),
        ("gpt", language, "--vocabulary", 300, 301),
    ):
        given = [option] if option == "--dry-run" else [option, now]
        message = call(method, "--out", out, *given, "--resume", code=2)
        assert str(before) in message and (str(now) in message or option == "--held-out"), message
    message = call("simclr", "--out", images, "--recipe", "paper", "--resume", code=2)
    assert message == "size: the checkpoint was made with 12, got 224; resume with the same"
    message = call("simclr", "--out", images, "--recipe", "paper", "--size", "12", "--resume", code=2)
    assert "{'spatial': True, 'temperature': 0.1}, got {'spatial': False, " in message
    for more in (["--workers", "1"], ["--on-error", "skip"], ["--strategy", "ddp"]):
        call("simclr", "--out", images, "--resume", *more)


def test_the_length_of_a_run_by_minutes_is_kept(tmp_path: Path) -> None:
    call("simclr", *IMAGES, "--data", pictures(tmp_path), "--minutes", "0.01", "--out", tmp_path)
    epochs = load_checkpoint(tmp_path)[1]["epochs"]
    call("simclr", "--out", tmp_path, "--resume")
    assert load_checkpoint(tmp_path)[1]["epochs"] == epochs
    message = call("simclr", "--out", tmp_path, "--resume", "--epochs", "50", code=2)
    assert message == "minutes: the checkpoint was made with 0.01, got None; resume with the same"


@pytest.mark.parametrize("given", (300, 2000))
def test_the_vocabulary_of_a_run_is_that_which_was_asked_for(given: int, tmp_path: Path) -> None:
    """Texts of few words have fewer tokens than were asked for."""
    pytest.importorskip("tokenizers")
    asked = ["--vocabulary", str(given)]
    shape = ["--network", "transformer", "--tokenizer", "bpe", "--width", "16", "--depth", "1", "--heads", "2"]
    call("gpt", *shape, *asked, "--length", "16", "--data", texts(tmp_path), "--epochs", "1", "--out", tmp_path / "run")
    state = load_checkpoint(tmp_path / "run")[1]
    assert state["vocabulary"] == given and (state["encoder"]["vocabulary"] < given) == (given == 2000)
    again = ["gpt", "--out", tmp_path / "run", "--resume"]
    for _ in range(2):  # the resumed run has recorded it, too
        call(*again)
        call(*again, *asked)
    message = call(*again, "--vocabulary", "2001", code=2)
    assert message == f"vocabulary: the checkpoint was made with {given}, got 2001; resume with the same"
    with pytest.raises(ValueError, match=f"vocabulary: the checkpoint was made with {given}, got 2001"):
        pretrain("gpt", texts(tmp_path), out=tmp_path / "run", resume=True, encoder={"vocabulary": 2001})


def test_views_of_a_file_are_resumed_without_it(tmp_path: Path) -> None:
    file = tmp_path / "views.py"
    file.write_text(
        "from fastssl.augment import Augment, GaussianBlur, Normalize, RandomResizedCrop, RandomVerticalFlip\n"
        "steps = [RandomResizedCrop(12, scale=[0.5, 1.0]), RandomVerticalFlip(), GaussianBlur(3, p=0.5), Normalize()]\n"
        "transform = Augment(steps)\n"
    )
    whole, parts, own = tmp_path / "whole", tmp_path / "parts", tmp_path / "own"
    given = ["simclr", "--data", pictures(tmp_path), *IMAGES]
    call(*given, "--augment", file, "--epochs", "2", "--out", whole)
    call(*given, "--augment", file, "--epochs", "1", "--out", parts)
    call(*given, "--epochs", "2", "--out", own)
    assert not same(whole, own)
    wrong = call("simclr", "--resume", "--epochs", "2", "--augment", "byol", "--out", parts, code=1)
    assert "augment: the checkpoint was made with other views" in wrong
    file.unlink()
    call("simclr", "--resume", "--epochs", "2", "--out", parts)
    assert same(whole, parts)
    program = load_method(parts).augment.programs[1]
    assert "RandomVerticalFlip()" in repr(program)
    assert "Normalize(0.5, 0.5)" in repr(program)  # the method's: evaluation makes images of it
    assert "RandomHorizontalFlip" not in repr(program)


def test_views_that_a_method_does_not_take(tmp_path: Path) -> None:
    wrong = call("simclr", "--data", "digits", "--augment", "dino", *IMAGES, "--out", tmp_path / "a", code=1)
    assert re.search(r"augment: SimCLR takes views of \[\(12, 12\), \(12, 12\)\] pixels, got \[\(12", wrong)
    wrong = call("jigsaw", "--data", "digits", "--augment", "byol", *IMAGES, "--out", tmp_path / "b", code=1)
    assert "Jigsaw makes its views by rules of its own" in wrong
    wrong = call("gpt", "--data", "sotu", "--augment", "byol", "--out", tmp_path / "c", code=1)
    assert "augment: gpt takes texts" in wrong


def test_views_by_the_name_of_a_method(tmp_path: Path) -> None:
    data, out, encoder = pictures(tmp_path), tmp_path / "run", {"name": "resnet", "size": 12, "width": 4}
    options = Pretraining(epochs=1, batch_size=16)
    views = Augment([RandomResizedCrop(12), RandomVerticalFlip()])
    method: Any = pretrain("barlow-twins", data, options, out=out, encoder=encoder, augment=views)
    assert [len(program.operations) for program in method.augment.programs] == [2, 2]
    options = Pretraining(epochs=2, batch_size=16)
    again: Any = pretrain("barlow-twins", data, options, out=out, encoder=encoder, resume=True)
    assert repr(again.augment) == repr(method.augment)
    crops = [RandomResizedCrop(12), RandomResizedCrop(12), *[RandomResizedCrop(8)] * 3]
    dino: Any = DINO(build_encoder({**encoder, "name": "vit", "patch": 4}))
    dino.replace_views(Views([Augment([crop]) for crop in crops]))
    assert [program.size[0] for program in dino.augment.programs] == [12, 12, 8, 8, 8]
    dino.replace_views(views)
    assert [program.size[0] for program in dino.augment.programs] == [12, 12]
    with pytest.raises(ValueError, match="pixels and further ones of any, got"):
        dino.replace_views(Views([Augment([crop]) for crop in crops[1:]]))
    with pytest.raises(TypeError, match="augment: expected None"):
        pretrain(dino, data, options, out=tmp_path / "dino", augment=views)
