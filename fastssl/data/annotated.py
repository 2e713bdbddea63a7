"""Pascal VOC and COCO as they are unpacked: image files with boxes or segmentations."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from fastssl.data.bands import ImageError
from fastssl.data.benchmarks import VOC_CLASSES
from fastssl.data.columns import check_options
from fastssl.data.corpus import utf8
from fastssl.data.decode import open_image
from fastssl.data.files import FileSource
from fastssl.data.listing import SUFFIXES
from fastssl.data.objects import VOID, Objects, known_class, objects_of, require_images
from fastssl.data.source import Item, Reduction, Source, Subset, digest
from fastssl.data.value_range import ValueRange

TASKS = ("detection", "segmentation")
_SLACK = 1.0  # pixel by which COCO's boxes may exceed their image
_KINDS = {"name": (str,), "id": (int, float, str)}  # of what ends so in a file of COCO
_FLAGS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


class AnnotatedFiles(FileSource):
    """Image files with what is where in them.

    The EXIF orientation is not applied: boxes and masks are those of the pixels as they are stored, as in COCO and VOC.

    Args:
        paths: paths of the files.
        classes: names of the classes.
        name: name of the data set in logs and checkpoints.
        objects: of an index: the objects of that image, read on access.
        key: hash of the annotations, a part of the fingerprint; or a function that makes it when it is asked for.
        coco_ids: ids of the images in results of COCO; None: from 1 on.
        category_ids: ids of the classes in results of COCO, None for a class that has none; None: from 1 on.
        value_range: as of :func:`fastssl.data.read_image`, of all images.

    Raises:
        ImageError: (on access) an annotation that cannot be read, has a class that is not one of ``classes``, or is of
            another size than its image.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fastssl.data import AnnotatedFiles, objects_of
        >>> path = Path(tempfile.mkdtemp()) / "0.png"
        >>> Image.new("RGB", (8, 6)).save(path)
        >>> files = AnnotatedFiles([path], ["cat"], "cats", lambda k: objects_of((6, 8), [[1, 1, 4, 5]], [0]))
        >>> files.read(0).objects.boxes.tolist()
        [[1.0, 1.0, 4.0, 5.0]]
    """

    def __init__(
        self,
        paths: Sequence[Path],
        classes: Sequence[str],
        name: str,
        objects: Callable[[int], Objects],
        key: str | Callable[[], str] = "",
        coco_ids: Sequence[int] | None = None,
        category_ids: Sequence[int | None] | None = None,
        value_range: ValueRange | None = None,
    ) -> None:
        super().__init__(paths, None, classes, name, orientation=False, value_range=value_range)
        self.objects, self.key = objects, key
        self.coco_ids: Sequence[int] = range(1, len(paths) + 1) if coco_ids is None else coco_ids
        self.category_ids = range(1, len(classes) + 1) if category_ids is None else category_ids

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        item = super().read(index, reduce)
        try:
            objects = self.objects(index)
            _check_classes(objects, len(self.classes))
        except (ValueError, OSError, SyntaxError, LookupError, TypeError, AttributeError) as error:
            # Of a missing or broken file, or of a function of the user's own.
            raise ImageError(f"{self.name_of(index)}: its annotation cannot be read ({error})") from error
        if reduce is not None and reduce(objects.size) > 1:  # boxes are those of the whole image
            return item
        assert item.images is not None
        height, width = item.images[0].shape[:2]
        if (height, width) != objects.size:
            raise ImageError(
                f"{self.name_of(index)}: expected {objects.size[1]} x {objects.size[0]} pixels, as annotated, got "
                f"{width} x {height}"
            )
        return item._replace(objects=objects)

    def subset(self, ids: Any, name: str | None = None) -> Source:
        return Subset(self, np.asarray(ids, dtype=np.int64), name)  # objects are found by the index in this source

    @property
    def fingerprint(self) -> str:
        if not isinstance(self.key, str):
            self.key = self.key()
        return digest(super().fingerprint, self.key)


def _check_classes(objects: Objects, classes: int) -> None:
    if len(objects.labels) and not 0 <= objects.labels.min() <= objects.labels.max() < classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {objects.labels.tolist()}")
    mask = objects.segmentation
    if mask is None:
        return
    known = mask[mask != VOID] if classes < VOID else mask
    if known.size and not 0 <= known.min() <= known.max() <= classes:
        wrong = known[(known < 0) | (known > classes)][0]
        raise ValueError(f"expected a segmentation of 0 (background), 1 to {classes} and {VOID} (void), got {wrong}")


def _check(task: str, part: str) -> None:
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
    if part not in ("train", "test"):
        raise ValueError(f"part: expected 'train' or 'test', got {part!r}")


class _VOC:
    """The objects of Pascal VOC's images."""

    def __init__(self, root: Path, ids: list[str], task: str, classes: Sequence[str]) -> None:
        self.root, self.ids, self.task, self.classes = root, ids, task, classes

    def __call__(self, index: int) -> Objects:
        name = self.ids[index]
        if self.task == "detection":
            return read_voc(self.root / "Annotations" / f"{name}.xml", self.classes)
        file = f"SegmentationClass/{name}.png"
        with open_image(self.root / file, name=file) as image:
            if image.mode not in ("P", "L"):  # a palette's colours are those of its classes
                raise ValueError(f"{file}: expected a palette, or grey values that are classes, got {image.mode}")
            labels = np.asarray(image)
        return objects_of((labels.shape[0], labels.shape[1]), segmentation=labels.astype(np.uint8), name=file)


