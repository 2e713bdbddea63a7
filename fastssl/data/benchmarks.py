"""The data sets of transfer benchmarks, read from their original archives after unpacking.

Kornblith, Shlens and Le, Do Better ImageNet Models Transfer Better?, 2019, table 1, whose metrics SimCLR and later
papers use. Every reader takes the folder and returns the training and the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from fastssl.data.archives import read_idx, read_mat, read_pickled
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


def _inner(root: Path, mark: str, *folders: str) -> Path:
    """The folder that has ``mark``, a pattern of names: ``root`` or one of ``folders`` in it; ``root`` if none has."""
    inner = (found for own in folders for found in sorted(root.glob(own)))
    return next((found for found in (root, *inner) if any(found.glob(mark))), root)


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


def _pickled(root: Path, name: str, files: tuple[list[str], list[str]], kind: str, meta: tuple[str, str]) -> Pair:
    """CIFAR "for Python", whose files are pickled mappings."""
    (names,) = read_pickled(root / meta[0], meta[1])
    sets = []
    for part in files:
        read = [read_pickled(root / file, "data", kind) for file in part]
        images = np.concatenate([data for data, _ in read]).reshape(-1, 1, 3, 32, 32).transpose(0, 1, 3, 4, 2)
        labels = np.concatenate([labels for _, labels in read])
        sets.append(ArraySource(np.ascontiguousarray(images), labels, [one.decode() for one in names], name))
    return sets[0], sets[1]


def cifar_10(root: Path) -> Pair:
    names = [f"data_batch_{k}" for k in range(1, 6)]
    if (root := _inner(root, "batches.meta", "cifar-10-batches-py")).joinpath("batches.meta").is_file():
        return _pickled(root, "cifar-10", (names, ["test_batch"]), "labels", ("batches.meta", "label_names"))
    files = [f"{name}.bin" for name in names], ["test_batch.bin"]
    root = _inner(root, "batches.meta.txt", "cifar-10-batches-bin")
    return _cifar(root, "cifar-10", files, 1, "batches.meta.txt")


def cifar_100(root: Path) -> Pair:
    if (root := _inner(root, "meta", "cifar-100-python")).joinpath("meta").is_file():
        return _pickled(root, "cifar-100", (["train"], ["test"]), "fine_labels", ("meta", "fine_label_names"))
    root = _inner(root, "fine_label_names.txt", "cifar-100-binary")
    return _cifar(root, "cifar-100", (["train.bin"], ["test.bin"]), 2, "fine_label_names.txt")


def mnist(root: Path) -> Pair:
    """Also Fashion-MNIST and KMNIST, whose files have these names."""
    root = _inner(root, "train-images-idx3-ubyte*", "raw", "*/raw")
    train, test = (ArraySource(*_idx(root, part), list("0123456789"), "mnist") for part in ("train", "t10k"))
    return train, test


def _idx(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images [N, H, W, 1] and labels of a part."""
    read = []
    for kind in ("images-idx3", "labels-idx1"):
        names = [f"{part}-{own}-ubyte{packed}" for own in (kind, kind.replace("-", ".")) for packed in ("", ".gz")]
        path = next((root / name for name in names if (root / name).is_file()), None)
        if path is None:
            raise ValueError(f"name: expected {names[0]} (also with .gz) in {str(root)!r}, there is none")
        read.append(read_idx(path))
    return read[0][..., None], read[1]


EMNIST = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")


def emnist(split: str, root: Path) -> Pair:
    """One of its six sets. Its images are stored by columns; the mapping gives the characters of each label."""
    start = f"emnist-{split}"
    root = _inner(root, f"{start}-mapping.txt", "gzip", "raw", "*/raw")
    codes = [line.split() for line in _lines(root / f"{start}-mapping.txt")]  # of letters from 1 on
    numbers, sets = {int(own[0]): k for k, own in enumerate(codes)}, []
    for part in ("train", "test"):
        images, labels = _idx(root, f"{start}-{part}")
        known = np.array([numbers[int(label)] for label in labels])
        upright = np.ascontiguousarray(images.swapaxes(1, 2))
        sets.append(ArraySource(upright, known, [chr(int(own[1])) for own in codes], start))
    return sets[0], sets[1]


