"""Detections as a file of COCO's results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastssl._files import replacing
from fastssl.data import AnnotatedFiles, Detections, Item, Source, Subset


class CocoResults:
    """The detections in all images of a test set, written as COCO's results when the last one is there.

    A list of ``{"image_id": ..., "category_id": ..., "bbox": [left, top, width, height], "score": ...}`` in pixels of
    the images, which ``COCO.loadRes`` of pycocotools reads. Ids are those of the annotations of COCO; those of other
    data are numbers from 1 on, of images in the order of the test set.

    Args:
        path: the file; it is written under another name first.
        test: the test set.
        classes: number of classes.

    Raises:
        ValueError: a class that the annotations of COCO have no id of.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from fastssl.data import Detections, scenes
        >>> from fastssl.evaluate import CocoResults
        >>> test, path = scenes(1, "test", size=32), Path(tempfile.mkdtemp()) / "results.json"
        >>> found = Detections(np.array([[1, 2, 11, 7]]), np.array([0.5]), np.array([3]))
        >>> CocoResults(path, test, 9)(test.read(0), found)
        >>> print(path.read_text())
        [{"image_id": 1, "category_id": 4, "bbox": [1.0, 2.0, 10.0, 5.0], "score": 0.5}]
    """

    def __init__(self, path: Path, test: Source, classes: int) -> None:
        self.path, self.left = path, len(test)
        self.rows: list[dict[str, Any]] = []
        while isinstance(test, Subset):
            test = test.source
        images: Sequence[int] = range(1, len(test) + 1)
        self.categories: Sequence[int | None] = range(1, classes + 1)
        if isinstance(test, AnnotatedFiles):
            images, self.categories = test.coco_ids, test.category_ids
        self.images = {test.name_of(k): number for k, number in enumerate(images)}
        for name, number in zip(test.classes, self.categories):
            if number is None:
                raise ValueError(f"predictions: expected an id of every class, {test.name} has no category {name!r}")

    def __call__(self, item: Item, found: Detections) -> None:
        image = self.images[str(item.name)]
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()):
            left, top, right, bottom = map(float, box)
            self.rows.append(
                {
                    "image_id": image,
                    "category_id": self.categories[label],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": score,
                }
            )
        self.left -= 1
        if self.left == 0:
            with replacing(self.path) as file:
                file.write_text(json.dumps(self.rows), encoding="utf-8")
