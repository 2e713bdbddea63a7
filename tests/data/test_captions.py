"""Tables of captions as data sets of captions have them: COCO, open_clip, Flickr8k and Flickr30k."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastssl.data
from fastssl.data import Corpus, FileSource, ShardSource, table
from fastssl.data.summary import summary

NAMES = ("cat.png", "dog.png", "cow.png")
CAPTIONS = [(1, "a dog, running"), (0, "a cat"), (1, 'a "dog" | one'), (0, " two cats"), (2, "a cow")]


def images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(NAMES):
        Image.new("RGB", (8 + k, 8)).save(folder / name)


def coco(path: Path, **more: Any) -> Path:
    """Ids of images that are no indices, as in COCO."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        "info": {"year": 2017},
        "images": [{"id": 700 - k, "file_name": name, "height": 8, "width": 8 + k} for k, name in enumerate(NAMES)],
        "annotations": [{"id": n, "image_id": 700 - k, "caption": text} for n, (k, text) in enumerate(CAPTIONS)],
    }
    path.write_text(json.dumps({**stored, **more}))
    return path


def check(source: Any, captions: list[tuple[int, str]] = CAPTIONS) -> None:
    assert isinstance(source, FileSource) and len(source) == len(captions)
    for k, (image, text) in enumerate(captions):
        item = source.read(k)
        assert item.text == text and item.images is not None and item.images[0].shape[:2] == (8, 8 + image)
        assert item.name == NAMES[image]
    files = [image for image, _ in captions]
    ids = [files.index(file) for file in files]
    assert (source.image_ids is None) == (len(set(files)) == len(files))
    assert source.image_ids is None or source.image_ids.tolist() == ids


@pytest.mark.parametrize("name", ["Flickr8k.token.txt", "results_20130124.token"])
def test_captions_with_a_number_behind_the_path(name: str, tmp_path: Path) -> None:
    images(tmp_path / "Images")
    lines = (f"{NAMES[image]}#{n}\t{text.strip()}\n" for n, (image, text) in enumerate(CAPTIONS))
    (tmp_path / name).write_text("".join(lines))
    check(fastssl.data.open(f"{tmp_path / name}#images=Images"), [(image, text.strip()) for image, text in CAPTIONS])


def test_annotations_of_coco_with_a_class_per_image(tmp_path: Path) -> None:
    """As iNaturalist's and Herbarium's."""
    images(tmp_path / "train")
    stored: dict[str, Any] = {
        "images": [{"id": 70 - k, "file_name": f"train/{name}"} for k, name in enumerate(NAMES)],
        "annotations": [{"id": k, "image_id": 70 - k, "category_id": (9, 4, 9)[k]} for k in range(3)],
        "categories": [{"id": 4, "name": "Canis"}, {"id": 9, "name": "Bos"}],
    }
    path = tmp_path / "train2018.json"
    for classes, labels, more in (
        (["Bos", "Canis"], [0, 1, 0], stored["categories"]),
        ([str(k) for k in range(10)], [9, 4, 9], [{"id": 4, "name": "lupus"}, {"id": 9, "name": "lupus"}]),
    ):
        path.write_text(json.dumps({**stored, "categories": more}))
        source = fastssl.data.open(path)
        assert list(source.classes) == classes and source.labels.tolist() == labels  # type: ignore[union-attr]
        assert [source.read(k).images[0].shape[1] for k in range(3)] == [8, 9, 10]  # type: ignore[index]
    stored["annotations"][0]["bbox"] = [0, 0, 4, 4]
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="boxes are opened as coco:FOLDER"):
        fastssl.data.open(path)


@pytest.mark.parametrize(
    "place", ["val2017", "images", "annotations/val2017", "annotations/images", "annotations", "."]
)
def test_captions_of_coco(place: str, tmp_path: Path) -> None:
    images(tmp_path / place)
    path = coco(tmp_path / "annotations" / "captions_val2017.json")
    check(fastssl.data.open(path))
    check(table(path))
    assert "2 of them share an image with an earlier one" in summary(table(path))