def svhn(root: Path, extra: bool = False) -> Pair:
    """The cropped digits; ``extra``: those are trained on, too."""
    sets = []
    for parts in (("train", "extra") if extra else ("train",), ("test",)):
        read = [read_mat(root / f"{part}_32x32.mat") for part in parts]
        images = np.concatenate([own["X"].transpose(3, 0, 1, 2) for own in read])
        labels = np.concatenate([own["y"].astype(np.int64).reshape(-1) for own in read]) % 10  # 10: class of zeros
        sets.append(ArraySource(images, labels, [str(k) for k in range(10)], "svhn-extra" if extra else "svhn"))
    return sets[0], sets[1]


def places365(root: Path) -> Pair:
    """The standard training images, of 256 pixels or large, and the validation images."""
    names = {k: name[len("/a/") :] for name, k in (line.split() for line in _lines(root / "categories_places365.txt"))}
    classes, sets = [names[str(k)] for k in range(len(names))], []
    for listed, folders in (
        ("places365_train_standard.txt", ("data_256_standard", "data_256", "data_large_standard", "data_large")),
        ("places365_val.txt", ("val_256", "val_large")),
    ):
        images = next((root / own for own in folders if (root / own).is_dir()), None)
        if images is None:
            raise ValueError(f"name: expected {' or '.join(folders)} in {str(root)!r}, there is none")
        rows = [line.split() for line in _lines(root / listed)]
        paths, labels = [row[0].lstrip("/") for row in rows], np.array([int(row[1]) for row in rows])
        if not (images / paths[0]).is_file():
            raise ValueError(f"name: places365 lists {str(images / paths[0])!r}, which is not there")
        sets.append(FileSource(paths, labels, classes, "places365", root=images))
    return sets[0], sets[1]


def cub_200(root: Path) -> Pair:
    root = _inner(root, "images.txt", "CUB_200_2011")
    paths, classes, trained = (
        dict(line.split(maxsplit=1) for line in _lines(root / f"{name}.txt"))
        for name in ("images", "image_class_labels", "train_test_split")
    )
    names = dict(line.split(maxsplit=1) for line in _lines(root / "classes.txt"))

    def part(wanted: str) -> Listed:
        return ((root / "images" / path, names[classes[k]]) for k, path in paths.items() if trained[k] == wanted)

    return _pair("cub-200", part("1"), part("0"))


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
    """In one folder with ``cars_annos.mat``, or in two with a development kit."""
    if (root := _inner(root, "devkit", "stanford_cars")).joinpath("devkit").is_dir():
        names = np.atleast_1d(read_mat(root / "devkit" / "cars_meta.mat")["class_names"])

        def listed(folder: str, annotations: Path) -> Listed:
            for row in np.atleast_1d(read_mat(annotations)["annotations"]):
                yield root / folder / str(row["fname"]), str(names[int(row["class"]) - 1])

        test = "cars_test_annos_withlabels.mat"
        labelled = _inner(root, test, "devkit") / test
        return _pair(
            "cars", listed("cars_train", root / "devkit" / "cars_train_annos.mat"), listed("cars_test", labelled)
        )
    table = read_mat(root / "cars_annos.mat")
    names = np.atleast_1d(table["class_names"])

    def part(test: int) -> Listed:
        for row in np.atleast_1d(table["annotations"]):
            if int(row["test"]) == test:
                yield root / str(row["relative_im_path"]), str(names[int(row["class"]) - 1])

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
    labels, ids = read_mat(root / "imagelabels.mat")["labels"], read_mat(root / "setid.mat")

    def part(*keys: str) -> Listed:
        for key in keys:
            for number in np.atleast_1d(ids[key]):
                yield root / "jpg" / f"image_{number:05d}.jpg", f"{int(labels[number - 1]):03d}"

    return _pair("flowers", part("trnid", "valid"), part("tstid"))


def celeba(root: Path) -> Pair:
    """Multi-label: labels [N, 40] of -1 and 1. The validation part is trained on, too."""
    listed, divided = "list_attr_celeba.txt", "list_eval_partition.txt"
    _, names, *rows = _lines(_inner(root, listed, "Anno") / listed)
    parts = dict(line.split() for line in _lines(_inner(root, divided, "Eval") / divided))
    images, classes = _inner(root, "img_align_celeba", "Img") / "img_align_celeba", names.split()
    if not images.is_dir():
        raise ValueError(f"name: expected img_align_celeba in {str(root)!r}, there is none")
    sets = []
    for held_out in (False, True):
        own = [fields for row in rows if (parts[(fields := row.split())[0]] == "2") == held_out]
        labels = np.array([fields[1:] for fields in own], np.int64).reshape(-1, len(classes))
        sets.append(FileSource([fields[0] for fields in own], labels, classes, "celeba", root=images))
    return sets[0], sets[1]


