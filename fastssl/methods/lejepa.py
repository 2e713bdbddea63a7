"""LeJEPA: all views predict the mean of the global views, while their embeddings stay an isotropic Gaussian.

Balestriero and LeCun, LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics, 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import Views
from fastssl.methods.image import ImageMethod, multi_crop
from fastssl.models import Encoder, projection_head

GLOBAL = 2  # views of multi-crop


class LeJEPA(ImageMethod):
    """Multi-crop views + encoder + projection head + distance to the global views' mean and SIGReg.

    Args:
        encoder: the network kept after pretraining.
        augment: produces the views, the two global ones first; None: multi-crop at the encoder's image size.
        hidden: width of the projection head.
        outputs: dimensions of the projections.
        lambd: weight of SIGReg, in [0, 1]; the distance has the rest.
        directions: number of random directions, drawn anew in every step.
        spatial: not used: the views have several sizes.
    """

    family = "redundancy reduction"
    paper = "Balestriero and LeCun 2025"
    predicts = "the mean projection of the global views"
    loss = "squared distance, and a test of projections for N(0, 1)"
    local_views = True
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        hidden: int = 512,
        outputs: int = 64,
        lambd: float = 0.05,
        directions: int = 1024,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or multi_crop(encoder.size), spatial=False)
        self.lambd, self.directions = lambd, directions
        self.projector = projection_head(self.features, hidden, outputs, 3, last_norm=False)

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        sizes = [views[:GLOBAL], views[GLOBAL:]]
        features = torch.cat([self.embed(torch.cat(group)) for group in sizes if group])
        return self.projector(features).chunk(len(views))

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        return F.lejepa(
            torch.stack(representations),
            self.directions,
            global_views=min(GLOBAL, len(representations)),
            lambd=self.lambd,
        )
