"""SimCLR: two augmented views of an image attract, all other views of the batch repel.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020. Where an item has two
drawings, each view is made of another one, as in contrastive multiview coding (Tian et al. 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import SimCLRAugment
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
        augment: SimCLRAugment | None = None,
        *,
        temperature: float = 0.1,
        hidden: int = 256,
        outputs: int = 128,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.augment = augment or SimCLRAugment(encoder.size)
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

    def views(self, images: Tensor, seed: int) -> list[Tensor]:
        """uint8 [B, drawings, H, W, 3] to two float views [B, 3, S, S]."""
        generator = torch.Generator().manual_seed(seed)
        first = torch.randint(0, images.shape[1], (len(images),), generator=generator)
        rows = torch.arange(len(images))
        chosen = (images[rows, (first + k) % images.shape[1]] for k in range(2))
        return [self.augment.view(drawing.permute(0, 3, 1, 2), generator) for drawing in chosen]

    def forward(self, views: list[Tensor]) -> Tensor:
        """The loss of two views."""
        x = torch.cat(views)
        z = self.projector(self.encoder.spatial(x) if self.spatial else self.encoder(x))
        z0, z1 = z.chunk(2)
        return F.nt_xent(z0, z1, temperature=self.temperature, backend=self.backend)
