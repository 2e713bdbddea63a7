"""Measures against brute force, scikit-learn and values known by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastssl.data
from fastssl.evaluate import (
    alignment,
    clustering_scores,
    encode,
    evaluate,
    feature_spread,
    kmeans,
    knn_accuracy,
    linear_probe,
    low_shot,
    pixels,
    rank_me,
    recall_at,
    retrieval_scores,
    uniformity,
)
from fastssl.evaluate.features import centred, color_histogram, plain_images
from fastssl.models import Encoder, SmallResNet, build_encoder


def _clusters(n: int = 60, d: int = 8, spread: float = 0.6) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 3
    centres = torch.randn(3, d)
    return torch.nn.functional.normalize(centres[labels] + spread * torch.randn(n, d), dim=1), labels


def test_knn_equals_a_double_loop() -> None:
    x, y = _clusters(spread=1.5)
    right = 0
    for i in range(len(x)):
        order = sorted((j for j in range(len(x)) if j != i), key=lambda j: -float(x[i] @ x[j]))[:5]
        votes: dict[int, float] = {}
        for place, j in enumerate(order):
            votes[int(y[j])] = votes.get(int(y[j]), 0) + 1 - 1e-3 * place
        right += max(votes, key=lambda c: votes[c]) == int(y[i])
    assert math.isclose(knn_accuracy(x, y), 100 * right / len(x), abs_tol=1e-4)


def test_knn_with_queries() -> None:
    x, y = _clusters(spread=0.05)
    assert knn_accuracy(x[:30], y[:30], queries=x[30:], query_labels=y[30:]) == 100


def test_recall_equals_a_double_loop() -> None:
    x, y = (torch.nn.functional.normalize(torch.randn(30, 6), dim=1) for _ in range(2))
    y = torch.nn.functional.normalize(x + 0.9 * y, dim=1)
    hits = sum(max(range(30), key=lambda j: float(x[i] @ y[j])) == i for i in range(30))
    assert math.isclose(recall_at(x, y), 100 * hits / 30, abs_tol=1e-4)


def test_linear_probe_is_as_good_as_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    from fastssl.data import digits

    data = digits()
    x, y = pixels(data, 8), torch.from_numpy(data.labels)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:1000], order[1000:]
    ours = linear_probe(x, y, train, test)
    peer = (
        LogisticRegression(max_iter=2000)
        .fit(x[train].numpy(), y[train].numpy())
        .score(x[test].numpy(), y[test].numpy())
    )
    assert abs(ours - 100 * peer) < 2


def test_low_shot_repeats_and_counts() -> None:
    x, y = _clusters(spread=0.01)
    assert low_shot(x, y, 1) == (100.0, 0.0)
    x, y = _clusters(spread=1.0)
    assert low_shot(x, y, 1, seed=3) == low_shot(x, y, 1, seed=3) != low_shot(x, y, 1, seed=4)
    assert low_shot(x, y, 5)[0] > low_shot(x, y, 1)[0]


def test_alignment_and_uniformity_by_hand() -> None:
    x = torch.eye(2)
    assert alignment(x, x) == 0 and math.isclose(alignment(x, x.flip(0)), 2, rel_tol=1e-6)
    assert math.isclose(uniformity(x), -4, rel_tol=1e-5)  # one pair at squared distance 2


def test_histogram_counts_pixels() -> None:
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[0, 0, 0] = 255
    row = color_histogram(images)[0]
    assert row.shape == (64,) and math.isclose(row[0], 0.75**0.5, rel_tol=1e-6) and row[63] == 0.5


def test_centred_features_have_no_mean_direction() -> None:
    x = torch.randn(50, 5) + 10
    unit = centred(x)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(50))
    torch.testing.assert_close(unit, torch.nn.functional.normalize(x - x.mean(0), dim=1))


def test_encode_uses_evaluation_mode_and_both_readouts() -> None:
    encoder = build_encoder({"name": "resnet", "size": 32, "width": 8}).train()
    images = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)
    spatial, pooled = encode(encoder, images), encode(encoder, images, "pooled", batch=3)
    assert spatial.shape == (10, 32 * 16) and pooled.shape == (10, 32) and encoder.training
    torch.testing.assert_close(spatial.reshape(10, 32, 16).mean(2), pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encode(encoder, images[:3]), spatial[:3], rtol=1e-4, atol=1e-5)


def test_any_module_is_an_encoder() -> None:
    vectors = Encoder(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 7)), 8)
    assert vectors.dim == 7 and vectors.spatial(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    maps = Encoder(SmallResNet(4, stem_stride=1), 8)
    assert maps.dim == 16 and maps.spatial(torch.zeros(2, 3, 8, 8)).shape == (2, 16 * 4)


def test_spread_and_rank_know_a_collapse() -> None:
    x = torch.randn(500, 32)
    assert 0.9 < feature_spread(x) < 1.1 and feature_spread(torch.ones(50, 8)) < 1e-3
    assert 28 < rank_me(x) <= 32.01 and abs(rank_me(torch.ones(50, 8)) - 1) < 1e-3
    low = torch.randn(500, 5) @ torch.linalg.qr(torch.randn(32, 5)).Q.T
    assert 4.5 < rank_me(low) < 5.01


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_equals_a_double_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(40, 5, generator=generator), dim=1)
    y = torch.randint(0, 12, (40,), generator=generator)
    first, r_precision, average = [], [], []
    for i in range(40):
        others = sorted((j for j in range(40) if j != i), key=lambda j: -float(x[i] @ x[j]))
        same = [int(y[j]) == int(y[i]) for j in others]
        r = sum(same)
        if r == 0:
            continue
        first.append(same[0])
        r_precision.append(sum(same[:r]) / r)
        average.append(sum(sum(same[: k + 1]) / (k + 1) for k in range(r) if same[k]) / r)
    scores = retrieval_scores(x, y)
    for name, values in (("precision_at_1", first), ("r_precision", r_precision), ("map_at_r", average)):
        assert math.isclose(scores[name], 100 * float(np.mean(values)), abs_tol=1e-3)
    with pytest.raises(ValueError, match="labels"):
        retrieval_scores(x, torch.arange(40))


def test_clustering_scores_of_known_clusters() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    renamed = clustering_scores(np.array([2, 2, 2, 0, 0, 0, 1, 1, 1]), labels)
    assert all(math.isclose(v, 100) for v in renamed.values())
    one_off = clustering_scores(np.array([2, 2, 0, 0, 0, 0, 1, 1, 1]), labels)
    assert math.isclose(one_off["accuracy"], 100 * 8 / 9) and 50 < one_off["ari"] < one_off["nmi"] + 20 < 120
    many = clustering_scores(np.arange(9), labels)
    assert math.isclose(many["accuracy"], 100 * 3 / 9)


def test_kmeans_is_as_good_as_scikit_learns() -> None:
    from sklearn.cluster import KMeans

    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(6, 10, generator=generator)
    x = centres[torch.arange(300) % 6] + torch.randn(300, 10, generator=generator)
    ours = min((kmeans(x, 6, seed=s) for s in range(5)), key=lambda r: r[2])
    theirs = KMeans(6, n_init=5, random_state=0).fit(x.numpy())
    assert ours[2] <= theirs.inertia_ / 300 * 1.001
    assert clustering_scores(ours[1].numpy(), np.arange(300) % 6)["accuracy"] > 95
    torch.testing.assert_close(ours[0], torch.stack([x[ours[1] == c].mean(0) for c in range(6)]), atol=1e-4, rtol=1e-4)
    again = kmeans(x, 6, seed=3), kmeans(x, 6, seed=3)
    assert torch.equal(again[0][0], again[1][0]) and torch.equal(again[0][1], again[1][1])


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_kmeans_of_one_start_costs_no_more_than_scikit_learns(shift: float) -> None:
    """Many separate clusters, where k-means++ without candidates ends in local optima of up to twice the cost."""
    from sklearn.cluster import KMeans

    generator = torch.Generator().manual_seed(1)
    centres = 4 * torch.randn(60, 8, generator=generator)
    x = centres[torch.arange(1800) % 60] + 0.5 * torch.randn(1800, 8, generator=generator) + shift
    ours = sum(kmeans(x, 60, seed=s)[2] for s in range(6))
    theirs = sum(KMeans(60, n_init=1, random_state=s).fit(x.numpy()).inertia_ / 1800 for s in range(6))
    assert ours <= 1.1 * theirs


def test_kmeans_repairs_empty_clusters() -> None:
    x = torch.cat([torch.zeros(30, 2), torch.ones(2, 2)])
    _, cluster, _ = kmeans(x, 4)
    assert len(set(cluster.tolist())) == 4
    with pytest.raises(ValueError, match="clusters.*33"):
        kmeans(x, 33)


def test_bad_rows_of_a_probe_are_named() -> None:
    from fastssl.evaluate import linear_probe

    x, labels, rows = torch.randn(10, 3), torch.arange(10) % 2, np.arange(10)
    broken = x.clone()
    broken[4, 1] = float("nan")
    for features, known, train, test, match in (
        (x, labels, rows[:1], rows[5:], "train: expected at least 3 rows, got 1"),
        (x, labels, rows[:5], rows[:0], "test: expected at least 1 row, got 0"),
        (broken, labels, rows[:5], rows[5:], "features: expected finite values, row 4 has others"),
        (x, labels - 1, rows[:5], rows[5:], "labels: expected classes from 0 on, got -1"),
    ):
        with pytest.raises(ValueError, match=match):
            linear_probe(features, known, train, test)


def test_labels_that_cannot_be_evaluated_are_named() -> None:
    from fastssl.data import ArraySource, DatasetSource
    from fastssl.evaluate import evaluate

    options = {"name": "resnet", "size": 8, "width": 4}
    encoder, images = build_encoder(options), np.zeros((4, 8, 8, 3), np.uint8)
    for labels, match in (
        (None, "data: expected labels to evaluate with, images has none"),
        ([0, 0, -1, 1], "data: expected a label of every item, 1 of images have none"),
        ([0, 0, 0, 0], "data: expected at least two classes"),
        ([0, 0, 0, 1], "data: expected at least two images of each class, class 'dogs' of images has one"),
    ):
        with pytest.raises(ValueError, match=match):
            evaluate(encoder, options, ArraySource(images, labels, ["cats", "dogs"]))
    with pytest.raises(ValueError, match="its strings are texts, classes are given by labels= of fastssl.data.open"):
        evaluate(encoder, options, DatasetSource([(image, "cat") for image in images]))


def test_a_pass_over_n_images_is_n_reads() -> None:
    """Of a source that counts: features, pixels, histograms, thumbnails of a report."""
    from collections import Counter

    from fastssl.data import Item, Source
    from fastssl.evaluate.features import color_histogram

    class Counting(Source):
        def __init__(self) -> None:
            self.labels, self.reads = np.arange(40) % 2, Counter()

        def __len__(self) -> int:
            return 40

        def read(self, index: int, reduce: object = None) -> Item:
            self.reads[index] += 1
            return Item(images=(np.full((9, 9, 3), index, np.uint8),), label=index % 2, name=str(index))

    encoder = build_encoder({"name": "resnet", "size": 8, "width": 4})
    for function in (lambda source: encode(encoder, source), lambda source: pixels(source, 8), color_histogram):
        source = Counting()
        assert len(function(source)) == 40 and set(source.reads.values()) == {1}
    report = pytest.importorskip("fastssl.report.compare")
    pytest.importorskip("matplotlib")
    source, group = Counting(), report.Group("x", [encoder])
    report._neighbours([group], source, True, queries=6, shown=7)
    assert sum(source.reads.values()) <= 40 + 1 + 6 + 6 * 7  # features, how many drawings, queries, what is shown


def _folder(root: Path, train: int = 24, val: int = 12, classes: int = 2, side: int = 20) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for k in range(count):
            image = rng.integers(0, 60, (side, side + 4, 3), dtype=np.uint8)
            image[..., k % classes % 3] += 120
            image[: side // 2, :, k % classes // 3] += 60
            path = root / part / f"class {k % classes}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def test_folders_with_train_and_val_are_judged_as_papers_do(tmp_path: Path) -> None:
    """k-NN of the test part among the training part, top-1 and top-5, against loops."""
    options = {"name": "resnet", "size": 16, "width": 4}
    torch.manual_seed(0)
    encoder, photos = build_encoder(options).eval(), _folder(tmp_path, 42, 21, 7)
    table = evaluate(encoder, options, photos, rows=("pretrained",))
    assert set(table) == {"knn", "knn_top5", "linear", "linear_top5"}
    train, test = (fastssl.data.open(photos, part=part) for part in ("train", "test"))
    x, y = (encode(encoder, part, "pooled") for part in (train, test))  # pooled, unless it is asked for otherwise
    a, b = (torch.nn.functional.normalize(z - x.mean(0), dim=1) for z in (x, y))
    hits = {1: 0, 5: 0}
    for query, label in zip(b, test.labels):
        cosine = a @ query
        votes = np.zeros(7)
        for j in cosine.argsort(descending=True)[:20]:
            votes[train.labels[j]] += math.exp(cosine[j] / 0.07)
        order = [c for c in np.argsort(-votes) if votes[c] > 0]
        for top in hits:
            hits[top] += int(label) in order[:top]
    assert math.isclose(table["knn"]["pretrained"], 100 * hits[1] / 21, abs_tol=1e-4)
    assert math.isclose(table["knn_top5"]["pretrained"], 100 * hits[5] / 21, abs_tol=1e-4)
    assert table["linear_top5"]["pretrained"] >= table["linear"]["pretrained"]
    spatial = evaluate(encoder, options, photos, "spatial", rows=("pretrained",))
    assert spatial["linear"] != table["linear"] or spatial["knn"] != table["knn"]


@pytest.mark.parametrize("size", [32, 112])
def test_images_are_evaluated_by_the_standard_crop(size: int) -> None:
    """The middle of the image with its shorter side at size, from 96 pixels on at 256 / 224 of it: Pillow's resize."""
    from PIL import Image

    ramp = np.linspace(0, 255, 150 * 200).reshape(150, 200, 1).repeat(3, 2).astype(np.uint8)
    resize = {32: 32, 112: 128}[size]
    small = Image.fromarray(ramp).resize((round(200 * resize / 150), resize), Image.Resampling.BILINEAR)
    left, top = round((small.width - size) / 2), round((small.height - size) / 2)
    expected = np.asarray(small.crop((left, top, left + size, top + size))) / 127.5 - 1
    (given,) = plain_images(fastssl.data.open(ramp[None]), size)
    assert np.abs(given[0].permute(1, 2, 0).numpy() - expected).max() < 3 / 127.5


