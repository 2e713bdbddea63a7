"""lightly: NT-Xent (with and without its memory bank), decoupled contrastive losses, VICReg and LeJEPA's SIGReg, in one
process or several; KoLeo, MACL and the hypersphere loss in one."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.compat._dtypes import as_called, in_autocast, multiplied, of_one_dtype, shallow
from fastssl.compat._peer import (
    NotFused,
    Peer,
    Target,
    default,
    kind_of,
    lasting,
    number,
    plain,
    require_alone,
    require_matrices,
)
from fastssl.compat._sizes import MATRIX, require_differences
from fastssl.functional.gaussian import epps_pulley
from fastssl.ops.characteristic import characteristic
from fastssl.ops.draws import drawing_apart

_NT_XENT = {
    **dict.fromkeys(("temperature", "memory_bank", "gather_distributed", "eps")),
    "cross_entropy": default(lambda: nn.CrossEntropyLoss(reduction="mean")),
}
KNOWN = {
    "NTXentLoss": _NT_XENT,
    "DirectCLRLoss": {**_NT_XENT, "loss_dim": None},
    "DCLLoss": dict.fromkeys(("temperature", "weight_fn", "gather_distributed")),
    "DCLWLoss": dict.fromkeys(("temperature", "weight_fn", "gather_distributed")),
    "VICRegLoss": dict.fromkeys(("lambda_param", "mu_param", "nu_param", "gather_distributed", "eps")),
    "KoLeoLoss": dict.fromkeys(("p", "eps", "pairwise_distance")),
    "HypersphereLoss": dict.fromkeys(("t", "lam", "alpha")),
    "MACLLoss": dict.fromkeys(("temperature", "alpha", "A_0", "eps")),
    "SIGReg": dict.fromkeys(("num_vectors", "gather_distributed", "t", "phi", "weights")),
    "MemoryBankModule": dict.fromkeys(("size", "gather_distributed", "feature_dim_first", "bank", "bank_ptr")),
}
PEER = Peer("lightly", "lightly", "1.5.21", "1.7", KNOWN)


# Of the points of a SIGReg, as they were when looked at: 0 for others than the library's.
_steps: weakref.WeakKeyDictionary[Any, tuple[Any, float]] = weakref.WeakKeyDictionary()


def targets() -> list[Target]:
    from lightly.loss.dcl_loss import DCLLoss, DCLWLoss
    from lightly.loss.hypersphere_loss import HypersphereLoss
    from lightly.loss.koleo_loss import KoLeoLoss
    from lightly.loss.macl_loss import MACLLoss
    from lightly.loss.ntx_ent_loss import NTXentLoss
    from lightly.loss.vicreg_loss import VICRegLoss

    found = [
        Target(NTXentLoss, "forward", _nt_xent, _probe, ("DirectCLRLoss",)),
        *(Target(owner, "forward", _dcl, _probe, min_rows=MATRIX) for owner in (DCLLoss, DCLWLoss)),
        Target(VICRegLoss, "forward", _vicreg, _probe),
        Target(KoLeoLoss, "forward", _koleo, _probe_koleo, min_rows=MATRIX),
        Target(MACLLoss, "forward", _macl, _probe, min_rows=MATRIX),
        Target(HypersphereLoss, "forward", _hypersphere, _probe, min_rows=MATRIX, few=require_differences),
    ]
    with contextlib.suppress(ImportError):  # older versions have none
        from lightly.loss.lejepa_loss import SIGReg

        found.append(Target(SIGReg, "forward", _sigreg, _probe_sigreg))
    return found


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


def _macl(loss: Any, z0: Tensor, z1: Tensor) -> Tensor:
    """NT-Xent at a temperature that follows the positives, each row weighted by 1 / (1 - its softmax)."""
    require_alone()
    _check(loss, z0, z1)
    if any(isinstance(getattr(loss, name), Tensor) for name in ("temperature", "alpha", "A_0", "eps")):
        raise NotFused("settings that are tensors")
    views = lasting(*of_one_dtype(z0, z1))
    full = torch.promote_types(views[0].dtype, torch.float32)
    with torch.no_grad():
        x, y = (z.to(full) for z in views)
        alignment = torch.nn.functional.cosine_similarity(x, y, eps=0.0).mean()
        temperature = loss.temperature * (1 + loss.alpha * (alignment - loss.A_0))
    values = F.nt_xent(*multiplied(*views), temperature=temperature, reduction="none")
    return (values / (loss.eps - torch.expm1(-values.detach()))).mean()


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
        total = F.dcl(out0, out1, temperature=temperature, reduction="none", group="world").mean()
        if sigma is None:
            return total
        # Weights of the positives among this process's rows alone: negatives are those of all.
        full = torch.promote_types(out0.dtype, torch.float32)
        x, y = (torch.nn.functional.normalize(t.to(full), dim=1) for t in (out0, out1))
        weights, cosines = negative_mises_fisher_weights(x, y, sigma), (x * y).sum(1)
        return total + ((1 - weights) * cosines / temperature).mean()
    return F.dcl(out0, out1, temperature=temperature, sigma=sigma)


def _probe_sigreg(original: Callable[..., Tensor], loss: Any, proj: Tensor) -> Tensor:
    with drawing_apart():  # of directions
        return original(loss, proj[..., :8, :].detach())


def _sigreg(loss: Any, proj: Tensor) -> Tensor:
    """With the directions and the projections of the original, drawn and made by its own code."""
    if not isinstance(proj, Tensor) or proj.dim() < 2 or proj.numel() == 0:
        raise NotFused("no rows")
    require_matrices(proj.flatten(0, -2))
    require_alone()
    if proj.dtype == torch.float64:
        raise NotFused("float64, for which the original's points are rounded to float32")
    if torch.compiler.is_compiling():
        raise NotFused("torch.compile, whose kernels store no terms either")
    step = _step_of(loss)
    with as_called(proj):
        vectors = loss._generate_unit_vectors(proj.device, proj.dtype, proj.size(-1))
        projections = loss._project_embeddings_to_unit_vector(proj, vectors).float()
    n = proj.size(-2)
    sums = characteristic(projections.reshape(-1, n, projections.size(-1)), step, len(loss.t))
    if _gathered(loss):
        from torch.distributed.nn import all_reduce

        count = torch.tensor(float(n), device=proj.device)
        torch.distributed.all_reduce(count)
        n = int(count)
        sums = all_reduce(sums)
    return epps_pulley(sums, n, step).float()


def _step_of(loss: Any) -> float:
    """The distance of the points at which the characteristic function is compared. They are looked at once, since a GPU
    would be waited for."""
    grid = (loss.t, loss.phi, loss.weights)
    known = tuple((id(part), part._version) for part in grid)
    if loss not in _steps or _steps[loss][0] != known:
        own = kind_of(loss)(knots=len(loss.t), t_max=float(loss.t[-1]), num_vectors=1)
        same = all(torch.equal(a, b.float().cpu()) for a, b in zip((own.t, own.phi, own.weights), grid))
        _steps[loss] = known, float(loss.t[1]) if same else 0.0
    if not _steps[loss][1]:
        raise NotFused("points or weights of the user's own")
    return _steps[loss][1]


def _vicreg(loss: Any, z_a: Tensor, z_b: Tensor) -> Tensor:
    require_matrices(z_a, z_b)
    if z_a.shape != z_b.shape or z_a.device != z_b.device or len(z_a) < 2:
        raise NotFused("shapes or devices that differ, or one row")
    z_a, z_b = of_one_dtype(z_a, z_b)
    names = {"lambda_param": "invariance", "mu_param": "variance", "nu_param": "covariance", "eps": "eps"}
    if any(isinstance(v := getattr(loss, name), Tensor) and v.dim() > 0 for name in names):
        raise NotFused("weights that are no numbers")
    options = {ours: number(theirs, getattr(loss, theirs), z_a) for theirs, ours in names.items()}
    if not all(plain(value) >= 0 for value in options.values()):
        raise NotFused("a negative weight or eps")
    if not _gathered(loss):
        return F.vicreg(z_a, z_b, **options)
    from lightly.utils import dist

    # Variances and covariances of all rows, and the distance of this process's own views.
    full = torch.promote_types(z_a.dtype, torch.float32)
    own = options["invariance"] * torch.nn.functional.mse_loss(z_a.to(full), z_b.to(full))
    every_a, every_b = (torch.cat(dist.gather(z)) for z in (z_a, z_b))
    options["invariance"] = 0.0
    return own + F.vicreg(every_a, every_b, **options)


def _probe_koleo(original: Callable[..., Tensor], loss: Any, x: Tensor) -> Tensor:
    return original(loss, x[:8].detach())


def _koleo(loss: Any, x: Tensor) -> Tensor:
    """The original's distances to the nearest rows, which are found without the [N, N] matrix."""
    require_matrices(x)
    require_alone()
    if len(x) < 2:
        raise NotFused("one row")
    if not plain(number("eps", loss.eps, x)) >= 0:
        raise NotFused("a negative eps")
    rows = torch.nn.functional.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1, eps=loss.eps)
    _, near = F.nearest(rows.detach(), None, 1, metric="dot", exclude_self=True)
    return -(loss.pairwise_distance(rows, rows[near[:, 0]]) + loss.eps).log().mean()


def _hypersphere(loss: Any, z_a: Tensor, z_b: Tensor) -> Tensor:
    require_matrices(z_a, z_b)
    require_alone()
    if z_a.shape != z_b.shape or z_a.device != z_b.device or len(z_a) < 2:
        raise NotFused("shapes or devices that differ, or one row")
    if any(isinstance(v := getattr(loss, name), Tensor) and v.dim() > 0 for name in ("lam", "alpha")):
        raise NotFused("weights that are no numbers")
    t = number("t", loss.t, z_a)
    views = lasting(*of_one_dtype(z_a, z_b))
    spread = sum(F.uniformity(z, t=t) for z in views)
    full = torch.promote_types(views[0].dtype, torch.float32)
    x, y = (torch.nn.functional.normalize(z.to(full)) for z in views)
    return (x - y).norm(dim=1).pow(loss.alpha).mean() + loss.lam * spread / 2.0
