"""Grey, RGB and n-channel images, from files and arrays to encoders."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastssl.data
from fastssl.augment import (
    HALF,
    Augment,
    CenterCrop,
    ColorJitter,
    ColorProjection,
    GaussianBlur,
    Normalize,
    RandomAdjustSharpness,
    RandomAffine,
    RandomAutocontrast,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomPosterize,
    RandomResizedCrop,
    RandomRotation,
    RandomSolarize,
    RandomVerticalFlip,
    SimCLRAugment,
    policy,
)
from fastssl.augment.images import PaddedRGB
from fastssl.data import ImageError, Loader, PackedImages, pack_source, read_image, write_shards
from fastssl.data.decode import shrink
from fastssl.data.views import CenterCropExamples
from fastssl.evaluate import encode, evaluate
from fastssl.methods import get, methods_of
from fastssl.models import build_encoder
from fastssl.train import Pretraining, load_encoder, pretrain
from tests.augment.test_augment import ISAS, instruction_set

RNG = np.random.default_rng(0)
IMAGES = {c: RNG.integers(0, 256, (6, 20, 24, c), dtype=np.uint8) for c in (1, 2, 3, 4, 5)}


def _program(channels: int, **options: Any) -> Augment:
    steps = [RandomResizedCrop(16), RandomHorizontalFlip(), ColorJitter(0.4, 0.4, 0.4, 0.1), RandomGrayscale(0.5)]
    return Augment([*steps, GaussianBlur(3), HALF], channels=channels, **options)


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("layout", ["last", "first", "list", "tensor"])
def test_each_channel_is_augmented_as_a_grey_image(channels: int, layout: str) -> None:
    images = IMAGES[channels]
    given: Any = {
        "last": images,
        "first": np.ascontiguousarray(images.transpose(0, 3, 1, 2)),
        "list": list(images),
        "tensor": torch.from_numpy(images),
    }[layout]
    views = _program(channels)(given, seed=3)
    assert views.shape == (6, channels, 16, 16)
    for k in range(channels):
        alone = _program(1)(np.ascontiguousarray(images[..., k : k + 1]), seed=3)
        assert torch.equal(views[:, k], alone[:, 0])


OPERATIONS: list[Any] = [
    ColorJitter(0.8, 0.6, 0.5, 0.3, p=0.9),
    RandomGrayscale(0.5),
    GaussianBlur(5, p=0.8),
    ColorJitter(contrast=(1.5, 1.5)),
    RandomErasing(0.8, value=0.5),
    RandomRotation(40, p=0.8),
    RandomAffine(30, (0.2, 0.1), (0.6, 1.5), 20, p=0.8, fill=0.3),
    RandomAdjustSharpness(3.0, 0.8),
    RandomAutocontrast(0.7),
    ColorProjection(0.6),
]


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_fused_views_are_those_of_the_reference(channels: int) -> None:
    images = [RNG.integers(0, 256, (*RNG.integers(5, 40, 2), channels), dtype=np.uint8) for _ in range(24)]
    normalize = Normalize(tuple(np.linspace(0.3, 0.6, channels)), tuple(np.linspace(0.2, 0.3, channels)))
    crop = RandomResizedCrop((23, 18), interpolation="bicubic")
    augment = Augment([crop, RandomHorizontalFlip(), RandomVerticalFlip(), *OPERATIONS, normalize], channels=channels)
    expected, params = augment(images, seed=7, return_params=True, backend="reference")
    fused = augment.apply(images, params, backend="cpu")
    for isa in ISAS:
        with instruction_set(isa):
            views, drawn = augment(images, seed=7, return_params=True, backend="cpu")
        assert np.array_equal(drawn.values, params.values) and torch.equal(views, fused)
    assert fused.shape == (24, channels, 23, 18)
    # The reference takes the mean of the grey, whose weights sum to 0.9999; deviations of 0.2 divide differences.
    assert float((fused - expected).abs().max()) < 5 * 2e-4
    on_gpu = augment.apply(images, params, backend="cuda")  # its kernels, as loops
    assert float((on_gpu - expected).abs().max()) < 5 * 2e-4


def test_operations_on_channels_follow_their_formulas() -> None:
    """Crops that move nothing, so that each operation is a formula on the values, in float64."""
    images = IMAGES[4]
    x = images.transpose(0, 3, 1, 2) / 255.0
    means = x.mean((2, 3), keepdims=True)  # of every channel by itself

    def views(*steps: Any) -> np.ndarray:
        made: np.ndarray = Augment([CenterCrop((20, 24)), *steps], channels=4)(images, seed=0).double().numpy()
        return made

    for steps, expected in (
        ([ColorJitter((1.7, 1.7))], np.clip(1.7 * x, 0, 1)),
        ([ColorJitter(contrast=(0.3, 0.3))], 0.3 * x + 0.7 * means),
        ([ColorJitter(contrast=(2.0, 2.0))], np.clip(2 * x - means, 0, 1)),
        ([RandomSolarize(1.0, threshold=0.4)], np.where(x >= 0.4, 1 - x, x)),
        ([RandomPosterize(1.0, bits=2)], np.minimum(np.floor(x * 4), 3) / 4),
        ([Normalize((0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0))], (x - _column(0.1, 0.4)) / _column(1, 4)),
        ([ColorJitter(0, 0, 0.9, 0.5), RandomGrayscale(1.0), ColorProjection()], x),  # of three channels only
    ):
        np.testing.assert_allclose(views(*steps), expected, atol=2e-6)
    flipped = Augment([CenterCrop((20, 24)), RandomHorizontalFlip(1.0), RandomVerticalFlip(1.0)], channels=4)
    np.testing.assert_allclose(flipped(images, seed=0), x[:, :, ::-1, ::-1], atol=1e-6)
    plain = Augment([CenterCrop((20, 24))], channels=4)(images, seed=0)
    assert torch.equal(Augment([CenterCrop((20, 24)), ColorJitter(0, 0, 0.9, 0.5)], channels=4)(images, seed=0), plain)


def _column(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 4).reshape(1, 4, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_channels_in_every_memory(dtype: torch.dtype) -> None:
    plain = _program(4)(IMAGES[4], seed=1)
    planar = np.ascontiguousarray(IMAGES[4].transpose(0, 3, 1, 2))
    for images in (IMAGES[4], planar):
        for last in (False, True):
            views = _program(4, dtype=dtype, channels_last=last)(images, seed=1)
            assert torch.equal(views, plain.to(dtype))
            assert views.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def test_grey_crops_of_colours_are_crops_of_their_grey() -> None:
    """The same bits as images that Pillow has converted, whatever the memory of the colours."""
    from PIL import Image

    colors = RNG.integers(0, 256, (5, 33, 29, 3), dtype=np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colors])[..., None]
    expected = _program(1)(grey, seed=2)
    alpha = np.concatenate([colors, colors[..., :1]], 3)
    forms: list[Any] = [colors, alpha, np.ascontiguousarray(colors.transpose(0, 3, 1, 2)), alpha.view(PaddedRGB)]
    for images in (*forms, list(colors), [colors[0], *grey[1:]]):
        assert torch.equal(_program(1)(images, seed=2), expected)
    assert torch.equal(_program(1)(colors, seed=2, backend="reference"), _program(1)(grey, seed=2, backend="reference"))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_loader_makes_the_views_of_its_files(channels: int, tmp_path: Path) -> None:
    for k, image in enumerate(IMAGES[channels]):
        np.save(tmp_path / f"{k}.npy", image)
    augment = SimCLRAugment(16).with_channels(channels)
    for workers in (1, 3):
        loader = Loader(tmp_path, augment, 3, workers=workers, seed=5)
        for epoch in range(2):
            for batch in loader:
                views = augment(IMAGES[channels][batch.ids.numpy()], seed=5, epoch=epoch, ids=batch.ids.numpy())
                assert all(torch.equal(a, b) for a, b in zip(batch.views, views)) and len(views) == 2


def test_one_channel_of_colours_is_their_lightness() -> None:
    from PIL import Image

    views = Augment([CenterCrop((20, 24))], channels=1)(IMAGES[3], seed=0)
    assert views.shape == (6, 1, 20, 24)
    for view, image in zip(views, IMAGES[3]):
        grey = np.asarray(Image.fromarray(image).convert("L"))
        np.testing.assert_array_equal((view[0] * 255).round().numpy(), grey)
    same = Augment([CenterCrop((20, 24))], channels=1)(IMAGES[1], seed=0)
    np.testing.assert_array_equal((same[:, 0] * 255).round().numpy(), IMAGES[1][..., 0])


def test_memory_and_errors() -> None:
    views = _program(5, channels_last=True)(IMAGES[5], seed=0)
    assert views.is_contiguous(memory_format=torch.channels_last) and _program(3).with_channels(5).channels == 5
    assert torch.equal(views, _program(5)(IMAGES[5], seed=0))
    with pytest.raises(ValueError, match=r"expected 5 channels.*shape \(6, 20, 24, 3\)"):
        _program(5)(IMAGES[3], seed=0)
    with pytest.raises(ValueError, match=r"expected 1, 3 or 4 channels.*channels="):
        _program(3)(IMAGES[5], seed=0)
    with pytest.raises(ValueError, match="mean: expected one number or 5, for 5 channels"):
        Augment([RandomResizedCrop(16), Normalize()], channels=5)
    with pytest.raises(ValueError, match="value: expected one number for 5 channels"):
        Augment([RandomResizedCrop(16), RandomErasing(value=(0.1, 0.2, 0.3))], channels=5)
    with pytest.raises(ValueError, match="channels: expected an integer >= 1, got 0"):
        Augment([RandomResizedCrop(16)], channels=0)
    assert SimCLRAugment(16).with_channels(2).programs[1].channels == 2


def test_files_of_colours_have_no_fourth_channel(tmp_path: Path) -> None:
    """Pillow's memory has four bytes a pixel, of which the last is nothing."""
    from PIL import Image

    for k in range(3):
        Image.fromarray(IMAGES[3][k]).save(tmp_path / f"{k}.png")
    source = fastssl.data.open(tmp_path)
    items = source.items(range(3))
    assert CenterCropExamples(16, 3).examples(items, 0, 0, np.arange(3)).views[0].shape == (3, 3, 16, 16)
    with pytest.raises(ValueError, match="expected 4 channels in each, 0.png has 3"):
        CenterCropExamples(16, 4).examples(items, 0, 0, np.arange(3))


