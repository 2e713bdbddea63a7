"""The dtype in which products are made within autocast."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.ops import extension


def multiplied(*rows: Tensor, region: torch.dtype | None = None) -> tuple[Tensor, ...]:
    """float32 rows in the dtype to which autocast casts those of a linear layer, where that is faster: on a GPU, and on
    a CPU whose instruction set has such products. (Elsewhere these are made in float32: more exact, no slower.) Sums,
    and what is made of them, are in float32 in any case.

    ``region``: dtype of the autocast region; None: of the present one, if any.
    """
    device = rows[0].device.type
    if region is None and torch.is_autocast_enabled(device):
        region = torch.get_autocast_dtype(device)
    if region is None or not (device == "cuda" or (device == "cpu" and extension.multiplies(region))):
        return rows
    return tuple(t.to(region) if t.dtype == torch.float32 else t for t in rows)
