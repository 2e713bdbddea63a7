"""A short run that something happens to; run by test_interrupted, alone or as one of two processes.

What happens: nothing, resume, full-disk, kill:RANK, term:RANK.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssl.data import digits
from fastssl.methods import SimCLR
from fastssl.models import build_encoder
from fastssl.train import Pretraining, Progress, checkpoint, pretrain

ENCODER = {"name": "resnet", "size": 16, "width": 4}
WHEN, SAVED = 7, 4


def main(out: Path, what: str, devices: int, strategy: str) -> None:
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
    event, _, who = what.partition(":")
    torch.manual_seed(0)
    model = SimCLR(build_encoder(ENCODER))
    images = digits().subset(np.arange(450), "digits")  # 7 steps and a rest
    # A checkpoint after every step up to a point, so that the run has to go back.
    options = Pretraining(epochs=2, batch_size=64, warmup_epochs=1, devices=devices, checkpoint_minutes=0.0)
    options.strategy = strategy
    options.workers = 3 if event == "resume" else 1
    count = 0
    loss = SimCLR.objective

    def objective(self: SimCLR, *rows: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == WHEN + 1 and rank == int(who or 0):  # the first call is the rehearsal
            (out / "when").write_text(str(time.time()))
            if event == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if event == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if event == "full-disk":
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        return loss(self, *rows, labels=labels)

    SimCLR.objective = objective  # type: ignore[method-assign]
    if event == "term":  # to a disk that takes a moment
        write = checkpoint.write_checkpoint

        def slowly(*given: Any) -> None:
            time.sleep(0.5 if count > WHEN else 0.0)
            write(*given)

        checkpoint.write_checkpoint = slowly

    def on_step(progress: Progress) -> None:
        if event == "kill" and progress.step == SAVED:
            options.checkpoint_minutes = 1e9

    out.mkdir(parents=True, exist_ok=True)
    try:
        pretrain(model, images, options, out=out, encoder_options=ENCODER, resume=event == "resume", on_step=on_step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (out / f"end.{rank}").write_text(str(time.time()))
