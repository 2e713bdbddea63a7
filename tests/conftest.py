"""What tests share: every instruction set of this CPU, and a small number of threads."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch
import typer.testing

# Without a GPU the Triton kernels run in their interpreter, which must be told before they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import fastssl
from fastssl.ops.draws import seed_step
from tests.support import TRITON_DEVICE
from tests.support.modes import FLOAT_ISAS, ISAS

# Commands are made of functions and their annotations once, not in each of hundreds of calls.
typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]

if TRITON_DEVICE == "cpu" and importlib.util.find_spec("triton"):
    from tests.support.interpreter import without_repeated_patches

    without_repeated_patches()


@pytest.fixture(autouse=True)
def _clean_state() -> Iterator[None]:
    threads, budget, isa = torch.get_num_threads(), fastssl.get_memory_budget(), fastssl.instruction_set()
    seed_step(0)
    yield
    torch.set_num_threads(threads)
    fastssl.set_memory_budget(budget)
    if isa is not None:
        fastssl.instruction_set(isa)


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(params=FLOAT_ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    """Instruction sets with kernels of their own for fp32 and fp64."""
    fastssl.instruction_set(request.param)
    return str(request.param)


@pytest.fixture(params=ISAS)
def any_isa(request: pytest.FixtureRequest) -> str:
    """For pairs of bf16 rows, too."""
    fastssl.instruction_set(request.param)
    return str(request.param)


@pytest.fixture
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is around an evaluation: one random network and one split, whose tables are the same."""
    monkeypatch.setattr("fastssl.evaluate.report.SEEDS", 1)


def pytest_collection_finish() -> None:
    """What thousands of tests were collected into is not looked through by each garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries that count their objects at the end name all of these as leaked
