"""Scenes of embedded emoji on textures, with exact boxes and masks."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastssl._options import integer
from fastssl.augment import uniform
from fastssl.data.embedded import emoji, emoji_masks, held_out_rows
from fastssl.data.objects import Objects, objects_of
from fastssl.data.source import Item, Reduction, Source, check_index, digest

SPLITS = ("train", "test")
SIDES = (0.19, 0.5)  # of an object, as fractions of the scene's
TURN = 0.13  # tangent of half of the largest angle: 15 degrees
DIFFICULT = 0.3  # visible share of an object below which it is not scored
OCTAVES = (3, 5, 9, 17, 33)  # points of the lattices of noise
KEPT = 4096  # scenes in memory
_PER_OBJECT = 8  # draws
_LAYOUT, _TEXTURE = 0, 1  # streams of draws


class Scenes(Source):
    """Scenes of emoji; see :func:`scenes`. They are drawn when they are read, each from its own numbers.

    Args:
        count: number of scenes.
        split: "train" or "test".
        size: pixels of a side.
        objects: smallest and largest number of objects.
        kinds: every emoji is a class, instead of the nine categories.
        seed: seed of all draws.

    Example:
        >>> from fastssl.data import Scenes
        >>> Scenes(4, size=64).read(3).objects.segmentation.shape
        (64, 64)
    """

    def __init__(
        self,
        count: int,
        split: str = "train",
        size: int = 128,
        objects: tuple[int, int] = (1, 6),
        kinds: bool = False,
        seed: int = 0,
    ) -> None:
        self.options = (count, split, size, tuple(objects), kinds, seed)
        self.count, self.split, self.size, self.seed = count, split, size, seed
        self.least, self.most, self.kinds = *objects, kinds
        self.name, self.embedded = "scenes", "scenes"
        whole = emoji()
        train, held_out = held_out_rows(len(whole))
        # Single kinds are drawn by the other vendor in the test split: a kind that was held out could not be learned.
        self.rows = train if split == "train" or kinds else held_out
        assert whole.labels is not None
        self.classes = [whole.names[k] for k in train] if kinds else list(whole.classes)
        self.of_row = np.arange(len(train)) if kinds else whole.labels[self.rows]
        self._made: dict[int, Item] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Scenes, self.options

    def __len__(self) -> int:
        return self.count

    def name_of(self, index: int) -> str:
        return f"scene {index}"

    @property
    def fingerprint(self) -> str:
        return digest("scenes", repr(self.options))

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        check_index(index, len(self))
        if index not in self._made:
            image, objects = self._draw(index)
            for values in (image, *objects):  # kept for all later reads
                if isinstance(values, np.ndarray):
                    values.flags.writeable = False
            item = Item((image,), name=self.name_of(index), objects=objects)
            if len(self._made) >= KEPT:
                return item
            self._made[index] = item
        return self._made[index]

    def _draw(self, index: int) -> tuple[np.ndarray, Objects]:
        """Emoji from back to front, on a texture: additions, products and comparisons alone, whose bits are the same on
        every machine."""
        stream, drawings, masks = SPLITS.index(self.split), emoji().images, emoji_masks()
        drawn = uniform(self.seed, stream, [index], view=_LAYOUT, count=1 + _PER_OBJECT * self.most)[0]
        scene = texture(self.size, self.seed, stream, index)
        owner = np.full((self.size, self.size), -1)
        number = self.least + int(drawn[0] * (self.most - self.least + 1))
        labels, whole = [], []
        for k, u in enumerate(drawn[1:].reshape(self.most, _PER_OBJECT)[:number]):
            chosen = int(u[0] * len(self.rows))
            row, side = self.rows[chosen], self.size * (SIDES[0] + u[1] * (SIDES[1] - SIDES[0]))
            window, color, coverage = _placed(
                drawings[row, stream],
                masks[row, stream],
                side,
                center=(self.size * (0.05 + 0.9 * u[2]), self.size * (0.05 + 0.9 * u[3])),
                turn=TURN * (2 * u[4] - 1),
                flip=u[5] < 0.5,
                size=self.size,
            )
            color *= 0.7 + 0.5 * u[6]  # light
            part = scene[window]
            part += coverage[..., None] * (np.minimum(color, 255) - part)
            owner[window][coverage >= 0.5] = k
            labels.append(int(self.of_row[chosen]))
            whole.append(int((coverage >= 0.5).sum()))
        image = np.rint(np.clip(scene, 0, 255)).astype(np.uint8)
        return image, _objects(owner, np.array(labels), np.array(whole), len(self.classes))


def _objects(owner: np.ndarray, labels: np.ndarray, whole: np.ndarray, classes: int) -> Objects:
    """Boxes around what is seen of each object."""
    boxes, seen, areas = [], [], []
    for k in range(len(labels)):
        inside = owner == k
        ys, xs = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
        if len(ys):
            boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
            seen.append(k)
            areas.append(int(inside.sum()))
    dtype = np.uint8 if classes < 255 else np.int32
    table = np.concatenate([[0], labels + 1]).astype(dtype)
    found = np.array(seen, dtype=np.int64)
    difficult = np.array(areas) < DIFFICULT * whole[found] if seen else None
    return objects_of(
        (owner.shape[0], owner.shape[1]),
        boxes,
        labels[found],
        difficult=difficult,
        areas=areas,
        segmentation=table[owner + 1],
    )


def _placed(
    drawing: np.ndarray,
    mask: np.ndarray,
    side: float,
    center: tuple[float, float],
    turn: float,
    flip: bool,
    size: int,
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The window of a scene that a drawing lies in, its colours there and what it covers of each pixel."""
    weight = mask.astype(np.float64)
    color = drawing * weight[..., None]  # without the grey that the drawing was composited on
    while side < 0.75 * len(weight):  # halved, so that no pixel falls between the samples
        weight, color = _halved(weight), _halved(color)
    # cos and sin of the angle as rational functions of the tangent of its half.
    cos, sin = (1 - turn * turn) / (1 + turn * turn), 2 * turn / (1 + turn * turn)
    reach = 0.5 * side * (cos + abs(sin)) + 1
    y0, y1, x0, x1 = (
        min(max(int(edge), 0), size)
        for edge in (center[0] - reach, center[0] + reach + 1, center[1] - reach, center[1] + reach + 1)
    )
    dy = np.arange(y0, y1)[:, None] + 0.5 - center[0]
    dx = np.arange(x0, x1)[None] + 0.5 - center[1]
    scale = len(weight) / side
    y = (cos * dy - sin * dx) * scale + (0.5 * len(weight) - 0.5)
    x = (sin * dy + cos * dx) * (-scale if flip else scale) + (0.5 * len(weight) - 0.5)
    weight, color = np.pad(weight, 1), np.pad(color, ((1, 1), (1, 1), (0, 0)))
    y, x = (np.clip(at + 1, 0, len(weight) - 1.001) for at in (y, x))
    top, left = y.astype(np.int64), x.astype(np.int64)
    fy, fx = y - top, x - left
    parts = ((0, 0, (1 - fy) * (1 - fx)), (0, 1, (1 - fy) * fx), (1, 0, fy * (1 - fx)), (1, 1, fy * fx))
    coverage, mixed = np.zeros(y.shape), np.zeros((*y.shape, 3))
    for i, j, share in parts:
        coverage += share * weight[top + i, left + j]
        mixed += share[..., None] * color[top + i, left + j]
    mixed /= np.maximum(coverage, 1e-6)[..., None]
    return (slice(y0, y1), slice(x0, x1)), mixed, coverage


