"""Plans: kernels are launched as Triton's launcher does, and no two tensors that live at once share memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import TRITON_DEVICE

pytest.importorskip("triton")
plan = pytest.importorskip("fastssl.ops.triton.plan")

ROOT = Path(__file__).parents[2]
PIECES = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 6)), max_size=24)


@given(PIECES)
@settings(max_examples=200, deadline=None)
def test_pieces_of_memory_that_live_at_once_do_not_overlap(pieces: list[tuple[int, int, int]]) -> None:
    wanted = [(k, size, first, first + more) for k, (size, first, more) in enumerate(pieces)]
    offsets, size = plan._packed(wanted)
    whole = [-(-n // plan.PIECE) * plan.PIECE for _, n, _, _ in wanted]
    for a, n, first, last in wanted:
        assert offsets[a] % plan.PIECE == 0 and offsets[a] + whole[a] <= size
        for b, m, born, died in wanted[:a]:
            if n and m and born <= last and first <= died:
                assert offsets[a] + whole[a] <= offsets[b] or offsets[b] + whole[b] <= offsets[a]
    for at in range(20):  # never more than all, never less than what lives at once
        assert size >= sum(w for w, (_, _, first, last) in zip(whole, wanted) if first <= at <= last)
    assert size <= sum(whole)


def needs_no_gpu() -> None:
    if TRITON_DEVICE == "cuda" or sys.platform != "linux" or not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("needs Linux, a C compiler, and no GPU, whose driver would be in the way")


def launches(*losses: str) -> list[dict[str, Any]]:
    """What a process without TRITON_INTERPRET has launched, on a driver without a device."""
    needs_no_gpu()
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / "launch_time.py"), "--launches", *losses]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_launches(found: dict[str, Any]) -> None:
    """A recorded call by Triton's launcher, and two of the plan: all is the same but where temporary tensors are."""
    _, recorded, *replayed = found["calls"]
    assert found["kernels"] and found["by_driver"] == found["kernels"]
    for call, theirs_of_call in ((each, right) for passes in replayed for each, right in zip(passes, recorded)):
        assert len(call) == len(theirs_of_call) >= 2
        moved: dict[int, int] = {}
        for ours, theirs in zip(call, theirs_of_call):
            numbers, wanted = ours.pop("parameters"), theirs["parameters"]
            assert ours == {k: v for k, v in theirs.items() if k != "parameters"}
            assert len(numbers) == len(wanted) > 0
            for number, right in zip(numbers, wanted):
                if number != right:  # a tensor that is elsewhere now, always at the same place
                    assert right > 1 << 32 and number % 16 == right % 16
                    assert moved.setdefault(right, number) == number
        assert moved


def test_kernels_are_launched_as_by_triton() -> None:
    """Function, grid, threads, shared memory, stream and every parameter."""
    (found,) = launches("nt_xent")
    check_launches(found)


@pytest.mark.slow
def test_kernels_of_other_losses_are_launched_as_by_triton() -> None:
    found = launches()
    assert len(found) == 6
    for each in found:
        check_launches(each)


def test_errors_of_the_driver_are_raised(tmp_path: Path) -> None:
    """Also of a thread that has no context yet."""
    needs_no_gpu()
    script = f"""
import ctypes, sys, threading
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from launch_time import build_driver
driver = ctypes.CDLL(build_driver({str(tmp_path)!r}), mode=ctypes.RTLD_GLOBAL)
import fastssl
from fastssl.ops import extension
kernels = extension._C.Launches(1)
kernels.add(5, [2, 1, 1], 128, 64, [0, 9, 0, 0], [(0, 0, 48)])
kernels([1000], 3, 0)
thread = threading.Thread(target=kernels, args=([1000], 3, 0))
thread.start(), thread.join()
assert driver.driver_launched() == 2
driver.driver_refuse(1)
try:
    kernels([1000], 3, 0)
except RuntimeError as error:
    assert "launching a kernel: CUDA error 1 (invalid argument)" in str(error), error
else:
    raise AssertionError("no error")
for wrong in (lambda: kernels([], 3, 0), lambda: kernels.add(5, [1, 1, 1], 32, 0, [0], [(1, 0, 0)]),
              lambda: kernels.add(5, [1, 1, 1], 32, 0, [0], [(0, 1, 0)]),
              lambda: kernels.add(5, [1, 1, 1], 32, 0, [0] * 97, [])):
    try:
        wrong()
    except ValueError:
        pass
    else:
        raise AssertionError("no error")
assert driver.driver_launched() == 2
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
