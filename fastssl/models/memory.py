"""What methods carry from step to step: target networks, queues, prototypes. All of it is in the state dict."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.distributed.queue import EmbeddingQueue

__all__ = ["EmbeddingQueue", "ItemMemory", "Prototypes", "TargetNetwork"]


class TargetNetwork(nn.Module):
    """A copy of a network that follows it: w' <- m w' + (1 - m) w after every step; it gets no gradients.

    Args:
        network: what is followed.
        momentum: m at the beginning.
        cosine: m rises to 1 along a half cosine over the run (BYOL, DINO, MoCo v3); else it stays.

    Raises:
        ValueError: a momentum outside [0, 1].

    Example:
        >>> import torch
        >>> from fastssl.models import TargetNetwork
        >>> target = TargetNetwork(torch.nn.Linear(4, 2), momentum=0.99)
        >>> target(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, network: nn.Module, momentum: float = 0.996, cosine: bool = True) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1, got {momentum}")
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.momentum, self.cosine = momentum, cosine

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x)
        return result

    @torch.no_grad()
    def follow(self, network: nn.Module, progress: float) -> None:
        """One step; ``progress`` is the share of the run that is done."""
        m = self.momentum
        if self.cosine:
            m = 1 - (1 - m) * (math.cos(math.pi * min(max(progress, 0.0), 1.0)) + 1) / 2
        for own, other in zip(self.network.parameters(), network.parameters()):
            own.lerp_(other.detach(), 1 - m)
        for kept, seen in zip(self.network.buffers(), network.buffers()):
            kept.copy_(seen)


class Prototypes(nn.Module):
    """Unit vectors that embeddings are scored against: cosine similarities [B, count].

    Args:
        dim: features per row.
        count: K, the number of prototypes.

    Example:
        >>> import torch
        >>> from fastssl.models import Prototypes
        >>> Prototypes(16, 32)(torch.randn(8, 16)).shape
        torch.Size([8, 32])
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim) / math.sqrt(dim))

    def forward(self, x: Tensor) -> Tensor:
        return TF.normalize(x, dim=1) @ TF.normalize(self.weight, dim=1).T


class ItemMemory(nn.Module):
    """What is remembered of every item of the data: rows that ids find. Empty until it is first filled.

    A checkpoint brings its own length: one is loaded into a memory that is still empty.

    Example:
        >>> import torch
        >>> from fastssl.models import ItemMemory
        >>> memory = ItemMemory()
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.empty(0))
        self.rows: Tensor

    def fill(self, rows: Tensor) -> None:
        """Remembers ``rows`` [N, ...], one an item."""
        self.rows = rows.detach().clone().to(self.rows.device)

    def __len__(self) -> int:
        return len(self.rows)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        saved = state_dict.get(prefix + "rows")
        if saved is not None and saved.shape != self.rows.shape:
            self.rows = torch.empty_like(saved, device=self.rows.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
