"""Augmentation against torchvision's outputs, Pillow, the NumPy oracle and the distributions it should draw from."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from fastssl.augment import (
    POLICIES,
    Augment,
    AutoAugment,
    CenterCrop,
    ColorizationAugment,
    ColorJitter,
    ColorProjection,
    ContextEncoderAugment,
    CPCAugment,
    GaussianBlur,
    JigsawAugment,
    Normalize,
    Params,
    RandAugment,
    RandomAdjustSharpness,
    RandomAffine,
    RandomAutocontrast,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPerspective,
    RandomPosterize,
    RandomResizedCrop,
    RandomRotation,
    RandomSolarize,
    RandomVerticalFlip,
    RelativePatchAugment,
    RotNetAugment,
    SimCLRAugment,
    Tile,
    TimmRandAugment,
    TrivialAugmentWide,
    Views,
    policy,
    to_float,
    uniform,
)
from fastssl.augment.program import _uniform
from fastssl.ops import extension
from fastssl.ops.reference.augment import philox
from tests.support import ROOT
from tests.support.modes import instruction_set
from tests.support.torchvision_programs import PROGRAMS, images_of

ISAS = extension._C.usable_isas() if extension._C is not None else []
WAYS = ["reference", *ISAS]
SAVED = np.load(ROOT / "tests" / "support" / "torchvision_views.npz")


def apply(way: str, augment: Augment, images: Any, params: Params) -> torch.Tensor:
    if way == "reference":
        return augment.apply(images, params, backend="reference")
    with instruction_set(way):
        return augment.apply(images, params, backend="cpu")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_views_are_those_of_torchvision(name: str, way: str) -> None:
    augment, count = PROGRAMS[name]
    images = images_of(name, count)
    views = apply(way, augment, images, Params(SAVED[f"{name}/params"], augment.columns))
    expected = torch.from_numpy(SAVED[f"{name}/views"]).float()
    assert views.shape == expected.shape
    difference = (views - expected).abs()
    if augment.normalize is not None:
        difference = difference * torch.tensor(augment.normalize.stds()).view(3, 1, 1)
    # Halves in the file: up to 2^-11 of it. Equalize turns a rounding into one of its 256 levels.
    assert float(difference.max()) <= (2 if name.startswith("chain") else 1) / 255 + 2**-11


def test_parity_covers_500_pairs() -> None:
    assert sum(len(SAVED[key]) for key in SAVED.files if key.endswith("/views")) >= 500


@pytest.mark.parametrize("name", ["crop", "chain simclr", "erase", "center"])
def test_drawing_is_reproducible(name: str) -> None:
    """The file's parameters were drawn by the kernels of another machine."""
    augment, count = PROGRAMS[name]
    sizes = [image.shape[:2] for image in images_of(name, count)]
    drawn = augment.sample(sizes, seed=list(PROGRAMS).index(name))
    np.testing.assert_allclose(drawn.values, SAVED[f"{name}/params"], rtol=1e-12)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("height,width", [(9, 40), (64, 64), (100, 31), (7, 7), (5, 1), (1, 5)])
def test_resize_is_within_a_level_of_pillow(mode: str, height: int, width: int) -> None:
    image = images_of("pillow", 1)[0][:, :, :3]
    crop = RandomResizedCrop((height, width), interpolation=mode)
    augment = Augment([crop])
    params = augment.sample([image.shape[:2]] * 20, seed=1)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for view, p in zip(augment.apply([image] * 20, params), params):
        top, left, h, w = (int(p[f"RandomResizedCrop.{c}"]) for c in ("top", "left", "height", "width"))
        cropped = Image.fromarray(image[top : top + h, left : left + w])
        expected = np.asarray(cropped.resize((width, height), filters[mode])).astype(float)
        made = (view.permute(1, 2, 0) * 255).round().clamp(0, 255).numpy()
        assert np.abs(made - expected).max() <= 1


KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("counter,key,expected", KNOWN)
def test_philox_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    """The vectors that its authors published."""
    assert philox(np.array([counter], np.uint32), (key[0], key[1]))[0].tolist() == expected


