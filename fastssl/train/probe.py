"""Online evaluation of the features during training: k-NN and a linear probe on labels, or ridge regression."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Source
from fastssl.data.files import each_once
from fastssl.data.readable import readable
from fastssl.data.source import are_scores
from fastssl.evaluate import knn_accuracy, knn_regression, linear_probe, regression_scores, ridge_probe
from fastssl.evaluate.features import centred, encode, labels_of
from fastssl.methods import ImageMethod
from fastssl.ops.draws import drawing_apart
from fastssl.train.callbacks import Callback
from fastssl.train.shards import unsharded_parameters
from fastssl.train.trainer import Trainer

NEIGHBOURS, TEMPERATURE = 20, 0.07
LEAST, MOST = 20, 5000  # items of the evaluation


class OnlineProbe(Callback):
    """k-NN and linear probe accuracy every few epochs, on a fixed subset of the data (four fifths for fitting); of data
    with numbers to predict, R^2 of k-NN and of ridge regression.

    Training is bitwise unaffected: the encoder is in evaluation mode and the random state is restored. Rank 0 measures;
    the other processes wait.

    Args:
        source: items with labels or scores; those without are left out.
        every: epochs between two evaluations; the end of the run is evaluated too.
        seed: seed of the choice of items.
        on_error: "skip" leaves out items that cannot be read.

    Raises:
        ValueError: fewer than 20 such items, or fewer than two classes or numbers among them.
    """

    def __init__(self, source: Source, every: int, seed: int = 0, on_error: str = "raise") -> None:
        source = each_once(source)
        labels = source.labels
        self.scores = are_scores(labels)
        known = np.zeros(0, np.int64)
        if labels is not None and labels.ndim == 1:
            known = np.flatnonzero(~np.isnan(labels) if self.scores else labels >= 0)
        if labels is not None and labels.ndim > 1:
            raise ValueError(
                f"probe_every: expected one class per item, {source.name} has several; fastssl evaluate judges those"
            )
        if len(known) < LEAST or labels is None or len(np.unique(labels[known])) < 2:
            wanted = "items with different scores" if self.scores else "labelled items of two classes"
            raise ValueError(f"probe_every: expected at least {LEAST} {wanted}, {source.name} has {len(known)}")
        order = np.random.default_rng([17, seed]).permutation(known)[:MOST]
        self.source, self.every = source.subset(order), every
        if on_error == "skip":
            self.source = readable(self.source)[0]
        self.cut = int(0.8 * len(self.source))
        self.labels = torch.from_numpy(self.source.labels) if self.scores else labels_of(self.source)

    def on_step_end(self, trainer: Trainer) -> None:
        epoch, position = divmod(trainer.steps, trainer.steps_per_epoch)
        last = trainer.epochs is not None and trainer.steps == trainer.total_steps
        if not last and (position or epoch % self.every):
            return
        method = trainer.method
        assert isinstance(method, ImageMethod)
        with unsharded_parameters(method), drawing_apart():
            if trainer.fabric.is_global_zero:
                found = self.measure(encode(method.encoder, self.source, "pooled"))
                trainer.measured += [[trainer.steps, name, value] for name, value in found.items()]
        if trainer.fabric.world_size > 1:
            trainer.fabric.barrier()

    def measure(self, features: Tensor) -> dict[str, float]:
        """Returns "knn" and "linear" accuracy in percent of features [N, C] of the probe's items, or "knn_r2" and
        "linear_r2" of their scores."""
        train, test = np.arange(self.cut), np.arange(self.cut, len(self.labels))
        unit = centred(features, features[train].mean(0))
        labels = self.labels
        k = min(NEIGHBOURS, self.cut)
        if self.scores:
            near = knn_regression(unit[train], labels[train], unit[test], k, temperature=TEMPERATURE)
            found = {"knn_r2": near, "linear_r2": ridge_probe(features, labels, train, test)}
            return {name: regression_scores(numbers, labels[test])["r2"] for name, numbers in found.items()}
        knn = knn_accuracy(unit[train], labels[train], k, unit[test], labels[test], temperature=TEMPERATURE)
        return {"knn": knn, "linear": linear_probe(features, labels, train, test, 1e-4, 30)}
