"""Image sets: a ``Dataset`` of uint8 images, read one by one or as whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Images(Dataset[tuple[Tensor, int]]):
    """Images in memory.

    Every item has one or more drawings of the same thing: methods take their views from different drawings.

    Args:
        images: uint8 [N, drawings, H, W, 3].
        labels: integers [N].
        classes: the names of the classes.
        name: what logs and checkpoints call it.
        names: one per item, where items have names.

    Item i is ``(uint8 tensor [drawings, H, W, 3], label)``; ``batch(indices)`` gives [B, drawings, H, W, 3].
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        classes: Sequence[str],
        name: str,
        names: Sequence[str] | None = None,
    ) -> None:
        if images.dtype != np.uint8 or images.ndim != 5 or images.shape[-1] != 3:
            raise ValueError(f"images: expected uint8 [N, drawings, H, W, 3], got {images.dtype} {images.shape}")
        if labels.shape != (len(images),):
            raise ValueError(f"labels: expected shape ({len(images)},), got {labels.shape}")
        self.images = images
        self.labels = labels.astype(np.int64)
        self.classes = list(classes)
        self.name = name
        self.names = list(names) if names is not None else [str(i) for i in range(len(images))]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.images[index]), int(self.labels[index])

    def batch(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(self.images[indices])

    def subset(self, indices: np.ndarray, name: str | None = None) -> Images:
        """The items at ``indices``."""
        names = [self.names[i] for i in indices]
        return Images(self.images[indices], self.labels[indices], self.classes, name or self.name, names)

    def drawing(self, k: int) -> np.ndarray:
        """Drawing k of every item: uint8 [N, H, W, 3]."""
        return self.images[:, k]
