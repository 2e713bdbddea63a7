"""Further encoders: fully connected, ConvMixer (patches) and EfficientNet (inverted bottlenecks)."""

from __future__ import annotations

from torch import Tensor, nn


class _Mix(nn.Module):
    """Depthwise convolution with a residual connection, then pointwise convolution."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.depthwise = nn.Sequential(depthwise, nn.GELU(), nn.BatchNorm2d(dim))
        self.pointwise = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.GELU(), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pointwise(x + self.depthwise(x))
        return result


class MLP(nn.Module):
    """Fully connected layers on small images, [B, 3, size, size] to [B, dim, 1, 1].

    Args:
        size: image size in pixels.
        dim: units of a layer.
        depth: number of layers.

    Example:
        >>> import torch
        >>> from fastssl.models import MLP
        >>> MLP(8, dim=16)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 16, 1, 1])
    """

    def __init__(self, size: int, dim: int = 128, depth: int = 1) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(3, dim, size), nn.ReLU())
        others = [nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU()) for _ in range(depth - 1)]
        self.layers = nn.Sequential(first, *others)

    def levels(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


class PatchCNN(nn.Module):
    """ConvMixer, images [B, 3, H, W] to [B, dim, H / patch, W / patch]: a patch embedding, then convolutions at one
    resolution (Trockman and Kolter, Patches Are All You Need?, 2022).

    Args:
        patch: side of a patch in pixels.
        dim: channels.
        depth: number of blocks.
        kernel: kernel size of the depthwise convolutions, odd.

    Example:
        >>> import torch
        >>> from fastssl.models import PatchCNN
        >>> PatchCNN(4, dim=16, depth=1)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(self, patch: int = 4, dim: int = 128, depth: int = 4, kernel: int = 5) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, dim, patch, patch), nn.GELU(), nn.BatchNorm2d(dim))
        self.blocks = nn.Sequential(*[_Mix(dim, kernel) for _ in range(depth)])

    def levels(self) -> list[nn.Module]:
        return [self.patches, *self.blocks]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.blocks(self.patches(x))
        return result


class _InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection (Sandler et al. 2018; Hu et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        wide = inputs * expand
        self.same = stride == 1 and inputs == outputs
        self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU())
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide), nn.SiLU())
        squeezed = max(inputs // 4, 8)
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, squeezed, 1), nn.SiLU(), nn.Conv2d(squeezed, wide, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.depthwise(self.expand(x))
        out: Tensor = self.project(inside * self.excite(inside))
        return x + out if self.same else out


class SmallEfficientNet(nn.Module):
    """A small EfficientNet (Tan and Le 2019), images [B, 3, H, W] to [B, 4 width, H / 8, W / 8].

    Args:
        width: channels of the stem.
        blocks: inverted bottlenecks per stage, of three.

    Example:
        >>> import torch
        >>> from fastssl.models import SmallEfficientNet
        >>> SmallEfficientNet(8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(self, width: int = 32, blocks: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        layers: list[nn.Module] = []
        channels = width
        for stage, outputs in enumerate((width, 2 * width, 4 * width)):
            for k in range(blocks):
                layers.append(_InvertedBottleneck(channels, outputs, 2 if stage and k == 0 else 1))
                channels = outputs
        self.stages = nn.Sequential(*layers)

    def levels(self) -> list[nn.Module]:
        return [self.stem, *self.stages]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.stages(self.stem(x))
        return result
