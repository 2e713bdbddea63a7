"""An anchor-free detection head (FCOS) on a small feature pyramid, for the feature maps of any encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl.functional as F

LEVELS = 3  # of the pyramid, at least
STRIDE = 6  # pixels, from which on maps are used
REACH = 4  # strides: the largest distance to a side of the objects of a level
CENTRE = 1.5  # strides: from an object's centre, within which its positions lie


class Outputs(NamedTuple):
    """Scores of the positions of all levels.

    Args:
        classes: [B, P, classes], logits.
        sides: [B, P, 4], distances to the left, top, right and bottom of the object, in pixels.
        centre: [B, P], logits of the centre-ness.
        points: [P, 2], x and y of the positions, in pixels.
        strides: [P], in pixels.
    """

    classes: Tensor
    sides: Tensor
    centre: Tensor
    points: Tensor
    strides: Tensor


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)


class _Pyramid(nn.Module):
    """Maps of one width from fine to coarse, each with what the coarser ones know; coarser ones are added."""

    def __init__(self, channels: Sequence[int], width: int, more: int) -> None:
        super().__init__()
        self.normalize = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.sideways = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in channels)
        self.more = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for _ in range(more))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        made = [side(norm(m)) for side, norm, m in zip(self.sideways, self.normalize, maps)]
        for k in reversed(range(len(made) - 1)):
            made[k] = made[k] + TF.interpolate(made[k + 1], size=made[k].shape[2:], mode="nearest")
        made = [smooth(m) for smooth, m in zip(self.smooth, made)]
        for conv in self.more:
            made.append(conv(torch.relu(made[-1])))
        return made


class FCOSHead(nn.Module):
    """FCOS (Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, 2019): every position of a feature
    pyramid predicts classes, the distances to the sides of its object, and how central it is.

    Maps of a stride of at least 6 pixels are used (the coarsest three), and coarser ones are added up to three levels.

    Args:
        channels: channels of the encoder's feature maps, from fine to coarse.
        strides: pixels per position of each.
        classes: number of classes.
        width: channels of the pyramid.
        depth: convolutions before the predictions.

    Example:
        >>> import torch
        >>> from fastssl.models import FCOSHead
        >>> head = FCOSHead([16, 32], [4, 8], classes=5, width=16)
        >>> out = head([torch.zeros(2, 16, 32, 32), torch.zeros(2, 32, 16, 16)])
        >>> out.classes.shape, out.points.shape  # 16 x 16, 8 x 8 and 4 x 4 positions
        (torch.Size([2, 336, 5]), torch.Size([336, 2]))
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[float], classes: int, width: int = 64, depth: int = 2
    ) -> None:
        super().__init__()
        good = [k for k, stride in enumerate(strides) if stride >= STRIDE] or [len(strides) - 1]
        self.used: tuple[int, ...] = tuple(good[-LEVELS:])
        more = max(0, LEVELS - len(self.used))
        own = [float(strides[k]) for k in self.used]
        self.strides = own + [own[-1] * 2 ** (k + 1) for k in range(more)]
        self.pyramid = _Pyramid([channels[k] for k in self.used], width, more)
        towers = [
            nn.Sequential(
                *(
                    layer
                    for _ in range(depth)
                    for layer in (nn.Conv2d(width, width, 3, 1, 1, bias=False), _norm(width), nn.ReLU())
                )
            )
            for _ in range(2)
        ]
        self.class_tower, self.box_tower = towers
        self.classify = nn.Conv2d(width, classes, 3, 1, 1)
        self.locate = nn.Conv2d(width, 5, 3, 1, 1)  # four sides and the centre-ness
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        for conv in (self.classify, self.locate):
            nn.init.normal_(conv.weight, std=0.01)
        assert self.classify.bias is not None and self.locate.bias is not None
        nn.init.constant_(self.classify.bias, -math.log(99))  # a prior of 1 %, for the focal loss (Lin et al. 2017)
        nn.init.zeros_(self.locate.bias)

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        classes, sides, centre, points, strides = [], [], [], [], []
        for level, m in enumerate(self.pyramid([maps[k] for k in self.used])):
            stride = self.strides[level]
            classes.append(self.classify(self.class_tower(m)).flatten(2).movedim(1, 2))
            located = self.locate(self.box_tower(m)).float().flatten(2).movedim(1, 2)  # bf16 is too coarse for sides
            sides.append(stride * torch.exp((self.scales[level] * located[..., :4]).clamp(max=6)))
            centre.append(located[..., 4])
            y, x = (stride * (torch.arange(n, device=m.device) + 0.5) for n in m.shape[2:])
            points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2))
            strides.append(torch.full((len(points[-1]),), stride, device=m.device))
        scores = [torch.cat(part, 1) for part in (classes, sides, centre)]
        return Outputs(scores[0], scores[1], scores[2], torch.cat(points), torch.cat(strides))


