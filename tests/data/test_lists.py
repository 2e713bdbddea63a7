"""Lists of images: tables without a row of names, and Parquet files of paths."""

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastssl.data
from fastssl.cli.show import describe_source
from fastssl.data import FileSource, open_splits, table
from fastssl.data.summary import summary
from fastssl.train.probe import OnlineProbe

KINDS = ["b", "a", "b"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(3):
        Image.new("RGB", (8, 8), (80 * k, 0, 0)).save(tmp_path / f"{k} of.PNG")
    return tmp_path


def check(source: Any, labels: list[int] | None) -> None:
    assert [int(item.images[0][0, 0, 0]) for item in source.items(range(3))] == [0, 80, 160]
    assert (None if source.labels is None else source.labels.tolist()) == labels


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.txt#images=.", "bars.csv", "semicolons.csv"])
@pytest.mark.parametrize("labels", [False, True])
def test_paths_need_no_heading(folder: Path, name: str, labels: bool) -> None:
    mark = "\t" if ".tsv" in name else "|" if "bars" in name else ";" if "semi" in name else ","
    rows = [f"{k} of.PNG" + (f"{mark}{kind}" if labels else "") for k, kind in enumerate(KINDS)]
    (folder / name.partition("#")[0]).write_text("\n".join(rows))
    source = fastssl.data.open(f"{folder / name}")
    check(source, [1, 0, 1] if labels else None)
    file = folder / name.partition("#")[0]
    file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
    check(
        fastssl.data.open(f"{folder / name.replace(file.suffix, file.suffix + '.gz')}"), [1, 0, 1] if labels else None
    )
    assert list(source.classes) == (["a", "b"] if labels else [])


@pytest.mark.parametrize("row", ["{}", "{},cat", "{}\t1", "{}|cat"])
def test_lists_of_images_are_no_corpora(folder: Path, row: str) -> None:
    path = folder / "list.txt"
    path.write_text("\n".join(row.format(f"{k} of.PNG") for k in range(3)))
    with pytest.raises(ValueError, match=r"list.txt' lists images such as '0 of.PNG'; .*list\.txt#images=\., .* text:"):
        fastssl.data.open(path)
    assert fastssl.data.open(f"text:{path}").read(0).text == row.format("0 of.PNG")
    assert len(fastssl.data.open(f"{path}#images=.")) == 3
    path.write_text("gone.png is a file.\n")
    assert fastssl.data.open(path).read(0).text == "gone.png is a file."


@pytest.mark.parametrize(
    ("name", "text", "how"),
    [
        ("list_attr_celeba.txt", "202599\nBald Young \n000001.jpg -1  1\n000002.jpg -1 -1\n", "celeba:FOLDER"),
        (
            "places365_val.txt",
            "Places365_val_01.jpg 165\nPlaces365_val_02.jpg 358\n",
            r"places365_val.txt#images=FOLDER",
        ),
        ("train.txt", "/airfield/1.jpg 0\n/airfield/2.jpg 0\n" * 500, r"train.txt#images=FOLDER"),
        ("Flickr8k.token.txt", "10.jpg#0\tA child.\n10.jpg#1\tA girl.\n", r"token.txt#images=FOLDER"),
        ("results.token", "10.jpg#0\tA child.\n10.jpg#1\tA girl.\n", r"results.token#images=FOLDER"),
        ("captions.txt", "image,caption\n1.jpg,Two dogs\n1.jpg,One\n", r"captions.txt#images=FOLDER"),
        (
            "bars.txt",
            "image_name| comment_number| comment\n1.jpg| 0| Two dogs\n1.jpg| 1| A dog\n",
            r"bars.txt#images=FOLDER",
        ),
        ("one.txt", "1.jpg", "one.txt#images=FOLDER"),
        ("here.txt", "image,caption\n0 of.PNG,Two dogs\n", r"here.txt#images=\."),
    ],
)
def test_lists_of_images_in_other_folders_are_no_corpora(folder: Path, name: str, text: str, how: str) -> None:
    path = folder / name
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{name}' lists images such as .*; those are read as .*{how}, and"):
        fastssl.data.open(path)
    Image.new("RGB", (8, 8)).save(folder / "10.jpg")
    assert len(fastssl.data.open(f"text:{path}" if path.suffix == ".txt" else f"{path}#images={folder}"))


def test_texts_on_images_are_a_corpus(folder: Path) -> None:
    path = folder / "notes.txt"
    for text in ("See 1.jpg.\n", "1.jpg is red.\nIt is wrong.\n", "a\nb\nc\n1.jpg 2\n2.jpg 3\n", ""):
        path.write_text(text)
        assert len(fastssl.data.open(path)) == len(text.splitlines())


@pytest.mark.parametrize("name", ["laion.parquet", "laion.csv", "laion.jsonl"])
def test_tables_of_urls_are_not_guessed_at(folder: Path, name: str) -> None:
    path = folder / name
    urls = [f"file://{folder}/{k} of.PNG" for k in range(3)]
    columns = {"URL": urls, "TEXT": ["a", "b", "c"], "similarity": [0.1, 0.2, 0.3]}

    def write() -> None:
        if name.endswith("parquet"):
            pytest.importorskip("datasets").Dataset.from_dict(columns).to_parquet(path)
            return
        rows = list(zip(*columns.values()))
        if name.endswith("csv"):
            path.write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]))
        else:
            path.write_text("\n".join(json.dumps(dict(zip(columns, row))) for row in rows))

    write()
    with pytest.raises(ValueError, match=rf"{name}: column 'URL' has the URLs of images; .*#path=URL, .*#text=TEXT"):
        fastssl.data.open(path)
    images = fastssl.data.open(f"{path}#path=URL")
    assert images.read(1).text == "b"
    check(images, None)
    texts = fastssl.data.open(f"{path}#text=TEXT")
    assert texts.read(2).text == "c"
    assert "text from column 'TEXT'" in describe_source(texts)
    columns["URL"] = ["https://example.org/page", "https://example.org/a.jpg", ""]  # the pages of the texts
    write()
    assert fastssl.data.open(path).read(2).text == "c"


