"""Parameters sharded over processes: what only a GPU does otherwise."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastssl.train.shards import strategy


def test_scalars_that_are_not_sharded_are_brought_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP moves the parameters that it shards; a logit scale stayed on the CPU."""
    moved: list[tuple[int, Any]] = []
    method = nn.Linear(2, 3)
    method.log_scale = nn.Parameter(torch.tensor(1.0))
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module, **_: module)
    monkeypatch.setattr("torch.distributed.fsdp.register_fsdp_forward_method", lambda *_: None)

    def to(self: Tensor, where: Any) -> Tensor:
        moved.append((self.dim(), where))
        return self

    monkeypatch.setattr(Tensor, "to", to)
    strategy(2, timedelta(minutes=1))._parallelize_fn(method, {"data_parallel": SimpleNamespace(device_type="cuda")})
    assert moved == [(0, "cuda")]
