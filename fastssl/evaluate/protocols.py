"""The protocols of ``fastssl evaluate --protocol``; each returns a table, in percent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from fastssl.data import ConcatSource, Source, Splits
from fastssl.evaluate.features import centred, encode, job, labels_of
from fastssl.evaluate.finetune import FineTuning, finetune
from fastssl.evaluate.layers import layer_features
from fastssl.evaluate.linear import few_labels, labelled_rows, linear_probe
from fastssl.evaluate.measures import clustering_scores, knn_accuracy, rank_me
from fastssl.evaluate.report import check_training_classes, random_encoder
from fastssl.evaluate.retrieval import retrieval_scores
from fastssl.functional import _check as check
from fastssl.models import Encoder, kmeans

Table = dict[str, Any]
Note = Callable[[str], None]
TRAINING = {"simclr-transfer": ("steps",), "few-labels": ("steps", "seeds")}  # options of those that train networks


def _silent(_: str) -> None:
    pass


def _joined(task: Splits) -> tuple[Source, Tensor, np.ndarray, np.ndarray]:
    """Both splits as one source, with labels, training rows and test rows."""
    source, cut = ConcatSource([task.train, task.test], task.name), len(task.train)
    rows, labels = np.arange(len(source)), labels_of(source)
    check_training_classes(task.train, labels[:cut])
    return source, labels, rows[:cut], rows[cut:]


def simclr_transfer(
    encoder: Encoder,
    options: Table,
    tasks: list[Splits],
    readout: str,
    note: Note = _silent,
    *,
    steps: int | None = None,
) -> Table:
    """Transfer as in SimCLR (Chen et al. 2020, table 8): linear probe, fine-tuning, the same network supervised from
    scratch, and the linear probe of a random encoder."""
    table: Table = {"linear": {}, "fine-tuned": {}, "supervised": {}, "random": {}}
    for task in tasks:
        source, labels, train, test = _joined(task)
        tuning = FineTuning(spatial=readout == "spatial", metric=task.metric, most_steps=steps)
        if task.train.embedded == "digits":
            tuning.flip = 0.0
        fresh = random_encoder(options, 0)
        for row, network in (("linear", encoder), ("random", fresh)):
            features = encode(network, source, readout)
            table[row][task.name] = linear_probe(features, labels, train, test, metric=task.metric)
            note(f"{task.name}: {row} {table[row][task.name]:.1f}")
        for row, network in (("fine-tuned", encoder), ("supervised", fresh)):
            table[row][task.name] = finetune(network, source, labels, train, test, tuning).score
            note(f"{task.name}: {row} {table[row][task.name]:.1f}")
    table["metric"] = ", ".join(f"{task.name}: {task.metric}" for task in tasks)
    return table


def label_shares(
    encoder: Encoder,
    options: Table,
    tasks: list[Splits],
    readout: str,
    note: Note = _silent,
    *,
    steps: int | None = None,
    seeds: int = 3,
) -> Table:
    """Few labels (Chen et al. 2020, table 7): linear probe with 1 % and 10 % of the labels and with 1 and 5 per class;
    fine-tuning with 10 %, pretrained and from scratch, over some draws of labels."""
    ways: dict[str, dict[str, Any]] = {
        "linear, 1 % of labels": {"share": 0.01},
        "linear, 10 % of labels": {"share": 0.1},
        "linear, 1 label per class": {"per_class": 1},
        "linear, 5 labels per class": {"per_class": 5},
    }
    tuned = "fine-tuned, 10 % of labels"
    spreads = [row + "_std" for row in (*ways, *[tuned] * (seeds > 1))]
    table: Table = {row: {} for row in (*ways, tuned, *spreads)}
    for task in tasks:
        source, labels, train, test = _joined(task)
        for share in (0.01, 0.1):
            drawn = len(labelled_rows(labels[train].numpy(), share, None, np.random.default_rng(0)))
            if abs(drawn / len(train) - share) > share / 5:
                note(
                    f"{task.name}: {100 * share:g} % of labels are {drawn:,} of {len(train):,}, at least one per class"
                )
        prefix = "" if len(tasks) == 1 else f"{task.name}: "
        for column, network in (("pretrained", encoder), ("random", random_encoder(options, 0))):
            features = encode(network, source, readout)
            for row, way in ways.items():
                mean, spread = few_labels(features, labels, train, test, **way)
                table[row][prefix + column], table[row + "_std"][prefix + column] = mean, spread
                note(f"{task.name}: {column}, {row}: {mean:.1f}")
        with job(f"{task.name}: fine-tuning", 2 * seeds) as part:
            for column in ("pretrained", "random"):
                scores = []
                for draw in range(seeds):
                    some = train[labelled_rows(labels[train].numpy(), 0.1, None, np.random.default_rng([5, draw]))]
                    start = encoder if column == "pretrained" else random_encoder(options, draw)
                    tuning = FineTuning(
                        seed=draw,
                        spatial=readout == "spatial",
                        flip=0.0 if task.train.embedded == "digits" else 0.5,
                        most_steps=steps,
                    )
                    with part():
                        scores.append(finetune(start, source, labels, some, test, tuning).score)
                table[tuned][prefix + column] = float(np.mean(scores))
                if seeds > 1:
                    table[tuned + "_std"][prefix + column] = float(np.std(scores, ddof=1))
                note(f"{task.name}: {column}, {tuned}: {np.mean(scores):.1f}")
    return table


def layers(encoder: Encoder, options: Table, tasks: list[Splits], readout: str, note: Note = _silent) -> Table:
    """Linear probes on every level of the network, pretrained and random (Zhang et al. 2016)."""
    table: Table = {}
    for task in tasks:
        source, labels, train, test = _joined(task)
        prefix = "" if len(tasks) == 1 else f"{task.name}: "
        for column, network in (("pretrained", encoder), ("random", random_encoder(options, 0))):
            for k, features in enumerate(layer_features(network, source, cells=4 if readout == "spatial" else 1)):
                score = linear_probe(features, labels, train, test, metric=task.metric)
                table.setdefault(f"{prefix}level {k + 1}", {})[column] = score
                note(f"{task.name}: level {k + 1}, {column}: {score:.1f}")
    return table


def structure(encoder: Encoder, options: Table, tasks: list[Splits], readout: str, note: Note = _silent) -> Table:
    """Structure of the features without a trained classifier: weighted k-NN, clustering, retrieval, effective rank."""
    table: Table = {}
    for task in tasks:
        source, labels, train, test = _joined(task)
        if labels.dim() > 1:
            raise ValueError(f"data: this protocol needs one class per image, {task.name} has several")
        prefix = "" if len(tasks) == 1 else f"{task.name}: "
        for column, network in (("pretrained", encoder), ("random", random_encoder(options, 0))):
            features = encode(network, source, readout)
            unit = centred(features)
            k = min(20, len(train))
            measures = {
                "k-NN, 20 weighted": knn_accuracy(
                    unit[train], labels[train], k, unit[test], labels[test], temperature=0.07
                )
            }
            clusters = kmeans(unit, len(task.train.classes))[1]
            for name, value in clustering_scores(clusters.numpy(), labels.numpy()).items():
                measures[f"k-means: {name}"] = value
            for name, value in retrieval_scores(unit, labels).items():
                measures[name.replace("_", " ")] = value
            measures["RankMe"] = rank_me(features[test])
            for name, value in measures.items():
                table.setdefault(prefix + name, {})[column] = value
            note(f"{task.name}: {column}")
    return table


PROTOCOLS: dict[str, Callable[..., Table]] = {
    "simclr-transfer": simclr_transfer,
    "few-labels": label_shares,
    "layers": layers,
    "structure": structure,
}


def evaluate_with(
    protocol: str,
    encoder: Encoder,
    options: Table,
    tasks: list[Splits],
    readout: str = "spatial",
    note: Note = _silent,
    *,
    steps: int | None = None,
    seeds: int | None = None,
) -> Table:
    """Runs a protocol and returns its table.

    Args:
        protocol: a name of :data:`PROTOCOLS`.
        encoder: the pretrained encoder; not modified.
        options: options of ``build_encoder``, for the random encoder, which all protocols compare with.
        tasks: tasks from :func:`fastssl.data.open_splits`.
        readout: "spatial" or "pooled".
        note: called with a line per result.
        steps: maximum number of steps of each fine-tuning ("simclr-transfer" and "few-labels"); None: as of
            :class:`FineTuning`.
        seeds: draws of the labels that "few-labels" fine-tunes on; None: 3.

    Raises:
        ValueError: unknown protocol, no options, steps or seeds of a protocol without them, or a task that the protocol
            does not support.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of frozen, {', '.join(PROTOCOLS)}, got {protocol!r}")
    if not options:
        raise ValueError(
            f"options: expected those of build_encoder, for the random encoder of {protocol!r}, got {options!r}; a "
            "network of your own is evaluated by fastssl.evaluate.evaluate"
        )
    if not tasks:
        raise ValueError("data: expected at least one data set")
    if protocol == "few-labels" and any(np.asarray(t.train.labels).ndim > 1 for t in tasks):
        raise ValueError("data: the protocol few-labels needs one class per image")
    given = {name: value for name, value in (("steps", steps), ("seeds", seeds)) if value is not None}
    for name, value in given.items():
        if name not in TRAINING.get(protocol, ()):
            raise ValueError(f"{name}: the protocol {protocol!r} has none, got {value!r}")
        given[name] = check.count(name, value)
    return PROTOCOLS[protocol](encoder, options, tasks, readout, note, **given)
