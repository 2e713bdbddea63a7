"""Every real-valued hyperparameter of every loss may be a tensor, and gets its gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
import fastssl.functional as F
from fastssl import losses

N, D, CLASSES = 40, 8, 6
LABELS = torch.arange(N) % CLASSES


def _rows(seed: int, n: int = N) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _labelled(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda **given: function(_rows(0), LABELS, **fixed, **given)


def _listed(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    same = LABELS[:, None] == LABELS[None, :]
    drawn = torch.rand(N, N, generator=torch.Generator().manual_seed(5)) < 0.4
    positive = same & drawn & ~torch.eye(N, dtype=torch.bool)
    pairs = (*positive.nonzero(as_tuple=True), *(~same & drawn).nonzero(as_tuple=True))
    return lambda **given: function(_rows(0), None, indices_tuple=pairs, ref_emb=_rows(3), **fixed, **given)


def _views(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda **given: function(_rows(0), _rows(1), **fixed, **given)


def _classes(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda **given: function(_rows(0), _rows(2, CLASSES), LABELS, **fixed, **given)


def _unit(seed: int) -> Tensor:
    return torch.nn.functional.normalize(_rows(seed), dim=1)


# The call, and its hyperparameters with the values at which their gradients are compared.
CASES: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "info_nce": (_views(F.info_nce), {"temperature": 0.3}),
    "nt_xent": (_views(F.nt_xent), {"temperature": 0.3}),
    "sup_con": (_labelled(F.sup_con), {"temperature": 0.3}),
    "sup_con, listed": (_listed(F.sup_con), {"temperature": 0.3}),
    "multi_nt_xent": (_labelled(F.multi_nt_xent), {"temperature": 0.3}),
    "mil_nce": (_labelled(F.mil_nce), {"temperature": 0.3}),
    "dcl": (_views(F.dcl), {"temperature": 0.3, "sigma": 0.4}),
    "hard_negative_nt_xent": (
        _views(F.hard_negative_nt_xent),
        {"temperature": 0.6, "tau_plus": 0.05, "beta": 0.8},
    ),
    "debiased_nt_xent": (_views(F.debiased_nt_xent), {"temperature": 0.6, "tau_plus": 0.05}),
    "alignment": (_views(F.alignment), {"alpha": 1.7}),
    "uniformity": (lambda **given: F.uniformity(_rows(0), **given), {"t": 1.6}),
    "info_nce, queue": (
        lambda **given: F.info_nce(_rows(0), _rows(1), _rows(2, 9), in_batch=False, **given),
        {"temperature": 0.3},
    ),
    "contrastive": (_labelled(F.contrastive), {"margin": 3.1, "positive_margin": 1.2}),
    "contrastive, active": (
        _labelled(F.contrastive, squared=False, reduction="active"),
        {"margin": 3.1, "positive_margin": 1.2},
    ),
    "contrastive, listed": (_listed(F.contrastive), {"margin": 3.1}),
    "triplet": (_labelled(F.triplet), {"margin": 0.4}),
    "triplet, smooth": (_labelled(F.triplet, smooth=True), {"margin": 0.4}),
    "triplet, hard": (_labelled(F.triplet, mining="hard"), {"margin": 0.4}),
    "triplet, semihard": (_labelled(F.triplet, mining="semihard"), {"margin": 0.4}),
    "lifted_structure": (_labelled(F.lifted_structure), {"margin": 0.7}),
    "lifted_structure, J": (_labelled(F.lifted_structure, squared_hinge=False), {"margin": 0.7}),
    "generalized_lifted_structure": (_labelled(F.generalized_lifted_structure), {"margin": 0.7}),
    "n_pair": (_views(F.n_pair), {"l2_reg": 0.1}),
    "soft_nearest_neighbor": (_labelled(F.soft_nearest_neighbor), {"temperature": 0.9}),
    "nca": (_labelled(F.nca), {"scale": 0.8}),
    "multi_similarity": (_labelled(F.multi_similarity), {"alpha": 2.1, "beta": 9.0, "base": 0.4}),
    "circle": (_labelled(F.circle), {"margin": 0.3, "gamma": 7.0}),
    "circle, listed": (_listed(F.circle), {"margin": 0.3, "gamma": 7.0}),
    "margin_loss": (_labelled(F.margin_loss), {"margin": 0.25, "beta": 1.1, "nu": 0.02}),
    "tuplet_margin": (_labelled(F.tuplet_margin), {"margin": 6.0, "scale": 8.0}),
    "angular": (_labelled(F.angular), {"alpha": 38.0}),
    "ranked_list": (
        _labelled(F.ranked_list),
        {
            "margin": 0.35,
            "alpha": 1.3,
            "imbalance": 0.4,
            "positive_temperature": 0.7,
            "negative_temperature": 2.5,
        },
    ),
    "normalized_softmax": (_classes(F.normalized_softmax), {"temperature": 0.2}),
    "cos_face": (_classes(F.cos_face), {"margin": 0.3, "scale": 9.0}),
    "arc_face": (_classes(F.arc_face), {"margin": 25.0, "scale": 9.0}),
    "proxy_nca": (_classes(F.proxy_nca), {"scale": 2.1}),
    "proxy_anchor": (_classes(F.proxy_anchor), {"margin": 0.15, "alpha": 7.0}),
    "clip_loss": (lambda **given: F.clip_loss(_unit(0), _unit(1), **given), {"logit_scale": 8.0}),
    "siglip_loss": (
        lambda **given: F.siglip_loss(_unit(0), _unit(1), **given),
        {"logit_scale": 8.0, "logit_bias": -4.0},
    ),
    "linear_cross_entropy": (
        lambda **given: F.linear_cross_entropy(_rows(0), _rows(2, CLASSES), LABELS, **given),
        {"label_smoothing": 0.1, "z_loss": 0.02, "softcap": 3.0},
    ),
    "barlow_twins": (_views(F.barlow_twins), {"lambd": 0.01, "eps": 0.1}),
    "vicreg": (
        _views(F.vicreg),
        {"invariance": 20.0, "variance": 21.0, "covariance": 1.5, "gamma": 1.3, "eps": 0.01},
    ),
    "swapped_prediction": (_views(F.swapped_prediction), {"temperature": 0.3}),
    "dino": (
        lambda **given: F.dino(
            _rows(0).reshape(4, 10, D), _rows(1).reshape(4, 10, D)[:2], torch.zeros(D).double(), **given
        ),
        {"student_temperature": 0.4, "teacher_temperature": 0.3},
    ),
}
# Real-valued arguments without a gradient: targets of no gradient, and what a GPU may skip.
CONSTANT = {"epsilon", "gradient_filter"}


def test_the_table_has_every_loss_and_every_real_valued_argument() -> None:
    known: dict[str, set[str]] = {}
    for name, (_, parameters) in CASES.items():
        known.setdefault(name.split(",")[0], set()).update(parameters)
    for name in F.__all__:
        signature = inspect.signature(getattr(F, name))
        real = {
            p.name
            for p in signature.parameters.values()
            if str(p.annotation).replace(" | None", "") in ("float", "Tensor | float", "float | Tensor")
        } - CONSTANT
        if name in known or (real and str(signature.return_annotation) == "Tensor"):
            extra = real - known.get(name, set())
            assert not extra - ({"logit_bias"} if name == "clip_loss" else set()) or name in NO_LOSSES, (name, extra)


NO_LOSSES = ("sinkhorn", "centred_softmax")


@pytest.mark.parametrize(
    ("name", "parameter"), [(name, parameter) for name, (_, given) in CASES.items() for parameter in given]
)
def test_gradient_of_a_hyperparameter(name: str, parameter: str) -> None:
    call, values = CASES[name]
    value = values[parameter]

    def at(v: Any) -> Tensor:
        return call(**{**values, parameter: v})

    leaf = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    loss = at(leaf)
    assert loss.detach() == pytest.approx(float(at(value)), rel=1e-12)
    (found,) = torch.autograd.grad(loss, leaf)
    if not (name.startswith("circle") and parameter == "margin"):  # its paces are constants of the gradient
        h = 1e-6 * max(1.0, abs(value))
        numeric = (float(at(value + h)) - float(at(value - h))) / (2 * h)
        assert float(found) == pytest.approx(numeric, rel=2e-5, abs=1e-7)
    with fastssl.backend("reference"):
        (by_formula,) = torch.autograd.grad(at(leaf), leaf)
    assert float(found) == pytest.approx(float(by_formula), rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("name", ["circle", "triplet, smooth", "lifted_structure", "contrastive", "multi_similarity"])
def test_gradients_of_hyperparameters_in_strips_and_fp32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastssl.functional import _pairs

    monkeypatch.setattr(_pairs, "SLOPE_BYTES", 2**60)  # 32 rows a strip
    call, values = CASES[name]
    leaves = {k: torch.tensor(v, dtype=torch.float32, requires_grad=True) for k, v in values.items()}
    found = torch.autograd.grad(call(**leaves), list(leaves.values()))
    with fastssl.backend("reference"):
        right = torch.autograd.grad(call(**leaves), list(leaves.values()))
    for a, b in zip(found, right):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("number", ["float32", "float64", "int64"])
def test_numbers_of_numpy_are_numbers(number: str) -> None:
    numpy = pytest.importorskip("numpy")
    given = numpy.dtype(number).type(1)
    assert torch.equal(F.nt_xent(_rows(0), _rows(1), temperature=given), F.nt_xent(_rows(0), _rows(1), temperature=1.0))
    assert torch.equal(F.contrastive(_rows(0), LABELS, margin=given), F.contrastive(_rows(0), LABELS, margin=1.0))


@pytest.mark.parametrize(
    ("module", "name", "value", "inputs"),
    [
        (losses.ContrastiveLoss, "margin", 3.0, "labels"),
        (losses.TripletMarginLoss, "margin", 0.4, "labels"),
        (losses.SupConLoss, "temperature", 0.3, "labels"),
        (losses.NTXentLoss, "temperature", 0.3, "views"),
        (losses.InfoNCELoss, "temperature", 0.3, "views"),
        (losses.DCLLoss, "temperature", 0.3, "views"),
        (losses.AlignmentLoss, "alpha", 1.5, "views"),
        (losses.NPairsLoss, "l2_reg", 0.1, "views"),
        (losses.UniformityLoss, "t", 1.5, "rows"),
        (lambda **given: losses.ArcFaceLoss(CLASSES, D, **given), "scale", 9.0, "labels"),
    ],
)
def test_a_parameter_given_to_a_module_is_its_own(module: Any, name: str, value: float, inputs: str) -> None:
    parameter = torch.nn.Parameter(torch.tensor(value))
    loss = module(**{name: parameter})
    assert any(p is parameter for p in loss.parameters())
    rows = [_rows(0).float(), *([LABELS] if inputs == "labels" else [_rows(1).float()] if inputs == "views" else [])]
    loss(*rows).backward()
    assert parameter.grad is not None and float(parameter.grad) != 0
    assert repr(loss) and loss.state_dict()
    loss.load_state_dict(loss.state_dict())


def test_one_boundary_for_all_rows_on_triton() -> None:
    pytest.importorskip("triton")
    beta = torch.tensor([1.1], requires_grad=True)
    found, right = (
        [loss, torch.autograd.grad(loss, beta)[0]]
        for loss in (F.margin_loss(_rows(0).float(), LABELS, beta=beta, backend=b) for b in ("triton", "reference"))
    )
    for a, b in zip(found, right):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["circle", "contrastive", "multi_similarity", "tuplet_margin", "lifted_structure"])
def test_gradients_of_hyperparameters_on_triton(name: str) -> None:
    pytest.importorskip("triton")
    values = CASES[name][1]
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in values.items()}
    found, right = (
        torch.autograd.grad(_in_float32(name, backend)(**leaves), list(leaves.values()))
        for backend in ("triton", "reference")
    )
    for a, b in zip(found, right):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def _in_float32(name: str, backend: str) -> Callable[..., Tensor]:
    return lambda **given: getattr(F, name)(_rows(0).float(), LABELS, backend=backend, **given)
