"""Colorization as a proxy task: its histograms and its loss by loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastssl.augment import Augment, CenterCrop, ColorizationAugment, Views
from fastssl.data import Batch, Item
from fastssl.methods import ColorProxy
from fastssl.methods.color_proxy import CHROMA
from fastssl.models import build_encoder

ENCODER = {"name": "resnet", "size": 16, "width": 4, "blocks": 1}
IDS = np.arange(3)


def method(bins: int = 4) -> ColorProxy:
    torch.manual_seed(0)
    return ColorProxy(build_encoder(ENCODER), Views([Augment([CenterCrop(16)])]), bins=bins)


def items() -> list[Item]:
    rng = np.random.default_rng(0)
    colorful, grey = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8), np.full((16, 16, 3), 90, np.uint8)
    return [Item((image,)) for image in (*colorful, grey)]


def views(bins: int = 4) -> list[Tensor]:
    return method(bins).views(items(), 0, 0, IDS)


def test_histograms_are_those_of_the_pixels_that_an_output_covers() -> None:
    _, histograms, chroma, ab = views()
    side = histograms.shape[-1]
    assert side == 4
    for b, item in enumerate(items()):
        assert item.images is not None
        image = torch.from_numpy(item.images[0]).permute(2, 0, 1)[None] / 255
        _, colors = ColorizationAugment.lab(image)
        for y in range(side):
            for x in range(side):
                hue, intensity, total = torch.zeros(4), torch.zeros(4), 0.0
                for a, b_ in colors[0, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten(1).T.tolist():
                    length = math.hypot(a, b_) / CHROMA
                    hue[int(math.atan2(b_, a) / (2 * math.pi) % 1 * 4) % 4] += length
                    intensity[int(length * 4)] += 1 / 16
                    total += length
                assert torch.allclose(histograms[b, 1, :, y, x], intensity, atol=1e-5)
                assert float(chroma[b, y, x]) == pytest.approx(total / 16, abs=1e-5)
                if b < 2:
                    assert torch.allclose(histograms[b, 0, :, y, x], hue / total, atol=1e-4)
    assert torch.allclose(histograms[:2].sum(2), torch.ones(2, 2, side, side), atol=1e-5) and ab.shape == (3, 2, 4, 4)


def test_the_loss_is_the_divergence_of_chroma_and_that_of_hue_where_there_is_colour() -> None:
    model, batch = method().double(), Batch([v.double() for v in views()], None, torch.from_numpy(IDS))
    _, truth, chroma, _ = batch.views
    told = model.predicted(batch.views[0]).exp()
    terms = []
    for b, y, x in np.ndindex(3, 4, 4):
        parts = [
            sum(
                t * math.log(t / p)
                for t, p in zip(truth[b, k, :, y, x].tolist(), told[b, k, :, y, x].tolist())
                if t > 0
            )
            for k in range(2)
        ]
        terms.append(parts[1] + 5 * float(chroma[b, y, x]) * parts[0])
    assert float(model(batch)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_predictions_that_are_the_histograms_have_no_loss_and_show_the_colours() -> None:
    model, given = method(64), views(64)
    batch = Batch(given, None, torch.from_numpy(IDS))
    model.predicted = lambda light: given[1].clamp(min=1e-12).log()  # type: ignore[method-assign]
    assert abs(float(model(batch))) < 1e-4
    pictures = model.visualize(batch)
    # The direction of the mean colour, and its length where all pixels have one hue.
    assert float((pictures["coloured"][2] - pictures["true, as coarse"][2]).abs().max()) < 0.05


def test_settings_out_of_range_are_named() -> None:
    for options, message in (
        ({"bins": 1}, "bins: expected an integer >= 2"),
        ({"hue": -1.0}, "hue: expected a weight"),
    ):
        with pytest.raises(ValueError, match=message):
            ColorProxy(build_encoder(ENCODER), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 3 channels, got 1"):
        ColorProxy(build_encoder({**ENCODER, "channels": 1}))
