"""The tables: a pretrained encoder beside a random one, raw pixels and a colour histogram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Source, digits, emoji
from fastssl.evaluate import linear, measures
from fastssl.evaluate.features import centred, color_histogram, encode, labels_of, pixels
from fastssl.models import Encoder, build_encoder

SEEDS = 3
Features = Callable[[Source], Tensor]


def random_encoder(options: dict[str, Any], seed: int) -> Encoder:
    """The same architecture with untrained weights. Its batch norms pass their inputs on as they are."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_encoder(options).eval()


def _linear(features: Tensor, labels: Tensor, seed: int, share: float = 0.8) -> float:
    order = np.random.default_rng([7, seed]).permutation(len(labels))
    cut = int(share * len(order))
    return linear.linear_probe(features, labels, order[:cut], order[cut:])


ROWS = ("pretrained", "random", "pixels", "histogram")


def _sources(encoder: Encoder, options: dict[str, Any], readout: str, rows: Sequence[str]) -> dict[str, list[Features]]:
    """Name of a row of the table -> feature extractors (one per seed)."""

    def of(network: Encoder) -> Features:
        return lambda source: encode(network, source, readout)

    sources: dict[str, list[Features]] = {
        "pretrained": [of(encoder)],
        "random": [of(random_encoder(options, seed)) for seed in range(SEEDS)] if "random" in rows else [],
        "pixels": [lambda source: pixels(source, encoder.size)],
        "histogram": [color_histogram],
    }
    return {row: sources[row] for row in rows}


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def evaluate_emoji(
    encoder: Encoder, options: dict[str, Any], readout: str = "spatial", rows: Sequence[str] = ROWS
) -> dict[str, Any]:
    """k-NN and linear accuracy on the emoji categories, retrieval across vendors, alignment and uniformity.

    Args:
        encoder: pretrained on ``emoji("train")``, or anything else that never saw the held-out emoji.
        options: what ``build_encoder`` needs for an untrained twin.
        readout: "spatial" or "pooled", the same for all encoders.
        rows: those of the table that are wanted.

    Returns:
        measure -> row -> value. k-NN: 5 neighbours, leave one out over all 1,871 of Google's drawings. Linear: 80 %
        train, 20 % test, mean of 3 splits (``*_std`` beside it). Retrieval: Recall@1 from Google's to Twitter's
        drawings among the 374 held-out emoji. Features are centred for cosine.
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
            unit = centred(features)
            columns["knn"].append(measures.knn_accuracy(unit, labels))
            columns["knn_without_flags"].append(measures.knn_accuracy(unit[no_flags], labels[no_flags]))
            splits = [_linear(features, labels, seed) for seed in range(SEEDS)]
            columns["linear"].append(_mean(splits))
            columns["linear_std"].append(float(np.std(splits)))
            raw = [features_of(held_out.drawing(k)) for k in range(2)]
            query, gallery = (centred(r) for r in raw)
            columns["retrieval"].append(measures.recall_at(query, gallery))
            columns["alignment"].append(measures.alignment(query, gallery))
            columns["uniformity"].append(measures.uniformity(query))
        for name in names:
            table[name][row] = _mean(columns[name])
    table["readout"] = readout
    return table


def evaluate_digits(
    encoder: Encoder, options: dict[str, Any], readout: str = "spatial", rows: Sequence[str] = ROWS
) -> dict[str, Any]:
    """Nearest neighbour with one and five labels a class (20 draws), linear accuracy, on scikit-learn's digits."""
    data = digits()
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
            unit = centred(features)
            for name, shots in (("digits_one_label", 1), ("digits_five_labels", 5)):
                mean, spread = linear.low_shot(unit, labels, shots)
                columns[name].append(mean)
                columns[name + "_std"].append(spread)
            columns["digits_linear"].append(_mean([_linear(features, labels, seed) for seed in range(SEEDS)]))
        for name in names:
            table[name][row] = _mean(columns[name])
    return table


def evaluate_images(
    encoder: Encoder, options: dict[str, Any], data: Source, readout: str = "spatial", rows: Sequence[str] = ROWS
) -> dict[str, Any]:
    """k-NN and linear accuracy on the labels of any image set with at least two classes."""
    labels = labels_of(data)
    if len(labels.unique()) < 2:
        raise ValueError(f"data: expected at least two classes to evaluate on, got {data.classes}")
    table: dict[str, Any] = {"knn": {}, "linear": {}, "linear_std": {}}
    for row, extractors in _sources(encoder, options, readout, rows).items():
        knn, probes = [], []
        for features_of in extractors:
            features = features_of(data)
            knn.append(measures.knn_accuracy(centred(features), labels, k=min(5, len(labels) - 1)))
            probes += [_linear(features, labels, seed) for seed in range(SEEDS)]
        table["knn"][row], table["linear"][row] = _mean(knn), _mean(probes)
        table["linear_std"][row] = float(np.std(probes))
    return table


def evaluate(
    encoder: Encoder, options: dict[str, Any], data: Source, readout: str = "spatial", rows: Sequence[str] = ROWS
) -> dict[str, Any]:
    """The table that fits the data: emoji, digits, or any labelled images."""
    if data.embedded == "emoji":
        return evaluate_emoji(encoder, options, readout, rows)
    if data.embedded == "digits":
        return evaluate_digits(encoder, options, readout, rows)
    return evaluate_images(encoder, options, data, readout, rows)
