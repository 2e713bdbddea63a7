"""What a method is: examples + networks + loss, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from fastssl.augment import uniform
from fastssl.data.source import Item
from fastssl.data.views import TURNS


class Method(nn.Module):
    """Base of all methods.

    A method makes examples of items (``examples``), turns a batch of them into a loss (``forward``), and may move what
    follows the networks after a step of the optimiser (``after_step``). One that ``studies`` its data is given the
    descriptions of all items before each epoch (``study``) and may ask for some of them more often than others
    (``weights``). Data, optimiser, devices and logging are the loop's.

    What the loop asks of a class: ``needs``, the fields of an :class:`fastssl.data.Item` that ``examples`` reads;
    ``least_rows``, how many a batch needs; ``studies``; ``trains_parts``, whether some parameters get no gradient in
    some steps; ``separable``, whether the loss is the mean of ``terms(batch)`` terms, none of which knows of other rows
    (but for batch norm) or of those of earlier batches: then a batch may be cut, and what is drawn or remembered does
    not change by it.
    """

    family: ClassVar[str]
    paper: ClassVar[str]
    predicts: ClassVar[str]
    loss: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    least_rows: ClassVar[int] = 1
    studies: ClassVar[bool] = False
    trains_parts: bool = False
    separable: bool = False

    def examples(self, items: Sequence[Item], seed: int, epoch: int = 0, ids: np.ndarray | None = None) -> Any:
        """Items to rows of a batch, a named tuple of tensors that has ``ids``.

        Threads call it for parts of a batch: what it gives depends on its arguments alone, and what is drawn on
        (seed, epoch, id) of each item alone; ``ids`` are 0 to B - 1 unless given.
        """
        raise NotImplementedError

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        """By how much (1, 2, 4 or 8) an image of that size may be smaller for the examples of an item."""
        return 1

    @staticmethod
    def uniform(seed: int, epoch: int, ids: np.ndarray, block: int = 0, count: int = 4) -> np.ndarray:
        """Numbers in (0, 1) for every item, which no augmentation draws: float64 [B, count]; block 0 is taken."""
        return uniform(seed, epoch, ids, view=TURNS, block=block, count=count)

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch.

        A method whose rows meet only in its loss has ``represent`` and ``objective`` instead: then the loss can see
        a batch that the encoder cannot hold (``Pretraining(chunk=...)``).
        """
        return self.objective(*self.represent(*self.inputs(batch)), labels=batch.labels)

    def inputs(self, batch: Any) -> list[Tensor]:
        """The tensors of a batch that ``represent`` takes."""
        raise NotImplementedError

    def represent(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs [B, ...] to what the loss compares, [B, ...] each, row by row."""
        raise NotImplementedError(f"{type(self).__name__} has no rows of its own: it needs whole batches")

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of all representations."""
        raise NotImplementedError

    def terms(self, batch: Any) -> int:
        """How many terms the loss of a batch is the mean of."""
        return len(batch.ids)

    def after_step(self, progress: float) -> None:
        """Called after every step of the optimiser; ``progress`` is the share of the run that is done."""

    def some_features(self, batch: Any) -> Tensor | None:
        """Features of a few rows [n, C], as evaluation would see them: when all are the same the run has collapsed.
        None: the method has none."""
        return None

    def pictures(self, batch: Any) -> dict[str, Tensor]:
        """What it makes of a batch, to be looked at: name -> images [B, 3, S, S] in [-1, 1]."""
        return {}

    def skill(self, batch: Any) -> dict[str, float]:
        """How well it does what it is trained to do: "accuracy" and "chance" in percent, where that is a choice."""
        return {}

    def plain(self) -> Any:
        """What makes the examples that ``describe`` is given, without augmentation."""
        raise NotImplementedError

    def describe(self, batch: Any) -> Tensor:
        """What ``study`` is given of items: [B, features]."""
        raise NotImplementedError

    def study(self, features: Tensor, epoch: int, seed: int) -> None:
        """Called before each epoch with ``describe`` of all items, [N, features], where the method ``studies``."""

    def weights(self) -> Tensor | None:
        """How often each item should be seen, relative to others [N]; None: once an epoch."""
        return None

    @classmethod
    def about(cls) -> dict[str, Any]:
        """The row of ``fastssl methods``."""
        return {"family": cls.family, "paper": cls.paper, "predicts": cls.predicts, "loss": cls.loss}
