"""The command line, as a user types it."""

from __future__ import annotations

import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fastssl
import fastssl.train
from fastssl.augment import (
    Augment,
    AutoAugment,
    CenterCrop,
    RandomAffine,
    RandomPerspective,
    RandomRotation,
    RandomSolarize,
)
from fastssl.cli import app, main, show
from fastssl.cli.preview import describe
from tests.support.processes import rendezvous

runner = CliRunner()


def test_info_says_what_is_usable_and_why() -> None:
    text = runner.invoke(app, ["info"]).stdout
    for needed in (fastssl.__version__, "instruction set", "memory budget", "reference", "triton"):
        assert needed in text
    assert torch.cuda.is_available() or "no GPU" in text
    assert json.loads(runner.invoke(app, ["info", "--json"]).stdout) == fastssl.info()


@pytest.mark.usefixtures("one_seed")
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


def test_settings_that_a_method_hands_on() -> None:
    for method, setting in (
        ("siglip", "outputs=16"),
        ("siglip", "length=100"),
        ("moco-v3", "hidden=8"),
        ("sup-con", "outputs=8"),
    ):
        from fastssl.cli.recipes import method_settings

        key, _, value = setting.partition("=")
        assert method_settings(method, None, [setting]) == ({key: int(value)}, {})
    result = runner.invoke(app, ["pretrain", "siglip", "--set", "args=3"])
    assert "expected NAME=VALUE with a name of bias, scale, text, length, " in str(result.exception)
    result = runner.invoke(app, ["pretrain", "clip", "--length", "100"])
    assert "clip takes images, it has no such option; --set length=100" in str(result.exception)


@pytest.mark.usefixtures("one_seed")
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
        (["pretrain", "byoll"], "method"),
        (["pretrain", "simclr", "--data", "imagenet"], "imagenet"),
        (["evaluate", "/nonexistent"], "nonexistent"),
        (["pretrain", "simclr", "--epochs", "0"], "epochs"),
        (
            ["pretrain", "rbm", "--data", "digits", "--optimizer", "muon"],
            "is a learning rate of sgd; give --lr for muon",
        ),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["fastssl", *arguments])
        main()
    output = "".join(capsys.readouterr())
    assert ended.value.code == 2 and "error:" in output and text in output and "Traceback" not in output


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


