"""Pretraining: one loop, optimisers and schedules, checkpoints."""

from fastssl.train.cached import cached_step
from fastssl.train.checkpoint import load_checkpoint, load_encoder, load_method, save_checkpoint
from fastssl.train.optim import LARS, build_optimizer, cosine_with_warmup
from fastssl.train.options import Pretraining, check_out, is_first
from fastssl.train.recipe import Recipe, recipe
from fastssl.train.run import pretrain
from fastssl.train.trainer import Trainer
from fastssl.train.watchers import Progress, Watcher

__all__ = [
    "LARS",
    "Pretraining",
    "Progress",
    "Recipe",
    "Trainer",
    "Watcher",
    "build_optimizer",
    "cached_step",
    "check_out",
    "cosine_with_warmup",
    "is_first",
    "load_checkpoint",
    "load_encoder",
    "load_method",
    "pretrain",
    "recipe",
    "save_checkpoint",
]
