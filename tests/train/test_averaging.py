"""The mean of the weights over the last part of a run, beside the weights of every step; resumed bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.augment import SimCLRAugment
from fastssl.data import digits
from fastssl.methods import SimCLR
from fastssl.models import build_encoder
from fastssl.train import Pretraining, load_checkpoint, pretrain

ENCODER = {"name": "resnet", "size": 16, "width": 4, "blocks": 1}
STEPS = 6


def _run(out: Path, average: float, on_step: Any = None, resume: bool = False) -> SimCLR:
    torch.manual_seed(0)
    method = SimCLR(build_encoder(ENCODER), SimCLRAugment(16, blur=0), hidden=16, outputs=8)
    options = Pretraining(epochs=STEPS // 2, batch_size=40, warmup_epochs=1, average=average)
    data = digits().subset(np.arange(80), "digits")
    return pretrain(method, data, options, out=out, on_step=on_step, resume=resume)  # type: ignore[return-value]


class Stop:
    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, progress: Any) -> None:
        if progress.step == self.step:
            raise KeyboardInterrupt


def test_the_mean_is_that_of_the_last_steps_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    seen = []
    for step in (4, 5, 6):  # the weights of single steps, without averaging
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path / str(step), 0.0, Stop(step))
        seen.append(load_checkpoint(tmp_path / str(step))[0])
    whole = _run(tmp_path / "whole", 0.5).state_dict()
    for name, tensor in whole.items():
        if tensor.is_floating_point():
            expected = torch.stack([tensors[f"model.{name}"].double() for tensors in seen]).mean(0)
            torch.testing.assert_close(tensor.cpu().double(), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "parts", 0.5, Stop(5))
    method = _run(tmp_path / "parts", 0.5, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), method.state_dict().values()))
    assert not any(name.startswith("averaged.") for name in load_checkpoint(tmp_path / "parts")[0])


def test_bad_parts_are_named() -> None:
    for average in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"average: expected a part of the run, from 0 to below 1"):
            Pretraining(average=average).check()
    with pytest.raises(ValueError, match="average: expected strategy 'ddp'"):
        Pretraining(average=0.2, strategy="fsdp").check()
