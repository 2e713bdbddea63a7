"""Sums of empirical characteristic functions: against loops over Python numbers on every instruction set."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastssl.ops.characteristic import characteristic
from tests.support import TRITON_DEVICE

DTYPES = [torch.float32, torch.float64]


def loop(x: Tensor, step: float, knots: int) -> Tensor:
    """Python's own sine and cosine of every term."""
    views = x.double().tolist()
    columns = range(x.shape[2])
    return torch.tensor(
        [
            [
                [[sum(f(k * step * row[c]) for row in rows) for c in columns] for k in range(knots)]
                for f in (math.cos, math.sin)
            ]
            for rows in views
        ],
        dtype=torch.float64,
    ).reshape(len(views), 2, knots, x.shape[2])


def device_of(backend: str) -> str:
    if backend == "triton":
        pytest.importorskip("triton")
        return TRITON_DEVICE
    return "cpu"


def slopes(x: Tensor, grad: Tensor, step: float, backend: str | None) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(characteristic(leaf, step, grad.shape[2], backend), leaf, grad)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("views", "rows", "columns", "knots"),
    [(1, 1, 1, 1), (1, 3, 5, 2), (2, 66, 17, 9), (3, 5, 70, 17), (1, 300, 64, 3), (2, 7, 129, 40), (0, 3, 3, 3)],
)
def test_sums_are_the_loop(isa: str, dtype: torch.dtype, views: int, rows: int, columns: int, knots: int) -> None:
    torch.manual_seed(rows)
    x = (2 * torch.randn(views, rows, columns, dtype=torch.float64)).to(dtype)
    expected = loop(x, 0.19, knots)
    found = characteristic(x, 0.19, knots, "cpu")
    assert found.dtype == torch.float64 and found.shape == expected.shape
    tolerance = 1e-13 if dtype == torch.float64 else 4e-7
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * rows)
    grad = torch.randn_like(expected)
    wanted = slopes(x.double(), grad, 0.19, "reference")
    close = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 2e-6 * knots}
    torch.testing.assert_close(slopes(x, grad, 0.19, "cpu").double(), wanted, **close)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 30.0, 3e3, 1e5, 3e6])
def test_float32_errs_no_more_than_the_formula(backend: str, scale: float) -> None:
    """The angle of a large value is reduced without losing what fp32 knows of it."""
    torch.manual_seed(0)
    rows = 200 if backend == "cpu" else 70  # Triton is interpreted: three tiles
    x = (scale * torch.randn(2, rows, 40)).to(device_of(backend))
    exact, eager = (characteristic(t, 3 / 16, 17, "reference") for t in (x.double(), x))
    grad = torch.randn_like(exact)
    right, usual = slopes(x.double(), grad, 3 / 16, "reference"), slopes(x, grad, 3 / 16, "reference").double()

    def error(found: Tensor, of: Tensor) -> float:
        return float((found - of).norm() / of.norm())

    assert error(characteristic(x, 3 / 16, 17, backend), exact) <= 1.5 * error(eager, exact) + 1e-7
    assert error(slopes(x, grad, 3 / 16, backend).double(), right) <= 1.5 * error(usual, right) + 1e-7


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_values_that_are_no_numbers_and_angles_beyond_all_digits(backend: str) -> None:
    x = torch.tensor([[[float("nan"), float("inf"), -float("inf"), 3e38, -1e20, 0.0, -0.0]]])
    sums = characteristic(x.to(device_of(backend)), 0.5, 4, backend)[0].cpu()
    assert torch.isnan(sums[:, 1:, :3]).all()
    assert (sums[:, :, 3:].square().sum(0) - 1).abs().max() < 0.5  # nothing is known but the length
    assert sums[:, :, 5:].abs().equal(torch.tensor([1.0, 0.0]).double()[:, None, None].expand(2, 4, 2))


@given(st.integers(1, 3), st.integers(1, 700), st.integers(1, 140), st.integers(1, 20), st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_any_shape_and_stride(views: int, rows: int, columns: int, knots: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, views, generator=g, dtype=torch.float64).permute(2, 0, 1)
    expected = characteristic(x, 0.3, knots, "reference")
    torch.testing.assert_close(characteristic(x, 0.3, knots, "cpu"), expected, rtol=1e-11, atol=1e-11)
    grad = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    torch.testing.assert_close(slopes(x, grad, 0.3, "cpu"), slopes(x, grad, 0.3, "reference"), rtol=1e-10, atol=1e-10)
