"""Whitening against scikit-learn's PCA, and as a readout of the evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from fastssl.data import ArraySource
from fastssl.evaluate import evaluate, whitening
from fastssl.evaluate.features import centred
from fastssl.models import build_encoder


def _features(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -2, columns)
    return torch.randn(rows, columns, generator=generator) @ mixing + 3


@pytest.mark.parametrize(("rows", "columns"), [(100, 12), (12, 40), (33, 33)])
def test_whitened_features_are_those_of_scikit_learn(rows: int, columns: int) -> None:
    x, count = _features(rows, columns), 8
    expected = PCA(count, whiten=True, svd_solver="full").fit_transform(x.double().numpy())
    expected *= np.sqrt(rows / (rows - 1))  # it divides by N - 1
    made = ((x - x.mean(0)) @ whitening(x, count)).numpy()
    signs = np.sign((made * expected).sum(0))
    np.testing.assert_allclose(made * signs, expected, atol=2e-3)


def test_shrinking_adds_to_the_variances() -> None:
    x = _features(200, 6)
    variance = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)
    y = (x - x.mean(0)) @ whitening(x, 6, shrink=0.5)
    expected = variance / (variance + 0.5 * variance.mean())
    torch.testing.assert_close(y.double().var(0, correction=0), expected, rtol=1e-3, atol=1e-4)


def test_directions_without_variance_are_left_out() -> None:
    x = torch.cat([_features(50, 3), torch.ones(50, 4)], 1)
    assert whitening(x, 7).shape == (7, 3)
    assert bool(torch.isfinite(centred(x, projection=whitening(x, 7))).all())


def test_bad_input_is_named() -> None:
    for message, arguments in (
        ("features: expected \\[N, C\\]", (torch.zeros(1, 3),)),
        ("components: expected an integer >= 1, got 0", (torch.zeros(4, 3), 0)),
        ("shrink: expected a number >= 0", (torch.zeros(4, 3), 2, -1.0)),
    ):
        with pytest.raises(ValueError, match=message):
            whitening(*arguments)  # type: ignore[arg-type]


def test_every_row_of_a_table_is_whitened() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    source = ArraySource(images, np.arange(40) % 2, ["a", "b"])
    options = {"name": "resnet", "size": 16, "width": 4}
    plain, white = (evaluate(build_encoder(options).eval(), options, source, whiten=w) for w in (None, 4))
    assert plain["knn"].keys() == white["knn"].keys()
    assert plain["knn"]["pixels"] != white["knn"]["pixels"]
    assert plain["linear"]["pixels"] == white["linear"]["pixels"]
