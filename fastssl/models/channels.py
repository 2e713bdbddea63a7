"""Adapts RGB networks to other numbers of channels."""

from __future__ import annotations

import torch
from torch import nn

from fastssl._options import integer


def set_input_channels(network: nn.Module, channels: int) -> nn.Module:
    """Replaces the first convolution of a network, which takes 3 channels, by one with another number of channels.

    Its weights are reinitialised: normal, with the old standard deviation times sqrt(3 / channels), which preserves the
    scale of the output. With 3 channels the network is unchanged.

    Args:
        network: modified in place, and returned.
        channels: number of image channels.

    Raises:
        ValueError: fewer than one channel, or no convolution of 3 channels.
    """
    channels = integer("channels", channels, 1)
    if channels == 3:
        return network
    for old in network.modules():
        if not isinstance(old, nn.Conv2d):
            continue
        if old.in_channels != 3 or old.groups != 1:
            break
        shape: tuple[int, ...] = (old.out_channels, channels, *old.kernel_size)
        weight = old.weight.detach()
        fresh = torch.randn(shape, dtype=weight.dtype, device=weight.device) * weight.std() * (3 / channels) ** 0.5
        old.weight, old.in_channels = nn.Parameter(fresh), channels
        return network
    raise ValueError(f"channels: {type(network).__name__} has no first convolution of 3 channels to be changed")


__all__ = ["set_input_channels"]
