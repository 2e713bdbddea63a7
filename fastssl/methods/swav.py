"""SwAV: the cluster that one view is assigned to is predicted from the other view.

Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, 2020. Deviation: two
views unless another policy is given; the small views of a multi-crop policy predict and are not assigned, as in the
paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import SimCLRAugment, Views
from fastssl.methods.base import Method
from fastssl.models import Encoder, Prototypes, projection_head


class SwAV(Method):
    """Views + encoder + projector + prototypes + Sinkhorn assignments + cross-entropy, swapped.

    Args:
        encoder: what is kept.
        augment: makes the views, of which the first two are assigned; None takes SimCLR's settings, as the paper.
        prototypes: clusters.
        temperature: of the predictions.
        epsilon: of the assignments: smaller ones are harder.
        hidden: width of the projector.
        outputs: dimensions of a projection.
        spatial: see :class:`Method`.
    """

    family = "clustering"
    paper = "Caron et al. 2020"
    predicts = "the cluster of the other view"
    loss = "cross-entropy of assignments"

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        prototypes: int = 128,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        hidden: int = 256,
        outputs: int = 128,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or SimCLRAugment(encoder.size, channels_last=True), spatial=spatial)
        self.temperature, self.epsilon = temperature, epsilon
        self.projector = projection_head(self.features, hidden, outputs, last_norm=False)
        self.prototypes = Prototypes(outputs, prototypes)

    def forward(self, views: list[Tensor], labels: Tensor | None = None) -> Tensor:
        scores = [self.prototypes(self.projector(self.embed(view))) for view in views]
        with torch.no_grad():
            assigned = [F.sinkhorn(s.detach().float(), epsilon=self.epsilon) for s in scores[:2]]
        terms = [
            -(target * TF.log_softmax(s.float() / self.temperature, 1)).sum(1).mean()
            for k, target in enumerate(assigned)
            for v, s in enumerate(scores)
            if v != k
        ]
        return torch.stack(terms).mean()