def test_columns_of_several_classes(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_text("path,cat,dog,age\n0 of.PNG,1,0,3\n1 of.PNG,1.0,,4\n2 of.PNG, 0,1,5\n")
    for found in (fastssl.data.open(f"{path}#labels={{cat,DOG}}"), table(path, columns={"labels": "cat, dog"})):
        assert found.labels is not None and found.labels.tolist() == [[1, -1], [1, 0], [-1, 1]]
        assert found.classes == ["cat", "dog"]
        assert "labels from column 'cat, dog', not read: 'age'" in list(summary(found))[1]
        assert found.subset([2]).labels.tolist() == [[-1, 1]]  # type: ignore[union-attr]
    assert open_splits(f"{path}#labels={{cat,dog}}").metric == "11-point mAP"
    path.write_text("path,cat,dog\n0 of.PNG,1,1\n1 of.PNG,,1\n")
    with pytest.raises(
        ValueError, match="labels: expected 0 where a class is absent, .*in columns cat, dog; there are"
    ):
        fastssl.data.open(f"{path}#labels={{cat,dog}}")
    path.write_text("path,cat,dog\n0 of.PNG,1,1\n1 of.PNG,1,1\n")
    assert fastssl.data.open(f"{path}#labels={{cat,dog}}").labels.tolist() == [[1, 1], [1, 1]]  # type: ignore[union-attr]
    for options, error in (
        ("labels={cat,age}", r"labels: expected a column of .*list.csv \(path, cat, dog\), got 'age'"),
        ("labels={cat,path}", "list.csv: row 1: expected 1, 0 .*or an empty cell .* in column 'path', got '0 of.PNG'"),
        ("labels=cat", r"of several classes in braces, .*list.csv#labels={cat,dog}, got 'cat'; .* are #label=cat"),
        ("labels=cat,dog", r"of several classes in braces, .*list.csv#labels={cat,dog}, got 'cat'"),
        ("labels={cat,dog}:label=cat", "expected a column of labels or of scores, got label=cat and labels="),
    ):
        with pytest.raises(ValueError, match=error):
            fastssl.data.open(f"{path}#{options}")


@pytest.mark.parametrize(
    "labels", [[1, 0, -1], [[1, -1], [0, 1], [0, -1]], [[0, 1], [1, 1], [0, 0]], [0.5, 2.0, np.nan]]
)
def test_files_take_labels_of_every_kind(folder: Path, labels: Any) -> None:
    paths = [folder / f"{k} of.PNG" for k in range(3)]
    source = FileSource(paths, labels, () if isinstance(labels[0], float) else ("cat", "dog"))
    wanted = np.array(labels)
    if wanted.ndim == 2 and wanted.min() == 0:  # of 0 and 1 alone: 0 is absent
        wanted = 2 * wanted - 1
    assert source.labels is not None and source.labels.dtype.kind == wanted.dtype.kind
    np.testing.assert_array_equal(source.labels, wanted)
    source.where, source.part, source.skipped = "there", "train", {"hidden": 1}
    some = source.subset([1])  # without a -1 among several classes, which is no other meaning of its 0
    np.testing.assert_array_equal(some.labels, wanted[[1]])  # type: ignore[arg-type]
    assert (some.where, some.part, some.skipped) == (None, None, {})
    assert some.read(0).label == (0 if wanted.dtype.kind == "i" and wanted.ndim == 1 else None)
    with pytest.raises(ValueError, match="labels: expected 3 integers, got float64 .*; numbers to predict are"):
        FileSource(paths, [0.5, 1.0, 2.0], ["cat", "dog"])
    with pytest.raises(ValueError, match=r"labels: expected 3 numbers, got float64 of shape \(2,\)"):
        FileSource(paths, [0.5, 1.0])


def test_signs_are_classes_that_are_there_or_absent(folder: Path) -> None:
    """As CelebA's attributes."""
    path = folder / "list.csv"
    for absent in ("0", "-1"):
        path.write_text(f"path,cat,dog\n0 of.PNG,1,{absent}\n1 of.PNG,{absent},\n2 of.PNG,1,1\n")
        labels = fastssl.data.open(f"{path}#labels={{cat,dog}}").labels
        assert labels is not None and labels.tolist() == [[1, -1], [-1, 0], [1, 1]]
    path.write_text("path,cat,dog\n0 of.PNG,1,0\n1 of.PNG,-1,1\n")
    with pytest.raises(
        ValueError, match="labels: expected 0 or -1 where a class is absent, got both in columns cat, dog"
    ):
        fastssl.data.open(f"{path}#labels={{cat,dog}}")


@pytest.mark.parametrize("name", ["list.csv", "list.json", "list.parquet"])
def test_paths_may_lack_the_suffix_of_their_files(folder: Path, name: str) -> None:
    """Ids, as in tables of Kaggle's."""
    if name.endswith(".csv"):
        (folder / name).write_text("id,label\n0 of,b\n1 of,a\n2 of,b\n")
    elif name.endswith(".json"):
        (folder / name).write_text(
            '[{"id": "0 of", "label": 1}, {"id": "1 of", "label": 0}, {"id": "2 of", "label": 1}]'
        )
    else:
        parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        pytest.importorskip("datasets")
        parquet.write_table(pa.table({"id": ["0 of", "1 of", "2 of"], "label": [1, 0, 1]}), folder / name)
    check(fastssl.data.open(f"{folder / name}#path=id"), [1, 0, 1])
    with pytest.raises(ValueError, match=r"expected a column of paths .*, got id, label; .* named: #path=NAME"):
        table(folder / name)
    Image.new("RGB", (8, 8)).save(folder / "0 of.jpg")  # which of the two is not known
    with pytest.raises(FileNotFoundError, match="0 of: no such file"):
        fastssl.data.open(f"{folder / name}#path=id")


@pytest.mark.parametrize("slash", ["", "/"])
def test_lists_with_a_space_before_the_label(folder: Path, slash: str) -> None:
    """As ImageNet's and Places365's, whose paths begin at the folder of the images."""
    (folder / "lists").mkdir()
    path = folder / "lists" / "val.txt"
    path.write_text("".join(f"{slash}{k} of.PNG {label}\n" for k, label in enumerate((1, 0, 1))))
    check(fastssl.data.open(f"{path}#images=.."), [1, 0, 1])
    path.write_text(f"{folder}/0 of.PNG 1\n{folder}/1 of.PNG 0\n{folder}/2 of.PNG 1\n")
    check(fastssl.data.open(f"{path}#images=."), [1, 0, 1])
    path.write_text("0 of.PNG 1\n1 of.PNG\n")
    with pytest.raises(ValueError, match="row 2: expected path and label as in the first row, got '1 of.PNG'"):
        fastssl.data.open(f"{path}#images=..")


def test_lists_of_classes_are_read_from_json(folder: Path) -> None:
    (folder / "a.jsonl").write_text(
        '{"path": "0 of.PNG", "label": ["cat", "dog"]}\n{"path": "1 of.PNG", "label": []}\n'
    )
    (folder / "b.jsonl").write_text('{"text": "A cat.", "label": ["cat", "dog"]}\n')
    for name, labels in (("a.jsonl", [[1, 1], [-1, -1]]), ("b.jsonl", [[1, 1]])):
        found = fastssl.data.open(folder / name)
        assert found.labels.tolist() == labels and found.classes == ["cat", "dog"]  # type: ignore[union-attr]
    (folder / "c.jsonl").write_text('{"text": "A cat.", "label": ["cat"]}\n{"text": "A dog.", "label": []}\n')
    with pytest.raises(ValueError, match="row 1 and others: expected lists of several classes, got 'cat' alone"):
        fastssl.data.open(folder / "c.jsonl")
    for given in ([["cat"], ["cat", "dog"]], [[0], [0, 1]]):
        with pytest.raises(ValueError, match=r"labels: expected one per item, or \[N, classes\] of 0 and 1, got lists"):
            fastssl.data.open(np.zeros((2, 8, 8, 3), np.uint8), labels=given)
        with pytest.raises(ValueError, match=r"labels: expected one per item, or \[N, classes\] of 0 and 1, got lists"):
            FileSource(["a.png", "b.png"], given)


def test_captions_without_a_heading_are_no_classes(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_text("".join(f"{k % 3} of.PNG,a cat asleep {k}\n" for k in range(6)))
    with pytest.raises(
        ValueError, match="labels in the second column .* got texts such as 'a cat asleep 0'; .*path,text"
    ):
        fastssl.data.open(path)
    path.write_text("path,text\n" + path.read_text())
    assert fastssl.data.open(path).read(1).text == "a cat asleep 1"
    names = ["great white shark", "black footed albatross"]
    path.write_text("".join(f"{k % 3} of.PNG,{names[k % 2]}\n" for k in range(6)))
    assert sorted(fastssl.data.open(path).classes) == sorted(names)


def test_numbers_without_a_heading(folder: Path) -> None:
    (folder / "list.csv").write_text("0 of.PNG,0.5\n1 of.PNG,2\n2 of.PNG,\n")
    assert fastssl.data.open(folder / "list.csv").labels is None
    np.testing.assert_array_equal(fastssl.data.open(f"{folder / 'list.csv'}#score=label").labels, [0.5, 2, np.nan])
    (folder / "list.csv").write_text("0 of.PNG\n")
    assert len(fastssl.data.open(folder / "list.csv")) == 1


def test_paths_of_arrays_need_no_heading(folder: Path) -> None:
    for k in range(3):
        np.save(folder / f"{k}.npy", np.full((8, 8, 3), 80 * k, np.uint8))
    (folder / "list.csv").write_text("0.npy,b\n1.npy,a\n2.npy,b\n")
    check(fastssl.data.open(folder / "list.csv"), [1, 0, 1])


@pytest.mark.parametrize("row", ["0.png,a,b", "0,0.png", "0.png 1 2", "a,b/0.jpeg,c"])
def test_columns_that_need_names(tmp_path: Path, row: str) -> None:
    (tmp_path / "list.csv").write_text(f"{row}\n{row}\n")
    with pytest.raises(ValueError, match=r"list.csv: expected a first row with the names .* such as path,label, got '"):
        fastssl.data.open(tmp_path / "list.csv")


def stored(to: Path, **columns: list[Any]) -> str:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table(columns), to)
    return str(to)


def test_paths_in_parquet_files(folder: Path) -> None:
    paths = [f"{k} of.PNG" for k in range(3)]
    path = stored(folder / "list.parquet", path=paths, label=KINDS)
    for name in (path, f"hf:{path}", f"{path}#images=."):
        source = fastssl.data.open(name)
        check(source, [1, 0, 1])
        assert source.classes == ["a", "b"] and source.name_of(1) == "1 of.PNG"
    check(table(path), [1, 0, 1])
    assert not fastssl.data.open(path, orientation=False).orientation
    named = stored(folder / "named.parquet", where=paths, age=[0.5, None, 2.0])
    np.testing.assert_array_equal(fastssl.data.open(f"{named}#path=where:score=age").labels, [0.5, np.nan, 2])
    texts = stored(folder / "texts.parquet", image=paths, caption=[["one", "first"], ["two"], ["three"]])
    assert [item.text for item in fastssl.data.open(texts).items(range(4))] == ["one", "first", "two", "three"]
    divided = stored(folder / "split.parquet", path=paths, label=KINDS, split=["train", "test", "train"])
    assert [len(part) for part in (open_splits(divided).train, open_splits(divided).test)] == [2, 1]
    assert len(fastssl.data.open(f"{divided}#split=test")) == 1
    with pytest.raises(ValueError, match="empty.parquet: expected rows, found none"):
        table(stored(folder / "empty.parquet", path=[]))
    with pytest.raises(ValueError, match="row 2 has no path"):
        fastssl.data.open(stored(folder / "none.parquet", path=["0 of.PNG", None]))


def test_folders_of_parquet_files_of_paths(folder: Path) -> None:
    paths = [f"../{k} of.PNG" for k in range(3)]
    (folder / "lists").mkdir()
    for k in range(3):
        stored(folder / "lists" / f"train-{k}.parquet", path=[paths[k]], label=[KINDS[k]], age=[float(k)])
    for name in (f"hf:{folder}/lists", f"{folder}/lists"):
        source = fastssl.data.open(name, max_pixels=64)
        check(source, [1, 0, 1])
        assert source.name == "lists" and source.max_pixels == 64  # type: ignore[attr-defined]
        assert [len(part) for part in (open_splits(name).train, open_splits(name).test)] == [2, 1]
        np.testing.assert_array_equal(fastssl.data.open(f"{name}#score=age").labels, [0, 1, 2])
        check(fastssl.data.open(f"{name}#images=../lists:label=label"), [1, 0, 1])
    stored(folder / "lists" / "test-0.parquet", path=paths[:1], label=["b"])
    task = open_splits(f"hf:{folder}/lists")
    assert (len(task.train), len(task.test), task.test.labels.tolist()) == (3, 1, [1])  # type: ignore[union-attr]
    assert len(fastssl.data.open(f"{folder}/lists", part="test")) == 1


def test_other_parquet_files_are_no_lists(folder: Path) -> None:
    encoded = [(folder / f"{k} of.PNG").read_bytes() for k in range(3)]
    both = stored(folder / "both.parquet", image=encoded, path=["x.png"] * 3, label=KINDS)
    check(fastssl.data.open(both), [1, 0, 1])
    spoken = fastssl.data.open(stored(folder / "spoken.parquet", path=["a.mp3"] * 3, sentence=["One."] * 3))
    assert spoken.read(0).text == "One."


@pytest.mark.parametrize("given", [("image", ["a", "b"]), {"image": "image", "captions": ("a", "b")}])
def test_several_captions_of_an_item_say_what_to_give(given: Any) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    item = (image, given[1]) if isinstance(given, tuple) else {**given, "image": image}
    with pytest.raises(TypeError, match="item 0: expected a string as text, got .*: give an item for each caption"):
        fastssl.data.open([item, item]).read(0)


def test_files_that_are_not_there_say_where_they_were_looked_for(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_text("path\n0 of.PNG\nsub/1.png\n" + r"sub\1.png" + f"\n{folder}/2.png\n")
    source = fastssl.data.open(path)
    wanted = (
        rf"/sub/1.png: no such file; paths are relative to {folder}, another folder .*: #images=FOLDER$",
        r"sub\\1.png: no such file; folders of a path are separated by /, not by \\$",
        r"/2.png: no such file$",
    )
    for k, message in enumerate(wanted, 1):
        with pytest.raises(FileNotFoundError, match=message):
            source.read(k)
    with pytest.raises(FileNotFoundError, match="gone.png: no such file$"):
        fastssl.data.FileSource([folder / "gone.png"]).read(0)


def test_folders_in_a_tar_file_are_no_classes(folder: Path) -> None:
    from fastssl.evaluate.features import labels_of

    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(folder / "0 of.PNG", "cat/0.png")
    source = fastssl.data.open(folder / "a.tar")
    with pytest.raises(ValueError, match=r"a has none; classes are files beside the images \(0.cls beside 0.jpg\)"):
        labels_of(source)
    assert "no labels" in list(summary(source))
    of_torch = fastssl.data.open([(np.zeros((8, 8, 3), np.uint8), 1)] * 3)
    assert "labels are known when items are read" in list(summary(of_torch))


def test_the_probe_says_that_it_takes_one_class_per_image(folder: Path) -> None:
    source = FileSource([folder / "0 of.PNG"] * 30, np.ones((30, 2), int), ("cat", "dog"))
    with pytest.raises(ValueError, match="probe_every: expected one class per item, files has several"):
        OnlineProbe(source, 1)


@pytest.mark.parametrize("name", ("a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.txt", "metadata.csv"))
def test_lists_of_files_that_are_not_there_fail_when_they_are_opened(folder: Path, name: str) -> None:
    path, images = folder / name, folder / "0 of.PNG"

    def write(*places: str) -> Any:
        rows = [{"file_name": place, "label": "b"} for place in places]
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow.parquet").write_table(
                pytest.importorskip("pyarrow").Table.from_pylist(rows), path
            )
        elif ".json" in name:
            path.write_text(json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows)))
        elif name.endswith("txt"):
            path.write_text("".join(f"{place} b\n" for place in places))
        else:
            mark = "\t" if name.endswith("tsv") else ","
            path.write_text(f"file_name{mark}label\n" + "".join(f"{place}{mark}b\n" for place in places))
        return fastssl.data.open(folder if name == "metadata.csv" else f"{path}#images=.")

    with pytest.raises(FileNotFoundError, match="none/0.png: no such file; paths are relative to"):
        write("none/0.png", "none/1.png")
    assert len(write("none/0.png", images.name)) == 2  # some may be missing


