"""Settings for the time of a ``with`` block count in compiled code as in eager code."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
from fastssl import losses
from fastssl.ops.backend import resolve
from fastssl.ops.scoped import Scoped


@pytest.fixture(autouse=True)
def _no_graphs_before() -> None:
    torch._dynamo.reset()


def test_values_nest_and_end_with_their_block() -> None:
    value = Scoped("nested", 0)
    with pytest.raises(KeyError), value.set(1):
        with value.set(2):
            assert value.get() == 2
        assert value.get() == 1
        raise KeyError
    assert value.get() == 0


def test_values_are_of_one_thread() -> None:
    value, seen = Scoped("threads", 0), []
    with value.set(1):
        other = threading.Thread(target=lambda: seen.append(value.get()))
        other.start()
        other.join()
    assert seen == [0]


def test_blocks_of_threads_that_end_in_another_order_leave_nothing_behind() -> None:
    value, begun, ended = Scoped("interleaved", 0), threading.Event(), threading.Event()

    def other() -> None:
        with value.set(2):
            begun.set()
            ended.wait(10)

    thread = threading.Thread(target=other)
    with value.set(1):
        thread.start()
        assert begun.wait(10)
    ended.set()
    thread.join()
    compiled = torch.compile(lambda x: x + value.get(), fullgraph=True, backend="aot_eager")
    assert float(compiled(torch.zeros(()))) == 0


def test_compiled_code_sees_a_value_set_around_it_and_one_set_within_it() -> None:
    value = Scoped("compiled", 0)

    def around(x: Tensor) -> Tensor:
        return x + value.get()

    def within(x: Tensor) -> Tensor:
        with value.set(5):
            return around(x)

    compiled = torch.compile(around, fullgraph=True, backend="aot_eager")
    for wanted in (0, 3, 4, 3):
        with value.set(wanted):
            assert float(compiled(torch.zeros(()))) == wanted
    assert float(torch.compile(within, fullgraph=True, backend="aot_eager")(torch.zeros(()))) == 5
    assert value.get() == 0 and float(compiled(torch.zeros(()))) == 0


def test_a_backend_counts_in_compiled_code() -> None:
    def is_reference(x: Tensor) -> Tensor:
        return x + (resolve(x.device, None, x.dtype) == "reference")

    def chosen(x: Tensor) -> Tensor:
        with fastssl.backend("reference"):
            return is_reference(x)

    compiled = torch.compile(is_reference, fullgraph=True, backend="aot_eager")
    zero = torch.zeros(())
    with fastssl.backend("reference"):
        assert float(compiled(zero)) == 1
    assert float(compiled(zero)) == float(is_reference(zero))
    assert float(torch.compile(chosen, fullgraph=True, backend="aot_eager")(zero)) == 1


@pytest.mark.parametrize(
    "make",
    [
        losses.SupConLoss,
        pytest.param(losses.ContrastiveLoss, marks=pytest.mark.slow),
        pytest.param(losses.MultiSimilarityLoss, marks=pytest.mark.slow),
    ],
    ids=lambda make: make.__name__,
)
def test_rows_meet_no_copy_of_their_own_in_a_compiled_memory(make: Callable[[], Any]) -> None:
    def steps(compiler: Callable[[Any], Any]) -> list[Tensor]:
        g = torch.Generator().manual_seed(0)
        memory = compiler(losses.CrossBatchMemory(make(), 8, 64))
        found = []
        for _ in range(3):
            x = torch.randn(16, 8, generator=g, requires_grad=True)
            loss = memory(x, torch.arange(16) % 4)
            found += [loss.detach(), *torch.autograd.grad(loss, x)]
        return found

    eager, compiled = steps(lambda m: m), steps(lambda m: torch.compile(m, backend="aot_eager"))
    for a, b in zip(compiled, eager):
        torch.testing.assert_close(a, b)