def read_voc(path: Path, classes: Sequence[str] = VOC_CLASSES) -> Objects:
    """The objects of an annotation of Pascal VOC, whose boxes count pixels from 1 and include both edges.

    Args:
        path: an ``.xml`` file.
        classes: names of the classes.

    Raises:
        ValueError: no XML, no size, an unknown class, or a box outside of the image.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"{path.name}: cannot be read as an annotation ({error})") from error

    def number(node: Any, where: str) -> float:
        found = node.findtext(where)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise ValueError(f"{path.name}: expected a number as {where}, got {found!r}") from None

    width, height = (int(number(root, f"size/{side}")) for side in ("width", "height"))
    boxes, labels, difficult = [], [], []
    for node in root.iter("object"):
        edges = [number(node, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        if min(edges[:2]) < 1:
            raise ValueError(
                f"{path.name}: expected edges that count pixels from 1, as in Pascal VOC, got {edges}; where the first "
                "pixel is 0, add 1 to xmin and ymin, and to xmax and ymax if they are within the box"
            )
        boxes.append([edges[0] - 1, edges[1] - 1, edges[2], edges[3]])
        labels.append(known_class(_name(node), classes, path.name))
        difficult.append(_flag(node.findtext("difficult", "0"), f"{path.name}: difficult"))
    return objects_of((height, width), boxes, labels, difficult=difficult, name=path.name)


def _name(node: ElementTree.Element) -> str:
    return (node.findtext("name") or "").strip()


def _flag(value: Any, where: str) -> bool:
    """A flag as files have it: 0 or 1, "true" or "false"."""
    text = "" if value is None else str(value).strip().lower()
    if text not in _FLAGS:
        raise ValueError(f"{where}: expected 0 or 1, got {value!r}")
    return _FLAGS[text]


def _names_in(paths: Sequence[Path]) -> list[str]:
    """The classes of annotations of Pascal VOC: its 20 if there are no others, else those that are there, sorted.
    Annotations that cannot be read are an error where they are."""
    names = set[str]()
    for path in paths:
        with contextlib.suppress(OSError, ElementTree.ParseError):
            names |= {_name(node) for node in ElementTree.parse(path).getroot().iter("object")}
    return list(VOC_CLASSES) if names <= set(VOC_CLASSES) else sorted(names - {""})


def _image_files(folder: Path, ids: Sequence[str]) -> list[Path]:
    """The image of each id, a ``.jpg`` or of any other format.

    Raises:
        ValueError: there is none, or several.
    """
    paths = [folder / f"{one}.jpg" for one in ids]
    if all(path.is_file() for path in paths):
        return paths
    there: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            there.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    for k, one in enumerate(ids):
        found = there.get(one, [])
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise ValueError(f"data: expected one image {one!r} in {str(folder)!r}, got {names}")
        if not found:
            raise ValueError(f"data: {str(paths[k])!r} is listed, and is not there, nor an image of another format")
        paths[k] = found[0]
    return paths


def voc(
    folder: str | Path,
    part: str = "train",
    task: str = "detection",
    classes: Sequence[str] | None = None,
    value_range: ValueRange | None = None,
) -> AnnotatedFiles:
    """Pascal VOC 2007 or 2012, or a folder like them: with ``Annotations``, ``ImageSets`` and ``JPEGImages``, of any
    format that is decoded.

    Training is on ``trainval`` and testing on ``test`` if its annotations are there (2007), else on ``train`` and
    ``val``.

    Args:
        folder: the folder, ``VOC2007`` or the like.
        part: "train" or "test".
        task: "detection": boxes of the images of ``ImageSets/Main``; "segmentation": those of
            ``ImageSets/Segmentation`` with the classes of ``SegmentationClass``, 255 at the borders.
        classes: names of the classes, in the order of labels; pixels of the first one are 1. None: the 20 of Pascal VOC
            if the listed annotations have no others, else theirs in alphabetical order, for "detection".
        value_range: as of :func:`fastssl.data.read_image`, of all images.

    Raises:
        ValueError: files that are missing, no images, or masks of other classes without ``classes``.

    Example:
        >>> from fastssl.data import voc
        >>> voc("VOCdevkit/VOC2012", "test", "segmentation")  # doctest: +SKIP
        AnnotatedFiles('voc', 1,449 items, 20 classes)
    """
    _check(task, part)
    root = Path(folder)
    if not (root / "ImageSets").is_dir():
        inside = sorted(path.parent for path in root.glob("*/ImageSets"))
        hint = f"; did you mean {str(inside[-1])!r}?" if inside else ""
        raise ValueError(f"data: expected Annotations, ImageSets and JPEGImages in {str(root)!r}{hint}")
    lists = root / "ImageSets" / ("Segmentation" if task == "segmentation" else "Main")
    marks = ("SegmentationClass", "png") if task == "segmentation" else ("Annotations", "xml")

    def listed(name: str) -> list[str]:
        path = lists / f"{name}.txt"
        lines = utf8(str(path)).splitlines() if path.is_file() else []
        return [line.strip() for line in lines if line.strip()]  # a name may contain spaces

    test = listed("test")
    official = bool(test) and (root / marks[0] / f"{test[0]}.{marks[1]}").is_file()
    names = ("trainval", "test") if official else ("train", "val")
    name = names[part == "test"]
    ids = require_images(listed(name), f"{lists / name}.txt")
    paths = _image_files(root / "JPEGImages", ids)
    marked = [root / marks[0] / f"{one}.{marks[1]}" for one in ids]
    if classes is None:
        both = dict.fromkeys(one for each in names for one in listed(each))
        classes = _names_in([root / "Annotations" / f"{one}.xml" for one in both])
        if task == "segmentation" and classes != list(VOC_CLASSES) and len(classes) > 1:
            raise ValueError(
                f"data: masks have numbers, expected the names of their classes from 1 on: {', '.join(classes)} in the "
                f"right order (voc:{root}#classes=FIRST,SECOND)"
            )
    return AnnotatedFiles(
        paths,
        list(classes),
        "voc",
        _VOC(root, ids, task, classes),
        key=functools.partial(_contents, task, marked),
        value_range=value_range,
    )


def _contents(task: str, paths: Sequence[Path]) -> str:
    return digest(task, *(path.read_bytes() if path.is_file() else b"" for path in paths))


def _there(paths: Sequence[Path]) -> None:
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise ValueError(f"data: {str(missing)!r} is listed, and is not there")


class _COCO:
    """The objects of COCO's images."""

    def __init__(self, images: list[dict[str, Any]], annotations: list[list[dict[str, Any]]], task: str) -> None:
        self.images, self.annotations, self.task = images, annotations, task

    def __call__(self, index: int) -> Objects:
        image, name = self.images[index], str(self.images[index]["file_name"])
        size, given = (int(image["height"]), int(image["width"])), self.annotations[index]
        if self.task == "segmentation":
            return objects_of(size, segmentation=_segmentation(given, size, name), name=name)
        boxes = np.array([a["bbox"] for a in given], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        limits = np.array([size[1], size[0]] * 2)
        cut = np.clip(boxes, 0, limits)
        cut[np.abs(cut - boxes).max(1) > _SLACK] = boxes[np.abs(cut - boxes).max(1) > _SLACK]
        return objects_of(
            size,
            cut,
            [a["label"] for a in given],
            crowd=[a["crowd"] for a in given],
            areas=[float(a.get("area", a["bbox"][2] * a["bbox"][3])) for a in given],
            name=name,
        )


def _segmentation(annotations: list[dict[str, Any]], size: tuple[int, int], name: str) -> np.ndarray:
    """Classes of all pixels; crowds and pixels of several objects are void."""
    owners, labels = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for a in annotations:
        mask = decode_mask(a["segmentation"], size, name)
        owners += np.where(mask, 2 if a["crowd"] else 1, 0)
        labels[mask] = a["label"] + 1
    made: np.ndarray = np.where(owners > 1, VOID, labels).astype(np.uint8)
    return made


def decode_mask(segmentation: Any, size: tuple[int, int], name: str = "segmentation") -> np.ndarray:
    """A mask bool [H, W] of COCO: polygons, or run lengths as numbers or as a string.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], or a mapping of "size" and "counts".
        size: (height, width) of the image.
        name: name of the image in messages.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[detection]``.
        ValueError: a mask of another size, polygons of fewer than three points, or run lengths that are none.
    """
    try:
        from faster_coco_eval import mask as coder
    except ImportError as error:
        raise ImportError("masks of COCO need the extra: pip install fastssl[detection]") from error
    if isinstance(segmentation, list):
        _check_polygons(segmentation, size, name)
        runs = coder.merge(coder.frPyObjects(segmentation, *size))
    else:
        _check_runs(segmentation, size, name)
        runs = segmentation
    try:
        if isinstance(runs["counts"], list):
            runs = coder.frPyObjects(runs, *size)
        made: np.ndarray = coder.decode(runs).astype(bool)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name}: run lengths cannot be decoded ({reason}), got {str(segmentation['counts'])[:60]}"
        ) from error
    return made