@pytest.mark.parametrize("heading", ("3\n", "3\r\n"))
def test_lists_of_counted_values_are_known_by_their_form(folder: Path, heading: str) -> None:
    """That of CelebA's, whatever the file is called."""
    rows = "".join(f"{k} of.PNG  1 -1  {k - 1 or -1}\n".replace(" of", "") for k in range(3))
    for k in range(3):
        (folder / f"{k} of.PNG").rename(folder / f"{k}.PNG")
    path = folder / "attrs.txt"
    path.write_text(f"{heading}Young Male Smiling\n{rows}")
    assert fastssl.data.open(f"{path}#images=.").name_of(2) == "2.PNG"
    source = fastssl.data.open(f"{path}#images=.:labels={{Male,Smiling}}")
    assert source.classes == ["Male", "Smiling"] and source.labels.tolist() == [[-1, -1], [-1, -1], [-1, 1]]  # type: ignore
    path.write_text(f"4\nYoung Male Smiling\n{rows}")
    with pytest.raises(ValueError, match="expected 4 images, as its first line says, got 3"):
        fastssl.data.open(f"{path}#images=.")
    path.write_text(f"3\nYoung Male\n{rows}")
    with pytest.raises(ValueError, match="row 1: expected an image and 2 values, got '0.PNG 1 -1 -1'"):
        fastssl.data.open(f"{path}#images=.")


