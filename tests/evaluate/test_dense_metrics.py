"""Metrics of detection and segmentation against literal loops, faster-coco-eval and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

import fastssl.functional as F
from fastssl.data import Detections, Objects
from fastssl.data.objects import objects_of
from fastssl.evaluate import boundary_f, coco_ap, confusion_matrix, mean_iou, pixel_accuracy, voc_ap

CASES, CLASSES = 200, 3
Case = tuple[list[Detections], list[Objects]]


def case(seed: int) -> Case:
    """Images with equal scores, duplicates, crowds and difficult objects; some without objects, or nothing found."""
    r = np.random.default_rng(seed)
    objects, detections = [], []
    for _ in range(int(r.integers(1, 6))):
        n = int(r.integers(0, 8)) if seed % 7 else 0
        xy, side = r.integers(0, 150, (n, 2)), r.integers(1, int(r.choice([20, 60, 150])), (n, 2))
        boxes = np.concatenate([xy, xy + side], 1)
        areas = np.ceil(side.prod(1) * r.choice([0.4, 1.0], n))
        flags = {"crowd": r.random(n) < 0.15, "difficult": r.random(n) < 0.15}
        truth = objects_of((300, 300), boxes, r.integers(0, CLASSES, n), areas=areas, **flags)
        m = int(r.integers(0, 14)) if seed % 11 else 0
        near = boxes[r.integers(0, n, m)] if n else np.tile([10, 10, 40, 30], (m, 1))
        near = near + r.integers(-4, 5, (m, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        labels = r.integers(0, CLASSES, m)
        detections.append(Detections(near.astype(np.float32), r.integers(0, 6, m) / 5, labels))
        objects.append(truth)
    return detections, objects


def iou(a: Sequence[float], b: Sequence[float], crowd: bool = False) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    own, other = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return inside / (own if crowd else own + other - inside)


def by_score(detections: list[Detections], c: int) -> list[tuple[float, int, list[float]]]:
    listed = [
        (float(s), k, [float(v) for v in box])
        for k, d in enumerate(detections)
        for box, s, label in zip(d.boxes, d.scores, d.labels)
        if label == c
    ]
    return sorted(listed, key=lambda one: -one[0])


def voc_by_loops(detections: list[Detections], objects: list[Objects], c: int, eleven: bool) -> float:
    """The devkit's VOCevaldet, which knows no crowds: they are as difficult objects."""
    objects = [o._replace(difficult=o.difficult | o.crowd) for o in objects]
    total = sum(int((o.labels[k] == c) and not o.difficult[k]) for o in objects for k in range(len(o.labels)))
    if not total:
        return math.nan
    seen, curve, right, wrong = set(), [], 0, 0
    for _, image, box in by_score(detections, c):
        most, place = -1.0, -1
        for k in range(len(objects[image].labels)):
            if objects[image].labels[k] == c:
                overlap = iou(box, objects[image].boxes[k].tolist())
                if overlap > most:
                    most, place = overlap, k
        if most >= 0.5 and objects[image].difficult[place]:
            continue
        if most >= 0.5 and (image, place) not in seen:
            seen.add((image, place))
            right += 1
        else:
            wrong += 1
        curve.append((right, right / (right + wrong)))
    if eleven:
        return 100 * sum(max([p for hits, p in curve if 10 * hits >= k * total], default=0.0) for k in range(11)) / 11
    area, before = 0.0, 0
    for k, (hits, _) in enumerate(curve):
        area += (hits - before) / total * max(p for _, p in curve[k:])
        before = hits
    return 100 * area


@pytest.mark.parametrize("eleven", [True, False])
def test_voc_ap_is_that_of_the_devkit(eleven: bool) -> None:
    for seed in range(CASES):
        detections, objects = case(seed)
        found = voc_ap(detections, objects, CLASSES, points=11 if eleven else None)
        wanted = [voc_by_loops(detections, objects, c, eleven) for c in range(CLASSES)]
        np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg=str(seed))


