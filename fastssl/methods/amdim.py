"""AMDIM: what one view says as a whole is told from what another view says locally, at two scales.

Bachman, Hjelm and Buchwalter, Learning Representations by Maximizing Mutual Information Across Views, 2019.
Deviations: any encoder with at least two levels of maps instead of the paper's network; cosines over a temperature
instead of products with a soft clip.
"""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import SimCLRAugment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, projection_head


class AMDIM(ImageMethod):
    """Views + encoder + heads for the whole and for the places of two levels + InfoNCE, each positive by itself.

    Args:
        encoder: what is kept; its last two levels give maps.
        augment: makes two views; None takes SimCLR's settings without blur, as the paper's.
        temperature: of the loss.
        hidden: width of the head of the whole.
        outputs: dimensions in which whole and places are compared.
        cells: places a side, at most, of each level.
        spatial: see :class:`ImageMethod`.
        backend: of the loss.

    Raises:
        ValueError: an encoder whose last levels give no maps.
    """

    family = "multiview"
    paper = "Bachman et al. 2019"
    predicts = "which places belong to the view"
    loss = "InfoNCE of whole and places"
    least_rows = 2

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
                raise ValueError(f"encoder: expected maps at the last two levels, got {tuple(shape)}")
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
            places = TF.adaptive_avg_pool2d(head(level), min(self.cells, level.shape[-1])).flatten(2)
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
