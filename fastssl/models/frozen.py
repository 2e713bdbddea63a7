"""Training mode, in which frozen parts of a network stay in evaluation mode; parameters that can be trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from fastssl.models.encoders import Encoder
from fastssl.models.memory import TargetNetwork

SHORT = (torch.float16, torch.bfloat16)


def training_mode(module: nn.Module, wrapper: nn.Module | None = None) -> None:
    """Puts a module into training mode, except for what was put into evaluation mode within it.

    These stay in evaluation mode, with all that is in them: parts of a network in training mode, such as a batch norm
    whose statistics are frozen; and a whole network none of whose parameters is trained, such as a teacher. Another
    whole network is in evaluation mode because it was loaded, and is put into training mode; and so is all of
    ``module`` if it is in evaluation mode itself.

    Args:
        module: a method or a model, whose children are whole networks.
        wrapper: the module that a library has wrapped it in.
    """
    kept = list(_kept(module, inside=False, averaged=False)) if module.training else []
    (module if wrapper is None else wrapper).train()
    for part in kept:
        part.training = False


def _kept(module: nn.Module, inside: bool, averaged: bool) -> Iterator[nn.Module]:
    """The parts that stay: ``inside`` a network, whose parameters are ``averaged`` from those of another."""
    averaged = averaged or isinstance(module, TargetNetwork)
    for part in module.children():
        whole = not inside or isinstance(part, Encoder)
        if part.training:
            containers = (nn.ModuleList, nn.ModuleDict)
            yield from _kept(part, inside or not isinstance(part, containers), averaged)
        elif not whole or not (averaged or any(p.requires_grad for p in part.parameters())):
            yield from part.modules()


def check_trainable(module: nn.Module) -> None:
    """
    Raises:
        ValueError: parameters of 16 bits that are to be trained.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.dtype in SHORT:
            raise ValueError(
                f"method: expected parameters of float32, got {str(parameter.dtype)[6:]} in {name}; train with "
                "module.float() and Pretraining(precision='bf16-mixed'), which computes in 16 bits (--precision)"
            )
