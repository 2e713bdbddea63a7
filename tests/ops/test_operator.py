"""The losses behave like torch's own operators: tracing, autocast, transforms, modes, modules."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fastssl
import fastssl.functional as F
from fastssl import losses
from fastssl._table import Closing, Keep
from fastssl.augment import SimCLRAugment
from fastssl.ops import extension
from tests.support import interrupted_loss
from tests.support.processes import start

op = torch.ops.fastssl.pair_loss.default


def _views(n: int = 20, d: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d, requires_grad=True), torch.randn(n, d, requires_grad=True)


LOSSES = ["nt_xent", "info_nce", "symmetric", "queue", "sup_con", "siglip", "linear", "dcl", "log_sum", "margin"]


# One loss of each number of outputs with all that may be kept for the backward pass; the others with their gradients
# or products, and with nothing or tiles among the slow tests.
WHOLE = ("info_nce", "sup_con", "linear")


@pytest.mark.parametrize(
    ("loss", "keep"),
    [
        pytest.param(loss, keep, marks=[] if loss in WHOLE or keep.value > 1 else [pytest.mark.slow])
        for loss in LOSSES
        for keep in (Keep.nothing, Keep.tiles, Keep.gradients, Keep.products)
    ],
)
def test_opcheck(loss: str, keep: Keep) -> None:
    (x, y), t = _views(), torch.tensor(0.7, requires_grad=True)
    ids, bias = torch.arange(20) % 5, torch.randn(20, requires_grad=True)
    arguments = {  # x, more_x, y, more_y, ids, scale, bias, and the number of Positives
        "nt_xent": (x, y, None, None, None, None, None, 1),
        "info_nce": (x, None, y, None, None, t, None, 0),
        "symmetric": (x, None, y, None, None, t, None, 0),
        "queue": (x, None, y, torch.randn(9, 16), None, None, None, 0),
        "sup_con": (x, None, None, None, ids, t, None, 3),
        "siglip": (x, None, y, None, None, t, torch.tensor(-1.0, requires_grad=True), 0),
        "linear": (x, None, y, None, ids, None, bias, 2),
        "dcl": (x, y, None, None, None, t, None, 1),
        "log_sum": (x, y, None, None, None, t, None, 1),
        "margin": (x, None, y, None, ids, t, None, 2),
    }[loss]
    *tensors, positives = arguments
    closings = {"sup_con": Closing.sup_con, "siglip": Closing.sigmoid_loss, "log_sum": Closing.log_sum}
    closings |= dict.fromkeys(("dcl", "margin"), Closing.decoupled)
    flags = (closings.get(loss, Closing.cross_entropy).value, 1e-12, loss == "symmetric")
    call = (*tensors, 2.0, positives, *flags, -100, 2, keep.value)
    if keep == Keep.products and (tensors[2] is None or loss == "symmetric"):
        with pytest.raises(RuntimeError, match="one direction"):
            op(*call)
    else:
        torch.library.opcheck(op, call)


def _info_nce(x: Tensor, y: Tensor, symmetric: bool, reduction: int, keep: int) -> tuple[object, ...]:
    return (x, None, y, None, None, None, None, 2.0, 0, 0, 1e-12, symmetric, -100, reduction, keep)


def test_opcheck_attention_and_rows() -> None:
    x, y = _views(40)
    torch.library.opcheck(op, _info_nce(x, y.detach(), False, 0, 2))


@pytest.mark.slow
def test_compile_with_inductor() -> None:
    z0, z1 = _views(64)
    compiled = torch.compile(lambda a, b: F.nt_xent(a * 2, b + 1, temperature=0.1), fullgraph=True)
    torch.testing.assert_close(compiled(z0, z1), F.nt_xent(z0 * 2, z1 + 1, temperature=0.1))


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(16, 8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.info_nce(self.layer(a), self.layer(b), symmetric=True)


def test_export_with_dynamic_rows() -> None:
    model, (a, b) = _Model(), _views()
    rows = torch.export.Dim("rows", min=2, max=65536)
    program = torch.export.export(model, (a.detach(), b.detach()), dynamic_shapes=({0: rows}, {0: rows}))
    for n in (2, 33, 300):
        c, d = torch.randn(n, 16), torch.randn(n, 16)
        torch.testing.assert_close(program.module()(c, d), model(c, d))


def test_autocast_mixes_dtypes_and_returns_gradients_of_each() -> None:
    a, b = torch.randn(40, 8, dtype=torch.bfloat16, requires_grad=True), torch.randn(40, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        F.nt_xent(a, b).backward()
    assert a.grad is not None and a.grad.dtype == torch.bfloat16
    assert b.grad is not None and b.grad.dtype == torch.float32


def test_func_transforms() -> None:
    z0, z1 = torch.randn(40, 8), torch.randn(40, 8)
    a = z0.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.nt_xent(a, z1), a)
    torch.testing.assert_close(torch.func.grad(lambda x: F.nt_xent(x, z1))(z0), expected)
    batch = torch.randn(3, 6, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the batch is a loop
        mapped = torch.func.vmap(torch.func.grad(lambda x: F.nt_xent(x, x.flip(0))))(batch)
    for got, x in zip(mapped, batch):
        x = x.clone().requires_grad_()
        torch.testing.assert_close(got, torch.autograd.grad(F.nt_xent(x, x.flip(0)), x)[0])


def test_what_has_no_derivative_says_so() -> None:
    z0, z1 = _views()
    (grad,) = torch.autograd.grad(F.nt_xent(z0, z1), z0, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative.*reference"):
        grad.sum().backward()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.func.grad(lambda b: torch.func.grad(lambda a: F.nt_xent(a, z1.detach()))(b).sum())(z0.detach())
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda a: F.nt_xent(a, z1.detach()), (z0.detach(),), (z0.detach(),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z0.detach(), torch.ones_like(z0))
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            F.nt_xent(dual, z1.detach())
    with fastssl.backend("reference"):  # and the reference backend has them
        (grad,) = torch.autograd.grad(F.nt_xent(z0, z1), z0, create_graph=True)
        grad.sum().backward()


def test_modes_without_gradient_keep_nothing() -> None:
    z0, z1 = _views()
    expected = F.nt_xent(z0, z1).detach()
    with torch.inference_mode():
        assert torch.equal(F.nt_xent(z0, z1), expected)
    with torch.no_grad():
        loss = F.nt_xent(z0, z1)
    assert not loss.requires_grad and torch.equal(loss, expected)


def test_backward_does_the_work_of_wanted_gradients_only() -> None:
    x, y = _views(40)
    for keep in (1, 3):
        arguments = _info_nce(x, y, True, 2, keep)
        _, stats, kept = op(*arguments)
        for needs in (0, 1, 4, 5):
            backward = torch.ops.fastssl.pair_loss_backward.default
            grads = backward(torch.ones(()), stats, kept, *arguments, needs)
            assert [g.numel() > 0 for g in grads[:4]] == [bool(needs & 1), False, bool(needs & 4), False]


def test_backward_twice_and_with_checkpointing() -> None:
    z0, z1 = _views(80)
    loss = F.nt_xent(z0, z1)
    first = torch.autograd.grad(loss, [z0, z1], retain_graph=True)
    second = torch.autograd.grad(loss, [z0, z1])
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    loss = torch.utils.checkpoint.checkpoint(lambda a, b: F.nt_xent(a, b), z0, z1, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, [z0, z1])))


def test_changed_inputs_are_noticed() -> None:
    z0, z1 = _views()
    x = z0 * 1
    loss = F.nt_xent(x, z1)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_learnable_temperature_learns() -> None:
    module = losses.NTXentLoss(temperature=0.5, learnable=True)
    module(*_views()).backward()
    assert module.log_temperature is not None and float(module.log_temperature.grad.abs()) > 0


def test_backend_choice() -> None:
    z0, z1 = _views()
    with fastssl.backend("reference"):
        loss = F.nt_xent(z0, z1)
    assert "_Eager" not in type(loss.grad_fn).__name__
    assert "_Eager" in type(F.nt_xent(z0, z1).grad_fn).__name__
    assert "_Eager" not in type(F.nt_xent(z0, z1, backend="reference").grad_fn).__name__
    with pytest.raises(ValueError, match="backend.*'tpu'"):
        fastssl.backend("tpu").__enter__()


def test_other_devices_get_the_reference_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = importlib.import_module("fastssl.ops.backend")  # the package exports a function of this name
    cuda = torch.device("cuda")
    cases = [
        (torch.device("xpu"), torch.float32, "", "no kernels for 'xpu'"),
        (cuda, torch.float64, "", "no GPU kernels for float64"),
        (cuda, torch.float32, "triton is not installed", "slow reference backend: triton is not installed"),
    ]
    for device, dtype, missing, message in cases:
        monkeypatch.setattr(backend, "no_triton", lambda _, missing=missing: missing)
        monkeypatch.setattr(backend, "_warned", set())
        with pytest.warns(RuntimeWarning, match=message):
            assert backend.resolve(device, None, dtype) == "reference"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert backend.resolve(device, None, dtype) == "reference"
    monkeypatch.setattr(backend, "no_triton", lambda _: "")
    assert backend.resolve(cuda, None, torch.bfloat16) == "triton"


def test_tritons_kernels_take_tensors_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = importlib.import_module("fastssl.ops.backend")
    monkeypatch.setattr(backend, "no_triton", lambda _: "")
    monkeypatch.setattr(backend, "INTERPRETING", False)
    with pytest.raises(ValueError, match="backend: 'triton' computes CUDA tensors, got tensors on cpu"):
        F.nt_xent(torch.randn(4, 8), torch.randn(4, 8), backend="triton")


def test_environment_forces_instruction_set_and_backend() -> None:
    code = "import fastssl; print(fastssl.instruction_set(), fastssl.info()['forced_backend'])"
    environment = {"FASTSSL_ISA": "portable", "FASTSSL_BACKEND": "reference", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["portable", "reference"]
    environment["FASTSSL_ISA"] = "mmx"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "'mmx'" in done.stderr


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_ctrl_c_returns_within_a_second(where: str, tmp_path: Path) -> None:
    done = start(interrupted_loss.main, where, log=tmp_path / "log", environment={})
    assert done.wait() == 0 and done.output.split() == ["interrupted", "True"], done.output


class _TimeIsUp(Exception):
    pass


@pytest.mark.parametrize("what", ["forward", "backward", "nearest", "pairwise", "views"])
def test_what_a_signal_handler_raises_is_raised(what: str) -> None:
    """A time limit of a test or of a job is no Ctrl-C, which would end the whole program."""
    reason = _TimeIsUp("after 0.2 s")

    def late(*_: object) -> None:
        raise reason

    rows = torch.randn(1 << 15, 1, requires_grad=True)
    images = [np.zeros((512, 512, 3), np.uint8)] * 2048
    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: F.nt_xent(rows, rows, normalize=False, temperature=1.0),
        "nearest": lambda: F.nearest(rows.detach(), None, 90, exclude_self=True),
        "pairwise": lambda: F.triplet(rows, torch.arange(len(rows)) // 2),
        "views": lambda: SimCLRAugment(size=224)(images),
    }
    run = calls[what] if what in calls else calls["forward"]().backward  # type: ignore[attr-defined]
    fastssl.instruction_set("portable")
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(_TimeIsUp) as found:
            run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found.value is reason
    assert extension._C is not None
    assert extension._C.take_raised() is None


@pytest.mark.parametrize("loss", ["nt_xent", "triplet", "linear_cross_entropy"])
def test_rows_of_16_bits_are_the_same_within_autocast(loss: str) -> None:
    """Bit for bit, with the gradients: they are not cast to float32 first, whose products cost twice as much."""
    rows = [torch.randn(96, 40, generator=torch.Generator().manual_seed(k)).bfloat16() for k in range(2)]
    labels = torch.arange(96) // 3
    calls = {
        "nt_xent": lambda x, y: F.nt_xent(x, y),
        "triplet": lambda x, y: F.triplet(x, labels),
        "linear_cross_entropy": lambda x, y: F.linear_cross_entropy(x, y, labels),
    }
    found = []
    for region in (False, True):
        leaves = [t.clone().requires_grad_() for t in rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=region):
            value = calls[loss](*leaves)
            value.backward()
        found.append([value.detach(), *(t.grad for t in leaves if t.grad is not None)])
    assert found[0][0].dtype == found[1][0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
