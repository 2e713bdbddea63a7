"""The loader, image decoding and packed files: the same views whatever the threads, and errors instead of hangs."""

from __future__ import annotations

import gc
import io
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastssl.data
from fastssl.augment import Augment, CenterCrop, DINOAugment, RandomResizedCrop, SimCLRAugment
from fastssl.augment.planned import PackedViews, PlannedViews
from fastssl.data import Batch, ImageError, Loader, PackedError, PackedImages, pack, pack_source, read_image
from fastssl.data.container import FOOTER
from fastssl.data.decode import open_image, to_array
from fastssl.data.packed import MAGIC, RECORD
from fastssl.data.source import Item
from fastssl.data.views import AugmentExamples, planned_views_of, views_of
from fastssl.methods import Jigsaw
from fastssl.models import build_encoder
from fastssl.train.device import DeviceCopier
from tests.support.torchvision_programs import images_of

COLOUR = [image[:, :, :3].repeat(2, 0).repeat(2, 1) for image in images_of("files", 24) if image.shape[2] > 1]
AUGMENT = SimCLRAugment(16)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of PNG, JPEG and WebP files."""
    root = tmp_path_factory.mktemp("images")
    for k, image in enumerate(COLOUR):
        kind = ("png", "jpg", "webp")[k % 3]
        path = root / ("cats", "dogs")[k % 2] / f"{k:02}.{kind}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path, quality=95)
    return root


def by_id(batches: list[Batch]) -> dict[int, tuple[torch.Tensor, ...]]:
    return {int(i): tuple(v[k] for v in batch.views) for batch in batches for k, i in enumerate(batch.ids)}


def same(a: dict[int, tuple[torch.Tensor, ...]], b: dict[int, tuple[torch.Tensor, ...]]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, y) for i in a for x, y in zip(a[i], b[i]))


@pytest.mark.parametrize(
    "options", [{"workers": 1}, {"workers": 4}, {"batch_size": 1}, {"shuffle": False}, {"prefetch": 7}]
)
def test_views_do_not_depend_on_how_they_are_made(root: Path, options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"batch_size": 5, "drop_last": False, "seed": 3}
    expected = by_id(list(Loader(root, AUGMENT, **given)))
    assert len(expected) == len(COLOUR)
    assert same(by_id(list(Loader(root, AUGMENT, **{**given, **options}))), expected)


@pytest.mark.parametrize("augment", [AUGMENT, DINOAugment(16, 12, local=2)])
def test_planned_views_are_those_of_the_cpu(root: Path, augment: Any) -> None:
    """Made by the GPU's kernels, here as loops, from tensors that have been copied."""
    given: dict[str, Any] = {"batch_size": 20, "drop_last": False, "seed": 3}
    copier, made = DeviceCopier(torch.device("cpu")), []
    for batch in Loader(root, augment, planned=True, **given):
        assert isinstance(batch.views, PackedViews)
        assert len({id(view.pixels) for view in batch.views.map(torch.clone).views}) == 1  # copied once
        made.append(copier.finish(copier.start(batch)))
    assert same(by_id(made), by_id(list(Loader(root, augment, **given))))


def test_planned_views_of_several_images_an_item(root: Path) -> None:
    rng = np.random.default_rng(0)
    items = [
        Item([rng.integers(0, 256, (20 + k, 30, 3), dtype=np.uint8) for k in range(1 + n % 3)], 0) for n in range(6)
    ]
    ids = np.arange(6)
    planned = planned_views_of(AUGMENT, items, 5, 1, ids)
    halves = [planned_views_of(AUGMENT, items[a:b], 5, 1, ids[a:b]) for a, b in ((0, 1), (1, 6))]
    for some in ([planned], halves):
        made = PlannedViews.cat(some).packed().make()  # type: ignore[arg-type]
        for a, b in zip(made, views_of(AUGMENT, items, 5, 1, ids)):
            assert torch.equal(a, b)


def test_what_cannot_be_planned_is_made_on_the_cpu(root: Path) -> None:
    grey = Augment([RandomResizedCrop(16)], channels=1)
    jigsaw = Jigsaw(build_encoder({"name": "resnet", "size": 16, "width": 4, "blocks": 1}), count=8)
    for examples in (grey, jigsaw):
        batches = [next(iter(Loader(root, examples, 8, planned=planned))) for planned in (True, False)]
        for a, b in zip(*(batch.views for batch in batches)):
            assert torch.equal(a, b)


