"""The modules in fastssl.losses are the functions in fastssl.functional: options, defaults, results, types, help."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastssl
import fastssl.functional as F
from fastssl import losses
from fastssl._docs import complete
from fastssl.distributed import EmbeddingQueue, shards
from fastssl.losses import CircleLoss, NTXentLoss
from fastssl.losses._base import Loss

MODULES = [name for name in losses.__all__ if issubclass(getattr(losses, name), Loss)]
# Options by the function's names whose defaults are those of pytorch-metric-learning or of the variant of a name.
OTHER_DEFAULTS = {
    "CircleLoss": {"margin": 0.4, "gamma": 80.0},
    "DCLWLoss": {"sigma": 0.5},
}
# Options of the functions that their modules do not have.
WITHOUT = {
    "BarlowTwinsLoss": {"eps"},
    "CircleLoss": {"normalize"},
    "DCLLoss": {"sigma"},
    "InfoNCELoss": {"in_batch", "replicated_negatives"},
    "LinearCrossEntropyLoss": {
        *("shift", "label_smoothing", "class_weights", "z_loss", "softcap", "gradient_filter"),
    },
    "MarginLoss": {"normalize"},
    "MultiSimilarityLoss": {"normalize"},
    "RankedListLoss": {"normalize"},
    "VICRegLoss": {"gamma", "eps"},
}


def seeded(function: Any, *arguments: Any, **options: Any) -> Any:
    """Some losses draw."""
    torch.manual_seed(0)
    return function(*arguments, **options)


def _made(name: str, **options: Any) -> tuple[Loss, list[Any]]:
    """A module as its docstring's example makes it, and a batch for it."""
    cls = getattr(losses, name)
    torch.manual_seed(0)
    (first, by_example), (batch, by_name) = (eval(f"(lambda *a, **k: (a, k))({text})") for text in cls.example)
    return cls(*first, **(options or by_example)), [*batch, *by_name.values()]


@pytest.mark.parametrize("name", MODULES)
def test_defaults_are_those_of_the_function(name: str) -> None:
    cls = getattr(losses, name)
    function = {k: p.default for k, p in inspect.signature(cls.function).parameters.items()}
    module = _made(name)[0]
    for option, value in module.options.items():
        if option in OTHER_DEFAULTS.get(name, {}):
            assert value == OTHER_DEFAULTS[name][option] != function[option]
        elif function[option] is not inspect.Parameter.empty:
            assert (value == function[option]).all() if isinstance(value, Tensor) else value == function[option]


LEARNED = [name for name in MODULES if "learnable" in inspect.signature(getattr(losses, name)).parameters]


def compiled() -> list[Any]:
    """The first module of each family, those that change as they are called, and the first that learns an option;
    the others are slow tests: their functions are exported in test_properties.py."""
    of_family = {getattr(losses, name).__module__: name for name in reversed(MODULES)}
    changes = {name for name in MODULES if _made(name)[0].state_dict().keys() - {"weight"}}
    fast = {(name, False) for name in {*of_family.values(), *changes}} | {(LEARNED[0], True)}
    every = [*((name, False) for name in MODULES), *((name, True) for name in LEARNED)]
    return [pytest.param(*case, marks=[] if case in fast else [pytest.mark.slow]) for case in every]


