"""iBOT: DINO whose student does not see all patches of the global views, and predicts the prototypes of those too.

Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, 2022; heads apart, Sinkhorn assignments and KoLeo:
Oquab et al., DINOv2, 2023. Deviations: no class token, an image is the mean of its patches; those of :class:`DINO`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import Views
from fastssl.augment.masks import block_masks
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.distributed import all_rows
from fastssl.methods.image import multi_crop
from fastssl.methods.patches import PatchMethod, feature_pictures
from fastssl.models import Encoder, TargetNetwork
from fastssl.models.heads import IBOTHead


class IBOT(PatchMethod):
    """Multi-crop views, masks + ViT, heads and their target network + cross-entropy of views and of masked patches.

    Args:
        encoder: the network kept after pretraining, a :class:`fastssl.models.ViT`.
        augment: produces the views, the two global ones first; None: multi-crop at the encoder's image size.
        outputs: number of prototypes.
        shared_head: one head for images and patches, as in iBOT; False: two, as in DINOv2.
        centering: "softmax", a running centre, or "sinkhorn", balanced assignments of the batch, as in DINOv2.
        koleo: weight of :func:`fastssl.functional.koleo` of the images' features; 0.1 in DINOv2.
        masked: probability that a global view is masked.
        share: least and largest masking ratio of a masked view.
        momentum: initial momentum of the target network; it rises to 1.
        temperature: temperature of the student.
        teacher_temperature: temperature of the teacher.
        center_momentum: momentum of the centres, the running means of the teacher's logits.
        hidden: width of the heads.
        spatial: not used: the views have several sizes.

    Raises:
        ValueError: the encoder's network is no ViT, another centering, or a probability or ratios out of range.
    """

    family = "self-distillation"
    paper = "Zhou et al. 2022"
    predicts = "the target network's prototypes of the global views and of hidden patches"
    loss = "cross-entropy with a centred softmax"
    local_views = True
    min_rows = 2  # batch norm of rows

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        outputs: int = 1024,
        shared_head: bool = True,
        centering: str = "softmax",
        koleo: float = 0.0,
        masked: float = 0.5,
        share: tuple[float, float] = (0.1, 0.5),
        momentum: float = 0.99,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
        hidden: int = 256,
        spatial: bool = False,
    ) -> None:
        if centering not in ("softmax", "sinkhorn"):
            raise ValueError(f"centering: expected 'softmax' or 'sinkhorn', got {centering!r}")
        if not 0 <= masked <= 1 or not 0 <= share[0] <= share[1] <= 1:
            raise ValueError(f"masked, share: expected a probability and two ratios that rise, got {masked}, {share}")
        super().__init__(encoder, augment or multi_crop(encoder.size), "iBOT")
        self.temperature, self.teacher_temperature, self.koleo = temperature, teacher_temperature, koleo
        self.centering, self.center_momentum, self.masked, self.share = centering, center_momentum, masked, share
        self.token = nn.Parameter(torch.randn(encoder.dim) * 0.02)
        self.heads = IBOTHead(encoder.dim, outputs, hidden, shared=shared_head)
        self.target = TargetNetwork(nn.Sequential(encoder.network, self.heads), momentum)
        self.register_buffer("centers", torch.zeros(2, outputs))  # of images and of patches
        self.centers: Tensor

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The views [B, 3, S, S], and which patches of the two global ones are masked: bool [B, 2, P]."""
        views = super().views(items, seed, epoch, ids)
        rows, columns = (side // self.patch for side in views[0].shape[2:])
        draws = self.uniform(seed, epoch, ids, block=1, count=2 * 17 * 4).reshape(2 * len(ids), 17, 4)
        most = np.rint((self.share[0] + draws[:, 0, 1] * (self.share[1] - self.share[0])) * rows * columns)
        most = np.where(draws[:, 0, 0] < self.masked, most, 0)
        return [*views, torch.from_numpy(block_masks(draws[:, 1:], most, rows, columns).reshape(len(ids), 2, -1))]

    def forward(self, batch: Batch) -> Tensor:
        *views, gone = batch.views
        both, mask = torch.cat(views[:2]), gone.transpose(0, 1).flatten(0, 1)
        features, online = self.encoder.network(both, mask, self.token), self.heads
        student, teacher, fixed = online(features), self.target(both), self.target.network[1]  # type: ignore[index]
        images = [*online.image.logits(student[:, 0]).chunk(2), *(online.image(self.embed(view)) for view in views[2:])]
        wanted = fixed.image.logits(teacher[:, 0])
        loss = self.cross_entropy(torch.stack(images), torch.stack(wanted.chunk(2)), self.centers[0])
        patches = online.patch.logits(student[:, 1:][mask]), fixed.patch.logits(teacher[:, 1:][mask])
        loss = loss + self.cross_entropy(*patches, self.centers[1], mask)
        if self.training and self.centering == "softmax":
            mean = fixed.patch.logits(teacher[:, 1:].mean((0, 1)))  # logits are linear: the mean of all patches' logits
            means = all_rows(torch.stack([wanted.mean(0), mean])[None].float())[0][0]
            self.centers.lerp_(means.mean(0), 1 - self.center_momentum)
        return loss + self.koleo * sum(F.koleo(part) for part in features.mean((2, 3)).chunk(2)) if self.koleo else loss

    def cross_entropy(self, student: Tensor, teacher: Tensor, center: Tensor, mask: Tensor | None = None) -> Tensor:
        """:func:`fastssl.functional.dino` of the teacher's logits, or of their assignments."""
        student, teacher, tau = student.float(), teacher.float(), self.teacher_temperature
        if self.centering == "sinkhorn":  # a softmax of the logarithm is the assignment itself
            assigned = F.sinkhorn(teacher.flatten(0, -2), epsilon=tau).log()
            teacher, tau, center = assigned.view_as(teacher), 1.0, torch.zeros_like(center)
        options = {"student_temperature": self.temperature, "teacher_temperature": tau}
        return F.dino(student, teacher, center, mask=mask, **options)

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        image, gone = batch.views[0], batch.views[-1][:, 0]
        wanted = self.target.network[1].patch.logits(self.target(image)[:, 1:])  # type: ignore[index]
        wanted = (wanted - self.centers[1]) / self.teacher_temperature
        found = self.heads.patch.logits(self.heads(self.encoder.network(image, gone, self.token))[:, 1:])
        return feature_pictures(image, ~gone, wanted.softmax(2), (found / self.temperature).softmax(2), gone)

    def after_step(self, progress: float) -> None:
        self.target.update(nn.Sequential(self.encoder.network, self.heads), progress)
