"""Data sets of Hugging Face, decoded when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data.folder import FolderImages


class HubImages(FolderImages):
    """A table with a column of images and one of labels."""

    def __init__(self, table: Any, image: str, label: str, classes: list[str], name: str, size: int) -> None:
        super().__init__([], np.asarray(table[label]), classes, name, size)
        self.table, self.image, self.label = table, image, label
        self.names = [str(i) for i in range(len(table))]

    def __len__(self) -> int:
        return len(self.table)

    def _read(self, index: int) -> Any:
        return self.table[int(index)][self.image].convert("RGB")

    def subset(self, indices: np.ndarray, name: str | None = None) -> HubImages:
        table = self.table.select([int(i) for i in indices])
        return HubImages(table, self.image, self.label, self.classes, name or self.name, self.size)


def hub(path: str, size: int) -> tuple[HubImages, HubImages]:
    """Training and test part of a data set that ``datasets`` saved on disk, or knows by name.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[datasets]``.
        ValueError: no train part, no test or validation part, or no columns of images and class labels.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("data sets of Hugging Face need the extra: pip install fastssl[datasets]") from error
    parts = datasets.load_from_disk(path) if Path(path).is_dir() else datasets.load_dataset(path)
    test = next((name for name in ("test", "validation", "valid") if name in parts), None)
    if "train" not in parts or test is None:
        raise ValueError(f"name: expected parts train and test (or validation) in {path!r}, got {sorted(parts)}")
    features = parts["train"].features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        raise ValueError(f"name: expected a column of images and one of class labels in {path!r}, got {features}")
    image, label = images[0], next((n for n in ("label", "fine_label") if n in labels), labels[0])
    classes = list(features[label].names)
    train, tested = (HubImages(parts[p], image, label, classes, Path(path).name, size) for p in ("train", test))
    return train, tested
