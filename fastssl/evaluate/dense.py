"""Training of heads for detection and segmentation on frozen or trainable encoders, and their evaluation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fastssl._options import integer, plain_fields
from fastssl.augment import HALF, Augment, Params, RandomHorizontalFlip, RandomResizedCrop
from fastssl.data import Batch, Item, Loader, Objects, Scenes, Source, Subset
from fastssl.data.views import select_images
from fastssl.evaluate.features import allocate_features, progress_bar
from fastssl.evaluate.resuming import Resumption
from fastssl.models import Encoder, feature_maps
from fastssl.models.frozen import training_mode
from fastssl.models.modes import evaluation_mode
from fastssl.models.precision import autocast, check_precision, in_float32, training_arithmetic

TRAIN = ("head", "all")
CACHED = 2**32  # bytes of feature maps of a frozen encoder up to which they are computed once
BATCH = 16  # images of an evaluation at once


@dataclass
class DenseTuning:
    """Options of training for detection and segmentation: AdamW with a cosine schedule, crops and flips.

    Args:
        steps: number of steps.
        batch_size: images per step.
        rate: learning rate of the head, reached after a tenth of the steps; None: that of the task.
        encoder_rate: learning rate of the encoder, if it is trained.
        weight_decay: weight decay.
        size: pixels of a side to which images are resized; None: those of scenes, else twice the encoder's.
        crop: minimum and maximum area of random crops; not for frozen encoders, whose features are computed once.
        flip: probability of a horizontal flip; likewise.
        seed: seed of all random draws.
        precision: of the training: "32-true", "bf16-mixed", or "auto": "bf16-mixed" where that is faster.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> from fastssl.evaluate import DenseTuning
        >>> DenseTuning(steps=100).batch_size
        16
    """

    steps: int = 400
    batch_size: int = 16
    rate: float | None = None
    encoder_rate: float = 2e-3
    weight_decay: float = 1e-4
    size: int | None = None
    crop: tuple[float, float] = (0.4, 1.0)
    flip: float = 0.5
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        plain_fields(self)
        check_precision(self.precision)
        for name, least in (("steps", 1), ("batch_size", 2), ("seed", 0)):
            integer(name, getattr(self, name), least)
        if self.size is not None:
            integer("size", self.size, 8, also=" (pixels) or None")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay: expected a number >= 0, got {self.weight_decay!r}")
        for name in ("rate", "encoder_rate"):
            given = getattr(self, name)
            if given is not None and not given > 0:
                raise ValueError(f"{name}: expected a learning rate > 0, got {given!r}")

    def side(self, encoder: Encoder, source: Source) -> int:
        """Pixels of a side of the images of ``source``."""
        while isinstance(source, Subset):
            source = source.source
        return self.size or (source.size if isinstance(source, Scenes) else 2 * encoder.size)


class View(NamedTuple):
    """Which part of an image a view of ``size`` pixels shows, in pixels of the image, and whether it is flipped."""

    top: float
    left: float
    height: float
    width: float
    flipped: bool
    size: int


class Meter(Protocol):
    """Measures of a test set, image by image."""

    def add(self, predicted: Any, objects: Objects) -> None: ...

    def result(self) -> dict[str, float]:
        """Measure -> value in percent."""


class DenseTask(Protocol):
    """What a head predicts, and how it is trained and measured."""

    name: str
    rate: float  # a good learning rate of its head

    def head(self, channels: list[int], strides: list[float]) -> nn.Module:
        """A new head on feature maps; ``used`` are the indices of those that it looks at."""

    def target(self, item: Item, view: View) -> Tensor:
        """The target of a view, of the same shape for all items."""

    def loss(self, outputs: Any, targets: Tensor) -> Tensor: ...

    def predict(self, outputs: Any, size: int, sizes: Sequence[tuple[int, int]]) -> list[Any]:
        """Predictions in images of ``sizes`` from the outputs for their views of ``size`` pixels."""

    def meter(self) -> Meter: ...


class DenseModel(nn.Module):
    """An encoder, frozen or not, and a head on its feature maps."""

    def __init__(self, encoder: Encoder, task: DenseTask, size: int, frozen: bool) -> None:
        super().__init__()
        self.encoder = encoder if frozen else copy.deepcopy(encoder).float()
        self.frozen, self.size = frozen, size
        device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
        with torch.no_grad(), evaluation_mode(self.encoder):
            try:
                maps = feature_maps(self.encoder, torch.zeros(1, encoder.channels, size, size, device=device))
            except RuntimeError as error:
                raise ValueError(f"encoder: it cannot take images of {size} pixels: {error}") from error
        self.head = task.head([m.shape[1] for m in maps], [size / m.shape[2] for m in maps]).to(device)

    def train(self, mode: bool = True) -> DenseModel:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def maps(self, images: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return [m.float() for m in feature_maps(self.encoder, images)]

    def forward(self, images: Tensor) -> Any:
        return self.head(self.maps(images))

    def groups(self, task: DenseTask, options: DenseTuning) -> list[dict[str, Any]]:
        """Parameters to train, with their learning rates; biases and norms do not decay."""
        parts = [(self.head, options.rate or task.rate)]
        parts += [] if self.frozen else [(self.encoder, options.encoder_rate)]
        return [
            {
                "params": [p for p in part.parameters() if (p.dim() > 1) == matrix],
                "weight_decay": options.weight_decay if matrix else 0.0,
                "peak": rate,
            }
            for part, rate in parts
            for matrix in (True, False)
        ]


class DenseExamples:
    """Views of images with their targets: random crops and flips, or whole images."""

    def __init__(self, task: DenseTask, size: int, channels: int, options: DenseTuning | None) -> None:
        self.task, self.random, self.size = task, options is not None, size
        scale, flip = (options.crop, options.flip) if options is not None else ((1.0, 1.0), 0.0)
        steps: list[Any] = [RandomResizedCrop(size, scale=scale), RandomHorizontalFlip(flip), HALF]
        self.augment = Augment(steps, channels_last=True, channels=channels)

    def examples(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> Batch:
        images = select_images(items)
        sizes = [image.shape[:2] for image in images]
        if self.random:
            drawn = self.augment.sample(sizes, seed=seed, epoch=epoch, ids=ids)
        else:
            whole = [[0.0, 0.0, height, width, 0.0] for height, width in sizes]
            drawn = Params(np.array(whole, dtype=np.float64).reshape(-1, 5), self.augment.columns)
        x = self.augment.apply(images, drawn, serial=True)
        targets = [
            self.task.target(item, View(row[0], row[1], row[2], row[3], bool(row[4]), self.size))
            for item, row in zip(items, drawn.values.tolist())
        ]
        return Batch([x, torch.stack(targets)], None, torch.from_numpy(np.asarray(ids, dtype=np.int64)))

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        return 1


class FrozenFeatures:
    """Feature maps of the last frozen encoder on a training set, computed once for several heads."""

    def __init__(self) -> None:
        self.encoder: Encoder | None = None
        self.maps: dict[int, Tensor] = {}
        self.targets = torch.zeros(0)

    def of(self, model: DenseModel, task: DenseTask, source: Source) -> FrozenFeatures | None:
        """Those of a model's encoder; None if they are too large."""
        if self.encoder is model.encoder:
            return self
        shape = (1, model.encoder.channels, model.size, model.size)
        device = next((p.device for p in model.encoder.parameters()), torch.device("cpu"))
        with torch.no_grad():
            one = model.maps(torch.zeros(shape, device=device))
        used = model.head.used
        assert isinstance(used, tuple)
        if 4 * len(source) * sum(one[k].numel() for k in used) > CACHED:
            return None
        self.maps = {k: allocate_features(len(source), one[k].numel()).view(-1, *one[k].shape[1:]) for k in used}
        parts = []
        examples = DenseExamples(task, model.size, model.encoder.channels, None)
        with torch.no_grad(), progress_bar("features") as show:
            for batch in Loader(source, examples, min(BATCH, len(source)), shuffle=False, drop_last=False):
                found = model.maps(batch.views[0].to(device))
                for k in used:
                    self.maps[k][batch.ids] = found[k].float().cpu()
                parts.append(batch.views[1])
                show(int(batch.ids[-1]) + 1, len(source))
        self.encoder, self.targets = model.encoder, torch.cat(parts)
        return self

    def batches(self, rows: np.ndarray, levels: int, options: DenseTuning, first: int) -> Iterator[tuple[Any, Tensor]]:
        """Batches from number ``first`` on, without end."""
        size = min(options.batch_size, len(rows))
        epoch, begin = divmod(first, len(rows) // size)
        while True:
            order = np.random.default_rng([options.seed, epoch]).permutation(rows)
            for at in range(begin * size, len(order) - size + 1, size):
                ids = torch.from_numpy(order[at : at + size])
                # Maps that the head does not look at are empty.
                yield [self.maps[k][ids] if k in self.maps else ids[:0] for k in range(levels)], self.targets[ids]
            epoch, begin = epoch + 1, 0


def train_dense(
    model: DenseModel,
    task: DenseTask,
    source: Source,
    rows: np.ndarray,
    options: DenseTuning,
    features: FrozenFeatures | None = None,
    resumption: Resumption | None = None,
) -> None:
    """Trains the head of a model, and its encoder unless that is frozen, on some items of a source.

    With a ``resumption`` it goes on where it was interrupted.

    Raises:
        ValueError: fewer than two items, or items without what the task needs.
    """
    if len(rows) < 2:
        raise ValueError(f"data: expected at least two images to train on, got {len(rows)}")
    groups = model.groups(task, options)
    parameters = [p for group in groups for p in group["params"]]
    device, optimizer = parameters[0].device, torch.optim.AdamW(groups)
    kept = None if features is None or not model.frozen else features.of(model, task, source)
    levels = 1 + max(model.head.used)  # type: ignore[arg-type]
    resumption = resumption or Resumption(None, "")
    done = resumption.load(model, optimizer)
    batches: Iterator[tuple[Any, Tensor]]
    if kept is not None:
        batches, forward = kept.batches(rows, levels, options, done), model.head
    else:
        examples = DenseExamples(task, model.size, model.encoder.channels, options)
        size = min(options.batch_size, len(rows))
        loader = Loader(Subset(source, rows), examples, size, seed=options.seed)
        epochs = -(-options.steps // len(loader))
        epoch, batch = divmod(done, len(loader))
        made = loader.run(epoch, batch, epochs=epochs - epoch)
        batches, forward = ((batch.views[0], batch.views[1]) for batch in made), model
    training_mode(model)
    warm, half = max(1, options.steps // 10), autocast(options.precision, device)
    with progress_bar(task.name) as show, training_arithmetic(device):
        for step, (inputs, targets) in zip(range(done, options.steps), batches):
            factor = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / options.steps))
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            moved = [m.to(device) for m in inputs] if isinstance(inputs, list) else inputs.to(device)
            with half:
                outputs = forward(moved)
            loss = task.loss(in_float32(outputs), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
            resumption.step(model, optimizer, step + 1)
            show(step + 1, options.steps)
    batches.close()  # type: ignore[attr-defined]
    model.eval()


@torch.no_grad()
def evaluate_dense(
    model: DenseModel,
    task: DenseTask,
    source: Source,
    keep: Callable[[Item, Any], None] | None = None,
) -> dict[str, float]:
    """The measures of a model on a test set.

    Args:
        model: a trained model.
        task: the task.
        source: the test set.
        keep: called with every item and its prediction, for pictures.
    """
    meter, examples = task.meter(), DenseExamples(task, model.size, model.encoder.channels, None)
    device = next((p.device for p in model.head.parameters()), torch.device("cpu"))
    model.eval()
    with progress_bar(f"{task.name}, test") as show:
        for at in range(0, len(source), BATCH):
            ids = np.arange(at, min(at + BATCH, len(source)))
            items = source.items(ids)
            x = examples.examples(items, 0, 0, ids).views[0].to(device)
            objects = [require_objects(item) for item in items]
            for item, predicted, truth in zip(
                items, task.predict(model(x), model.size, [o.size for o in objects]), objects
            ):
                meter.add(predicted, truth)
                if keep is not None:
                    keep(item, predicted)
            show(at + len(ids), len(source))
    return meter.result()


def require_objects(item: Item) -> Objects:
    """The objects of an item.

    Raises:
        ValueError: it has none.
    """
    if item.objects is None:
        raise ValueError(f"data: expected boxes or a segmentation of every image, {item.name} has none")
    return item.objects