def _written(path: Path, kind: str, images: np.ndarray) -> Path:
    if kind == "stack":
        np.save(path / "stack.npy", images)
        return path / "stack.npy"
    for k, image in enumerate(images):
        folder = path / "images" / f"class {k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "npy":
            np.save(folder / f"{k}.npy", image)
        else:
            sys.modules["tifffile"].imwrite(folder / f"{k}.tif", image, photometric="minisblack", planarconfig="contig")
    return path / "images"


@pytest.mark.parametrize("kind", ["npy", "tif", "bigtiff"])
def test_bands_are_read_from_bytes(kind: str, tmp_path: Path) -> None:
    """As files of tar shards and URLs come."""
    image, file = np.random.default_rng(0).integers(0, 256, (16, 12, 5), dtype=np.uint8), io.BytesIO()
    if kind == "npy":
        np.save(file, image)
    else:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(file, image, photometric="minisblack", planarconfig="contig", bigtiff=kind == "bigtiff")
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            entry = tarfile.TarInfo("0.tif")
            entry.size = len(file.getvalue())
            archive.addfile(entry, io.BytesIO(file.getvalue()))
        assert np.array_equal(fastssl.data.open(tmp_path / "a.tar").read(0).images[0], image)
    assert np.array_equal(read_image(file.getvalue()), image)
    with pytest.raises(ImageError, match="^bands: .*more than 100 pixels"):
        read_image(file.getvalue(), name="bands", max_pixels=100)
    with pytest.raises(ImageError, match="^bands: cannot be read as"):
        read_image(file.getvalue()[:-900], name="bands")


