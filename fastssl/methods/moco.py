"""MoCo: a query is matched with its key against a queue of keys of earlier batches, made by a momentum encoder.

He et al., Momentum Contrast for Unsupervised Visual Representation Learning, 2020 (v1: a linear head); Chen et al.,
Improved Baselines with Momentum Contrastive Learning, 2020 (v2: an MLP head, stronger augmentation). Deviations: the
batch's other keys are negatives too, and there is no shuffling batch norm.
"""

from __future__ import annotations

from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import HALF, MoCoV2Augment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import EmbeddingQueue, Encoder, TargetNetwork, projection_head


class MoCo(ImageMethod):
    """Views + encoder, head and their momentum encoder + queue + InfoNCE.

    Args:
        encoder: the network kept after pretraining.
        augment: produces two views, query and key; None: the settings of v2.
        temperature: temperature of the loss.
        queue: number of keys in the queue.
        momentum: momentum of the target network.
        hidden: width of the projection head; 0: a linear head (v1).
        outputs: dimensions of the embeddings that the loss compares.
        spatial: see :class:`ImageMethod`.
        backend: backend of the loss, as for :mod:`fastssl.functional`.
    """

    family = "instance discrimination"
    paper = "He et al. 2020, Chen et al. 2020"
    predicts = "which key is the query's"
    loss = "InfoNCE with a queue"
    min_rows = 2  # batch norm of rows

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        temperature: float = 0.2,
        queue: int = 4096,
        momentum: float = 0.99,
        hidden: int = 256,
        outputs: int = 128,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(encoder, augment or MoCoV2Augment(encoder.size, normalize=HALF), spatial=spatial)
        self.temperature, self.backend = temperature, backend
        self.projector = projection_head(self.features, hidden, outputs, 2 if hidden else 1)
        self.target = TargetNetwork(nn.Sequential(self.backbone(), self.projector), momentum, cosine=False)
        self.queue = EmbeddingQueue(queue, outputs)

    def forward(self, batch: Batch) -> Tensor:
        return self.contrast(self.projector(self.embed(batch.views[0])), batch.views[1])

    def contrast(self, query: Tensor, view: Tensor) -> Tensor:
        """The loss of queries against the keys of the other view and the queue; enqueues the keys."""
        key = self.target(view)
        # A copy, because the queue is updated in place before the backward pass.
        negatives = self.queue.embeddings.clone()
        loss = F.info_nce(
            query, key, negatives, temperature=self.temperature, replicated_negatives=True, backend=self.backend
        )
        if self.training:
            self.queue.push(key)
        return loss

    def after_step(self, progress: float) -> None:
        self.target.update(nn.Sequential(self.backbone(), self.projector), progress)
