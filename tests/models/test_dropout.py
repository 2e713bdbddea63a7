"""Dropout on CPUs: torch's masks, faster."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastssl.functional._cpu import ATTENTION, DROPOUT, REPLACED, dropout, faster_dropout
from fastssl.functional._cpu.dropout import MIN_ELEMENTS, draws_in_turn
from fastssl.models import FasterCpuOperations
from fastssl.ops import extension

pytestmark = pytest.mark.skipif(extension._C is None, reason="no kernels")


def _both(call: Callable[[Callable[..., Tensor]], Tensor], words: int = 0) -> None:
    """torch's result and ours, and what their generator draws next, after some 32-bit words."""
    found = []
    for function in (DROPOUT, dropout):
        torch.manual_seed(words)
        torch.empty(words, dtype=torch.int32).random_(-(2**31), None)
        result = call(function)
        found.append((result, torch.get_rng_state()))
    (expected, state), (result, other) = found
    assert result.dtype == expected.dtype and result.stride() == expected.stride()
    assert torch.equal(result.nan_to_num(7.0), expected.nan_to_num(7.0)) and torch.equal(state, other)
    assert torch.equal(result.signbit() | result.isnan(), expected.signbit() | expected.isnan())


@pytest.fixture(params=[True, False] if extension._C is not None and draws_in_turn() else [False])
def in_turn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """False: as where torch draws with MKL, which is all that there is on such a machine."""
    if not request.param:
        monkeypatch.setattr(sys.modules["fastssl.functional._cpu.dropout"], "draws_in_turn", lambda: False)
    return bool(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_masks_are_torchs(dtype: torch.dtype, isa: str, in_turn: bool) -> None:
    """At every place of a state, of an even and an odd number of words, and for subnormal numbers and NaN."""
    scales = 10.0 ** torch.arange(-44, 30)
    for words, count, p in [
        *((words, MIN_ELEMENTS, 0.1) for words in (0, 1, 2, 311, 622, 623, 624, 625)),
        *((3, MIN_ELEMENTS + more, 0.5) for more in (1, 7, 311, 312, 313)),
        *((words, 100_003, p) for words in (0, 5) for p in (1e-9, 1e-4, 0.3, 0.9, 1 - 1e-9)),
    ]:
        x = (torch.randn(count) * scales[torch.arange(count) % len(scales)]).to(dtype)
        x[::1001] = torch.nan
        _both(lambda function, x=x, p=p: function(x, p), words)  # type: ignore[misc]


@pytest.mark.threads
def test_masks_are_torchs_for_any_number_of_threads() -> None:
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for count in (65_537, 300_001):
            _both(lambda function, count=count: function(torch.randn(count), 0.2), 9)  # type: ignore[misc]


def test_masks_are_those_of_uniform_numbers(isa: str) -> None:
    """Which torch always draws in turn, also where it draws masks with MKL: whatever is left of a state."""
    assert extension._C is not None
    for words in (0, 1, 620, 621, 622, 623, 624):
        for count in (0, 1, 2, 3, 313, 10_007):
            torch.manual_seed(words)
            torch.empty(words, dtype=torch.int32).random_(-(2**31), None)
            before = torch.get_rng_state()
            expected, after = torch.rand(count, dtype=torch.float64) < 0.6, torch.get_rng_state()
            torch.set_rng_state(before)
            found = torch.empty(count, dtype=torch.bool)
            extension._C.draw_kept(torch.default_generator, 0.6, found.data_ptr(), count)
            assert torch.equal(found, expected) and torch.equal(torch.get_rng_state(), after)
    with pytest.raises(ValueError, match="probability"):
        extension._C.draw_kept(torch.default_generator, 1.5, 0, 0)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[:, ::2],
        lambda x: x[:, :1],
        lambda x: x[:1].expand(4, -1, -1, -1),
        lambda x: x.flatten(1).t(),
    ],
)
def test_layouts(view: Callable[[Tensor], Tensor]) -> None:
    x = view(torch.randn(3, 8, 40, 50))
    _both(lambda function: function(x, 0.3))
    gradients = []
    for function in (DROPOUT, dropout):
        torch.manual_seed(0)
        leaf = x.detach().requires_grad_()
        function(leaf, 0.3).sum().backward()  # an expanded gradient
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_derivatives() -> None:
    x = torch.randn(2 * MIN_ELEMENTS, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (DROPOUT, dropout):
        torch.manual_seed(0)
        y = function(x, 0.4)
        (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), x)
        (batched,) = torch.autograd.grad(
            function(x, 0.4), x, torch.ones(2, 2 * MIN_ELEMENTS).double(), is_grads_batched=True
        )
        results.append([y, first, second, batched])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-15, atol=0)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        with faster_dropout():
            assert torch.autograd.forward_ad.unpack_dual(TF.dropout(dual, 0.4)).tangent is not None


