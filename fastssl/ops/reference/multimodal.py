"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.ops.reference.common import in_full_precision, reduce
from fastssl.ops.reference.contrastive import info_nce


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor | float, reduction: str) -> Tensor:
    return info_nce(image, text, None, logit_scale, True, False, reduction)


@in_full_precision
def siglip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float, reduction: str
) -> Tensor:
    logits = image @ text.T * logit_scale + logit_bias
    sign = 2 * torch.eye(image.shape[0], dtype=logits.dtype, device=logits.device) - 1
    return reduce(-TF.logsigmoid(sign * logits).sum(1), reduction)
