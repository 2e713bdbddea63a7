"""A patch never gives another result: learned settings, reducers, replaced methods, hooks, versions, other wrappers."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastssl
from fastssl.functional._pairs import Pairs
from tests.support.peers import lightly, metric_learning, package

ROWS, SIZE = 32, 16


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # wrappers of the tests themselves
        fastssl.unpatch()


def _rows(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _labels() -> Tensor:
    return torch.arange(ROWS) % 8


def _both(peer: str, call: Callable[[Tensor], Tensor], learned: Tensor | None = None) -> list[list[Tensor | None]]:
    """The loss, the gradient of the rows and that of a learned setting, without and with the patch."""
    found: list[list[Tensor | None]] = []
    for patched in (False, True):
        if patched:
            fastssl.patch(peer)
        x = _rows().requires_grad_()
        if learned is not None:
            learned.grad = None
        loss = call(x)
        loss.backward()
        found.append([loss.detach(), x.grad, None if learned is None or learned.grad is None else learned.grad.clone()])
    return found


def _same(found: list[list[Tensor | None]]) -> None:
    for before, after in zip(*found):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


LEARNED = [
    ("NTXentLoss", "temperature", 0.3, {}),
    ("SupConLoss", "temperature", 0.3, {}),
    ("ContrastiveLoss", "neg_margin", 1.1, {}),
    ("ContrastiveLoss", "pos_margin", 0.2, {}),
    ("TripletMarginLoss", "margin", 0.2, {}),
    ("TripletMarginLoss", "margin", 0.2, {"smooth_loss": True}),
    ("LiftedStructureLoss", "neg_margin", 0.9, {}),
    ("LiftedStructureLoss", "pos_margin", 0.1, {}),
    ("GeneralizedLiftedStructureLoss", "neg_margin", 0.9, {}),
    ("MultiSimilarityLoss", "alpha", 2.0, {}),
    ("MultiSimilarityLoss", "beta", 20.0, {}),
    ("MultiSimilarityLoss", "base", 0.4, {}),
    ("CircleLoss", "gamma", 8.0, {}),
    ("NCALoss", "softmax_scale", 1.5, {}),
    ("MarginLoss", "margin", 0.3, {}),
    ("MarginLoss", "nu", 0.1, {"learn_beta": True}),
    ("ThresholdConsistentMarginLoss", "lambda_plus", 0.7, {}),
    ("ThresholdConsistentMarginLoss", "margin_minus", 0.2, {}),
    ("TupletMarginLoss", "scale", 8.0, {}),
    ("TupletMarginLoss", "margin", 0.1, {}),
    ("AngularLoss", "alpha", 0.6, {}),
    ("RankedListLoss", "margin", 0.4, {"margin": 0.4, "Tn": 2}),
    ("RankedListLoss", "Tn", 2.0, {"margin": 0.4, "Tn": 2}),
    ("NormalizedSoftmaxLoss", "temperature", 0.2, {"num_classes": 8, "embedding_size": SIZE}),
    ("ArcFaceLoss", "scale", 16.0, {"num_classes": 8, "embedding_size": SIZE}),
    ("CosFaceLoss", "margin", 0.3, {"num_classes": 8, "embedding_size": SIZE}),
    ("ProxyNCALoss", "softmax_scale", 1.5, {"num_classes": 8, "embedding_size": SIZE}),
    ("ProxyAnchorLoss", "alpha", 16.0, {"num_classes": 8, "embedding_size": SIZE}),
]


@pytest.mark.parametrize(("name", "setting", "value", "arguments"), LEARNED)
def test_a_learned_setting_of_metric_learning(name: str, setting: str, value: float, arguments: dict[str, Any]) -> None:
    pml = metric_learning()
    loss = getattr(pml.losses, name)(**arguments)
    learned = nn.Parameter(torch.tensor(value))
    delattr(loss, setting)
    setattr(loss, setting, learned)
    found = _both("pytorch_metric_learning", lambda x: loss(x, _labels()), learned)
    _same(found)
    assert found[1][2] is not None and fastssl.patched()["pytorch_metric_learning"][name].fused == 1


@pytest.mark.parametrize("name", ["LiftedStructureLoss", "GeneralizedLiftedStructureLoss"])
def test_rows_that_are_infinitely_far_apart_are_no_loss_of_0(name: str) -> None:
    pml = metric_learning()
    loss = getattr(pml.losses, name)(distance=pml.distances.LpDistance(normalize_embeddings=False, power=2))
    for (value, *_), patched in zip(_both("pytorch_metric_learning", lambda x: loss(x * 1e20, _labels())), (0, 1)):
        assert value is not None and not bool(torch.isfinite(value)), patched
    assert fastssl.patched()["pytorch_metric_learning"][name].fused == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", sorted({name for name, *_ in LEARNED}))
def test_a_row_that_is_not_finite_is_not_hidden(name: str, value: float) -> None:
    """Neither the loss nor a gradient is finite throughout where the original's are not."""
    pml = metric_learning()
    arguments = next(given for each, _, _, given in LEARNED if each == name)
    loss = getattr(pml.losses, name)(**arguments)
    place = torch.zeros(ROWS, SIZE)
    place[5, 2] = value
    before, after = _both("pytorch_metric_learning", lambda x: loss(x + place, _labels()))
    broken = [any(t is not None and not bool(torch.isfinite(t).all()) for t in found) for found in (before, after)]
    assert broken[1] or not broken[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_memory_bank_of_lightly_in_mixed_precision(dtype: torch.dtype) -> None:
    """Rows of 16 bits, or float32, within autocast, and a bank in float32."""
    lightly()
    from lightly.loss.ntx_ent_loss import NTXentLoss

    def steps(precision: torch.dtype | None) -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(0)
        loss, found = NTXentLoss(0.3, memory_bank_size=(80, SIZE)), []
        for k in range(4):
            x, z = (_rows(2 * k + i, dtype).to(precision or dtype).requires_grad_() for i in range(2))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision is None):
                value = loss(x, z)
            value.backward()
            found += [value.detach(), x.grad, z.grad]  # type: ignore[list-item]
        return found, loss.memory_bank.bank

    (theirs, bank), (right, _) = steps(None), steps(torch.float32)
    fastssl.patch("lightly")
    ours, kept = steps(None)
    assert fastssl.patched()["lightly"]["NTXentLoss"].fused == 4
    assert torch.equal(kept, bank)
    for k in range(3):  # the loss, and the gradients of both views
        a, b, r = (torch.stack([t.float().flatten() for t in found[k::3]]) for found in (theirs, ours, right))
        width = torch.finfo(theirs[k].dtype).eps * float(r.abs().max()) / 2
        assert float((b - r).square().mean().sqrt()) <= 1.5 * float((a - r).square().mean().sqrt()) + width
        assert theirs[k].dtype == ours[k].dtype


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("name", ["NTXentLoss", "DCLLoss", "DCLWLoss"])
def test_a_learned_temperature_of_lightly(name: str, shape: tuple[int, ...]) -> None:
    lightly()
    from lightly.loss import dcl_loss, ntx_ent_loss

    loss = getattr(ntx_ent_loss if name == "NTXentLoss" else dcl_loss, name)()
    learned = nn.Parameter(torch.full(shape, 0.3))
    del loss.temperature
    loss.temperature = learned
    found = _both("lightly", lambda x: loss(x, _rows(1)), learned)
    _same(found)
    assert found[1][2] is not None and fastssl.patched()["lightly"][name].fused == 1