def coco_by_loops(detections: list[Detections], objects: list[Objects], c: int, threshold: float) -> float:
    """All areas; COCOeval's evaluateImg and accumulate."""
    curve, total = [], 0
    for image, (d, o) in enumerate(zip(detections, objects)):
        own = [k for k in range(len(o.labels)) if o.labels[k] == c]
        own.sort(key=lambda k: bool(o.crowd[k] or o.difficult[k]))
        total += sum(not (o.crowd[k] or o.difficult[k]) for k in own)
        taken: set[int] = set()
        ranked = sorted((k for k in range(len(d.labels)) if d.labels[k] == c), key=lambda k: -d.scores[k])
        for k in ranked[:100]:
            best, chosen = min(threshold, 1 - 1e-10), -1
            for g in own:
                left_out = bool(o.crowd[g] or o.difficult[g])
                if g in taken and not o.crowd[g]:
                    continue
                if chosen >= 0 and left_out and not (o.crowd[chosen] or o.difficult[chosen]):
                    break
                overlap = iou(d.boxes[k].tolist(), o.boxes[g].tolist(), bool(o.crowd[g]))
                if overlap >= best:
                    best, chosen = overlap, g
            if chosen >= 0:
                taken.add(chosen)
            if chosen < 0 or not (o.crowd[chosen] or o.difficult[chosen]):
                curve.append((-float(d.scores[k]), image, chosen >= 0))
    if not total:
        return math.nan
    curve.sort(key=lambda one: one[0])
    hits = np.cumsum([one[2] for one in curve], dtype=float)
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / total
    return 100 * float(np.mean([max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]))


def test_coco_ap_is_that_of_loops_with_difficult_objects() -> None:
    for seed in range(CASES // 2):
        detections, objects = case(seed)
        found = coco_ap(detections, objects, CLASSES)
        for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
            each = [coco_by_loops(detections, objects, c, threshold) for c in range(CLASSES)]
            there = [one for one in each if not math.isnan(one)]
            wanted = float(np.mean(there)) if there else math.nan
            assert found[name] == pytest.approx(wanted, abs=1e-6, nan_ok=True), seed


def test_coco_ap_is_that_of_faster_coco_eval() -> None:
    peer = pytest.importorskip("faster_coco_eval")
    for seed in range(CASES):
        detections, objects = case(seed)
        objects = [o._replace(difficult=np.zeros(len(o.labels), bool)) for o in objects]  # COCO has none
        images, annotations, results = [], [], []
        for k, (d, o) in enumerate(zip(detections, objects)):
            images.append({"id": k + 1, "width": 300, "height": 300})
            for (x0, y0, x1, y1), label, crowd, area in zip(o.boxes.tolist(), o.labels, o.crowd, o.areas):
                one = {"id": len(annotations) + 1, "image_id": k + 1, "category_id": int(label), "iscrowd": int(crowd)}
                annotations.append({**one, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(area)})
            for (x0, y0, x1, y1), score, label in zip(d.boxes.tolist(), d.scores, d.labels):
                one = {"image_id": k + 1, "category_id": int(label), "score": float(score)}
                results.append({**one, "bbox": [x0, y0, x1 - x0, y1 - y0]})
        whole = {"images": images, "categories": [{"id": c, "name": str(c)} for c in range(CLASSES)]}
        truth = peer.COCO({**whole, "annotations": annotations})
        given = truth.loadRes(results) if results else peer.COCO({**whole, "annotations": []})
        judged = peer.COCOeval_faster(truth, given, "bbox", print_function=lambda *_: None)
        judged.run()
        wanted = [100 * s if s >= 0 else math.nan for s in judged.stats[:6]]
        np.testing.assert_allclose([*coco_ap(detections, objects, CLASSES).values()], wanted, atol=1e-6)


def test_bad_detections() -> None:
    detections, objects = case(1)
    with pytest.raises(ValueError, match="objects: expected at least one image"):
        coco_ap([], [], CLASSES)
    with pytest.raises(ValueError, match="detections: expected those of"):
        voc_ap(detections[1:], objects, CLASSES)
    with pytest.raises(ValueError, match="objects: expected classes 0 to 1"):
        coco_ap(
            [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))], [objects_of((9, 9), [[0, 0, 1, 1]], [2])], 2
        )
    with pytest.raises(ValueError, match="points: expected 11 or None, got 12"):
        voc_ap(detections, objects, CLASSES, points=12)


