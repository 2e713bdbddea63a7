"""Runs on data of which some files cannot be read: pretraining, its probe, evaluation, reports, previews."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import fastssl.data.corpus
from fastssl.cli import app
from fastssl.data import AudioError, CaptionError, CorpusError, ImageError, Loader, TokenFile, open_splits
from fastssl.data import open as open_source
from fastssl.data.readable import readable, unreadable_left_out
from fastssl.evaluate import read_features
from fastssl.methods import DeepCluster, SimCLR
from fastssl.models import Samples, build_encoder
from fastssl.train import Pretraining, load_checkpoint, pretrain


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for c in range(2):
        (root / f"c{c}").mkdir()
        for k in range(20):
            pixels = np.full((24, 30, 3), 90 * c, np.uint8) + rng.integers(0, 60, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"c{c}" / f"{k}.png")
        (root / f"c{c}" / "3.png").write_bytes(b"no image")
    return root


def test_what_cannot_be_read_is_left_out(photos: Path) -> None:
    source = open_source(photos)
    left, reasons = readable(source)
    assert sorted(reasons) == [source.paths.index("c0/3.png"), source.paths.index("c1/3.png")]
    assert len(left) == 38 and left.where == source.where and left.labels is not None and (left.labels == 1).sum() == 19
    assert all("3.png" in reason for reason in reasons.values())
    assert readable(left) == (left, {})
    with pytest.raises(ValueError, match=r"no item of .* can be read; the first: .*3\.png"):
        readable(source.subset(sorted(reasons)))


def test_within_the_context_data_is_opened_without_it(photos: Path) -> None:
    said: list[str] = []
    with unreadable_left_out(said.append):
        task = open_splits(photos)
        assert len(task.train) + len(task.test) == 38 and len(open_source(str(photos))) == 38
        assert len(open_source("digits")) == 1797
    assert len(said) == 1 and "2 of 40 items left out" in said[0]  # read once, said once
    assert len(open_source(photos)) == 40
    with pytest.raises(ImageError):
        list(open_source(photos).items(range(40)))


def test_parts_of_the_same_names_are_not_mixed_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "Val"):
        for k in range(6):
            path = tmp_path / part / f"c{k % 2}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    (tmp_path / "train" / "c0" / "0.png").write_bytes(b"no image")
    with unreadable_left_out(lambda _: None):
        train, test = open_source(tmp_path), open_source(tmp_path, part="test")
    assert (len(train), len(test)) == (5, 6)
    assert not np.array_equal(train.read(1).images[0], test.read(2).images[0])


def test_methods_that_look_at_all_items_skip_too(photos: Path, tmp_path: Path) -> None:
    encoder = {"name": "resnet", "size": 16, "width": 4}
    options = Pretraining(epochs=2, batch_size=16, on_error="skip")
    method = DeepCluster(build_encoder(encoder), clusters=4)
    pretrain(method, open_source(photos), options, out=tmp_path, encoder_options=encoder)
    assert len(method.assigned) == 40


def test_batches_with_too_few_items_are_named(tmp_path: Path) -> None:
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((24, 30, 3), np.uint8)).save(tmp_path / "0.png")
    method = SimCLR(build_encoder({"name": "resnet", "size": 16, "width": 4}))
    with pytest.raises(ImageError, match="1 of 4 items of a batch could be read, expected at least 2; the first"):
        list(Loader(tmp_path, method, 4, on_error="skip"))


def run(*arguments: object) -> str:
    """What the command writes; its error is raised."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("one_seed")
def test_a_run_that_skips_is_probed_and_judged_as_it_was_trained(photos: Path, tmp_path: Path) -> None:
    trained, table = tmp_path / "run", tmp_path / "table.json"
    small = ("--epochs", 1, "--batch-size", 16, "--size", 16, "--width", 4)
    said = run(
        "pretrain", "simclr", "--data", photos, *small, "--on-error", "skip", "--probe-every", 1, "--out", trained
    )
    assert "knn" in said
    assert "2 of 40 items left out" in run("evaluate", trained, "--only", "--out", table)
    assert "pretrained" in table.read_text()
    with pytest.raises(ImageError, match=r"3\.png"):
        run("evaluate", trained, "--only", "--on-error", "raise")
    with pytest.raises(ValueError, match="on_error: expected 'raise' or 'skip'"):
        run("evaluate", trained, "--on-error", "ignore")
    run("report", trained, "--out", tmp_path / "report.html")
    assert (tmp_path / "report.html").exists()
    preview = ("augment-preview", photos, "--count", 40, "--out", tmp_path / "sheet.png")
    assert "38 images" in run(*preview, "--on-error", "skip")
    with pytest.raises(ImageError):
        run(*preview)