def test_images_of_coco_in_another_folder(tmp_path: Path) -> None:
    images(tmp_path / "photos")
    path = coco(tmp_path / "annotations" / "captions.json")
    with pytest.raises(ValueError, match=r"its images, such as dog.png, in a folder beside .*json#images=FOLDER"):
        fastssl.data.open(path)
    for folder in ("../photos", str(tmp_path / "photos")):
        check(fastssl.data.open(f"{path}#images={folder}"))
    check(table(path, images=tmp_path / "photos"))
    with pytest.raises(ValueError, match="images: expected a folder, got .*/nowhere"):
        table(path, images="nowhere")


def karpathy(path: Path, **more: Any) -> Path:
    """Captions grouped by image, in the order of the images' first captions; the cat is of "restval"."""
    stored = {
        "dataset": "flickr8k",
        "images": [
            {
                "filename": NAMES[image],
                "imgid": k,
                "split": {0: "restval", 1: "train", 2: "test"}[image],
                "sentences": [{"raw": text, "tokens": text.split()} for own, text in CAPTIONS if own == image],
            }
            for k, image in enumerate((1, 0, 2))
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**stored, **more}))
    return path


GROUPED = sorted(CAPTIONS, key=lambda caption: (1, 0, 2).index(caption[0]))


@pytest.mark.parametrize("place", ["flickr8k-images", "flickr8k_images", "images", "Images", "."])
def test_splits_of_karpathy(place: str, tmp_path: Path) -> None:
    images(tmp_path / place)
    path = karpathy(tmp_path / "dataset_flickr8k.json")
    check(table(path), GROUPED)
    check(fastssl.data.open(path), GROUPED[:4])
    check(fastssl.data.open(path, part="test"), GROUPED[4:])
    assert fastssl.data.open(path, part="test").skipped == {"in split 'restval'": 2, "in split 'train'": 2}
    task = fastssl.data.open_splits(path)
    assert [len(task.train), len(task.test), task.divided] == [2, 1, True]  # images, each once


def test_splits_of_karpathy_with_folders(tmp_path: Path) -> None:
    images(tmp_path / "val2014")
    stored = json.loads(karpathy(tmp_path / "x.json").read_text())["images"]
    path = karpathy(tmp_path / "dataset_coco.json", images=[{**one, "filepath": "val2014"} for one in stored])
    source = fastssl.data.open(path, part="test")
    assert source.read(0).name == "val2014/cow.png" and source.text_of(0) == "a cow"


