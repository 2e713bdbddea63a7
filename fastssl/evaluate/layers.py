"""Features of all levels of a network, for layer-wise probes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.data import open as open_source
from fastssl.evaluate.features import plain_images
from fastssl.models import Encoder
from fastssl.models.modes import evaluation_mode


@torch.no_grad()
def layer_features(encoder: Encoder, data: Any, *, cells: int = 4, batch: int = 512) -> list[Tensor]:
    """Features [N, C_k] of images after every level of the network (Zhang et al. 2016).

    Args:
        encoder: an encoder whose network has levels (see ``Encoder.levels``).
        data: anything that :func:`fastssl.data.open` takes.
        cells: feature maps are pooled to a ``cells`` x ``cells`` grid; 1: global average pooling.
        batch: batch size.

    Raises:
        ValueError: the network has no levels.

    Example:
        >>> from fastssl.data import digits
        >>> from fastssl.models import build_encoder
        >>> options = {"name": "resnet", "size": 16, "width": 4}
        >>> from fastssl.evaluate import layer_features
        >>> [f.shape[0] for f in layer_features(build_encoder(options), digits().subset(range(4)))]
        [4, 4, 4, 4]
    """
    levels = encoder.levels()
    parts: list[list[Tensor]] = [[] for _ in levels]
    with evaluation_mode(encoder):
        for x in plain_images(open_source(data), encoder.size, batch, encoder.channels):
            x = encoder.cast(x)
            for part, level in zip(parts, levels):
                x = level(x)
                # Grids of tokens are channels-last, other feature maps channels-first.
                grid = x.movedim(-1, 1) if getattr(level, "tokens_last", False) else x
                made = TF.adaptive_avg_pool2d(grid, min(cells, grid.shape[-1])).flatten(1) if x.dim() == 4 else x
                part.append(made.float())
    return [torch.cat(part) for part in parts]