def test_mean_iou_is_the_jaccard_index() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(CASES):
        r = np.random.default_rng(seed)
        truth = r.integers(0, 4, (6, 7)) if seed % 5 else np.zeros((6, 7), int)
        predicted = np.where(r.random(truth.shape) < 0.6, truth, r.integers(0, 5, truth.shape))
        truth = np.where(r.random(truth.shape) < 0.2, 255, truth)
        counted = truth != 255
        confusion = confusion_matrix(predicted, truth, 5)
        present = np.union1d(truth[counted], predicted[counted])
        wanted = metrics.jaccard_score(truth[counted], predicted[counted], labels=present, average="macro")
        assert mean_iou(confusion) == pytest.approx(100 * wanted, abs=1e-6)
        wanted = metrics.accuracy_score(truth[counted], predicted[counted])
        assert pixel_accuracy(confusion) == pytest.approx(100 * wanted, abs=1e-6)


def edges_by_loops(labels: np.ndarray, c: int) -> list[tuple[int, int]]:
    height, width = labels.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if labels[y, x] == c
        and any(
            0 <= y + dy < height and 0 <= x + dx < width and labels[y + dy, x + dx] != c
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
        )
    ]


def test_boundary_f_is_that_of_loops() -> None:
    for seed in range(60):
        r = np.random.default_rng(seed)
        truth = np.kron(r.integers(0, 3, (3, 3)), np.ones((4, 4), int))
        predicted = np.roll(truth, r.integers(-2, 3), r.integers(0, 2))
        reach, scores = float(r.choice([1.0, 1.5, 2.0])), []
        for c in range(3):
            own, wanted = edges_by_loops(predicted, c), edges_by_loops(truth, c)
            if own or wanted:
                near = [
                    [any(math.dist(a, b) <= reach for b in others) for a in some]
                    for some, others in ((own, wanted), (wanted, own))
                ]
                p, q = (np.mean(n) if n else 0.0 for n in near)
                scores.append(200 * p * q / (p + q) if p + q else 0.0)
        assert boundary_f(predicted, truth, reach) == pytest.approx(np.mean(scores), abs=1e-6)


def test_boundary_f_with_void_is_that_of_loops() -> None:
    """Void has the class of the nearest pixel, by a loop over all of them; pixels deep in it are not looked at."""
    for seed in range(40):
        r = np.random.default_rng(seed)
        truth = np.repeat(np.repeat(r.integers(0, 3, (1, 4)), 6, 1), 9, 0)
        predicted = np.roll(truth, r.integers(-2, 3), 1)
        void = np.zeros(truth.shape, bool)
        void[:, 5:7] = void[:, 17:19] = True  # both sides of two borders
        void[:, :3] |= bool(seed % 2)
        known, filled = np.argwhere(~void), truth.copy()
        depth = np.zeros(truth.shape)
        for at in np.argwhere(void):
            far = [math.dist(at, other) for other in known]
            filled[tuple(at)], depth[tuple(at)] = truth[tuple(known[int(np.argmin(far))])], min(far)
        reach, scores = float(r.choice([1.0, 1.5, 2.0])), []
        for c in np.union1d(predicted[~void], truth[~void]):
            every = [edges_by_loops(labels, c) for labels in (predicted, filled)]
            own, wanted = ([at for at in some if depth[at] <= max(reach, 3)] for some in every)
            if own or wanted:
                p, q = (
                    np.mean([any(math.dist(a, b) <= reach for b in others) for a in some]) if some else 0.0
                    for some, others in ((own, every[1]), (wanted, every[0]))
                )
                scores.append(200 * p * q / (p + q) if p + q else 0.0)
            elif (predicted == c)[~void].any() != (filled == c).any():
                scores.append(0.0)
        wanted_score = np.mean(scores) if scores else 100.0
        assert boundary_f(predicted, np.where(void, 255, truth), reach) == pytest.approx(wanted_score, abs=1e-6), seed


