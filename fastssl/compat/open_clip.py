"""open_clip: ClipLoss (CoCa's contrastive part with it) and SigLipLoss, in one process and in several.

In several a process's features get the gradient of the sum of all processes' losses, as open_clip's gathering with
gradients gives it; the average that DDP takes of the weights' gradients is then right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch import distributed as dist

import fastssl.functional as F
from fastssl.compat import NotFused, require_matrices
from fastssl.distributed import sharded

FAMILY = {"ClipLoss": ("CoCaLoss",)}


def targets() -> list[tuple[type, str, Callable[..., Any]]]:
    from open_clip.loss import ClipLoss, SigLipLoss

    return [(ClipLoss, "forward", _clip), (SigLipLoss, "forward", _siglip)]


def _check(loss: Any, image: Tensor, text: Tensor) -> None:
    if loss.world_size > 1:
        here = dist.is_initialized() and (loss.rank, loss.world_size) == (dist.get_rank(), dist.get_world_size())
        if getattr(loss, "use_horovod", False) or not here:
            raise NotFused("processes that are not those of torch.distributed")
        if not getattr(loss, "gather_with_grad", True):
            raise NotFused("features of other processes without gradient")
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
    call = image_features, text_features, _value(logit_scale), _value(logit_bias)
    if loss.world_size == 1:
        total = F.clip_loss(*call)
    elif loss.local_loss:  # the mean over this process's rows
        total = F.clip_loss(*call, reduction="none", group="world").mean()
    else:  # the same mean on every process
        with sharded("world", averaged=True):
            total = F.clip_loss(*call)
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
    call = image_features, text_features, _value(logit_scale), bias
    if loss.world_size == 1:
        total = F.siglip_loss(*call)
    else:  # this process's images with all texts, however they are exchanged
        total = F.siglip_loss(*call, reduction="none", group="world").mean()
    return {"contrastive_loss": total} if output_dict else total


def _value(given: Any) -> Any:
    """Scales and biases of one element; others broadcast in the original."""
    if isinstance(given, Tensor) and (
        given.numel() != 1 or not given.is_floating_point() or given.device.type != "cpu"
    ):
        raise NotFused("a scale or bias that is no single value")
    return given