def test_several_classes_of_arrays_are_judged_on_a_part() -> None:
    options, several = {"name": "resnet", "size": 16, "width": 4}, np.where(np.eye(3)[np.arange(60) % 3] > 0, 1, -1)
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    source = fastssl.data.open(images, labels=several)
    table = evaluate(build_encoder(options).eval(), options, source, rows=("pretrained",))
    assert list(table) == ["linear"] and 0 < table["linear"]["pretrained"] <= 100


def test_features_in_a_file_are_judged_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a limit features, centred ones and standardised ones are mapped, and worked on in chunks."""
    from fastssl.evaluate import features, linear

    options = {"name": "resnet", "size": 16, "width": 4}
    encoder, photos = build_encoder(options).eval(), _folder(tmp_path)
    x, y = _clusters(60, 12, 1.2)
    train, test = np.arange(0, 60, 2), np.arange(1, 60, 2)
    expected = [
        evaluate(encoder, options, photos, rows=("pretrained",))["knn"],
        centred(x),
        linear.standardise(x, train),
        linear_probe(x, y, train, test, 0.1, 20, protocol="sgd"),
        color_histogram(photos),
    ]
    monkeypatch.setattr(features, "LARGE", 64)
    for module in (features, linear):
        monkeypatch.setattr(module, "CHUNK", 7)
    mapped = encode(encoder, fastssl.data.open(photos), "pooled")
    assert features.is_large(mapped) and type(mapped.numpy().base) is not np.ndarray
    assert evaluate(encoder, options, photos, rows=("pretrained",))["knn"] == expected[0]
    torch.testing.assert_close(centred(x, x.mean(0)), expected[1])
    torch.testing.assert_close(linear.standardise(x, train), expected[2])
    assert linear_probe(x, y, train, test, 0.1, 20, protocol="sgd") == expected[3]
    assert torch.equal(color_histogram(photos), expected[4])


def test_every_pass_is_shown(tmp_path: Path) -> None:
    from contextlib import contextmanager

    from fastssl.evaluate.features import progress_bars

    seen: list[tuple[str, int, int]] = []

    @contextmanager
    def show(name: str) -> Iterator[Any]:
        yield lambda done, total: seen.append((name, done, total))

    options = {"name": "resnet", "size": 16, "width": 4}
    encoder, photos = build_encoder(options), _folder(tmp_path)
    with progress_bars(show):
        evaluate(encoder, options, photos)
    finished = [(name, done) for name, done, total in seen if done == total]
    passes = [one for one in finished if one[0] != "linear classifier"]
    assert passes == [(tmp_path.name, 36)] * 6  # pretrained, three random ones, pixels, histogram
    assert len(finished) - len(passes) >= 6
    count = len(seen)
    encode(encoder, photos)
    assert len(seen) == count


def test_a_class_of_one_image_is_named() -> None:
    images = np.zeros((5, 8, 8, 3), np.uint8)
    source = fastssl.data.ArraySource(images, [0, 0, 1, 2, 2], ["ants", "bees [1]", "cats"])
    options = {"name": "resnet", "size": 16, "width": 4}
    with pytest.raises(ValueError, match=r"class 'bees \[1\]' of images has one: add others, or leave the class out"):
        evaluate(build_encoder(options), options, source)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("protocol", ["lbfgs", "sgd"])
def test_linear_probe_within_evaluation_code(mode: Any, protocol: str) -> None:
    with mode():
        labels = torch.arange(60) % 3
        features = torch.eye(3)[labels] + 0.1 * torch.randn(60, 3)
        assert linear_probe(features, labels, np.arange(40), np.arange(40, 60), protocol=protocol, steps=20) == 100
        with pytest.raises(ValueError, match="labels: expected 60, one per row of features, got 50"):
            linear_probe(features, labels[:50], np.arange(40), np.arange(40, 60))
