"""Views of items' images: what every method of images begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import Augment, CenterCrop, Normalize, RandomResizedCrop, Views, uniform
from fastssl.augment.images import PaddedRGB
from fastssl.data.batch import Batch
from fastssl.data.source import Item


def drawings(items: Sequence[Item], which: Sequence[int] | np.ndarray | None = None) -> Any:
    """One image of each item: an array [B, H, W, C] where all are of one size, else a list.

    Args:
        items: with images.
        which: of an item's drawings, counted on from the first again after the last; None: the first.

    Raises:
        ValueError: an item without images.
    """
    chosen = []
    for k, item in enumerate(items):
        if not item.images:
            raise ValueError(f"items: expected images, {item.name or k} has none")
        chosen.append(item.images[0 if which is None else int(which[k]) % len(item.images)])
    if len({image.shape for image in chosen}) > 1:
        return chosen
    padded = all(isinstance(image, PaddedRGB) for image in chosen)
    return np.stack(chosen).view(PaddedRGB if padded else np.ndarray)


def views_of(augment: Views, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
    """The views of every item, [B, 3, S, S] each; drawings of an item take turns, from one on that is drawn."""
    count = len(augment.programs)
    turns = np.array([len(item.images or ()) for item in items])
    if (turns <= 1).all():  # the same image for every view: it is read once
        images = drawings(items)
        made: list[Tensor] = augment(images, seed=seed, epoch=epoch, ids=ids)
        return made
    first = (uniform(seed, epoch, ids, view=TURNS)[:, 0] * turns).astype(np.int64)
    return [augment.view(k, drawings(items, first + k), seed=seed, epoch=epoch, ids=ids) for k in range(count)]


TURNS = 0xFFFE  # the number of the view whose draws no augmentation uses


def labels_of(items: Sequence[Item]) -> Tensor:
    """int64 [B], -1 where a class is not known."""
    return torch.tensor([-1 if item.label is None else item.label for item in items], dtype=torch.int64)


def reduction_of(augment: Views, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
    """The largest of 1, 2, 4, 8 by which an image may be smaller and no view has to be made larger for it."""
    if not all(isinstance(program.operations[0], RandomResizedCrop) for program in augment.programs):
        return 1
    room = 8.0
    for program, drawn in zip(augment.programs, augment.sample([size], seed=seed, epoch=epoch, ids=[index])):
        height, width = drawn.values[0, 2:4]
        room = min(room, height / program.size[0], width / program.size[1])
    return max(s for s in (1, 2, 4, 8) if s <= max(room, 1.0))


class AugmentExamples:
    """Views without a method: what a loader makes for one's own training loop."""

    def __init__(self, augment: Views | Augment) -> None:
        self.augment = Views([augment]) if isinstance(augment, Augment) else augment

    def examples(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> Batch:
        """The views of the first drawing of every item, its label and its number."""
        views = self.augment(drawings(items), seed=seed, epoch=epoch, ids=ids)
        return Batch(views, labels_of(items), torch.from_numpy(ids))

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        return reduction_of(self.augment, size, seed, epoch, index)


def resize_of(size: int) -> int:
    """The shorter side, in pixels, that an image is brought to before its middle of ``size`` pixels is evaluated."""
    return size if size < 96 else round(size * 256 / 224)


class PlainExamples:
    """The first drawing of every item without augmentation, in [-1, 1]: what encoders are evaluated on.

    Args:
        size: of the encoder's images, pixels. The shorter side is resized to it and the middle taken; from 96 pixels on
            to 8/7 of it (256 for 224), as ImageNet is evaluated.
        channels: of the encoder's images.
    """

    def __init__(self, size: int, channels: int = 3) -> None:
        self.augment = Augment([CenterCrop(size, resize=resize_of(size)), Normalize(0.5, 0.5)], channels=channels)

    def examples(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> Batch:
        return Batch([self.augment(drawings(items), seed=0)], labels_of(items), torch.from_numpy(ids))

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        return 1
