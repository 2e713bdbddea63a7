"""Small batches run the library's own code where kernels are a GPU's; here those of Triton's interpreter."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
from fastssl.compat import _sizes
from fastssl.compat._peer import NotFused
from fastssl.compat._sizes import require_rows
from tests.support.peers import lightly, metric_learning

SMALL = "fewer than 4,096 rows on a GPU (min_rows)"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    fastssl.unpatch()


def _rows(count: int = 12, size: int = 4) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(count)).requires_grad_()


def _calls(peer: str, name: str) -> Any:
    return fastssl.patched()[peer][name]


def test_a_small_batch_runs_the_library_on_a_gpu_and_is_fused_on_a_cpu() -> None:
    pytest.importorskip("triton")
    pml = metric_learning()
    loss, x, y = pml.losses.SupConLoss(), _rows(), torch.arange(12) % 3
    before = loss(x, y)
    fastssl.patch("pytorch_metric_learning")
    with fastssl.backend("triton"):
        assert torch.equal(loss(x, y), before)
    calls = _calls("pytorch_metric_learning", "SupConLoss")
    assert calls.fused == 0 and calls.original == {SMALL: 1}
    loss(x, y)
    assert calls.fused == 1
    for rows, fused in ((13, 0), (12, 1), (0, 1)):
        with fastssl.patched("pytorch_metric_learning", min_rows=rows), fastssl.backend("triton"):
            ran = calls.fused
            torch.testing.assert_close(loss(x, y), before)
            assert calls.fused - ran == fused
    with fastssl.backend("triton"):  # as it was patched before
        loss(x, y)
    assert calls.original[SMALL] == 2


def test_each_loss_has_its_number_of_rows() -> None:
    pml, known = metric_learning(), {}
    lightly()
    from fastssl.compat import lightly as of_lightly
    from fastssl.compat import pytorch_metric_learning as of_pml

    least = {t.owner.__name__: t.min_rows for t in of_pml.targets()}
    assert (least["SupConLoss"], least["TripletMarginLoss"], least["NTXentLoss"]) == (4096, 256, 64)
    assert least["ProxyNCALoss"] == 8192 and least["TripletMarginMiner"] == 0
    assert {t.owner.__name__: t.min_rows for t in of_lightly.targets()} == {
        "NTXentLoss": 0,
        "DCLLoss": 8192,
        "DCLWLoss": 8192,
        "VICRegLoss": 0,
        "KoLeoLoss": 8192,
        "HypersphereLoss": 8192,
        "MACLLoss": 8192,
        **({"SIGReg": 0} if importlib.util.find_spec("lightly.loss.lejepa_loss") else {}),
    }
    loss = pml.losses.SupConLoss()
    with fastssl.backend("triton"):
        for given in ([_rows(300)], [_rows(5), _rows(300)], ([_rows(5)], {"ref_emb": _rows(300)})):
            require_rows(300, loss, given, known)
            with pytest.raises(NotFused, match="fewer than 301 rows"):
                require_rows(301, loss, given, known)
        require_rows(301, loss, [_rows(5).double()], known)  # no kernels of a GPU
        require_rows(301, pml.losses.ArcFaceLoss(400, 4), [_rows(5)], known)  # centres of many classes
        gathering = pml.losses.SupConLoss()
        gathering.gather_distributed = True
        require_rows(301, gathering, [_rows(5)], known)


def test_a_memory_bank_counts() -> None:
    lightly()
    from lightly.loss.ntx_ent_loss import NTXentLoss

    from fastssl.compat.lightly import KNOWN

    loss = NTXentLoss(memory_bank_size=(64, 4))
    loss(_rows(), _rows())
    with fastssl.backend("triton"):
        require_rows(64, loss, [_rows(), _rows()], KNOWN)
        with pytest.raises(NotFused):
            require_rows(65, loss, [_rows(), _rows()], KNOWN)


@pytest.mark.parametrize("name", ["ArcFaceLoss", "ProxyAnchorLoss", "SupConLoss", "HypersphereLoss", "VICRegLoss"])
def test_a_backend_without_kernels_for_the_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows on the CPU, of a machine with a GPU whose kernels are asked for."""
    backend = importlib.import_module("fastssl.ops.backend")
    lightly()
    from lightly.loss.hypersphere_loss import HypersphereLoss

    monkeypatch.setattr(backend, "no_triton", lambda *_: "")
    monkeypatch.setattr(backend, "INTERPRETING", False)
    x, z = torch.randn(32, 4), torch.randn(32, 4)
    kind = HypersphereLoss if name == "HypersphereLoss" else getattr(metric_learning().losses, name)
    loss = kind(16, 4) if name in ("ArcFaceLoss", "ProxyAnchorLoss") else kind()
    given = (
        (x, z)
        if name == "HypersphereLoss"
        else (x, None, None, z)
        if name == "VICRegLoss"
        else (x, torch.arange(32) // 4)
    )
    wanted = loss(*given)
    for peer in ("lightly", "pytorch_metric_learning"):
        fastssl.patch(peer)
    with fastssl.backend("triton"):
        assert torch.equal(loss(*given), wanted)


@pytest.mark.parametrize("given", [-1, 1.5, True, "all"])
def test_a_wrong_number_of_rows(given: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="min_rows: expected an integer"):
        fastssl.patch("lightly", min_rows=given)
    assert fastssl.patched() == {}


@pytest.mark.parametrize(
    "name", ["ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss", "ProxyNCALoss", "ProxyAnchorLoss"]
)
def test_few_rows_against_few_classes_run_the_library_on_a_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are one small cross-entropy; which others are fused, and which with ``min_rows``."""
    monkeypatch.setattr(_sizes, "SCORES", 12 * 20)
    pml = metric_learning()
    fastssl.patch("pytorch_metric_learning")
    calls = _calls("pytorch_metric_learning", name)
    for classes, fused in ((19, name == "ProxyAnchorLoss"), (20, True), (21, True)):
        loss, before = getattr(pml.losses, name)(num_classes=classes, embedding_size=4), calls.fused
        loss(_rows(), torch.arange(12))
        assert calls.fused - before == fused
        with fastssl.patched("pytorch_metric_learning", min_rows=0):
            before = calls.fused
            loss(embeddings=_rows(), labels=torch.arange(12))
            assert calls.fused - before == 1
    refused = {"fewer than 240 scores of rows and classes on a CPU (min_rows)": 1}
    assert calls.original == ({} if name == "ProxyAnchorLoss" else refused)


def test_few_pairs_run_the_library_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with references count, such as with a memory."""
    pml = metric_learning()
    from fastssl.compat import pytorch_metric_learning as of_pml

    monkeypatch.setattr(of_pml, "ROWS_ON_CPU", {"ContrastiveLoss": 12, "TripletMarginMiner": 12})
    fastssl.patch("pytorch_metric_learning")
    for name, call in (
        ("ContrastiveLoss", pml.losses.ContrastiveLoss()),
        ("TripletMarginMiner", pml.miners.TripletMarginMiner()),
    ):
        calls = _calls("pytorch_metric_learning", name)
        for rows, references, fused in ((11, None, 0), (12, None, 1), (9, 15, 0), (9, 16, 1)):
            others = (
                {} if references is None else {"ref_emb": _rows(references), "ref_labels": torch.arange(references) % 3}
            )
            before = calls.fused
            call(_rows(rows), torch.arange(rows) % 3, **others)
            assert calls.fused - before == fused
        assert calls.original == {"fewer than 144 pairs of rows on a CPU (min_rows)": 2}
        with fastssl.patched("pytorch_metric_learning", min_rows=0):
            before = calls.fused
            call(_rows(6), torch.arange(6) % 3)
            assert calls.fused - before == 1


def test_few_distances_run_the_library_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sizes, "DIFFERENCES", 12 * 12 * 4)
    lightly()
    from lightly.loss.hypersphere_loss import HypersphereLoss

    fastssl.patch("lightly")
    calls, loss = _calls("lightly", "HypersphereLoss"), HypersphereLoss()
    for rows, fused in ((11, 0), (12, 1)):
        before = calls.fused
        loss(_rows(rows), _rows(rows).flip(0))
        assert calls.fused - before == fused
    assert calls.original == {"fewer than 576 differences of features on a CPU (min_rows)": 1}
    with fastssl.patched("lightly", min_rows=0):
        loss(_rows(5), _rows(5).flip(0))
    assert calls.fused == 2


def test_few_covariances_run_the_library_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pml = metric_learning()
    monkeypatch.setattr(_sizes, "COVARIANCES", 5 * 5)
    fastssl.patch("pytorch_metric_learning")
    calls, loss = _calls("pytorch_metric_learning", "VICRegLoss"), pml.losses.VICRegLoss()
    for features, fused in ((4, 0), (5, 1)):
        before = calls.fused
        loss(torch.randn(9, features), ref_emb=torch.randn(9, features))
        assert calls.fused - before == fused
    assert calls.original == {"fewer than 25 covariances on a CPU (min_rows)": 1}


@pytest.mark.parametrize("name", ["CosineSimilarity", "DotProductSimilarity"])
def test_a_similarity_given_to_a_loss_of_distances_runs_the_original(name: str) -> None:
    pml = metric_learning()
    loss, labels = pml.losses.FastAPLoss(), torch.arange(32) % 4
    loss.distance = getattr(pml.distances, name)()
    x = torch.randn(32, 8)
    expected = loss(x, labels)
    fastssl.patch("pytorch_metric_learning")
    torch.testing.assert_close(loss(x, labels), expected)
    assert not _calls("pytorch_metric_learning", "FastAPLoss").fused
