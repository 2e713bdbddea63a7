"""Every loss where trained models are: well separated, collapsed, repeated and zero rows, low temperatures; the
floating-point mode of kernels, and what they leave out."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl
import fastssl.functional as F
from fastssl.augment import SimCLRAugment
from fastssl.bench import regimes
from tests.support.modes import FLOAT_ISAS, kernels, modes

PAIR_LOSSES = ("nt_xent", "info_nce", "clip_loss", "siglip_loss", "sup_con")
ROWS = ("random", *regimes.ROWS)


def outcome(
    loss: regimes.Loss, tensors: list[Tensor], temperature: float | None, dtype: torch.dtype, **options: object
) -> list[Tensor]:
    """The loss of each row (or their mean, where there is only that) and the gradients of the mean, in float64."""
    given = [t.detach().to(dtype).requires_grad_() if t.is_floating_point() else t for t in tensors]
    value = loss.call(*given, temperature, **options)
    grads = torch.autograd.grad(value.mean(), [t for t in given if t.requires_grad])
    return [value.detach().double(), *(g.double() for g in grads)]


def assert_errs_no_more_than_eager(
    loss: regimes.Loss, tensors: list[Tensor], temperature: float | None, equal_rows: bool = False
) -> None:
    """RMS error against float64, at most 1.5 times eager fp32's own.

    Where all rows are equal eager rounds every score alike, and what cancels is exact by luck: there the floor is one
    unit in the last place of what cancels, a score and the weights of a row.
    """
    truth = outcome(loss, tensors, temperature, torch.float64, backend="reference", reduction="none")
    eager = outcome(loss, tensors, temperature, torch.float32, backend="reference", reduction="none")
    for isa, budget in itertools.product(FLOAT_ISAS, (0, 1 << 30)):
        fastssl.instruction_set(isa)
        fastssl.set_memory_budget(budget)
        ours = outcome(loss, tensors, temperature, torch.float32, reduction="none")
        for index, (got, there, right) in enumerate(zip(ours, eager, truth)):
            error, theirs = (float((a - right).square().mean().sqrt()) for a in (got, there))
            largest = float(right.abs().max())
            if equal_rows and temperature is not None:
                largest = max(largest, 4 / temperature / (len(right) if index else 1))
            floor = 0.5 * torch.finfo(torch.float32).eps * largest + 1e-30
            assert error <= 1.5 * theirs + floor, f"{isa} {budget} output {index}: {error:.2e}, eager {theirs:.2e}"


@pytest.mark.parametrize("temperature", [0.005, 0.01, 0.05, 1.0])
@pytest.mark.parametrize("regime", ROWS)
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pair_losses_err_no_more_than_eager(name: str, regime: str, temperature: float) -> None:
    """On every instruction set, tiles kept and recomputed."""
    loss = regimes.LOSSES[name]
    if name == "siglip_loss" and regime == "lengths":
        pytest.skip("it takes unit rows")
    equal_rows = regime in ("collapsed", "duplicates")
    assert_errs_no_more_than_eager(loss, regimes.inputs(loss, regime, 150, 40), temperature, equal_rows)


@pytest.mark.parametrize("regime", ["random", "deviation 16", "deviation 48"])
def test_confident_heads_err_no_more_than_eager(regime: str) -> None:
    loss = regimes.LOSSES["linear_cross_entropy"]
    assert_errs_no_more_than_eager(loss, regimes.inputs(loss, regime, 100, 40), None)


@pytest.mark.parametrize("name", [k for k in regimes.LOSSES if k not in PAIR_LOSSES])
def test_every_loss_in_every_regime(name: str) -> None:
    """As float64, to fp32's rounding: ties and collapsed rows, where subgradients may differ, for the loss alone."""
    loss = regimes.LOSSES[name]
    for _, regime, temperature in regimes.plan(name, loss):
        tensors = regimes.inputs(loss, regime, 70, 20)
        truth = outcome(loss, tensors, temperature, torch.float64, backend="reference")
        got = outcome(loss, tensors, temperature, torch.float32)
        if regime == "zero rows" and name == "margin_loss":
            continue  # a zero row is at distance 1 of all others: exactly on the margin, in or out by rounding
        torch.testing.assert_close(got[0], truth[0], rtol=3e-5, atol=3e-5, msg=lambda m, r=regime: f"{r}: {m}")
        if regime not in ("collapsed", "duplicates", "zero rows", "trained", "trained (CLIP)"):
            for a, b in zip(got[1:], truth[1:]):
                assert float((a - b).norm()) <= 2e-4 * float(b.norm()) + 1e-6, regime


