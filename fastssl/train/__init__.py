"""Pretraining: one loop, optimisers and schedules, checkpoints."""

from fastssl.models.folder import load_checkpoint
from fastssl.train.cached import cached_step
from fastssl.train.callbacks import Callback, Progress
from fastssl.train.checkpoint import load_encoder, load_method, save_checkpoint
from fastssl.train.muon import Muon
from fastssl.train.optim import LARS, build_optimizer, learning_rate_factor
from fastssl.train.options import Pretraining, check_out, is_rank_zero
from fastssl.train.recipe import Recipe, recipe
from fastssl.train.run import pretrain
from fastssl.train.starting import load_language, start_encoder
from fastssl.train.trainer import Trainer

__all__ = [
    "LARS",
    "Callback",
    "Muon",
    "Pretraining",
    "Progress",
    "Recipe",
    "Trainer",
    "build_optimizer",
    "cached_step",
    "check_out",
    "is_rank_zero",
    "learning_rate_factor",
    "load_checkpoint",
    "load_encoder",
    "load_language",
    "load_method",
    "pretrain",
    "recipe",
    "save_checkpoint",
    "start_encoder",
]
