"""Encoders: any network from images to features, with the two readouts that evaluation uses."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.models.channels import set_input_channels
from fastssl.models.convolutional import PatchCNN, SmallEfficientNet
from fastssl.models.lab import LabNetwork
from fastssl.models.libraries import LIBRARIES, Backbone
from fastssl.models.resnet import BLOCKS, ResNet, SmallResNet
from fastssl.models.vit import ViT


class Encoder(nn.Module):
    """Wraps a network so that methods and evaluation can ask it for vectors.

    Args:
        network: any module from images [B, channels, S, S] to a feature map [B, C, H, W] or vectors [B, C]; what it
            gives is found out by a forward pass on one image. A network with a classifier at its end gives its logits:
            take it off before (``model.fc = nn.Identity()``), or name the network (:func:`build_encoder`).
        size: S, the image size that it expects, pixels.
        channels: of the images.

    ``forward`` returns [B, C]: the map averaged over its positions, or what the library of a :class:`Backbone` calls
    its features. ``spatial`` returns [B, C * cells * cells]: the map averaged over a grid, which keeps where things
    are. For vectors both are the same.

    Raises:
        TypeError: no module, or one that gives no tensor.
        ValueError: a network that does not take such images, or gives another shape.

    Example:
        >>> import torch
        >>> from fastssl.models import Encoder
        >>> encoder = Encoder(torch.nn.Conv2d(3, 8, 4, 4), size=32)
        >>> encoder.dim, encoder.map_shape(), encoder.spatial(torch.zeros(2, 3, 32, 32), cells=2).shape
        (8, (8, 8, 8), torch.Size([2, 32]))
    """

    def __init__(self, network: nn.Module, size: int, channels: int = 3) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network: expected an nn.Module, got {type(network).__name__}")
        self.network = network
        self.size, self.channels = size, channels
        self.dim = int(self.shape_of(self if isinstance(network, Backbone) else network)[1])

    def shape_of(self, function: Callable[[Tensor], Tensor]) -> torch.Size:
        """The shape of what ``function``, this encoder's or its network's, makes of one image; it trains nothing."""
        training, device = self.network.training, next((p.device for p in self.network.parameters()), None)
        name = type(self.network).__name__
        image = torch.zeros(1, self.channels, self.size, self.size, device=device)
        self.eval()
        try:
            with torch.no_grad():
                made = function(image)
        except RuntimeError as error:
            raise ValueError(f"network: {name} cannot take images {list(image.shape)}: {error}") from error
        finally:
            self.train(training)
        if not isinstance(made, Tensor):
            raise TypeError(f"network: expected one that gives a tensor, {name} gives {type(made).__name__}")
        if made.dim() not in (2, 4) or len(made) != 1:
            raise ValueError(
                f"network: expected vectors [B, C] or a feature map [B, C, H, W], {name} gives {list(made.shape)} of "
                f"images {list(image.shape)}"
            )
        return made.shape

    def map_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the network's feature map.

        Raises:
            ValueError: it gives vectors.
        """
        shape = self.shape_of(self.network)
        if len(shape) != 4:
            name = type(getattr(self.network, "model", self.network)).__name__
            raise ValueError(
                f"encoder: expected a network that gives a feature map [B, C, H, W], {name} gives vectors "
                f"[B, {shape[1]}]"
            )
        return shape[1], shape[2], shape[3]

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
        if isinstance(self.network, Backbone):
            return self.network.pooled(images)
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
            - "torchvision:NAME", "timm:NAME": that library's network with random weights (extras torchvision, timm),
              "huggingface:NAME": a model of transformers with its weights (extra vision); see
              :mod:`fastssl.models.libraries`.

            And "channels" of the images where they are not 3.

    Raises:
        ImportError: the extra is missing.
        ValueError: unknown name.

    Example:
        >>> from fastssl.models import build_encoder
        >>> build_encoder({"name": "resnet", "size": 32, "width": 16, "blocks": 1}).dim
        64
    """
    name, size, channels = str(options["name"]), int(options["size"]), int(options.get("channels", 3))
    library, _, theirs = name.partition(":")
    if theirs and library in LIBRARIES:
        return Encoder(LIBRARIES[library](theirs, size, channels), size, channels)
    plain = name.removeprefix("lab:")
    if plain not in ENCODERS:
        known = ", ".join([*ENCODERS, "lab:NAME", *(f"{library}:NAME" for library in LIBRARIES)])
        near = difflib.get_close_matches(plain, ENCODERS, 1)
        raise ValueError(
            f"encoder: expected one of {known}, got {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    if name != plain:
        if channels != 3:
            raise ValueError(f"channels: the halves of {name} see lightness and colour of 3 channels, got {channels}")
        half = {**options, "width": max(1, int(options.get("width", 32)) // 2)}
        network: nn.Module = LabNetwork(_network(plain, half), _network(plain, half))
    else:
        network = set_input_channels(_network(name, options), channels)
    narrow = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.out_channels < NARROW]
    for conv in narrow:
        conv.register_forward_pre_hook(_planar)
    if not narrow:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoder(network, size, channels)


def as_encoder(encoder: Any, size: int | None = None, channels: int = 3) -> Encoder:
    """An encoder of what people have.

    Args:
        encoder: an :class:`Encoder`; a name or options of :func:`build_encoder`; or any module from images to a feature
            map or vectors, which is trained itself.
        size: image size, pixels; of an encoder or options their own.
        channels: of the images.

    Raises:
        TypeError: none of these.
        ValueError: no size, or another than the encoder's.

    Example:
        >>> import torch
        >>> from fastssl.models import as_encoder
        >>> encoder = as_encoder(torch.nn.Conv2d(3, 8, 3), size=32)
        >>> encoder.size
        32
    """
    if isinstance(encoder, Encoder):
        if size not in (None, encoder.size):
            raise ValueError(f"size: the encoder takes images of {encoder.size} pixels, got {size}")
        return encoder
    if isinstance(encoder, dict):
        return build_encoder(encoder)
    if not isinstance(encoder, (str, nn.Module)):
        raise TypeError(f"encoder: expected a name, options, a module or an Encoder, got {type(encoder).__name__}")
    if size is None:
        raise ValueError("size: expected the size in pixels of the images that the encoder takes")
    if isinstance(encoder, str):
        return build_encoder({"name": encoder, "size": size} | ({} if channels == 3 else {"channels": channels}))
    return Encoder(encoder, size, channels)
