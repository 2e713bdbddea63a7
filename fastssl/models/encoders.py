"""Encoders: any network from images to features, with the two readouts that evaluation uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.models.convolutional import PatchCNN, SmallEfficientNet
from fastssl.models.lab import LabNetwork
from fastssl.models.resnet import BLOCKS, ResNet, SmallResNet
from fastssl.models.vit import ViT


class Encoder(nn.Module):
    """Wraps a network so that methods and evaluation can ask it for vectors.

    Args:
        network: images [B, 3, S, S] to a feature map [B, C, H, W] or vectors [B, C].
        size: S, the image size that it expects, pixels.

    ``forward`` returns [B, C]: the map averaged over its positions. ``spatial`` returns [B, C * cells * cells]: the
    map averaged over a grid, which keeps where things are. For vectors both are the same.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.dim = int(self.shape_of(self)[1])

    def shape_of(self, function: Callable[[Tensor], Tensor]) -> torch.Size:
        """The shape of what ``function``, this encoder's or its network's, makes of one image; it trains nothing."""
        training = self.network.training
        self.eval()
        with torch.no_grad():
            shape = function(torch.zeros(1, 3, self.size, self.size)).shape
        self.train(training)
        return shape

    def levels(self) -> list[nn.Module]:
        """The network as parts that follow each other: their composition is the network.

        Raises:
            ValueError: the network neither has ``levels()`` nor is an ``nn.Sequential``.
        """
        if hasattr(self.network, "levels"):
            return list(self.network.levels())  # type: ignore[operator]
        if isinstance(self.network, nn.Sequential):
            return list(self.network)
        raise ValueError(f"encoder: expected a network with levels() or an nn.Sequential, got {type(self.network)}")

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.network(images))

    def spatial(self, images: Tensor, cells: int = 4) -> Tensor:
        return self.pool(self.network(images), cells)

    @staticmethod
    def pool(features: Tensor, cells: int | None = None) -> Tensor:
        """What the network gave to vectors: a map averaged over all its places, or over a grid of cells."""
        if features.dim() == 4 and cells is None:
            return features.mean((2, 3))
        if features.dim() != 4 or cells is None:
            return features
        return TF.adaptive_avg_pool2d(features, (min(cells, features.shape[2]), min(cells, features.shape[3]))).flatten(
            1
        )


class _HuggingFaceBackbone(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output = self.model(pixel_values=images)
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden = output.last_hidden_state
        return hidden.mean((2, 3)) if hidden.dim() == 4 else hidden.mean(1)


def huggingface(name_or_config: Any, size: int) -> Encoder:
    """Returns a vision backbone of Hugging Face transformers as an encoder.

    Args:
        name_or_config: a model name or path (weights are loaded) or a ``PretrainedConfig`` (random weights).
        size: image size, pixels.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[vision]``.
    """
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise ImportError("Hugging Face backbones need the extra: pip install fastssl[vision]") from error
    load = AutoModel.from_pretrained if isinstance(name_or_config, str) else AutoModel.from_config
    return Encoder(_HuggingFaceBackbone(load(name_or_config)), size)


RESNETS = tuple(f"resnet{depth}" for depth in BLOCKS)  # those of the paper


def _network(name: str, options: dict[str, Any]) -> nn.Module:
    size, width, blocks = int(options["size"]), int(options.get("width", 32)), int(options.get("blocks", 1))
    if name == "resnet":
        return SmallResNet(width, blocks, 2 if size >= 32 else 1)
    if name in RESNETS:
        stem = options.get("stem") or ("cifar" if size < 96 else "imagenet")
        return ResNet(int(name[6:]), stem, int(options.get("width", 64)))
    if name == "efficientnet":
        return SmallEfficientNet(width, blocks)
    patch = int(options.get("patch", max(1, size // 8)))
    if name in ("vit", "patch-cnn") and size % patch:
        raise ValueError(f"size: expected a multiple of the patch's {patch} pixels, got {size}")
    if name == "vit":
        return ViT(patch, 4 * width, 4 * blocks, max(1, width // 8))
    return PatchCNN(patch, 4 * width, 4 * blocks)


# The backward pass of a convolution to fewer channels, channels last, on an odd batch and several threads, writes where
# it must not (torch 2.13, oneDNN): the process dies. Such networks, of tests and first tries, stay planar.
NARROW = 16


def _planar(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)


ENCODERS = ("resnet", *RESNETS, "efficientnet", "vit", "patch-cnn")


def build_encoder(options: dict[str, Any]) -> Encoder:
    """Returns the encoder that a checkpoint or the command line describes.

    Args:
        options: "name" and "size" (pixels), and for networks of one's own width "width" (channels of the first stage;
            a quarter of a transformer's tokens) and "blocks" (a stage; a quarter of a transformer's).

            - "resnet": :class:`SmallResNet`;
            - "resnet18", "resnet34", "resnet50", "resnet101": :class:`ResNet`, 64 channels wide unless "width" is
              given; "stem": "cifar" below 96 pixels, else "imagenet", unless it is given;
            - "efficientnet": :class:`SmallEfficientNet`;
            - "vit": :class:`ViT`, "patch-cnn": :class:`PatchCNN` (also "patch", an eighth of the image unless given);
            - "lab:NAME": two networks NAME of half the width, one for lightness, one for colour;
            - "huggingface:NAME": see :func:`huggingface`.

    Raises:
        ValueError: unknown name.

    Example:
        >>> from fastssl.models import build_encoder
        >>> build_encoder({"name": "resnet", "size": 32, "width": 16, "blocks": 1}).dim
        64
    """
    name, size = str(options["name"]), int(options["size"])
    if name.startswith("huggingface:"):
        return huggingface(name.removeprefix("huggingface:"), size)
    plain = name.removeprefix("lab:")
    if plain not in ENCODERS:
        raise ValueError(f"encoder: expected one of {', '.join(ENCODERS)}, lab:NAME or huggingface:NAME, got {name!r}")
    if name != plain:
        half = {**options, "width": max(1, int(options.get("width", 32)) // 2)}
        network: nn.Module = LabNetwork(_network(plain, half), _network(plain, half))
    else:
        network = _network(name, options)
    narrow = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.out_channels < NARROW]
    for conv in narrow:
        conv.register_forward_pre_hook(_planar)
    if not narrow:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoder(network, size)
