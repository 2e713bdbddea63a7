"""Retrieval of texts by images, and of images by texts, with image-text models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Source
from fastssl.data import open as open_source
from fastssl.data.captions import CaptionError
from fastssl.data.source import empty_texts
from fastssl.evaluate.features import batch_rows, plain_images
from fastssl.evaluate.retrieval import retrieval_scores
from fastssl.models.modes import evaluation_mode

K = (1, 5, 10)  # of papers


@torch.no_grad()
def image_text_retrieval(
    method: Any, data: Any, k: Sequence[int] = K, batch: int | None = None
) -> dict[str, dict[str, float]]:
    r"""Recall@K of images and their texts by cosine, in percent, as on COCO and Flickr30k (Radford et al. 2021).

    .. math::
        R_{i \to t}@K &= \frac{100}{N} \sum_i \Big[\min_{j : g_j = i} r_{ij} \le K\Big] \\
        R_{t \to i}@K &= \frac{100}{M} \sum_j \big[r_{j g_j} \le K\big]

    N images, M texts, text j is of image :math:`g_j`, and r is the rank of a text among all texts, or of an image among
    all images; equal cosines rank by index. An image with several texts is found by each of them, and finds any of
    them. With fewer than K texts or images, all are among the first K. Memory is O((N + M) D), without the matrix of
    cosines.

    Args:
        method: a method with ``encode_images``, ``encode_texts``, ``tokens`` and ``encoder``, such as
            :class:`fastssl.methods.CLIP`.
        data: anything that :func:`fastssl.data.open` takes, a text with each image; several rows may list one image
            (:attr:`fastssl.data.Source.image_ids`).
        k: several K.
        batch: batch size; None: that of :func:`fastssl.evaluate.features.batch_rows`.

    Returns:
        "image to text, recall@K" and "text to image, recall@K" -> "pretrained", the recall of the method, and "chance",
        that of a random order.

    Raises:
        CaptionError: an item without a text, or with an empty one.
        ValueError: K below 1.

    Example:
        >>> from fastssl.data import emoji
        >>> from fastssl.evaluate import image_text_retrieval
        >>> from fastssl.methods import CLIP
        >>> from fastssl.models import build_encoder
        >>> method = CLIP(build_encoder({"name": "resnet", "size": 32, "width": 4}))
        >>> scores = image_text_retrieval(method, emoji().subset(range(20)), k=(1, 20))
        >>> scores["text to image, recall@20"]
        {'pretrained': 100.0, 'chance': 100.0}
    """
    if not len(k) or min(k) < 1:
        raise ValueError(f"k: expected integers of at least 1, got {list(k)}")
    source, batch = open_source(data), batch or batch_rows(method.encoder)
    ids = source.image_ids  # compares all paths
    first, of = np.unique(np.arange(len(source)) if ids is None else ids, return_inverse=True)
    with evaluation_mode(method):
        texts = _encoded_texts(method, source, batch)  # a text that is missing is an error before images are read
        images = _encoded_images(method, source if ids is None else source.subset(first), batch)
    owners, own = torch.from_numpy(of).to(texts.device), torch.arange(len(images), device=texts.device)
    counts = np.bincount(of)
    table = {}
    for name, sides, chances in (
        ("image to text", (texts, owners, images, own), [_chance(counts, len(texts), each) for each in k]),
        ("text to image", (images, own, texts, owners), [_chance(np.ones(1), len(images), each) for each in k]),
    ):
        kept = [min(each, len(sides[0])) for each in k]
        scores = retrieval_scores(*sides, k=kept)
        for each, place, chance in zip(k, kept, chances):
            table[f"{name}, recall@{each}"] = {"pretrained": scores[f"recall_at_{place}"], "chance": chance}
    return table


def _encoded_texts(method: Any, source: Source, batch: int) -> Tensor:
    device, parts = method.log_scale.device, []
    for start in range(0, len(source), batch):
        rows = range(start, min(start + batch, len(source)))
        names, texts = [source.name_of(k) for k in rows], [source.text_of(k) for k in rows]
        missing = empty_texts(texts, len(rows))
        if len(missing):
            read = getattr(source, "columns", None)
            hint = "" if read is None else f" ({read}); a column of captions of another name: #text=NAME"
            raise CaptionError(
                f"data: expected a text (caption) of every image, {names[missing[0]]} of {source.name} has none{hint}"
            )
        parts.append(method.encode_texts(method.tokens(texts, names).to(device)).float())
    return torch.cat(parts)


def _encoded_images(method: Any, source: Source, batch: int) -> Tensor:
    encoder, device = method.encoder, method.log_scale.device
    views = plain_images(source, encoder.size, batch, encoder.channels)
    return torch.cat([method.encode_images(x.to(device)).float() for x in views])


def _chance(counts: np.ndarray, size: int, k: int) -> float:
    """Recall@K of random orders of ``size`` rows, of which ``counts[i]`` are right for query i."""
    missed = np.ones(len(counts))
    for place in range(min(k, size)):
        missed *= np.maximum(size - counts - place, 0) / (size - place)
    return float(100 * (1 - missed).mean())
