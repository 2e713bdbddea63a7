from __future__ import annotations

import pytest

from fastssl.compat import _sizes, pytorch_metric_learning


@pytest.fixture(autouse=True)
def small_batches_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small inputs test the fused code; test_small_batches.py tests what is not fused."""
    monkeypatch.setattr(_sizes, "SCORES", 0)
    monkeypatch.setattr(pytorch_metric_learning, "ROWS_ON_CPU", {})
