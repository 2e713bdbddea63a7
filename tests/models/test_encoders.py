"""Encoders of whatever modules people have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fastssl
from fastssl.evaluate import encode
from fastssl.methods import CLIP, Denoising, SimCLR, get
from fastssl.models import LIBRARIES, Encoder, as_encoder, build_encoder, pooling
from fastssl.train import Pretraining, load_encoder

IMAGES = torch.randint(0, 256, (8, 20, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
OPTIONS = Pretraining(epochs=2, batch_size=4)


def _map() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())


def _vectors() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8))


@pytest.mark.parametrize("network", [_map, _vectors])
def test_a_module_is_trained_and_found_again(network: object, tmp_path: Path) -> None:
    module: nn.Module = network()  # type: ignore[operator]
    before = [p.clone() for p in module.parameters()]
    model = fastssl.pretrain("simclr", IMAGES, OPTIONS, out=tmp_path, encoder=module, size=16)
    assert model.encoder.network is module and model.encoder.dim == 8  # type: ignore[union-attr]
    assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters()))
    found, state = load_encoder(tmp_path, Encoder(network(), 16))  # type: ignore[operator]
    assert state["encoder"] is None
    assert torch.equal(encode(found, IMAGES, "pooled"), encode(model.encoder, IMAGES, "pooled"))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"load_encoder\(path, Encoder\(module, size\)\)"):
        load_encoder(tmp_path)
    with pytest.raises(ValueError, match="encoder: the checkpoint has weights of another network"):
        load_encoder(tmp_path, Encoder(nn.Conv2d(3, 4, 4, 4), 16))


def test_a_name_takes_its_recipe_and_is_kept(tmp_path: Path) -> None:
    options = {"name": "resnet", "size": 16, "width": 4}
    fastssl.pretrain("simclr", IMAGES, OPTIONS, out=tmp_path, encoder=options)
    encoder, state = load_encoder(tmp_path)
    assert state["encoder"] == options and encoder.size == 16 and state["method"] == "simclr"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet", "widht": 8}, "widht: expected none, options of an encoder are name, size, .*width"),
        ({"name": "resnet", "width": 0}, "width: expected an integer >= 1, got 0"),
        ({"name": "vit", "blocks": 0}, "blocks: expected an integer >= 1, got 0"),
        ({"name": "patch-cnn", "patch": -2}, "patch: expected an integer >= 1, got -2"),
    ],
)
def test_options_that_no_network_has_are_named(options: dict[str, object], message: str) -> None:
    """A misspelt one was passed over, no blocks were a network of none."""
    with pytest.raises(ValueError, match=message):
        build_encoder({"size": 32, **options})


def test_sizes_and_channels_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    """Those beside options, and channels beside an encoder, were passed over."""
    options = {"name": "resnet", "size": 16, "width": 4}
    for encoder, what in ((options, "the options of the encoder have"), (build_encoder(options), "the encoder takes")):
        with pytest.raises(ValueError, match=f"size: {what}.* 16.*, got 32"):
            fastssl.pretrain("simclr", IMAGES, OPTIONS, out=tmp_path, encoder=encoder, size=32)
    with pytest.raises(ValueError, match="channels: the encoder takes images of 3 channels, got 1"):
        as_encoder(build_encoder(options), channels=1)
    with pytest.raises(ValueError, match="channels: the options of the encoder have 1, got 3"):
        as_encoder({**options, "channels": 1}, channels=3)
    grey = as_encoder({"name": "resnet", "width": 4}, size=16, channels=1)
    assert (grey.size, grey.channels, grey.options) == (16, 1, {**options, "channels": 1})
    assert as_encoder("rbm", 8, 3).channels == 3 and as_encoder("rbm", 8).channels == 1
    assert as_encoder(_map(), 16).channels == 3


@pytest.mark.parametrize("method", ["denoising", "masked", "context-encoder", "colorization", "color-proxy"])
def test_methods_that_need_maps_say_so(method: str) -> None:
    kind: type = get(method)
    with pytest.raises(ValueError, match=r"expected a network that gives a feature map \[B, C, H, W\], Sequential"):
        kind(Encoder(_vectors(), 16))
    assert isinstance(Denoising(Encoder(_map(), 16)), Denoising)


class _Tuple(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


class _Tokens(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(2)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: Encoder(_Tuple(), 16), TypeError, "_Tuple returns tuple"),
        (lambda: Encoder(_Tokens(), 16), ValueError, r"feature map \[B, C, H, W\], _Tokens gives \[1, 3, 256\]"),
        (lambda: Encoder(_vectors(), 32), ValueError, r"Sequential cannot take images \[1, 3, 32, 32\]"),
        (lambda: Encoder("resnet", 32), TypeError, "network: expected an nn.Module, got str"),
        (lambda: SimCLR(_map()), TypeError, r"expected a fastssl.models.Encoder, got Sequential.*Encoder\(module"),
        (lambda: as_encoder(_map()), ValueError, "size: expected the image size of the encoder"),
        (
            lambda: as_encoder(Encoder(_map(), 16), 32),
            ValueError,
            "size: the encoder takes images of 16 pixels, got 32",
        ),
        (lambda: as_encoder(7, 32), TypeError, "expected a name, options, a module or an Encoder, got int"),
        (lambda: build_encoder({"name": "foo:bar", "size": 32}), ValueError, "timm:NAME"),
        (lambda: build_encoder({"name": "resnet19", "size": 32}), ValueError, "did you mean 'resnet18'"),
    ],
)
def test_what_is_no_encoder(make: object, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make()  # type: ignore[operator]


def test_an_encoder_for_a_method_that_has_one(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="encoder: expected None, the method has an encoder"):
        fastssl.pretrain(SimCLR(Encoder(_map(), 16)), IMAGES, out=tmp_path, encoder=_map())


@pytest.mark.parametrize(("size", "grid"), [((7, 7), (4, 4)), ((8, 6), (4, 3)), ((5, 9), (1, 2)), ((3, 3), (3, 3))])
def test_cell_means_by_products_are_those_of_adaptive_pooling(size: tuple[int, int], grid: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, *grid, dtype=torch.float64)
    results = [f(x, grid) for f in (pooling.by_products, torch.nn.functional.adaptive_avg_pool2d)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(r, x, upstream)[0] for r in results))


def test_an_encoder_reads_images_of_another_size() -> None:
    encoder = build_encoder({"name": "resnet", "size": 32, "width": 4}).eval()
    larger, x = encoder.at(64), torch.randn(2, 3, 64, 64)
    assert larger.network is encoder.network and not larger.training and encoder.at(32) is encoder
    torch.testing.assert_close(larger(x), encoder.network(x).mean((2, 3)))
    assert larger.spatial(x).shape == encoder.spatial(torch.zeros(2, 3, 32, 32)).shape
    encoder.network.train()
    modes = [module.training for module in encoder.network.modules()]
    assert not encoder.at(48).training and [module.training for module in encoder.network.modules()] == modes
    flat = Encoder(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8)), 32)
    with pytest.raises(ValueError, match="network: Sequential cannot take images"):
        flat.at(64)
    with pytest.raises(ValueError, match="size: expected an integer >= 1, got 0"):
        encoder.at(0)


def test_networks_of_images_within_others_are_named() -> None:
    method = CLIP(build_encoder({"name": "resnet", "size": 32, "width": 4}))
    message = r"network: CLIP cannot take images \[1, 3, 32, 32\]: .*; its network of images is its .encoder"
    with pytest.raises(ValueError, match=message):
        Encoder(method, 32)
    assert Encoder(method.encoder, 32).dim == method.encoder.dim


def test_models_of_transformers_are_wrapped() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=sizes, vision_config=vision))
    with pytest.raises(ValueError, match="CLIPModel cannot take images .*; its network of images is its .vision_model"):
        Encoder(model, 32)
    with pytest.raises(TypeError, match=r"expected a tensor .*; wrap a model of .*LIBRARIES\['huggingface'\]\(model"):
        Encoder(model.vision_model, 32)
    assert Encoder(LIBRARIES["huggingface"](model.vision_model, 32), 32).dim == 16
