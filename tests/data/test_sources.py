"""Sources: what people have in their hands gives the same items, batches and weights, whatever it is kept in."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import fastssl.data
from fastssl.augment import SimCLRAugment
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import (
    ArraySource,
    ConcatSource,
    FileSource,
    ImageError,
    Item,
    Loader,
    PackedImages,
    ShardError,
    ShardSource,
    Source,
    Subset,
    listing,
    open_splits,
    pack_source,
    prefetch_items,
    read_image,
    text_files,
    write_shards,
)
from fastssl.data.files import PathSource, each_once
from fastssl.data.opening import parts_of
from fastssl.data.packed import pack
from fastssl.data.parts import PARTS, find_part
from fastssl.data.source import CheckedSource
from fastssl.data.text_parts import text_parts
from fastssl.evaluate import evaluate
from fastssl.methods import SimCLR, get, methods_of
from fastssl.models import build_encoder
from fastssl.train import Pretraining, load_checkpoint, pretrain
from tests.support.subjects import slow_but_one

COUNT = 12


def pictures() -> list[np.ndarray]:
    """Images of several sizes, smooth enough for every method."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        made.append(np.asarray(coarse.resize((40 + 2 * k, 70 - 2 * k), Image.Resampling.BICUBIC)))
    return made


IMAGES, LABELS = pictures(), np.arange(COUNT) // 6
CLASSES, TEXTS = ["cats", "dogs"], [f"picture {k}" for k in range(COUNT)]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in every kind of thing that keeps images."""
    root = tmp_path_factory.mktemp("places")
    for k, image in enumerate(IMAGES):
        path = root / "folder" / CLASSES[LABELS[k]] / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        path.with_suffix(".txt").write_text(TEXTS[k])
    source = fastssl.data.open(root / "folder")
    pack_source(source, root / "all.pack")
    write_shards(source.items(range(COUNT)), root / "shards", per_shard=5)
    names = [f"folder/{CLASSES[LABELS[k]]}/{k:02}.png" for k in range(COUNT)]
    rows = [{"path": n, "label": CLASSES[c], "text": t} for n, c, t in zip(names, LABELS, TEXTS)]
    (root / "list.csv").write_text("path,label,text\n" + "".join(",".join(row.values()) + "\n" for row in rows))
    (root / "list.json").write_text(json.dumps(rows))
    (root / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


class MapStyle(torch.utils.data.Dataset[Any]):
    classes, targets = CLASSES, LABELS.tolist()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return {"image": Image.fromarray(IMAGES[index]), "label": int(LABELS[index]), "text": TEXTS[index]}


SOURCES: dict[str, Callable[[Path], Any]] = {
    "folder": lambda root: root / "folder",
    "packed file": lambda root: str(root / "all.pack"),
    "folder of shards": lambda root: root / "shards",
    "pattern of shards": lambda root: f"{root}/shards/*.tar",
    "CSV": lambda root: root / "list.csv",
    "JSON": lambda root: root / "list.json",
    "JSON lines": lambda root: root / "list.jsonl",
    "arrays": lambda root: ArraySource(IMAGES, LABELS, CLASSES, texts=TEXTS),
    "data set": lambda root: MapStyle(),
    "DataLoader": lambda root: torch.utils.data.DataLoader(MapStyle(), batch_size=4),
    "loader": lambda root: Loader(root / "folder", SimCLRAugment(16), 4),
    "subset": lambda root: fastssl.data.open(root / "folder").subset(np.arange(COUNT)[::-1]).subset(
        np.arange(COUNT)[::-1]
    ),
    "joined": lambda root: ConcatSource(
        [fastssl.data.open(root / "folder").subset(r) for r in (range(5), range(5, COUNT))]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_give_the_same_items(kind: str, places: Path) -> None:
    source = fastssl.data.open(SOURCES[kind](places))
    assert len(source) == COUNT and source.labels is not None and source.labels.tolist() == LABELS.tolist()
    if kind not in ("folder of shards", "pattern of shards"):  # which keep the classes' numbers
        assert list(source.classes) == CLASSES
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint == source.fingerprint and len(source.name_of(3)) > 0
    with ThreadPoolExecutor(4) as pool:
        items = list(pool.map(copy.read, list(range(COUNT)) * 3))
    for k, item in enumerate(items):
        (image,) = item.images or ()
        assert np.array_equal(image[:, :, :3], IMAGES[k % COUNT])
        assert item.label == LABELS[k % COUNT] and item.text == TEXTS[k % COUNT]
    for index in (-1, COUNT):
        with pytest.raises(IndexError, match=f"got {index}"):
            source.read(index)


@pytest.mark.parametrize("kind", [k for k in SOURCES if k not in ("data set", "DataLoader")])
def test_fingerprints_change_with_the_items(kind: str, places: Path) -> None:
    source = fastssl.data.open(SOURCES[kind](places))
    others = {source.subset(range(COUNT - 1)).fingerprint, source.subset([1, 0, *range(2, COUNT)]).fingerprint}
    assert len(others | {source.fingerprint}) == 3


HELD: dict[str, Any] = {
    "array": np.stack([image[:40, :40] for image in IMAGES]),
    "channels first": torch.from_numpy(np.stack([image[:40, :40].transpose(2, 0, 1) for image in IMAGES])),
    "floats": torch.from_numpy(np.stack([image[:40, :40] for image in IMAGES])).float() / 255,
    "grey": np.stack([image[:40, :40, 0] for image in IMAGES])[:, None],
    "pictures of several sizes": [Image.fromarray(image) for image in IMAGES],
    "arrays of several sizes": IMAGES,
}


@pytest.mark.parametrize("kind", HELD)
def test_pretraining_and_features_of_what_is_in_memory(kind: str, tmp_path: Path) -> None:
    from fastssl.evaluate import encode

    encoder = {"name": "resnet", "size": 16, "width": 4}
    method = pretrain(SimCLR(build_encoder(encoder)), HELD[kind], Pretraining(epochs=1, batch_size=6), out=tmp_path)
    features = encode(method.encoder, HELD[kind], "pooled")  # type: ignore[arg-type]
    assert features.shape == (COUNT, 16) and bool(torch.isfinite(features).all())
    if kind == "floats":
        torch.testing.assert_close(features, encode(method.encoder, HELD["array"], "pooled"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", slow_but_one(methods_of("images"), lambda name: (get(name).__mro__[1], get(name).needs_dataset_features))
)
def test_every_method_trains_and_resumes_on_files_packed_files_and_shards(
    name: str, places: Path, tmp_path: Path
) -> None:
    """The same weights from each of them, with another number of threads and stopped in the middle of an epoch."""
    options = encoder_for(name, None, 32, 4)

    def run(kind: str, out: str, **more: Any) -> dict[str, torch.Tensor]:
        source = fastssl.data.open(SOURCES[kind](places))
        method = build_method(name, options, source, 0)
        if method.needs_dataset_features:
            method.clusters = 3  # type: ignore[assignment]
        settings = Pretraining(epochs=1, batch_size=4, warmup_epochs=1, workers=1 if kind == "folder" else 3)
        pretrain(method, source, settings, out=tmp_path / out, encoder_options=options, **more)
        return method.state_dict()

    def stop(progress: Any) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    expected = run("folder", "folder")
    for kind in ("packed file", "folder of shards"):
        if kind == "packed file":
            with pytest.raises(KeyboardInterrupt):
                run(kind, kind, on_step=stop)
        given = run(kind, kind, resume=True)
        assert all(torch.equal(expected[key], given[key]) for key in expected)


def test_views_are_cropped_from_the_pixels_of_the_file(tmp_path: Path) -> None:
    """Of a run at 224 pixels: bit for bit those of the decoded photograph, which those of a thumbnail are not."""
    for k in range(4):
        rng = np.random.default_rng(k)
        noise = Image.fromarray(rng.integers(0, 256, (94, 125, 3), dtype=np.uint8))
        noise.resize((500, 375), Image.Resampling.BICUBIC).save(tmp_path / f"{k}.jpg", quality=92)
    method = get("simclr")(build_encoder({"name": "resnet", "size": 224, "width": 4}))
    (batch,) = Loader(tmp_path, method, 4, seed=3, draft=False)
    thumbnails = False
    for row, index in enumerate(batch.ids.tolist()):
        image = np.asarray(Image.open(tmp_path / f"{index}.jpg"))
        small = np.asarray(Image.fromarray(image).resize((85, 64), Image.Resampling.BICUBIC))
        for k, view in enumerate(batch.views):
            assert torch.equal(view[row], method.augment.view(k, image, seed=3, ids=[index]))
            other = method.augment.view(k, small, seed=3, ids=[index])
            thumbnails |= float((view[row] - other).abs().mean()) < 0.01
    assert not thumbnails


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_get_equally_many_rows(world: int, drop_last: bool) -> None:
    images = np.zeros((29, 8, 8, 3), np.uint8)
    loaders = [
        Loader(images, SimCLRAugment(8), 2 * world, drop_last=drop_last, rank=r, world_size=world) for r in range(world)
    ]
    batches = [[batch.ids.tolist() for batch in loader] for loader in loaders]
    assert len({tuple(map(len, own)) for own in batches}) == 1 and all(len(ids) > 0 for own in batches for ids in own)
    seen = [i for own in batches for ids in own for i in ids]
    assert len(set(seen)) == (29 - 29 % (2 * world) if drop_last else 29)


# What lies in a folder.


def save(path: Path, image: np.ndarray | Image.Image = IMAGES[0]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)


def test_nothing_is_lost_without_a_word(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for name in ("a/1.png", "a/2.JPG", "a/3.pgm", "b/4.webp", "b/deep/er/5.bmp"):
        save(root / name, IMAGES[0][:, :, 0] if name.endswith("pgm") else IMAGES[0])
    (root / "a" / "6.jfif").write_bytes((root / "a" / "2.JPG").read_bytes())
    save(elsewhere / "7.png")
    (root / "c").symlink_to(elsewhere)  # a class that lies somewhere else
    (root / "b" / "loop").symlink_to(root)
    (root / "b" / "gone.png").symlink_to(tmp_path / "gone.png")
    save(root / ".ipynb_checkpoints" / "x.png")
    (root / "a" / "._1.jpg").write_bytes(b"")
    (root / "a" / "notes.md").write_text("")
    (root / "a" / "8.heic").write_bytes(b"x")
    source = fastssl.data.open(root)
    assert isinstance(source, FileSource) and list(source.classes) == ["a", "b", "c"]
    found = [source.name_of(k) for k in range(len(source))]
    assert found == ["a/1.png", "a/2.JPG", "a/3.pgm", "a/6.jfif", "b/4.webp", "b/deep/er/5.bmp", "c/7.png"]
    heic = {".heic: needs a plugin of Pillow (pillow-heif)": 1} if ".heic" not in listing.readable() else {}
    skipped = {"hidden": 2, "no image": 1, "a link to nothing": 1, "a link to a folder above it": 1, **heic}
    assert source.skipped == skipped or not heic
    assert source.items(range(7))[2].images[0].shape[2] == 1  # type: ignore[index]


# Each place in a process of its own, forked from one that has imported what they share.
IN_PROCESSES = """
import os, sys, torch, PIL.Image, fastssl.data
open = fastssl.data.open
for place in sys.argv[1:]:
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    image = open(place).read(0).images[0]
    print(image[..., :3].tolist() == [[[9, 8, 7]] * 4] * 3, flush=True)
    os._exit(0)