def test_bad_splits_of_karpathy_are_named(tmp_path: Path) -> None:
    path = karpathy(tmp_path / "dataset.json", images=[{"sentences": [{"raw": "a cat"}], "split": "train"}])
    with pytest.raises(ValueError, match=r"filename, split and sentences .* number 0 .*KeyError: 'filename'"):
        fastssl.data.open(path)


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_lists_of_captions(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As of nlphuji/flickr30k: in JSON lists, in CSV lists in JSON."""
    images(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "none.png")
    rows = [
        {"filename": name, "label": "ab"[k % 2], "raw": [text for own, text in CAPTIONS if own == k]}
        for k, name in enumerate(NAMES)
    ]
    rows.append({"filename": "none.png", "label": "a", "raw": []})
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "raw": json.dumps(row["raw"])} for row in rows)
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    source = fastssl.data.open(path)
    check(source, sorted(CAPTIONS, key=lambda caption: caption[0]))
    assert source.labels is not None and source.labels.tolist() == [0, 0, 1, 1, 0]
    assert "1 of 4 images have no text and are left out" in caplog.text


def test_lists_of_captions_in_shards(tmp_path: Path) -> None:
    images(tmp_path)
    paths = []
    for shard, members in enumerate(((0, 1), (2,))):
        paths.append(tmp_path / f"{shard}.tar")
        with tarfile.open(paths[-1], "w") as archive:
            for k in members:
                archive.add(tmp_path / NAMES[k], f"{k}.png")
                texts = [text for own, text in CAPTIONS if own == k]
                about = json.dumps({"caption": texts if len(texts) > 1 else texts[0], "label": k}).encode()
                member = tarfile.TarInfo(f"{k}.json")
                member.size = len(about)
                archive.addfile(member, io.BytesIO(about))
    for _ in range(2):  # its index is made, and read
        source = ShardSource(paths)
        assert [source.text_of(k) for k in range(5)] == [
            text for _, text in sorted(CAPTIONS, key=lambda caption: caption[0])
        ]
        assert [source.read(k).images[0].shape[1] for k in range(5)] == [8, 8, 9, 9, 10]  # type: ignore[index]
        assert source.labels is not None and source.labels.tolist() == [0, 0, 1, 1, 2]
        assert source.image_ids is not None and source.image_ids.tolist() == [0, 0, 2, 2, 4]
    assert ShardSource(paths[1:]).image_ids is None


@pytest.mark.parametrize("split", [False, True])
def test_lists_of_captions_of_hugging_face(split: bool, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images(tmp_path)
    rows = {
        "image": [str(tmp_path / name) for name in NAMES],
        "caption": [[text for own, text in CAPTIONS if own == k] for k in range(3)],
        "label": [2, 0, 1],
        **({"split": ["train", "test", "train"]} if split else {}),
    }
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    made = made.cast_column("label", datasets.ClassLabel(names=["a", "b", "c"]))
    made.to_parquet(tmp_path / "all.parquet")
    grouped = sorted(CAPTIONS, key=lambda caption: caption[0])
    for part in ("train", "test"):
        wanted = grouped if not split else [c for c in grouped if (c[0] == 1) == (part == "test")]
        source = fastssl.data.open(tmp_path / "all.parquet", part=part)
        items = [source.read(k) for k in range(len(source))]
        assert [item.text for item in items] == [text for _, text in wanted]
        assert [item.images[0].shape[1] - 8 for item in items] == [image for image, _ in wanted]  # type: ignore[index]
        files = [image for image, _ in wanted]
        assert source.image_ids is not None and source.image_ids.tolist() == [files.index(file) for file in files]
        assert source.labels is not None and source.labels.tolist() == [[2, 0, 1][file] for file in files]
        assert source.text_of(0) == wanted[0][1]


def test_images_of_hugging_face_without_captions_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    datasets = pytest.importorskip("datasets")
    images(tmp_path)
    rows = {"image": [str(tmp_path / name) for name in NAMES], "caption": [["a cat", "a pet"], [], None]}
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    made.to_parquet(tmp_path / "all.parquet")
    source = fastssl.data.open(tmp_path / "all.parquet")
    assert [source.text_of(k) for k in range(len(source))] == ["a cat", "a pet", ""]
    assert "1 of 3 rows have no caption" in caplog.text and "1 of 3 images have no text" in caplog.text


def test_captions_in_brackets_are_texts(tmp_path: Path) -> None:
    images(tmp_path)
    path = tmp_path / "list.csv"
    path.write_text('path,caption\ncat.png,[a cat]\ndog.png,"[""a dog""]"\n')
    check(fastssl.data.open(path), [(0, "[a cat]"), (1, '["a dog"]')])


def test_rows_that_end_early_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path)
    path = tmp_path / "list.csv"
    for last in ("dog.png", "dog.png,"):  # an empty cell is one, too
        caplog.clear()
        path.write_text(f"path,caption\ncat.png,a cat\n{last}\n")
        assert [fastssl.data.open(path).text_of(k) for k in (0, 1)] == ["a cat", ""]
        assert "1 of 2 rows have no caption, their texts are empty" in caplog.text


def test_bad_captions_of_coco_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path)
    path = tmp_path / "captions.json"
    boxes = [{"id": 1, "image_id": 700, "bbox": [0, 0, 1, 1], "category_id": 1}]
    for more, match in (
        ({"annotations": []}, "expected annotations with captions, found none"),
        ({"annotations": boxes}, "'caption' in each of annotations, number 0 has none; boxes are opened as coco:"),
        ({"images": [{"id": 700}]}, "'file_name' in each of images, number 0 has none$"),
        ({"images": []}, "annotation 0 is of image 699, which is not listed"),
        (
            {"annotations": [{"image_id": 700, "caption": [3]}]},
            "row 1: expected a string, or a list of strings, in column caption, got \\[3\\]",
        ),
        ({"images": {}}, 'expected a list of objects such as {"path": "0.png", "label": 1}, got dict'),
    ):
        with pytest.raises(ValueError, match=rf"captions.json: .*{match}"):
            fastssl.data.open(coco(path, **more))
    for rows, got in (([["0.png", 1]], r"\['0.png', 1\]"), ([{"path": "0.png"}, None], "None")):
        path.write_text(json.dumps(rows))
        with pytest.raises(ValueError, match=f"expected a list of objects such as .*, got a list with {got}"):
            fastssl.data.open(path)
    coco(path, annotations=[{"image_id": 700, "caption": "a cat"}])
    assert len(fastssl.data.open(path)) == 1 and "2 of 3 images have no caption and are left out" in caplog.text


@pytest.mark.parametrize(("mark", "suffix"), [(",", ".csv"), ("\t", ".csv"), ("\t", ".tsv"), (";", ".csv")])
def test_tables_of_open_clip(mark: str, suffix: str, tmp_path: Path) -> None:
    """As pandas writes them, with quotation marks where a field needs them."""
    images(tmp_path)
    quoted = ['"' + text.replace('"', '""') + '"' if set('",;') & set(text) else text for _, text in CAPTIONS]
    rows = [f"{NAMES[k]}{mark}{text}" for (k, _), text in zip(CAPTIONS, quoted)]
    path = tmp_path / f"train{suffix}"
    path.write_text("\n".join([f"filepath{mark}title", *rows]) + "\n")
    source = fastssl.data.open(path)
    check(source)
    assert source.columns == "path from column 'filepath', text from column 'title'"  # type: ignore[attr-defined]


def test_tables_of_flickr(tmp_path: Path) -> None:
    """Quotation marks are characters, and blanks stand behind the separators."""
    images(tmp_path / "flickr30k_images")
    captions = [(1, 'A "dog" , running .'), (1, '"Dog" with an open " mark .'), (0, "A cat ."), (2, "A cow .")]
    rows = [f"{NAMES[k]}| {number}| {text}" for number, (k, text) in enumerate(captions)]
    (tmp_path / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *rows]))
    check(fastssl.data.open(f"{tmp_path / 'results.csv'}#images=flickr30k_images"), captions)
    images(tmp_path)
    rows = [f"{NAMES[k]}|a {NAMES[k]}" for k in range(3)]
    (tmp_path / "captions.csv").write_text("\n".join(["image|caption", *rows]))
    check(fastssl.data.open(tmp_path / "captions.csv"), [(k, f"a {NAMES[k]}") for k in range(3)])
    images(tmp_path / "Images")
    rows = [f'{NAMES[k]},"a, {k}"' for k in range(3)]
    (tmp_path / "captions.txt").write_text("\n".join(["image,caption", *rows]))
    for given in ("#images=Images", "#images=Images:path=image:text=caption"):
        check(fastssl.data.open(f"{tmp_path / 'captions.txt'}{given}"), [(k, f"a, {k}") for k in range(3)])
    assert isinstance(fastssl.data.open(f"text:{tmp_path / 'captions.txt'}"), Corpus)


def test_titles_are_captions_of_images_alone(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("title,content,label\na headline,a story,0\n")
    assert fastssl.data.open(tmp_path / "news.csv").text(0) == "a story"  # type: ignore[attr-defined]
    images(tmp_path)
    (tmp_path / "list.csv").write_text("filepath,title,caption,label\ncat.png,a title,a caption,1\n")
    source = fastssl.data.open(tmp_path / "list.csv")
    assert source.read(0).text == "a caption" and np.array_equal(source.labels, [1])  # type: ignore[arg-type]