OPERATIONS: list[Any] = [
    ColorJitter(0.8, 0.6, 0.5, 0.3, p=0.9),
    ColorJitter(contrast=(1.5, 1.5)),
    RandomGrayscale(0.5),
    GaussianBlur(5, p=0.8),
    GaussianBlur(31, sigma=(3.0, 9.0)),
    RandomSolarize(0.7, threshold=0.3007),  # 76.68: means of two pixels hit 0.3, 76.5, and a jump shifts their contrast
    RandomPosterize(0.7, bits=5),
    RandomEqualize(0.5),
    RandomErasing(0.8, value=0.5),
    RandomRotation(40, p=0.8),
    RandomRotation(200, fill=(0.2, 0.5, 0.9)),
    RandomAffine(30, (0.2, 0.1), (0.6, 1.5), (-20, 20, -9, 9), p=0.8),
    RandomAffine((10, 20), shear=8, fill=None),
    RandomPerspective(0.9, 0.8, fill=0.5),  # at 1 a view can be folded, and what is near the fold is any pixel
    RandomRotation(60, interpolation="bicubic", fill=0.2),
    RandomAffine(30, (0.2, 0.1), (0.6, 1.5), 8, interpolation="bicubic", fill=None),
    RandomAdjustSharpness(3.0, 0.8),
    RandomAutocontrast(0.7),
    RandomInvert(0.5),
    ColorProjection(0.6),
    TrivialAugmentWide(interpolation="bilinear"),
    AutoAugment("svhn", interpolation="bicubic"),
    TimmRandAugment(fill=0.5),
]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_kernels_agree_with_the_oracle(data: Any) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    mode = data.draw(st.sampled_from(["bilinear", "bicubic", "random"]))
    steps: list[Any] = [RandomResizedCrop((height, width), scale=(0.01, 1.0), ratio=(0.2, 5.0), interpolation=mode)]
    steps += [RandomHorizontalFlip(), RandomVerticalFlip()][: data.draw(st.integers(0, 2))]
    levels = (RandomPosterize, RandomEqualize, TrivialAugmentWide, AutoAugment, TimmRandAugment)
    smooth = [op for op in OPERATIONS if not isinstance(op, levels)]
    steps += data.draw(st.lists(st.sampled_from(smooth), max_size=4))
    if data.draw(st.booleans()):
        steps.append(Normalize())
    augment = Augment(steps)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    channels = [data.draw(st.sampled_from([1, 3, 4])) for _ in range(3)]
    images = [rng.integers(0, 256, (*rng.integers(1, 50, 2), c), dtype=np.uint8) for c in channels]
    expected, drawn = augment(images, seed=7, return_params=True, backend="reference")
    for isa in ISAS:
        with instruction_set(isa):
            views, params = augment(images, seed=7, return_params=True, backend="cpu")
        np.testing.assert_allclose(params.values, drawn.values, rtol=1e-12, atol=1e-12)
        difference = (views - expected).abs()
        # A value at the threshold of solarize may fall on either side; hue amplifies rounding where there is no chroma.
        jumps = any(isinstance(op, RandomSolarize) for op in steps)
        assert float(difference.quantile(0.99 if jumps else 1.0)) < 2e-4 * (5 if steps[-1] == Normalize() else 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("padding", [1, 4, 40])
def test_padded_crops_are_crops_of_padded_images(padding: int, way: str) -> None:
    """Of smaller images too, flipped, and resized before; with as many columns of zeros as the crop is wide."""
    rng = np.random.default_rng(padding)
    for height, width, size in ((24, 31, (20, 17)), (9, 7, (9 + 2 * padding, 7 + padding))):
        images = [rng.integers(0, 256, (height, width, c), dtype=np.uint8) for c in (1, 3, 4) for _ in range(8)]
        crop = RandomCrop(size, padding=padding)
        augment = Augment([crop, RandomHorizontalFlip(), RandomVerticalFlip(), Normalize(0.4, 2.0)])
        params = augment.sample([(height, width)] * len(images), seed=1)
        views = apply(way, augment, images, params)
        for view, image, drawn in zip(views, images, params):
            colors = np.broadcast_to(image[..., :3], (height, width, 3))
            whole = np.pad(colors, ((padding,) * 2, (padding,) * 2, (0, 0))) / 255
            top, left = int(drawn["RandomCrop.top"]), int(drawn["RandomCrop.left"])
            part = whole[top : top + size[0], left : left + size[1]]
            if drawn["RandomHorizontalFlip.on"]:
                part = part[:, ::-1]
            if drawn["RandomVerticalFlip.on"]:
                part = part[::-1]
            np.testing.assert_allclose(view.permute(1, 2, 0).numpy(), (part - 0.4) / 2, atol=1e-6)
    resized = Augment([RandomCrop(30 + padding, resize=30, padding=padding), GaussianBlur(5)])
    params = resized.sample([(50, 40)] * 8, seed=2)
    images = [rng.integers(0, 256, (50, 40, 3), dtype=np.uint8) for _ in range(8)]
    expected = resized.apply(images, params, backend="reference")
    np.testing.assert_allclose(apply(way, resized, images, params), expected, atol=2e-5)


def test_padded_crops_reach_every_place() -> None:
    params = Augment([RandomCrop(8, padding=2)]).sample([(8, 8)] * 2000, seed=0)
    for name in ("top", "left"):
        assert sorted({*params[f"RandomCrop.{name}"].tolist()}) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="at least 4 x 4"):
        Augment([RandomCrop(8, padding=2)]).sample([(3, 8)], seed=0)
    with pytest.raises(ValueError, match="padding: expected"):
        RandomCrop(8, padding=-1)


@pytest.mark.parametrize("way", WAYS)
def test_levels_agree_with_the_oracle(way: str) -> None:
    """Posterize and equalize, which jump, right after the image itself."""
    images = [image[:20, :20, :3] for image in images_of("levels", 30)]
    for op in (RandomPosterize(1.0, bits=2), RandomEqualize(1.0)):
        augment = Augment([CenterCrop(20), op])
        params = augment.sample([(20, 20)] * 30, seed=0)
        expected = augment.apply(images, params, backend="reference")
        assert float((apply(way, augment, images, params) - expected).abs().max()) < 1e-6
    flat = np.full((20, 20, 3), 77, np.uint8)
    equalized = Augment([CenterCrop(20), RandomEqualize(1.0)])
    torch.testing.assert_close(
        apply(way, equalized, [flat], equalized.sample([(20, 20)], seed=0)), torch.full((1, 3, 20, 20), 77 / 255)
    )


