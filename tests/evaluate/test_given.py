"""Measures of inputs that users have: any dtype, masks, noise clusters, values that are not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastssl.data import Detections
from fastssl.data.objects import objects_of
from fastssl.evaluate import (
    METRICS,
    alignment,
    boundary_f,
    clustering_scores,
    coco_ap,
    eleven_point_map,
    feature_spread,
    features,
    few_labels,
    kmeans,
    knn_accuracy,
    linear_probe,
    low_shot,
    pearson,
    rank_me,
    recall_at,
    retrieval_scores,
    top_1,
    uniformity,
    whitening,
)
from fastssl.evaluate.linear import linear_head
from fastssl.models import pca_whiten


@pytest.mark.parametrize("k", [1, 5, 63, 200, 2000])
@pytest.mark.parametrize("temperature", [None, 0.07])
def test_knn_is_a_vote_of_any_number_of_neighbours(k: int, temperature: float | None) -> None:
    """Against a loop in float64; float64 features and labels of every integer dtype are as good."""
    generator = torch.Generator().manual_seed(k)
    x = torch.nn.functional.normalize(torch.randn(2100, 3, generator=generator, dtype=torch.float64), dim=1)
    labels = (x[:, 0] > 0.1 * torch.randn(2100, generator=generator, dtype=torch.float64)).to(torch.uint8)
    gallery, known, queries, wanted = x[:2000], labels[:2000], x[2000:], labels[2000:]
    cosine, nearest = (queries @ gallery.T).topk(k, 1)
    weight = torch.ones_like(cosine) if temperature is None else (cosine / temperature).exp()
    share = (weight * known[nearest]).sum(1) / weight.sum(1)
    clear = (share - 0.5).abs() > 1e-9  # no tie
    right = 100 * float(((share > 0.5) == wanted.bool())[clear].double().mean())
    got = knn_accuracy(gallery, known, k, queries[clear], wanted[clear], temperature=temperature)
    assert got == pytest.approx(right)


def test_features_that_are_not_finite_are_no_score() -> None:
    x = torch.randn(20, 4)
    x[7, 2] = float("inf")
    y = torch.arange(20) % 2
    calls = (
        lambda: knn_accuracy(x, y),
        lambda: recall_at(x, x),
        lambda: retrieval_scores(x, y),
        lambda: low_shot(x, y, 2),
        lambda: few_labels(x, y, np.arange(10), np.arange(10, 20), per_class=2),
        lambda: kmeans(x, 2),
    )
    for call in calls:
        with pytest.raises(ValueError, match="expected finite values"):
            call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("protocol", ["lbfgs", "sgd"])
def test_probes_of_other_dtypes_are_those_of_their_values(dtype: torch.dtype, protocol: str) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (300,), generator=generator)
    x = (torch.randn(300, 64, generator=generator) + 2 * torch.eye(64)[y]).to(dtype)
    train = np.arange(300) < 200
    options: dict[str, Any] = {"protocol": protocol, "steps": 10}
    given = linear_probe(x, y.to(torch.int16), train, ~train, **options)
    wanted = linear_probe(x.float(), y, np.arange(200), np.arange(200, 300), **options)
    assert given == wanted if dtype != torch.float64 else given == pytest.approx(wanted, abs=1)
    few = linear_probe(x, y, np.arange(40), np.arange(200, 300), **options)  # fewer rows than features
    assert few == pytest.approx(linear_probe(x.float(), y, np.arange(40), np.arange(200, 300), **options), abs=1)
    unit = torch.nn.functional.normalize(x.double(), dim=1).to(dtype)
    assert knn_accuracy(unit, y.to(torch.uint8), 3) == pytest.approx(knn_accuracy(unit.float(), y, 3), abs=1)


def test_clusters_may_have_any_names() -> None:
    for clusters in ([-1, -1, 1, 1], [10**9, 10**9, 3, 3], ["b", "b", "a", "a"]):
        scores = clustering_scores(np.array(clusters), np.array([0, 0, 1, 1]))
        assert scores == {"nmi": 100, "ari": 100, "accuracy": 100}
    with pytest.raises(ValueError, match="clusters: expected as many as labels"):
        clustering_scores(np.zeros(3, int), np.zeros(4, int))


@pytest.mark.parametrize("iterations", [0, 1, 3, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clusters_are_those_of_the_centroids_that_are_returned(iterations: int, dtype: torch.dtype) -> None:
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    centres, cluster, cost = kmeans(x, 8, iterations=iterations)
    distance = (x[:, None].double() - centres.double()).square().sum(2)
    assert torch.equal(distance.argmin(1), cluster)
    assert cost == pytest.approx(float(distance.min(1).values.mean()), rel=1e-5)
    close = torch.tensor([[1e8], [1e8 + 0.1], [1e8 + 2], [1e8 + 2.1]], dtype=torch.float64)
    assert len(set(kmeans(close, 2)[1][:2].tolist())) == len(set(kmeans(close, 2)[1][2:].tolist())) == 1


def test_directions_of_small_variance_are_whitened() -> None:
    x = torch.randn(1000, 2, dtype=torch.float64) * torch.tensor([1.0, 5e-4], dtype=torch.float64)
    y = (x - x.mean(0)) @ whitening(x).double()
    torch.testing.assert_close(y.T @ y / 1000, torch.eye(2, dtype=torch.float64), atol=1e-5, rtol=1e-5)
    flat = torch.cat([x[:, :1], x[:, :1]], 1).float()
    assert whitening(flat).shape == (2, 1)


def test_correlations_of_what_is_constant_huge_or_tiny() -> None:
    a, b = torch.full((3,), 0.1, dtype=torch.float64), torch.full((3,), 0.7, dtype=torch.float64)
    x = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    assert pearson(a, b) == pearson(a, a) == pearson(a, x) == 0
    for scale in (1e-170, 1e160, -1e300):
        assert pearson(x * scale, x) == pytest.approx(100 if scale > 0 else -100)


def test_uniformity_does_not_underflow() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(x, t=30.0) == pytest.approx(-120) and uniformity(x[:1]) == 0
    assert uniformity(x.bfloat16()) == -8


def test_boundaries_of_tensors_are_those_of_arrays() -> None:
    truth = torch.zeros(12, 12, dtype=torch.long)
    truth[3:9, 3:9] = 1
    truth[5:7, 5:7] = 2
    shifted = truth.roll(2, 0)
    assert boundary_f(truth, truth) == 100  # type: ignore[arg-type]
    assert boundary_f(shifted, truth) == boundary_f(shifted.numpy(), truth.numpy())  # type: ignore[arg-type]


def test_scores_belong_to_boxes() -> None:
    truth = [objects_of((60, 80), [[10, 10, 30, 30]], [0])] * 2
    boxes = np.array([[10, 10, 30, 30.0], [0, 0, 5, 5]])
    found = [
        Detections(boxes[:1], np.array([0.9, 0.1]), np.array([0])),
        Detections(boxes, np.array([0.8]), np.array([0, 0])),
    ]
    with pytest.raises(ValueError, match=r"detections\[0\]: expected 1 scores, one per box, got shape \(2,\)"):
        coco_ap(found, truth, 1)


def test_scores_that_are_unknown_have_no_metric() -> None:
    scores, labels = torch.full((40, 4), float("nan")), torch.arange(40) % 4
    scores[1:] = torch.eye(4)[labels][1:]
    for name, metric in METRICS.items():
        if name not in ("word accuracy", "span F1"):
            of_several = name in ("11-point mAP", "micro F1", "macro F1", "mean AP")
            given = 2 * torch.eye(4)[labels] - 1 if of_several else labels
            of_one = scores[:, 0] if name in ("Pearson", "Spearman") else scores
            assert np.isnan(metric(of_one, given)), name
            assert not np.isnan(metric(of_one[1:], given[1:])), name
    assert np.isnan(METRICS["word accuracy"](scores[None], labels[None]))


X, Y = (
    torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=1),
    torch.arange(60) % 3,
)
TRAIN, TEST = np.arange(40), np.arange(40, 60)
CALLS: dict[str, tuple[Any, type[Exception], str]] = {
    "queries without labels": (lambda: knn_accuracy(X, Y, 1, X[:5]), ValueError, "expected both or neither"),
    "labels of no queries": (lambda: knn_accuracy(X, Y, 1, query_labels=Y), ValueError, "expected both or neither"),
    "temperature 0": (
        lambda: knn_accuracy(X, Y, 1, temperature=0.0),
        ValueError,
        "temperature: expected a value > 0, got 0.0",
    ),
    "top 0": (lambda: knn_accuracy(X, Y, 1, top=0), ValueError, "top: expected an integer >= 1, got 0"),
    "another gallery": (lambda: recall_at(X[:10], X[:5]), ValueError, r"gallery: expected shape \(10, 8\)"),
    "one positive": (lambda: alignment(X, X[:1]), ValueError, r"y: expected shape \(60, 8\)"),
    "all in the support": (lambda: low_shot(X, Y, 20), ValueError, "expected 1 to 19 labels per class"),
    "no draws": (
        lambda: few_labels(X, Y, TRAIN, TEST, per_class=1, draws=0),
        ValueError,
        "draws: expected an integer >= 1, got 0",
    ),
    "classes as floats": (lambda: linear_probe(X, Y.double(), TRAIN, TEST), TypeError, "labels: expected integers"),
    "several classes": (lambda: linear_probe(X, torch.eye(3)[Y], TRAIN, TEST), ValueError, r"labels: expected \[60\]"),
    "one class": (
        lambda: linear_probe(X, Y, TRAIN, TEST, metric="11-point mAP"),
        ValueError,
        r"expected \[60, classes\]",
    ),
    "0 for absent": (
        lambda: linear_probe(X, torch.eye(3)[Y], TRAIN, TEST, metric="11-point mAP"),
        ValueError,
        "expected -1 where a class is absent",
    ),
    "an old mask": (
        lambda: linear_probe(X, Y, np.ones(60, np.uint8), TEST),
        TypeError,
        "train: expected integers or bool",
    ),
    "a negative penalty": (lambda: linear_probe(X, Y, TRAIN, TEST, -1.0), ValueError, "decay: expected a number >= 0"),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_has_no_score_is_named(call: str) -> None:
    run, kind, match = CALLS[call]
    with pytest.raises(kind, match=match):
        run()


def test_classes_may_be_hashes_and_features_of_any_unit() -> None:
    assert knn_accuracy(X, Y + 10**12, 5) == knn_accuracy(X, Y, 5)
    moved = torch.nn.functional.normalize(X[:9] + 0.1, dim=1)
    assert knn_accuracy(X, Y + 10**12, 5, moved, Y[:9] + 10**12) == knn_accuracy(X, Y, 5, moved, Y[:9])
    scores = {unit: linear_probe(X * unit, Y, TRAIN, TEST, 1e-3) for unit in (1.0, 2.0**-40, 2.0**60)}
    assert len(set(scores.values())) == 1
    constant = torch.cat([X, torch.full((60, 1), 3.0)], 1)
    constant[50:, 8] = 4.0  # unseen in training
    assert linear_probe(constant, Y, TRAIN, TEST, 1e-3) == pytest.approx(scores[1.0], abs=6)


@pytest.mark.parametrize("metric", ["Pearson", "Spearman"])
@pytest.mark.parametrize("scale", [4.0, -4.0, 0.1])
def test_regression_of_numbers_of_any_size(metric: str, scale: float) -> None:
    """One output, whatever the numbers are: linear targets are found."""
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    train, test = np.arange(40), np.arange(40, 60)
    assert linear_probe(x, scale * x[:, 0] - 7, train, test, metric=metric) > 99
    assert linear_probe(x, (100 * x[:, 0]).round().long(), train, test, metric=metric) > 99
    with pytest.raises(ValueError, match="labels: expected finite numbers"):
        linear_probe(x, x[:, 0] / 0, train, test, metric=metric)


def test_several_classes_of_any_dtype_are_signs() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=rng)
    labels = torch.where(x[:, :3] > 0, 1, -1)
    found = [
        linear_probe(x, labels.to(dtype), np.arange(60), np.arange(60, 80), metric="11-point mAP")
        for dtype in (torch.int64, torch.int8, torch.float32, torch.float64)
    ]
    assert found[0] > 90 and found == [found[0]] * 4
    with pytest.raises(ValueError, match="labels: expected -1, 0 and 1, got 2"):
        linear_probe(x, torch.where(labels > 0, 2, -1), np.arange(60), np.arange(60, 80), metric="11-point mAP")


def test_large_numbers_of_classes_take_no_memory() -> None:
    x = torch.nn.functional.normalize(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.arange(60) % 3
    huge = labels * 10**9 + 2**33
    assert retrieval_scores(x, huge) == retrieval_scores(x, labels)
    train, test = np.arange(40), np.arange(40, 60)
    assert linear_probe(x, huge, train, test) == linear_probe(x, labels, train, test)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: knn_accuracy(x, y, 3),
        lambda x, y: knn_accuracy(X, Y, 3, x, y),
        lambda x, y: recall_at(x, X),
        lambda x, y: alignment(X, x),
        lambda x, y: retrieval_scores(x, y),
        lambda x, y: low_shot(x, y, 1),
    ],
)
def test_cosines_want_rows_of_unit_length(call: Any) -> None:
    x = X.clone()
    x[7] *= 3
    with pytest.raises(ValueError, match="expected rows of unit length, that of row 7 is 3: torch.nn.functional.norm"):
        call(x, Y)
    x[7] = 0  # of a constant image
    call(x, Y)


NAMES = np.array(["cat", "dog"] * 30)
ONE_HOT = torch.eye(3)[Y]


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: knn_accuracy(x, y, np.int64(3), top=np.int64(1)),
        lambda x, y: knn_accuracy(x[:40], y[:40], 3, x[40:], y[40:]),
        lambda x, y: recall_at(x, x[::-1] if isinstance(x, np.ndarray) else x.flip(0), np.int32(2)),
        retrieval_scores,
        lambda x, y: alignment(x, x),
        lambda x, y: uniformity(x),
        lambda x, y: feature_spread(x),
        lambda x, y: rank_me(x),
        lambda x, y: whitening(x, np.int64(2)).tolist(),
        lambda x, y: kmeans(x, np.int64(3), iterations=np.int64(5))[0].tolist(),
        lambda x, y: pca_whiten(x, np.int64(2)).tolist(),
        lambda x, y: low_shot(x, y, np.int64(2)),
        lambda x, y: few_labels(x, y, TRAIN, TEST, per_class=np.int64(2)),
        lambda x, y: linear_probe(x, y, TRAIN, TEST, np.float64(1e-3)),
        *(lambda x, y, m=m: METRICS[m](x, y) for m in ("top-1", "top-5", "mean per class", "F1", "Matthews")),
        lambda x, y: METRICS["11-point mAP"](x, 2 * (x > 0) - 1),
        lambda x, y: (METRICS["Pearson"](x[:, :1], y), METRICS["Spearman"](x[:, 0], y)),
        lambda x, y: (METRICS["word accuracy"](x[None], y[None]), METRICS["span F1"](x[None], y[None])),
    ],
)
def test_arrays_are_as_good_as_tensors(call: Any) -> None:
    wanted = call(X, Y)
    assert call(X.numpy(), Y.numpy()) == wanted
    backwards = X.numpy()[::-1].copy()[::-1], Y.numpy()[::-1].copy()[::-1]  # of negative strides
    assert call(*backwards) == wanted
    swapped = X.numpy().astype(">f4"), Y.numpy().astype(">i8")
    assert call(*swapped) == wanted


@pytest.mark.parametrize("labels", [NAMES, NAMES.tolist(), NAMES.astype(object)])
@pytest.mark.parametrize(
    "call",
    [
        lambda y: knn_accuracy(X, y),
        lambda y: retrieval_scores(X, y),
        lambda y: low_shot(X, y, 1),
        lambda y: linear_probe(X, y, TRAIN, TEST),
        lambda y: few_labels(X, y, TRAIN, TEST, per_class=1),
        *(lambda y, m=metric: m(X, y) for metric in METRICS.values()),
    ],
)
def test_names_of_classes_are_to_be_encoded(call: Any, labels: Any) -> None:
    with pytest.raises(
        TypeError, match=r"labels: expected numbers, got strings: encode them as integers, numpy.unique"
    ):
        call(labels)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "objects": (lambda: knn_accuracy(X, [None] * 60), TypeError, "labels: expected numbers, got list of object"),
    "ragged": (lambda: rank_me([[1.0], [1.0, 2.0]]), ValueError, "features: expected rows of one length"),  # type: ignore[arg-type]
    "words as features": (lambda: rank_me(NAMES), TypeError, "features: expected numbers, got strings$"),
    "rank of NaN": (lambda: rank_me(X / 0), ValueError, "features: expected finite values, row 0 has others"),
    "rank of a row": (lambda: rank_me(X[0]), ValueError, r"features: expected 2 dimensions .* got shape \(8,\)"),
    "rank, eps": (lambda: rank_me(X, -1.0), ValueError, "eps: expected a number >= 0, got -1.0"),
    "spread of a row": (lambda: feature_spread(X[0]), ValueError, "features: expected 2 dimensions"),
    "iterations": (lambda: kmeans(X, 2, iterations=-1), ValueError, "iterations: expected an integer >= 0, got -1"),
    "clusters": (lambda: kmeans(X, 2.0), TypeError, "clusters: expected an integer, got float"),  # type: ignore[arg-type]
    "k-means, seed": (lambda: kmeans(X, 2, seed=-1), ValueError, "seed: expected an integer >= 0, got -1"),
    "k-means of a row": (lambda: kmeans(X[0], 2), ValueError, "features: expected 2 dimensions"),
    "components": (lambda: pca_whiten(X, 0), ValueError, "dim: expected an integer >= 1, got 0"),
    "whitening of NaN": (lambda: pca_whiten(X / 0, 2), ValueError, "features: expected finite values, row 0"),
    "k": (lambda: knn_accuracy(X, Y, 2.0), TypeError, "k: expected an integer, got float"),  # type: ignore[arg-type]
    "k of all": (lambda: knn_accuracy(X, Y, 60), ValueError, r"k: expected an integer in \[1, 59\], got 60"),
    "shots": (lambda: low_shot(X, Y, 1.0), TypeError, "shots: expected an integer, got float"),  # type: ignore[arg-type]
    "other queries": (lambda: knn_accuracy(X, Y, 1, torch.eye(5), Y[:5]), ValueError, "queries: expected 8 features"),
    "mixed clusters": (
        lambda: clustering_scores(np.array([None, 1]), np.zeros(2)),
        TypeError,
        "clusters, labels: expected values that can be sorted",
    ),
    "no rows": (lambda: top_1(X[:0], Y[:0]), ValueError, r"scores: expected \[N, classes\] with at least one row"),
    "scores of a class": (lambda: top_1(X[:, 0], Y), ValueError, r"scores: .* got shape \(60,\)"),
    "fewer labels": (lambda: top_1(X, Y[:7]), ValueError, "labels: expected 60, one per row of scores, got 7"),
    "signs": (lambda: eleven_point_map(X, 2 * (X > 0)), ValueError, "labels: expected -1, 0 and 1, got 2"),
    "signs of a row": (lambda: eleven_point_map(X, Y), ValueError, r"labels: expected shape \(60, 8\), that of scores"),
    "several scores": (lambda: pearson(X, Y), ValueError, r"scores: expected 60 numbers, .* got shape \(60, 8\)"),
    "words": (lambda: METRICS["span F1"](X, Y), ValueError, r"expected \[N, W, classes\] and \[N, W\], got"),
}


@pytest.mark.parametrize("call", WRONG)
def test_no_error_of_another_library(call: str) -> None:
    run, kind, match = WRONG[call]
    with pytest.raises(kind, match=match):
        run()


@pytest.mark.parametrize("metric", ["top-1", "top-5", "mean per class", "F1", "Matthews"])
def test_classes_have_scores(metric: str) -> None:
    with pytest.raises(ValueError, match="labels: expected classes from 0 on, got -1"):
        METRICS[metric](ONE_HOT, Y - 1)
    with pytest.raises(ValueError, match="labels: expected classes from 0 to 2, as scores has, got 3"):
        METRICS[metric](ONE_HOT, Y + 1)
    with pytest.raises(TypeError, match="labels: expected integers, got torch.float32"):
        METRICS[metric](ONE_HOT, Y.float())
    assert METRICS[metric](ONE_HOT, Y > 0) == METRICS[metric](ONE_HOT, (Y > 0).int())


@pytest.mark.parametrize("seed", range(3))
def test_equal_scores_do_not_depend_on_the_order(seed: int) -> None:
    """11-point mAP: rows of one score enter together, as scikit-learn's curve has them."""
    from sklearn.metrics import precision_recall_curve

    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 4, (50, 1)).astype(float), rng.choice([-1, 1], (50, 1))
    precision, recall, _ = precision_recall_curve(labels[:, 0], scores[:, 0])
    at_least = (recall[:-1][None] >= np.arange(11)[:, None] / 10 - 1e-12) * precision[:-1]  # without its (1, 0)
    order = rng.permutation(50)
    assert eleven_point_map(scores, labels) == pytest.approx(100 * float(at_least.max(1).mean()))
    assert eleven_point_map(scores[order], labels[order]) == eleven_point_map(scores, labels)


