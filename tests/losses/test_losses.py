"""Every loss, on every instruction set: against a double loop, against eager PyTorch's own error, against gradcheck."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastssl
import fastssl.functional as F
from tests.support.pair_subjects import SUBJECTS, gradients

NAMES = list(SUBJECTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("n", "d", "temperature"), [(1, 3, 0.1), (2, 1, 1.0), (5, 4, 0.02), (13, 7, 0.5), (37, 5, 0.1)]
)
def test_equals_a_double_loop(name: str, backend: str, n: int, d: int, temperature: float) -> None:
    subject = SUBJECTS[name]
    tensors = subject.make(n, d, temperature, torch.float64)
    expected = torch.tensor(subject.loop(*tensors), dtype=torch.float64)
    rows = subject.call(*tensors, reduction="none", backend=backend)
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        subject.call(*tensors, reduction="sum", backend=backend), expected.sum(), rtol=1e-10, atol=1e-9
    )
    counted = n - sum(1 for i in range(n) if i % 5 == 2) if name == "linear_cross_entropy" else len(expected)
    mean = subject.call(*tensors, backend=backend)
    torch.testing.assert_close(mean, expected.sum() / counted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "d"), [(1, 2), (3, 1), (9, 5), (34, 33)])
def test_gradcheck(isa: str, name: str, n: int, d: int) -> None:
    subject = SUBJECTS[name]
    tensors = [t.requires_grad_() for t in subject.make(n, d, 0.3, torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: subject.call(*t, reduction="none"), tensors, fast_mode=n > 3)


@pytest.mark.parametrize("keep", [0, 1 << 30], ids=["recomputed", "kept"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.1, 1.0])
def test_errs_no_more_than_eager(isa: str, name: str, temperature: float, keep: int) -> None:
    """RMS error against float64 of the loss and every gradient, at most 1.5 times eager fp32's own.

    Half a unit in the last place of the largest entry is what storing the result costs; below it eager is lucky.
    """
    fastssl.set_memory_budget(keep)
    subject = SUBJECTS[name]
    for n, d, seeds in [(2, 128, 12), (3, 32, 12), (17, 64, 6), (65, 128, 3), (258, 128, 2), (515, 96, 1)]:
        squares: dict[int, list[float]] = {}
        for seed in range(seeds):
            torch.manual_seed(seed)
            tensors = subject.make(n, d, temperature, torch.float32)
            truth = gradients(subject, [t.double() for t in tensors], backend="reference")
            for way, backend in enumerate(("cpu", "reference")):
                for index, (got, right) in enumerate(zip(gradients(subject, tensors, backend=backend), truth)):
                    entry = squares.setdefault(index, [0.0, 0.0, 0.0])
                    entry[way] += float((got - right).square().mean())
                    entry[2] = max(entry[2], float(right.abs().max()))
        for index, (ours, eager, largest) in squares.items():
            ours, eager = (ours / seeds) ** 0.5, (eager / seeds) ** 0.5
            floor = 0.5 * torch.finfo(torch.float32).eps * largest + 1e-30
            assert ours <= 1.5 * eager + floor, f"{name} n={n} output {index}: ours {ours:.2e}, eager {eager:.2e}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [5, 100])
def test_half_precision_inputs(isa: str, name: str, dtype: torch.dtype, n: int) -> None:
    """fp32 accumulation: errors stay at the rounding of the 16-bit gradients, far below those of 16-bit eager code."""
    subject = SUBJECTS[name]
    tensors = subject.make(n, 48, 0.1, dtype)
    truth = gradients(subject, [t.double() for t in tensors], backend="reference")
    ours = gradients(subject, tensors)
    assert subject.call(*tensors).dtype == torch.float32
    for got, right in zip(ours, truth):
        bound = torch.finfo(dtype).eps * float(right.abs().max()) + 1e-6
        assert float((got - right).abs().max()) <= bound
    torch.testing.assert_close(ours[0], truth[0], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_beats_eager_on_the_same_inputs(dtype: torch.dtype) -> None:
    z0, z1 = torch.randn(200, 64).to(dtype), torch.randn(200, 64).to(dtype)
    truth = F.nt_xent(z0.double(), z1.double(), backend="reference", temperature=0.1)
    z = torch.nn.functional.normalize(torch.cat([z0, z1]), dim=1)
    logits = (z @ z.T / 0.1).fill_diagonal_(float("-inf"))
    eager = torch.nn.functional.cross_entropy(logits, torch.arange(400).roll(200))
    ours = F.nt_xent(z0, z1, temperature=0.1)
    assert abs(float(ours) - float(truth)) <= abs(float(eager) - float(truth))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (31, 32), (32, 31), (33, 65), (255, 16), (300, 257)])
def test_kept_recomputed_and_reference_agree(isa: str, name: str, n: int, d: int) -> None:
    subject = SUBJECTS[name]
    tensors = subject.make(n, d, 0.2, torch.float64)
    truth = gradients(subject, tensors, backend="reference", reduction="none")
    for budget in (0, 1 << 30):
        fastssl.set_memory_budget(budget)
        for got, right in zip(gradients(subject, tensors, reduction="none"), truth):
            torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-11 * (1 + float(right.abs().max())))


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


@pytest.mark.parametrize("temperature", [1e-3, 0.01, 0.05, 10.0, 1e3])
def test_extreme_temperatures(isa: str, temperature: float) -> None:
    z0, z1 = torch.randn(70, 16), torch.randn(70, 16)
    truth = F.nt_xent(z0.double(), z1.double(), temperature=temperature, backend="reference")
    torch.testing.assert_close(F.nt_xent(z0, z1, temperature=temperature).double(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [100.0, 1e4, -50.0, 0.0])
def test_clip_scales_beyond_what_exp_can_hold(isa: str, scale: float) -> None:
    x, y = (torch.nn.functional.normalize(torch.randn(90, 24), dim=1) for _ in range(2))
    truth = gradients(
        SUBJECTS["clip_loss"], [x.double(), y.double(), torch.tensor(scale).double()], backend="reference"
    )
    ours = gradients(SUBJECTS["clip_loss"], [x, y, torch.tensor(scale)])
    for got, right in zip(ours, truth):
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
def test_any_strides(isa: str, kind: str, dtype: torch.dtype) -> None:
    x, y = _strided(kind, 50, 17).to(dtype), torch.randn(50, 17).to(dtype)
    x = x if x.dtype == torch.float32 else _strided(kind, 50, 17).to(dtype)
    for name in ("nt_xent", "info_nce", "info_nce_symmetric"):
        subject = SUBJECTS[name]
        a = [t.double() for t in (x.contiguous(), y, torch.tensor(0.2))]
        inputs = [x.detach().requires_grad_(), y.detach().requires_grad_()]
        loss = subject.call(*inputs, torch.tensor(0.2))
        grads = torch.autograd.grad(loss, inputs)
        truth = gradients(subject, a, backend="reference")
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("n", [6, 70])
def test_non_finite_input_shows(isa: str, name: str, bad: float, n: int) -> None:
    tensors = SUBJECTS[name].make(n, 8, 0.1, torch.float32)
    tensors[0][1, 2] = bad
    assert not torch.isfinite(SUBJECTS[name].call(*tensors))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_same_bits_for_any_number_of_threads(name: str, temperature: float) -> None:
    tensors = SUBJECTS[name].make(700, 40, temperature, torch.float32)
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(gradients(SUBJECTS[name], tensors))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


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


def test_memory_stays_linear(isa: str) -> None:
    """Nothing of size N x N is left in the graph where the budget says so."""
    fastssl.set_memory_budget(0)
    z0, z1 = torch.randn(512, 16, requires_grad=True), torch.randn(512, 16, requires_grad=True)
    saved: list[int] = []

    def note(t: Tensor) -> Tensor:
        saved.append(t.numel() * t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        F.nt_xent(z0, z1)
    assert sum(saved) < 4 * (z0.numel() + z1.numel()) * 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_errs_no_more_than_eager_at_1030_rows(isa: str, name: str, temperature: float) -> None:
    subject = SUBJECTS[name]
    tensors = subject.make(1030, 128, temperature, torch.float32)
    truth = gradients(subject, [t.double() for t in tensors], backend="reference")
    both = (gradients(subject, tensors), gradients(subject, tensors, backend="reference"))
    for ours, eager, right in zip(*both, truth):
        ours_error, eager_error = (float((got - right).square().mean().sqrt()) for got in (ours, eager))
        floor = 0.5 * torch.finfo(torch.float32).eps * float(right.abs().max())
        assert ours_error <= 1.5 * eager_error + floor
