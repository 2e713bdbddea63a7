"""Patched libraries give what they give unpatched: values, gradients, objects, errors."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
from fastssl.compat import PEERS
from fastssl.functional._pairs import Pairs
from fastssl.losses import MultipleNegativesRankingLoss
from tests.support import configurations
from tests.support.peers import lightly, metric_learning, package


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    fastssl.unpatch()


def _both(peer: str, call: Callable[[], Any], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The loss and its gradients, without and with the patch."""
    results = []
    for patched in (False, True):
        if patched:
            fastssl.patch(peer)
        for t in inputs:
            t.grad = None
        loss = call()
        loss.backward()
        results.append([loss.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad.clone() for t in inputs)])
    return results[0], results[1]


def _check(peer: str, call: Callable[[], Any], inputs: list[Tensor], tolerance: float = 2e-5) -> None:
    before, after = _both(peer, call, inputs)
    for a, b in zip(before, after):
        assert a.dtype == b.dtype and a.shape == b.shape
        exact = a.dtype == torch.float64
        torch.testing.assert_close(
            b, a, rtol=1e-8 if exact else 1e-4, atol=(1e-10 if exact else tolerance) * (1 + float(a.abs().max()))
        )


def _listed(labels: Tensor, ref_labels: Tensor, share: float) -> tuple[Tensor, ...]:
    """Some pairs, as a miner gives them."""
    same = labels[:, None] == ref_labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool) if labels is ref_labels else same
    keep = torch.rand(same.shape, generator=torch.Generator().manual_seed(1)) < share
    return (*(positive & keep).nonzero(as_tuple=True), *(~same & keep).nonzero(as_tuple=True))


# class, its arguments, what references and lists it takes
CASES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("NTXentLoss", {}, {"ref", "list"}),
    ("NTXentLoss", {"temperature": 0.5, "distance": "LpDistance"}, {"ref"}),
    ("ContrastiveLoss", {}, {"ref", "list"}),
    (
        "ContrastiveLoss",
        {"pos_margin": 1, "neg_margin": 0, "distance": "CosineSimilarity", "reducer": "MeanReducer"},
        {"ref"},
    ),
    ("ContrastiveLoss", {"pos_margin": 0.3, "distance": "squared"}, {"list"}),
    ("TripletMarginLoss", {}, {"ref", "list"}),
    ("TripletMarginLoss", {"margin": 0.3, "smooth_loss": True}, {"ref"}),
    ("TripletMarginLoss", {"margin": 0.3, "reducer": "MeanReducer", "distance": "CosineSimilarity"}, set()),
    ("LiftedStructureLoss", {}, set()),
    ("LiftedStructureLoss", {"neg_margin": 0.5, "pos_margin": 0.9, "distance": "CosineSimilarity"}, set()),
    ("GeneralizedLiftedStructureLoss", {}, {"ref", "list"}),
    ("MultiSimilarityLoss", {}, {"ref", "list"}),
    ("MultiSimilarityLoss", {"distance": "LpDistance", "beta": 10}, set()),
    ("CircleLoss", {}, {"ref", "list"}),
    ("CircleLoss", {"m": 0.25, "gamma": 20, "reducer": "ThresholdReducer"}, set()),
    ("SupConLoss", {}, {"ref", "list"}),
    ("SupConLoss", {"distance": "LpDistance", "temperature": 0.5}, set()),
    ("NCALoss", {}, {"ref", "list"}),
    ("MarginLoss", {}, {"ref", "list"}),
    ("MarginLoss", {"learn_beta": True, "nu": 0.1}, set()),
    ("MarginLoss", {"learn_beta": True, "nu": 0.1, "num_classes": 40}, set()),
    ("ThresholdConsistentMarginLoss", {}, {"list"}),
    ("ThresholdConsistentMarginLoss", {"margin_minus": -0.1, "lambda_minus": 0.3}, {"list"}),
    ("TupletMarginLoss", {"scale": 16}, {"ref", "list"}),
    ("FastAPLoss", {}, set()),
    ("AngularLoss", {}, {"ref"}),
    *(("PNPLoss", {"variant": v, "anneal": 0.1, "b": 3, "alpha": 2}, set()) for v in ("Ds", "Dq", "Iu", "Ib", "O")),
    ("HistogramLoss", {}, set()),
    ("HistogramLoss", {"n_bins": 10}, set()),
    ("RankedListLoss", {"margin": 0.4, "Tn": 2, "Tp": 1}, set()),
    ("NormalizedSoftmaxLoss", {"num_classes": 40, "embedding_size": 12}, {"list"}),
    ("CosFaceLoss", {"num_classes": 40, "embedding_size": 12, "scale": 16}, {"list"}),
    ("ArcFaceLoss", {"num_classes": 40, "embedding_size": 12, "scale": 16}, set()),
    ("ProxyNCALoss", {"num_classes": 40, "embedding_size": 12}, set()),
    ("ProxyAnchorLoss", {"num_classes": 40, "embedding_size": 12}, set()),
]


