"""Pixels of more than 8 bits: one range of values for all images, whatever the values of each are."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastssl.data
from fastssl.augment import SimCLRAugment
from fastssl.data import ArraySource, Loader, PackedImages, ShardSource, open_splits, pack_source, value_range
from fastssl.data.opening import names_of

HEIGHT = 8


def _levels(values: Any, low: float, high: float) -> np.ndarray:
    """The oracle: a loop over Python's numbers."""
    made = [
        0 if v != v else round(255 * (min(max(v, low), high) - low) / (high - low)) for v in np.ravel(values).tolist()
    ]
    return np.array(made, np.uint8).reshape(np.shape(values))


def _pictures(dtype: type, largest: float) -> list[np.ndarray]:
    """Images of which each has another largest value, and all have the value 1000."""
    draws = np.random.default_rng(0)
    made = []
    for part in (0.4, 0.9, 1.0):
        image = draws.uniform(0, part * largest, (HEIGHT, HEIGHT + 1)).astype(dtype)
        image[0, 0], image[0, 1] = 1000, part * largest
        made.append(image)
    return made


def _save(images: list[np.ndarray], folder: Path, ending: str) -> Path:
    for k, image in enumerate(images):
        path = folder / f"{'ab'[k % 2]}" / f"{k}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == "npy":
            np.save(path, image)
        else:
            Image.fromarray(image).save(path)
    return folder


@pytest.mark.parametrize("ending", ("png", "tif", "npy"))
@pytest.mark.parametrize("asked", (None, (0, 4095), (500.5, 3000)))
def test_a_value_is_the_same_in_every_file(tmp_path: Path, ending: str, asked: Any) -> None:
    images = _pictures(np.uint16, 4096)
    source = fastssl.data.open(_save(images, tmp_path, ending), value_range=asked)
    low, high = asked or (0, 65535)
    of = {str(Path(name).stem): source.read(k).images[0] for k, name in enumerate(source.paths)}  # type: ignore
    for k, image in enumerate(images):
        assert np.array_equal(of[str(k)][:, :, 0], _levels(image, low, high))
    assert len({int(of[str(k)][0, 0, 0]) for k in range(3)}) == 1


@pytest.mark.parametrize("ending", ("tif", "npy"))
def test_floats_and_what_is_missing(tmp_path: Path, ending: str) -> None:
    images = _pictures(np.float32, 3000)
    images[0][1, :3] = np.nan, -np.inf, np.inf
    folder = _save(images, tmp_path, ending)
    with pytest.raises(ValueError, match=r"expected floats in \[0, 1\], or uint8, got .*#range=LOW,HIGH"):
        fastssl.data.open(folder).read(0)
    source = fastssl.data.open(f"{folder}#range=-100,2500")
    for k, image in enumerate(images):
        made = next(source.read(j).images[0] for j in range(3) if source.paths[j].endswith(f"{k}.{ending}"))  # type: ignore
        assert np.array_equal(made[:, :, 0], _levels(image, -100, 2500))
    assert np.all(np.diff(_levels(np.linspace(-200, 2600, 99), -100, 2500).astype(int)) >= 0)


@pytest.mark.parametrize(
    "dtype", (np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64)
)
def test_arrays_of_any_dtype_are_alike(dtype: type) -> None:
    values = np.arange(0, 256).reshape(1, 16, 16, 1)
    for given in (
        values.astype(dtype),
        torch.from_numpy(values.astype(dtype)).permute(0, 3, 1, 2),
        list(values.astype(dtype)),
    ):
        made = ArraySource(given, value_range=(10, 210)).read(0).images
        assert made is not None and np.array_equal(made[0], _levels(values[0], 10, 210))
    pairs = fastssl.data.open([(values[0].astype(dtype), 0)], value_range=(10, 210))
    assert np.array_equal(pairs.read(0).images[0], _levels(values[0], 10, 210))  # type: ignore[index]


