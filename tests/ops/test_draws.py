"""Random numbers that are drawn apart from others."""

from __future__ import annotations

import warnings

import pytest
import torch

from fastssl.ops.draws import drawing_apart


def test_torch_does_not_warn_of_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[int, torch.Tensor] = {}
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    for module in (torch.accelerator, torch.cuda):
        monkeypatch.setattr(module, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([device]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: kept.update({device: state}))
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with drawing_apart():
            torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before) and sorted(kept) == [0, 1]
