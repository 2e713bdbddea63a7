"""The harness measures what it says; timings themselves are not asserted."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

import fastssl
from fastssl.bench import CASES, cases, compare, fma_rate, gemm_rate, harness, peak_memory, regimes, run
from fastssl.bench.harness import instruction_set, memory_budget
from fastssl.bench.metric import METRIC_CASES
from fastssl.bench.run import measure, plan
from tests.support.modes import kernels


def test_compare_alternates_and_reports_the_ratio() -> None:
    calls: list[str] = []

    def fast() -> None:
        calls.append("a")
        time.sleep(0.002)

    def slow() -> None:
        calls.append("b")
        time.sleep(0.006)

    result = compare(fast, slow, seconds=0.5, least=4)
    assert result.pairs >= 4 and 1.5 < result.ratio < 4.5 and result.low <= result.ratio <= result.high
    text = "".join(calls)
    assert "ab" in text and "ba" in text and text.count("a") >= 4


def test_contexts_are_entered_before_the_clock_starts() -> None:
    events: list[str] = []

    @contextlib.contextmanager
    def patching() -> Iterator[None]:
        time.sleep(0.05)
        events.append("in")
        yield
        events.append("out")
        time.sleep(0.05)

    within = harness.Within(lambda: events.append("call"), patching)
    result = compare(within, lambda: time.sleep(0.001), seconds=0.2, least=4)
    assert result.fused_seconds < 0.005
    assert events[:4] == ["in", "call", "call", "out"] and events.count("in") == events.count("out")
    within()
    assert events[-3:] == ["in", "call", "out"]


@pytest.mark.parametrize("name", CASES)
def test_every_case_computes_the_same_in_every_way(name: str) -> None:
    case = CASES[name]
    inputs = case.inputs(64, 16)
    expected = float(case.function("eager")(*inputs).detach())
    for way in ("fused", *case.peers):
        try:
            function = case.function(way)
        except ImportError:
            continue
        got = float(function(*inputs).detach())
        assert got == pytest.approx(expected, rel=2e-4), way


@pytest.mark.parametrize("name", METRIC_CASES)
def test_every_case_of_metric_learning_runs_and_agrees(name: str) -> None:
    case = METRIC_CASES[name]
    inputs = case.inputs(64, 16)
    values = {}
    for way in ("fused", "eager", *case.peers):
        try:
            values[way] = case.function(way)(*inputs)
        except ImportError:
            continue
    assert torch.isfinite(torch.as_tensor(values["fused"].detach())).all()
    if name != "nearest":
        expected = float(values["eager"].detach())
        for way, value in values.items():
            assert float(value.detach()) == pytest.approx(expected, rel=1e-3, abs=1e-5), way


def test_memory_of_a_fresh_process() -> None:
    fused, eager = (peak_memory("nt_xent", way, 2048, 64) for way in ("fused", "eager"))
    assert fused is not None and eager is not None
    assert eager > 2048 * 2048 * 4 / 2**20 > fused / 3


def test_limits_of_the_machine() -> None:
    assert gemm_rate(256, 2) > 1e8 and fma_rate(0.02) > 1e8


def test_plan_and_missing_peers() -> None:
    losses = {loss for loss, *_ in plan(quick=False)}
    assert losses == set(CASES)
    row = measure("nt_xent", "eager", 64, 16, seconds=0.2)
    assert row is not None and row["ratio"] > 0


def test_regimes_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of inputs and of rows once; timings themselves are not asserted."""

    def alternate(functions: Sequence[Callable[[], object]], seconds: float, least: int = 5) -> list[list[float]]:
        """Each called once, instead of in samples long enough to be timed."""
        times = []
        for function in functions:
            began = time.perf_counter()
            function()
            times.append([time.perf_counter() - began])
        return times

    monkeypatch.setattr(regimes, "alternate", alternate)
    for name in ("nt_xent", "sup_con", "arc_face", "linear_cross_entropy"):
        titles = []
        for title, regime, temperature in regimes.plan(name, regimes.LOSSES[name]):
            row = regimes.measure(name, title, regime, temperature, 64, 16, 0.0)
            assert row["seconds"] > 0 and row["against_random"] > 0
            titles.append(title)
        assert len(set(titles)) == len(titles) >= 3
    assert regimes.separated("clip_loss", "trained (CLIP)", 48, 0.0)["flushing_eager_against_fused"] > 0
    assert regimes.confident(16.0, 0.0, (20, 8, 50))["against_flat"] > 0
    for name in regimes.PRIMITIVES:
        assert regimes.primitive(name, "trained", 128, 8, 0.0)["seconds"] > 0
    assert not torch.set_flush_denormal(False) or (torch.tensor([1e-40]) * 0.5).item() != 0


def test_what_stands_in_for_torchvision_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """lightly alone imports it: other benchmarks of the process look for torchvision itself."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: {"torchvision": None, "lightly": object()}[name])
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    finders = list(sys.meta_path)
    remove = cases._stand_in_for_torchvision()
    assert importlib.import_module("torchvision.transforms.v2").Resize
    remove()
    assert sys.meta_path == finders
    assert not [name for name in sys.modules if name.split(".")[0] == "torchvision"]


@kernels
def test_contexts_give_back_what_was_before() -> None:
    """After an error, too: the rest of a suite would be measured with other kernels."""
    isa, budget = fastssl.instruction_set(), fastssl.get_memory_budget()
    assert isa is not None
    with pytest.raises(KeyboardInterrupt), instruction_set(fastssl.instruction_sets()[0]), memory_budget(0):
        assert fastssl.instruction_set() == fastssl.instruction_sets()[0] and fastssl.get_memory_budget() == 0
        raise KeyboardInterrupt
    assert (fastssl.instruction_set(), fastssl.get_memory_budget()) == (isa, budget)


@kernels
def test_an_interrupted_measurement_leaves_the_kernels_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    isa, budget = fastssl.instruction_set(), fastssl.get_memory_budget()
    monkeypatch.setattr(run, "measure", interrupted)
    monkeypatch.setattr(harness, "fma_rate", interrupted)
    for function in (run.with_avx2, functools.partial(run.share_of_peak, 64, 16)):
        with contextlib.suppress(KeyboardInterrupt):  # where there is nothing to measure, it is not reached
            function()
        assert (fastssl.instruction_set(), fastssl.get_memory_budget()) == (isa, budget)
