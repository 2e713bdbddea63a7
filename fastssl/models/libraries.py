"""Backbones of torchvision, timm and Hugging Face transformers."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.models.channels import set_input_channels
from fastssl.models.modes import evaluation_mode


class Backbone(nn.Module):
    """A model of another library without its classifier.

    ``forward`` returns a feature map [B, C, H, W], or vectors [B, C] if the model has none; ``pooled`` returns the
    features [B, C] as the library defines them. ``model`` is the library's object.

    Args:
        model: a model of timm, torchvision or transformers.

    Example:
        >>> import torch
        >>> from fastssl.models import Backbone
        >>> Backbone(torch.nn.Conv2d(3, 8, 3, 2, 1)).pooled(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 8, 16, 16])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def pooled(self, images: Tensor) -> Tensor:
        """Images [B, channels, S, S] to the library's features [B, C]."""
        result: Tensor = self.model(images)
        return result


def tokens_to_map(tokens: Tensor, prefix: int) -> Tensor:
    """Tokens [B, prefix + side * side, C] to a feature map [B, C, side, side]; to their mean if they form no square."""
    patches = tokens[:, prefix:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        return patches.mean(1)
    return patches.transpose(1, 2).unflatten(2, (side, side))


class _TimmBackbone(Backbone):
    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(images)  # type: ignore[operator]
        if features.dim() == 3:
            return tokens_to_map(features, int(getattr(self.model, "num_prefix_tokens", 0)))
        last = features.dim() == 4 and getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return features.permute(0, 3, 1, 2) if last else features


class TorchvisionBackbone(Backbone):
    """The feature map is the output of the last module before pooling, found by a forward pass; ``head`` is the name of
    the removed layer."""

    def __init__(self, model: nn.Module, size: int, channels: int, head: str) -> None:
        super().__init__(model)
        self.head = head
        self.last = self._last_map(torch.zeros(1, channels, size, size))

    @torch.no_grad()
    def _last_map(self, images: Tensor) -> str | None:
        found: list[str] = []

        def note(name: str, module: nn.Module) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.dim() in (3, 4):
                    found.append(name)

            return module.register_forward_hook(hook)

        pooling = (nn.AdaptiveAvgPool2d, nn.Dropout)
        inside = [(n, m) for n, m in self.model.named_modules() if n and not isinstance(m, pooling)]
        handles = [note(name, module) for name, module in inside]
        try:
            with evaluation_mode(self.model):
                self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        return found[-1] if found else None

    def forward(self, images: Tensor) -> Tensor:
        if self.last is None:
            return self.pooled(images)
        seen: list[Tensor] = []
        handle = self.model.get_submodule(self.last).register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            self.model(images)
        finally:
            handle.remove()
        return tokens_to_map(seen[0], 1) if seen[0].dim() == 3 else seen[0]


class _HuggingFaceBackbone(Backbone):
    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.model(pixel_values=images).last_hidden_state
        if hidden.dim() == 4:
            return hidden
        patch = getattr(self.model.config, "patch_size", None)
        if not isinstance(patch, int):
            return hidden.mean(1)
        patches = (images.shape[-2] // patch) * (images.shape[-1] // patch)
        return tokens_to_map(hidden, hidden.shape[1] - patches)

    def pooled(self, images: Tensor) -> Tensor:
        output = self.model(pixel_values=images)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden: Tensor = output.last_hidden_state
        return hidden.mean((2, 3)) if hidden.dim() == 4 else hidden.mean(1)


def huggingface(model: Any, size: int, channels: int = 3) -> Backbone:
    """A vision backbone of Hugging Face transformers.

    Args:
        model: a name or path (pretrained weights), a ``PretrainedConfig`` (random weights), or a model.
        size: image size in pixels.
        channels: image channels; if they differ from the model's, its first layer is reinitialised.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[vision]``.
    """
    try:
        from transformers import AutoModel, PreTrainedModel
    except ImportError as error:
        raise ImportError("backbones of Hugging Face need the extra: pip install fastssl[vision]") from error
    if isinstance(model, PreTrainedModel):
        return _HuggingFaceBackbone(model)
    if isinstance(model, str):
        others = {} if channels == 3 else {"num_channels": channels, "ignore_mismatched_sizes": True}
        return _HuggingFaceBackbone(AutoModel.from_pretrained(model, **others))
    if channels != 3:
        model.num_channels = channels
    return _HuggingFaceBackbone(AutoModel.from_config(model))


def timm(name: str, size: int, channels: int = 3) -> Backbone:
    """A backbone of timm with random weights, ``timm.create_model(name, num_classes=0)``.

    Args:
        name: a name from :func:`timm.list_models`.
        size: image size in pixels.
        channels: image channels.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[timm]``.
        ValueError: unknown name.
    """
    try:
        import timm as library
    except ImportError as error:
        raise ImportError("backbones of timm need the extra: pip install fastssl[timm]") from error
    if not library.is_model(name):
        raise _unknown("timm", name, library.list_models())
    return _TimmBackbone(library.create_model(name, num_classes=0, **timm_arguments(name, size, channels)))


def timm_arguments(name: str, size: int, channels: int) -> dict[str, int]:
    """Arguments of ``timm.create_model`` for an image size and number of channels."""
    from timm.models import get_pretrained_cfg

    about = get_pretrained_cfg(name)
    fixed = about is not None and about.fixed_input_size
    return ({"img_size": size} if fixed else {}) | ({} if channels == 3 else {"in_chans": channels})


def torchvision(name: str, size: int, channels: int = 3) -> Backbone:
    """A backbone of torchvision with random weights: ``torchvision.models.get_model(name)`` without its last layer.

    Args:
        name: a name from :func:`torchvision.models.list_models`.
        size: image size in pixels.
        channels: image channels.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[torchvision]``.
        ValueError: unknown name, or a model that does not end in a linear layer.
    """
    try:
        import torchvision as library
    except ImportError as error:
        raise ImportError("backbones of torchvision need the extra: pip install fastssl[torchvision]") from error
    known = library.models.list_models(module=library.models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    model = library.models.get_model(name, weights=None, **torchvision_arguments(name, size))
    linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or list(model.named_modules())[-1][0] != linear[-1]:
        raise ValueError(f"encoder: expected a model of torchvision that ends in a linear layer, got {name!r}")
    model.set_submodule(linear[-1], nn.Identity())
    return TorchvisionBackbone(set_input_channels(model, channels), size, channels, linear[-1])


def torchvision_arguments(name: str, size: int) -> dict[str, Any]:
    """Arguments of ``torchvision.models.get_model`` for an image size."""
    if name in ("googlenet", "inception_v3"):  # without auxiliary outputs
        return {"aux_logits": False, "init_weights": True}
    return {"image_size": size} if name.startswith("vit_") else {}


def _unknown(library: str, name: str, known: list[str]) -> ValueError:
    near = difflib.get_close_matches(name, known, 3)
    return ValueError(
        f"encoder: {library} has no model {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    )


LIBRARIES: dict[str, Callable[[str, int, int], Backbone]] = {
    "huggingface": huggingface,
    "timm": timm,
    "torchvision": torchvision,
}
