"""I-JEPA: from a block of an image's patches, features of other blocks are predicted, not their pixels.

Assran et al., Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture, 2023. The loss is
smooth L1, as in the authors' code (the paper writes squares). Deviations: no class token; sizes of blocks are drawn for
each image, not for each batch, and the context of a batch is padded, not cut, to one number of patches; the context
encoder is kept, where the authors evaluate the target encoder; its momentum rises along a cosine; a small predictor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.augment import HALF, Augment, RandomResizedCrop, Views
from fastssl.augment.masks import context_and_targets
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.methods.patches import PatchMethod, feature_pictures
from fastssl.models import Encoder, TargetNetwork
from fastssl.models.vit import Block, packed, sine_positions


class IJEPA(PatchMethod):
    """One view's context block + ViT + predictor + smooth L1 distance to the target network's features of other blocks.

    Args:
        encoder: the network kept after pretraining, a :class:`fastssl.models.ViT`.
        augment: produces one view; None: crops of at least 0.3 of the image, nothing else.
        blocks: number of target blocks.
        target_scale: least and largest area of a target block, as a fraction of the image.
        target_aspect: least and largest aspect ratio of a target block.
        context_scale: least and largest area of the context block, of which the target blocks are taken out.
        momentum: initial momentum of the target network; it rises to 1.
        predictor_dim: token dimensions of the predictor.
        predictor_depth: blocks of the predictor.
        spatial: not used: the predictor takes tokens.

    Raises:
        ValueError: the encoder's network is no ViT, or target blocks that may cover the whole image.
    """

    family = "self-distillation"
    paper = "Assran et al. 2023"
    predicts = "the target network's features of hidden blocks"
    loss = "smooth L1 distance"
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        blocks: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        momentum: float = 0.996,
        predictor_dim: int = 64,
        predictor_depth: int = 3,
        spatial: bool = False,
    ) -> None:
        plain = Views([Augment([RandomResizedCrop(encoder.size, scale=(0.3, 1.0)), HALF])])
        super().__init__(encoder, augment or plain, "I-JEPA")
        self.blocks = blocks
        self.target_scale, self.target_aspect, self.context_scale = target_scale, target_aspect, context_scale
        area = target_scale[1] * self.side**2
        tallest = np.floor((area * target_aspect[1]) ** 0.5 + 0.5)
        if not 0 < blocks * max(1, area + tallest / 2) < self.side**2:  # the width is rounded, too
            raise ValueError(
                f"blocks: expected fewer or smaller ones, or an encoder of smaller patches: {blocks} of up to "
                f"{target_scale[1]} of the image may cover all of its {self.side**2} patches"
            )
        self.enter, self.leave = nn.Linear(encoder.dim, predictor_dim), nn.Linear(predictor_dim, encoder.dim)
        self.token = nn.Parameter(torch.randn(predictor_dim) * 0.02)
        self.register_buffer("positions", sine_positions(self.side, self.side, predictor_dim), persistent=False)
        self.positions: Tensor
        self.predictor = nn.ModuleList(Block(predictor_dim, 4) for _ in range(predictor_depth))
        self.norm = nn.LayerNorm(predictor_dim)
        self.target = TargetNetwork(encoder.network, momentum)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S], the patches of its context, bool [B, P], and of its target blocks, bool [B, T, P]."""
        (view,) = super().views(items, seed, epoch, ids)
        draws = self.uniform(seed, epoch, ids, block=1, count=5 + 2 * self.blocks)
        scales = self.target_scale, self.target_aspect, self.context_scale
        context, targets = context_and_targets(draws, self.side, *scales)
        return [view, torch.from_numpy(context).flatten(1), torch.from_numpy(targets).flatten(2)]

    def predict(self, image: Tensor, context: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        """Features of the patches ``places`` [B, T, K] of each target block, [B, T, K, dim]: of those that ``keep``."""
        seen, known = packed(context)
        x = self.encoder.network.visible(image, seen, known)  # type: ignore[operator]
        x = (self.enter(x) + self.positions[seen])[:, None].expand(-1, places.shape[1], -1, -1)
        x = torch.cat([x, self.token + self.positions[places]], 2).flatten(0, 1)
        attended = torch.cat([known[:, None].expand(-1, places.shape[1], -1), keep], 2).flatten(0, 1)
        for block in self.predictor:
            x = block(x, attended)
        return self.leave(self.norm(x[:, seen.shape[1] :])).unflatten(0, places.shape[:2])

    def wanted(self, image: Tensor) -> Tensor:
        """Features of all patches by the target network, normalised: [B, P, dim]."""
        features = self.target(image).flatten(2).transpose(1, 2).float()
        return TF.layer_norm(features, features.shape[2:])

    def forward(self, batch: Batch) -> Tensor:
        image, context, targets = batch.views
        places, keep = packed(targets)
        features = self.wanted(image)
        wanted = features.gather(1, places.flatten(1)[..., None].expand(-1, -1, features.shape[2]))
        predicted = self.predict(image, context, places, keep).float()
        distance = TF.smooth_l1_loss(predicted, wanted.reshape(predicted.shape), reduction="none").mean(3)
        return ((distance * keep).sum((1, 2)) / keep.sum((1, 2))).mean()

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """The patches of all target blocks are predicted at once, in training those of one."""
        image, context, hidden = batch.views[0], batch.views[1], batch.views[2].any(1)
        places = torch.arange(hidden.shape[1]).to(image.device).expand(hidden.shape)
        predicted = self.predict(image, context, places[:, None], hidden[:, None])[:, 0]
        return feature_pictures(image, context, self.wanted(image), predicted, hidden)

    def after_step(self, progress: float) -> None:
        self.target.update(self.encoder.network, progress)
