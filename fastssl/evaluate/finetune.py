"""Fine-tuning of image encoders: supervised training of the whole network, from pretrained or random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastssl.augment import HALF, Augment, RandomHorizontalFlip, RandomResizedCrop
from fastssl.data import Loader, Source
from fastssl.data import open as open_source
from fastssl.evaluate.features import labels_of, plain_images
from fastssl.evaluate.tuning import FineTuned, Tuning, train_task, tune
from fastssl.models import Encoder
from fastssl.models.modes import evaluation_mode


@dataclass
class FineTuning(Tuning):
    """Options of fine-tuning (Chen et al. 2020, appendix B.8): SGD with Nesterov momentum, random crops and flips.

    Args:
        epochs: maximum number of epochs over the labelled rows; at least ``least_steps`` steps are taken.
        least_steps: minimum number of steps, for small data sets.
        most_steps: maximum number of steps, for large data sets; None: that of ``epochs``.
        batch_size: rows per step.
        rates: candidate learning rates, selected on a validation fifth of the training rows.
        weight_decay: L2 penalty.
        patience: validation checks without improvement after which a learning rate is abandoned.
        checks: validation checks per run.
        metric: "top-1", "mean per class" or "11-point mAP".
        seed: seed of all random draws.
        precision: of the training: "32-true", "bf16-mixed", or "auto": "bf16-mixed" where that is faster.
        crop: minimum and maximum area of random crops.
        flip: probability of a horizontal flip.
        spatial: classify the 4 x 4 feature map instead of its mean.

    Raises:
        ValueError: an option out of range, or an unknown metric.

    Example:
        >>> from fastssl.evaluate import FineTuning
        >>> options = FineTuning(epochs=1, rates=(0.01,))
    """

    crop: tuple[float, float] = (0.4, 1.0)
    flip: float = 0.5
    spatial: bool = True


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
    return tune(_Images(encoder, open_source(data), labels, options), labels, train, test, options)


def supervised_encoder(encoder: Encoder, data: Any, options: FineTuning | None = None) -> Encoder:
    """A copy of an encoder after supervised classification of labelled images, in evaluation mode.

    Args:
        encoder: usually randomly initialised; not modified.
        data: anything that :func:`fastssl.data.open` takes, with labels.
        options: see :class:`FineTuning`; the first of its rates is used.

    Raises:
        ValueError: data without labels.

    Example:
        >>> from fastssl.data import digits
        >>> from fastssl.evaluate import FineTuning, supervised_encoder
        >>> from fastssl.models import build_encoder
        >>> how = FineTuning(epochs=1, least_steps=1, batch_size=16)
        >>> encoder = build_encoder({"name": "resnet", "size": 16, "width": 4})
        >>> supervised_encoder(encoder, digits().subset(range(40)), how).dim
        16
    """
    source, options = open_source(data), options or FineTuning(rates=(0.01,))
    labels, rows = labels_of(source), np.arange(len(source))
    options.check()
    task, steps = _Images(encoder, source, labels, options), options.steps(len(rows))
    model = train_task(task, labels, rows, options.rates[0], options, total=steps)[2]
    assert isinstance(model, _Classifier)
    return model.encoder.eval()


class _Classifier(nn.Module):
    def __init__(self, encoder: Encoder, classes: int, spatial: bool) -> None:
        super().__init__()
        self.encoder, self.spatial = copy.deepcopy(encoder).float(), spatial
        self.head = nn.Linear(int(encoder.shape_of(encoder.spatial if spatial else encoder)[1]), classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder.spatial(x) if self.spatial else self.encoder(x))
        return result


class _Images:
    """An encoder with a linear classifier, on random crops of images."""

    def __init__(self, encoder: Encoder, source: Source, labels: Tensor, options: FineTuning) -> None:
        self.encoder, self.source, self.options = encoder, source, options
        self.classes = int(labels.max()) + 1 if labels.dim() == 1 else labels.shape[1]
        self.augment = Augment(
            [RandomResizedCrop(encoder.size, scale=options.crop), RandomHorizontalFlip(options.flip), HALF],
            channels_last=True,
            channels=encoder.channels,
        )

    def start(self, rate: float, rows: np.ndarray) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = _Classifier(self.encoder, self.classes, self.options.spatial)
        decay = self.options.weight_decay
        return model, torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=decay)

    def batches(self, rows: np.ndarray, size: int, epochs: int) -> Iterator[tuple[Any, Tensor]]:
        loader = Loader(self.source.subset(rows), self.augment, size, seed=self.options.seed)
        for chosen in loader.run(0, epochs=epochs):
            yield (chosen.views[0],), chosen.ids

    @torch.no_grad()
    def scores(self, model: nn.Module, rows: np.ndarray) -> Tensor:
        parts = []
        with evaluation_mode(model):
            for x in plain_images(self.source.subset(rows), self.encoder.size, channels=self.encoder.channels):
                parts.append(model(x.contiguous(memory_format=torch.channels_last)).float())
        return torch.cat(parts)
