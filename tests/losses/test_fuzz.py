"""Random shapes, values, options and instruction sets against the reference in float64."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import fastssl
from tests.support.modes import ISAS
from tests.support.subjects import FUSED, PAIR_ENGINE, SUBJECTS


def _begin(isa: str, budget: int, seed: int, threads: int | None = None) -> None:
    fastssl.instruction_set(isa)
    fastssl.set_memory_budget(budget)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(PAIR_ENGINE)),
    isa=st.sampled_from(ISAS),
    n=st.one_of(st.integers(1, 40), st.integers(41, 330)),
    d=st.one_of(st.integers(1, 20), st.integers(21, 140)),
    log_temperature=st.floats(-3, 1),
    log_size=st.floats(-4, 4),
    budget=st.sampled_from([0, 1 << 30]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_equals_the_reference(
    name: str,
    isa: str,
    n: int,
    d: int,
    log_temperature: float,
    log_size: float,
    budget: int,
    reduction: str,
    dtype: torch.dtype,
    threads: int,
    seed: int,
) -> None:
    _begin(isa, budget, seed, threads)
    subject = SUBJECTS[name]
    inputs = subject.make(n, d, dtype, 10**log_temperature)
    if name in ("nt_xent", "info_nce", "sup_con"):
        inputs["x"] = inputs["x"] * 10**log_size  # normalised away
    truth = subject.gradients(inputs.double(), backend="reference", reduction=reduction)
    given = inputs.differentiable
    # One rounding of the largest logit, and the few roundings that a sum of D products costs.
    logit = 10**-log_temperature if "linear" not in name else 10 ** (-log_temperature / 2) * d**0.5
    relative = torch.finfo(dtype).eps * (10 + 4 * logit)
    for index, (got, right) in enumerate(zip(subject.gradients(inputs, reduction=reduction), truth)):
        assert torch.isfinite(got).all()
        size = float(right.abs().max()) + (float(truth[0].abs().max()) if index == 0 else 0)
        if index == 0 and "smoothed" in name:  # where a row has one other, its log-sum and the mean score cancel
            size += logit
        # Gradients that cancel are measured by what cancelled: the row's weight times the scale over the length.
        if index:
            of = given[index - 1]
            lengths = of.double().norm(dim=1).clamp(min=1e-12) if of.dim() == 2 else torch.ones(1)
            weight = 1.0 if reduction == "mean" else 1.5 * n
            normalised = subject.function in ("nt_xent", "info_nce", "sup_con")
            shortest = float(lengths.min()) if normalised else 1.0
            size += weight * logit / shortest * (logit if of.dim() == 0 else 1.0) + weight * 10.0
        error = float((got - right).abs().max())
        assert error <= relative * size + 1e-12, (index, error, size)


@example("info_nce_symmetric_smoothed", ISAS[-1], 37, 43, 0.625, 0, 1, 2872)  # the same, near 0 by chance
@example("clip_loss_smoothed", "portable", 217, 217, 0.5, 0, 1, 217)  # parts of the scale's gradient that cancel
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(PAIR_ENGINE)),
    isa=st.sampled_from(ISAS),
    n=st.one_of(st.integers(33, 70), st.integers(71, 700)),
    d=st.one_of(st.integers(2, 70), st.integers(71, 300)),
    temperature=st.floats(0.05, 1),
    budget=st.sampled_from([0, 1 << 30]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_bf16_rows_equal_the_reference(
    name: str, isa: str, n: int, d: int, temperature: float, budget: int, threads: int, seed: int
) -> None:
    """Products of bf16 are exact, sums are fp32, weights and gradients are rounded to bf16."""
    _begin(isa, budget, seed, threads)
    subject = SUBJECTS[name]
    inputs = subject.make(n, d, torch.bfloat16, temperature)
    truth = subject.gradients(inputs.double(), backend="reference")
    bf16 = torch.finfo(torch.bfloat16).eps
    for k, (got, right) in enumerate(zip(subject.gradients(inputs), truth)):
        error, size = (float(t.double().square().mean().sqrt()) for t in (got - right, right))
        if k and right.dim() == 0 and error > bf16 * size + 1e-6:  # a gradient that is near 0 by chance: its usual size
            others = [subject.make(n, d, torch.float64, temperature) for _ in range(8)]
            usual = [float(subject.gradients(other, backend="reference")[k]) for other in others]
            size = (sum(value**2 for value in usual) / len(usual)) ** 0.5
        assert error <= bf16 * size + 1e-6


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(set(FUSED) - set(PAIR_ENGINE) - {"tuplet_margin"})),  # the reference's softplus
    isa=st.sampled_from(ISAS),
    n=st.one_of(st.integers(1, 40), st.integers(41, 130)),
    d=st.one_of(st.integers(1, 20), st.integers(21, 140)),
    m=st.integers(1, 150),
    temperature=st.floats(0.05, 2),
    budget=st.sampled_from([0, 1 << 30]),
    seed=st.integers(0, 2**31),
)
def test_other_losses_equal_the_reference(
    name: str, isa: str, n: int, d: int, m: int, temperature: float, budget: int, seed: int
) -> None:
    """In float64: where rounding decides which rows count, a loss jumps."""
    _begin(isa, budget, seed)
    # Unit rows of one feature are equal, or not, by rounding: ranked lists leave out pairs at distance 0.
    inputs = SUBJECTS[name].make(n, d + (name == "ranked_list"), torch.float64, temperature, m)
    truth = SUBJECTS[name].gradients(inputs, backend="reference")
    for got, right in zip(SUBJECTS[name].gradients(inputs), truth):
        torch.testing.assert_close(got, right, rtol=1e-8, atol=1e-10 * (1 + float(right.abs().max())))