@pytest.mark.threads
@pytest.mark.parametrize("regime", ["trained", "collapsed", "random"])
@pytest.mark.parametrize("name", [*PAIR_LOSSES, "contrastive", "triplet", "linear_cross_entropy"])
def test_the_bits_do_not_depend_on_threads(name: str, regime: str) -> None:
    loss = regimes.LOSSES[name]
    tensors = regimes.inputs(loss, regime, 1200, 32)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(outcome(loss, tensors, 0.01 if loss.temperature else None, torch.float32))
    for a, b in zip(*results):
        assert torch.equal(a, b)


# --- what is left out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.02, 0.3])
@pytest.mark.parametrize("name", ["nt_xent", "clip_loss", "info_nce"])
def test_what_is_left_out_is_below_the_rounding_of_each_row(isa: str, name: str, noise: float) -> None:
    """Every row's gradient errs by a few units in the last place of the weight that its positive has, however small:
    nearly solved rows (weights of 1e-20) beside rows that are not."""
    n, d = 480, 64
    base = TF.normalize(torch.randn(n // 3, d), dim=1).repeat(3, 1)
    x = TF.normalize(base + noise * torch.rand(n, 1) * torch.randn(n, d) / 8, dim=1)
    y = TF.normalize(base + noise * torch.rand(n, 1) * torch.randn(n, d) / 8, dim=1)
    x[: n // 3], y[: n // 3] = (TF.normalize(t, dim=1) for t in (torch.randn(n // 3, d),) * 2)  # solved
    scale = 90.0
    call = {
        "nt_xent": lambda a, b: F.nt_xent(a, b, temperature=1 / scale, normalize=False),
        "clip_loss": lambda a, b: F.clip_loss(a, b, scale),
        "info_nce": lambda a, b: F.info_nce(a, b, temperature=1 / scale, normalize=False),
    }[name]
    inputs = [t.clone().requires_grad_() for t in (x, y)]
    got = torch.cat(torch.autograd.grad(call(*inputs), inputs)).double()
    # In float64, a pair's weight being its softmax and a positive's minus the sum of the others (1 - softmax would be 0
    # where a row is solved); and all the weights that each row's gradient adds up.
    z = torch.cat([x, y]).double()
    s, all_rows = scale * z @ z.T, torch.arange(2 * n)
    if name == "nt_xent":
        s.fill_diagonal_(-float("inf"))
    else:
        s[:n, :n] = s[n:, n:] = -float("inf")  # the rows of one side are no pairs
    g = s.softmax(1)
    g[all_rows, all_rows.roll(n)] = 0
    g[all_rows, all_rows.roll(n)] = -g.sum(1)
    g = g * {"nt_xent": 1 / (2 * n), "clip_loss": 1 / (2 * n), "info_nce": 1 / n}[name]
    if name == "info_nce":
        g[n:] = 0
    right, weight = scale * (g + g.T) @ z, (g + g.T).abs().sum(1)
    assert float(weight.min()) < 1e-12 < 1e-4 < float(weight.max())
    # A weight errs by the rounding of its score, up to 90 log2(e) units; twice, with the log-sum's.
    allowed = scale * (4 * scale * 2**-24) * weight[:, None] + 1e-33
    assert bool(((got - right).abs() <= allowed).all())


def test_distances_of_close_rows_keep_their_digits(isa: str) -> None:
    centre = torch.randn(1, 48)
    few = torch.randn(5, 48)
    for x in (
        centre + 1e-4 * torch.randn(200, 48),
        30 + 1e-3 * torch.randn(200, 48),
        few[torch.arange(200) % 5] + 1e-3 * torch.randn(200, 48),
        torch.cat([centre + 1e-4 * torch.randn(100, 48), 50 * torch.randn(100, 48)]),
        centre.repeat(200, 1),
    ):
        exact = (x.double()[:, None] - x.double()[None]).norm(dim=2)
        torch.testing.assert_close(F.pairwise_distance(x).double(), exact, rtol=1e-5, atol=0)
        y = x + 1e-3 * torch.randn(200, 48)
        exact = (x.double()[:, None] - y.double()[None]).norm(dim=2)
        torch.testing.assert_close(F.pairwise_distance(x, y).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("smooth", [False, True])
def test_triplets_without_negatives(smooth: bool) -> None:
    x = torch.randn(90, 8, requires_grad=True)
    for mining in ("all",) if smooth else ("all", "semihard", "hard"):
        loss = F.triplet(x, torch.zeros(90, dtype=torch.int64), mining=mining, smooth=smooth)
        assert loss.item() == 0 and not torch.autograd.grad(loss, x)[0].any()


@pytest.mark.parametrize("mining", ["all", "smooth", "semihard"])
@pytest.mark.parametrize("rows", ["unit", "lengths", "ties", "listed", "outlier"])
def test_triplets_of_classes_of_any_size(mining: str, rows: str) -> None:
    """On every instruction set against every triplet in float64, loss, gradient and how many are violated: anchors
    with 0 to 79 positives."""
    torch.manual_seed(len(mining) + len(rows))
    n = 170
    labels = torch.arange(n)
    labels[:80], labels[80:110], labels[110:127], labels[127:135] = 0, 1, 2, 3
    labels, x = labels[torch.randperm(n)], torch.randn(n, 12)
    if rows == "lengths":
        x = x * torch.exp(torch.randn(n, 1))
    if rows == "ties":
        x = x[torch.arange(n) % 23]
    if rows == "outlier":  # one bucket holds all but one
        x = 0.01 * x
        x[0] = 1000
    options = {"margin": 0.3, "normalize": rows in ("unit", "ties", "listed"), "smooth": mining == "smooth"}
    options["mining"] = "semihard" if mining == "semihard" else "all"
    if rows == "listed" and mining != "semihard":
        same = labels[:, None] == labels[None]
        positive, negative = (same & ~torch.eye(n, dtype=torch.bool)).nonzero().T, (~same).nonzero().T
        options["indices_tuple"] = (*positive, *negative)
    for dtype, reduction in ((torch.float32, "mean"), (torch.float32, "active"), (torch.float64, "mean")):
        given, exact = x.to(dtype).requires_grad_(), x.to(dtype).double().requires_grad_()
        truth = F.triplet(exact, labels, reduction=reduction, backend="reference", **options)
        (right,) = torch.autograd.grad(truth, exact)
        for isa in FLOAT_ISAS:
            fastssl.instruction_set(isa)
            loss = F.triplet(given, labels, reduction=reduction, **options)
            if rows == "ties" and reduction == "active" and dtype == torch.float32:
                continue  # z = 0 up to rounding: counted or not
            tight = {"rtol": 2e-5, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-14}
            torch.testing.assert_close(loss.double(), truth, **tight)
            if rows == "ties" and mining == "semihard":
                continue  # which of equal ones is nearest is open
            got = torch.autograd.grad(loss, given)[0].double()
            wrong = (got - right).abs().amax(1) > (3e-4 if dtype == torch.float32 else 1e-9) * right.abs().max()
            # Rounding may swap a negative that is as far as a positive with the next one.
            assert wrong.float().mean() <= (0.2 if mining == "semihard" and dtype == torch.float32 else 0)


# --- the floating-point mode ----------------------------------------------------------------------------------------


@kernels
@pytest.mark.threads
@pytest.mark.parametrize("flushes", [False, True])
def test_the_callers_mode_is_the_callers(two_threads: None, flushes: bool) -> None:
    if not torch.set_flush_denormal(flushes):
        pytest.skip("this CPU has no such mode")
    before = modes()
    assert before[0] == flushes
    x = torch.randn(600, 64, requires_grad=True)
    y = torch.arange(600) % 60
    for loss in (F.nt_xent(x[:300], x[300:], temperature=0.005), F.triplet(x, y), F.sup_con(x, y, temperature=0.01)):
        loss.backward()
        assert modes() == before
    F.nearest(x.detach(), None, 5)
    table = torch.randn(50, 64)
    F.negative_sampling(x.detach(), table, torch.arange(600) % 50, torch.zeros(600, 4, dtype=torch.int64))
    SimCLRAugment(16)(torch.zeros(8, 20, 20, 3, dtype=torch.uint8), seed=0)
    with pytest.raises(RuntimeError):
        torch.ops.fastssl.gather_dot(x.detach(), table, torch.full((600, 1), 99))
    assert modes() == before


@kernels
@pytest.mark.threads
def test_the_mode_survives_an_interruption(two_threads: None) -> None:
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells start us with it ignored
    before = modes()
    try:
        interrupt_a_call(before)
    finally:
        signal.signal(signal.SIGINT, handler)


def interrupt_a_call(before: list[bool]) -> None:
    x = torch.randn(6000, 256)
    for _ in range(20):  # until the signal falls into a kernel
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            F.nt_xent(x, x.flip(0), temperature=0.01)
            timer.join()
            time.sleep(0.05)
        except KeyboardInterrupt:
            assert modes() == before
            return
    pytest.fail("no call was interrupted")


@kernels
def test_subnormal_numbers_count_as_zero() -> None:
    """Whatever the caller's mode; differences are below the smallest normal number."""
    n, d = 64, 8
    x = torch.zeros(n, d)
    x[:, 0] = torch.arange(n) * 3.0
    x.requires_grad_()
    (grad,) = torch.autograd.grad(F.soft_nearest_neighbor(x, torch.arange(n) % 8, temperature=1.0), x)
    size = grad[grad != 0].abs()
    assert len(size) == 0 or float(size.min()) >= torch.finfo(torch.float32).tiny
