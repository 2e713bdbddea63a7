"""Distances, nearest rows, and reductions of rows without the matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
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
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "manhattan", "chebyshev"])
def test_distances_of_rows_that_are_infinite_or_unknown(isa: str, metric: str, dtype: torch.dtype) -> None:
    """Those of the differences: of equal infinities they are unknown."""
    x, y = torch.randn(70, 8, dtype=dtype), torch.randn(45, 8, dtype=dtype)
    x[40, 2] = x[41, 2] = float("inf")
    x[50, 1] = y[30, 3] = float("nan")
    y[2, 2] = -float("inf")
    for other in (None, y):
        difference = (x[:, None] - (x if other is None else other)[None]).abs()
        wanted = difference.norm({"manhattan": 1.0, "chebyshev": float("inf")}.get(metric, 2.0), 2)
        wanted = wanted**2 if metric == "sqeuclidean" else wanted
        for backend in ("cpu", "reference"):
            got = F.pairwise_distance(x, other, metric=metric, backend=backend)
            if other is None and backend == "reference":  # whose products leave some of the distance to itself
                itself = torch.eye(len(x), dtype=torch.bool) & torch.isfinite(wanted)
                got = got.masked_fill(itself, 0)
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "manhattan", "chebyshev", "cosine"])
def test_rows_that_are_unknown_are_the_last(isa: str, metric: str) -> None:
    x, y = torch.randn(3, 8), torch.randn(45, 8)
    y[30, 3] = float("nan")
    values, indices = F.nearest(x, y, 45, metric=metric)
    assert (indices[:, -1] == 30).all() and values[:, -1].isnan().all() and not values[:, :-1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_of_rows_whose_squares_overflow(isa: str, dtype: torch.dtype) -> None:
    """Of equal ones 0, of others their length, which does not."""
    large = 1e20 if dtype == torch.float32 else 1e200
    x, y = torch.randn(70, 8, dtype=dtype), torch.randn(45, 8, dtype=dtype)
    x[3:6] *= large
    y[7], y[40] = x[3], -x[4]
    for other in (x, y):
        scaled = (x.double()[:, None] - other.double()[None]) / large
        wanted = (scaled.norm(dim=2) * large).to(dtype)
        values, indices = F.nearest(x, other, len(other), metric="euclidean")
        assert torch.equal(values, values.sort(1).values)
        got = F.pairwise_distance(x, None if other is x else other)
        assert torch.equal(got.gather(1, indices), values)
        torch.testing.assert_close(got[3:6], wanted[3:6], rtol=1e-5, atol=0)
        assert got[3, 3 if other is x else 7] == 0
    assert F.nearest(x[3:4], y, 1, metric="euclidean")[1].item() == 7


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 33])
def test_a_row_that_is_not_finite_leaves_close_rows_alone(isa: str, row: int, bad: float) -> None:
    """The embeddings of a model that has collapsed, which are compared relative to one of them."""
    x = 1 + 1e-4 * torch.randn(70, 16)
    x[row, 5] = bad
    others = torch.arange(70) != row
    wanted = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    got = F.pairwise_distance(x)[others][:, others]
    torch.testing.assert_close(got.double(), wanted[others][:, others], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("kind", ["distinct", "tied", "not finite"])
@pytest.mark.parametrize("own", [True, False])
def test_many_nearest_rows(dtype: torch.dtype, largest: bool, kind: str, own: bool) -> None:
    """In the order of a stable sort, NaN last, and without the row itself: what few are taken from, too."""
    y = torch.randn(500, 3, dtype=dtype)
    if kind == "tied":
        y = y.round()
    if kind == "not finite":
        y[::3], y[1::7, 0], y[2::5, 1] = float("nan"), float("inf"), -float("inf")
    x = y if own else torch.randn(40, 3, dtype=dtype)
    scores = F.pairwise_distance(x, None if own else y, metric="dot")
    for k in (1, 95, 96, 160, 250, 499):
        values, indices = (F.nearest if largest else F.farthest)(
            x, None if own else y, k, metric="dot", exclude_self=own
        )
        for i in range(0, len(x), 13):
            row = scores[i].tolist()
            order = sorted(
                (j for j in range(500) if not (own and j == i)),
                key=lambda j: (row[j] != row[j], 0.0 if row[j] != row[j] else -row[j] if largest else row[j], j),
            )
            assert indices[i].tolist() == order[:k]
        assert torch.equal(values.nan_to_num(7), scores.gather(1, indices).nan_to_num(7))


def test_no_rows_to_search_are_named() -> None:
    x = torch.randn(3, 4)
    for function in (F.nearest, F.farthest):
        with pytest.raises(ValueError, match=r"y: expected at least one row to search, got shape \(0, 4\)"):
            function(x, x[:0], 1)
        with pytest.raises(
            ValueError, match=r"x: expected at least two rows, as each leaves itself out, got shape \(1"
        ):
            function(x[:1], None, 1, exclude_self=True)


@pytest.mark.parametrize("k", [torch.tensor(2), torch.tensor(2, dtype=torch.uint8), np.array(2), np.int8(2)], ids=repr)
def test_numbers_without_dimensions(k: Any) -> None:
    x = torch.randn(5, 4)
    wanted = F.nearest(x, None, 2, exclude_self=True)
    for yes in (np.True_, torch.tensor(True)):
        assert all(torch.equal(a, b) for a, b in zip(F.nearest(x, None, k, exclude_self=yes), wanted))
    for wrong in (torch.tensor([2]), torch.tensor(2.0), torch.tensor(True), np.array([2])):
        with pytest.raises(TypeError, match="k: expected an integer"):
            F.nearest(x, None, wrong)


def test_neighbors_and_boxes_of_tensors_elsewhere_than_the_default_device() -> None:
    x, boxes, scores = torch.randn(20, 4), torch.rand(20, 4).cumsum(1), torch.rand(20)
    expected = [*F.nearest(x, None, 3), F.pairwise_distance(x), F.nms(boxes, scores, threshold=0.1)]
    with torch.device("meta"):
        found = [*F.nearest(x, None, 3), F.pairwise_distance(x), F.nms(boxes, scores, threshold=0.1)]
    for a, b in zip(found, expected, strict=True):
        assert a.device.type == "cpu" and torch.equal(a, b)
