"""CPC: the context of the patch rows above predicts the codes of the rows below, against those of all other patches.

van den Oord, Li and Vinyals, Representation Learning with Contrastive Predictive Coding, 2018. A grid of 7 x 7
patches with 50 % overlap is encoded patch by patch; a masked convolution aggregates the rows above into a context, and
linear maps predict the codes some rows below. The patch side is a quarter of the image's, as in the paper (64 of 256
pixels). Deviations: a smaller context network, and all patches of the batch as negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import HALF, CPCAugment, Views
from fastssl.data.batch import Batch
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder


class _RowsAbove(nn.Module):
    """A residual block whose output at a row depends on that row and those above it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(dim, dim, (2, 3), padding=(1, 1))
        self.mix = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        above = self.expand(x)[:, :, : x.shape[2]]  # without the bottom padding: the convolution is causal
        return x + self.mix(torch.relu(above))


class CPC(ImageMethod):
    """Patches + encoder + context of the rows above + linear predictions + InfoNCE.

    Args:
        encoder: the network kept after pretraining; its input are patches.
        augment: produces one view of four times the patch side; None: twice the encoder's image size.
        temperature: temperature of the loss, on unit vectors.
        dim: dimensions of codes and context.
        steps: first and last offset of the predicted rows.
        layers: layers of the context network.
        spatial: not used: patches are smaller than images.
        backend: backend of the loss, as for :mod:`fastssl.functional`.
    """

    family = "predictive coding"
    paper = "van den Oord et al. 2018"
    predicts = "the codes of patches some rows below"
    loss = "InfoNCE"
    min_rows = 2

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        temperature: float = 0.1,
        dim: int = 128,
        steps: tuple[int, int] = (2, 5),
        layers: int = 3,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        if not 1 <= steps[0] <= steps[1] <= 6:
            raise ValueError(f"steps: expected 1 <= first <= last <= 6 of 7 rows, got {steps}")
        super().__init__(encoder, augment or CPCAugment(2 * encoder.size, normalize=HALF), spatial=False)
        self.temperature, self.backend = temperature, backend
        self.patch = self.augment.programs[0].size[0] // 4
        self.code = nn.Linear(self.features, dim)
        self.context = nn.Sequential(*[_RowsAbove(dim) for _ in range(layers)])
        self.predict = nn.ModuleDict({str(k): nn.Conv2d(dim, dim, 1) for k in range(steps[0], steps[1] + 1)})

    def codes(self, view: Tensor) -> Tensor:
        """[B, 3, 4 P, 4 P] to the codes of its patches [B, dim, 7, 7]."""
        patches = CPCAugment.patches(view, self.patch, self.patch // 2)
        batch, rows, columns = patches.shape[:3]
        codes = self.code(self.embed(patches.flatten(0, 2)))
        return codes.reshape(batch, rows, columns, -1).permute(0, 3, 1, 2)

    def predictions(self, codes: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """For every step k: predicted codes and the true ones, [N, dim] each, in the same order."""
        context = self.context(codes)
        pairs = {}
        for name, layer in self.predict.items():
            k = int(name)
            predicted = layer(context[:, :, : context.shape[2] - k])
            pairs[k] = tuple(t.permute(0, 2, 3, 1).flatten(0, 2) for t in (predicted, codes[:, :, k:]))
        return pairs  # type: ignore[return-value]

    def forward(self, batch: Batch) -> Tensor:
        terms = [
            F.info_nce(predicted, true, temperature=self.temperature, backend=self.backend)
            for predicted, true in self.predictions(self.codes(batch.views[0])).values()
        ]
        return torch.stack(terms).mean()

    def pretext_metrics(self, batch: Batch) -> dict[str, float]:
        """Accuracy of retrieving the code of the nearest predicted row among all codes of the batch."""
        predicted, true = next(iter(self.predictions(self.codes(batch.views[0])).values()))
        _, nearest = F.nearest(predicted.float(), true.float(), 1, metric="cosine")
        right = (nearest[:, 0] == torch.arange(len(true), device=true.device)).float().mean()
        return {"accuracy": 100 * float(right), "chance": 100 / len(true)}
