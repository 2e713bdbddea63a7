from __future__ import annotations

import pytest

from fastssl.compat import _sizes


@pytest.fixture(autouse=True)
def small_batches_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small inputs test the fused code; test_small_batches.py tests what is not fused."""
    monkeypatch.setattr(_sizes, "SCORES", 0)
