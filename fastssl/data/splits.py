"""Data sets with a training part, a test part, and the metric by which the field compares results on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastssl.data import benchmarks
from fastssl.data.embedded import digits, emoji
from fastssl.data.folder import folder
from fastssl.data.hub import hub
from fastssl.data.images import Images


@dataclass
class Splits:
    """A task: ``train`` and ``test`` have the same classes; ``metric`` is a name of ``fastssl.evaluate.METRICS``."""

    name: str
    train: Images
    test: Images
    metric: str = "top-1"


def divide(images: Images, share: float = 0.8, seed: int = 0) -> Splits:
    """Divides a data set that has no test part, at random."""
    order = np.random.default_rng([11, seed]).permutation(len(images))
    cut = int(share * len(order))
    name = images.name
    return Splits(name, images.subset(np.sort(order[:cut]), name), images.subset(np.sort(order[cut:]), name))


def load_splits(name: str, size: int = 64) -> Splits:
    """Returns a task by name.

    Args:
        name: one of

            - "emoji", "digits": embedded, divided 80 to 20;
            - "NAME:FOLDER" with NAME of :data:`fastssl.data.benchmarks.READERS`, as "cifar-10:/data/cifar": a data set
              of the field as it is unpacked from its authors' archive;
            - a folder with ``train`` and ``test`` (or ``val``) in it, whose sub-folders are classes;
            - any other folder of images by class, divided 80 to 20;
            - "hf:PATH": a data set of Hugging Face, saved on disk or by name (extra: datasets).
        size: of the images, pixels; data sets of small images keep theirs.

    Raises:
        ValueError: no such data set, or a folder without what its structure promises.
        ImportError: the extra is missing.
    """
    if name in ("emoji", "digits"):
        return divide(emoji() if name == "emoji" else digits())
    if name.startswith("hf:"):
        return Splits(name, *hub(name.removeprefix("hf:"), size))
    kind, _, root = name.partition(":")
    if root and kind in benchmarks.READERS:
        reader: Callable[[Path, int], tuple[Images, Images]] = benchmarks.READERS[kind]
        if not Path(root).is_dir():
            raise ValueError(f"name: expected a folder after {kind}:, got {root!r}")
        train, test = reader(Path(root), size)
        return Splits(kind, train, test, benchmarks.METRICS.get(kind, "top-1"))
    path = Path(name)
    if not path.is_dir():
        known = ", ".join(benchmarks.READERS)
        raise ValueError(
            f"name: expected emoji, digits, a folder, hf:PATH or one of {known} with :FOLDER, got {name!r}"
        )
    test_folder = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
    if not (path / "train").is_dir() or test_folder is None:
        return divide(folder(path, size))
    train, test = folder(path / "train", size), folder(test_folder, size)
    if train.classes != test.classes:
        raise ValueError(f"name: expected the same classes in train and {test_folder.name} of {name!r}")
    return Splits(path.name, train, test)
