"""Detection from the feature maps of an encoder, by an anchor-free head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastssl.data import Detections, Item, Objects
from fastssl.evaluate.dense import View, require_objects
from fastssl.evaluate.detection_metrics import coco_ap, voc_ap
from fastssl.models.detector import FCOSHead, Outputs, detect, fcos_loss

MOST = 100  # objects of an image that are learned, the largest
SEEN = 0.3  # share of an object in a crop below which it is not learned


def view_of_boxes(boxes: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] as a view shows them, cut at its border, and the share of each that is in it."""
    scale = np.array([view.size / view.width, view.size / view.height] * 2)
    moved = (boxes.astype(np.float64) - np.array([view.left, view.top] * 2)) * scale
    cut = np.clip(moved, 0, view.size)
    whole, seen = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (moved, cut))
    if view.flipped:
        cut = np.stack([view.size - cut[:, 2], cut[:, 1], view.size - cut[:, 0], cut[:, 3]], 1)
    return cut, seen / whole


class DetectionMeter:
    """VOC's and COCO's average precision of a test set."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.found: list[Detections] = []
        self.truth: list[Objects] = []

    def add(self, predicted: Detections, objects: Objects) -> None:
        self.found.append(predicted)
        self.truth.append(objects._replace(segmentation=None))

    def result(self) -> dict[str, float]:
        table = {"VOC AP50, 11 points": float(np.nanmean(voc_ap(self.found, self.truth, self.classes)))}
        table["VOC AP50"] = float(np.nanmean(voc_ap(self.found, self.truth, self.classes, points=None)))
        table |= {f"COCO {name}": value for name, value in coco_ap(self.found, self.truth, self.classes).items()}
        return {name: value for name, value in table.items() if not np.isnan(value)}


class Detection:
    """The task of boxes and classes of all objects; see :class:`fastssl.evaluate.dense.DenseTask`.

    Args:
        classes: names of the classes.
        width: channels of the head.

    Example:
        >>> from fastssl.evaluate import Detection
        >>> Detection(["cat", "dog"]).classes
        2
    """

    name, rate = "detection", 2e-3

    def __init__(self, classes: Sequence[str], width: int = 64) -> None:
        self.classes, self.width = len(classes), width

    def head(self, channels: list[int], strides: list[float]) -> nn.Module:
        return FCOSHead(channels, strides, self.classes, self.width)

    def target(self, item: Item, view: View) -> Tensor:
        """float32 [MOST, 6]: box, class, and whether it is not learned; padded by zeros."""
        objects = require_objects(item)
        boxes, seen = view_of_boxes(objects.boxes, view)
        ignored = objects.difficult | objects.crowd | (seen < SEEN)
        there = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
        there = there[np.argsort(-objects.areas[there], kind="stable")][:MOST]
        made = np.zeros((MOST, 6), np.float32)
        made[: len(there), :4] = boxes[there]
        made[: len(there), 4], made[: len(there), 5] = objects.labels[there], ignored[there]
        return torch.from_numpy(made)

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        counts = (targets[..., 2] > targets[..., 0]).sum(1)
        targets = targets[:, : max(1, int(counts.max()))]  # padding costs time
        return fcos_loss(outputs, targets[..., :4], targets[..., 4].long(), targets[..., 5] > 0)

    def predict(self, outputs: Outputs, size: int, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        made = []
        for (boxes, scores, labels), (height, width) in zip(detect(outputs, size), sizes):
            scale = np.array([width / size, height / size] * 2, np.float32)
            made.append(Detections(boxes.cpu().numpy() * scale, scores.cpu().numpy(), labels.cpu().numpy()))
        return made

    def meter(self) -> DetectionMeter:
        return DetectionMeter(self.classes)
