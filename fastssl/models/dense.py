"""Segmentation heads on the feature maps of an encoder: linear, fully convolutional, hypercolumns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.models.encoders import Encoder


def feature_maps(encoder: Encoder, images: Tensor) -> list[Tensor]:
    """The feature maps [B, C, H, W] of an encoder, from fine to coarse: its last level of every resolution.

    Args:
        encoder: an encoder with levels, or any that gives a feature map, which is then the only one.
        images: [B, channels, H, W], of any size that the network takes.

    Raises:
        ValueError: the network gives vectors.

    Example:
        >>> import torch
        >>> from fastssl.models import build_encoder, feature_maps
        >>> encoder = build_encoder({"name": "resnet", "size": 32, "width": 16})
        >>> [tuple(m.shape[1:]) for m in feature_maps(encoder, torch.zeros(1, 3, 64, 64))]
        [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    """
    try:
        levels = encoder.levels()
    except ValueError:
        levels = [encoder.network]
    maps: list[Tensor] = []
    x = encoder.cast(images)
    for level in levels:
        x = level(x)
        if x.dim() != 4:
            break
        grid = x.movedim(-1, 1) if getattr(level, "tokens_last", False) else x
        if maps and maps[-1].shape[2:] == grid.shape[2:]:
            maps.pop()
        maps.append(grid)
    if x.dim() != 4:
        raise ValueError(
            f"encoder: expected a network that gives a feature map [B, C, H, W], got vectors {list(x.shape)}"
        )
    return maps


class _Normalized(nn.Sequential):
    """Batch norm, which makes features of any scale alike, and a linear classifier per position."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.Conv2d(channels, classes, 1))


class LinearHead(nn.Module):
    """A linear classifier of every position of the last feature map.

    Args:
        channels: channels of the feature maps.
        classes: number of classes, background included.

    Example:
        >>> import torch
        >>> from fastssl.models import LinearHead
        >>> LinearHead([8, 16], 3)([torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4)]).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.used: tuple[int, ...] = (len(channels) - 1,)
        self.classifier = _Normalized(channels[-1], classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        result: Tensor = self.classifier(maps[-1])
        return result


class FCNHead(nn.Module):
    """Two 3 x 3 convolutions of dilation 6 and a linear classifier on the last feature map (Long et al. 2015, as He et
    al. 2020 use it).

    Args:
        channels: channels of the feature maps.
        classes: number of classes, background included.
        width: channels of the convolutions.

    Example:
        >>> import torch
        >>> from fastssl.models import FCNHead
        >>> FCNHead([8, 16], 3)([torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4)]).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int = 64) -> None:
        super().__init__()
        self.used: tuple[int, ...] = (len(channels) - 1,)
        layers: list[nn.Module] = [nn.BatchNorm2d(channels[-1])]
        for inputs in (channels[-1], width):
            layers += [nn.Conv2d(inputs, width, 3, 1, 6, 6, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        result: Tensor = self.layers(maps[-1])
        return result


class HypercolumnHead(nn.Module):
    """A linear classifier of the hypercolumn of every position: the features of all levels above it (Hariharan et al.
    2015; Larsson et al. 2016).

    The classifier is applied to each level before it is enlarged, which is the same and needs no columns in memory.

    Args:
        channels: channels of the feature maps.
        classes: number of classes, background included.

    Example:
        >>> import torch
        >>> from fastssl.models import HypercolumnHead
        >>> HypercolumnHead([8, 16], 3)([torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4)]).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.used: tuple[int, ...] = tuple(range(len(channels)))
        self.classifiers = nn.ModuleList(_Normalized(c, classes) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scores = [classifier(m) for classifier, m in zip(self.classifiers, maps)]
        size = scores[0].shape[2:]
        larger = [TF.interpolate(s, size=size, mode="bilinear", align_corners=False) for s in scores[1:]]
        return torch.stack([scores[0], *larger]).sum(0)


SEGMENTATION_HEADS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    "linear": LinearHead,
    "fcn": FCNHead,
    "hypercolumn": HypercolumnHead,
}
