"""Captions as COCO has them: a JSON file of images and of annotations, each a caption of one of them."""

from __future__ import annotations

import logging
from typing import Any

from fastssl.data.storage import is_file, join, name_of, parent

log = logging.getLogger("fastssl")
NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id", "caption")}


def is_coco(stored: Any) -> bool:
    """Whether the content of a JSON file is that of an annotation file of COCO."""
    return isinstance(stored, dict) and all(isinstance(stored.get(part), list) for part in NEEDED)


def coco_rows(path: str, stored: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of "file_name" and "caption", one for each annotation.

    Args:
        path: path of the file, for errors.
        stored: its content: "images" with "id" and "file_name", "annotations" with "image_id" and "caption".

    Raises:
        ValueError: no annotations, a key that is missing, or a caption of an image that is not listed.
    """
    if not stored["annotations"]:
        raise ValueError(f"{path}: expected annotations with captions, found none")
    for part, keys in NEEDED.items():
        for k, entry in enumerate(stored[part]):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                boxes = "; boxes are opened as coco:FOLDER" if missing == ["caption"] else ""
                raise ValueError(
                    f"{path}: expected the key {missing[0]!r} in each of {part}, number {k} has none{boxes}"
                )
    names = {image["id"]: str(image["file_name"]) for image in stored["images"]}
    rows = []
    for k, entry in enumerate(stored["annotations"]):
        if entry["image_id"] not in names:
            raise ValueError(f"{path}: annotation {k} is of image {entry['image_id']}, which is not listed")
        rows.append({"file_name": names[entry["image_id"]], "caption": entry["caption"]})
    without = len(names) - len({entry["image_id"] for entry in stored["annotations"]})
    if without:
        log.warning("%s: %d of %d images have no caption and are left out", path, without, len(names))
    return rows


def coco_images(path: str, file: str) -> str | None:
    """The folder of COCO's images for ``annotations/captions_val2017.json``: the first that has ``file`` of ``val2017``
    and ``images`` beside the JSON file, the same beside its folder, its folder and the one above; None: none has.

    Args:
        path: path or URL of the JSON file.
        file: name of an image.
    """
    part, own = name_of(path).partition("_")[2], parent(path)
    folders = [join(root, name) for root in (own, parent(own)) for name in (part, "images") if name]
    return next((folder for folder in (*folders, own, parent(own)) if is_file(join(folder, file))), None)