def assign(points: Tensor, strides: Tensor, boxes: Tensor, ignore: Tensor) -> tuple[Tensor, Tensor]:
    """The object of every position: the smallest of those that have it near their centre and are of its level's size.

    Args:
        points: [P, 2].
        strides: [P].
        boxes: [B, M, 4]; boxes without area are padding.
        ignore: bool [B, M], objects that are not learned.

    Returns:
        int64 [B, P], the index of the object, -1 for background; bool [B, P], whether a position counts: those of
        ignored objects do not.
    """
    x, y = points[:, 0, None], points[:, 1, None]
    left, top, right, bottom = boxes[:, None].unbind(-1)  # [B, 1, M]
    distances = torch.stack([x - left, y - top, right - x, bottom - y], -1)  # [B, P, M, 4]
    inside = distances.amin(-1) > 0
    reach = CENTRE * strides[:, None]
    near = ((x - (left + right) / 2).abs() < reach) & ((y - (top + bottom) / 2).abs() < reach)
    levels = strides.unique()
    low = torch.where(strides == levels[0], 0.0, REACH / 2 * strides)
    high = torch.where(strides == levels[-1], torch.inf, REACH * strides)
    far = distances.amax(-1)
    sized = (far > low[:, None]) & (far <= high[:, None])
    areas = (right - left) * (bottom - top)
    costs = torch.where(inside & near & sized & ~ignore[:, None], areas.expand(inside.shape), torch.inf)
    if not boxes.shape[1]:
        empty = torch.zeros(len(boxes), len(points), dtype=torch.int64, device=points.device)
        return empty - 1, empty == 0
    least, chosen = costs.min(-1)
    found = least < torch.inf
    away = (inside & ignore[:, None]).any(-1)
    return torch.where(found, chosen, -1), found | ~away


def fcos_loss(outputs: Outputs, boxes: Tensor, labels: Tensor, ignore: Tensor) -> Tensor:
    """The loss of FCOS: focal loss of the classes, GIoU loss of the boxes and cross-entropy of the centre-ness.

    Args:
        outputs: of :class:`FCOSHead`.
        boxes: [B, M, 4], left, top, right and bottom in pixels; boxes without area are padding.
        labels: int64 [B, M].
        ignore: bool [B, M], objects that are not learned.

    Example:
        >>> import torch
        >>> from fastssl.models import FCOSHead, fcos_loss
        >>> out = FCOSHead([16], [8], classes=5, width=16)([torch.zeros(1, 16, 8, 8)])
        >>> boxes, labels = torch.tensor([[[8.0, 8, 30, 28]]]), torch.tensor([[3]])
        >>> bool(fcos_loss(out, boxes, labels, labels < 0) > 0)
        True
    """
    owner, counted = assign(outputs.points, outputs.strides, boxes, ignore)
    found = owner >= 0
    total = found.sum().clamp(min=1)
    wanted = torch.zeros_like(outputs.classes)
    image, place = found.nonzero(as_tuple=True)
    chosen = owner[image, place]
    wanted[image, place, labels[image, chosen]] = 1
    focal = sigmoid_focal(outputs.classes, wanted).sum(-1)
    loss: Tensor = (focal * counted).sum() / total
    if len(image):
        point, box = outputs.points[place], boxes[image, chosen]
        sides = torch.cat([point - box[:, :2], box[:, 2:] - point], 1)
        pairs = [torch.minimum(a, b) / torch.maximum(a, b) for a, b in ((sides[:, k], sides[:, k + 2]) for k in (0, 1))]
        centre = (pairs[0] * pairs[1]).sqrt()
        made = _boxes(point, outputs.sides[image, place])
        overlap = 1 - F.generalized_box_iou(made.float(), box)
        loss = loss + (overlap * centre).sum() / centre.sum()
        loss = loss + TF.binary_cross_entropy_with_logits(outputs.centre[image, place], centre)
    return loss


def sigmoid_focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of independent classes, elementwise (Lin et al., Focal Loss for Dense Object Detection, 2017)."""
    p = logits.sigmoid()
    wrong = p + targets - 2 * p * targets  # 1 - the probability of the truth
    weight = 1 - alpha + (2 * alpha - 1) * targets
    result: Tensor = weight * wrong**gamma * TF.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return result


def _boxes(points: Tensor, sides: Tensor) -> Tensor:
    return torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)


def detect(
    outputs: Outputs, size: int, *, least: float = 0.02, most: int = 100, threshold: float = 0.6
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes [n, 4], scores [n] and classes [n] of every image, by falling scores.

    Args:
        outputs: of :class:`FCOSHead`.
        size: pixels of a side of the images, at which boxes are cut.
        least: scores below are left out; the score is the root of class probability times centre-ness.
        most: boxes per image.
        threshold: of non-maximum suppression.

    Example:
        >>> import torch
        >>> from fastssl.models import FCOSHead, detect
        >>> out = FCOSHead([16], [8], classes=5, width=16)([torch.zeros(1, 16, 8, 8)])
        >>> [boxes.shape[1] for boxes, scores, labels in detect(out, 64)]
        [4]
    """
    scores = (outputs.classes.sigmoid() * outputs.centre.sigmoid()[..., None]).sqrt()
    everywhere = _boxes(outputs.points, outputs.sides).clamp(0, size)
    found = []
    for image in range(len(scores)):
        values, order = scores[image].flatten().topk(min(10 * most, scores[image].numel()))
        order, values = order[values > least], values[values > least]
        place, labels = order // scores.shape[2], order % scores.shape[2]
        boxes = everywhere[image, place]
        there = (boxes[:, 2:] - boxes[:, :2]).amin(1) > 0
        boxes, values, labels = boxes[there], values[there], labels[there]
        kept = F.nms(boxes, values, labels, threshold=threshold)[:most]
        found.append((boxes[kept], values[kept], labels[kept]))
    return found
