"""Run by test_operator: SIGINT in the middle of a pass of a large loss, and whether it ends within a second."""

from __future__ import annotations

import os
import signal
import threading
import time

import torch

import fastssl
import fastssl.functional as F


def main(where: str) -> None:
    """``where``: "forward" or "backward"."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells start us with it ignored
    fastssl.instruction_set("portable")
    fastssl.set_memory_budget(0)
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    if where == "forward":
        x, y = torch.randn(40960, 256, requires_grad=True), torch.randn(40960, 256)
        F.nt_xent(x[:8], y[:8])
        run = lambda: F.nt_xent(x, y)  # noqa: E731
    else:  # rows of one feature: the pass before it is short
        a, b = torch.randn(16384, 1, requires_grad=True), torch.randn(16384, 1)
        run = F.nt_xent(a, b, temperature=1.0, normalize=False, reduction="none").sum().backward
    threading.Timer(0.5, interrupt).start()
    try:
        run()
        print("finished")
    except KeyboardInterrupt:
        print("interrupted", time.monotonic() - sent[0] < 1.0)
