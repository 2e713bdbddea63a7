"""Tables with a column of splits: parts of open, of open_splits, and of commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastssl.data
from fastssl.data import open_splits, table, text_table
from fastssl.data.table_splits import split_rows

ROWS = [("0.png", "cat", "train"), ("1.png", "ant", "val"), ("2.png", "dog", "Train"), ("3.png", "cat", "test")]


def images(folder: Path, column: str = "split", rows: list[tuple[str, str, str]] = ROWS) -> Path:
    for k, (name, _, _) in enumerate(rows):
        Image.new("RGB", (8 + k, 8)).save(folder / name)
    path = folder / "list.csv"
    path.write_text(f"path,label,{column}\n" + "".join(",".join(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("column", ["split", "Split", "partition", "subset"])
def test_images_of_a_part(column: str, tmp_path: Path) -> None:
    path = images(tmp_path, column)
    train, test = (fastssl.data.open(path, part=part) for part in ("train", "test"))
    assert [train.name_of(k) for k in range(len(train))] == ["0.png", "2.png"]
    assert [test.name_of(k) for k in range(len(test))] == ["3.png"]
    assert train.classes == test.classes == ["ant", "cat", "dog"]  # of all rows: numbers agree
    assert train.labels is not None and test.labels is not None
    assert train.labels.tolist() == [1, 2] and test.labels.tolist() == [1]
    assert train.skipped == {f"in {column} 'test'": 1, f"in {column} 'val'": 1}
    assert len(table(path)) == 4 and len(table(path, part="test")) == 1
    val = fastssl.data.open(f"{path}#split=val", part="test")
    assert [val.name_of(k) for k in range(len(val))] == ["1.png"] and val.part is None and val.classes == train.classes
    assert len(table(path, split="val")) == 1
    assert open_splits(f"{path}#label=label").divided
    with pytest.raises(ValueError, match=r"split: expected one of .*list.csv \(Train, test, train, val\), got 'all'"):
        fastssl.data.open(f"{path}#split=all")
    task = open_splits(path)
    assert task.divided and (len(task.train), len(task.test)) == (2, 1)


def test_texts_of_a_part(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("text,label,split\nA.,x,train\nB.,y,dev\nC.,y,train\n")
    for name in (str(path), f"text:{path}", f"{path}#label=label"):
        train, test = (fastssl.data.open(name, part=part) for part in ("train", "test"))
        assert [train.text_of(k) for k in range(len(train))] == ["A.", "C."] and test.text_of(0) == "B."
        assert train.classes == test.classes == ["x", "y"]
    assert len(text_table(path)) == 3
    for name in (str(path), f"text:{path}"):
        assert fastssl.data.open(f"{name}#split=dev").text_of(0) == "B."
    (tmp_path / "plain.csv").write_text("text,label\nA.,x\n")
    with pytest.raises(ValueError, match=r"split: expected one of .*plain.csv \(no such column\), got 'dev'"):
        fastssl.data.open(f"{tmp_path / 'plain.csv'}#split=dev")
    task = open_splits(path)
    assert task.divided and (len(task.train), len(task.test)) == (2, 1)


def test_pairs_of_a_part(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("sentence1,sentence2,score,split\nA.,B.,1.5,train\nC.,D.,2,test\n")
    train, test = (fastssl.data.open(path, part=part) for part in ("train", "test"))
    assert train.pair(0) == ("A.", "B.") and test.pair(0) == ("C.", "D.")  # type: ignore[attr-defined]
    assert open_splits(path).metric == "Spearman"


@pytest.mark.parametrize("other", ["extra", ""])
def test_rows_of_no_part_do_not_undo_the_others(other: str, tmp_path: Path) -> None:
    """All rows were trained on, those to test on among them."""
    path = images(tmp_path, rows=[*ROWS, ("4.png", "cat", other)])
    train, test = (fastssl.data.open(path, part=part) for part in ("train", "test"))
    assert (len(train), len(test)) == (2, 1) and train.skipped[f"in split {other!r}"] == 1


@pytest.mark.parametrize("names", [["train", "train"], ["test", "test"], ["train", "left"], ["train", ""], ["1", "0"]])
def test_other_columns_of_this_name_are_no_splits(names: list[str], tmp_path: Path) -> None:
    path = images(tmp_path, rows=[(f"{k}.png", "ab"[k], name) for k, name in enumerate(names)])
    for part in ("train", "test"):
        assert len(fastssl.data.open(path, part=part)) == 2
    assert not open_splits(path).divided


def test_a_split_that_is_the_label(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("text,split\nA.,train\nB.,test\n")
    source = fastssl.data.open(f"{path}#label=split")
    assert len(source) == 2 and source.classes == ["test", "train"]


def test_rows_of_parts() -> None:
    assert split_rows(["train", None]) is None and split_rows([]) is None
    found = split_rows([" Training ", "validation", "dev"])
    assert found is not None
    np.testing.assert_array_equal(found["train"], [0])
    np.testing.assert_array_equal(found["test"], [2])  # dev goes before validation