def tiny_imagenet(root: Path) -> Pair:
    root = _inner(root, "wnids.txt", "tiny-imagenet-200")
    lines = (line.split("\t") for line in _lines(root / "val" / "val_annotations.txt"))
    test = ((root / "val" / "images" / image, c) for image, c, *_ in lines)
    return _pair("tiny-imagenet", _in_classes(folder(root / "train")), test)


def imagenet(root: Path) -> Pair:
    """Folders ``train`` and ``val`` with one folder per class. The classes of images that are in ``val`` itself are in
    Kaggle's ``LOC_val_solution.csv``, there or up to three folders above, or in ``ILSVRC2012_devkit_t12``."""
    train, val = _in_classes(folder(root / "train")), folder(root / "val")
    if val.labels is not None:
        return _pair("imagenet", train, _in_classes(val))
    above = [root, *root.resolve().parents[:3]]
    solved = next((own for own in above if (own / "LOC_val_solution.csv").is_file()), None)
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    if solved is not None:
        lines = [line.split(",") for line in _lines(solved / "LOC_val_solution.csv")[1:]]
        test = [(f"{name}.JPEG", found.split()[0]) for name, found in lines]
    elif kit.is_dir():
        synsets = np.atleast_1d(read_mat(kit / "meta.mat")["synsets"])
        known = {str(int(one["ILSVRC2012_ID"])): str(one["WNID"]) for one in synsets}
        numbers = _lines(kit / "ILSVRC2012_validation_ground_truth.txt")
        test = [(f"ILSVRC2012_val_{k:08}.JPEG", known[number]) for k, number in enumerate(numbers, 1)]
    else:
        raise ValueError(
            f"name: expected one folder per class in {str(root / 'val')!r}, or LOC_val_solution.csv or "
            f"{kit.parent.name} in {str(root)!r}, got none"
        )
    return _pair("imagenet", train, ((root / "val" / name, c) for name, c in test))


def _in_classes(found: FileSource) -> Listed:
    if found.labels is None:
        raise ValueError(f"name: expected one folder per class in {found.root!r}, got none")
    return ((Path(found.path(k)), found.classes[label]) for k, label in enumerate(found.labels))


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
    "tiny-imagenet": tiny_imagenet,
    "cub-200": cub_200,
    "mnist": mnist,
    **{f"emnist-{split}": partial(emnist, split) for split in EMNIST},
    "svhn": svhn,
    "svhn-extra": partial(svhn, extra=True),
    "celeba": celeba,
    "places365": places365,
}
# Files and folders by which a data set is recognised whose labels and parts are read by its name alone.
_MARKS = {
    **{"batches.meta": "cifar-10", "batches.meta.txt": "cifar-10", "fine_label_names.txt": "cifar-100"},
    **{"train-images-idx3-ubyte": "mnist", "train-images-idx3-ubyte.gz": "mnist", "train_32x32.mat": "svhn"},
    **{"train_X.bin": "stl-10", "image_class_labels.txt": "cub-200", "wnids.txt": "tiny-imagenet"},
    **{"cars_annos.mat": "cars", "cars_train": "cars", "imagelabels.mat": "flowers", "list_attr_celeba.txt": "celeba"},
    **{"LOC_val_solution.csv": "imagenet", "ILSVRC2012_devkit_t12": "imagenet"},
    **{"ILSVRC2012_validation_ground_truth.txt": "imagenet", "categories_places365.txt": "places365"},
    **{f"emnist-{split}-mapping.txt": f"emnist-{split}" for split in EMNIST},
}
METRICS = {
    "aircraft": "mean per class",
    "pets": "mean per class",
    "caltech-101": "mean per class",
    "flowers": "mean per class",
    "voc-2007": "11-point mAP",
    "celeba": "11-point mAP",
}


def recognised(names: Iterable[str]) -> str | None:
    """The name in :data:`READERS` of a data set in a folder with these files and folders; None: none is known."""
    return next((_MARKS[name] for name in names if name in _MARKS), None)


def read(name: str, root: str | Path) -> Pair:
    """The training and the test split of a data set, by its name in :data:`READERS` and its folder.

    Raises:
        ValueError: no such folder, or files that are missing from it.
    """
    if not Path(root).is_dir():
        raise ValueError(f"data: expected a folder after {name}:, got {str(root)!r}")
    return READERS[name](Path(root))
