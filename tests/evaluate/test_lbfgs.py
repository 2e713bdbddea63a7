"""L-BFGS of the linear probes against torch's, scikit-learn and known minima."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from fastssl.evaluate import lbfgs
from fastssl.evaluate.lbfgs import minimize
from fastssl.evaluate.linear import _fit_lbfgs

Function = Callable[[Tensor], tuple[float, Tensor]]


def minimize_one(function: Function, start: Tensor, steps: int, *tolerances: float) -> Tensor:
    return minimize(lambda which, points: [function(points[0])], start[None], steps, *tolerances)[0]


def rosenbrock(x: Tensor) -> tuple[float, Tensor]:
    x = x.clone().requires_grad_()
    value = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
    (gradient,) = torch.autograd.grad(value, x)
    return float(value.detach()), gradient


@pytest.mark.parametrize("size", [2, 10, 60])
@pytest.mark.parametrize("history", [3, 100])
def test_rosenbrocks_valley_ends_at_ones(monkeypatch: pytest.MonkeyPatch, size: int, history: int) -> None:
    monkeypatch.setattr(lbfgs, "HISTORY", history)
    # From below: longer valleys have a second minimum beside it.
    found = minimize_one(rosenbrock, torch.full((size,), 0.5, dtype=torch.float64), 2000, 1e-7, 1e-14)
    torch.testing.assert_close(found, torch.ones(size, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("pairs", "kept"), [(1, 100), (6, 100), (12, 5)])
def test_directions_are_those_of_the_dense_matrix(monkeypatch: pytest.MonkeyPatch, pairs: int, kept: int) -> None:
    monkeypatch.setattr(lbfgs, "HISTORY", kept)
    torch.manual_seed(pairs)
    root = torch.randn(9, 9, dtype=torch.float64)
    hessian, eye = torch.eye(9, dtype=torch.float64) + root @ root.T, torch.eye(9, dtype=torch.float64)
    history, steps = lbfgs._History(eye[0]), torch.randn(pairs, 9, dtype=torch.float64)
    for s in steps:
        history.add(s, hessian @ s)
    history.add(steps[0], -steps[0])  # without curvature: left out
    s, y = steps[-1], hessian @ steps[-1]
    inverse = eye * (s @ y) / (y @ y)
    for s in steps[-kept:]:
        y = hessian @ s
        left = eye - torch.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + torch.outer(s, s) / (s @ y)
    for gradient in torch.randn(3, 9, dtype=torch.float64):
        torch.testing.assert_close(history.direction(gradient), -inverse @ gradient, rtol=1e-9, atol=1e-9)


def test_quadratics_are_solved() -> None:
    torch.manual_seed(0)
    root = torch.randn(20, 20, dtype=torch.float64)
    matrix, target = torch.eye(20, dtype=torch.float64) + root @ root.T, torch.randn(20, dtype=torch.float64)

    def quadratic(x: Tensor) -> tuple[float, Tensor]:
        return float(0.5 * x @ matrix @ x - target @ x), matrix @ x - target

    found = minimize_one(quadratic, torch.zeros(20, dtype=torch.float64), 500, 1e-12, 0.0)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("rows", "features"), [(80, 6), (40, 39), (30, 200)])
@pytest.mark.parametrize("decay", [1e-4, 1e-2])
def test_probes_are_scikit_learns(rows: int, features: int, decay: float) -> None:
    from sklearn.linear_model import LogisticRegression

    torch.manual_seed(rows)
    x, y = torch.randn(rows + 5, features), torch.arange(rows + 5) % 3
    train = np.arange(5, rows + 5)
    [(weight, bias)] = _fit_lbfgs(x.double(), y, train, 3, [decay], 2000)
    peer = LogisticRegression(C=1 / (2 * decay * rows), tol=1e-10, max_iter=20000)
    peer.fit(x[train].double().numpy(), y[train].numpy())

    def objective(weight: Tensor, bias: Tensor) -> float:
        loss = torch.nn.functional.cross_entropy(x[train].double() @ weight.T + bias, y[train])
        return float(loss + decay * weight.square().sum())

    theirs = torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_)
    assert abs(objective(weight, bias) - objective(*theirs)) < 1e-6
    torch.testing.assert_close(weight, theirs[0], atol=5e-3, rtol=5e-3)


def test_probes_are_as_good_as_with_torchs() -> None:
    """In float32, with the steps of the protocol: no higher than torch's in the objective."""
    torch.manual_seed(0)
    x, y, decay = torch.randn(150, 400), torch.arange(150) % 7, 1e-4
    [(weight, bias)] = _fit_lbfgs(x, y, np.arange(150), 7, [decay], 100)
    w, b = torch.zeros(7, 400, requires_grad=True), torch.zeros(7, requires_grad=True)
    peer = torch.optim.LBFGS([w, b], max_iter=100, line_search_fn="strong_wolfe")

    def objective(w: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(x @ w.T + b, y) + decay * w.square().sum()

    def closure() -> Tensor:
        peer.zero_grad()
        value = objective(w, b)
        value.backward()
        return value

    peer.step(closure)
    with torch.no_grad():
        assert float(objective(weight, bias)) <= float(objective(w, b)) * (1 + 1e-4)


def test_a_function_that_is_not_finite_beyond_a_point() -> None:
    def barrier(x: Tensor) -> tuple[float, Tensor]:
        if float(x) >= 1:
            return math.inf, torch.full_like(x, math.nan)
        return float(-torch.log(1 - x) - 4 * x), 1 / (1 - x) - 4

    found = minimize_one(barrier, torch.zeros(1, dtype=torch.float64), 100)
    assert math.isclose(float(found), 0.75, abs_tol=1e-6)


def test_it_stops_at_a_minimum() -> None:
    calls = []

    def flat(x: Tensor) -> tuple[float, Tensor]:
        calls.append(x)
        return 1.0, torch.zeros_like(x)

    assert torch.equal(minimize_one(flat, torch.ones(3), 100), torch.ones(3))
    assert len(calls) == 1


def test_functions_that_are_minimised_together_end_where_they_do_alone() -> None:
    torch.manual_seed(0)
    roots, targets = torch.randn(4, 6, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    matrices = roots @ roots.mT + torch.eye(6, dtype=torch.float64) * torch.tensor([1, 1e-3, 10, 1e3])[:, None, None]
    calls: list[list[int]] = []

    def objective(which: Sequence[int], points: Tensor) -> list[tuple[float, Tensor]]:
        calls.append(list(which))
        at = [(matrices[k] @ x - 2 * targets[k], matrices[k] @ x - targets[k], x) for k, x in zip(which, points)]
        return [(float(0.5 * x @ a), b) for a, b, x in at]

    starts = torch.randn(4, 6, dtype=torch.float64)
    together = minimize(objective, starts, 200)
    assert len({len(which) for which in calls}) > 1  # some were done before others
    for k in range(4):
        alone = minimize(lambda which, points, k=k: objective([k], points), starts[k : k + 1], 200)  # type: ignore[misc]
        assert torch.equal(together[k], alone[0])


def test_penalties_are_fitted_one_by_one_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, y, decays = torch.randn(60, 10).double(), torch.arange(60) % 4, [1e-4, 1e-3, 1e-2]
    together = _fit_lbfgs(x, y, np.arange(60), 4, decays, 100)
    monkeypatch.setattr("fastssl.evaluate.linear.TOGETHER", 0)
    alone = _fit_lbfgs(x, y, np.arange(60), 4, decays, 100)
    for (weight, bias), (w, b) in zip(together, alone, strict=True):
        torch.testing.assert_close(weight, w, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(bias, b, rtol=1e-6, atol=1e-8)
