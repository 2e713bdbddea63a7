"""SigLIP: binary classification of every pair of image and text of the batch as matching or not.

Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023. Deviation: as for CLIP.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import Views
from fastssl.methods.clip import CLIP
from fastssl.models import Encoder


class SigLIP(CLIP):
    """One view and the item's text + two towers + sigmoid loss of every pair with learned logit scale and bias.

    Args:
        encoder: the image tower, kept after pretraining.
        augment: produces one view; None: as for :class:`CLIP`.
        bias: initial logit bias, negative since most pairs do not match; learned.
        scale: initial logit scale; learned.
        options: further arguments of :class:`CLIP`.
    """

    paper = "Zhai et al. 2023"
    predicts = "whether image and text belong together"
    loss = "sigmoid of every pair"
    causal = False

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        bias: float = -10.0,
        scale: float = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(encoder, augment, scale=scale, **options)
        self.bias = nn.Parameter(self.known.get("bias", torch.tensor(bias)))

    def objective(self, *representations: Tensor, labels: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        image, text = representations
        return F.siglip_loss(image, text, self.log_scale.exp(), self.bias, ids=ids, backend=self.backend)