@pytest.mark.parametrize(("name", "learnable"), compiled())
def test_a_module_compiles_in_one_piece(name: str, learnable: bool) -> None:
    torch._dynamo.reset()
    module, batch = _made(name)
    if learnable:
        module = type(module)(0.1, learnable=True)
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="eager")  # modules with a memory change
    torch.testing.assert_close(seeded(compiled, *batch), seeded(module, *batch))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_the_options_of_its_function(name: str) -> None:
    cls = getattr(losses, name)
    function = {k for k, p in inspect.signature(cls.function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    function -= {"group", "schedule", "indices_tuple", "ref_emb", "ref_labels"}  # of a call, not of a module
    function -= set(inspect.signature(cls.forward).parameters)
    options = set(_made(name)[0].options) - set(inspect.signature(cls.function).parameters)
    assert not options, "options that the function does not take"
    assert function - set(_made(name)[0].options) == WITHOUT.get(name, set())
    assert cls.__module__.replace("losses", "functional") == inspect.unwrap(cls.function).__module__


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_its_function(name: str) -> None:
    module, batch = _made(name)
    twins = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    got = seeded(module, *batch)
    state = twins[0].state_dict()
    if "weight" in state:
        batch.insert(1, state["weight"])
    expected = seeded(module.function, *batch, **twins[0].options)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    if "weight" in state:
        batch.pop(1)
    for twin in twins:
        assert repr(twin) == repr(_made(name)[0]) and type(twin) is type(module)
        assert torch.equal(seeded(twin, *batch), got)


@pytest.mark.parametrize("name", MODULES)
def test_a_learned_option_is_a_parameter_with_a_gradient(name: str) -> None:
    cls = getattr(losses, name)
    for option, parameter in inspect.signature(cls).parameters.items():
        if "Tensor | float" not in str(parameter.annotation) or parameter.default is None:
            continue
        module, batch = _made(name, **{option: nn.Parameter(torch.tensor(0.75 * parameter.default + 0.01))})
        learned = [p for key, p in module.named_parameters() if key != "weight"]
        assert len(learned) == 1 and learned[0].numel() == 1
        module(*batch).backward()
        assert learned[0].grad is not None and torch.isfinite(learned[0].grad)
        fixed = _made(name, **{option: torch.tensor(0.75 * parameter.default + 0.01)})[0]
        assert not [key for key, _ in fixed.named_parameters() if key != "weight"]
        assert set(fixed.state_dict()) == set(module.state_dict())


def test_a_learned_temperature_keeps_its_name() -> None:
    for name in ("InfoNCELoss", "NTXentLoss", "SoftNearestNeighborLoss", "SupConLoss"):
        module, batch = _made(name, temperature=0.25, learnable=True)
        assert list(module.state_dict()) == ["log_temperature"]
        torch.testing.assert_close(module.options["temperature"], torch.tensor(0.25))
        assert torch.equal(module(*batch), _made(name, temperature=module.options["temperature"].detach())[0](*batch))
        assert "temperature=0.25" in repr(module) and "learnable=True" in repr(module)


@pytest.mark.parametrize("name", MODULES)
def test_options_are_checked_at_construction(name: str) -> None:
    options = inspect.signature(getattr(losses, name)).parameters
    with pytest.raises(TypeError, match=f"{name}.__init__.* unexpected keyword argument 'nothing'"):
        _made(name, nothing=1)
    for option in ("reduction", "backend"):
        if option in options:
            with pytest.raises(ValueError, match=f"{option}.*'tpu'"):
                _made(name, **{option: "tpu"})
    if "backend" in options:
        _made(name, backend="triton")  # its batches may be on a GPU; the check's rows are not
    with torch.device("meta"):
        _made(name)
    with fastssl.backend("triton"):
        _made(name)
    # Within sharded() of several processes the check talks to none of them.
    with shards._current.set(shards.Shards(None, 0, 2)):
        _made(name)


def test_users_derive_from_modules() -> None:
    class Mine(CircleLoss):
        """One more option."""

        def __init__(self, weight: float, m: float = 0.3) -> None:
            super().__init__(m, gamma=64.0)
            self.weight = weight

        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return self.weight * super().forward(*args, **kwargs)

    class Renamed(Mine):
        pass

    x, labels = torch.randn(8, 4), torch.arange(8) % 2
    for cls in (Mine, Renamed):
        module = cls(2.0, m=0.5)
        assert isinstance(module, CircleLoss) and Mine.__doc__ == "One more option."
        torch.testing.assert_close(module(x, labels), 2 * F.circle(x, labels, margin=0.5, gamma=64.0))


def test_a_function_of_ones_own_becomes_a_module() -> None:
    def spread(z0: Tensor, z1: Tensor, *, power: Tensor | float = 2.0) -> Tensor:
        """The mean distance.

        Args:
            z0: [N, D], float32.
            z1: [N, D].
            power: p > 0.
        """
        return ((z0 - z1).abs() ** power).mean()

    class SpreadLoss(losses.AlignmentLoss.__base__, function=spread, p="power"):  # type: ignore[name-defined, misc]
        def __init__(self, p: float = 2.0) -> None: ...

    z0, z1 = torch.randn(8, 4), torch.randn(8, 4)
    torch.testing.assert_close(SpreadLoss(3.0)(z0, z1), spread(z0, z1, power=3.0))
    assert repr(SpreadLoss()) == "SpreadLoss(power=2.0)" and "    p: p > 0." in str(SpreadLoss.__doc__)

    class Halved(SpreadLoss, function=lambda z0, z1, *, power: spread(z0, z1, power=power) / 2):
        pass

    torch.testing.assert_close(Halved(p=3.0)(z0, z1), spread(z0, z1, power=3.0) / 2)


def test_help_shows_signature_and_arguments() -> None:
    text = pydoc.plain(pydoc.render_doc(CircleLoss))
    assert "CircleLoss(m: 'Tensor | float' = 0.4, gamma: 'Tensor | float' = 80.0, reduction: 'str' = 'mean'" in text
    assert "m: m, the relaxation margin." in text and "ref_labels: [M], integers" in text
    assert "schedule: with ``group``" in pydoc.plain(pydoc.render_doc(F.circle))


@pytest.mark.slow
def test_without_docstrings() -> None:
    program = (
        "import fastssl.augment, fastssl.functional as F, fastssl.losses as L; print(F.circle.__doc__, L.CircleLoss())"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True)
    assert done.stdout == "None CircleLoss(margin=0.4, gamma=80.0, reduction='mean')\n", done.stderr


@pytest.mark.slow
def test_type_checkers_see_signatures(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(
        "import torch\n"
        "from fastssl.losses import CircleLoss, InfoNCELoss, NTXentLoss\n"
        "NTXentLoss(0.1, learnable=True)\n"
        "loss: torch.Tensor = CircleLoss(torch.tensor(0.3), 64, 'sum').forward(torch.zeros(2, 2), torch.arange(2))\n"
        "CircleLoss(margin=0.3)\n"
        "CircleLoss('0.3')\n"
        "InfoNCELoss().forward(torch.zeros(2, 2))\n"
    )
    done = subprocess.run([sys.executable, "-m", "mypy", str(program)], capture_output=True, text=True)
    errors = [line.split(":")[1] for line in done.stdout.splitlines() if "error" in line and "program.py" in line]
    assert errors == ["5", "6", "7"], done.stdout + done.stderr


def test_ntxent_with_labels_is_the_loss_of_many_positives() -> None:
    x, labels = torch.randn(8, 4), torch.arange(8) % 3
    torch.testing.assert_close(NTXentLoss(0.2)(x, labels), F.multi_nt_xent(x, labels, temperature=0.2))


def test_an_argument_without_a_description_is_named() -> None:
    def cube(x: Tensor, *, power: int) -> Tensor:
        """A power.

        Args:
            x: [N].
        """
        return x**power

    with pytest.raises(TypeError, match="cube: expected a description of power under Args"):
        complete([cube], {}, {})


def test_hyperparameters_are_scheduled_by_the_names_of_the_arguments() -> None:
    z0, z1 = torch.randn(8, 16), torch.randn(8, 16)
    x, labels = torch.randn(16, 8), torch.arange(16) % 4
    for learnable in (False, True):
        loss = losses.NTXentLoss(0.5, learnable=learnable)
        loss.temperature = 0.07
        assert float(loss.temperature) == pytest.approx(0.07)
        torch.testing.assert_close(loss(z0, z1).detach(), F.nt_xent(z0, z1, temperature=0.07))
    with pytest.raises(ValueError, match=r"temperature.*> 0"):
        loss.temperature = -1.0
    circle = losses.CircleLoss(m=0.4)
    circle.m = 0.1
    assert circle.m == 0.1
    torch.testing.assert_close(circle(x, labels), losses.CircleLoss(m=0.1)(x, labels))
    ranked = losses.RankedListLoss(Tn=10.0)
    ranked.Tn, ranked.Tp = 1.0, 2.0
    torch.testing.assert_close(ranked(x, labels), losses.RankedListLoss(Tn=1.0, Tp=2.0)(x, labels))


def test_a_memory_after_a_validation_in_inference_mode() -> None:
    memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), 16, 32)
    z, labels = torch.randn(8, 16).bfloat16(), torch.arange(8) % 4
    with torch.inference_mode():
        memory(z, labels)
    x = z.clone().requires_grad_()
    memory(x, labels).backward()
    assert x.grad is not None and bool(x.grad.any())
    with pytest.raises(ValueError, match="embeddings: expected 16 features"):
        memory(torch.randn(8, 12), labels)
    with pytest.raises(TypeError, match="dtype: expected a torch.dtype or None, got str"):
        losses.CrossBatchMemory(losses.ContrastiveLoss(), 16, 32, "float32")  # type: ignore[arg-type]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["DINOLoss", "CrossBatchMemory", "EmbeddingQueue"])
def test_activation_checkpointing_does_not_change_a_state_twice(name: str, reentrant: bool) -> None:
    x, teacher = torch.randn(2, 4, 16, requires_grad=True), torch.randn(1, 4, 16)
    queue, memory = EmbeddingQueue(16, 16), losses.CrossBatchMemory(losses.ContrastiveLoss(), 16, 32)
    centre = losses.DINOLoss(16)

    def enqueued(x: Tensor) -> Tensor:
        queue.push(x[0].detach())
        return F.info_nce(x[0], x[1], queue.filled()[0])

    call = {
        "DINOLoss": lambda x: centre(x, teacher),
        "CrossBatchMemory": lambda x: memory(x.flatten(0, 1), torch.arange(8) % 2),
        "EmbeddingQueue": enqueued,
    }[name]
    loss = checkpoint(call, x, use_reentrant=reentrant)
    states = [copy.deepcopy(m.state_dict()) for m in (queue, memory, centre)]
    with pytest.raises(RuntimeError, match="expected a call outside of activation checkpointing"):
        loss.backward()
    for module, state in zip((queue, memory, centre), states):
        torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)
    centre.eval()  # which changes nothing
    checkpoint(lambda x: centre(x, teacher), x, use_reentrant=reentrant).backward()
