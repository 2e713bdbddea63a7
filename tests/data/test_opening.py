"""What a folder or a list of files is taken for; what tells data apart when runs resume and results are kept."""

from __future__ import annotations

import json
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset

import fastssl.data
from fastssl.augment import Augment, Normalize, RandomResizedCrop, SimCLRAugment, Views
from fastssl.data import (
    ArraySource,
    CorpusError,
    ImageError,
    listing,
    open_splits,
    pack_source,
    read_image,
    text_corpus,
    write_shards,
)
from fastssl.data.opening import names_of
from fastssl.methods import SimCLR
from fastssl.models import build_encoder
from fastssl.train import Pretraining, pretrain

ENCODER = {"name": "resnet", "size": 16, "width": 4}


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 9, 3), value, np.uint8)).save(path)
    return path


def shards(folder: Path, count: int = 2) -> list[Path]:
    return write_shards(ArraySource(np.zeros((count, 8, 8, 3), np.uint8)).items(range(count)), folder)


def test_folders_with_data_of_two_kinds_are_not_guessed_at(tmp_path: Path) -> None:
    picture(tmp_path / "c0" / "0.png")
    shards(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"holds \.tar files beside images such as c0/0\.png; move one kind, or name the files \(.*\*\.tar",
    ):
        fastssl.data.open(tmp_path)
    (tmp_path / "00000.tar").unlink()
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds \.parquet files beside images"):
        fastssl.data.open(tmp_path)
    (tmp_path / "x.parquet").unlink()
    with wave.open(str(tmp_path / "0.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(100))
    with pytest.raises(ValueError, match=r"holds \.wav files beside images"):
        fastssl.data.open(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_tables_of_image_folders_are_read_as_by_datasets(tmp_path: Path, kind: str) -> None:
    """The classes, the captions and the images of each part."""
    datasets = pytest.importorskip("datasets")
    parts = {"train": ("cat", "dog", "cat"), "test": ("dog", "dog")}
    for part, labels in parts.items():
        for k in range(len(labels) + 1):  # the last one is not listed
            picture(tmp_path / part / "some" / f"{k}.png")
        rows = [{"file_name": f"some/{k}.png", "label": own, "text": f"a {own} {k}"} for k, own in enumerate(labels)]
        lines = (
            [",".join(own) for own in (rows[0], *map(dict.values, rows))] if kind == "csv" else map(json.dumps, rows)
        )
        (tmp_path / part / f"metadata.{kind}").write_text("\n".join(lines))
    known = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), cache_dir=str(tmp_path / ".cache"))
    for part in parts:
        found = fastssl.data.open(tmp_path, part=part)
        assert list(found.classes) == ["cat", "dog"] and found.part == part and found.name == tmp_path.name
        items = found.items(range(len(found)))
        assert [found.classes[item.label] for item in items] == known[part]["label"][:]  # type: ignore[index]
        assert [item.text for item in items] == known[part]["text"][:]
        assert found.skipped == {f"not listed in metadata.{kind}": 1, "no image": 1}


def test_tables_beside_images_that_say_nothing_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "a" / "0.png")
    picture(tmp_path / "b" / "0.png")
    (tmp_path / "metadata.csv").write_text("file_name,age\na/0.png,3\n")
    found = fastssl.data.open(tmp_path)
    assert found.labels is None and len(found) == 1
    assert str(found.classes_from).startswith(f"classes are a column of {tmp_path}/metadata.csv (label, ")
    (tmp_path / "metadata.csv").write_text("id,age\n0,3\n")
    assert fastssl.data.open(tmp_path).classes == ["a", "b"]
    assert "metadata.csv: the table is not read, it has no column file_name (id, age)" in caplog.text
    for part in ("train", "test"):
        picture(tmp_path / "parts" / part / "0.png")
    (tmp_path / "parts" / "metadata.csv").write_text("file_name,label\n0.png,cat\n")
    fastssl.data.open(tmp_path / "parts")
    assert "parts: the table metadata.csv is not read: that of a part is in its folder" in caplog.text
    (tmp_path / "metadata.csv").write_text("file_name,label,split\na/0.png,cat,train\nb/0.png,dog,test\n")
    assert [len(fastssl.data.open(tmp_path, part=part)) for part in ("train", "test")] == [1, 1]


