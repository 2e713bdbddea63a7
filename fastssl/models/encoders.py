"""Encoders: any network from images to features, with a pooled and a spatial readout."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastssl._options import integer
from fastssl.models.channels import set_input_channels
from fastssl.models.convolutional import MLP, PatchCNN, SmallEfficientNet
from fastssl.models.density import DensityNetwork
from fastssl.models.igpt import ImageGPTNetwork
from fastssl.models.lab import LabNetwork
from fastssl.models.libraries import LIBRARIES, Backbone
from fastssl.models.modes import evaluation_mode
from fastssl.models.nade import NADENetwork
from fastssl.models.pixel_rnn import PixelRNNNetwork
from fastssl.models.pixels import PixelCNNNetwork
from fastssl.models.pooling import cell_means
from fastssl.models.rbm import RBMNetwork
from fastssl.models.resnet import BLOCKS, ResNet, SmallResNet
from fastssl.models.vit import ViT

_OF_IMAGES = ("encoder", "visual", "vision_model")  # parts of methods, and of models of images and texts


class Encoder(nn.Module):
    """Wraps a network for methods and evaluation.

    Args:
        network: any module from images [B, channels, S, S] to a feature map [B, C, H, W] or vectors [B, C]; the shape
            is determined by a forward pass on one image. Remove the classifier of a network first
            (``model.fc = nn.Identity()``), or build the network by name (:func:`build_encoder`).
        size: S, the image size in pixels.
        channels: number of image channels.

    Images are cast to the dtype of the parameters where these are not float32 (``encoder.half()``); a network's frozen
    parts (a batch norm in evaluation mode) stay in their mode.

    ``forward`` returns [B, C]: the feature map averaged over positions, or the pooled features of a :class:`Backbone`.
    ``spatial`` returns [B, C * cells * cells]: the feature map average-pooled to a grid, which retains positions. For
    vectors both are equal.

    Raises:
        TypeError: not a module, or one that does not return a tensor.
        ValueError: the network does not take such images, or its output has another shape.

    Example:
        >>> import torch
        >>> from fastssl.models import Encoder
        >>> encoder = Encoder(torch.nn.Conv2d(3, 8, 4, 4), size=32)
        >>> encoder.dim, encoder.map_shape(), encoder.spatial(torch.zeros(2, 3, 32, 32), cells=2).shape
        (8, (8, 8, 8), torch.Size([2, 32]))
    """

    options: dict[str, Any] | None = None  # those of :func:`build_encoder`

    def __init__(self, network: nn.Module, size: int, channels: int = 3) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network: expected an nn.Module, got {type(network).__name__}")
        self.network, self.training = network, network.training
        self.size, self.channels = size, channels
        self.dim = int(self.shape_of(self if isinstance(network, Backbone) else network)[1])

    def shape_of(self, function: Callable[[Tensor], Tensor]) -> torch.Size:
        """The output shape of ``function``, of this encoder or its network, for one image, in evaluation mode."""
        device = next((p.device for p in self.network.parameters()), None)
        name = type(self.network).__name__
        image = self.cast(torch.zeros(1, self.channels, self.size, self.size, device=device))
        try:
            with torch.no_grad(), evaluation_mode(self):
                made = function(image)
        except (RuntimeError, AssertionError, ValueError, LookupError, AttributeError, TypeError) as error:
            parts = [part for part in _OF_IMAGES if isinstance(getattr(self.network, part, None), nn.Module)]
            part = f"; its network of images is its .{parts[0]}" if parts else ""
            raise ValueError(f"network: {name} cannot take images {list(image.shape)}: {error}{part}") from error
        if not isinstance(made, Tensor):
            of_transformers = hasattr(made, "last_hidden_state")
            remedy = "; wrap a model of transformers: fastssl.models.LIBRARIES['huggingface'](model, size)"
            raise TypeError(
                f"network: expected a tensor as output, {name} returns {type(made).__name__}"
                + (remedy if of_transformers else "")
            )
        if made.dim() not in (2, 4) or len(made) != 1:
            raise ValueError(
                f"network: expected vectors [B, C] or a feature map [B, C, H, W], {name} gives {list(made.shape)} of "
                f"images {list(image.shape)}"
            )
        return made.shape

    def map_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the network's feature map.

        Raises:
            ValueError: the network outputs vectors.
        """
        shape = self.shape_of(self.network)
        if len(shape) != 4:
            name = type(getattr(self.network, "model", self.network)).__name__
            raise ValueError(
                f"encoder: expected a network that gives a feature map [B, C, H, W], {name} gives vectors "
                f"[B, {shape[1]}]"
            )
        return shape[1], shape[2], shape[3]

    def at(self, size: int) -> Encoder:
        """This network, with its weights, as an encoder of images of another size.

        Random crops show objects larger than they are: features of images that are larger than those of training are
        often better (Touvron et al., Fixing the Train-Test Resolution Discrepancy, 2019).

        Raises:
            ValueError: the network takes images of its own size alone.

        Example:
            >>> import torch
            >>> from fastssl.models import build_encoder
            >>> encoder = build_encoder({"name": "resnet", "size": 32, "width": 8})
            >>> encoder.map_shape(), encoder.at(64).map_shape()
            ((32, 4, 4), (32, 8, 8))
        """
        size = integer("size", size, 1)
        if size == self.size:
            return self
        made = Encoder(self.network, size, self.channels)
        made.training = self.training
        made.options = None if self.options is None else {**self.options, "size": size}
        return made

    def levels(self) -> list[nn.Module]:
        """The stages of the network, whose composition is the network.

        Raises:
            ValueError: the network neither has ``levels()`` nor is an ``nn.Sequential``.
        """
        if callable(getattr(self.network, "levels", None)):
            return list(self.network.levels())  # type: ignore[operator]
        if isinstance(self.network, nn.Sequential):
            return list(self.network)
        raise ValueError(f"encoder: expected a network with levels() or an nn.Sequential, got {type(self.network)}")

    def cast(self, images: Tensor) -> Tensor:
        """The images in the dtype of a network whose parameters are not float32, such as ``encoder.half()``."""
        dtype = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)
        return images if dtype == torch.float32 else images.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        images = self.cast(images)
        if isinstance(self.network, Backbone):
            return self.network.pooled(images)
        return self.pool(self.network(images))

    def spatial(self, images: Tensor, cells: int = 4) -> Tensor:
        return self.pool(self.network(self.cast(images)), cells)

    @staticmethod
    def pool(features: Tensor, cells: int | None = None) -> Tensor:
        """Pools the network's output to vectors: globally, or to a grid of cells."""
        if features.dim() == 4 and cells is None:
            return features.mean((2, 3))
        if features.dim() != 4 or cells is None:
            return features
        grid = (min(cells, features.shape[2]), min(cells, features.shape[3]))
        if grid != features.shape[2:]:  # the pooling of a map to its own size, and its backward pass, are slow
            features = cell_means(features, grid)
        return features.flatten(1)


