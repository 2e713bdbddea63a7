"""The rule of fine-tuning, of images and texts alike: rate and steps from a fifth of the labels, then all of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fastssl._options import integer, plain_fields
from fastssl.evaluate.features import job, progress_bar
from fastssl.evaluate.linear import _loss
from fastssl.evaluate.metrics import metric_of
from fastssl.models.frozen import training_mode
from fastssl.models.precision import autocast, check_precision, training_arithmetic
from fastssl.ops.draws import drawing_apart, seed_step


@dataclass
class Tuning:
    """Options that every fine-tuning has.

    Args:
        epochs: maximum number of epochs over the labelled rows; at least ``least_steps`` steps are taken.
        least_steps: minimum number of steps, for small data sets.
        most_steps: maximum number of steps, for large data sets; None: that of ``epochs``.
        batch_size: rows per step.
        rates: candidate learning rates, selected on a validation fifth of the training rows.
        weight_decay: weight decay of the optimiser.
        patience: validation checks without improvement after which a learning rate is abandoned.
        checks: validation checks per run.
        metric: a name of :data:`fastssl.evaluate.METRICS`.
        seed: seed of all random draws.
        precision: of the training: "32-true", "bf16-mixed", or "auto": "bf16-mixed" where that is faster.
    """

    epochs: int = 30
    least_steps: int = 200
    most_steps: int | None = None
    batch_size: int = 64
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    weight_decay: float = 1e-4
    patience: int = 4
    checks: int = 10
    metric: str = "top-1"
    seed: int = 0
    precision: str = "auto"

    def check(self) -> None:
        plain_fields(self)
        for name in ("epochs", "batch_size", "patience", "checks"):
            integer(name, getattr(self, name), 1)
        if self.most_steps is not None:
            integer("most_steps", self.most_steps, 1)
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"rates: expected learning rates > 0, got {self.rates}")
        metric_of(self.metric)
        check_precision(self.precision)

    def steps(self, rows: int) -> int:
        """Steps on ``rows`` labelled rows."""
        steps = max(self.least_steps, self.epochs * max(1, rows // self.batch_size))
        return steps if self.most_steps is None else min(steps, self.most_steps)


@dataclass
class FineTuned:
    """The result of a fine-tuning.

    Attributes:
        score: the test score in percent.
        rate: the selected learning rate.
        steps: the selected number of steps.
        validation: the best validation score of every rate.
        outputs: [N, classes], scores of the test rows.
        cut: texts that were cut to the network's length.
    """

    score: float
    rate: float
    steps: int
    validation: dict[float, float] = field(default_factory=dict)
    outputs: Tensor = field(default_factory=lambda: torch.zeros(0, 0), repr=False, compare=False)
    cut: int = 0


class Task(Protocol):
    """What is fine-tuned: a network that starts anew for every learning rate, on the rows of a data set."""

    def start(self, rate: float, rows: np.ndarray) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A copy of the network with a new classifier, and its optimiser; ``rows`` are those it will be trained on."""

    def batches(self, rows: np.ndarray, size: int, epochs: int) -> Iterator[tuple[Any, Tensor]]:
        """Inputs of the network, and which of ``rows`` they are, in an order that is shuffled in every epoch; an epoch
        has at least one batch."""

    def scores(self, model: nn.Module, rows: np.ndarray) -> Tensor:
        """Outputs [N, classes] on ``rows``, in evaluation mode."""


def tune(task: Task, labels: Tensor, train: np.ndarray, test: np.ndarray, options: Tuning) -> FineTuned:
    """Selects learning rate and number of steps on a validation fifth of ``train`` (early stopping, the later of
    equals), trains on all of it with a rate that decays to 0 over these steps, and scores ``test``.

    Raises:
        ValueError: fewer than two training rows, scores that are all the same or not finite, or wrong options.
    """
    options.check()
    train, test = np.asarray(train), np.asarray(test)
    if len(train) < 2:
        raise ValueError(f"train: expected at least two rows, got {len(train)}")
    if labels.is_floating_point() and labels.dim() == 1:
        _check_scores(labels, train, test)
    order = np.random.default_rng([options.seed, len(train)]).permutation(train)
    cut = max(1, len(order) // 5)
    held, rest = order[:cut], order[cut:]
    found: dict[float, tuple[float, int]] = {}
    candidates = options.rates if len(options.rates) > 1 else ()
    with job("fine-tuning", len(candidates) + 1) as part:
        for rate in candidates:
            with part():
                found[rate] = train_task(task, labels, rest, rate, options, validation=held)[:2]
        if found:
            rate = max(found, key=lambda r: found[r][0])
            share = found[rate][1] / options.steps(len(rest))
        else:
            rate, share = options.rates[0], 1.0
        # Retrain with a schedule that decays to 0 over the best number of steps: stopping the longer schedule early
        # instead gave 53 % instead of 60 % with 10 % of the emoji's labels.
        steps = max(1, round(share * options.steps(len(train))))
        with part():
            model = train_task(task, labels, train, rate, options, total=steps)[2]
    outputs = task.scores(model, test)
    score = metric_of(options.metric)(outputs, labels[test])
    return FineTuned(score, rate, steps, {r: s for r, (s, _) in found.items()}, outputs)


def _check_scores(labels: Tensor, train: np.ndarray, test: np.ndarray) -> None:
    for part, rows in (("train", train), ("test", test)):
        scores = labels[torch.from_numpy(rows)]
        if not bool(scores.isfinite().all()):
            wrong = rows[int((~scores.isfinite()).nonzero()[0])]
            raise ValueError(f"labels: expected finite scores in {part}, got {labels[wrong]:g} for row {wrong}")
        if len(rows) > 1 and bool((scores == scores[0]).all()):
            raise ValueError(
                f"labels: expected scores that differ, got {scores[0]:g} for all {len(rows)} rows of {part}"
            )


def train_task(
    task: Task,
    labels: Tensor,
    rows: np.ndarray,
    rate: float,
    options: Tuning,
    *,
    validation: np.ndarray | None = None,
    total: int | None = None,
) -> tuple[float, int, nn.Module]:
    """Trains; returns the best validation score, the step at which it was reached, and the final network."""
    total, size = total or options.steps(len(rows)), min(options.batch_size, len(rows))
    best, best_step, worse = -math.inf, total, 0
    every, own = max(1, total // options.checks), labels[rows]
    with (
        progress_bar("fine-tuning") as show,
        drawing_apart(),
        training_arithmetic(cpu := torch.device("cpu")),
    ):
        half = autocast(options.precision, cpu)
        torch.manual_seed(options.seed)  # for the weights of the classifier
        model, optimizer = task.start(rate, rows)
        training_mode(model)
        batches = task.batches(rows, size, -(-total // max(1, len(rows) // size)))
        with contextlib.closing(batches):  # type: ignore[type-var]
            for step, (inputs, ids) in zip(range(total), batches):
                show(step + 1, total)
                seed_step(options.seed * 1_000_003 + step)  # for dropout
                warm = min(1.0, (step + 1) / max(1, total // 20))
                for group in optimizer.param_groups:
                    group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / total))
                with half:
                    outputs = model(*inputs)
                loss = _loss(outputs.float(), own[ids])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if validation is not None and ((step + 1) % every == 0 or step + 1 == total):
                    score = metric_of(options.metric)(task.scores(model, validation), labels[validation])
                    if score >= best:  # NaN of a network that diverged is not
                        best, best_step, worse = score, step + 1, 0
                    else:
                        worse += 1
                    if worse >= options.patience:
                        break
    return best, best_step, model
