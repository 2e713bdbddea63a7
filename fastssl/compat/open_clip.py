"""open_clip: ClipLoss (CoCa's contrastive part with it) and SigLipLoss, in one process and in several.

With several processes the features get the gradient of the sum of all processes' losses, as from open_clip's gathering
with gradients, for which DDP's averaging of gradients is correct.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

import fastssl.functional as F
from fastssl.compat._dtypes import multiplied, of_one_dtype, shallow
from fastssl.compat._peer import NotFused, Peer, Target, number, require_matrices
from fastssl.compat._sizes import MATRIX
from fastssl.distributed import sharded
from fastssl.distributed.exchange import gather
from fastssl.distributed.shards import resolve
from fastssl.functional import _check as check

_STATE = ("cache_labels", "rank", "world_size", "prev_num_logits", "labels")
_CLIP = (*_STATE, "local_loss", "gather_with_grad", "use_horovod")
KNOWN = {
    "ClipLoss": dict.fromkeys(_CLIP),
    "CoCaLoss": dict.fromkeys((*_CLIP, "clip_loss_weight", "caption_loss_weight", "caption_loss")),
    "SigLipLoss": dict.fromkeys((*_STATE, "dist_impl", "bidir")),
}
PEER = Peer("open_clip", "open_clip_torch", "2.24", "4", KNOWN)


def targets() -> list[Target]:
    from open_clip.loss import ClipLoss, SigLipLoss

    return [
        Target(ClipLoss, "forward", _clip, _probe, ("CoCaLoss",), min_rows=MATRIX),
        Target(SigLipLoss, "forward", _siglip, _probe, min_rows=MATRIX),
    ]


def _probe(original: Callable[..., Any], loss: Any, image: Tensor, text: Tensor, *rest: Any, **options: Any) -> Any:
    twin = shallow(loss)
    twin.world_size, twin.rank, twin.labels = 1, 0, {}
    return original(twin, image[:8].detach(), text[:8].detach(), *rest, **options)


def _check(loss: Any, image: Tensor, text: Tensor) -> None:
    if loss.world_size > 1:
        here = dist.is_initialized() and (loss.rank, loss.world_size) == (dist.get_rank(), dist.get_world_size())
        if getattr(loss, "use_horovod", False) or not here:
            raise NotFused("processes that are not those of torch.distributed")
    require_matrices(image, text)
    if image.shape != text.shape or image.device != text.device or len(image) == 0:
        raise NotFused("shapes or devices that differ, or no rows")


def _clip(loss: Any, image_features: Tensor, text_features: Tensor, logit_scale: Any, *rest: Any) -> Any:
    logit_bias, output_dict = rest if len(rest) == 2 else (None, *rest)  # before version 3 there is no bias
    _check(loss, image_features, text_features)
    bias = None if logit_bias is None else _value("logit_bias", logit_bias, image_features)
    image, text = multiplied(*of_one_dtype(image_features, text_features))
    call = image, text, _value("logit_scale", logit_scale, image_features), bias
    if loss.cache_labels:  # what the original leaves behind
        together = loss.world_size > 1 and not loss.local_loss
        loss.get_ground_truth(image_features.device, len(image_features) * (loss.world_size if together else 1))
    if not loss.world_size > 1:
        total = F.clip_loss(*call)
    elif not loss.gather_with_grad:
        total = _clip_without_gradient(loss, *call)
    elif loss.local_loss:  # the mean over this process's rows
        total = F.clip_loss(*call, reduction="none", group="world").mean()
    else:  # the same mean on every process
        with sharded("world", averaged=True):
            total = F.clip_loss(*call)
    return {"contrastive_loss": total} if output_dict else total


def _clip_without_gradient(
    loss: Any, image: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float | None
) -> Tensor:
    """``gather_with_grad=False``: features of other processes are constants."""
    if not loss.local_loss:  # the same mean on every process; own features have its gradient, and the scale all of it
        if isinstance(scale, Tensor):
            scale = scale * loss.world_size - (scale * (loss.world_size - 1)).detach()
        if isinstance(bias, Tensor):
            bias = bias * loss.world_size - (bias * (loss.world_size - 1)).detach()
        with sharded("world"):
            return F.clip_loss(image, text, scale, bias)
    # Local rows against all rows, which are constants, the local ones included.
    losses = []
    for own, other in ((image, text), (text, image)):
        every = gather(resolve("world"), other.detach(), [len(other)] * loss.world_size).split(len(other))
        rest = [block for rank, block in enumerate(every) if rank != loss.rank]
        call = own, other.detach(), torch.cat(rest)
        losses.append(F.info_nce(*call, temperature=check.inverse(scale), normalize=False))
    total = (losses[0] + losses[1]) / 2
    return total + 0 * bias.to(total.dtype) if isinstance(bias, Tensor) else total


def _siglip(
    loss: Any, image_features: Tensor, text_features: Tensor, logit_scale: Any, logit_bias: Any, output_dict: bool
) -> Any:
    _check(loss, image_features, text_features)
    bias = 0.0 if logit_bias is None else _value("logit_bias", logit_bias, image_features)
    image, text = multiplied(*of_one_dtype(image_features, text_features))
    call = image, text, _value("logit_scale", logit_scale, image_features), bias
    if not loss.world_size > 1:
        total = F.siglip_loss(*call)
    else:  # this process's images with all texts, however they are exchanged
        total = F.siglip_loss(*call, reduction="none", group="world").mean()
    return {"contrastive_loss": total} if output_dict else total


def _value(name: str, given: Any, like: Tensor) -> Tensor | float:
    """A scale or bias, uncast: its dtype contributes to that of the original's logits."""
    value = number(name, given, like)
    if isinstance(given, Tensor) and torch.promote_types(given.dtype, like.dtype) != like.dtype and given.dim():
        raise NotFused(f"{name} of a larger dtype than the rows")
    return value