def test_void_borders_hide_no_boundary() -> None:
    """As in Pascal VOC: the boundary is where it is without them, nearly."""
    y, x = np.mgrid[:150, :200]
    radius = np.hypot((y - 75) / 50, (x - 100) / 70)
    truth = (radius < 1).astype(np.uint8)
    bordered = np.where(np.abs(radius - 1) < 0.04, 255, truth).astype(np.uint8)
    left, larger = np.where(x < 100, truth, 0), (radius < 1.3).astype(np.uint8)
    for predicted in (truth, np.zeros_like(truth), np.ones_like(truth), left, larger):
        assert boundary_f(predicted, bordered) == pytest.approx(boundary_f(predicted, truth), abs=3)
    assert boundary_f(np.zeros_like(truth), bordered) == 0 and boundary_f(truth, bordered) == 100
    # Nothing is known within a large void, and whatever is predicted there does not count.
    hidden = truth.copy()
    hidden[20:130, 20:180] = 255
    assert boundary_f(truth, hidden) == boundary_f(np.zeros_like(truth), hidden)


def test_class_255_is_no_void_where_there_are_more() -> None:
    truth = np.full((32, 32), 255)
    assert boundary_f(np.full((32, 32), 700), truth, classes=1500) == 0.0
    assert boundary_f(truth, truth, classes=1500) == 100.0
    with pytest.raises(TypeError, match="predicted: expected integers, got float64"):
        confusion_matrix(np.array([0.9]), np.array([0]), 2)
    with pytest.raises(ValueError, match=r"predicted: expected the shape of truth, \(2, 2\), got \(1, 2\)"):
        boundary_f(np.zeros((1, 2), int), np.zeros((2, 2), int))


def test_crowds_are_not_scored_as_objects_of_voc() -> None:
    found = [Detections(np.array([[10, 10, 30, 30.0], [0, 0, 80, 59.0]]), np.array([0.9, 0.8]), np.array([0, 0]))]
    truth = [objects_of((60, 80), [[10, 10, 30, 30], [0, 0, 80, 60]], [0, 0], crowd=[False, True])]
    assert voc_ap(found, truth, 1, points=None).tolist() == [100.0]


def test_iou_counts_pixels() -> None:
    r = np.random.default_rng(0)
    for _ in range(30):
        boxes = np.sort(r.integers(0, 12, (2, 2, 2)), 1).reshape(2, 4)
        masks = np.zeros((2, 12, 12), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes):
            mask[y0:y1, x0:x1] = True
        union = (masks[0] | masks[1]).sum()
        wanted = (masks[0] & masks[1]).sum() / union if union else 0.0
        x, y = torch.from_numpy(boxes).double()
        assert float(F.box_iou(x[None], y[None])) == pytest.approx(float(wanted))
        if masks.any((1, 2)).all():
            low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
            around = np.prod(high - low)
            generalized = float(F.generalized_box_iou(x[None], y[None]))
            assert generalized == pytest.approx(float(wanted - (around - union) / around))


