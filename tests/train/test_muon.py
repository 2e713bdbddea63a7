"""Muon against singular value decompositions and torch's AdamW."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fastssl.models import build_language
from fastssl.train import Muon, build_optimizer
from fastssl.train.muon import is_matrix, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (5, 64), (64, 5), (2, 2), (96, 256)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_updates_have_the_singular_vectors_of_the_momentum(shape: tuple[int, int], scale: float) -> None:
    generator = torch.Generator().manual_seed(shape[0])
    matrix = scale * torch.randn(shape, generator=generator)
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    found = u.T @ orthogonalized(matrix).double() @ vt.T
    large = s > 0.01 * s[0]  # smaller ones need more steps
    assert large.sum() >= len(s) - 1
    values = found.diagonal()[large]
    assert values.min() > 0.6 and values.max() < 1.25
    assert (found - found.diagonal().diag()).abs().max() < 1e-4


def test_zero_gradients_and_vectors_of_zero_stay_finite() -> None:
    assert torch.equal(orthogonalized(torch.zeros(4, 3)), torch.zeros(4, 3))
    w = nn.Parameter(torch.ones(4, 3))
    w.grad = torch.zeros(4, 3)
    Muon([w], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(w.detach(), torch.ones(4, 3))


def test_one_step_by_hand() -> None:
    torch.manual_seed(0)
    w, gradients = nn.Parameter(torch.randn(6, 2, 3, 3)), torch.randn(3, 6, 2, 3, 3)
    optimizer, expected, momentum = Muon([w], lr=0.1, momentum=0.9, weight_decay=0.5), w.detach().clone(), 0.0
    for gradient in gradients:
        w.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        update = orthogonalized((0.9 * momentum + 0.1 * gradient).flatten(1)).reshape(w.shape)
        expected = 0.95 * expected - 0.1 * 0.2 * 18**0.5 * update
        torch.testing.assert_close(w.detach(), expected)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_other_parameters_are_adamws(orthogonal: bool) -> None:
    torch.manual_seed(0)
    shapes: list[tuple[int, ...]] = [(7,), (1, 5, 4), (1, 8), (), (8, 1)] + ([] if orthogonal else [(6, 5)])
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3, "betas": (0.8, 0.9)}
    optimizers = (
        Muon([{"params": ours, "orthogonal": orthogonal}], **options),
        torch.optim.AdamW(theirs, **options),
    )
    for _ in range(4):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b)


def test_embeddings_are_no_matrices() -> None:
    model = build_language({"name": "transformer", "vocabulary": 300, "width": 16, "length": 8})
    optimizer = build_optimizer(model, "muon", 1e-3, 0.1, (0.9, 0.95))
    assert isinstance(optimizer, Muon)
    moved = {id(p) for group in optimizer.param_groups if group["orthogonal"] for p in group["params"] if is_matrix(p)}
    for name, p in model.named_parameters():
        assert (id(p) in moved) == (p.ndim == 2 and "tokens" not in name and "positions" not in name), name
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert all(group["weight_decay"] == 0.0 or p.ndim > 1 for group in optimizer.param_groups for p in group["params"])


@pytest.mark.parametrize(
    "options", [{"lr": -1}, {"lr": float("nan")}, {"weight_decay": -1}, {"momentum": 1}, {"betas": (0.9, 2)}]
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    ((name, _),) = options.items()
    with pytest.raises(ValueError, match=f"{name}: expected"):
        Muon([nn.Parameter(torch.ones(2, 2))], **{"lr": 1e-3, **options})