def test_views_are_those_of_a_call(root: Path) -> None:
    loader = Loader(root, AUGMENT, 4, seed=9, drop_last=False, draft=False)
    loader.set_epoch(2)
    for batch in loader:
        for k, i in enumerate(batch.ids.tolist()):
            image = read_image(sorted(p for p in root.rglob("*.*"))[i])
            for view, made in zip(AUGMENT(image, seed=9, epoch=2, ids=[i]), batch.views):
                assert torch.equal(made[k], view)
            assert loader.classes[int(batch.labels[k])] in ("cats", "dogs")


def test_processes_share_every_batch(root: Path) -> None:
    whole = list(Loader(root, AUGMENT, 6, seed=1))
    parts = [list(Loader(root, AUGMENT, 6, seed=1, rank=r, world_size=3)) for r in range(3)]
    for k, batch in enumerate(whole):
        assert torch.equal(torch.cat([p[k].ids for p in parts]), batch.ids)
        for v, view in enumerate(batch.views):
            assert torch.equal(torch.cat([p[k].views[v] for p in parts]), view)


def test_epochs_differ_and_resume(root: Path) -> None:
    loader = Loader(root, AUGMENT, 4, seed=1)
    first, second = list(loader), list(loader)
    assert not torch.equal(torch.cat([b.ids for b in first]), torch.cat([b.ids for b in second]))
    again = Loader(root, AUGMENT, 4, seed=1)
    again.set_epoch(1, batch=2)
    rest = list(again)
    assert len(rest) == len(second) - 2
    assert all(torch.equal(a.views[1], b.views[1]) for a, b in zip(rest, second[2:]))
    assert len(list(again)) == len(second)  # and then a whole epoch


@pytest.mark.parametrize("kind", ["array", "channels first", "tensor", "list", "packed", "files", "data set"])
def test_sources(kind: str, root: Path, tmp_path: Path) -> None:
    images = np.stack([image[:40, :40] for image in COLOUR[:9]])
    labels = np.arange(9)
    path = pack(images, tmp_path / "nine.pack", labels=labels)
    files = []
    for k, image in enumerate(images):
        files.append(tmp_path / f"{k}.png")
        Image.fromarray(image).save(files[-1])
    sources: dict[str, Any] = {
        "array": images,
        "channels first": np.ascontiguousarray(images.transpose(0, 3, 1, 2)),
        "tensor": torch.from_numpy(images),
        "list": [Image.fromarray(image) for image in images],
        "packed": path,
        "files": [str(file) for file in files],
        "data set": [(Image.fromarray(image), k) for k, image in enumerate(images)],
    }

    class Wrapped:
        def __len__(self) -> int:
            return 9

        def __getitem__(self, k: int) -> Any:
            return sources["data set"][k]

    source = Wrapped() if kind == "data set" else sources[kind]
    options = {} if kind in ("packed", "data set") else {"labels": labels}
    batch = next(iter(Loader(source, AUGMENT, 9, **options)))
    order = batch.ids.tolist()
    assert batch.labels.tolist() == order and sorted(order) == list(range(9))
    for view, expected in zip(batch.views, AUGMENT(images[order], seed=0, ids=order)):
        assert torch.equal(view, expected)


def test_multi_crop_and_one_view(root: Path) -> None:
    batch = next(iter(Loader(root, DINOAugment(24, 12, 3, dtype=torch.bfloat16, channels_last=True), 4)))
    assert [v.shape[-1] for v in batch.views] == [24, 24, 12, 12, 12]
    assert all(v.dtype == torch.bfloat16 and v.is_contiguous(memory_format=torch.channels_last) for v in batch.views)
    assert len(next(iter(Loader(root, Augment([CenterCrop(20, resize=20)]), 4))).views) == 1


