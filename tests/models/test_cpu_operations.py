"""Operations of torch that are computed otherwise when they are trained on CPUs."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastssl.functional import _cpu
from fastssl.models import FasterCpuOperations, cpu_operations, faster_dropout


@pytest.fixture(autouse=True)
def amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is faster on some CPUs alone is right on all."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(cpu_operations, "CHANNELS", 1)
    monkeypatch.setattr(cpu_operations, "PIXELS", 1)


def _gradients(function: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_(t.requires_grad) for t in inputs]
    seen = function(*leaves)
    (seen.float() * weight).sum().backward()
    return [seen.detach(), *(t.grad for t in leaves if t.grad is not None)]


def _errors(found: list[Tensor], right: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(found, right, strict=True)]


def _attend(inputs: list[Tensor], weight: Tensor, **options: Any) -> list[Tensor]:
    inputs = [t.clone().requires_grad_() for t in inputs]
    return _gradients(lambda *x: TF.scaled_dot_product_attention(*x, **options), inputs, weight)


def _masks(kind: str) -> dict[str, Any]:
    mask = torch.rand(3, 1, 20, 20) > 0.3
    mask[..., 0] = True
    if kind == "causal":
        return {"is_causal": True}
    if kind == "no":
        return {}
    return {"attn_mask": mask if kind == "bool" else torch.zeros(mask.shape).masked_fill(~mask, -1e4)}


def _cast(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in options.items()}


@pytest.mark.parametrize("network", ["attention", "layer"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_multi_head_attention(network: str, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nn.MultiheadAttention: ours is used, in both contexts, and errs no more than torch's."""
    torch.manual_seed(0)
    if network == "attention":
        module: nn.Module = nn.MultiheadAttention(32, 4, dropout=dropout, batch_first=True)
    else:
        module = nn.TransformerEncoderLayer(32, 4, 64, dropout=dropout, batch_first=True)
    x, seen = torch.randn(3, 20, 32), []
    mask = torch.zeros(3, 20, dtype=torch.bool)
    mask[1, 15:] = True

    def run(module: nn.Module, x: Tensor) -> list[Tensor]:
        x, parameters = x.clone().requires_grad_(), list(module.parameters())
        if network == "attention":
            result = module(x, x, x, key_padding_mask=mask, need_weights=False)[0]
        else:
            result = module(x, src_key_padding_mask=mask)
        loss = (result.float() * torch.arange(32)).sum()
        return [result.detach(), *torch.autograd.grad(loss, [x, *parameters])]

    def spied(*args: Any, **options: Any) -> Tensor:
        seen.append(options.get("dropout_p", args[4] if len(args) > 4 else 0.0))
        return _cpu.attention(*args, **options)

    monkeypatch.setattr(sys.modules["fastssl.functional._cpu.attention"], "_pays", lambda *_: True)
    monkeypatch.setitem(cpu_operations.REPLACED, _cpu.ATTENTION, spied)
    right, errors = run(copy.deepcopy(module).double().eval(), x.double()), []
    for contexts in ((), (FasterCpuOperations, faster_dropout)):
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            with torch.autocast("cpu", torch.bfloat16):
                found = run(module, x)
        errors.append(_errors(found, right))
    assert seen == [dropout]
    if not dropout:  # of a layer, most is other operations' in bf16
        assert all(new <= old * (1.05 if network == "attention" else 1.5) for old, new in zip(*errors))