"""


def test_plugins_of_pillow_are_loaded_wherever_their_files_are(tmp_path: Path) -> None:
    """Not only where a folder is listed: in a process of its own, in which no plugin is loaded."""
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image, PpmImagePlugin\n"
        "class Made(PpmImagePlugin.PpmImageFile):\n    format = 'MADE'\n"
        "    def _open(self):\n        self._size, self._mode, self.tile = (4, 3), 'RGB', []\n"
        "    def load(self):\n        self.im = Image.new('RGB', (4, 3), (9, 8, 7)).im\n"
        "def register_heif_opener():\n"
        "    Image.register_open('MADE', Made, lambda start: start.startswith(b'made'))\n"
        "    Image.register_extension('MADE', '.heic')\n"
    )
    (tmp_path / "0.heic").write_bytes(b"made of nothing")
    (tmp_path / "list.csv").write_text("path,label\n0.heic,1\n")
    search = os.pathsep.join([str(tmp_path), *sys.path])
    places = [str(tmp_path / place) for place in ("0.heic", "list.csv", ".")]
    command = [sys.executable, "-c", IN_PROCESSES, *places]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True)
    assert done.stdout == "True\n" * len(places), done.stderr


@pytest.mark.parametrize(("name", "plugin"), [("a.heic", "pillow-heif"), ("a.JXL", "pillow-jxl-plugin")])
def test_plugins_of_pillow_are_named(name: str, plugin: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ImageError, match=f"{name}: cannot be read as an image .*; its plugin: pip install {plugin}"):
        fastssl.data.open(tmp_path / name).read(0)


def test_long_listings_are_remembered_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "REMEMBERED", 3)
    for k in range(4):
        save(tmp_path / "data" / f"{k % 2}" / f"{k}.png")
    first = fastssl.data.open(tmp_path / "data")
    looked: list[str] = []
    real = listing._look_into
    monkeypatch.setattr(listing, "_look_into", lambda root, own: looked.append(own) or real(root, own))
    second = fastssl.data.open(tmp_path / "data")
    assert looked == [] and second.fingerprint == first.fingerprint
    assert [second.name_of(k) for k in range(4)] == ["0/0.png", "0/2.png", "1/1.png", "1/3.png"]
    save(tmp_path / "data" / "1" / "5.png")
    assert len(fastssl.data.open(tmp_path / "data")) == 5 and sorted(looked) == ["", "0", "1"]


def test_parts_of_a_folder(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        for c in ("x", "y"):
            for k in range(count):
                save(tmp_path / part / c / f"{k}.png")
    assert len(fastssl.data.open(tmp_path)) == 6 and list(fastssl.data.open(tmp_path).classes) == ["x", "y"]
    assert len(fastssl.data.open(tmp_path, part="test")) == 4
    task = open_splits(tmp_path)
    assert (len(task.train), len(task.test)) == (6, 4)


@pytest.mark.parametrize(
    ("folders", "images", "texts"),
    [
        (("train", "val", "test"), "val", "test"),
        (("Train", "Test", "more"), None, "Test"),
        (("TRAINING", "dev"), "dev", "dev"),
        (("train", "Train", "validation", "valid"), "validation", "validation"),
        (("train", "more"), None, None),
    ],
)
def test_parts_of_images_and_texts_have_the_same_names(
    folders: tuple[str, ...], images: str | None, texts: str | None, tmp_path: Path
) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    expected = None if images is None else (str(tmp_path / folders[0]), str(tmp_path / images))
    assert parts_of(tmp_path) == expected
    names = text_parts(str(tmp_path))
    assert (names and tuple(find_part(names, part) for part in PARTS)) == (texts and (folders[0], texts))


def test_names_are_names_and_paths_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("digits", "emoji-mine"):
        save(tmp_path / name / "a.png")
    monkeypatch.chdir(tmp_path)
    assert fastssl.data.open("digits").embedded == "digits"
    for path in ("./digits", tmp_path / "digits", "emoji-mine"):
        source = fastssl.data.open(path)
        assert source.embedded is None and len(source) == 1 and source.labels is None
    with pytest.raises(FileNotFoundError, match="'emojo'.*did you mean 'emoji'"):
        fastssl.data.open("emojo")
    with pytest.raises(TypeError, match="data: expected a name, .* got int"):
        fastssl.data.open(3)
    with pytest.raises(ValueError, match="labels: expected None, emoji-train has its own labels"):
        fastssl.data.open("emoji", labels=[1])


# Images of every kind.


@pytest.mark.parametrize("number", range(1, 9))
def test_exif_turns_images_as_pillow_says(number: int, tmp_path: Path) -> None:
    image = Image.fromarray(IMAGES[3])
    exif = Image.Exif()
    exif[0x0112] = number
    image.save(tmp_path / "x.png", exif=exif)
    image.save(tmp_path / "x.jpg", exif=exif, quality=100)
    for name in ("x.png", "x.jpg"):
        with Image.open(tmp_path / name) as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened))
            plain = np.asarray(opened.copy())
        reduce = Mock(return_value=1)
        given = read_image(tmp_path / name, reduce=reduce)
        assert np.array_equal(given, expected) and given.flags.c_contiguous
        assert reduce.call_args_list == ([call(expected.shape[:2])] if name.endswith("jpg") else [])
        assert np.array_equal(read_image(tmp_path / name, orientation=False), plain)
        shared = fastssl.data.open(tmp_path / name).read(0).images[0]  # type: ignore[index]
        assert np.array_equal(shared[:, :, :3], expected)


def test_modes_are_defined(tmp_path: Path) -> None:
    rgb = IMAGES[0]
    grey = rgb[:, :, 0]
    levels = np.linspace(0, 4095, grey.size).reshape(grey.shape).astype(np.uint16)
    colors = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE)
    palette = np.asarray(Image.fromarray(grey).quantize(16).convert("L"))
    cases: dict[str, tuple[Image.Image, str, np.ndarray]] = {
        "grey with alpha": (Image.fromarray(np.dstack([grey, grey])), "png", grey[:, :, None]),
        "palette with transparency": (colors, "png", np.asarray(colors.convert("RGB"))),
        "palette of greys": (Image.fromarray(grey).convert("P"), "png", grey[:, :, None]),
        "animated palette of greys": (Image.fromarray(grey).quantize(16), "gif", palette[:, :, None]),
        "one bit": (Image.fromarray(grey > 99), "png", np.uint8(255) * (grey > 99)[:, :, None]),
        "one bit, bitmap": (Image.fromarray(grey > 99), "bmp", np.uint8(255) * (grey > 99)[:, :, None]),
        "16 bits": (Image.fromarray(levels << 4), "png", ((levels << 4) / 257).round().astype(np.uint8)[:, :, None]),
        "floats": (Image.fromarray((grey / 255).astype(np.float32)), "tif", grey[:, :, None]),
        "one pixel": (Image.fromarray(rgb[:1, :1]), "png", rgb[:1, :1]),
    }
    for name, (image, ending, expected) in cases.items():
        options = {"transparency": 3} if name.endswith("transparency") else {}
        image.save(tmp_path / f"x.{ending}", **options)
        assert np.array_equal(read_image(tmp_path / f"x.{ending}"), expected), name
    cmyk = Image.fromarray(rgb).convert("CMYK")
    cmyk.save(tmp_path / "x.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "x.jpg").astype(int) - rgb).mean() < 3
    frames = [Image.fromarray(np.full((8, 8, 3), v, np.uint8)) for v in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert int(read_image(tmp_path / "x.gif").max()) == 10  # the first frame
    Image.fromarray(np.array([[-1.0, 0.5]], np.float32)).save(tmp_path / "bad.tif")
    with pytest.raises(
        ImageError, match=r"bad\.tif: expected floats in \[0, 1\], or uint8, got -1 to 0.5; .*#range=LOW,HIGH"
    ):
        read_image(tmp_path / "bad.tif")


@pytest.mark.parametrize("held", [False, True])
def test_files_that_are_no_images_say_what_they_are(held: bool, tmp_path: Path) -> None:
    """Downloads leave such files: pages of errors, pointers of Git LFS, files of no bytes."""
    cases = {
        b"": "the file is empty",
        b"<!DOCTYPE html>...": "begins with b'<!DOCTYPE html>",
        b"version https": "b'version",
    }
    for content, said in cases.items():
        (tmp_path / "x.jpg").write_bytes(content)
        with pytest.raises(ImageError, match=rf"x\.jpg: cannot be read as an image \(.*{re.escape(said)}"):
            read_image(content if held else tmp_path / "x.jpg", name="x.jpg")


@pytest.mark.parametrize("greys", [False, True])
def test_palettes_with_alpha_are_read_without_a_warning(greys: bool, tmp_path: Path) -> None:
    from fastssl.augment import Augment, CenterCrop

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels[:, :, 0]).convert("P") if greys else Image.fromarray(pixels).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    image.save(tmp_path / "x.png", transparency=bytes([0, 128, 255]))  # an alpha for each of the first colours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_image(tmp_path / "x.png"), expected[:, :, :1] if greys else expected)
        with Image.open(tmp_path / "x.png") as opened:
            Augment([CenterCrop(8)])([opened], seed=0)
            assert np.asarray(opened.convert("RGBA"))[:, :, 3].min() < 255  # the caller's has its alpha


# What is damaged.


def test_shards_that_end_too_early(places: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Python's tarfile takes a cut or damaged header for the end of the archive."""
    whole = (places / "shards" / "00000.tar").read_bytes()
    with tarfile.open(places / "shards" / "00000.tar") as archive:
        headers = [member.offset for member in archive]
    path = tmp_path / "a.tar"
    for k, header in enumerate(headers[1:]):
        path.write_bytes(whole[: header + 100])
        with pytest.raises(ShardError, match=r"a\.tar: cut off at byte"):
            ShardSource([path])
        if k:
            path.write_bytes(whole[:header] + b"x" * 512 + whole[header + 512 :])
            with pytest.raises(ShardError, match=rf"a\.tar: damaged at byte {header:,}"):
                ShardSource([path])
    assert not caplog.text
    path.write_bytes(whole[: headers[-1]])  # between two files: perhaps on purpose
    assert len(ShardSource([path])) in (4, 5) and "a.tar: has no mark of its end" in caplog.text


