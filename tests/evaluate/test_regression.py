"""Numbers to predict with each image: how they are read, and what is predicted, against scikit-learn."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

import fastssl.data
from fastssl.data import Splits
from fastssl.evaluate import (
    embed,
    evaluate,
    knn_regression,
    read_features,
    regression_scores,
    ridge_probe,
)
from fastssl.models import build_encoder

RNG = np.random.default_rng(0)
AGES = np.where(np.arange(60) % 20 == 3, np.nan, np.linspace(20.5, 80, 60))  # of which three are unknown


def images() -> list[np.ndarray]:
    noise = RNG.integers(0, 40, (60, 16, 16, 3))
    return list((noise + np.nan_to_num(AGES, nan=20)[:, None, None, None] * 2).astype(np.uint8))


def listed(folder: Path, column: str = "age", more: str = "") -> Path:
    for k, image in enumerate(images()):
        Image.fromarray(image).save(folder / f"{k}.png")
    rows = [f"{k}.png,{'' if np.isnan(age) else f'{age:.4f}'}{more}" for k, age in enumerate(AGES)]
    path = folder / "list.csv"
    path.write_text("\n".join([f"path,{column}" + (",kind" if more else ""), *rows]))
    return path


def stored(folder: Path) -> Path:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    encoded = []
    for image in images():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        encoded.append(file.getvalue())
    ages = [None if np.isnan(age) else float(age) for age in AGES]
    path = folder / "t.parquet"
    parquet.write_table(pa.table({"image": encoded, "age": ages, "label": [0, 1] * 30}), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "hub", "arrays"])
def test_numbers_of_images_are_read(kind: str, tmp_path: Path) -> None:
    source: Any
    if kind == "csv":
        source = fastssl.data.open(f"{listed(tmp_path, more=',a')}#score=age")
    elif kind == "arrays":
        source = fastssl.data.open(images(), scores=AGES)
    else:
        path = stored(tmp_path)
        if kind == "hub":
            datasets = pytest.importorskip("datasets")
            datasets.load_dataset("parquet", data_files=str(path), split="train").save_to_disk(str(tmp_path / "hub"))
        source = fastssl.data.open(f"hf:{tmp_path / 'hub'}#score=age" if kind == "hub" else f"{path}#score=age")
    assert source.labels.dtype == np.float64 and not len(source.classes)
    np.testing.assert_allclose(source.labels, AGES, atol=1e-4)
    assert source.read(0).label is None  # of which methods on classes would make some
    part = source.subset([5, 3])
    np.testing.assert_allclose(part.labels, AGES[[5, 3]], atol=1e-4)


def test_numbers_and_classes_are_not_mixed() -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    train, test = fastssl.data.open(images, scores=np.arange(6.0)), fastssl.data.open(images, labels=[0, 1] * 3)
    for parts in ((train, test), (test, train)):
        with pytest.raises(ValueError, match="sources: .* got numbers of .* and classes of"):
            evaluate(build_encoder({"name": "resnet", "size": 16, "width": 4}), None, Splits("toy", *parts))


def test_changed_numbers_are_other_data() -> None:
    class Own(fastssl.data.Source):
        labels = np.array([0.25, 0.5])

        def __len__(self) -> int:
            return 2

    one, other = Own(), Own()
    other.labels = np.array([0.25, 0.75])
    assert one.fingerprint != other.fingerprint


def test_numbers_are_asked_for(tmp_path: Path) -> None:
    path, encoder = listed(tmp_path, "label"), build_encoder({"name": "resnet", "size": 16, "width": 8})
    with pytest.raises(ValueError, match=r"has none .*the numbers in 'label' are no classes: #score=label predicts"):
        evaluate(encoder, None, path)
    with pytest.raises(ValueError, match=r"row 1: expected classes in column 'label', got .*: #score=label"):
        fastssl.data.open(f"{path}#label=label")
    with pytest.raises(ValueError, match="expected a column of labels or of scores, got label=label and score=label"):
        fastssl.data.open(f"{path}#label=label:score=label")
    with pytest.raises(ValueError, match="row 1: expected a finite number as score, got '0.png'"):
        fastssl.data.open(f"{path}#score=path")
    with pytest.raises(ValueError, match=r"labels: expected 60 integers, got float64 .*scores= of fastssl"):
        fastssl.data.open(images(), labels=AGES)
    with pytest.raises(ValueError, match=r"scores: expected 60 numbers, got float64 of shape \(59,\)"):
        fastssl.data.open(images(), scores=AGES[1:])
    with pytest.raises(ValueError, match="scores: expected finite numbers, or NaN .*, got inf for item 1"):
        fastssl.data.open(images()[:2], scores=[0.0, np.inf])
    with pytest.raises(ValueError, match="labels, scores: expected one of them, got both"):
        fastssl.data.open(images()[:2], labels=[0, 1], scores=[0.0, 1.0])
    with pytest.raises(ValueError, match="expected classes, list has numbers to predict"):
        from fastssl.evaluate import evaluate_with

        data = fastssl.data.open_splits(f"{path}#score=label")
        evaluate_with("layers", encoder, {"name": "resnet", "size": 16, "width": 8}, [data])


@pytest.mark.parametrize(("rows", "columns"), [(100, 7), (40, 90)])
def test_ridge_is_that_of_scikit_learn(rows: int, columns: int) -> None:
    x = RNG.normal(5, 3, (rows, columns)).astype(np.float32)
    y = 40 + 12 * (x @ RNG.normal(size=columns)) / columns + RNG.normal(size=rows)
    train, test = np.arange(0, rows, 2), np.arange(1, rows, 2)
    found = ridge_probe(torch.from_numpy(x), torch.from_numpy(y), train, test).numpy()
    scaled = ((x - x[train].mean(0)) / x[train].std(0, ddof=1) / columns**0.5).astype(np.float64)
    order = np.random.default_rng(len(train)).permutation(len(train))
    held, rest = train[order[: len(train) // 5]], train[order[len(train) // 5 :]]
    penalties = len(train) * 10.0 ** np.arange(-4, 1)
    fits = [Ridge(alpha).fit(scaled[rest], y[rest]) for alpha in penalties]
    best = penalties[int(np.argmax([fit.score(scaled[held], y[held]) for fit in fits]))]
    wanted = Ridge(best).fit(scaled[train], y[train]).predict(scaled[test])
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("temperature", [None, 0.07])
def test_neighbours_are_those_of_scikit_learn(temperature: float | None) -> None:
    x, q = (
        torch.nn.functional.normalize(torch.from_numpy(RNG.normal(size=(n, 8)).astype(np.float32))) for n in (50, 9)
    )
    y = RNG.normal(40, 9, 50)

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / (temperature or np.inf))

    wanted = KNeighborsRegressor(5, weights=weights, metric="cosine", algorithm="brute").fit(x, y).predict(q)
    np.testing.assert_allclose(knn_regression(x, y, q, 5, temperature=temperature), wanted, rtol=1e-5)


def test_scores_are_those_of_their_formulas() -> None:
    y, found = RNG.normal(40, 9, 50), RNG.normal(40, 9, 50)
    found[:20] = y[:20]
    table = regression_scores(found, y)
    assert table["r2"] == pytest.approx(100 * (1 - ((y - found) ** 2).sum() / ((y - y.mean()) ** 2).sum()))
    assert table["mae"] == pytest.approx(np.abs(y - found).mean())
    assert table["spearman"] == pytest.approx(100 * spearmanr(y, found).statistic)
    for few in ([1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match=f"expected two or more numbers each, .*got {len(few)} and "):
            regression_scores(few, few[:1] * 2 if len(few) > 1 else few)
    with pytest.raises(ValueError, match="predicted: expected finite numbers, got nan in row 1"):
        regression_scores([1.0, float("nan")], [1.0, 2.0])
    with pytest.raises(ValueError, match="scores: expected finite numbers, got inf in row 0"):
        regression_scores([1.0, 2.0], [float("inf"), 2.0])
    for shape in ((), (2, 1)):
        with pytest.raises(ValueError, match=r"predicted: expected numbers \[N\], got shape"):
            regression_scores(np.zeros(shape), [1.0, 2.0])


@pytest.mark.parametrize("parts", [False, True])
def test_an_encoder_is_evaluated_on_numbers(parts: bool, tmp_path: Path) -> None:
    options = {"name": "resnet", "size": 16, "width": 8}
    source, lines = fastssl.data.open(f"{listed(tmp_path)}#score=age"), list[str]()
    data: Any = Splits("toy", source.subset(range(0, 60, 2)), source.subset(range(1, 60, 2))) if parts else source
    table = evaluate(build_encoder(options), options, data, rows=("random", "pixels"), note=lines.append)
    assert list(table) == [f"{way}_{name}" for way in ("knn", "linear") for name in ("r2", "spearman", "mae")]
    assert list(table["linear_r2"]) == ["random", "pixels", "mean"]
    assert table["linear_r2"]["pixels"] > 95 and table["knn_spearman"]["random"] > 50
    assert table["linear_r2"]["mean"] <= 0 and table["knn_mae"]["mean"] > 5 * table["linear_mae"]["pixels"]
    counts = [line for line in lines if "have no score and are left out" in line]
    assert sum(int(line.split()[1]) for line in counts) == 3
    if parts:
        assert counts == ["toy: 3 of 30 test images have no score and are left out"]
        y = AGES[0:60:2]
        test = AGES[1:60:2][~np.isnan(AGES[1:60:2])]
        assert table["linear_mae"]["mean"] == pytest.approx(np.abs(test - y.mean()).mean(), rel=1e-4)


@pytest.mark.parametrize("case", ["constant", "unknown"])
def test_numbers_that_tell_nothing(case: str) -> None:
    encoder = build_encoder({"name": "resnet", "size": 16, "width": 8})
    source = fastssl.data.open(images()[:20], scores=np.full(20, 3.5 if case == "constant" else np.nan))
    got = "3.5 for all 16" if case == "constant" else "none for all 16"
    with pytest.raises(ValueError, match=f"training images with scores that differ, got {got} of images"):
        evaluate(encoder, None, source)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_features_are_written_with_numbers(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    encoder = build_encoder({"name": "resnet", "size": 16, "width": 8})
    embed(encoder, fastssl.data.open(images(), scores=AGES), tmp_path / f"f{suffix}")
    np.testing.assert_array_equal(read_features(tmp_path / f"f{suffix}").labels, AGES)


def test_rows_of_one_image_have_one_number(tmp_path: Path) -> None:
    path = listed(tmp_path)
    text = path.read_text()
    path.write_text(text + "\n" + text.splitlines()[4])  # whose number is unknown, twice
    assert len(fastssl.data.open_splits(f"{path}#score=age").train) == 48
    path.write_text(text + "\n0.png,99")
    with pytest.raises(ValueError, match=r"expected one number per image to evaluate on, 0.png of list has several"):
        fastssl.data.open_splits(f"{path}#score=age")