def test_other_ways_of_running_are_torchs() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return TF.scaled_dot_product_attention(x, x, x, dropout_p=0.1)

    network = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Dropout(0.3), nn.Flatten(2), Attention())
    x = torch.randn(64, 16, 8, 8)
    torch.manual_seed(0)
    expected = network(x)
    with FasterCpuOperations(), faster_dropout():
        ways = [torch.jit.script(network), torch.compile(network, fullgraph=True, backend="eager")]
        ways += [torch.export.export(network, (x,)).module()]
        for way in ways:
            torch.manual_seed(0)
            torch.testing.assert_close(way(x), expected)


def test_contexts_may_end_in_any_order() -> None:
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(faster_dropout())
    second.enter_context(faster_dropout())
    first.close()
    assert TF.dropout is REPLACED["dropout"][0]
    second.close()
    assert TF.dropout is DROPOUT and TF.scaled_dot_product_attention is ATTENTION
    with pytest.MonkeyPatch.context() as others:
        others.setattr(TF, "dropout", lambda *a, **k: DROPOUT(*a, **k))
        with faster_dropout():
            assert TF.dropout is not REPLACED["dropout"][0]
    assert TF.dropout is DROPOUT


@pytest.mark.parametrize("case", ["few", "inplace", "none", "all", "tensor"])
def test_other_dropout_is_torchs(case: str) -> None:
    results = []
    for context in (contextlib.nullcontext(), faster_dropout()):
        torch.manual_seed(0)
        input = torch.randn(100 if case == "few" else 2 * MIN_ELEMENTS)
        p: Any = {"none": 0.0, "all": 1.0, "tensor": torch.tensor(0.3)}.get(case, 0.3)
        with context:
            results.append(TF.dropout(input, p, inplace=case == "inplace"))
    assert torch.equal(*results)


def test_what_a_wrapper_keeps_of_a_context_is_torchs_afterwards() -> None:
    with faster_dropout():
        kept = TF.dropout
        assert "_Scaled" in type(kept(torch.ones(2 * MIN_ELEMENTS, requires_grad=True), 0.1).grad_fn).__name__
    assert "_Scaled" not in type(kept(torch.ones(2 * MIN_ELEMENTS, requires_grad=True), 0.1).grad_fn).__name__


def test_the_default_device_and_generators_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "manual_seed", None)  # which seeds GPUs, too
    draws_in_turn.cache_clear()
    before, x = torch.get_rng_state(), torch.ones(2 * MIN_ELEMENTS)
    with faster_dropout(), torch.device("meta"):
        found = TF.dropout(x, 0.3)
    torch.set_rng_state(before)
    assert found.device.type == "cpu" and torch.equal(found, DROPOUT(x, 0.3))
    before = torch.get_rng_state()
    draws_in_turn.cache_clear()
    draws_in_turn()
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_of_other_threads_are_not_made_again() -> None:
    """A generator that another thread has drawn from while ours were made."""

    class Disturbed:
        def __init__(self) -> None:
            self.own, self.asked = torch.Generator().manual_seed(3), 0

        def get_state(self) -> Tensor:
            self.asked += 1
            if self.asked == 2:
                torch.rand(7, generator=self.own)
            return self.own.get_state()

        def set_state(self, state: Tensor) -> None:
            self.own.set_state(state)

    assert extension._C is not None
    disturbed, expected = Disturbed(), torch.Generator().manual_seed(3)
    kept = torch.empty(500, dtype=torch.bool)
    extension._C.draw_kept(disturbed, 0.5, kept.data_ptr(), 500)  # type: ignore[arg-type]
    torch.rand(7, generator=expected)
    assert torch.equal(kept, torch.rand(500, dtype=torch.float64, generator=expected) < 0.5)
    assert torch.equal(disturbed.own.get_state(), expected.get_state())


def test_modes_see_the_functions() -> None:
    seen: list[Any] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(2 * MIN_ELEMENTS)
    with faster_dropout(), Watch():
        TF.dropout(x, 0.3)
        assert seen == [TF.dropout]


def test_sizes_may_be_dynamic_in_exports() -> None:
    sizes = {"x": {0: torch.export.Dim("rows", min=2, max=4096)}}
    with faster_dropout():
        torch.export.export(nn.Sequential(nn.Dropout(0.1)), (torch.ones(20, 64),), dynamic_shapes=({0: sizes["x"][0]},))