def _halved(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 0.25 * (values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2])
    return result


@functools.cache
def _lattice(points: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Left neighbours of a side's pixels among ``points``, and smooth weights of the right ones."""
    place = (np.arange(size) + 0.5) * ((points - 1) / size)
    left = np.minimum(place.astype(np.int64), points - 2)
    share = place - left
    return left, (share * share * (3 - 2 * share)).astype(np.float32)


def _noise(values: np.ndarray, size: int) -> np.ndarray:
    """A lattice [n, n, C] interpolated to [size, size, C]."""
    left, share = _lattice(len(values), size)
    rows = values[left] + share[:, None, None] * (values[left + 1] - values[left])
    made: np.ndarray = rows[:, left] + share[None, :, None] * (rows[:, left + 1] - rows[:, left])
    return made


def texture(size: int, seed: int, stream: int, index: int) -> np.ndarray:
    """A background float32 [size, size, 3]: two regions of noise in several octaves, whose border is noise too."""
    points = sum(n * n for n in OCTAVES)
    numbers = uniform(seed, stream, [index], view=_TEXTURE, count=4 * 2 * points + 9 + 25 + 12)[0].astype(np.float32)
    numbers, at = 2 * numbers - 1, 12
    general = numbers[:at]
    border = _noise(numbers[at : at + 9].reshape(3, 3, 1), size)
    border += 0.3 * _noise(numbers[at + 9 : at + 34].reshape(5, 5, 1), size)
    at += 34
    regions = []
    for k in range(2):
        base, rough, contrast = general[5 * k : 5 * k + 3], general[5 * k + 3], general[5 * k + 4]
        made = np.zeros((size, size, 4), np.float32)
        amplitude = np.float32(1)
        for n in OCTAVES:
            made += amplitude * _noise(numbers[at : at + 4 * n * n].reshape(n, n, 4), size)
            amplitude *= np.float32(0.7) + np.float32(0.25) * rough
            at += 4 * n * n
        light = made[..., :1] + np.float32(0.4) * made[..., 1:]
        regions.append(127 + 100 * base + (np.float32(35) + 20 * contrast) * light)
    share = np.clip(0.5 + 6 * border, 0, 1)
    result: np.ndarray = regions[0] + share * (regions[1] - regions[0])
    return result


def scenes(
    count: int | None = None,
    split: str = "train",
    *,
    size: int = 128,
    objects: tuple[int, int] = (1, 6),
    kinds: bool = False,
    seed: int = 0,
) -> Scenes:
    """Scenes of embedded emoji on textures, with exact boxes and masks, for detection and segmentation.

    Emoji of random size, angle and light lie one over the other, partly hidden or cut by the border. The boxes are
    those of what is seen; objects of which less than 30 % is seen are difficult. The training split has the training
    emoji as Google draws them, the test split the held-out ones as Twitter draws them. The same numbers give the same
    bits on every machine.

    Args:
        count: number of scenes; None: 1,000 of "train", 400 of "test".
        split: "train" or "test".
        size: pixels of a side.
        objects: smallest and largest number of objects of a scene.
        kinds: every one of the 1,497 training emoji is a class, drawn by the other vendor in the test split; otherwise
            the nine categories are.
        seed: seed of all draws.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> from fastssl.data import scenes
        >>> item = scenes(10).read(0)
        >>> item.images[0].shape, item.objects.segmentation.shape, 1 <= len(item.objects.boxes) <= 6
        ((128, 128, 3), (128, 128), True)
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    count = (1000 if split == "train" else 400) if count is None else count
    for name, value, least in (("count", count, 1), ("size", size, 32), ("seed", seed, 0)):
        integer(name, value, least)
    if len(objects) != 2 or not 1 <= objects[0] <= objects[1] <= 100:
        raise ValueError(f"objects: expected 1 <= smallest <= largest <= 100, got {objects!r}")
    return Scenes(int(count), split, int(size), (int(objects[0]), int(objects[1])), bool(kinds), int(seed))