@pytest.mark.parametrize("kind", ["stack", "npy", "tif"])
def test_images_of_five_channels_from_files_to_features(kind: str, tmp_path: Path) -> None:
    if kind == "tif":
        pytest.importorskip("tifffile")
    source = fastssl.data.open(_written(tmp_path, kind, IMAGES[5]))
    assert len(source) == 6 and source.read(0).images[0].shape == (20, 24, 5)  # type: ignore[index]
    options = {"name": "resnet", "size": 16, "width": 4, "channels": 5}
    out = tmp_path / "run"
    model = pretrain("simclr", source, Pretraining(epochs=1, batch_size=4), out=out, encoder=options)
    encoder, state = load_encoder(out)
    assert state["encoder"]["channels"] == 5
    features = encode(encoder, source, "pooled")
    trained = encode(model.to(features.device).encoder, IMAGES[5][_order(source)], "pooled")  # type: ignore[union-attr]
    torch.testing.assert_close(features, trained, rtol=0, atol=1e-2 if torch.cuda.is_available() else 0)  # tf32 there


def _order(source: Any) -> list[int]:
    names = [source.name_of(k) for k in range(len(source))]
    return [int(Path(name).stem) if "class" in name else k for k, name in enumerate(names)]


def test_packed_files_and_previews_keep_all_channels(tmp_path: Path) -> None:
    from fastssl.cli.preview import contact_sheet

    source = fastssl.data.open(IMAGES[5])
    packed = PackedImages(pack_source(source, tmp_path / "five.pack"))
    assert all(np.array_equal(packed.read(k).images[0], IMAGES[5][k]) for k in range(6))  # type: ignore[index]
    small = PackedImages(pack_source(source, tmp_path / "small.pack", size=10)).read(0).images[0]  # type: ignore[index]
    assert small.shape == (10, 12, 5)
    for k in range(5):
        alone = shrink(np.ascontiguousarray(IMAGES[5][0][..., k : k + 1]), 10)
        assert np.array_equal(small[..., k : k + 1], alone)
    sheet = contact_sheet(list(IMAGES[5][:2]), ["a", "b"], policy("byol", 16), seed=0)
    assert sheet.mode == "RGB" and len(np.unique(np.asarray(sheet))) > 50
    with pytest.raises(ValueError, match=r"items\[0\]: expected a grey or RGB image, got 5 channels"):
        write_shards(source.items([0]), tmp_path / "shards")


