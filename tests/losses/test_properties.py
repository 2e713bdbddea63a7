"""What every loss must do, on every instruction set.

Equal its oracle, err no more than eager PyTorch, have the gradient of its value, show what is not finite, survive odd
batches, behave like torch's own under compile and autocast.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fastssl
import fastssl.functional as F
from fastssl.ops import extension
from tests.support.errors import Way, assert_errs_no_more_than_eager
from tests.support.modes import FLOAT_ISAS, ISAS
from tests.support.subjects import (
    FUSED,
    LABELLED,
    OF_ROWS,
    OF_VIEWS,
    SHARDED,
    SUBJECTS,
    TWO_SIDED,
    WITH_TEMPERATURE,
    Inputs,
    Subject,
    slow_but_one,
    variants_are_slow,
)

BY_ROWS = [n for n in FUSED if "reduction" in SUBJECTS[n].accepted and not SUBJECTS[n].of_pairs]


def backends(subject: Subject) -> list[dict[str, str]]:
    return [{"backend": b} for b in ("reference", "cpu")] if "backend" in subject.accepted else [{}]


@pytest.mark.parametrize("name", [name for name, subject in SUBJECTS.items() if subject.loop])
@pytest.mark.parametrize(
    ("n", "d", "temperature"), [(1, 3, 0.1), (2, 1, 1.0), (5, 4, 0.02), (13, 7, 0.5), (37, 5, 0.1)]
)
def test_equals_its_oracle(name: str, n: int, d: int, temperature: float) -> None:
    """A loop over Python numbers: the mean, and the loss of each row and their sum where the oracle knows the rows."""
    subject = SUBJECTS[name]
    inputs = subject.make(max(n, subject.least), d, torch.float64, temperature)
    assert subject.loop is not None
    expected = subject.loop(**inputs)
    for options in backends(subject):
        mean = float(subject(inputs, **options))
        if isinstance(expected, list):
            rows = torch.tensor(expected, dtype=torch.float64)
            close = {"rtol": 1e-10, "atol": 1e-10 * n}
            torch.testing.assert_close(subject(inputs, reduction="none", **options), rows, **close)
            torch.testing.assert_close(subject(inputs, reduction="sum", **options), rows.sum(), **close)
            counted = int((inputs["head_targets"] != -100).sum()) if "head_targets" in inputs else len(rows)
            assert mean == pytest.approx(float(rows.sum()) / counted, rel=1e-10, abs=1e-10)
        else:
            assert mean == pytest.approx(expected, rel=1e-9, abs=1e-10)


# Rows may be below 0, or the mean is of more than rows.
WITHOUT_ACTIVE = (
    "dcl",
    "dcl_weighted",
    "rince",
    "rince_plain",
    "n_pair",
    "linear_cross_entropy",
    "negative_cosine_similarity",
    "koleo",
)
OF_POSITIVES = ("multi_nt_xent", "multi_nt_xent_memory", "tuplet_margin")  # a row is the sum of its pairs
REDUCED = [n for n, s in SUBJECTS.items() if "reduction" in s.accepted and not s.of_pairs]


@pytest.mark.parametrize("name", [n for n in REDUCED if n not in OF_POSITIVES])
@pytest.mark.parametrize("n", [1, 12, 37])
def test_active_is_the_mean_of_the_rows_above_0(name: str, n: int) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(n, 5, torch.float64, 0.3)
    for options in backends(subject):
        if name in WITHOUT_ACTIVE:
            with pytest.raises(ValueError, match="reduction: expected one of .*'active'"):
                subject(inputs, reduction="active", **options)
            continue
        given = inputs.leaves()
        rows = subject(given, reduction="none", **options)
        above = rows[rows > 0]
        right = torch.autograd.grad(
            above.sum() / max(len(above), 1), given.differentiable, allow_unused=True, materialize_grads=True
        )
        loss, *grads = subject.gradients(inputs, reduction="active", **options)
        torch.testing.assert_close(loss, above.sum().detach() / max(len(above), 1), rtol=1e-9, atol=1e-12)
        for got, expected in zip(grads, right):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("function", [F.multi_nt_xent, F.tuplet_margin])
def test_active_is_the_mean_of_the_positive_pairs_that_have_negatives(
    function: Callable[..., Any], backend: str
) -> None:
    x = torch.randn(6, 4, dtype=torch.float64)
    lists = [torch.tensor(t) for t in ([0, 0, 1, 2], [1, 2, 2, 3], [0, 1], [4, 5])]  # row 2 has no negative
    options = {"indices_tuple": lists, "backend": backend}
    rows = function(x, reduction="none", **options)
    assert rows[2] == 0
    torch.testing.assert_close(function(x, **options), rows.sum() / 4, rtol=1e-12, atol=0)
    torch.testing.assert_close(function(x, reduction="active", **options), rows.sum() / 3, rtol=1e-12, atol=0)


def test_active_shows_rows_that_are_nan() -> None:
    x = torch.randn(8, 4)
    x[3, 1] = float("nan")
    assert F.sup_con(x, torch.arange(8) % 2, reduction="active").isnan()


def gradchecks() -> list[Any]:
    """Every entry of few rows; of more, products with vectors on one instruction set: the gradients of all are those
    of the reference, below."""
    cases = [(1, 2, True), (3, 2, True), (9, 5, False), (9, 5, True), (35, 33, False)]
    return [
        pytest.param(isa, *case, marks=[pytest.mark.slow] if slow else [])
        for isa, case in itertools.product(FLOAT_ISAS, cases)
        for slow in [case[0] > 3 and (case[2] or isa != FLOAT_ISAS[-1])]
    ]


@pytest.mark.parametrize("name", [name for name, subject in SUBJECTS.items() if not subject.detached])
@pytest.mark.parametrize(("isa", "n", "d", "every"), gradchecks(), indirect=["isa"])
def test_gradcheck(isa: str, name: str, n: int, d: int, every: bool) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(max(n, subject.least), d, torch.float64, 0.3).leaves()
    names = [k for k, t in inputs.items() if t.requires_grad]

    def call(*tensors: Tensor) -> Tensor:
        options = {"reduction": "none"} if name in BY_ROWS else {}
        return subject({**inputs, **dict(zip(names, tensors))}, **options)

    assert torch.autograd.gradcheck(call, inputs.differentiable, fast_mode=not every, atol=1e-5)


def assert_agrees(name: str, n: int, d: int, **options: str) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(n, d, torch.float64)
    truth = subject.gradients(inputs, backend="reference", **options)
    for isa, budget in itertools.product(FLOAT_ISAS, (0, 1 << 30)):
        fastssl.instruction_set(isa)
        fastssl.set_memory_budget(budget)
        for got, right in zip(subject.gradients(inputs, **options), truth):
            largest = float(right.abs().max()) if right.numel() else 0.0
            torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-11 * (1 + largest))


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (31, 32), (33, 65), (255, 16)])
def test_kept_recomputed_and_reference_agree(name: str, n: int, d: int) -> None:
    assert_agrees(name, n, d)


@pytest.mark.parametrize("name", variants_are_slow(FUSED))
def test_kept_recomputed_and_reference_agree_for_long_rows(name: str) -> None:
    assert_agrees(name, 300, 257)


@pytest.mark.parametrize("name", BY_ROWS)
def test_rows_agree_with_the_reference(name: str) -> None:
    assert_agrees(name, 255, 16, reduction="none")


def on_every_cpu(subject: Subject) -> dict[str, Way]:
    """Every instruction set, tiles kept and recomputed."""

    def way(isa: str, budget: int) -> Way:
        def compute(inputs: Inputs) -> list[Tensor]:
            fastssl.instruction_set(isa)
            fastssl.set_memory_budget(budget)
            return subject.gradients(inputs, backend="cpu")

        return compute

    return {f"{isa}, {budget}": way(isa, budget) for isa in FLOAT_ISAS for budget in (0, 1 << 30)}


KERNELS = [name for name in FUSED if name != "pair_loss"]  # its arithmetic is the caller's


@pytest.mark.parametrize("name", variants_are_slow(KERNELS))
@pytest.mark.parametrize("between", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_errs_no_more_than_eager(name: str, between: bool) -> None:
    """Of two rows, of a part of a tile, of many tiles; among the slow tests with sizes between them."""
    subject, sizes = SUBJECTS[name], [(2, 128, 12), (17, 64, 6), (258, 96, 2)]
    if between:
        sizes[1:1] = [(3, 32, 12), (65, 128, 3)]
    sizes = [size for size in sizes if size[0] < 100 or not subject.jumps]
    assert_errs_no_more_than_eager(subject, 0.1, sizes, on_every_cpu(subject))


@pytest.mark.parametrize("name", variants_are_slow(name for name in KERNELS if name in WITH_TEMPERATURE))
@pytest.mark.parametrize("temperature", [0.01, *(pytest.param(t, marks=pytest.mark.slow) for t in (0.05, 1.0))])
def test_errs_no_more_than_eager_at_any_temperature(name: str, temperature: float) -> None:
    subject, sizes = SUBJECTS[name], [(17, 64, 6), (65, 128, 4), (258, 128, 2)]
    assert_errs_no_more_than_eager(subject, temperature, sizes, on_every_cpu(subject))


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [5, 100])
def test_half_precision_inputs(name: str, dtype: torch.dtype, n: int) -> None:
    """fp32 accumulation: errors stay at the rounding of the 16-bit gradients, far below those of 16-bit eager code."""
    subject = SUBJECTS[name]
    inputs = subject.make(n, 48, dtype)
    truth = subject.gradients(inputs.double(), backend="reference")
    for isa in ISAS:
        fastssl.instruction_set(isa)
        ours = subject.gradients(inputs)
        assert subject(inputs).dtype == torch.float32
        for got, right in zip(ours, truth):
            assert float((got - right).abs().max()) <= torch.finfo(dtype).eps * float(right.abs().max()) + 1e-6, isa
        torch.testing.assert_close(ours[0], truth[0], rtol=2e-5, atol=2e-5)


@pytest.mark.threads
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("temperature", "dtype"), [(0.01, torch.float32), (0.2, torch.float32), (0.2, torch.bfloat16)])
def test_same_bits_for_any_number_of_threads(name: str, temperature: float, dtype: torch.dtype) -> None:
    """And where cores are busy, so that calls begin on one thread and go on with several."""
    inputs = SUBJECTS[name].make(700, 40, dtype, temperature)
    places = [0, *(k for k, i in enumerate(inputs, 1) if i != "directions")]  # whose gradient is a product of torch
    results = []
    for threads, crowded in ((1, 0.0), (2, 0.0), (3, 0.0), (7, 0.0), (3, 10.0)):
        torch.set_num_threads(threads)
        extension._C.assume_crowded(crowded)
        found = SUBJECTS[name].gradients(inputs)
        results.append([found[k] for k in places if k < len(found)])
    extension._C.assume_crowded(0.0)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.threads
@pytest.mark.parametrize("name", ["nt_xent", "clip_loss", "triplet"])
def test_a_long_pass_on_busy_cores_goes_on_with_all_threads(name: str) -> None:
    """Its first milliseconds run on the calling thread, the rest on three: the same bits."""
    inputs = SUBJECTS[name].make(4096, 40)
    torch.set_num_threads(3)
    results = []
    for crowded in (0.0, 60.0):
        extension._C.assume_crowded(crowded)
        results.append(SUBJECTS[name].gradients(inputs))
    extension._C.assume_crowded(0.0)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("n", [6, 70])
def test_non_finite_input_shows(name: str, n: int) -> None:
    """In a row that counts: one with a positive."""
    for isa, bad in itertools.product(FLOAT_ISAS, (float("nan"), float("inf"), float("-inf"))):
        fastssl.instruction_set(isa)
        assert_not_finite(SUBJECTS[name], bad, n)


def assert_not_finite(subject: Subject, bad: float, n: int) -> None:
    inputs, row = subject.make(n, 8), n // 2
    if "labels" in inputs:
        inputs["labels"][row] = inputs["labels"][row - 1]
    if "memory_labels" in inputs:
        inputs["memory_labels"][0] = inputs["labels"][row]
    if subject.function == "nce":
        bad = -abs(bad)  # data of which the model is certain costs nothing
    first = inputs[subject.names[0]]
    (first[0] if first.dim() == 3 else first).view(n, -1)[row, -1] = bad
    assert not torch.isfinite(subject(inputs))


@pytest.mark.parametrize("name", [name for name in LABELLED if "memory" not in SUBJECTS[name].names])
def test_nan_in_a_row_without_positives_shows(isa: str, name: str) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(70, 8)
    inputs["labels"][35] = 71
    inputs["x"][35, 2] = float("nan")
    assert not torch.isfinite(subject(inputs))


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("n", [12, 45])
def test_frozen_inputs_get_no_gradient_and_change_nothing(name: str, n: int) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(n, 12)
    whole = subject.gradients(inputs)
    trainable = [k for k, t in inputs.items() if t.is_floating_point()]
    for trained, right in zip(trainable, whole[1:]):
        given = Inputs({k: t.clone().requires_grad_(k == trained) for k, t in inputs.items()})
        (grad,) = torch.autograd.grad(subject(given), given[trained])
        torch.testing.assert_close(grad.double(), right, rtol=1e-4, atol=1e-5 * (1e-3 + float(right.abs().max())))


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_default_device_is_not_that_of_the_inputs(name: str) -> None:
    """What a loss makes besides its inputs is on their device, whatever ``torch.set_default_device`` says."""
    subject = SUBJECTS[name]
    given = subject.make(16, 8)
    for options in backends(subject):
        torch.manual_seed(1)
        expected = subject.gradients(given, **options)
        torch.manual_seed(1)
        with torch.device("meta"):
            leaves = given.leaves()
            loss = subject(leaves, **options)
            assert loss.device.type == "cpu"
            weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype, device="cpu").reshape(loss.shape)
            loss.backward(weights if loss.dim() else None)
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves.differentiable]
        for got, right in zip([loss.detach(), *grads], expected, strict=True):
            assert torch.equal(got.double(), right)


@pytest.mark.parametrize("name", [name for name in SHARDED if not SUBJECTS[name].wrapper])
def test_inputs_made_in_inference_mode_may_be_constants_of_training(name: str) -> None:
    """Labels of a loader, rows of a frozen teacher: autograd refuses to save such tensors."""
    subject = SUBJECTS[name]
    for options in backends(subject):
        inputs = subject.make(12, 8)
        whole = subject.gradients(inputs, **options)
        for k in inputs:
            given = inputs.leaves()
            with torch.inference_mode():
                given[k] = inputs[k].clone()
            trained = [t for t in given.differentiable if t.requires_grad]
            wanted = [g for (j, _), g in zip(_differentiable(inputs), whole[1:]) if j != k]
            if not trained:
                continue
            loss = subject(given, **options)
            assert torch.equal(loss.double(), whole[0])
            for grad, right in zip(torch.autograd.grad(loss.sum(), trained), wanted, strict=True):
                torch.testing.assert_close(
                    grad.double(), right, rtol=1e-4, atol=1e-5 * (1e-3 + float(right.abs().max()))
                )


def _differentiable(inputs: Inputs) -> list[tuple[str, Tensor]]:
    return [(k, t) for k, t in inputs.items() if t.is_floating_point()]


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("kind", ["sliced", "transposed", "expanded"])
def test_any_strides(isa: str, name: str, kind: str) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(33, 17, torch.float64)

    def strided(t: Tensor) -> Tensor:
        if t.dim() != 2 or not t.is_floating_point():
            return t
        if kind == "sliced":
            return torch.zeros(2 * t.shape[0], 3 * t.shape[1] + 1, dtype=t.dtype)[::2, 1::3].copy_(t)
        if kind == "transposed":
            return t.T.contiguous().T
        return t[:1].expand_as(t)

    given = Inputs({k: strided(t) for k, t in inputs.items()})
    contiguous = Inputs({k: t.contiguous() for k, t in given.items()})
    if kind == "expanded":  # equal rows are at a distance without a derivative
        torch.testing.assert_close(subject(given), subject(contiguous))
        return
    leaves = [t.detach().requires_grad_() for t in given.differentiable]
    names = [k for k, t in given.items() if t.is_floating_point()]
    loss = subject({**given, **dict(zip(names, leaves))})
    found = [loss, *torch.autograd.grad(loss, leaves, allow_unused=True)]
    for a, b in zip(found, subject.gradients(contiguous)):
        if a is not None:
            torch.testing.assert_close(a.detach(), b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("case", ["no rows", "one row", "one class", "all apart", "duplicates", "all equal", "zeros"])
@pytest.mark.parametrize("n", [20, 70])
def test_odd_batches_are_finite(name: str, case: str, n: int) -> None:
    """Classes of one member, one single class, duplicates, equal rows, rows of length 0: no NaN, gradients neither."""
    subject = SUBJECTS[name]
    inputs = subject.make({"no rows": 0, "one row": 1}.get(case, n), 8)
    x = inputs["x"]
    if case == "one class":
        inputs["labels"] = torch.zeros_like(inputs["labels"])
    elif case == "all apart":
        inputs["labels"] = torch.arange(n)
    elif case == "duplicates":
        x[n // 2 :] = x[: n - n // 2]
    elif case == "all equal":
        inputs["x"] = x[:1].expand(n, 8).clone()
    elif case == "zeros":
        inputs["x"] = torch.zeros_like(x)
    for options in backends(subject):
        loss, *grads = subject.gradients(inputs, **options)
        assert torch.isfinite(loss)
        assert all(torch.isfinite(g).all() for g in grads)
        if case in ("no rows", "one row") and "memory" not in inputs and subject.function != "margin_loss":
            assert float(loss) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", slow_but_one(FUSED))  # every module is traced in tests/losses/test_modules.py
def test_compile_without_breaks_and_dynamic_rows(name: str) -> None:
    torch._dynamo.reset()
    subject = SUBJECTS[name]
    compiled = torch.compile(lambda given: subject(given), fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (12, 45):
        inputs = subject.make(n, 8).leaves()
        eager, traced = subject(inputs), compiled(dict(inputs))
        torch.testing.assert_close(traced, eager)
        wanted = inputs.differentiable
        for a, b in zip(torch.autograd.grad(traced, wanted), torch.autograd.grad(eager, wanted)):
            torch.testing.assert_close(a, b)


class _Exported(torch.nn.Module):
    def __init__(self, subject: Subject, names: list[str]) -> None:
        super().__init__()
        self.subject, self.names = subject, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.subject(dict(zip(self.names, tensors)))


ONE_SIZE = ("sup_con_soft", "sup_con_soft_memory", "pair_loss")  # docs/limits.md


@pytest.mark.parametrize("name", variants_are_slow(name for name in SUBJECTS if name not in ONE_SIZE))
def test_export_of_any_number_of_rows(name: str) -> None:
    subject = SUBJECTS[name]
    inputs, more = subject.make(45, 8), subject.make(16, 8, m=93)
    rows = torch.export.Dim("rows", min=4, max=4096)
    shapes = tuple({1 if k in OF_VIEWS else 0: rows} if k in OF_ROWS + OF_VIEWS else {} for k in inputs)
    model = _Exported(subject, list(inputs))
    program = torch.export.export(model, tuple(inputs.values()), dynamic_shapes=(shapes,)).module()
    for given in (inputs, Inputs({k: more[k] if where else inputs[k] for k, where in zip(inputs, shapes)})):
        torch.testing.assert_close(program(*given.values()), model(*given.values()))


@pytest.mark.parametrize("name", FUSED)
def test_autocast_computes_in_fp32_as_cross_entropy(name: str) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(40, 8, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = subject(inputs)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, subject(inputs.to(torch.float32)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TWO_SIDED)
@pytest.mark.parametrize("which", [0, 1])
def test_autocast_takes_rows_of_two_dtypes(name: str, which: int) -> None:
    """Forward and backward, which runs outside the region; as exact as rows of float32 with the same values."""
    subject = SUBJECTS[name]
    inputs = subject.make(40, 8, torch.bfloat16).to(torch.float32)
    sides = [k for k in inputs if k in ("x", "y", "memory", "classes", "head")]
    mixed = inputs.leaves()
    side = sides[which] if which else sides[0]
    mixed[side] = inputs[side].to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = subject(mixed)
    right = inputs.leaves()
    wanted = subject(right)
    torch.testing.assert_close(loss.float(), wanted, rtol=1e-5, atol=1e-5)
    loss.backward()
    wanted.backward()
    for k, given in mixed.items():
        if given.grad is not None:
            assert given.grad.dtype == given.dtype
            close = 1e-2 if given.dtype == torch.bfloat16 else 1e-4
            torch.testing.assert_close(
                given.grad.float(), right[k].grad, rtol=close, atol=close * float(right[k].grad.abs().max())
            )


@pytest.mark.parametrize("name", TWO_SIDED)
def test_float64_and_float32_are_named_within_autocast_too(name: str) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(12, 8)
    first = next(k for k in inputs if k in ("x", "y", "memory", "classes", "head"))
    inputs[first] = inputs[first].double()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match=r"expected torch\.float"):
        subject(inputs)


# A list of positive pairs, whose length is a matter of the labels' values (docs/limits.md).
BY_VALUE = ("angular", "angular_memory")


@pytest.mark.parametrize("name", [name for name in SUBJECTS if name not in BY_VALUE])
def test_shapes_are_known_without_values(name: str) -> None:
    """FakeTensorMode, with which people plan memory and shard models."""
    subject = SUBJECTS[name]
    inputs = subject.make(12, 8)
    wanted = subject(inputs)
    with FakeTensorMode() as mode:
        fake = Inputs({k: mode.from_tensor(t) for k, t in inputs.items()}).leaves()
        loss = subject(fake)
        loss.sum().backward()
    assert (loss.shape, loss.dtype) == (wanted.shape, wanted.dtype)
    assert any(t.grad is not None and t.grad.shape == t.shape for t in fake.values())


@pytest.mark.parametrize("name", FUSED)
def test_memory_stays_linear(name: str) -> None:
    """Nothing of size N x N is left in the graph where the budget says so."""
    fastssl.set_memory_budget(0)
    subject = SUBJECTS[name]
    inputs = subject.make(512, 16, m=40).leaves()
    saved: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        subject(inputs)
    assert sum(saved.values()) < 10 * next(iter(inputs.values())).numel() * 4


LISTED = [n for n in LABELLED if "indices_tuple" in SUBJECTS[n].accepted and "memory" not in SUBJECTS[n].names]


@pytest.mark.parametrize("name", LISTED)
def test_listed_pairs_are_the_pairs_of_labels(isa: str, name: str) -> None:
    """All pairs as a miner would list them give what labels give."""
    subject = SUBJECTS[name]
    inputs = subject.make(60, 16)
    same = inputs["labels"][:, None] == inputs["labels"][None, :]
    positive = same & ~torch.eye(60, dtype=torch.bool)
    listed = (*positive.nonzero(as_tuple=True), *(~same).nonzero(as_tuple=True))
    torch.testing.assert_close(subject(inputs, indices_tuple=listed), subject(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["ranked_list", "triplet_hard", "contrastive_active"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalised_rows_of_one_feature_are_equal_or_not(name: str, dtype: torch.dtype) -> None:
    """Distances of exactly 0, where losses jump."""
    inputs = SUBJECTS[name].make(40, 1, dtype)
    truth = SUBJECTS[name](inputs, backend="reference", normalize=True)
    torch.testing.assert_close(SUBJECTS[name](inputs, normalize=True), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("score", ["cosine", "dot", "euclidean"])
def test_a_term_may_write_to_its_scores(score: str, backend: str) -> None:
    x = torch.randn(9, 4, requires_grad=True)
    options = {"score": score, "backend": backend}
    loss = F.pair_loss(x, term=lambda s, pairs: s.mul_(2).sum(1), **options)
    right = F.pair_loss(x, term=lambda s, pairs: (2 * s).sum(1), **options)
    torch.testing.assert_close(loss, right)
    torch.testing.assert_close(*(torch.autograd.grad(value, x) for value in (loss, right)))
