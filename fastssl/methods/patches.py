"""Base class of methods that predict features of hidden patches, which are shown as colours."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fastssl.augment import Views
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder
from fastssl.models.vit import vit_of


class PatchMethod(ImageMethod):
    """Base class of methods of a ViT that predict a target network's features of hidden patches.

    Args:
        encoder: the network kept after pretraining, a :class:`fastssl.models.ViT`.
        augment: produces the views.
        method: its name in errors.

    Raises:
        ValueError: the encoder's network is no ViT.
    """

    encoder_name: ClassVar[str] = "vit"

    def __init__(self, encoder: Encoder, augment: Views, method: str) -> None:
        patch = vit_of(encoder.network, method).patch
        super().__init__(encoder, augment)
        self.patch, self.side = patch, encoder.size // patch


def feature_pictures(
    image: Tensor, seen: Tensor, wanted: Tensor, predicted: Tensor, hidden: Tensor
) -> dict[str, Tensor]:
    """Pictures of what a method sees and predicts: features are colours, alike where the features are.

    The colours are the three principal components of the wanted features, from minus to plus two standard deviations.

    Args:
        image: [B, C, S, S].
        seen: bool [B, P], the patches that the method is given.
        wanted: features of all patches [B, P, D].
        predicted: features [B, P, D], of which those of the hidden patches are predicted.
        hidden: bool [B, P].

    Returns:
        "seen", "wanted", "predicted" (grey where nothing is) and "image".

    Example:
        >>> import torch
        >>> from fastssl.methods.patches import feature_pictures
        >>> features, hidden = torch.randn(2, 16, 8), torch.arange(32).view(2, 16) % 2 == 0
        >>> pictures = feature_pictures(torch.zeros(2, 3, 8, 8), ~hidden, features, features, hidden)
        >>> bool((pictures["wanted"] == pictures["predicted"])[:, :, :2, :2].all())
        True
    """
    side = round(hidden.shape[1] ** 0.5)
    rows = wanted.flatten(0, 1).double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    axes = vectors[:, -3:] / (2 * values[-3:].clamp(min=1e-12).sqrt())
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # a sign that does not depend on LAPACK

    def whole(patches: Tensor) -> Tensor:
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        return grid.repeat_interleave(image.shape[2] // side, 2).repeat_interleave(image.shape[3] // side, 3)

    def colors(features: Tensor) -> Tensor:
        return whole(((features.double() - mean) @ axes).clamp(-1, 1).float())

    return {
        "seen": image.masked_fill(~whole(seen[..., None]), 0.0),
        "wanted": colors(wanted),
        "predicted": colors(predicted).masked_fill(~whole(hidden[..., None]), 0.0),
        "image": image,
    }
