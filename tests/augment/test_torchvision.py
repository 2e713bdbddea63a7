"""Transforms of torchvision and lightly as programs: stand-ins of their classes, and themselves where installed."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastssl.augment import (
    Augment,
    AutoAugment,
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Normalize,
    RandAugment,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomSolarize,
    RandomVerticalFlip,
    Resize,
    TimmRandAugment,
    TrivialAugmentWide,
    Views,
    from_torchvision,
)
from fastssl.augment.torchvision import TIMM_CHOICES


class AutoAugmentPolicy(Enum):
    SVHN = "svhn"


def made(
    name: str, library: str = "torchvision.transforms.v2._some", bases: tuple[type, ...] = (), **given: Any
) -> Any:
    """An object of a class of that name in that library, with these attributes."""
    transform = type(name, bases, {"__module__": library})()
    vars(transform).update(given)
    return transform


def crop(size: int = 32, scale: tuple[float, float] = (0.08, 1.0), **other: Any) -> Any:
    given = {
        "size": (size, size),
        "scale": scale,
        "ratio": (3 / 4, 4 / 3),
        "interpolation": "bilinear",
        "antialias": True,
    }
    return made("RandomResizedCrop", **given | other)


def resize(size: Any, **other: Any) -> Any:
    return made("Resize", **{"size": size, "interpolation": "bilinear", "max_size": None, "antialias": True} | other)


def padded(padding: Any = None, **other: Any) -> Any:
    given = {"size": (32, 32), "padding": padding, "pad_if_needed": False, "fill": 0, "padding_mode": "constant"}
    return made("RandomCrop", **given | other)


def applied(p: float, *transforms: Any) -> Any:
    return made("RandomApply", transforms=nn.ModuleList() if not transforms else list(transforms), p=p)


def jitter(**given: Any) -> Any:
    return made("ColorJitter", **{"brightness": None, "contrast": None, "saturation": None, "hue": None} | given)


def erasing(**given: Any) -> Any:
    return made("RandomErasing", **{"p": 0.5, "scale": (0.02, 0.33), "ratio": (0.3, 3.3), "value": 0} | given)


def rotation(**given: Any) -> Any:
    usual = {"degrees": [-20, 20], "interpolation": "nearest", "expand": False, "center": None, "fill": 0}
    return made("RandomRotation", **usual | given)


def compose(*transforms: Any) -> Any:
    return made("Compose", transforms=list(transforms))


FLOAT = made("ToTensor")
NORMALIZE = made("Normalize", mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
FLIP = made("RandomHorizontalFlip", p=0.5)
BLUR = made("GaussianBlur", kernel_size=(9, 9), sigma=[0.1, 2.0])


def program(*transforms: Any, **options: Any) -> list[Any]:
    found = from_torchvision(compose(*transforms), **options)
    assert isinstance(found, Augment)
    return [*found.operations, *([found.normalize] if found.normalize else [])]


def test_a_whole_pipeline() -> None:
    colors = jitter(brightness=(0.2, 1.8), contrast=[0.2, 1.8], hue=(-0.2, 0.2))
    gray = made("RandomGrayscale", p=0.2)
    assert program(crop(), FLIP, applied(0.8, colors), gray, applied(0.5, BLUR), FLOAT, NORMALIZE) == [
        RandomResizedCrop((32, 32)),
        RandomHorizontalFlip(0.5),
        ColorJitter((0.2, 1.8), (0.2, 1.8), 0.0, (-0.2, 0.2), p=0.8),
        RandomGrayscale(0.2),
        GaussianBlur(9, (0.1, 2.0), p=0.5),
        Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    ]


def test_resizes_become_a_part_of_the_crop() -> None:
    assert program(resize(48), made("CenterCrop", size=[32, 32]), FLOAT) == [CenterCrop((32, 32), resize=48)]
    bicubic = resize([48], interpolation="bicubic")
    assert program(bicubic, padded(), FLOAT) == [RandomCrop((32, 32), resize=48, interpolation="bicubic")]
    assert program(resize((32, 24)), FLOAT) == [Resize((32, 24))]
    for padding in (4, [4], (4, 4, 4, 4)):
        assert program(padded(padding), FLOAT) == [RandomCrop((32, 32), padding=4)]
    assert program(padded(4, fill={Image.Image: 0}), FLOAT) == [RandomCrop((32, 32), padding=4)]
    assert program(padded(0, padding_mode="reflect", fill=3), FLOAT) == [RandomCrop((32, 32))]


def test_probabilities_multiply_and_none_is_left_out() -> None:
    gray, three = made("RandomGrayscale", p=0.2), made("Grayscale", num_output_channels=3)
    assert program(crop(), applied(0.5, gray), applied(0.25, three), FLOAT)[1:] == [
        RandomGrayscale(0.1),
        RandomGrayscale(0.25),
    ]
    assert program(crop(), applied(0.5, applied(0.5, three)), FLOAT)[1:] == [RandomGrayscale(0.25)]
    affine = made("ElasticTransform")
    assert program(crop(), applied(0.0, affine, gray), made("RandomGrayscale", p=0), FLOAT)[1:] == []
    assert program(crop(), applied(1.0, gray, BLUR), FLOAT)[1:] == [RandomGrayscale(0.2), GaussianBlur(9)]


def test_rotations_keep_their_interpolation_and_fill() -> None:
    plain = RandomRotation((-20, 20), interpolation="nearest", fill=0.0)
    assert program(crop(), rotation(), FLIP, FLOAT)[1:] == [RandomHorizontalFlip(0.5), plain]
    assert program(crop(), applied(0.3, rotation(fill=[0, 51, 255])), FLOAT)[1:] == [
        RandomRotation((-20, 20), 0.3, "nearest", (0.0, 0.2, 1.0))
    ]
    affine = {**vars(rotation()), "translate": (0.1, 0.2), "scale": None, "shear": [-5, 5]}
    assert program(crop(), made("RandomAffine", **affine), FLOAT)[1:] == [
        RandomAffine((-20, 20), (0.1, 0.2), None, (-5, 5), interpolation="nearest")
    ]
    some = {"num_ops": 3, "magnitude": 7, "num_magnitude_bins": 11, "interpolation": "nearest", "fill": None}
    assert program(crop(), made("RandAugment", **some), FLOAT)[1:] == [RandAugment(3, 7, 11)]
    assert program(crop(), made("RandAugment", **{**some, "num_ops": 0}), FLOAT)[1:] == []
    learned = made("AutoAugment", policy=AutoAugmentPolicy.SVHN, interpolation="nearest", fill=[0, 51, 255])
    assert program(crop(), learned, FLOAT)[1:] == [AutoAugment("svhn", fill=(0.0, 0.2, 1.0))]


def test_the_transform_of_timm() -> None:
    """That of ``create_transform(32, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25)``."""
    names = sorted(TIMM_CHOICES)
    both = ("bilinear", "bicubic")
    ours = {"prob": 0.5, "magnitude": 9, "magnitude_std": 0.5, "magnitude_max": None, "hparams": {}}
    kwargs = {"fillcolor": (51, 102, 255), "resample": both}

    def chosen(**given: Any) -> Any:
        ops = [made("AugmentOp", "timm.data.auto_augment", kwargs=kwargs, **ours | given) for _ in names]
        for op, name in zip(ops, names):
            op.name = name
        return made("RandAugment", "timm.data.auto_augment", ops=ops, num_layers=2, choice_weights=None)

    def erased(**given: Any) -> Any:
        sizes = {"probability": 0.25, "min_area": 0.02, "max_area": 1 / 3, "log_aspect_ratio": (0.0, 0.0)}
        usual = {"mode": "const", "rand_color": False, "per_pixel": False, "max_count": 1}
        return made("RandomErasing", "timm.data.random_erasing", **sizes | usual | given)

    name, library = "RandomResizedCropAndInterpolation", "timm.data.transforms"
    start = [made(name, library, **{**vars(crop()), "interpolation": both}), FLIP]
    normalize = made("Normalize", mean=torch.tensor([0.485, 0.4, 0.3]), std=torch.tensor([0.229, 0.3, 0.4]))
    end = [made("MaybeToTensor", library), normalize]
    assert program(*start, chosen(), *end, erased()) == [
        RandomResizedCrop((32, 32), interpolation="random"),
        RandomHorizontalFlip(0.5),
        TimmRandAugment(2, 9.0, 0.5, 0.5, "random", (0.2, 0.4, 1.0)),
        RandomErasing(0.25, (0.02, 1 / 3), (1.0, 1.0), (0.485, 0.4, 0.3)),
        Normalize((0.485, 0.4, 0.3), (0.229, 0.3, 0.4)),
    ]
    with pytest.raises(ValueError, match="RandAugment: expected translate_pct=0.45 and .* of at most 10, got .*m=11"):
        program(*start, chosen(magnitude=11), *end)
    with pytest.raises(ValueError, match="RandomErasing: expected re_mode='const' and re_count=1, got 'pixel' and 1"):
        program(*start, *end, erased(mode="pixel", per_pixel=True))
    names.remove("Invert")
    with pytest.raises(ValueError, match="RandAugment: expected the operations of 'inc1' with equal weights"):
        program(*start, chosen(), *end)


def test_chosen_operations_are_those_of_timm() -> None:
    """Of the drawn parameters, by timm's functions of Pillow images, away from the edges."""
    timm = pytest.importorskip("timm.data.auto_augment")
    image = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64)))
    augment = Augment([CenterCrop(64), TimmRandAugment(1, prob=1.0)])
    views, params = augment([image] * 60, seed=0, return_params=True)
    names = [None, "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"]
    names += ["Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert", "SolarizeAdd"]
    for view, (_, _, which, value, how) in zip(views, params.values):
        argument = -value if which in (3, 4) else 1 + value if 6 <= which < 10 else value
        argument = int(argument) if which == 10 else math.ceil(value * 255) if which == 11 else argument
        argument = round(value * 255) if which == 15 else argument
        given = () if 12 <= which < 15 else (argument,)
        resample = Image.Resampling.BICUBIC if how == 2 else Image.Resampling.BILINEAR
        theirs = timm.NAME_TO_OP[names[int(which)]](
            Image.fromarray(image), *given, resample=resample, fillcolor=(124, 116, 104)
        )
        expected = torch.from_numpy(np.asarray(theirs).copy()).permute(2, 0, 1) / 255
        different = (view - expected).abs() > 2.1 / 255
        assert different.float().mean() < 0.04, (which, value, how)  # edges of what is known


