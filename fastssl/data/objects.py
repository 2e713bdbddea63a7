"""What is where in an image: boxes, classes and a segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

VOID = 255  # of a segmentation: not scored


class Objects(NamedTuple):
    """The objects of an image.

    Args:
        size: (height, width) of the image.
        boxes: float32 [n, 4]: left, top, right and bottom in pixels from the upper left corner, the right and the
            bottom edge exclusive, so that the width is right - left.
        labels: int64 [n], classes.
        difficult: bool [n], objects that are not scored (Pascal VOC).
        crowd: bool [n], boxes around groups, which any number of detections may match (COCO).
        areas: float64 [n], pixels of each object, by which COCO divides small from large ones.
        segmentation: uint8 [height, width]: 0 for background, 1 + the class, 255 (void) for pixels that are not scored;
            None: there is none.

    Example:
        >>> from fastssl.data import objects_of
        >>> objects_of((60, 80), boxes=[[10, 20, 30, 50]], labels=[2]).areas
        array([600.])
    """

    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    segmentation: np.ndarray | None = None


def objects_of(
    size: tuple[int, int],
    boxes: Any = (),
    labels: Any = (),
    *,
    difficult: Any = None,
    crowd: Any = None,
    areas: Any = None,
    segmentation: np.ndarray | None = None,
    name: str = "objects",
) -> Objects:
    """:class:`Objects` from lists; flags are False and areas those of the boxes unless they are given.

    Args:
        size: (height, width) of the image.
        boxes, labels, difficult, crowd, areas, segmentation: as of :class:`Objects`.
        name: name of the image in messages.

    Raises:
        ValueError: boxes without area or outside of the image, lists of different lengths, or a segmentation of another
            size.

    Example:
        >>> from fastssl.data import objects_of
        >>> objects_of((60, 80)).boxes.shape
        (0, 4)
    """
    height, width = size
    box = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    count = len(box)
    outside = (box[:, :2] < 0).any(1) | (box[:, 2] > width) | (box[:, 3] > height) | (box[:, 2:] <= box[:, :2]).any(1)
    if outside.any() or not np.isfinite(box).all():
        bad = box[outside | ~np.isfinite(box).all(1)][0].tolist()
        raise ValueError(f"{name}: expected boxes within the {width} x {height} pixels of the image, got {bad}")
    if segmentation is not None and segmentation.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected a segmentation of integers, got {segmentation.dtype}")
    if segmentation is not None and segmentation.shape != (height, width):
        got = " x ".join(map(str, segmentation.shape[::-1]))
        raise ValueError(f"{name}: expected a segmentation of the image's {width} x {height} pixels, got one of {got}")

    def listed(what: str, values: Any, dtype: Any, default: Any) -> np.ndarray:
        array = default if values is None else np.asarray(values).reshape(-1)
        if len(array) != count:
            raise ValueError(f"{name}: expected {what} of {count} boxes, got {len(array)}")
        if count and dtype == np.int64 and array.dtype.kind == "f":
            raise ValueError(f"{name}: expected integers as {what}, got {array.dtype}")
        return np.asarray(array, dtype=dtype)

    sides = (box[:, 2:] - box[:, :2]).astype(np.float64)
    return Objects(
        size,
        box,
        listed("labels", labels, np.int64, None),
        listed("difficult", difficult, bool, np.zeros(count, bool)),
        listed("crowd", crowd, bool, np.zeros(count, bool)),
        listed("areas", areas, np.float64, sides[:, 0] * sides[:, 1]),
        segmentation,
    )


class Detections(NamedTuple):
    """The detections in an image.

    Args:
        boxes: float32 [n, 4], as of :class:`Objects`.
        scores: float32 [n], higher is more certain.
        labels: int64 [n], classes.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import Detections
        >>> len(Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)).scores)
        0
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def known_class(name: Any, classes: Sequence[str], where: str) -> int:
    """The index of a class.

    Raises:
        ValueError: it is not one of ``classes``.
    """
    if name not in classes:
        shown = ", ".join(map(str, classes[:10])) + (", ..." if len(classes) > 10 else "")
        raise ValueError(f"{where}: expected one of the classes {shown}, got {name!r}")
    return list(classes).index(name)


def require_images(ids: Iterable[Any], where: str) -> list[Any]:
    """The list of images.

    Raises:
        ValueError: it is empty.
    """
    listed = list(ids)
    if not listed:
        raise ValueError(f"data: {where} lists no images")
    return listed
