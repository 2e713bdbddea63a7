"""Average precision of detections, as Pascal VOC and as COCO define it, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastssl.data.objects import Detections, Objects

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of COCO, of the intersection over union
RECALLS = np.linspace(0, 1, 101)
AREAS = {"": (0.0, 1e10), " small": (0.0, 32.0**2), " medium": (32.0**2, 96.0**2), " large": (96.0**2, 1e10)}


class _Flat(NamedTuple):
    """Boxes of a test set, by image and class."""

    image: np.ndarray
    label: np.ndarray
    box: np.ndarray

    def groups(self, classes: int) -> np.ndarray:
        keys: np.ndarray = self.image * classes + self.label
        return keys


def _flat(parts: Sequence[Detections] | Sequence[Objects], classes: int, name: str) -> _Flat:
    counts = [len(part.labels) for part in parts]
    labels = np.concatenate([np.zeros(0, np.int64), *(np.asarray(part.labels, np.int64) for part in parts)])
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{name}: expected classes 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    boxes = [np.asarray(part.boxes, np.float64).reshape(-1, 4) for part in parts]
    if [len(box) for box in boxes] != counts:
        raise ValueError(f"{name}: expected as many boxes as labels in every image")
    return _Flat(np.repeat(np.arange(len(parts)), counts), labels, np.concatenate([np.zeros((0, 4)), *boxes]))


def _scores(detections: Sequence[Detections]) -> np.ndarray:
    for k, d in enumerate(detections):
        if np.shape(d.scores) != (len(d.boxes),):
            raise ValueError(
                f"detections[{k}]: expected {len(d.boxes)} scores, one per box, got shape {np.shape(d.scores)}"
            )
    made: np.ndarray = np.concatenate([np.zeros(0), *(np.asarray(d.scores, np.float64) for d in detections)])
    if not np.isfinite(made).all():
        raise ValueError("detections: expected finite scores")
    return made


def _tables(
    detections: Sequence[Detections], objects: Sequence[Objects], classes: int
) -> tuple[_Flat, _Flat, np.ndarray]:
    """Boxes of the detections and of the objects, and the scores of the former."""
    return _flat(detections, classes, "detections"), _flat(objects, classes, "objects"), _scores(detections)


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2]
    result: np.ndarray = sides[:, 0] * sides[:, 1]
    return result


def _pairs(of: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with of[i] == among[j]; ``j`` rises for every i."""
    order = np.argsort(among, kind="stable")
    sorted_keys = among[order]
    first, last = (np.searchsorted(sorted_keys, of, side) for side in ("left", "right"))
    counts = last - first
    i = np.repeat(np.arange(len(of)), counts)
    within = np.arange(len(i)) - np.repeat(counts.cumsum() - counts, counts)
    return i, order[np.repeat(first, counts) + within]


