"""Losses on the pair engine where they are extreme: tiny, cold, hot, without rows, of many."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
import fastssl.functional as F
from fastssl.ops.blocks import SUMS
from fastssl.ops.types import Scoring
from tests.support.modes import FLOAT_ISAS
from tests.support.subjects import PAIR_ENGINE, SUBJECTS, Inputs, variants_are_slow


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_beats_eager_on_the_same_inputs(dtype: torch.dtype) -> None:
    z0, z1 = torch.randn(200, 64).to(dtype), torch.randn(200, 64).to(dtype)
    truth = F.nt_xent(z0.double(), z1.double(), backend="reference", temperature=0.1)
    z = torch.nn.functional.normalize(torch.cat([z0, z1]), dim=1)
    logits = (z @ z.T / 0.1).fill_diagonal_(float("-inf"))
    eager = torch.nn.functional.cross_entropy(logits, torch.arange(400).roll(200))
    ours = F.nt_xent(z0, z1, temperature=0.1)
    assert abs(float(ours) - float(truth)) <= abs(float(eager) - float(truth))


@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "clip_loss", "sup_con"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_small_losses_do_not_cancel(isa: str, name: str, scale: float) -> None:
    """Nearly solved batches: the loss is 1e-5 or less, and relatively right."""
    n, d = 40, 64
    base = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0][:n]
    noisy = base + 0.01 * torch.randn(n, d, dtype=torch.float64)
    x, y = (base * scale).float(), (noisy * scale).float()
    if name == "clip_loss":
        x, y = (torch.nn.functional.normalize(t, dim=1) for t in (x, y))
    call = {
        "nt_xent": lambda a, b, **o: F.nt_xent(a, b, temperature=0.06, **o),
        "info_nce": lambda a, b, **o: F.info_nce(a, b, temperature=0.06, **o),
        "clip_loss": lambda a, b, **o: F.clip_loss(a, b, 16.0, **o),
        "sup_con": lambda a, b, **o: F.sup_con(torch.cat([a, b]), torch.arange(2 * n) % n, temperature=0.06, **o),
    }[name]
    truth = float(call(x.double(), y.double(), backend="reference"))
    assert 0 < truth < 1e-3
    assert abs(float(call(x, y)) - truth) < 2e-5 * truth


STRIPS = {
    "info_nce": lambda x, y, scale, **o: F.info_nce(x, y[: len(x)], y[len(x) :], temperature=1 / scale, **o),
    "siglip_loss": lambda x, y, scale, **o: F.siglip_loss(x, y[: len(x)], scale, -5.0, **o),
    "linear_cross_entropy": lambda x, y, scale, **o: F.linear_cross_entropy(
        x * scale, y, torch.arange(len(x)) * 7 % 1900, y[:, 0] * 3, ignore_index=49, **o
    ),
}


def strips_case(name: str, scale: float) -> Inputs:
    """More multiply-adds than a loss makes its gradients of whole: 2,200 x 2,700 x 16."""
    y = torch.randn(2200 if name == "siglip_loss" else 2700, 16)
    inputs = Inputs(x=torch.randn(2200, 16), y=y, scale=torch.tensor(scale))
    return Inputs({k: torch.nn.functional.normalize(t, dim=1) if t.dim() == 2 else t for k, t in inputs.items()})


@pytest.mark.parametrize("name", STRIPS)
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_gradients_by_strips_where_tiles_do_not_fit(name: str, scale: float) -> None:
    """A loss that is a sum of its rows' makes its gradients strip by strip: nothing of size N x M is kept."""
    loss, inputs = STRIPS[name], strips_case(name, scale)
    budget = 2200 * len(inputs["y"]) * 4  # less than all tiles, twice a strip

    def gradients(of: Inputs, **options: Any) -> tuple[list[Tensor], int]:
        leaves, saved = of.leaves(), {}

        def note(t: Tensor) -> Tensor:
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            value = loss(*leaves.values(), **options)
        return [value.detach(), *torch.autograd.grad(value * 3, tuple(leaves.values()))], sum(saved.values())

    truth, _ = gradients(inputs.double(), backend="reference")
    for isa, keeps in itertools.product(FLOAT_ISAS, (0, budget, 1 << 30)):
        fastssl.instruction_set(isa)
        fastssl.set_memory_budget(keeps)
        got, kept = gradients(inputs)
        own = sum(t.nbytes for t in inputs.values()) + (1 << 20)
        assert kept <= own + 2 * keeps
        assert (kept > own) == (keeps == 1 << 30)
        for g, right in zip(got, truth):
            torch.testing.assert_close(g.double(), right, rtol=1e-4, atol=2e-5 * float(right.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_kept_products_serve_any_gradient_again(dtype: torch.dtype) -> None:
    inputs = strips_case("linear_cross_entropy", 20.0)
    leaves = Inputs({k: t.to(dtype) for k, t in inputs.items()}).leaves()
    fastssl.set_memory_budget(2200 * 2700 * 4)
    loss = STRIPS["linear_cross_entropy"](*leaves.values())
    assert next(t for t in loss.grad_fn._raw_saved_tensors if t.data.dim() == 1 and t.data.numel() > 70_000)
    first = torch.autograd.grad(loss, tuple(leaves.values()), retain_graph=True)
    # Gradients of 16 bits are subnormal here.
    close = {"rtol": 2e-3, "atol": 4e-6} if dtype == torch.float16 else {"rtol": 1e-6, "atol": 1e-9}
    for factor in (1, 2, 1):
        again = torch.autograd.grad(factor * loss, tuple(leaves.values()), retain_graph=True)
        for a, b in zip(first, again):
            assert torch.equal(a, b) if factor == 1 else a.dtype == b.dtype
            torch.testing.assert_close(factor * a, b, **close)
    for name, whole in zip(leaves, first):
        (alone,) = torch.autograd.grad(loss, leaves[name], retain_graph=True)
        torch.testing.assert_close(alone, whole, rtol=1e-6, atol=0)


# Few rows of tiles on one side: the other is divided into parts.
LONG = [(20, 9000), (9000, 20), (700, 5000), (5000, 300), (2048, 3000), (33, 70000)]


def long_case(n: int, m: int) -> Inputs:
    return Inputs(x=torch.randn(n, 16), y=torch.randn(m, 16), bias=torch.randn(m))


def long_loss(inputs: dict[str, Tensor], scale: float, **options: Any) -> Tensor:
    x, y, bias = inputs.values()
    return F.linear_cross_entropy(x * scale, y, torch.arange(len(x)) * 7 % len(y), bias, **options)


@pytest.mark.parametrize("shape", LONG)
@pytest.mark.parametrize("scale", [0.1, 5.0])  # one shift for all, and running maxima
def test_parts_of_the_longer_side(shape: tuple[int, int], scale: float) -> None:
    """On every instruction set, with gradients of all inputs and of the rows alone."""
    inputs = long_case(*shape)

    def gradients(of: Inputs, frozen: bool, **options: Any) -> list[Tensor]:
        leaves = of.leaves()
        if frozen:
            leaves["y"], leaves["bias"] = leaves["y"].detach(), leaves["bias"].detach()
        loss = long_loss(leaves, scale, **options)
        return [loss, *torch.autograd.grad(loss, [t for t in leaves.values() if t.requires_grad])]

    truth = gradients(inputs.double(), False, backend="reference")
    for isa, frozen in itertools.product(FLOAT_ISAS, (False, True)):
        fastssl.instruction_set(isa)
        for got, right in zip(gradients(inputs, frozen), truth[:2] if frozen else truth, strict=True):
            torch.testing.assert_close(got.double(), right, rtol=1e-4, atol=2e-5 * float(right.abs().max()))


@pytest.mark.threads
@pytest.mark.parametrize("shape", LONG)
@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_parts_have_the_same_bits_for_any_number_of_threads(shape: tuple[int, int], scale: float) -> None:
    inputs, results = long_case(*shape), []
    for threads in (1, 2, 5, 16):
        torch.set_num_threads(threads)
        leaves = inputs.leaves()
        results.append(torch.autograd.grad(long_loss(leaves, scale), tuple(leaves.values())))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("bad, others", [(math.nan, 0), (math.inf, 0), (-math.inf, 0), (math.nan, 40), (math.inf, 40)])
def test_positives_that_are_not_finite_show(isa: str, bad: float, others: int) -> None:
    """Their own row's loss is NaN and was 0: nothing else is in the sum, or all of it is infinitely less likely."""
    x, y = torch.randn(3, 4), torch.randn(1 + others, 4)
    y[:, 0] = -1
    y[0, 0], x[0, 0] = 1, bad
    x.requires_grad_()
    loss = F.linear_cross_entropy(x, y, torch.zeros(3, dtype=torch.int64), reduction="none")
    assert loss.isnan().tolist() == [True, False, False]
    (grad,) = torch.autograd.grad(loss.sum(), x)
    assert grad[0].isnan().all() and grad[1:].isfinite().all()
    with torch.no_grad():
        assert F.nt_xent(x[:1], y[:1], normalize=False).isnan()
        assert F.clip_loss(x, y[:1].expand(3, -1), 1.0, ids=torch.zeros(3, dtype=torch.int64)).isnan()


@pytest.mark.threads
@pytest.mark.parametrize("shape", [(9000, 700), (700, 9000), (3000, 40)])
@pytest.mark.parametrize("scale", [5.0, 200.0])
def test_sums_by_column_have_the_same_bits_for_any_number_of_threads(shape: tuple[int, int], scale: float) -> None:
    """Blocks of a loss that processes share, in which one side has few rows."""
    x, y = (torch.nn.functional.normalize(torch.randn(k, 16), dim=1) for k in shape)
    right = (scale * (x.double() @ y.double().T)).logsumexp(0) / math.log(2)
    results = []
    for threads in (1, 2, 7, 16):
        torch.set_num_threads(threads)
        sums = SUMS.cpu(x, y, None, (None, None), Scoring(scale), True, False)
        torch.testing.assert_close(sums.y, right, rtol=1e-5, atol=1e-5)
        results.append(sums)
    for other in results[1:]:
        assert torch.equal(results[0].x, other.x) and torch.equal(results[0].y, other.y)


@pytest.mark.threads
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sums_of_many_rows_have_the_same_bits_for_any_number_of_threads(reduction: str) -> None:
    x, y = torch.randn(70_001, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    labels, results = torch.arange(70_001) % 3, []
    for threads in (1, 2, 7, 16):
        torch.set_num_threads(threads)
        results.append(F.cos_face(x, y, labels, reduction=reduction))
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.threads
def test_swapped_predictions_of_many_rows_have_the_same_bits_for_any_number_of_threads() -> None:
    scores, before = torch.randn(2, 40_000, 16, generator=torch.Generator().manual_seed(0)), torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(F.swapped_prediction(*scores))
    torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.threads
@pytest.mark.parametrize("name", STRIPS)
def test_strips_have_the_same_bits_for_any_number_of_threads(name: str) -> None:
    inputs = strips_case(name, 30.0)
    fastssl.set_memory_budget(2200 * len(inputs["y"]) * 4)
    results = []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        leaves = inputs.leaves()
        results.append(torch.autograd.grad(STRIPS[name](*leaves.values()), tuple(leaves.values())))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("temperature", [1e-3, 0.01, 0.05, 10.0, 1e3])
def test_extreme_temperatures(isa: str, temperature: float) -> None:
    z0, z1 = torch.randn(70, 16), torch.randn(70, 16)
    truth = F.nt_xent(z0.double(), z1.double(), temperature=temperature, backend="reference")
    torch.testing.assert_close(F.nt_xent(z0, z1, temperature=temperature).double(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [100.0, 1e4, -50.0, 0.0])
def test_clip_scales_beyond_what_exp_can_hold(isa: str, scale: float) -> None:
    x, y = (torch.nn.functional.normalize(torch.randn(90, 24), dim=1) for _ in range(2))
    subject, inputs = SUBJECTS["clip_loss"], Inputs(x=x, y=y, scale=torch.tensor(scale))
    truth = subject.gradients(inputs.double(), backend="reference")
    for got, right in zip(subject.gradients(inputs), truth):
        torch.testing.assert_close(got, right, rtol=1e-3, atol=1e-4 * (1e-3 + float(right.abs().max())))


def _strided(kind: str, n: int, d: int) -> Tensor:
    if kind == "transposed":
        return torch.randn(d, n).T
    if kind == "sliced":
        return torch.randn(2 * n, 3 * d)[::2, ::3]
    if kind == "expanded rows":
        return torch.randn(1, d).expand(n, d)
    if kind == "expanded columns":
        return torch.randn(n, 1).expand(n, d)
    return torch.randn(n, d).flip(0)[:, torch.arange(d)]


@pytest.mark.parametrize("kind", ["transposed", "sliced", "expanded rows", "expanded columns", "indexed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_strides(any_isa: str, kind: str, dtype: torch.dtype) -> None:
    x, y = _strided(kind, 50, 17).to(dtype), torch.randn(50, 17).to(dtype)
    x = x if x.dtype == torch.float32 else _strided(kind, 50, 17).to(dtype)
    for name in ("nt_xent", "info_nce", "info_nce_symmetric"):
        subject = SUBJECTS[name]
        given = Inputs(x=x.detach().requires_grad_(), y=y.detach().requires_grad_(), temperature=torch.tensor(0.2))
        loss = subject(given)
        grads = torch.autograd.grad(loss, [given["x"], given["y"]])
        contiguous = Inputs({k: t.detach().contiguous() for k, t in given.items()})
        truth = subject.gradients(contiguous.double(), backend="reference")
        torch.testing.assert_close(loss.detach().double(), truth[0], rtol=1e-4, atol=1e-5)
        for got, right in zip(grads, truth[1:3]):
            bound = torch.finfo(dtype).eps * float(right.abs().max()) * 4 + 1e-6
            assert float((got.double() - right).abs().max()) <= bound


def test_rows_without_positives_contribute_nothing(isa: str) -> None:
    z = torch.randn(40, 8, requires_grad=True)
    assert torch.equal(F.sup_con(z, torch.arange(40), reduction="none"), torch.zeros(40))
    (grad,) = torch.autograd.grad(F.sup_con(z, torch.arange(40)), z)
    assert torch.equal(grad, torch.zeros(40, 8))
    h, w = torch.randn(40, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    loss = F.linear_cross_entropy(h, w, torch.full((40,), -100))
    assert float(loss.detach()) == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(loss, [h, w]))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_no_rows_and_one_row(backend: str) -> None:
    none, one = torch.randn(0, 4, requires_grad=True), torch.randn(1, 4, requires_grad=True)
    for call in (
        lambda z: F.nt_xent(z, z, backend=backend),
        lambda z: F.info_nce(z, z, backend=backend),
        lambda z: F.info_nce(z, z, torch.empty(0, 4), backend=backend),
        lambda z: F.sup_con(z, torch.zeros(len(z), dtype=torch.long), backend=backend),
        lambda z: F.clip_loss(z, z, 2.0, backend=backend),
    ):
        for z in (none, one):
            loss = call(z)
            (grad,) = torch.autograd.grad(loss, z)
            assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
            assert torch.isfinite(grad).all() and grad.shape == z.shape
    for z in (none, one):
        assert torch.isfinite(F.siglip_loss(z, z, 2.0, -1.0, backend=backend))
        assert torch.isfinite(
            F.linear_cross_entropy(z, torch.randn(3, 4), torch.ones(len(z), dtype=torch.long), backend=backend)
        )
    queue_of_none = F.info_nce(torch.randn(6, 4), torch.randn(6, 4), torch.empty(0, 4), backend=backend)
    assert torch.isfinite(queue_of_none)


def test_one_sided_loss_with_frozen_keys_keeps_only_attention(isa: str) -> None:
    """MoCo: only the query needs a gradient; what is kept is O(N D) and the gradient is the same."""
    q, k, queue = torch.randn(100, 24), torch.randn(100, 24), torch.randn(900, 24)
    for temperature in (0.07, 0.01):
        inputs = q.clone().requires_grad_()
        t = torch.tensor(temperature, requires_grad=True)
        got = torch.autograd.grad(F.info_nce(inputs, k, queue, temperature=t), [inputs, t])
        q64, t64 = q.double().requires_grad_(), torch.tensor(temperature).double().requires_grad_()
        right = torch.autograd.grad(
            F.info_nce(q64, k.double(), queue.double(), temperature=t64, backend="reference"), [q64, t64]
        )
        for a, b in zip(got, right):
            torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("name", variants_are_slow(PAIR_ENGINE))
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_errs_no_more_than_eager_at_1030_rows(name: str, temperature: float) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(1030, 128, torch.float32, temperature)
    truth = subject.gradients(inputs.double(), backend="reference")
    eager = subject.gradients(inputs, backend="reference")
    for isa in FLOAT_ISAS:
        fastssl.instruction_set(isa)
        for got, there, right in zip(subject.gradients(inputs), eager, truth):
            ours, theirs = (float((g - right).square().mean().sqrt()) for g in (got, there))
            floor = 0.5 * torch.finfo(torch.float32).eps * float(right.abs().max())
            assert ours <= 1.5 * theirs + floor, isa
