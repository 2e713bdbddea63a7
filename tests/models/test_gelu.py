"""GELU by a tanh on CPUs against torch's and float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.functional._cpu import GELU, gelu
from fastssl.functional._cpu.gelu import MIN_ELEMENTS
from fastssl.models import FasterCpuOperations
from fastssl.ops import extension

pytestmark = pytest.mark.skipif(extension._C is None, reason="no kernels")
SPECIAL = [torch.inf, -torch.inf, torch.nan, 0.0, -0.0, 1e30, -1e30, 1e-40, -50.0, 9.0, -9.0]


def _passes(function: Any, x: Tensor, weight: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    seen = function(x, approximate="tanh")
    (gradient,) = torch.autograd.grad(seen, x, weight.to(seen.dtype))
    return [seen.detach(), gradient]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_errs_no_more_than_torch(dtype: torch.dtype, isa: str) -> None:
    x = torch.cat([torch.linspace(-12, 12, MIN_ELEMENTS + 5), torch.tensor(SPECIAL)]).to(dtype)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = [_passes(f, t, weight) for f, t in ((GELU, x.double()), (GELU, x), (gelu, x))]
    for right, torchs, ours in zip(*results):
        assert ours.dtype == dtype
        usual = x.abs() < 20
        errors = [(found.double() - right)[usual].abs() for found in (torchs, ours)]
        assert float(errors[1].max()) <= 1.3 * float(errors[0].max()), errors
        assert torch.equal(ours[~usual].nan_to_num(3.0), torchs[~usual].nan_to_num(3.0))


@pytest.mark.parametrize("view", ["dense", "channels_last", "transposed", "gaps", "few", "float64"])
def test_layouts(view: str) -> None:
    x = torch.randn(4, 16, 20, 30, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last) if view == "channels_last" else x
    x = {"transposed": x.mT, "gaps": x[..., ::2], "few": x[:1, :1], "float64": x.double()}.get(view, x)
    for weight in (torch.ones(()).expand(x.shape), torch.randn(x.shape)):
        for a, b in zip(_passes(gelu, x, weight), _passes(GELU, x, weight)):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
            assert a.stride() == b.stride()


def test_second_derivatives() -> None:
    x = torch.randn(2 * MIN_ELEMENTS, requires_grad=True)
    seconds = []
    for function in (gelu, GELU):
        (first,) = torch.autograd.grad(function(x, approximate="tanh").sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad((first**2).sum(), x)[0])
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-5)


def test_the_mode_uses_it() -> None:
    x = torch.randn(2 * MIN_ELEMENTS, requires_grad=True)
    with FasterCpuOperations():
        assert "_Gelu" in type(TF.gelu(x, approximate="tanh").grad_fn).__name__
        assert "_Gelu" not in type(TF.gelu(x).grad_fn).__name__
        with pytest.raises(RuntimeError, match="approximate"):
            TF.gelu(x, approximate="other")
