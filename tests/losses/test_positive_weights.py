"""Positives with weights, by ids: loops over pairs as the oracle, references, lists, processes, learned weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as TF
from torch import Tensor

import fastssl
import fastssl.functional as F
from fastssl import losses
from tests.support.processes import run_world

N, M, D = 11, 8, 5
T = 0.4


def _given(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, D, generator=g).to(dtype).requires_grad_() for n in (N, M))
    w, v = (torch.rand(n, generator=g) * (torch.arange(n) % 4 > 0) for n in (N, M))  # some weigh nothing
    labels, others = torch.arange(N) % 4, torch.arange(M) % 3
    return x, y, w.to(dtype).requires_grad_(), v.to(dtype).requires_grad_(), labels, others


def _oracle(x: Tensor, y: Tensor, positive: Tensor, other: Tensor, weights: Tensor) -> Tensor:
    """By loops; ``positive``, ``other``: which pairs are positives, and which are in the denominator."""
    scores = TF.normalize(x, dim=1) @ TF.normalize(y, dim=1).T / T
    rows = []
    for i in range(len(x)):
        partners = [j for j in range(len(y)) if positive[i, j]]
        total = sum((weights[j] for j in partners), torch.zeros(()))
        if not float(total.detach()) > 0:
            rows.append(0 * scores[i].sum())
            continue
        log_sum = torch.logsumexp(torch.stack([scores[i, j] for j in range(len(y)) if other[i, j]]), 0)
        rows.append(sum(weights[j] * (log_sum - scores[i, j]) for j in partners) / total)
    return torch.stack(rows)


def _same(got: Tensor, right: Tensor, inputs: list[Tensor], tolerance: float) -> None:
    torch.testing.assert_close(got, right.to(got.dtype), rtol=tolerance, atol=tolerance)
    draws = torch.linspace(1, 2, len(got))
    for a, b in zip(
        torch.autograd.grad((got * draws).sum(), inputs), torch.autograd.grad((right * draws).sum(), inputs)
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", ["within", "references", "lists"])
def test_weights_of_positives(way: str, dtype: torch.dtype) -> None:
    x, y, w, v, labels, others = _given(dtype)
    options: dict[str, Any] = {"temperature": T, "reduction": "none"}
    eye = torch.eye(N, dtype=torch.bool)
    if way == "within":
        got = F.sup_con(x, labels, weights=w, **options)
        right = _oracle(x, x, (labels[:, None] == labels) & ~eye, ~eye, w)
        inputs = [x, w]
    elif way == "references":
        got = F.sup_con(x, labels, ref_emb=y, ref_labels=others, weights=v, **options)
        right = _oracle(x, y, labels[:, None] == others, torch.ones(N, M, dtype=torch.bool), v)
        inputs = [x, y, v]
    else:
        positive, negative = (torch.rand(N, M, generator=torch.Generator().manual_seed(k)) < 0.4 for k in (1, 2))
        negative &= ~positive
        lists = (*positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True))
        got = F.sup_con(x, None, indices_tuple=lists, ref_emb=y, weights=v, **options)
        right = _oracle(x, y, positive, positive | negative, v)
        inputs = [x, y, v]
    assert (right == 0).any() == (got == 0).any()
    _same(got, right, inputs, 1e-5 if dtype == torch.float32 else 1e-9)


def test_equal_weights_change_nothing_and_several_positives_are_clips() -> None:
    x, y, _, _, labels, _ = _given()
    torch.testing.assert_close(F.sup_con(x, labels, weights=torch.full((N,), 3.0)), F.sup_con(x, labels))
    image, text = x[:M], y
    ids = torch.arange(M) // 2
    both = F.sup_con(image, ids, temperature=T, ref_emb=text, ref_labels=ids, weights=torch.ones(M)) + F.sup_con(
        text, ids, temperature=T, ref_emb=image, ref_labels=ids, weights=torch.ones(M)
    )
    logits = TF.normalize(image, dim=1) @ TF.normalize(text, dim=1).T / T
    target = (ids[:, None] == ids).double() / 2  # soft targets: half of the mass for each of two captions
    torch.testing.assert_close(both, TF.cross_entropy(logits, target) + TF.cross_entropy(logits.T, target))
    single = torch.arange(M)
    torch.testing.assert_close(
        F.sup_con(image, single, temperature=T, ref_emb=text, ref_labels=single, weights=torch.ones(M)),
        F.info_nce(image, text, temperature=T),
    )


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_other_backends(backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    x, y, _, v, labels, others = _given(torch.float32)
    options: dict[str, Any] = {"ref_emb": y, "ref_labels": others, "weights": v, "reduction": "none"}
    _same(F.sup_con(x, labels, **options, backend=backend), F.sup_con(x, labels, **options), [x, y, v], 1e-4)


def test_the_module_and_wrong_weights() -> None:
    x, y, w, v, labels, others = _given()
    loss = losses.SupConLoss()
    assert torch.equal(loss(x, labels, weights=w), F.sup_con(x, labels, weights=w))
    assert torch.equal(
        loss(x, labels, None, y, others, weights=v), F.sup_con(x, labels, ref_emb=y, ref_labels=others, weights=v)
    )
    wrong: list[tuple[Any, type[Exception], str]] = [
        ([1.0] * N, TypeError, "weights: expected a torch.Tensor"),
        (torch.ones(N - 1), ValueError, "weights: expected floats \\[11\\]"),
        (torch.ones(N, dtype=torch.int64), TypeError, "weights: expected float32, float64"),
        (-torch.ones(N), ValueError, "weights: expected values >= 0"),
        (torch.full((N,), float("nan")), ValueError, "weights: expected values >= 0"),
    ]
    for given, error, text in wrong:
        with pytest.raises(error, match=text):
            F.sup_con(x, labels, weights=given)
    with pytest.raises(TypeError, match="weights: expected None with labels of floats"):
        F.sup_con(x, torch.rand(N, 3), weights=torch.ones(N))


def test_memory_is_linear() -> None:
    x, labels, weights = torch.randn(1024, 8, requires_grad=True), torch.arange(1024) % 50, torch.rand(1024)
    sizes: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    before = fastssl.get_memory_budget()
    fastssl.set_memory_budget(0)
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            F.sup_con(x, labels, weights=weights)
    finally:
        fastssl.set_memory_budget(before)
    assert sum(sizes.values()) < 24 * x.numel() * 4 < 1024**2 * 4


def _worker(rank: int) -> None:
    dist.init_process_group("gloo")
    x, y, w, v, labels, others = _given()
    mine = slice(0, 4) if rank == 0 else slice(4, None)
    for options in ({"weights": w}, {"ref_emb": y, "ref_labels": others, "weights": v}):
        whole = F.sup_con(x, labels, **options)
        inputs = [x, w] if len(options) == 1 else [x, y, v]
        expected = torch.autograd.grad(whole, inputs)
        shared = F.sup_con(x[mine], labels[mine], **{k: t[mine] for k, t in options.items()}, group="world")
        torch.testing.assert_close(shared, whole)
        for t, right in zip(torch.autograd.grad(shared, inputs), expected):
            dist.all_reduce(t)
            torch.testing.assert_close(t, right)
    dist.destroy_process_group()


def test_rows_of_two_processes(tmp_path: Path) -> None:
    run_world(_worker, 2, tmp_path)
