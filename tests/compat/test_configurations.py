"""No configuration of the libraries gives another result when it is patched."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

import fastssl
from tests.support import configurations
from tests.support.peers import lightly, metric_learning, package

LIBRARIES: dict[str, Callable[[], object]] = {
    "pytorch_metric_learning": metric_learning,
    "lightly": lightly,
    "open_clip": lambda: package("open_clip"),
    "sentence_transformers": lambda: pytest.importorskip("sentence_transformers"),
}


def _compare(cases: list[configurations.Case], least_fused: float) -> None:
    wrong, fused = [], 0
    for case in cases:
        found, calls = configurations.compare(case)
        fused += calls > 0
        if found:
            wrong.append(f"{case}: {'; '.join(found)}")
    assert not wrong, f"{len(wrong)} of {len(cases)} configurations differ:\n" + "\n".join(wrong[:40])
    assert fused >= least_fused * len(cases), f"only {fused} of {len(cases)} ran fused"


@pytest.mark.parametrize("peer", LIBRARIES)
def test_some_configurations(peer: str) -> None:
    LIBRARIES[peer]()
    cases = configurations.every(peer, 1)
    _compare(random.Random(len(cases)).sample(cases, 60), 0.1)


def _first_of_each_class(peer: str) -> list[configurations.Case]:
    """The plain call of every class, with 16 bits and without."""
    seen: dict[str, configurations.Case] = {}
    for case in configurations.GENERATORS[peer]():
        seen.setdefault(case.title.split(":")[0], case)
    return list(seen.values())


@pytest.mark.parametrize("count", [3, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("peer", LIBRARIES)
def test_gpu_kernels_under_the_interpreter(peer: str, dtype: torch.dtype, count: int) -> None:
    """Tensors whose kernels are Triton's take the fused path too."""
    pytest.importorskip("triton")
    LIBRARIES[peer]()
    cases = _first_of_each_class(peer)
    for case in random.Random(1).sample(cases, min(len(cases), count)):
        case.dtype = dtype
        _, expected = configurations.compare(case)
        with fastssl.backend("triton"):
            found, fused = configurations.compare(case)
        assert not found and fused == expected, (str(case), found)


@pytest.mark.slow
@pytest.mark.parametrize("peer", LIBRARIES)
def test_every_configuration(peer: str) -> None:
    LIBRARIES[peer]()
    _compare(configurations.every(peer, 2 if peer == "pytorch_metric_learning" else len(configurations.WAYS)), 0.1)
