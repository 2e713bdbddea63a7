"""Views of the images of items, the examples of image methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl._words import amount
from fastssl.augment import Augment, CenterCrop, Normalize, RandomResizedCrop, Views, uniform
from fastssl.augment.images import PaddedRGB
from fastssl.augment.planned import PlannedViews
from fastssl.data.batch import Batch
from fastssl.data.source import Item

SMALL = 64 << 10  # bytes of an image up to which a copy costs less than a list


def select_images(
    items: Sequence[Item], which: Sequence[int] | np.ndarray | None = None, channels: int | None = None
) -> Any:
    """One image per item: an array [B, H, W, C] if all are small and of the same size, else a list.

    Args:
        items: items with images.
        which: index of the image per item, modulo the number of images; None: the first.
        channels: channels of the views, which must be those of the images unless they are 1 or 3; None: any.

    Raises:
        ValueError: an item without images, or with images of other channels.
    """
    chosen = []
    for k, item in enumerate(items):
        if not item.images:
            raise ValueError(f"items: expected images, {item.name or k} has none")
        image = item.images[0 if which is None else int(which[k]) % len(item.images)]
        found = 3 if isinstance(image, PaddedRGB) else image.shape[-1]
        if channels not in (None, 1, 3, found):
            raise ValueError(
                f"images: expected {amount(channels, 'channel')} in each, {item.name or k} has {found} (alpha of "
                "PNG files is dropped; .npy files, TIFF and arrays have any number of channels); with 3 (channels=, "
                "--channels) grey, RGB and RGBA images can be mixed"
            )
        chosen.append(image)
    if len({image.shape for image in chosen}) > 1 or (chosen and chosen[0].nbytes > SMALL):
        return chosen
    padded = all(isinstance(image, PaddedRGB) for image in chosen)
    return np.stack(chosen).view(PaddedRGB if padded else np.ndarray)


def views_of(augment: Views, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
    """The views of every item, [B, 3, S, S] each; views cycle through an item's images, from a random one on."""
    images = _images_by_view(augment, items, seed, epoch, ids)
    if all(some is images[0] for some in images):  # the same image for every view: it is read once
        made: list[Tensor] = augment(images[0], seed=seed, epoch=epoch, ids=ids)
        return made
    return [augment.view(k, some, seed=seed, epoch=epoch, ids=ids) for k, some in enumerate(images)]


def planned_views_of(
    augment: Views, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray
) -> PlannedViews | list[Tensor]:
    """The same, to be made on a GPU, which takes three channels."""
    if augment.channels != 3:
        return views_of(augment, items, seed, epoch, ids)
    return PlannedViews.of(augment, _images_by_view(augment, items, seed, epoch, ids), seed, epoch, ids)


def _images_by_view(augment: Views, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Any]:
    count = len(augment.programs)
    available = np.array([len(item.images or ()) for item in items])
    if (available <= 1).all():
        return [select_images(items, channels=augment.channels)] * count
    first = (uniform(seed, epoch, ids, view=RESERVED_VIEW)[:, 0] * available).astype(np.int64)
    return [select_images(items, first + k, augment.channels) for k in range(count)]


RESERVED_VIEW = 0xFFFE  # view index whose random stream is not used by augmentations


def labels_of(items: Sequence[Item]) -> Tensor:
    """int64 [B], -1 for unknown classes."""
    return torch.tensor([-1 if item.label is None else item.label for item in items], dtype=torch.int64)


def reduction_of(augment: Views, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
    """The largest factor of 1, 2, 4 and 8 by which an image may be decoded smaller without upsampling in any view."""
    if not all(isinstance(program.operations[0], RandomResizedCrop) for program in augment.programs):
        return 1
    room = min(8.0, *(of / wanted for program in augment.programs for of, wanted in zip(size, program.size)))
    if room < 2:  # whatever is drawn
        return 1
    for program, drawn in zip(augment.programs, augment.sample([size], seed=seed, epoch=epoch, ids=[index])):
        height, width = drawn.values[0, 2:4]
        room = min(room, height / program.size[0], width / program.size[1])
    return max(s for s in (1, 2, 4, 8) if s <= max(room, 1.0))


class AugmentExamples:
    """Examples from an augmentation without a method, for custom training loops."""

    def __init__(self, augment: Views | Augment) -> None:
        self.augment = Views([augment]) if isinstance(augment, Augment) else augment

    def examples(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> Batch:
        """Views of the first image of every item, labels and ids."""
        views = self.augment(select_images(items, channels=self.augment.channels), seed=seed, epoch=epoch, ids=ids)
        return Batch(views, labels_of(items), torch.from_numpy(ids))

    def planned_examples(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> Batch:
        """The same with views that are made later."""
        if self.augment.channels != 3:
            return self.examples(items, seed, epoch, ids)
        images = [select_images(items)] * len(self.augment.programs)
        views: Any = PlannedViews.of(self.augment, images, seed, epoch, ids)
        return Batch(views, labels_of(items), torch.from_numpy(ids))

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        return reduction_of(self.augment, size, seed, epoch, index)


def resize_of(size: int) -> int:
    """The shorter side, in pixels, to which images are resized before the centre crop of ``size`` pixels."""
    return size if size < 96 else round(size * 256 / 224)


class CenterCropExamples:
    """Centre crops of the first image of every item, in [-1, 1], for evaluation.

    Args:
        size: image size of the encoder, in pixels. The shorter side is resized to ``size``, from 96 pixels on to 8/7 of
            it (256 for 224, as usual for ImageNet), and the centre is cropped.
        channels: image channels of the encoder.
    """

    def __init__(self, size: int, channels: int = 3) -> None:
        self.augment = Augment([CenterCrop(size, resize=resize_of(size)), Normalize(0.5, 0.5)], channels=channels)

    def examples(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> Batch:
        images = select_images(items, channels=self.augment.channels)
        return Batch([self.augment(images, seed=0)], labels_of(items), torch.from_numpy(ids))

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        return 1
