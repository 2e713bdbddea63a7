"""Evaluation of a pretrained encoder against a random one, raw pixels and a colour histogram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import ConcatSource, Source, Splits, digits, emoji, open_splits
from fastssl.data import open as open_source
from fastssl.data.files import each_once
from fastssl.data.opening import EMBEDDED
from fastssl.data.source import are_scores
from fastssl.evaluate import linear, measures, regression, retrieval
from fastssl.evaluate.features import centred, color_histogram, encode, is_large, labels_of, pixels
from fastssl.evaluate.whitening import whitening
from fastssl.models import Encoder, build_encoder
from fastssl.ops.draws import drawing_apart

SEEDS = 3
SHRINK = 0.3  # of whitening: the last of its components are mostly noise
Features = Callable[[Source], Tensor]
Note = Callable[[str], None]
PAPER_NEIGHBOURS, PAPER_TEMPERATURE = 20, 0.07  # of the k-NN classifier (Wu et al. 2018; Caron et al. 2021)


def _silent(_: str) -> None:
    pass


def random_encoder(options: dict[str, Any], seed: int) -> Encoder:
    """The same architecture with random weights (also of a pretrained model of transformers), in evaluation mode: batch
    norm is the identity."""
    with drawing_apart():
        torch.manual_seed(seed)
        return build_encoder({**options, "pretrained": False}).eval()


def _linear(features: Tensor, labels: Tensor, seed: int, share: float = 0.8) -> float:
    order = np.random.default_rng([7, seed]).permutation(len(labels))
    cut = int(share * len(order))
    return linear.linear_probe(features, labels, order[:cut], order[cut:])


def projection_of(features: Tensor, whiten: int | None) -> Tensor | None:
    return None if whiten is None else whitening(features, whiten, SHRINK)


def _in_parts(source: Source) -> bool:
    """Whether what is to be predicted, several classes or a number per image, is judged on a test part alone."""
    return source.labels is not None and (source.labels.ndim > 1 or are_scores(source.labels))


ROWS = ("pretrained", "random", "pixels", "histogram")


def _sources(
    encoder: Encoder, options: dict[str, Any] | None, readout: str, rows: Sequence[str]
) -> dict[str, list[Features]]:
    """Row of the table -> feature extractors (one per seed)."""

    on = next((p.device for p in encoder.parameters()), torch.device("cpu"))

    def of(network: Encoder) -> Features:
        return lambda source: encode(network, source, readout)

    networks = []
    if "random" in rows and options is not None:
        networks = [random_encoder(options, seed).at(encoder.size).to(on) for seed in range(SEEDS)]
    sources: dict[str, list[Features]] = {
        "pretrained": [of(encoder)],
        "random": [of(network) for network in networks],
        "pixels": [lambda source: pixels(source, encoder.size, encoder.channels)],
        "histogram": [color_histogram],
    }
    return {row: sources[row] for row in rows if sources[row]}


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def evaluate_emoji(
    encoder: Encoder,
    options: dict[str, Any] | None,
    readout: str = "spatial",
    rows: Sequence[str] = ROWS,
    whiten: int | None = None,
) -> dict[str, Any]:
    """k-NN and linear accuracy on the emoji categories, retrieval across vendors, alignment and uniformity.

    Args:
        encoder: an encoder that was not trained on the held-out emoji.
        options: options of ``build_encoder``, for the random encoder; None, of a custom network: there is no such row.
        readout: "spatial" or "pooled", for all encoders.
        rows: rows of the table to compute.
        whiten: number of components to which the features of every row of the table are whitened before cosines
            (:func:`whitening`), estimated from the 1,871 images of Google; None: they are only centred.

    Returns:
        measure -> row -> value. k-NN: 5 neighbours, leave one out over all 1,871 images of Google. Linear: 80 % train,
        20 % test, mean of 3 splits (standard deviation in ``*_std``). Retrieval: Recall@1 from Google's to Twitter's
        images of the 374 held-out emoji. Features are centred for cosine similarity.
    """
    whole, held_out = emoji(), emoji("heldout")
    labels = labels_of(whole)
    no_flags = np.flatnonzero(np.array([c != "Flags" for c in np.array(whole.classes)[labels.numpy()]]))
    names = ("knn", "knn_without_flags", "linear", "linear_std", "retrieval", "alignment", "uniformity")
    table: dict[str, Any] = {name: {} for name in names}
    for row, extractors in _sources(encoder, options, readout, rows).items():
        columns: dict[str, list[float]] = {name: [] for name in names}
        for features_of in extractors:
            features = features_of(whole)
            projection = projection_of(features, whiten)
            unit = centred(features, projection=projection)
            columns["knn"].append(measures.knn_accuracy(unit, labels))
            columns["knn_without_flags"].append(measures.knn_accuracy(unit[no_flags], labels[no_flags]))
            splits = [_linear(features, labels, seed) for seed in range(SEEDS)]
            columns["linear"].append(_mean(splits))
            columns["linear_std"].append(float(np.std(splits)))
            raw = [features_of(held_out.nth_image(k)) for k in range(2)]
            query, gallery = (centred(r, projection=projection) for r in raw)
            columns["retrieval"].append(retrieval.recall_at(query, gallery))
            columns["alignment"].append(measures.alignment(query, gallery))
            columns["uniformity"].append(measures.uniformity(query))
        for name in names:
            table[name][row] = _mean(columns[name])
    table["readout"] = readout
    return table


def evaluate_digits(
    encoder: Encoder,
    options: dict[str, Any] | None,
    readout: str = "spatial",
    rows: Sequence[str] = ROWS,
    whiten: int | None = None,
) -> dict[str, Any]:
    """Nearest neighbour with one and five labels per class (20 draws) and linear accuracy on scikit-learn's digits.

    Args:
        encoder: the pretrained encoder.
        options: options of ``build_encoder``, for the random encoder; None, of a custom network: there is no such row.
        readout: "spatial" or "pooled", for all encoders.
        rows: rows of the table to compute.
        whiten: components of whitened features, for the nearest neighbours; None: they are only centred.
    """
    data = digits(8 if encoder.size <= 8 else 16)
    labels = labels_of(data)
    names = (
        "digits_one_label",
        "digits_one_label_std",
        "digits_five_labels",
        "digits_five_labels_std",
        "digits_linear",
    )
    table: dict[str, Any] = {name: {} for name in names}
    for row, extractors in _sources(encoder, options, readout, rows).items():
        if row == "histogram":
            continue
        columns: dict[str, list[float]] = {name: [] for name in names}
        for features_of in extractors:
            features = features_of(data)
            unit = centred(features, projection=projection_of(features, whiten))
            for name, shots in (("digits_one_label", 1), ("digits_five_labels", 5)):
                mean, spread = linear.low_shot(unit, labels, shots)
                columns[name].append(mean)
                columns[name + "_std"].append(spread)
            columns["digits_linear"].append(_mean([_linear(features, labels, seed) for seed in range(SEEDS)]))
        for name in names:
            table[name][row] = _mean(columns[name])
    return table


def check_training_classes(source: Source, labels: Tensor) -> None:
    """Raises ValueError for fewer than two classes."""
    if labels.dim() == 1 and len(labels.unique()) < 2:
        raise ValueError(
            f"data: expected at least two classes to evaluate on, {source.name} has {list(source.classes) or 'one'}"
            + (f"; {source.classes_from}" if source.classes_from is not None else "")
        )


def check_classes(data: Source, labels: Tensor) -> None:
    """Raises ValueError for labels that cannot be split into training and test rows: several classes per image, fewer
    than two classes, or a class with a single image."""
    if labels.dim() > 1:
        raise ValueError(f"data: expected one class per image, {data.name} has several")
    check_training_classes(data, labels)
    counts = labels.bincount()
    if int((counts == 1).sum()):
        alone = int((counts == 1).nonzero()[0])
        called = data.classes[alone] if alone < len(data.classes) else alone
        raise ValueError(
            f"data: expected at least two images of each class, class {called!r} of {data.name} has one: add others, "
            "or leave the class out"
        )


def evaluate_images(
    encoder: Encoder,
    options: dict[str, Any] | None,
    data: Source,
    readout: str = "spatial",
    rows: Sequence[str] = ROWS,
    note: Note = _silent,
    whiten: int | None = None,
) -> dict[str, Any]:
    """k-NN (leave one out) and linear accuracy (80 % train, 20 % test, mean of 3 splits) on any labelled images.

    Raises:
        ValueError: fewer than two classes, or a class with a single image.
    """
    labels = labels_of(data)
    check_classes(data, labels)
    table: dict[str, Any] = {"knn": {}, "linear": {}, "linear_std": {}}
    for row, extractors in _sources(encoder, options, readout, rows).items():
        knn, probes = [], []
        for features_of in extractors:
            features = features_of(data)
            unit = centred(features, projection=projection_of(features, whiten))
            knn.append(measures.knn_accuracy(unit, labels, k=min(5, len(labels) - 1)))
            probes += [_linear(features, labels, seed) for seed in range(SEEDS)]
        table["knn"][row], table["linear"][row] = _mean(knn), _mean(probes)
        table["linear_std"][row] = float(np.std(probes))
        note(f"{data.name}: {row}: k-NN {_mean(knn):.1f}, linear {_mean(probes):.1f}")
    return table


def evaluate_splits(
    encoder: Encoder,
    options: dict[str, Any] | None,
    task: Splits,
    readout: str = "spatial",
    rows: Sequence[str] = ROWS,
    note: Note = _silent,
    whiten: int | None = None,
) -> dict[str, Any]:
    """k-NN and linear accuracy on the test split of a task, fitted on its training split, as usual in papers.

    Args:
        encoder: the pretrained encoder.
        options: options of ``build_encoder``, for the random encoder; None, of a custom network: there is no such row.
        task: a task from :func:`fastssl.data.open_splits`.
        readout: "spatial" or "pooled", for all encoders.
        rows: rows of the table to compute.
        note: called with a line per row.
        whiten: components of whitened features, estimated from the training split, for k-NN; None: they are only
            centred.

    Returns:
        measure -> row -> value: "knn" (20 neighbours, weighted with temperature 0.07), "linear" and, with more than
        five classes, "knn_top5" and "linear_top5". The linear classifier is fitted by L-BFGS, or by SGD over 100 epochs
        if the features exceed 1 GiB, when they are stored in a temporary file. Of numbers to predict
        (``fastssl.data.open(..., scores=)``, ``labels.csv#score=NAME``): "linear_r2", "linear_spearman" and
        "linear_mae" of ridge regression (:func:`ridge_probe`), and the same of k-NN (:func:`knn_regression`), with the
        mean of the training split as another row.
    """
    if are_scores(task.train.labels):
        return _evaluate_scores(encoder, options, regression.known_scores(task, note), readout, rows, note, whiten)
    source, cut = ConcatSource([task.train, task.test], task.name), len(task.train)
    labels = labels_of(source)
    train, test = np.arange(cut), np.arange(cut, len(source))
    check_training_classes(task.train, labels[:cut])
    several = labels.dim() > 1
    metrics = {"linear": task.metric}
    tops = {} if several else {"knn": 1}
    if not several and len(labels.unique()) > 5:
        metrics["linear_top5"] = "top-5"
        tops["knn_top5"] = 5
    table: dict[str, Any] = {name: {} for name in [*tops, *metrics]}
    for row, extractors in _sources(encoder, options, readout, rows).items():
        columns: dict[str, list[float]] = {name: [] for name in table}
        for features_of in extractors:
            features = features_of(source)
            unit = features
            if tops:
                unit = centred(features, features[:cut].mean(0), projection_of(features[:cut], whiten))
            for name, top in tops.items():
                vote: dict[str, Any] = {"temperature": PAPER_TEMPERATURE, "top": top}
                columns[name].append(
                    measures.knn_accuracy(
                        unit[:cut], labels[:cut], min(PAPER_NEIGHBOURS, cut), unit[cut:], labels[cut:], **vote
                    )
                )
            protocol = "sgd" if is_large(features) else "lbfgs"
            for name, metric in metrics.items():
                columns[name].append(
                    linear.linear_probe(features, labels, train, test, metric=metric, protocol=protocol)
                )
        for name, values in columns.items():
            table[name][row] = _mean(values)
        note(f"{task.name}: {row}: " + ", ".join(f"{name} {table[name][row]:.1f}" for name in table))
    return table


def _evaluate_scores(
    encoder: Encoder,
    options: dict[str, Any] | None,
    task: Splits,
    readout: str,
    rows: Sequence[str],
    note: Note,
    whiten: int | None,
) -> dict[str, Any]:
    """:func:`evaluate_splits` of numbers to predict."""
    source, cut = ConcatSource([task.train, task.test], task.name), len(task.train)
    scores = torch.from_numpy(np.asarray(source.labels, np.float64))
    train, test = np.arange(cut), np.arange(cut, len(source))
    table: dict[str, Any] = {}

    def add(row: str, ways: dict[str, list[Tensor]]) -> None:
        for way, predictions in ways.items():
            found = [regression.regression_scores(each, scores[test]) for each in predictions]
            for name in found[0]:
                table.setdefault(f"{way}_{name}", {})[row] = _mean([one[name] for one in found])
        note(f"{task.name}: {row}: " + ", ".join(f"{name} {table[name][row]:.4g}" for name in table))

    for row, extractors in _sources(encoder, options, readout, rows).items():
        ways: dict[str, list[Tensor]] = {"knn": [], "linear": []}
        for features_of in extractors:
            features = features_of(source)
            unit = centred(features, features[:cut].mean(0), projection_of(features[:cut], whiten))
            k = min(PAPER_NEIGHBOURS, cut)
            ways["knn"].append(
                regression.knn_regression(unit[:cut], scores[:cut], unit[cut:], k, temperature=PAPER_TEMPERATURE)
            )
            ways["linear"].append(regression.ridge_probe(features, scores, train, test))
        add(row, ways)
    mean = scores[:cut].mean().expand(len(test))
    add("mean", {"knn": [mean], "linear": [mean]})
    return table


def evaluate(
    encoder: Encoder,
    options: dict[str, Any] | None,
    data: Any,
    readout: str | None = None,
    rows: Sequence[str] = ROWS,
    note: Note = _silent,
    whiten: int | None = None,
) -> dict[str, Any]:
    """Evaluates an encoder on the embedded emoji or digits, a task with training and test splits
    (:func:`evaluate_splits`), or any labelled images.

    Args:
        encoder: the pretrained encoder.
        options: options of ``build_encoder``, for the random encoder; None, of a custom network: there is no such row.
        data: anything that :func:`fastssl.data.open` takes, or :class:`fastssl.data.Splits`; of several classes per
            image, or numbers to predict, 80 % are trained on and 20 % are tested on, if there are no splits.
        readout: "spatial" or "pooled", for all encoders; None: "pooled" for a task with splits, as in papers, else
            "spatial".
        rows: rows of the table to compute.
        note: called with a line per row.
        whiten: number of components to which the features of every row are whitened (:func:`whitening`) before they
            are compared by cosine; None: they are only centred. Linear probes see all features as they are.
    """
    divided = isinstance(data, Splits) or (isinstance(data, (str, Path)) and str(data) not in EMBEDDED)
    task = open_splits(data) if divided else None
    source = task.whole if task is not None else each_once(open_source(data))
    if source is None or isinstance(data, Splits) or _in_parts(source):
        task = task or open_splits(source)
        return evaluate_splits(encoder, options, task, readout or "pooled", rows, note, whiten)
    if source.embedded == "emoji":
        return evaluate_emoji(encoder, options, readout or "spatial", rows, whiten)
    if source.embedded == "digits":
        return evaluate_digits(encoder, options, readout or "spatial", rows, whiten)
    return evaluate_images(encoder, options, source, readout or "spatial", rows, note, whiten)
