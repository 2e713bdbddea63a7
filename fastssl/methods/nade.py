"""NADE: each pixel is predicted from those before it, through hidden units that are updated from pixel to pixel.

Larochelle and Murray, The Neural Autoregressive Distribution Estimator, 2011. Several orders of the pixels that share
the weights: Uria, Murray and Larochelle, A Deep and Tractable Density Estimator, 2014. Deviation: the orders are fixed,
so that their mean is an exact likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import Views
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.methods.density import DensityMethod
from fastssl.models import Encoder, NADENetwork


class NADE(DensityMethod):
    """Binary pixels in an order + shared hidden units + cross-entropy of each pixel.

    Args:
        encoder: "nade" of :func:`fastssl.models.build_encoder`; its option "orders" is the number of orders of pixels.
        augment: see :class:`DensityMethod`.
    """

    paper = "Larochelle & Murray 2011"
    predicts = "each pixel, from those before it"
    loss = "cross-entropy"
    encoder_name = "nade"
    networks = (NADENetwork,)

    def __init__(self, encoder: Encoder, augment: Views | None = None) -> None:
        super().__init__(encoder, augment)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The image [B, C, S, S] and the number of its order, int64 [B]."""
        drawn = self.uniform(seed, epoch, ids)[:, 0] * len(self.network.orders)
        return [*super().views(items, seed, epoch, ids), torch.from_numpy(drawn.astype(np.int64))]

    def forward(self, batch: Batch) -> Tensor:
        images, orders = batch.views
        loss: Tensor = self.network.nll(self.network.visible(images), orders).mean()
        return loss
