"""Distances, nearest rows, and reductions of rows without the matrix."""

from __future__ import annotations

import pytest
import torch

import fastssl.functional as F


def test_equal_rows_have_distance_zero_and_no_gradient(isa: str) -> None:
    x = torch.randn(1, 64).expand(50, 64).clone().requires_grad_()
    y = (torch.randn(1, 64).expand(50, 64) * 3).clone()
    assert torch.equal(F.pairwise_distance(x), torch.zeros(50, 50))
    (grad,) = torch.autograd.grad(F.pairwise_distance(x).sum(), x)
    assert torch.equal(grad, torch.zeros_like(grad))
    near = x.detach() + 1e-4 * torch.randn(50, 64)
    truth = torch.cdist(x.detach().double(), near.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(F.pairwise_distance(x.detach(), near).double(), truth, rtol=1e-4, atol=0)
    assert float(F.pairwise_distance(x.detach(), y).min()) > 0


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "dot", "manhattan", "chebyshev"])
@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 3), (40, 70, 33), (290, 300, 20)])
def test_pairwise_distance(isa: str, metric: str, n: int, m: int, d: int) -> None:
    x, y = (torch.randn(k, d, dtype=torch.float64, requires_grad=True) for k in (n, m))
    weights = torch.randn(n, m, dtype=torch.float64)
    got = F.pairwise_distance(x, y, metric=metric)
    a, b = x.detach(), y.detach()
    difference = a[:, None] - b[None]
    expected = {
        "euclidean": lambda: difference.norm(dim=2),
        "sqeuclidean": lambda: difference.square().sum(2),
        "manhattan": lambda: difference.abs().sum(2),
        "chebyshev": lambda: difference.abs().amax(2),
        "dot": lambda: (a[:, None] * b[None]).sum(2),
        "cosine": lambda: 1 - (a[:, None] * b[None]).sum(2) / (a.norm(dim=1)[:, None] * b.norm(dim=1)[None]),
    }[metric]()
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad((got * weights).sum(), (x, y))
    eager = torch.autograd.grad((F.pairwise_distance(x, y, metric=metric, backend="reference") * weights).sum(), (x, y))
    for g, right in zip(ours, eager):
        torch.testing.assert_close(g, right, rtol=1e-8, atol=1e-9)
    single = F.pairwise_distance(a.float(), b.float(), metric=metric)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    if n == 5:
        assert torch.autograd.gradcheck(lambda p, q: F.pairwise_distance(p, q, metric=metric), (x, y))


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot", "manhattan"])
@pytest.mark.parametrize(("n", "m", "k"), [(3, 1, 1), (40, 33, 33), (70, 500, 5), (33, 1000, 100)])
def test_nearest_and_farthest(isa: str, metric: str, n: int, m: int, k: int) -> None:
    x, y = torch.randn(n, 12, dtype=torch.float64), torch.randn(m, 12, dtype=torch.float64)
    full = F.pairwise_distance(x, y, metric=metric)
    for function, largest in ((F.nearest, metric == "dot"), (F.farthest, metric != "dot")):
        values, indices = function(x, y, k, metric=metric)
        expected = full.topk(k, dim=1, largest=largest)
        torch.testing.assert_close(values, expected.values, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(full.gather(1, indices), values, rtol=1e-12, atol=1e-12)
        assert all(len(set(row)) == k for row in indices.tolist())


def test_nearest_breaks_ties_by_index_and_leaves_out_the_row_itself(isa: str) -> None:
    x = torch.randn(5, 4).repeat(20, 1)
    _, indices = F.nearest(x, None, 19, metric="euclidean", exclude_self=True)
    for i, row in enumerate(indices.tolist()):
        assert row == [j for j in range(i % 5, 100, 5) if j != i]
    values = F.nearest(x.requires_grad_(), torch.randn(50, 4), 3, metric="euclidean")[0]
    assert torch.isfinite(torch.autograd.grad(values.sum(), x)[0]).all()


def test_row_reductions_without_the_matrix(isa: str) -> None:
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randn(90, 6, dtype=torch.float64)
    for metric in ("euclidean", "cosine", "manhattan"):
        d = F.pairwise_distance(x, y, metric=metric, backend="reference")
        torch.testing.assert_close(F.pairwise_reduce(x, y, metric=metric), d.sum(1))
        torch.testing.assert_close(F.pairwise_reduce(x, y, metric=metric, reduction="min"), d.amin(1))
        torch.testing.assert_close(
            F.pairwise_reduce(x, y, metric=metric, function=lambda v: torch.exp(-v), reduction="mean"),
            torch.exp(-d).mean(1),
        )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("metric", "largest"), [("dot", False), ("dot", True), ("sqeuclidean", False)])
def test_nan_ranks_behind_all_others(isa: str, backend: str, metric: str, largest: bool) -> None:
    """However few are wanted; of several the first column comes first, and the row itself does not come at all."""
    n, broken = 40, [0, 3, 4]
    x = torch.randn(n, 5)
    x[broken] = float("nan")
    finite = [j for j in range(n) if j not in broken]
    function = F.farthest if largest else F.nearest
    _, right = function(x[finite], x[finite], n - len(broken), metric=metric, backend=backend)
    itself = torch.arange(len(finite))[:, None]
    right = torch.tensor(finite)[right[right != itself].reshape(len(finite), -1)]
    right = torch.cat([right, torch.tensor(broken).expand(len(finite), -1)], 1)
    for k in (3, n - 4, n - 3, n - 1):
        values, indices = function(x, None, k, metric=metric, exclude_self=True, backend=backend)
        assert torch.equal(indices[finite], right[:, :k])
        assert torch.equal(values[finite].isnan(), torch.arange(k).expand(len(finite), -1) >= n - 4)
        assert indices[3].tolist() == [j for j in range(n) if j != 3][:k]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["manhattan", "chebyshev"])
def test_distances_of_rows_that_are_infinite_or_unknown(isa: str, metric: str, dtype: torch.dtype) -> None:
    """Those of the differences: of equal infinities they are unknown."""
    x, y = torch.randn(70, 8, dtype=dtype), torch.randn(45, 8, dtype=dtype)
    x[40, 2] = x[41, 2] = float("inf")
    x[50, 1] = y[30, 3] = float("nan")
    y[2, 2] = -float("inf")
    for other in (None, y):
        difference = (x[:, None] - (x if other is None else other)[None]).abs()
        wanted = difference.norm({"manhattan": 1.0, "chebyshev": float("inf")}[metric], 2)
        for backend in ("cpu", "reference"):
            got = F.pairwise_distance(x, other, metric=metric, backend=backend)
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "manhattan", "chebyshev", "cosine"])
def test_rows_that_are_unknown_are_the_last(isa: str, metric: str) -> None:
    x, y = torch.randn(3, 8), torch.randn(45, 8)
    y[30, 3] = float("nan")
    values, indices = F.nearest(x, y, 45, metric=metric)
    assert (indices[:, -1] == 30).all() and values[:, -1].isnan().all() and not values[:, :-1].isnan().any()
