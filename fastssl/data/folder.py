"""Any folder of images: sub-folders are classes, files are decoded when they are needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastssl.data.images import Images

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


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

    def _decode(self, index: int) -> np.ndarray:
        from PIL import Image, ImageOps

        try:
            with Image.open(self.paths[index]) as file:
                rgb = file.convert("RGB")
        except OSError as error:
            raise ValueError(f"{self.paths[index]}: cannot be read as an image ({error})") from error
        return np.asarray(ImageOps.fit(rgb, (self.size, self.size), Image.Resampling.BICUBIC))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self._decode(index)[None].copy()), int(self.labels[index])

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
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"path: expected a folder, got {str(path)!r}")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"path: expected images ({', '.join(sorted(SUFFIXES))}) in {str(path)!r}, found none")
    owners = [p.relative_to(root).parts[0] if p.parent != root else "." for p in paths]
    classes = sorted(set(owners))
    labels = np.array([classes.index(owner) for owner in owners])
    return FolderImages(paths, labels, classes, root.name, size)
