"""What a method is: views + networks + loss, and nothing else."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastssl.augment import Views, uniform
from fastssl.models import Encoder


class Method(nn.Module):
    """Base of all methods.

    A method makes views of uint8 images (``views``), turns them into a loss (``forward``), and may move what follows
    the networks after a step of the optimiser (``after_step``). One that ``studies`` its data is given the features of
    all items before each epoch (``study``) and may ask for some of them more often than others (``weights``). Data,
    optimiser, devices and logging are the loop's.

    Args:
        encoder: what is kept.
        augment: makes the views.
        spatial: heads see the 4 x 4 feature map instead of its mean: features keep where things are.
    """

    family: ClassVar[str]
    paper: ClassVar[str]
    predicts: ClassVar[str]
    loss: ClassVar[str]
    uses_labels: ClassVar[bool] = False
    uses_texts: ClassVar[bool] = False
    studies: ClassVar[bool] = False
    trains_parts: ClassVar[bool] = False  # some parameters get no gradient in some steps
    encoder_name: ClassVar[str] = "resnet"  # what the command line builds unless another is named

    def __init__(self, encoder: Encoder, augment: Views, *, spatial: bool = False) -> None:
        super().__init__()
        self.encoder, self.augment, self.spatial = encoder, augment, spatial

    @property
    def features(self) -> int:
        """Length of what heads are put on."""
        return int(self.encoder.shape_of(self.encoder.spatial)[1]) if self.spatial else self.encoder.dim

    def backbone(self) -> nn.Module:
        """Images to [B, features], as a module that a target network can copy."""
        return _Spatial(self.encoder) if self.spatial else self.encoder

    def embed(self, images: Tensor) -> Tensor:
        """Images to [B, features]."""
        return self.encoder.spatial(images) if self.spatial else self.encoder(images)

    def views(self, images: Tensor, seed: int, epoch: int = 0, ids: np.ndarray | None = None) -> list[Tensor]:
        """uint8 [B, drawings, H, W, 3] to the views, float tensors; drawings of an item take turns.

        What is drawn depends on (seed, epoch, id) of each item alone; ``ids`` are 0 to B - 1 unless given.
        """
        ids = np.arange(len(images)) if ids is None else np.asarray(ids)
        first = (self.uniform(seed, epoch, ids)[:, 0] * images.shape[1]).astype(np.int64)
        rows = torch.arange(len(images))
        count = len(self.augment.programs)
        chosen = (images[rows, torch.from_numpy((first + k) % images.shape[1])] for k in range(count))
        return [self.augment.view(k, drawing, seed=seed, epoch=epoch, ids=ids) for k, drawing in enumerate(chosen)]

    @staticmethod
    def uniform(seed: int, epoch: int, ids: np.ndarray, block: int = 0, count: int = 4) -> np.ndarray:
        """Numbers in (0, 1) for every item, which no augmentation draws: float64 [B, count]; block 0 is taken."""
        return uniform(seed, epoch, ids, view=0xFFFE, block=block, count=count)

    def forward(self, views: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss of the views; ``labels`` only where ``uses_labels``.

        A method whose rows meet only in its loss has ``represent`` and ``objective`` instead: then the loss can see
        a batch that the encoder cannot hold (``Pretraining(chunk=...)``).
        """
        return self.objective(*self.represent(*views), labels=labels)

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Views [B, ...] to what the loss compares, [B, ...] each, row by row."""
        raise NotImplementedError(f"{type(self).__name__} has no rows of its own: it needs whole batches")

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of all representations."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after every step of the optimiser; ``progress`` is the share of the run that is done."""

    def pictures(self, views: list[Tensor]) -> dict[str, Tensor]:
        """What it makes of views, to be looked at: name -> images [B, 3, S, S] in [-1, 1]. None unless it makes any."""
        return {}

    def skill(self, views: list[Tensor]) -> dict[str, float]:
        """How well it does what it is trained to do: "accuracy" and "chance" in percent, where that is a choice."""
        return {}

    def describe(self, images: Tensor) -> Tensor:
        """What ``study`` is given of images without augmentation: [B, features]."""
        return self.embed(images)

    def study(self, features: Tensor, epoch: int, seed: int) -> None:
        """Called before each epoch with ``describe`` of all items, [N, features], where the method ``studies``."""

    def weights(self) -> Tensor | None:
        """How often each item should be seen, relative to others [N]; None: once an epoch."""
        return None

    @classmethod
    def about(cls) -> dict[str, Any]:
        """The row of ``fastssl methods``."""
        return {"family": cls.family, "paper": cls.paper, "predicts": cls.predicts, "loss": cls.loss}


class _Spatial(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.spatial(images)
