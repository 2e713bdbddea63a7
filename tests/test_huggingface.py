"""Vision backbones of Hugging Face, where the extra is installed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from fastssl.data import ArraySource
from fastssl.methods import SimCLR
from fastssl.models import huggingface


def test_backbones_are_encoders() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = huggingface(transformers.ViTConfig(image_size=16, patch_size=8, **sizes), 16)
    assert vit.dim == 16 and vit.spatial(torch.zeros(2, 3, 16, 16)).shape == (2, 16)
    resnet = huggingface(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]), 32)
    assert resnet.dim == 16
    images = ArraySource(torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8))
    model = SimCLR(resnet)
    assert torch.isfinite(model(model.examples(images.items(range(6)), 0)))


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="the extra is installed")
def test_without_the_extra_the_error_names_it() -> None:
    with pytest.raises(ImportError, match=r"fastssl\[vision\]"):
        huggingface("google/vit-base-patch16-224", 224)