def _check_polygons(polygons: list[Any], size: tuple[int, int], name: str) -> None:
    if not polygons or any(not isinstance(p, list) or len(p) < 6 or len(p) % 2 for p in polygons):
        raise ValueError(f"{name}: expected polygons of at least three points, got {str(polygons)[:60]}")
    far = 10.0 * max(*size, 100)  # what is drawn takes memory with its length
    if not all(isinstance(v, (int, float)) and abs(v) <= far for p in polygons for v in p):
        raise ValueError(f"{name}: expected corners near the image, in pixels, got {str(polygons)[:60]}")


def _check_runs(runs: Any, size: tuple[int, int], name: str) -> None:
    given = runs.get("size") if isinstance(runs, dict) and "counts" in runs else None
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise ValueError(f"{name}: expected polygons, or run lengths with 'size' and 'counts', got {str(runs)[:60]}")
    if tuple(given) != size:
        raise ValueError(
            f"{name}: expected a mask of the image's {size[1]} x {size[0]} pixels, got one of {given[1]} x {given[0]}"
        )


def coco(
    folder: str | Path,
    part: str = "train",
    task: str = "detection",
    classes: Sequence[str] | None = None,
    value_range: ValueRange | None = None,
) -> AnnotatedFiles:
    """COCO: a folder with ``annotations/instances_train2017.json`` (or another year), ``train2017`` and the like.

    Args:
        folder: the folder.
        part: "train" or "test", the ``val`` images.
        task: "detection": boxes; "segmentation": classes of pixels, void where objects overlap and in crowds (extra:
            detection).
        classes: names of the classes, in the order of labels; None: the file's categories, in the order of their ids.
        value_range: as of :func:`fastssl.data.read_image`, of all images.

    Raises:
        ValueError: files that are missing, no images, an unknown category, or boxes that are none.

    Example:
        >>> from fastssl.data import coco
        >>> coco("coco", "test")  # doctest: +SKIP
        AnnotatedFiles('coco', 5,000 items, 80 classes)
    """
    _check(task, part)
    root, word = Path(folder), "train" if part == "train" else "val"
    found = sorted((root / "annotations").glob(f"instances_{word}*.json"))
    if not found:
        raise ValueError(f"data: expected annotations/instances_{word}*.json in {str(root)!r}, there is none")
    path = found[-1]
    raw = path.read_bytes()
    try:
        stored = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"{path.name}: cannot be read as JSON ({error})") from error
    _complete(stored, path.name, task)
    categories = sorted(stored["categories"], key=lambda c: (isinstance(c["id"], str), c["id"]))
    number = [c["id"] for c in categories]
    names = [c["name"] for c in categories] if classes is None else list(classes)
    labels = list(range(len(categories)))
    if classes is not None:
        labels = [known_class(c["name"], names, f"{path.name}, category {c['id']}") for c in categories]
    images = require_images(stored["images"], path.name)
    place = {image["id"]: k for k, image in enumerate(images)}
    listed: list[list[dict[str, Any]]] = [[] for _ in images]
    for a in stored["annotations"]:
        if a["image_id"] not in place:
            raise ValueError(f"{path.name}: annotation {a.get('id')} is of image {a['image_id']}, which is not listed")
        where = f"{path.name}, annotation {a.get('id')}"
        _check_box(a["bbox"], where)
        if a["bbox"][2] > 0 and a["bbox"][3] > 0:  # a few have no area
            label = labels[known_class(a["category_id"], number, where)]
            crowd = _flag(a.get("iscrowd", 0), f"{where}: iscrowd")
            listed[place[a["image_id"]]].append({**a, "label": label, "crowd": crowd})
    folders = [root / path.stem.removeprefix("instances_"), root / "images"]
    images_in = next((f for f in folders if f.is_dir()), folders[0])
    paths = [images_in / image["file_name"] for image in images]
    _there(paths)
    own = {c["name"]: c["id"] for c in categories}
    return AnnotatedFiles(
        paths,
        names,
        "coco",
        _COCO(images, listed, task),
        key=digest(task, raw),
        coco_ids=[image["id"] for image in images],
        category_ids=[own.get(name) for name in names],
        value_range=value_range,
    )


