"""Backbones of Hugging Face, timm and torchvision, where the extras are installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastssl.data import ArraySource
from fastssl.evaluate import encode
from fastssl.methods import SimCLR
from fastssl.models import Encoder, build_encoder
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
