"""Semantic segmentation from the feature maps of an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.data import Item, Objects
from fastssl.data.objects import VOID
from fastssl.evaluate.dense import View, require_objects
from fastssl.evaluate.segmentation_metrics import boundary_f, confusion_matrix, mean_iou, pixel_accuracy
from fastssl.models import SEGMENTATION_HEADS


class SegmentationMeter:
    """Mean IoU, pixel accuracy and boundary F-score of a test set."""

    def __init__(self, classes: int) -> None:
        self.classes, self.boundaries = classes, list[float]()
        self.confusion = np.zeros((classes, classes), dtype=np.int64)

    def add(self, predicted: np.ndarray, objects: Objects) -> None:
        assert objects.segmentation is not None
        self.confusion += confusion_matrix(predicted, objects.segmentation, self.classes)
        self.boundaries.append(boundary_f(predicted, objects.segmentation, classes=self.classes))

    def result(self) -> dict[str, float]:
        return {
            "mIoU": mean_iou(self.confusion),
            "pixel accuracy": pixel_accuracy(self.confusion),
            "boundary F": float(np.mean(self.boundaries)),
        }


class Segmentation:
    """The task of a class for every pixel; see :class:`fastssl.evaluate.dense.DenseTask`.

    Args:
        classes: names of the classes, without background.
        head: "linear", "fcn" or "hypercolumn".

    Raises:
        ValueError: an unknown head.

    Example:
        >>> from fastssl.evaluate import Segmentation
        >>> Segmentation(["cat", "dog"]).classes
        3
    """

    name = "segmentation"

    def __init__(self, classes: Sequence[str], head: str = "linear") -> None:
        if head not in SEGMENTATION_HEADS:
            raise ValueError(f"head: expected one of {', '.join(SEGMENTATION_HEADS)}, got {head!r}")
        self.classes, self._head = len(classes) + 1, head
        self.rate = 3e-3 if head == "fcn" else 1e-2
        self.void = VOID if self.classes <= VOID else -1

    def head(self, channels: list[int], strides: list[float]) -> nn.Module:
        return SEGMENTATION_HEADS[self._head](channels, self.classes)

    def target(self, item: Item, view: View) -> Tensor:
        """The nearest labels of a view, at half of its resolution: those between cost time and change nothing."""
        labels = require_objects(item).segmentation
        if labels is None:
            raise ValueError(f"data: expected a segmentation of every image, {item.name} has none")
        at = (np.arange(view.size // 2) + 0.5) / (view.size // 2)
        y = np.minimum((view.top + at * view.height).astype(np.int64), labels.shape[0] - 1)
        x = np.minimum((view.left + at * view.width).astype(np.int64), labels.shape[1] - 1)
        return torch.from_numpy(labels[y[:, None], x[::-1] if view.flipped else x])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        larger = TF.interpolate(outputs, size=targets.shape[1:], mode="bilinear", align_corners=False)
        total = TF.cross_entropy(larger, targets.long(), ignore_index=self.void, reduction="sum")
        return total / (targets != self.void).sum().clamp(min=1)

    def predict(self, outputs: Tensor, size: int, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        made = []
        for scores, shape in zip(outputs, sizes):
            larger = TF.interpolate(scores[None], size=shape, mode="bilinear", align_corners=False)[0]
            made.append(larger.max(0).indices.to(torch.uint8 if self.classes <= VOID else torch.int32).cpu().numpy())
        return made

    def meter(self) -> SegmentationMeter:
        return SegmentationMeter(self.classes)