def test_a_file_that_is_no_image_is_an_error_at_once(tmp_path: Path) -> None:
    for name in ("data_batch_1", "train_X.bin", "images-idx3-ubyte"):
        (tmp_path / name).write_bytes(b"\0\1\2\3" * 100)
        with pytest.raises(ImageError, match=f"{name}: cannot be read as an image .no format that Pillow reads"):
            fastssl.data.open(tmp_path / name)
    picture(tmp_path / "0.png").rename(tmp_path / "0")
    assert len(fastssl.data.open(tmp_path / "0")) == 1


def test_methods_of_images_say_how_a_list_of_them_is_opened(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "0.png")
    (tmp_path / "val.txt").write_text("0 3\n0 4\n")  # without the suffix of the files
    method, source = SimCLR(build_encoder(ENCODER)), fastssl.data.open(tmp_path / "val.txt")
    with pytest.raises(ValueError, match=r"needs an image .*, but a text; a list of images .*, list.txt#images=FOLDER"):
        pretrain(method, source, Pretraining(epochs=1, batch_size=2), out=tmp_path / "run")


def test_parts_may_be_shards_and_have_capitals(tmp_path: Path) -> None:
    shards(tmp_path / "Train", 3)
    shards(tmp_path / "VAL", 2)
    assert len(fastssl.data.open(tmp_path)) == 3 and len(fastssl.data.open(tmp_path, part="test")) == 2


def test_lists_of_files(tmp_path: Path) -> None:
    paths = shards(tmp_path / "a") + shards(tmp_path / "b", 3)
    assert len(fastssl.data.open(paths)) == 5
    packed = pack_source(fastssl.data.open(paths), tmp_path / "one.pack")
    for wrong in (packed, tmp_path / "x.tar.gz"):
        with pytest.raises(
            ValueError, match=r"expected images or \.tar shards, got .*among several files; give it alone"
        ):
            fastssl.data.open([picture(tmp_path / "0.png"), wrong])


def test_commas_in_names_separate_nothing(tmp_path: Path) -> None:
    for name in ("a, b", "c", "d,e,f"):
        picture(tmp_path / name / "0, x.png")
    (tmp_path / "g, h.jsonl").write_text('{"text": "One."}\n')
    places = [str(tmp_path / name) for name in ("a, b", "c", "d,e,f")]
    texts = f"text:{tmp_path / 'g, h.jsonl'}#text=text"
    url = "https://host/x.tar?a=1,2"
    for names in ([places[0]], places, ["emoji", *places], [*places[::-1], "digits"], [texts, "sotu"], ["sotu", texts]):
        assert names_of(",".join(names)) == names
    for names in (["capitals:sotu", "capitals:glosses"], [url, "emoji"], [url, url], [f"{tmp_path}/{{c,d}}.tar"]):
        assert names_of(",".join(names)) == names
    assert names_of(f"coco:{tmp_path}/c#classes=x,y") == [f"coco:{tmp_path}/c#classes=x,y"]
    source = fastssl.data.open(f"{texts},sotu")
    assert len(source) == 1 + len(fastssl.data.open("sotu")) and source.where == f"{texts},sotu"
    assert fastssl.data.open(places[0]).where == places[0]
    with pytest.raises(FileNotFoundError, match="no file or folder 'a, bb'"):  # the whole of it
        fastssl.data.open("a, bb")
    with pytest.raises(ValueError, match="expected one data set, or corpora between the commas of"):
        fastssl.data.open(",".join(places))


def test_streams_without_items_are_named() -> None:
    class Stream(IterableDataset[Any]):
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            return iter([])

    with pytest.raises(TypeError, match="data: expected .* got Stream"):
        fastssl.data.open(Stream())


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / name / "0.png")
    (tmp_path / "a" / "link").symlink_to("../b")
    (tmp_path / "b" / "link").symlink_to("../a")
    source = fastssl.data.open(tmp_path)
    assert list(source.paths) == ["a/0.png", "a/link/0.png", "b/0.png", "b/link/0.png"]  # type: ignore[attr-defined]
    assert source.skipped == {"a link to a folder above it": 2}  # type: ignore[attr-defined]


def test_texts_beside_images(tmp_path: Path) -> None:
    for k in range(2):
        picture(tmp_path / f"{k}.png")
    (tmp_path / "0.TXT").write_text("of another system")
    (tmp_path / "1.txt").write_bytes("gr\xfcn".encode("latin1"))
    source = fastssl.data.open(tmp_path)
    assert source.read(0).text is None and source.skipped == {"no image": 1}  # type: ignore[attr-defined]
    with pytest.raises(ImageError, match=r"1\.txt: byte 2 \(0xfc\) is no UTF-8"):
        source.read(1)