def test_every_kind_of_data_has_the_range(tmp_path: Path) -> None:
    images = _pictures(np.uint16, 4095)
    folder = _save(images, tmp_path / "scans", "png")
    names = ["a/0.png", "b/1.png", "a/2.png"]
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{name},{name[0]}\n" for name in names))
    import tarfile

    with tarfile.open(tmp_path / "x.tar", "w") as shard:
        for name in names:
            shard.add(folder / name, name.replace("/", ""))
    np.savez(tmp_path / "d.npz", x=np.stack(images))
    np.save(tmp_path / "d.npy", np.stack(images)[..., None])
    clip = tmp_path / "clips" / "walk"
    clip.mkdir(parents=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(clip / f"{k}.png")
    expected = [_levels(image, 0, 4095) for image in images]
    prefix = str(tmp_path)
    for name in (
        "scans/list.csv#range=0,4095",
        "x.tar#range=0,4095",
        "d.npz#images=x:range=0,4095",
        "d.npy#range=0,4095",
        "clips/walk/*.png#range=0,4095",
        "clips/walk/1.png#range=0,4095",
    ):
        source = fastssl.data.open(f"{prefix}/{name}")
        assert source.value_range == (0, 4095) and str(source.where).endswith("range=0,4095"), name
        made = [item.images[0][:, :, 0] for item in source.items(range(len(source)))]  # type: ignore[index]
        wanted = expected if len(made) == 3 else expected[1:2]
        assert all(np.array_equal(a, b) for a, b in zip(made, wanted)), name
        again = fastssl.data.open(str(source.where))
        assert again.fingerprint == source.fingerprint
        other = fastssl.data.open(f"{prefix}/{name}".replace("4095", "4000"))
        assert other.fingerprint != source.fingerprint
    frames = fastssl.data.open(f"frames:{prefix}/clips#gap=1:range=0,4095")
    assert np.array_equal(frames.read(0).images[1][:, :, 0], expected[1])  # type: ignore[index]

    labelled = fastssl.data.open(f"{folder}#label=^(.):range=0,4095")
    assert labelled.classes == ["a", "b"] and labelled.value_range == (0, 4095)
    task = open_splits(f"{folder}#range=0,4095")
    assert task.train.value_range == task.test.value_range == (0, 4095)
    packed = PackedImages(pack_source(fastssl.data.open(f"{folder}#range=0,4095"), tmp_path / "x.pack"))
    assert np.array_equal(packed.read(0).images[0][:, :, 0], expected[0])  # type: ignore[index]
    assert packed.value_range == (0, 4095)
    again = fastssl.data.open(str(fastssl.data.open(tmp_path / "x.pack").where))
    assert str(again.where).endswith("x.pack#range=0,4095") and again.fingerprint == packed.fingerprint
    with pytest.raises(ValueError, match=r"value_range: expected None or that of .*, values from 0 to 4,095, got"):
        fastssl.data.open(tmp_path / "x.pack", value_range=(0, 4000))
    voc = tmp_path / "voc"
    for part, names in (("train", "ab"), ("val", "c")):
        _write(voc / "ImageSets" / "Main" / f"{part}.txt", "\n".join(names))
    (voc / "JPEGImages").mkdir()
    for name, image in zip("abc", images):
        Image.fromarray(image).save(voc / "JPEGImages" / f"{name}.png")
        size = f"<size><width>{image.shape[1]}</width><height>{image.shape[0]}</height></size>"
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
        annotation = f"<annotation>{size}<object><name>cell</name>{box}</object></annotation>"
        _write(voc / "Annotations" / f"{name}.xml", annotation)
    both = open_splits(f"voc:{voc}#classes=cell:range=0,4095")
    boxed = [fastssl.data.open(f"voc:{voc}#range=0,4095"), both.train, both.test]
    assert [source.value_range for source in boxed] == [(0, 4095)] * 3
    for source, wanted in zip(boxed, (expected[0], expected[0], expected[2])):
        assert np.array_equal(source.read(0).images[0][:, :, 0], wanted)  # type: ignore[index]
    batch = next(iter(Loader(f"{folder}#range=0,4095", SimCLRAugment(8), 2)))
    assert batch.views[0].shape == (2, 3, 8, 8)
    assert isinstance(fastssl.data.open(tmp_path / "x.tar", value_range=(0, 4095)), ShardSource)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_colours_are_scaled_too(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    made = fastssl.data.open(f"{tmp_path}#range=20,120").read(0).images[0]  # type: ignore[index]
    assert np.array_equal(made, _levels(image, 20, 120))


def test_colours_of_16_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    """Pillow has their upper 8 bits alone, of which a range would make something else."""
    pixels = np.random.default_rng(0).integers(0, 65536, (6, 7, 3), dtype=np.uint16)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 7, 6, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    monkeypatch.setattr(value_range, "_told", set())
    image = fastssl.data.open(tmp_path).read(0).images[0]  # type: ignore[index]
    assert np.abs(image[:, :, :3] - pixels / 257).max() < 1
    assert "colours of 16 bits are read as from 0 to 65,535" in caplog.text
    with pytest.raises(ValueError, match="colours of 16 bits, of which Pillow reads 8, .*; convert it to .npy"):
        fastssl.data.open(f"{tmp_path}#range=0,4095").read(0)


def test_the_range_that_is_used_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    from fastssl.cli.show import describe_source

    monkeypatch.setattr(value_range, "_told", set())
    _save(_pictures(np.uint16, 4095), tmp_path, "png")
    source = fastssl.data.open(tmp_path)
    with caplog.at_level(logging.WARNING):
        list(source.items(range(3)))
    (line,) = caplog.messages
    assert "0 to 65,535 (here " in line and "#range=LOW,HIGH" in line
    assert describe_source(fastssl.data.open(f"{tmp_path}#range=0,4095")).endswith("values from 0 to 4,095")


def test_ranges_that_are_none(tmp_path: Path) -> None:
    _save(_pictures(np.uint16, 4095), tmp_path, "png")
    for wrong in ("4095", "5,5", "9,1", "a,b", "0,1,2", "0,nan"):
        with pytest.raises(ValueError, match="data: expected #range=LOW,HIGH, two numbers, the lower one first"):
            fastssl.data.open(f"{tmp_path}#range={wrong}")
    for value in (4095, (5, 5), (0, float("inf")), "abc"):
        with pytest.raises(ValueError, match="value_range: expected two numbers, the lower one first, got"):
            fastssl.data.open(tmp_path, value_range=value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="value_range: expected one, got"):
        fastssl.data.open(f"{tmp_path}#range=0,1", value_range=(0, 2))
    for name in ("digits", "sotu"):
        for opened in (fastssl.data.open, open_splits):
            with pytest.raises(ValueError, match="value_range: expected None, .* has no pixels of more than 8 bits"):
                opened(f"{name}#range=0,4095")
    assert names_of("a#range=0,5,digits") == ["a#range=0,5", "digits"]