def test_what_is_no_image_of_channels(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.array(["a"]))
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("text.npy", "empty.npy"):
        with pytest.raises(ImageError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="fewer channels than pixels"):
        fastssl.data.open(np.zeros((2, 5, 5, 5), np.uint8))
    deep = (IMAGES[5][0].astype(np.uint16) << 4) | 0xF
    np.save(tmp_path / "deep.npy", deep.transpose(2, 0, 1))
    expected = (deep * (255 / 4095)).round()
    np.testing.assert_array_equal(read_image(tmp_path / "deep.npy", value_range=(0, 4095)), expected)


def test_arrays_beside_images_are_left_out_and_counted(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(IMAGES[3][0]).save(tmp_path / "a.png")
    np.save(tmp_path / "labels.npy", np.arange(3))
    source = fastssl.data.open(tmp_path)
    assert len(source) == 1 and source.skipped == {"an array beside images": 1}


@pytest.mark.parametrize("name", sorted({*methods_of("images")} - {*methods_of("text")}))
def test_every_method_takes_other_channels(name: str) -> None:
    kind: Any = get(name)
    options = {"name": kind.encoder_name, "size": 32, "width": 8, "channels": 2}
    if kind.needs_colors or name == "cmc":
        with pytest.raises(ValueError, match=r"colours?.* channels, got 2|expected 3 channels, got 2"):
            kind(build_encoder(options))
        return
    method = kind(build_encoder(options))
    images = fastssl.data.open(RNG.integers(0, 256, (4, 64, 64, 2), dtype=np.uint8), labels=[0, 1, 0, 1])
    batch = method.examples(images.items(range(4)), 0, 0, np.arange(4))
    if method.needs_dataset_features:
        assert torch.isfinite(
            method.dataset_features(method.plain_examples().examples(images.items(range(4)), 0, 0, np.arange(4)))
        ).all()
        return
    assert torch.isfinite(method(batch))
    for what, picture in method.visualize(batch).items():  # features of patches are shown as colours
        assert picture.shape[1] == (3 if name in ("ibot", "i-jepa") and what in ("wanted", "predicted") else 2)


def test_grey_runs_are_judged_in_grey() -> None:
    options = {"name": "resnet", "size": 16, "width": 4, "channels": 1}
    labels = [0, 1, 0, 1, 0, 1]
    for channels in (1, 3):
        table = evaluate(build_encoder(options), options, fastssl.data.open(IMAGES[channels], labels=labels), "pooled")
        assert set(table["knn"]) == {"pretrained", "random", "pixels", "histogram"}


@pytest.mark.parametrize("name", ["resnet18", "efficientnet", "vit", "patch-cnn"])
def test_networks_take_other_channels(name: str) -> None:
    encoder = build_encoder({"name": name, "size": 32, "width": 8, "channels": 6})
    assert encoder(torch.zeros(2, 6, 32, 32)).shape == (2, encoder.dim) and encoder.channels == 6
    with pytest.raises(ValueError, match="channels: expected an integer >= 1, got 0"):
        build_encoder({"name": name, "size": 32, "channels": 0})