# Fingerprints.


def test_what_differs_has_another_fingerprint(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{c}" / "0.png", 100 * c) for c in range(3)]
    key = lambda data, **options: fastssl.data.open(data, **options).fingerprint  # noqa: E731
    assert key(paths[:2]) != key(paths[1::-1])  # another order, of equal names
    assert key(paths) == key([str(p) for p in paths])
    assert key(tmp_path) != key(tmp_path, orientation=False)
    table = tmp_path / "t.csv"
    seen = set()
    for text in ("red", "blue"):
        table.write_text(f"path,text\n0/0.png,{text}\n1/0.png,x\n")
        seen.add(key(table))
        pixels = np.zeros((2, 8, 8, 3), np.uint8)
        seen.add(ArraySource(pixels, texts=[text, "x"]).fingerprint)
        seen.add(key(pack_source(ArraySource(pixels, texts=[text, "x"]), tmp_path / "t.pack")))
        (tmp_path / "c.txt").write_text(f"{text:4}\n")
        seen.add(text_corpus(tmp_path / "c.txt").fingerprint)
    assert len(seen) == 8


def test_kept_results_know_every_pixel(tmp_path: Path) -> None:
    pixels = np.zeros((3000, 2, 2, 3), np.uint8)
    other = pixels.copy()
    other[1] = 1  # not among those that the fingerprint looks at
    one, two = ArraySource(pixels), ArraySource(other)
    assert one.fingerprint == two.fingerprint and one.content_key != two.content_key
    assert one.content_key == ArraySource(pixels.copy()).content_key
    items = [(image, 0) for image in pixels[:4]]
    first, again = fastssl.data.open(items), fastssl.data.open(items)
    assert first.content_key == first.content_key != again.content_key  # what it holds is not known


def test_texts_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "bad \\ud83d here"}\n{"text": "fine"}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl: line 1: '\\ud83d' is half of a pair of UTF-16"):
        text_corpus(path).text(0)
    assert text_corpus(path, errors="replace").text(0) == "bad ? here"
    path = tmp_path / "a.txt"
    path.write_bytes("one\ntwo\n".encode("utf-16"))
    with pytest.raises(CorpusError, match=r"iconv -f utf-16 -t utf-8"):
        text_corpus(path).text(0)


def test_runs_resume_with_the_same_views(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)
    options = Pretraining(epochs=1, batch_size=16)
    for views, resume in ((None, False), (None, True), (SimCLRAugment(16, channels_last=True), True)):
        pretrain(
            SimCLR(build_encoder(ENCODER), views), images, options, out=tmp_path, encoder_options=ENCODER, resume=resume
        )
    other = Views([(2, Augment([RandomResizedCrop(16), Normalize()]))])
    with pytest.raises(
        ValueError, match=r"augment: the checkpoint was made with other views, .*; resume with the same"
    ):
        pretrain(
            SimCLR(build_encoder(ENCODER), other), images, options, out=tmp_path, encoder_options=ENCODER, resume=True
        )


def test_files_that_say_nothing_about_a_folder(tmp_path: Path) -> None:
    """Hidden files beside shards, and folders called as parts beside other classes."""
    shards(tmp_path / "s")
    picture(tmp_path / "s" / ".thumb.png")
    (tmp_path / "s" / "b.png").mkdir()
    assert len(fastssl.data.open(tmp_path / "s")) == 2
    for name in ("Train", "Test", "Car"):
        picture(tmp_path / "c" / name / "0.png")
    assert fastssl.data.open(tmp_path / "c").classes == ["Car", "Test", "Train"]
    for name in ("train/x", "val/x"):
        picture(tmp_path / "p" / name / "0.png")
    shards(tmp_path / "p")
    with pytest.raises(ValueError, match=r"holds \.tar files beside images such as those in train/"):
        fastssl.data.open(tmp_path / "p")


