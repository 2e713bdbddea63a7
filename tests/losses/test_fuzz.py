"""Random shapes, values, options and instruction sets against the reference in float64."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastssl
from tests.conftest import ISAS
from tests.support.pair_subjects import SUBJECTS, gradients


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(SUBJECTS)),
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
    fastssl.instruction_set(isa)
    fastssl.set_memory_budget(budget)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    subject = SUBJECTS[name]
    tensors = subject.make(n, d, 10**log_temperature, dtype)
    if name in ("nt_xent", "info_nce", "sup_con"):
        tensors[0] = tensors[0] * 10**log_size  # normalised away
    truth = gradients(subject, [t.double() for t in tensors], backend="reference", reduction=reduction)
    # One rounding of the largest logit, and the few roundings that a sum of D products costs.
    logit = 10**-log_temperature if "linear" not in name else 10 ** (-log_temperature / 2) * d**0.5
    relative = torch.finfo(dtype).eps * (10 + 4 * logit)
    for index, (got, right) in enumerate(zip(gradients(subject, tensors, reduction=reduction), truth)):
        assert torch.isfinite(got).all()
        size = float(right.abs().max()) + (float(truth[0].abs().max()) if index == 0 else 0)
        # Gradients that cancel are measured by what cancelled: the row's weight times the scale over the length.
        if index:
            lengths = (
                tensors[index - 1].double().norm(dim=1).clamp(min=1e-12)
                if tensors[index - 1].dim() == 2
                else torch.ones(1)
            )
            weight = 1.0 if reduction == "mean" else 1.5 * n
            normalised = name in ("nt_xent", "info_nce", "info_nce_symmetric", "info_nce_queue", "sup_con")
            size += (
                weight
                * logit
                / (float(lengths.min()) if normalised else 1.0)
                * (logit if tensors[index - 1].dim() == 0 else 1.0)
            )
            size += weight * 10.0
        assert float((got - right).abs().max()) <= relative * size + 1e-12, (
            index,
            float((got - right).abs().max()),
            size,
        )
