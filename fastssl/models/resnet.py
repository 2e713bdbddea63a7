"""A residual network for small images (He et al. 2016), narrow enough for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, 3, stride)
        self.second = _conv(outputs, outputs, 3, 1)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class SmallResNet(nn.Module):
    """Images [B, 3, H, W] to a feature map [B, 4 width, H / 8, W / 8] (``stem_stride`` 2) or H / 4 (1).

    Args:
        width: channels of the stem.
        blocks: residual blocks in each of the three stages.
        stem_stride: 2 for 32 pixels and more, 1 for smaller images.
    """

    def __init__(self, width: int = 32, blocks: int = 1, stem_stride: int = 2) -> None:
        super().__init__()
        self.stem = _conv(3, width, 3, stem_stride)
        layers: list[nn.Module] = []
        channels = width
        for stage, outputs in enumerate((width, 2 * width, 4 * width)):
            for block in range(blocks):
                layers.append(ResidualBlock(channels, outputs, 2 if stage and block == 0 else 1))
                channels = outputs
        self.stages = nn.Sequential(*layers)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(torch.relu(self.stem(x)))
