"""lightly: NT-Xent (with and without its memory bank) and decoupled contrastive losses, in one process or several;
VICReg in one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.compat._dtypes import as_called, in_autocast, multiplied, of_one_dtype, shallow
from fastssl.compat._peer import NotFused, Peer, Target, default, lasting, number, plain, require_matrices
from fastssl.compat._sizes import MATRIX

KNOWN = {
    "NTXentLoss": {
        **dict.fromkeys(("temperature", "memory_bank", "gather_distributed", "eps")),
        "cross_entropy": default(lambda: nn.CrossEntropyLoss(reduction="mean")),
    },
    "DCLLoss": dict.fromkeys(("temperature", "weight_fn", "gather_distributed")),
    "DCLWLoss": dict.fromkeys(("temperature", "weight_fn", "gather_distributed")),
    "VICRegLoss": dict.fromkeys(("lambda_param", "mu_param", "nu_param", "gather_distributed", "eps")),
    "MemoryBankModule": dict.fromkeys(("size", "gather_distributed", "feature_dim_first", "bank", "bank_ptr")),
}
PEER = Peer("lightly", "lightly", "1.5.21", "1.7", KNOWN)


def targets() -> list[Target]:
    from lightly.loss.dcl_loss import DCLLoss, DCLWLoss
    from lightly.loss.ntx_ent_loss import NTXentLoss
    from lightly.loss.vicreg_loss import VICRegLoss

    return [
        Target(NTXentLoss, "forward", _nt_xent, _probe),
        *(Target(owner, "forward", _dcl, _probe, min_rows=MATRIX) for owner in (DCLLoss, DCLWLoss)),
        Target(VICRegLoss, "forward", _vicreg, _probe),
    ]


def _probe(original: Callable[..., Tensor], loss: Any, out0: Tensor, out1: Tensor) -> Tensor:
    twin = shallow(loss)
    if "memory_bank" in twin._modules:
        twin._modules["memory_bank"] = shallow(loss.memory_bank)
    return original(twin, out0[:8].detach(), out1[:8].detach())  # without a gradient the bank is not updated


def _check(loss: Any, out0: Tensor, out1: Tensor) -> Tensor | float:
    """Validates the call and returns the temperature."""
    require_matrices(out0, out1)
    if out0.shape != out1.shape or out0.device != out1.device or len(out0) < 2:
        raise NotFused("shapes or devices that differ, or one row")
    temperature = number("temperature", loss.temperature, out0)
    if not plain(temperature) > 0:
        raise NotFused("a negative temperature")
    return temperature


def _gathered(loss: Any) -> bool:
    """Whether rows are gathered from other processes."""
    from lightly.utils import dist

    return bool(loss.gather_distributed) and dist.world_size() > 1


def _nt_xent(loss: Any, out0: Tensor, out1: Tensor) -> Tensor:
    temperature = _check(loss, out0, out1)
    view0, view1 = of_one_dtype(out0, out1)
    bank = loss.memory_bank
    PEER.require_own(bank)
    size = bank.size if isinstance(bank.size, int) else bank.size[0]
    if size == 0:
        out0, out1 = multiplied(*lasting(view0, view1))
        if _gathered(loss):  # the mean over this process's rows
            return F.nt_xent(out0, out1, temperature=temperature, reduction="none", group="world").mean()
        return F.nt_xent(out0, out1, temperature=temperature)
    if not bank.feature_dim_first or bank.gather_distributed or _gathered(loss):
        raise NotFused("a memory bank of another layout, or of several processes")
    if bank.bank.dtype != out0.dtype and not in_autocast():
        raise NotFused("a memory bank of another dtype")
    update = out0.requires_grad and torch.is_grad_enabled()  # as of the normalised rows
    with as_called(out1):  # what the bank keeps is rounded as the original's
        key = torch.nn.functional.normalize(out1, dim=1)
    negatives = bank.forward(key, update=update)[1]
    full = torch.promote_types(view0.dtype, torch.float32)
    query, key = (torch.nn.functional.normalize(t.to(full), dim=1) for t in (view0, view1))
    queue = negatives.T.to(out0.device, full)  # the bank holds columns, and is used as it is
    return F.info_nce(query, key, queue, temperature=temperature, normalize=False, in_batch=False)


def _dcl(loss: Any, out0: Tensor, out1: Tensor) -> Tensor:
    from lightly.loss.dcl_loss import negative_mises_fisher_weights

    temperature = _check(loss, out0, out1)
    sigma: float | None = None
    if loss.weight_fn is not None:
        whole = loss.weight_fn if isinstance(loss.weight_fn, partial) else partial(loss.weight_fn)
        known = whole.func is negative_mises_fisher_weights and PEER.is_own(whole.func)
        if not known or whole.args or set(whole.keywords) - {"sigma"}:
            raise NotFused("weights of the user's own")
        value = number("sigma", whole.keywords.get("sigma", 0.5), out0)
        if isinstance(value, Tensor) or not value > 0:
            raise NotFused("a sigma that is learned, or not above 0")
        sigma = value
    out0, out1 = multiplied(*lasting(*of_one_dtype(out0, out1)))
    if _gathered(loss):
        if sigma is not None:
            raise NotFused("weights of this process's rows alone")
        return F.dcl(out0, out1, temperature=temperature, reduction="none", group="world").mean()
    return F.dcl(out0, out1, temperature=temperature, sigma=sigma)


def _vicreg(loss: Any, z_a: Tensor, z_b: Tensor) -> Tensor:
    require_matrices(z_a, z_b)
    if z_a.shape != z_b.shape or z_a.device != z_b.device or len(z_a) < 2:
        raise NotFused("shapes or devices that differ, or one row")
    z_a, z_b = of_one_dtype(z_a, z_b)
    if _gathered(loss):
        raise NotFused("rows of several processes")
    names = {"lambda_param": "invariance", "mu_param": "variance", "nu_param": "covariance", "eps": "eps"}
    if any(isinstance(v := getattr(loss, name), Tensor) and v.dim() > 0 for name in names):
        raise NotFused("weights that are no numbers")
    options = {ours: number(theirs, getattr(loss, theirs), z_a) for theirs, ours in names.items()}
    if not all(plain(value) >= 0 for value in options.values()):
        raise NotFused("a negative weight or eps")
    return F.vicreg(z_a, z_b, **options)
