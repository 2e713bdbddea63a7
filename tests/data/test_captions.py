"""Tables of captions as data sets of captions have them: COCO, open_clip, Flickr8k and Flickr30k."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastssl.data
from fastssl.data import Corpus, FileSource, table
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


@pytest.mark.parametrize(
    "place", ["val2017", "images", "annotations/val2017", "annotations/images", "annotations", "."]
)
def test_captions_of_coco(place: str, tmp_path: Path) -> None:
    images(tmp_path / place)
    path = coco(tmp_path / "annotations" / "captions_val2017.json")
    check(fastssl.data.open(path))
    check(table(path))
    assert "3 different images, the others list one of them again" in summary(table(path))


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
            {"annotations": [{"image_id": 700, "caption": ["a"]}]},
            r"row 1: expected a string in column caption, got \['a'\]",
        ),
        ({"images": {}}, "expected a list of objects, got dict"),
    ):
        with pytest.raises(ValueError, match=rf"captions.json: .*{match}"):
            fastssl.data.open(coco(path, **more))
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
    assert isinstance(fastssl.data.open(tmp_path / "captions.txt"), Corpus)


def test_titles_are_captions_of_images_alone(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("title,content,label\na headline,a story,0\n")
    assert fastssl.data.open(tmp_path / "news.csv").text(0) == "a story"  # type: ignore[attr-defined]
    images(tmp_path)
    (tmp_path / "list.csv").write_text("filepath,title,caption,label\ncat.png,a title,a caption,1\n")
    source = fastssl.data.open(tmp_path / "list.csv")
    assert source.read(0).text == "a caption" and np.array_equal(source.labels, [1])  # type: ignore[arg-type]
