"""Gibbs sampling and NADE in plain PyTorch: the oracle of the kernels, and what computes on other devices."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as TF
from torch import Tensor

_LOW = 0xFFFFFFFF


def uniforms(keys: Tensor, count: int, stream: int = 0) -> Tensor:
    """Draws in (0, 1) with 24 bits: float64 [B, count], of Philox4x32-10 with the keys int64 [B] of the rows."""
    blocks = torch.arange(-(-count // 4), device=keys.device)
    c = [blocks.expand(len(keys), -1), torch.full_like(blocks, stream), torch.zeros_like(blocks), blocks * 0]
    k = [(keys & _LOW)[:, None], ((keys >> 32) & _LOW)[:, None]]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57  # int64 wraps around: the low 64 bits are right
        c = [((b >> 32) & _LOW) ^ c[1] ^ k[0], b & _LOW, ((a >> 32) & _LOW) ^ c[3] ^ k[1], a & _LOW]
        k = [(k[0] + 0x9E3779B9) & _LOW, (k[1] + 0xBB67AE85) & _LOW]
    bits = torch.stack([word.expand(len(keys), -1) for word in c], 2).flatten(1)[:, :count]
    return ((bits >> 8).double() + 0.5) / 2**24


def normals(keys: Tensor, count: int, stream: int) -> Tensor:
    """Standard normal draws, float64 [B, count], by Box and Muller's transform of pairs of uniform draws."""
    u = uniforms(keys, count + count % 2, stream).unflatten(1, (-1, 2))
    radius, angle = (-2 * u[..., 0].log()).sqrt(), 2 * math.pi * u[..., 1]
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 2).flatten(1)[:, :count]


def gibbs(
    visible: Tensor,
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    keys: Tensor,
    steps: int,
    first: int,
    gaussian: bool,
) -> Tensor:
    v = visible
    for step in range(first, first + steps):
        p = torch.sigmoid(v @ weight.T + hidden_bias)
        h = (uniforms(keys, p.shape[1], 2 * step) < p).to(weight.dtype)
        mean = h @ weight + visible_bias
        if gaussian:
            v = mean + normals(keys, mean.shape[1], 2 * step + 1).to(weight.dtype)
        else:
            v = (uniforms(keys, mean.shape[1], 2 * step + 1) < torch.sigmoid(mean)).to(weight.dtype)
    return v


def nade(visible: Tensor, weight: Tensor, output: Tensor, bias: Tensor, hidden_bias: Tensor) -> Tensor:
    a = hidden_bias.expand(len(visible), -1)
    loss = visible.new_zeros(len(visible))
    for d in range(visible.shape[1]):
        logit = torch.sigmoid(a) @ output[d] + bias[d]
        loss = loss + TF.softplus(logit) - visible[:, d] * logit
        a = a + visible[:, d : d + 1] * weight[d]
    return loss


def nade_sample(weight: Tensor, output: Tensor, bias: Tensor, hidden_bias: Tensor, keys: Tensor) -> Tensor:
    a = hidden_bias.expand(len(keys), -1)
    drawn = uniforms(keys, len(bias), 0)
    columns = []
    for d in range(len(bias)):
        p = torch.sigmoid(torch.sigmoid(a) @ output[d] + bias[d])
        columns.append((drawn[:, d] < p).to(weight.dtype))
        a = a + columns[-1][:, None] * weight[d]
    return torch.stack(columns, 1)
