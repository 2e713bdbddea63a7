"""Every real-valued hyperparameter of every loss may be a tensor, and gets its gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl
import fastssl.functional as F
from fastssl import losses
from tests.support import TRITON_DEVICE
from tests.support.subjects import LABELLED, SUBJECTS, Inputs, slow_but_one

N, D, CLASSES = 40, 8, 6
LABELS = torch.arange(N) % CLASSES


def _rows(seed: int, n: int = N) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs_of(name: str, dtype: torch.dtype = torch.float64) -> Inputs:
    """Inputs whose hyperparameters are left to the test."""
    torch.manual_seed(3)
    return SUBJECTS[name].make(N, D, dtype, m=CLASSES + 20)


def at(name: str, inputs: Inputs, **given: Any) -> Tensor:
    """The loss with the hyperparameters of the table, but for those that are given."""
    subject = SUBJECTS[name]
    return subject(inputs, **{**subject.values, **given})


def listed(inputs: Inputs) -> tuple[Tensor, ...]:
    same = inputs["labels"][:, None] == inputs["labels"][None, :]
    drawn = torch.rand(N, N, generator=torch.Generator().manual_seed(5)) < 0.4
    positive = same & ~torch.eye(N, dtype=torch.bool)
    return (*positive.nonzero(as_tuple=True), *(~same & drawn).nonzero(as_tuple=True))


CASES = [(name, parameter) for name, subject in SUBJECTS.items() for parameter in subject.values]
LISTED = [
    (name, parameter)
    for name, parameter in CASES
    if name in LABELLED and "indices_tuple" in SUBJECTS[name].accepted and "memory" not in SUBJECTS[name].names
]


def assert_gradient(name: str, parameter: str, **options: Any) -> None:
    inputs, value = inputs_of(name), SUBJECTS[name].values[parameter]
    leaf = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    loss = at(name, inputs, **{parameter: leaf}, **options)
    assert loss.detach() == pytest.approx(float(at(name, inputs, **options)), rel=1e-12)
    (found,) = torch.autograd.grad(loss, leaf)
    if not (name.startswith("circle") and parameter == "margin"):  # its paces are constants of the gradient
        h = 1e-6 * max(1.0, abs(value))
        up, down = (float(at(name, inputs, **{parameter: v}, **options)) for v in (value + h, value - h))
        assert float(found) == pytest.approx((up - down) / (2 * h), rel=2e-5, abs=1e-7)
    with fastssl.backend("reference"):
        (by_formula,) = torch.autograd.grad(at(name, inputs, **{parameter: leaf}, **options), leaf)
    assert float(found) == pytest.approx(float(by_formula), rel=1e-7, abs=1e-10)


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_gradient_of_a_hyperparameter(name: str, parameter: str) -> None:
    assert_gradient(name, parameter)


@pytest.mark.parametrize(("name", "parameter"), LISTED)
def test_gradient_of_a_hyperparameter_with_listed_pairs(name: str, parameter: str) -> None:
    assert_gradient(name, parameter, indices_tuple=listed(inputs_of(name)))


@pytest.mark.parametrize("name", ["circle", "triplet_smooth", "lifted_structure", "contrastive", "multi_similarity"])
def test_gradients_of_hyperparameters_in_strips_and_fp32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastssl.functional import _pairs

    monkeypatch.setattr(_pairs, "SLOPE_BYTES", 2**60)  # 32 rows a strip
    inputs = inputs_of(name)
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in SUBJECTS[name].values.items()}
    found = torch.autograd.grad(at(name, inputs, **leaves), list(leaves.values()))
    with fastssl.backend("reference"):
        right = torch.autograd.grad(at(name, inputs, **leaves), list(leaves.values()))
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
        (losses.KoLeo, "eps", 0.1, "rows"),
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
    beta = torch.tensor([1.1], requires_grad=True, device=TRITON_DEVICE)
    given = _rows(0).float().to(TRITON_DEVICE), LABELS.to(TRITON_DEVICE)
    found, right = (
        [loss, torch.autograd.grad(loss, beta)[0]]
        for loss in (F.margin_loss(*given, beta=beta, backend=b) for b in ("triton", "reference"))
    )
    for a, b in zip(found, right):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


ON_TRITON = ("circle", "contrastive", "multi_similarity", "tuplet_margin", "lifted_structure")
TRIPLETS = ("triplet", "triplet_smooth", "triplet_semihard")  # of csrc/cuda


@pytest.mark.parametrize("name", [*ON_TRITON, *TRIPLETS])
def test_gradients_of_hyperparameters_on_triton(name: str) -> None:
    pytest.importorskip("triton")
    inputs = inputs_of(name, torch.float32).to(device=TRITON_DEVICE)
    leaves = {k: torch.tensor(v, requires_grad=True, device=TRITON_DEVICE) for k, v in SUBJECTS[name].values.items()}
    found, right = (
        [loss.detach(), *torch.autograd.grad(loss, list(leaves.values()))]
        for loss in (at(name, inputs, **leaves, backend=backend) for backend in ("triton", "reference"))
    )
    for a, b in zip(found, right):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


PLACES = ("margin", "scale", "gamma", "beta", "alpha")
PLACED = [name for name, subject in SUBJECTS.items() if any(word in k for k in subject.values for word in PLACES)]


def assert_compiles(name: str, device: str, **options: Any) -> None:
    """In one piece, with the loss and the gradients of eager."""
    torch._dynamo.reset()
    inputs = SUBJECTS[name].make(12, 8, m=CLASSES + 20).to(device=device).leaves()
    learned = {k: torch.tensor(v, requires_grad=True, device=device) for k, v in SUBJECTS[name].values.items()}

    def call(given: Inputs, values: dict[str, Tensor]) -> Tensor:
        return at(name, given, **values, **options)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    wanted = [*learned.values(), inputs["x"]]
    traced, eager = (
        [loss.detach(), *torch.autograd.grad(loss, wanted)]
        for loss in (compiled(inputs, learned), call(inputs, learned))
    )
    for a, b in zip(traced, eager):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", slow_but_one(PLACED))
def test_compiles_without_breaks_where_hyperparameters_are_learned(name: str) -> None:
    assert_compiles(name, "cpu")


@pytest.mark.parametrize("name", slow_but_one(["contrastive", "circle", "tuplet_margin", *TRIPLETS]))
def test_compiles_on_triton_where_hyperparameters_are_learned(name: str) -> None:
    pytest.importorskip("triton")
    assert_compiles(name, TRITON_DEVICE, backend="triton")


def test_a_margin_of_0_has_a_gradient() -> None:
    margin = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(F.tuplet_margin(_rows(0), LABELS, margin=margin), margin)
    up, down = (float(F.tuplet_margin(_rows(0), LABELS, margin=v)) for v in (1e-6, -1e-6))
    assert float(found) == pytest.approx((up - down) / 2e-6, rel=1e-5)


MANY = {  # of rows: torch sums more than 32,768 values on several threads
    **{name: SUBJECTS[name] for name in ("alignment", "negative_cosine_similarity", "cos_face", "arc_face")},
    "negative_sampling": SUBJECTS["negative_sampling"],
    "linear_cross_entropy": replace(  # a softcap's scores are a product of torch's
        SUBJECTS["linear_cross_entropy"], values={"label_smoothing": 0.1, "z_loss": 0.02}
    ),
    **{
        name: replace(SUBJECTS[name], keywords=f"{SUBJECTS[name].keywords} ref_emb=memory ref_labels=memory_labels")
        for name in ("contrastive_active", "generalized_lifted_structure", "multi_similarity", "margin_loss")
    },
    "triplet_hard": replace(SUBJECTS["triplet_hard"], keywords="ref_emb=memory ref_labels=memory_labels"),
}


@pytest.mark.threads
@pytest.mark.parametrize("name", MANY)
def test_gradients_over_many_rows_have_the_same_bits_for_any_number_of_threads(name: str) -> None:
    subject = MANY[name]
    torch.manual_seed(0)
    inputs = subject.make(40_000, 3, torch.float64, m=40)
    for labels in {"labels", "memory_labels"} & set(inputs):
        inputs[labels] %= 13
    found, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        values = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in subject.values.items()}
        given = inputs.leaves()
        loss = subject(given, **values)
        grads = torch.autograd.grad(loss, [*given.differentiable, *values.values()], allow_unused=True)
        found.append([loss.detach(), *(g for g in grads if g is not None)])
    torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)
