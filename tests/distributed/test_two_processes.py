"""Every method under two gloo processes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from fastssl.methods import methods_of
from fastssl.train import load_checkpoint
from tests.support import two_processes
from tests.support.processes import run_world

# Of each way in which processes depend on each other: sums over all rows, queues, prototypes, clusters, teachers,
# parts that take turns, unequally many terms, layers of other libraries.
FEW = ("simclr", "moco", "swav", "deep-cluster", "dino", "barlow-twins", "clip", "mae", "context-encoder", "wavenet")


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_methods_run_in_two_processes(tmp_path: Path, every: bool) -> None:
    """Both processes end with the same weights, the encoder has learnt, and one of them left a checkpoint."""
    names = [*methods_of("images"), *methods_of("signal")] if every else list(FEW)
    if importlib.util.find_spec("transformers"):
        names += methods_of("tokens") if every else ["bert", "quick-thoughts"]
    runs = [*names, "simclr:16", "clip:6"]  # a share of 16 rows: in one chunk, in several
    runs += ["simclr@fsdp", "moco@fsdp", "clip@fsdp"]
    runs += ["deep-cluster@fsdp"]  # a parameter that is drawn again
    runs += ["mae@fsdp", *(["bert@fsdp"] if "bert" in names else [])]  # kernels of another layout, several means
    runs += ["simclr@ddp+muon", "simclr@fsdp+muon"]  # updates of whole matrices
    runs += ["simclr:8@fsdp+bf16-mixed"]  # Fabric wants its own backward pass there
    if every:
        runs += ["simclr:5", "simclr:8@fsdp", "simclr:8@ddp+bf16-mixed"]
    run_world(two_processes.main, 2, tmp_path, tmp_path, runs)
    results = json.loads((tmp_path / "results.json").read_text())
    for kind in (
        "uneven",
        "uneven text",
        "uneven chunks",
        "captions",
    ):  # parts, and processes, whose losses are means of unequally many terms
        assert results.pop(kind) < 1e-5
    assert results.pop("unreadable") == {"counted": 6, "listed": [*range(0, 40, 7)]}  # by either of the two
    assert set(results) == set(runs)
    assert all(r == {"same": True, "moved": True} for r in results.values()), results
    for name in set(names) & set(methods_of("images")):
        tensors, state = load_checkpoint(tmp_path / name)
        assert state["step"] == 4 and state["method"] == name and tensors
    pairs = [
        *((name, f"{name}@fsdp") for name in ("simclr", "moco", "clip", "mae", "deep-cluster")),
        ("simclr@ddp+muon", "simclr@fsdp+muon"),
    ]
    for pair in pairs:  # parameters in parts: the same training
        whole, parts = (load_checkpoint(tmp_path / run)[0] for run in pair)
        assert whole.keys() == parts.keys()
        for key in whole:
            if "running" not in key:  # of batch norm: DDP takes those of one process in every step
                torch.testing.assert_close(whole[key], parts[key], rtol=1e-3, atol=1e-4)
    whole, chunked = (load_checkpoint(tmp_path / run)[0] for run in ("simclr", "simclr:16"))
    for key in whole:  # one chunk is the share itself: gradients were averaged as DDP does
        torch.testing.assert_close(whole[key], chunked[key], rtol=1e-3, atol=1e-4)
