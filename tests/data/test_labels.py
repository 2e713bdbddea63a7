"""Labels of tables, shards and data sets: numbers, names, unknown ones, and what is neither."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastssl.data
from fastssl.data import ShardError, ShardSource, text_table
from fastssl.data.labels import numbered_labels
from fastssl.data.summary import summary
from fastssl.evaluate.features import labels_of

GIVEN: dict[str, tuple[list[Any], list[int] | None, list[str]]] = {
    "names": (["b", "a", " b "], [1, 0, 1], ["a", "b"]),
    "numbers": ([2, 0, 2], [2, 0, 2], ["0", "1", "2"]),
    "numbers as text": (["2", "", "+0", "1.0"], [2, -1, 0, 1], ["0", "1", "2"]),
    "floats, as pandas writes integers beside missing ones": ([1.0, float("nan"), 0.0], [1, -1, 0], ["0", "1"]),
    "unknown": (["x", None, "", "  ", float("nan")], [0, -1, -1, -1, -1], ["x"]),
    "all unknown": (["", None, -1], None, []),
    "-1": ([0, -1, "-1"], [0, -1, -1], ["0"]),
    "ids": ([20231231, 7], [1, 0], ["7", "20231231"]),
    "some classes of a thousand": ([999, 3], [999, 3], [str(k) for k in range(1000)]),
    "-1 among names": (["cat", -1, "-1"], [0, -1, -1], ["cat"]),
    "numbers of NumPy": ([np.int64(1), np.float32(0)], [1, 0], ["0", "1"]),
    "a number among names": (["a", "10", "9"], [2, 0, 1], ["10", "9", "a"]),
    "truth": ([True, False], [1, 0], ["False", "True"]),
}
WRONG: dict[str, Any] = {"a share": 1.7, "several": [1, 2], "an object": {"a": 1}, "below -1": -7, "-2 as text": "-2"}


@pytest.mark.parametrize("kind", GIVEN)
def test_labels_are_numbered(kind: str) -> None:
    given, wanted, classes = GIVEN[kind]
    labels, names = numbered_labels(given, str)
    assert (None if labels is None else labels.tolist(), names) == (wanted, classes)


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_label_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 1: expected .*label"):
        numbered_labels([0, WRONG[kind]], lambda k: f"row {k}")
    table = tmp_path / "a.json"
    table.write_text(json.dumps([{"text": "a", "label": 0}, {"text": "b", "label": WRONG[kind]}]))
    with pytest.raises(ValueError, match=r"a\.json: row 2: expected"):
        text_table(table)
    with pytest.raises(ValueError, match=r"a\.tar: 1: expected"):
        ShardSource([shard(tmp_path / "a.tar", {"0.json": {"label": 0}, "1.json": {"label": WRONG[kind]}})])


@pytest.mark.parametrize("label", [2**31, -3])
def test_labels_that_would_be_changed_are_named(label: int) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    for data in (images, [(image, 0) for image in images]):
        with pytest.raises(ValueError, match="labels: expected 0 to 2,147,483,647"):
            fastssl.data.open(data, labels=[0, label])


@pytest.mark.parametrize("second", [0.7, np.zeros(3), np.zeros((8, 8, 3), np.uint8), {"a": 1}])
def test_second_parts_of_items_that_are_no_labels(second: Any) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(TypeError, match="item 1: expected an integer as label"):
        fastssl.data.open([(image, 0), (image, second)]).read(1)


# Tables.


def test_rows_of_tables_are_whole(tmp_path: Path) -> None:
    def read(name: str, content: str | bytes) -> Any:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return text_table(path)

    with pytest.raises(ValueError, match=r"x\.csv: row 1: expected 2 fields, got 3"):
        read("x.csv", "text,label\nGood, really good,pos\nbad,neg\n")
    quoted = read("n.tsv", 'text\tlabel\n"quoted start\tgood\nfine\tbad\nother" x\tgood\n')
    assert list(quoted.texts) == ['"quoted start', "fine", 'other" x'] and quoted.labels.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"n\.tsv: row 1: a field in quotation marks contains a tab"):
        read("n.tsv", 'text\tlabel\n"begin\tgood\nend"\tbad\n')
    assert list(read("n.tsv", 'text\tlabel\n"two\nlines"\tgood\n').texts) == ["two\nlines"]
    later = read("x.jsonl", '{"text":"a"}\n{"text":"b","label":"pos"}\n{"text":"c","label":"neg"}\n')
    assert later.labels.tolist() == [-1, 1, 0]
    assert read("x.csv", "Text , Label\na,x\nb,  \nc,y\n").labels.tolist() == [0, -1, 1]
    assert list(read("x.csv", "text,label\na,x\n,\n,y\n,,\n\n").texts) == ["a", ""]  # rows of nothing are none
    assert list(read("x.csv", 'text\na\n""\n').texts) == ["a", ""]
    assert len(read("x.csv", "text\n" + "a" * 200_000).texts[0]) == 200_000
    with pytest.raises(ValueError, match=r"x\.csv: byte 8 \(0xe9\) is no UTF-8; name the encoding \(#encoding=latin-1"):
        read("x.csv", "text\ncaf\xe9\n".encode("latin1"))
    with pytest.raises(ValueError, match=r"iconv -f utf-16 "):
        read("x.csv", "text\nx\n".encode("utf-16"))


# Shards.


def shard(path: Path, others: dict[str, Any], links: dict[str, str] | None = None) -> Path:
    """Images 0, 1, ..., one for every key of ``others``, and these files."""
    picture = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "PNG")
    files = {f"{name.partition('.')[0]}.png": picture.getvalue() for name in others}
    files |= {n: v if isinstance(v, bytes) else json.dumps(v).encode() for n, v in others.items()}
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
        for name, target in (links or {}).items():
            about = tarfile.TarInfo(name)
            about.type, about.linkname = tarfile.LNKTYPE, target
            archive.addfile(about)
    return path


def test_links_are_items_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    others = {"0.cls": b"a", "1.v2.png": b"x", "2.txt": b"x", "3.npy": b"x"}
    source = ShardSource([shard(tmp_path / "a.tar", others, {"9.png": "0.png", "8.png": "nothing.png"})])
    assert list(source.keys) == ["0", "1", "2", "3", "9"]
    assert np.array_equal(source.read(4).images[0], source.read(0).images[0])
    left = {"an image called *.v2.png (a key ends at its first dot)": 1, "no image": 1, "no file (a link)": 1}
    assert source.skipped == left == ShardSource([tmp_path / "a.tar"]).skipped  # of the index that is kept, too


def test_fractions_in_shards_are_no_classes(tmp_path: Path) -> None:
    for k, others in enumerate(({"0.cls": b"2", "1.cls": b"0.5"}, {"0.json": {}, "1.json": {"label": 0.5}})):
        with pytest.raises(
            ValueError, match=rf"{k}\.tar: 1: expected classes in column 'cls', got '?0.5'?; shards have no"
        ):
            ShardSource([shard(tmp_path / f"{k}.tar", others)])
    assert ShardSource([shard(tmp_path / "names.tar", {"0.cls": b"v0.5", "1.cls": b"0.5"})]).classes == ["0.5", "v0.5"]


def test_shards_without_an_image_say_what_is_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("0.left.png"))
    left = r"1 an image called \*.left.png \(a key ends at its first dot\)"
    with pytest.raises(ValueError, match=rf"a.tar', found none \(left out: {left}\)"):
        ShardSource([tmp_path / "a.tar"])


@pytest.mark.parametrize("kind", ["folder", "shard"])
def test_texts_without_an_image_are_counted(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    for name in ("0.txt", "1.txt", "readme.txt"):
        (tmp_path / name).write_text("x")
    if kind == "shard":
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for path in (*tmp_path.glob("*.png"), *tmp_path.glob("*.txt")):
                archive.add(path, path.name)
        source: Any = ShardSource([tmp_path / "a.tar"])
        assert source.skipped == {"a label or text without an image": 2}
    else:
        source = fastssl.data.open(tmp_path)
        assert source.skipped == {"a text without an image": 2}
    assert len(source) == 1 and source.text_of(0) == "x"


def test_texts_of_shards_are_read_as_they_are(tmp_path: Path) -> None:
    """What is wrong with one is said when its item is read, so that it can be passed over."""
    source = ShardSource([shard(tmp_path / "a.tar", {"0.txt": "gr\xfcn".encode("latin1"), "1.txt": b"fine"})])
    for again in (source, ShardSource([tmp_path / "a.tar"])):
        with pytest.raises(ShardError, match=r"a\.tar: 0: \.txt: byte 2 \(0xfc\) is no UTF-8"):
            again.read(0)
        assert again.read(1).text == "fine"
    with pytest.raises(ShardError, match=r"a\.tar: 0: \.json: expected a string as text, got 5"):
        ShardSource([shard(tmp_path / "a.tar", {"0.json": {"text": 5}})]).read(0)
    first, second = (
        ShardSource([shard(tmp_path / f"{k}.tar", {"0.txt": text})]) for k, text in enumerate((b"a", b"b"))
    )
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("name", ("label", "Class", "target"))
def test_tables_of_images_say_what_they_read(tmp_path: Path, name: str) -> None:
    def table(heading: str, labels: list[str]) -> Path:
        for k in range(len(labels)):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
        path = tmp_path / "t.csv"
        path.write_text(f"path,{heading}\n" + "".join(f"{k}.png,{label}\n" for k, label in enumerate(labels)))
        return path

    found = fastssl.data.open(table(name, ["cat", "ant"]))
    assert found.classes == ["ant", "cat"] and list(found.labels) == [1, 0]  # type: ignore[arg-type]
    assert f"path from column 'path', label from column '{name}'" in list(summary(found))
    measured = fastssl.data.open(table(name, ["1.0", "0.5"]))
    said = f"path from column 'path', the numbers in '{name}' are no classes: #score={name} predicts them"
    assert measured.labels is None and said in list(summary(measured))
    with pytest.raises(
        ValueError, match=rf"t.csv: row 2: expected classes in column '{name}', got '0.5'; .*#score={name}"
    ):
        fastssl.data.open(f"{tmp_path / 't.csv'}#label={name}")
    assert fastssl.data.open(table(name, ["1.5", "beta"])).classes == ["1.5", "beta"]
    other = fastssl.data.open(table("species", ["cat", "ant"]))
    assert other.labels is None and "path from column 'path', not read: 'species'" in list(summary(other))
    with pytest.raises(ValueError, match="expected labels .*, t has none .*not read: 'species'.*#label=NAME"):
        labels_of(other)
    with pytest.raises(ValueError, match="expected a column .* got photo, label; .*#path=photo"):
        table("x", ["cat"]).write_text("photo,label\n0.png,cat\n")
        fastssl.data.open(tmp_path / "t.csv")


def test_columns_and_matrices_of_labels() -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    column = fastssl.data.open(images, labels=np.array([[4], [0], [-1]]))  # as Keras stores them
    assert column.labels is not None and column.labels.tolist() == [4, 0, -1]
    several = fastssl.data.open(images, labels=np.array([[1, 0], [0, -1], [1, 1]]))
    assert several.labels is not None and several.labels.shape == (3, 2)
    present = fastssl.data.open(images, labels=np.array([[1, 0], [0, 1], [1, 1]], np.uint8))
    assert present.labels is not None and present.labels.tolist() == [[1, -1], [-1, 1], [1, 1]]  # nothing is ignored
    with pytest.raises(ValueError, match=r"labels: expected one per item, or -1, 0 or 1 .*, got 7 in shape \(3, 2\)"):
        fastssl.data.open(images, labels=np.array([[1, 7], [0, 2], [3, 3]]))
