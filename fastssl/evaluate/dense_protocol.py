"""The protocols segmentation and detection: a pretrained encoder beside random, supervised and untrained ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssl._files import replacing
from fastssl.data import Item, Splits
from fastssl.data.objects import VOID
from fastssl.data.source import digest
from fastssl.evaluate.dense import (
    TRAIN,
    DenseModel,
    DenseTask,
    DenseTuning,
    FrozenFeatures,
    evaluate_dense,
    train_dense,
)
from fastssl.evaluate.resuming import Resumption
from fastssl.functional import _check as check
from fastssl.models import Encoder
from fastssl.models.modes import kept_modes
from fastssl.models.precision import resolved
from fastssl.ops.draws import drawing_apart

Note = Callable[[str], None]
Keep = Callable[[Item, Any], None]


@dataclass(frozen=True)
class Start:
    """A row of the table.

    Args:
        encoder: of a seed: the same for every seed if it is pretrained.
        frozen: whether the head alone is trained.

    Example:
        >>> from fastssl.evaluate import Start
        >>> from fastssl.models import build_encoder
        >>> options = {"name": "resnet", "size": 32, "width": 8}
        >>> Start(lambda seed: build_encoder(options), frozen=False).frozen
        False
    """

    encoder: Callable[[int], Encoder]
    frozen: bool


def key_of(settings: Mapping[str, Any]) -> str:
    """A hash of settings."""
    return digest(json.dumps(settings, sort_keys=True, default=str))


class Results:
    """Results that are there already, in a JSON file, so that an interrupted evaluation goes on where it stopped.

    Args:
        path: the file; None: in memory.
        settings: what the results depend on; those of other settings are dropped.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path, self.key = path, key_of(settings)
        self.values: dict[str, dict[str, float]] = {}
        if path is not None and path.exists():
            stored = json.loads(path.read_text())
            self.values = stored["values"] if stored["key"] == self.key else {}

    def put(self, name: str, values: dict[str, float]) -> None:
        self.values[name] = values
        if self.path is not None:
            with replacing(self.path) as file:
                file.write_text(json.dumps({"key": self.key, "values": self.values}, indent=1))

    def training(self, name: str) -> Resumption:
        """The state of the training whose result will be called ``name``."""
        path = None if self.path is None else self.path.with_suffix(".training")
        return Resumption(path, f"{self.key}, {name}")


def labelled(count: int, share: float, seed: int) -> np.ndarray:
    """Indices of a share of the training images, drawn by ``seed``, at least two."""
    order = np.random.default_rng([23, seed]).permutation(count)
    return np.sort(order[: max(2, round(share * count))])


def _marked(item: Item, task: DenseTask) -> bool:
    """Whether anything is to be found in an image; images without annotations have an error of their own."""
    if item.objects is None:
        return task.name == "segmentation"
    mask = item.objects.segmentation
    if task.name == "detection":
        return len(item.objects.labels) > 0
    return mask is None or bool(((mask != 0) & (mask != VOID)).any())


