"""The table of losses is whole: nothing public is missing from it, and nothing in it stands for something else."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch

import fastssl.functional as F
from fastssl import losses
from tests.support.subjects import KINDS, SUBJECTS

# What is public and no loss of pairs (tests/losses/test_density.py has those of densities,
# tests/evaluate/test_dense_metrics.py those of boxes), and modules that are no
# single function.
NO_LOSSES = {
    *("PairMasks", "centred_softmax", "farthest", "nearest", "pairwise_distance", "pairwise_reduce", "sinkhorn"),
    *("gaussian_information", "gibbs", "nade", "nade_sample", "box_iou", "generalized_box_iou", "nms"),
}
WRAPPERS = {"CrossBatchMemory", "MultipleNegativesRankingLoss"}


def modules() -> set[str]:
    given = (subject.module for subject in SUBJECTS.values())
    return {m if isinstance(m, str) else m[0] for m in given if m is not None}


def test_every_loss_is_in_the_table() -> None:
    assert {subject.function for subject in SUBJECTS.values()} == set(F.__all__) - NO_LOSSES
    assert modules() == set(losses.__all__) - WRAPPERS


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_is_what_its_name_says(name: str) -> None:
    subject = SUBJECTS[name]
    assert name.startswith(subject.function)  # pytest -k finds all there is about a loss
    assert {*subject.options, *subject.named, *subject.values} <= subject.accepted | {"temperature"}
    assert set(subject.names) <= set(KINDS)


@pytest.mark.parametrize("function", sorted(set(F.__all__) - NO_LOSSES))
def test_every_loss_has_an_oracle_and_what_it_can_be_given(function: str) -> None:
    """Against other rows, with its real-valued hyperparameters learned, over processes: where its signature says so."""
    subjects = [s for s in SUBJECTS.values() if s.function == function]
    assert any(s.loop for s in subjects), f"{function} has no oracle"
    signature = inspect.signature(getattr(F, function))
    real = {
        p.name
        for p in signature.parameters.values()
        if str(p.annotation).replace(" | None", "") in ("float", "Tensor | float", "float | Tensor")
    } - {"gradient_filter", "epsilon", "eps", "t_max"}  # what a GPU may skip; of targets without a gradient; bounds
    if function == "clip_loss":
        real -= {"logit_bias"}  # cancels
    assert real <= {k for s in subjects for k in s.values}, f"{function}: gradients of {real} are not compared"


@pytest.mark.parametrize("name", [name for name, subject in SUBJECTS.items() if subject.module])
def test_modules_are_their_functions(name: str) -> None:
    """With the same options, and every copy of them."""
    subject = SUBJECTS[name]
    inputs = subject.make(20, 8)
    module, arguments = subject.as_module(inputs)
    expected = subject(inputs)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module):
        torch.testing.assert_close(twin(*arguments), expected)
        assert type(module).__name__ in repr(twin)
