"""What tests share: every instruction set of this CPU, and a small number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import fastssl

ISAS = fastssl.instruction_sets()


@pytest.fixture(autouse=True)
def _clean_state() -> Iterator[None]:
    threads, budget, isa = torch.get_num_threads(), fastssl.get_memory_budget(), fastssl.instruction_set()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    fastssl.set_memory_budget(budget)
    if isa is not None:
        fastssl.instruction_set(isa)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    fastssl.instruction_set(request.param)
    return str(request.param)
