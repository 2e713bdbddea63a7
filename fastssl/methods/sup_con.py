"""Supervised contrastive learning: all views of the images of a class are positives.

Khosla et al., Supervised Contrastive Learning, 2020. The only method that reads labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import Views
from fastssl.methods.simclr import SimCLR
from fastssl.models import Encoder


class SupCon(SimCLR):
    """SimCLR's networks with the supervised contrastive loss.

    Args:
        encoder: the network kept after pretraining.
        augment: produces two views.
        temperature: temperature of the loss.
        options: further arguments of :class:`SimCLR`.
    """

    family = "supervised contrast"
    paper = "Khosla et al. 2020"
    predicts = "which views belong to the same class"
    loss = "SupCon"
    needs = ("images", "label")

    def __init__(
        self, encoder: Encoder, augment: Views | None = None, *, temperature: float = 0.1, **options: Any
    ) -> None:
        super().__init__(encoder, augment, temperature=temperature, **options)

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        return self.projector(self.embed(torch.cat(views))).chunk(len(views))

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("labels: SupCon needs the labels of the batch")
        every = labels.repeat(len(representations))
        return F.sup_con(torch.cat(representations), every, temperature=self.temperature, backend=self.backend)
