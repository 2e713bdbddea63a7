"""Threads beside the ones that train: each works alone, and steps back where the cores are few."""

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
    """Operators that this thread calls stay on it: a team of threads for each would be too many for the cores."""
    torch.get_num_threads()  # torch sets up a new thread at its first operator, and would undo what follows
    for library in _openmp():
        library.set_num_threads(1)
    if hasattr(os, "setpriority"):  # of this thread alone, as Linux does
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICE)


def background_pool(workers: int) -> ThreadPoolExecutor:
    """A pool of threads that prepare data while others compute."""
    _openmp()
    return ThreadPoolExecutor(workers, thread_name_prefix="fastssl-loader", initializer=_alone)
