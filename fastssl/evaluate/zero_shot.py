"""Classes from their names alone, with models of two towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.data import open as open_source
from fastssl.evaluate.features import plain_images
from fastssl.models import tokenize

PROMPTS = ("{}", "a drawing of {}", "an emoji of {}", "a small picture of {}")


@torch.no_grad()
def class_embeddings(method: Any, classes: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Tensor:
    """A unit vector for every class: the mean over prompts of its texts' (Radford et al. 2021).

    Args:
        method: with ``encode_texts`` and ``tower``, as :class:`fastssl.methods.CLIP`.
        classes: names.
        prompts: texts with one ``{}`` each.

    Raises:
        ValueError: a prompt without ``{}``, or no class.
    """
    if not classes or not prompts or any("{}" not in p for p in prompts):
        raise ValueError(f"classes, prompts: expected names, and texts with '{{}}', got {classes!r} and {prompts!r}")
    training = method.training
    method.eval()
    total = torch.zeros(())
    for prompt in prompts:
        tokens = tokenize([prompt.format(c.lower()) for c in classes], method.tower.length)
        total = total + method.encode_texts(tokens).float()
    method.train(training)
    return torch.nn.functional.normalize(total, dim=1)


@torch.no_grad()
def zero_shot(
    method: Any,
    data: Any,
    labels: Tensor,
    classes: Sequence[str],
    prompts: Sequence[str] = PROMPTS,
    batch: int = 512,
) -> float:
    """Accuracy, in percent, of the class whose name's embedding is nearest to the image's.

    Args:
        method: see :func:`class_embeddings`; also with ``encode_images`` and ``encoder``.
        data: what :func:`fastssl.data.open` takes.
        labels: [N].
        classes: the names of the labels.
        prompts: see :func:`class_embeddings`.
        batch: images at once.
    """
    texts, training, parts = class_embeddings(method, classes, prompts), method.training, []
    method.eval()
    for x in plain_images(open_source(data), method.encoder.size, batch):
        _, nearest = F.nearest(method.encode_images(x).float(), texts, 1, metric="dot")
        parts.append(nearest[:, 0])
    method.train(training)
    return 100 * float((torch.cat(parts) == labels).float().mean())
