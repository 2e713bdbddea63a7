"""Attention that is trained on CPUs, against torch's in float64, whose dropout draws the same masks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastssl.functional._cpu import ATTENTION, REPLACED, attention, faster_dropout
from fastssl.ops import extension

pytestmark = pytest.mark.skipif(extension._C is None, reason="no kernels")
MODULE = importlib.import_module("fastssl.functional._cpu.attention")
MASKS = ("none", "causal", "bool", "float", "least", "keys", "queries", "columns", "own")


@pytest.fixture(autouse=True)
def _at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it takes less time and where it does not."""
    monkeypatch.setattr(MODULE, "_pays", lambda *_: True)


def _inputs(sizes: tuple[int, ...], dtype: torch.dtype, seed: int, length: float = 1.0) -> list[Tensor]:
    batch, heads, queries, keys, depth, width = sizes
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, queries, depth), (batch, heads, keys, depth), (batch, heads, keys, width)]
    made = [length * torch.randn(shape, generator=generator) for shape in (*shapes, (batch, heads, queries, width))]
    return [t.to(dtype) for t in made]


def _options(kind: str, sizes: tuple[int, ...], seed: int) -> dict[str, Any]:
    batch, heads, queries, keys = sizes[:4]
    seen = torch.rand(batch, heads, queries, keys, generator=torch.Generator().manual_seed(seed)) > 0.3
    seen[0, 0, 0] = False  # this query sees nothing
    least = torch.finfo(torch.float32).min
    return {
        "none": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": seen},
        "float": {"attn_mask": torch.randn(seen.shape).masked_fill(~seen, -torch.inf)},
        "least": {"attn_mask": torch.zeros(seen.shape).masked_fill(~seen, least)},
        "keys": {"attn_mask": seen[:1, :1, -1:]},
        "queries": {"attn_mask": seen[0, 0, :, :1]},
        "columns": {"attn_mask": seen.mT.contiguous().mT},
        "own": {"scale": 0.3},
    }[kind]


def _run(function: Callable[..., Tensor], inputs: list[Tensor], seed: int, **options: Any) -> list[Tensor]:
    """The result and the gradients of queries, keys and values."""
    torch.manual_seed(seed)
    leaves = [t.detach().requires_grad_() for t in inputs[:3]]
    mask = options.get("attn_mask")
    if mask is not None and mask.is_floating_point():
        options["attn_mask"] = (
            mask.to(inputs[0].dtype).clamp(min=torch.finfo(inputs[0].dtype).min).where(mask != -torch.inf, -torch.inf)
        )
    out = function(*leaves, **options)
    return [out.detach(), *torch.autograd.grad(out, leaves, inputs[3].to(out.dtype))]


def _compare(sizes: tuple[int, ...], kind: str, dropped: float, dtype: torch.dtype, seed: int, length: float) -> None:
    inputs, options = _inputs(sizes, dtype, seed, length), _options(kind, sizes, seed)
    given_options = {**options, "dropout_p": dropped}
    right = _run(ATTENTION, [t.double() for t in inputs], seed, **given_options)
    torchs, ours = (_run(function, inputs, seed, **given_options) for function in (ATTENTION, attention))
    if kind == "least":  # all keys of the first query: torch's flash kernel sees none, its composed one all of them
        for found in (right, torchs, ours):
            found[0] = found[0][:, :, 1:]
            del found[1:]
    # The rounding of a score is that of its weight.
    most = float((inputs[0].double() @ inputs[1].double().mT).abs().max()) * options.get("scale", sizes[4] ** -0.5)
    floor = 2e-7 + 6e-8 * most if dtype == torch.float32 else 3e-3
    for a, b, c, scale in zip(ours, torchs, right, _terms(inputs, given_options)):
        assert a.dtype == dtype and a.shape == b.shape
        ours_error, torchs_error = float((a - c).norm() / scale), float((b - c).norm() / scale)
        assert ours_error <= 1.5 * torchs_error + floor, (ours_error, torchs_error)


def _terms(inputs: list[Tensor], options: dict[str, Any]) -> list[float]:
    """Norms of the sums of sizes in place of numbers: what is rounded, where gradients cancel."""
    query, key, value, gradient = (t.double() for t in inputs)
    mask = options.get("attn_mask")
    given_mask = mask if mask is None or mask.dtype == torch.bool else mask.double()
    one = torch.eye(key.shape[2], dtype=torch.float64).expand(*key.shape[:2], -1, -1)
    plain = {k: v for k, v in options.items() if k in ("is_causal", "scale")}
    weights = ATTENTION(query, key, one, given_mask, **plain) / (1 - options["dropout_p"])
    pairs = weights * (gradient.abs() @ value.abs().mT) * options.get("scale", query.shape[-1] ** -0.5)
    terms = weights @ value.abs(), pairs @ key.abs(), pairs.mT @ query.abs(), weights.mT @ gradient.abs()
    return [float(t.norm()) + 1e-30 for t in terms]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", MASKS)
