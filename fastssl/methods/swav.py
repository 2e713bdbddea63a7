"""SwAV: the cluster assignment (code) of one view is predicted from the other view.

Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, 2020. Deviation: two views by
default; the small views of a multi-crop policy predict but are not assigned, as in the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import SimCLRAugment, Views
from fastssl.data.batch import Batch
from fastssl.distributed import all_rows, unsharded
from fastssl.methods.image import ImageMethod
from fastssl.models import EmbeddingQueue, Encoder, Prototypes, projection_head


class SwAV(ImageMethod):
    """Views + encoder + projector + prototypes + Sinkhorn assignments + swapped cross-entropy.

    Args:
        encoder: the network kept after pretraining.
        augment: produces the views, of which the first two are assigned; None: SimCLR's settings, as in the paper.
        prototypes: clusters.
        temperature: of the predictions.
        epsilon: of the assignments: smaller ones are harder.
        hidden: width of the projector.
        outputs: dimensions of the projections.
        queue: number of earlier projections that are assigned with the batch, for batches smaller than the number of
            prototypes; 0: no queue.
        spatial: see :class:`ImageMethod`.
    """

    family = "clustering"
    paper = "Caron et al. 2020"
    predicts = "the cluster of the other view"
    loss = "cross-entropy of assignments"
    local_views = True
    min_rows = 2

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
        queue: int = 0,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or SimCLRAugment(encoder.size, channels_last=True), spatial=spatial)
        self.temperature, self.epsilon = temperature, epsilon
        self.projector = projection_head(self.features, hidden, outputs, last_norm=False)
        self.prototypes = Prototypes(outputs, prototypes)
        self.queues = nn.ModuleList(EmbeddingQueue(queue, outputs, begin="empty") for _ in range(2 if queue else 0))

    def forward(self, batch: Batch) -> Tensor:
        z = [self.projector(self.embed(view)) for view in batch.views]
        scores = [self.prototypes(rows) for rows in z]
        assigned = [self.assign(k, z[k].detach(), scores[k].detach().float()) for k in range(2)]
        terms = [
            -(target * TF.log_softmax(s.float() / self.temperature, 1)).sum(1).mean()
            for k, target in enumerate(assigned)
            for v, s in enumerate(scores)
            if v != k
        ]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def assign(self, k: int, z: Tensor, scores: Tensor) -> Tensor:
        """Assignments of a view, computed jointly with its queue once that is full."""
        if not self.queues:
            return F.sinkhorn(scores, epsilon=self.epsilon)
        queue: EmbeddingQueue = self.queues[k]  # type: ignore[assignment]
        before = self.prototypes(queue.filled()[0]).float() if len(queue) == len(queue.embeddings) else scores[:0]
        if self.training:
            queue.push(z)
        (batch,), first = all_rows(scores)
        with unsharded():  # every process has the whole queue
            assigned = F.sinkhorn(torch.cat([batch, before]), epsilon=self.epsilon)
        return assigned[first : first + len(scores)]
