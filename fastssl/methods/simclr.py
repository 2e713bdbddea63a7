"""SimCLR: two augmented views of an image attract, all other views of the batch repel.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020. Where an item has two
drawings, each view is made of another one, as in contrastive multiview coding (Tian et al. 2020).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import SimCLRAugment, Views, uniform
from fastssl.models import Encoder, projection_head


class SimCLR(nn.Module):
    """Views + encoder + projection head + NT-Xent.

    Args:
        encoder: what is kept.
        augment: makes two views; None takes the paper's settings at the encoder's image size.
        temperature: of the loss.
        hidden: width of the projection head.
        outputs: dimensions in which views are compared.
        spatial: project the 4 x 4 feature map instead of its mean: features keep where things are.
        backend: of the loss.
    """

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        temperature: float = 0.1,
        hidden: int = 256,
        outputs: int = 128,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.augment = augment or SimCLRAugment(encoder.size, channels_last=True)
        self.temperature = temperature
        self.spatial = spatial
        self.backend = backend
        inputs = encoder.dim
        if spatial:
            training = encoder.training
            with torch.no_grad():
                inputs = encoder.eval().spatial(torch.zeros(1, 3, encoder.size, encoder.size)).shape[1]
            encoder.train(training)
        self.projector = projection_head(inputs, hidden, outputs)

    def views(self, images: Tensor, seed: int, epoch: int = 0, ids: np.ndarray | None = None) -> list[Tensor]:
        """uint8 [B, drawings, H, W, 3] to two float views [B, 3, S, S].

        What is drawn depends on (seed, epoch, id) of each item alone; ``ids`` are 0 to B - 1 unless given.
        """
        ids = np.arange(len(images)) if ids is None else np.asarray(ids)
        # Two different drawings, where there are two; none of the programs draws for this view.
        first = (uniform(seed, epoch, ids, view=0xFFFE)[:, 0] * images.shape[1]).astype(np.int64)
        rows = torch.arange(len(images))
        chosen = (images[rows, torch.from_numpy((first + k) % images.shape[1])] for k in range(2))
        return [self.augment.view(k, drawing, seed=seed, epoch=epoch, ids=ids) for k, drawing in enumerate(chosen)]

    def forward(self, views: list[Tensor]) -> Tensor:
        """The loss of two views."""
        x = torch.cat(views)
        z = self.projector(self.encoder.spatial(x) if self.spatial else self.encoder(x))
        z0, z1 = z.chunk(2)
        return F.nt_xent(z0, z1, temperature=self.temperature, backend=self.backend)
