"""Any folder of images: sub-folders are classes, files are decoded when they are needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import Augment, CenterCrop
from fastssl.data.decode import image_files, read_image
from fastssl.data.images import Images


class FolderImages(Images):
    """Images on disk, decoded by a pool of threads (Pillow leaves Python's lock while it decodes)."""

    def __init__(self, paths: list[Path], labels: np.ndarray, classes: list[str], name: str, size: int) -> None:
        self.paths = paths
        self.size = size
        self.labels = labels.astype(np.int64)
        self.classes = classes
        self.name = name
        self.names = [str(p) for p in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def _read(self, index: int) -> Any:
        return read_image(self.paths[index])

    def _decode(self, index: int) -> np.ndarray:
        view = Augment([CenterCrop(self.size, resize=self.size, interpolation="bicubic")])(self._read(index), seed=0)
        array: np.ndarray = (view.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
        return array

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self._decode(index)[None]), int(self.labels[index])

    def batch(self, indices: np.ndarray) -> Tensor:
        with ThreadPoolExecutor(max_workers=max(2, torch.get_num_threads())) as pool:
            return torch.from_numpy(np.stack(list(pool.map(self._decode, indices)))[:, None])

    def subset(self, indices: np.ndarray, name: str | None = None) -> FolderImages:
        paths = [self.paths[i] for i in indices]
        return FolderImages(paths, self.labels[indices], self.classes, name or self.name, self.size)

    @property
    def images(self) -> np.ndarray:  # type: ignore[override]
        return self.batch(np.arange(len(self))).numpy()


def folder(path: str | Path, size: int = 64) -> FolderImages:
    """Returns the images below ``path``, scaled and centre-cropped to ``size`` x ``size``.

    Args:
        path: a folder; where it has sub-folders with images, these are the classes, else there is one class.
        size: pixels.

    Raises:
        ValueError: no folder, or no images in it.
    """
    paths, labels, classes = image_files(path)
    return FolderImages(paths, labels, classes, Path(path).name, size)
