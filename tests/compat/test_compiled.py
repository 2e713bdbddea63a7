"""torch.compile of steps with patched losses: no graph break that the library has not, fused, and guarded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import lightning_fabric  # noqa: F401  # torch.compile leaves more at a module where it is imported
import pytest
import torch
from torch import Tensor, nn

import fastssl
from tests.support.peers import lightly, metric_learning, package

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
    reason="compilers before torch 2.13 break the graph where a module's own attributes are looked at",
)
ROWS, SIZE = 32, 16


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    fastssl.unpatch()
    torch._dynamo.reset()


def _rows(seed: int) -> Tensor:
    x = torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=1).requires_grad_()


def _clip() -> Callable[..., Tensor]:
    package("open_clip")
    from open_clip.loss import ClipLoss

    loss, scale = ClipLoss(), torch.tensor(10.0)
    return lambda x, z: loss(x, z, scale)


def _learned_clip() -> Callable[..., Tensor]:
    package("open_clip")
    from open_clip.loss import ClipLoss

    loss, scale = ClipLoss(), nn.Parameter(torch.tensor(2.0))
    return lambda x, z: loss(x, z, scale.exp())


def _siglip() -> Callable[..., Tensor]:
    package("open_clip")
    from open_clip.loss import SigLipLoss

    loss = SigLipLoss()
    return lambda x, z: loss(x, z, 10.0, -3.0)


def _sentences() -> Callable[..., Tensor]:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    loss = losses.MultipleNegativesRankingLoss(nn.Identity())
    return lambda x, z: loss.compute_loss_from_embeddings([x, z], None)


def _decoupled() -> Callable[..., Tensor]:
    lightly()
    from lightly.loss.dcl_loss import DCLLoss

    loss = DCLLoss(0.2)
    return lambda x, z: loss(x, z)


def _contrasted() -> Callable[..., Tensor]:
    lightly()
    from lightly.loss.ntx_ent_loss import NTXentLoss

    loss = NTXentLoss(0.2)
    return lambda x, z: loss(x, z)


WHOLE = {
    "ClipLoss": ("open_clip", _clip),
    "ClipLoss, learned scale": ("open_clip", _learned_clip),
    "SigLipLoss": ("open_clip", _siglip),
    "MultipleNegativesRankingLoss": ("sentence_transformers", _sentences),
    "DCLLoss": ("lightly", _decoupled),
    "NTXentLoss": ("lightly", _contrasted),
}


@pytest.mark.parametrize("title", ["ClipLoss", *(pytest.param(t, marks=pytest.mark.slow) for t in list(WHOLE)[1:])])
def test_one_graph(title: str) -> None:
    """The step is one graph, also where the library's own code breaks it; calls are counted."""
    peer, make = WHOLE[title]
    call = make()
    x, z = _rows(0), _rows(1)
    expected = torch.autograd.grad(call(x, z), (x, z))
    fastssl.patch(peer)
    step = torch.compile(call, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        given = torch.autograd.grad(step(x, z), (x, z))
    for a, b in zip(given, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert fastssl.patched()[peer][title.split(",")[0]].fused == 1  # once per compilation


@pytest.mark.parametrize("title", ["ClipLoss", *(pytest.param(t, marks=pytest.mark.slow) for t in list(WHOLE)[1:4])])
@pytest.mark.parametrize("within", [True, False])
def test_autocast_and_16_bit_rows(title: str, within: bool) -> None:
    """They ran the library's own code there. The result has the dtype of the library's."""
    peer, make = WHOLE[title]
    call = make()

    def loss(x: Tensor, z: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=within):
            value: Tensor = call(*((x, z) if within else (x.bfloat16(), z.bfloat16())))
            return value

    x, z = _rows(0), _rows(1)
    library = loss(x, z)
    fastssl.patch(peer)
    value = loss(x, z)
    expected = torch.autograd.grad(value, (x, z))
    step = torch.compile(loss, backend="aot_eager", fullgraph=True)
    compiled = step(x, z)
    assert compiled.dtype == library.dtype and torch.equal(compiled, value)
    for a, b in zip(torch.autograd.grad(compiled, (x, z)), expected):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)
    calls = fastssl.patched()[peer][title.split(",")[0]]
    assert calls.fused == 2 and not calls.original


def test_a_loss_within_a_model_is_compiled_once() -> None:
    """It was compiled again for each number of calls, up to the limit, from which on the model ran uncompiled."""
    package("open_clip")
    from open_clip.loss import ClipLoss

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.loss = nn.Linear(SIZE, 8), ClipLoss()

        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            loss: Tensor = self.loss(self.layer(x), self.layer(z), 10.0)
            return loss

    fastssl.patch("open_clip")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step = torch.compile(Model(), backend="eager", fullgraph=True)
    for _ in range(10):
        step(_rows(0), _rows(1)).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def _breaks(call: Callable[..., Tensor], *given: Tensor) -> int:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.compile(call, backend="eager")(*given).backward()
    return sum(torch._dynamo.utils.counters["graph_break"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
def test_no_more_breaks_than_the_librarys(name: str) -> None:
    if name == "NTXentLoss":
        lightly()
        from lightly.loss.ntx_ent_loss import NTXentLoss

        peer, loss, given = "lightly", NTXentLoss(0.2), (_rows(0), _rows(1))
    else:
        pml = metric_learning()
        peer, loss, given = "pytorch_metric_learning", pml.losses.SupConLoss(), (_rows(0), torch.arange(ROWS) // 2)
    before = _breaks(lambda *t: loss(*t), *given)
    fastssl.patch(peer)
    assert _breaks(lambda *t: loss(*t), *given) <= before
    assert fastssl.patched()[peer][name].fused == 1


def _whole(call: Callable[..., Tensor], x: Tensor) -> bool:
    torch._dynamo.reset()
    try:
        torch.compile(call, backend="eager", fullgraph=True)(x)
    except torch._dynamo.exc.TorchDynamoException:
        return False
    return True


LABELLED = ("AngularLoss", "ContrastiveLoss", "MultiSimilarityLoss", "NCALoss", "NTXentLoss", "TupletMarginLoss")
OF_CLASSES = ("ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss", "ProxyAnchorLoss", "ProxyNCALoss")
QUICK = ("NormalizedSoftmaxLoss",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LABELLED + OF_CLASSES]
)
def test_metric_losses_break_no_more_graphs(name: str) -> None:
    """They read values of tensors, each of which broke the graph; a margin of numpy's was no number."""
    kind = getattr(metric_learning().losses, name)
    if name in OF_CLASSES:  # of as many scores as are fused
        loss, x, labels = kind(512, SIZE), torch.randn(256, SIZE), torch.arange(256)
        if name in ("ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss"):
            labels[3] = -100  # ignored by the cross-entropy
    else:
        loss, x, labels = kind(), _rows(0).detach(), torch.arange(ROWS) % 8
    x.requires_grad_()

    def call(x: Tensor) -> Tensor:
        value: Tensor = loss(x, labels)
        return value

    def graphs() -> int:
        torch._dynamo.reset()
        return int(torch._dynamo.explain(call)(x).graph_count)

    expected = call(x)
    before, whole = graphs(), _whole(call, x)
    fastssl.patch("pytorch_metric_learning")
    assert graphs() <= before
    assert _whole(call, x) >= whole
    fastssl.unpatch()
    fastssl.patch("pytorch_metric_learning")
    torch._dynamo.reset()
    given = torch.compile(call, backend="aot_eager")(x)
    torch.testing.assert_close(given, expected)
    wanted, found = (torch.autograd.grad(value, x)[0] for value in (expected, given))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    calls = fastssl.patched()["pytorch_metric_learning"][name]
    assert calls.fused and not calls.original


@pytest.mark.parametrize("why", ["distance", pytest.param("labels", marks=pytest.mark.slow)])
def test_a_call_that_runs_the_original_adds_no_graph(why: str) -> None:
    """A query of torch.func, and copies of labels, were a graph before the library's own ones."""
    pml = metric_learning()
    loss = pml.losses.NTXentLoss(distance=pml.distances.LpDistance(p=1 if why == "distance" else 2))
    labels = torch.arange(ROWS) % 8 if why == "distance" else torch.arange(ROWS) % 8 * 1.0

    def graphs() -> int:
        torch._dynamo.reset()
        return int(torch._dynamo.explain(lambda x: loss(x, labels))(_rows(0)).graph_count)

    before = graphs()
    fastssl.patch("pytorch_metric_learning")
    assert graphs() == before
    calls = fastssl.patched()["pytorch_metric_learning"]["NTXentLoss"]
    assert not calls.fused and why in str(calls.original)


def test_a_miner_that_is_made_within_a_compiled_function() -> None:
    """Its angle, a number of numpy's, is an array there, which the original refuses outside of the graph."""
    metric_learning()
    from pytorch_metric_learning import miners

    x, y = _rows(0).detach(), torch.arange(ROWS) % 8
    wanted = miners.AngularMiner(30)(x, y)
    fastssl.patch("pytorch_metric_learning")
    found = torch.compile(lambda x: miners.AngularMiner(30)(x, y), backend="eager")(x)
    assert all(map(torch.equal, found, wanted))
    calls = fastssl.patched()["pytorch_metric_learning"]["AngularMiner"]
    assert calls.fused and not calls.original


def test_compiled_derivatives_of_torch_func_run_the_original() -> None:
    """Whether a transform is active is read when the graph is made, which is guarded by it."""
    package("open_clip")
    from open_clip.loss import ClipLoss

    loss, x, z = ClipLoss(), _rows(0).detach(), _rows(1).detach()
    wanted = torch.func.grad(lambda x: loss(x, z, 10.0))(x)
    fastssl.patch("open_clip")
    plain = torch.compile(lambda x: loss(x, z, 10.0), backend="aot_eager")
    plain(x)
    grad = torch.compile(torch.func.grad(lambda x: loss(x, z, 10.0)), backend="aot_eager")
    torch.testing.assert_close(grad(x), wanted)
    calls = fastssl.patched()["open_clip"]["ClipLoss"]
    assert calls.fused == 1 and "torch.func" in str(calls.original)


@pytest.mark.slow
def test_a_memory_of_batches_is_fused() -> None:
    """A loss that is part of another module, whose own graph breaks."""
    pml = metric_learning()
    memory, labels = pml.losses.CrossBatchMemory(pml.losses.NTXentLoss(), SIZE, 64), torch.arange(ROWS) % 8

    def gradients(call: Callable[..., Tensor]) -> list[Tensor]:
        memory.reset_queue()
        return [torch.autograd.grad(call(x, labels), x)[0] for x in (_rows(0),)]

    expected = gradients(memory)
    fastssl.patch("pytorch_metric_learning")
    step = torch.compile(lambda x, y: memory(x, y), backend="eager")
    for a, b in zip(gradients(step), expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    calls = fastssl.patched()["pytorch_metric_learning"]["NTXentLoss"]
    assert calls.fused == 1 and not calls.original


def test_what_is_replaced_after_compilation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    package("open_clip")
    from open_clip.loss import ClipLoss

    def twice(self: Any, image: Tensor, text: Tensor, scale: Any, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        logits = 2 * scale * image @ text.T
        return logits, logits.T

    loss, x, z = ClipLoss(), _rows(0), _rows(1)
    before = float(loss(x, z, 10.0))
    doubled = float(loss(x, z, 20.0))
    fastssl.patch("open_clip")
    step = torch.compile(lambda x, z: loss(x, z, 10.0), backend="eager", fullgraph=True)
    assert float(step(x, z)) == pytest.approx(before, rel=1e-5)
    loss.get_logits = functools.partial(twice, loss)
    assert float(step(x, z)) == pytest.approx(doubled, rel=1e-5)
    del loss.get_logits
    with monkeypatch.context() as patch:
        patch.setattr(ClipLoss, "get_logits", twice)
        assert float(step(x, z)) == pytest.approx(doubled, rel=1e-5)
    assert float(step(x, z)) == pytest.approx(before, rel=1e-5)
    calls = fastssl.patched()["open_clip"]["ClipLoss"]
    fused = calls.fused  # counted when compiled: torch may take the first graph again, or compile another
    assert fused in (1, 2) and sum(calls.original.values()) == 2
    fastssl.unpatch()
    assert float(step(x, z)) == pytest.approx(before, rel=1e-5)
    assert calls.fused == fused


def test_a_loss_that_is_compiled_itself_is_fused() -> None:
    """torch.compile leaves an attribute at the module."""
    loss, x, y = metric_learning().losses.ContrastiveLoss(), _rows(0), torch.arange(ROWS) % 4
    wanted = loss(x, y)
    fastssl.patch("pytorch_metric_learning")
    calls = fastssl.patched()["pytorch_metric_learning"]["ContrastiveLoss"]
    torch.testing.assert_close(torch.compile(loss, backend="aot_eager")(x, y), wanted)
    torch.testing.assert_close(loss(x, y), wanted)
    assert calls.fused >= 2 and not calls.original


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("CosFaceLoss", 10),
        ("ArcFaceLoss", 100),
        *(pytest.param("NormalizedSoftmaxLoss", n, marks=pytest.mark.slow) for n in (10, 100)),  # as of 512, above
        pytest.param("CosFaceLoss", 100, marks=pytest.mark.slow),
        pytest.param("ArcFaceLoss", 10, marks=pytest.mark.slow),
    ],
)
def test_ignored_labels_are_those_of_the_library(name: str, classes: int) -> None:
    """Losses with a margin index classes by the label first, which fails below 100 of them."""
    loss = getattr(metric_learning().losses, name)(num_classes=classes, embedding_size=SIZE)
    x, y = _rows(0), torch.arange(ROWS) % 10
    y[3] = -100
    raises = classes < 100 and name != "NormalizedSoftmaxLoss"
    wanted = None if raises else loss(x, y)
    if raises:
        with pytest.raises(IndexError):
            loss(x, y)
    fastssl.patch("pytorch_metric_learning", min_rows=0)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    if raises:
        with pytest.raises(RuntimeError, match="labels: expected values in"):
            compiled(x, y)
    else:
        torch.testing.assert_close(compiled(x, y), wanted)
    assert fastssl.patched()["pytorch_metric_learning"][name].fused >= 1