@settings(deadline=None)
@given(
    images=st.integers(1, 20),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    height=st.integers(1, 9),
    width=st.integers(1, 17),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    biased=st.booleans(),
    frozen=st.booleans(),
)
def test_convolutions_in_double(
    images: int,
    channels: tuple[int, int],
    height: int,
    width: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    biased: bool,
    frozen: bool,
) -> None:
    """In bf16 oneDNN's own are wrong for some shapes: it reads memory that nobody wrote."""
    if height + 2 * padding[0] < kernel[0] or width + 2 * padding[1] < kernel[1]:
        return
    torch.manual_seed(0)
    shown = torch.randn(images, channels[0], height, width).double().to(memory_format=torch.channels_last)
    inputs = [
        shown.requires_grad_(not frozen),
        torch.randn(channels[1], channels[0], *kernel).double().requires_grad_(),
    ]
    inputs += [torch.randn(channels[1]).double().requires_grad_()] if biased else []

    def convolve(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return TF.conv2d(x, w, b, stride, padding)

    weight = torch.randn_like(convolve(*inputs))
    right = _gradients(convolve, inputs, weight)
    with pytest.MonkeyPatch.context() as patch, FasterCpuOperations():
        patch.setattr(cpu_operations, "HALF", torch.float64)
        patch.setattr(cpu_operations, "_trained_in_bf16", lambda *_: True)
        found = _gradients(convolve, inputs, weight)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride"),
    [
        ((5, 16, 8, 8), 3, 1),
        ((17, 16, 8, 8), 3, 2),
        ((4, 8, 7, 7), 3, 1),
        ((3, 8, 14, 14), 3, 2),
        ((40, 8, 4, 4), 5, 1),
        ((3, 8, 16, 4), 7, 2),
        ((6, 8, 16, 16), 4, 4),
        ((6, 8, 9, 9), 1, 1),
        ((6, 8, 9, 9), 1, 2),
        ((2, 8, 32, 32), 3, 1),
    ],
)
def test_convolutions_in_bf16(shape: tuple[int, ...], kernel: int, stride: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shown = torch.randn(shape).to(dtype).to(memory_format=torch.channels_last)
    inputs = [shown.requires_grad_(), torch.randn(16, shape[1], kernel, kernel).requires_grad_()]
    inputs.append(torch.randn(16).requires_grad_())

    def convolve(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return TF.conv2d(x, w, b, stride, kernel // 2 if kernel % 2 else 0)

    weight = torch.randn_like(convolve(*[t.float() for t in inputs]))
    exact = [t.detach().double().requires_grad_() for t in inputs]
    right = _gradients(convolve, exact, weight)
    summands = _gradients(convolve, [t.detach().abs().requires_grad_() for t in exact], weight.abs())
    with torch.autocast("cpu", torch.bfloat16), FasterCpuOperations():
        found = _gradients(convolve, inputs, weight)
    assert [t.dtype for t in found] == [torch.bfloat16, dtype, torch.float32, torch.float32]
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    # Inputs, weights, upstream gradients and results are rounded, by 2^-8 of their summands each.
    for a, b, size in zip(found, right, summands, strict=True):
        assert torch.all((a.double() - b).abs() <= 5 * 2**-8 * size)


CASES = ["groups", "dilation", "same", "channels first", "no autocast", "float64", "frozen", "channels", "pixels"]


@pytest.mark.parametrize("case", CASES)
def test_other_convolutions_are_torchs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(cpu_operations, "CHANNELS", 5 if case == "channels" else 1)
    monkeypatch.setattr(cpu_operations, "PIXELS", 8 * 6 * 6 + 1 if case == "pixels" else 1)
    monkeypatch.setattr(cpu_operations.NarrowConvolution, "apply", None)  # is not called
    options: dict[str, Any] = {
        "groups": {"groups": 2},
        "dilation": {"dilation": 2, "padding": 2},
        "same": {"padding": "same"},
    }.get(case, {"padding": 1})
    pixels = torch.randn(8, 4, 6, 6).to(memory_format=torch.channels_last)
    pixels = pixels.contiguous() if case == "channels first" else pixels
    weight = torch.randn(6, 2 if case == "groups" else 4, 3, 3)
    inputs = [pixels.double(), weight.double()] if case == "float64" else [pixels, weight]
    inputs = [inputs[0].requires_grad_(), inputs[1].requires_grad_(case != "frozen")]
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=case not in ("no autocast", "float64"))
    results = []
    for mode in (contextlib.nullcontext(), FasterCpuOperations()):
        with autocast, mode:
            results.append(_gradients(lambda x, w: TF.conv2d(x, w, None, **options), inputs, torch.ones(())))
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*results))


