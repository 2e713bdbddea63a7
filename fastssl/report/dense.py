"""Renders the page of a detection or segmentation: the table, predictions and mistakes."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fastssl._version import __version__
from fastssl.augment.images import to_show
from fastssl.bench.run import write_atomically
from fastssl.data import Detections, Item, Objects
from fastssl.data.objects import VOID
from fastssl.evaluate.detection_metrics import voc_matches
from fastssl.report.figures import png
from fastssl.report.html import template

SHOWN, SIDE = 12, 256  # pictures of a page, and pixels of their longer side
RIGHT, WRONG, MISSED = (47, 158, 68), (224, 49, 49), (245, 159, 0)


def colors_of(count: int) -> np.ndarray:
    """uint8 [count, 3], of different hues; background is black."""
    hues = [colorsys.hsv_to_rgb(k * 0.618 % 1, 0.75, 0.95) for k in range(count - 1)]
    return (255 * np.array([(0.0, 0.0, 0.0), *hues])).round().astype(np.uint8)


def segmentation_pictures(item: Item, predicted: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """The image, its classes, the predicted ones, and where they differ."""
    assert item.images is not None and item.objects is not None and item.objects.segmentation is not None
    image, truth, colors = to_show(item.images[0]), item.objects.segmentation, colors_of(classes)
    void = (truth == VOID) if classes <= VOID else np.zeros(truth.shape, bool)
    wrong = (predicted != truth) & ~void
    pale = (0.35 * image + 0.65 * 255).astype(np.uint8)
    marked = np.where(wrong[..., None], np.array(WRONG, np.uint8), pale)
    shown = np.where(void[..., None], np.uint8(255), colors[np.where(void, 0, truth)])
    return {"image": image, "truth": shown, "predicted": colors[predicted], "mistakes": marked}


def detection_pictures(item: Item, predicted: Detections, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """The image with its objects, and with as many detections, the most certain: right, wrong, and what was missed."""
    assert item.images is not None and item.objects is not None
    image, objects = to_show(item.images[0]), item.objects
    order = np.argsort(-predicted.scores, kind="stable")[: max(1, len(objects.labels))]
    found = Detections(predicted.boxes[order], predicted.scores[order], predicted.labels[order])
    right, ignored, missed = mistakes(found, objects, len(classes))
    truth = [(box, RIGHT, classes[k]) for box, k in zip(objects.boxes, objects.labels)]
    made = [(box, MISSED, classes[k]) for box, k, gone in zip(objects.boxes, objects.labels, missed) if gone]
    made += [
        (found.boxes[k], RIGHT if right[k] else WRONG, f"{classes[found.labels[k]]} {found.scores[k]:.1f}")
        for k in np.argsort(right, kind="stable")  # the right ones over the others
        if not ignored[k]
    ]
    return {"truth": _with_boxes(image, truth), "predicted": _with_boxes(image, made)}


def mistakes(found: Detections, objects: Objects, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which detections are right, which are of difficult objects, and which objects were missed."""
    right, ignored, best = voc_matches([found], [objects], classes)
    missed = ~objects.difficult & ~objects.crowd
    missed[best[right]] = False
    return right, ignored, missed


def _with_boxes(image: np.ndarray, boxes: Sequence[tuple[np.ndarray, tuple[int, int, int], str]]) -> np.ndarray:
    scale = SIDE / max(image.shape[:2])
    shown = Image.fromarray(image).resize((round(image.shape[1] * scale), round(image.shape[0] * scale)))
    draw = ImageDraw.Draw(shown)
    for box, color, text in boxes:
        left, top, right, bottom = (float(edge) * scale for edge in box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=2)
        draw.text((left + 3, top + 1), text, fill=color)
    return np.asarray(shown)


class Pictures:
    """The pictures of the first test items, kept in a file for evaluations that are resumed.

    Args:
        path: a JSON file.
        protocol: "segmentation" or "detection".
        classes: names of the classes.
    """

    def __init__(self, path: Path, protocol: str, classes: Sequence[str]) -> None:
        self.path, self.protocol, self.classes = path, protocol, list(classes)
        self.rows: list[dict[str, Any]] = []

    def __call__(self, item: Item, predicted: Any) -> None:
        if len(self.rows) == SHOWN:
            return
        if self.protocol == "detection":
            made = detection_pictures(item, predicted, self.classes)
        else:
            made = segmentation_pictures(item, predicted, len(self.classes) + 1)
        self.rows.append({"name": item.name, "pictures": {name: png(_small(image)) for name, image in made.items()}})
        if len(self.rows) == SHOWN or len(self.rows) == 1:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(self.rows))

    def kept(self) -> list[dict[str, Any]]:
        """Those of this evaluation, or of the one that it goes on with."""
        if not self.rows and self.path.exists():
            self.rows = json.loads(self.path.read_text())
        return self.rows


def _small(image: np.ndarray) -> np.ndarray:
    shown = Image.fromarray(image)
    scale = SIDE / max(image.shape[:2])
    nearest = Image.Resampling.NEAREST
    return np.asarray(shown.resize((round(shown.width * scale), round(shown.height * scale)), nearest))


def write_dense_report(path: Path, table: dict[str, Any], pictures: Pictures, title: str, about: str) -> Path:
    """Writes the page and returns its path.

    Args:
        path: the page.
        table: of :func:`fastssl.evaluate.compare_dense`.
        pictures: of the pretrained encoder.
        title: title of the page.
        about: a sentence on data and training.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[report]``.
    """
    measures = [name for name in table if not name.endswith("_se")]
    page = template("dense.html").render(
        version=__version__,
        title=title,
        about=about,
        table=table,
        measures=measures,
        rows=list(table[measures[0]]),
        pictures=pictures.kept(),
        detection=pictures.protocol == "detection",
        classes=list(zip(pictures.classes, colors_of(len(pictures.classes) + 1)[1:].tolist()))[:30],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path