def test_one_channel_of_grey() -> None:
    one = made("Grayscale", num_output_channels=1)
    for steps in ((one, crop()), (crop(), FLIP, one)):
        found = from_torchvision(compose(*steps, FLOAT, made("Normalize", mean=[0.5], std=[0.25])))
        assert isinstance(found, Augment) and found.channels == 1
    with pytest.raises(ValueError, match="expected 1 or None for Grayscale"):
        from_torchvision(compose(one, crop(), FLOAT), channels=3)


def test_flips_come_first_and_normalize_last() -> None:
    up = made("RandomVerticalFlip", p=0.3)
    expected = [RandomResizedCrop((32, 32)), RandomHorizontalFlip(0.5), RandomVerticalFlip(0.3), GaussianBlur(9)]
    assert program(FLIP, crop(), BLUR, up, FLOAT) == expected
    found = program(crop(), FLOAT, NORMALIZE, erasing(value=[1.0, -1.0, 0.0]))
    assert found[2] == Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert isinstance(found[1], RandomErasing)
    assert found[1].value == pytest.approx((0.7, 0.1, 0.3))
    assert program(crop(), FLOAT, erasing(value=0.5), NORMALIZE)[1].value == 0.5
    many = made("Normalize", mean=[0.5] * 13, std=[0.25] * 13)
    assert program(crop(), FLOAT, many, erasing(value=1.0))[1].value == 0.75
    with pytest.raises(ValueError, match="expected RandomErasing before a Normalize of 13 channels"):
        program(crop(), FLOAT, made("Normalize", mean=[0.5] * 12 + [0.4], std=[0.25] * 13), erasing())