def test_order_of_files_and_folders(tmp_path: Path) -> None:
    names = [
        "b.png",
        "b/a.png",
        "b/z/y.png",
        "b.d/c.png",
        "a/b.png",
        "a.png",
        "c/d/e/f.png",
        "B.png",
        "b/0.png",
        "z.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "b" / "a.txt").write_text("a text")
    source = fastssl.data.open(tmp_path)
    expected = sorted(names, key=lambda name: name.split("/"))
    assert [source.name_of(k) for k in range(len(source))] == expected
    assert [source.read(k).text for k in range(len(source))] == ["a text" if n == "b/a.png" else None for n in expected]


def test_grey_arrays_without_an_axis_of_channels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 27), dtype=np.uint8)
    for given in (images, torch.from_numpy(images), images / np.float32(255)):
        source = fastssl.data.open(given)
        assert len(source) == 5 and np.array_equal(source.read(3).images[0], images[3, :, :, None])  # type: ignore[index]
    with pytest.raises(ValueError, match=r"expected \[N, H, W, C\].* got shape \(28, 27, 3\)"):
        fastssl.data.open(np.zeros((28, 27, 3), np.uint8))


def test_damaged_shards_are_named(places: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes((places / "shards" / "00000.tar").read_bytes())
    whole = ShardSource([path])
    assert path.with_name("a.tar.index.json").is_file()
    assert len(ShardSource([path])) == len(whole) == 5  # by its index
    path.write_bytes(path.read_bytes()[:3000])  # its index is of another file: it is looked through again
    with pytest.raises(ShardError, match=r"a\.tar: .*cut off"):
        ShardSource([path])
    with pytest.raises(ShardError, match=r"a\.tar: .*: the shard is cut off"):
        whole.read(4)
    (tmp_path / "b.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ShardError, match=r"b\.tar: no tar file"):
        ShardSource([tmp_path / "b.tar"])
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        for name in ("1.png", "1.jpg"):
            about = tarfile.TarInfo(name)
            about.size = 3
            archive.addfile(about, io.BytesIO(b"abc"))
    with pytest.raises(ShardError, match="two images are called '1'"):
        ShardSource([tmp_path / "c.tar"])


def test_shards_where_nothing_can_be_written(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSSL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.tar"
    path.write_bytes((places / "shards" / "00000.tar").read_bytes())
    real = Path.write_text

    def refuse(self: Path, *arguments: Any, **options: Any) -> int:
        if self.parent == tmp_path:
            raise PermissionError(13, "read-only", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", refuse)
    assert len(ShardSource([path])) == 5
    assert len(os.listdir(tmp_path / "cache" / "shards")) == 1 and not (tmp_path / "a.tar.index.json").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("name,label\na.png,1\n", r"expected a column of texts \(text, .* or of paths"),
        ("label,text\na\n", "row 1: expected a string in column text, got None"),
        ("path,label\n", "expected rows"),
        ("path,label\n,1\n", "row 1 has no path"),
    ],
)
def test_bad_tables_are_named(content: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"list\.csv: .*{match}"):
        fastssl.data.open(tmp_path / "list.csv")


@pytest.mark.parametrize("given", [["a cat", 3], {"en": "a cat"}, 7])
def test_texts_of_images_are_strings(given: Any, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    rows = [{"path": "a.png", "text": ["a cat", "a pet"]}, {"path": "a.png", "text": given}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError) as caught:
        fastssl.data.open(tmp_path / "list.jsonl")
    wanted = f"row 2: expected a string, or a list of strings, in column text, got {given!r}"
    assert str(caught.value) == f"{tmp_path / 'list.jsonl'}: {wanted}"
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(TypeError, match="^item 1: expected a string as text, got "):
        fastssl.data.open([{"image": pixels, "text": "a cat"}, {"image": pixels, "text": given}]).read(1)


def test_an_image_with_several_texts_is_evaluated_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table has a row for each text: rows of one image were trained and tested on."""
    rows = ["path,text,label"]
    for k in range(10):
        save(tmp_path / "sub" / f"{k}.png")
        rows += [f"{place}/{k}.png,text {k} {place},{k % 2}" for place in ("sub", "./sub", "sub/../sub")]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    assert len(fastssl.data.open(tmp_path / "list.csv")) == 30
    task = open_splits(tmp_path / "list.csv")
    names = [{os.path.normpath(part.path(k)) for k in range(len(part))} for part in (task.train, task.test)]  # type: ignore[attr-defined]
    assert [len(task.train), len(task.test)] == [8, 2] == [len(part) for part in names] and not names[0] & names[1]
    assert "list: 20 items share an image with an earlier one and are not evaluated" in caplog.text
    encoder = build_encoder(encoder_for("simclr", None, 32, 4))
    (tmp_path / "once.csv").write_text("\n".join(rows[:1] + rows[1::3]))
    caplog.clear()
    first, second = (evaluate(encoder, None, tmp_path / name, rows=("pixels",)) for name in ("list.csv", "once.csv"))
    assert first == second
    assert caplog.text.count("items share an image") == 1
    (tmp_path / "list.csv").write_text("path,label\nsub/0.png,0\nsub/0.png,1\nsub/1.png,1\n")
    with pytest.raises(ValueError, match=r"expected one class per image to evaluate on, sub/0.png of list has several"):
        open_splits(tmp_path / "list.csv")


def test_paths_of_folders_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder cannot list a file twice."""
    for k in range(6):
        save(tmp_path / "images" / f"c{k % 2}" / f"{k}.png")
    paths = [str(path) for path in sorted((tmp_path / "images").rglob("*.png"))]
    asked: list[int] = []
    path_of = PathSource.path

    def recorded(self: PathSource, index: int) -> str:
        asked.append(index)
        return path_of(self, index)

    monkeypatch.setattr(PathSource, "path", recorded)
    source = fastssl.data.open(tmp_path / "images")
    assert each_once(source) is source and not asked
    listed = fastssl.data.open([*paths, paths[0]])
    assert len(each_once(listed)) == 6 and len(asked) == 7


def test_a_folder_of_images_is_no_longer_listed_for_texts_than_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def entries(folder: str) -> Iterator[tuple[str, bool]]:
        for name in ("a.txt", ".hidden", "b.txt", "c.png", "d.txt", "folder"):
            seen.append(name)
            yield name, name == "folder"

    monkeypatch.setattr(text_files, "each_entry", entries)
    assert not text_files.holds_texts(str(tmp_path)) and seen[-1] == "c.png"


def test_what_a_method_needs_is_asked_for_before_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for k in range(4):
        save(tmp_path / "data" / f"{k}.png")
    for name, match in (("clip", "clip needs a text"), ("sup-con", "sup-con needs a label")):
        with pytest.raises(ValueError, match=f"data: {match} with each item, 0.png of data has none"):
            method = get(name)(build_encoder(encoder_for(name, None, 32, 4)))
            pretrain(method, tmp_path / "data", Pretraining(epochs=1), out=tmp_path / "out")
    (tmp_path / "data" / "2.png").write_bytes(b"no image")
    method = get("simclr")(build_encoder(encoder_for("simclr", None, 32, 4)))
    with pytest.raises(ImageError, match=r"2\.png") as caught:
        pretrain(method, tmp_path / "data", Pretraining(epochs=1), out=tmp_path / "raise")
    broken = str(caught.value)
    counts: list[int] = []
    options = Pretraining(epochs=2, on_error="skip")
    pretrain(
        method,
        tmp_path / "data",
        options,
        out=tmp_path / "skip",
        on_step=lambda progress: counts.append(progress.skipped),
    )
    state = load_checkpoint(tmp_path / "skip")[1]
    assert state["unreadable"] == [2] and counts == [1, 1]  # the same one in both epochs
    messages = [record.getMessage() for record in caplog.records]  # Fabric's own among them
    assert [m for m in messages if m.startswith("skipped")] == [f"skipped: {broken}"]


def test_folders_without_images_say_what_they_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected images \(.*\) in '.*', found none; a folder of texts is text:/"):
        fastssl.data.open(tmp_path)
    (tmp_path / "a.md").write_text("x")
    (tmp_path / ".b.png").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"found none \(left out: (1 hidden, 1 no image|1 no image, 1 hidden)\); a folder of texts"
    ):
        fastssl.data.open(tmp_path)


def test_data_that_shrinks_is_not_gone_on_with(tmp_path: Path) -> None:
    for k in range(6):
        save(tmp_path / "data" / f"{k}.png")
    encoder = {"name": "resnet", "size": 16, "width": 4}

    def run(**more: Any) -> None:
        method = SimCLR(build_encoder(encoder))
        pretrain(method, tmp_path / "data", Pretraining(epochs=1, batch_size=3), out=tmp_path / "out", **more)

    run()
    (tmp_path / "data" / "5.png").unlink()
    with pytest.raises(ValueError, match="data: the checkpoint was made with data of 6 items, got data of 5"):
        run(resume=True)


@pytest.mark.parametrize("what", ["listing", "index"])
def test_a_full_disk_costs_what_would_have_been_remembered_alone(
    what: str, places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FASTSSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "REMEMBERED", 3)
    full = Mock(side_effect=OSError(28, "No space left on device"))
    if what == "listing":
        monkeypatch.setattr(np, "savez", full)
        assert len(fastssl.data.open(places / "folder")) == COUNT
    else:
        (tmp_path / "a.tar").write_bytes((places / "shards" / "00000.tar").read_bytes())
        monkeypatch.setattr(Path, "write_text", full)
        assert len(fastssl.data.open(tmp_path / "a.tar")) == 5
    (record,) = caplog.records
    assert "cannot be stored (" in record.getMessage() and "No space left on device" in record.getMessage()
    assert full.called and not list(tmp_path.rglob("*.tmp*"))


def test_sources_without_images_are_refused_where_images_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data: expected items with images"):
        pack_source(fastssl.data.tones(4), tmp_path / "x.pack")
    with pytest.raises(ValueError, match=r"items: expected images, item \d has none"):
        list(Loader(fastssl.data.tones(4), SimCLRAugment(8), 4))


def test_two_drawings_survive_packing(tmp_path: Path) -> None:
    source = fastssl.data.emoji().subset(range(5))
    packed = PackedImages(pack_source(source, tmp_path / "five.pack"))
    assert len(packed) == 5 and packed.images_per_item == 2
    for own, other in zip(prefetch_items(source), prefetch_items(packed)):
        assert own.name == other.name and own.text == other.text and own.label == other.label
        assert all(np.array_equal(a, b) for a, b in zip(own.images or (), other.images or ()))


def test_packing_says_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    several = ArraySource(IMAGES[:3], labels=[[1, 0], [1, 1], [0, 1]], classes=["a", "b"], name="three")
    assert PackedImages(pack_source(several, tmp_path / "x.pack")).labels is None
    assert caplog.messages == ["three has several classes per item, which a packed file does not hold"]
    pack_source(fastssl.data.scenes(2, size=64), tmp_path / "x.pack")
    assert caplog.messages[1:] == ["scenes has boxes or masks, which a packed file does not hold"]


def test_sources_of_ones_own(tmp_path: Path) -> None:
    class Mine(Source):
        name = "mine"

        def __len__(self) -> int:
            return 6

        def read(self, index: int, reduce: Any = None) -> Item:
            return Item(images=(IMAGES[index],), name=str(index))

    pretrain(
        SimCLR(build_encoder({"name": "resnet", "size": 16, "width": 4})),
        Mine(),
        Pretraining(epochs=1, batch_size=6),
        out=tmp_path,
    )
    assert load_checkpoint(tmp_path)[1]["source"]["items"] == 6


def test_sources_know_which_rows_list_an_image_again(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / f"{k}.png")
    rows = [(k, place) for k in (2, 0, 2, 1, 0, 3) for place in ("", "./")][:-1]
    (tmp_path / "list.csv").write_text("\n".join(["path,text", *(f"{place}{k}.png,{k} {place}" for k, place in rows)]))
    source = fastssl.data.open(tmp_path / "list.csv")

    def expected(files: list[int]) -> list[int]:
        return [files.index(file) for file in files]

    files = [k for k, _ in rows]
    kept = [10, 3, 2, 1, 9]
    for made, own in (
        (source, files),
        (source.subset(kept), [files[k] for k in kept]),
        (Subset(source, np.array(kept)), [files[k] for k in kept]),
        (CheckedSource(source, lambda _: None), files),
        (ConcatSource([source, source.subset([0, 5])]), [*files, 8, 8]),
    ):
        assert made.image_ids is not None and made.image_ids.tolist() == expected(own)
        assert [made.text_of(k) for k in range(len(made))] == [made.read(k).text for k in range(len(made))]
    assert source.subset(kept).columns == source.columns == "path from column 'path', text from column 'text'"  # type: ignore[attr-defined]
    assert source.subset([0, 2, 6]).image_ids is None and fastssl.data.open("emoji").image_ids is None
    images = [source.read(k).images[0] for k in range(len(source))]  # type: ignore[index]
    packed = pack(images, tmp_path / "a.pack", names=[str(k) for k in files], texts=[str(k) for k, _ in rows])
    assert PackedImages(packed).image_ids.tolist() == expected(files)  # type: ignore[union-attr]
    assert PackedImages(pack(images, tmp_path / "b.pack")).image_ids is None
