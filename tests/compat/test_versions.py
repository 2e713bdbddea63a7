"""The oldest and the newest supported version of each library, installed beside the others: the same results.

Needs a package index; each library is installed without what it depends on, into a folder of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

VERSIONS = [
    ("pytorch_metric_learning", ["pytorch-metric-learning==2.5.0"]),
    ("pytorch_metric_learning", ["pytorch-metric-learning"]),
    ("lightly", ["lightly==1.5.21"]),
    ("lightly", ["lightly"]),
    ("open_clip", ["open_clip_torch==2.24.0"]),
    ("open_clip", ["open_clip_torch"]),
    ("sentence_transformers", ["sentence-transformers==5.3.0"]),
    ("sentence_transformers", ["sentence-transformers"]),
    ("transformers", ["transformers==4.50.0", "tokenizers==0.21.4", "huggingface-hub==0.36.0"]),
    ("transformers", ["transformers"]),
]
UNKNOWN = [
    ("lightly", ["lightly==1.5.15"], "1.5.15"),
    ("open_clip", ["open_clip_torch==2.20.0"], "2.20.0"),
    ("sentence_transformers", ["sentence-transformers==5.2.3"], "5.2.3"),
    ("pytorch_metric_learning", ["pytorch-metric-learning==2.4.1"], "2.4.1"),
]


def _run(folder: Path, packages: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot be installed here: {done.stderr[-300:]}")
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "packages"), VERSIONS, ids=[packages[0] for _, packages in VERSIONS])
def test_oldest_and_newest_versions(peer: str, packages: list[str], tmp_path: Path) -> None:
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer}, and what it depends on, is not installed")
    what = (
        ["tests/compat/test_transformers.py", "-k", "training_step or arguments or head"]
        if peer == "transformers"
        else ["tests/compat/test_configurations.py", "-k", f"some_configurations and {peer}"]
    )
    done = _run(tmp_path, packages, ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-W", "ignore", *what])
    assert done.returncode == 0 and "SKIPPED" not in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "packages", "version"), UNKNOWN)
def test_versions_that_are_not_known(peer: str, packages: list[str], version: str, tmp_path: Path) -> None:
    code = f"""
import fastssl
for _ in range(2):
    try:
        fastssl.patch({peer!r})
    except ImportError as error:
        assert "got {version}: nothing is patched" in str(error), error
    else:
        raise SystemExit("patched")
assert fastssl.patched() == {{}}
"""
    done = _run(tmp_path, packages, ["-c", code])
    assert done.returncode == 0, done.stderr[-2000:]
