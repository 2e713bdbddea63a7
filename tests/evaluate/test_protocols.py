"""Linear, few-label, per-level, zero-shot and fine-tuning protocols."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from PIL import Image
from torch import Tensor, nn

import fastssl.data
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import ArraySource, Splits, digits, divide, emoji, open_splits
from fastssl.evaluate import (
    PROTOCOLS,
    FineTuning,
    class_embeddings,
    eleven_point_map,
    encode,
    evaluate,
    evaluate_with,
    few_labels,
    finetune,
    knn_accuracy,
    layer_features,
    linear_probe,
    mean_per_class,
    recall_at,
    top_1,
    zero_shot,
)
from fastssl.evaluate.features import job, labels_of, progress_bar, progress_bars
from fastssl.evaluate.linear import labelled_rows
from fastssl.models import Encoder, build_encoder
from fastssl.train import Pretraining, load_method, pretrain

OPTIONS = {"name": "resnet", "size": 16, "width": 8, "blocks": 1}


def clusters(n: int = 90, d: int = 12, classes: int = 3, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % classes
    return torch.randn(classes, d)[labels] + spread * torch.randn(n, d), labels


# Metrics.


def test_metrics_are_scikit_learns() -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    scores, labels = torch.randn(200, 5), torch.randint(0, 4, (200,))  # a class that does not occur
    assert top_1(scores, labels) == pytest.approx(100 * accuracy_score(labels, scores.argmax(1)))
    labels = torch.cat([torch.zeros(150), torch.ones(30), torch.full((20,), 2)]).long()
    scores = scores[:, :3]
    expected = balanced_accuracy_score(labels, scores.argmax(1))
    assert mean_per_class(scores, labels) == pytest.approx(100 * expected)


@pytest.mark.parametrize("seed", range(5))
def test_eleven_points_as_the_challenge_counts_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(37, 4)), rng.choice([-1, 0, 1], size=(37, 4), p=[0.6, 0.1, 0.3])
    labels[:, 3] = -1  # a class without positives is not counted
    results = []
    for c in range(3):
        rows = [k for k in np.argsort(-scores[:, c], kind="stable") if labels[k, c] != 0]
        positives = sum(labels[k, c] == 1 for k in rows)
        curve, hits = [], 0
        for place, k in enumerate(rows):
            hits += int(labels[k, c] == 1)
            curve.append((hits / positives, hits / (place + 1)))
        points = [max((p for r, p in curve if r >= t / 10 - 1e-12), default=0.0) for t in range(11)]
        results.append(sum(points) / 11)
    given = eleven_point_map(torch.from_numpy(scores), torch.from_numpy(labels))
    assert given == pytest.approx(100 * np.mean(results))
    with pytest.raises(ValueError, match="at least one positive"):
        eleven_point_map(torch.zeros(3, 2), -torch.ones(3, 2))


def test_recall_at_k_counts_the_first_k() -> None:
    x = TF.normalize(torch.randn(30, 6), dim=1)
    y = TF.normalize(x + torch.randn(30, 6), dim=1)
    for k in (1, 3, 30):
        hits = sum(i in (x[i] @ y.T).argsort(descending=True)[:k] for i in range(30))
        assert recall_at(x, y, k) == pytest.approx(100 * hits / 30)
    assert recall_at(x, y, 30) == 100


def test_weighted_neighbours_by_hand() -> None:
    x, labels = clusters(spread=2.0)
    x = TF.normalize(x, dim=1)
    q, truth = x[60:], labels[60:]
    right = 0
    for row, label in zip(q, truth):
        cosine, order = (x[:60] @ row).topk(7)
        votes = torch.zeros(3).index_add_(0, labels[order], torch.exp(cosine / 0.07))
        right += int(votes.argmax() == label)
    given = knn_accuracy(x[:60], labels[:60], 7, q, truth, temperature=0.07)
    assert given == pytest.approx(100 * right / 30)


# Linear classifiers.


def test_sgd_reaches_what_lbfgs_reaches() -> None:
    data = digits()
    x, y = torch.from_numpy(data.images[:, 0]).float().mean(-1).flatten(1), torch.from_numpy(data.labels)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:800], order[800:]
    lbfgs = linear_probe(x, y, train, test)
    sgd = linear_probe(x, y, train, test, protocol="sgd", steps=60)
    assert abs(lbfgs - sgd) < 3 and sgd > 90
    with pytest.raises(ValueError, match="protocol"):
        linear_probe(x, y, train, test, protocol="adam")
    with pytest.raises(ValueError, match="metric"):
        linear_probe(x, y, train, test, metric="f1")


def test_several_labels_an_item() -> None:
    x = torch.randn(300, 8)
    labels = torch.where(x[:, :3] > 0, 1, -1)
    labels[::7, 1] = 0
    rows = np.arange(300)
    score = linear_probe(x, labels, rows[:200], rows[200:], metric="11-point mAP")
    assert score > 95
    shuffled = linear_probe(x, labels[torch.randperm(300)], rows[:200], rows[200:], metric="11-point mAP")
    assert shuffled < 75


@pytest.mark.parametrize("parts", [False, True])
def test_files_of_several_labels_an_image(parts: bool, tmp_path: Path) -> None:
    """As ChestMNIST has them: 0 is absent. They were an error, after the features of all images."""
    bright = np.random.default_rng(0).integers(0, 2, (60, 3), dtype=np.uint8)  # the channels of an image
    images = np.broadcast_to(255 * bright[:, None, None], (60, 16, 16, 3))
    first = {"train_images": images[:40], "train_labels": bright[:40]}
    whole = {"images": images, "labels": bright}
    np.savez(
        tmp_path / "d.npz", **({**first, "test_images": images[40:], "test_labels": bright[40:]} if parts else whole)
    )
    table = evaluate(build_encoder(OPTIONS), OPTIONS, str(tmp_path / "d.npz"), rows=("pixels",))
    assert list(table) == ["linear"] and table["linear"]["pixels"] > 95
    task = open_splits(str(tmp_path / "d.npz"))
    assert task.metric == "11-point mAP" and evaluate_with("layers", build_encoder(OPTIONS), OPTIONS, [task])


def test_few_labels_are_drawn_by_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 3])
    rows = labelled_rows(labels, 0.1, None, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [10, 4, 1]
    rows = labelled_rows(labels, None, 5, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [5, 5, 3]
    x, y = clusters(300)
    rows = np.arange(300)
    few, _ = few_labels(x, y, rows[:200], rows[200:], per_class=1)
    more, _ = few_labels(x, y, rows[:200], rows[200:], share=0.3)
    assert 33 < few <= more
    for wrong in ({}, {"share": 0.1, "per_class": 2}, {"share": 0.0}, {"per_class": 0}):
        with pytest.raises(ValueError, match=r"share|per_class"):
            few_labels(x, y, rows[:200], rows[200:], **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet", "vit", "patch-cnn", "resnet18"])
def test_levels_end_in_the_features(name: str) -> None:
    encoder = build_encoder({**OPTIONS, "name": name})
    images = digits().subset(range(10))
    levels = layer_features(encoder, images, cells=4, batch=4)
    assert len(levels) == len(encoder.levels()) and all(len(f) == 10 for f in levels)
    torch.testing.assert_close(levels[-1], encode(encoder, images, "spatial"), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="levels"):
        layer_features(Encoder(_Pool(), 16), images)


class _Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


# Two towers.


def test_zero_shot_takes_the_nearest_name() -> None:
    images = emoji().subset(np.arange(12), "emoji")
    method = build_method("clip", encoder_for("clip", None, 32, 4), images, 0).eval()
    classes = ["Cats", "Dogs", "Other things"]
    names = class_embeddings(method, classes, ["{}", "a {} {of} {1}"])
    for k, c in enumerate(classes):
        texts = [method.encode_texts(_tokens(t)) for t in (c, f"a {c} {{of}} {{1}}")]  # type: ignore[operator]
        torch.testing.assert_close(names[k], TF.normalize(texts[0] + texts[1], dim=1)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        names[0], class_embeddings(method, ["cats"], ["{}", "a {} {of} {1}"])[0], atol=1e-3
    )  # case is read
    from fastssl.augment import to_float

    unit = method.encode_images(to_float(torch.from_numpy(images.images[:, 0]), 32))  # type: ignore[operator]
    nearest = (unit @ names.T).argmax(1)
    assert zero_shot(method, images, nearest, classes, ["{}", "a {} {of} {1}"]) == 100
    with pytest.raises(ValueError, match="prompts"):
        class_embeddings(method, classes, ["no braces"])


def _tokens(text: str) -> Tensor:
    from fastssl.models import tokenize

    return tokenize([text])


# Fine-tuning.


def _shades(n: int = 80) -> ArraySource:
    """Two classes: left half bright, right half bright. Their mean colour says nothing."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 90, (n, 1, 16, 16, 3)).astype(np.uint8)
    labels = np.arange(n) % 2
    images[labels == 0, :, :, :8] += 100
    images[labels == 1, :, :, 8:] += 100
    return ArraySource(images, labels, ["left", "right"], "shades")


