"""A process's end: threads of process groups let go of their last tensors while the interpreter is still there."""

from __future__ import annotations

import atexit
import contextlib
import time
from pathlib import Path

LETTING_GO = 0.2  # seconds: many times what a thread needs that only waits for its turn


def has_workers() -> bool:
    """Threads of a gloo process group are alive; destroying the group ends them only once nothing refers to it."""
    for thread in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # the thread has just ended
            if thread.read_text().startswith("pt_gloo_runloop"):
                return True
    return False


@atexit.register
def let_go() -> None:
    """A thread of gloo that lets go of a tensor last needs the interpreter if Python has seen the tensor.

    One that asks for the interpreter when that is already going aborts the process (exit code 134; pytorch issue
    190489), which happens to runs that end right after a collective, as FSDP's last one is. Here nothing holds the
    interpreter, so that all who ask get it.
    """
    if has_workers():
        time.sleep(LETTING_GO)