def test_errs_no_more_than_torch(kind: str, dtype: torch.dtype, isa: str) -> None:
    for sizes, dropped in (((2, 3, 37, 53, 40, 24), 0.0), ((1, 2, 130, 130, 64, 64), 0.2), ((2, 1, 1, 1, 1, 1), 0.0)):
        _compare(sizes, kind, dropped, dtype, 0, 1.0)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(
        *(st.integers(1, 2), st.integers(1, 2), st.integers(1, 140), st.integers(1, 140)),
        *(st.integers(1, 70), st.integers(1, 70)),
    ),
    kind=st.sampled_from(MASKS),
    dropped=st.sampled_from([0.0, 0.1, 0.9]),
    length=st.sampled_from([1e-3, 1.0, 6.0]),
    seed=st.integers(0, 99),
)
def test_any_sizes(sizes: tuple[int, ...], kind: str, dropped: float, length: float, seed: int) -> None:
    _compare(sizes, kind, dropped, torch.float32, seed, length)


LAYOUTS = ["packed", "by token", "transposed", "sliced", "expanded", "dense", "heads", "padded", "flat", "width"]


@pytest.mark.parametrize("layout", [*LAYOUTS, "windows"])
def test_layouts(layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(2, 45, 3, 4, 16, generator=generator)
    views: dict[str, Callable[[], list[Tensor]]] = {
        "packed": lambda: list(packed.permute(2, 0, 3, 1, 4)),
        "by token": lambda: [packed[:, :, k].transpose(1, 2) for k in range(3)],
        "transposed": lambda: [packed[:, :, k].permute(0, 2, 3, 1) for k in range(3)],
        "sliced": lambda: [packed[..., ::2].permute(2, 0, 3, 1, 4)[k] for k in range(3)],
        "expanded": lambda: [packed[:1, :, k].transpose(1, 2).expand(3, -1, -1, -1) for k in range(3)],
        "dense": lambda: [packed[:, :, k].transpose(1, 2).contiguous() for k in range(3)],
        "heads": lambda: [packed[:, :, k, :1].transpose(1, 2).expand(-1, 4, -1, -1) for k in range(3)],
        "padded": lambda: [packed[:, :, k, :, :9].transpose(1, 2) for k in range(3)],
        "flat": lambda: [
            packed[:, :, k].flatten(2).view(2, 45, 4, 16).transpose(0, 1).transpose(1, 2) for k in range(3)
        ],
        "width": lambda: [packed[:, :, k, :, : 16 - 4 * (k == 2)].transpose(1, 2).contiguous() for k in range(3)],
        "windows": lambda: [packed[:, :, k].transpose(1, 2)[..., 0].unfold(-1, 16, 1) for k in range(3)],
    }
    inputs = views[layout]()
    shape = (*inputs[0].shape[:3], inputs[2].shape[3])
    for gradient in (torch.ones(()).expand(shape), torch.randn(shape)):
        for dropped in (0.0, 0.3):
            ours, torchs = (_run(f, [*inputs, gradient], 0, dropout_p=dropped) for f in (attention, ATTENTION))
            assert ours[0].stride() == torchs[0].stride() or layout == "windows"  # whose elements are shared
            for a, b in zip(ours, torchs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_draws_go_on_where_torchs_do() -> None:
    inputs = _inputs((2, 3, 20, 30, 8, 8), torch.float32, 0)
    states = []
    for function in (ATTENTION, attention):
        _run(function, inputs, 3, dropout_p=0.25)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none(value: float) -> None:
    inputs = _inputs((1, 1, 40, 40, 8, 8), torch.float32, 0)
    inputs[0][0, 0, 3, 2] = value
    ours, torchs = (_run(f, inputs, 0) for f in (attention, ATTENTION))
    assert torch.equal(ours[0].isnan(), torchs[0].isnan()) and bool(ours[0].isnan().any())


def test_masks_that_are_no_numbers() -> None:
    inputs = _inputs((1, 1, 40, 40, 8, 8), torch.float32, 0)
    mask = torch.zeros(40, 40)
    mask[3, 2] = torch.nan
    ours, torchs = (_run(f, inputs, 0, attn_mask=mask) for f in (attention, ATTENTION))
    assert bool(ours[0][0, 0, 3].isnan().all()) and torch.equal(ours[0].isnan(), torchs[0].isnan())


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_gradients_of_some_inputs(frozen: tuple[int, ...]) -> None:
    inputs, found = _inputs((2, 2, 40, 50, 8, 8), torch.float32, 0), []
    for function in (attention, ATTENTION):
        leaves = [t.detach().requires_grad_(k not in frozen) for k, t in enumerate(inputs[:3])]
        found.append(torch.autograd.grad(function(*leaves), [t for t in leaves if t.requires_grad], inputs[3]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropped", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float"])
def test_second_derivatives_and_many_gradients(kind: str, dropped: float) -> None:
    sizes = (1, 2, 9, 11, 4, 5)
    options = {**_options(kind, sizes, 0), "dropout_p": dropped}
    results = []
    for function, dtype in ((attention, torch.float32), (_composed, torch.float64)):
        torch.manual_seed(0)
        inputs = [t.to(dtype).requires_grad_() for t in _inputs(sizes, torch.float32, 0)]
        out = function(*inputs[:3], **options)
        firsts = torch.autograd.grad(out, inputs[:3], inputs[3], create_graph=True)
        second = torch.autograd.grad(sum((f**2).sum() for f in firsts), inputs, retain_graph=True)
        (mapped,) = torch.autograd.grad(out, inputs[1], torch.stack([inputs[3], -inputs[3]]), is_grads_batched=True)
        results.append([*second, mapped])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


def _composed(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """torch's own composition, which has second derivatives."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return ATTENTION(query, key, value, **options)


@pytest.mark.parametrize(
    "case",
    ["no gradient", "groups", "3 dimensions", "float64", "trained mask", "both masks", "sizes", "empty", "a flag"],
)
def test_all_else_is_torchs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (1, 1, 0, 4, 8, 8) if case == "empty" else (2, 4, 6, 6, 8, 8)
    inputs = _inputs(sizes, torch.float64 if case == "float64" else torch.float32, 0)
    options: dict[str, Any] = {}
    if case == "groups":
        inputs[1:3] = [t[:, :2] for t in inputs[1:3]]
        options["enable_gqa"] = True
    if case == "3 dimensions":
        inputs = [t.flatten(0, 1) for t in inputs]
    if case in ("trained mask", "both masks"):
        options["attn_mask"] = torch.zeros(6, 6, requires_grad=case == "trained mask")
        options["is_causal"] = case == "both masks"
    if case == "a flag":
        options["is_causal"] = 1
    if case == "sizes":
        inputs[1] = inputs[1][:, :, :4]
    seen: list[Any] = []
    for function in (ATTENTION, attention):
        leaves = [t.detach().requires_grad_(case != "no gradient") for t in inputs[:3]]
        try:
            out = function(*leaves, **options)
            seen.append(out.detach())
            assert "_Attention" not in type(out.grad_fn).__name__
        except (RuntimeError, TypeError) as error:
            seen.append(str(error))
    assert seen[0] == seen[1] if isinstance(seen[0], str) else torch.equal(*seen)


def test_autocast_has_its_dtype_and_more_digits() -> None:
    inputs = _inputs((2, 3, 50, 50, 16, 16), torch.float32, 0)
    half = [t.bfloat16() for t in inputs]
    right = _run(ATTENTION, [t.double() for t in half], 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(*(t.requires_grad_() for t in inputs[:3])).dtype == torch.bfloat16
        ours, torchs = (_run(f, half, 0) for f in (attention, ATTENTION))
    for a, b, c in zip(ours, torchs, right, strict=True):
        assert a.dtype == torch.bfloat16
        assert float((a - c).norm()) <= 1.01 * float((b - c).norm())


def test_little_work_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    tokens = {"few": 20, "many": 300, "long": 800}
    pays = []
    for dtype, amx in ((torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        for count in tokens.values():
            t = torch.empty(1, 4, count, 64, dtype=dtype)
            monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
            assert not MODULE._pays(t, t, t, True)  # fewer heads than threads
            monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
            pays.append((MODULE._pays(t, t, t, False), MODULE._pays(t, t, t, True)))
    first, half, plain = pays[:3], pays[3:6], pays[6:]
    assert first == half == [(False, False), (True, True), (False, True)]
    assert plain == [(False, False), (True, True), (True, True)]


def test_exact_contexts_leave_16_bits_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    t = torch.randn(2, 4, 200, 16, requires_grad=True)
    exact = [True]
    with faster_dropout(lambda: exact[0]):
        for given_exact in (True, False):
            exact[0] = given_exact
            for half in (t.bfloat16(), t):
                with torch.autocast("cpu", torch.bfloat16, enabled=half is t):
                    out = TF.scaled_dot_product_attention(half, half, half)
                assert bool((out == ATTENTION(*(half.bfloat16(),) * 3)).all()) == given_exact


@pytest.mark.threads
def test_bits_do_not_depend_on_threads() -> None:
    inputs, found = _inputs((3, 5, 70, 90, 24, 24), torch.float32, 0), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(_run(attention, inputs, 0, dropout_p=0.1))
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_the_context_replaces_torchs() -> None:
    with faster_dropout():
        assert TF.scaled_dot_product_attention is REPLACED["scaled_dot_product_attention"][0]
    assert TF.scaled_dot_product_attention is ATTENTION
