"""Modes of the floating-point units: subnormal numbers are zero within a training, and afterwards what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastssl.data import Corpus, Splits, Tokenizer
from fastssl.evaluate import TextFineTuning, few_text_labels
from fastssl.models.modes import flushed_subnormals
from fastssl.train import Pretraining, pretrain
from tests.support.language import method_of, network_of, tokens
from tests.support.modes import kernels, modes


@kernels
@pytest.mark.threads
@pytest.mark.parametrize("flushes", [False, True])
def test_all_threads_flush_and_have_their_mode_back(two_threads: None, flushes: bool) -> None:
    if not torch.set_flush_denormal(flushes):
        pytest.skip("this CPU has no such mode")
    before, small = modes(), torch.full((100_000,), 1e-39)
    with pytest.raises(KeyError), flushed_subnormals():
        assert all(modes()) and len(before) == 2
        assert not (small * 0.5).view(torch.int32).any()  # of both threads
        raise KeyError
    assert modes() == before and before[0] == flushes


@kernels
def test_moments_of_rare_tokens_become_zero() -> None:
    """Those of AdamW, of rows without a gradient since the first step; else they are subnormal for good."""
    if not torch.set_flush_denormal(False):
        pytest.skip("this CPU has no such mode")

    def moments() -> torch.Tensor:
        table = torch.nn.Parameter(torch.ones(4))
        optimizer = torch.optim.AdamW([table], 1e-3)
        for step in range(250):
            table.grad = torch.full_like(table, 1e-36 if step == 0 else 0.0)  # as after 700 steps
            optimizer.step()
        found: torch.Tensor = optimizer.state[table]["exp_avg"]
        return found.view(torch.int32)

    kept = moments()
    assert bool(((kept > 0) & (kept < 1 << 23)).all())
    with flushed_subnormals():
        gone = moments()
    assert not bool(gone.any())


@kernels
def test_trainings_flush(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Fine-tuning and pretraining, on all threads and to the end."""
    if not torch.set_flush_denormal(False):
        pytest.skip("this CPU has no such mode")
    seen: list[bool] = []
    step = torch.optim.AdamW.step

    def watched(self: Any, *args: Any, **more: Any) -> Any:
        seen.extend(modes())
        return step(self, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    data = Corpus(["good", "bad"] * 10, labels=[1, 0] * 10, classes=["no", "yes"])
    task = Splits("toy", data.subset(np.arange(10)), data.subset(np.arange(10, 20)))
    how = TextFineTuning(least_steps=2, epochs=1, rates=(1e-2,))
    starts = {"from scratch": lambda seed: network_of("bert", "transformer", seed)}
    few_text_labels(starts, Tokenizer(), task, seeds=1, options=how)
    assert seen and all(seen)
    seen.clear()
    method = method_of("bert", "transformer")
    pretrain(method, tokens(4), Pretraining(epochs=1, batch_size=8), out=tmp_path)
    assert seen and all(seen) and not any(modes())