@pytest.mark.slow
def test_text_demo_leaves_a_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("transformers")
    result = runner.invoke(app, ["demo", "--text", "--text-minutes", "0.1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["words"]["nearest"]["queries"]) and len(report["gpt"]["texts"]) == 4
    masked = [token for line in report["bert"]["masked"] for token in line if "predicted" in token]
    assert masked and all(
        token["right"] == (token["predicted"].removeprefix("##") == token["text"])
        for token in masked
        if token["predicted"].startswith("##") == token["joined"]
    )
    page = (tmp_path / "report.html").read_text()
    assert "What was masked" in page and report["gpt"]["texts"][0]["prompt"] in page
    assert "{{" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_a_preview_describes_what_was_applied() -> None:
    """The second operation of a kind by its own draw; none that changed nothing."""
    steps = [RandomSolarize(), RandomSolarize(), AutoAugment(), RandomAffine(9), RandomPerspective(), RandomRotation(9)]
    program = Augment([CenterCrop((20, 30)), *steps])
    drawn = dict.fromkeys(program.columns, 0.0)
    corners = {"top_right_x": 29, "bottom_right_x": 29, "bottom_right_y": 19, "bottom_left_y": 19}
    drawn |= {f"RandomPerspective.{name}": float(value) for name, value in corners.items()}
    drawn |= {"RandomAffine.scale": 1.0}
    assert describe(program, drawn) == ["CenterCrop 0 0"]
    drawn |= {"RandomSolarize2.on": 1.0, "AutoAugment2.operation": 2.0, "AutoAugment2.value": -0.25}
    drawn |= {"RandomPerspective.top_left_x": 3.0}
    lines = ["CenterCrop 0 0", "Solarize", "shear y -0.25", "Perspective 3 0 29 0 29 19 0 19"]
    assert describe(program, drawn) == lines


def test_augment_preview_draws_a_sheet(tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "sheets" / "dino.png"
    command = ["augment-preview", "emoji", "--policy", "dino", "--size", "48", "--count", "2", "--out", str(out)]
    result = runner.invoke(app, command)
    assert result.exit_code == 0 and "2 images, 10 views each" in result.stdout, result.output
    with Image.open(out) as sheet:
        assert sheet.width > 11 * 96 and sheet.height > 2 * 96  # the original and ten views, local ones of 96 pixels
    assert [p.name for p in out.parent.iterdir()] == ["dino.png"]
    result = runner.invoke(app, ["augment-preview", "emoji", "--policy", "magic"])
    assert result.exit_code != 0 and "magic" in str(result.exception)


def test_packing_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    from fastssl.data import PackedImages, emoji

    images = emoji().images[:6, 0]
    for k, image in enumerate(images):
        path = tmp_path / "in" / ("odd" if k % 2 else "even") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    packed = tmp_path / "six.pack"
    assert runner.invoke(app, ["pack", str(tmp_path / "in"), str(packed)]).exit_code == 0
    read = PackedImages(packed)
    assert read.classes == ["even", "odd"] and read.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (read.image(0) == images[0]).all() and (read.image(3) == images[1]).all()
    assert runner.invoke(app, ["pack", str(tmp_path / "in"), str(packed), "--size", "20"]).exit_code == 0
    assert PackedImages(packed).image(0).shape == (20, 20, 3)
    sheet = tmp_path / "sheet.png"
    assert runner.invoke(app, ["augment-preview", str(packed), "--size", "16", "--out", str(sheet)]).exit_code == 0


def _run(*arguments: str) -> str:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.stdout


@pytest.mark.usefixtures("one_seed")
def test_protocols_report_and_export(tmp_path: Path) -> None:
    """From two seeds of one method and another method to tables, a page, and a program that loads."""
    runs, photos = [], str(_photos(tmp_path / "photos", 120))  # as many as a map of them needs
    for method, seed in (("simclr", 0), ("simclr", 1), ("jigsaw", 0), ("mae", 0)):
        runs.append(str(tmp_path / f"{method}-{seed}"))
        options = ["--data", photos, "--size", "16", "--epochs", "1", "--width", "4", "--batch-size", "40"]
        options += ["--seed", str(seed)]
        _run("pretrain", method, *options, "--out", runs[-1])
    assert "RankMe" in _run("evaluate", runs[0], "--protocol", "structure", "--out", str(tmp_path / "table.json"))
    assert set(json.loads((tmp_path / "table.json").read_text())["RankMe"]) == {"pretrained", "random"}
    page = tmp_path / "page" / "report.html"
    larger = ["--data", photos, "--out", str(tmp_path / "larger.json"), "--size", "32", "--whiten", "8", "--only"]
    _run("evaluate", runs[0], *larger)
    sizes = []
    for size in ((), ("--size", "32")):
        _run("embed", runs[0], "--data", photos, "--out", str(tmp_path / "f.npz"), *size)
        sizes.append(np.load(tmp_path / "f.npz")["features"])
    assert sizes[0].shape == sizes[1].shape and abs(sizes[0] - sizes[1]).max() > 1e-3
    _run("report", *runs, f"{runs[0]}/", "--data", photos, "--out", str(page))
    text = page.read_text()
    for expected in (
        "<td>simclr</td><td>2</td>",
        "<small>± ",
        "64 permutations, Hamming distance of two: at least",
        "seen",
    ):
        assert expected in text
    assert (
        text.count("confusion matrix of") == text.count("map of") == 3 and "nan" not in text.lower().split("base64")[0]
    )
    _run("export", runs[0], "--out", str(tmp_path / "encoder.pt2"))
    program = torch.export.load(str(tmp_path / "encoder.pt2")).module()
    assert program(torch.zeros(2, 3, 16, 16)).shape == (2, 16)
    for arguments, expected in (
        (["evaluate", runs[0], "--protocol", "zero-shot"], "zero-shot needs a method with a text tower"),
        (["evaluate", runs[0], "--protocol", "guess"], "protocol: expected one of frozen"),
        (["evaluate", runs[0], "--protocol", "finetune"], "fine-tuned by simclr-transfer and few-labels"),
        (
            ["evaluate", runs[0], "--protocol", "layers", "--data", "cifar-10:/nowhere"],
            "expected a folder after cifar-10",
        ),
        (["report", str(tmp_path)], "checkpoint: expected a run"),
        (["export", runs[0], "--to", "tflite"], "to: expected one of"),
        (["pretrain", "mae", "--encoder", "resnet"], "MAE needs a ViT"),
    ):
        result = runner.invoke(app, arguments)
        assert result.exit_code != 0 and expected in str(result.exception), result.output


def _fails(*arguments: str) -> str:
    """The message of a command that cannot do what it is asked."""
    result = runner.invoke(app, arguments)
    assert result.exit_code != 0, result.output
    return str(result.exception)


def _photos(folder: Path, count: int = 12, classes: tuple[str, ...] = ("cats", "dogs")) -> Path:
    from PIL import Image

    for k in range(count):
        path = folder / classes[k % len(classes)] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 128, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise + np.uint8(127 * (k % len(classes) > 0))).save(path)
    return folder


SMALL = ("--epochs", "1", "--width", "4", "--batch-size", "6")


@pytest.mark.usefixtures("one_seed")
def test_a_folder_of_photos_from_files_to_a_table(tmp_path: Path) -> None:
    """A name with a dash and brackets is a name; the run knows where its data is."""
    photos = _photos(tmp_path / "emoji-mine [backup]")
    (photos / "cats" / "notes.md").write_text("")
    text = _run("data", str(photos))
    for needed in ("12 items", "2 classes of 6 items", "40 wide, 30 high", "median 40 x 30", "left out: 1 no image"):
        assert needed in text
    out = str(tmp_path / "run [1]")
    text = _run("pretrain", "simclr", "--data", str(photos), "--out", out, *SMALL)
    assert "emoji-mine [backup]: 12 items, 2 classes, 40 x 30 pixels (left out: 1 no image)" in text
    assert "step 2/2, loss" in text and f"next: fastssl evaluate '{out}'" in text
    assert "encoder: name resnet, size 32, width 4" in text and "; precision " in text
    text = _run("evaluate", out)
    assert "knn" in text and "retrieval" not in text
    assert "holds a run already" in _fails("pretrain", "simclr", "--data", str(photos), "--out", out, *SMALL)
    _run("pretrain", "simclr", "--data", str(photos), "--out", out, *SMALL, "--overwrite")
    assert "items, names or labels differ" in _fails(
        "pretrain", "simclr", "--data", str(_photos(tmp_path / "x", 14)), "--out", out, *SMALL, "--resume"
    )


@pytest.mark.parametrize("protocol", ["frozen", "structure"])
@pytest.mark.usefixtures("one_seed")
def test_several_data_sets_are_evaluated_one_by_one(protocol: str, tmp_path: Path) -> None:
    out, table = str(tmp_path / "run"), tmp_path / "table.json"
    first, second = _photos(tmp_path / "x" / "my, photos"), _photos(tmp_path / "y" / "my, photos", 14)
    _run("pretrain", "simclr", "--data", str(first), "--out", out, *SMALL)
    alone = []
    for data in (str(first), str(second), f"{first},{second}"):
        _run("evaluate", out, "--protocol", protocol, "--data", data, "--out", str(table))
        alone.append(json.loads(table.read_text()))
    assert alone[2] == {f"{d}: {key}": v for d, one in zip((first, second), alone) for key, v in one.items()}


@pytest.mark.usefixtures("one_seed")
def test_training_and_test_parts_are_what_their_folders_say(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    _photos(photos / "train", 12), _photos(photos / "val", 6)
    out = str(tmp_path / "run")
    assert "photos: 12 items, 2 classes" in _run("pretrain", "rotnet", "--data", str(photos), "--out", out, *SMALL)
    table = tmp_path / "table.json"
    _run("evaluate", out, "--out", str(table))
    measures = json.loads(table.read_text())
    assert set(measures) == {"knn", "linear"} and measures["linear"]["pixels"] == 100
    # Classes have the numbers of the training part, which may have more.
    _photos(photos / "train", 4, ("apes", "bats")), _photos(photos / "val", 4, ("bats",))
    test = fastssl.data.open(str(photos), part="test")
    assert list(test.classes) == list(fastssl.data.open(str(photos)).classes) == ["apes", "bats", "cats", "dogs"]
    for k in range(len(test)):
        assert test.classes[test.read(k).label or 0] == Path(test.name_of(k)).parts[0]  # type: ignore[attr-defined]
        assert test.labels is not None and test.labels[k] == test.read(k).label
    _photos(photos / "val", 2, ("aardvarks",))
    (photos / "train" / "emus").mkdir()
    test = fastssl.data.open(str(photos), part="test")  # metric learning tests on other classes
    assert list(test.classes) == ["apes", "bats", "cats", "dogs", "aardvarks"]
    with pytest.raises(ValueError, match="expected the same classes in both parts"):
        fastssl.data.open_splits(str(photos))


@pytest.mark.usefixtures("one_seed")
def test_every_command_reads_the_same_sources(tmp_path: Path) -> None:
    photos = _photos(tmp_path / "photos")
    packed, out = str(tmp_path / "photos.pack"), str(tmp_path / "run")
    assert "12 items" in _run("pack", str(photos), packed)
    _run("pretrain", "simclr", "--data", packed, "--out", out, *SMALL)
    assert "knn" in _run("evaluate", out) and "knn" in _run("evaluate", out, "--data", str(photos))
    for data in (packed, str(photos), "emoji-heldout"):
        _run("augment-preview", data, "--size", "16", "--count", "1", "--out", str(tmp_path / "sheet.png"))
    assert "PackedImages" in _run("data", packed)


def test_names_that_the_field_knows_are_these_networks(tmp_path: Path) -> None:
    from fastssl.cli.recipes import encoder_for
    from fastssl.models import build_encoder

    shapes = {}
    for size in (32, 96):
        state = build_encoder(encoder_for("simclr", "resnet18", size)).network.state_dict()
        shapes[size] = tuple(state["conv1.weight"].shape)
        assert state["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert shapes == {32: (64, 3, 3, 3), 96: (64, 3, 7, 7)}
    assert "width: resnet18 has a fixed architecture" in _fails(
        "pretrain", "simclr", "--encoder", "resnet18", "--width", "8"
    )
    assert "stem: expected an encoder of resnet18" in _fails("pretrain", "simclr", "--stem", "cifar")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--optimizer", "adam"], "optimizer: expected one of"),
        (["--precision", "fp16"], "precision: expected one of"),
        (["--size", "0"], "size: expected at least one pixel, got 0"),
        (["--lr", "nan"], "lr: expected a number > 0, got nan"),
        (["--minutes", "1", "--epochs", "2"], "minutes, epochs: give one of them"),
        (["--precision", "16-mixed"], "precision: expected 'bf16-mixed', '32-true' or 'auto' on the CPU"),
        (["--data", "emojis"], "did you mean 'emoji'"),
    ],
)
def test_options_are_named_before_anything_begins(arguments: list[str], text: str, tmp_path: Path) -> None:
    assert text in _fails("pretrain", "simclr", *arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    """Said before anything is computed: evaluate said it, in the words of the system, after hours."""
    folder = tmp_path / "results.npz"
    folder.mkdir()
    for words in (
        *(["evaluate", tmp_path, "--out"], ["evaluate", tmp_path, "--protocol", "detection", "--predictions"]),
        *(["embed", tmp_path, "--out"], ["report", tmp_path, "--out"], ["neighbors", tmp_path / "f.npz", "--out"]),
        *(["augment-preview", "emoji", "--out"], ["pack", "emoji"], ["tokenize", "sotu"]),
    ):
        name = words[-1].removeprefix("--") if str(words[-1]).startswith("--") else "out"  # type: ignore[union-attr]
        assert f"{name}: expected a file, '{folder}' is a folder" in _fails(*map(str, words), str(folder)), words


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; sys.argv = ['fastssl', {!r}]; import fastssl.cli\n"
    code += "try: fastssl.cli.main()\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    for asked, needed in (("--help", "pretrain"), ("--version", fastssl.__version__)):
        done = subprocess.run([sys.executable, "-c", code.format(asked)], capture_output=True, text=True)
        assert done.returncode == 0 and needed in done.stdout, done.stderr
        assert "..." not in done.stdout.partition("Commands:")[2], "a summary that is cut"
    assert "did you mean 'simclr'" in _fails("pretrain", "simclrr")
    assert "…" not in _run("methods"), "a word that is cut"


def test_names_that_the_terminal_cannot_show_are_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": "\\udce9t\u00e9"}\n{"text": "b", "label": "c"}\n')
    monkeypatch.setattr("sys.argv", ["fastssl", "data", f"text:{tmp_path / 't.jsonl'}"])
    for encoding, shown in (("utf-8", "\\udce9té: 1"), ("ascii", "\\udce9t\\xe9: 1")):
        terminal = io.TextIOWrapper(written := io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr("sys.stdout", terminal)
            main()
        terminal.flush()
        printed = written.getvalue().decode(encoding)
        assert not ended.value.code and shown in printed, printed


def test_errors_have_a_traceback_when_it_is_asked_for(tmp_path: Path) -> None:
    """Of a mistake that is found before torch is imported."""
    command = [sys.executable, "-m", "fastssl", "--debug", "pack", "digits", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_unreadable_items_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from fastssl import cli

    (tmp_path / "images").mkdir()
    for k in range(4):
        (tmp_path / "images" / f"{k}.png").write_bytes(b"nothing")
    arguments = ["--data", str(tmp_path / "images"), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["fastssl", "pretrain", "simclr", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out.strip()
    assert "0.png: cannot be read" in text and text.endswith("--on-error skip leaves such items out and counts them")
    values = np.zeros((4, 8, 8, 3), np.int16)
    values[2, 0, 0, 0] = -3
    np.savez(tmp_path / "values.npz", x=values)
    data = str(tmp_path / "values.npz") + "#images=x"
    monkeypatch.setattr("sys.argv", ["fastssl", "pretrain", "simclr", "--data", data, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out.strip()
    assert "expected integers from 0 to 255, or uint16, got int16 from -3 to 0; the range of all images" in text
    assert "--on-error" not in text  # the array is read as a whole
    monkeypatch.setattr("sys.argv", ["fastssl", "augment-preview", str(tmp_path / "images")])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert "cannot be read" in text and "--on-error skip" in text
    Image.new("RGB", (24, 30)).save(tmp_path / "images" / "0.png")  # one is too few for a batch
    arguments += ["--on-error", "skip", "--epochs", "1", "--width", "4", "--size", "16"]
    monkeypatch.setattr("sys.argv", ["fastssl", "pretrain", "simclr", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert "1 of 4 items of a batch could be read" in text and "leaves such items out" not in text


def test_features_in_a_file(tmp_path: Path) -> None:
    """Those that the encoder gives in plain PyTorch."""
    import numpy as np
    from safetensors.torch import load_file

    from fastssl.data import open as open_source
    from fastssl.evaluate.features import plain_images
    from fastssl.train import load_encoder

    photos, out = _photos(tmp_path / "photos"), str(tmp_path / "run")
    _run("pretrain", "simclr", "--data", str(photos), "--out", out, *SMALL)
    _run("embed", out, "--out", str(tmp_path / "features.npz"))
    encoder, _ = load_encoder(out)
    with torch.no_grad():
        expected = encoder(torch.cat(list(plain_images(open_source(photos), 32))))
    with np.load(tmp_path / "features.npz") as read:
        tolerance = 1e-2 if torch.cuda.is_available() else 1e-5  # convolutions in tf32
        np.testing.assert_allclose(read["features"], expected.numpy(), rtol=10 * tolerance, atol=tolerance)
        assert read["names"].tolist() == sorted(
            f"{c}/{k}.png" for c, r in (("cats", 0), ("dogs", 1)) for k in range(r, 12, 2)
        )
        assert read["labels"].tolist() == [0] * 6 + [1] * 6
    unlabelled = _run("pretrain", "simclr", "--data", str(photos / "dogs"), "--out", str(tmp_path / "dogs"), *SMALL)
    assert f"next: fastssl embed {tmp_path / 'dogs'} --out features.npz" in unlabelled  # there is nothing to judge by
    _run("embed", out, "--out", str(tmp_path / "f.safetensors"), "--data", str(photos / "dogs"), "--readout", "spatial")
    assert load_file(tmp_path / "f.safetensors")["features"].shape == (6, 16 * 16)
    assert "out: expected a file with suffix" in _fails("embed", out, "--out", "features.csv")


@pytest.mark.usefixtures("one_seed")
def test_evaluation_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's log has a line every half minute: here, at every batch."""
    from fastssl.cli import show

    photos, out = _photos(tmp_path / "photos [x]"), str(tmp_path / "run")
    _run("pretrain", "simclr", "--data", str(photos), "--out", out, "--channels", "1", *SMALL)
    assert "12 of 12" not in _run("evaluate", out)
    monkeypatch.setattr(show, "PLAIN_SECONDS", 0)
    text = _run("evaluate", out)
    assert text.count("photos [x]: 12 of 12, ") == 4  # two encoders, pixels and the histogram
    text = _run("evaluate", out, "--only")
    assert text.count("photos [x]: 12 of 12, ") == 1 and "random" not in text
    assert "photos [x]: 12 of 12, " in _run("embed", out, "--out", str(tmp_path / "f.npz"))


def test_a_dry_run_says_everything_and_trains_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    photos = str(_photos(tmp_path / "photos"))
    command = ("pretrain", "byol", "--data", photos, "--recipe", "paper", "--batch-size", "6", "--out", str(out))
    text = _run(*command, "--dry-run")
    for needed in (
        "recipe paper (Grill et al. 2020",
        "optimizer lars",
        "lr 0.0046875",
        "hidden 4096",
        "[6, 3, 224, 224] float32, [6, 3, 224, 224] float32",
        "RandomResizedCrop",
        "steps: 1,000 epochs of 2, 2,000 in total",
        " trained; encoder ",
    ):
        assert needed in text, text
    assert re.search(r"^memory: peak \d+\.\d\d GiB of [^,]+, over 4 steps", text, re.M), text
    assert re.search(r"^time: .* s per step, \d+ % of it waiting for data; .* for 2,000 steps$", text, re.M), text
    assert not out.exists()
    text = _run("pretrain", "simclr", "--data", photos, *SMALL, "--lr", "0.5", "--dry-run", "--out", str(out))
    assert "lr 0.5" in text and "recipe small" in text and "steps: 1 epoch of 2" in text
    printed = next(line for line in text.splitlines() if line.startswith("recipe small"))
    assert "lr 0.5" in printed and "epochs 1," in printed  # what runs, not what the recipe would have
    timed = ("pretrain", "simclr", "--data", photos, "--minutes", "0.5", "--batch-size", "16", "--width", "4")
    text = _run(*timed, "--dry-run", "--out", str(out))
    assert text.count("minutes 0.5") == 2 and "epochs 1" not in text.replace("warmup_epochs", "")


def test_long_searches_and_packing_show_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no terminal: a plain line now and then, brackets as they are."""
    monkeypatch.setattr("fastssl.cli.show.PLAIN_SECONDS", 0)
    photos = _photos(tmp_path / "a [b]")
    text = _run("pack", str(photos), str(tmp_path / "x.pack"))
    lines = text.replace("\n", " ")
    assert f"{photos}: files found: 12" in lines and f"{tmp_path / 'x.pack'}: images packed of 12: 12" in lines


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_of_several_processes_says_that_a_run_was_stopped(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every one did, and named a checkpoint also where there was none."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for name, value in rendezvous(rank, 2, 0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fastssl.train, "pretrain", stop)
    commands = importlib.import_module("fastssl.cli.main")
    monkeypatch.setattr(
        commands, "app", lambda: show.run_pretraining(None, SimpleNamespace(name="data"), None, tmp_path)
    )
    for made in (False, True):
        if made:
            (tmp_path / "checkpoint").mkdir()
        with pytest.raises(SystemExit, match="130"):
            commands.main()
        said = capfd.readouterr().out
        assert said.count("stopped") == (0 if rank else 1 + made) and ("--resume" in said) == (made and not rank), said


def test_prompts_of_zero_shot_classification(tmp_path: Path) -> None:
    from PIL import Image

    rows = ["path,text,label"]
    for k in range(8):
        Image.new("RGB", (16, 16), (200, 0, 0) if k % 2 else (0, 0, 200)).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{'red' if k % 2 else 'blue'},{'red' if k % 2 else 'blue'}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    run, data = str(tmp_path / "run"), str(tmp_path / "list.csv")
    small = ["--size", "16", "--width", "4", "--epochs", "1", "--batch-size", "4"]
    result = runner.invoke(app, ["pretrain", "clip", "--data", data, *small, "--out", run])
    assert result.exit_code == 0, result.output
    zero_shot = ["evaluate", run, "--protocol", "zero-shot"]
    result = runner.invoke(app, [*zero_shot, "--prompt", "ein {}", "--prompt", "{}"])
    assert result.exit_code == 0 and "chance" in result.output, result.output
    assert "expected names, and texts with '{}'" in str(runner.invoke(app, [*zero_shot, "--prompt", "ein"]).exception)
    alone = runner.invoke(app, ["evaluate", run, "--prompt", "ein {}"])
    assert "prompt: expected the protocol 'zero-shot', got 'frozen'" in str(alone.exception)


@pytest.mark.usefixtures("one_seed")
def test_models_of_a_library_are_evaluated_without_a_run(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(
        tmp_path / "vit"
    )
    model = ["evaluate", f"huggingface:{tmp_path / 'vit'}"]
    given = ["--size", "16", "--data", str(_photos(tmp_path / "photos")), "--out", str(tmp_path / "table.json")]
    for protocol in ("frozen", "structure"):
        result = runner.invoke(app, [*model, *given, "--protocol", protocol])
        assert result.exit_code == 0, result.output
        assert {"pretrained", "random"} <= set(next(iter(json.loads((tmp_path / "table.json").read_text()).values())))
    for more, match in (
        (["--data", "digits"], "size: expected the size in pixels of the images that huggingface:"),
        (["--size", "16"], "data: expected a data set"),
        ([*given, "--protocol", "zero-shot"], "zero-shot needs a method with a text tower, this one is huggingface:"),
        ([*given, "--protocol", "detection"], "detection keeps its results in the folder of a run"),
    ):
        assert match in str(runner.invoke(app, [*model, *more]).exception)


@pytest.mark.parametrize("given", [["--data", "digits", "--data=emoji"], ["--lr", "1", "--lr", "2"]])
def test_options_that_are_given_twice_are_an_error(given: list[str]) -> None:
    """The last one alone would count."""
    result = CliRunner().invoke(app, ["pretrain", "simclr", "--dry-run", *given])
    assert result.exit_code == 2 and "expected once, got 2 times" in result.output
    assert ("several corpora" in result.output) == ("--data" in given)
    assert CliRunner().invoke(app, ["pretrain", "simclr", "--set", "a=1", "--set", "b=2"]).exit_code != 0
    several = ["pretrain", "simclr", "--data", "digits", "--dry-run", "--batch-size", "64"]
    result = CliRunner().invoke(app, [*several, "--set", "temperature=0.2", "--set", "spatial=false"])
    assert result.exit_code == 0, result.output