def test_documents_that_cannot_be_read_are_skipped(tmp_path: Path) -> None:
    for k in range(12):
        path = tmp_path / "texts" / f"{k:02}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"caf\xe9" if k == 3 else f"Document {k} says that it is number {k}.".encode())
    data, skip = ("--data", tmp_path / "texts"), ("--on-error", "skip")
    small = ("--network", "transformer", "--width", 8, "--depth", 1, "--heads", 1, "--length", 16, "--batch-size", 4)
    train = ("pretrain", "gpt", *data, *small, "--epochs", 1, "--held-out", 0, "--out", tmp_path / "run")
    words = ("pretrain", "word2vec", *data, "--set", "min_count=1", "--epochs", 1, "--out", tmp_path / "words")
    for command in (train, words):
        with pytest.raises(CorpusError, match=r"03\.txt: byte 3"):
            run(*command)
        assert "1 of 12 items left out; the first: " in run(*command, *skip)
    again = ("pretrain", "word2vec", "--epochs", 2, "--out", tmp_path / "words", "--resume")
    assert "1 of 12 items left out" in run(*again)  # as it was trained
    with pytest.raises(CorpusError, match=r"03\.txt: byte 3"):
        run(*again, "--on-error", "raise")
    assert len(TokenFile(tmp_path / "run" / "corpus.tok")) == 11
    out = tmp_path / "features.npz"
    embed = ("embed", tmp_path / "run", *data, "--out", out)
    with pytest.raises(CorpusError, match=r"03\.txt: byte 3"):
        run(*embed)
    assert "11 rows of features" in run(*embed, *skip)
    found = read_features(out)
    assert found.names == [f"{k:02}.txt" for k in range(12) if k != 3]
    assert "1 of 12 cannot be read" in run("data", tmp_path / "texts")


def test_signals_that_cannot_be_read_are_skipped(tmp_path: Path) -> None:
    signals = np.random.default_rng(0).uniform(-1, 1, (6, 3000))
    paths = [Path(path) for path in Samples("audio", signals, 8000).save(tmp_path / "speech" / "take")]
    skip = ("--on-error", "skip")
    small = ("--set", "dim=8", "--set", "window=2048", "--batch-size", 2, "--epochs", 1)
    text = run("pretrain", "cpc-signal", "--data", tmp_path / "speech", *small, "--out", tmp_path / "run")
    assert "next: fastssl embed" in text  # without labels there is nothing to evaluate it by
    paths[1].write_bytes(paths[1].read_bytes()[:100])  # truncated
    Samples("audio", signals[:1], 11025).save(tmp_path / "other")  # of another rate
    paths[2].write_bytes(next(tmp_path.glob("other*")).read_bytes())
    out = tmp_path / "features.npz"
    with pytest.raises(AudioError, match="truncated"):
        run("embed", tmp_path / "run", "--out", out)
    said = run("embed", tmp_path / "run", "--out", out, *skip)
    assert "1 of 6 items left out" in said and "1 of 5 items left out; the first: rate: expected 8000" in said
    assert read_features(out).names == [path.name for path in (paths[0], *paths[3:])]


