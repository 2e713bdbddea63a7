"""Base class of all methods: examples, networks and a loss. docs/how-a-method-works.md follows SimCLR through it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from fastssl.augment import uniform
from fastssl.data.captions import CaptionError
from fastssl.data.source import CheckedSource, Item, Source
from fastssl.data.views import RESERVED_VIEW
from fastssl.models.samples import Samples

_KINDS = {"images": "an image", "text": "a text", "label": "a label", "signal": "a signal", "tokens": "tokens"}


def lacking(method: str, need: str, item: Item, where: str, error: type[ValueError] = ValueError) -> ValueError:
    """The ``error`` of an item ``where`` without a field that a method needs; it says what the item has instead."""
    there = [
        kind for field, kind in _KINDS.items() if field not in (need, "label") and getattr(item, field) is not None
    ]
    got = "none" if getattr(item, need) is None else "an empty one"
    text = f"data: {method} needs {_KINDS[need]} with each item, {where} has {got}"
    if there:
        text += f", but {' and '.join(there)}"
    if need == "images" and item.text is not None:
        text += "; a list of images is opened with their folder, list.txt#images=FOLDER, and its columns, :path=NAME"
    if need == "label" and item.text is not None:
        text += "; its strings are texts, classes are given by labels= of fastssl.data.open"
    return error(text)


def with_texts(source: Source, method: str) -> Source:
    """The source, whose items are read for a method that needs a text with each: one without, or with an empty one,
    raises a :class:`fastssl.data.CaptionError`."""

    def check(item: Item) -> None:
        if not (item.text or "").strip():
            raise lacking(method, "text", item, f"{item.name or 'one'} of {source.name}", CaptionError)

    return CheckedSource(source, check)


class Method(nn.Module):
    """Base of all methods.

    A method turns items into examples (``examples``) and a batch of examples into a loss (``forward``); ``after_step``
    updates momentum encoders and schedules. Data loading, optimiser, devices and logging belong to the
    :class:`fastssl.train.Trainer`, which reads these class attributes:

    - ``needs``: the fields of :class:`fastssl.data.Item` that ``examples`` reads.
    - ``min_rows``: the smallest batch that trains: 2 where the loss compares the items of a batch, or batch norm does.
    - ``needs_dataset_features``: before each epoch, ``before_epoch`` receives the features of the whole data set
      (clustering methods); ``sampling_weights`` may then weight the items.
    - ``has_unused_parameters``: some parameters get no gradient in some steps (``find_unused_parameters`` of DDP).
    - ``unit``: what is counted in reports of speed; an item has ``per_item`` of them.
    - ``data``: what the command line trains on by default.
    - ``held_out``: a run by name or from the command line trains on the training split of
      :func:`fastssl.data.open_splits`; ``fastssl evaluate`` scores the test split.
    - ``generates``: what ``generate`` makes, "texts", "images" or "audio"; None: the method is not generative.
    - ``separable``: the loss is the mean of ``terms(batch)`` terms, or the sum of several such ``means``. Each term is
      independent of other rows (except through batch norm) and of earlier batches, so that gradients may be accumulated
      over micro-batches.
    """

    family: ClassVar[str]
    paper: ClassVar[str]
    predicts: ClassVar[str]
    loss: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    min_rows: ClassVar[int] = 1
    unit: ClassVar[str] = "items"
    data: ClassVar[str] = "emoji"
    held_out: ClassVar[bool] = False
    generates: ClassVar[str | None] = None
    needs_dataset_features: ClassVar[bool] = False
    has_unused_parameters: bool = False
    separable: bool = False
    started_from: str | None = None  # --init of its run: recorded, so that the run is resumed without it
    asked_vocabulary: int | None = None  # of the tokenizer that was trained for its run, which may have fewer tokens

    @property
    def per_item(self) -> int:
        """Number of ``unit`` that an item has."""
        return 1

    def prepare(self, source: Source) -> Source:
        """The source that the method trains on, made of the data: windows of a token file, for language methods."""
        return source

    def examples(self, items: Sequence[Item], seed: int, epoch: int = 0, ids: np.ndarray | None = None) -> Any:
        """Turns items into the rows of a batch, a named tuple of tensors with a field ``ids``.

        Loader threads call it for parts of a batch, so it must be a pure function of its arguments, with random draws
        keyed by (seed, epoch, id) per item. ``ids`` default to 0 to B - 1.
        """
        raise NotImplementedError

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        """The factor (1, 2, 4 or 8) by which an image of ``size`` may be decoded smaller for an item's examples."""
        return 1

    @staticmethod
    def uniform(seed: int, epoch: int, ids: np.ndarray, block: int = 0, count: int = 4) -> np.ndarray:
        """Uniform draws in (0, 1), independent of the augmentation's: float64 [B, count]; block 0 is reserved."""
        return uniform(seed, epoch, ids, view=RESERVED_VIEW, block=block, count=count)

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch.

        A method that embeds rows independently defines ``represent`` and ``objective`` instead: then the loss can
        cover a batch whose activations exceed memory (``Pretraining(chunk=...)``).
        """
        return self.batch_loss(batch, *self.represent(*self.inputs(batch)))

    def inputs(self, batch: Any) -> list[Tensor]:
        """The tensors of a batch that ``represent`` takes."""
        raise NotImplementedError

    def represent(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps inputs [B, ...] to the representations that the loss compares, [B, ...] each, independently per row."""
        raise NotImplementedError(f"{type(self).__name__} does not embed rows independently: it needs whole batches")

    def batch_loss(self, batch: Any, *representations: Tensor) -> Tensor:
        """The ``objective`` with what it needs of the batch besides the representations."""
        return self.objective(*representations, labels=batch.labels)

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of all representations."""
        raise NotImplementedError

    def terms(self, batch: Any) -> int | tuple[int, ...]:
        """The number of terms that the loss of a batch is the mean of; a number for each of ``means``."""
        return len(batch.ids)

    def means(self, batch: Any) -> tuple[Tensor, ...]:
        """The means whose sum is the loss, for methods with several."""
        return (self(batch),)

    def after_step(self, progress: float) -> None:
        """Called after every optimiser step; ``progress`` is the completed fraction of the run."""

    def sample_features(self, batch: Any) -> Tensor | None:
        """Features of a few rows [n, C] in evaluation mode, for detecting collapse; None: the method has none."""
        return None

    def visualize(self, batch: Any) -> dict[str, Tensor]:
        """Images that show the predictions on a batch: name -> [B, 3, S, S] in [-1, 1]."""
        return {}

    def pretext_metrics(self, batch: Any) -> dict[str, float]:
        """Metrics of the pretext task: "accuracy" and "chance" in percent, where the task is a classification."""
        return {}

    def generate(self, count: int = 1, seed: int = 0) -> Samples:
        """Draws samples; sample k depends on (seed, k) alone. Further arguments are options of ``fastssl generate``.

        Raises:
            ValueError: the method is not generative, or an option out of range.
        """
        raise ValueError(f"method: expected a generative one, {type(self).__name__} does not generate")

    def plain_examples(self) -> Any:
        """Makes the unaugmented examples that ``dataset_features`` takes."""
        raise NotImplementedError

    def dataset_features(self, batch: Any) -> Tensor:
        """Features [B, C] of unaugmented items, as passed to ``before_epoch``."""
        raise NotImplementedError

    def before_epoch(self, features: Tensor, epoch: int, seed: int) -> None:
        """Called before each epoch with the ``dataset_features`` [N, C] of all items."""

    def sampling_weights(self) -> Tensor | None:
        """Relative sampling weight per item [N]; None: each item once per epoch."""
        return None

    def assets(self) -> dict[str, str]:
        """Text files that belong to a checkpoint: name -> content."""
        return {}

    @classmethod
    def arguments(cls) -> dict[str, inspect.Parameter]:
        """The arguments of the class by name, and of those that it hands its further arguments on to."""
        found: dict[str, inspect.Parameter] = {}
        for one in cls.__mro__:
            if "__init__" not in vars(one):
                continue
            own = list(inspect.signature(one.__init__).parameters.values())[1:]  # type: ignore[misc]
            for parameter in own:
                if parameter.kind is not parameter.VAR_KEYWORD:
                    found.setdefault(parameter.name, parameter)
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
                break
        return found

    @classmethod
    def about(cls) -> dict[str, Any]:
        """The row of ``fastssl methods``."""
        return {"family": cls.family, "paper": cls.paper, "predicts": cls.predicts, "loss": cls.loss}