def _build(name: str, arguments: dict[str, Any]) -> Any:
    pml = metric_learning()
    from pytorch_metric_learning import distances, reducers

    arguments = dict(arguments)
    if "distance" in arguments:
        kind = arguments["distance"]
        arguments["distance"] = distances.LpDistance(power=2) if kind == "squared" else getattr(distances, kind)()
    if "reducer" in arguments:
        kind = arguments["reducer"]
        arguments["reducer"] = (
            reducers.ThresholdReducer(low=0.1) if kind == "ThresholdReducer" else getattr(reducers, kind)()
        )
    torch.manual_seed(3)
    return getattr(pml.losses, name)(**arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", ["labels", "ref", "list", "regularised"])
@pytest.mark.parametrize(("name", "arguments", "takes"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_metric_learning_losses(
    name: str, arguments: dict[str, Any], takes: set[str], way: str, dtype: torch.dtype
) -> None:
    if way in ("ref", "list") and way not in takes:
        pytest.skip("not for this loss")
    if way == "regularised":
        metric_learning()
        from pytorch_metric_learning.regularizers import LpRegularizer

        arguments = {**arguments, "embedding_regularizer": LpRegularizer(), "embedding_reg_weight": 0.3}
    loss = _build(name, arguments).to(dtype)
    torch.manual_seed(0)
    x = torch.randn(60, 12, dtype=dtype, requires_grad=True)
    y = torch.randperm(60) % 13
    inputs = [x, *loss.parameters()]
    options: dict[str, Any] = {}
    if way == "ref":
        ref = torch.randn(45, 12, dtype=dtype, requires_grad=True)
        inputs.append(ref)
        options = {"ref_emb": ref, "ref_labels": torch.arange(45) % 13}
    if way == "list":
        options = {"indices_tuple": _listed(y, y, 0.3)}
    _check("pytorch_metric_learning", lambda: loss(x, y, **options), inputs)
    calls = fastssl.patched()["pytorch_metric_learning"][name]
    assert calls.fused == 1, dict(calls.original)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("peer", ["lightly", "open_clip"])
def test_rows_of_two_dtypes_within_autocast_are_fused(peer: str, which: int) -> None:
    """Such as predictions in bfloat16 beside the rows of a memory in float32, in NNCLR."""
    lightly() if peer == "lightly" else package("open_clip")
    cases = [
        c
        for c in configurations.GENERATORS[peer]()
        if c.title.endswith("others beside 16 bits" if which else "16 bits beside others")
    ]
    for case in cases:
        case.autocast = True
        found, fused = configurations.compare(case)
        # Weights that no kernel has; distances that torch refuses to compute in 16 bits.
        own = any(part in case.title for part in ("one's own", "a partial", "HypersphereLoss"))
        assert not found and (fused or own), (str(case), found)


@pytest.mark.parametrize(
    "name", ["NTXentLoss", "ContrastiveLoss", "TripletMarginLoss", "MultiSimilarityLoss", "SupConLoss", "CircleLoss"]
)
def test_metric_learning_wrappers_and_miners(name: str) -> None:
    metric_learning()
    from pytorch_metric_learning import losses, miners

    torch.manual_seed(0)
    x, other = (torch.randn(40, 12, requires_grad=True) for _ in range(2))
    y = torch.arange(40) % 10
    loss = _build(name, {})
    wrapped = losses.SelfSupervisedLoss(loss)
    _check("pytorch_metric_learning", lambda: wrapped(x, other), [x, other])
    fastssl.unpatch()
    for miner in (
        miners.MultiSimilarityMiner(epsilon=0.3),
        miners.TripletMarginMiner(margin=0.3),
        miners.PairMarginMiner(0.2, 1.2),
    ):
        mined = miner(x.detach(), y)
        _check("pytorch_metric_learning", lambda mined=mined: loss(x, y, mined), [x])
        fastssl.unpatch()
    _check(
        "pytorch_metric_learning",
        lambda: losses.CrossBatchMemory(loss, 12, memory_size=100)(x, y),
        [x],
    )


# Of rows with labels i % 4; rows 8 to 11 are listed as positives or negatives alone.
TRIPLETS = [0, 0, 1, 5, 2], [8, 4, 9, 9, 10], [1, 2, 8, 11, 11]
PAIRS = [0, 0, 1, 5], [8, 4, 9, 9], [0, 2, 3, 6, 6], [9, 11, 8, 8, 9]


@pytest.mark.parametrize(
    "name",
    ["NCALoss", "FastAPLoss", "NormalizedSoftmaxLoss", "CosFaceLoss", "ArcFaceLoss", "ProxyNCALoss", "ProxyAnchorLoss"],
)
@pytest.mark.parametrize("mined", [TRIPLETS, PAIRS])
def test_rows_weigh_as_much_as_a_miner_lists_them(name: str, mined: Any) -> None:
    """Losses without listed pairs: some of the library's count anchors alone, some every row."""
    loss = _build(name, next(c[1] for c in CASES if c[0] == name))
    x, y = torch.randn(12, 12, requires_grad=True), torch.arange(12) % 4
    indices = tuple(torch.tensor(t) for t in mined)
    _check("pytorch_metric_learning", lambda: loss(x, y, indices), [x, *loss.parameters()])


@pytest.mark.parametrize("case", ["one class", "all apart", "one row", "two rows", "no rows", "duplicates"])
@pytest.mark.parametrize(
    "name", sorted({c[0] for c in CASES if "Proxy" not in c[0] and "Face" not in c[0] and "Softmax" not in c[0]})
)
def test_metric_learning_odd_batches(name: str, case: str) -> None:
    loss = _build(name, next(c[1] for c in CASES if c[0] == name))
    torch.manual_seed(0)
    n = {"one row": 1, "two rows": 2, "no rows": 0}.get(case, 20)
    x = torch.randn(n, 12)
    y = {"one class": torch.zeros(n), "all apart": torch.arange(n)}.get(case, torch.arange(n) % 4).long()
    if case == "duplicates":
        x[10:] = x[:10]

    def run() -> Any:
        leaf = x.clone().requires_grad_()
        try:
            value = loss(leaf, y)
            value.backward()
        except Exception as error:
            return type(error), str(error)
        return float(value.detach()), leaf.grad

    before = run()
    fastssl.patch("pytorch_metric_learning")
    after = run()
    if isinstance(before[0], type):
        assert after == before
        return
    if not torch.isfinite(torch.tensor(before[0])) or (before[1] is not None and not torch.isfinite(before[1]).all()):
        return  # the original's arc cosine beyond 1, its square root at 0
    assert after[0] == pytest.approx(before[0], rel=1e-4, abs=1e-5)
    if before[1] is not None and case != "duplicates":
        torch.testing.assert_close(after[1], before[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["two per class", "one reference per class", "a class without", "three per class"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nt_xent_of_one_positive_is_a_loss_of_pairs(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SimCLR and CLIP use it: without sums of rows, and like the original; others by sums of rows."""
    losses, reducers = (metric_learning().losses, metric_learning().reducers)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 12, dtype=dtype, generator=rng).requires_grad_()
    r = torch.randn(70, 12, dtype=dtype, generator=rng).requires_grad_()
    places = torch.randperm(60, generator=rng)
    arguments: dict[str, tuple[Any, ...]] = {
        "two per class": (x, torch.arange(30).repeat(2)[places]),
        "three per class": (x, torch.arange(20).repeat(3)[places]),
        "one reference per class": (x, places % 50, None, r, torch.randperm(70, generator=rng)),
        "a class without": (x, places, None, r, torch.arange(1, 71)),
    }
    reduced: list[int] = []
    reduce = Pairs.reduce
    monkeypatch.setattr(Pairs, "reduce", lambda self, *a, **o: reduced.append(1) or reduce(self, *a, **o))
    for reducer in (None, reducers.SumReducer(), reducers.AvgNonZeroReducer()):
        loss = losses.NTXentLoss(temperature=0.2, reducer=reducer)
        expected = loss(*arguments[kind])
        wanted = torch.autograd.grad(expected, x)[0]
        fastssl.patch("pytorch_metric_learning", min_rows=0)
        found = loss(*arguments[kind])
        got = torch.autograd.grad(found, x)[0]
        fastssl.unpatch()
        bound = 1e-5 if dtype == torch.float32 else 1e-12
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=bound, atol=0)
        assert float((got - wanted).norm() / wanted.norm()) < bound
    assert bool(reduced) is (kind in ("a class without", "three per class"))


@pytest.mark.parametrize("kind", ["drawn", "small integers", "lengths", "equal rows", "zeros"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_angular_miner_gives_the_same_triplets(kind: str, dtype: torch.dtype) -> None:
    """Also those at its border, which the original's own formula decides about."""
    metric_learning()
    from pytorch_metric_learning import miners

    fastssl.patch("pytorch_metric_learning")
    for seed, size, angle in ((0, 2, 45), (1, 3, 20), (2, 40, 30), (3, 1, 45), (4, 2, 26.565051177077986)):
        rng = torch.Generator().manual_seed(seed)
        x = 3 * torch.randn(40, size, dtype=torch.float64, generator=rng)
        if kind == "small integers":
            x = x.round()
        if kind == "lengths":
            x *= 10.0 ** torch.randint(-9, 8, (40, 1), generator=rng)
        if kind == "equal rows":
            x = x[torch.arange(40) // 5]
        if kind == "zeros":
            x[::3] = 0
        x, y = x.to(dtype), torch.randint(0, 6, (40,), generator=rng)
        miner = miners.AngularMiner(angle)
        for given in ((x, y), (x[:30], y[:30], x[20:], y[20:])):
            found = miner(*given)
            with torch.no_grad():
                expected = miners.AngularMiner.mine.__wrapped__(miner, *(given if len(given) == 4 else (x, y, x, y)))
            assert all(map(torch.equal, found, expected))
    calls = fastssl.patched()["pytorch_metric_learning"]["AngularMiner"]
    assert calls.fused == 10, calls


@pytest.mark.parametrize("distance", ["LpDistance", "CosineSimilarity", "SNRDistance"])
@pytest.mark.parametrize("kind", ["drawn", "small integers", "one class", "all apart", "not finite"])
def test_miners_of_pairs_give_the_same_lists(kind: str, distance: str) -> None:
    """Also of equal distances, of which the original takes the first."""
    pml = metric_learning()
    from pytorch_metric_learning import miners

    rng = torch.Generator().manual_seed(0)
    x, r = (torch.randn(30, 3, generator=rng) for _ in range(2))
    y, other = (torch.randint(0, 5, (30,), generator=rng) for _ in range(2))
    if kind == "small integers":
        x, r = x.round() + 0.5, r.round() + 0.5
    if kind == "not finite":
        x[3], x[4, 0] = float("nan"), float("inf")
    y = {"one class": 0 * y, "all apart": torch.arange(30)}.get(kind, y)
    measure = {"distance": getattr(pml.distances, distance)()}
    ways = ("hard", "semihard", "easy")
    pairs = [(a, b) for a in ways for b in ways if (a, b) != ("semihard", "semihard")]
    made = [miners.BatchEasyHardMiner(a, b, **measure) for a, b in pairs]
    made += [miners.BatchEasyHardMiner(a, b, (0.2, 1.1), (0.4, 1.3), **measure) for a, b in pairs]
    made += [miners.BatchHardMiner(**measure), miners.PairMarginMiner(0.3, 0.9, **measure)]
    given = [(x, y), (x, y, r, other), (x, y, x, y.clone())]
    expected = [miner(*each) for miner in made for each in given]
    fastssl.patch("pytorch_metric_learning")
    for found, wanted in zip([miner(*each) for miner in made for each in given], expected, strict=True):
        assert len(found) == len(wanted) and all(map(torch.equal, found, wanted))
    calls = fastssl.patched()["pytorch_metric_learning"]
    assert (calls["BatchEasyHardMiner"].fused, calls["PairMarginMiner"].fused) == (51, 3), calls


@pytest.mark.parametrize("kind", ["triplets", "one class", "all apart"])
@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.int32, torch.uint8, torch.float32, pytest.param(torch.int16, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", ["TripletMarginMiner", "AngularMiner", "PairMarginMiner", "BatchHardMiner"])
def test_miners_give_indices_in_the_dtypes_of_the_library(name: str, dtype: torch.dtype, kind: str) -> None:
    """Also where it makes triplets row by row (from 1,291 rows on, or few against many), with other dtypes."""
    metric_learning()
    from pytorch_metric_learning import miners

    rng = torch.Generator().manual_seed(0)
    miner = getattr(miners, name)()
    for rows, others in ((20, 20), (4, 23171)):
        x, r = (torch.randn(n, 2, generator=rng) for n in (rows, others))
        y = {"one class": torch.zeros(rows), "all apart": torch.arange(rows) + 100}.get(kind, torch.arange(rows))
        classes = torch.zeros(others) if kind == "one class" else torch.arange(others).clamp(max=99)
        given = x, y.to(dtype), r, classes.to(dtype)
        found: list[Any] = []
        for patched in (False, True):
            if patched:
                fastssl.patch("pytorch_metric_learning")
            try:
                found.append(miner(*given))
            except Exception as error:  # anchors of other dtypes index nothing
                found.append(type(error))
        fastssl.unpatch()
        if isinstance(found[0], type):
            assert found[1] is found[0]
            continue
        for before, after in zip(*found, strict=True):
            assert before.dtype == after.dtype and torch.equal(before, after)


@pytest.mark.parametrize("margins", [(0.5, 0.5), (1.0, 0.0), (0.9, -1.0), (-2.0, 2.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_at_a_margin_count_as_the_originals(margins: tuple[float, float], dtype: torch.dtype) -> None:
    """Cosines of exactly 0, 1/2 and 1: the original counts pairs at a margin, of which none adds to the sum."""
    rows = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 1, -1, -1], [2, 0, 0, 0], [0, 1, 0, 1]])
    x = rows.to(dtype).repeat(3, 1).requires_grad_()
    loss = _build("ThresholdConsistentMarginLoss", dict(zip(("margin_plus", "margin_minus"), margins)))
    _check("pytorch_metric_learning", lambda: loss(x, torch.arange(18) % 3), [x])


def test_metric_learning_runs_its_own_code_where_it_must() -> None:
    metric_learning()
    from pytorch_metric_learning import distances, losses, reducers

    fastssl.patch("pytorch_metric_learning")
    x, y = torch.randn(20, 8), torch.arange(20) % 5

    class Mine(losses.ContrastiveLoss):
        def pos_calc(self, pos_pair_dist: Tensor, margin: float) -> Tensor:
            return pos_pair_dist * 3

    for loss, reason in (
        (losses.NTXentLoss(distance=distances.SNRDistance()), "SNRDistance"),
        (losses.NTXentLoss(reducer=reducers.PerAnchorReducer()), "PerAnchorReducer"),
        (losses.TripletMarginLoss(swap=True), "swapped"),
        (losses.ContrastiveLoss(collect_stats=True), "statistics"),
        (losses.NTXentLoss(temperature=0.001), "underflow"),
        (losses.ThresholdConsistentMarginLoss(distance=distances.CosineSimilarity(power=2)), "power=2"),
    ):
        loss(x, y)
        reasons = fastssl.patched()["pytorch_metric_learning"][type(loss).__name__].original
        assert any(reason in r for r in reasons), reasons
    Mine()(x, y)
    assert any("Mine" in r for r in fastssl.patched()["pytorch_metric_learning"]["ContrastiveLoss"].original)
    fastssl.patch("pytorch_metric_learning", exact_dtypes=True)
    with torch.autocast("cpu", torch.bfloat16):  # products in 16 bits are the library's own business
        losses.MultiSimilarityLoss()(x, y)
    losses.MultiSimilarityLoss()(x.bfloat16(), y)
    calls = fastssl.patched()["pytorch_metric_learning"]["MultiSimilarityLoss"]
    assert calls.fused == 0 and list(calls.original) == ["autocast", "16-bit inputs"]
    fastssl.patch("pytorch_metric_learning")
    with pytest.raises(NotImplementedError, match="cdist"):  # the library's own answer
        losses.ContrastiveLoss()(x.bfloat16(), y)


def test_unpatching_restores_exactly_and_objects_stay_what_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    metric_learning()
    from pytorch_metric_learning import losses

    owned = {name: dict(vars(getattr(losses, name))) for name in ("NTXentLoss", "ArcFaceLoss", "TripletMarginLoss")}
    inherited = losses.ArcFaceLoss.compute_loss
    loss = losses.NTXentLoss(temperature=0.2)
    before = (repr(loss), loss.state_dict(), pickle.dumps(loss))
    fastssl.patch("pytorch_metric_learning", verbose=True)
    fastssl.patch("pytorch_metric_learning", verbose=True)
    x, y = torch.randn(20, 8), torch.arange(20) % 5
    loss(x, y)
    losses.NTXentLoss(temperature=0.001)(x, y)
    text = capsys.readouterr().err
    assert "NTXentLoss runs fused" in text and "NTXentLoss runs its original code: shares that underflow" in text
    assert (repr(loss), loss.state_dict(), pickle.dumps(loss)) == before
    assert torch.equal(pickle.loads(before[2])(x, y), loss(x, y))
    assert torch.equal(copy.deepcopy(loss)(x, y), loss(x, y))
    assert losses.NTXentLoss.compute_loss.__doc__ == owned["NTXentLoss"].get("compute_loss", loss.compute_loss).__doc__
    fastssl.unpatch()
    for name, attributes in owned.items():
        assert dict(vars(getattr(losses, name))) == attributes
    assert losses.ArcFaceLoss.compute_loss is inherited
    assert fastssl.patched() == {}


def test_wrong_names() -> None:
    for function in (fastssl.patch, fastssl.unpatch):
        with pytest.raises(ValueError, match="name.*'torch'"):
            function("torch")
    for peer in PEERS:
        if importlib.util.find_spec(peer) is None:
            with pytest.raises(ImportError, match=peer):
                fastssl.patch(peer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["NTXentLoss", "NTXentLoss-bank", "DirectCLRLoss", "DCLLoss", "DCLWLoss"])
def test_lightly(name: str, dtype: torch.dtype) -> None:
    lightly()
    from lightly.loss.dcl_loss import DCLLoss, DCLWLoss
    from lightly.loss.directclr_loss import DirectCLRLoss
    from lightly.loss.ntx_ent_loss import NTXentLoss

    torch.manual_seed(0)
    x, other = (torch.randn(50, 16, dtype=dtype, requires_grad=True) for _ in range(2))
    loss = {
        "DirectCLRLoss": lambda: DirectCLRLoss(8, temperature=0.2),
        "NTXentLoss": lambda: NTXentLoss(temperature=0.2),
        "NTXentLoss-bank": lambda: NTXentLoss(temperature=0.2, memory_bank_size=(200, 16)),
        "DCLLoss": lambda: DCLLoss(temperature=0.2),
        "DCLWLoss": lambda: DCLWLoss(temperature=0.2, sigma=0.4),
    }[name]()
    if "bank" in name and dtype == torch.float64:
        pytest.skip("the bank is float32")
    loss(x.detach(), other.detach())
    if "bank" not in name:
        _check("lightly", lambda: loss(x, other), [x, other])
    else:
        state = copy.deepcopy(loss)
        _check("lightly", lambda: copy.deepcopy(state)(x, other), [x, other])
    owner = "NTXentLoss" if name == "DirectCLRLoss" else name.split("-")[0]
    assert fastssl.patched()["lightly"][owner].fused == 1
    loss.gather_distributed = False
    loss(x.bfloat16(), other.bfloat16()) if "bank" not in name else None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["KoLeoLoss", "HypersphereLoss"])
def test_lightlys_losses_that_spread_rows(name: str, dtype: torch.dtype) -> None:
    lightly()
    from lightly.loss.hypersphere_loss import HypersphereLoss
    from lightly.loss.koleo_loss import KoLeoLoss

    torch.manual_seed(0)
    views = [torch.randn(300, 64, dtype=dtype, requires_grad=True) for _ in range(2)]
    given = views[:1] if name == "KoLeoLoss" else views
    loss = KoLeoLoss() if name == "KoLeoLoss" else HypersphereLoss(t=2.0, lam=0.7, alpha=3.0)
    _check("lightly", lambda: loss(*given), given)
    assert fastssl.patched()["lightly"][name].fused == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_macl_of_lightly(alpha: float, dtype: torch.dtype) -> None:
    lightly()
    from lightly.loss.macl_loss import MACLLoss

    torch.manual_seed(0)
    x = torch.randn(40, 16, dtype=dtype, requires_grad=True)
    near = (x.detach() + 0.5 * torch.randn(40, 16, dtype=dtype)).requires_grad_()  # shares of 0.01 to 1
    _check("lightly", lambda: MACLLoss(0.2, alpha, A_0=0.1)(x, near), [x, near])
    assert fastssl.patched()["lightly"]["MACLLoss"].fused == 1


@pytest.mark.parametrize("order", ["in order", "shuffled"])
@pytest.mark.parametrize("listed", [False, True])
def test_smooth_ap_of_metric_learning(listed: bool, order: str) -> None:
    """Of rows in any order, of which the original takes as many as there are classes for a class."""
    loss = metric_learning().losses.SmoothAPLoss(temperature=0.1)
    torch.manual_seed(0)
    x = torch.randn(60, 12, requires_grad=True)
    y = torch.arange(60) // 4 if order == "in order" else torch.randperm(60) % 15
    _check("pytorch_metric_learning", lambda: loss(x, y, _listed(y, y, 0.3) if listed else None), [x])
    calls = fastssl.patched()["pytorch_metric_learning"]["SmoothAPLoss"]
    assert calls.fused == 1, dict(calls.original)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vicreg_of_metric_learning(dtype: torch.dtype) -> None:
    loss = metric_learning().losses.VICRegLoss()
    torch.manual_seed(0)
    x, z = (torch.randn(40, 512, dtype=dtype, requires_grad=True) for _ in range(2))
    _check("pytorch_metric_learning", lambda: loss(x, ref_emb=z), [x, z])
    assert fastssl.patched()["pytorch_metric_learning"]["VICRegLoss"].fused == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_open_clip(dtype: torch.dtype) -> None:
    package("open_clip")
    from open_clip.loss import ClipLoss, CoCaLoss, SigLipLoss

    torch.manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(40, 16, dtype=dtype), dim=1).requires_grad_() for _ in range(2))
    scale, bias = (
        torch.tensor(10.0, dtype=dtype, requires_grad=True),
        torch.tensor(-5.0, dtype=dtype, requires_grad=True),
    )
    _check("open_clip", lambda: ClipLoss()(x, y, scale, output_dict=True)["contrastive_loss"], [x, y, scale])
    fastssl.unpatch()
    _check("open_clip", lambda: SigLipLoss()(x, y, scale, bias), [x, y, scale, bias])
    fastssl.unpatch()
    logits, tokens = torch.randn(40, 3, 7, dtype=dtype), torch.randint(0, 7, (40, 3))
    _check("open_clip", lambda: sum(CoCaLoss(1.0, 1.0)(x, y, logits, tokens, scale)), [x, y, scale])
    assert fastssl.patched()["open_clip"]["ClipLoss"].fused == 1


@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize("name", ["MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss"])
def test_sentence_transformers(name: str, columns: int) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import losses

    torch.manual_seed(0)
    embeddings = [torch.randn(40, 16, requires_grad=True) for _ in range(columns)]
    loss = getattr(losses, name)(model=torch.nn.Identity())
    _check("sentence_transformers", lambda: loss.compute_loss_from_embeddings(embeddings, None), embeddings)
    ours = MultipleNegativesRankingLoss(None)(embeddings)
    if "Symmetric" not in name:
        torch.testing.assert_close(ours, loss.compute_loss_from_embeddings(embeddings, None))
        assert fastssl.patched()["sentence_transformers"][name].fused == 2


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", ["CachedMultipleNegativesRankingLoss", "CachedGISTEmbedLoss"])
def test_cached_losses_within_matryoshka_are_fused(name: str, before: bool) -> None:
    """A decorator held the method that the loss had before the patch; GIST's ran the original, whenever it was made."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import losses
    from transformers import PreTrainedTokenizerBase

    torch.manual_seed(0)
    x, z = (torch.randn(20, 16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    tokenizer = type("Tokenizer", (PreTrainedTokenizerBase,), {"get_vocab": lambda self: {}})()
    model = configurations._Model(tokenizer)
    model.get_embedding_dimension = model.get_sentence_embedding_dimension = lambda: 16  # type: ignore[assignment]
    if not before:
        fastssl.patch("sentence_transformers")
    more = (configurations._Model(tokenizer),) if "GIST" in name else ()
    loss = getattr(losses, name)(model, *more, mini_batch_size=20)
    whole = losses.MatryoshkaLoss(model, loss, [16, 5], [1.0, 0.3])
    fastssl.patch("sentence_transformers")
    value = whole([{"sentence_embedding": t} for t in (x, z)], None)
    value.backward()

    expected = torch.zeros((), dtype=torch.float64)
    guide_x, guide_z = (torch.nn.functional.normalize(t.detach(), dim=1) for t in (x, z))
    least = (guide_x * guide_z).sum(1)[:, None]  # of the guide's cosines, those above the pair's count nowhere
    for size, weight in ((16, 1.0), (5, 0.3)):
        a, b = (torch.nn.functional.normalize(t[:, :size], dim=1) for t in (x, z))
        scores = 20 * a @ b.T
        if more:
            others = [(a @ b.T, guide_x @ guide_z.T), (a @ a.T, guide_x @ guide_x.T), (b @ b.T, guide_z @ guide_z.T)]
            scores = torch.cat([(s * 100).masked_fill(g > least + 1e-9, float("-inf")) for s, g in others], 1)
        expected = expected + weight * torch.nn.functional.cross_entropy(scores, torch.arange(20))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close((x.grad, z.grad), torch.autograd.grad(expected, (x, z)))
    calls = fastssl.patched()["sentence_transformers"][name]
    assert calls.fused and not any("user-defined" in reason for reason in calls.original)


def test_a_module_of_ours_pickles() -> None:
    from fastssl import losses

    for module in (losses.ContrastiveLoss(0.5), losses.MarginLoss(learn_beta=True), losses.ArcFaceLoss(10, 4)):
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        again = torch.load(buffer, weights_only=False)
        assert repr(again) == repr(module)
        assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), module.state_dict().values()))


def test_cross_batch_memory_is_the_loss_against_past_batches() -> None:
    from fastssl import functional as F
    from fastssl.losses import ContrastiveLoss, CrossBatchMemory, TripletMarginLoss

    torch.manual_seed(0)
    for loss, call in ((ContrastiveLoss(), F.contrastive), (TripletMarginLoss(), F.triplet)):
        memory = CrossBatchMemory(loss, 6, memory_size=35)
        past, past_labels = torch.empty(0, 6), torch.empty(0, dtype=torch.long)
        for _ in range(6):
            x, y = torch.randn(10, 6, requires_grad=True), torch.randint(0, 4, (10,))
            got = memory(x, y)
            past, past_labels = torch.cat([past, x.detach()])[-35:], torch.cat([past_labels, y])[-35:]
            # The same without the row itself: a list of pairs.
            same = y[:, None] == past_labels[None, :]
            itself = torch.zeros_like(same)
            itself[torch.arange(10), torch.arange(len(past) - 10, len(past))] = True
            pairs = (*(same & ~itself).nonzero(as_tuple=True), *(~same).nonzero(as_tuple=True))
            right = call(x, None, indices_tuple=pairs, ref_emb=past, **loss.options)
            torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v in (got, right)), rtol=1e-4, atol=1e-5)
        again = CrossBatchMemory(loss, 6, memory_size=35)
        again.load_state_dict(memory.state_dict())
        x, y = torch.randn(10, 6), torch.randint(0, 4, (10,))
        assert torch.equal(again(x, y), memory(x, y))


def test_a_library_that_breaks_when_it_is_imported_is_not_patched_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastssl.compat import pytorch_metric_learning as adapter

    def broken() -> Any:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(adapter, "targets", broken)
    with pytest.raises(ImportError, match="pytorch_metric_learning cannot be imported: operator torchvision::nms"):
        fastssl.patch("pytorch_metric_learning")
    with pytest.warns(RuntimeWarning, match="pytorch_metric_learning is not patched"):
        fastssl.patch()
    assert "pytorch_metric_learning" not in fastssl.patched()


@pytest.mark.parametrize("name", ["ContrastiveLoss", "TripletMarginLoss"])
def test_rows_of_zeros_run_the_original(name: str) -> None:
    metric_learning()
    from pytorch_metric_learning import losses

    loss = getattr(losses, name)()
    x, labels = torch.randn(64, 128).relu(), torch.arange(64) % 16
    x[::9] = 0
    wanted = loss(x, labels)
    fastssl.patch("pytorch_metric_learning")
    assert torch.equal(loss(x, labels), wanted)
    found = fastssl.patched()["pytorch_metric_learning"]
    assert not any(calls.fused for calls in found.values()), found


@pytest.mark.parametrize("before", [False, True])
def test_overlapping_contexts_end_in_any_order(before: bool) -> None:
    package("open_clip")
    from open_clip.loss import ClipLoss

    original, x = ClipLoss.forward, torch.randn(8, 4)
    if before:
        fastssl.patch("open_clip")
    kept = ClipLoss.forward
    first, second = fastssl.patched("open_clip"), fastssl.patched("open_clip", exact_dtypes=True)
    with contextlib.ExitStack() as outer, contextlib.ExitStack() as inner:
        outer.enter_context(first)
        calls = inner.enter_context(second)["ClipLoss"]
        outer.close()
        ClipLoss()(x, x, 1.0)
        assert calls.fused == 1  # the second context goes on, with its own options
        ClipLoss()(x.bfloat16(), x.bfloat16(), 1.0)
        assert calls.original["16-bit inputs"] == 1
        inner.close()
    assert ClipLoss.forward is kept and kept is not (original if before else None)
    ClipLoss()(x.bfloat16(), x.bfloat16(), 1.0)
    assert not before or calls.fused == 2
    fastssl.unpatch()
    assert ClipLoss.forward is original and fastssl.patched() == {}


def test_contexts_of_threads_restore_the_originals() -> None:
    package("open_clip")
    from open_clip.loss import ClipLoss, SigLipLoss

    originals, x = (ClipLoss.forward, SigLipLoss.forward), torch.randn(8, 4)
    start, failed = threading.Barrier(4), []

    def work() -> None:
        start.wait()
        for _ in range(100):
            with fastssl.patched("open_clip") as calls:
                count = calls["ClipLoss"].fused
                ClipLoss()(x, x, 1.0)
                if not calls["ClipLoss"].fused > count:
                    failed.append(dict(calls["ClipLoss"].original))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert (ClipLoss.forward, SigLipLoss.forward) == originals and fastssl.patched() == {}