def compare_dense(
    starts: Mapping[str, Start],
    task: DenseTask,
    data: Splits,
    options: DenseTuning | None = None,
    *,
    labels: float = 1.0,
    seeds: int = 3,
    results: Results | None = None,
    keep: Mapping[str, Keep] | None = None,
    note: Note = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Heads for detection or segmentation on several encoders, trained and tested alike.

    Args:
        starts: name -> encoder, and whether it is frozen.
        task: :class:`Segmentation` or :class:`Detection`.
        data: training and test images (:func:`fastssl.data.open_splits`).
        options: see :class:`DenseTuning`; its seed is that of each run.
        labels: share of the training images that are used.
        seeds: runs, each with its own weights of the head, order and draw of the labels.
        results: where results are kept, and taken from if they are there.
        keep: name -> called with test items and predictions of the first seed.
        note: called with a line per run.

    Returns:
        Measure -> row -> mean over the seeds; with ``_se`` the standard error of the mean.

    Raises:
        TypeError: ``seeds`` that is no integer.
        ValueError: a share or a number of seeds out of range, or images without what the task needs.

    Example:
        >>> from fastssl.data import Splits, scenes
        >>> from fastssl.evaluate import DenseTuning, Segmentation, Start, compare_dense
        >>> from fastssl.models import build_encoder
        >>> data = Splits("scenes", scenes(4, size=32), scenes(2, "test", size=32))
        >>> start = Start(lambda seed: build_encoder({"name": "resnet", "size": 16, "width": 4}), frozen=True)
        >>> task, how = Segmentation(data.train.classes), DenseTuning(steps=2, batch_size=2)
        >>> sorted(compare_dense({"random": start}, task, data, how, seeds=1))
        ['boundary F', 'mIoU', 'pixel accuracy']
    """
    if not 0 < labels <= 1:
        raise ValueError(f"labels: expected a share of the training images above 0 and up to 1, got {labels}")
    seeds = check.count("seeds", seeds)
    for split, name in ((data.train, "training"), (data.test, "test")):
        if not any(_marked(split.read(k), task) for k in range(len(split))):
            none = "there are none" if task.name == "detection" else "all masks are 0 (background) or 255 (void)"
            raise ValueError(f"data: expected objects in the {name} images of {data.name}, {none}")
    options, results = options or DenseTuning(), results or Results(None, {})
    found: dict[str, dict[str, list[float]]] = {}
    for row, start in starts.items():
        features = FrozenFeatures()
        for seed in range(seeds):
            if f"{row}, {seed}" not in results.values:
                own, resumption = replace(options, seed=seed), results.training(f"{row}, {seed}")
                kept = (keep or {}).get(row) if seed == 0 else None
                results.put(f"{row}, {seed}", _run(start, task, data, own, labels, features, kept, resumption))
                resumption.done()
            values = results.values[f"{row}, {seed}"]
            shown = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
            note(f"{data.name}, {task.name}: {row}, {seed + 1} of {seeds}: {shown}")
            for name, value in values.items():
                found.setdefault(name, {}).setdefault(row, []).append(value)
    table: dict[str, dict[str, float]] = {}
    for name, rows in found.items():
        table[name] = {row: float(np.mean(values)) for row, values in rows.items()}
        if seeds > 1:
            table[name + "_se"] = {row: float(np.std(v, ddof=1) / seeds**0.5) for row, v in rows.items()}
    return table


def _run(
    start: Start,
    task: DenseTask,
    data: Splits,
    options: DenseTuning,
    labels: float,
    features: FrozenFeatures,
    keep: Keep | None,
    resumption: Resumption,
) -> dict[str, float]:
    encoder = start.encoder(options.seed)
    with kept_modes(encoder):
        with drawing_apart():
            torch.manual_seed(options.seed)  # for the weights of the head
            model = DenseModel(encoder, task, options.side(encoder, data.train), start.frozen)
            rows = labelled(len(data.train), labels, options.seed)
            train_dense(model, task, data.train, rows, options, features, resumption)
        return evaluate_dense(model, task, data.test, keep)


def starts_of(
    encoder: Encoder,
    scratch: Callable[[int], Encoder],
    train: str = "head",
    supervised: Callable[[int], Encoder] | None = None,
) -> dict[str, Start]:
    """The rows of the protocols.

    Args:
        encoder: the pretrained encoder.
        scratch: of a seed: the same network with random weights.
        train: "head": the pretrained encoders are frozen; "all": all layers are trained.
        supervised: of a seed: the same network after supervised classification; None: no such row.

    Raises:
        ValueError: another value of ``train``.

    Example:
        >>> from fastssl.evaluate import starts_of
        >>> from fastssl.models import build_encoder
        >>> encoder = build_encoder({"name": "resnet", "size": 32, "width": 8})
        >>> list(starts_of(encoder, lambda seed: encoder))
        ['pretrained', 'random', 'scratch']
    """
    if train not in TRAIN:
        raise ValueError(f"train: expected one of {', '.join(TRAIN)}, got {train!r}")
    frozen = train == "head"
    rows = {"pretrained": Start(lambda seed: encoder, frozen)}
    if supervised is not None:
        rows["supervised"] = Start(supervised, frozen)
    return rows | {"random": Start(scratch, True), "scratch": Start(scratch, False)}


def settings_of(data: Splits, options: DenseTuning, device: torch.device, **others: Any) -> dict[str, Any]:
    """What the results of an evaluation depend on; "precision" is that on the device."""
    given = {**asdict(options), "precision": resolved(options.precision, device)}
    return {"train": data.train.content_key, "test": data.test.content_key, **given, **others}
