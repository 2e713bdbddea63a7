"""Losses of the methods against lightly's and open_clip's, where these are installed: values and gradients."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl.functional as F
from tests.support import drop_in_processes
from tests.support.peers import lightly, package
from tests.support.processes import run_world


def _lightly() -> Any:
    lightly()
    return importlib.import_module("lightly.loss")


def _pairs(peer: Any) -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]]:
    def swav(s0: Tensor, s1: Tensor) -> Tensor:
        return peer.SwaVLoss()([s0, s1], [])

    def dino(*views: Tensor) -> Tensor:
        loss = peer.DINOLoss(output_dim=24, warmup_teacher_temp=0.04, teacher_temp=0.04)
        return loss([v.detach() * 0.7 for v in views[:2]], list(views), teacher_temp=0.04)

    def ours_dino(*views: Tensor) -> Tensor:
        teacher = torch.stack([v.detach() * 0.7 for v in views[:2]])
        return F.dino(torch.stack(views), teacher, torch.zeros(24))

    def unit(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=1)

    return {
        "NT-Xent": (lambda a, b: F.nt_xent(a, b, temperature=0.2), peer.NTXentLoss(temperature=0.2)),
        "NegativeCosine": (F.negative_cosine_similarity, peer.NegativeCosineSimilarity()),
        "Barlow Twins": (lambda a, b: F.barlow_twins(a, b, lambd=5e-3), peer.BarlowTwinsLoss(lambda_param=5e-3)),
        "VICReg": (F.vicreg, peer.VICRegLoss()),
        "DCL": (lambda a, b: F.dcl(a, b, temperature=0.2), peer.DCLLoss(temperature=0.2)),
        "SwAV": (lambda a, b: F.swapped_prediction(unit(a), unit(b)), lambda a, b: swav(unit(a), unit(b))),
        "DINO": (ours_dino, dino),
    }


LOSSES = ["NT-Xent", "NegativeCosine", "Barlow Twins", "VICReg", "DCL", "SwAV", "DINO"]


def _compare(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    a, b = ours(*inputs), theirs(*inputs)
    assert abs(float(a.detach()) - float(b.detach())) <= 1e-5 * abs(float(b.detach()))
    for given, expected in zip(torch.autograd.grad(a, inputs), torch.autograd.grad(b, inputs)):
        assert float((given - expected).norm()) <= 1e-5 * float(expected.norm())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_lightlys(name: str, seed: int) -> None:
    ours, theirs = _pairs(_lightly())[name]
    torch.manual_seed(seed)
    views = 4 if name == "DINO" else 2
    inputs = [torch.randn(48, 24, requires_grad=True) for _ in range(views)]
    _compare(ours, theirs, inputs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["CLIP", "SigLIP"])
def test_losses_are_open_clips(name: str, seed: int) -> None:
    package("open_clip")
    from open_clip.loss import ClipLoss, SigLipLoss

    torch.manual_seed(seed)
    x, y = (torch.nn.functional.normalize(torch.randn(48, 24), dim=1).requires_grad_() for _ in range(2))
    scale, bias = torch.tensor(14.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    if name == "CLIP":
        _compare(F.clip_loss, lambda *a: ClipLoss()(*a), [x, y, scale])
    else:
        _compare(F.siglip_loss, lambda *a: SigLipLoss()(*a), [x, y, scale, bias])


@pytest.mark.parametrize(
    "library",
    [
        "open_clip",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("lightly", "sentence_transformers", "pytorch_metric_learning")
        ),
    ],
)
def test_patched_losses_in_two_processes(library: str, tmp_path: Path) -> None:
    """All ways of gathering, with and without gradients: fused, and the same loss and gradients."""
    if library != "sentence_transformers":
        package(library)  # or skip
    else:
        pytest.importorskip(library)
    run_world(drop_in_processes.worker, 2, tmp_path, library)


def test_patched_losses_of_sharded_parameters_are_fused(tmp_path: Path) -> None:
    package("pytorch_metric_learning")  # or skip
    run_world(drop_in_processes.fully_sharded_worker, 2, tmp_path)


def test_patched_metric_losses_within_sharded(tmp_path: Path) -> None:
    """SupCon saw the rows of all processes and took the mean of its own, all others saw their own rows alone."""
    package("pytorch_metric_learning")  # or skip
    run_world(drop_in_processes.sharded_worker, 2, tmp_path)


@pytest.mark.parametrize("library", ["lightly", pytest.param("sentence_transformers", marks=pytest.mark.slow)])
def test_original_code_within_sharded_is_an_error(library: str, tmp_path: Path) -> None:
    """It saw this process's rows alone, beside fused losses of all."""
    if library == "sentence_transformers":
        pytest.importorskip(library)
    else:
        package(library)  # or skip
    run_world(drop_in_processes.originals_worker, 2, tmp_path, library)


def test_language_models_within_sharded(tmp_path: Path) -> None:
    """A fused step took the mean over the tokens of all processes, and waited for those that ran the original."""
    pytest.importorskip("transformers")
    run_world(drop_in_processes.language_worker, 2, tmp_path)
