"""One of three processes: the last one goes in the middle of a loss; the others say how long they waited."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import fastssl.functional as F


def main(how: str, folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=5))
    rank = dist.get_rank()
    x = torch.randn(64, 8)
    F.nt_xent(x, x, group="world")
    if rank == 2:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60 if how == "stalls" else 0)
        return
    began = time.monotonic()
    try:
        F.nt_xent(x, x, group="world")
    finally:
        (folder / f"seconds.{rank}").write_text(str(time.monotonic() - began))