@pytest.mark.parametrize(
    "op",
    [
        *(AutoAugment(policy, "bicubic") for policy in ("imagenet", "cifar10", "svhn")),
        RandAugment(3, fill=0.5),
        TrivialAugmentWide(interpolation="bilinear", fill=None),
        TimmRandAugment(),
        TimmRandAugment(3, 4, math.inf, 0.9, "nearest"),
    ],
    ids=repr,
)
def test_chosen_operations_agree_with_the_oracle(op: Any) -> None:
    images = [image[:21, :24, :3] for image in images_of("levels", 40)]
    augment = Augment([RandomResizedCrop((17, 14), interpolation="random"), op])
    expected, drawn = augment(images, seed=2, return_params=True, backend="reference")
    views, params = augment(images, seed=2, return_params=True, backend="cpu")
    np.testing.assert_allclose(params.values, drawn.values, rtol=1e-12, atol=1e-12)
    assert float(((views - expected).abs() > 2e-4).float().mean()) < 1e-3  # roundings at levels and between two pixels


@pytest.mark.parametrize("way", WAYS)
def test_a_projection_that_does_not_exist_leaves_the_view(way: str) -> None:
    """Three corners on a line; of a few pixels, folded ones have no values that are not finite."""
    rng = np.random.default_rng(0)
    plain = Augment([CenterCrop((9, 12))])
    image = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    for corners in ([0, 0, 11, 0, 11, 8, 3, 0], [1, 7, 4, 5, 10, 1, 0, 8], [2, 2] * 4):
        augment = Augment([CenterCrop((9, 12)), RandomPerspective(1.0, fill=None)])
        params = Params(np.array([[0.0, 0.0, *map(float, corners)]]), augment.columns)
        assert torch.equal(
            apply(way, augment, [image], params), apply(way, plain, [image], plain.sample([(9, 12)], seed=0))
        )
    for size in ((1, 1), (1, 6), (5, 2), (2, 2), (8, 3)):
        augment = Augment([CenterCrop(size), RandomPerspective(1.0, 1.0)])
        images = [image[: size[0], : size[1]]] * 50
        views = apply(way, augment, images, augment.sample([size] * 50, seed=1))
        assert bool(((views >= 0) & (views <= 1)).all())


FULL = [RandomResizedCrop((31, 37), interpolation="random"), RandomHorizontalFlip(), *OPERATIONS, Normalize()]


@pytest.mark.threads
def test_same_bits_for_threads_batches_and_instruction_sets() -> None:
    images = images_of("bits", 64)
    augment = Augment(FULL)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected, params = augment(images, seed=3, epoch=5, ids=np.arange(100, 164), return_params=True, backend="cpu")
        torch.set_num_threads(1)
        for way in ISAS:
            with instruction_set(way):
                assert torch.equal(augment(images, seed=3, epoch=5, ids=np.arange(100, 164), backend="cpu"), expected)
        for k in (0, 17, 63):  # batches of one
            one, drawn = augment([images[k]], seed=3, epoch=5, ids=[100 + k], return_params=True, backend="cpu")
            assert torch.equal(one[0], expected[k]) and drawn[0] == params[k]
        order = np.random.default_rng(0).permutation(64)
        shuffled = augment([images[k] for k in order], seed=3, epoch=5, ids=100 + order, backend="cpu")
        assert torch.equal(shuffled, expected[torch.from_numpy(order)])
        assert torch.equal(augment.apply(images, params, serial=True, backend="cpu"), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 6}, {"ids": [101]}, {"view": 1}, {"seed": 3 + 2**40}])
def test_every_part_of_the_key_counts(change: dict[str, Any]) -> None:
    augment = Augment(FULL)
    base: dict[str, Any] = {"seed": 3, "epoch": 5, "ids": [100], "view": 0}
    a, b = augment.sample([(50, 50)], **base), augment.sample([(50, 50)], **{**base, **change})
    assert not np.array_equal(a.values, b.values)


def ks(values: np.ndarray, low: float, high: float) -> float:
    return float(stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue)


def test_drawn_parameters_have_their_distributions() -> None:
    """Kolmogorov-Smirnov tests at 1e-4, on 20,000 draws of a fixed seed."""
    n = 20_000
    augment = Augment(
        [
            RandomResizedCrop(32, scale=(0.2, 0.8)),
            RandomHorizontalFlip(0.3),
            ColorJitter(0.4, 0.3, (0.5, 2.0), 0.1, p=0.7),
            RandomGrayscale(0.2),
            GaussianBlur(3, sigma=(0.1, 2.0), p=0.5),
            RandomRotation(30),
        ]
    )
    p = augment.sample([(4000, 4000)] * n, seed=1)
    crop = {c: p[f"RandomResizedCrop.{c}"] for c in ("top", "left", "height", "width")}
    assert ks(crop["height"] * crop["width"] / 4000**2, 0.2, 0.8) > 1e-4  # none is refused at these areas
    assert ks(np.log(crop["width"] / crop["height"]), math.log(3 / 4), math.log(4 / 3)) > 1e-4
    assert ks((crop["top"] + 0.5) / (4001 - crop["height"]), 0, 1) > 1e-4
    assert ks((crop["left"] + 0.5) / (4001 - crop["width"]), 0, 1) > 1e-4
    on = p["ColorJitter.on"] == 1
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.7, 1.3),
        ("saturation", 0.5, 2.0),
        ("hue", -0.1, 0.1),
    ):
        assert ks(p[f"ColorJitter.{name}"][on], low, high) > 1e-4
    assert ks(p["GaussianBlur.sigma"][p["GaussianBlur.sigma"] > 0], 0.1, 2.0) > 1e-4
    assert ks(p["RandomRotation.degrees"], -30, 30) > 1e-4
    for share, expected in (
        (p["RandomHorizontalFlip.on"].mean(), 0.3),
        (on.mean(), 0.7),
        (p["RandomGrayscale.on"].mean(), 0.2),
        ((p["GaussianBlur.sigma"] > 0).mean(), 0.5),
    ):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    counts = np.bincount(p["ColorJitter.order"].astype(int), minlength=24)
    assert stats.chisquare(counts).pvalue > 1e-4
    independent = ("RandomHorizontalFlip.on", "ColorJitter.on", "ColorJitter.order", "RandomGrayscale.on")
    independent += ("RandomRotation.degrees", "RandomResizedCrop.height")
    correlations = np.corrcoef(np.stack([p[name] for name in independent]))
    assert np.abs(correlations - np.eye(len(independent))).max() < 0.04