def test_equal_classes_go_to_the_first() -> None:
    assert top_1(torch.zeros(3, 3), torch.tensor([0, 1, 2])) == pytest.approx(100 / 3)
    assert METRICS["top-5"](torch.zeros(8, 8), torch.arange(8)) == 62.5


def test_equal_votes_have_a_rule() -> None:
    x = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1, 0.1], [1, 0.2], [1, 0.3]]), dim=1)
    q = torch.tensor([[1.0, 0.0]])

    def predicts(labels: list[int], label: int, **options: Any) -> bool:
        return knn_accuracy(x, np.array(labels), len(labels), q, np.array([label]), **options) == 100

    for near, far in ((7, 2), (2, 7)):
        assert predicts([near, near, far, far], near)  # the nearer ones
    for labels in ([2, 7, 7, 2], [7, 2, 2, 7]):  # as many, of equal ranks in sum: the smallest label
        assert predicts(labels, 2) and not predicts(labels, 7) and predicts(labels, 7, top=2)
    x = x[[0, 0, 0, 0]]
    assert predicts([7, 2, 7, 2], 2, temperature=0.07)  # ranks do not count
    assert predicts([7, 2, 7, 2], 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lists_of_tensors_are_rows(dtype: torch.dtype) -> None:
    """As outputs of a network that were collected one by one."""
    x = torch.eye(4).repeat(2, 1).to(dtype).requires_grad_()
    labels = torch.arange(4).repeat(2)
    assert knn_accuracy(list(x), list(labels), 1) == 100
    with pytest.raises(ValueError, match="features: expected tensors of one shape"):
        knn_accuracy([x[0], x[1, :3]], labels[:2])


def test_booleans_do_not_say_what_is_absent() -> None:
    """False would be 0, ignored: any scores had an 11-point mAP of 100."""
    present = torch.arange(8).view(4, 2) % 3 == 0
    with pytest.raises(TypeError, match=r"labels: expected -1 \(absent\), 0 \(ignored\) and 1 \(present\), got bool"):
        eleven_point_map(torch.rand(4, 2), present)


@pytest.mark.parametrize("labels", [[[0], [1], [0]], [[1], [1], [1]]])
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8, np.uint16, np.uint32, np.uint64])
def test_labels_of_0_and_1_are_no_signs(labels: Any, dtype: Any) -> None:
    """0 is ignored: what is left are positives, all of which are found."""
    given = np.array(labels, dtype)
    with pytest.raises(ValueError, match="labels: expected -1 where a class is absent"):
        eleven_point_map(torch.rand(3, 1), given)
    with pytest.raises(ValueError, match="labels: expected -1 where a class is absent"):
        linear_probe(torch.rand(3, 4), given, np.arange(2), np.arange(2, 3), metric="11-point mAP")


