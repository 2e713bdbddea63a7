"""Zero-shot classification with image-text models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.data import open as open_source
from fastssl.evaluate.features import plain_images
from fastssl.models.modes import evaluation_mode

PHOTOS = ("{}", "a photo of a {}")
PROMPTS = ("{}", "a drawing of {}", "an emoji of {}", "a small picture of {}")


@torch.no_grad()
def class_embeddings(method: Any, classes: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Tensor:
    """Unit text embeddings of classes, averaged over prompts (Radford et al. 2021).

    Args:
        method: a method with ``encode_texts``, ``tokens`` and ``log_scale``, such as :class:`fastssl.methods.CLIP`; it
            may be on any device.
        classes: names of the classes, put into the prompts as they are, since the text tower tells "Cat" from "cat".
        prompts: templates with one ``{}`` each.

    Raises:
        ValueError: a prompt without ``{}``, or no classes.
    """
    if not classes or not prompts or any("{}" not in p for p in prompts):
        raise ValueError(f"classes, prompts: expected names, and texts with '{{}}', got {classes!r} and {prompts!r}")
    device = method.log_scale.device
    total = torch.zeros((), device=device)
    with evaluation_mode(method):
        for prompt in prompts:
            tokens = method.tokens([prompt.replace("{}", c) for c in classes], classes)
            total = total + method.encode_texts(tokens.to(device)).float()
    return torch.nn.functional.normalize(total, dim=1)


@torch.no_grad()
def zero_shot(
    method: Any,
    data: Any,
    labels: Tensor,
    classes: Sequence[str],
    prompts: Sequence[str] | None = None,
    batch: int = 512,
) -> float:
    """Zero-shot accuracy in percent: the predicted class is that of the text embedding nearest to the image embedding.

    Args:
        method: as for :func:`class_embeddings`, also with ``encode_images`` and ``encoder``.
        data: anything that :func:`fastssl.data.open` takes.
        labels: [N].
        classes: names of the classes, as for :func:`class_embeddings`.
        prompts: as for :func:`class_embeddings`; None: of drawings for the embedded emoji, of photos for other data.
        batch: batch size.
    """
    source = open_source(data)
    chosen = prompts if prompts is not None else PROMPTS if source.embedded == "emoji" else PHOTOS
    texts, parts = class_embeddings(method, classes, chosen), []
    with evaluation_mode(method):
        for x in plain_images(source, method.encoder.size, batch, method.encoder.channels):
            images = method.encode_images(x.to(texts.device)).float()
            _, nearest = F.nearest(images, texts, 1, metric="dot")
            parts.append(nearest[:, 0].cpu())
    return 100 * float((torch.cat(parts) == labels.cpu()).float().mean())
