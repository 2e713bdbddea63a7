"""Wrong calls of the losses on labels, of distances and of the raw operators: an error that says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastssl.functional as F
from fastssl import losses

X, Y = torch.randn(6, 4), torch.randn(6, 4)
LABELS = torch.arange(6) % 2
PAIRS = (torch.tensor([0, 2]), torch.tensor([2, 4]), torch.tensor([0]), torch.tensor([1]))

# (what is called, the error, what its text must name)
CALLS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("embeddings None", lambda: F.contrastive(None, LABELS), TypeError, "embeddings.*NoneType"),
    ("embeddings list", lambda: F.triplet([[1.0]], LABELS), TypeError, "embeddings.*list"),
    ("embeddings vector", lambda: F.circle(X[0], LABELS), ValueError, r"embeddings.*\(4,\)"),
    ("embeddings integers", lambda: F.nca(LABELS[:, None], LABELS), TypeError, "embeddings.*int64"),
    ("embeddings meta", lambda: F.fast_ap(X.to("meta"), LABELS), ValueError, "embeddings.*meta"),
    ("labels matrix", lambda: losses.NTXentLoss()(X, LABELS[:, None]), ValueError, r"labels.*\(\d+, 1\)"),
    ("labels None", lambda: F.contrastive(X), TypeError, "labels.*NoneType"),
    ("labels float", lambda: F.multi_similarity(X, LABELS.float()), TypeError, "labels.*float32"),
    ("labels length", lambda: F.tuplet_margin(X, LABELS[:5]), ValueError, "labels.*6.*5"),
    ("labels matrix", lambda: F.lifted_structure(X, LABELS[:, None]), ValueError, r"labels.*\(6, 1\)"),
    ("labels numpy", lambda: F.angular(X, LABELS.numpy()), TypeError, "labels.*ndarray"),
    ("ref_emb alone", lambda: F.contrastive(X, LABELS, ref_emb=Y), TypeError, "ref_labels"),
    ("ref_labels alone", lambda: F.contrastive(X, LABELS, ref_labels=LABELS), TypeError, "ref_emb"),
    (
        "ref_emb features",
        lambda: F.triplet(X, LABELS, ref_emb=Y[:, :3], ref_labels=LABELS),
        ValueError,
        r"ref_emb.*4 features.*\(6, 3\)",
    ),
    (
        "ref_emb dtype",
        lambda: F.triplet(X, LABELS, ref_emb=Y.double(), ref_labels=LABELS),
        TypeError,
        "ref_emb.*float32.*float64",
    ),
    (
        "ref_labels length",
        lambda: F.triplet(X, LABELS, ref_emb=Y, ref_labels=LABELS[:2]),
        ValueError,
        "ref_labels.*6.*2",
    ),
    ("indices number", lambda: F.circle(X, LABELS, indices_tuple=PAIRS[:2]), TypeError, "indices_tuple.*3.*4.*2"),
    ("indices text", lambda: F.circle(X, LABELS, indices_tuple="abc"), TypeError, "indices_tuple"),
    (
        "indices float",
        lambda: F.circle(X, LABELS, indices_tuple=tuple(t.float() for t in PAIRS)),
        TypeError,
        "indices_tuple.*float32",
    ),
    (
        "indices length",
        lambda: F.circle(X, LABELS, indices_tuple=(*PAIRS[:1], PAIRS[1][:1], *PAIRS[2:])),
        ValueError,
        "indices_tuple.*one length",
    ),
    (
        "indices high",
        lambda: F.circle(X, LABELS, indices_tuple=(PAIRS[0], PAIRS[1] + 5, *PAIRS[2:])),
        ValueError,
        r"indices_tuple.*\[0, 6\).*9",
    ),
    (
        "indices low",
        lambda: F.circle(X, LABELS, indices_tuple=(PAIRS[0] - 1, *PAIRS[1:])),
        ValueError,
        r"indices_tuple.*\[0, 6\)",
    ),
    ("margin text", lambda: F.contrastive(X, LABELS, margin="1"), TypeError, "margin.*str"),
    ("margin nan", lambda: F.triplet(X, LABELS, margin=float("nan")), ValueError, "margin.*nan"),
    ("margin negative", lambda: F.contrastive(X, LABELS, margin=-1), ValueError, "margin.*-1"),
    ("mining", lambda: F.triplet(X, LABELS, mining="easy"), ValueError, "mining.*'easy'"),
    ("smooth semihard", lambda: F.triplet(X, LABELS, mining="semihard", smooth=True), ValueError, "smooth"),
    ("squared", lambda: F.triplet(X, LABELS, squared=1), TypeError, "squared.*int"),
    ("contrastive none", lambda: F.contrastive(X, LABELS, reduction="none"), ValueError, "reduction.*'none'"),
    ("triplet reduction", lambda: F.triplet(X, LABELS, reduction="average"), ValueError, "reduction.*'average'"),
    (
        "listed triplets mined",
        lambda: F.triplet(X, LABELS, mining="hard", indices_tuple=PAIRS[:1] + PAIRS[1:2] + PAIRS[1:2]),
        ValueError,
        "mining.*'hard'",
    ),
    ("alpha 0", lambda: F.multi_similarity(X, LABELS, alpha=0), ValueError, "alpha.*> 0"),
    ("gamma negative", lambda: F.circle(X, LABELS, gamma=-1), ValueError, "gamma.*-1"),
    ("bins 0", lambda: F.fast_ap(X, LABELS, bins=0), ValueError, "bins.*0"),
    ("bins many", lambda: F.fast_ap(X, LABELS, bins=65), ValueError, "bins.*65"),
    ("bins float", lambda: F.fast_ap(X, LABELS, bins=10.0), TypeError, "bins.*float"),
    ("angle", lambda: F.angular(X, LABELS, alpha=90), ValueError, "alpha.*90"),
    ("imbalance", lambda: F.ranked_list(X, LABELS, imbalance=2), ValueError, "imbalance.*2"),
    ("beta length", lambda: F.margin_loss(X, LABELS, beta=torch.ones(1, 2)), ValueError, r"beta.*\(1, 2\)"),
    ("beta classes", lambda: F.margin_loss(X, LABELS + 5, beta=torch.ones(3)), ValueError, r"labels.*\[0, 3\).*6"),
    ("temperature", lambda: F.soft_nearest_neighbor(X, LABELS, temperature=0), ValueError, "temperature"),
    ("nt_xent temperature", lambda: F.multi_nt_xent(X, LABELS, temperature=-1.0), ValueError, "temperature.*-1"),
    ("views", lambda: F.dcl(X, Y[:4]), ValueError, r"z1.*6 rows.*\(4, 4\)"),
    ("sigma", lambda: F.dcl(X, Y, sigma=0.0), ValueError, "sigma"),
    ("q", lambda: F.rince(X, Y, q=1.5), ValueError, r"q: expected a number in \(0, 1.0\], got 1.5"),
    ("lam", lambda: F.rince(X, Y, lam=torch.tensor(0.0)), ValueError, "lam: expected a value > 0"),
    ("tau_plus", lambda: F.hard_negative_nt_xent(X, Y, tau_plus=1.0), ValueError, "tau_plus.*1.0"),
    ("t", lambda: F.uniformity(X, t=-2), ValueError, "t: .*-2"),
    ("koleo eps", lambda: F.koleo(X, eps=0), ValueError, "eps: expected a value > 0, got 0"),
    ("koleo rows", lambda: F.koleo(X[0]), ValueError, r"embeddings: expected 2 dimensions .*\(4,\)"),
    ("koleo reduction", lambda: F.koleo(X, reduction="active"), ValueError, "reduction: .*'active'"),
    ("l2_reg", lambda: F.n_pair(X, Y, l2_reg=-1), ValueError, "l2_reg.*-1"),
    ("classes high", lambda: F.arc_face(X, Y, LABELS + 5), ValueError, r"labels.*\[0, 6\).*6"),
    ("classes low", lambda: F.cos_face(X, Y, LABELS - 1), ValueError, r"labels.*\[0, 6\).*-1"),
    ("weight features", lambda: F.proxy_nca(X, Y[:, :3], LABELS), ValueError, r"weight.*\(6, 3\)"),
    ("weight dtype", lambda: F.proxy_anchor(X, Y.double(), LABELS), TypeError, "weight.*float64"),
    ("scale", lambda: F.normalized_softmax(X, Y, LABELS, temperature=0), ValueError, "temperature"),
    ("metric", lambda: F.pairwise_distance(X, metric="hamming"), ValueError, "metric.*'hamming'"),
    ("y features", lambda: F.pairwise_distance(X, Y[:, :2]), ValueError, r"y: .*4 features.*\(6, 2\)"),
    ("k 0", lambda: F.nearest(X, Y, 0), ValueError, "k: .*0"),
    ("k large", lambda: F.nearest(X, Y, 7), ValueError, r"k: .*\[1, 6\].*7"),
    ("k itself", lambda: F.nearest(X, None, 6, exclude_self=True), ValueError, r"k: .*\[1, 5\].*6"),
    ("exclude_self", lambda: F.farthest(X, Y, 2, exclude_self=True), ValueError, "exclude_self.*y=None"),
    ("k float", lambda: F.nearest(X, Y, 2.0), TypeError, "k: .*float"),
    ("soft labels", lambda: F.sup_con(X, torch.full((6, 2), math.inf)), ValueError, "labels: expected finite values"),
    ("term", lambda: F.pair_loss(X, term=None), TypeError, "term.*NoneType"),
    (
        "parameters",
        lambda: F.pair_loss(X, term=lambda s, p: s, parameters=torch.tensor(0.1)),
        TypeError,
        "parameters: expected a sequence of tensors, got Tensor",
    ),
    ("term shape", lambda: F.pair_loss(X, term=lambda s, p: s.sum()), ValueError, r"term.*\(6,\).*\(6, 6\).*\(\)"),
    ("term type", lambda: F.pair_loss(X, term=lambda s, p: 1.0), ValueError, "term.*float"),
    ("score", lambda: F.pair_loss(X, term=lambda s, p: s, score="l3"), ValueError, "score.*'l3'"),
    ("reduce", lambda: F.pairwise_reduce(X, reduction="median"), ValueError, "reduction.*'median'"),
    ("reduce nothing", lambda: F.pairwise_reduce(X, Y[:0], reduction="min"), ValueError, "reduction.*'min'"),
    ("nce matrix", lambda: F.nce(X, Y), ValueError, r"model_logits_data.*\(6, 4\)"),
    ("nce rows", lambda: F.nce(X[0], Y), ValueError, r"model_logits_noise.*\(6, 4\)"),
    ("nce noise", lambda: F.nce(X[0], X[0], noise_log_prob_data=X[0]), TypeError, "noise_log_prob"),
    ("nce integers", lambda: F.nce(LABELS, X[:, 0]), TypeError, "model_logits_data.*int64"),
    (
        "positives",
        lambda: F.negative_sampling(X, Y, LABELS + 6, LABELS[:, None]),
        ValueError,
        r"positives.*\[0, 6\).*7",
    ),
    (
        "negatives",
        lambda: F.negative_sampling(X, Y, LABELS, LABELS[:, None] - 1),
        ValueError,
        r"negatives.*\[0, 6\).*-1",
    ),
    ("negatives vector", lambda: F.negative_sampling(X, Y, LABELS, LABELS), ValueError, r"negatives.*\(6, K\)"),
    ("barlow rows", lambda: F.barlow_twins(X, Y[:3]), ValueError, r"z1.*\(3, 4\)"),
    ("vicreg row", lambda: F.vicreg(X[:1], Y[:1]), ValueError, r"z0.*2 rows.*\(1, 4\)"),
    ("sinkhorn epsilon", lambda: F.sinkhorn(X, epsilon=0), ValueError, "epsilon"),
    ("sinkhorn numpy", lambda: F.sinkhorn(np.zeros((2, 2))), TypeError, "scores.*ndarray"),
    ("dino center", lambda: F.dino(X[None], Y[None], torch.zeros(3)), ValueError, r"center.*\(4,\).*\(3,\)"),
    ("dino views", lambda: F.dino(X, Y, torch.zeros(4)), ValueError, "student.*3 dimensions"),
    ("dino mask", lambda: F.dino(X[None], Y[None], torch.zeros(4), mask=X > 0), ValueError, "mask.*booleans"),
    ("module margin", lambda: losses.ContrastiveLoss(margin=-1), ValueError, "margin.*-1"),
    ("module mining", lambda: losses.TripletMarginLoss(mining="x"), ValueError, "mining.*'x'"),
    ("module classes", lambda: losses.ArcFaceLoss(0, 4), ValueError, "num_classes.*0"),
    ("module beta", lambda: losses.MarginLoss(beta="a"), TypeError, "beta.*str"),
    ("module sigma", lambda: losses.DCLWLoss(sigma=-1), ValueError, "sigma.*-1"),
    (
        "memory rows",
        lambda: losses.CrossBatchMemory(losses.ContrastiveLoss(), 4, memory_size=3)(X, LABELS),
        ValueError,
        "embeddings.*memory_size=3.*6",
    ),
    ("ranking columns", lambda: losses.MultipleNegativesRankingLoss(None)([X]), ValueError, "sentence_features.*1"),
]


@pytest.mark.parametrize(("name", "call", "error", "text"), CALLS, ids=[c[0] for c in CALLS])
def test_wrong_calls_say_what_is_wrong(name: str, call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


P = torch.zeros(12, dtype=torch.float64)
OPS = torch.ops.fastssl


def _row(loss: int = 0, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "x": X,
        "y": None,
        "x_ids": LABELS,
        "y_ids": LABELS,
        "positive_bits": None,
        "negative_bits": None,
        "row_value": None,
        "params": P,
        "loss": loss,
        "metric": 0,
        "normalize": 1e-12,
        "upper": False,
        "self_offset": 0,
        "keep": 0,
        **changes,
    }
    return OPS.row_loss(*arguments.values())


RAW: list[tuple[str, Callable[[], Any]]] = [
    ("loss", lambda: _row(9)),
    ("loss negative", lambda: _row(-1)),
    ("metric", lambda: _row(metric=5)),
    ("least length", lambda: _row(normalize=-1.0)),
    ("vector", lambda: _row(x=X[0])),
    ("integers", lambda: _row(x=LABELS[:, None])),
    ("dtypes", lambda: _row(y=Y.double())),
    ("features", lambda: _row(y=Y[:, :2])),
    ("no ids", lambda: _row(x_ids=None)),
    ("ids length", lambda: _row(x_ids=LABELS[:2])),
    ("ids dtype", lambda: _row(x_ids=LABELS.int())),
    ("ids strided", lambda: _row(x_ids=torch.arange(12)[::2])),
    ("no y ids", lambda: _row(y=Y, y_ids=None, self_offset=-1)),
    ("params", lambda: _row(params=P[:3])),
    ("params matrix", lambda: _row(params=P[:, None])),
    ("upper of two", lambda: _row(y=Y, upper=True)),
    ("upper of triplets", lambda: _row(3, upper=True)),
    ("lifted of two", lambda: _row(6, y=Y, self_offset=-1)),
    ("self offset", lambda: _row(self_offset=6)),
    ("self offset low", lambda: _row(self_offset=-2)),
    ("self of few", lambda: _row(y=Y[:3], y_ids=LABELS[:3], self_offset=0)),
    ("row value", lambda: _row(1, row_value=torch.ones(3))),
    ("bins", lambda: _row(7, params=P + 100)),
    ("no bins", lambda: _row(7)),
    ("one bits", lambda: _row(positive_bits=torch.zeros(1, 6, dtype=torch.int32))),
    (
        "bits size",
        lambda: _row(
            positive_bits=torch.zeros(1, 5, dtype=torch.int32), negative_bits=torch.zeros(1, 5, dtype=torch.int32)
        ),
    ),
    ("bits dtype", lambda: _row(positive_bits=torch.zeros(1, 6), negative_bits=torch.zeros(1, 6))),
    ("pairwise metric", lambda: OPS.pairwise(X, None, 9, False)),
    ("pairwise features", lambda: OPS.pairwise(X, Y[:, :1], 0, False)),
    ("pairwise grad", lambda: OPS.pairwise_backward(X, X, X, None, 0, False, 1)),
    ("nearest k", lambda: OPS.nearest(X, Y, 7, 0, False, True, False)),
    ("nearest k 0", lambda: OPS.nearest(X, Y, 0, 0, False, True, False)),
    ("nearest self", lambda: OPS.nearest(X, Y, 1, 0, False, True, True)),
    ("gather index", lambda: OPS.gather_dot(X, Y, torch.full((6, 1), 6))),
    ("gather negative", lambda: OPS.gather_dot(X, Y, torch.full((6, 1), -1))),
    ("gather rows", lambda: OPS.gather_dot(X, Y, torch.zeros(5, 1, dtype=torch.long))),
    ("gather dtype", lambda: OPS.gather_dot(X, Y, torch.zeros(6, 1))),
    ("bits range", lambda: OPS.pair_bits(torch.tensor([6]), torch.tensor([0]), 6, 6)),
    ("bits lengths", lambda: OPS.pair_bits(LABELS, LABELS[:2], 6, 6)),
    ("bits sizes", lambda: OPS.pair_bits(LABELS, LABELS, -1, 6)),
]


@pytest.mark.parametrize(("name", "call"), RAW, ids=[c[0] for c in RAW])
def test_the_raw_operators_check_again(name: str, call: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match="fastssl"):
        call()


@pytest.mark.parametrize("loss", range(9))
@pytest.mark.parametrize("keep", [0, 1])
def test_opcheck_of_row_losses(loss: int, keep: int) -> None:
    x = torch.randn(40, 8, requires_grad=True)
    params = torch.tensor([1.0, 1.0, 0.1, 1.0, 1.0, 2.0, *[0.0] * 6], dtype=torch.float64)
    if loss == 7:
        params[:2] = torch.tensor([10.0, 4.0])
    ids = torch.arange(40) % 5
    value = torch.randn(40, requires_grad=True) if loss == 1 else None
    arguments = (x, None, ids, ids, None, None, value, params, loss, 2, True, False, 0, keep)
    torch.library.opcheck(OPS.row_loss.default, arguments)


def test_opcheck_of_the_others() -> None:
    x, y = torch.randn(40, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    torch.library.opcheck(OPS.pairwise.default, (x, y, 1, True))
    torch.library.opcheck(OPS.pairwise.default, (x, None, 3, False))
    torch.library.opcheck(OPS.nearest.default, (x.detach(), y.detach(), 3, 0, True, True, False))
    torch.library.opcheck(OPS.gather_dot.default, (x, y, torch.randint(0, 50, (40, 3))))
    torch.library.opcheck(OPS.pair_bits.default, (torch.arange(5), torch.arange(5), 40, 50))


def test_second_derivatives_say_that_there_are_none() -> None:
    x = torch.randn(10, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(F.multi_similarity(x, torch.arange(10) % 3), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative.*reference"):
        grad.sum().backward()


def test_func_transforms_of_row_losses() -> None:
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.contrastive(leaf, y), leaf)
    torch.testing.assert_close(torch.func.grad(lambda t: F.contrastive(t, y))(x), expected)


OUT_OF_RANGE = {
    "normalized_softmax": ("labels", lambda x, ids: F.normalized_softmax(x, Y, ids)),
    "cos_face": ("labels", lambda x, ids: F.cos_face(x, Y, ids)),
    "arc_face": ("labels", lambda x, ids: F.arc_face(x, Y, ids)),
    "proxy_nca": ("labels", lambda x, ids: F.proxy_nca(x, Y, ids)),
    "proxy_anchor": ("labels", lambda x, ids: F.proxy_anchor(x, Y, ids)),
    "margin_loss": ("labels", lambda x, ids: F.margin_loss(x, ids, beta=torch.ones(6))),
    "negative_sampling": ("positives", lambda x, ids: F.negative_sampling(x, Y, ids, LABELS[:, None])),
    "negatives": ("negatives", lambda x, ids: F.negative_sampling(x, Y, LABELS, ids[:, None])),
    "linear_cross_entropy": ("targets", lambda x, ids: F.linear_cross_entropy(x, Y, ids, ignore_index=-7)),
    "softcap": ("targets", lambda x, ids: F.linear_cross_entropy(x, Y, ids, ignore_index=-7, softcap=3.0)),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_classes_out_of_range_are_named_wherever_the_loss_runs(name: str) -> None:
    argument, loss = OUT_OF_RANGE[name]
    ids, x = torch.arange(6), torch.randn(6, 4)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, ids), loss(x, ids))
    for wrong in (6, -1, -100, 2**62):
        outside = torch.where(ids == 3, wrong, ids)
        with pytest.raises(ValueError, match=rf"{argument}: expected values in \[0, 6\).*got {wrong}"):
            loss(x, outside)
        with pytest.raises(RuntimeError, match=rf"{argument}: expected values in \[0, 6\)"):
            compiled(x, outside)
        if name != "softcap":  # which vmap does not know
            with pytest.raises(ValueError, match=rf"{argument}: expected values in \[0, 6\).*got {wrong}"):
                torch.func.vmap(loss)(x[None], outside[None])
    torch._dynamo.reset()
