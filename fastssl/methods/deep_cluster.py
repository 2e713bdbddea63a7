"""DeepCluster: images are told apart by the clusters that k-means finds in their features, anew before every epoch.

Caron et al., Deep Clustering for Unsupervised Learning of Visual Features, 2018. Features are PCA-whitened, empty
clusters repaired, clusters seen equally often, and the classifier begins anew with new clusters. Deviations: no Sobel
filter before the network; ``every`` may keep clusters for several epochs where an epoch is a few steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.augment import HALF, MoCoV2Augment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, ItemMemory, kmeans, pca_whiten


class DeepCluster(ImageMethod):
    """One view + encoder + linear classifier + cross-entropy of its cluster.

    Args:
        encoder: what is kept.
        augment: makes one view.
        clusters: of k-means; about ten times the classes that one expects.
        pca: dimensions that are clustered.
        every: epochs between two assignments.
        spatial: see :class:`ImageMethod`.
    """

    family = "clustering"
    paper = "Caron et al. 2018"
    predicts = "the cluster of the image's features"
    loss = "cross-entropy of clusters"
    separable = True
    studies = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        clusters: int = 100,
        pca: int = 256,
        every: int = 1,
        spatial: bool = False,
    ) -> None:
        for name, value in (("clusters", clusters), ("pca", pca), ("every", every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {value!r}")
        one = Views([MoCoV2Augment(encoder.size, normalize=HALF).programs[0]])
        super().__init__(encoder, augment or one, spatial=spatial)
        self.clusters, self.pca, self.every = clusters, pca, every
        self.classifier = nn.Linear(self.features, clusters)
        self.assigned = ItemMemory()

    def study(self, features: Tensor, epoch: int, seed: int) -> None:
        if len(self.assigned) and epoch % self.every:
            return
        if len(features) < self.clusters:
            raise ValueError(f"clusters: expected at most the {len(features)} items, got {self.clusters}")
        _, cluster, _ = kmeans(pca_whiten(features, self.pca), self.clusters, seed=seed + epoch)
        self.assigned.fill(cluster)
        generator = torch.Generator().manual_seed(seed + epoch)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.randn(self.classifier.weight.shape, generator=generator) * 0.01)
            self.classifier.bias.zero_()

    def weights(self) -> Tensor | None:
        sizes = torch.bincount(self.assigned.rows, minlength=self.clusters)
        return 1 / sizes[self.assigned.rows].double()

    def forward(self, batch: Batch) -> Tensor:
        cluster = self.assigned.rows[batch.ids]
        return TF.cross_entropy(self.classifier(torch.relu(self.embed(batch.views[0]))).float(), cluster)