def test_draft_decodes_less_and_looks_the_same(tmp_path: Path) -> None:
    y, x = np.mgrid[:600, :800]
    smooth = np.stack([128 + 80 * np.sin(x / 90 + c) * np.cos(y / 70) for c in range(3)], -1).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "large.jpg", quality=95)
    augment = Augment([RandomResizedCrop(32, scale=(0.3, 1.0))])
    full = [next(iter(Loader(tmp_path, augment, 1, seed=s, draft=False))).views[0] for s in range(8)]
    less = [next(iter(Loader(tmp_path, augment, 1, seed=s))).views[0] for s in range(8)]
    differences = [float((a - b).abs().max()) for a, b in zip(full, less)]
    assert max(differences) < 0.04 and max(differences) > 0  # another decoder path, the same picture


# Errors.


def _bytes(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOUR[0]).save(file, kind, **options)
    return file.getvalue()


def _bomb() -> bytes:
    """A PNG of a few bytes that claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "text": b"not an image",
    "truncated jpeg": _bytes("JPEG")[:300],
    "half a jpeg": _bytes("JPEG")[: len(_bytes("JPEG")) // 2],
    "half a png": _bytes("PNG")[: len(_bytes("PNG")) // 2],
    "half a webp": _bytes("WEBP")[: len(_bytes("WEBP")) // 2],
    "lying jpeg": _bytes("JPEG").replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff", 1)[:-4],
    "bomb": _bomb(),
}


@pytest.mark.parametrize("kind", ("PNG", "JPEG", "GIF", "TIFF", "WEBP"))
def test_the_limit_of_pixels_is_our_own(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own, of which it warns, and whose double is an error, is that of other images."""
    path = tmp_path / "large"
    Image.new("RGB", (30, 20)).save(path, kind)
    for limit in (100, 500, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_image(path, max_pixels=600).shape == read_image(path.read_bytes(), max_pixels=600).shape
            with ThreadPoolExecutor(8) as pool:
                sizes = pool.map(lambda k: read_image(path, max_pixels=600 + k).shape[:2], range(200))
            assert set(sizes) == {(20, 30)}
        assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="30 x 20 pixels; expected 1 to 599"):
        read_image(path, max_pixels=599)


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_images_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.jpg"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(ImageError, match="damaged.jpg"):
        read_image(path)
    with pytest.raises(ImageError, match="the name"):
        read_image(DAMAGED[kind], name="the name")


@pytest.mark.parametrize("kind", DAMAGED)
def test_loader_raises_or_skips_and_counts(kind: str, root: Path, tmp_path: Path) -> None:
    for k, path in enumerate(sorted(root.rglob("*.*"))[:6]):
        (tmp_path / f"{k}{path.suffix}").write_bytes(path.read_bytes())
    (tmp_path / "3b.jpg").write_bytes(DAMAGED[kind])
    with pytest.raises(ImageError, match=r"3b\.jpg"):
        list(Loader(tmp_path, AUGMENT, 7))
    loader = Loader(tmp_path, AUGMENT, 7, on_error="skip")
    (batch,) = list(loader)
    assert len(batch.ids) == 6 and 4 not in batch.ids and [len(v) for v in batch.views] == [6, 6]
    assert len(loader.skipped) == 1 and loader.skipped[0][0] == 4 and "3b.jpg" in loader.skipped[0][1]
    good = by_id(list(Loader(tmp_path, AUGMENT, 7, on_error="skip", workers=1)))
    assert same(by_id([batch]), good)


def test_batches_without_images_do_not_pass_silently(tmp_path: Path) -> None:
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(b"x")
    with pytest.raises(
        ImageError, match="0 of 2 items of a batch could be read, expected at least 1; the first of the others"
    ):
        list(Loader(tmp_path, AUGMENT, 2, on_error="skip"))


@pytest.mark.parametrize("least", [1, 2])
def test_batches_without_readable_images_take_the_next_of_the_epoch(least: int, root: Path, tmp_path: Path) -> None:
    for k in range(9):
        (tmp_path / f"{k}.png").write_bytes(b"x" if k in (2, 3, 4, 7, 8) else next(root.rglob("*.png")).read_bytes())
    examples = AugmentExamples(AUGMENT)
    examples.min_rows = least  # type: ignore[attr-defined]

    def batches(start: int = 0) -> list[Any]:
        loader = Loader(tmp_path, examples, 3, on_error="skip", shuffle=False)
        loader.set_epoch(1, start)
        return list(loader)

    every = batches()
    assert [batch.ids.tolist() for batch in every] == [[0, 1], [5, 6][:least], [6, 0][:least]]
    assert same(by_id(every[2:]), by_id(batches(2)))  # resumed
    two = [Loader(tmp_path, examples, 2, on_error="skip", shuffle=False, rank=k, world_size=2) for k in (0, 1)]
    assert [[int(batch.ids) for batch in loader] for loader in two] == [[0, 6, 6, 6], [1, 5, 5, 0]]


