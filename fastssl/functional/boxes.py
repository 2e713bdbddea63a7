"""Boxes: intersection over union, its generalisation, and non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.functional import _check as check

_AT_ONCE = 2**24  # pairs of boxes


def _boxes(name: str, given: object) -> Tensor:
    boxes = check.matrix(name, given)
    if boxes.shape[1] != 4:
        raise ValueError(f"{name}: expected [N, 4], left, top, right and bottom, got shape {tuple(boxes.shape)}")
    return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()


def _parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intersections, unions and smallest boxes around two, of boxes that broadcast, as shares of the latter's sides:
    areas in pixels are infinite from sides of 2^64, and 0 below 2^-75."""
    low, high = x[..., :2] / 2, x[..., 2:] / 2  # the difference of two finite numbers may be infinite, of halves not
    other_low, other_high = y[..., :2] / 2, y[..., 2:] / 2
    around = torch.maximum(high, other_high) - torch.minimum(low, other_low)
    unit = torch.where(around > 0, around, 1).detach()  # the ratios do not depend on it

    def area(sides: Tensor) -> Tensor:
        return (sides / unit).prod(-1)

    inside = area((torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0))
    # Summed so, the union is not below the intersection by rounding.
    return inside, area(high - low) + (area(other_high - other_low) - inside), area(around)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 of nothing, where the gradient is 0, too."""
    there = ~(whole <= 0)  # NaN stays
    return torch.where(there, part, 0) / torch.where(there, whole, 1)


def box_iou(x: Tensor, y: Tensor) -> Tensor:
    r"""Intersection over union of all pairs of boxes.

    .. math:: \text{IoU}(x, y) = \frac{|x \cap y|}{|x \cup y|}

    Args:
        x: [N, 4], left, top, right and bottom, in float32, float64, bfloat16 or float16 (computed in float32).
        y: [M, 4].

    Returns:
        [N, M]; 0 for pairs of boxes without area.

    Raises:
        TypeError: no tensor of floating point numbers.
        ValueError: another shape.

    Example:
        >>> import torch, fastssl.functional as F
        >>> x = torch.tensor([[0.0, 0, 2, 2]])
        >>> F.box_iou(x, x + torch.tensor([[1.0, 0, 1, 0]]))
        tensor([[0.3333]])

    Source: Jaccard, The Distribution of the Flora in the Alpine Zone, 1912.
    """
    inside, union, _ = _parts(_boxes("x", x)[:, None], _boxes("y", y)[None])
    return _share(inside, union)


def generalized_box_iou(x: Tensor, y: Tensor) -> Tensor:
    r"""Generalised intersection over union of pairs of boxes: its negative is a loss that also moves boxes apart.

    .. math:: \text{GIoU}(x, y) = \text{IoU}(x, y) - \frac{|c \setminus (x \cup y)|}{|c|}

    where c is the smallest box around both.

    Args:
        x: [N, 4], left, top, right and bottom, in float32, float64, bfloat16 or float16 (computed in float32).
        y: [N, 4], each with the box of the same row of ``x``.

    Returns:
        [N], from -1 to 1.

    Raises:
        TypeError: no tensor of floating point numbers.
        ValueError: another shape.

    Example:
        >>> import torch, fastssl.functional as F
        >>> x = torch.tensor([[0.0, 0, 1, 1]])
        >>> F.generalized_box_iou(x, x + 3)
        tensor([-0.8750])

    Source: Rezatofighi et al., Generalized Intersection over Union, 2019.
    """
    x, y = _boxes("x", x), _boxes("y", y)
    check.same_rows("y", y, "x", x)
    inside, union, around = _parts(x, y)
    return _share(inside, union) - _share(around - union, around)


def nms(boxes: Tensor, scores: Tensor, labels: Tensor | None = None, *, threshold: float = 0.6) -> Tensor:
    r"""Non-maximum suppression: from the highest score down, boxes are left out that overlap one that is kept.

    .. math:: i \text{ is kept} \iff \text{IoU}(b_i, b_j) \le t \text{ for all kept } j \text{ with } s_j \ge s_i

    Args:
        boxes: [N, 4], left, top, right and bottom, in float32, float64, bfloat16 or float16 (computed in float32).
        scores: [N]; of equals, the first is kept.
        labels: integers [N]: boxes of different classes do not suppress each other; None: all are of one class.
        threshold: t, of the intersection over union.

    Returns:
        int64 [K], indices of those that are kept, by falling scores.

    Raises:
        TypeError: no tensor of floating point numbers.
        ValueError: another shape, a score that is NaN, or a threshold that is not from 0 to 1.

    Example:
        >>> import torch, fastssl.functional as F
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10]])
        >>> F.nms(boxes, torch.tensor([0.5, 0.9, 0.7]))
        tensor([1, 2])

    Source: Felzenszwalb et al., Object Detection with Discriminatively Trained Part-Based Models, 2010.
    """
    boxes = _boxes("boxes", boxes).detach()
    if check.tensor("scores", scores).shape != (len(boxes),):
        raise ValueError(f"scores: expected [{len(boxes)}], one per box, got shape {tuple(scores.shape)}")
    if scores.isnan().any():
        raise ValueError("scores: expected numbers, got NaN")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a number from 0 to 1, got {threshold!r}")
    order = torch.argsort(scores.detach(), descending=True, stable=True)
    sorted_boxes = boxes[order].cpu()
    groups = None if labels is None else check.ids("labels", labels, boxes, "boxes")[order].cpu()
    alive = torch.ones(len(order), dtype=torch.bool, device="cpu")
    kept: list[int] = []
    step = max(1, _AT_ONCE // max(1, len(order)))
    for first in range(0, len(order), step):
        overlaps = box_iou(sorted_boxes[first : first + step], sorted_boxes) > threshold
        if groups is not None:
            overlaps &= groups[first : first + step, None] == groups
        rows = overlaps.numpy()
        living = alive.numpy()
        for k in range(len(rows)):
            if living[first + k]:
                kept.append(first + k)
                living[first + k :] &= ~rows[k, first + k :]
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
