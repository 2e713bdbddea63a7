"""``fastssl::triton_characteristic``: as :mod:`fastssl.ops.characteristic` on Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.ops.reference.characteristic import fake
from fastssl.ops.triton.launch import cdiv, run
from fastssl.ops.triton.operators import define_operator

TILE = 32  # rows, and columns
MOST_PARTS = 16  # of a view's rows, whose sums are apart until the end


def _tiles(x: Tensor) -> tuple[int, int]:
    """(parts, tiles of rows in each)."""
    tiles = cdiv(x.shape[1], TILE)
    of_part = max(1, cdiv(tiles, MOST_PARTS))
    return cdiv(tiles, of_part), of_part


def characteristic(x: Tensor, step: float, knots: int) -> Tensor:
    from fastssl.kernels.characteristic import sums_kernel

    x = x.contiguous()
    views, n, m = x.shape
    parts, tiles = _tiles(x)
    out = torch.empty((parts, views, 2, knots, m), dtype=torch.float32, device=x.device)
    run(
        sums_kernel,
        (cdiv(m, TILE), parts, views),
        *(x, out, n, m, step, knots, tiles, views),
        KNOTS=max(16, 1 << (knots - 1).bit_length()),
        BR=TILE,
        BC=TILE,
    )
    return out.sum(0, dtype=torch.float64)


def characteristic_backward(grad: Tensor, x: Tensor, step: float, knots: int, needs: int) -> Tensor:
    from fastssl.kernels.characteristic import gradients_kernel

    x = x.contiguous()
    views, n, m = x.shape
    t = torch.arange(knots, dtype=torch.float64, device=x.device)[:, None] * step
    weights = torch.stack([-t * grad[:, 0], t * grad[:, 1]], 1).float()
    out = torch.empty_like(x)
    grid = (cdiv(n, TILE), cdiv(m, TILE), views)  # the first may be larger than 65,535
    run(gradients_kernel, grid, *(x, weights, out, n, m, step, knots), BR=TILE, BC=TILE)
    return out


CHARACTERISTIC = define_operator(
    "triton_characteristic", characteristic, characteristic_backward, fake, tensors=1, differentiable=(0,)
)
