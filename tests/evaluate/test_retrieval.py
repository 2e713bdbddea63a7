"""Retrieval of classes against loops over the formulas, and against pytorch-metric-learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastssl.evaluate import recall_at, retrieval, retrieval_scores


def unit(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, columns, generator=generator), dim=1)


def tied(rows: int, seed: int) -> Tensor:
    """Rows of which many are equal, so that their cosines are, too."""
    return torch.eye(3)[torch.randint(0, 3, (rows,), generator=torch.Generator().manual_seed(seed))]


def classes(rows: int, count: int, seed: int) -> Tensor:
    return torch.randint(0, count, (rows,), generator=torch.Generator().manual_seed(seed + 100))


def by_loops(x: Tensor, y: Tensor, q: Tensor | None, truth: Tensor | None, ks: tuple[int, ...]) -> dict[str, float]:
    queries, wanted = (x, y) if q is None or truth is None else (q, truth)
    found: dict[str, list[float]] = {}
    for i in range(len(queries)):
        others = [j for j in range(len(x)) if q is not None or j != i]
        order = sorted(others, key=lambda j: (-float(queries[i].double() @ x[j].double()), j))
        same = [int(y[j]) == int(wanted[i]) for j in order]
        r = sum(same)
        if not r:
            continue
        found.setdefault("precision_at_1", []).append(same[0])
        found.setdefault("r_precision", []).append(sum(same[:r]) / r)
        found.setdefault("map_at_r", []).append(sum(sum(same[: k + 1]) / (k + 1) for k in range(r) if same[k]) / r)
        for k in ks:
            found.setdefault(f"recall_at_{k}", []).append(any(same[:k]))
    return {name: 100 * float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("strip", [7, 2**22])
def test_retrieval_is_what_the_formulas_say(seed: int, ties: bool, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave one out and with queries of their own; ties rank by index, classes of one row are left out."""
    monkeypatch.setattr(retrieval, "STRIP", strip)
    x, q = (tied(40, seed), tied(23, seed + 9)) if ties else (unit(40, 5, seed), unit(23, 5, seed + 9))
    y, truth = classes(40, 14, seed), classes(23, 18, seed)
    assert bool((torch.bincount(y) == 1).any()) and not set(truth.tolist()) <= set(y.tolist())
    for k in ((), (1, 2, 4, 39)):
        assert retrieval_scores(x, y, k=k) == pytest.approx(by_loops(x, y, None, None, k))
        assert retrieval_scores(x, y, q, truth, k=k) == pytest.approx(by_loops(x, y, q, truth, k))
    scores = retrieval_scores(x, y, k=np.int64(1))
    assert scores["recall_at_1"] == scores["precision_at_1"]


def test_one_class_of_all_rows_and_queries_that_are_the_gallery() -> None:
    x, y = unit(30, 4, 0), torch.zeros(30, dtype=torch.long)
    assert set(retrieval_scores(x, y, k=(1, 29)).values()) == {100}
    y = torch.arange(30) % 3
    found = retrieval_scores(x, y, x, y, k=30)  # the row itself is found
    assert found["precision_at_1"] == found["recall_at_30"] == 100 > found["map_at_r"]


@pytest.mark.parametrize("own", [True, False])
def test_retrieval_is_pytorch_metric_learnings(own: bool) -> None:
    calculators = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    theirs = calculators.AccuracyCalculator(
        include=names, k="max_bin_count", knn_func=inference.CustomKNN(distances.CosineSimilarity())
    )
    x, y, q, truth = unit(90, 6, 0), classes(90, 20, 0), unit(50, 6, 1), classes(50, 25, 1)
    given: tuple[Any, ...] = (x, y) if own else (q, truth, x, y)
    wanted = theirs.get_accuracy(*given)
    scores = retrieval_scores(x, y) if own else retrieval_scores(x, y, q, truth)
    for name, other in zip(("precision_at_1", "r_precision", "map_at_r"), names):
        assert scores[name] == pytest.approx(100 * wanted[other], abs=1e-3)


def test_recall_of_pairs_takes_several_k() -> None:
    x, y = unit(30, 6, 0), torch.nn.functional.normalize(unit(30, 6, 0) + unit(30, 6, 1), dim=1)
    assert recall_at(x, y, (1, 3, 30)) == [recall_at(x, y, k) for k in (1, 3, 30)]
    assert recall_at(x.numpy(), y.double(), np.array([1, 3])) == recall_at(x, y, [1, 3])
    assert recall_at(torch.ones(4, 1), torch.ones(4, 1), (1, 2, 4)) == [25, 50, 100]  # ties: by index


X, Y = unit(20, 4, 0), torch.arange(20) % 3


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda: retrieval_scores(X, Y, k=20), ValueError, r"k: expected an integer in \[1, 19\], got 20"),
        (lambda: retrieval_scores(X, Y, X, Y, k=(1, 21)), ValueError, r"k: expected an integer in \[1, 20\], got 21"),
        (lambda: retrieval_scores(X, Y, k=0), ValueError, r"k: expected an integer in \[1, 19\], got 0"),
        (lambda: retrieval_scores(X, Y, k=[1.5]), TypeError, "k: expected an integer, got float"),  # type: ignore[list-item]
        (lambda: recall_at(X, X, (1, 21)), ValueError, r"k: expected an integer in \[1, 20\], got 21"),
        (lambda: retrieval_scores(X, Y, X), ValueError, "queries, query_labels: expected both or neither"),
        (lambda: retrieval_scores(X, Y, query_labels=Y), ValueError, "queries, query_labels: expected both or neither"),
        (lambda: retrieval_scores(X, Y, X, Y[:5]), ValueError, "query_labels: expected 20, one per row of queries"),
        (lambda: retrieval_scores(X, Y, X[:5], Y[:5] + 3), ValueError, "query_labels: expected a class that is among"),
        (lambda: retrieval_scores(X, torch.arange(20)), ValueError, "labels: expected a class of at least two rows"),
        (
            lambda: retrieval_scores(X, Y, unit(5, 3, 0), Y[:5]),
            ValueError,
            r"queries: expected 4 features as features, got shape \(5, 3\)",
        ),
    ],
)
def test_what_has_no_retrieval_is_named(call: Any, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        call()