def test_finetuning_trains_the_whole_network() -> None:
    data, encoder = _shades(), build_encoder(OPTIONS)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    options = FineTuning(epochs=4, least_steps=20, batch_size=16, rates=(0.03, 0.1), flip=0.0, crop=(0.9, 1.0))
    labels = torch.from_numpy(data.labels)
    result = finetune(encoder, data, labels, np.arange(60), np.arange(60, 80), options)
    assert result.score > 90 and set(result.validation) == {0.03, 0.1} and result.rate in result.validation
    assert 1 <= result.steps <= 20
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())  # the caller's stays as it is
    again = finetune(encoder, data, labels, np.arange(60), np.arange(60, 80), options)
    assert again == result
    for name, wrong in (("epochs", 0), ("rates", ()), ("metric", "f1")):
        with pytest.raises(ValueError, match=name):
            finetune(encoder, data, labels, np.arange(60), np.arange(60, 80), FineTuning(**{name: wrong}))
    with pytest.raises(ValueError, match="train"):
        finetune(encoder, data, labels, np.arange(1), np.arange(60, 80))


@pytest.mark.parametrize("protocol", ["simclr-transfer", "few-labels", "layers", "structure"])
def test_protocols_give_tables(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastssl.evaluate.protocols as module

    quick: Any = lambda **options: FineTuning(**{**options, "epochs": 1, "least_steps": 6, "rates": (0.05,)})  # noqa: E731
    monkeypatch.setattr(module, "FineTuning", quick)
    data = _shades()
    task = Splits("shades", data.subset(np.arange(60)), data.subset(np.arange(60, 80)))
    notes: list[str] = []
    table = evaluate_with(protocol, build_encoder(OPTIONS), OPTIONS, [task], note=notes.append)
    rows = {k: v for k, v in table.items() if isinstance(v, dict) and not k.endswith("_std")}
    assert notes and all(np.isfinite(list(v.values())).all() for v in rows.values())
    if protocol == "simclr-transfer":
        assert list(rows) == ["linear", "fine-tuned", "supervised", "random"] and rows["linear"]["shades"] > 90
    elif protocol == "layers":
        assert [*rows] == [f"level {k}" for k in range(1, 5)] and set(rows["level 1"]) == {"pretrained", "random"}
    else:
        assert all(set(v) == {"pretrained", "random"} for v in rows.values())
    with pytest.raises(ValueError, match="protocol: expected one of"):
        evaluate_with("guess", build_encoder(OPTIONS), OPTIONS, [task])


@pytest.mark.parametrize("protocol", ["simclr-transfer", "few-labels"])
def test_protocols_that_train_networks_can_be_shortened(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastssl.evaluate.protocols as module
    import fastssl.evaluate.tuning as tuning

    taken: list[int] = []
    train = tuning.train_task

    def counted(task: Any, labels: Any, rows: Any, rate: float, options: Any, **how: Any) -> Any:
        taken.append(how.get("total") or options.steps(len(rows)))
        return train(task, labels, rows, rate, options, **how)

    monkeypatch.setattr(tuning, "train_task", counted)
    monkeypatch.setattr(module, "few_labels", lambda *_, **way: (0.0, 0.0))
    data = _shades()
    task = Splits("shades", data.subset(np.arange(60)), data.subset(np.arange(60, 80)))
    given = {"steps": np.int64(2)} if protocol == "simclr-transfer" else {"steps": np.int64(2), "seeds": 1}
    table = evaluate_with(protocol, build_encoder(OPTIONS), OPTIONS, [task], **given)  # type: ignore[arg-type]
    assert len(taken) == 2 * 4 and max(taken) <= 2  # pretrained and not, three rates and then all labels
    if protocol == "few-labels":
        assert set(table["fine-tuned, 10 % of labels"]) == {"pretrained", "random"}
        assert "fine-tuned, 10 % of labels_std" not in table
    for name, value in (("steps", 0), ("seeds", 0), ("seeds", 2)):
        if (protocol, name, value) != ("few-labels", "seeds", 2):
            with pytest.raises(ValueError, match=f"{name}: "):
                evaluate_with(protocol, build_encoder(OPTIONS), OPTIONS, [task], **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps: the protocol 'layers' has none, got 2"):
        evaluate_with("layers", build_encoder(OPTIONS), OPTIONS, [task], steps=2)


# What comes out of checkpoints.


@pytest.mark.parametrize("name", ["clip", "swav", "deep-cluster", "mae", "inter-clr"])
def test_methods_come_back_whole(name: str, tmp_path: Path) -> None:
    from fastssl.cli.recipes import options_for

    data = emoji().subset(np.arange(64), "emoji")
    options = encoder_for(name, None, 32, 4)
    method = build_method(name, options, data, 0)
    kept = options_for(name, "emoji")
    settings = Pretraining(epochs=1, batch_size=32)
    pretrain(method, data, settings, out=tmp_path, encoder_options=options, method_options=kept)
    loaded = load_method(tmp_path)
    own, other = method.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[k], other[k]) for k in own)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_one_class_has_no_score(protocol: str) -> None:
    """Every answer would be right."""
    task = divide(ArraySource(np.zeros((10, 8, 8, 3), np.uint8), [0] * 10, ["only [1]"]))
    options = {"name": "resnet", "size": 16, "width": 4}
    with pytest.raises(ValueError, match=r"at least two classes to evaluate on, images has \['only \[1\]'\]"):
        evaluate_with(protocol, build_encoder(options), options, [task])


class _Counted(ArraySource):
    count = 0

    def read(self, index: int, reduce: Any = None) -> Any:
        self.count += 1
        return super().read(index, reduce)


def test_data_without_labels_is_not_read_to_its_end(tmp_path: Path) -> None:
    source = _Counted(np.zeros((1000, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="expected labels to evaluate with, images has none$"):
        labels_of(source)
    assert source.count < 200
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "list.csv").write_text("path,target,note\n0.png,0.5,a\n0.png,1.5,b\n")
    with pytest.raises(
        ValueError,
        match="not read: 'note', the numbers in 'target' are no classes: #score=target predicts them.; a column of cl",
    ):
        labels_of(fastssl.data.open(tmp_path / "list.csv"))


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_unlabelled_items_are_counted(protocol: str) -> None:
    source = ArraySource(np.zeros((10, 8, 8, 3), np.uint8), [0, 1, -1, 0, 1, 0, 1, 0, -1, 1])
    options = {"name": "resnet", "size": 16, "width": 4}
    with pytest.raises(ValueError, match="a label of every item, 2 of images have none"):
        evaluate_with(protocol, build_encoder(options), options, [Splits("images", source, source.subset([0, 1]))])


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@pytest.mark.parametrize("options", [None, {}])
def test_protocols_need_the_options_of_a_random_encoder(protocol: str, options: Any) -> None:
    with pytest.raises(ValueError, match="options: expected those of build_encoder, for the random encoder of .*, got"):
        evaluate_with(protocol, build_encoder(OPTIONS), options, [open_splits("digits")])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_items_to_divide(count: int) -> None:
    """The training split was empty, which errors blamed."""
    source = ArraySource(np.zeros((2, 8, 8, 3), np.uint8), [0, 1], ["a", "b"]).subset(np.arange(count), "mine")
    for make in (divide, open_splits):
        with pytest.raises(ValueError, match=f"data: expected at least two items.*mine has {count}"):
            make(source)


@contextmanager
def reported(seen: dict[str, list[tuple[int, int]]]) -> Iterator[None]:
    """Context in which ``seen`` receives the (done, total) of each name."""

    @contextmanager
    def show(name: str) -> Iterator[Any]:
        seen.setdefault(name, [])
        yield lambda done, total: seen[name].append((done, total))

    with progress_bars(show):
        yield


def test_fine_tunings_with_few_labels_are_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first line on, what is left of all of them can be estimated: done grows to a total that stays."""
    import fastssl.evaluate.protocols as module

    quick: Any = lambda **options: FineTuning(**{**options, "epochs": 1, "least_steps": 6, "rates": (0.05, 0.01)})  # noqa: E731
    monkeypatch.setattr(module, "FineTuning", quick)
    monkeypatch.setattr(module, "few_labels", lambda *_, **way: (0.0, 0.0))
    data, seen = _shades(), dict[str, list[tuple[int, int]]]()
    task = Splits("shades", data.subset(np.arange(60)), data.subset(np.arange(60, 80)))
    with reported(seen):
        evaluate_with("few-labels", build_encoder(OPTIONS), OPTIONS, [task])
    assert set(seen) == {"shades", "shades: fine-tuning"}
    steps = seen["shades: fine-tuning"]
    done = [one for one, _ in steps]
    assert done == sorted(done) and len(done) > 36
    assert steps[0][0] == 1 and steps[-1][0] == steps[-1][1] and steps[0][1] >= 6 * 3 * 6  # draws, trainings, steps


@pytest.mark.parametrize("protocol", ["lbfgs", "sgd"])
def test_a_linear_probe_is_one_job(protocol: str) -> None:
    """The fits of all penalties or rates, and the last one: of five parts each."""
    x, y = clusters()
    seen = dict[str, list[tuple[int, int]]]()
    with reported(seen):
        linear_probe(x, y, np.arange(60), np.arange(60, 90), steps=20, protocol=protocol)
    (steps,) = seen.values()
    done = [one for one, _ in steps]
    assert done == sorted(done) and {total for _, total in steps} == {400} and steps[-1] == (400, 400)
    with reported(nested := {}), job("several", 2) as part:
        for _ in range(2):
            with part():
                linear_probe(x, y, np.arange(60), np.arange(60, 90), steps=20, protocol=protocol)
    assert list(nested) == ["several"] and nested["several"][-1] == (800, 800)


def test_parts_of_a_job_may_end_early_or_fail() -> None:
    seen = dict[str, list[tuple[int, int]]]()
    with reported(seen):
        with job("whole", 5) as part:
            with part(3), progress_bar("one") as show:
                show(1, 10)
                with progress_bar("within") as inner:
                    inner(1, 2)
            with part(2), progress_bar("two") as show:
                show(10, 10)
        with pytest.raises(KeyError), job("broken", 1) as part, part():
            raise KeyError
        with progress_bar("after") as show:
            show(1, 1)
    assert seen == {"whole": [(3, 50), (30, 50), (50, 50), (50, 50)], "broken": [], "after": [(1, 1)]}
