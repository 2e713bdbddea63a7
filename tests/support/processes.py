"""Processes that tests start: forked from one that has imported torch, so that each costs milliseconds, not seconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = ("torch.distributed", "torch.distributed.fsdp", "fastssl.cli.recipes", "fastssl.train", "fastssl.losses")
# What a run imports late: two seconds of each process, or once.
IMPORTED_LATE = ("lightning_fabric", "sklearn.datasets", "torch.utils.tensorboard")
CONTEXT.set_forkserver_preload([*IMPORTED, *IMPORTED_LATE])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def rendezvous(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells its processes."""
    return {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


class Started:
    """A process whose output goes to a file."""

    def __init__(self, process: BaseProcess, log: Path) -> None:
        self.process, self.log = process, log

    def wait(self, timeout: float = 200) -> int:
        """Its exit code, negative where a signal ended it; it is killed where it takes longer than ``timeout`` s."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"a process took more than {timeout} s: {self.output}")
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    @property
    def output(self) -> str:
        return self.log.read_text()


def _child(target: Callable[..., None], arguments: Sequence[Any], environment: Mapping[str, str], log: Path) -> None:
    import torch

    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    target(*arguments)


def start(target: Callable[..., None], *arguments: Any, log: Path, environment: Mapping[str, str]) -> Started:
    """``target(*arguments)`` in a process with these variables; a function of a module, not of a test.

    Args:
        target: what runs.
        arguments: what it is given.
        log: where its output goes.
        environment: variables besides those of this process.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when libgomp is loaded: by the server of all processes
    try:
        process = CONTEXT.Process(target=_child, args=(target, arguments, dict(environment), log), daemon=False)
        process.start()
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    return Started(process, log)


def run_world(target: Callable[..., None], world: int, folder: Path, *arguments: Any, timeout: float = 400) -> None:
    """``target(rank, *arguments)`` in ``world`` processes with a rendezvous; all of them must end well."""
    port = free_port()
    processes = [
        start(target, rank, *arguments, log=folder / f"log.{rank}", environment=rendezvous(rank, world, port))
        for rank in range(world)
    ]
    codes = [p.wait(timeout) for p in processes]
    outputs = [p.output[-4000:] for p, code in zip(processes, codes) if code]
    assert codes == [0] * world, (codes, *outputs)