def test_files_that_vanish(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR[0]).save(path)
    loader = Loader([path], AUGMENT, 1)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        list(loader)


def test_bugs_are_not_skipped() -> None:
    class Broken:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, k: int) -> Any:
            raise ZeroDivisionError("a bug of the data set")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(Loader(Broken(), AUGMENT, 2, on_error="skip"))


def test_back_pressure_and_leaving_early(root: Path) -> None:
    read: list[int] = []

    class Counting:
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, k: int) -> Any:
            read.append(k)
            return COLOUR[k % len(COLOUR)], k

    threads = threading.active_count()
    batches = iter(Loader(Counting(), AUGMENT, 10, prefetch=2))
    next(batches)
    time.sleep(0.3)
    assert len(read) <= 40  # one taken, two ahead, one under way
    batches.close()  # type: ignore[attr-defined]
    time.sleep(0.1)
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "options,match",
    [
        ({"batch_size": 0}, "batch_size.*0"),
        ({"workers": 0}, "workers.*0"),
        ({"prefetch": 1.5}, "prefetch.*1.5"),
        ({"on_error": "ignore"}, "on_error.*'ignore'"),
        ({"rank": 2, "world_size": 2}, "rank.*2"),
        ({"batch_size": 5, "world_size": 2}, "batch_size.*multiple"),
        ({"labels": [1, 2]}, "labels: expected 22"),
        ({"batch_size": 99}, "batch_size.*99"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], match: str) -> None:
    given: dict[str, Any] = {"batch_size": 4, **options}
    with pytest.raises(ValueError, match=match.replace("22", str(len(COLOUR)))):
        Loader(COLOUR, AUGMENT, given.pop("batch_size"), **given)


def test_wrong_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="examples.*function"):
        Loader(COLOUR, lambda x: x, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data.*int"):
        Loader(3, AUGMENT, 2)
    with pytest.raises(ValueError, match="images: expected at least one image"):
        Loader(np.zeros((0, 4, 4, 3), np.uint8), AUGMENT, 2)
    with pytest.raises(ValueError, match="path.*found none"):
        Loader(tmp_path, AUGMENT, 2)
    with pytest.raises(FileNotFoundError):
        Loader(tmp_path / "nothing", AUGMENT, 2)
    with pytest.raises(ValueError, match="epoch, batch"):
        Loader(COLOUR, AUGMENT, 2).set_epoch(0, batch=1000)


# Decoding.


def test_modes_become_eight_bits(tmp_path: Path) -> None:
    rgb = COLOUR[0]
    gray = rgb[:, :, 0]
    cases: dict[str, tuple[Image.Image, np.ndarray]] = {
        "L": (Image.fromarray(gray), gray[:, :, None]),
        "RGBA": (Image.fromarray(np.dstack([rgb, gray])), rgb),
        "16 bits": (Image.fromarray(gray.astype(np.uint16) * 257), gray[:, :, None]),
        "1": (Image.fromarray(gray > 99), (gray > 99).astype(np.uint8)[:, :, None] * 255),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / "x.png")
        assert np.array_equal(read_image(tmp_path / "x.png"), expected), name
    Image.fromarray(rgb).convert("P").save(tmp_path / "x.gif")
    assert read_image(tmp_path / "x.gif").shape == rgb.shape
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "x.jpg")
    assert read_image(tmp_path / "x.jpg").shape == rgb.shape


def test_shared_pixels_live_on(root: Path) -> None:
    path = sorted(root.rglob("*.jpg"))[0]
    expected = read_image(path)
    arrays = []
    for _ in range(50):
        with open_image(path) as image:
            arrays.append(to_array(image, "x", shared=True))
        del image
    gc.collect()
    Image.new("RGB", (500, 500), "red").tobytes()
    assert all(array.shape[2] == 4 and np.array_equal(array[:, :, :3], expected) for array in arrays)


