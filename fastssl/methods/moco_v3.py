"""MoCo v3: BYOL's networks with InfoNCE over the batch instead of a queue.

Chen, Xie and He, An Empirical Study of Training Self-Supervised Vision Transformers, 2021.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import HALF, MoCoV3Augment, Views
from fastssl.data.batch import Batch
from fastssl.methods.byol import BYOL
from fastssl.models import Encoder


class MoCoV3(BYOL):
    """Views + encoder, projector and their momentum encoder + predictor + symmetric InfoNCE.

    Args:
        encoder: the network kept after pretraining.
        augment: produces two views; None: the paper's settings.
        temperature: temperature of the loss.
        options: further arguments of :class:`BYOL`.
    """

    family = "instance discrimination"
    paper = "Chen et al. 2021"
    predicts = "which key of the batch is the query's"
    loss = "InfoNCE"
    min_rows = 2
    separable = False

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        temperature: float = 0.2,
        backend: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(encoder, augment or MoCoV3Augment(encoder.size, normalize=HALF), **options)
        self.temperature, self.backend = temperature, backend

    def forward(self, batch: Batch) -> Tensor:
        x = torch.cat(batch.views)
        q0, q1 = self.predictor(self.projector(self.embed(x))).chunk(2)
        k0, k1 = self.target(x).chunk(2)
        first = F.info_nce(q0, k1, temperature=self.temperature, backend=self.backend)
        second = F.info_nce(q1, k0, temperature=self.temperature, backend=self.backend)
        return 2 * self.temperature * (first + second)
