"""Fine-tuning: supervised training of the whole network, from pretrained or random weights."""

from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastssl.augment import HALF, Augment, RandomHorizontalFlip, RandomResizedCrop
from fastssl.data import Loader, Source
from fastssl.data import open as open_source
from fastssl.evaluate.features import plain_images, progress_bar
from fastssl.evaluate.linear import _loss
from fastssl.evaluate.metrics import metric_of
from fastssl.models import Encoder


@dataclass
class FineTuning:
    """Options of fine-tuning (Chen et al. 2020, appendix B.8): SGD with Nesterov momentum, random crops and flips.

    Args:
        epochs: maximum number of epochs over the labelled rows; at least ``least_steps`` steps are taken.
        least_steps: minimum number of steps, for small data sets.
        batch_size: rows per step.
        rates: candidate learning rates, selected on a validation fifth of the training rows.
        weight_decay: L2 penalty.
        patience: validation checks without improvement after which a learning rate is abandoned.
        checks: validation checks per run.
        crop: minimum and maximum area of random crops.
        flip: probability of a horizontal flip.
        spatial: classify the 4 x 4 feature map instead of its mean.
        metric: "top-1", "mean per class" or "11-point mAP".
        seed: seed of all random draws.

    Raises:
        ValueError: an option out of range, or an unknown metric.

    Example:
        >>> from fastssl.evaluate import FineTuning
        >>> options = FineTuning(epochs=1, rates=(0.01,))
    """

    epochs: int = 30
    least_steps: int = 200
    batch_size: int = 64
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    weight_decay: float = 1e-4
    patience: int = 4
    checks: int = 10
    crop: tuple[float, float] = (0.4, 1.0)
    flip: float = 0.5
    spatial: bool = True
    metric: str = "top-1"
    seed: int = 0

    def check(self) -> None:
        for name in ("epochs", "batch_size", "patience", "checks"):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or given < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {given!r}")
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"rates: expected learning rates > 0, got {self.rates}")
        metric_of(self.metric)


@dataclass
class FineTuned:
    """The test score in percent, the selected learning rate, and the validation score of every rate."""

    score: float
    rate: float
    steps: int
    validation: dict[float, float] = field(default_factory=dict)