def test_scores_of_ignored_labels_do_not_count() -> None:
    scores, labels = torch.tensor([[0.9], [float("nan")], [0.1]]), torch.tensor([[1], [0], [-1]])
    assert eleven_point_map(scores, labels) == 100
    assert np.isnan(eleven_point_map(scores, torch.tensor([[1], [1], [-1]])))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.uint16])
def test_features_may_be_integers(dtype: torch.dtype) -> None:
    x = torch.randint(0, 5, (20, 4), generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 2
    calls: list[Any] = [
        rank_me,
        feature_spread,
        uniformity,
        lambda x: pca_whiten(x, 2).tolist(),
        lambda x: linear_probe(x, y, np.arange(10), np.arange(10, 20)),
    ]
    for call in calls:
        assert call(x.to(dtype)) == call(x.float())
    with pytest.raises(TypeError, match=r"features: expected real numbers, got torch.bool"):
        rank_me(x > 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("large", [False, True])
def test_heads_of_a_single_row(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing varies: the bias alone tells classes apart."""
    if large:
        monkeypatch.setattr(features, "LARGE", 0)
    weight, bias = linear_head(torch.randn(1, 4), torch.tensor([1]), 2)
    assert not weight.any() and bias[1] > bias[0]


def test_features_of_other_widths_are_named_before_their_length() -> None:
    x, other = 3 * torch.randn(10, 8), torch.randn(4, 5)
    labels, few = torch.arange(10) % 2, torch.arange(4) % 2
    for call in (knn_accuracy, retrieval_scores):
        with pytest.raises(ValueError, match=r"queries: expected 8 features as features, got shape \(4, 5\)"):
            call(x, labels, queries=other, query_labels=few)
    with pytest.raises(ValueError, match=r"gallery: expected shape \(10, 8\)"):
        recall_at(x, other)


@pytest.mark.parametrize("call", [lambda x, y: knn_accuracy(x, y, 1), lambda x, y: retrieval_scores(x, y, k=1)])
def test_one_row_has_no_neighbours(call: Any) -> None:
    with pytest.raises(ValueError, match="features: expected at least two rows, as each is left out"):
        call(X[:1], Y[:1])


@pytest.mark.parametrize(
    "call",
    [
        lambda make: retrieval_scores(X, Y, k=make(3)),
        lambda make: retrieval_scores(X, Y, k=make([1, 3])),
        lambda make: recall_at(X, X.flip(0), make(3)),
        lambda make: recall_at(X, X.flip(0), make([1, 3])),
        lambda make: knn_accuracy(X, Y, make(3), temperature=make(0.5)),
        lambda make: few_labels(X, Y, TRAIN, TEST, share=make(0.5)),
        lambda make: linear_probe(X, Y, TRAIN, TEST, make(0.25), make(20)),
        lambda make: kmeans(X, make(3), seed=make(1))[2],
    ],
)
def test_options_as_arrays_and_tensors(call: Any) -> None:
    wanted = call(lambda value: value)
    assert call(np.array) == wanted and call(torch.tensor) == wanted


def test_rows_are_a_list_of_indices() -> None:
    with pytest.raises(ValueError, match=r"train: expected indices \[rows\], got shape \(1, 40\)"):
        linear_probe(X, Y, np.arange(40)[None], TEST)


def test_hashes_beyond_what_torch_compares_are_named() -> None:
    labels = np.array([2**63 + 5, 1, 2**63 + 5], dtype=np.uint64)
    with pytest.raises(ValueError, match=f"labels: expected classes below 2\\^63, got {2**63 + 5}: number them"):
        knn_accuracy(X[:3], labels, 1)


def test_clusters_that_are_no_list_or_unknown_are_named() -> None:
    some = np.array([0, 1, 1])
    for clusters, labels, wanted in (
        (np.array([0, float("nan"), 1]), some, "clusters: expected no NaN, row 1 has it"),
        (some, np.array([0, 1, float("nan")]), "labels: expected no NaN, row 2 has it"),
        (some[:, None], some[:, None], r"clusters: expected \[N\] with at least one row, got shape \(3, 1\)"),
        (some[:0], some[:0], r"clusters: expected \[N\] with at least one row, got shape \(0,\)"),
        (some, some[:2], "clusters: expected as many as labels, got 3 and 2"),
    ):
        with pytest.raises(ValueError, match=wanted):
            clustering_scores(clusters, labels)


@pytest.mark.filterwarnings("error")
def test_clusters_may_be_fractions() -> None:
    assert clustering_scores(np.array([0.5, 0.5, 1.5]), np.array([1, 1, 0]))["nmi"] == pytest.approx(100)


@pytest.mark.parametrize("exponent", [-90, -60, 60, 120])
def test_measures_do_not_depend_on_the_unit_of_the_features(exponent: int) -> None:
    """Of powers of two, where squares in float32 vanish or overflow."""
    generator = torch.Generator().manual_seed(0)
    x, y, unit = torch.randn(60, 4, generator=generator), torch.arange(60) % 3, 2.0**exponent
    centres, cluster, cost = kmeans(x, 3)
    scaled, same, scaled_cost = kmeans(x * unit, 3)
    assert torch.equal(same, cluster) and torch.equal(scaled, centres * unit) and scaled_cost == cost * unit * unit
    assert feature_spread(x * unit) == pytest.approx(feature_spread(x), rel=1e-5)
    wanted = knn_accuracy(features.centred(x), y, 5)
    assert knn_accuracy(features.centred(x * unit), y, 5) == wanted


def test_a_collapsed_encoder_has_a_score() -> None:
    """Its centred features are no longer than the rounding of small numbers."""
    x = torch.full((60, 8), 1e-8) * (1 + 1e-6 * torch.randn(60, 8))
    lengths = features.centred(x).norm(dim=1)
    assert bool(((lengths - 1).abs() < 1e-5).all())
    assert 0 <= knn_accuracy(features.centred(x), torch.arange(60) % 3, 5) <= 100
    assert float(features.centred(torch.ones(5, 3)).abs().max()) == 0
