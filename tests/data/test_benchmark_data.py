"""The data sets of the transfer tables: small folders with the structure of their archives."""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastssl.data
from fastssl.data import ArraySource, HubSource, benchmarks, open_splits
from fastssl.evaluate import evaluate
from fastssl.evaluate.features import plain_images
from fastssl.models import build_encoder

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


def tiny_imagenet(root: Path) -> None:
    text(root / "wnids.txt", "n01443537", "n01629819")
    lines = []
    for k, c in enumerate(("n01443537", "n01629819")):
        for n in range(2):
            picture(root / "train" / c / "images" / f"{c}_{n}.JPEG", 200 * k)
        text(root / "train" / c / f"{c}_boxes.txt", f"{c}_0.JPEG\t0\t10\t63\t58")
        picture(root / "val" / "images" / f"val_{k}.JPEG", 200 * k)
        lines.append(f"val_{k}.JPEG\t{c}\t0\t32\t44\t62")
    text(root / "val" / "val_annotations.txt", *lines)


def cub_200(root: Path) -> None:
    names = [f"00{c + 1}.{name}/{name}_{n}.jpg" for c, name in enumerate(("Albatross", "Wren")) for n in range(3)]
    for k, name in enumerate(names):
        picture(root / "CUB_200_2011" / "images" / name, 200 * (k // 3))
    for file, values in (
        ("images", names),
        ("image_class_labels", [k // 3 + 1 for k in range(6)]),
        ("train_test_split", [int(k % 3 > 0) for k in range(6)]),
        ("classes", ["001.Albatross", "002.Wren"]),
    ):
        text(root / "CUB_200_2011" / f"{file}.txt", *(f"{k + 1} {value}" for k, value in enumerate(values)))


def mnist(root: Path) -> None:
    """Ten classes, of which only two are there; in torchvision's folders, one part compressed."""
    (root / "MNIST" / "raw").mkdir(parents=True)
    for part, labels in (("train", [0, 1, 1, 0]), ("t10k", [1, 0])):
        images = np.repeat(np.array(labels, np.uint8) * 200, 28 * 28).reshape(-1, 28, 28)
        images[:, 3, 5] = 77
        for kind, array in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
            raw = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            name = f"{part}-{kind}-ubyte"
            (root / "MNIST" / "raw" / (name + ".gz" * (part == "train"))).write_bytes(
                gzip.compress(raw) if part == "train" else raw
            )


def emnist(split: str, root: Path) -> None:
    """Stored by columns; labels of letters count from 1."""
    first = int(split == "letters")
    text(root / "gzip" / f"emnist-{split}-mapping.txt", f"{first} 65 97", f"{first + 1} 66 98")
    for part, labels in (("train", [0, 1, 1, 0]), ("test", [1, 0])):
        images = np.repeat(np.array(labels, np.uint8) * 200, 28 * 28).reshape(-1, 28, 28)
        images[:, 5, 3] = 77
        for kind, array in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8) + np.uint8(first))):
            raw = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            (root / "gzip" / f"emnist-{split}-{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(raw))


def places365(root: Path) -> None:
    text(root / "categories_places365.txt", "/a/airfield 0", "/b/bar/indoor 1")
    names = [("a/airfield", 0), ("b/bar/indoor", 1)]
    text(root / "places365_train_standard.txt", *(f"/{own}/{n}.jpg {k}" for own, k in names for n in (1, 2)))
    text(root / "places365_val.txt", "Places365_val_1.jpg 1", "Places365_val_2.jpg 0")
    for own, k in names:
        for n in (1, 2):
            picture(root / "data_256_standard" / own / f"{n}.jpg", 200 * k)
        picture(root / "val_256" / f"Places365_val_{2 - k}.jpg", 200 * k)


def svhn_extra(root: Path) -> None:
    svhn(root)
    shutil.copy(root / "test_32x32.mat", root / "extra_32x32.mat")


def svhn(root: Path) -> None:
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    for part, labels in (("train", [10, 1, 1, 10]), ("test", [1, 10])):
        images = np.zeros((32, 32, 3, len(labels)), np.uint8) + np.array([200 * (k == 1) for k in labels], np.uint8)
        images[3, 5] = 77
        savemat(str(root / f"{part}_32x32.mat"), {"X": images, "y": np.array(labels, np.uint8)[:, None]})


def celeba(root: Path) -> None:
    rows = [("000001.jpg", " 1 -1"), ("000002.jpg", "-1 -1"), ("000003.jpg", "-1  1")]
    text(root / "Anno" / "list_attr_celeba.txt", "3", "Male Young ", *(f"{name} {signs}" for name, signs in rows))
    text(root / "list_eval_partition.txt", *(f"{name} {k}" for k, (name, _) in enumerate(rows)))
    for name, _ in rows:
        picture(root / "img_align_celeba" / name)


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
    "tiny-imagenet": (tiny_imagenet, 4, 2),
    "cub-200": (cub_200, 4, 2),
    "mnist": (mnist, 4, 2),
    "svhn": (svhn, 4, 2),
    "celeba": (celeba, 2, 1),
    **{f"emnist-{split}": (partial(emnist, split), 4, 2) for split in benchmarks.EMNIST},
    "svhn-extra": (svhn_extra, 6, 2),
    "places365": (places365, 4, 2),
}


SEVERAL = ("voc-2007", "celeba")  # classes per image


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
        if name in SEVERAL:
            continue
        assert len(part.classes) == (10 if name in ("mnist", "svhn", "svhn-extra") else 2) and set(
            part.labels.tolist()
        ) == {0, 1}
        # The second class is bright: every image came with its own label.
        assert torch.equal(images[:, 0, -1, -1] > -0.2, torch.from_numpy(np.asarray(part.labels)) == 1)
    mean = {"aircraft", "pets", "caltech-101", "flowers"}
    assert task.metric == ("mean per class" if name in mean else "11-point mAP" if name in SEVERAL else "top-1")
    if name.startswith("cifar") or name == "stl-10":
        assert task.train.read(0).images[0][1, 5, 0] == 77  # row 1, column 5
    if "mnist" in name or "svhn" in name:
        assert [task.test.read(1).images[0][place].tolist() for place in ((3, 5, 0), (5, 3, 0))] == [77, 0]
    if name.startswith("emnist"):
        assert list(task.train.classes) == ["A", "B"]
    if name == "places365":
        assert list(task.train.classes) == ["airfield", "bar/indoor"]
    if name == "celeba":
        assert [part.labels.tolist() for part in (task.train, task.test)] == [[[1, -1], [-1, -1]], [[-1, 1]]]
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


@pytest.mark.parametrize("number", [10, 100])
def test_cifar_for_python(number: int, tmp_path: Path) -> None:
    """Pickled by Python 2, whose strings are bytes and whose NumPy has its functions in another module."""
    (cifar_10 if number == 10 else cifar_100)(tmp_path / "binary")
    wanted = open_splits(f"cifar-{number}:{tmp_path / 'binary'}")
    names, key, folder = (
        ([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"], b"labels", "cifar-10-batches-py")
        if number == 10
        else (["train", "test"], b"fine_labels", "cifar-100-python")
    )
    (tmp_path / folder).mkdir()
    for name in names:
        rows = np.fromfile(tmp_path / "binary" / f"{name}.bin", np.uint8).reshape(4, -1)
        stored = {b"data": rows[:, -3072:], key: rows[:, -3073].tolist(), b"filenames": [b"a.png"] * 4}
        raw = pickle.dumps(stored, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        (tmp_path / folder / name).write_bytes(raw)
    meta = ("batches.meta", b"label_names") if number == 10 else ("meta", b"fine_label_names")
    (tmp_path / folder / meta[0]).write_bytes(pickle.dumps({meta[1]: [c.encode() for c in wanted.train.classes]}, 2))
    for place in (tmp_path, tmp_path / folder):
        task = open_splits(f"cifar-{number}:{place}")
        for found, part in ((task.train, wanted.train), (task.test, wanted.test)):
            assert found.fingerprint == part.fingerprint and found.classes == part.classes
    (tmp_path / folder / names[-1]).write_bytes(pickle.dumps({b"data": print, key: []}, 2))
    with pytest.raises(
        ValueError, match=f"{names[-1]}: expected a pickled mapping with data, .* is not part of an arr"
    ):
        open_splits(f"cifar-{number}:{tmp_path}")


def test_cars_with_their_development_kit(tmp_path: Path) -> None:
    from scipy.io import savemat

    kinds = [("bbox_x1", "i4"), ("class", "i4"), ("fname", "O")]
    (tmp_path / "devkit").mkdir()
    for part, place in (("train", "devkit/cars_train_annos"), ("test", "cars_test_annos_withlabels")):
        rows = [(1, 1 + k % 2, f"{k + 1:05}.jpg") for k in range(4)]
        for _, c, name in rows:
            picture(tmp_path / f"cars_{part}" / name, 200 * (c - 1))
        savemat(str(tmp_path / f"{place}.mat"), {"annotations": np.array(rows, kinds)})
    savemat(str(tmp_path / "devkit" / "cars_meta.mat"), {"class_names": np.array(["Acura", "Volvo"], object)})
    task = open_splits(f"cars:{tmp_path}")
    for part in (task.train, task.test):
        assert part.classes == ["Acura", "Volvo"] and part.labels.tolist() == [0, 1, 0, 1]  # type: ignore[union-attr]
        assert [int(part.read(k).images[0].mean() > 100) for k in range(4)] == [0, 1, 0, 1]  # type: ignore[index]


@pytest.mark.parametrize("kind", ["Kaggle", "development kit"])
def test_the_classes_of_imagenet_whose_images_lie_in_one_folder(kind: str, tmp_path: Path) -> None:
    from scipy.io import savemat

    root, wanted = tmp_path / "ILSVRC" / "Data" / "CLS-LOC", ["n01443537", "n01440764", "n01443537"]
    imagenet(root)
    shutil.rmtree(root / "val")
    for k, c in enumerate(wanted, 1):
        picture(root / "val" / f"ILSVRC2012_val_{k:08}.JPEG", 200 * c.endswith("37"))
    with pytest.raises(
        ValueError, match=r"one folder per class in .*val', or LOC_val_solution.csv or ILSVRC2012_devkit"
    ):
        open_splits(f"imagenet:{root}")
    if kind == "Kaggle":
        lines = (f"ILSVRC2012_val_{k:08},{wanted[k - 1]} 1 2 30 40 {wanted[k - 1]} 1 1 2 2" for k in (2, 1, 3))
        text(tmp_path / "LOC_val_solution.csv", "ImageId,PredictionString", *lines)
    else:
        synsets = np.array([(1, "n01443537"), (2, "n01440764"), (3, "n99")], [("ILSVRC2012_ID", "i4"), ("WNID", "O")])
        text(root / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt", "1", "2", "1")
        savemat(str(root / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"), {"synsets": synsets})
    task = open_splits(f"imagenet:{root}")
    found = [
        (task.test.classes[label], task.test.read(k).images[0].mean() > 100) for k, label in enumerate(task.test.labels)
    ]
    assert sorted(found) == sorted((c, c.endswith("37")) for c in wanted) and len(task.train) == 6


@pytest.mark.parametrize(
    "name", ["cifar-10", "cifar-100", "stl-10", "cars", "flowers", "tiny-imagenet", "cub-200", "svhn"]
)
def test_folders_of_known_data_sets_say_how_they_are_read(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MAKERS[name][0](tmp_path)
    inner = "CUB_200_2011" if name == "cub-200" else ""
    remedy = f"the labels and parts of this data set are read as {name}:{tmp_path / inner}"
    try:
        assert fastssl.data.open(tmp_path / inner).classes_from == remedy and remedy in caplog.text
    except ValueError as error:
        assert str(error).endswith(remedy) and not list(tmp_path.glob("**/*.jpg"))[1:]
    caplog.clear()
    fastssl.data.open(f"{name}:{tmp_path}")
    assert not caplog.text


def test_evaluation_says_where_classes_would_be(tmp_path: Path) -> None:
    encoder = build_encoder({"name": "resnet", "size": 16, "width": 4})
    for k in range(4):
        picture(tmp_path / "wrapped" / "inner" / "ab"[k % 2] / f"{k}.png")
        picture(tmp_path / "flat" / "train" / "ab"[k % 2] / f"{k}.png")
        picture(tmp_path / "flat" / "val" / f"{k}.png")
    for folder, error in (
        ("wrapped", rf"at least two classes .*has \['inner'\]; .*of 'inner', open {tmp_path}/wrapped/inner$"),
        (
            "flat",
            rf"flat has none; classes are sub-folders, {tmp_path}/flat/val has none; labels of files are in a table",
        ),
        ("flat/val", rf"val has none; classes are sub-folders, {tmp_path}/flat/val has none"),
    ):
        with pytest.raises(ValueError, match=error):
            evaluate(encoder, None, str(tmp_path / folder))


@pytest.mark.parametrize("name", ["scan.dcm", "scan.nii", "brain.nii.gz", "train_32x32.mat", "photo.NEF"])
def test_files_to_convert_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\0" * 200)
    with pytest.raises(ValueError, match=f"expected an image, got '.*{name}'; convert it to .png, .tif or .npy"):
        fastssl.data.open(tmp_path / name)
    picture(tmp_path / "0.png")
    kind = Path(name.removesuffix(".gz")).suffix.lower()
    assert fastssl.data.open(tmp_path).skipped == {f"{kind}: convert it to .png, .tif or .npy": 1}


def test_files_of_scanners_without_a_suffix_are_named(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 100)
    with pytest.raises(ValueError, match=r"IM0001: cannot be read as an image \(a DICOM file; convert it to .png"):
        fastssl.data.open(tmp_path / "IM0001")


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    mnist(tmp_path)
    whole = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    for raw, error in (
        (whole.read_bytes()[:-9], "bytes, got 1575; copy"),
        (b"PK\3\4", "an idx file of bytes, it begins"),
    ):
        whole.write_bytes(raw)
        with pytest.raises(ValueError, match=f"t10k-images-idx3-ubyte: expected .*{error}"):
            open_splits(f"mnist:{tmp_path}")
    svhn(tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(b"<html>" * 100)
    with pytest.raises(ValueError, match=r"test_32x32.mat: cannot be read as a MATLAB file"):
        open_splits(f"svhn:{tmp_path}")


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
    for name, said in {"no/photos": r"'no/photos' in '[^']+'$", "cifer-10:/data": "did you mean 'cifar-10'"}.items():
        with pytest.raises(FileNotFoundError, match=f"data: no file or folder .*{said}"):
            open_splits(name)


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
    (tmp_path / "a.png").write_bytes(one)
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
