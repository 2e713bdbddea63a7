"""SigLIP: of every image and text of the batch, do they belong together? Each pair by itself.

Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023. Deviation: as CLIP's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.methods.clip import CLIP
from fastssl.models import Encoder


class SigLIP(CLIP):
    """One view and the item's text + two towers + logistic loss of every pair with a learnt scale and bias.

    Args:
        encoder: the image tower: what is kept.
        bias: of the logits at the beginning: most pairs do not belong together.
        scale: of cosines at the beginning; learnt.
        options: of :class:`CLIP`.
    """

    paper = "Zhai et al. 2023"
    predicts = "whether image and text belong together"
    loss = "sigmoid of every pair"
    causal = False

    def __init__(self, encoder: Encoder, *args: Any, bias: float = -10.0, scale: float = 10.0, **options: Any) -> None:
        super().__init__(encoder, *args, scale=scale, **options)
        self.bias = nn.Parameter(torch.tensor(bias))

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        image, text = representations
        return F.siglip_loss(image, text, self.log_scale.exp(), self.bias, backend=self.backend)
