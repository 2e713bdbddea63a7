"""Exported encoders: other programs load them by their own calls, and get the same features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastssl.data.views import CenterCropExamples, resize_of
from fastssl.models import Encoder, build_encoder
from fastssl.models.export import FILES, FORMATS, export_encoder, loading
from fastssl.models.folder import put
from tests.support import ROOT

NEEDS = {"onnx": "onnxruntime", "huggingface": "transformers", "torchvision": "torchvision", "timm": "timm"}
SMALL: dict[str, Any] = {"name": "resnet", "size": 32, "width": 16}


def _encoder(options: dict[str, Any]) -> Encoder:
    """With statistics of its own."""
    torch.manual_seed(0)
    encoder = build_encoder(options).train()
    encoder(torch.randn(4, encoder.channels, encoder.size, encoder.size))
    return encoder.eval()


def _loaded(lines: str, images: Tensor) -> Tensor:
    """What the lines that we print give in a program of their own."""
    scope: dict[str, Any] = {"images": images}
    with torch.no_grad():
        exec(lines, scope)
    return torch.as_tensor(scope["features"])


def test_exports_remove_nothing_but_exports(tmp_path: Path) -> None:
    """A folder at the path of a file was removed with all that was in it, as was any folder at that of a folder."""
    encoder, photos = _encoder(SMALL), tmp_path / "photos"
    (photos / "cats").mkdir(parents=True)
    (photos / "cats" / "0.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"path \(--out\): expected a file, '.*photos' is a folder"):
        export_encoder(encoder, SMALL, "torch", photos)
    for name in ("a", "b"):
        (tmp_path / "fresh").mkdir()
        (tmp_path / "fresh" / "config.json").write_text(name)
        put(tmp_path / "fresh", tmp_path / "made")
    assert (tmp_path / "made" / "config.json").read_text() == "b"
    for place, message in ((photos, "has other files, such as 'cats'"), (photos / "cats" / "0.jpg", "is a file")):
        (tmp_path / "fresh").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=rf"path \(--out\): expected a .*folder.* {message}"):
            put(tmp_path / "fresh", place)
    assert (photos / "cats" / "0.jpg").read_bytes() == b"x"
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "made", "fresh"}


@pytest.mark.parametrize(
    ("to", "options"),
    [
        ("torch", SMALL),
        ("torch", {"name": "vit", "size": 32, "width": 16}),
        pytest.param("torch", {"name": "lab:resnet", "size": 32, "width": 16}, marks=pytest.mark.slow),
        ("torch", {"name": "resnet18", "size": 64, "stem": "imagenet"}),
        pytest.param("torch", SMALL | {"channels": 5}, marks=pytest.mark.slow),
        *(
            pytest.param(
                to,
                {"name": name, "size": 8},
                marks=[pytest.mark.slow] if name == "pixelrnn" or (to, name) == ("torch", "pixelcnn") else [],
            )
            for to in ("torch", "huggingface")
            for name in ("pixelcnn", "pixelrnn", "igpt")
        ),
        ("onnx", SMALL),
        ("onnx", {"name": "vit", "size": 32, "width": 16}),
        ("onnx", {"name": "resnet18", "size": 64, "stem": "imagenet"}),
        ("onnx", {"name": "timm:resnet10t", "size": 32}),
        ("huggingface", {"name": "resnet18", "size": 64, "stem": "imagenet"}),
        ("huggingface", {"name": "resnet50", "size": 64, "stem": "imagenet", "channels": 1}),
        ("huggingface", {"name": "vit", "size": 32, "width": 16}),
        ("huggingface", {"name": "timm:resnet10t", "size": 64, "channels": 4}),
        ("huggingface", {"name": "timm:vit_tiny_patch16_224", "size": 64}),
        ("huggingface", {"name": "torchvision:resnet18", "size": 64}),
        ("huggingface", {"name": "torchvision:mobilenet_v3_small", "size": 64}),
        ("huggingface", SMALL),
        ("torchvision", {"name": "resnet18", "size": 64, "stem": "imagenet"}),
        ("torchvision", {"name": "resnet50", "size": 64, "stem": "imagenet"}),
        ("torchvision", {"name": "torchvision:mobilenet_v3_small", "size": 64}),
        ("torchvision", {"name": "torchvision:vit_b_32", "size": 64}),
        ("timm", {"name": "resnet18", "size": 64, "stem": "imagenet"}),
        ("timm", {"name": "resnet101", "size": 64, "stem": "imagenet"}),
        ("timm", {"name": "timm:vit_tiny_patch16_224", "size": 64}),
        ("timm", {"name": "timm:convnext_atto", "size": 64, "channels": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_the_printed_lines_give_the_same_features(to: str, options: dict[str, Any], tmp_path: Path) -> None:
    library = str(options["name"]).partition(":")[0]
    for module in (NEEDS.get(to), library if library in NEEDS else None, "onnxscript" if to == "onnx" else None):
        if module is not None:
            pytest.importorskip(module)
    encoder = _encoder(options)
    path = export_encoder(encoder, options, to, tmp_path / "made")
    lines = loading(encoder, options, to, path)
    assert lines.count("\n") <= 2
    images = torch.randn(5, encoder.channels, encoder.size, encoder.size)
    with torch.no_grad():
        torch.testing.assert_close(_loaded(lines, images), encoder(images), rtol=1e-3, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    if options["name"] == "resnet18":
        page = (ROOT / "docs" / "encoders.md").read_text()
        assert lines.replace(str(path), f"runs/photos/{FILES[to]}") in page


@pytest.mark.parametrize("name", ["resnet18", "vit", "timm:resnet10t", "torchvision:resnet18", "resnet"])
def test_transformers_needs_code_for_our_own_network_alone(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if ":" in name:
        pytest.importorskip(name.partition(":")[0])
    options = {"name": name, "size": 64} | ({"width": 16} if name in ("vit", "resnet") else {})
    if name == "resnet18":
        options["stem"] = "imagenet"
    encoder = _encoder(options)
    export_encoder(encoder, options, "huggingface", tmp_path / "made")
    kinds = {"resnet18": "ResNetModel", "torchvision:resnet18": "ResNetModel", "vit": "IJepaModel",
             "timm:resnet10t": "TimmWrapperModel", "resnet": "FastSSLModel"}  # fmt: skip
    code = name == "resnet"
    assert (tmp_path / "made" / "modeling_fastssl.py").exists() == code
    model = transformers.AutoModel.from_pretrained(tmp_path / "made", trust_remote_code=code)
    assert type(model).__name__ == kinds[name]


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (112, 3), (32, 1), (112, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_the_image_processor_does_what_evaluation_does(size: int, channels: int, mode: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    options = SMALL | {"size": size} | ({} if channels == 3 else {"channels": channels})
    export_encoder(_encoder(options), options, "huggingface", tmp_path / "made")
    made = tmp_path / "made"
    if channels == 1:
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            transformers.AutoImageProcessor.from_pretrained(made, trust_remote_code=False)
    processor = transformers.AutoImageProcessor.from_pretrained(made, trust_remote_code=channels == 1)
    ramp = np.linspace(0, 255, 150 * 200 * 3).reshape(150, 200, 3)
    photograph = Image.fromarray((ramp + 60 * np.sin(ramp / 5)).clip(0, 255).astype(np.uint8)).convert(mode)
    image = np.asarray(photograph.convert("RGB" if channels == 3 else "L")).reshape(150, 200, channels)
    expected = CenterCropExamples(size, channels).augment(image, seed=0)[None]
    for images in (photograph, [photograph], np.asarray(photograph.convert("RGB"))):
        given = processor(images, return_tensors="pt")["pixel_values"]
        assert given.shape == expected.shape
        assert float((given - expected).abs().max()) < 3 / 127.5  # its pixels are rounded to 8 bits on the way


def test_weights_have_the_names_of_the_library(tmp_path: Path) -> None:
    options = {"name": "resnet18", "size": 64, "stem": "imagenet"}
    for to in ("torchvision", "timm"):
        weights = torch.load(export_encoder(_encoder(options), options, to, tmp_path / to))
        assert weights["layer1.0.conv1.weight"].shape == (64, 64, 3, 3) and "conv1.weight" in weights


def test_networks_that_a_library_does_not_have_are_refused(tmp_path: Path) -> None:
    for options in (SMALL, {"name": "resnet18", "size": 32}, {"name": "resnet18", "size": 96, "channels": 4}):
        for to in ("timm", "torchvision"):
            with pytest.raises(ValueError, match=rf"to: {to} has its own networks .*, got '{options['name']}'"):
                export_encoder(build_encoder(options), options, to, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"to: expected one of {', '.join(FORMATS)}, got 'tflite'"):
        export_encoder(build_encoder(SMALL), SMALL, "tflite", tmp_path / "other")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [32, 33, 95, 96, 97, 112, 160, 224])
@pytest.mark.parametrize("shape", [(300, 300), (300, 401), (333, 500), (640, 427)])
def test_crops_of_the_exported_processor(size: int, shape: tuple[int, int]) -> None:
    """One pixel before ours where a margin is 3 modulo 4, as docs/encoders.md says; else the same."""
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    from fastssl.models.transformers_export import processor

    options = processor(size)
    made = getattr(transformers, options.pop("image_processor_type"))(**options)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([x * 255 / shape[1], y * 255 / shape[0], 127 + 127 * np.sin(x / 9) * np.cos(y / 11)], 2)
    image = image.astype(np.uint8)
    theirs = made(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    ours = CenterCropExamples(size).augment(image[None], seed=0)[0]
    for axis, side in enumerate(shape, 1):
        shorter = resize_of(size)
        margin = (shorter if side == min(shape) else shorter * side // min(shape)) - size
        if margin % 4 == 3:
            ours, theirs = ours.narrow(axis, 0, size - 1), theirs.narrow(axis, 1, size - 1)
    assert float((ours - theirs).abs().max()) < 2 * 2 / 255
