"""CMC: lightness and colour of an image are two views of it, and so are several images of the same item.

Tian, Krishnan and Isola, Contrastive Multiview Coding, 2020. One half of the network sees L, the other ab; all pairs
of views are contrasted (the paper's full graph). Deviation: negatives come from the batch, not from a memory bank.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import HALF, MAEAugment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, LabNetwork, projection_head
from fastssl.models.lab import lab_of


class CMC(ImageMethod):
    """Views + two half networks + a head for each + symmetric InfoNCE of all pairs of views.

    Args:
        encoder: the network kept after pretraining, a :class:`fastssl.models.LabNetwork` whose features are those of
            both halves.
        augment: produces the views in [-1, 1]: one (L against ab), or several (all pairs).
        temperature: temperature of the loss.
        hidden: width of the heads.
        outputs: dimensions of the embeddings that the loss compares.
        spatial: see :class:`ImageMethod`.
        backend: backend of the loss, as for :mod:`fastssl.functional`.

    Raises:
        ValueError: the encoder's network is no :class:`fastssl.models.LabNetwork`.
    """

    family = "multiview"
    paper = "Tian et al. 2020"
    predicts = "which colours belong to which lightness"
    loss = "InfoNCE of every two views"
    min_rows = 2
    encoder_name = "lab:resnet"

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        temperature: float = 0.1,
        hidden: int = 256,
        outputs: int = 128,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        network = lab_of(encoder.network, "CMC")
        super().__init__(encoder, augment or MAEAugment(encoder.size, normalize=HALF), spatial=spatial)
        self.temperature, self.backend = temperature, backend
        # The halves are the encoder's own networks, each with the readouts of an encoder.
        self.halves = [Encoder(half, encoder.size) for half in (network.lightness, network.color)]
        half = int(self.halves[0].shape_of(self._vectors(self.halves[0]))[1])
        self.heads = nn.ModuleList(projection_head(half, hidden, outputs) for _ in range(2))

    def _vectors(self, half: Encoder) -> Callable[[Tensor], Tensor]:
        return half.spatial if self.spatial else half

    def forward(self, batch: Batch) -> Tensor:
        network = self.encoder.network
        assert isinstance(network, LabNetwork)
        inputs = network.split(torch.cat(batch.views))
        embedded = []
        for half, head, x in zip(self.halves, self.heads, inputs):
            embedded += list(head(self._vectors(half)(x)).chunk(len(batch.views)))
        terms = [
            F.info_nce(a, b, temperature=self.temperature, symmetric=True, backend=self.backend)
            for a, b in itertools.combinations(embedded, 2)
        ]
        return torch.stack(terms).mean()
