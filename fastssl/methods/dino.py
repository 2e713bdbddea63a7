"""DINO: all views predict the momentum teacher's output for the two global views.

Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021. Deviations: the teacher's temperature is
constant (the paper warms it up), and the last layer is not frozen in the first epoch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.augment import Views
from fastssl.data.batch import Batch
from fastssl.distributed import all_rows
from fastssl.methods.image import ImageMethod, multi_crop
from fastssl.models import DINOHead, Encoder, TargetNetwork


class DINO(ImageMethod):
    """Multi-crop views + encoder, head and their target network + centring + cross-entropy between views.

    Args:
        encoder: the network kept after pretraining.
        augment: produces the views, the two global ones first; None: multi-crop at the encoder's image size.
        outputs: number of prototypes.
        momentum: initial momentum of the target network; it rises to 1.
        temperature: temperature of the student.
        teacher_temperature: temperature of the teacher.
        center_momentum: momentum of the centre, the running mean of the teacher's logits that prevents collapse.
        hidden: width of the head.
        spatial: not used: the views have several sizes.
    """

    family = "self-distillation"
    paper = "Caron et al. 2021"
    predicts = "the target network's prototypes of the global views"
    loss = "cross-entropy with a centred softmax"
    local_views = True
    min_rows = 2  # batch norm of rows

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        outputs: int = 1024,
        momentum: float = 0.99,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
        hidden: int = 256,
        spatial: bool = False,
    ) -> None:
        super().__init__(encoder, augment or multi_crop(encoder.size), spatial=False)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.center_momentum = center_momentum
        self.head = DINOHead(self.features, outputs, hidden)
        self.target = TargetNetwork(nn.Sequential(self.backbone(), self.head), momentum)
        self.register_buffer("center", torch.zeros(outputs))
        self.center: Tensor

    def forward(self, batch: Batch) -> Tensor:
        teacher = torch.stack(self.target(torch.cat(batch.views[:2])).float().chunk(2))
        student = torch.stack([self.head(self.embed(view)).float() for view in batch.views])
        loss = F.dino(
            student,
            teacher,
            self.center.clone(),
            student_temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
        )
        if self.training:
            (means,), _ = all_rows(teacher.mean(0))
            self.center.lerp_(means.mean(0), 1 - self.center_momentum)
        return loss

    def after_step(self, progress: float) -> None:
        self.target.update(nn.Sequential(self.backbone(), self.head), progress)