def test_thresholds_of_uint8_and_of_floats() -> None:
    by_byte, by_float = (made("RandomSolarize", p=0.2, threshold=t) for t in (128, 0.5))
    assert program(crop(), by_byte, FLOAT, by_float)[1:] == [RandomSolarize(0.2, 128 / 255), RandomSolarize(0.2, 0.5)]


def test_the_dtype_is_that_of_the_transform_or_the_given_one() -> None:
    half = made("ToDtype", dtype=torch.float16, scale=True)
    bytes_first = made("ToDtype", dtype=torch.uint8, scale=True)
    transform = compose(made("ToImage"), bytes_first, crop(), half, made("ToPureTensor"), nn.Identity())
    found = from_torchvision(transform)
    assert isinstance(found, Augment) and found.dtype == torch.float16 and not found.channels_last
    found = from_torchvision(transform, dtype=torch.bfloat16, channels_last=True, channels=1)
    assert isinstance(found, Augment) and (found.dtype, found.channels_last, found.channels) == (
        torch.bfloat16,
        True,
        1,
    )


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([crop(), made("RandomEqual"), FLOAT], r"transform.transforms\[1\]: torchvision.*RandomEqual has no fused"),
        (
            [padded([4, 2]), FLOAT],
            r"transforms\[0\]: RandomCrop: expected black padding of one width, got padding=\[4, 2",
        ),
        ([padded(4, padding_mode="reflect"), FLOAT], "padding_mode='reflect'"),
        ([padded(4, fill=127), FLOAT], "fill=127"),
        ([padded(4, fill={Image.Image: (0, 127, 0)}), FLOAT], "fill="),
        ([padded(pad_if_needed=True), FLOAT], "pad_if_needed=True"),
        ([crop(antialias=False), FLOAT], "expected antialias=True"),
        ([crop(interpolation="nearest"), FLOAT], "expected bilinear or bicubic interpolation, got nearest"),
        ([resize(40, max_size=60), FLOAT], "max_size"),
        ([resize(None), FLOAT], "expected a size, got None"),
        ([crop()], "expected a conversion to floats"),
        ([crop(), made("ToDtype", dtype=torch.float32, scale=False)], "scale=True"),
        ([crop(), made("ToDtype", dtype=torch.float64, scale=True)], "float64"),
        ([resize(40), crop(), FLOAT], "RandomResizedCrop reads the whole image: leave the resize out"),
        ([resize(40), FLOAT], "leaves the size of views open, got nothing"),
        (
            [crop(), FLOAT, NORMALIZE, made("RandomGrayscale", p=0.5)],
            r"expected RandomGrayscale\(p=0.5\) before Normalize",
        ),
        ([crop(), FLOAT, NORMALIZE, NORMALIZE], "got a second"),
        ([crop(), padded(), FLOAT], "expected one crop"),
        ([FLIP, FLOAT], "expected one crop"),
        ([BLUR, crop(), FLOAT], "as the first operation, got GaussianBlur"),
        ([FLIP, made("CenterCrop", size=(32, 32)), FLOAT], "as the first operation, got RandomHorizontalFlip"),
        ([crop(), applied(0.5, BLUR, made("RandomGrayscale", p=0.5)), FLOAT], "expected one operation that has a prob"),
        ([crop(), applied(0.5, NORMALIZE), FLOAT], "expected one operation that has a probability"),
        ([crop(), made("GaussianBlur", kernel_size=(3, 5), sigma=(1, 1)), FLOAT], "square kernel"),
        ([crop(), FLOAT, erasing(value="random")], "'random'"),
        ([crop(), made("RandomInvert", p=1), made("Grayscale", num_output_channels=1), FLOAT], "Grayscale.1. first"),
        ([crop(), rotation(center=[0, 0]), FLOAT], r"RandomRotation: expected center=None, got \[0, 0\]"),
        ([crop(), rotation(expand=True), FLOAT], "expected expand=False"),
        (
            [crop(), rotation(interpolation="box"), FLOAT],
            "expected bilinear, nearest or bicubic interpolation, got box",
        ),
        ([crop(), rotation(degrees=[10, 20]), FLIP, FLOAT], "RandomHorizontalFlip.* before RandomRotation.*mirrored"),
        ([rotation(), crop(), FLOAT], "put it behind the crop"),
        ([resize((40, 40)), crop(), FLOAT], "RandomResizedCrop reads the whole image: leave the resize out"),
        ([resize((40, 40)), padded(), FLOAT], r"before RandomCrop, Resize\(SIZE\) of the shorter"),
        ([crop(), made("RandomOrder", transforms=[BLUR]), FLOAT], "RandomOrder has no fused equivalent"),
        (
            [crop(), made("GaussianBlur", "__main__", sigma=(1, 2)), FLOAT],
            "__main__.GaussianBlur has no fused equivalent",
        ),
    ],
)
def test_what_no_program_computes_is_an_error_that_names_its_place(transforms: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_torchvision(compose(*transforms))


def test_classes_of_ones_own_follow_rules() -> None:
    class Blur:
        sigma = (0.1, 2.0)

    class Narrow(Blur):
        sigma = (0.1, 1.0)

    class Solarize(nn.Module):
        pass

    rules = {
        Blur: lambda t: GaussianBlur(23, t.sigma, p=0.5),
        Solarize: lambda t: [made("RandomSolarize", p=0.2, threshold=128), RandomGrayscale(0.1)],
        Image.Image: lambda t: None,
    }
    own = [Narrow(), nn.Sequential(Solarize()), Image.new("RGB", (1, 1))]
    assert program(crop(), *own, FLOAT, rules=rules)[1:] == [
        GaussianBlur(23, (0.1, 1.0), p=0.5),
        RandomSolarize(0.2, 128 / 255),
        RandomGrayscale(0.1),
    ]


def test_several_views() -> None:
    large, small = compose(crop(32), FLOAT), compose(crop(16), FLOAT)
    views = from_torchvision([large, large, small])
    assert isinstance(views, Views)
    assert (views.counts, [p.size for p in views.programs]) == ([2, 1], [(32, 32), (32, 32), (16, 16)])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    assert [tuple(view.shape) for view in views(image)] == [(3, 32, 32), (3, 32, 32), (3, 16, 16)]
    with pytest.raises(ValueError, match=r"transforms\[1\].transforms\[0\]: torchvision"):
        from_torchvision([large, compose(made("ElasticTransform"))])


def test_classes_of_ones_own_that_make_several_views() -> None:
    """MoCo's and SimSiam's, MoCo v3's, DINO's, and their steps, which are no views."""

    class TwoCropsTransform:
        def __init__(self, base_transform: Any) -> None:
            self.base_transform = base_transform

    class DataAugmentationDINO:
        def __init__(self) -> None:
            self.large, self.other, self.small = (compose(crop(s), FLIP, FLOAT, NORMALIZE) for s in (32, 32, 16))

    class Steps:
        pass

    rules: Any = {
        TwoCropsTransform: lambda t: [t.base_transform] * 2,
        DataAugmentationDINO: lambda t: [t.large, t.other] + [t.small] * 6,
        Steps: lambda t: [crop(), FLOAT, NORMALIZE],
    }
    base = compose(crop(), FLOAT, NORMALIZE)
    two = from_torchvision(TwoCropsTransform(base), rules=rules)
    assert isinstance(two, Views) and two.counts == [2] and repr(two) == repr(from_torchvision([base] * 2))
    eight = from_torchvision(DataAugmentationDINO(), rules=rules)
    assert isinstance(eight, Views) and eight.counts == [1, 1, 6]
    assert isinstance(from_torchvision(Steps(), rules=rules), Augment)
    resized = {Steps: lambda t: [Resize(32), Normalize()]}
    assert isinstance(from_torchvision(Steps(), rules=resized), Augment)
    with pytest.raises(ValueError, match="TwoCropsTransform.* can name the operations, or the transforms of several"):
        from_torchvision(TwoCropsTransform(base))


@pytest.mark.parametrize("given", (1, 3, 13))
def test_the_channels_are_those_of_normalize(given: int) -> None:
    """One mean is that of all channels, as torchvision broadcasts it."""
    mean, std = ([value] * given for value in (0.5, 0.25))
    transform = compose(crop(), FLOAT, made("Normalize", mean=mean, std=std))
    found = from_torchvision(transform)
    assert isinstance(found, Augment) and found.channels == (13 if given == 13 else 3)
    image = torch.full((found.channels, 40, 40), 51, dtype=torch.uint8)
    assert torch.allclose(found(image, seed=0), torch.tensor((0.2 - 0.5) / 0.25), atol=1e-5)
    one = from_torchvision(compose(crop(), FLOAT, made("Normalize", mean=[0.5], std=[0.25])), channels=1)
    assert one(image[:1], seed=0).shape == (1, 32, 32)


def test_programs_beside_transforms() -> None:
    own = Augment([RandomResizedCrop(32), RandomHorizontalFlip(), Normalize()], dtype=torch.bfloat16)
    views = from_torchvision([own, compose(crop(16), FLOAT)])
    assert isinstance(views, Views) and repr(views.programs[0]) == repr(own)
    assert views.programs[1].size == (16, 16)


def test_functions_and_classes_are_no_transforms() -> None:
    def invert(image: Any) -> Any:
        return 255 - image

    with pytest.raises(ValueError, match=r"transforms\[1\]: expected a transform, got the function invert"):
        from_torchvision(compose(crop(), invert, FLOAT))
    with pytest.raises(ValueError, match=r"got the class ToTensor; give an instance, ToTensor\(...\)"):
        from_torchvision(compose(crop(), type(FLOAT)))
    foreign = made("Compose", "albumentations.core.composition", transforms=[])
    with pytest.raises(ValueError, match=r"known are transforms of torchvision, timm and lightly"):
        from_torchvision(foreign)


def test_transforms_of_lightly() -> None:
    library = "lightly.transforms.some"
    several = type("MultiViewTransform", (), {"__module__": library})
    blur = made("GaussianBlur", library, sigmas=(0.2, 2), prob=0.5)
    solarize = made("RandomSolarization", library, prob=0.2, threshold=128)
    rotate = made("RandomRotate", library, prob=0.0, angle=90)
    view = made("SimCLRViewTransform", library, transform=compose(crop(), rotate, blur, solarize, FLOAT))
    views = from_torchvision(made("SimCLRTransform", library, (several,), transforms=[view, view]))
    assert isinstance(views, Views) and views.counts == [2]
    assert views.programs[0].operations[1:] == (GaussianBlur(17, (0.2, 2.0), p=0.5), RandomSolarize(0.2, 128 / 255))
    one = from_torchvision(made("MAETransform", library, transform=compose(crop(), FLOAT)))
    assert isinstance(one, Views) and len(one.programs) == 1  # as theirs, a list of one view
    with pytest.raises(ValueError, match="RandomRotate: expected probability 0, got 0.5"):
        from_torchvision(compose(crop(), made("RandomRotate", library, prob=0.5, angle=90), FLOAT))
    puzzle = made("Jigsaw", library, transform=compose(crop(), FLOAT))  # applies it to each of nine crops
    with pytest.raises(ValueError, match="Jigsaw has no fused equivalent"):
        from_torchvision(puzzle)


@pytest.mark.parametrize("size", [(1, 1), (2, 10_000), (20_000, 3), (48, 48), (64, 48)])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_resize_takes_the_whole_image(size: tuple[int, int], backend: str | None) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    view, params = Augment([Resize((32, 24))])(image, seed=1, return_params=True, backend=backend)
    assert tuple(view.shape) == (1, 3, 32, 24)
    assert [*params[0].values()] == [0, 0, *size]


def test_the_distribution_of_padded_crops_is_that_of_torchvision() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    image = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    transform = v2.Compose([v2.RandomCrop(32, padding=4), v2.ToDtype(torch.float32, scale=True)])
    torch.manual_seed(0)
    theirs = torch.stack([transform(image) for _ in range(1000)])
    ours = from_torchvision(transform)(image.permute(1, 2, 0).numpy()[None].repeat(1000, 0), seed=0)
    assert (ours.mean(0) - theirs.mean(0)).abs().max() < 4 * (0.25 / 1000 * 2) ** 0.5
    assert ours.unique().tolist() == [0, 1]


def test_the_same_views_as_torchvision() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    from torchvision.transforms import InterpolationMode

    image = torch.randint(0, 256, (3, 35, 45), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = v2.functional.resize(image, [140, 180])
    start, floats = [v2.Resize(96), v2.CenterCrop(64)], v2.ToDtype(torch.float32, scale=True)
    bicubic = [v2.Resize(96, interpolation=InterpolationMode.BICUBIC), v2.CenterCrop((64, 40))]
    normalize = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for steps in (
        start,
        bicubic,
        [v2.Resize((64, 48))],
        [v2.RandomHorizontalFlip(1.0), v2.Resize((64, 48))],
        [v2.RandomResizedCrop(64, scale=(1, 1), ratio=(9 / 7, 9 / 7))],
        [*start, v2.ColorJitter(brightness=(1.3, 1.3))],
        [*start, v2.ColorJitter(contrast=(0.4, 0.4))],
        [*start, v2.ColorJitter(saturation=(0.4, 0.4))],
        [*start, v2.ColorJitter(hue=(0.1, 0.1))],
        [*start, v2.Grayscale(3), v2.RandomVerticalFlip(1.0)],
        [*start, v2.RandomApply([v2.GaussianBlur(9, (1.3, 1.3))], p=1.0), normalize],
        [*start, v2.RandomSolarize(0.5, p=1.0)],
        [*start, v2.RandomRotation((25, 25))],
        [*start, v2.RandomRotation((25, 25), InterpolationMode.BILINEAR, fill=0.4)],
        [*start, v2.RandomAffine((-9, -9), scale=(0.7, 0.7), shear=(5, 5, 8, 8))],
        [*start, v2.RandomAdjustSharpness(3, 1.0), v2.RandomAutocontrast(1.0), v2.RandomInvert(1.0)],
    ):
        transform = v2.Compose([floats, *steps])
        found = from_torchvision(transform)(image.numpy())
        assert (found - transform(image)).abs().max() < 2 / 255 / (0.224 if normalize in steps else 1), steps


def test_drawn_warps_and_choices_are_those_of_torchvision() -> None:
    """Of the drawn parameters, by torchvision's functions."""
    v2 = pytest.importorskip("torchvision.transforms.v2")
    auto = pytest.importorskip("torchvision.transforms.v2._auto_augment")
    image = np.random.default_rng(0).integers(0, 256, (20, 26, 3), dtype=np.uint8)
    smooth = v2.functional.resize(torch.from_numpy(image).permute(2, 0, 1), [60, 78]).permute(1, 2, 0).numpy()
    corners = [[0, 0], [51, 0], [51, 63], [0, 63]]
    names = [*auto.RandAugment._AUGMENTATION_SPACE, "Invert"]
    chosen = lambda x, p: v2.RandAugment()._apply_image_or_video_transform(  # noqa: E731
        x, names[int(p[0])], float(p[1]), "nearest", {torch.Tensor: None}
    )
    twice = lambda x, p: chosen(chosen(x, p[:3]), p[3:])  # noqa: E731
    for op, theirs in (
        (
            RandomAffine(40, (0.2, 0.1), (0.6, 1.5), (-20, 20, -10, 10), fill=(0.2, 0.5, 0.9)),
            lambda x, p: v2.functional.affine(
                x, p[0], [*p[1:3]], p[3], [*p[4:]], v2.InterpolationMode.BILINEAR, [0.2, 0.5, 0.9]
            ),
        ),
        (
            RandomPerspective(1.0, 1.0),
            lambda x, p: v2.functional.perspective(x, corners, p.reshape(4, 2).astype(int).tolist(), fill=[0.0]),
        ),
        (RandAugment(1), chosen),
        (TrivialAugmentWide(), chosen),
        *((AutoAugment(policy), twice) for policy in ("imagenet", "cifar10", "svhn")),
    ):
        crop = CenterCrop((64, 52), resize=64)
        augment = Augment([crop, op])
        params = augment.sample([(60, 78)] * 40, seed=1)
        x = Augment([crop])(smooth, seed=0)
        expected = torch.stack([theirs(x, p[2:]) for p in params.values])
        different = (augment.apply([smooth] * 40, params) - expected).abs() > 2 / 255
        assert different.float().mean() < 0.002, op  # halves between two pixels


def test_the_transforms_of_lightly_themselves() -> None:
    pytest.importorskip("torchvision")
    transforms = pytest.importorskip("lightly.transforms")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (260, 280, 3), dtype=np.uint8))
    for name in (
        "BYOL",
        "DINO",
        "DenseCL",
        "FastSiam",
        "IBOT",
        "MAE",
        "MMCR",
        "MSN",
        "MoCoV1",
        "MoCoV2",
        "SMoG",
        "SimCLR",
        "SimSiam",
        "SwaV",
        "TiCo",
        "VICReg",
    ):
        transform = getattr(transforms, f"{name}Transform")()
        assert [v.shape for v in from_torchvision(transform)(image)] == [v.shape for v in transform(image)], name
