"""Dot products with picked rows, gathered."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.ops.reference.common import in_full_precision


@in_full_precision
def gather_dot(x: Tensor, table: Tensor, indices: Tensor) -> Tensor:
    return torch.einsum("nd,nkd->nk", x, table[indices])
