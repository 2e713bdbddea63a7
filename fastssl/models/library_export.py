"""Models of images and texts of transformers that were trained further, as folders of transformers again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.models import transformers_export
from fastssl.models.libraries import HuggingFaceBackbone, quiet_loading
from fastssl.models.text_towers import PREFIX, HuggingFaceText

_HEADS = {"image_head": "visual_projection", "text_head": "text_projection"}
_TEXTS = ["A photo of a cat.", "größer 图"]


def is_of_library(method: Any) -> bool:
    """Whether both towers of an image-text method, and its projections, are those of one model of transformers."""
    tower, options = method.tower, method.encoder.options or {}
    if not isinstance(tower, HuggingFaceText) or options.get("name") != tower.name:
        return False
    kinds = {nn.Identity if tower.projections.get(side) is None else nn.Linear for side in ("image", "text")}
    shapes = [
        isinstance(weight, Tensor) and weight.shape != getattr(method, f"{side}_head").weight.shape
        for side, weight in tower.projections.items()
        if side in ("image", "text")
    ]
    return {type(method.image_head), type(method.text_head)} == kinds and not any(shapes)


def save_of_library(method: Any, path: Path) -> None:
    """Writes the model with its tokenizer and processor."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    place = method.tower.name[len(PREFIX) :]
    with quiet_loading():
        whole: Any = AutoModel.from_config(AutoConfig.from_pretrained(place))
    images = method.encoder.network.model
    whole.vision_model.load_state_dict(getattr(images, "vision_model", images).state_dict())
    whole.text_model.load_state_dict(method.tower.model.state_dict())
    for head, name in _HEADS.items():
        if isinstance(getattr(method, head), nn.Linear):
            getattr(whole, name).load_state_dict(getattr(method, head).state_dict())
    for name, value in (("logit_scale", method.log_scale), ("logit_bias", getattr(method, "bias", None))):
        if value is not None and isinstance(getattr(whole, name, None), Tensor):
            getattr(whole, name).copy_(value)
    path.mkdir(parents=True)
    whole.save_pretrained(path)
    tokenizer: Any = AutoTokenizer.from_pretrained(place)  # with its own settings of padding and truncation
    tokenizer.save_pretrained(path)
    network = method.encoder.network
    assert isinstance(network, HuggingFaceBackbone)
    about = {"image_mean": list(network.mean), "image_std": list(network.std)} if method.encoder.channels == 3 else {}
    transformers_export.write_processor(method.encoder, path, **about)


def compare_of_library(method: Any, images: Tensor, path: Path) -> None:
    """Loads the model back and compares its embeddings.

    Raises:
        RuntimeError: they differ.
    """
    from transformers import AutoTokenizer

    model: Any = transformers_export.load(path)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    tokens = tokenizer(_TEXTS, padding="max_length", truncation=True, max_length=method.length, return_tensors="pt")
    made = model(**tokens, pixel_values=method.encoder.network.normalized(images))
    check_embeddings(method, images, method.tokens(_TEXTS, _TEXTS), made.image_embeds, made.text_embeds)


def check_embeddings(method: Any, images: Tensor, tokens: Tensor, of_images: Tensor, of_texts: Tensor) -> None:
    """Compares the embeddings of an exported model with those of the method.

    Raises:
        RuntimeError: they differ.
    """
    for name, ours, theirs in (
        ("images", method.encode_images(images), of_images),
        ("texts", method.encode_texts(tokens), of_texts),
    ):
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5):
            worst = float((ours - theirs).abs().max())
            raise RuntimeError(f"the exported model gives other embeddings of {name}, by up to {worst:.1g}")
