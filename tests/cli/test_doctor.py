"""``fastssl doctor``: a script with patched libraries, and the report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fastssl
from fastssl.cli.doctor import doctor, observed, saving
from fastssl.cli.main import app
from tests.support.peers import metric_learning

SCRIPT = """
import sys, torch
from helper import rows
from pytorch_metric_learning import distances, losses
print("arguments", sys.argv[1:], __name__)
y = torch.arange(96) // 4
fused, odd = losses.SupConLoss(), losses.ContrastiveLoss(distance=distances.SNRDistance())
for _ in range(3):
    z = rows()
    (fused(z, y) + odd(z, y)).backward()
{end}
"""


@pytest.fixture(autouse=True)
def _peer() -> Iterator[None]:
    metric_learning()
    yield
    sys.modules.pop("helper", None)


def _script(folder: Path, end: str = "") -> Path:
    (folder / "helper.py").write_text("import torch\ndef rows():\n    return torch.randn(96, 8, requires_grad=True)\n")
    path = folder / "train.py"
    path.write_text(SCRIPT.replace("{end}", end))
    return path


def test_the_report_of_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.argv), list(sys.path)
    assert doctor(_script(tmp_path), ["--epochs", "3"], ["pytorch_metric_learning"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "arguments ['--epochs', '3'] __main__" in text
    assert "pytorch_metric_learning.ContrastiveLoss: original code in 3 calls: SNRDistance has no kernel" in text
    assert "SupConLoss" in text and "ms" in text and "estimated time" in text
    assert fastssl.patched() == {} and (list(sys.argv), list(sys.path)) == before


@pytest.mark.parametrize(
    ("seconds", "text"), [((0.3, 0.1), "time saved in this run: 0.6 s"), ((0.1, 0.3), "time lost in this run: 0.6 s")]
)
def test_time_is_saved_or_lost(
    seconds: tuple[float, float],
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fastssl.cli.doctor as module

    monkeypatch.setattr(module, "saving", lambda record: module.Saving(96, True, seconds, (1.0, 1.0)))
    assert doctor(_script(tmp_path), [], ["pytorch_metric_learning"]) == 0
    assert text in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(3)", 3), ("sys.exit()", 0), ("1 / 0", 1), ("raise KeyboardInterrupt", 130)]
)
def test_the_scripts_end_is_the_exit_status(
    end: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = CliRunner().invoke(
        app, ["doctor", "--library", "pytorch_metric_learning", str(_script(tmp_path, end)), "--help"]
    )
    assert result.exit_code == status and "SupConLoss" in result.output  # reported all the same
    assert "arguments ['--help']" in result.output


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"script: no such file.*none\.py"):
        doctor(tmp_path / "none.py", [], [])
    with pytest.raises(ValueError, match="library: expected one of .*'torch'"):
        doctor(_script(tmp_path), [], ["torch"])


def test_what_would_take_too_long_is_measured_on_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_metric_learning import losses

    import fastssl.cli.doctor as module

    x, y = torch.randn(300, 8, requires_grad=True), torch.arange(300) // 4
    with observed(["pytorch_metric_learning"]) as records:
        losses.SupConLoss()(x, y)
        record = records["pytorch_metric_learning.SupConLoss"]
        assert record.fused == 1 and not record.reasons
        made = saving(record)
        assert made is not None and made.whole and made.rows == 300
        assert made.mebibytes[0] > made.mebibytes[1] and min(made.seconds) > 0
        monkeypatch.setattr(module, "MEMORY", 0.0)
        few = saving(record)
        assert few is not None and few.rows == module.FIRST and not few.whole
    assert x.grad is None and fastssl.patched() == {}
