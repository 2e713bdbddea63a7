"""Backbones of Hugging Face, timm and torchvision, where the extras are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastssl.data import ArraySource
from fastssl.evaluate import encode
from fastssl.evaluate.report import random_encoder
from fastssl.methods import SimCLR
from fastssl.models import Encoder, build_encoder
from fastssl.models.export import export_encoder, loading
from fastssl.models.libraries import huggingface
from fastssl.train import Pretraining, load_encoder, pretrain

IMAGES = torch.randint(0, 256, (8, 40, 36, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_backbones_of_hugging_face_are_encoders() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = Encoder(huggingface(transformers.ViTConfig(image_size=16, patch_size=8, **sizes), 16), 16)
    assert vit.dim == 16 and vit.map_shape() == (16, 2, 2)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    resnet = Encoder(huggingface(config, 32), 32)
    assert resnet.dim == 16 and len(resnet.map_shape()) == 3
    images = ArraySource(IMAGES)
    model = SimCLR(resnet, spatial=True)
    assert torch.isfinite(model(model.examples(images.items(range(6)), 0)))
    grey = Encoder(huggingface(transformers.ViTConfig(image_size=16, patch_size=8, **sizes), 16, 1), 16, 1)
    assert grey(torch.zeros(2, 1, 16, 16)).shape == (2, 16)


def saved(folder: Path, kind: str) -> str:
    """A small model of transformers with weights, and the name of its encoder."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    images = {**sizes, "image_size": 16, "patch_size": 8}
    torch.manual_seed(5)
    if kind in ("CLIPModel", "SiglipModel"):
        texts = {**sizes, "vocab_size": 9, "max_position_embeddings": 8}
        config = getattr(transformers, kind.replace("Model", "Config"))(text_config=texts, vision_config=images)
    else:
        config = transformers.ViTConfig(**images)
    getattr(transformers, kind)(config).save_pretrained(folder)
    return f"huggingface:{folder}"


def test_a_pooler_without_weights_is_left_out(tmp_path: Path) -> None:
    """Its random weights made other features of the same checkpoint in every process."""
    options = {"name": saved(tmp_path / "vit", "ViTForImageClassification"), "size": 16}
    first, second = (build_encoder(options).eval() for _ in range(2))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(first(images), second(images))
        assert torch.equal(first(images), first.network.model(pixel_values=images).last_hidden_state[:, 0])
    export_encoder(first, options, "huggingface", tmp_path / "made")
    assert "last_hidden_state[:, 0]" in loading(first, options, "huggingface", tmp_path / "made")