def test_columns_of_classes_are_named(folder: Path) -> None:
    """Of a table whose column of ids is not known by its name (Kaggle's plants)."""
    path = folder / "train.csv"
    path.write_text("image_id,healthy,rust,scab\n0 of,0,0,1\n1 of,1,0,0\n2 of,0,0,1\n")
    remedy = r"train.csv#path=image_id:images=FOLDER:labels=\{healthy,rust,scab\}"
    for options in ("", "#images=.", "#label=rust"):
        with pytest.raises(ValueError, match=remedy):
            fastssl.data.open(f"{path}{options}")
    assert "#labels={healthy,rust,scab}" in str(fastssl.data.open(f"{path}#path=image_id").classes_from)
    source = fastssl.data.open(f"{path}#path=image_id:images=.:labels={{healthy,rust,scab}}")
    assert source.labels is not None and source.labels[0].tolist() == [-1, -1, 1]
    path.write_text("image_id,age,weight\n0 of,10,20\n")
    with pytest.raises(ValueError, match="#path=image_id$"):
        fastssl.data.open(path)


def test_parquet_files_of_metadata_are_those_of_their_folder(folder: Path) -> None:
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    parquet.write_table(
        pa.table({"file_name": ["2 of.PNG", "0 of.PNG"], "label": ["b", "a"]}), folder / "metadata.parquet"
    )
    source = fastssl.data.open(folder)
    assert source.classes == ["a", "b"] and [source.name_of(k) for k in range(2)] == ["2 of.PNG", "0 of.PNG"]
    parquet.write_table(pa.table({"x": [1]}), folder / "other.parquet")
    with pytest.raises(ValueError, match="holds .parquet files beside images"):
        fastssl.data.open(folder)


def test_tables_of_wav_files_are_not_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from fastssl.models import Samples

    Samples("audio", np.zeros((2, 800)), 8000).save(str(tmp_path / "word" / "take"))
    first = next((tmp_path / "word").glob("*.wav"))
    (tmp_path / "word" / "metadata.csv").write_text(f"file_name,label\n{first.name},a\n")
    assert len(fastssl.data.open(tmp_path / "word")) == 2
    assert "metadata.csv is not read: classes of WAV files are sub-folders" in caplog.text
    with pytest.raises(ValueError, match="expected images, got WAV files such as .*; those are opened as a folder"):
        fastssl.data.open(tmp_path / "word" / "metadata.csv")


def test_files_without_a_suffix_are_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "series" / "s1"
    folder.mkdir(parents=True)
    for k in range(3):
        (folder / f"IM{k}").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 99)
    with pytest.raises(ValueError, match=r"IM0: cannot be read as an image \(a DICOM file; convert it"):
        fastssl.data.open(tmp_path / "series")
    Image.new("RGB", (8, 8)).save(folder / "IM0", "PNG")
    with pytest.raises(ValueError, match="IM0 is a PNG file, to whose name a suffix is to be added"):
        fastssl.data.open(tmp_path / "series")
