"""Losses over several gloo processes: the same as in one, and what happens when one of them dies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fastssl.functional as F


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_every_loss_equals_one_process(tmp_path: Path) -> None:
    """1, 2, 3, 4 and 8 processes, uneven shards, both schedules, fp64 and fp32; then DDP, FSDP2, compile, errors."""
    command = [sys.executable, "-m", "tests.shards", str(tmp_path / "found"), str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-6000:]
    found = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("found.*"))]
    assert len(found) == 8
    assert [w for f in found for w in f["wrong"]] == []
    assert all(0 < f["worst"]["torch.float32"] < 2e-6 and f["worst"]["torch.float64"] < 1e-12 for f in found)


@pytest.mark.parametrize("how", ["dies", "stalls"])
def test_a_process_that_goes_is_named(tmp_path: Path, how: str) -> None:
    """Its peers stop with an error that says which rank it was, within the group's timeout."""
    script = Path(__file__).with_name("lost_process.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), how, str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(3)
    ]
    errors = [p.communicate(timeout=90)[1] for p in processes]
    assert processes[0].returncode != 0 and processes[1].returncode != 0
    assert "rank 2 has died or did not answer" in errors[0] + errors[1], errors
    lost = [float((tmp_path / f"seconds.{rank}").read_text()) for rank in range(2)]
    assert max(lost) < 15, lost
    assert time.monotonic() - began < 90


def test_without_a_group_it_says_so() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(RuntimeError, match=r"group: got 'world', but torch.distributed is not initialised"):
        F.nt_xent(x, x, group="world")
    with pytest.raises(ValueError, match="schedule: expected one of"):
        F.nt_xent(x, x, group="world", schedule="tree")
