"""Rows of very different lengths: a long row costs the others no digits."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

import fastssl.functional as F
from tests.support import TRITON_DEVICE
from tests.support.modes import FLOAT_ISAS, instruction_set
from tests.support.subjects import SUBJECTS, Inputs, Subject, file_of, slow_but_one

N, M, D, LONGER = 70, 90, 24, 300.0
X_IDS, Y_IDS = torch.arange(N) % 7, torch.arange(M) % 7


def _rows(seed: int, n: int) -> Tensor:
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) / D**0.5
    x[0] *= LONGER
    return x


def _pairs() -> tuple[Tensor, ...]:
    same = X_IDS[:, None] == Y_IDS[None, :]
    drawn = torch.rand(N, M, generator=torch.Generator().manual_seed(5)) < 0.5
    return (*(same & drawn).nonzero(as_tuple=True), *(~same & drawn).nonzero(as_tuple=True))


# Within the rows, against others, with listed pairs: what each loss takes.
CASES = {
    f"{name}, {way}": (subject, how)
    for name, subject in SUBJECTS.items()
    if subject.long_rows is not None
    for way, needs, how in (
        ("within", "", {}),
        ("against", "ref_emb", {"ref_emb": "memory", "ref_labels": "memory_labels"}),
        ("listed", "indices_tuple", {"ref_emb": "memory"}),
    )
    if not needs or needs in subject.accepted
}


def inputs_of(subject: Subject, seed: int) -> Inputs:
    """Rows of which the first is long; labels of seven classes."""
    inputs = Inputs(subject.make(N, D, m=M))
    others = {"x": _rows(seed, N), "y": _rows(50 + seed, N), "labels": X_IDS, "head_targets": X_IDS}
    others |= dict.fromkeys(("memory", "head"), _rows(50 + seed, M)) | {"memory_labels": Y_IDS}
    kept = {*subject.names, "memory", "memory_labels"} - {"temperature", "scale", "bias", "head_bias"}
    return Inputs({k: t for k, t in (inputs | others).items() if k in kept})


def assert_rows_keep_their_digits(name: str, backend: str | None, seeds: int) -> None:
    """RMS error of the short rows' losses against float64: at most 1.5 times that of the formula in fp32."""
    (subject, how), squares = CASES[name], [0.0, 0.0]
    function = getattr(F, subject.function)

    def call(inputs: Inputs, computed: str | None) -> Tensor:
        by_name = {k: inputs[of] for k, of in how.items()}
        given = [inputs[k] for k in subject.inputs.split() if k in inputs]
        if "listed" in name:
            given, by_name["indices_tuple"] = given[:1], _pairs()
        return function(
            *given, **{**subject.options, **subject.long_rows, **by_name}, reduction="none", backend=computed
        )

    for seed in range(seeds):
        inputs = inputs_of(subject, seed)
        right = call(inputs.double(), "reference")
        short = torch.arange(len(right)) % N != 0
        unit = torch.finfo(torch.float32).eps * (1 + right.abs())
        for way, computed in enumerate((backend, "reference")):
            given = inputs.to(device=TRITON_DEVICE) if computed == "triton" else inputs
            error = (call(given, computed).cpu().double() - right) / unit
            squares[way] += float(error[short].square().mean()) / seeds
    ours, eager = (s**0.5 for s in squares)
    assert ours <= 1.5 * eager + 0.5, (ours, eager)


@pytest.mark.parametrize("name", CASES)
def test_a_long_row_costs_the_others_no_digits(isa: str, name: str) -> None:
    assert_rows_keep_their_digits(name, None, 4)


@pytest.mark.parametrize(
    "name",
    slow_but_one(
        [name for name in CASES if "listed" not in name], lambda name: (file_of(CASES[name][0]), *CASES[name][1])
    ),
)
def test_a_long_row_costs_the_others_no_digits_on_triton(name: str) -> None:
    pytest.importorskip("triton")
    assert_rows_keep_their_digits(name, "triton", 1)


LABELLED = [
    name
    for name in F.__all__
    if {"normalize", "labels", "embeddings"} <= set(inspect.signature(getattr(F, name)).parameters)
]


@pytest.mark.parametrize("deviation", [10.0, 50.0, 200.0])
@pytest.mark.parametrize("name", LABELLED)
def test_scores_of_thousands_and_millions(name: str, deviation: float) -> None:
    """Rows that are not normalised: where a softmax is one pair's, its gradient is exact, however coarse the scores."""
    x = torch.randn(48, 64, generator=torch.Generator().manual_seed(0)) * deviation
    labels = torch.arange(48) % 6

    def results(rows: Tensor, **options: str) -> tuple[Tensor, Tensor]:
        rows = rows.clone().requires_grad_()
        loss = getattr(F, name)(rows, labels, normalize=False, **options)
        loss.backward()
        assert rows.grad is not None
        return loss.detach().double(), rows.grad.double()

    wanted, wanted_grad = results(x.double(), backend="reference")
    for isa in FLOAT_ISAS:
        with instruction_set(isa):
            loss, grad = results(x)
        assert float(loss) == pytest.approx(float(wanted), rel=1e-4), isa
        assert float((grad - wanted_grad).abs().max()) <= 2e-3 * float(wanted_grad.abs().max()) + 1e-30, isa


@pytest.mark.parametrize("deviation", [1e3, 1e5, 1e7])
@pytest.mark.parametrize("name", ["info_nce", "info_nce_symmetric", "nt_xent", "linear_cross_entropy", "sup_con"])
def test_pair_losses_of_scores_beyond_what_exponentials_reach(name: str, deviation: float) -> None:
    """Where one unit of a score is more than all exponentials: weights are 0 or 1, and no gradient is NaN."""
    subject = SUBJECTS[name]
    options = {} if name == "linear_cross_entropy" else {"normalize": False}
    for seed in range(4):
        torch.manual_seed(seed)
        inputs = subject.make(64, 32, torch.float32, 1.0)
        for k in {"x", "y", "head"} & set(inputs):
            inputs[k] = torch.randn_like(inputs[k]) * deviation
        wanted = subject.gradients(inputs.double(), backend="reference", **options)
        for isa in FLOAT_ISAS:
            with instruction_set(isa):
                for got, right in zip(subject.gradients(inputs, **options), wanted):
                    assert float((got - right).abs().max()) <= 1e-3 * float(right.abs().max()) + 1e-30, (isa, seed)


@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "info_nce_symmetric", "sup_con"])
def test_lengths_whose_products_leave_fp32(any_isa: str, name: str) -> None:
    """Rows of bf16 that are divided by their length have any that it can express: what counts is their direction."""
    subject = SUBJECTS[name]
    inputs = subject.make(70, 24, torch.float32, 1.0)
    sides = sorted({"x", "y"} & set(inputs))
    for k in sides:
        inputs[k] = (inputs[k] * 10.0 ** torch.linspace(-11, 37, len(inputs[k]))[:, None]).bfloat16()
    got, right = subject.gradients(inputs), subject.gradients(inputs.double(), backend="reference")
    assert float(got[0]) == pytest.approx(float(right[0]), rel=1e-3)
    for k, ours, wanted in zip(inputs, got[1:], right[1:]):
        if k not in sides:
            continue
        error = (ours.double() - wanted).norm(dim=1) / wanted.norm(dim=1)
        assert float(error[wanted.norm(dim=1) > 1e-36].max()) <= 2**-6, k