def test_images_without_a_text_are_counted_or_left_out(tmp_path: Path) -> None:
    """As if they were not there: the same recall as of a folder without them."""
    rng, lacking, runner = np.random.default_rng(0), {5: None, 7: " \n", 9: None}, CliRunner()
    for k in range(24):
        for folder in ("some", "whole") if k not in lacking else ("some",):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(tmp_path / folder / f"{k:02}.png")
            if (text := lacking.get(k, f"number {k}")) is not None:
                (tmp_path / folder / f"{k:02}.txt").write_text(text)
    for k in set(range(24)) - set(lacking):
        (tmp_path / "whole" / f"{k:02}.png").write_bytes((tmp_path / "some" / f"{k:02}.png").read_bytes())
    options = Pretraining(epochs=1, batch_size=8, on_error="skip")
    encoder, data = {"name": "resnet", "size": 16, "width": 4}, str(tmp_path / "some")
    with pytest.raises(
        CaptionError, match=r"needs a text with each item, 2 of the 24 items of some have none, .*05.png"
    ):
        pretrain("clip", data, Pretraining(epochs=1), out=tmp_path / "none", encoder=encoder)
    method = pretrain("clip", data, options, out=tmp_path / "run", encoder=encoder)
    assert load_checkpoint(tmp_path / "run")[1]["unreadable"] == [5, 7, 9]
    (tmp_path / "some" / "05.txt").write_text("five"), (tmp_path / "some" / "09.txt").write_text("nine")
    source = method.prepare(open_source(data))
    assert source.without_text is not None and not len(source.without_text)
    with pytest.raises(CaptionError, match="CLIP needs a text with each item, 07.png of some has an empty one"):
        source.read(7)
    tables = []
    (tmp_path / "some" / "05.txt").unlink(), (tmp_path / "some" / "09.txt").unlink()
    evaluate = ["evaluate", str(tmp_path / "run"), "--protocol", "image-text-retrieval", "--out", str(tmp_path / "t")]
    for folder in ("some", "whole"):
        result = runner.invoke(app, [*evaluate, "--data", str(tmp_path / folder)])
        assert result.exit_code == 0 and ("3 of 24 items left out" in result.output) == (folder == "some")
        tables.append((tmp_path / "t").read_text())
    assert tables[0] == tables[1]
    result = runner.invoke(app, [*evaluate, "--data", data, "--on-error", "raise"])
    assert isinstance(result.exception, CaptionError) and "05.png of some has none" in str(result.exception)


def test_packing_says_which_part_and_where(photos: Path, tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        (tmp_path / "both" / part / "c").mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (9, 9), (k, 0, 0)).save(tmp_path / "both" / part / "c" / f"{k}.png")
    said = run("pack", tmp_path / "both", tmp_path / "not" / "yet" / "train.pack")
    assert "two parts" in said and "3 items" in said
    assert "2 items" in run("pack", tmp_path / "both", tmp_path / "test.pack", "--part", "test")
    with pytest.raises(ValueError, match="out: expected a file"):
        run("pack", tmp_path / "both", tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            ("simclr", "--batch-size", 8, "--accumulate", 16),
            "accumulate: expected at most 8 for 8 rows per process, got 16",
        ),
        (("simclr", "--probe-every", -3), "probe_every: expected an integer >= 1, got -3"),
        (("simclr", "--seed", 2**64), r"seed: expected an integer below 2\^64"),
        (("nade", "--blocks", 1), "blocks: expected none, nade takes size"),
    ],
)
def test_wrong_options_are_named_before_training(options: tuple[object, ...], match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        run("pretrain", *options, "--data", "digits", "--dry-run", "--out", tmp_path)


def test_a_dry_run_that_diverges_names_no_file() -> None:
    with pytest.raises(RuntimeError, match=r"the loss is nan at step \d+, items \[.*\]\.\.\.$"):
        run("pretrain", "simclr", "--data", "digits", "--width", 4, "--lr", 1e30, "--dry-run")


@pytest.mark.parametrize(("method", "kind"), [("gpt", ""), ("gpt", "text:"), ("word2vec", "text:")])
def test_commands_name_or_leave_out_a_document_that_is_too_long(
    method: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastssl.data.corpus, "LONGEST", 1000)
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join('{"text": "%s"}\n' % ("some words of it. " * n) for n in (9, 90, 9, 9)))
    data = f"{kind}{lines}"
    given = ["pretrain", method, "--data", data, "--epochs", "1", "--out", str(tmp_path / "run")]
    given += ["--network", "transformer", "--width", "8", "--depth", "1", "--length", "16"] * (method == "gpt")
    assert "1 of 4 cannot be read" in CliRunner().invoke(app, ["data", data]).output
    for command in (given, ["tokenize", data, str(tmp_path / "x.tok"), "--tokenizer", "bytes"]):
        error = CliRunner().invoke(app, command).exception
        place = "lines.jsonl: line 2" if kind else "lines, document 1"
        assert f"{place}: expected documents of at most 1,000 bytes" in str(error)
    assert not list(tmp_path.glob("x.tok*"))
    result = CliRunner().invoke(app, [*given, "--on-error", "skip"])
    assert result.exit_code == 0 and "checkpoint" in result.output, result.output