@pytest.mark.parametrize("size", [(10, 400), (400, 10), (1, 1), (3, 1000)])
def test_crops_of_narrow_images_fit(size: tuple[int, int]) -> None:
    augment = Augment([RandomResizedCrop(8)])
    p = augment.sample([size] * 500, seed=0)
    assert (p["RandomResizedCrop.top"] >= 0).all() and (p["RandomResizedCrop.height"] >= 1).all()
    assert (p["RandomResizedCrop.top"] + p["RandomResizedCrop.height"] <= size[0]).all()
    assert (p["RandomResizedCrop.left"] + p["RandomResizedCrop.width"] <= size[1]).all()


def test_every_form_of_images_gives_the_same_views() -> None:
    rgb = np.stack([image[:21, :21, :3] for image in images_of("forms", 8)])
    augment = Augment([RandomResizedCrop(19), RandomHorizontalFlip(), ColorJitter(0.4, 0.4, 0.4, 0.1)])
    expected = augment(rgb, seed=0)
    tensor = torch.from_numpy(rgb)
    forms: dict[str, Any] = {
        "tensor": tensor,
        "channels first": tensor.permute(0, 3, 1, 2).contiguous(),
        "channels first view": tensor.permute(0, 3, 1, 2),
        "list of arrays": list(rgb),
        "list of tensors": [t.permute(2, 0, 1).contiguous() for t in tensor],
        "mixed list": [t.permute(2, 0, 1).contiguous() if k % 2 else t for k, t in enumerate(tensor)],
        "pillow": [Image.fromarray(image) for image in rgb],
        "alpha": np.concatenate([rgb, rgb[..., :1]], 3),
        "strided": np.repeat(rgb, 2, 2)[:, :, ::2],
        "shared memory": tensor.clone().share_memory_(),
    }
    for name, images in forms.items():
        assert torch.equal(augment(images, seed=0), expected), name
    gray = rgb[..., :1]
    assert torch.equal(augment(gray, seed=0), augment(np.repeat(gray, 3, 3), seed=0))
    assert torch.equal(augment([Image.fromarray(g[:, :, 0]) for g in gray], seed=0), augment(gray, seed=0))
    assert torch.equal(augment(rgb[0], seed=0), expected[0])
    assert torch.equal(augment(Image.fromarray(rgb[0]), seed=0), expected[0])
    palette = Image.fromarray(rgb[0]).convert("P")
    assert torch.equal(augment(palette, seed=0), augment(palette.convert("RGB"), seed=0))
    assert augment(rgb[:0], seed=0).shape == (0, 3, 19, 19)


@pytest.mark.parametrize("way", WAYS)
def test_dtypes_and_layouts(way: str) -> None:
    images = images_of("dtypes", 5)
    steps = [RandomResizedCrop((14, 21)), ColorJitter(0.4, 0.4, 0.4, 0.1), Normalize()]
    plain = Augment(steps)
    params = plain.sample([image.shape[:2] for image in images], seed=0)
    expected = apply(way, plain, images, params)
    for dtype, last in itertools.product((torch.float32, torch.bfloat16, torch.float16), (False, True)):
        views = apply(way, Augment(steps, dtype=dtype, channels_last=last), images, params)
        assert views.dtype == dtype and views.shape == expected.shape
        assert views.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        assert torch.equal(views, expected.to(dtype))


def test_half_rounding_is_torchs() -> None:
    """Tiny and huge values through Normalize: subnormal halves, overflow."""
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for std in (1e-9, 1e-5, 0.01, 1.0, 300.0, 1e5, 1e8):
        normalize = Normalize(0.5, std)
        exact = Augment([CenterCrop(16), normalize])(image, seed=0)
        for dtype in (torch.float16, torch.bfloat16):
            assert torch.equal(Augment([CenterCrop(16), normalize], dtype=dtype)(image, seed=0), exact.to(dtype))


