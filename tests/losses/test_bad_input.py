"""Wrong calls: an error that names the argument, what came and what is expected; never a crash or a wrong number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastssl
import fastssl.data
import fastssl.functional as F
from fastssl import losses
from fastssl.augment import SimCLRAugment, to_float
from fastssl.data import emoji, folder
from fastssl.evaluate import encode
from fastssl.methods import get
from fastssl.models import build_encoder
from fastssl.train import LARS, Pretraining, build_optimizer, load_encoder

X, Y = torch.randn(6, 4), torch.randn(6, 4)
LABELS = torch.arange(6) % 2
INT = torch.ones(6, 4, dtype=torch.long)

# (what is called, the error, what its text must name)
CALLS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("no tensor", lambda: F.nt_xent(None, Y), TypeError, "z0.*NoneType"),
    ("a list", lambda: F.nt_xent([[1.0]], Y), TypeError, "z0.*list"),
    ("numpy", lambda: F.nt_xent(X, Y.numpy()), TypeError, "z1.*ndarray"),
    ("one dimension", lambda: F.nt_xent(X[0], Y), ValueError, r"z0.*\(4,\)"),
    ("three dimensions", lambda: F.nt_xent(X, Y[None]), ValueError, r"z1.*\(1, 6, 4\)"),
    ("a scalar", lambda: F.nt_xent(torch.tensor(1.0), Y), ValueError, r"z0.*\(\)"),
    ("rows differ", lambda: F.nt_xent(X, Y[:5]), ValueError, r"z1.*6 rows.*\(5, 4\)"),
    ("features differ", lambda: F.nt_xent(X, Y[:, :3]), ValueError, r"z1.*4 features.*\(6, 3\)"),
    ("no features", lambda: F.nt_xent(X[:, :0], Y[:, :0]), ValueError, r"z0.*one feature.*\(6, 0\)"),
    ("integers", lambda: F.nt_xent(INT, INT), TypeError, "z0.*int64"),
    ("complex", lambda: F.nt_xent(X + 0j, Y), TypeError, "z0.*complex64"),
    ("booleans", lambda: F.nt_xent(X > 0, Y), TypeError, "z0.*bool"),
    ("float8", lambda: F.nt_xent(X.to(torch.float8_e4m3fn), Y), TypeError, "z0.*float8"),
    ("dtypes differ", lambda: F.nt_xent(X, Y.double()), TypeError, "z1.*float32.*float64"),
    ("half and float", lambda: F.nt_xent(X.bfloat16(), Y), TypeError, "z1.*bfloat16.*float32"),
    ("meta", lambda: F.nt_xent(X.to("meta"), Y), ValueError, "z0.*meta"),
    ("second meta", lambda: F.nt_xent(X, Y.to("meta")), ValueError, "z1.*meta"),
    ("sparse", lambda: F.nt_xent(X.to_sparse(), Y), TypeError, "z0.*sparse"),
    ("nested", lambda: F.nt_xent(torch.nested.as_nested_tensor([X[0], X[1]]), Y), TypeError, "z0.*nested"),
    ("temperature 0", lambda: F.nt_xent(X, Y, temperature=0), ValueError, "temperature.*> 0.*0"),
    ("temperature < 0", lambda: F.nt_xent(X, Y, temperature=-0.1), ValueError, "temperature.*-0.1"),
    ("temperature nan", lambda: F.nt_xent(X, Y, temperature=float("nan")), ValueError, "temperature.*nan"),
    ("temperature inf", lambda: F.nt_xent(X, Y, temperature=float("inf")), ValueError, "temperature.*inf"),
    ("temperature text", lambda: F.nt_xent(X, Y, temperature="0.1"), TypeError, "temperature.*str"),
    ("temperature None", lambda: F.nt_xent(X, Y, temperature=None), TypeError, "temperature.*NoneType"),
    ("temperature True", lambda: F.nt_xent(X, Y, temperature=True), TypeError, "temperature.*bool"),
    ("temperature vector", lambda: F.nt_xent(X, Y, temperature=torch.ones(2)), ValueError, r"temperature.*\(2,\)"),
    ("temperature int tensor", lambda: F.nt_xent(X, Y, temperature=torch.tensor(1)), TypeError, "temperature.*int64"),
    ("temperature tensor 0", lambda: F.nt_xent(X, Y, temperature=torch.tensor(0.0)), ValueError, "temperature.*0.0"),
    (
        "temperature meta",
        lambda: F.nt_xent(X, Y, temperature=torch.ones((), device="meta")),
        ValueError,
        "temperature.*meta",
    ),
    ("normalize None", lambda: F.nt_xent(X, Y, normalize=None), TypeError, "normalize.*NoneType"),
    ("normalize 1", lambda: F.nt_xent(X, Y, normalize=1), TypeError, "normalize.*int"),
    ("reduction", lambda: F.nt_xent(X, Y, reduction="average"), ValueError, "reduction.*'average'"),
    ("reduction None", lambda: F.nt_xent(X, Y, reduction=None), ValueError, "reduction.*None"),
    ("backend", lambda: F.nt_xent(X, Y, backend="gpu"), ValueError, "backend.*'gpu'"),
    ("query", lambda: F.info_nce("query", Y), TypeError, "query.*str"),
    ("key rows", lambda: F.info_nce(X, Y[:2]), ValueError, r"key.*\(2, 4\)"),
    ("queue features", lambda: F.info_nce(X, Y, torch.randn(9, 3)), ValueError, r"negatives.*4 features.*\(9, 3\)"),
    ("queue one dimension", lambda: F.info_nce(X, Y, torch.randn(9)), ValueError, r"negatives.*\(9,\)"),
    ("queue dtype", lambda: F.info_nce(X, Y, torch.randn(9, 4).half()), TypeError, "negatives.*float16"),
    ("queue numpy", lambda: F.info_nce(X, Y, np.zeros((9, 4))), TypeError, "negatives.*ndarray"),
    ("queue symmetric", lambda: F.info_nce(X, Y, X, symmetric=True), ValueError, "negatives.*symmetric"),
    ("symmetric text", lambda: F.info_nce(X, Y, symmetric="yes"), TypeError, "symmetric.*str"),
    ("labels None", lambda: F.sup_con(X, None), TypeError, "labels.*NoneType"),
    ("labels list", lambda: F.sup_con(X, [0, 1, 0, 1, 0, 1]), TypeError, "labels.*list"),
    ("labels float", lambda: F.sup_con(X, LABELS.float()), TypeError, "labels.*float32"),
    ("labels bool", lambda: F.sup_con(X, LABELS > 0), TypeError, "labels.*bool"),
    ("labels length", lambda: F.sup_con(X, LABELS[:5]), ValueError, "labels.*6.*5"),
    ("labels matrix", lambda: F.sup_con(X, LABELS[:, None]), ValueError, r"labels.*\(6, 1\)"),
    ("labels meta", lambda: F.sup_con(X, LABELS.to("meta")), ValueError, "labels.*meta"),
    ("scale None", lambda: F.clip_loss(X, Y, None), TypeError, "logit_scale.*NoneType"),
    ("scale nan", lambda: F.clip_loss(X, Y, float("nan")), ValueError, "logit_scale.*nan"),
    ("scale vector", lambda: F.clip_loss(X, Y, torch.ones(6)), ValueError, r"logit_scale.*\(6,\)"),
    ("clip bias", lambda: F.clip_loss(X, Y, 1.0, "0"), TypeError, "logit_bias.*str"),
    ("clip text rows", lambda: F.clip_loss(X, Y[:3], 1.0), ValueError, r"text_features.*\(3, 4\)"),
    ("siglip bias", lambda: F.siglip_loss(X, Y, 1.0, None), TypeError, "logit_bias.*NoneType"),
    ("siglip images", lambda: F.siglip_loss(INT, Y, 1.0, 0.0), TypeError, "image_features.*int64"),
    ("siglip bias inf", lambda: F.siglip_loss(X, Y, 1.0, float("inf")), ValueError, "logit_bias.*inf"),
    ("targets high", lambda: F.linear_cross_entropy(X, Y, LABELS + 5), ValueError, r"targets.*\[0, 6\).*6"),
    ("targets low", lambda: F.linear_cross_entropy(X, Y, LABELS - 2), ValueError, "targets.*-2"),
    (
        "targets other ignore",
        lambda: F.linear_cross_entropy(X, Y, LABELS - 100, ignore_index=-1),
        ValueError,
        "targets.*-100",
    ),
    ("targets length", lambda: F.linear_cross_entropy(X, Y, LABELS[:4]), ValueError, "targets.*6.*4"),
    ("targets float", lambda: F.linear_cross_entropy(X, Y, LABELS.double()), TypeError, "targets.*float64"),
    ("weight features", lambda: F.linear_cross_entropy(X, Y[:, :2], LABELS), ValueError, r"weight.*\(6, 2\)"),
    ("weight empty", lambda: F.linear_cross_entropy(X, Y[:0], LABELS), ValueError, r"weight.*\(0, 4\)"),
    ("bias length", lambda: F.linear_cross_entropy(X, Y, LABELS, torch.ones(5)), ValueError, r"bias.*\(6,\).*\(5,\)"),
    ("bias matrix", lambda: F.linear_cross_entropy(X, Y, LABELS, torch.ones(6, 1)), ValueError, r"bias.*\(6, 1\)"),
    ("bias int", lambda: F.linear_cross_entropy(X, Y, LABELS, LABELS), TypeError, "bias.*int64"),
    (
        "ignore_index",
        lambda: F.linear_cross_entropy(X, Y, LABELS, ignore_index=None),
        TypeError,
        "ignore_index.*NoneType",
    ),
    ("module temperature", lambda: losses.NTXentLoss(temperature=-1), ValueError, "temperature.*-1"),
    ("module reduction", lambda: losses.CLIPLoss(reduction="max"), ValueError, "reduction.*'max'"),
    ("module learnable", lambda: losses.InfoNCELoss(learnable=2), TypeError, "learnable.*int"),
    ("budget", lambda: fastssl.set_memory_budget(-1), ValueError, "bytes.*-1"),
    ("budget float", lambda: fastssl.set_memory_budget(1e9), TypeError, "bytes.*float"),
    ("instruction set", lambda: fastssl.instruction_set("neon9"), ValueError, "name.*'neon9'"),
    ("augment floats", lambda: SimCLRAugment(8)(torch.randn(2, 8, 8, 3), seed=0), TypeError, "images.*float32"),
    (
        "augment shape",
        lambda: SimCLRAugment(8)(torch.zeros(8, 8, 5, dtype=torch.uint8), seed=0),
        ValueError,
        "images.*shape",
    ),
    ("augment size", lambda: SimCLRAugment(0), ValueError, "size.*0"),
    ("augment crop", lambda: SimCLRAugment(8, crop=(0.5, 0.1)), ValueError, "scale"),
    ("augment chance", lambda: SimCLRAugment(8, flip=1.5), ValueError, "p: .*1.5"),
    ("to_float floats", lambda: to_float(np.zeros((1, 4, 4, 3))), TypeError, "images.*float64"),
    ("data name", lambda: fastssl.data.open("imagenet"), FileNotFoundError, "data.*'imagenet'"),
    ("data split", lambda: emoji("test"), ValueError, "split.*'test'"),
    ("data folder", lambda: folder("/nonexistent"), ValueError, "path.*nonexistent"),
    ("method", lambda: get("simsiamese"), ValueError, "method.*'simsiamese'"),
    ("encoder", lambda: build_encoder({"name": "vgg", "size": 32}), ValueError, "encoder.*'vgg'"),
    (
        "readout",
        lambda: encode(build_encoder({"name": "resnet", "size": 8, "width": 8}), np.zeros((1, 8, 8, 3), np.uint8), "x"),
        ValueError,
        "readout.*'x'",
    ),
    (
        "optimiser",
        lambda: build_optimizer(torch.nn.Linear(1, 1), "adagrad", 1.0, 0.0),
        ValueError,
        "optimizer.*'adagrad'",
    ),
    ("lars rate", lambda: LARS([torch.nn.Parameter(X)], lr=-1), ValueError, "lr.*-1"),
    ("epochs", lambda: Pretraining(epochs=0).check(), ValueError, "epochs.*0"),
    ("minutes", lambda: Pretraining(minutes=-1).check(), ValueError, "minutes.*-1"),
    ("checkpoint", lambda: load_encoder("/nonexistent"), ValueError, "checkpoint.*nonexistent"),
]


def test_there_are_enough() -> None:
    assert len(CALLS) >= 60 and len({name for name, *_ in CALLS}) == len(CALLS)


@pytest.mark.parametrize(("call", "error", "text"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_wrong_call(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


# What Python would have caught, given to the operator itself: errors, not crashes.
OP = torch.ops.fastssl.pair_loss.default
NONE = (None,) * 7
PAIRS = (X, None, Y, None, None, None, None)
VIEWS = (X, Y, None, None, None, None, None)


def _raw(
    positives: int,
    *tensors: Any,
    scale: float = 1.0,
    symmetric: bool = False,
    reduction: int = 2,
    keep: int = 0,
    **o: Any,
) -> tuple[Any, ...]:
    return (
        *tensors,
        scale,
        positives,
        o.get("sigmoid", False),
        o.get("normalize", 1e-12),
        symmetric,
        -100,
        reduction,
        keep,
    )


RAW: dict[str, tuple[Any, ...]] = {
    "positives": _raw(99, *PAIRS),
    "negative positives": _raw(-1, *PAIRS),
    "vector": _raw(1, X[0], Y, *NONE[2:]),
    "features": _raw(1, X, Y[:, :2], *NONE[2:]),
    "rows": _raw(1, X, Y[:1], *NONE[2:]),
    "no second view": _raw(1, X[:3], *NONE[1:]),
    "views of two sides": _raw(1, *PAIRS),
    "more of no side": _raw(1, X, Y, None, Y, *NONE[4:]),
    "no keys": _raw(0, X, *NONE[1:]),
    "no labels": _raw(3, X, *NONE[1:]),
    "labels length": _raw(3, X, None, None, None, LABELS[:2], None, None),
    "labels dtype": _raw(3, X, None, None, None, LABELS.int(), None, None),
    "labels strides": _raw(3, X, None, None, None, torch.arange(12)[::2], None, None),
    "targets": _raw(2, X, None, Y, None, LABELS + 100, None, None),
    "negative targets": _raw(2, X, None, Y, None, LABELS - 3, None, None),
    "dtype": _raw(1, X, Y.double(), *NONE[2:]),
    "integers": _raw(1, INT, INT, *NONE[2:]),
    "scale": _raw(1, X, Y, None, None, None, torch.ones(3), None),
    "bias": _raw(0, X, None, Y, None, None, None, torch.ones(3), sigmoid=True),
    "temperature": _raw(1, *VIEWS, scale=-1.0),
    "least length": _raw(1, *VIEWS, normalize=-1.0),
    "keep": _raw(1, *VIEWS, keep=7),
    "reduction": _raw(1, *VIEWS, reduction=7),
    "gradients of rows": _raw(1, *VIEWS, reduction=0, keep=3),
    "symmetric": _raw(0, *PAIRS, symmetric=True, sigmoid=True),
    "queue and symmetric": _raw(0, X, None, Y, X, None, None, None, symmetric=True),
    "no features": _raw(1, X[:, :0], Y[:, :0], *NONE[2:]),
}


@pytest.mark.parametrize("name", RAW)
def test_wrong_operator_call(name: str) -> None:
    with pytest.raises(RuntimeError, match="fastssl"):
        OP(*RAW[name])


def test_wrong_backward_call() -> None:
    arguments = _raw(1, *VIEWS)
    _, stats, kept = OP(*arguments)
    backward = torch.ops.fastssl.pair_loss_backward.default
    for grad, s, k in (
        (torch.ones(2), stats, kept),
        (torch.ones(()), stats[1:], kept),
        (torch.ones(()), stats, torch.ones(5)),
    ):
        with pytest.raises(RuntimeError, match="fastssl"):
            backward(grad, s, k, *arguments, 3)


def test_what_must_work() -> None:
    """Odd but right: the table above must not forbid it."""
    assert torch.isfinite(F.nt_xent(X[:, :1], Y[:, :1]))
    assert torch.isfinite(F.sup_con(X, LABELS.to(torch.uint8)))
    assert torch.isfinite(F.nt_xent(X, Y, temperature=torch.tensor([0.1])))
    assert torch.isfinite(F.clip_loss(X, Y, 100))
    assert torch.isfinite(F.clip_loss(X, Y, 1.0, torch.tensor(1.0)))
    assert torch.isfinite(F.linear_cross_entropy(X, Y, LABELS.int(), torch.ones(6).double()))
    assert torch.isfinite(F.nt_xent(torch.zeros(3, 4), torch.zeros(3, 4)))


def test_integers_of_numpy_are_integers() -> None:
    hidden, weight, targets = torch.randn(4, 8), torch.randn(5, 8), torch.tensor([0, -7, 2, 4])
    wanted = F.linear_cross_entropy(hidden, weight, targets, ignore_index=-7)
    assert torch.equal(F.linear_cross_entropy(hidden, weight, targets, ignore_index=np.int64(-7)), wanted)
