"""Derivatives that are not those of a backward pass: right on every backend, or an error that says what has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import fastssl
import fastssl.functional as F
from tests.support.subjects import SUBJECTS, Inputs

REFUSED = "no forward-mode derivative; use the reference backend|no second derivative.*reference backend"
OF_TORCH = "_cdist_forward|_euclidean_dist|_cdist_backward"  # which has no further derivatives itself


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that vmap is a loop, and loads formulas as TorchScript
        yield


def _backward(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    value = function(leaf)
    return torch.autograd.grad(value, leaf)[0] if value.requires_grad else torch.zeros_like(x)


def _tangents(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Iterator[Callable[[], Tensor]]:
    yield lambda: torch.func.jvp(function, (x,), (v,))[1]

    def dual() -> Tensor:
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, v))).tangent
            return torch.zeros(()) if tangent is None else tangent.clone()

    yield dual


def _right_or_refused(call: Callable[[], Tensor], expected: Tensor, backend: str) -> None:
    try:
        found = call()
    except (RuntimeError, NotImplementedError) as error:
        with pytest.raises(type(error), match=REFUSED if backend == "cpu" else OF_TORCH):
            raise
        return
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_forward_mode_and_second_derivatives(name: str, backend: str) -> None:
    """Of every argument; the slope is that of the backward pass, also where targets have none."""
    subject = SUBJECTS[name]
    inputs = subject.make(10, 6)
    with fastssl.backend(backend):
        for key in (k for k, t in inputs.items() if t.is_floating_point()):

            def loss(t: Tensor, key: str = key) -> Tensor:
                return subject(Inputs({**inputs, key: t})).sum()

            x = inputs[key]
            v = torch.randn_like(x)
            slope = (_backward(loss, x) * v).sum()
            for call in _tangents(loss, x, v):
                _right_or_refused(call, slope, backend)
            leaf = x.clone().requires_grad_()
            value = loss(leaf)
            if not value.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
            if gradient.requires_grad:  # of a loss that is linear it depends on nothing
                try:
                    torch.autograd.grad(gradient.sum(), leaf, allow_unused=True)
                except (RuntimeError, NotImplementedError) as error:
                    with pytest.raises(type(error), match=REFUSED if backend == "cpu" else OF_TORCH):
                        raise


@pytest.mark.parametrize("name", SUBJECTS)
def test_vmap_is_a_loop(name: str) -> None:
    """Over each argument alone, with the gradients of each."""
    subject = SUBJECTS[name]
    inputs = subject.make(10, 6)
    keys = [k for k, t in inputs.items() if t.is_floating_point()]
    for key in keys:
        batch = torch.stack([inputs[key], inputs[key] * 1.1])

        def loss(t: Tensor, key: str = key) -> Tensor:
            return subject(Inputs({**inputs, key: t})).sum()

        torch.testing.assert_close(torch.func.vmap(loss)(batch), torch.stack([loss(t) for t in batch]))
        for other in keys:

            def of_other(t: Tensor, u: Tensor, key: str = key, other: str = other) -> Tensor:
                return subject(Inputs({**inputs, key: t, other: u})).sum()

            def point(t: Tensor, key: str = key, other: str = other) -> Tensor:
                return t if other == key else inputs[other]

            mapped = torch.func.vmap(lambda t: torch.func.grad(of_other, 1)(t, point(t)))(batch)
            expected = torch.stack([_backward(lambda u: of_other(t, u), point(t)) for t in batch])  # noqa: B023
            torch.testing.assert_close(mapped, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SUBJECTS)
def test_vmap_over_no_argument(name: str) -> None:
    """A transform may be at work on other tensors than those of the loss."""
    subject = SUBJECTS[name]
    inputs = subject.make(10, 6)
    value = subject(inputs).sum()
    factors = torch.tensor([1.0, 2.0], dtype=value.dtype)
    torch.testing.assert_close(torch.func.vmap(lambda a: a * subject(inputs).sum())(factors), factors * value)
    found = torch.func.grad(lambda a: a * subject(inputs).sum())(factors[1])
    torch.testing.assert_close(found, value)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_vmap_over_upstream_gradients(name: str, backend: str) -> None:
    """Of the same rows, as in torch.func.jacrev."""
    subject = SUBJECTS[name]
    inputs = subject.make(10, 6)
    key = next(k for k, t in inputs.items() if t.is_floating_point())

    def loss(t: Tensor) -> Tensor:
        return subject(Inputs({**inputs, key: t})).sum()

    factors = torch.tensor([1.0, -2.0], dtype=inputs[key].dtype)
    with fastssl.backend(backend):
        mapped = torch.func.vmap(torch.func.grad(lambda t, a: a * loss(t)), (None, 0))(inputs[key], factors)
        slope = _backward(loss, inputs[key])
        expected = torch.stack([a * slope for a in factors])
    torch.testing.assert_close(mapped, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: F.nearest(x, y, 2)[0],
        lambda x, y: F.pairwise_distance(x, y),
        lambda x, y: F.pair_loss(x, y, term=lambda s, pairs: s.exp()),
        lambda x, y: F.pairwise_reduce(x, y),
        lambda x, y: F.sinkhorn(x),
    ],
    ids=["nearest", "pairwise_distance", "pair_loss", "pairwise_reduce", "sinkhorn"],
)
def test_vmap_over_no_argument_of_distances(call: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, y = torch.randn(2, 9, 4).unbind()
    factors = torch.tensor([1.0, 2.0])
    found = torch.func.vmap(lambda a: a * call(x, y).sum())(factors)
    torch.testing.assert_close(found, factors * call(x, y).sum())


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean", "sqeuclidean", "manhattan", "chebyshev"])
@pytest.mark.parametrize("function", [F.nearest, F.farthest])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_distances_to_the_nearest_have_tangents(
    function: Callable[..., tuple[Tensor, Tensor]], metric: str, backend: str
) -> None:
    """They were 0 with kernels."""
    x, y, v = torch.randn(3, 9, 4, dtype=torch.float64).unbind()
    with fastssl.backend(backend):
        for of in (
            lambda t: function(t, None, 2, metric=metric)[0].sum(),
            lambda t: function(t, y, 2, metric=metric)[0].sum(),
            lambda t: function(y, t, 2, metric=metric)[0].sum(),
        ):
            for call in _tangents(of, x, v):
                torch.testing.assert_close(call(), (_backward(of, x) * v).sum())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_balanced_targets_have_no_tangents(backend: str) -> None:
    """As they have no gradients."""
    x, v = torch.randn(2, 9, 4, dtype=torch.float64).unbind()
    with fastssl.backend(backend):
        for call in _tangents(lambda t: (F.sinkhorn(t) * v).sum(), x, v):
            assert float(call()) == 0