def finetune(
    encoder: Encoder,
    data: Any,
    labels: Tensor,
    train: np.ndarray,
    test: np.ndarray,
    options: FineTuning | None = None,
) -> FineTuned:
    """Fine-tunes a copy of an encoder with a linear classifier.

    Learning rate and number of steps are selected on a validation fifth of the training rows (early stopping, the later
    of equals); the network is then retrained on all training rows with a rate that decays to 0 over these steps.

    Args:
        encoder: pretrained, or randomly initialised for a supervised baseline; not modified.
        data: anything that :func:`fastssl.data.open` takes; images are cropped at full resolution.
        labels: [N], or [N, classes] of -1, 0 and 1 for several classes per item.
        train: indices of the labelled rows.
        test: indices of the test rows.
        options: see :class:`FineTuning`.

    Raises:
        ValueError: fewer than two training rows, or wrong options.

    Example:
        >>> import numpy as np, torch
        >>> from fastssl.data import digits
        >>> from fastssl.evaluate import FineTuning
        >>> from fastssl.models import build_encoder
        >>> options = {"name": "resnet", "size": 16, "width": 4}
        >>> from fastssl.evaluate import finetune
        >>> data, rows = digits().subset(range(40)), np.arange(40)
        >>> how = FineTuning(epochs=1, least_steps=1, batch_size=16, rates=(0.01,))
        >>> tuned = finetune(build_encoder(options), data, torch.from_numpy(data.labels), rows[:30], rows[30:], how)
    """
    options = options or FineTuning()
    options.check()
    train, test, source = np.asarray(train), np.asarray(test), open_source(data)
    if len(train) < 2:
        raise ValueError(f"train: expected at least two rows, got {len(train)}")
    order = np.random.default_rng([options.seed, len(train)]).permutation(train)
    cut = max(1, len(order) // 5)
    held, rest = order[:cut], order[cut:]
    found: dict[float, tuple[float, int]] = {}
    for rate in options.rates if len(options.rates) > 1 else ():
        found[rate] = _train(encoder, source, labels, rest, rate, options, validation=held)[:2]
    if found:
        rate = max(found, key=lambda r: found[r][0])
        share = found[rate][1] / _steps(len(rest), options)
    else:
        rate, share = options.rates[0], 1.0
    # Retrain with a schedule that decays to 0 over the best number of steps: stopping the longer schedule early instead
    # gave 53 % instead of 60 % with 10 % of the emoji's labels.
    steps = max(1, round(share * _steps(len(train), options)))
    _, _, model = _train(encoder, source, labels, train, rate, options, total=steps)
    score = _score(model, encoder, source, labels, test, options.metric)
    return FineTuned(score, rate, steps, {r: s for r, (s, _) in found.items()})


def _steps(rows: int, options: FineTuning) -> int:
    return max(options.least_steps, options.epochs * max(1, rows // options.batch_size))


class _Classifier(nn.Module):
    def __init__(self, encoder: Encoder, classes: int, spatial: bool) -> None:
        super().__init__()
        self.encoder, self.spatial = copy.deepcopy(encoder), spatial
        self.head = nn.Linear(int(encoder.shape_of(encoder.spatial if spatial else encoder)[1]), classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder.spatial(x) if self.spatial else self.encoder(x))
        return result


def _train(
    encoder: Encoder,
    source: Source,
    labels: Tensor,
    rows: np.ndarray,
    rate: float,
    options: FineTuning,
    *,
    validation: np.ndarray | None = None,
    total: int | None = None,
) -> tuple[float, int, nn.Module]:
    """Trains; returns the best validation score, the step at which it was reached, and the final network."""
    total, batch = total or _steps(len(rows), options), min(options.batch_size, len(rows))
    classes = int(labels.max()) + 1 if labels.dim() == 1 else labels.shape[1]
    model = _Classifier(encoder, classes, options.spatial).train()
    augment = Augment(
        [RandomResizedCrop(encoder.size, scale=options.crop), RandomHorizontalFlip(options.flip), HALF],
        channels_last=True,
        channels=encoder.channels,
    )
    optimizer = torch.optim.SGD(
        model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=options.weight_decay
    )
    best, best_step, worse = -math.inf, total, 0
    every = max(1, total // options.checks)
    loader = Loader(source.subset(rows), augment, batch, seed=options.seed)
    own = labels[rows]
    batches = loader.run(0, epochs=-(-total // len(loader)))
    with progress_bar("fine-tuning") as show, torch.random.fork_rng(), contextlib.closing(batches):  # type: ignore[type-var]
        for step, chosen in zip(range(total), batches):
            show(step + 1, total)
            torch.manual_seed(options.seed * 1_000_003 + step)  # for dropout
            warm = min(1.0, (step + 1) / max(1, total // 20))
            optimizer.param_groups[0]["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / total))
            loss = _loss(model(chosen.views[0]), own[chosen.ids])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if validation is not None and ((step + 1) % every == 0 or step + 1 == total):
                score = _score(model, encoder, source, labels, validation, options.metric)
                if score >= best:
                    best, best_step, worse = score, step + 1, 0
                else:
                    worse += 1
                if worse >= options.patience:
                    break
    return best, best_step, model


@torch.no_grad()
def _score(model: nn.Module, encoder: Encoder, source: Source, labels: Tensor, rows: np.ndarray, metric: str) -> float:
    model.eval()
    parts = []
    for x in plain_images(source.subset(rows), encoder.size, channels=encoder.channels):
        parts.append(model(x.contiguous(memory_format=torch.channels_last)).float())
    model.train()
    return metric_of(metric)(torch.cat(parts), labels[rows])
