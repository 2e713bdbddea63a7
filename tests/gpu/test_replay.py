"""Replayed lists of launches: the bits of a call that prepares its launches, whatever differs between calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
import fastssl.functional as F
from tests.support import TRITON_DEVICE as DEVICE
from tests.support.subjects import SUBJECTS

pytest.importorskip("triton")
operators = pytest.importorskip("fastssl.ops.triton.operators")
from fastssl.ops.triton import plan, replay  # noqa: E402

NAMES = ["nt_xent", "clip_loss", "siglip_loss", "sup_con", "linear_cross_entropy", "multi_similarity", "triplet_all"]


def plans() -> list[Any]:
    found = [f.plans for f in operators.REPLAYED]
    return [kept for each in found for kept in each.values()]


@pytest.fixture(autouse=True)
def _no_plans() -> Iterator[None]:
    operators.forget_replays()
    yield
    operators.forget_replays()


def recorded() -> list[Any]:
    return [kept for kept in plans() if isinstance(kept, plan.Plan)]


def of_draw(name: str, seed: int, dtype: torch.dtype, d: int = 24) -> list[Tensor]:
    torch.manual_seed(seed)
    subject = SUBJECTS[name]
    return subject.gradients(subject.make(19, d, dtype, 0.2).to(device=DEVICE), backend="triton")


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name in NAMES if name in SUBJECTS])
def test_the_third_call_has_the_bits_of_a_first(name: str, dtype: torch.dtype) -> None:
    for seed in range(2):
        of_draw(name, seed, dtype)
    assert recorded() and not any(kept is replay.NEVER for kept in plans())
    third = of_draw(name, 2, dtype)
    operators.forget_replays()
    for again, right in zip(third, of_draw(name, 2, dtype)):
        assert torch.equal(again, right)


def step(loss: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def nt_xent(a: Tensor, b: Tensor) -> Tensor:
    return F.nt_xent(a, b, temperature=0.2, backend="triton")


def test_results_are_new_tensors() -> None:
    inputs = [torch.randn(9, 16, device=DEVICE) for _ in range(2)]
    for _ in range(2):
        step(nt_xent, *inputs)
    first = step(nt_xent, *inputs)
    kept = [t.clone() for t in first]
    step(nt_xent, *(2 * t + 1 for t in inputs))
    assert all(torch.equal(a, b) for a, b in zip(first, kept))


def test_inference_first_training_after() -> None:
    inputs = [torch.randn(7, 16, device=DEVICE) for _ in range(2)]
    right = step(nt_xent, *inputs)
    with torch.inference_mode():
        for _ in range(3):
            nt_xent(*inputs)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(step(nt_xent, *inputs), right))


def test_rows_of_one_tensor_and_of_several() -> None:
    """Halves of a tensor share its memory: elsewhere in the next call."""
    whole = [torch.randn(3 * 10, 16, device=DEVICE) for _ in range(4)]
    ways = [lambda t: (t[:10], t[10:20]), lambda t: (t[10:20], t[20:]), lambda t: (t[:10].clone(), t[10:20].clone())]

    def clip(a: Tensor, b: Tensor) -> Tensor:
        return F.clip_loss(a, b, 3.0, backend="triton")

    for k, tensor in enumerate(whole):
        for way in ways:
            for got, right in zip(step(clip, *way(tensor)), step(clip, *(t.clone() for t in way(tensor)))):
                torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-6, msg=f"draw {k}")


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_tensor_as_both_sides(symmetric: bool) -> None:
    x, y = torch.randn(8, 16, device=DEVICE), torch.randn(8, 16, device=DEVICE)
    for a, b in [(x, y), (x, y), (x, y), (x, x), (y, y), (x, x), (y, x)]:
        got = F.info_nce(a, b, symmetric=symmetric, backend="triton")
        torch.testing.assert_close(
            got, F.info_nce(a, b, symmetric=symmetric, backend="reference"), rtol=1e-5, atol=1e-6
        )


def test_other_strides_numbers_and_budgets_are_other_lists() -> None:
    wide = torch.randn(12, 2, 300, device=DEVICE)
    rows = [wide[:, 0], wide[:, 1], wide[:, 0].contiguous(), wide[:, 1].contiguous()]
    for budget in (1 << 26, 1 << 18):
        fastssl.set_memory_budget(budget)
        for temperature in (0.2, 0.7):
            for a, b in [rows[:2], rows[2:]] * 3:
                got = F.nt_xent(a, b, temperature=temperature, backend="triton")
                right = F.nt_xent(a, b, temperature=temperature, backend="reference")
                torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-6)


def test_what_reads_from_the_device_is_not_replayed() -> None:
    calls = []

    @replay.replayed
    def function(x: Tensor) -> Tensor:
        calls.append(1)
        return x * float(x.sum())

    for k in range(4):
        x = torch.full((3,), float(k), device=DEVICE)
        assert function(x).tolist() == [3.0 * k * k] * 3
    assert len(calls) == 4


def test_operations_of_torch_are_replayed() -> None:
    """In place, several results, lists of tensors, views, constants."""
    calls = []
    constant = torch.arange(6.0, device=DEVICE).view(2, 3)

    @replay.replayed
    def function(x: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        calls.append(1)
        values, order = x.sort(dim=1)
        out = torch.empty_like(x)
        out.copy_(values).add_(constant)
        both = torch.cat([out.t(), x.view(3, 2)], 1)[1:]
        return both * factor, order.detach()[0]

    for _ in range(5):
        x = torch.randn(2, 3, device=DEVICE)
        both, order = function(x, 2.5)
        assert torch.equal(both, torch.cat([(x.sort(1).values + constant).t(), x.view(3, 2)], 1)[1:] * 2.5)
        assert torch.equal(order, x.sort(1).indices[0])
    assert len(calls) == 2
    assert function(torch.randn(2, 3, device=DEVICE), 1.0)[0].shape == (2, 4) and len(calls) == 3


def test_a_list_that_is_too_long_keeps_nothing_alive() -> None:
    """The strips of a large batch, all at once, were more than a GPU holds: in the second step."""
    alive = []

    @replay.replayed
    def function(x: Tensor) -> Tensor:
        strips = [weakref.ref(x + k) for k in range(3 * replay.LONGEST)]
        alive.append(sum(strip() is not None for strip in strips))
        return x + 1

    for _ in range(3):
        assert torch.equal(function(torch.zeros(2, device=DEVICE)), torch.ones(2, device=DEVICE))
    assert alive == [0, 0, 0] and list(function.plans.values()) == [replay.NEVER]


def test_few_lists_are_kept() -> None:
    @replay.replayed
    def function(x: Tensor) -> Tensor:
        return x + 1

    for n in range(1, replay.KEPT + 50):
        function(torch.zeros(n, device=DEVICE))
    assert len(function.plans) == replay.KEPT


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU's tiles, and so its lists, are others than the interpreter's")
@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [("circle", 5, 5), ("contrastive", 5, 9), ("triplet_hard", 5, 8), ("fast_ap", 6, 8), ("clip_loss", 3, 14)],
)
def test_a_step_of_few_rows_is_few_operations(name: str, forward: int, backward: int) -> None:
    """Kernels and operations of torch, with the gradients of all parameters; views that nobody takes are left out."""
    for seed in range(3):
        of_draw(name, seed, torch.float32)
    counts = [
        sum(
            len(step.launches) if isinstance(step, plan.Kernels) else not isinstance(step, plan.Allocation)
            for step in kept.steps
        )
        for kept in recorded()
    ]
    assert len(counts) == 2 and counts[0] <= forward and counts[1] <= backward, counts
