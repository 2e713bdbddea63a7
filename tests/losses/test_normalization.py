"""Rows are divided by their length or by ``eps``, whatever is larger: as torch's normalize, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl.functional as F
from fastssl import losses
from fastssl.distributed.blocks import pair_sums

N, D = 9, 5
LABELS = torch.arange(N) % 3
EPS = 1.5  # some rows are shorter, some longer


def _rows(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=g) * torch.linspace(0, 1.5, N)[:, None]  # the first is zero
    return x.to(dtype).requires_grad_()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "info_nce": F.info_nce,
    "symmetric": lambda x, y, **o: F.info_nce(x, y, symmetric=True, **o),
    "queue": lambda x, y, **o: F.info_nce(x, x.flip(0), y, **o),
    "queue alone": lambda x, y, **o: F.info_nce(x, x.flip(0), y, in_batch=False, **o),
    "own negatives": lambda x, y, **o: F.info_nce(x, y, torch.stack([x.roll(1, 0), y.roll(2, 0)], 1), **o),
    "smoothed": lambda x, y, **o: F.info_nce(x, y, label_smoothing=0.2, **o),
    "nt_xent": F.nt_xent,
    "smoothed nt_xent": lambda x, y, **o: F.nt_xent(x, y, label_smoothing=0.2, **o),
    "sup_con": lambda x, y, **o: F.sup_con(x, LABELS, **o) + 0 * y.sum(),
    "references": lambda x, y, **o: F.sup_con(x, LABELS, ref_emb=y, ref_labels=LABELS.flip(0), **o),
    "soft labels": lambda x, y, **o: F.sup_con(x, TF.one_hot(LABELS).float(), **o) + 0 * y.sum(),
    "multi_nt_xent": lambda x, y, **o: F.multi_nt_xent(x, LABELS, ref_emb=y, ref_labels=LABELS, **o),
    "sincere": lambda x, y, **o: F.sincere(x, LABELS, ref_emb=y, ref_labels=LABELS, **o),
    "mil_nce": lambda x, y, **o: F.mil_nce(x, LABELS, ref_emb=y, ref_labels=LABELS, **o),
}


def _found(name: str, dtype: torch.dtype, **options: Any) -> list[Tensor]:
    x, y = _rows(0, dtype), _rows(1, dtype)
    loss = LOSSES[name](x, y, temperature=0.3, **options)
    return [loss.detach(), *torch.autograd.grad(loss, [x, y])]


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("name", LOSSES)
def test_eps_is_that_of_torch(name: str, backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    x, y = _rows(0, torch.float64), _rows(1, torch.float64)
    before = [TF.normalize(t, dim=1, eps=EPS) for t in (x, y)]
    if name == "own negatives":  # built from the rows as they were
        before = [x, y]
        right = _own_negatives(x, y)
    else:
        right = LOSSES[name](*before, temperature=0.3, normalize=False)
    expected = [right.detach(), *torch.autograd.grad(right, [x, y])]
    for dtype in (torch.float32, torch.float64) if backend != "triton" else (torch.float32,):
        for a, b in zip(_found(name, dtype, eps=EPS, backend=backend), expected):
            torch.testing.assert_close(a, b.to(dtype), rtol=2e-5, atol=2e-6)


def _own_negatives(x: Tensor, y: Tensor) -> Tensor:
    q, k, own = (TF.normalize(t, dim=-1, eps=EPS) for t in (x, y, torch.stack([x.roll(1, 0), y.roll(2, 0)], 1)))
    scores = torch.cat([q @ k.T, torch.einsum("nd,nkd->nk", q, own)], 1) / 0.3
    return TF.cross_entropy(scores, torch.arange(N))


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "own negatives"])
def test_a_float16_row_of_zeros_has_a_finite_gradient(name: str, backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    for found in _found(name, torch.float16, backend=backend):
        assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: F.dcl(x, x.flip(0)),
        lambda x: F.alignment(x, x.flip(0)),
        lambda x: F.negative_cosine_similarity(x, x.flip(0)),
        lambda x: F.normalized_softmax(x, torch.eye(3, D, dtype=x.dtype), LABELS),
        lambda x: F.pairwise_distance(x, metric="cosine").mean(),
    ],
)
def test_so_it_has_in_losses_without_an_eps(loss: Callable[[Tensor], Tensor]) -> None:
    x = _rows(0, torch.float16)
    assert torch.isfinite(torch.autograd.grad(loss(x), x)[0]).all()


def test_a_row_of_zeros_in_float32_has_the_gradient_of_torch() -> None:
    x, y = _rows(), _rows(1)
    right = TF.cross_entropy(TF.normalize(x, dim=1) @ TF.normalize(y, dim=1).T / 0.3, torch.arange(N))
    a, b = (torch.autograd.grad(v, x)[0] for v in (F.info_nce(x, y, temperature=0.3), right))
    assert float(b[0].abs().max()) > 1e9
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_rows_of_several_processes() -> None:
    x = _rows(0, torch.float64)
    got, _, _ = pair_sums(None, [N], x, None, 2.0, normalize=EPS)
    unit = TF.normalize(x, dim=1, eps=EPS)
    right = (2 * unit @ unit.T).masked_fill(torch.eye(N, dtype=torch.bool), float("-inf")).logsumexp(1)
    torch.testing.assert_close(got, right)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in (got, right)))


def test_modules_take_it() -> None:
    x, y = _rows(), _rows(1)
    assert torch.equal(losses.NTXentLoss(eps=0.5)(x, y), F.nt_xent(x, y, eps=0.5))
    assert torch.equal(losses.NTXentLoss(eps=0.5)(x, LABELS), F.multi_nt_xent(x, LABELS, temperature=0.5, eps=0.5))
    assert torch.equal(losses.SupConLoss(eps=0.5)(x, LABELS), F.sup_con(x, LABELS, eps=0.5))
    for module in (losses.InfoNCELoss, losses.SINCERELoss, losses.MILNCELoss):
        assert "eps=0.5" in repr(module(eps=0.5)) and "eps" not in repr(module())


@pytest.mark.parametrize("given", [0, -1.0, "small", float("nan"), True])
def test_wrong_eps(given: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="eps: expected"):
        F.nt_xent(_rows(), _rows(1), eps=given)
    with pytest.raises(ValueError, match="eps: expected None with normalize=False"):
        F.nt_xent(_rows(), _rows(1), eps=1e-6, normalize=False)
