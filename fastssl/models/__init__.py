"""Encoders and heads."""

from fastssl.models.encoders import Encoder, build_encoder, huggingface
from fastssl.models.heads import projection_head
from fastssl.models.resnet import SmallResNet

__all__ = ["Encoder", "SmallResNet", "build_encoder", "huggingface", "projection_head"]
