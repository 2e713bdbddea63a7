"""Views that are not square, and what a collate function, a crop and mixed channels lack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.augment import (
    Augment,
    BYOLAugment,
    CenterCrop,
    ColorizationAugment,
    ColorJitter,
    ContextEncoderAugment,
    CPCAugment,
    DINOAugment,
    GaussianBlur,
    JigsawAugment,
    MAEAugment,
    MoCoV2Augment,
    Normalize,
    RandomCrop,
    RandomErasing,
    RandomPosterize,
    RandomResizedCrop,
    RandomRotation,
    RotNetAugment,
    SimCLRAugment,
    VICRegAugment,
    Views,
)
from fastssl.data import Loader
from fastssl.data import open as open_source
from fastssl.data.views import CenterCropExamples

IMAGE = np.zeros((40, 50, 3), np.uint8)


@pytest.mark.parametrize("policy", [SimCLRAugment, MoCoV2Augment, BYOLAugment, VICRegAugment, MAEAugment])
def test_views_that_are_not_square(policy: Callable[..., Views]) -> None:
    for view in policy((32, 48))(np.stack([IMAGE] * 2), seed=0):
        assert view.shape == (2, 3, 32, 48)
    assert repr(policy((32, 32))) == repr(policy(32)).replace("RandomResizedCrop(32", "RandomResizedCrop((32, 32)")


def test_local_views_that_are_not_square() -> None:
    made = DINOAugment((32, 48), (16, 24), 1)(IMAGE, seed=0)
    assert [tuple(view.shape[1:]) for view in made] == [(32, 48), (32, 48), (16, 24)]


@pytest.mark.parametrize("policy", [RotNetAugment, CPCAugment])
def test_views_that_must_be_square(policy: Callable[..., Views]) -> None:
    with pytest.raises(ValueError, match=r"size: expected an integer .*of square views.*got \(32, 48\)"):
        policy((32, 48))


@pytest.mark.parametrize(
    "samples, message",
    [
        ([(IMAGE, "cat"), (IMAGE, "dog")], "samples: expected numbers or tensors.*as labels, got 'cat'.*number the"),
        ([(IMAGE, None)] * 2, "samples: expected numbers or tensors.*got None"),
        ([IMAGE] * 2, r"samples\[0\]: expected \(image, label\), got ndarray; without labels: collate_fn"),
        ([(IMAGE, 1), (IMAGE,)], r"samples\[1\]: expected \(image, label\), got 1 values"),
    ],
)
def test_collate_names_what_it_cannot_stack(samples: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SimCLRAugment(16).collate(samples)


def test_collate() -> None:
    for label, dtype in ((1, torch.int64), (0.5, torch.float32), (np.int64(3), torch.int64)):
        views, labels = SimCLRAugment(16).collate([(IMAGE, label)] * 2)
        assert len(views) == 2 and labels.tolist() == [label] * 2 and labels.dtype == dtype
    assert SimCLRAugment(16).collate([(IMAGE, torch.ones(5))] * 2)[1].shape == (2, 5)


@pytest.mark.parametrize("crop", [CenterCrop, RandomCrop])
def test_crops_larger_than_an_image(crop: Any) -> None:
    with pytest.raises(ValueError, match=r"images\[1\]: the crop does not fit the image of 40 x 50.*least 64 x 30.*64"):
        Augment([crop((64, 30))])([np.zeros((64, 30, 3), np.uint8), IMAGE], seed=0)
    assert Augment([crop((64, 30), resize=64)])([IMAGE], seed=0).shape == (1, 3, 64, 30)


def test_images_of_other_channels_are_named() -> None:
    images = [np.zeros((20, 20, channels), np.uint8) for channels in (4, 3, 4)]
    with pytest.raises(ValueError, match="images: expected 4 channels in each, 1 has 3"):
        next(iter(Loader(open_source(images), CenterCropExamples(16, 4), 3, shuffle=False)))


NUMPY_SIZES = [np.int64(32), (np.int32(32), np.uint8(32)), [np.int64(32), 32]]


@pytest.mark.parametrize("size", NUMPY_SIZES, ids=repr)
@pytest.mark.parametrize("make", [SimCLRAugment, MoCoV2Augment, BYOLAugment, MAEAugment], ids=lambda m: m.__name__)
def test_numpy_sizes_are_sizes(make: Any, size: Any) -> None:
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    given, plain = make(size), make(32)
    assert all(torch.equal(a, b) for a, b in zip(given(images, seed=0), plain(images, seed=0)))
    assert "np." not in repr(given)


@pytest.mark.parametrize(
    "make",
    [RotNetAugment, JigsawAugment, CPCAugment, ColorizationAugment, ContextEncoderAugment],
    ids=lambda m: m.__name__,
)
def test_numpy_sizes_of_square_views(make: Any) -> None:
    images = torch.randint(0, 256, (2, 300, 300, 3), dtype=torch.uint8)
    assert torch.equal(make(np.int64(48))(images, seed=0)[0], make(48)(images, seed=0)[0])


NUMPY_OPERATIONS = [
    lambda n, x: ColorJitter(x(0.4), x(0.4), (x(0.5), x(1.5)), x(0.1), p=x(0.5)),
    lambda n, x: CenterCrop(n(16), resize=n(20)),
    lambda n, x: GaussianBlur(n(5), p=x(0.5)),
    lambda n, x: RandomPosterize(bits=n(3), p=x(0.5)),
    lambda n, x: RandomRotation(x(30)),
    lambda n, x: RandomErasing(value=x(0.5)),
    lambda n, x: Normalize(x(0.5), (x(0.5), x(0.25), x(0.5))),
]


@pytest.mark.parametrize("make", NUMPY_OPERATIONS)
def test_numpy_parameters_are_those_of_python(make: Any) -> None:
    given, plain = make(np.int64, np.float64), make(int, float)
    assert given == plain and repr(given) == repr(plain)


@pytest.mark.parametrize("size", [True, np.True_, np.float64(32), 32.0, "32", 0, np.int64(-1)], ids=repr)
def test_sizes_that_are_none(size: Any) -> None:
    for make in (SimCLRAugment, RotNetAugment, RandomResizedCrop, CenterCrop):
        with pytest.raises(ValueError, match="size: expected"):
            make(size)
