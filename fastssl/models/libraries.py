"""Backbones of torchvision, timm and Hugging Face transformers."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.models.channels import set_input_channels
from fastssl.models.modes import evaluation_mode

log = logging.getLogger("fastssl")
HALF = (0.5, 0.5, 0.5)  # mean and deviation of images in [-1, 1]


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


READOUTS: dict[str, Callable[[Any], Tensor]] = {
    "pooler_output.flatten(1)": lambda output: output.pooler_output.flatten(1),
    "last_hidden_state[:, 0]": lambda output: output.last_hidden_state[:, 0],
    "last_hidden_state.mean(1)": lambda output: output.last_hidden_state.mean(1),
    "last_hidden_state.mean((2, 3))": lambda output: output.last_hidden_state.mean((2, 3)),
}  # what transformers calls its outputs, as code that a user may copy


def readout_of(model: nn.Module, images: Tensor, output: Any) -> str:
    """The entry of :data:`READOUTS` that is the features of a model of transformers: its own pooling, else the class
    token, else the mean."""
    if getattr(output, "pooler_output", None) is not None:
        return "pooler_output.flatten(1)"
    hidden = output.last_hidden_state
    if hidden.dim() == 4:
        return "last_hidden_state.mean((2, 3))"
    return "last_hidden_state[:, 0]" if (_prefix(model, images, hidden) or 0) > 0 else "last_hidden_state.mean(1)"


def _prefix(model: Any, images: Tensor, hidden: Tensor) -> int | None:
    """Number of tokens [B, N, C] before those of the patches; None: they are not of patches of one size."""
    patch = getattr(model.config, "patch_size", None)
    if not isinstance(patch, int):
        return None
    return int(hidden.shape[1] - (images.shape[-2] // patch) * (images.shape[-1] // patch))


class HuggingFaceBackbone(Backbone):
    """A model of transformers, whose own processor normalises images by ``mean`` and ``std`` of each channel."""

    def __init__(self, model: nn.Module, mean: Sequence[float] = HALF, std: Sequence[float] = HALF) -> None:
        super().__init__(model)
        self.mean, self.std = tuple(mean), tuple(std)

    def normalized(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as the model was trained on them."""
        if self.mean == self.std == HALF:
            return images
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images / 2 + 0.5 - mean) / std

    def forward(self, images: Tensor) -> Tensor:
        images = self.normalized(images)
        hidden: Tensor = self.model(pixel_values=images).last_hidden_state
        if hidden.dim() == 4:
            return hidden
        prefix = _prefix(self.model, images, hidden)
        return hidden.mean(1) if prefix is None else tokens_to_map(hidden, prefix)

    def pooled(self, images: Tensor) -> Tensor:
        images = self.normalized(images)
        output = self.model(pixel_values=images)
        return READOUTS[readout_of(self.model, images, output)](output)


def without_random_pooler(model: Any, missing: Iterable[str]) -> list[str]:
    """Removes the pooler of a model of transformers whose weights are ``missing``: what it makes of features would be
    random, and other in every process. Returns what else is missing."""
    left = list(missing)
    others = [name for name in left if "pooler" not in name.split(".")]
    if others != left:
        owner = next(module for module in model.modules() if getattr(module, "pooler", None) is not None)
        owner.pooler = None
    return others


def _normalization(place: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel with which the image processor of a name or folder normalises; those of images
    in [-1, 1] if there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        about, _ = ImageProcessingMixin.get_image_processor_dict(place)
    except OSError:
        return HALF, HALF
    if not about.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    mean, std = (about.get(key, HALF) for key in ("image_mean", "image_std"))
    return tuple(mean), tuple(std)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars and reports of weights, whose missing ones are reported by us."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def place_of(name: str, argument: str = "encoder") -> str:
    """The name of a model of Hugging Face, or the path of its folder.

    Raises:
        FileNotFoundError: a path that is not there, which would be looked for on the network.
    """
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"{argument}: expected a folder or the name of a model (OWNER/NAME), no folder {name!r}"
        )
    return name


def huggingface(model: Any, size: int, channels: int = 3, *, pretrained: bool = True) -> Backbone:
    """A vision backbone of Hugging Face transformers; of a model of images and texts, such as CLIP, that of images.

    A pooler that has no weights at ``model`` (that of a ViT which was saved with a classifier, or by DINO) is left out.
    Images of three channels are normalised as the ``preprocessor_config.json`` beside a model has it.

    Args:
        model: a name or path, a ``PretrainedConfig`` (random weights), or a model.
        size: image size in pixels.
        channels: image channels; if they differ from the model's, its first layer is reinitialised.
        pretrained: of a name or path: load its weights; False: random ones.

    Raises:
        FileNotFoundError: no such folder.
        ImportError: the extra is missing: ``pip install fastssl[vision]``.
    """
    model = place_of(model) if isinstance(model, str) else model
    try:
        from transformers import AutoConfig, AutoModel, PreTrainedModel
    except ImportError as error:
        raise ImportError("backbones of Hugging Face need the extra: pip install fastssl[vision]") from error
    if isinstance(model, PreTrainedModel):
        return HuggingFaceBackbone(model)
    config = AutoConfig.from_pretrained(model) if isinstance(model, str) else model
    config = getattr(config, "vision_config", config)
    others: dict[str, Any] = {}
    if channels != 3:
        config.num_channels, others = channels, {"ignore_mismatched_sizes": True}
    if not isinstance(model, str):
        return HuggingFaceBackbone(AutoModel.from_config(config))
    normal = _normalization(model) if channels == 3 else (HALF, HALF)
    if not pretrained:
        return HuggingFaceBackbone(AutoModel.from_config(config), *normal)
    with quiet_loading():
        made, report = AutoModel.from_pretrained(model, config=config, output_loading_info=True, **others)
    made.float()  # some are stored in 16 bits, in which they are not trained
    missing = without_random_pooler(made, report["missing_keys"])
    if missing:
        log.warning(
            "encoder: %s lacks parts of %s, which are random: %s", model, type(made).__name__, ", ".join(missing)
        )
    return HuggingFaceBackbone(made, *normal)


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


LIBRARIES: dict[str, Callable[..., Backbone]] = {
    "huggingface": huggingface,
    "timm": timm,
    "torchvision": torchvision,
}
