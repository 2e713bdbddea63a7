"""Image-text losses: CLIP and SigLIP."""

from __future__ import annotations

from torch import Tensor

from fastssl.distributed.shards import Group, shardable
from fastssl.functional import _check as check
from fastssl.functional._pairs import fused_pairs, reduce_rows
from fastssl.functional._row_terms import column_ids, is_zero, smoothing, smoothing_gap
from fastssl.ops.operator import result_dtype
from fastssl.ops.pair_loss import INFO_NCE, SIGLIP


@shardable
def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
    *,
    reduction: str = "mean",
    ids: Tensor | None = None,
    label_smoothing: Tensor | float = 0.0,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""The symmetric cross-entropy of CLIP over all image-text pairs of the batch.

    .. math:: L_i = \tfrac12 \left( -\log \frac{\exp(s\, x_i \cdot y_i)}{\sum_j \exp(s\, x_i \cdot y_j)}
              -\log \frac{\exp(s\, x_i \cdot y_i)}{\sum_j \exp(s\, x_j \cdot y_i)} \right)

    Features are used as they are: normalize them first, as CLIP does. Exponentials do not overflow for any scale. With
    ``ids``, the pairs of an image with other texts of its id leave both sums.

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
    epsilon = smoothing(label_smoothing, image_features.device, ids)
    loss = fused_pairs(
        *(INFO_NCE, image_features, None, text_features),
        names=("image_features", "text_features"),
        ids=column_ids(ids, image_features, "image_features"),
        scale=scale,
        normalize=False,
        symmetric=True,
        reduction=reduction if is_zero(epsilon) else "none",
        backend=backend,
    )
    if not is_zero(epsilon):
        values = loss + epsilon * smoothing_gap(image_features, text_features, scale, False, symmetric=True)
        loss = reduce_rows(values, None, reduction).to(result_dtype(image_features))
    return loss + 0 * bias.to(loss.dtype) if isinstance(bias, Tensor) else loss


@shardable
def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    reduction: str = "mean",
    ids: Tensor | None = None,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""The sigmoid loss of SigLIP: a binary classification of every image-text pair of the batch.

    .. math:: L_i = -\sum_j \log \sigma\big(z_{ij} (s\, x_i \cdot y_j + b)\big), \quad z_{ii} = 1,\ z_{ij} = -1

    Features are used as they are: normalize them first, as SigLIP does. With ``ids``, the pairs of an image with other
    texts of its id leave the sum.

    Args:
        logit_bias: b; a number or a tensor of one element.
        reduction: "mean" (over images, as in the paper) | "active": over those above 0 | "sum" | "none".

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
    return fused_pairs(
        *(SIGLIP, image_features, None, text_features),
        names=("image_features", "text_features"),
        ids=column_ids(ids, image_features, "image_features"),
        scale=scale,
        bias=bias,
        normalize=False,
        reduction=check.reduction(reduction),
        backend=backend,
    )
