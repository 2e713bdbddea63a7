"""Processes forked after kernels have run do not wait for the threads of OpenMP's pool, which the parent alone has.

(torch's own operations on more than 32,768 numbers wait for them: the script has none in a child.)
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastssl.ops import extension

pytestmark = pytest.mark.skipif(extension._C is None, reason="needs the compiled kernels")

SCRIPT = """
import os, sys
import numpy as np
import torch
before = torch.randn(400, 400) @ torch.randn(400, 400) if sys.argv[1] == "torch-first" else None
import fastssl.functional as F
from fastssl.augment import SimCLRAugment

torch.set_num_threads(2)
x, labels = torch.randn(400, 64, requires_grad=True), torch.arange(400) % 20
images = [image for image in torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8).numpy()]
views = SimCLRAugment(32)

def step():
    torch.manual_seed(0)
    loss = F.sup_con(x, labels) + F.triplet(x, labels) + F.nearest(x.detach(), None, k=3)[0].mean()
    return [loss.detach(), *torch.autograd.grad(loss, x), *views(images)]

def same(a, b):
    return all(np.array_equal(s.numpy(), t.numpy()) for s, t in zip(a, b))  # torch.equal of many waits as well

def child(work):
    number = os.fork()
    if number == 0:
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

if sys.argv[1] == "used":
    expected = step()
    assert child(lambda: same(step(), expected) and child(lambda: same(step(), expected)) == 0) == 0
    assert same(step(), expected)  # the parent keeps its pool
elif sys.argv[1] == "unused":
    assert child(lambda: len(step()) == 4) == 0
else:
    x.detach().T @ x.detach()
    torch.randn(10**6).exp()
    assert child(lambda: len(step()) == 4) == 0
"""


@pytest.mark.threads
@pytest.mark.parametrize("pool", ["used", "unused", "torch", "torch-first"])
def test_a_forked_process_runs_kernels(pool: str) -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT, pool], timeout=60, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
