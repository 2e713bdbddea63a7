"""The data sets of transfer benchmarks, read from their original archives after unpacking.

Kornblith, Shlens and Le, Do Better ImageNet Models Transfer Better?, 2019, table 1, whose metrics SimCLR and later
papers use. Every reader takes the folder and returns the training and the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fastssl.data.arrays import ArraySource
from fastssl.data.corpus import utf8
from fastssl.data.files import FileSource, folder
from fastssl.data.source import Source

Pair = tuple[Source, Source]
Listed = Iterable[tuple[Path, str]]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"name: expected {path.name} in {str(path.parent)!r}, there is none")
    return [line.strip() for line in utf8(str(path)).splitlines() if line.strip()]


def _pair(name: str, train: Listed, test: Listed) -> Pair:
    """Image sets with the same classes from the (path, class) pairs of both splits."""
    parts = [list(train), list(test)]
    classes = sorted({c for part in parts for _, c in part})
    number = {c: k for k, c in enumerate(classes)}
    sets = []
    for part, kind in zip(parts, ("training", "test")):
        if not part:
            raise ValueError(f"name: expected {kind} images of {name}, there are none")
        missing = next((path for path, _ in part if not path.is_file()), None)
        if missing is not None:
            raise ValueError(f"name: {name} lists {str(missing)!r}, which is not there")
        labels = np.array([number[c] for _, c in part])
        sets.append(FileSource([str(path) for path, _ in part], labels, classes, name))
    return sets[0], sets[1]


def food_101(root: Path) -> Pair:
    def part(name: str) -> Listed:
        return ((root / "images" / f"{line}.jpg", line.split("/")[0]) for line in _lines(root / "meta" / f"{name}.txt"))

    return _pair("food-101", part("train"), part("test"))


def _binary(path: Path, record: int) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"name: expected {path.name} in {str(path.parent)!r}, there is none")
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % record:
        raise ValueError(f"name: {path.name} has {len(data)} bytes, no multiple of a record's {record}")
    return data.reshape(-1, record)


def _cifar(root: Path, name: str, files: tuple[list[str], list[str]], skip: int, names: str) -> Pair:
    classes = _lines(root / names)
    sets = []
    for part in files:
        rows = np.concatenate([_binary(root / file, skip + 3072) for file in part])
        images = rows[:, skip:].reshape(-1, 1, 3, 32, 32).transpose(0, 1, 3, 4, 2)
        sets.append(ArraySource(np.ascontiguousarray(images), rows[:, skip - 1], classes, name))
    return sets[0], sets[1]


def cifar_10(root: Path) -> Pair:
    files = [f"data_batch_{k}.bin" for k in range(1, 6)], ["test_batch.bin"]
    return _cifar(root, "cifar-10", files, 1, "batches.meta.txt")


def cifar_100(root: Path) -> Pair:
    return _cifar(root, "cifar-100", (["train.bin"], ["test.bin"]), 2, "fine_label_names.txt")


def stl_10(root: Path) -> Pair:
    classes, sets = _lines(root / "class_names.txt"), []
    for part in ("train", "test"):
        rows = _binary(root / f"{part}_X.bin", 3 * 96 * 96)
        labels = _binary(root / f"{part}_y.bin", 1)[:, 0].astype(np.int64) - 1  # they count from 1
        images = rows.reshape(-1, 1, 3, 96, 96).transpose(0, 1, 4, 3, 2)  # columns come first
        sets.append(ArraySource(np.ascontiguousarray(images), labels, classes, "stl-10"))
    return sets[0], sets[1]


def birdsnap(root: Path) -> Pair:
    test = set(_lines(root / "test_images.txt")[1:])
    listed = [line.split("\t") for line in _lines(root / "images.txt")[1:]]
    every = [(fields[-1], Path(fields[-1]).parent.name) for fields in listed]

    def part(wanted: bool) -> Listed:
        return ((root / "images" / path, c) for path, c in every if (path in test) == wanted)

    return _pair("birdsnap", part(False), part(True))


def sun_397(root: Path) -> Pair:
    """The first of the ten partitions."""

    def part(name: str) -> Listed:
        for line in _lines(root / f"{name}_01.txt"):
            relative = line.lstrip("/")
            yield root / relative, str(Path(relative).parent)

    return _pair("sun-397", part("Training"), part("Testing"))


def cars(root: Path) -> Pair:
    from scipy.io import loadmat

    if not (root / "cars_annos.mat").is_file():
        raise ValueError(f"name: expected cars_annos.mat in {str(root)!r}, there is none")
    table = loadmat(str(root / "cars_annos.mat"), squeeze_me=True)
    names = [str(n) for n in np.atleast_1d(table["class_names"])]

    def part(test: int) -> Listed:
        for row in np.atleast_1d(table["annotations"]):
            if int(row["test"]) == test:
                yield root / str(row["relative_im_path"]), names[int(row["class"]) - 1]

    return _pair("cars", part(0), part(1))


def aircraft(root: Path) -> Pair:
    data = root / "data" if (root / "data").is_dir() else root

    def part(*names: str) -> Listed:
        for name in names:
            for line in _lines(data / f"images_variant_{name}.txt"):
                number, _, variant = line.partition(" ")
                yield data / "images" / f"{number}.jpg", variant

    return _pair("aircraft", part("train", "val"), part("test"))


VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def voc_2007(root: Path) -> Pair:
    """Multi-label: labels [N, 20] of -1, 0 (difficult) and 1."""
    sets = []
    for name in ("trainval", "test"):
        columns: list[list[int]] = []
        ids: list[str] = []
        for c in VOC_CLASSES:
            pairs = [line.split() for line in _lines(root / "ImageSets" / "Main" / f"{c}_{name}.txt")]
            if ids and [p[0] for p in pairs] != ids:
                raise ValueError(f"name: {c}_{name}.txt lists other images than {VOC_CLASSES[0]}_{name}.txt")
            ids = [p[0] for p in pairs]
            columns.append([int(p[1]) for p in pairs])
        paths = [str(root / "JPEGImages" / f"{number}.jpg") for number in ids]
        sets.append(FileSource(paths, np.array(columns).T, list(VOC_CLASSES), "voc-2007"))
    return sets[0], sets[1]


def dtd(root: Path) -> Pair:
    """The first of the ten splits."""

    def part(*names: str) -> Listed:
        for name in names:
            for line in _lines(root / "labels" / f"{name}1.txt"):
                yield root / "images" / line, line.split("/")[0]

    return _pair("dtd", part("train", "val"), part("test"))


def pets(root: Path) -> Pair:
    def part(name: str) -> Listed:
        for line in _lines(root / "annotations" / f"{name}.txt"):
            image = line.split()[0]
            yield root / "images" / f"{image}.jpg", image.rsplit("_", 1)[0]

    return _pair("pets", part("trainval"), part("test"))


def caltech_101(root: Path) -> Pair:
    """Thirty random images per class for training, the others for testing; without the background class."""
    inner = root / "101_ObjectCategories"
    every = folder(inner if inner.is_dir() else root)
    labels = every.labels if every.labels is not None else np.zeros(len(every))
    rng = np.random.default_rng(0)
    train: list[tuple[Path, str]] = []
    test: list[tuple[Path, str]] = []
    for number, name in enumerate(every.classes):
        if name == "BACKGROUND_Google":
            continue
        rows = rng.permutation(np.flatnonzero(labels == number))
        train += [(Path(every.path(r)), name) for r in rows[:30]]
        test += [(Path(every.path(r)), name) for r in rows[30:]]
    return _pair("caltech-101", train, test)


def flowers(root: Path) -> Pair:
    from scipy.io import loadmat

    for file in ("imagelabels.mat", "setid.mat"):
        if not (root / file).is_file():
            raise ValueError(f"name: expected {file} in {str(root)!r}, there is none")
    labels = loadmat(str(root / "imagelabels.mat"), squeeze_me=True)["labels"]
    ids = loadmat(str(root / "setid.mat"), squeeze_me=True)

    def part(*keys: str) -> Listed:
        for key in keys:
            for number in np.atleast_1d(ids[key]):
                yield root / "jpg" / f"image_{number:05d}.jpg", f"{int(labels[number - 1]):03d}"

    return _pair("flowers", part("trnid", "valid"), part("tstid"))


def imagenet(root: Path) -> Pair:
    """Folders ``train`` and ``val`` with one folder per class."""

    def part(name: str) -> Listed:
        found = folder(root / name)
        if found.labels is None:
            raise ValueError(f"name: expected one folder per class in {str(root / name)!r}, got none")
        return ((Path(found.path(k)), found.classes[label]) for k, label in enumerate(found.labels))

    return _pair("imagenet", part("train"), part("val"))


READERS: dict[str, Callable[[Path], Pair]] = {
    "food-101": food_101,
    "cifar-10": cifar_10,
    "cifar-100": cifar_100,
    "birdsnap": birdsnap,
    "sun-397": sun_397,
    "cars": cars,
    "aircraft": aircraft,
    "voc-2007": voc_2007,
    "dtd": dtd,
    "pets": pets,
    "caltech-101": caltech_101,
    "flowers": flowers,
    "stl-10": stl_10,
    "imagenet": imagenet,
}
METRICS = {
    "aircraft": "mean per class",
    "pets": "mean per class",
    "caltech-101": "mean per class",
    "flowers": "mean per class",
    "voc-2007": "11-point mAP",
}


def read(name: str, root: str | Path) -> Pair:
    """The training and the test split of a data set, by its name in :data:`READERS` and its folder.

    Raises:
        ValueError: no such folder, or files that are missing from it.
    """
    if not Path(root).is_dir():
        raise ValueError(f"data: expected a folder after {name}:, got {str(root)!r}")
    return READERS[name](Path(root))