RESNETS = tuple(f"resnet{depth}" for depth in BLOCKS)  # those of the paper


def _network(name: str, options: dict[str, Any]) -> nn.Module:
    size, width, blocks = int(options["size"]), int(options.get("width", 32)), int(options.get("blocks", 1))
    if name == "resnet":
        return SmallResNet(width, blocks, 2 if size >= 32 else 1)
    if name in RESNETS:
        stem = options.get("stem") or ("cifar" if size < 96 else "imagenet")
        return ResNet(int(name[6:]), stem, int(options.get("width", 64)))
    if name == "mlp":
        return MLP(size, 4 * width, blocks)
    if name == "efficientnet":
        return SmallEfficientNet(width, blocks)
    patch = int(options.get("patch", max(1, size // 8)))
    if name in ("vit", "patch-cnn") and size % patch:
        raise ValueError(f"size: expected a multiple of the patch's {patch} pixels, got {size}")
    if name == "vit":
        return ViT(patch, 4 * width, 4 * blocks, max(1, width // 8))
    return PatchCNN(patch, 4 * width, 4 * blocks)


# The backward pass of a channels-last convolution to fewer channels, on an odd batch and several threads, writes out of
# bounds (torch 2.13, oneDNN). Such narrow networks stay in the default memory format.
NARROW = 16


def _planar(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)


OPTIONS = ("name", "size", "channels", "width", "blocks", "stem", "patch", "pretrained")
ENCODERS = ("resnet", *RESNETS, "efficientnet", "vit", "patch-cnn", "mlp")
DENSITIES: dict[str, Callable[..., DensityNetwork]] = {
    "rbm": RBMNetwork,
    "nade": NADENetwork,
    "pixelcnn": PixelCNNNetwork,
    "pixelrnn": PixelRNNNetwork,
    "igpt": ImageGPTNetwork,
}


def channels_of(options: dict[str, Any]) -> int:
    """The image channels of the encoder that these options build: 1 for distributions, else 3, if they do not say."""
    return int(options.get("channels", 1 if options.get("name") in DENSITIES else 3))


def build_encoder(options: dict[str, Any]) -> Encoder:
    """Builds an encoder from options, as stored in checkpoints.

    Args:
        options: "name" and "size" (pixels), and for the networks of this package "width" (channels of the first stage;
            a quarter of a transformer's token dimensions) and "blocks" (per stage; a quarter of a transformer's).

            - "resnet": :class:`SmallResNet`;
            - "resnet18", "resnet34", "resnet50", "resnet101": :class:`ResNet`, 64 channels wide unless "width" is
              given; "stem": "cifar" below 96 pixels, else "imagenet", unless it is given;
            - "efficientnet": :class:`SmallEfficientNet`;
            - "mlp": :class:`MLP`, for small patches;
            - "vit": :class:`ViT`, "patch-cnn": :class:`PatchCNN` (also "patch", by default an eighth of the image);
            - "rbm": :class:`RBMNetwork`, "nade": :class:`NADENetwork`, "pixelcnn": :class:`PixelCNNNetwork`,
              "pixelrnn": :class:`PixelRNNNetwork`, "igpt": :class:`ImageGPTNetwork`: distributions of images, with
              other options;
            - "lab:NAME": two networks NAME of half the width, one for lightness, one for colour;
            - "torchvision:NAME", "timm:NAME": a network of that library with random weights (extras torchvision, timm),
              "huggingface:NAME": a model of transformers (extra vision), with its weights unless "pretrained" is False;
              see :mod:`fastssl.models.libraries`.

            "channels": number of image channels, if not 3 (of distributions: if not 1).

    Raises:
        ImportError: the extra is missing.
        ValueError: unknown name or option, or a number that is not positive.

    Example:
        >>> from fastssl.models import build_encoder
        >>> build_encoder({"name": "resnet", "size": 32, "width": 16, "blocks": 1}).dim
        64
    """
    made = _build(options)
    made.options = dict(options)
    return made


def _build(options: dict[str, Any]) -> Encoder:
    name, size = str(options["name"]), int(options["size"])
    channels = channels_of(options)
    if name in DENSITIES:
        own = {key: value for key, value in options.items() if key not in ("name", "size", "channels", "pretrained")}
        accepted = inspect.signature(DENSITIES[name]).parameters
        if other := [key for key in own if key not in accepted]:
            raise ValueError(f"{other[0]}: expected none, {name} takes {', '.join(accepted)}")
        return Encoder(DENSITIES[name](size, channels, **own), size, channels)
    if other := [key for key in options if key not in OPTIONS]:
        raise ValueError(f"{other[0]}: expected none, options of an encoder are {', '.join(OPTIONS)}")
    for key in ("width", "blocks", "patch"):
        integer(key, options.get(key, 1), 1)
    library, _, theirs = name.partition(":")
    if theirs and library in LIBRARIES:
        weights = {"pretrained": bool(options.get("pretrained", True))} if library == "huggingface" else {}
        return Encoder(LIBRARIES[library](theirs, size, channels, **weights), size, channels)
    plain = name.removeprefix("lab:")
    if plain not in ENCODERS:
        known = ", ".join([*ENCODERS, *DENSITIES, "lab:NAME", *(f"{library}:NAME" for library in LIBRARIES)])
        near = difflib.get_close_matches(plain, ENCODERS, 1)
        raise ValueError(
            f"encoder: expected one of {known}, got {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    if name != plain:
        if channels != 3:
            raise ValueError(f"channels: {name} takes lightness and colour of 3 channels, got {channels}")
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


def as_encoder(encoder: Any, size: int | None = None, channels: int | None = None) -> Encoder:
    """Converts to an encoder.

    Args:
        encoder: an :class:`Encoder`; a name or options of :func:`build_encoder`; or any module from images to a feature
            map or vectors, which is wrapped, not copied.
        size: image size in pixels; None: that of the encoder or options.
        channels: number of image channels; None: those of the encoder or options, of a module 3.

    Raises:
        TypeError: ``encoder`` is of another type.
        ValueError: the size is missing, or size or channels differ from those of the encoder or options.

    Example:
        >>> import torch
        >>> from fastssl.models import as_encoder
        >>> encoder = as_encoder(torch.nn.Conv2d(3, 8, 3), size=32)
        >>> encoder.size
        32
    """
    given = {"size": size, "channels": channels}
    if isinstance(encoder, Encoder):
        for key, own, unit in (("size", encoder.size, "pixels"), ("channels", encoder.channels, "channels")):
            if given[key] not in (None, own):
                raise ValueError(f"{key}: the encoder takes images of {own} {unit}, got {given[key]}")
        return encoder
    if not isinstance(encoder, (str, dict, nn.Module)):
        raise TypeError(f"encoder: expected a name, options, a module or an Encoder, got {type(encoder).__name__}")
    options: dict[str, Any] = {"name": encoder} if isinstance(encoder, str) else {}
    options |= encoder if isinstance(encoder, dict) else {}
    size = options.get("size") if size is None else size
    if size is None:
        raise ValueError("size: expected the image size of the encoder, in pixels")
    if isinstance(encoder, nn.Module):
        return Encoder(encoder, size, 3 if channels is None else channels)
    for key, value in given.items():
        if value is not None and options.get(key, value) != value:
            raise ValueError(f"{key}: the options of the encoder have {options[key]}, got {value}")
    options.setdefault("size", size)
    if channels not in (None, channels_of(options)):
        options["channels"] = channels
    return build_encoder(options)