def test_to_float_is_a_resize() -> None:
    images = torch.from_numpy(np.stack([image[:21, :21, :3] for image in images_of("float", 4)]))
    plain = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(to_float(images), plain, atol=1e-5, rtol=0)
    small = torch.nn.functional.interpolate(plain, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(to_float(images, 8), small, atol=1e-5, rtol=0)


def test_program_prints() -> None:
    text = repr(Augment([RandomResizedCrop(32, scale=(0.2, 1.0)), GaussianBlur(3, p=0.5), Normalize(0.5, 0.5)]))
    for part in ("RandomResizedCrop(32, scale=(0.2, 1.0))", "GaussianBlur(kernel_size=3, p=0.5)", "[B, 3, 32, 32]"):
        assert part in text


def test_modules_above_still_apply_functions() -> None:
    seen: list[str] = []
    torch.nn.Sequential(SimCLRAugment(8)).apply(lambda module: seen.append(type(module).__name__))
    assert "SimCLRAugment" in seen and "Augment" in seen


# Policies.


@pytest.mark.parametrize("name", POLICIES)
def test_policies(name: str) -> None:
    size = {"jigsaw": 16, "relative-patch": 24}.get(name, 32)
    options: dict[str, Any] = {"jigsaw": {"cell": 20, "resize": 64}, "relative-patch": {"cell": 28, "resize": 96}}
    views = policy(name, size, **options.get(name, {}), **({"local_size": 16, "local": 3} if name == "dino" else {}))
    images = [np.ascontiguousarray(image[:, :, :3].repeat(3, 0).repeat(3, 1)) for image in images_of("policy", 3)]
    made, params = views(images, seed=1, return_params=True)
    counts = {"dino": 5, "mae": 1, "rotnet": 1, "jigsaw": 9, "cpc": 1, "colorization": 1, "context-encoder": 1}
    expected = counts.get(name, 1 if name.startswith("linear") else 2)
    assert len(made) == len(params) == len(views.programs) == expected
    for k, view in enumerate(made):
        side = 16 if name == "dino" and k >= 2 else size
        assert view.shape == (3, 3, side, side) and bool(torch.isfinite(view).all())
    again = views.apply(images, params)
    assert all(torch.equal(a, b) for a, b in zip(made, again))
    with torch.device("meta"):  # the default device is not that of the images
        again, formulas = views.apply(images, params), views.apply(images, params, backend="reference")
    assert all(torch.equal(a, b) for a, b in zip(made, again))
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(made, formulas))
    if expected > 1:
        assert not torch.equal(made[0], made[1])
    paper = policy(name)
    assert paper.programs[0].size[0] >= 32


def test_byol_views_differ_in_distribution() -> None:
    first, second = policy("byol", 32).sample([(64, 64)] * 2000, seed=0)
    assert (first["GaussianBlur.sigma"] > 0).all() and "RandomSolarize.on" not in first.columns
    assert abs((second["GaussianBlur.sigma"] > 0).mean() - 0.1) < 0.03
    assert abs(second["RandomSolarize.on"].mean() - 0.2) < 0.04


def test_jigsaw_tiles_are_cells_of_one_crop() -> None:
    views = JigsawAugment(16, cell=20, resize=64)
    image = np.indices((64, 90)).transpose(1, 2, 0).astype(np.uint8)
    image = np.concatenate([image, image[..., :1] * 0], 2)  # red is y, green is x
    for seed in range(20):
        tiles, params = views([image], seed=seed, return_params=True)
        top, left = params[0]["RandomCrop.top"][0], params[0]["RandomCrop.left"][0]
        mirrored = params[0]["RandomHorizontalFlip.on"][0] == 1
        for k, tile in enumerate(tiles):
            y, x = (tile[0, 0] * 255).round(), (tile[0, 1] * 255).round()
            row, column = divmod(k, 3)
            column = 2 - column if mirrored else column
            assert top + row * 20 <= y.min() and y.max() < top + (row + 1) * 20
            assert left + column * 20 <= x.min() and x.max() < left + (column + 1) * 20
            assert bool((x.diff(dim=1) == (-1 if mirrored else 1)).all())
        assert len({tuple(p.values[0, :2]) for p in params}) == 1
    normal = JigsawAugment.normalized(tiles[0])
    torch.testing.assert_close(normal.mean((2, 3)), torch.zeros(1, 3), atol=1e-4, rtol=0)


def test_relative_patches_know_their_places() -> None:
    views = RelativePatchAugment(24, cell=30, resize=96, normalize=None)
    params = views.sample([(96, 130)] * 4000, seed=0)
    places = RelativePatchAugment.places(params)
    counts = torch.bincount(places, minlength=8)
    assert counts.shape == (8,) and stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert (params[0]["Tile.index"] == 4).all() and not (params[1]["Tile.index"] == 4).any()


def test_rotations_are_quarter_turns() -> None:
    view = torch.randn(3, 3, 8, 8)
    turned, numbers = RotNetAugment.rotations(view)
    assert numbers.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for k in range(4):
        assert torch.equal(torch.rot90(turned[3 * k : 3 * k + 3], -k, (2, 3)), view)


def test_cpc_patches_overlap_by_half() -> None:
    view = torch.arange(256 * 256.0).reshape(1, 1, 256, 256).expand(1, 3, 256, 256)
    patches = CPCAugment.patches(view)
    assert patches.shape == (1, 7, 7, 3, 64, 64)
    assert torch.equal(patches[0, 2, 3, 0], view[0, 0, 64:128, 96:160])


