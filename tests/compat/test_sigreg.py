"""SIGReg of lightly's LeJEPA: the directions and the numbers of the original."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
from tests.support.peers import lightly


@pytest.fixture
def peer() -> Iterator[Any]:
    lightly()
    yield pytest.importorskip("lightly.loss.lejepa_loss")
    fastssl.unpatch()


def run(loss: Any, views: Tensor, region: contextlib.AbstractContextManager[Any]) -> list[Tensor]:
    """The loss, the gradients of both kinds of views, and what the generator draws next."""
    torch.manual_seed(0)
    parts = [part.clone().requires_grad_() for part in (views[:2], views[2:])]
    with region:
        value = loss(global_proj=parts[0], local_proj=parts[1])
    return [value, *torch.autograd.grad(value, parts), torch.rand(3)]


def fused() -> int:
    return int(fastssl.patched()["lightly"]["SIGReg"].fused)


@pytest.mark.parametrize("options", [{}, {"sigreg_knots": 9, "sigreg_t_max": 2.1, "sigreg_num_vectors": 77}])
@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [(torch.float32, False, 1e-6), (torch.float32, True, 0.02), (torch.bfloat16, False, 0.01)],
)
def test_lejepas_loss_is_lightlys(
    peer: Any, options: dict[str, Any], dtype: torch.dtype, autocast: bool, tolerance: float
) -> None:
    loss = peer.LeJEPALoss(**options)
    views = torch.randn(5, 70, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    region = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
    expected = run(loss, views, region)
    fastssl.patch("lightly")
    for _ in range(2):
        found = run(loss, views, region)
        for a, b in zip(found, expected):
            assert a.dtype == b.dtype
            assert float((a.double() - b.double()).norm()) <= tolerance * float(b.double().norm())
        assert torch.equal(found[-1], expected[-1])
    assert fused() == 2
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(run(twin, views, region)[0], expected[0])
    assert fused() == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda loss: loss.t.mul_(1.5),
        lambda loss: loss.weights.fill_(1.0),
        lambda loss: setattr(loss, "phi", loss.phi + 0.1),
        lambda loss: setattr(loss, "_generate_unit_vectors", lambda device, dtype, n: torch.eye(n)),
    ],
)
def test_points_and_weights_of_the_users_own(peer: Any, change: Callable[[Any], Any]) -> None:
    """Also changed between calls."""
    loss = peer.LeJEPALoss()
    views, region = torch.randn(3, 40, 8), contextlib.nullcontext()
    fastssl.patch("lightly")
    run(loss, views, region)
    assert fused() == 1
    change(loss.sigreg)
    found = run(loss, views, region)
    assert fused() == 1
    fastssl.unpatch("lightly")
    assert all(torch.equal(a, b) for a, b in zip(found, run(loss, views, region)))