def _overlaps(x: np.ndarray, y: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union of rows of boxes; over the area of x where y is a crowd."""
    sides = np.minimum(x[:, 2:], y[:, 2:]) - np.maximum(x[:, :2], y[:, :2])
    inside = np.maximum(sides[:, 0], 0) * np.maximum(sides[:, 1], 0)
    own = _areas(x)
    union = own + _areas(y) - inside
    if crowd is not None:
        union = np.where(crowd, own, union)
    result: np.ndarray = inside / np.maximum(union, 1e-300)
    return result


def _check(detections: Sequence[Detections], objects: Sequence[Objects]) -> None:
    if len(detections) != len(objects):
        raise ValueError(f"detections: expected those of {len(objects)} images, got {len(detections)}")
    if not len(objects):
        raise ValueError("objects: expected at least one image")


def voc_matches(
    detections: Sequence[Detections], objects: Sequence[Objects], classes: int, threshold: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which detections are right as Pascal VOC defines it: see :func:`voc_ap`.

    Returns:
        Of the detections of all images one after the other: bool [D], right ones; bool [D], those of objects that are
        difficult or crowds; int64 [D], the object that is overlapped most, -1 if it is by less than ``threshold``.
    """
    found, wanted, scores = _tables(detections, objects, classes)
    difficult = np.concatenate([np.zeros(0, bool), *(o.difficult | o.crowd for o in objects)])
    i, j = _pairs(found.groups(classes), wanted.groups(classes))
    overlap = _overlaps(found.box[i], wanted.box[j])
    # The object that is overlapped most, the first of equals.
    best = np.full(len(scores), -1)
    ranked = np.lexsort((j, -overlap, i))
    top = ranked[np.flatnonzero(np.diff(i[ranked], prepend=-1))]
    near = top[overlap[top] >= threshold]
    best[i[near]] = j[near]
    ignored = np.zeros(len(scores), bool)
    ignored[best >= 0] = difficult[best[best >= 0]]
    right = np.zeros(len(scores), bool)
    order = np.argsort(-scores, kind="stable")
    rows = order[((best >= 0) & ~ignored)[order]]
    right[rows[np.unique(best[rows], return_index=True)[1]]] = True
    return right, ignored, best


def voc_ap(
    detections: Sequence[Detections],
    objects: Sequence[Objects],
    classes: int,
    *,
    threshold: float = 0.5,
    points: int | None = 11,
) -> np.ndarray:
    """Average precision of every class, as Pascal VOC defines it.

    A detection is right if the object of its class that it overlaps most is not yet detected, with an intersection over
    union of at least ``threshold``; it is not counted if that object is difficult or a crowd.

    Args:
        detections: one per image.
        objects: one per image.
        classes: number of classes.
        threshold: of the intersection over union.
        points: 11: mean of the precisions at recalls 0, 0.1, ..., 1 (VOC 2007); None: area under the curve (from 2010
            on).

    Returns:
        float64 [classes]; NaN for classes without objects. Its mean is the mAP (:func:`numpy.nanmean`).

    Raises:
        ValueError: lists of different lengths or no images, or classes out of range.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import Detections
        >>> from fastssl.data.objects import objects_of
        >>> from fastssl.evaluate import voc_ap
        >>> truth = [objects_of((60, 80), [[10, 10, 30, 30]], [0])]
        >>> voc_ap([Detections(np.array([[10, 10, 30, 28]]), np.array([0.9]), np.array([0]))], truth, 1)
        array([100.])

    Source: Everingham et al., The Pascal Visual Object Classes Challenge, 2010.
    """
    _check(detections, objects)
    if points not in (11, None):
        raise ValueError(f"points: expected 11 or None, got {points!r}")
    right, ignored, _ = voc_matches(detections, objects, classes, threshold)
    labels, scores = _flat(detections, classes, "detections").label, _scores(detections)
    order = np.argsort(-scores, kind="stable")
    right, ignored, labels = right[order], ignored[order], labels[order]
    wanted = np.concatenate([np.zeros(0, np.int64), *(o.labels[~(o.difficult | o.crowd)] for o in objects)])
    result = np.full(classes, np.nan)
    for c in range(classes):
        total = int((wanted == c).sum())
        if not total:
            continue
        counted = (labels == c) & ~ignored
        hits = right[counted].cumsum()
        precision = hits / np.arange(1, len(hits) + 1)
        if points is not None:  # in integers, 3 of 10 is exactly 0.3
            reached = [precision[10 * hits >= k * total] for k in range(11)]
            result[c] = 100 * sum(p.max() if len(p) else 0.0 for p in reached) / 11
            continue
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        result[c] = 100 * float((np.diff(hits, prepend=0) / total * envelope).sum())
    return result


class _Matches(NamedTuple):
    """Of sorted detections: right ones, and those that are not counted, [areas, thresholds, D]; and the number of
    objects that are counted, [areas, classes]."""

    label: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    totals: np.ndarray


def _match(
    detections: Sequence[Detections], objects: Sequence[Objects], classes: int, most: int, areas: np.ndarray
) -> _Matches:
    """Matches detections to objects, from the highest score down; all areas and thresholds at once."""
    found, wanted, scores = _tables(detections, objects, classes)
    crowd, difficult = (
        np.concatenate([np.zeros(0, bool), *(getattr(o, name) for o in objects)]) for name in ("crowd", "difficult")
    )
    size = np.concatenate([np.zeros(0), *(o.areas for o in objects)])
    outside = (size < areas[:, :1]) | (size > areas[:, 1:])
    left_out = outside | crowd | difficult
    totals = np.stack([np.bincount(wanted.label[~row], minlength=classes) for row in left_out])
    # The best detections of every image and class, in their order.
    keys = found.groups(classes)
    order = np.lexsort((np.arange(len(scores)), -scores, keys))
    keys = keys[order]
    start = np.flatnonzero(np.diff(keys, prepend=-1))
    rank = np.arange(len(keys)) - np.repeat(start, np.diff(start, append=len(keys)))
    order = order[rank < most]
    found, scores = _Flat(*(part[order] for part in found)), scores[order]
    # Candidates of every detection, the nearest first, of equals the last.
    i, j = _pairs(found.groups(classes), wanted.groups(classes))
    overlap = _overlaps(found.box[i], wanted.box[j], crowd[j])
    near = overlap >= THRESHOLDS[0]
    i, j, overlap = i[near], j[near], overlap[near]
    ranked = np.lexsort((-j, -overlap, i))
    i, j, overlap = i[ranked], j[ranked], overlap[ranked]
    levels = np.minimum(THRESHOLDS, 1 - 1e-10)
    right = np.zeros((len(areas), len(levels), len(scores)), bool)
    ignored = np.zeros_like(right)
    matched = np.zeros_like(right)
    taken = np.zeros((len(areas), len(levels), len(size)), bool)
    for rows, place in _rounds(i, found.groups(classes)):
        objects_at, overlaps = j[place], overlap[place]  # [rows, candidates], padded by -1
        there = (place >= 0) & (overlaps >= levels[:, None, None])
        free = there & ~taken[:, :, objects_at]
        out = left_out[:, None, objects_at]
        for usable, counts in ((free & ~out, True), ((there & crowd[objects_at] | free) & out, False)):
            if not counts:
                usable &= ~matched[:, :, rows][..., None]
            a, t, row, at = np.nonzero(usable)
            if not len(a):
                continue
            lane = np.ravel_multi_index((a, t, row), usable.shape[:3])
            one = np.flatnonzero(np.diff(lane, prepend=-1))
            a, t, row, at = a[one], t[one], row[one], at[one]
            taken[a, t, objects_at[row, at]] = True
            matched[a, t, rows[row]] = True
            (right if counts else ignored)[a, t, rows[row]] = True
    own = _areas(found.box)
    away = (own < areas[:, :1]) | (own > areas[:, 1:])
    ignored |= ~matched & away[:, None]
    final = np.lexsort((np.arange(len(scores)), found.image, -scores, found.label))
    return _Matches(found.label[final], right[..., final], ignored[..., final], totals)


def _rounds(i: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Detections that compete for no object, with the places of their candidates [rows, most], padded by -1; of an
    image and a class there is one in each round, in their order. ``i``: detections of the candidates, sorted."""
    rows, first, counts = np.unique(i, return_index=True, return_counts=True)
    if not len(rows):
        return []
    group = groups[rows]
    start = np.flatnonzero(np.diff(group, prepend=-1))
    turn = np.arange(len(rows)) - np.repeat(start, np.diff(start, append=len(rows)))
    made = []
    for k in range(int(turn.max()) + 1):
        chosen = np.flatnonzero(turn == k)
        steps = np.arange(counts[chosen].max())
        place = np.where(steps < counts[chosen, None], first[chosen, None] + steps, -1)
        made.append((rows[chosen], place))
    return made


def coco_ap(
    detections: Sequence[Detections], objects: Sequence[Objects], classes: int, *, most: int = 100
) -> dict[str, float]:
    """Average precision as COCO defines it: the mean over classes and thresholds of the intersection over union from
    0.5 to 0.95 of the precision at 101 recalls.

    Detections match the free object that they overlap most; crowds and difficult objects are matched last, and neither
    they nor what matches them are counted.

    Args:
        detections: one per image.
        objects: one per image.
        classes: number of classes.
        most: detections per image and class that are counted.

    Returns:
        "AP", "AP50", "AP75", and by area "AP small" (up to 32 x 32 pixels), "AP medium" and "AP large" (from 96 x 96
        on); NaN where there are no objects.

    Raises:
        ValueError: lists of different lengths or no images, or classes out of range.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import Detections
        >>> from fastssl.data.objects import objects_of
        >>> from fastssl.evaluate import coco_ap
        >>> truth = [objects_of((60, 80), [[10, 10, 30, 30]], [0])]
        >>> found = coco_ap([Detections(np.array([[10, 10, 30, 28]]), np.array([0.9]), np.array([0]))], truth, 1)
        >>> round(found["AP50"], 1), round(found["AP"], 1)
        (100.0, 90.0)

    Source: Lin et al., Microsoft COCO: Common Objects in Context, 2014.
    """
    _check(detections, objects)
    matches = _match(detections, objects, classes, most, np.array(list(AREAS.values())))
    precision = np.full((len(AREAS), len(THRESHOLDS), classes), np.nan)
    edges = np.searchsorted(matches.label, np.arange(classes + 1))
    for c in range(classes):
        part = slice(edges[c], edges[c + 1])
        right, wrong = matches.right[..., part], ~(matches.right[..., part] | matches.ignored[..., part])
        for a in np.flatnonzero(matches.totals[:, c]):
            for t in range(len(THRESHOLDS)):
                precision[a, t, c] = _mean_precision(right[a, t], wrong[a, t], int(matches.totals[a, c]))

    def mean(values: np.ndarray) -> float:
        there = ~np.isnan(values)
        return 100 * float(values[there].mean()) if there.any() else float("nan")

    table = {"AP": mean(precision[0]), "AP50": mean(precision[0, 0]), "AP75": mean(precision[0, 5])}
    return table | {f"AP{name}": mean(precision[a]) for a, name in enumerate(AREAS) if name}


def _mean_precision(right: np.ndarray, wrong: np.ndarray, total: int) -> float:
    """Mean over the recalls of the best precision at that recall or a higher one."""
    places = np.flatnonzero(right)  # precision has its maxima there
    hits = np.arange(1, len(places) + 1)
    precision = hits / (hits + wrong.cumsum()[places] + np.spacing(1))
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    at = np.searchsorted(hits / total, RECALLS, side="left")
    return float(envelope[at].sum() / len(RECALLS))