def test_lab_of_known_colours() -> None:
    """CIE Lab (D65) of sRGB primaries, to the second place as tables print them."""
    colours = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]])
    lightness, ab = ColorizationAugment.lab(colours.view(6, 3, 1, 1))
    expected = torch.tensor(
        [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [53.39, 0, 0]]
    )
    torch.testing.assert_close(torch.cat([lightness, ab], 1).view(6, 3), expected, atol=0.02, rtol=0)


def test_context_masks() -> None:
    center = ContextEncoderAugment.mask(2, 32)
    assert center.float().mean() == 0.25 and bool(center[0, 0, 8:24, 8:24].all())
    random = ContextEncoderAugment.mask(8, 32, kind="random", share=0.3, seed=1)
    shares = random.float().mean((1, 2, 3))
    assert bool((shares >= 0.3).all()) and bool((shares < 0.45).all())
    assert not torch.equal(random[0], random[1])


def test_views_as_a_collate_function() -> None:
    images = [(Image.fromarray(image[:, :, 0]), k) for k, image in enumerate(images_of("loader", 10))]
    views = SimCLRAugment(16)
    loader = torch.utils.data.DataLoader(images, batch_size=4, collate_fn=views.collate)  # type: ignore[arg-type]
    torch.manual_seed(0)
    batches = list(loader)
    assert [tuple(v.shape) for v in batches[0][0]] == [(4, 3, 16, 16)] * 2
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(10))
    torch.manual_seed(0)
    assert torch.equal(next(iter(loader))[0][0], batches[0][0][0])


def test_uniform_is_keyed_by_id() -> None:
    a, b = uniform(1, 2, [5, 6, 7]), uniform(1, 2, [7, 5])
    assert np.array_equal(a[[2, 0]], b) and ((a > 0) & (a < 1)).all()


@pytest.mark.parametrize("count", [0, 1, 4, 7, 100])
@pytest.mark.parametrize("seed", [0, 5 | 7 << 32, 2**64 - 3, -1])
def test_uniform_is_philox(count: int, seed: int) -> None:
    """Bit for bit the formula by NumPy, which stands in for the extension."""
    for ids in ([], [0], [3, 2**40 + 5, 1]):
        for epoch, view, block in ((0, 0, 0), (2**33 + 1, 0xFFF0, 0x10000 - 25)):
            given = (epoch, np.array(ids, np.int64), view, block, count)
            made = uniform(seed, *given[:2], view=view, block=block, count=count)
            assert made.shape == (len(ids), count) and np.array_equal(made, _uniform(seed, *given))
    with pytest.raises(ValueError, match="count: expected at most 4 numbers, got 5"):
        uniform(0, 0, [0], block=0xFFFF, count=5)


# Wrong input.

