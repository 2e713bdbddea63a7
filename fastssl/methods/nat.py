"""NAT: features are matched with noise, vectors drawn once that are assigned to the items one to one.

Bojanowski and Joulin, Unsupervised Learning by Predicting Noise, 2017. The vectors are uniform on the unit sphere, so
that features cannot collapse, and each batch exchanges its vectors among its items so that they fit best (the Hungarian
algorithm). Deviations: an MLP follows the encoder; assignments are renewed in every step instead of every third epoch,
among at most 256 items, so that the time per item does not depend on the batch.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import SimCLRAugment, Views, uniform
from fastssl.data.batch import Batch
from fastssl.distributed import all_rows
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, MemoryBank, projection_head

GROUP = 256  # items that exchange their vectors: the assignment takes a time of its cube


class NAT(ImageMethod):
    """One view + encoder and head + squared distance to the item's vector of noise, assigned anew in every step.

    Args:
        encoder: the network kept after pretraining.
        augment: produces one view; None: SimCLR's at the encoder's image size.
        hidden: width of the head.
        outputs: dimensions of the noise.
        spatial: see :class:`ImageMethod`.
    """

    family = "clustering"
    paper = "Bojanowski and Joulin 2017"
    predicts = "a random vector of its own"
    loss = "squared distance"
    min_rows = 2  # batch norm of rows

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        hidden: int = 256,
        outputs: int = 128,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or SimCLRAugment(encoder.size, channels_last=True, views=1), spatial=spatial)
        self.outputs = outputs
        self.projector = projection_head(self.features, hidden, outputs)
        self.assigned = MemoryBank()  # the number of each item's vector
        self.register_buffer("key", torch.randint(2**31, ()))  # of the vectors, which are drawn where they are needed
        self.key: Tensor

    def noise(self, numbers: Tensor) -> Tensor:
        """The unit vectors [B, outputs] of these numbers."""
        drawn = uniform(int(self.key), 0, numbers.cpu().numpy(), count=self.outputs)
        return TF.normalize(torch.special.ndtri(torch.from_numpy(drawn)), dim=1).float().to(numbers.device)

    def numbers(self, ids: Tensor) -> Tensor:
        """The numbers of the items' vectors; an item that was not met before has its own."""
        known, most = len(self.assigned), int(ids.max()) + 1
        if most > known:
            every = torch.arange(most, device=ids.device)
            every[:known] = self.assigned.rows
            self.assigned.rows = every
        return self.assigned.rows[ids]

    @torch.no_grad()
    def exchange(self, unit: Tensor, ids: Tensor) -> None:
        """Assigns the vectors of items ``ids`` to them anew, so that the sum of cosines with ``unit`` is largest."""
        from scipy.optimize import linear_sum_assignment

        (unit, ids), _ = all_rows(unit, ids)
        once = np.sort(np.unique(ids.cpu().numpy(), return_index=True)[1])  # an item that is there twice has one vector
        for part in np.split(once, range(GROUP, len(once), GROUP)):
            rows = torch.from_numpy(part).to(ids.device)
            numbers = self.numbers(ids[rows])
            with torch.autocast(unit.device.type, enabled=False):
                cosines = (unit[rows] @ self.noise(numbers).T).cpu().numpy()
            if not np.isfinite(cosines).all():
                return  # neither is the loss, which ends the run with the items that it is of
            _, best = linear_sum_assignment(cosines, maximize=True)
            self.assigned.rows[ids[rows]] = numbers[torch.from_numpy(best).to(ids.device)]

    def forward(self, batch: Batch) -> Tensor:
        projected, ids = self.projector(self.embed(batch.views[0])).float(), batch.ids
        assert ids is not None  # set by ``examples``
        if self.training:
            self.exchange(TF.normalize(projected, dim=1), ids)
        # |z - y|^2 of unit vectors is 2 - 2 cos
        return 2 + 2 * F.negative_cosine_similarity(projected, self.noise(self.numbers(ids)))
