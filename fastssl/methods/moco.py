"""MoCo: a query finds its key among the keys of earlier batches, which a slowly moving encoder made.

He et al., Momentum Contrast for Unsupervised Visual Representation Learning, 2020 (v1: a linear head); Chen et al.,
Improved Baselines with Momentum Contrastive Learning, 2020 (v2: an MLP head, stronger views). Deviations: the
batch's other keys are negatives too, and batch norm is not shuffled among processes.
"""

from __future__ import annotations

from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import HALF, MoCoV2Augment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import EmbeddingQueue, Encoder, TargetNetwork, projection_head


class MoCo(ImageMethod):
    """Views + encoder, head and their target + queue + InfoNCE.

    Args:
        encoder: what is kept.
        augment: makes two views, query and key; None takes v2's settings.
        temperature: of the loss.
        queue: keys that are remembered.
        momentum: of the target network.
        hidden: width of the head; 0: a linear one (v1).
        outputs: dimensions in which views are compared.
        spatial: see :class:`ImageMethod`.
        backend: of the loss.
    """

    family = "instance discrimination"
    paper = "He et al. 2020, Chen et al. 2020"
    predicts = "which key is the query's"
    loss = "InfoNCE with a queue"

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
        """The loss of queries against the keys of the other view and those of the queue, which moves on."""
        key = self.target(view)
        # A copy: the queue moves on before the gradient is computed.
        negatives = self.queue.embeddings.clone()
        loss = F.info_nce(
            query, key, negatives, temperature=self.temperature, replicated_negatives=True, backend=self.backend
        )
        if self.training:
            self.queue.push(key)
        return loss

    def after_step(self, progress: float) -> None:
        self.target.follow(nn.Sequential(self.backbone(), self.projector), progress)
