"""AMDIM: global features of one view are contrasted with local features of the other, at two scales.

Bachman, Hjelm and Buchwalter, Learning Representations by Maximizing Mutual Information Across Views, 2019.
Deviations: any encoder with at least two levels of feature maps instead of the paper's network; cosine similarities
over a temperature instead of soft-clipped dot products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import SimCLRAugment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, projection_head
from fastssl.models.pooling import cell_means


class AMDIM(ImageMethod):
    """Views + encoder + heads for global features and for local features of two levels + InfoNCE per positive.

    Args:
        encoder: the network kept after pretraining; its last two levels are feature maps.
        augment: produces two views; None: SimCLR's settings without blur, as in the paper.
        temperature: temperature of the loss.
        hidden: width of the global head.
        outputs: dimensions of global and local embeddings.
        cells: maximum side of the grid of local features of each level.
        spatial: see :class:`ImageMethod`.
        backend: backend of the loss, as for :mod:`fastssl.functional`.

    Raises:
        ValueError: the last two levels of the encoder are no feature maps.
    """

    family = "multiview"
    paper = "Bachman et al. 2019"
    predicts = "which local features belong to the view"
    loss = "InfoNCE of global and local features"
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        temperature: float = 0.1,
        hidden: int = 256,
        outputs: int = 128,
        cells: int = 4,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(encoder, augment or SimCLRAugment(encoder.size, blur=0.0, channels_last=True), spatial=spatial)
        self.temperature, self.cells, self.backend = temperature, cells, backend
        self.whole = projection_head(self.features, hidden, outputs)
        self.places = nn.ModuleList()
        for k in (-2, -1):
            shape = encoder.shape_of(lambda x, k=k: self._maps(x)[k])  # type: ignore[misc]
            if len(shape) != 4:
                raise ValueError(f"encoder: expected feature maps at the last two levels, got {tuple(shape)}")
            conv = nn.Conv2d(shape[1], outputs, 1, bias=False)
            self.places.append(nn.Sequential(conv, nn.BatchNorm2d(outputs, affine=False)))

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for level in self.encoder.levels():
            maps.append(level(maps[-1]))
        return maps[-2:]

    def forward(self, batch: Batch) -> Tensor:
        images = torch.cat(batch.views)
        maps = self._maps(images)
        wholes = self.whole(self.encoder.pool(maps[-1], 4 if self.spatial else None)).chunk(2)
        number = torch.arange(len(batch.views[0]), device=images.device)
        terms = []
        for head, level in zip(self.places, maps):
            places = cell_means(head(level), (min(self.cells, level.shape[-1]),) * 2).flatten(2)
            for whole, other in zip(wholes, places.chunk(2)[::-1]):
                keys = other.transpose(1, 2).flatten(0, 1)
                terms.append(
                    F.multi_nt_xent(
                        whole,
                        number,
                        ref_emb=keys,
                        ref_labels=number.repeat_interleave(other.shape[2]),
                        temperature=self.temperature,
                        backend=self.backend,
                    )
                )
        return torch.stack(terms).mean()
