"""InterCLR: MoCo with another image of the same cluster as a second positive.

Xie et al., Delving into Inter-Image Invariance for Unsupervised Visual Representations, 2020. A memory bank holds the
embedding and cluster of every item, both updated in every step; negatives are drawn from the nearest items of other
clusters (semi-hard), and a margin on the positive's cosine, negative by default, loosens the decision boundary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import Views
from fastssl.data.batch import Batch
from fastssl.distributed import all_rows
from fastssl.methods.moco import MoCo
from fastssl.models import Encoder, MemoryBank, kmeans


class InterCLR(MoCo):
    """MoCo's networks, queue and loss + memory bank of items and clusters + margin softmax between images.

    Args:
        encoder, augment: as for :class:`MoCo`.
        clusters: number of clusters of the memory bank.
        pool: fraction of the memory bank, the nearest items, from which negatives are drawn.
        negatives: negatives per query.
        margin: margin subtracted from the positive's cosine.
        lambd: weight of MoCo's loss; the inter-image loss has weight 1 - lambd.
        momentum_memory: momentum of the embeddings in the memory bank.
        options: further arguments of :class:`MoCo`.
    """

    family = "clustering"
    paper = "Xie et al. 2020"
    predicts = "its key, and another image of its cluster"
    loss = "InfoNCE and a margin softmax"
    min_rows = 2
    needs_dataset_features = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        clusters: int = 100,
        pool: float = 0.1,
        negatives: int = 256,
        margin: float = -0.5,
        lambd: float = 0.75,
        momentum_memory: float = 0.5,
        temperature: float = 0.2,
        spatial: bool = False,
        backend: str | None = None,
        **options: int,
    ) -> None:
        if not 0 < pool <= 1 or not 0 <= lambd <= 1:
            raise ValueError(f"pool, lambd: expected fractions, got {pool} and {lambd}")
        super().__init__(encoder, augment, temperature=temperature, spatial=spatial, backend=backend, **options)
        self.pool, self.count, self.margin, self.lambd = pool, negatives, margin, lambd
        self.clusters, self.momentum_memory = clusters, momentum_memory
        self.memory, self.cluster, self.centres = MemoryBank(), MemoryBank(), MemoryBank()

    def dataset_features(self, batch: Batch) -> Tensor:
        return TF.normalize(self.projector(self.embed(batch.views[0])).float(), dim=1)

    def before_epoch(self, features: Tensor, epoch: int, seed: int) -> None:
        if not len(self.memory):
            self.memory.fill(features)
        clusters = min(self.clusters, len(features))
        centres, cluster, _ = kmeans(self.memory.rows, clusters, seed=seed + epoch, iterations=10)
        self.centres.fill(centres)
        self.cluster.fill(cluster)

    def forward(self, batch: Batch) -> Tensor:
        query, ids = self.projector(self.embed(batch.views[0])), batch.ids
        assert ids is not None  # set by ``examples``
        intra = self.contrast(query, batch.views[1])
        unit = TF.normalize(query.float(), dim=1)
        inter = self.inter_image_loss(unit, ids)
        if self.training:
            with torch.no_grad():
                (unit, ids), _ = all_rows(unit, ids)
                renewed = self.memory.rows[ids].lerp(unit, 1 - self.momentum_memory)
                self.memory.rows[ids] = TF.normalize(renewed, dim=1)
                _, cluster = F.nearest(self.memory.rows[ids], self.centres.rows, 1, metric="sqeuclidean")
                self.cluster.rows[ids] = cluster[:, 0]
        return self.lambd * intra + (1 - self.lambd) * inter

    def inter_image_loss(self, unit: Tensor, ids: Tensor) -> Tensor:
        """The inter-image loss of unit queries [B, D] of items ``ids``."""
        memory, cluster = self.memory.rows, self.cluster.rows
        own = cluster[ids]
        # A random other item of the same cluster; an item alone in its cluster is its own positive.
        score = torch.rand(len(ids), len(memory), device=unit.device).masked_fill(own[:, None] != cluster, -2.0)
        score[torch.arange(len(ids), device=unit.device), ids] = -1.0
        positive = (unit * memory[score.argmax(1)]).sum(1) - self.margin
        pool = max(1, round(self.pool * len(memory)))
        _, near = F.nearest(unit.detach(), memory, pool, metric="dot", backend=self.backend)
        drawn = near[:, torch.randperm(pool, device=unit.device)[: self.count]]
        scores = torch.einsum("bd,bkd->bk", unit, memory[drawn])
        scores = scores.masked_fill(cluster[drawn] == own[:, None], -torch.inf)
        logits = torch.cat([positive[:, None], scores], 1) / self.temperature
        return TF.cross_entropy(logits, torch.zeros_like(ids))