def test_arrays_of_a_file_are_chosen_by_name(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 9), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", u=pixels, v=np.array([1, 0, 1, -1]), w=np.array(["cat", "ant", "cat", ""]))
    source = fastssl.data.open(f"{tmp_path / 'd.npz'}#images=u:labels=v")
    assert source.labels is not None and source.labels.tolist() == [1, 0, 1, -1]
    images = source.read(2).images
    assert images is not None and np.array_equal(images[0][..., 0], pixels[2])
    named = fastssl.data.open(source.where.replace("labels=v", "labels=w"))
    assert named.labels is not None and named.labels.tolist() == [1, 0, 1, -1] and named.classes == ["ant", "cat"]
    assert fastssl.data.open(f"{tmp_path / 'd.npz'}#images=u").labels is None
    (tmp_path / "other.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "objects.npz", u=np.array([1, "a"], dtype=object))
    whole = bytearray((tmp_path / "d.npz").read_bytes())
    whole[whole.index(pixels.tobytes())] ^= 1
    (tmp_path / "damaged.npz").write_bytes(whole)
    for given, message in (
        ("d.npz", r"as .*d\.npz#images=NAME:labels=NAME, with names of u, v, w$"),
        ("d.npz#images=a", "with names of u, v, w, got images=a"),
        ("d.npz#text=u", "expected options images, labels of .*, got 'text'"),
        ("other.npz", "cannot be read as arrays"),
        ("objects.npz#images=u", r"objects\.npz' cannot be read as arrays \(Object arrays"),
        ("damaged.npz#images=u", r"damaged\.npz' cannot be read as arrays \(Bad CRC-32"),
    ):
        with pytest.raises(ValueError, match=message):
            fastssl.data.open(f"{tmp_path}/{given}")


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_valid", "y_valid", "x_test", "y_test"),
        ("X_train", "Y_train", "X_val", "Y_val", "X_test", "Y_test"),
    ],
)
def test_archives_with_parts(names: tuple[str, ...], tmp_path: Path) -> None:
    """MedMNIST (whose labels are columns) and Keras."""
    arrays = {}
    for k, (images, labels) in enumerate(zip(names[::2], names[1::2])):
        arrays[images] = np.full((k + 2, 8, 8, 3), k, np.uint8)
        arrays[labels] = np.arange(k + 2)[:, None] % 2
    np.savez(tmp_path / "d.npz", **arrays)
    for part, value, count in (("train", 0, 2), ("test", 2, 4)):
        source = fastssl.data.open(tmp_path / "d.npz", part=part)
        assert len(source) == count and int(source.read(0).images[0].max()) == value
        assert source.labels is not None and source.labels.tolist() == [k % 2 for k in range(count)]
    task = open_splits(tmp_path / "d.npz")
    assert task.divided and (len(task.train), len(task.test)) == (2, 4)
    other = fastssl.data.open(f"{tmp_path / 'd.npz'}#images={names[2]}:labels={names[3]}", part="test")
    assert len(other) == 3 and other.part is None


def test_archives_of_known_names(tmp_path: Path) -> None:
    pixels = np.zeros((3, 8, 8), np.uint8)
    for k, arrays in enumerate(
        (
            {"anything": pixels},
            {"images": pixels, "labels": np.arange(3), "other": pixels},
            {"X": pixels, "y": np.ones(3, int)},
        )
    ):
        np.savez(tmp_path / f"{k}.npz", **arrays)
        source = fastssl.data.open(tmp_path / f"{k}.npz", part="test")
        assert len(source) == 3 and (source.labels is None) == (k == 0)
        assert not open_splits(tmp_path / f"{k}.npz").divided
    np.savez(tmp_path / "train.npz", x_train=pixels, y_train=np.arange(3))  # without the other part
    with pytest.raises(ValueError, match="with names of x_train, y_train"):
        fastssl.data.open(tmp_path / "train.npz")


@pytest.mark.parametrize("largest", (255, 1000, 4095, 4096, 65535))
@pytest.mark.parametrize("kind", ("npz", "npy", "array", "tensor", "list", "data set"))
def test_arrays_of_more_than_8_bits_are_read_as_files_are(tmp_path: Path, kind: str, largest: int) -> None:
    pixels = np.random.default_rng(0).integers(0, largest, (3, 8, 9), dtype=np.uint16)
    pixels[:, 0, 0] = largest
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    np.savez(tmp_path / "d.npz", x=pixels)
    np.save(tmp_path / "d.npy", pixels[..., None])
    given: dict[str, Any] = {
        "npz": f"{tmp_path / 'd.npz'}#images=x",
        "npy": tmp_path / "d.npy",
        "array": pixels.astype(">u2"),
        "tensor": torch.from_numpy(pixels.astype(np.int32)),
        "list": list(pixels.astype(np.int64)),
        "data set": [(image, 0) for image in pixels],
    }
    asked = (0, 4095) if kind in ("tensor", "list") or largest == 1000 else None  # what has no range of its dtype
    source = fastssl.data.open(given[kind], value_range=asked)
    for k in range(3):
        made = source.read(k).images
        assert made is not None and made[0].dtype == np.uint8
        assert np.array_equal(made[0], read_image(tmp_path / f"{k}.png", value_range=asked))


