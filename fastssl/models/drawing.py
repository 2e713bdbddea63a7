"""Drawing values one after the other: what autoregressive networks of pixels and of samples share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastssl._options import integer
from fastssl.augment import uniform
from fastssl.models.generation import filtered


def draw(logits: Tensor, seed: int, step: int, temperature: float = 1.0) -> Tensor:
    """Values [B] drawn from softmax(logits / temperature), [B, L]; row r depends on (seed, step, r) alone."""
    shares = filtered(logits, temperature).cumsum(1)
    draws = torch.from_numpy(uniform(seed, step, np.arange(len(logits)), count=1)).to(logits.device)
    chosen = torch.searchsorted(shares, draws * shares[:, -1:], right=True)
    return chosen.clamp(max=shares.shape[1] - 1)[:, 0]


def condition(table: nn.Embedding | None, labels: Tensor | None, count: int, device: Any) -> Tensor | None:
    """What labels [B] add to the gates, [B, C]; label -1 is the last row of the table: any class."""
    if table is None:
        return None
    if labels is None:
        labels = torch.full((count,), -1, device=device)
    unknown = table.num_embeddings - 1
    result: Tensor = table(torch.where(labels < 0, unknown, labels))
    return result


def checked(name: str, value: Any, least: int, most: int = 1 << 16) -> int:
    """Raises ValueError unless ``value`` is an integer from ``least`` to ``most``."""
    return integer(name, value, least, most)


def check_sampling(count: int, temperature: float, label: int | None, classes: int) -> None:
    """Raises ValueError for a number of samples, a temperature or a label that a network cannot sample with."""
    checked("count", count, 1)
    if not temperature >= 0:
        raise ValueError(f"temperature: expected a number >= 0, got {temperature}")
    if label is not None and not 0 <= label < classes:
        known = f"one of 0 to {classes - 1}" if classes else "none, the network is not conditioned on labels"
        raise ValueError(f"label: expected {known}, got {label}")
