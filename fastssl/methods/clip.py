"""CLIP: images are matched with their texts within the batch, and texts with their images.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021. Deviations: texts are
bytes, but for pretrained towers; items of a batch with equal texts, and captions of one image, are no negatives.
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
from fastssl.augment import HALF, Augment, RandomResizedCrop, Views
from fastssl.data.source import Item, Source
from fastssl.methods.base import with_texts
from fastssl.methods.duplicates import duplicate_ids
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder
from fastssl.models.text_towers import joint_heads, text_tower, tower_tokens

log = logging.getLogger("fastssl")


class CLIP(ImageMethod):
    """One view and the item's text + two towers + symmetric InfoNCE with a learned logit scale.

    Args:
        encoder: the image tower, kept after pretraining.
        augment: produces one view; None: a random crop of at least 90 % of the area.
        tower: text tower, tokens [B, L] to [B, dim]; None: a small :class:`TextTransformer`, or that of ``text``.
        text: "huggingface:NAME", a model of transformers with its weights as text tower (:class:`HuggingFaceText`), of
            a model of images and texts with its projection, and where the encoder has the same name with all between
            its towers and its logits: such a model is trained further.
        length: number of tokens of the text tower: the bytes of a text, a start and an end; None: 64, or what the model
            ``text`` takes. Longer texts are cut, with a warning of the first.
        outputs: dimensions of the joint embedding space; None: 128, or those of the model ``text``.
        scale: initial logit scale; it is learned, up to 100.
        ignore_duplicates: leave out pairs of items with equal texts, with the same image (which the data lists again),
            or that a chain of such pairs in the batch connects; False: they are negatives, as in the paper.
        locked: the image tower is not trained, and its batch norms keep their statistics (LiT: Zhai et al. 2022).
        spatial: see :class:`ImageMethod`.
        backend: backend of the loss, as for :mod:`fastssl.functional`.
    """

    family = "multimodal"
    paper = "Radford et al. 2021"
    predicts = "which text belongs to the image"
    loss = "symmetric InfoNCE"
    needs = ("images", "text")
    _ddp_params_and_buffers_to_ignore = ("image_ids",)  # not broadcast: the same in all processes
    min_rows = 2
    causal = True

    def __init__(
        self,
        encoder: Encoder,
        augment: Views | None = None,
        *,
        tower: Any = None,
        text: str | None = None,
        length: int | None = None,
        outputs: int | None = None,
        scale: float = 1 / 0.07,
        ignore_duplicates: bool = True,
        locked: bool = False,
        spatial: bool = False,
        backend: str | None = None,
    ) -> None:
        plain = Views([Augment([RandomResizedCrop(encoder.size, scale=(0.9, 1.0)), HALF])])
        super().__init__(encoder, augment or plain, spatial=spatial)
        self.backend, self.ignore_duplicates, self.locked, self.has_cut = backend, ignore_duplicates, locked, False
        if locked:
            encoder.requires_grad_(False).eval()
        self.text, self.tower = text, text_tower(tower, text, length, self.causal)
        self.length = int(self.tower.length)
        self.image_head, self.text_head, self.known = joint_heads(encoder, self.features, self.tower, outputs)
        self.log_scale = nn.Parameter(self.known.get("log_scale", torch.tensor(math.log(scale))))
        self.register_buffer("image_ids", None, persistent=False)  # of all items, where images are listed again

    def prepare(self, source: Source) -> Source:
        """The source, whose ids of images the loss reads, and whose texts are checked when they are read."""
        self.image_ids = None if (ids := source.image_ids) is None else torch.from_numpy(ids).to(self.log_scale.device)
        return with_texts(source, type(self).__name__)

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The view [B, 3, S, S] and the tokens of its text [B, L]."""
        texts, names = [item.text for item in items], [item.name for item in items]
        if None in texts:
            raise ValueError(f"items: expected a text with each image, {names[texts.index(None)]} has none")
        return [*super().views(items, seed, epoch, ids), self.tokens(texts, names)]  # type: ignore[arg-type]

    def tokens(self, texts: Sequence[str], names: Sequence[str | None]) -> Tensor:
        """Tokens [B, L] of the texts of the items ``names``; longer texts are cut, with a warning of the first."""
        tokens, cut = tower_tokens(self.tower, texts)
        if cut is not None and not self.has_cut:
            self.has_cut = True
            log.warning("%s: its text has %s", names[cut[0]], cut[1])
        return tokens

    def encode_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] to unit vectors."""
        return TF.normalize(self.image_head(self.embed(images)), dim=1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] to unit vectors."""
        return TF.normalize(self.text_head(self.tower(tokens)), dim=1)

    def represent(self, *views: Tensor) -> tuple[Tensor, ...]:
        return self.encode_images(views[0]), self.encode_texts(views[1])

    def batch_loss(self, batch: Any, *representations: Tensor) -> Tensor:
        images = None if self.image_ids is None else self.image_ids[batch.ids]
        ids = duplicate_ids(batch.views[1], images) if self.ignore_duplicates else None
        return self.objective(*representations, ids=ids)

    def objective(self, *representations: Tensor, labels: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """The loss of the representations of images and texts; pairs of equal ``ids`` [B] are no negatives."""
        image, text = representations
        return F.clip_loss(image, text, self.log_scale.exp(), ids=ids, backend=self.backend)

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(100))
