"""Image-text losses: CLIP and SigLIP."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.distributed.shards import Group, current, shardable
from fastssl.functional import _check as check
from fastssl.functional import _shared
from fastssl.ops import Backend, dispatch, reference
from fastssl.ops.pair_loss import Loss, pair_loss


def _clip_cpu(image: Tensor, text: Tensor, logit_scale: Tensor | float, reduction: str) -> Tensor:
    return pair_loss(
        Loss.info_nce, image, text, scale=logit_scale, symmetric=True, normalize=False, reduction=reduction
    )


def _siglip_cpu(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float, reduction: str
) -> Tensor:
    if not isinstance(logit_bias, Tensor):
        logit_bias = torch.full((), logit_bias, dtype=torch.float64)
    return pair_loss(Loss.siglip, image, text, scale=logit_scale, bias=logit_bias, normalize=False, reduction=reduction)


CLIP = Backend(reference.clip_loss, _clip_cpu, "clip_loss")
SIGLIP = Backend(reference.siglip_loss, _siglip_cpu, "siglip_loss")


@shardable
def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
    *,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""The symmetric cross-entropy of CLIP over all image-text pairs of the batch.

    .. math:: L_i = \tfrac12 \left( -\log \frac{\exp(s\, x_i \cdot y_i)}{\sum_j \exp(s\, x_i \cdot y_j)}
              -\log \frac{\exp(s\, x_i \cdot y_i)}{\sum_j \exp(s\, x_j \cdot y_i)} \right)

    Features are used as they are: normalize them first, as CLIP does. Exponentials do not overflow for any scale.

    Args:
        logit_bias: added to every logit, for the signature of :func:`siglip_loss`; a softmax is invariant to it: its
            gradient is 0.

    Example:
        >>> import torch, fastssl.functional as F
        >>> image = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
        >>> text = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
        >>> logit_scale = torch.tensor(2.66, requires_grad=True)
        >>> F.clip_loss(image, text, logit_scale.exp()).backward()

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, fig. 3.
    """
    check.matrices(image_features=image_features, text_features=text_features)
    check.same_rows("text_features", text_features, "image_features", image_features)
    scale = check.value("logit_scale", logit_scale, image_features.device)
    bias = None if logit_bias is None else check.value("logit_bias", logit_bias, image_features.device)
    check.reduction(reduction)
    shards = current()
    if shards is not None:
        call = (image_features, text_features, None, scale, True, False, reduction, False)
        loss = _shared.info_nce(shards, *call, backend)
    else:
        loss = dispatch(CLIP, backend, image_features.device, image_features, text_features, scale, reduction)
    return loss + 0 * bias.to(loss.dtype) if isinstance(bias, Tensor) else loss


@shardable
def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""The sigmoid loss of SigLIP: a binary classification of every image-text pair of the batch.

    .. math:: L_i = -\sum_j \log \sigma\big(z_{ij} (s\, x_i \cdot y_j + b)\big), \quad z_{ii} = 1,\ z_{ij} = -1

    Features are used as they are: normalize them first, as SigLIP does.

    Args:
        logit_bias: b; a number or a tensor of one element.
        reduction: "mean" (over images, as in the paper) | "sum" | "none".

    Example:
        >>> import torch, fastssl.functional as F
        >>> image = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
        >>> text = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
        >>> scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
        >>> F.siglip_loss(image, text, scale, bias).backward()

    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, eq. 1.
    """
    check.matrices(image_features=image_features, text_features=text_features)
    check.same_rows("text_features", text_features, "image_features", image_features)
    scale = check.value("logit_scale", logit_scale, image_features.device)
    bias = check.value("logit_bias", logit_bias, image_features.device)
    call = image_features, text_features, scale, bias, check.reduction(reduction)
    shards = current()
    if shards is not None:
        return _shared.siglip(shards, *call, backend)
    return dispatch(SIGLIP, backend, image_features.device, *call)
