"""Residual networks (He et al. 2016): ResNet-18 to 101, and a small one for CPUs."""

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

    Example:
        >>> import torch
        >>> from fastssl.models import SmallResNet
        >>> SmallResNet(8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 32, 4, 4])
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

    def levels(self) -> list[nn.Module]:
        return [nn.Sequential(self.stem, nn.ReLU()), *self.stages]

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(torch.relu(self.stem(x)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, with torchvision's parameter names."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (strided) and 1 x 1 convolutions and a shortcut, with torchvision's parameter names."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # in each of the four stages


class ResNet(nn.Module):
    """ResNet-18, 34, 50 or 101 without classifier, images [B, 3, H, W] to a feature map; loads weights of torchvision
    with ``load_state_dict(weights, strict=False)``.

    Args:
        depth: 18, 34, 50 or 101.
        stem: "imagenet" (7 x 7 with stride 2 and max pooling: H / 32) or "cifar" (3 x 3, no pooling: H / 8).
        width: channels of the first stage, 64 in the paper.

    Raises:
        ValueError: another depth or stem.

    Example:
        >>> import torch
        >>> from fastssl.models import ResNet
        >>> ResNet(18, 'cifar', width=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 64, 4, 4])
    """

    def __init__(self, depth: int = 18, stem: str = "imagenet", width: int = 64) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth: expected one of {', '.join(map(str, BLOCKS))}, got {depth!r}")
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"stem: expected 'imagenet' or 'cifar', got {stem!r}")
        block: type[BasicBlock | Bottleneck] = BasicBlock if depth < 50 else Bottleneck
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(3, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        channels = width
        for stage, count in enumerate(BLOCKS[depth]):
            layer = []
            for k in range(count):
                layer.append(block(channels, width * 2**stage, 2 if stage and k == 0 else 1))
                channels = width * 2**stage * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def levels(self) -> list[nn.Module]:
        return [
            nn.Sequential(self.conv1, self.bn1, nn.ReLU(), self.maxpool),
            *(getattr(self, f"layer{k}") for k in range(1, 5)),
        ]

    def forward(self, x: Tensor) -> Tensor:
        for level in self.levels():
            x = level(x)
        return x