# Packed files.


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return pack(COLOUR[:5], tmp_path / "five.pack", labels=[3, 1, 4, 1, 5], classes=["a", "b"], name="five")


def test_packed_files_give_back_what_was_packed(packed: Path, tmp_path: Path) -> None:
    images = PackedImages(packed)
    assert len(images) == 5 and images.labels.tolist() == [3, 1, 4, 1, 5]
    assert images.classes == ["a", "b"] and images.name == "five"
    assert all(np.array_equal(images.read(k).images[0], image) for k, image in enumerate(COLOUR[:5]))
    assert list(packed.parent.glob("*.tmp")) == []
    with pytest.raises(IndexError, match="0 to 4, got 5"):
        images.read(5)
    assert len(PackedImages(pack([], tmp_path / "none.pack"))) == 0


def test_packing_leaves_nothing_half_written(tmp_path: Path) -> None:
    def images() -> Any:
        yield COLOUR[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(images(), tmp_path / "x.pack")
    for bad, match in (
        ([COLOUR[0].astype(np.float32)], r"images\[0\].*float32"),
        ([COLOUR[0], COLOUR[0][:, :, :0]], r"images\[1\]: expected uint8 \[H, W, C\]"),
        (["x"], r"images\[0\].*str"),
    ):
        with pytest.raises(ValueError, match=match):
            pack(bad, tmp_path / "x.pack")  # type: ignore[arg-type]
    for labels in ([1], [1, 2, 3]):
        with pytest.raises(ValueError, match="labels"):
            pack(COLOUR[:2], tmp_path / "x.pack", labels=labels)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_items_are_left_out_of_a_packed_file(tmp_path: Path) -> None:
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(b"nothing" if k % 2 == 0 else _bytes("PNG"))
    source = fastssl.data.open(tmp_path)
    with pytest.raises(ImageError, match=r"0\.png: cannot be read"):
        pack_source(source, tmp_path / "x.pack")
    made = PackedImages(pack_source(source, tmp_path / "x.pack", on_error="skip"))
    assert [made.name_of(k) for k in range(len(made))] == ["1.png", "3.png"]
    assert np.array_equal(made.read(1).images[0], source.read(3).images[0][:, :, :3])  # type: ignore[index]
    with pytest.raises(ValueError, match="on_error: expected 'raise' or 'skip', got 'drop'"):
        pack_source(source, tmp_path / "x.pack", on_error="drop")


def test_damaged_packed_files_are_refused(packed: Path, tmp_path: Path) -> None:
    good = packed.read_bytes()
    path = tmp_path / "damaged.pack"
    table, header, length, _, _ = FOOTER.unpack(good[-FOOTER.size :])

    def refused(content: bytes, match: str) -> None:
        path.write_bytes(content)
        with pytest.raises(PackedError, match=match):
            images = PackedImages(path)
            for k in range(len(images)):
                images.read(k)

    refused(b"", "too few")
    refused(good[:-1], "not a packed file")
    refused(b"x" + good[1:], "not a packed file")
    refused(good[:100] + good[200:], "add up|damaged")
    refused(good[:20] + bytes([good[20] ^ 1]) + good[21:], "image 0 is damaged")
    refused(good[: header + 3] + b"?" + good[header + 4 :], "checksum of the header")
    refused(good[: table + 3] + b"\xff" + good[table + 4 :], "checksum of the table")

    def rebuilt(records: np.ndarray | None = None, **changes: Any) -> bytes:
        import json

        raw = good[table:header] if records is None else records.tobytes()
        about = {**json.loads(good[header : header + length]), "table_crc": zlib.crc32(raw), **changes}
        text = json.dumps({k: v for k, v in about.items() if v is not None}).encode()
        return good[:table] + raw + text + FOOTER.pack(table, table + len(raw), len(text), zlib.crc32(text), MAGIC)

    refused(rebuilt(version=2), "expected version 1, got 2")
    refused(rebuilt(count=6), "does not hold 6")
    refused(rebuilt(count=-5), "incomplete header")
    refused(rebuilt(classes=None), "incomplete header")
    for field, value in (("offset", 2**63), ("offset", 0), ("height", 2**32 - 1), ("width", 0), ("channels", 0)):
        records = np.frombuffer(good[table:header], RECORD).copy()
        records[field][2] = value
        refused(rebuilt(records), "image 2 does not lie within the file")