def test_what_is_no_pixel() -> None:
    for wrong in (-1, 256):
        with pytest.raises(
            ValueError, match=f"images: expected integers from 0 to 255, or uint16, got int32 from {wrong}"
        ):
            ArraySource(np.full((2, 8, 8), wrong, np.int32))
    with pytest.raises(TypeError, match="expected booleans, integers or floats, got complex"):
        ArraySource(np.zeros((2, 8, 8), complex))


def test_a_stack_without_channels_is_said_to_be_an_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "stack.npy", np.zeros((6, 8, 9, 1), np.uint8))
    assert len(fastssl.data.open(tmp_path / "stack.npy")) == 6 and not caplog.text
    np.save(tmp_path / "stack.npy", np.zeros((6, 8, 9), np.uint8))
    assert len(fastssl.data.open(tmp_path / "stack.npy")) == 1
    assert "of shape (6, 8, 9), is one image [H, W, C]; grey images are saved as [N, H, W, 1]" in caplog.text


def test_labels_may_be_names_of_classes() -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    source = fastssl.data.open(images, labels=["cat", "ant", "cat"])
    assert source.classes == ["ant", "cat"] and source.labels is not None and source.labels.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="labels: expected 3 integers"):
        fastssl.data.open(images, labels=["cat", "ant"])
    with pytest.raises(ValueError, match="images: expected at least one image, got none"):
        fastssl.data.open(images[:0])


def test_classes_may_be_in_names(tmp_path: Path) -> None:
    names = ("cat.0.jpg", "cat.10.jpg", "dog_1.png", "sub/big cat_003.jpg")
    for name in names:
        picture(tmp_path / name)
    found = fastssl.data.open(rf"{tmp_path}/#label=([a-z ]+)[._]\d+")
    assert found.classes == ["big cat", "cat", "dog"]
    assert found.labels is not None and [found.name_of(k) for k in range(4)] == sorted(names)
    assert found.labels.tolist() == [1, 1, 2, 0]
    assert found.where is not None
    again = fastssl.data.open(found.where)
    assert again.labels is not None and again.labels.tolist() == found.labels.tolist()
    assert fastssl.data.open(rf"{tmp_path}/#label=^(?\:sub/)?[a-z]+").classes == ["cat", "dog", "sub/big"]
    with pytest.raises(ValueError, match=r"label: expected a class in the path of each image .*finds none in 'dog_1"):
        fastssl.data.open(rf"{tmp_path}#label=^(.+)\.\d+")
    with pytest.raises(ValueError, match=r"label: expected a regular expression, got '\(' \("):
        fastssl.data.open(f"{tmp_path}#label=(")
    with pytest.raises(ValueError, match="expected options label, range of a folder of images, .* got 'text'"):
        fastssl.data.open(f"{tmp_path}#text=a")
    for part, own in (("train", ("cat", "dog")), ("val", ("dog",))):
        for name in own:
            picture(tmp_path / "parts" / part / f"{name}_1.jpg")
    test = fastssl.data.open(f"{tmp_path}/parts#label=^([a-z]+)", part="test")
    assert test.classes == ["cat", "dog"] and test.labels is not None and test.labels.tolist() == [1]
    flat = fastssl.data.open(tmp_path / "parts" / "train")
    assert f"'{tmp_path}/parts/train#label=^(.+)[._][0-9]+'" in str(flat.classes_from)


def test_a_listing_that_is_stopped_looks_into_no_more_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(200):
        (tmp_path / str(k)).mkdir()
    looked, look_into = [], listing._look_into

    def slow(root: str, relative: str) -> Any:
        looked.append(relative)
        time.sleep(0.02 if relative else 0)
        return look_into(root, relative)

    def stop(files: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "_look_into", slow)
    with pytest.raises(KeyboardInterrupt):
        fastssl.data.folder(tmp_path, progress=stop)
    assert len(looked) < 100
