"""SIGReg and LeJEPA beyond what all losses share: statistics that are known, directions, and memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
import fastssl.functional as F


def run(z: Tensor, directions: Tensor, **options: Any) -> tuple[Tensor, ...]:
    leaves = z.clone().requires_grad_(), directions.clone().requires_grad_()
    loss = F.sigreg(*leaves, **options)
    return (loss.detach(), *torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("budget", [0, 3 * 50 * 8, 3 * 50 * 8 * 5])
def test_projections_in_parts(budget: int, dtype: torch.dtype) -> None:
    z, a = torch.randn(3, 50, 8, dtype=dtype), torch.nn.functional.normalize(torch.randn(8, 13, dtype=dtype), dim=0)
    whole = run(z, a)
    fastssl.set_memory_budget(budget)
    for one, other in zip(run(z, a), whole):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(F.sigreg(z, a), whole[0])


def test_memory_is_that_of_the_rows() -> None:
    z, saved = torch.randn(2, 2000, 16, requires_grad=True), []
    fastssl.set_memory_budget(2**20)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.untyped_storage()) or t, lambda t: t):
        F.sigreg(z, 512)
    assert sum({s.data_ptr(): s.nbytes() for s in saved}.values()) < 4 * z.numel() * 4  # projections: 32 times


def test_normal_rows_have_the_statistics_mean_and_others_more() -> None:
    """Of N(0, 1), N |phi_N - phi|^2 has the mean 1 - exp(-t^2) for any N."""
    torch.manual_seed(0)
    t = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    mean = float(torch.trapezoid((1 - (-t.square()).exp()) * (-t.square() / 2).exp(), t))
    values = [float(F.sigreg(torch.randn(400, 32), 256, knots=101)) for _ in range(20)]
    assert sum(values) / len(values) == pytest.approx(mean, rel=0.05)
    for rows in (
        torch.zeros(400, 32),
        torch.randn(400, 32) * 2,
        torch.randn(400, 32) + 1,
        torch.rand(400, 1).expand(-1, 32),
    ):
        assert float(F.sigreg(rows, 256)) > 5 * mean


def test_equal_rows_have_the_integral_in_closed_form() -> None:
    """phi_N = 1: the integral of exp(-t^2 / 2) (1 - exp(-t^2 / 2))^2 over all t."""
    exact = math.sqrt(2 * math.pi) * (1 - 2 / math.sqrt(2) + 1 / math.sqrt(3))
    found = F.sigreg(torch.zeros(7, 3, dtype=torch.float64), 5, t_max=12.0, knots=400)
    assert float(found) == pytest.approx(7 * exact, rel=1e-9)


def test_drawn_directions_follow_the_generator() -> None:
    z = torch.randn(30, 12)
    torch.manual_seed(3)
    drawn = torch.nn.functional.normalize(torch.randn(12, 40), dim=0)
    torch.manual_seed(3)
    torch.testing.assert_close(F.sigreg(z, 40), F.sigreg(z, drawn))
    assert not torch.equal(F.sigreg(z, 40), F.sigreg(z, 40))


def test_training_makes_rows_normal() -> None:
    torch.manual_seed(0)
    z = (0.1 * torch.randn(256, 4) + 2).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        F.sigreg(z, 64).backward()
        optimizer.step()
    assert F.sigreg(z, 256) < 0.5 * F.sigreg(torch.randn(256, 4), 256)  # nearer than what is drawn from it


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(4),), {}, r"embeddings: expected shape \[N, D\] or \[V, N, D\], D >= 1, got \(4,\)"),
        ((torch.zeros(4, 0),), {}, "embeddings: expected shape"),
        ((torch.zeros(4, 3), torch.zeros(4, 5)), {}, r"directions: expected shape \[3, M\], M >= 1, got \(4, 5\)"),
        ((torch.zeros(4, 3), 0), {}, "directions: expected"),
        ((torch.zeros(4, 3), 8), {"knots": 1}, "knots: expected"),
        ((torch.zeros(4, 3), 8), {"t_max": 0.0}, "t_max: expected a value > 0, got 0"),
    ],
)
def test_what_sigreg_refuses(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.sigreg(*arguments, **options)


def test_what_lejepa_refuses() -> None:
    with pytest.raises(ValueError, match=r"views: expected shape \[V, N, D\], V and D >= 1, got \(4, 3\)"):
        F.lejepa(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="global_views: expected"):
        F.lejepa(torch.zeros(2, 4, 3), 8, global_views=3)
    with pytest.raises(TypeError, match="views: expected"):
        F.lejepa(torch.zeros(2, 4, 3, dtype=torch.int64))
    assert F.lejepa(torch.zeros(2, 0, 3), 8) == F.sigreg(torch.zeros(0, 3), 8) == 0
