"""Captions as COCO has them, a JSON file of images and of annotations, each a caption of one of them; and as Karpathy's
splits of COCO, Flickr30k and Flickr8k have them, each image with its sentences and its part."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastssl.data.storage import is_file, join, name_of, parent

log = logging.getLogger("fastssl")
NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id",)}


class CaptionError(ValueError):
    """An image without a text, for a method that needs one; the message names it."""


class Captioned(list[dict[str, Any]]):
    """Rows of "file_name" and "caption" whose images are in one of several folders.

    Args:
        rows: the rows.
        folders: names of folders that the images may be in, besides that of the file.
    """

    def __init__(self, rows: list[dict[str, Any]], folders: tuple[str, ...]) -> None:
        super().__init__(rows)
        self.folders = folders


def is_coco(stored: Any) -> bool:
    """Whether the content of a JSON file is that of an annotation file of COCO."""
    return isinstance(stored, dict) and all(isinstance(stored.get(part), list) for part in NEEDED)


def is_karpathy(stored: Any) -> bool:
    """Whether the content of a JSON file is that of Karpathy's splits, such as ``dataset_coco.json``."""
    images = stored.get("images") if isinstance(stored, dict) else None
    return isinstance(images, list) and bool(images) and isinstance(images[0], dict) and "sentences" in images[0]


def coco_rows(path: str, stored: dict[str, Any]) -> Captioned:
    """Rows of "file_name" and "caption", one for each annotation; of "label" where annotations are classes of whole
    images, as iNaturalist's.

    Args:
        path: path of the file; for ``captions_val2017.json`` images may be in ``val2017``.
        stored: its content: "images" with "id" and "file_name", "annotations" with "image_id" and "caption", or
            with "category_id" and no box, whose names may be in "categories".

    Raises:
        ValueError: no annotations, a key that is missing, or a caption of an image that is not listed.
    """
    if not stored["annotations"]:
        raise ValueError(f"{path}: expected annotations with captions, found none")
    first = stored["annotations"][0]
    of_classes = isinstance(first, dict) and "category_id" in first and not {"caption", "bbox"} & set(first)
    key = "category_id" if of_classes else "caption"
    for part, keys in (("images", NEEDED["images"]), ("annotations", (*NEEDED["annotations"], key))):
        for k, entry in enumerate(stored[part]):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                boxes = "; boxes are opened as coco:FOLDER" if missing == ["caption"] else ""
                raise ValueError(
                    f"{path}: expected the key {missing[0]!r} in each of {part}, number {k} has none{boxes}"
                )
    names = {image["id"]: str(image["file_name"]) for image in stored["images"]}
    classes = {one["id"]: one["name"] for one in stored.get("categories", ()) if of_classes}
    if len(set(classes.values())) < len(classes):  # species of several genera
        classes = {}
    rows = []
    for k, entry in enumerate(stored["annotations"]):
        if entry["image_id"] not in names:
            raise ValueError(f"{path}: annotation {k} is of image {entry['image_id']}, which is not listed")
        answer = {"label": classes.get(entry[key], entry[key])} if of_classes else {"caption": entry[key]}
        rows.append({"file_name": names[entry["image_id"]], **answer})
    without = len(names) - len({entry["image_id"] for entry in stored["annotations"]})
    if without:
        what = "class" if of_classes else "caption"
        log.warning("%s: %d of %d images have no %s and are left out", path, without, len(names), what)
    return Captioned(rows, (name_of(path).partition("_")[2], "images"))


def karpathy_rows(path: str, stored: dict[str, Any]) -> Captioned:
    """Rows of "file_name", "caption" and "split", one for each sentence.

    Args:
        path: path of the file, for errors.
        stored: its content: "images" with "filename", "split", "sentences" with "raw", and of COCO "filepath".

    Raises:
        ValueError: a key that is missing.
    """
    rows = []
    for k, image in enumerate(stored["images"]):
        try:
            file = join(image["filepath"], image["filename"]) if image.get("filepath") else image["filename"]
            texts = [sentence["raw"] for sentence in image["sentences"]]
            rows += [{"file_name": file, "caption": text, "split": image["split"]} for text in texts]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: expected filename, split and sentences (with raw) in each of images, number {k} has them "
                f"not ({type(error).__name__}: {error})"
            ) from error
    name = str(stored.get("dataset", ""))
    return Captioned(rows, (f"{name}-images", f"{name}_images", "images", "Images"))


def _texts_of(values: list[Any]) -> list[list[Any]] | None:
    """The texts of each cell of a column of several texts: lists, or lists in JSON; None: the cells are no lists."""
    if any(isinstance(value, list) for value in values):
        return [value if isinstance(value, list) else [value] for value in values]
    if not all(isinstance(value, str) and value.lstrip().startswith("[") for value in values):
        return None
    try:
        read = [json.loads(value) for value in values]
    except ValueError:
        return None
    return read if all(isinstance(texts, list) and all(isinstance(t, str) for t in texts) for texts in read) else None


def captions_of(path: str, values: list[Any], column: str) -> list[list[str]]:
    """The texts of the image of each row: none of an empty list, an empty one of an empty cell; both are warned of.

    Args:
        path: path or name of the table.
        values: the cell of each row.
        column: name of the column.

    Raises:
        ValueError: a cell that is neither a string nor a list of strings, or nothing but empty lists.
    """
    several = _texts_of(values) or [[value] for value in values]
    for k, texts in enumerate(several):
        if not all(text is None or isinstance(text, str) for text in texts):
            raise ValueError(
                f"{path}: row {k + 1}: expected a string, or a list of strings, in column {column}, got {values[k]!r}"
            )
    empty, none = sum(value in (None, "") for value in values), sum(not texts for texts in several)
    if none == len(values):
        raise ValueError(f"{path}: expected texts in column {column}, all its lists are empty")
    for count, what in (
        (empty, f"rows have no {column}, their texts are empty"),
        (none, "images have no text and are left out"),
    ):
        if count:
            log.warning("%s: %d of %d %s", path, count, len(values), what)
    return [[text or "" for text in texts] for texts in several]


def images_folder(path: str, file: str, folders: tuple[str, ...]) -> str | None:
    """The first folder that has ``file``: of ``folders`` beside the file at ``path``, of those beside its folder, its
    folder and the one above; None: none has.

    Args:
        path: path or URL of the file of captions.
        file: name of an image.
        folders: names of folders.
    """
    own = parent(path)
    places = [join(root, name) for root in (own, parent(own)) for name in folders if name]
    return next((place for place in (*places, own, parent(own)) if is_file(join(place, file))), None)
