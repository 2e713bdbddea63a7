"""Images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fastssl.augment.images import CHANNELS
from fastssl.data.bands import ImageError
from fastssl.data.decode import as_pixels
from fastssl.data.source import Item, Reduction, Source, check_index, checked_labels, digest, empty_texts
from fastssl.data.storage import state_of
from fastssl.data.value_range import ValueRange, checked_range

_FINGERPRINTED = 1024  # images whose pixels are hashed


def _pixels(images: Any, name: str, value_range: ValueRange | None) -> np.ndarray:
    """:func:`as_pixels` of images of which none can be left out, because all are converted at once."""
    try:
        return as_pixels(images, name, value_range)
    except ImageError as error:
        raise ValueError(str(error)) from error


class ArraySource(Source):
    """Images in memory: an array of images of one size, or a list of images of any size.

    Args:
        images: uint8 array or tensor [N, H, W, C], [N, C, H, W] or [N, H, W] (grey); [N, K, H, W, C] for K images of
            the same object per item, from which methods take different views; or a list of arrays, tensors or Pillow
            images. Floats in [0, 1], uint16, and other integers from 0 to 255 are converted to uint8 as those of files
            are (:func:`fastssl.data.read_image`). Where height or width could be channels (1, 3 or 4 pixels), tensors
            are [N, C, H, W] and arrays [N, H, W, C].
        labels: integers [N], -1 for unknown classes; None: no labels.
        classes: names of the classes.
        name: name of the data set in logs and checkpoints.
        names: names of the items.
        texts: texts of the items.
        value_range: as of :func:`fastssl.data.read_image`, of all images.

    Raises:
        TypeError: not an image.
        ValueError: no images, other shapes, without a range floats outside of [0, 1] or integers outside of that of
            their dtype, or a wrong number of labels, names or texts.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> source = ArraySource(np.zeros((5, 8, 6, 3), np.uint8), labels=[0, 1, 0, 1, 1])
        >>> source.read(2).images[0].shape, source.read(2).label
        ((8, 6, 3), 0)
    """

    def __init__(
        self,
        images: Any,
        labels: Any = None,
        classes: Sequence[str] = (),
        name: str = "images",
        names: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
        *,
        value_range: ValueRange | None = None,
    ) -> None:
        self.value_range = checked_range(value_range)
        if isinstance(images, (np.ndarray, Tensor)):
            if images.ndim == 3 and images.shape[-1] not in CHANNELS:  # else it could be one image
                images = images[:, None] if isinstance(images, Tensor) else images[..., None]
            if images.ndim not in (4, 5):
                raise ValueError(
                    "images: expected [N, H, W, C], [N, C, H, W], [N, H, W] or [N, K, H, W, C], got shape "
                    f"{tuple(images.shape)}"
                )
            pixels = _pixels(images, "images", self.value_range)
            self.images: Any = pixels if pixels.ndim == 5 else pixels[:, None]
        else:
            self.images = [_pixels(image, f"images[{k}]", self.value_range) for k, image in enumerate(images)]
        count = len(self.images)
        if not count:
            raise ValueError("images: expected at least one image, got none")
        for key, given in (("names", names), ("texts", texts)):
            if given is not None and len(given) != count:
                raise ValueError(f"{key}: expected {count}, one per item, got {len(given)}")
        self.labels = None if labels is None else checked_labels(labels, count)
        self.classes, self.name = list(classes), name
        self.names = list(names) if names is not None else [str(i) for i in range(count)]
        self.texts = None if texts is None else list(texts)

    reduced: np.ndarray | None = None  # [N, K, H / 2, W / 2, C], what the images were enlarged from

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        images = self.images[check_index(index, len(self))]
        if self.reduced is not None and reduce is not None and reduce(images.shape[-3:-1]) > 1:
            images = self.reduced[index]
        return Item(
            images=tuple(images) if images.ndim == 4 else (images,),
            label=self.label_of(index),
            text=None if self.texts is None else self.texts[index],
            name=self.names[index],
        )

    def name_of(self, index: int) -> str:
        return self.names[index]

    def text_of(self, index: int) -> str | None:
        return None if self.texts is None else self.texts[index]

    @property
    def without_text(self) -> np.ndarray | None:
        return empty_texts(self.texts, len(self))

    @property
    def fingerprint(self) -> str:
        some = np.unique(np.linspace(0, len(self) - 1, min(len(self), _FINGERPRINTED)).round().astype(int))
        labels = [] if self.labels is None else [self.labels]
        texts = [] if self.texts is None else self.texts
        return digest(str(len(self)), *self.classes, *labels, *texts, *(self.images[k] for k in some))

    @property
    def content_key(self) -> str:
        file = getattr(self.images, "filename", None)  # memory-mapped: not read for it
        if file is not None:
            return digest(self.fingerprint, str(file), state_of(str(file)))
        return digest(self.fingerprint, *(digest(image) for image in self.images))

    def subset(self, ids: Any, name: str | None = None) -> ArraySource:
        ids = np.asarray(ids, dtype=np.int64)
        part = ArraySource.__new__(ArraySource)
        part.images = self.images[ids] if isinstance(self.images, np.ndarray) else [self.images[i] for i in ids]
        part.reduced = None if self.reduced is None else self.reduced[ids]
        part.labels = None if self.labels is None else self.labels[ids]
        part.classes, part.name, part.embedded = self.classes, name or self.name, self.embedded
        part.value_range = self.value_range
        part.names = [self.names[i] for i in ids]
        part.texts = None if self.texts is None else [self.texts[i] for i in ids]
        return part

    def nth_image(self, k: int) -> ArraySource:
        """The source of image ``k`` of every item."""
        part = self.subset(np.arange(len(self)))
        part.images = self.images[:, k : k + 1]
        return part
