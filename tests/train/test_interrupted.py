"""Runs that something happens to: a process killed, SIGTERM, a full disk. Resumed, the bits are the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fastssl.train import load_checkpoint
from tests.support import interrupted
from tests.support.processes import free_port, rendezvous, start

Done = list[tuple[int, str]]


def slurm(rank: int, devices: int, port: int) -> dict[str, str]:
    """What SLURM tells its tasks, here one on each of several machines."""
    return {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": str(devices),
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": str(devices),
        "SLURM_NODELIST": "127.0.0.1,127.0.0.1",
        "SLURM_PROCID": str(rank),
        "SLURM_NODEID": str(rank),
        "SLURM_LOCALID": "0",
        "MASTER_PORT": str(port),
    }


def run(out: Path, what: str, devices: int, strategy: str = "ddp", launcher: Any = rendezvous) -> Done:
    """Exit codes and errors of all processes."""
    port, asked = free_port(), devices if launcher is rendezvous else 1
    out.mkdir(parents=True, exist_ok=True)
    processes = [
        start(
            interrupted.main, out, what, asked, strategy,
            log=out / f"log.{rank}", environment=launcher(rank, devices, port) if devices > 1 else {},
        )
        for rank in range(devices)
    ]  # fmt: skip
    return [(p.wait(), p.output) for p in processes]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs that nothing happens to."""
    outs = {devices: tmp_path_factory.mktemp(f"whole{devices}") for devices in (1, 2)}
    for devices, out in outs.items():
        assert [code for code, _ in run(out, "nothing", devices)] == [0] * devices
    return outs


@pytest.mark.parametrize(
    ("what", "devices", "steps", "says"),
    [
        ("full-disk", 1, 6, "cannot be written"),
        pytest.param("term:0", 1, 7, "", marks=pytest.mark.slow),  # Ctrl-C has tests of its own
        pytest.param("term:1", 2, 7, "", marks=pytest.mark.slow),
        ("kill:0", 1, 3, ""),
        ("kill:1", 2, 3, "another process has died or does not answer; the last checkpoint is in"),
    ],
)
def test_resumed_bit_for_bit(
    tmp_path: Path, whole: dict[int, Path], what: str, devices: int, steps: int, says: str
) -> None:
    """In the middle of an epoch of 7 steps; what goes on has another number of threads."""
    done = run(tmp_path, what, devices)
    assert time.time() - float((tmp_path / "when").read_text()) < 15
    if what.startswith("kill"):
        assert [code for code, _ in done] == [1] * (devices - 1) + [-9]
    else:
        assert [code for code, _ in done] == [143 if "term" in what else 1] * devices, done
    assert says in done[0][1]
    tensors, state = load_checkpoint(tmp_path)
    assert state["step"] == steps and tensors
    assert [code for code, _ in run(tmp_path, "resume", devices)] == [0] * devices
    right, got = weights(whole[devices]), weights(tmp_path)
    assert right.keys() == got.keys() and all(torch.equal(right[k], got[k]) for k in right)


def test_tasks_of_slurm_are_one_run(tmp_path: Path, whole: dict[int, Path]) -> None:
    """Two machines of a task each: the bits of two processes that torchrun started."""
    assert [code for code, _ in run(tmp_path, "nothing", 2, launcher=slurm)] == [0, 0]
    right, got = weights(whole[2]), weights(tmp_path)
    assert right.keys() == got.keys() and all(torch.equal(right[k], got[k]) for k in right)


@pytest.mark.slow
def test_parts_of_parameters_resume_bit_for_bit(tmp_path: Path) -> None:
    assert [code for code, _ in run(tmp_path / "whole", "nothing", 2, "fsdp")] == [0, 0]
    assert [code for code, _ in run(tmp_path / "cut", "term:1", 2, "fsdp")] == [143, 143]
    assert [code for code, _ in run(tmp_path / "cut", "resume", 2, "fsdp")] == [0, 0]
    right, got = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert right.keys() == got.keys() and all(torch.equal(right[k], got[k]) for k in right if "running" not in k)


LAST_COLLECTIVE = """
import os, sys, torch, torch.distributed as dist
import fastssl.distributed
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
sys.setswitchinterval(10)  # who asks for the interpreter does not get it,
for thread in os.listdir("/proc/self/task"):  # and gloo's thread does not run while this one does
    os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})
dist.all_gather([torch.zeros(4)], torch.zeros(4))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins threads as Linux does")
def test_ends_right_after_a_collective() -> None:
    """Without what fastssl.distributed does at the end, 7 of 8 such processes abort."""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", LAST_COLLECTIVE], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr


def test_resumed_with_another_number_of_processes(tmp_path: Path, whole: dict[int, Path]) -> None:
    """The same data in the same order; batch norm sees other shares, so the weights are near, not the same."""
    run(tmp_path, "term:1", 2)
    written = (tmp_path / "checkpoint" / "state.json").stat().st_mtime
    # No process ends before: a launcher kills the others.
    assert all(float((tmp_path / f"end.{rank}").read_text()) > written for rank in range(2))
    assert run(tmp_path, "resume", 1)[0][0] == 0
    state, right = load_checkpoint(tmp_path)[1], load_checkpoint(whole[2])[1]
    assert state["step"] == right["step"] == len(state["history"])
    assert state["history"][:7] == right["history"][:7]
    torch.testing.assert_close(torch.tensor(state["history"]), torch.tensor(right["history"]), rtol=0.1, atol=0.1)
