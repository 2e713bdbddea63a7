"""Every method under two gloo processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fastssl.methods import METHODS
from fastssl.train import load_checkpoint


def test_methods_run_in_two_processes(tmp_path: Path) -> None:
    """Both processes end with the same weights, the encoder has learnt, and one of them left a checkpoint."""
    script = Path(__file__).with_name("two_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, str(script), str(tmp_path), *METHODS], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == set(METHODS)
    assert all(r == {"same": True, "moved": True} for r in results.values()), results
    for name in METHODS:
        tensors, state = load_checkpoint(tmp_path / name)
        assert state["step"] == 4 and state["method"] == name and tensors
