"""CLIP: images are matched with their texts within the batch, and texts with their images.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021. Deviations: texts are
bytes instead of BPE tokens; equal texts of a batch are not negatives of each other's images.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl.functional as F
from fastssl._options import integer
from fastssl.augment import HALF, Augment, RandomResizedCrop, Views
from fastssl.data.source import Item
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, TextTransformer, tokenize

log = logging.getLogger("fastssl")
HASH_BASE = 6364136223846793005  # odd: powers do not vanish modulo 2^64


def hash_rows(tokens: Tensor) -> Tensor:
    """int64 [B], equal for equal rows of tokens [B, L] on all processes."""
    powers = torch.full_like(tokens[:1], HASH_BASE, dtype=torch.int64).cumprod(1)
    return ((tokens.long() + 1) * powers).sum(1)


class CLIP(ImageMethod):
    """One view and the item's text + two towers + symmetric InfoNCE with a learned logit scale.

    Args:
        encoder: the image tower, kept after pretraining.
        augment: produces one view; None: a random crop of at least 90 % of the area.
        tower: text tower, tokens [B, L] to [B, dim]; None: a small :class:`TextTransformer`.
        length: number of tokens of that tower: the bytes of a text, a start and an end. Longer texts are cut, with a
            warning of the first.
        outputs: dimensions of the joint embedding space.
        scale: initial logit scale; it is learned, up to 100.
        ignore_duplicates: leave pairs of an image with other items' texts out where they equal its own; False:
            they are negatives, as in the paper.
        spatial: see :class:`ImageMethod`.
        backend: backend of the loss, as for :mod:`fastssl.functional`.

    ``encode_images`` and ``encode_texts`` return unit vectors, for :func:`fastssl.evaluate.zero_shot`.
    """

    family = "multimodal"
    paper = "Radford et al. 2021"
    predicts = "which text belongs to the image"
    loss = "symmetric InfoNCE"
    needs = ("images", "text")
    min_rows = 2
    causal = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        tower: TextTransformer | None = None,
        length: int = 64,
        outputs: int = 128,
        scale: float = 1 / 0.07,
        ignore_duplicates: bool = True,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        plain = Views([Augment([RandomResizedCrop(encoder.size, scale=(0.9, 1.0)), HALF])])
        super().__init__(encoder, augment or plain, spatial=spatial)
        self.backend, self.ignore_duplicates = backend, ignore_duplicates
        self.tower = tower or TextTransformer(length=integer("length", length, 3), causal=self.causal)
        self.has_cut = False  # a text
        self.image_head = nn.Linear(self.features, outputs, bias=False)
        self.text_head = nn.Linear(self.tower.dim, outputs, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S] and the tokens of its text [B, L]."""
        texts = [item.text for item in items]
        for item, text in zip(items, texts):
            if text is None:
                raise ValueError(f"items: expected a text with each image, {item.name} has none")
            self._note_cut(item)
        tokens = tokenize([t or "" for t in texts], self.length, truncate=True)
        return [*super().views(items, seed, epoch, ids), tokens]

    @property
    def length(self) -> int:
        """Number of tokens that the text tower takes."""
        return self.tower.length

    def _note_cut(self, item: Item) -> None:
        size = len((item.text or "").encode())
        if size > self.length - 2 and not self.has_cut:
            self.has_cut = True
            sizes = size, self.length - 2, self.length
            log.warning("%s: its text has %d bytes; texts are cut after %d, those of length=%d", item.name, *sizes)

    def encode_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] to unit vectors."""
        return TF.normalize(self.image_head(self.embed(images)), dim=1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] to unit vectors."""
        return TF.normalize(self.text_head(self.tower(tokens)), dim=1)

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        return self.encode_images(views[0]), self.encode_texts(views[1])

    def batch_loss(self, batch: Any, *representations: Tensor) -> Tensor:
        ids = hash_rows(batch.views[1]) if self.ignore_duplicates else None
        return self.objective(*representations, ids=ids)

    def objective(self, *representations: Tensor, labels: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """The loss of the representations of images and texts; texts of equal ``ids`` [B] are equal."""
        image, text = representations
        return F.clip_loss(image, text, self.log_scale.exp(), ids=ids, backend=self.backend)

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(100))
