"""``F.linear_cross_entropy`` with the options of language models, against torch's own cross-entropy of the logits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl
import fastssl.functional as F
from fastssl.functional._precision import multiplied

B, T, D, V = 3, 7, 12, 37


def _inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, T, D, generator=g, dtype=torch.float64).to(dtype)
    weight, bias = (torch.randn(*s, generator=g, dtype=torch.float64).to(dtype) for s in ((V, D), (V,)))
    targets = torch.randint(0, V, (B, T), generator=g)
    targets[0, :3] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets


def _eager(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, **o: Any) -> Tensor:
    logits = hidden @ weight.T + (0 if bias is None else bias)
    if o.get("softcap") is not None:
        logits = o["softcap"] * torch.tanh(logits / o["softcap"])
    if o.get("shift"):
        logits, targets = logits[:, :-1], targets[:, 1:]
    logits, targets = logits.flatten(0, -2), targets.flatten()
    reduction = o.get("reduction", "mean")
    loss = TF.cross_entropy(
        logits, targets, o.get("class_weights"), reduction=reduction, label_smoothing=float(o.get("label_smoothing", 0))
    )
    z = o.get("z_loss", 0) * logits.logsumexp(1).square()
    z = torch.where(targets != -100, z, 0)
    if reduction == "none":
        return loss + z
    return loss + (z.sum() / (targets != -100).sum() if reduction == "mean" else z.sum())


OPTIONS = [
    dict(zip(("label_smoothing", "z_loss", "softcap", "class_weights", "shift"), given))
    for given in itertools.product((0.0, 0.1), (0.0, 0.01), (None, 3.0), (None, "some"), (False, True))
]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_cross_entropy_of_the_logits(options: dict[str, Any], reduction: str) -> None:
    hidden, weight, bias, targets = _inputs()
    given = {**options, "reduction": reduction}
    if given["class_weights"] is not None:
        given["class_weights"] = torch.linspace(0.5, 2, V, dtype=torch.float64)
    found, right = (
        [loss, *torch.autograd.grad(loss, (hidden, weight, bias))]
        for loss in (
            F.linear_cross_entropy(hidden, weight, targets, bias, **given),
            _eager(hidden, weight, targets, bias, **given),
        )
    )
    for a, b in zip(found, right):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_rows_of_sequences_keep_their_shape() -> None:
    hidden, weight, _, targets = _inputs()
    rows = F.linear_cross_entropy(hidden, weight, targets, reduction="none", label_smoothing=0.2)
    assert rows.shape == targets.shape and not rows[targets == -100].any()
    right = _eager(hidden, weight, targets, None, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(rows.flatten(), right)
    plain = F.linear_cross_entropy(hidden, weight, targets, reduction="none")
    torch.testing.assert_close(
        plain.flatten(), F.linear_cross_entropy(hidden.flatten(0, 1), weight, targets.flatten(), reduction="none")
    )


def test_gradients_of_the_options() -> None:
    hidden, weight, bias, targets = _inputs()
    for softcap in (None, 3.0):
        given = {"label_smoothing": 0.1, "z_loss": 0.02, **({} if softcap is None else {"softcap": softcap})}
        for name, value in given.items():
            leaf = torch.tensor(value, dtype=torch.float64, requires_grad=True)
            F.linear_cross_entropy(hidden, weight, targets, bias, **{**given, name: leaf}).backward()
            h = 1e-6
            up, down = (
                float(F.linear_cross_entropy(hidden, weight, targets, bias, **{**given, name: value + d}).detach())
                for d in (h, -h)
            )
            assert leaf.grad is not None and float(leaf.grad) == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_softcap_compiles_in_one_piece_over_several_strips() -> None:
    hidden, weight, targets = torch.randn(80, 8), torch.randn(300, 8), torch.arange(80)
    cap = torch.tensor(3.0)
    leaves = [t.requires_grad_() for t in (hidden, weight, cap)]

    def loss(hidden: Tensor, weight: Tensor, cap: Tensor) -> Tensor:
        return F.linear_cross_entropy(hidden, weight, targets, softcap=cap, label_smoothing=0.1)

    torch._dynamo.reset()
    before = fastssl.get_memory_budget()
    fastssl.set_memory_budget(1)  # strips of 32 rows
    try:
        whole = torch.compile(loss, fullgraph=True, backend="aot_eager")
        found, wanted = (torch.autograd.grad(f(*leaves), leaves) for f in (whole, loss))
    finally:
        fastssl.set_memory_budget(before)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hidden_of_16_bits_with_master_weights(dtype: torch.dtype) -> None:
    hidden, weight, bias, targets = _inputs(torch.float32)
    half = hidden.detach().to(dtype).requires_grad_()
    loss = F.linear_cross_entropy(half, weight, targets, bias)
    to_hidden, to_weight = torch.autograd.grad(loss, (half, weight))
    assert loss.dtype == to_weight.dtype == torch.float32 and to_hidden.dtype == dtype
    right = _eager(half.double(), weight.double(), targets, bias.double())
    torch.testing.assert_close(loss.double(), right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [-1, V, 2**40])
def test_targets_out_of_range(bad: int) -> None:
    hidden, weight, _, targets = _inputs(torch.float32)
    targets[1, 2] = bad
    for options in ({}, {"label_smoothing": 0.1}, {"softcap": 2.0}):
        with pytest.raises(ValueError, match=f"targets.*{bad}"):
            F.linear_cross_entropy(hidden, weight, targets, **options)


def test_wrong_options_say_what_is_wrong() -> None:
    hidden, weight, _, targets = _inputs(torch.float32)
    for options, error, text in (
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing.*\[0, 1\].*1.5"),
        ({"z_loss": -1.0}, ValueError, "z_loss.*>= 0.*-1"),
        ({"softcap": 0.0}, ValueError, "softcap.*> 0"),
        ({"class_weights": torch.ones(3)}, ValueError, r"class_weights.*\(37,\).*\(3,\)"),
        ({"class_weights": torch.ones(V).long()}, TypeError, "class_weights.*floating"),
        ({"shift": 1}, TypeError, "shift.*True or False"),
    ):
        with pytest.raises(error, match=text):
            F.linear_cross_entropy(hidden, weight, targets, **options)
    with pytest.raises(ValueError, match="targets.*as hidden"):
        F.linear_cross_entropy(hidden, weight, targets[:, :3])
    with pytest.raises(ValueError, match=r"shift.*\[batch, length\]"):
        F.linear_cross_entropy(hidden[0], weight, targets[0], shift=True)


def test_compiled_heads_within_autocast_have_the_dtype_of_eager_ones(any_isa: str) -> None:
    """Dynamo reads what the instruction set multiplies, and compiles again where that changes."""
    rows = torch.randn(4, D), torch.randn(V, D)
    compiled = torch.compile(lambda a, b: multiplied(a, b), backend="eager", fullgraph=True)
    for other in ("portable", any_isa):
        fastssl.instruction_set(other)
        with torch.autocast("cpu", torch.bfloat16):
            expected, found = multiplied(*rows), compiled(*rows)
        assert [t.dtype for t in found] == [t.dtype for t in expected]
    assert expected[0].dtype == (torch.bfloat16 if fastssl.info()["bf16_dot_products"] else torch.float32)


def test_softcap_of_rows_against_themselves() -> None:
    """The hidden states are the weights: each row has a logit with itself, too."""
    x, targets = torch.randn(9, D, dtype=torch.float64, requires_grad=True), torch.arange(9).roll(1)
    right = _eager(x, x, targets, None, softcap=5.0)
    got = F.linear_cross_entropy(x, x, targets, softcap=5.0)
    torch.testing.assert_close(got, right)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (got, right)))


@pytest.mark.parametrize("options", [{"z_loss": 1e-3}, {"class_weights": torch.rand(V, dtype=torch.float64)}])
def test_classes_with_a_bias_of_minus_infinity_are_none(options: dict[str, Any]) -> None:
    hidden, weight, bias, targets = _inputs()
    out = torch.arange(0, V, 5)
    targets[(targets % 5 == 0) & (targets >= 0)] += 1
    masked = bias.detach().index_fill(0, out, float("-inf"))
    right = _eager(hidden, weight, targets, masked, **options)
    got = F.linear_cross_entropy(hidden, weight, targets, masked, **options)
    torch.testing.assert_close(got, right)
    for a, b in zip(*(torch.autograd.grad(loss, (hidden, weight)) for loss in (got, right))):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_softcap_sums_gradients_of_many_strips_in_full(dtype: torch.dtype) -> None:
    h, w, targets = torch.randn(4000, D).to(dtype), torch.randn(50, D).to(dtype), torch.randint(0, 50, (4000,))
    fastssl.set_memory_budget(0)
    ours = w.clone().requires_grad_()
    F.linear_cross_entropy(h, ours, targets, softcap=10.0, reduction="sum").backward()
    exact = w.double().requires_grad_()
    _eager(h.double(), exact, targets, None, softcap=10.0, reduction="sum").backward()
    assert ours.grad is not None and exact.grad is not None
    rounding = (exact.grad.to(dtype) - exact.grad).norm()
    assert (ours.grad - exact.grad).norm() <= 1.5 * rounding


def test_softcap_smooths_16_bits_over_any_number_of_classes() -> None:
    h, w, targets = torch.randn(60, D).bfloat16(), torch.randn(3, D).bfloat16(), torch.randint(0, 3, (60,))
    options: dict[str, Any] = {"softcap": 5.0, "label_smoothing": 0.3}
    right = _eager(h.double(), w.double(), targets, None, **options)
    torch.testing.assert_close(F.linear_cross_entropy(h, w, targets, **options).double(), right, rtol=1e-6, atol=0)


@pytest.mark.threads
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{"label_smoothing": 0.1, "z_loss": 1e-3}, {"class_weights": 1}])
@pytest.mark.parametrize("shape", [(193, 331, 33), (500, 33, 129), (3, 70_001, 8), (70_001, 3, 8)])
def test_options_have_the_same_bits_for_any_number_of_threads(
    shape: tuple[int, int, int], options: dict[str, Any], dtype: torch.dtype
) -> None:
    n, m, d = shape
    hidden, weight, bias = (torch.randn(*s, dtype=dtype, requires_grad=True) for s in ((n, d), (m, d), (m,)))
    targets, given, results = torch.randint(0, m, (n,)), [hidden, weight, bias], []
    if "class_weights" in options:
        options = {"class_weights": torch.rand(m, dtype=dtype, requires_grad=True), "label_smoothing": 0.2}
        given.append(options["class_weights"])
    for threads in (1, 2, 3, 7, 16):
        torch.set_num_threads(threads)
        loss = F.linear_cross_entropy(hidden, weight, targets, bias, **options)
        results.append([loss.detach(), *torch.autograd.grad(loss, given)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_softcap_sums_the_bias_of_thousands_of_strips_in_full() -> None:
    h, w, b = torch.randn(1, D).expand(40_000, D), torch.randn(3, D), torch.zeros(3, requires_grad=True)
    targets, grads = torch.arange(40_000) % 3, []
    fastssl.set_memory_budget(0)
    for dtype in (torch.float32, torch.float64):
        loss = F.linear_cross_entropy(h.to(dtype), w.to(dtype), targets, b.to(dtype), softcap=5.0, reduction="sum")
        grads.append(torch.autograd.grad(loss, b)[0].double())
    torch.testing.assert_close(*grads, rtol=2e-6, atol=2e-6 * 40_000 / 3)
