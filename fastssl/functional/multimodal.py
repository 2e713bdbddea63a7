"""Image-text losses: CLIP and SigLIP."""

from __future__ import annotations

from torch import Tensor

from fastssl.distributed.shards import Group, shardable
from fastssl.functional import _check as check
from fastssl.functional._pairs import fused_pairs
from fastssl.ops.pair_loss import INFO_NCE, SIGLIP


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

    Features are used as they are: normalise them first, as CLIP does. Any scale works, also one whose
    exponentials overflow fp32.

    Args:
        image_features: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        text_features: [N, D]; row i belongs to image i.
        logit_scale: s, the factor itself and not its logarithm; a number or a tensor of one element.
        logit_bias: added to every logit. A softmax does not see it: its gradient is 0. For signatures alike.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu" | "triton"; None chooses.
        group: "world", a ProcessGroup or one dimension of a DeviceMesh: the loss of the rows of all its processes, of
            which this one has its own (:func:`fastssl.distributed.sharded` says what its gradients are); None: alone.
        schedule: with ``group``: "all_gather" | "ring" | "auto", by the memory budget.

    Returns:
        A scalar, or [N] for "none"; float64 for float64 inputs, else float32.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device, scale or reduction.

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
    loss = fused_pairs(
        *(INFO_NCE, image_features, None, text_features),
        names=("image_features", "text_features"),
        scale=scale,
        normalize=False,
        symmetric=True,
        reduction=reduction,
        backend=backend,
    )
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
    r"""The sigmoid loss of SigLIP: every pair of the batch is a binary question.

    .. math:: L_i = -\sum_j \log \sigma\big(z_{ij} (s\, x_i \cdot y_j + b)\big), \quad z_{ii} = 1,\ z_{ij} = -1

    Features are used as they are: normalise them first, as SigLIP does.

    Args:
        image_features: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        text_features: [N, D]; row i belongs to image i.
        logit_scale: s, the factor itself and not its logarithm; a number or a tensor of one element.
        logit_bias: b; a number or a tensor of one element.
        reduction: "mean" (over images, as in the paper) | "sum" | "none".
        backend: "reference" | "cpu" | "triton"; None chooses.
        group: "world", a ProcessGroup or one dimension of a DeviceMesh: the loss of the rows of all its processes, of
            which this one has its own (:func:`fastssl.distributed.sharded` says what its gradients are); None: alone.
        schedule: with ``group``: "all_gather" | "ring" | "auto", by the memory budget.

    Returns:
        A scalar, or [N] for "none"; float64 for float64 inputs, else float32.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device, scale, bias or reduction.

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
        scale=scale,
        bias=bias,
        normalize=False,
        reduction=check.reduction(reduction),
        backend=backend,
    )
