"""Networks that model the distribution of images: what they have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastssl.augment import uniform

_VIEW = 0xFFFD  # view index whose random stream is not used by augmentations or methods


class LogLikelihood(NamedTuple):
    """Log-likelihoods of images, in nats.

    Args:
        values: float64 [N].
        kind: "exact"; "AIS" (the normaliser is estimated by annealed importance sampling); "bound" (a lower bound).
        error: standard error of the normaliser's logarithm, which all values share; 0 if exact.

    Example:
        >>> import torch
        >>> from fastssl.models import LogLikelihood
        >>> LogLikelihood(torch.zeros(3), "exact").error
        0.0
    """

    values: Tensor
    kind: str
    error: float = 0.0


class DensityNetwork(nn.Module):
    """Base class of networks that model images x [B, channels, size, size] of ``levels`` values per channel.

    ``forward`` maps images in [-1, 1] to features, as every network of an :class:`Encoder`: a feature map [B, C, H, W]
    or vectors [B, C]. Subclasses also define ``log_likelihood`` and ``sample``.

    Args:
        size: image size in pixels.
        channels: image channels.
        levels: values per channel, 2 to 256, evenly spaced; 2: black and white, from 128 of 255 on. None: continuous.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> import torch
        >>> from fastssl.models import DensityNetwork
        >>> DensityNetwork(size=2, levels=4).quantize(torch.tensor([[-1.0, -0.4], [0.1, 1.0]])).tolist()
        [[0, 1], [2, 3]]
    """

    def __init__(self, size: int, channels: int = 1, levels: int | None = 2) -> None:
        super().__init__()
        if levels is not None and not 2 <= levels <= 256:
            raise ValueError(f"levels: expected 2 to 256, got {levels}")
        if size < 1 or channels < 1:
            raise ValueError(f"size, channels: expected at least 1, got {size} and {channels}")
        self.size, self.channels, self.levels = size, channels, levels

    @property
    def dimensions(self) -> int:
        """Number of values of an image."""
        return self.channels * self.size * self.size

    def quantize(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] to int64 levels of the same shape."""
        assert self.levels is not None
        values = ((images.float() + 1) * 127.5).round().long()
        return (values * self.levels) >> 8

    def to_images(self, levels: Tensor) -> Tensor:
        """Levels to float images in [-1, 1]; the first is -1, the last 1."""
        assert self.levels is not None
        return levels.float() * (2 / (self.levels - 1)) - 1

    def log_likelihood(self, images: Tensor) -> LogLikelihood:
        """Log-likelihoods of images in [-1, 1], of their levels. Subclasses may add options."""
        raise NotImplementedError

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Images [count, channels, size, size] in [-1, 1]; image k depends on (seed, k) alone. Subclasses may add
        options."""
        raise NotImplementedError


def row_keys(seed: int, ids: Any, epoch: int = 0, block: int = 0) -> Tensor:
    """Keys of the draws of rows, from (seed, epoch, id, block): int64 [B], as :func:`fastssl.functional.gibbs` takes.

    Args:
        seed: seed of the run.
        ids: integers [B].
        epoch: epoch of the run.
        block: distinguishes several keys per row.

    Example:
        >>> from fastssl.models import row_keys
        >>> row_keys(0, range(3)).shape
        torch.Size([3])
    """
    words = (uniform(seed, epoch, np.asarray(ids), view=_VIEW, block=block, count=2) * 2**32).astype(np.uint64)
    return torch.from_numpy((words[:, 0] | words[:, 1] << np.uint64(32)).view(np.int64))