def _learnt(classes: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """32 rows around 8 centres and 6 random ones: most losses are 0 in fp32."""
    g = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(classes, 32, generator=g), dim=1)
    y = torch.arange(38) % classes
    x = centres[y] + 1e-3 * torch.randn(38, 32, generator=g)
    x[32:] = torch.randn(6, 32, generator=g)
    return x, y, centres


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reducer", ["AvgNonZeroReducer", "ThresholdReducer", "MeanReducer", "named"])
@pytest.mark.parametrize(
    "name",
    [
        "ArcFaceLoss",
        "CosFaceLoss",
        "NormalizedSoftmaxLoss",
        "ProxyNCALoss",
        "ProxyAnchorLoss",
        "NCALoss",
        "FastAPLoss",
        "TupletMarginLoss",
        "NTXentLoss",
        "SupConLoss",
        "CircleLoss",
        "MultiSimilarityLoss",
        "TripletMarginLoss",
    ],
)
def test_reducers_that_compare_losses_with_a_number(name: str, reducer: str, dtype: torch.dtype) -> None:
    pml = metric_learning()
    from pytorch_metric_learning import reducers

    x, y, centres = (t.to(dtype) if t.is_floating_point() else t for t in _learnt())
    makes = {
        "AvgNonZeroReducer": reducers.AvgNonZeroReducer,
        "ThresholdReducer": lambda: reducers.ThresholdReducer(low=0),
        "MeanReducer": reducers.MeanReducer,
        "named": lambda: reducers.MultipleReducers({"loss": reducers.AvgNonZeroReducer()}),
    }
    classes = {"num_classes": 8, "embedding_size": 32} if "Face" in name or "Prox" in name or "Softmax" in name else {}
    loss = getattr(pml.losses, name)(**classes, reducer=makes[reducer]()).to(dtype)
    with torch.no_grad():
        for p in loss.parameters():
            p.copy_(centres if p.shape == centres.shape else centres.T)
    before = float(loss(x, y))
    fastssl.patch("pytorch_metric_learning")
    assert float(loss(x, y)) == pytest.approx(before, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("reducer", ["DivisorReducer", "ThresholdReducer", "ClassWeightedReducer", "by hand", "tensor"])
@pytest.mark.parametrize("name", sorted({name for name, *_ in LEARNED} - {"MarginLoss"}))  # which has its own reducers
def test_a_reducer_without_a_kernel_is_found_before_the_loss_is_computed(
    name: str, reducer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pml = metric_learning()
    from pytorch_metric_learning import reducers

    makes = {
        "DivisorReducer": reducers.DivisorReducer,
        "ThresholdReducer": lambda: reducers.ThresholdReducer(low=0.1),
        "ClassWeightedReducer": lambda: reducers.ClassWeightedReducer(torch.ones(8)),
        "by hand": reducers.AvgNonZeroReducer,
        "tensor": lambda: reducers.ThresholdReducer(low=0.1),
    }
    loss = getattr(pml.losses, name)(**next(c[3] for c in LEARNED if c[0] == name), reducer=makes[reducer]())
    if reducer == "by hand":
        loss.reducer.low = 0.3
    if reducer == "tensor":
        loss.reducer.low = torch.tensor([0.1, 0.2])
    computed = []
    reduce = Pairs.reduce
    monkeypatch.setattr(Pairs, "reduce", lambda self, *a, **o: computed.append(1) or reduce(self, *a, **o))
    fastssl.patch("pytorch_metric_learning")
    with contextlib.suppress(Exception):  # some of the library's reducers want more than its losses give
        loss(_rows(), _labels())
    calls = fastssl.patched()["pytorch_metric_learning"][name]
    assert calls.fused or not computed, calls


@pytest.mark.parametrize(
    "change",
    [
        lambda loss: setattr(loss, "cross_entropy", nn.CrossEntropyLoss(label_smoothing=0.2)),
        lambda loss: setattr(loss, "cross_entropy", nn.CrossEntropyLoss(weight=torch.rand(2 * ROWS - 1))),
        lambda loss: setattr(loss, "cross_entropy", nn.CrossEntropyLoss(ignore_index=3)),
        lambda loss: setattr(loss.cross_entropy, "reduction", "sum"),
        lambda loss: setattr(loss.cross_entropy, "forward", lambda logits, labels: logits.mean()),
        lambda loss: loss.cross_entropy.register_forward_hook(lambda m, a, out: out * 2) and None,
        lambda loss: loss.memory_bank.register_forward_pre_hook(lambda m, a: None) and None,
    ],
)
def test_settings_of_the_objects_within_lightlys_loss(change: Callable[[Any], None]) -> None:
    lightly()
    from lightly.loss.ntx_ent_loss import NTXentLoss

    loss = NTXentLoss(0.1)
    change(loss)
    _same(_both("lightly", lambda x: loss(x, _rows(1))))
    assert fastssl.patched()["lightly"]["NTXentLoss"].fused == 0


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def test_replaced_methods_of_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    package("open_clip")
    from open_clip.loss import ClipLoss, SigLipLoss

    def twice(self: Any, image: Tensor, text: Tensor, scale: Any, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        logits = 2 * scale * image @ text.T
        return logits, logits.T

    def run(loss: Any) -> Any:
        bias = (0.0,) if type(loss).__name__ == "SigLipLoss" else ()
        found = _both("open_clip", lambda x: loss(_unit(x), _unit(_rows(1)), 10.0, *bias))
        _same(found)
        calls = fastssl.patched()["open_clip"]
        fastssl.unpatch()
        return sum(c.fused for c in calls.values())

    assert run(ClipLoss()) == 1 and run(SigLipLoss()) == 1
    on_object = ClipLoss()
    on_object.get_logits = functools.partial(twice, on_object)
    assert run(on_object) == 0
    truth = ClipLoss()
    truth.get_ground_truth = lambda device, n: torch.arange(n).flip(0)
    assert run(truth) == 0
    siglip = SigLipLoss()
    siglip._loss = lambda image, text, *rest, **more: (image * text).sum()
    assert run(siglip) == 0

    class Mine(ClipLoss):
        get_logits = twice

    assert run(Mine()) == 0
    with monkeypatch.context() as patch:
        patch.setattr(ClipLoss, "get_logits", twice)
        assert run(ClipLoss()) == 0
    assert run(ClipLoss()) == 1
    with monkeypatch.context() as patch:
        patch.setattr(ClipLoss, "get_logits", functools.wraps(ClipLoss.get_logits)(twice))
        assert run(ClipLoss()) == 0
    fastssl.patch("open_clip")  # and replaced while it is patched
    with monkeypatch.context() as patch:
        patch.setattr(ClipLoss, "get_logits", twice)
        ClipLoss()(_unit(_rows()), _unit(_rows(1)), 10.0)
        assert fastssl.patched()["open_clip"]["ClipLoss"].fused == 0
    ClipLoss()(_unit(_rows()), _unit(_rows(1)), 10.0)
    assert fastssl.patched()["open_clip"]["ClipLoss"].fused == 1


def test_a_method_that_was_replaced_before_patching_is_not_bypassed(monkeypatch: pytest.MonkeyPatch) -> None:
    package("open_clip")
    from open_clip.loss import ClipLoss

    original = ClipLoss.forward

    @functools.wraps(original)
    def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
        return 2 * original(self, *args, **kwargs)

    monkeypatch.setattr(ClipLoss, "forward", doubled)
    _same(_both("open_clip", lambda x: ClipLoss()(_unit(x), _unit(_rows(1)), 10.0)))


@pytest.mark.parametrize("method", ["pos_calc", "neg_calc", "get_per_pair_loss", "_compute_loss", "loss_method"])
def test_replaced_methods_of_metric_learning(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pml = metric_learning()
    results = {
        "pos_calc": lambda d, m: d * 3,
        "neg_calc": lambda d, m: (1.5 - d).relu(),
        "get_per_pair_loss": lambda d, kind: d**2,
        "_compute_loss": lambda p, n, i: {
            "pos_loss": {"losses": p.sum(), "indices": None, "reduction_type": "already_reduced"},
            "neg_loss": {"losses": n.sum(), "indices": None, "reduction_type": "already_reduced"},
        },
        "loss_method": lambda mat, i: {
            "pos_loss": {"losses": mat.sum(), "indices": None, "reduction_type": "already_reduced"}
        },
    }
    on_object = pml.losses.ContrastiveLoss()
    setattr(on_object, method, results[method])
    _same(_both("pytorch_metric_learning", lambda x: on_object(x, _labels())))
    assert fastssl.patched()["pytorch_metric_learning"]["ContrastiveLoss"].fused == 0
    fastssl.unpatch()
    if method != "loss_method":
        monkeypatch.setattr(pml.losses.ContrastiveLoss, method, lambda self, *given: results[method](*given))
        _same(_both("pytorch_metric_learning", lambda x: pml.losses.ContrastiveLoss()(x, _labels())))
        assert fastssl.patched()["pytorch_metric_learning"]["ContrastiveLoss"].fused == 0


@pytest.mark.parametrize("part", ["distance", "reducer"])
@pytest.mark.parametrize("hook", ["register_forward_hook", "register_full_backward_hook", "register_forward_pre_hook"])
def test_hooks_run(part: str, hook: str) -> None:
    pml = metric_learning()
    loss = pml.losses.NTXentLoss()
    seen: list[str] = []
    getattr(getattr(loss, part), hook)(lambda *given: seen.append(hook))
    loss(_rows().requires_grad_(), _labels()).backward()
    once = len(seen)
    _same(_both("pytorch_metric_learning", lambda x: loss(x, _labels())))
    assert len(seen) == 3 * once and fastssl.patched()["pytorch_metric_learning"]["NTXentLoss"].fused == 0


def test_hooks_of_all_modules_run() -> None:
    pml = metric_learning()
    loss, seen = pml.losses.NTXentLoss(), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, a, out: seen.append(type(m).__name__))
    try:
        _both("pytorch_metric_learning", lambda x: loss(x, _labels()))
    finally:
        handle.remove()
    assert seen.count("CosineSimilarity") == 2


def test_hooks_on_the_loss_itself_run_and_it_is_fused() -> None:
    lightly()
    from lightly.loss.ntx_ent_loss import NTXentLoss

    loss, seen = NTXentLoss(), []
    loss.register_forward_hook(lambda m, a, out: seen.append(float(out.detach())))
    loss.register_full_backward_hook(lambda m, to, given: seen.append(len(to)))
    _same(_both("lightly", lambda x: loss(x, _rows(1))))
    assert len(seen) == 4 and fastssl.patched()["lightly"]["NTXentLoss"].fused == 1


def _pretend(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def found(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)


def test_libraries_are_known_by_the_names_of_their_packages() -> None:
    from fastssl.compat import known_library

    assert known_library("pytorch-metric-learning") == known_library("pytorch_metric_learning")
    with pytest.raises(ValueError, match="name: expected one of .*, got 'pytorch_metric'; did you mean 'pytorch_metr"):
        fastssl.patched("pytorch_metric")
    with pytest.raises(ValueError, match=r"got 'keras'$"):
        fastssl.unpatch("keras")
    with fastssl.patched("pytorch-metric-learning"):
        assert "pytorch_metric_learning" in fastssl.patched()
        fastssl.patch("pytorch-metric-learning", verbose=False)
    fastssl.unpatch("pytorch-metric-learning")
    assert "pytorch_metric_learning" not in fastssl.patched()


@pytest.mark.parametrize(
    ("peer", "version"),
    [
        ("pytorch_metric_learning", "2.4.1"),
        ("pytorch_metric_learning", "3.0.0"),
        ("lightly", "1.5.15"),
        ("lightly", "1.5.20"),
        ("lightly", "1.7.0"),
        ("open_clip", "2.20.0"),
        ("open_clip", "4.0.0"),
        ("sentence_transformers", "3.0.0"),
        ("sentence_transformers", "5.2.3"),
        ("sentence_transformers", "7.0.0"),
        ("transformers", "3.0.0"),
    ],
)
def test_an_unknown_version_is_an_error_and_patches_nothing(
    peer: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if peer not in fastssl.compat.PEERS:
        pytest.skip("no such adapter")
    _pretend(monkeypatch, version)
    for _ in range(2):  # the second time as the first
        with pytest.raises(ImportError, match=f"name: expected .* >= .* and < .*got {version}: nothing is patched"):
            fastssl.patch(peer)
    assert fastssl.patched() == {}


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, None)
    monkeypatch.delitem(__import__("sys").modules, "open_clip", raising=False)
    with pytest.raises(ImportError, match="open_clip is not installed.*open_clip_torch"):
        fastssl.patch("open_clip")


def test_unpatching_leaves_what_others_put_on_since() -> None:
    pml = metric_learning()
    owner = pml.losses.NTXentLoss
    loss, x, y = owner(), _rows(), _labels()
    right = loss(x, y)
    fastssl.patch("pytorch_metric_learning")
    ours, seen = owner.compute_loss, []

    def logged(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return ours(self, *args, **kwargs)

    owner.compute_loss = logged
    try:
        loss(x, y)
        assert fastssl.patched()["pytorch_metric_learning"]["NTXentLoss"].fused == 1
        with pytest.warns(RuntimeWarning, match="NTXentLoss.compute_loss was replaced after fastssl.patch"):
            fastssl.unpatch()
        assert owner.compute_loss is logged and fastssl.patched() == {}
        assert torch.equal(loss(x, y), right) and len(seen) == 2  # what it calls is the library's own again
        assert "compute_loss" not in vars(pml.losses.SupConLoss)
    finally:
        del owner.compute_loss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastssl.patch("pytorch_metric_learning")
        fastssl.unpatch()


def test_patching_within_a_context() -> None:
    pml = metric_learning()
    loss, x, y = pml.losses.NTXentLoss(), _rows(), _labels()
    with fastssl.patched("pytorch_metric_learning") as calls:
        loss(x, y)
    assert calls["NTXentLoss"].fused == 1 and fastssl.patched() == {}
    fastssl.patch("pytorch_metric_learning")
    with fastssl.patched("pytorch_metric_learning", exact_dtypes=True) as calls:
        loss(x.bfloat16(), y)
    assert calls["NTXentLoss"].original["16-bit inputs"] == 1
    loss(x.bfloat16(), y)  # as it was patched before
    assert fastssl.patched()["pytorch_metric_learning"]["NTXentLoss"].fused == 1
    with pytest.raises(ValueError, match="name.*'torch'"), fastssl.patched("torch"):
        pass
    with pytest.raises(TypeError, match="name.*verbose"):
        fastssl.patched(verbose=True)


def test_patching_all_that_are_installed() -> None:
    metric_learning()
    lightly()
    package("open_clip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # without torchvision not all can be imported
        fastssl.patch()
    assert {"pytorch_metric_learning", "lightly", "open_clip"} <= set(fastssl.patched())


def test_forward_mode_and_hessians_run_the_original() -> None:
    pml = metric_learning()
    loss, y = pml.losses.SupConLoss(), _labels()
    x = _rows(dtype=torch.float64)
    tangent = _rows(1, torch.float64)
    _, before = torch.func.jvp(lambda t: loss(t, y), (x,), (tangent,))
    fastssl.patch("pytorch_metric_learning")
    _, after = torch.func.jvp(lambda t: loss(t, y), (x,), (tangent,))
    assert torch.equal(before, after)
    with torch.autograd.forward_ad.dual_level():
        dual = loss(torch.autograd.forward_ad.make_dual(x, tangent), y)
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(dual).tangent, before)
    assert fastssl.patched()["pytorch_metric_learning"]["SupConLoss"].fused == 0


def _curvature(loss: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient, and that of its square."""
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    return first.detach(), torch.autograd.grad(first.square().sum(), x)[0]


@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss", "TupletMarginLoss", "ArcFaceLoss", "CircleLoss"])
def test_second_derivatives_are_the_originals(name: str) -> None:
    pml = metric_learning()
    arguments = {"num_classes": 8, "embedding_size": SIZE} if name == "ArcFaceLoss" else {}
    loss = getattr(pml.losses, name)(**arguments).double()
    x = _rows(dtype=torch.float64).requires_grad_()
    before = _curvature(loss(x, _labels()), x)
    fastssl.patch("pytorch_metric_learning")
    result = loss(x, _labels())
    result.backward(retain_graph=True)  # the first derivative alone
    assert fastssl.patched()["pytorch_metric_learning"][name].fused == 1
    for a, b in zip(before, _curvature(result, x)):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(x.grad, before[0], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("hooked", ["embeddings", "leaf", "weight"])
def test_hooks_run_once_in_a_backward_pass_that_is_differentiated(hooked: str) -> None:
    """A hook that doubles a gradient doubled it again in the original's backward pass within."""
    pml = metric_learning()
    loss = pml.losses.ArcFaceLoss(8, SIZE).double()
    found = []
    for patched in (False, True):
        if patched:
            fastssl.patch("pytorch_metric_learning")
        leaf, calls = _rows(dtype=torch.float64).requires_grad_(), []
        x = leaf.tanh()
        tensor = {"embeddings": x, "leaf": leaf, "weight": loss.W}[hooked]
        hook = tensor.register_hook(lambda grad, calls=calls: calls.append(grad.detach()) or 2 * grad)
        rows = leaf if hooked == "leaf" else x
        first = torch.autograd.grad(loss(rows, _labels()), (rows, loss.W), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (leaf, loss.W))
        hook.remove()
        found.append([*first, *second, *calls])
    assert fastssl.patched()["pytorch_metric_learning"]["ArcFaceLoss"].fused == 1
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("library", ["lightly", "pytorch_metric_learning"])
def test_a_hook_of_a_learned_temperature_runs_once_too(library: str) -> None:
    learned = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    if library == "lightly":
        lightly()
        from lightly.loss.ntx_ent_loss import NTXentLoss

        loss, name = NTXentLoss(learned), "NTXentLoss"
    else:  # whose formula is a bound method, kept as an attribute
        loss, name = metric_learning().losses.SupConLoss(learned), "SupConLoss"
    loss.temperature.register_hook(lambda grad: 3 * grad)
    x = _rows(dtype=torch.float64).requires_grad_()
    second = _rows(1, torch.float64) if library == "lightly" else _labels()
    found = []
    for patched in (False, True):
        if patched:
            fastssl.patch(library)
        (first,) = torch.autograd.grad(loss(x, second), loss.temperature, create_graph=True)
        found.append([first, *torch.autograd.grad(first.square(), (x, loss.temperature))])
    assert fastssl.patched()[library][name].fused == 1
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


def test_margin_loss_with_a_beta_per_class() -> None:
    """Its second derivatives are the original's; labels may be written to before the backward pass."""
    pml = metric_learning()
    loss = pml.losses.MarginLoss(learn_beta=True, num_classes=60, distance=pml.distances.CosineSimilarity()).double()
    x = _rows(dtype=torch.float64).requires_grad_()
    found = []
    for patched in (False, True):
        if patched:
            fastssl.patch("pytorch_metric_learning")
        labels = _labels().clone()
        value = loss(x, labels)
        labels.zero_()
        first = torch.autograd.grad(value, (x, loss.beta))
        found.append([value.detach(), *first, *_curvature(loss(x, _labels()), x)])
    assert fastssl.patched()["pytorch_metric_learning"]["MarginLoss"].fused == 2
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss", "TripletMarginLoss", "ContrastiveLoss"])
def test_labels_and_reference_rows_made_in_inference_mode(name: str) -> None:
    """Autograd cannot save such tensors; with labels the original works, with rows no code of torch's does."""
    pml = metric_learning()
    loss, found = getattr(pml.losses, name)(), []
    with torch.inference_mode():
        labels, rows = _labels().clone(), _rows(1).clone()
    for patched in (False, True):
        if patched:
            fastssl.patch("pytorch_metric_learning")
        x = _rows().requires_grad_()
        value = loss(x, labels if patched else _labels())
        value = value + loss(x, labels, ref_emb=rows if patched else _rows(1), ref_labels=labels)
        found.append([value.detach(), *torch.autograd.grad(value, x)])
    assert fastssl.patched()["pytorch_metric_learning"][name].fused == 2
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)


def test_the_hessian_of_a_patched_loss_with_autograd_functional() -> None:
    package("open_clip")
    from open_clip.loss import ClipLoss

    image, text = _unit(_rows(dtype=torch.float64))[:5], _unit(_rows(1, torch.float64))[:5]
    before = torch.autograd.functional.hessian(lambda t: ClipLoss()(t, text, 10.0), image)
    fastssl.patch("open_clip")
    after = torch.autograd.functional.hessian(lambda t: ClipLoss()(t, text, 10.0), image)
    torch.testing.assert_close(after, before)
    assert fastssl.patched()["open_clip"]["ClipLoss"].fused == 1


def test_second_derivatives_of_a_call_that_filled_a_memory_bank_are_refused() -> None:
    lightly()
    from lightly.loss.ntx_ent_loss import NTXentLoss

    fastssl.patch("lightly")
    loss, x = NTXentLoss(memory_bank_size=(64, SIZE)), _rows().requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative of a call that changed buffers.*memory bank"):
        torch.autograd.grad(loss(x, _rows(1)), x, create_graph=True)


def test_the_result_of_a_patched_loss_may_be_changed_in_place() -> None:
    pml = metric_learning()
    found = []
    for patched in (False, True):
        if patched:
            fastssl.patch("pytorch_metric_learning")
        x = _rows().requires_grad_()
        loss = pml.losses.SupConLoss()(x, _labels())
        loss /= 4
        loss.backward()
        found.append(x.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_what_open_clip_leaves_behind() -> None:
    package("open_clip")
    from open_clip.loss import ClipLoss

    for patched in (False, True):
        if patched:
            fastssl.patch("open_clip")
        loss = ClipLoss(cache_labels=True)
        loss(_unit(_rows()), _unit(_rows(1)), 10.0, output_dict=True)
        assert loss.prev_num_logits == ROWS and torch.equal(loss.labels[torch.device("cpu")], torch.arange(ROWS))


@pytest.mark.parametrize("name", ["LiftedStructureLoss", "TripletMarginLoss", "NTXentLoss", "AngularLoss"])
@pytest.mark.parametrize("classes", [1, ROWS])
def test_rows_that_the_library_refuses_are_refused_where_there_is_nothing_to_compute(name: str, classes: int) -> None:
    pml = metric_learning()
    loss = getattr(pml.losses, name)(distance=pml.distances.LpDistance())
    x, y = _rows(dtype=torch.bfloat16)[:20], torch.arange(20) % classes  # few: torch.cdist has no kernel for them

    def outcome() -> Any:
        try:
            return float(loss(x, y))
        except NotImplementedError as error:
            return type(error)

    before = outcome()
    fastssl.patch("pytorch_metric_learning")
    assert outcome() == before


def test_numbers_of_numpy_in_settings() -> None:
    numpy = pytest.importorskip("numpy")
    pml = metric_learning()
    _same(
        _both("pytorch_metric_learning", lambda x: pml.losses.NTXentLoss(temperature=numpy.float32(0.3))(x, _labels()))
    )
    assert fastssl.patched()["pytorch_metric_learning"]["NTXentLoss"].fused == 1


def test_copies_of_a_loss_are_fused_each_with_its_own_settings() -> None:
    pml = metric_learning()
    loss = pml.losses.ContrastiveLoss()
    for twin in (copy.deepcopy(loss), copy.copy(loss)):
        twin.neg_margin = 0.7
        _same(_both("pytorch_metric_learning", lambda x, twin=twin: twin(x, _labels())))
        fastssl.unpatch()


@pytest.mark.parametrize(
    ("name", "others"),
    [
        *(
            (name, others)
            for name in ("ContrastiveLoss", "NTXentLoss", "TripletMarginLoss", "MultiSimilarityLoss", "SupConLoss")
            for others in (False, True)
        ),
        ("ProxyAnchorLoss", False),
        ("ProxyNCALoss", False),
    ],
)
def test_labels_may_be_overwritten_before_the_backward_pass(name: str, others: bool) -> None:
    from pytorch_metric_learning import losses

    def gradient() -> Tensor:
        torch.manual_seed(0)
        x, y = torch.randn(24, 8, requires_grad=True), torch.arange(24) % 5
        given = {"ref_emb": torch.randn(30, 8), "ref_labels": torch.arange(30) % 5} if others else {}
        loss = getattr(losses, name)(*((5, 8) if name.startswith("Proxy") else ()))(x, y, **given)
        for labels in (y, given.get("ref_labels", y)):
            labels.zero_()
        loss.backward()
        assert x.grad is not None
        return x.grad

    wanted = gradient()
    with fastssl.patched("pytorch_metric_learning"):
        torch.testing.assert_close(gradient(), wanted, rtol=1e-4, atol=1e-6)
        assert any(calls.fused for calls in fastssl.patched()["pytorch_metric_learning"].values())


def test_labels_of_sentence_transformers_may_be_overwritten_before_the_backward_pass() -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

    def gradient() -> Tensor:
        x, y = _rows().requires_grad_(), _labels()
        loss = losses.BatchAllTripletLoss(nn.Identity()).batch_all_triplet_loss(y, x)
        y.zero_()
        loss.backward()
        assert x.grad is not None
        return x.grad

    wanted = gradient()
    with fastssl.patched("sentence_transformers") as calls:
        torch.testing.assert_close(gradient(), wanted, rtol=1e-4, atol=1e-6)
        assert calls["BatchAllTripletLoss"].fused


@pytest.mark.parametrize("name", ["ContrastiveLoss", "NTXentLoss", "TripletMarginLoss", "SupConLoss", "CircleLoss"])
def test_several_calls_of_a_cross_batch_memory_before_the_backward_pass(name: str) -> None:
    """The memory is written to by the next call; the originals keep a normalised copy of it."""
    losses = metric_learning().losses

    def gradient() -> Tensor:
        x = _rows().requires_grad_()
        loss = losses.CrossBatchMemory(getattr(losses, name)(), SIZE, 3 * ROWS)
        sum(loss(x + _rows(k), _labels()) for k in range(1, 5)).backward()
        assert x.grad is not None
        return x.grad

    wanted = gradient()
    with fastssl.patched("pytorch_metric_learning") as calls:
        torch.testing.assert_close(gradient(), wanted, rtol=1e-3, atol=1e-6)
        assert calls[name].fused == 4


@pytest.mark.parametrize("name", ["NTXentLoss", "DCLLoss"])
def test_keys_without_a_gradient_may_be_overwritten_before_the_backward_pass(name: str) -> None:
    lightly()
    from lightly import loss as losses

    def call(x: Tensor) -> Tensor:
        keys = _rows(1)
        loss: Tensor = getattr(losses, name)()(x, keys)
        keys.zero_()
        return loss

    _same(_both("lightly", call))
    assert fastssl.patched()["lightly"][name].fused


def test_columns_of_sentence_transformers_may_be_overwritten_before_the_backward_pass() -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    loss = losses.MultipleNegativesRankingLoss(nn.Identity())

    def call(x: Tensor) -> Tensor:
        keys = _rows(1)
        value: Tensor = loss.compute_loss_from_embeddings([x, keys], None)
        keys.zero_()
        return value

    _same(_both("sentence_transformers", call))
    assert fastssl.patched()["sentence_transformers"]["MultipleNegativesRankingLoss"].fused


def test_a_loss_without_gradients_leaves_lightlys_memory_bank_as_it_is() -> None:
    lightly()
    from lightly.loss import NTXentLoss

    def bank() -> Tensor:
        torch.manual_seed(0)
        loss = NTXentLoss(memory_bank_size=(64, SIZE))
        with torch.no_grad():  # of rows that were made with one
            loss(_rows().requires_grad_(), _rows(1))
        return loss.memory_bank.bank

    wanted = bank()
    with fastssl.patched("lightly") as calls:
        assert torch.equal(bank(), wanted)
        assert calls["NTXentLoss"].fused


def test_classes_of_the_library_that_inherit_from_a_patched_one_have_no_kernel() -> None:
    losses = metric_learning().losses
    with fastssl.patched("pytorch_metric_learning") as calls:
        losses.SubCenterArcFaceLoss(num_classes=8, embedding_size=SIZE)(_rows(), _labels())
        assert dict(calls["ArcFaceLoss"].original) == {"SubCenterArcFaceLoss has no kernel": 1}


@pytest.mark.parametrize("name", ["ContrastiveLoss", "TripletMarginLoss", "MarginLoss"])
def test_euclidean_losses_of_bf16_rows_are_fused(name: str) -> None:
    """They ran the original: its distances of few bf16 rows, of which its dtype was found, are refused by torch."""
    loss = getattr(metric_learning().losses, name)()

    def call(dtype: torch.dtype) -> Tensor:
        value: Tensor = loss(_rows().repeat(2, 1).to(dtype) + torch.arange(2 * ROWS)[:, None] % 7, labels)
        return value

    labels = _labels().repeat(2)
    assert 2 * ROWS > 25
    theirs, right = call(torch.bfloat16), call(torch.float64)
    with fastssl.patched("pytorch_metric_learning") as calls:
        ours = call(torch.bfloat16)
        assert calls[name].fused == 1 and ours.dtype == theirs.dtype
    assert abs(float(ours) - float(right)) <= abs(float(theirs) - float(right)) + 1e-2 * float(right)


@pytest.mark.parametrize("name", ["SupConLoss", "ContrastiveLoss", "MultiSimilarityLoss", "MarginLoss"])
@pytest.mark.parametrize("references", [False, True])
def test_gradients_of_euclidean_losses_of_bf16_rows_are_rounded_once(name: str, references: bool) -> None:
    """Those of SupConLoss were the sum of two that were rounded each: within autocast the original's are exact to one
    rounding."""
    module = metric_learning()
    loss = getattr(module.losses, name)(distance=module.distances.LpDistance(normalize_embeddings=False))
    labels = torch.arange(48) % 6

    def some() -> Tensor:
        return (0.15 * (0.7 * torch.randn(6, 16)[labels] + torch.randn(48, 16))).bfloat16()

    others = {"ref_emb": some(), "ref_labels": labels} if references else {}

    def gradient(rows: Tensor, **given: Tensor) -> Tensor:
        leaf = rows.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=rows.dtype != torch.float64):
            loss(leaf, labels, **given).backward()
        assert leaf.grad is not None
        return leaf.grad.double()

    errors = []
    for _ in range(5):
        rows = some()
        right = gradient(rows.double(), **{k: t.double() if t.is_floating_point() else t for k, t in others.items()})
        theirs = gradient(rows, **others)
        with fastssl.patched("pytorch_metric_learning") as calls:
            ours = gradient(rows, **others)
        assert calls[name].fused == 1
        errors.append([float((found - right).norm() / right.norm()) for found in (ours, theirs)])
    ours_error, theirs_error = torch.tensor(errors).mean(0).tolist()
    assert ours_error <= 1.1 * theirs_error


def test_sentences_within_autocast_are_fused() -> None:
    """Rows of float32 ran the original where the processor multiplies in bf16."""
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    loss, x, z = losses.MultipleNegativesRankingLoss(torch.nn.Identity()), _rows(0), _rows(1)
    with fastssl.patched("sentence_transformers") as calls, torch.autocast("cpu", torch.bfloat16):
        loss.compute_loss_from_embeddings([x, z], None)
        assert calls["MultipleNegativesRankingLoss"].fused == 1