def _check_box(box: Any, where: str) -> None:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)
    if not numbers or not all(map(math.isfinite, box)) or box[2] < 0 or box[3] < 0:
        raise ValueError(f"{where}: expected a box of left, top, width and height, got {box!r}")


def _complete(stored: dict[str, Any], name: str, task: str) -> None:
    """Checks that what is read of a file of COCO is there.

    Raises:
        ValueError: a key that is missing, an id or a category that is there twice, an annotation without a mask, or
            more categories than a mask can have.
    """
    needed = {
        "categories": ("id", "name"),
        "images": ("id", "file_name", "height", "width"),
        "annotations": ("image_id", "category_id", "bbox"),
    }
    got = type(stored).__name__
    if isinstance(stored, dict):
        others = {key: type(stored[key]).__name__ for key in needed if not isinstance(stored.get(key, []), list)}
        got = ", ".join(f"{kind} as {key}" for key, kind in others.items())
    if got:
        raise ValueError(f"{name}: expected lists of {', '.join(needed)}, got {got}")
    for part, keys in needed.items():
        if part not in stored:
            raise ValueError(f"{name}: expected the keys {', '.join(needed)}, got {', '.join(stored)}")
        for k, entry in enumerate(stored[part]):
            for key in keys:
                if not isinstance(entry, dict) or key not in entry:
                    raise ValueError(f"{name}: expected the key {key!r} in each of {part}, number {k} has none")
                kind = _KINDS.get(key.rpartition("_")[2])
                if kind is not None and not isinstance(entry[key], kind):
                    what = " or ".join(one.__name__ for one in kind)
                    raise ValueError(
                        f"{name}: expected {what} as {key!r} in each of {part}, number {k} has {entry[key]!r}"
                    )
            if task == "segmentation" and part == "annotations" and not entry.get("segmentation"):
                raise ValueError(f"{name}: annotation {entry.get('id', k)} has a box and no mask: task 'detection'")
    for part, key in (("categories", "id"), ("categories", "name"), ("images", "id")):  # else one would stand for both
        twice = next((value for value, count in Counter(e[key] for e in stored[part]).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"{name}: expected {part} of different {key}s, {twice!r} is there twice")
    if task == "segmentation" and len(stored["categories"]) >= VOID:
        raise ValueError(f"{name}: expected at most {VOID - 1} categories of masks, got {len(stored['categories'])}")


ANNOTATED: dict[str, Callable[..., AnnotatedFiles]] = {"voc": voc, "coco": coco}


def open_annotated(
    kind: str,
    root: str,
    given: Mapping[str, str],
    part: str,
    task: str = "detection",
    value_range: ValueRange | None = None,
) -> AnnotatedFiles:
    """``voc:FOLDER`` or ``coco:FOLDER``, and behind them options: ``#classes=weed,crop``.

    Raises:
        ValueError: another option, or an empty name of a class.
    """
    check_options(given, f"{kind}:{root}", ["classes"])
    classes = given["classes"].split(",") if given else None
    if classes is not None and (not all(classes) or len(set(classes)) < len(classes)):
        raise ValueError(f"data: expected different names of classes, separated by commas, got {given['classes']!r}")
    return ANNOTATED[kind](root, part, task, classes, value_range)
