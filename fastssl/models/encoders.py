"""Encoders: any network from images to features, with the two readouts that evaluation uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.models.resnet import SmallResNet


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

    def forward(self, images: Tensor) -> Tensor:
        features = self.network(images)
        return features.mean((2, 3)) if features.dim() == 4 else features

    def spatial(self, images: Tensor, cells: int = 4) -> Tensor:
        features = self.network(images)
        if features.dim() != 4:
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


def build_encoder(options: dict[str, Any]) -> Encoder:
    """Returns the encoder that a checkpoint or the command line describes.

    ``{"name": "resnet", "size": 32, "width": 32, "blocks": 1}`` or ``{"name": "huggingface:NAME", "size": 224}``.

    Raises:
        ValueError: unknown name.
    """
    name, size = str(options["name"]), int(options["size"])
    if name == "resnet":
        network = SmallResNet(options.get("width", 32), options.get("blocks", 1), 2 if size >= 32 else 1)
        return Encoder(network.to(memory_format=torch.channels_last), size)  # type: ignore[call-overload]
    if name.startswith("huggingface:"):
        return huggingface(name.removeprefix("huggingface:"), size)
    raise ValueError(f"encoder: expected 'resnet' or 'huggingface:NAME', got {name!r}")
