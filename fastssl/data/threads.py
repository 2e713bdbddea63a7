"""Background threads for data preparation: single-threaded operators and a lower priority."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

_NICE = 5


@cache
def _openmp() -> list[Any]:
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="openmp").lib_controllers)


def _alone() -> None:
    """Limits OpenMP to one thread for operators called by this thread, to avoid oversubscription."""
    torch.get_num_threads()  # torch initialises each thread at its first operator, which would undo the following
    for library in _openmp():
        library.set_num_threads(1)
    if hasattr(os, "setpriority"):  # on Linux it applies to this thread only
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICE)


def background_pool(workers: int) -> ThreadPoolExecutor:
    """A thread pool for data preparation."""
    _openmp()
    return ThreadPoolExecutor(workers, thread_name_prefix="fastssl-loader", initializer=_alone)
