"""One of three processes: the last one goes in the middle of a loss; the others say how long they waited.

python tests/support/lost_process.py dies|stalls RANK FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import fastssl.functional as F


def main() -> None:
    how, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=3, timeout=timedelta(seconds=8))
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


if __name__ == "__main__":
    main()
