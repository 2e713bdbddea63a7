"""Data sets with a training split, a test split, and their usual metric."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data import benchmarks
from fastssl.data.annotated import ANNOTATED, open_annotated
from fastssl.data.columns import split_options
from fastssl.data.corpus import Corpus
from fastssl.data.datasets import hub
from fastssl.data.embedded import emoji
from fastssl.data.embedded_text import glosses
from fastssl.data.files import each_once
from fastssl.data.glue import glue, glue_task
from fastssl.data.opening import check_range, names_of, open, parts_of, prefixed, without_range, without_unreadable
from fastssl.data.parts import OF_IMAGES, PARTS, find_labelled
from fastssl.data.scenes import scenes
from fastssl.data.signals import spoken_digits
from fastssl.data.source import Source, are_scores
from fastssl.data.storage import is_folder
from fastssl.data.text_parts import number_alike, text_parts
from fastssl.data.value_range import checked_range, trained


@dataclass
class Splits:
    """A downstream task.

    Args:
        name: name of the task.
        train: training split.
        test: test split, with the same classes.
        metric: a name of ``fastssl.evaluate.METRICS``.
        others: names of further metrics that it is reported with.
        whole: what was divided at random; None: the splits are the official ones.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ['a', 'b'])
        >>> from fastssl.data import Splits
        >>> task = Splits('toy', source, source)
    """

    name: str
    train: Source
    test: Source
    metric: str = "top-1"
    others: tuple[str, ...] = ()
    whole: Source | None = None

    @property
    def divided(self) -> bool:
        """Whether the splits are the official ones."""
        return self.whole is None


def divide(source: Source, share: float = 0.8, seed: int = 0) -> Splits:
    """Splits a data set at random.

    Args:
        source: the data set.
        share: fraction of items in the training split.
        seed: seed of the split.

    Raises:
        ValueError: fewer than two items.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ['a', 'b'])
        >>> from fastssl.data import divide
        >>> len(divide(source, 0.5).train)
        2
    """
    if len(source) < 2:
        raise ValueError(f"data: expected at least two items, to train and to test on, {source.name} has {len(source)}")
    order = np.random.default_rng([11, seed]).permutation(len(source))
    cut = int(share * len(order))
    train, test = (source.subset(np.sort(part), source.name) for part in (order[:cut], order[cut:]))
    return Splits(source.name, train, test, whole=source)


def open_splits(data: Any, task: str = "detection", **options: Any) -> Splits:
    """Opens a data set as a downstream task with a training and a test split.

    Args:
        data: as for :func:`fastssl.data.open`. A folder with ``train`` and ``val`` (or ``test``) in it, a benchmark
            data set ("cifar-10:FOLDER"), a task of GLUE ("glue:FOLDER"), texts ("text:FOLDER"), pairs of them
            ("pairs:FOLDER"), a Hugging Face data set ("hf:PATH") and a table with a column "split" have official
            splits, if they have both; "glosses"
            are the nouns, 4,000 of them to test on; "spoken-digits" is split by voices, "scenes" by emoji and vendors;
            any other data is split 80 to 20, for "emoji" all 1,871 items; an image that several rows of a table list is
            one item.
        task: of "voc:FOLDER" and "coco:FOLDER": "detection" (boxes) or "segmentation".
        options: options of :func:`fastssl.data.open`.

    Raises:
        ValueError: no such data set, or files that are missing from its folder.
        ImportError: the extra is missing.

    Example:
        >>> from fastssl.data import open_splits
        >>> task = open_splits('digits')
        >>> len(task.train), len(task.test)
        (1437, 360)
    """
    if isinstance(data, Splits):
        return data
    if isinstance(data, (str, Path)):
        data, named = without_range(str(data))
        options["value_range"] = checked_range(options.get("value_range")) or named
        made = _open_splits(data, task, options)
        check_range(made.train, options["value_range"])
        return made
    return _open_splits(data, task, options)


def _open_splits(data: Any, task: str, options: dict[str, Any]) -> Splits:
    if isinstance(data, str) and data == "emoji":
        return divide(emoji())
    if isinstance(data, str) and data == "glosses":
        return _glosses()
    if isinstance(data, str) and data == "spoken-digits":
        return Splits(data, spoken_digits("train"), spoken_digits("test"))
    if isinstance(data, str) and data == "scenes":
        return Splits(data, scenes(), scenes(split="test"))
    if isinstance(data, str):
        data = prefixed(data)
        kind, _, root = data.partition(":")
        root, given = split_options(root)
        if root and kind == "glue":
            return _glue(root)
        if root and ((kind == "pairs" and is_folder(root)) or (kind == "text" and text_parts(root))):
            own = [open(data, part=part) for part in ("train", "test")]
            _check_classes(own[0], own[1], data)
            return _judged(Splits(own[0].name, own[0], own[1]))
        if root and kind in ANNOTATED:
            values = options["value_range"] or trained.get()
            train_images = open_annotated(kind, root, given, "train", task, values)
            test_images = ANNOTATED[kind](root, "test", task, train_images.classes, values)  # ids differ by file
            return _readable(Splits(kind, train_images, test_images), data)
        if root and kind in benchmarks.READERS:
            metric = benchmarks.METRICS.get(kind, "top-1")
            return _readable(Splits(kind, *benchmarks.read(kind, root), metric), data)
        if root and kind == "hf":
            parts = hub(root, {"value_range": options["value_range"] or trained.get()}, **given)
            train, test = (find_labelled(parts, part, parts.__getitem__, OF_IMAGES) for part in PARTS)
            if train is not None and test is not None:
                number_alike(parts[test], parts[train].classes)
                _check_classes(parts[train], parts[test], data)
                return _readable(_judged(Splits(Path(root).name, parts[train], parts[test])), data)
        if parts_of(data) is not None:
            train_part, test_part = (open(data, part=part, **options) for part in ("train", "test"))
            _check_classes(train_part, test_part, data)
            return Splits(train_part.name, train_part, test_part)
    source = open(data, **options)
    if source.part is None:
        return _judged(divide(each_once(source)))
    held_out = each_once(open(data, part="test", **options))  # a table with a column of splits
    return _judged(Splits(source.name, each_once(source), held_out))


def open_tasks(data: str) -> list[Splits]:
    """The tasks of the names that commas separate in ``data``; those of equal names are called by what was given."""
    given = names_of(data)
    tasks = [open_splits(name) for name in given]
    names = [task.name for task in tasks]
    return [replace(task, name=name) if names.count(task.name) > 1 else task for task, name in zip(tasks, given)]


def _check_classes(train: Source, test: Source, data: str | Path) -> None:
    other = [name for name in test.classes if name not in set(train.classes)]
    if other:
        raise ValueError(
            f"data: expected the same classes in both parts of {str(data)!r}, only the test part has "
            f"{', '.join(map(repr, other[:5]))}{', ...' if len(other) > 5 else ''}"
        )


def _judged(task: Splits) -> Splits:
    """A task of scores is judged by their correlations, one of several classes per item as Pascal VOC is, of
    texts by F1."""
    labels = task.train.labels
    if are_scores(labels):
        return replace(task, metric="Spearman", others=("Pearson",))
    if labels is None or labels.ndim == 1:
        return task
    if isinstance(task.train, Corpus):
        return replace(task, metric="micro F1", others=("macro F1", "mean AP"))
    return replace(task, metric="11-point mAP")


def _readable(task: Splits, data: str | Path) -> Splits:
    """Without unreadable items, where they are left out."""
    train, test = (without_unreadable(getattr(task, part), str(data), part) for part in ("train", "test"))
    return replace(task, train=train, test=test)


def _glosses() -> Splits:
    nouns, test = glosses("nouns"), glosses("test")
    train = nouns.subset(np.flatnonzero(~np.isin(nouns.names, test.names)), "glosses")
    return Splits("glosses", train, test, "mean per class", others=("top-1",))


def _glue(folder: str) -> Splits:
    train, test, metrics = glue(folder), glue(folder, "test"), glue_task(folder).metrics
    return Splits(train.name, train, test, metrics[0], others=metrics[1:])
