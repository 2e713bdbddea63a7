"""SimCLR: two augmented views of an image are positives, all other views of the batch are negatives.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020; the three-layer head: Big
Self-Supervised Models are Strong Semi-Supervised Learners, 2020. If an item has two images, each view is made from
another one, as in contrastive multiview coding (Tian et al. 2020). docs/how-a-method-works.md explains this file.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import SimCLRAugment, Views
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, projection_head


class SimCLR(ImageMethod):
    """Views + encoder + projection head + NT-Xent.

    Args:
        encoder: the network kept after pretraining.
        augment: produces two views; None: the paper's settings at the encoder's image size.
        temperature: temperature of the loss.
        hidden: width of the projection head.
        outputs: dimensions of the embeddings that the loss compares.
        layers: layers of the projection head: 2 in v1, 3 in v2.
        spatial: see :class:`ImageMethod`.
        backend: backend of the loss, as for :mod:`fastssl.functional`.
    """

    family = "instance discrimination"
    paper = "Chen et al. 2020"
    predicts = "which view belongs to the same image"
    loss = "NT-Xent"
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        temperature: float = 0.1,
        hidden: int = 256,
        outputs: int = 128,
        layers: int = 2,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(encoder, augment or SimCLRAugment(encoder.size, channels_last=True), spatial=spatial)
        self.temperature, self.backend = temperature, backend
        self.projector = projection_head(self.features, hidden, outputs, layers)

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        return self.projector(self.embed(torch.cat(views))).chunk(len(views))

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        z0, z1 = representations
        return F.nt_xent(z0, z1, temperature=self.temperature, backend=self.backend)