def test_errors_of_convolutions_are_torchs() -> None:
    pixels = torch.randn(8, 4, 6, 6).to(memory_format=torch.channels_last)
    for shape in [(6, 5, 3, 3), (6, 4, 9, 9), (6, 5, 1, 1)]:
        weight = torch.randn(shape, requires_grad=True)
        with pytest.raises(RuntimeError) as expected:
            TF.conv2d(pixels, weight)
        with FasterCpuOperations(), torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError) as found:
            TF.conv2d(pixels, weight)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: TF.conv2d(x, w, torch.ones(1)),
        lambda x, w: TF.conv2d(x, w, stride=0),
        lambda x, w: TF.conv2d(x, w, stride=(1, 1, 1)),
        lambda x, w: TF.conv2d(x, w, stride=[2]),
        lambda x, w: TF.conv2d(x, w[:0]),
        lambda x, w: TF.dropout(x.expand(1000, -1, -1, -1, -1), float("nan")),
        lambda x, w: TF.dropout(x.expand(1000, -1, -1, -1, -1), "0.5"),  # type: ignore[arg-type]
        lambda x, w: torch.index_select(x, 0, torch.tensor([0.0])),
        lambda x, w: torch.index_select(x.transpose(0, 3), 0, torch.tensor([0, 1])).view(-1),
        lambda x, w: torch.index_select(w.sum(), 0, torch.tensor([0])),
    ],
)
def test_arguments_are_taken_and_refused_as_by_torch(call: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    shown = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    results: list[Any] = []
    for faster in (False, True):
        weight = torch.randn(5, 8, 1, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with contextlib.ExitStack() as stack, torch.autocast("cpu", torch.bfloat16):
            for context in (FasterCpuOperations(), faster_dropout()):
                if faster:
                    stack.enter_context(context)
            try:
                results.append(call(shown, weight).float())
            except Exception as error:
                results.append((type(error), str(error)))
    if isinstance(results[0], Tensor):
        torch.testing.assert_close(results[1], results[0], rtol=0.02, atol=0.02)
    else:
        assert results[0] == results[1]


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 1)).to(
            memory_format=torch.channels_last
        )
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.drop(self.convolutions(x))
        tokens = maps.flatten(2).mT[:, None]
        found: Tensor = TF.scaled_dot_product_attention(tokens, tokens, tokens, dropout_p=0.1)
        return found


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_parts_are_recomputed_alike(reentrant: bool, within: bool) -> None:
    """Without dropout also where the backward pass is outside the context."""
    torch.manual_seed(0)
    block = _Block().train(within)
    block.drop.p = 0.3 if within else 0.0
    shown = torch.randn(128, 8, 8, 8).to(memory_format=torch.channels_last)
    found = []
    for checkpointed in (False, True):
        x = shown.clone(memory_format=torch.preserve_format).requires_grad_()
        torch.manual_seed(1)
        with contextlib.ExitStack() as stack:
            if within:
                stack.enter_context(faster_dropout())
            with FasterCpuOperations(), torch.autocast("cpu", torch.bfloat16):
                out = checkpoint(block, x, use_reentrant=reentrant) if checkpointed else block(x)
            out.float().square().sum().backward()
        assert x.grad is not None
        found.append([out.detach().double(), x.grad.double()])
    for a, b in zip(*found):
        assert float((a - b).norm() / a.norm()) < 0.02  # other roundings, the same masks


def test_transformed_and_empty() -> None:
    weight, shown = torch.randn(4, 8, 3, 3), torch.randn(3, 8, 4, 4).to(memory_format=torch.channels_last)

    def loss(w: Tensor) -> Tensor:
        return TF.conv2d(shown, w, padding=1).float().square().sum()

    with torch.autocast("cpu", torch.bfloat16):
        expected = torch.func.grad(loss)(weight)
        with FasterCpuOperations(), faster_dropout():
            assert torch.equal(torch.func.grad(loss)(weight), expected)
            stacked = torch.func.vmap(lambda x: TF.dropout(x, 0.5), randomness="different")(torch.ones(300, 300))
            assert stacked.shape == (300, 300)
            none = TF.conv2d(shown[:0], weight.requires_grad_(), padding=1)
            none.sum().backward()
    assert none.shape == (0, 4, 4, 4) and weight.grad is not None and not weight.grad.any()
    with FasterCpuOperations():
        out = torch.empty(2, 3)
        torch.index_select(torch.ones(4, 3), 0, torch.tensor([0, 1]), out=out)
        assert torch.equal(out, torch.ones(2, 3))
        with pytest.raises(IndexError):
            torch.index_select(torch.ones(4, 3, requires_grad=True), 9, torch.tensor([0]))


@pytest.mark.parametrize("index", [[0, 1, 2], [0], [2, 1, 0], [0, 1, 1], [0, 0, 2], [1, 2, 3], []])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_index_select(index: list[int], dim: int) -> None:
    results = []
    for mode in (contextlib.nullcontext(), FasterCpuOperations()):
        torch.manual_seed(0)
        input = torch.randn(4, 5, 6, requires_grad=True)
        with mode:
            found = torch.index_select(input, dim, torch.tensor(index, dtype=torch.int64))
        assert found.is_contiguous()
        found.square().sum().backward()
        results.append([found.detach(), input.grad])
    assert all(torch.equal(a, b) for a, b in zip(*results))
