"""No configuration of the libraries gives another result when it is patched."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable

import pytest

from tests import configurations
from tests.test_compat import _lightly, _metric_learning, _package


def _sentence_transformers() -> None:
    pytest.importorskip("sentence_transformers")
    if importlib.util.find_spec("torchvision") is None:
        pytest.importorskip("sentence_transformers.util")


LIBRARIES: dict[str, Callable[[], object]] = {
    "pytorch_metric_learning": _metric_learning,
    "lightly": _lightly,
    "open_clip": lambda: _package("open_clip"),
    "sentence_transformers": _sentence_transformers,
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
    _compare(random.Random(len(cases)).sample(cases, 90), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("peer", LIBRARIES)
def test_every_configuration(peer: str) -> None:
    LIBRARIES[peer]()
    _compare(configurations.every(peer, 2 if peer == "pytorch_metric_learning" else len(configurations.WAYS)), 0.1)
