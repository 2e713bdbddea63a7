"""NADE: a distribution of binary images whose pixels are predicted one after the other."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.models.density import DensityNetwork, LogLikelihood, row_keys

_ORDERS = 20110411  # seed of the orders


class NADENetwork(DensityNetwork):
    """A neural autoregressive distribution estimator: :func:`fastssl.functional.nade` on the pixels of images.

    Several orders share the weights; the distribution is the mean of theirs (EoNADE). Features are the hidden units
    after all pixels, which do not depend on the order.

    Args:
        size: image size in pixels.
        channels: image channels.
        width: hidden units.
        orders: number of orders of the pixels: the first is row by row, others are random.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> import torch
        >>> from fastssl.models import NADENetwork
        >>> network = NADENetwork(size=8, width=16)
        >>> network.log_likelihood(network.sample(5)).values.shape
        torch.Size([5])

    Source: Larochelle and Murray, The Neural Autoregressive Distribution Estimator, 2011; Uria, Murray and Larochelle,
    A Deep and Tractable Density Estimator, 2014.
    """

    def __init__(self, size: int, channels: int = 1, *, width: int = 128, orders: int = 1) -> None:
        super().__init__(size, channels, 2)
        for name, value in (("width", width), ("orders", orders)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        n = self.dimensions
        self.weight = nn.Parameter(torch.randn(n, width) * 0.05)
        self.output = nn.Parameter(torch.randn(n, width) * 0.05)
        self.bias = nn.Parameter(torch.zeros(n))
        self.hidden_bias = nn.Parameter(torch.zeros(width))
        rng = np.random.default_rng(_ORDERS)
        chosen = [np.arange(n), *(rng.permutation(n) for _ in range(orders - 1))]
        self.orders = torch.from_numpy(np.stack(chosen))

    def visible(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as binary rows, [B, D]."""
        return self.quantize(images).flatten(1).to(self.weight.dtype)

    def _ordered(self, k: int) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
        order = self.orders[k].to(self.weight.device)
        if k == 0:
            return (self.weight, self.output, self.bias, self.hidden_bias), order
        weight, output, bias = (t.index_select(0, order) for t in (self.weight, self.output, self.bias))
        return (weight, output, bias, self.hidden_bias), order

    def nll(self, visible: Tensor, chosen: Tensor) -> Tensor:
        """Negative log-likelihoods [B] of rows, each in one order: int64 [B]."""
        if len(self.orders) == 1:
            return F.nade(visible, *self._ordered(0)[0], reduction="none")
        made = visible.new_zeros(len(visible))
        for k in chosen.unique().tolist():
            rows = (chosen == k).nonzero()[:, 0]
            weights, order = self._ordered(k)
            made = made.index_add(0, rows, F.nade(visible[rows][:, order], *weights, reduction="none"))
        return made

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.visible(images) @ self.weight + self.hidden_bias)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor) -> LogLikelihood:
        """Exact: the logarithm of the mean likelihood over all orders."""
        v = self.visible(images).double()
        each = []
        for k in range(len(self.orders)):
            weights, order = self._ordered(k)
            each.append(-F.nade(v[:, order], *(t.double() for t in weights), reduction="none"))
        return LogLikelihood(torch.stack(each).logsumexp(0) - math.log(len(each)), "exact")

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Image k is drawn in order k modulo their number."""
        keys = row_keys(seed, range(count)).to(self.weight.device)
        v = self.weight.new_zeros(count, self.dimensions)
        for k in range(min(len(self.orders), count)):
            weights, order = self._ordered(k)
            drawn = F.nade_sample(*weights, keys[k :: len(self.orders)])
            v[k :: len(self.orders)] = torch.empty_like(drawn).index_copy(1, order, drawn)
        return self.to_images(v).reshape(count, self.channels, self.size, self.size)