def test_nms_is_that_of_loops() -> None:
    r = np.random.default_rng(0)
    for _ in range(30):
        n = int(r.integers(0, 40))
        corners = r.integers(0, 30, (n, 2))
        boxes = torch.from_numpy(np.concatenate([corners, corners + r.integers(1, 20, (n, 2))], 1)).float()
        scores, labels = torch.from_numpy(r.integers(0, 5, n) / 4), torch.from_numpy(r.integers(0, 2, n))
        kept: list[int] = []
        for k in sorted(range(n), key=lambda k: -float(scores[k])):
            if all(labels[k] != labels[j] or iou(boxes[k].tolist(), boxes[j].tolist()) <= 0.5 for j in kept):
                kept.append(k)
        assert F.nms(boxes, scores, labels, threshold=0.5).tolist() == kept
    with pytest.raises(ValueError, match=r"boxes: expected \[N, 4\]"):
        F.nms(torch.zeros(3, 5), torch.zeros(3))
    with pytest.raises(ValueError, match=r"scores: expected \[3\], one per box"):
        F.nms(torch.zeros(3, 4), torch.zeros(4))
    with pytest.raises(ValueError, match="scores: expected numbers, got NaN"):
        F.nms(torch.zeros(2, 4), torch.tensor([0.5, float("nan")]))
    with pytest.raises(ValueError, match="threshold: expected a number from 0 to 1, got 60"):
        F.nms(torch.zeros(2, 4), torch.zeros(2), threshold=60)


def test_generalized_iou_has_gradients() -> None:
    x = torch.rand(5, 4, dtype=torch.float64)
    x[:, 2:] += x[:, :2] + 0.2
    assert torch.autograd.gradcheck(F.generalized_box_iou, (x.requires_grad_(), x.detach().flip(0)))


def test_a_picture_of_the_wrong_class_alone_has_no_right_boundary() -> None:
    assert boundary_f(np.ones((32, 32), int), np.zeros((32, 32), int)) == 0.0
    assert boundary_f(np.ones((32, 32), int), np.ones((32, 32), int)) == 100.0


@pytest.mark.parametrize("side", [1e-15, 1e-9, 1e-4, 3e-4, 1.0, 1e6])
def test_overlaps_of_boxes_of_any_size(side: float) -> None:
    """In units of the image or of pixels; without area both overlaps and gradients are 0."""
    x = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]) * side
    y = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 1], [1, 1, 2, 2]]) * side
    torch.testing.assert_close(F.generalized_box_iou(x, y), torch.tensor([1.0, 0.5, -0.5]))
    torch.testing.assert_close(F.box_iou(x, y).diagonal(), torch.tensor([1.0, 0.5, 0.0]))
    flat = torch.tensor([[0.0, 0, 0, 1]], requires_grad=True)
    F.generalized_box_iou(flat, flat.detach()).sum().backward()
    assert flat.grad is not None and not flat.grad.any()
    unknown = x.clone()
    unknown[1, 2] = float("nan")
    assert F.generalized_box_iou(unknown, y).isnan().tolist() == [False, True, False]
    assert F.box_iou(unknown, y)[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overlaps_at_the_limits_of_the_dtype(dtype: torch.dtype) -> None:
    """Areas of these boxes, and sides of some, have no value of the dtype."""
    most, least = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    sides = [least, 2 * least, 1.0, most**0.5, most / 4, most]
    boxes = torch.tensor(
        [[-a * s, -b * t, a, b] for a in sides for b in sides for s in (0, 1) for t in (0, 1)], dtype=dtype
    )
    overlaps = F.box_iou(boxes, boxes)
    assert bool(((overlaps >= 0) & (overlaps <= 1)).all())
    assert bool((overlaps.diagonal() == 1).all())
    half = boxes.clone()
    half[:, 2] /= 2
    whole = boxes[:, 0] == 0
    torch.testing.assert_close(
        F.box_iou(boxes, half).diagonal()[whole], torch.full((int(whole.sum()),), 0.5, dtype=dtype)
    )
    for shift in range(len(boxes)):
        generalized = F.generalized_box_iou(boxes, boxes.roll(shift, 0))
        assert bool(((generalized >= -1) & (generalized <= 1)).all())
