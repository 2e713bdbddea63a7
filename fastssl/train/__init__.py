"""Pretraining: one loop, optimisers and schedules, checkpoints."""

from fastssl.train.cached import cached_step
from fastssl.train.checkpoint import load_checkpoint, load_encoder, load_method, save_checkpoint
from fastssl.train.loop import Pretraining, pretrain
from fastssl.train.optim import LARS, build_optimizer, cosine_with_warmup

__all__ = [
    "LARS",
    "Pretraining",
    "build_optimizer",
    "cached_step",
    "cosine_with_warmup",
    "load_checkpoint",
    "load_encoder",
    "load_method",
    "pretrain",
    "save_checkpoint",
]
