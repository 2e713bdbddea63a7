"""Networks of RGB images made to take images of other channels."""

from __future__ import annotations

import torch
from torch import nn


def set_input_channels(network: nn.Module, channels: int) -> nn.Module:
    """Gives the first convolution of a network, which takes 3 channels, another number of them.

    Its weights are drawn anew: normal, of the old deviation times sqrt(3 / channels), which leaves the size of what it
    gives as it was. With 3 channels nothing is done.

    Args:
        network: changed in place, and returned.
        channels: of its images.

    Raises:
        ValueError: fewer than one channel, or no convolution of 3 channels.
    """
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ValueError(f"channels: expected an integer >= 1, got {channels!r}")
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
