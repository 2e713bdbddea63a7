"""Features in files: streamed, gone on with after a kill, the same by any number of processes; their neighbours."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import fastssl.data
from fastssl.cli import app
from fastssl.data import ImageError, Item, Source, digits
from fastssl.evaluate import embed, embedding, encode, read_features
from fastssl.evaluate.feature_files import write_features
from fastssl.methods import Word2Vec
from fastssl.models import Encoder, build_encoder
from fastssl.train import Pretraining, load_encoder, pretrain
from tests.support.command import embed_rank
from tests.support.processes import run_world

OPTIONS = {"name": "resnet", "size": 16, "width": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    pretrain("simclr", digits().subset(range(64)), Pretraining(epochs=1, batch_size=32), out=out, encoder=OPTIONS)
    return out


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setattr(embedding, "BLOCK", 8)
    monkeypatch.setattr(embedding, "batch_rows", lambda _: 4)
    torch.manual_seed(0)
    return build_encoder(OPTIONS).eval()


class _Read(Source):
    """Counts what is read, and fails where it is told to."""

    name, classes = "counted", ("a", "b")

    def __init__(self, count: int = 30, broken: int | None = None, error: type[Exception] = KeyboardInterrupt) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, 12, 14, 3), dtype=np.uint8)
        self.labels = np.arange(count) % 2
        self.broken, self.error, self.seen = broken, error, [0] * count

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, reduce: Any = None) -> Item:
        self.seen[index] += 1
        if index == self.broken:
            raise self.error("stop")
        return Item(images=(self.images[index],), label=int(self.labels[index]))

    def name_of(self, index: int) -> str:
        return f"klasse ä/{index}.png"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
@pytest.mark.parametrize("readout", ["pooled", "spatial"])
def test_files_hold_features_names_and_labels(suffix: str, readout: str, encoder: Encoder, tmp_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    source, out = _Read(), tmp_path / f"features{suffix}"
    assert embed(encoder, source, out, readout=readout) == 30
    assert source.seen == [1] * 30  # one pass over n images is n reads
    found = read_features(out)
    torch.testing.assert_close(found.features, encode(encoder, source, readout), rtol=1e-5, atol=1e-6)
    assert found.names == [source.name_of(k) for k in range(30)] and found.source is None
    assert found.labels is not None and found.labels.tolist() == source.labels.tolist()
    assert os.listdir(tmp_path) == [out.name]
    if suffix == ".npz":
        with np.load(out) as plain:
            np.testing.assert_array_equal(plain["features"], found.features.numpy())
            assert plain["names"].tolist() == found.names
    elif suffix == ".safetensors":
        assert torch.equal(load_file(out)["features"], found.features)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
@pytest.mark.parametrize("names", [["a", "ü", ""], [os.fsdecode(b"caf\xe9/0.png"), "ü", "a"]])
def test_names_of_files_that_are_no_utf_8_are_kept(suffix: str, names: list[str], tmp_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    about = {"source": os.fsdecode(b"/data/caf\xe9"), "part": "test", "encoder": "ü"}
    out = tmp_path / f"features{suffix}"
    write_features(out, [np.ones((2, 4), np.float32), np.ones((1, 4), np.float32)], 3, 4, names, None, about)
    found = read_features(out)
    assert (found.names, found.source, found.part, found.encoder) == (names, *about.values())
    if suffix == ".parquet":  # strings, as every reader expects, where they can be
        kind = pytest.importorskip("pyarrow.parquet").read_schema(out).field("name").type
        assert str(kind) == ("string" if names[0] == "a" else "binary")


@pytest.mark.parametrize("world", [1, 3])
def test_a_second_call_goes_on_after_a_kill(world: int, encoder: Encoder, tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    embed(encoder, _Read(), whole)
    out = tmp_path / "features.npz"
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, _Read(broken=20), out)  # in the third block of eight
    assert not out.exists()
    sources = [_Read() for _ in range(world)]
    for rank in reversed(range(world)):
        made = embed(encoder, sources[rank], out, rank=rank, world_size=world)
    assert made == 30
    seen = np.sum([s.seen for s in sources], 0)
    assert seen[:16].tolist() == [0] * 16 and seen[16:].tolist() == [1] * 14
    assert torch.equal(read_features(out).features, read_features(whole).features)
    assert sorted(os.listdir(tmp_path)) == ["features.npz", "whole.npz"]


def test_a_process_that_starts_late_leaves_nothing(encoder: Encoder, tmp_path: Path) -> None:
    """All of its blocks are there already: rank 0 must not merge them before the other has seen that."""
    out = tmp_path / "features [1].npz"
    embed(encoder, _Read(), out, rank=1, world_size=2)
    barrier, made = threading.Barrier(2), []

    def meet() -> None:
        barrier.wait(20)

    first = threading.Thread(target=lambda: made.append(embed(encoder, _Read(), out, world_size=2, barrier=meet)))
    first.start()
    while barrier.n_waiting == 0 and first.is_alive():
        time.sleep(0.01)
    source = _Read()
    assert embed(encoder, source, out, rank=1, world_size=2, barrier=meet) == 0
    first.join()
    assert made == [30] and source.seen == [0] * 30 and os.listdir(tmp_path) == [out.name]


def test_blocks_of_another_encoder_are_not_taken(encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, _Read(broken=20), out)
    other = build_encoder(OPTIONS).eval()
    assert embed(other, source := _Read(), out) == 30 and source.seen == [1] * 30
    torch.testing.assert_close(read_features(out).features, encode(other, _Read(), "pooled"), rtol=1e-5, atol=1e-6)


def test_blocks_of_other_images_with_the_same_names_are_not_taken(encoder: Encoder, tmp_path: Path) -> None:
    """Raw and blurred copies of a folder: names, classes and sizes are the same."""
    for name in ("raw", "inverted"):
        _photos(tmp_path / name, 40)
    for path in (tmp_path / "inverted").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    out, raw, inverted = tmp_path / "features.npz", *(str(tmp_path / name) for name in ("raw", "inverted"))
    seen = 0

    def stop(done: int, total: int) -> None:
        nonlocal seen
        seen = done
        if done > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(encoder, fastssl.data.open(raw), out, progress=stop)
    assert seen and list(tmp_path.glob(".features.npz.*"))
    embed(encoder, fastssl.data.open(inverted), out)
    torch.testing.assert_close(read_features(out).features, encode(encoder, inverted, "pooled"), rtol=1e-5, atol=1e-6)
    sources = [fastssl.data.open(place) for place in (raw, inverted)]
    assert sources[0].fingerprint == sources[1].fingerprint and sources[0].content_key != sources[1].content_key
    some = [source.subset([3, 1]) for source in (*sources, sources[0])]
    assert len({source.content_key for source in some}) == 2


def test_images_that_cannot_be_read(encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    with pytest.raises(ImageError, match="stop"):
        embed(encoder, _Read(broken=29, error=ImageError), out)
    assert embed(encoder, _Read(broken=29, error=ImageError), out, on_error="skip") == 29
    found = read_features(out)
    assert len(found.names) == 29 and "klasse ä/29.png" not in found.names and found.labels is not None
    torch.testing.assert_close(found.features, encode(encoder, _Read(29), "pooled"), rtol=1e-5, atol=1e-6)
    assert len(found.labels) == 29


def test_items_that_an_interrupted_call_left_out_are_asked_for_again(encoder: Encoder, tmp_path: Path) -> None:
    class Stopped(_Read):
        def read(self, index: int, reduce: Any = None) -> Item:
            if index == 29:
                raise KeyboardInterrupt
            return super().read(index, reduce)

    out = tmp_path / "features.npz"
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, Stopped(broken=3, error=ImageError), out, on_error="skip")
    with pytest.raises(ImageError, match="stop"):
        embed(encoder, _Read(broken=3, error=ImageError), out)
    assert embed(encoder, _Read(broken=3, error=ImageError), out, on_error="skip") == 29


def test_two_calls_at_once(encoder: Encoder, tmp_path: Path) -> None:
    """The second is an error, the first is not disturbed."""
    out, refused = tmp_path / "features.npz", []

    def progress(done: int, total: int) -> None:
        with pytest.raises(ValueError, match="out: another call is writing the same features to"):
            embed(encoder, _Read(), out)
        refused.append(done)

    assert embed(encoder, _Read(), out, progress=progress) == 30 and refused
    assert os.listdir(tmp_path) == [out.name]


def test_features_wait_on_disk(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a block of them is in memory."""
    largest = 0
    write = embedding.write_features

    def watched(path: Path, blocks: Any, *more: Any) -> None:
        nonlocal largest
        made = list(map(len, blocks))
        largest = max(made)
        assert sum(made) == 30

    monkeypatch.setattr(embedding, "write_features", watched)
    embed(encoder, _Read(), tmp_path / "f.npz")
    assert largest == 8 and write is not watched


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"out": "f.csv"}, "out: expected a file with suffix .npz"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to 1, got 2"),
        ({"on_error": "ignore"}, "on_error: expected 'raise' or 'skip', got 'ignore'"),
        ({"readout": "mean"}, "readout: expected 'pooled' or 'spatial', got 'mean'"),
    ],
)
def test_wrong_options(change: dict[str, Any], text: str, encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / change.pop("out", "f.npz")
    with pytest.raises(ValueError, match=text):
        embed(encoder, _Read(), out, **change)


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def _photos(folder: Path, count: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for k in range(count):
        path = folder / ("red [1]" if k % 2 else "blue_sky") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
        image[..., 0 if k % 2 else 2] += 180
        Image.fromarray(image).save(path)
    return folder


@pytest.mark.slow
def test_processes_of_a_launcher(run: Path, tmp_path: Path) -> None:
    photos, one, two = _photos(tmp_path / "photos"), tmp_path / "one.npz", tmp_path / "made" / ".hidden" / "two.npz"
    _run("embed", str(run), "--data", str(photos), "--out", str(one))
    for _ in range(2):  # the second time nothing is left but the file
        run_world(embed_rank, 2, tmp_path, [str(run), "--data", str(photos), "--out", str(two)])
        assert torch.equal(read_features(one).features, read_features(two).features)
        assert os.listdir(two.parent) == ["two.npz"]
    assert "12 rows of features" in (tmp_path / "log.0").read_text()
    assert "rows of features" not in (tmp_path / "log.1").read_text()


@pytest.mark.slow
def test_several_processes_of_the_command_line(run: Path, tmp_path: Path) -> None:
    photos, one, two = _photos(tmp_path / "photos"), tmp_path / "one.npz", tmp_path / "two.npz"
    assert "12 rows of features" in _run("embed", str(run), "--data", str(photos), "--out", str(one))
    command = [sys.executable, "-m", "fastssl", "embed", str(run), "--data", str(photos), "--out", str(two)]
    done = subprocess.run([*command, "--devices", "2"], capture_output=True, text=True)
    assert done.returncode == 0 and "12 rows" in done.stdout, done.stderr
    assert torch.equal(read_features(one).features, read_features(two).features)
    assert read_features(two).source == str(photos)


SLOW = """
import sys, time, numpy as np
import fastssl.cli.embed as command
from fastssl.data import Item, Source, opening
from fastssl.evaluate import embedding
embedding.BLOCK, embedding.batch_rows = 8, lambda _: 8
class Slow(Source):
    name = "slow"
    def __len__(self): return 80
    def read(self, index, reduce=None):
        time.sleep({pause})
        return Item(images=(np.full((8, 8, 3), index, np.uint8),))
opening.EMBEDDED["slow"] = Slow
print(command.embed(command.Embedding({run!r}, __import__("pathlib").Path({out!r}), "slow")), flush=True)
"""


@pytest.mark.slow
def test_kill_nine_and_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    code = SLOW.format(pause=0.1, run=str(run), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    blocks: Callable[[], list[Path]] = lambda: list(tmp_path.glob(".f.npz.*.blocks/*.npz"))  # noqa: E731
    limit = time.monotonic() + 60
    while len(blocks()) < 2 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(blocks())
    assert 2 <= there < 10 and not out.exists()
    done = subprocess.run(
        [sys.executable, "-c", SLOW.format(pause=0, run=str(run), out=str(out))], capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("80"), done.stderr
    assert len(read_features(out).features) == 80 and os.listdir(tmp_path) == ["f.npz"]


def test_queries_may_be_paths_of_files(run: Path, tmp_path: Path) -> None:
    from fastssl.cli.neighbors import draw_neighbors

    photos, features, sheet = _photos(tmp_path / "photos"), tmp_path / "f.npz", tmp_path / "sheet.html"
    _run("embed", str(run), "--data", str(photos), "--out", str(features))
    for query in (str(photos / "blue_sky" / "4.png"), os.path.relpath(photos / "blue_sky" / "4.png")):
        assert draw_neighbors(features, [query], 2, 8, None, sheet, 0) == (1, 2)
        assert re.findall(r"<br>([^<]*png)", sheet.read_text())[0] == "blue_sky/4.png"
    table, own = tmp_path / "lists" / "list.csv", tmp_path / "listed.npz"
    table.parent.mkdir()
    table.write_text("path\n" + "".join(f"blue_sky/{k}.png\n" for k in range(0, 12, 2)))
    for folder in ("../photos", str(photos)):
        _run("embed", str(run), "--data", f"{table}#images={folder}", "--out", str(own))
        assert draw_neighbors(own, [str(photos / "blue_sky" / "4.png")], 2, 8, None, sheet, 0) == (1, 2)
        assert re.findall(r"<br>([^<]*png)", sheet.read_text())[0] == "blue_sky/4.png"
    other = _photos(tmp_path / "other") / "blue_sky" / "4.png"  # of the same name, and another image
    with pytest.raises(
        ValueError, match="query: the file '.*other/blue_sky/4.png' is no image of the features.*embed RUN"
    ):
        draw_neighbors(features, [str(other)], 2, 8, None, sheet, 0)


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_neighbors_are_drawn(suffix: str, run: Path, tmp_path: Path) -> None:
    photos, features, sheet = _photos(tmp_path / "photos [old]"), tmp_path / "f.npz", tmp_path / f"sheet{suffix}"
    _run("embed", str(run), "--data", str(photos), "--out", str(features))
    command = ["neighbors", str(features), "--out", str(sheet), "--k", "3"]
    assert "2 queries, 3 neighbours each" in _run(*command, "--query", "blue_sky/4.png", "--query", "red [1]/3")
    if suffix == ".html":
        page = sheet.read_text()
        assert page.count("<img") == 8 and "blue_sky/4.png" in page and "red [1]/3.png" in page
        rows = re.findall(r"<tr>(.*?)</tr>", page)
        found = read_features(features)
        unit = torch.nn.functional.normalize(found.features - found.features.mean(0), dim=1)
        order = (unit @ unit[found.names.index("blue_sky/4.png")]).argsort(descending=True)[1:4].tolist()
        assert re.findall(r"<br>([^<]*png)", rows[0])[1:] == [found.names[k] for k in order]
    else:
        with Image.open(sheet) as image:
            assert image.width > 4 * 112 and image.height > 2 * 112
    rows = len(read_features(features).features)
    assert f"4 queries, {rows - 1} neighbours each" in _run(*command[:-1], "1000", "--count", "4")
    other = tmp_path / "other.npz"
    _run("embed", str(run), "--data", str(_photos(tmp_path / "new", 3)), "--out", str(other))
    assert "3 queries" in _run(*command, "--query", str(other))


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "columns", "double"])
def test_features_without_names_have_numbers(kind: str, run: Path, tmp_path: Path) -> None:
    photos, given = _photos(tmp_path / "photos"), tmp_path / "given.npz"
    _run("embed", str(run), "--data", str(photos), "--out", str(given))
    whole = read_features(given)
    values = whole.features.numpy()
    path = tmp_path / ("bare.npy" if kind == "npy" else "bare.npz")
    if kind == "npy":
        np.save(path, values)
    elif kind == "compressed":
        np.savez_compressed(path, features=values)
    else:
        made = {"columns": np.asfortranarray(values), "double": values.astype(np.float64)}
        np.savez(path, features=made.get(kind, values), labels=np.arange(len(values)) % 2)
    bare = read_features(path)
    assert torch.equal(bare.features, whole.features) and not bare.named and whole.named
    assert bare.names == [str(k) for k in range(len(values))]
    pages = [tmp_path / "named.html", tmp_path / "numbered.html"]
    query = whole.names[7]
    _run("neighbors", str(given), "--query", query, "--k", "3", "--out", str(pages[0]))
    bare_command = ["neighbors", str(path), "--query", "7", "--k", "3", "--out", str(pages[1])]
    _run(*bare_command, "--data", str(photos))
    rows = [re.findall(r'<img src="([^"]*)" alt=""><br>([^<]*)', page.read_text()) for page in pages]
    assert [picture for picture, _ in rows[0]] == [picture for picture, _ in rows[1]]
    assert [name for _, name in rows[0]] == [whole.names[int(name)] for _, name in rows[1]]
    for more, message in (
        ([], f"data: {str(path)!r} does not record where its images are (--data)"),
        (["--data", str(_photos(tmp_path / "more", 8))], "expected as many images as there are features without names"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            CliRunner().invoke(app, [*bare_command, *more], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 2))}, "expected an array 'features', got x"),
        ({"features": np.zeros((3, 2, 2))}, r"expected features as floats \[N, C\], got float64 of shape \[3, 2, 2\]"),
        ({"features": np.zeros((3, 2), int)}, r"expected features as floats \[N, C\], got int64"),
        ({"features": np.zeros((3, 2)), "names": np.array(["a"])}, "expected 3 names, one per row of features, got 1"),
    ],
)
def test_arrays_that_are_no_features(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(ValueError, match=f"f.npz' is no feature file .{message}"):
        read_features(tmp_path / "f.npz")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_queries_of_another_encoder(suffix: str, run: Path, encoder: Encoder, tmp_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    photos, files = str(_photos(tmp_path / "photos")), [tmp_path / f"{k}{suffix}" for k in range(4)]
    embed(encoder, photos, files[0])
    embed(encoder, photos, files[1])
    embed(encoder, photos, files[2], readout="spatial")
    embed(load_encoder(run)[0], photos, files[3])
    assert len({read_features(file).encoder for file in files}) == 3
    command = ["neighbors", str(files[0]), "--out", str(tmp_path / "sheet.png"), "--query"]
    _run(*command, str(files[1]))
    with pytest.raises(ValueError, match="query: expected features of the same encoder and readout, .*another one"):
        CliRunner().invoke(app, [*command, str(files[3])], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--query", "green"], "no image whose name contains 'green'"),
        (["--k", "0"], "k: expected at least one, got 0"),
        (["--out", "sheet.gif"], "out: expected a file with suffix .png or .html"),
        (["--data", "digits"], "data: digits has no image"),
    ],
)
def test_neighbors_that_cannot_be_drawn(arguments: list[str], text: str, run: Path, tmp_path: Path) -> None:
    features = tmp_path / "f.npz"
    _run("embed", str(run), "--data", str(_photos(tmp_path / "photos")), "--out", str(features))
    with pytest.raises(ValueError, match=re.escape(text)):
        CliRunner().invoke(app, ["neighbors", str(features), *arguments], catch_exceptions=False)


def test_models_that_are_no_run(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    out = tmp_path / "f.npz"
    photos = str(_photos(tmp_path / "photos"))
    with pytest.raises(ValueError, match="size: expected the size in pixels"):
        CliRunner().invoke(
            app, ["embed", "timm:resnet10t", "--data", photos, "--out", str(out)], catch_exceptions=False
        )
    _run("embed", "timm:resnet10t", "--size", "32", "--data", photos, "--out", str(out))
    assert read_features(out).features.shape == (12, 512)
    assert fastssl.data.open(photos).name == "photos"


@pytest.mark.parametrize("command", ["embed", "evaluate"])
def test_names_that_are_no_run_say_what_is_expected(command: str, tmp_path: Path) -> None:
    more = ["--data", "digits", "--out", str(tmp_path / "f.npz")]
    for name, what in (("vit", ", an architecture without weights"), ("runs/none", "")):
        error = CliRunner().invoke(app, [command, name, *more]).exception
        assert isinstance(error, FileNotFoundError)
        assert str(error).startswith("checkpoint: expected a run (the folder that fastssl pretrain has written, ")
        assert str(error).endswith(f"or huggingface:NAME, got {name!r}{what}")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_feature_files_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"features{suffix}"
    write_features(path, [np.ones((40, 3), np.float32)], 40, 3, [str(k) for k in range(40)], None, {})
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=re.escape(f"features{suffix}' is no feature file")):
            read_features(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_names_that_are_no_utf8_are_kept_and_drawn(suffix: str, encoder: Encoder, tmp_path: Path) -> None:
    photos = _photos(tmp_path / "photos", 3)
    odd = photos / os.fsdecode(b"x\xff.png")
    next(photos.rglob("*.png")).rename(odd)
    features, page = tmp_path / f"f{suffix}", tmp_path / "page.html"
    embed(encoder, str(photos), features)
    assert odd.name in read_features(features).names
    _run("neighbors", str(features), "--query", "x", "--out", str(page))
    assert "x\\udcff.png" in page.read_text()


def test_word_vectors_embed_no_images(tmp_path: Path) -> None:
    Word2Vec(dim=8, epochs=1).fit([["one", "two", "three", "four"]] * 40, out=tmp_path / "run")
    with pytest.raises(ValueError, match="checkpoint: word2vec has no encoder of images; .*load_word_vectors"):
        arguments = ["embed", str(tmp_path / "run"), "--data", "digits", "--out", str(tmp_path / "f.npz")]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
