"""Base class of image methods: an image encoder, and views as examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastssl.augment import HALF, Augment, DINOAugment, Views, as_views
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.data.views import CenterCropExamples, labels_of, planned_views_of, reduction_of, views_of
from fastssl.methods.base import Method
from fastssl.models import Backbone, Encoder
from fastssl.models.modes import evaluation_mode
from fastssl.models.samples import Samples


def multi_crop(size: int, **options: Any) -> DINOAugment:
    """DINO's views for an encoder's size: two global ones of that size, and two local ones of half of it."""
    return DINOAugment(size, max(size // 2, 8), 2, normalize=HALF, **options)


class ImageMethod(Method):
    """Base class of image methods: examples are augmented views.

    Args:
        encoder: the network kept after pretraining.
        augment: produces the views.
        spatial: feed the 4 x 4 feature map to the heads instead of its mean, so that features retain positions.
    """

    needs: ClassVar[tuple[str, ...]] = ("images",)
    unit: ClassVar[str] = "images"
    encoder_name: ClassVar[str] = "resnet"  # default encoder of the command line
    channels: ClassVar[int] = 3  # default of the command line
    needs_colors: ClassVar[bool] = False  # requires RGB images
    replaceable_views: ClassVar[bool] = True  # by others (``replace_views``)
    local_views: ClassVar[bool] = False  # takes further views, of any size, behind two of the encoder's

    def __new__(cls, encoder: Any = None, *_: Any, **__: Any) -> Any:
        # In __new__, because methods read the encoder's size before they call super().__init__().
        if encoder is not None and not isinstance(encoder, Encoder):
            raise TypeError(
                f"encoder: expected a fastssl.models.Encoder, got {type(encoder).__name__}: wrap a module as "
                "Encoder(module, size=224), or pass it to fastssl.pretrain"
            )
        return super().__new__(cls)

    def __init__(self, encoder: Encoder, augment: Views, *, spatial: bool = False) -> None:
        super().__init__()
        if self.needs_colors and encoder.channels != 3:
            raise ValueError(
                f"encoder: {type(self).__name__} learns from colours: expected 3 channels, got {encoder.channels}"
            )
        self.encoder, self.augment, self.spatial = encoder, augment.with_channels(encoder.channels), spatial
        if spatial and isinstance(encoder.network, Backbone):
            self.has_unused_parameters = True  # layers of the backbone behind the feature map get no gradient

    def replace_views(self, augment: Any) -> None:
        """Takes the operations of other views, with the normalisation and dtype of the method's own: evaluation and
        exports make images of these.

        Args:
            augment: whatever :func:`fastssl.augment.as_views` takes: as many views as the method's own, of their sizes,
                or one that stands for all. Methods with multi-crop take any number behind two global ones of the
                encoder's size.

        Raises:
            ValueError: another number of views, other sizes, or a method that makes its views by its own rules.
        """
        name, own = type(self).__name__, self.augment.programs
        if not self.replaceable_views:
            raise ValueError(f"augment: {name} makes its views by rules of its own, and takes no others")
        views = as_views(augment, self.encoder.size)
        given = views.programs
        if type(views).forward is not Views.forward:
            raise ValueError(f"augment: expected programs alone, got {type(views).__name__} with a forward of its own")
        wanted = [program.size for program in own[: 2 if self.local_views else None]]
        if len(given) == 1:
            given = given * len(wanted)
        sizes = [program.size for program in given]
        if (sizes[:2] if self.local_views else sizes) != wanted:
            more = " and further ones of any" if self.local_views else ""
            raise ValueError(f"augment: {name} takes views of {wanted} pixels{more}, got {sizes}")
        made: list[Augment] = []
        for k, program in enumerate(given):
            like = own[min(k, len(own) - 1)]
            steps = [*program.operations, *like.steps[len(like.operations) :]]
            made.append(Augment(steps, dtype=like.dtype, channels_last=like.channels_last, channels=like.channels))
        self.augment = Views(made)

    @property
    def features(self) -> int:
        """Number of features that the heads take."""
        return int(self.encoder.shape_of(self.encoder.spatial)[1]) if self.spatial else self.encoder.dim

    def backbone(self) -> nn.Module:
        """The module from images to [B, features], which a target network can copy."""
        return _Spatial(self.encoder) if self.spatial else self.encoder

    def embed(self, images: Tensor) -> Tensor:
        """Images to [B, features]."""
        return self.encoder.spatial(images) if self.spatial else self.encoder(images)

    def examples(self, items: Sequence[Item], seed: int, epoch: int = 0, ids: np.ndarray | None = None) -> Batch:
        ids = np.arange(len(items)) if ids is None else np.asarray(ids, dtype=np.int64)
        return Batch(self.views(items, seed, epoch, ids), labels_of(items), torch.from_numpy(ids))

    def planned_examples(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> Batch:
        """The same with views that are made later, where a method takes the views of its augmentation alone."""
        if type(self).views is not ImageMethod.views or type(self).examples is not ImageMethod.examples:
            return self.examples(items, seed, epoch, ids)
        views: Any = planned_views_of(self.augment, items, seed, epoch, ids)
        return Batch(views, labels_of(items), torch.from_numpy(ids))

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The views, cropped from full-resolution images, and further inputs of the method, a tensor [B, ...] each."""
        return views_of(self.augment, items, seed, epoch, ids)

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        return reduction_of(self.augment, size, seed, epoch, index)

    def inputs(self, batch: Batch) -> list[Tensor]:
        return batch.views

    @torch.no_grad()
    def sample_features(self, batch: Batch) -> Tensor:
        with evaluation_mode(self.encoder):
            view = batch.views[0][:128]
            features: Tensor = self.encoder(view if view.dim() == 4 else view[:, 0])
        return features

    def samples(self, images: Tensor) -> Samples:
        """Images [N, channels, size, size] in [-1, 1] as samples, for methods that generate."""
        pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return Samples("images", pixels.permute(0, 2, 3, 1).cpu().numpy())

    def plain_examples(self) -> CenterCropExamples:
        return CenterCropExamples(self.encoder.size, self.encoder.channels)

    def dataset_features(self, batch: Batch) -> Tensor:
        return self.embed(batch.views[0])


class _Spatial(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.spatial(images)
