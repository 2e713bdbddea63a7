"""Encoders, heads, and what methods carry from step to step."""

from fastssl.models.encoders import Encoder, build_encoder, huggingface
from fastssl.models.heads import DINOHead, prediction_head, projection_head
from fastssl.models.memory import EmbeddingQueue, Prototypes, TargetNetwork
from fastssl.models.resnet import SmallResNet

__all__ = [
    "DINOHead",
    "EmbeddingQueue",
    "Encoder",
    "Prototypes",
    "SmallResNet",
    "TargetNetwork",
    "build_encoder",
    "huggingface",
    "prediction_head",
    "projection_head",
]