@pytest.mark.parametrize("kind", ["CLIPModel", "SiglipModel"])
def test_the_images_of_a_model_of_images_and_texts(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    options = {"name": saved(tmp_path / "both", kind), "size": 16}
    encoder, images = build_encoder(options).eval(), torch.randn(2, 3, 16, 16)
    both = transformers.AutoModel.from_pretrained(tmp_path / "both").eval()
    with torch.no_grad():
        expected = both.vision_model(pixel_values=images).pooler_output
        torch.testing.assert_close(encoder(images), expected, rtol=1e-5, atol=1e-6)
    assert encoder.map_shape() == (16, 2, 2)
    export_encoder(encoder, options, "huggingface", tmp_path / "made")


@pytest.mark.parametrize(
    "own", [{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, {"do_normalize": False}]
)
def test_images_are_normalized_as_a_model_was_trained(own: dict[str, object], tmp_path: Path) -> None:
    name, images = saved(tmp_path / "vit", "ViTModel"), torch.rand(2, 3, 16, 16) * 2 - 1
    (tmp_path / "vit" / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", **own})
    )
    mean, std = (
        torch.tensor(own.get(key, [value] * 3)).view(3, 1, 1) for key, value in (("image_mean", 0), ("image_std", 1))
    )
    encoder = build_encoder({"name": name, "size": 16}).eval()
    with torch.no_grad():
        expected = encoder.network.model(pixel_values=(images / 2 + 0.5 - mean) / std).pooler_output
        torch.testing.assert_close(encoder(images), expected, rtol=1e-5, atol=1e-6)
        export_encoder(encoder, {"name": name, "size": 16}, "huggingface", tmp_path / "made")
        lines = loading(encoder, {"name": name, "size": 16}, "huggingface", tmp_path / "made")
        there: dict[str, object] = {"images": images}
        exec(lines, there)
        torch.testing.assert_close(there["features"], expected, rtol=1e-5, atol=1e-6)
        again = build_encoder({"name": f"huggingface:{tmp_path / 'made'}", "size": 16}).eval()
        torch.testing.assert_close(again(images), expected, rtol=1e-5, atol=1e-6)


def test_the_random_row_of_a_pretrained_model_is_random(tmp_path: Path) -> None:
    options = {"name": saved(tmp_path / "vit", "ViTModel"), "size": 16}
    encoder, images = build_encoder(options).eval(), torch.randn(2, 3, 16, 16)
    first, second, again = (random_encoder(options, seed) for seed in (0, 1, 0))
    with torch.no_grad():
        assert torch.equal(first(images), again(images))
        for other in (encoder, second):
            assert float((first(images) - other(images)).abs().max()) > 1e-3


CONVOLUTIONAL = [("timm", "resnet18"), ("timm", "convnext_atto"), ("torchvision", "resnet18"),
                 ("torchvision", "densenet121"), ("torchvision", "swin_t")]  # fmt: skip
TOKENS = [("timm", "vit_tiny_patch16_224"), ("torchvision", "vit_b_32")]


@pytest.mark.parametrize(("library", "name"), CONVOLUTIONAL + TOKENS)
def test_features_are_those_of_the_library(library: str, name: str) -> None:
    module = pytest.importorskip(library)
    encoder = build_encoder({"name": f"{library}:{name}", "size": 64}).eval()
    images = torch.randn(2, 3, 64, 64)
    if library == "timm":
        sizes = {"img_size": 64} if (library, name) in TOKENS else {}
        own = module.create_model(name, num_classes=0, **sizes)
        own.load_state_dict(encoder.network.model.state_dict())
    else:
        own = module.models.get_model(name, **({"image_size": 64} if name.startswith("vit") else {}))
        own.load_state_dict(encoder.network.model.state_dict(), strict=False)
        *path, last = [key for key, m in own.named_modules() if isinstance(m, torch.nn.Linear)][-1].rsplit(".", 1)
        setattr(own.get_submodule(".".join(path)), last, torch.nn.Identity())
    with torch.no_grad():
        assert torch.equal(encoder(images), own.eval()(images))
        channels, height, width = encoder.map_shape()
        assert encoder.spatial(images, cells=height).shape == (2, channels * height * width)
        if name == "resnet18":  # the pooled features are the mean of the map
            torch.testing.assert_close(encoder.network(images).mean((2, 3)), encoder(images))
            assert (height, width) == (2, 2)
    assert width == {"densenet121": 2, "vit_tiny_patch16_224": 4, "vit_b_32": 2}.get(name, 2)


@pytest.mark.parametrize("name", ["timm:resnet10t", "torchvision:resnet18"])
def test_runs_find_their_backbone_again(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name.partition(":")[0])
    options = Pretraining(epochs=1, batch_size=4)
    model = pretrain("simclr", IMAGES, options, out=tmp_path, encoder=name, size=32)
    encoder, state = load_encoder(tmp_path)
    assert state["encoder"] == {"name": name, "size": 32}
    assert torch.equal(encode(encoder, IMAGES), encode(model.encoder.eval(), IMAGES))
    with pytest.raises(ValueError, match="encoder: the checkpoint was made with"):
        pretrain("simclr", IMAGES, options, out=tmp_path, encoder="resnet", size=32, resume=True)


def test_what_lies_behind_a_map_gets_no_gradient() -> None:
    """DDP has to be told."""
    pytest.importorskip("timm")
    encoder = build_encoder({"name": "timm:convnext_atto", "size": 32})
    assert SimCLR(encoder, spatial=True).has_unused_parameters and not SimCLR(encoder).has_unused_parameters
    for spatial in (False, True):
        model, encoder.network.training = SimCLR(encoder, spatial=spatial), True
        model.zero_grad()
        model(model.examples(ArraySource(IMAGES).items(range(4)), 0)).backward()
        missing = [name for name, p in encoder.named_parameters() if p.grad is None]
        assert bool(missing) == spatial


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_names_that_a_library_does_not_know(library: str) -> None:
    pytest.importorskip(library)
    with pytest.raises(ValueError, match=r"no model 'resnet19'; did you mean .*resnet"):
        build_encoder({"name": f"{library}:resnet19", "size": 32})


@pytest.mark.parametrize(
    ("library", "extra", "module"),
    [
        ("huggingface", "vision", "transformers"),
        ("timm", "timm", "timm"),
        ("torchvision", "torchvision", "torchvision"),
    ],
)
def test_without_the_extra_the_error_names_it(
    library: str, extra: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install fastssl\[{extra}\]"):
        build_encoder({"name": f"{library}:resnet18", "size": 32})


@pytest.mark.parametrize("name", ["./none", "/none", "~/none", "models/of/mine", "../none", ".", "~"])
def test_paths_of_hugging_face_models_that_are_not_there_are_not_looked_up(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")

    def asked(name: str, **options: Any) -> Any:
        raise OSError(f"asked for {name}")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", asked)
    there = name in (".", "~")  # a folder: transformers says what is wrong with it
    message = "asked for /?" if there else f"expected a folder or the name of a model .*, no folder '{name}'"
    with pytest.raises(OSError if there else FileNotFoundError, match=message):
        build_encoder({"name": f"huggingface:{name}", "size": 32})
    with pytest.raises(OSError, match="asked for google/vit"):
        build_encoder({"name": "huggingface:google/vit", "size": 32})
