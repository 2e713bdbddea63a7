"""The data sets of the transfer tables: small folders with the structure of their archives."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastssl.data
from fastssl.data import ArraySource, HubSource, benchmarks, open_splits
from fastssl.evaluate.features import plain_images

RNG = np.random.default_rng(0)


def picture(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 12, 3), shade, np.uint8)).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def food_101(root: Path) -> None:
    for part, numbers in (("train", (1, 2)), ("test", (3,))):
        names = [f"{c}/{n}" for c in ("apple_pie", "waffles") for n in numbers]
        text(root / "meta" / f"{part}.txt", *names)
        for name in names:
            picture(root / "images" / f"{name}.jpg", 200 if name.startswith("w") else 10)


def cifar(root: Path, files: list[str], before: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        rows = np.zeros((4, before + 3072), np.uint8)
        rows[:, before - 1] = [0, 1, 1, 0]
        rows[:, before:] = np.where(rows[:, before - 1 : before] == 1, 200, 10)
        rows[:, before + 32 + 5] = 77  # red, row 1, column 5
        rows.tofile(root / file)


def cifar_10(root: Path) -> None:
    cifar(root, [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"], 1)
    text(root / "batches.meta.txt", "airplane", "automobile")


def cifar_100(root: Path) -> None:
    cifar(root, ["train.bin", "test.bin"], 2)
    text(root / "fine_label_names.txt", "apple", "fish")


def stl_10(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    text(root / "class_names.txt", "airplane", "bird")
    for part in ("train", "test"):
        labels = np.array([1, 2, 2], np.uint8)
        rows = np.repeat(np.where(labels == 2, 200, 10).astype(np.uint8)[:, None], 3 * 96 * 96, 1)
        rows[:, 5 * 96 + 1] = 77  # red, column 5, row 1: columns come first
        rows.tofile(root / f"{part}_X.bin")
        labels.tofile(root / f"{part}_y.bin")


def birdsnap(root: Path) -> None:
    paths = [f"{c}/{n}.jpg" for c in ("Ani", "Owl") for n in range(3)]
    text(root / "images.txt", "url\tmd5\tpath", *(f"u\tm\t{p}" for p in paths))
    text(root / "test_images.txt", "path", "Ani/2.jpg", "Owl/2.jpg")
    for p in paths:
        picture(root / "images" / p, 200 if p.startswith("O") else 10)


def sun_397(root: Path) -> None:
    for part, n in (("Training", 1), ("Testing", 2)):
        names = [f"/a/abbey/sun_{n}.jpg", f"/z/zoo/outdoor/sun_{n}.jpg"]
        text(root / f"{part}_01.txt", *names)
        for name in names:
            picture(root / name[1:], 200 if "zoo" in name else 10)


def cars(root: Path) -> None:
    from scipy.io import savemat

    kinds = [("relative_im_path", "O"), ("class", "i4"), ("test", "i4")]
    rows = [(f"car_ims/{k}.jpg", 1 + k % 2, k // 2) for k in range(4)]
    for path, c, _ in rows:
        picture(root / path, 200 if c == 2 else 10)
    names = np.array(["Acura", "Volvo"], dtype=object)
    savemat(str(root / "cars_annos.mat"), {"annotations": np.array(rows, dtype=kinds), "class_names": names})


def aircraft(root: Path) -> None:
    number = 0
    for part in ("train", "val", "test"):
        lines = []
        for c in ("Boeing 707-320", "DC-3"):
            number += 1
            lines.append(f"{number:07d} {c}")
            picture(root / "data" / "images" / f"{number:07d}.jpg", 200 if c == "DC-3" else 10)
        text(root / "data" / f"images_variant_{part}.txt", *lines)


def voc_2007(root: Path) -> None:
    for part, ids in (("trainval", ("000001", "000002")), ("test", ("000003",))):
        for name in ids:
            picture(root / "JPEGImages" / f"{name}.jpg")
        for c in benchmarks.VOC_CLASSES:
            signs = {"cat": (" 1", " 0"), "dog": ("-1", " 1")}.get(c, ("-1", "-1"))
            text(root / "ImageSets" / "Main" / f"{c}_{part}.txt", *(f"{i} {s}" for i, s in zip(ids, signs)))


def dtd(root: Path) -> None:
    for part, n in (("train", 1), ("val", 2), ("test", 3)):
        names = [f"{c}/{c}_{n}.jpg" for c in ("banded", "zigzagged")]
        text(root / "labels" / f"{part}1.txt", *names)
        for name in names:
            picture(root / "images" / name, 200 if name.startswith("z") else 10)


def pets(root: Path) -> None:
    for part, n in (("trainval", 1), ("test", 2)):
        text(root / "annotations" / f"{part}.txt", f"Abyssinian_{n} 1 1 1", f"yorkshire_terrier_{n} 2 2 1")
        picture(root / "images" / f"Abyssinian_{n}.jpg", 10)
        picture(root / "images" / f"yorkshire_terrier_{n}.jpg", 200)


def caltech_101(root: Path) -> None:
    for c in ("BACKGROUND_Google", "accordion", "yin_yang"):
        for n in range(32):
            picture(root / "101_ObjectCategories" / c / f"image_{n:04d}.jpg", 200 if c == "yin_yang" else 10)


def flowers(root: Path) -> None:
    from scipy.io import savemat

    labels = [1, 2, 1, 2, 1, 2]
    for k, c in enumerate(labels):
        picture(root / "jpg" / f"image_{k + 1:05d}.jpg", 200 if c == 2 else 10)
    savemat(str(root / "imagelabels.mat"), {"labels": np.array(labels)})
    savemat(str(root / "setid.mat"), {"trnid": np.array([1, 2]), "valid": np.array([3, 4]), "tstid": np.array([5, 6])})


def imagenet(root: Path) -> None:
    for part, n in (("train", 3), ("val", 2)):
        for c in ("n01440764", "n01443537"):
            for k in range(n):
                picture(root / part / c / f"{k}.JPEG", 200 if c.endswith("37") else 10)


MAKERS: dict[str, tuple[Callable[[Path], None], int, int]] = {
    "food-101": (food_101, 4, 2),
    "cifar-10": (cifar_10, 20, 4),
    "cifar-100": (cifar_100, 4, 4),
    "birdsnap": (birdsnap, 4, 2),
    "sun-397": (sun_397, 2, 2),
    "cars": (cars, 2, 2),
    "aircraft": (aircraft, 4, 2),
    "voc-2007": (voc_2007, 2, 1),
    "dtd": (dtd, 4, 2),
    "pets": (pets, 2, 2),
    "caltech-101": (caltech_101, 60, 4),
    "flowers": (flowers, 4, 2),
    "stl-10": (stl_10, 3, 3),
    "imagenet": (imagenet, 6, 4),
}


def test_every_reader_is_tested() -> None:
    assert set(MAKERS) == set(benchmarks.READERS)


@pytest.mark.parametrize("name", MAKERS)
def test_readers_find_images_and_classes(name: str, tmp_path: Path) -> None:
    make, train, test = MAKERS[name]
    make(tmp_path)
    task = open_splits(f"{name}:{tmp_path}")
    assert (len(task.train), len(task.test)) == (train, test) and task.train.classes == task.test.classes
    for part in (task.train, task.test):
        (images,) = plain_images(part, 16)
        assert images.shape == (len(part), 3, 16, 16)
        if name == "voc-2007":
            continue
        assert len(part.classes) == 2 and set(part.labels.tolist()) == {0, 1}
        # The second class is bright: every image came with its own label.
        assert torch.equal(images[:, 0, -1, -1] > -0.2, torch.from_numpy(np.asarray(part.labels)) == 1)
    mean = {"aircraft", "pets", "caltech-101", "flowers"}
    assert task.metric == ("mean per class" if name in mean else "11-point mAP" if name == "voc-2007" else "top-1")
    if name.startswith("cifar") or name == "stl-10":
        assert task.train.read(0).images[0][1, 5, 0] == 77  # row 1, column 5
    if name == "voc-2007":
        cat, dog = benchmarks.VOC_CLASSES.index("cat"), benchmarks.VOC_CLASSES.index("dog")
        assert task.train.labels[:, cat].tolist() == [1, 0] and task.train.labels[:, dog].tolist() == [-1, 1]


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data: expected a folder after"):
        open_splits(f"{name}:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError):
        open_splits(f"{name}:{tmp_path / 'empty'}")


def test_listed_images_must_be_there(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "images" / "Abyssinian_2.jpg").unlink()
    with pytest.raises(ValueError, match=r"pets lists .*Abyssinian_2"):
        open_splits(f"pets:{tmp_path}")
    cifar_100(tmp_path)
    (tmp_path / "train.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match="no multiple of a record"):
        open_splits(f"cifar-100:{tmp_path}")


def test_plain_folders_are_tasks(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for c in ("a", "b"):
            for n in range(4):
                picture(tmp_path / part / c / f"{n}.png")
    task = open_splits(str(tmp_path))
    assert len(task.train) == len(task.test) == 8
    divided = open_splits(str(tmp_path / "train"))
    assert (len(divided.train), len(divided.test)) == (6, 2)
    names = [{part.name_of(k) for k in range(len(part))} for part in (divided.train, divided.test)]
    assert names[0].isdisjoint(names[1])
    picture(tmp_path / "val" / "c" / "0.png")
    with pytest.raises(ValueError, match="same classes"):
        open_splits(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="data: no file or folder 'nonsense', and no name of a data set"):
        open_splits("nonsense")


def test_embedded_tasks() -> None:
    task = open_splits("digits")
    assert isinstance(task.train, ArraySource) and len(task.train) + len(task.test) == 1797


def test_captions_of_hub_data_are_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "caption": datasets.Value("string")}
    image = Image.new("RGB", (8, 8))

    def of(folder: str, captions: list[str | None]) -> HubSource:
        table = {"image": [image] * len(captions), "caption": captions}
        made = datasets.Dataset.from_dict(table, features=datasets.Features(features))
        made.save_to_disk(str(tmp_path / folder))
        source = fastssl.data.open(f"hf:{tmp_path / folder}")
        assert isinstance(source, HubSource)
        return source

    source, again = of("a", ["one", "two", "", None]), of("b", ["one", "two", "", None])
    others = [of("c", ["one", "2", "", None]), of("d", ["one", "two", None, None]), of("e", ["two", "one", "", None])]
    assert source.fingerprint == again.fingerprint and source.fingerprint not in {one.fingerprint for one in others}
    assert source.without_text is not None and source.without_text.tolist() == [2, 3]
    assert source.subset([3, 1, 2]).without_text.tolist() == [0, 2]  # type: ignore[union-attr]
    assert [source.read(k).text for k in range(4)] == ["one", "two", "", None]
    monkeypatch.setattr(datasets.Image, "decode_example", None)  # no image is decoded for its text
    assert [source.text_of(k) for k in range(4)] == ["one", "two", "", None]


def test_images_in_parquet_files_of_other_libraries(tmp_path: Path) -> None:
    """Bytes, alone or with a path, and labels without the types of Hugging Face."""
    pytest.importorskip("datasets")
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stored = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 0, 0)).save(stored, "PNG")
    one, kinds = stored.getvalue(), ["b", "a", None, "b"]

    def opened(options: str = "", **columns: list[Any]) -> Any:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        parquet.write_table(pa.table(columns), path)
        return fastssl.data.open(f"{path}{options}")

    for images in ([one] * 4, [{"bytes": one, "path": "a.png"}] * 4):
        source = opened(image=images, label=kinds)
        assert source.classes == ["a", "b"] and source.labels.tolist() == [1, 0, -1, 1]
        assert source.read(3).images[0][0, 0].tolist() == [200, 0, 0]
    assert opened("#image=photo:label=kind", photo=[one] * 4, kind=kinds).labels.tolist() == [1, 0, -1, 1]
    assert opened(image=[one] * 4, label=[0, 1, 1, 0]).classes == ["0", "1"]
    assert opened(image=[one] * 4, label=[0.5, 1, 1, 0]).labels is None
    with pytest.raises(ValueError, match="expected classes in column 'age', got 0.5; .* named as such: #score=age"):
        opened("#label=age", image=[one] * 4, age=[0.5, 1, 1, 0])
    assert opened(path=["a.png"] * 4, kind=kinds).name_of(0) == "a.png"


def test_hub_data(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})

    def part(count: int) -> object:
        shades = [(k % 2) * 200 for k in range(count)]
        images = [Image.fromarray(np.full((10, 10, 3), s, np.uint8)) for s in shades]
        return datasets.Dataset.from_dict({"img": images, "label": [k % 2 for k in range(count)]}, features=features)

    datasets.DatasetDict({"train": part(6), "test": part(3)}).save_to_disk(str(tmp_path / "shades"))
    task = open_splits(f"hf:{tmp_path / 'shades'}")
    assert task.train.classes == ["dark", "light"] and len(task.test) == 3
    light, dark = (task.train.read(k).images[0] for k in (1, 2))
    assert light.shape == (10, 10, 3) and int(light.min()) == 200 and int(dark.max()) == 0
    assert task.train.subset(np.array([3, 5])).labels.tolist() == [1, 1]
    (tmp_path / "files").mkdir()
    part(6).to_parquet(str(tmp_path / "files" / "train.parquet"))  # type: ignore[attr-defined]
    for place in (f"hf:{tmp_path / 'files'}", tmp_path / "files", tmp_path / "files" / "train.parquet"):
        source = fastssl.data.open(place)
        assert source.classes == ["dark", "light"] and int(source.read(1).images[0].min()) == 200  # type: ignore[index]
    datasets.DatasetDict({"train": part(10)}).save_to_disk(str(tmp_path / "half"))
    task = open_splits(f"hf:{tmp_path / 'half'}")  # without a test part
    assert not task.divided and [len(task.train), len(task.test)] == [8, 2]
    with pytest.raises(ValueError, match=r"expected a part for test in .*half', got \['train'\]"):
        fastssl.data.open(f"hf:{tmp_path / 'half'}", part="test")
