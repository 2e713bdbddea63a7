"""Pascal VOC and COCO: small folders with the structure of their archives."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastssl.data
from fastssl.data import AnnotatedFiles, Objects, coco, objects_of, open_splits, voc
from fastssl.data.annotated import decode_mask, read_voc
from fastssl.data.bands import ImageError
from fastssl.data.readable import unreadable_left_out

XML = """<annotation><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
  <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>
  <part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object>
<object><name>dog</name><difficult>1</difficult>
  <bndbox><xmin>5.0</xmin><ymin>6</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object>
</annotation>"""


def picture(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 40)).save(path)


def voc_folder(root: Path, parts: tuple[str, str] = ("train", "val")) -> Path:
    """Two training images and one for testing."""
    for name in ("000001", "000002", "000003"):
        picture(root / "JPEGImages" / f"{name}.jpg")
        for folder, content in (("Annotations", XML),):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{name}.xml").write_text(content)
        labels = np.zeros((30, 40), np.uint8)
        labels[5:20, 10:30], labels[4, 10:30] = 8, 255
        mask = Image.fromarray(labels).convert("P")
        mask.putdata(labels.ravel().tolist())
        mask.putpalette([k for k in range(256) for _ in range(3)])
        (root / "SegmentationClass").mkdir(parents=True, exist_ok=True)
        mask.save(root / "SegmentationClass" / f"{name}.png")
    for kind in ("Main", "Segmentation"):
        lists = root / "ImageSets" / kind
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{parts[0]}.txt").write_text("000001\n000002\n")
        (lists / f"{parts[1]}.txt").write_text("000003\n")
    return root


@pytest.mark.parametrize("parts", [("train", "val"), ("trainval", "test")])
def test_voc(tmp_path: Path, parts: tuple[str, str]) -> None:
    folder = voc_folder(tmp_path, parts)
    splits = open_splits(f"voc:{folder}")
    assert (len(splits.train), len(splits.test), len(splits.train.classes)) == (2, 1, 20)
    objects = splits.test.read(0).objects
    assert objects is not None and objects.size == (30, 40)
    # From 1 with both edges to 0 without the right and bottom one; parts of objects are left out.
    assert objects.boxes.tolist() == [[0, 0, 40, 30], [4, 5, 10, 12]]
    assert [splits.train.classes[k] for k in objects.labels] == ["cat", "dog"]
    assert objects.difficult.tolist() == [False, True] and objects.segmentation is None
    segmented = voc(folder, "test", "segmentation").read(0).objects
    assert segmented is not None and segmented.segmentation is not None
    assert np.unique(segmented.segmentation).tolist() == [0, 8, 255]
    assert len(fastssl.data.open(f"voc:{folder}")) == 2
    copy = pickle.loads(pickle.dumps(splits.train))
    assert copy.fingerprint == splits.train.fingerprint != voc(folder, "train", "segmentation").fingerprint
    part = splits.train.subset([1]).read(0)
    assert part.name == str(folder / "JPEGImages" / "000002.jpg") and part.objects is not None
    # Pretraining reads smaller images, without boxes.
    assert splits.train.read(0, lambda size: 2).objects is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<size><width>40</width><height>30</height><depth>3</depth></size>", ""), "expected a number as size/width"),
        (("<xmax>40</xmax>", "<xmax>41</xmax>"), r"expected boxes within the 40 x 30 pixels .* got \[0.0, 0.0, 41.0"),
        (
            ("<xmin>1</xmin>", "<xmin>0</xmin>"),
            r"expected edges that count pixels from 1, .*; where the first pixel is 0",
        ),
        (("<xmax>10</xmax>", "<xmax>three</xmax>"), "expected a number as bndbox/xmax, got 'three'"),
        (("<name>cat</name>", "<name>unicorn</name>"), "expected one of the classes aeroplane, .*, got 'unicorn'"),
        (("</annotation>", ""), "cannot be read as an annotation"),
    ],
)
def test_bad_annotations_of_voc(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(XML.replace(*change))
    with pytest.raises(ValueError, match=rf"bad.xml: {message}"):
        read_voc(path)


def test_bad_folders_of_voc(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path)
    picture(folder / "JPEGImages" / "000003.jpg", 30, 30)
    with pytest.raises(ValueError, match=r"000003.jpg: expected 40 x 30 pixels, as annotated, got 30 x 30"):
        voc(folder, "test").read(0)
    Image.new("L", (10, 30)).save(folder / "SegmentationClass" / "000003.png")
    with pytest.raises(ImageError, match=r"000003.jpg: expected 10 x 30 pixels, as annotated, got 30 x 30"):
        voc(folder, "test", "segmentation").read(0)
    (folder / "JPEGImages" / "000001.jpg").unlink()
    with pytest.raises(ValueError, match=r"000001.jpg' is listed, and is not there"):
        voc(folder)
    listed = folder / "ImageSets" / "Main" / "val.txt"
    listed.write_text(listed.read_text(), encoding="utf-8-sig")  # with a byte order mark
    assert len(voc(folder, "test")) == 1
    listed.write_text(listed.read_text(), encoding="utf-16")
    with pytest.raises(ValueError, match=r"val.txt: byte 0 \(0xff\) is no UTF-8"):
        voc(folder, "test")
    listed.write_text("")
    with pytest.raises(ValueError, match=r"val.txt lists no images"):
        voc(folder, "test")
    with pytest.raises(ValueError, match="task: expected one of detection, segmentation, got 'boxes'"):
        voc(folder, task="boxes")


def test_names_of_images_of_voc_may_contain_spaces(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path)
    for file in folder.rglob("000001.*"):
        file.rename(file.with_stem("my field 1"))
    for kind in ("Main", "Segmentation"):
        (folder / "ImageSets" / kind / "train.txt").write_text("my field 1 \r\n\n000002\n")
    for task in ("detection", "segmentation"):
        assert voc(folder, task=task).read(0).objects is not None and len(voc(folder, task=task)) == 2


def test_other_classes_in_folders_of_voc(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path)
    own = voc(folder, classes=["dog", "cat"])
    objects = own.read(0).objects
    assert own.classes == ["dog", "cat"] and objects is not None and objects.labels.tolist() == [1, 0]
    with pytest.raises(ImageError, match=r"000001.jpg: .*expected a segmentation of 0 .*, 1 to 2 and 255 .*, got 8"):
        voc(folder, task="segmentation", classes=["dog", "cat"]).read(0)


def own_folder(root: Path) -> Path:
    """Like VOC, with classes of its own, one of which only the test image has, and images of several formats."""
    folder = voc_folder(root)
    for name, kind, animal in (("000001", "png", "weed"), ("000002", "TIFF", "weed"), ("000003", "jpg", "crop: old")):
        image = folder / "JPEGImages" / f"{name}.jpg"
        Image.open(image).save(image.with_suffix(f".{kind}"))
        if kind != "jpg":
            image.unlink()
        (folder / "Annotations" / f"{name}.xml").write_text(XML.replace("<name>cat<", f"<name>{animal}<"))
    return folder


def test_classes_and_formats_of_folders_like_voc(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    splits = open_splits(f"voc:{folder}")
    assert splits.train.classes == splits.test.classes == ["crop: old", "dog", "weed"]
    names = [[part.classes[k] for k in part.read(0).objects.labels] for part in (splits.train, splits.test)]  # type: ignore[union-attr]
    assert names == [["weed", "dog"], ["crop: old", "dog"]]
    read = [splits.train.name_of(k).rpartition(".")[2] for k in range(2)]
    assert read == ["png", "TIFF"] and all(splits.train.read(k).images for k in range(2))
    masks = f"voc:{folder}#classes=weed,crop\\: old,dog,a,b,c,d,e"
    with pytest.raises(ValueError, match="expected the names of their classes from 1 on: crop: old, dog, weed in the"):
        open_splits(f"voc:{folder}", "segmentation")
    for source in (open_splits(masks, "segmentation").test, open_splits(masks).train, fastssl.data.open(masks)):
        assert source.classes == ["weed", "crop: old", "dog", "a", "b", "c", "d", "e"]
    segmented = open_splits(masks, "segmentation").test.read(0).objects
    assert segmented is not None and np.unique(segmented.segmentation).tolist() == [0, 8, 255]  # type: ignore[arg-type]
    for wrong, message in (
        ("#classes=weed,,dog", "expected different names of classes, separated by commas, got 'weed,,dog'"),
        ("#classes=weed,weed", "expected different names"),
        ("#names=weed", "expected options classes of voc:.*, got 'names'"),
    ):
        with pytest.raises(ValueError, match=message):
            open_splits(f"voc:{folder}{wrong}")
    picture(folder / "JPEGImages" / "000001.bmp")
    with pytest.raises(ValueError, match=r"expected one image '000001' in .*, got 000001.bmp and 000001.png"):
        voc(folder)
    for kind in ("bmp", "png"):
        (folder / "JPEGImages" / f"000001.{kind}").unlink()
    with pytest.raises(ValueError, match=r"000001.jpg' is listed, and is not there, nor an image of another format"):
        voc(folder)


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("SegmentationClass", b"no image"),
        ("SegmentationClass", None),
        ("Annotations", b"<no xml"),
        ("Annotations", None),
    ],
)
def test_annotations_that_cannot_be_read(tmp_path: Path, place: str, content: bytes | None) -> None:
    """They are named with their image, and left out with the images that cannot be read."""
    folder = voc_folder(tmp_path)
    task, suffix = ("segmentation", "png") if place == "SegmentationClass" else ("detection", "xml")
    path = folder / place / f"000002.{suffix}"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"000002.jpg: its annotation cannot be read \(.*000002.{suffix}"):
        open_splits(f"voc:{folder}", task).train.read(1)
    warnings: list[str] = []
    with unreadable_left_out(warnings.append):
        splits = open_splits(f"voc:{folder}", task)
    assert (len(splits.train), len(splits.test)) == (1, 1) and "1 of 2 items left out" in warnings[0]
    found = splits.train.read(0)
    assert found.name is not None and found.name.endswith("000001.jpg") and found.objects is not None


def test_masks_in_colours(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path)
    Image.new("RGB", (40, 30)).save(folder / "SegmentationClass" / "000001.png")
    with pytest.raises(ImageError, match=r"000001.png: expected a palette, or grey values that are classes, got RGB"):
        voc(folder, task="segmentation").read(0)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (objects_of((6, 8), [[1, 1, 4, 5]], [2]), r"expected labels from 0 to 1, got \[2\]"),
        (objects_of((6, 8), [[1, 1, 4, 5]], [-1]), r"expected labels from 0 to 1, got \[-1\]"),
        (objects_of((6, 8), segmentation=np.full((6, 8), 3)), r"1 to 2 and 255 \(void\), got 3"),
    ],
)
def test_classes_out_of_range(tmp_path: Path, objects: Objects, message: str) -> None:
    picture(tmp_path / "0.png", 8, 6)
    files = AnnotatedFiles([tmp_path / "0.png"], ["cat", "dog"], "two", lambda _: objects)
    with pytest.raises(ImageError, match=rf"0.png: its annotation cannot be read \(.*{message}"):
        files.read(0)


def coco_folder(root: Path, annotations: list[dict[str, Any]]) -> Path:
    images = [{"id": 7, "file_name": "7.jpg", "width": 40, "height": 30}]
    categories = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]
    listed = [{"id": k, "image_id": 7, **a} for k, a in enumerate(annotations)]
    for part in ("train2017", "val2017"):
        picture(root / part / "7.jpg")
        path = root / "annotations" / f"instances_{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "categories": categories, "annotations": listed}))
    return root


SQUARE = {"category_id": 18, "bbox": [2, 3, 10, 8], "area": 80, "segmentation": [[2, 3, 12, 3, 12, 11, 2, 11]]}


def test_coco(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    runs = [30 * 20 + 5, 10, 30 * 10 - 15]  # columns first: ten pixels of column 20
    crowd = {"category_id": 3, "bbox": [20, 5, 1, 10], "area": 10, "iscrowd": 1}
    crowd["segmentation"] = {"size": [30, 40], "counts": [*runs[:2], 30 * 40 - sum(runs[:2])]}
    over = {**SQUARE, "category_id": 3, "bbox": [10, 3, 30.4, 2], "segmentation": [[10, 3, 40, 3, 40, 5, 10, 5]]}
    empty = {**SQUARE, "bbox": [0, 0, 0, 5]}
    folder = coco_folder(tmp_path, [SQUARE, crowd, over, empty])
    splits = open_splits(f"coco:{folder}")
    objects = splits.train.read(0).objects
    assert objects is not None and splits.train.classes == ["car", "dog"]
    assert objects.labels.tolist() == [1, 0, 0] and objects.crowd.tolist() == [False, True, False]
    assert objects.boxes.tolist() == [[2, 3, 12, 11], [20, 5, 21, 15], [10, 3, 40, 5]]
    segmented = coco(folder, "test", "segmentation").read(0).objects
    assert segmented is not None and segmented.segmentation is not None
    labels = segmented.segmentation
    assert (labels[5:11, 2:12] == 2).all() and (labels[3:5, 12:40] == 1).all()
    assert (labels[3:5, 10:12] == 255).all() and (labels[5:15, 20] == 255).all() and labels[20, 5] == 0


def test_classes_of_coco_are_those_of_the_training_file(tmp_path: Path) -> None:
    """Ids of categories may differ from file to file; a test file may list a part of them."""
    folder = coco_folder(tmp_path, [SQUARE, {**SQUARE, "category_id": 3, "iscrowd": "0"}])
    path = folder / "annotations" / "instances_val2017.json"
    stored = json.loads(path.read_text())
    stored["categories"], stored["annotations"] = [{"id": 1, "name": "dog"}], [{**SQUARE, "category_id": 1}]
    stored["annotations"][0].update(id=0, image_id=7)
    path.write_text(json.dumps(stored))
    splits = open_splits(f"coco:{folder}")
    train, test = splits.train.read(0).objects, splits.test.read(0).objects
    assert train is not None and test is not None
    assert splits.test.classes == splits.train.classes == ["car", "dog"]
    assert train.labels.tolist() == [1, 0] and test.labels.tolist() == [1] and not train.crowd.any()
    stored["categories"][0]["name"] = "tree"
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"val2017.json, category 1: expected one of the classes car, dog, got 'tree'"):
        open_splits(f"coco:{folder}")


@pytest.mark.parametrize("box", [None, [], [1, 2, 3], ["a", 1, 2, 3], [1, 1, float("nan"), 5], [30, 1, -5, 5]])
def test_boxes_of_coco_are_four_numbers(tmp_path: Path, box: Any) -> None:
    folder = coco_folder(tmp_path, [{**SQUARE, "bbox": box}])
    with pytest.raises(
        ValueError, match=r"train2017.json, annotation 0: expected a box of left, top, width and height"
    ):
        coco(folder)


@pytest.mark.parametrize("corner", [float("nan"), float("inf"), 1e9, "x"])
def test_polygons_far_from_the_image(corner: Any) -> None:
    pytest.importorskip("faster_coco_eval")
    with pytest.raises(ValueError, match="a: expected corners near the image"):
        decode_mask([[1, 1, 20, corner, 20, 20]], (60, 80), "a")


def test_masks_of_coco() -> None:
    coder = pytest.importorskip("faster_coco_eval").mask
    mask = np.random.default_rng(0).random((9, 7)) < 0.5
    packed = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(decode_mask({"size": [9, 7], "counts": packed["counts"]}, (9, 7)), mask)
    flat = mask.T.ravel().astype(int)
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat, prepend=0)), [len(flat)]])).tolist()
    assert np.array_equal(decode_mask({"size": [9, 7], "counts": runs}, (9, 7)), mask)
    with pytest.raises(ValueError, match="a.jpg: expected a mask of the image's 8 x 9 pixels, got one of 7 x 9"):
        decode_mask({"size": [9, 7], "counts": runs}, (9, 8), "a.jpg")
    with pytest.raises(ValueError, match="expected polygons of at least three points"):
        decode_mask([[1, 1, 4, 4]], (9, 7))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"size": [9, 7], "counts": "~~~"}, "run lengths cannot be decoded .* got ~~~"),
        ({"size": [9, 7], "counts": "PPPPPPPPPPPPPP"}, "run lengths cannot be decoded"),
        ({"size": [9, 7], "counts": "0" * 1000}, "run lengths cannot be decoded"),
        ({"size": [9, 7], "counts": "o"}, "run lengths cannot be decoded"),
        ({"size": [9, 7], "counts": [70, -7]}, "run lengths cannot be decoded"),
        ({"size": [9, 7], "counts": [10**9]}, "run lengths cannot be decoded"),
        ({"size": [9, 7], "counts": [31.5, 31.5]}, "run lengths cannot be decoded"),
        ({"size": [9, 7]}, "expected polygons, or run lengths with 'size' and 'counts'"),
        ({"counts": [63]}, "expected polygons, or run lengths with 'size' and 'counts'"),
        ("mask", "expected polygons, or run lengths with 'size' and 'counts'"),
    ],
)
def test_bad_run_lengths(runs: Any, message: str) -> None:
    pytest.importorskip("faster_coco_eval")
    with pytest.raises(ValueError, match=f"a: {message}"):
        decode_mask(runs, (9, 7), "a")


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 5}, r"instances_train2017.json, annotation 0: expected one of the classes 3, 18, got 5"),
        ({"image_id": 9}, "annotation 0 is of image 9, which is not listed"),
        ({"bbox": [30, 3, 20, 8]}, r"7.jpg: expected boxes within the 40 x 30 pixels of the image, got \[30"),
    ],
)
def test_bad_annotations_of_coco(tmp_path: Path, annotation: dict[str, Any], message: str) -> None:
    folder = coco_folder(tmp_path, [{**SQUARE, **annotation}])
    with pytest.raises(ValueError, match=message):
        coco(folder).read(0)
    with pytest.raises(ValueError, match=r"expected annotations/instances_val\*.json"):
        coco(tmp_path / "train2017", "test")
    path = folder / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps({"images": [], "categories": [], "annotations": []}))
    with pytest.raises(ValueError, match=r"instances_train2017.json lists no images"):
        coco(folder)


def test_other_annotations_are_other_data(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path / "voc")
    before = [voc(folder, "train", task).fingerprint for task in ("detection", "segmentation")]
    assert before == [voc(folder, "train", task).fingerprint for task in ("detection", "segmentation")]
    (folder / "Annotations" / "000001.xml").write_text(XML.replace("<name>cat", "<name>cow"))
    mask = folder / "SegmentationClass" / "000001.png"
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(mask)
    after = [voc(folder, "train", task).fingerprint for task in ("detection", "segmentation")]
    assert not set(before) & set(after)
    found = [
        coco(coco_folder(tmp_path / str(k), [{**SQUARE, **change}])).fingerprint
        for k, change in enumerate(({}, {"category_id": 3}, {"iscrowd": 1}, {"area": 79}, {}))
    ]
    assert len(set(found)) == 4 and found[0] == found[4]


@pytest.mark.parametrize(
    ("part", "key", "task"),
    [
        ("images", "height", "detection"),
        ("annotations", "bbox", "detection"),
        ("categories", "name", "detection"),
        ("annotations", "segmentation", "segmentation"),
    ],
)
def test_keys_that_are_missing_in_coco_are_named(part: str, key: str, task: str, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path, [SQUARE])
    path = folder / "annotations" / "instances_train2017.json"
    stored = json.loads(path.read_text())
    for entry in stored[part]:
        del entry[key]
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=rf"instances_train2017.json: .*({key}|has a box and no mask)"):
        coco(folder, task=task)
    path.write_text(json.dumps({"images": []}))
    with pytest.raises(ValueError, match="expected the keys categories, images, annotations, got images"):
        coco(folder)


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("images", {"id": 7, "file_name": "8.jpg", "width": 40, "height": 30}, "images of different ids, 7 is there"),
        ("categories", {"id": 18, "name": "cat"}, "categories of different ids, 18 is there twice"),
        ("categories", {"id": 4, "name": "dog"}, "categories of different names, 'dog' is there twice"),
        ("images", None, "expected the key 'id' in each of images, number 1 has none"),
        (
            "images",
            {"id": 8, "file_name": 8, "width": 40, "height": 30},
            "expected str as 'file_name' .* number 1 has 8",
        ),
        ("categories", {"id": [4], "name": "cow"}, r"expected int or float or str as 'id' .* number 1 has \[4\]"),
        ("categories", {"id": 4, "name": None}, "expected str as 'name' in each of categories, number 1 has None"),
    ],
)
def test_what_is_there_twice_in_coco_is_named(part: str, entry: Any, message: str, tmp_path: Path) -> None:
    """The annotations of two images of one id were those of the second, the other had none."""
    folder = coco_folder(tmp_path, [SQUARE])
    path = folder / "annotations" / "instances_train2017.json"
    stored = json.loads(path.read_text())
    stored[part].insert(1, entry)
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=f"instances_train2017.json: .*{message}"):
        coco(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "cannot be read as JSON"),
        ("[1]", "expected lists of categories, images, annotations, got list"),
        (
            '{"images": {}, "categories": 1, "annotations": []}',
            "expected lists of .*, got int as categories, dict as im",
        ),
        ('{"images": [], "categories": [], "annotations": null}', "expected lists of .*, got NoneType as annotations"),
    ],
)
def test_files_of_coco_that_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    folder = coco_folder(tmp_path, [SQUARE])
    (folder / "annotations" / "instances_train2017.json").write_text(content)
    with pytest.raises(ValueError, match=f"instances_train2017.json: {message}"):
        coco(folder)


def test_masks_have_at_most_254_categories(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path, [SQUARE])
    path = folder / "annotations" / "instances_train2017.json"
    stored = json.loads(path.read_text()) | {"categories": [{"id": k, "name": str(k)} for k in range(255)]}
    path.write_text(json.dumps(stored))
    assert len(coco(folder).classes) == 255
    with pytest.raises(ValueError, match="expected at most 254 categories of masks, got 255"):
        coco(folder, task="segmentation")


def test_the_folder_around_that_of_voc_is_named(tmp_path: Path) -> None:
    voc_folder(tmp_path / "VOC2012")
    with pytest.raises(ValueError, match=r"expected Annotations, .*; did you mean '.*VOC2012'\?"):
        voc(tmp_path)