IMAGES = np.zeros((2, 9, 9, 3), np.uint8)
CROP = Augment([RandomResizedCrop(8)])
BAD: list[tuple[str, Any, type[Exception], str]] = [
    ("floats", lambda: CROP(np.zeros((2, 9, 9, 3)), seed=0), TypeError, "images: expected uint8, got float64"),
    ("integers", lambda: CROP(torch.zeros(2, 9, 9, 3, dtype=torch.int64), seed=0), TypeError, "images.*int64"),
    ("a string", lambda: CROP("cat.png", seed=0), TypeError, "images.*str"),
    ("in a list", lambda: CROP([IMAGES[0], "x"], seed=0), TypeError, r"images\[1\].*str"),
    ("two channels", lambda: CROP(np.zeros((2, 9, 9, 2), np.uint8), seed=0), ValueError, r"images.*\(2, 9, 9, 2\)"),
    ("five dimensions", lambda: CROP(IMAGES[None], seed=0), ValueError, "images.*shape"),
    ("no pixels", lambda: CROP(np.zeros((2, 0, 9, 3), np.uint8), seed=0), ValueError, "images: .*at least one pixel"),
    ("batch in a list", lambda: CROP([IMAGES], seed=0), ValueError, r"images\[0\].*one image"),
    ("16 bits", lambda: CROP(Image.new("I;16", (9, 9)), seed=0), TypeError, "images.*I;16"),
    ("seed", lambda: CROP(IMAGES, seed=-1), ValueError, "seed.*-1"),
    ("epoch", lambda: CROP(IMAGES, seed=0, epoch=1.5), ValueError, "epoch.*1.5"),
    ("view", lambda: CROP(IMAGES, seed=0, view=70000), ValueError, "view.*70000"),
    ("ids", lambda: CROP(IMAGES, seed=0, ids=[1]), ValueError, "ids: expected 2"),
    ("float ids", lambda: CROP(IMAGES, seed=0, ids=[1.0, 2.0]), ValueError, "ids.*float64"),
    ("sizes", lambda: CROP.sample([(0, 5)], seed=0), ValueError, "sizes"),
    ("no crop", lambda: Augment([RandomGrayscale()]), ValueError, "operations.*crop"),
    ("nothing", lambda: Augment([]), ValueError, "operations.*crop"),
    (
        "late crop",
        lambda: Augment([RandomResizedCrop(8), RandomResizedCrop(8)]),
        ValueError,
        r"operations\[1\].*one crop",
    ),
    (
        "late flip",
        lambda: Augment([RandomResizedCrop(8), RandomGrayscale(), RandomHorizontalFlip()]),
        ValueError,
        "before",
    ),
    (
        "early normalise",
        lambda: Augment([Normalize(), RandomResizedCrop(8)]),
        ValueError,
        r"operations\[0\]: Normalize comes last, RandomResizedCrop",
    ),
    ("no operation", lambda: Augment([RandomResizedCrop(8), lambda x: x]), TypeError, r"operations\[1\]"),  # type: ignore[list-item]
    ("many", lambda: Augment([RandomResizedCrop(8), *[RandomGrayscale()] * 40]), ValueError, "at most 32"),
    ("dtype", lambda: Augment([RandomResizedCrop(8)], dtype=torch.float64), ValueError, "dtype.*float64"),
    ("crop size", lambda: RandomResizedCrop(0), ValueError, "size.*0"),
    ("crop pair", lambda: RandomResizedCrop((8, 8, 8)), ValueError, "size"),  # type: ignore[arg-type]
    ("scale", lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), ValueError, "scale"),
    ("scale kind", lambda: RandomResizedCrop(8, scale=0.5), ValueError, "scale.*0.5"),  # type: ignore[arg-type]
    ("ratio", lambda: RandomResizedCrop(8, ratio=(-1, 1)), ValueError, "ratio"),
    ("interpolation", lambda: RandomResizedCrop(8, interpolation="area"), ValueError, "interpolation.*'area'"),
    ("probability", lambda: RandomGrayscale(1.5), ValueError, "p: .*1.5"),
    ("probability kind", lambda: RandomHorizontalFlip("often"), ValueError, "p: .*'often'"),  # type: ignore[arg-type]
    ("brightness", lambda: ColorJitter(-0.1), ValueError, "brightness.*-0.1"),
    ("hue", lambda: ColorJitter(hue=0.6), ValueError, "hue"),
    ("kernel", lambda: GaussianBlur(4), ValueError, "kernel_size.*4"),
    ("sigma", lambda: GaussianBlur(3, sigma=(0.0, 1.0)), ValueError, "sigma"),
    ("translate", lambda: RandomAffine(9, translate=(2, 0)), ValueError, r"translate: expected fractions.*\(2, 0\)"),
    ("one translate", lambda: RandomAffine(9, translate=0.1), ValueError, "translate: expected fractions"),  # type: ignore
    ("scale 0", lambda: RandomAffine(9, scale=(0, 1)), ValueError, "scale"),
    ("fill", lambda: RandomRotation(9, fill=255), ValueError, "fill: expected values in .0, 1., .*255"),
    ("warp", lambda: RandomRotation(9, interpolation="box"), ValueError, "'nearest', 'bicubic'.*, got 'box'"),
    ("policy", lambda: AutoAugment("places"), ValueError, "policy: expected one of .'imagenet'.*, got 'places'"),
    ("timm", lambda: TimmRandAugment(magnitude=11), ValueError, r"magnitude: expected a number in .0, 10., got 11"),
    ("magnitude", lambda: RandAugment(2, 31), ValueError, "magnitude: expected an integer from 0 to 30, got 31"),
    ("distortion", lambda: RandomPerspective(2), ValueError, "distortion_scale"),
    ("sharpness", lambda: RandomAdjustSharpness(-1.0), ValueError, "sharpness_factor"),
    ("nan", lambda: GaussianBlur(3, sigma=(math.nan, 1.0)), ValueError, "sigma"),
    ("threshold", lambda: RandomSolarize(0.5, threshold=2.0), ValueError, "threshold"),
    ("bits", lambda: RandomPosterize(0.5, bits=9), ValueError, "bits.*9"),
    ("value", lambda: RandomErasing(value=(1.0, 2.0)), ValueError, "value"),  # type: ignore[arg-type]
    ("std", lambda: Normalize(0.5, 0.0), ValueError, "std"),
    ("tile without crop", lambda: Augment([Tile(3, 10, 8)]), ValueError, "Tile.*30"),
    ("tile size", lambda: Tile(3, 10, 12), ValueError, "size.*10"),
    ("resize", lambda: CenterCrop(8, resize=4), ValueError, "resize.*4"),
    (
        "small image",
        lambda: Augment([RandomCrop(10)])(IMAGES, seed=0),
        ValueError,
        r"images\[0\]: the crop does not fit.*9 x 9",
    ),
    ("policy", lambda: policy("magic"), ValueError, "name.*'magic'"),
    ("no programs", lambda: Views([]), ValueError, "programs"),
    ("programs", lambda: Views([1]), TypeError, "programs"),  # type: ignore[list-item]
    ("number of views", lambda: Views([(0, CROP)]), ValueError, "programs.*0"),
    ("strength", lambda: SimCLRAugment(8, strength=-1), ValueError, "strength.*-1"),
    ("mask kind", lambda: ContextEncoderAugment.mask(1, 8, kind="x"), ValueError, "kind.*'x'"),
]


