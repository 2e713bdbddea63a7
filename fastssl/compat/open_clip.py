"""open_clip: ClipLoss (CoCa's contrastive part with it) and SigLipLoss, in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

import fastssl.functional as F
from fastssl.compat import NotFused, require_matrices

FAMILY = {"ClipLoss": ("CoCaLoss",)}


def targets() -> list[tuple[type, str, Callable[..., Any]]]:
    from open_clip.loss import ClipLoss, SigLipLoss

    return [(ClipLoss, "forward", _clip), (SigLipLoss, "forward", _siglip)]


def _check(loss: Any, image: Tensor, text: Tensor) -> None:
    if loss.world_size > 1:
        raise NotFused("several processes")
    require_matrices(image, text)
    if image.shape != text.shape or image.dtype != text.dtype or len(image) == 0:
        raise NotFused("shapes or dtypes that differ, or no rows")


def _clip(
    loss: Any,
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
    output_dict: bool = False,
) -> Any:
    _check(loss, image_features, text_features)
    total = F.clip_loss(image_features, text_features, _value(logit_scale), _value(logit_bias))
    return {"contrastive_loss": total} if output_dict else total


def _siglip(
    loss: Any,
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None,
    output_dict: bool = False,
) -> Any:
    _check(loss, image_features, text_features)
    bias = 0.0 if logit_bias is None else _value(logit_bias)
    total = F.siglip_loss(image_features, text_features, _value(logit_scale), bias)
    return {"contrastive_loss": total} if output_dict else total


def _value(given: Any) -> Any:
    """Scales and biases of one element; others broadcast in the original."""
    if isinstance(given, Tensor) and (
        given.numel() != 1 or not given.is_floating_point() or given.device.type != "cpu"
    ):
        raise NotFused("a scale or bias that is no single value")
    return given
