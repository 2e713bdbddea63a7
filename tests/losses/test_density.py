"""Early models of binary data: kernels against loops, exact sums over all states, samplers against what they sample."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment import uniform
from fastssl.models import RestrictedBoltzmannMachine, row_keys
from fastssl.ops.reference.density import normals, uniforms


def states(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(list(itertools.product((0, 1), repeat=n)), dtype=dtype)


def weights(d: int, h: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((d, h), (d, h), (d,), (h,))]
    return [t.to(dtype) for t in made]


def machine(d: int, h: int, scale: float = 1.0, gaussian: bool = False, seed: int = 0) -> RestrictedBoltzmannMachine:
    made = RestrictedBoltzmannMachine(d, h, gaussian).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64) * scale)
    return made


def nade_loop(v: Tensor, w: Tensor, o: Tensor, b: Tensor, c: Tensor) -> list[float]:
    """Python numbers."""
    rows = []
    for x in v.double().tolist():
        total = 0.0
        for d in range(len(x)):
            a = [float(c[j]) + sum(x[i] * float(w[i, j]) for i in range(d)) for j in range(len(c))]
            logit = float(b[d]) + sum(float(o[d, j]) / (1 + math.exp(-a[j])) for j in range(len(c)))
            total -= x[d] * -math.log1p(math.exp(-logit)) + (1 - x[d]) * -math.log1p(math.exp(logit))
        rows.append(total)
    return rows


def chi_square(drawn: Tensor, p: Tensor) -> float:
    """Of binary rows against the probabilities of all states, in deviations of the statistic from its mean."""
    place = (drawn.long() * 2 ** torch.arange(drawn.shape[1] - 1, -1, -1)).sum(1)
    expected = p * len(drawn)
    assert float(expected.min()) > 5
    statistic = float(((torch.bincount(place, minlength=len(p)) - expected).square() / expected).sum())
    return (statistic - (len(p) - 1)) / math.sqrt(2 * (len(p) - 1))


@pytest.mark.parametrize(("n", "d", "h"), [(1, 1, 1), (5, 6, 3), (9, 7, 33), (20, 4, 64)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nade_is_the_loop(isa: str, n: int, d: int, h: int, dtype: torch.dtype) -> None:
    v = torch.randint(0, 2, (n, d), generator=torch.Generator().manual_seed(n)).to(dtype)
    v[0] = torch.linspace(0, 1, d)  # values between 0 and 1 count as probabilities
    own = weights(d, h, dtype)
    expected = torch.tensor(nade_loop(v, *own), dtype=torch.float64)
    rows = F.nade(v, *own, reduction="none")
    assert rows.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(rows.double(), expected, **tolerance)
    full, given = ([t.clone().to(kind).requires_grad_() for t in own] for kind in (torch.float64, dtype))
    loss = F.nade(v.double(), *full, backend="reference")
    gradients = torch.autograd.grad(loss, full, allow_unused=True, materialize_grads=True)
    close = {"rtol": 2e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-6}
    for one, other in zip(torch.autograd.grad(F.nade(v, *given), given), gradients):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, **close)


def test_nade_has_the_gradient_of_differences() -> None:
    v = torch.randint(0, 2, (9, 5)).double()
    v[1] = 0.3
    own = [t.requires_grad_() for t in weights(5, 3)]
    assert torch.autograd.gradcheck(lambda *t: F.nade(v, *t, reduction="none"), own)
    assert torch.autograd.gradcheck(lambda *t: F.nade(v, *(x.T.contiguous().T for x in t[:2]), *t[2:]), own)


def test_probabilities_of_all_states_sum_to_one() -> None:
    total = (-F.nade(states(10), *weights(10, 7), reduction="none")).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64), rtol=1e-12, atol=0)


def test_samples_of_nade_are_its_distribution() -> None:
    own = weights(5, 4)
    keys = row_keys(3, range(60_000))
    drawn = F.nade_sample(*own, keys)
    p = (-F.nade(states(5), *own, reduction="none")).exp()
    assert abs(chi_square(drawn, p)) < 4
    assert torch.equal(F.nade_sample(*own, keys[[7, 100]]), drawn[[7, 100]])
    assert torch.equal(F.nade_sample(*own, keys[:999], backend="reference"), drawn[:999])


@pytest.mark.threads
def test_bits_do_not_depend_on_threads() -> None:
    own = [t.requires_grad_() for t in weights(150, 130, torch.float32)]
    v = torch.randint(0, 2, (90, 150)).float()
    found = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        grads = torch.autograd.grad(F.nade(v, *own), own)
        found.append((*grads, F.gibbs(v, own[0].T, own[2], own[3], torch.arange(90), steps=3)))
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_draws_are_those_of_augmentations() -> None:
    keys = torch.tensor([5 + (7 << 32), -3])
    numbers = np.concatenate([uniform(5 | 7 << 32, 0, [0], count=10), uniform(2**64 - 3, 0, [0], count=10)])
    np.testing.assert_allclose(uniforms(keys, 10).numpy(), numbers, rtol=0, atol=2**-24)
    z = normals(torch.arange(5000), 4, 1)
    assert float((torch.cov(z.T) - torch.eye(4)).abs().max()) < 0.08 and float(z.mean(0).abs().max()) < 0.06


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize(("n", "d", "h"), [(1, 1, 1), (5, 6, 3), (37, 29, 18), (70, 8, 40)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gibbs_is_the_reference(isa: str, n: int, d: int, h: int, dtype: torch.dtype, gaussian: bool) -> None:
    v = torch.rand(n, d, generator=torch.Generator().manual_seed(d)).to(dtype)
    made = machine(d, h, 0.5)
    tensors = [t.detach().to(dtype) for t in (made.weight, made.visible_bias, made.hidden_bias)]
    keys = row_keys(1, range(n))
    ours, theirs = (
        F.gibbs(v, *tensors, keys, steps=2, first=3, gaussian=gaussian, backend=backend)
        for backend in ("cpu", "reference")
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    once = F.gibbs(F.gibbs(v, *tensors, keys, first=3, gaussian=gaussian), *tensors, keys, first=4, gaussian=gaussian)
    assert torch.equal(once, ours)
    assert torch.equal(F.gibbs(v[-1:], *tensors, keys[-1:], steps=2, first=3, gaussian=gaussian), ours[-1:])


def test_gibbs_sampling_reaches_the_distribution() -> None:
    made = machine(4, 3, 0.7)
    p = torch.softmax(-made.free_energy(states(4)), 0).detach()
    with torch.no_grad():
        drawn = made.sample(40_000, seed=1, steps=60)
    assert abs(chi_square(drawn, p)) < 4


def test_the_normaliser_is_the_same_from_both_sides() -> None:
    made = machine(6, 4)
    by_visible = torch.logsumexp(-made.free_energy(states(6)).detach(), 0)
    assert made.log_partition() == (pytest.approx(float(by_visible), abs=1e-10), 0.0)
    v, h = states(6), states(4)
    energy = -(v @ made.visible_bias)[:, None] - (h @ made.hidden_bias) - v @ made.weight.T @ h.T
    torch.testing.assert_close(made.free_energy(v), -torch.logsumexp(-energy, 1))
    wide = machine(4, 6)  # enumerates the visible units
    by_visible = torch.logsumexp(-wide.free_energy(states(4)).detach(), 0)
    assert wide.log_partition()[0] == pytest.approx(float(by_visible), abs=1e-10)
    assert float(made.log_likelihood(v).values.exp().sum()) == pytest.approx(1, abs=1e-10)


def test_the_density_of_normal_units_integrates_to_one() -> None:
    made = machine(2, 3, 0.5, gaussian=True)
    axis = torch.linspace(-9, 9, 181, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    found = made.log_likelihood(grid)
    assert found.kind == "exact" and float(found.values.exp().sum()) * 0.1**2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("gaussian", [False, True])
def test_annealed_importance_sampling_finds_the_normaliser(gaussian: bool) -> None:
    made = machine(20, 16, 0.4, gaussian)
    exact, none = made.log_partition()
    estimate, error = made.log_partition(exact=False, chains=200, temperatures=300)
    assert none == 0 and 0 < error < 0.2 and abs(estimate - exact) < 3 * error
    assert made.log_likelihood(torch.zeros(1, 20), False, temperatures=50).kind == "AIS"


def test_contrastive_divergence_has_the_gradient_of_the_likelihood() -> None:
    """From chains that begin with samples of the model, so that CD is exact in expectation."""
    made, data = machine(6, 4, 0.7), torch.tensor([[1, 0, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1]], dtype=torch.float64)
    all_states = states(6)
    exact = torch.autograd.grad(
        made.free_energy(data).mean() + torch.logsumexp(-made.free_energy(all_states), 0), list(made.parameters())
    )
    p = torch.softmax(-made.free_energy(all_states), 0).detach()
    n = 100_000
    chosen = torch.multinomial(p, n, True, generator=torch.Generator().manual_seed(0))
    model = made.gibbs(all_states[chosen], row_keys(0, range(n)))
    loss = made.free_energy(data).mean() - made.free_energy(model).mean()
    for one, other in zip(torch.autograd.grad(loss, list(made.parameters())), exact):
        assert float((one - other).abs().max()) < 5 * 0.5 / math.sqrt(n)


def test_information_of_gaussians_is_the_closed_form() -> None:
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(200_000, 3, generator=g, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.5])
    a, b = (shared + 0.3 * torch.randn(200_000, 3, generator=g, dtype=torch.float64) for _ in range(2))
    expected = sum(0.5 * math.log(1 + 2 * s**2 / 0.3**2) for s in (1.0, 2.0, 0.5))
    assert float(F.gaussian_information(a, b)) == pytest.approx(expected, abs=0.02)
    mixing = torch.randn(3, 3, generator=g, dtype=torch.float64)
    turned = F.gaussian_information(a @ mixing, b @ mixing, eps=0.0)
    torch.testing.assert_close(turned, F.gaussian_information(a, b, eps=0.0))
    one = F.gaussian_information(a[:, :1], b[:, :1], eps=0.0)
    ratio = (a + b)[:, 0].var() / (a - b)[:, 0].var()
    torch.testing.assert_close(one, 0.5 * ratio.log())
    few = [t[:12].clone().requires_grad_() for t in (a, b)]
    assert torch.autograd.gradcheck(lambda x, y: F.gaussian_information(x, y), few)
    constant = torch.ones(4, 2)
    assert float(F.gaussian_information(constant, constant)) == 0
    assert float(F.gaussian_information(constant[:0], constant[:0])) == 0


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda v, w, b, c, k: F.gibbs(v * 2, w, b, c, k), ValueError, r"visible: expected values in \[0, 1\], got 2"),
        (lambda v, w, b, c, k: F.gibbs(v * math.nan, w, b, c, k), ValueError, r"visible: .*\[0, 1\], got nan"),
        (lambda v, w, b, c, k: F.gibbs(v, w, b, c, k, steps=0), ValueError, "steps: expected an integer >= 1, got 0"),
        (lambda v, w, b, c, k: F.gibbs(v, w, c, b, k), ValueError, r"visible_bias: expected shape \(3,\)"),
        (lambda v, w, b, c, k: F.gibbs(v, w, b, c.double(), k), TypeError, "hidden_bias: expected torch.float32"),
        (lambda v, w, b, c, k: F.gibbs(v, w, b, c, k[:1]), ValueError, "keys: expected 4 values"),
        (lambda v, w, b, c, k: F.gibbs(v[:, :2], w, b, c, k), ValueError, "weight: expected 2 features"),
        (lambda v, w, b, c, k: F.gibbs(v, w, b, c, k, backend="triton"), ValueError, "backend: gibbs has kernels for"),
        (lambda v, w, b, c, k: F.nade(-v, w.T, w.T, b, c), ValueError, r"visible: expected values in \[0, 1\], got -1"),
        (lambda v, w, b, c, k: F.nade(v, w.T, w, b, c), ValueError, "output: expected"),
        (lambda v, w, b, c, k: F.nade(v, w, w, b, c), ValueError, "visible: expected 2 columns"),
        (lambda v, w, b, c, k: F.nade_sample(w.T, w.T, b, c, k.float()), TypeError, "keys: expected integers"),
        (lambda v, w, b, c, k: F.gaussian_information(v, v[:2]), ValueError, "b: expected 4 rows"),
        (
            lambda v, w, b, c, k: RestrictedBoltzmannMachine(30, 21).log_partition(exact=True),
            ValueError,
            "exact: expected at most 20 units to enumerate, got 21",
        ),
        (lambda v, w, b, c, k: RestrictedBoltzmannMachine(3, 0), ValueError, "hidden: expected at least one unit"),
    ],
)
def test_wrong_arguments_are_named(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call(torch.ones(4, 3), torch.ones(2, 3), torch.zeros(3), torch.zeros(2), torch.arange(4))


def test_no_rows_are_no_samples() -> None:
    w = torch.ones(2, 3)
    assert F.gibbs(torch.ones(0, 3), w, torch.zeros(3), torch.zeros(2), torch.arange(0)).shape == (0, 3)
    rows = F.nade(torch.ones(0, 2), w, w, torch.zeros(2), torch.zeros(3), reduction="none")
    assert rows.shape == (0,) and float(F.nade(torch.ones(0, 2), w, w, torch.zeros(2), torch.zeros(3))) == 0