@pytest.mark.parametrize("call,error,match", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_wrong_input_is_named(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def _params(**changes: float) -> Params:
    augment = Augment(FULL)
    drawn = augment.sample([(40, 40)] * 2, seed=0)
    for name, value in changes.items():
        drawn.values[1, augment.columns.index(name.replace("__", "."))] = value
    return drawn


@pytest.mark.parametrize("backend", ["cpu"])
@pytest.mark.parametrize(
    "changes",
    [
        {"RandomResizedCrop__top": -1},
        {"RandomResizedCrop__top": 39},
        {"RandomResizedCrop__height": 0},
        {"RandomResizedCrop__width": 1e300},
        {"RandomResizedCrop__left": math.nan},
        {"RandomResizedCrop__left": 0.5},
        {"ColorJitter__order": 24},
        {"ColorJitter__order": -1},
        {"ColorJitter__hue": 0.7},
        {"ColorJitter__brightness": -0.5},
        {"GaussianBlur__sigma": -1},
        {"GaussianBlur__sigma": math.inf},
    ],
)
def test_wrong_parameters_are_refused(changes: dict[str, float], backend: str) -> None:
    images = [np.zeros((40, 40, 3), np.uint8)] * 2
    with pytest.raises(ValueError, match="params: sample 1"):
        Augment(FULL).apply(images, _params(**changes), backend=backend)


def test_extreme_parameters_are_finite() -> None:
    images = [image for image in images_of("extreme", 2)]
    augment = Augment(FULL)
    sizes = [image.shape[:2] for image in images]
    for name, value in (
        ("RandomErasing__top", 1e6), ("RandomErasing__height", 1e6), ("GaussianBlur__sigma", 1e-6),
        ("GaussianBlur__sigma", 1e6), ("RandomRotation__degrees", 1e5), ("ColorJitter__contrast", 1e6),
    ):  # fmt: skip
        drawn = augment.sample(sizes, seed=0)
        drawn.values[1, augment.columns.index(name.replace("__", "."))] = value
        assert bool(torch.isfinite(augment.apply(images, drawn)).all())


def test_params_of_another_program_are_refused() -> None:
    other = Augment([RandomResizedCrop(8), RandomGrayscale()])
    with pytest.raises(ValueError, match="params: expected 2 draws"):
        CROP.apply(IMAGES, other.sample([(9, 9)] * 2, seed=0))
    with pytest.raises(ValueError, match="params: expected one for each of 2 views"):
        SimCLRAugment(8).apply(IMAGES, [])
    with pytest.raises(KeyError, match="nothing"):
        CROP.sample([(9, 9)], seed=0)["nothing"]


@pytest.mark.skipif(not ISAS, reason="the kernels are not built")
def test_raw_calls_are_checked() -> None:
    """The kernels' own entry points refuse what the Python layer never sends."""
    C = extension._C
    assert C is not None
    program, params = CROP._program, CROP.sample([(9, 9)] * 2, seed=0).values

    def call(**changes: Any) -> Any:
        arguments = {
            "program": program, "images": [IMAGES], "planar": False, "params": params, "dtype": "float32",
            "channels_last": False, "mean": [0.0] * 3, "std": [1.0] * 3, "height": 8, "width": 8, "serial": False,
        }  # fmt: skip
        return C.augment_apply(**{**arguments, **changes})

    assert call().shape == (2, 3, 8, 8)
    unknown = program.copy()
    unknown[0, 0] = 99
    nan = program.copy()
    nan[0, 3] = math.nan
    for changes in (
        {"program": unknown}, {"program": nan}, {"program": program[:, :5]}, {"program": np.zeros((40, 12))},
        {"images": [IMAGES[0]]}, {"images": []}, {"images": [IMAGES[:, :, :, 0]]}, {"images": [IMAGES[:, :, ::2]]},
        {"images": [IMAGES[..., :2]]}, {"params": params[:, :2]}, {"params": params[:1]}, {"height": 9}, {"height": 0},
        {"width": -1}, {"width": 1 << 40}, {"mean": [0.0]}, {"std": []}, {"planar": True},
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            call(**changes)
    with pytest.raises(TypeError):
        call(images=[IMAGES.astype(np.float32)])
    for sizes, ids, view in (([[0, 4]], [0], 0), ([[4]], [0], 0), ([[4, 4]], [0, 1], 0), ([[4, 4]], [0], 0xFFFF)):
        with pytest.raises(ValueError):
            C.augment_sample(program, np.array(sizes), 0, 0, np.array(ids), view)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_colours_come_back_within_autocast(dtype: torch.dtype) -> None:
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        lightness, ab = ColorizationAugment.lab(x)
        back = ColorizationAugment.rgb(lightness.to(dtype), ab.to(dtype))
    assert back.dtype == torch.float32
    assert float((back - x).abs().max()) < (1e-4 if dtype == torch.float32 else 0.05)


def test_the_central_box_has_half_the_side() -> None:
    for size in range(2, 40):
        mask = ContextEncoderAugment.mask(1, size)[0, 0]
        rows = mask.any(1).nonzero().flatten()
        assert len(rows) == size // 2 and int(mask.sum()) == (size // 2) ** 2
        assert abs(int(rows[0]) - (size - 1 - int(rows[-1]))) <= 1
    with pytest.raises(ValueError, match="size: expected at least 2 pixels, got 1"):
        ContextEncoderAugment.mask(1, 1, kind="random")


def test_an_erased_box_begins_inside_of_the_view() -> None:
    program = Augment([RandomResizedCrop(16), RandomErasing(1.0, value=1.0)])
    image = np.zeros((1, 40, 40, 3), np.uint8)
    _, params = program(image, seed=0, return_params=True)
    params.values[0, params.columns.index("RandomErasing.top")] = -1
    with pytest.raises(ValueError, match="an erased box must not begin outside of the view"):
        program.apply(image, params)
