"""A first use of an installed package, outside the repository: ``python smoke.py --kernels | --reference``."""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import fastssl.kernels
import torch

import fastssl
import fastssl.functional as F

wanted = sys.argv[1].removeprefix("--")
facts = fastssl.info()
assert facts["backends"]["cpu"]["usable"] is (wanted == "kernels"), facts
if wanted == "reference":
    assert "compiler" in facts["backends"]["cpu"]["why"], facts

z0, z1 = torch.randn(100, 32, requires_grad=True), torch.randn(100, 32, requires_grad=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    loss = F.nt_xent(z0, z1)
    F.nt_xent(z0, z1)
assert len([w for w in caught if "reference backend" in str(w.message)]) == (wanted == "reference"), caught
loss.backward()
torch.testing.assert_close(loss, F.nt_xent(z0, z1, backend="reference"))

from fastssl.data import digits, emoji  # noqa: E402

assert emoji().images.shape == (1871, 2, 64, 64, 3) and len(digits()) == 1797
command = [sys.executable, "-m", "fastssl"]
assert json.loads(subprocess.run([*command, "info", "--json"], capture_output=True, check=True).stdout) == facts
with tempfile.TemporaryDirectory() as folder:
    run = [*command, "pretrain", "simclr", "--data", "digits", "--epochs", "1", "--width", "8", "--out", folder]
    subprocess.run(run, check=True, capture_output=True)
    subprocess.run([*command, "evaluate", folder, "--out", f"{folder}/table.json"], check=True, capture_output=True)
    assert json.loads(Path(folder, "table.json").read_text())["digits_one_label"]["pretrained"] > 20
print(f"smoke: {wanted} works, fastssl {fastssl.__version__} in {Path(fastssl.__file__).parent}")
