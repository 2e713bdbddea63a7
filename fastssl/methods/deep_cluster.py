"""DeepCluster: classification of k-means clusters of the features, recomputed before every epoch.

Caron et al., Deep Clustering for Unsupervised Learning of Visual Features, 2018. Features are PCA-whitened, empty
clusters are reassigned, clusters are sampled uniformly, and the classifier is reinitialised with new clusters.
Deviations: no Sobel filter before the network; ``every`` keeps clusters for several epochs, for small data sets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl._options import integer
from fastssl.augment import HALF, MoCoV2Augment, Views
from fastssl.data.batch import Batch
from fastssl.data.source import Source
from fastssl.distributed.parameters import shard_like
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, MemoryBank, kmeans, pca_whiten

_ROWS = 8  # that each component is estimated from, at least


class DeepCluster(ImageMethod):
    """One view + encoder + linear classifier + cross-entropy of its cluster.

    Args:
        encoder: the network kept after pretraining.
        augment: produces one view.
        clusters: number of clusters; about ten times the expected number of classes.
        pca: dimensions that the features are reduced to before clustering, at most one per eight items: whitening
            with as many as items makes all of them equally far apart.
        every: epochs between two clusterings.
        spatial: see :class:`ImageMethod`.
    """

    family = "clustering"
    paper = "Caron et al. 2018"
    predicts = "the cluster of the image's features"
    loss = "cross-entropy of clusters"
    separable = True
    needs_dataset_features = True

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
        clusters, pca, every = (
            integer(name, value, 1) for name, value in (("clusters", clusters), ("pca", pca), ("every", every))
        )
        one = Views([MoCoV2Augment(encoder.size, normalize=HALF).programs[0]])
        super().__init__(encoder, augment or one, spatial=spatial)
        self.clusters, self.pca, self.every = clusters, pca, every
        self.classifier = nn.Linear(self.features, clusters)
        self.assigned = MemoryBank()

    def prepare(self, source: Source) -> Source:
        if len(source) < self.clusters:
            raise ValueError(
                f"clusters: expected at most the {len(source)} items of {source.name}, got {self.clusters} "
                f"(fewer: --set clusters={max(1, len(source) // 2)})"
            )
        return source

    def before_epoch(self, features: Tensor, epoch: int, seed: int) -> None:
        if len(self.assigned) and epoch % self.every:
            return
        components = max(1, min(self.pca, len(features) // _ROWS))
        _, cluster, _ = kmeans(pca_whiten(features, components), self.clusters, seed=seed + epoch)
        self.assigned.fill(cluster)
        generator = torch.Generator().manual_seed(seed + epoch)
        with torch.no_grad():
            drawn = torch.randn(self.classifier.weight.shape, generator=generator) * 0.01
            self.classifier.weight.copy_(shard_like(drawn, self.classifier.weight))
            self.classifier.bias.zero_()

    def sampling_weights(self) -> Tensor | None:
        sizes = torch.bincount(self.assigned.rows, minlength=self.clusters)
        return 1 / sizes[self.assigned.rows].double()

    def forward(self, batch: Batch) -> Tensor:
        cluster = self.assigned.rows[batch.ids]
        return TF.cross_entropy(self.classifier(torch.relu(self.embed(batch.views[0]))).float(), cluster)
