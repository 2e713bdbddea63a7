"""What only a GPU can show: inductor, CUDA graphs, streams, no waiting for the device, large rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl.functional as F
from tests.support.subjects import FUSED, SUBJECTS, Inputs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def labels(n: int) -> Tensor:
    return torch.arange(n, device="cuda") % max(n // 4, 1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": lambda a, b: F.nt_xent(a, b, temperature=0.1),
    "info_nce_symmetric": lambda a, b: F.info_nce(a, b, symmetric=True),
    "clip_loss": lambda a, b: F.clip_loss(a, b, 10.0),
    "siglip_loss": lambda a, b: F.siglip_loss(a, b, 10.0, -10.0),
    "sup_con": lambda a, b: F.sup_con(torch.cat([a, b]), labels(len(a)).repeat(2)),
    "contrastive": lambda a, b: F.contrastive(torch.cat([a, b]), labels(len(a)).repeat(2)),
    "linear_cross_entropy": lambda a, b: F.linear_cross_entropy(a, b, torch.arange(len(a), device="cuda") % len(b)),
}


def rows(n: int, d: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Unit rows, as encoders hand them over."""
    unit = [torch.nn.functional.normalize(torch.randn(n, d, device="cuda"), dim=1) for _ in range(2)]
    return [t.to(dtype).requires_grad_() for t in unit]


def step(loss: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    value = loss(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [8, 64, 200, 300, 512, 1024])
@pytest.mark.parametrize("name", ["nt_xent", "clip_loss", "contrastive"])
def test_inductor_has_all_gradients(name: str, d: int, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    inputs = rows(70, d, dtype)
    compiled = torch.compile(lambda a, b: LOSSES[name](a * 2, b * 3), fullgraph=True)
    for got, right in zip(step(compiled, inputs), step(lambda a, b: LOSSES[name](a * 2, b * 3), inputs)):
        assert float(right.abs().max()) > 0
        torch.testing.assert_close(got, right, rtol=2e-2, atol=2e-2 * float(right.abs().max()))


@pytest.mark.parametrize("d", [64, 512])
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "sup_con"])
def test_cuda_graph(name: str, d: int) -> None:
    inputs = rows(96, d)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step(LOSSES[name], inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(LOSSES[name], inputs)
    with torch.no_grad():
        for t in inputs:
            t.copy_(torch.randn_like(t))
    graph.replay()
    for got, right in zip(captured, step(LOSSES[name], inputs)):
        assert torch.equal(got, right)


@pytest.mark.parametrize("name", ["nt_xent", "clip_loss", "contrastive"])
def test_reduce_overhead(name: str) -> None:
    torch._dynamo.reset()
    inputs = rows(96, 64)
    compiled = torch.compile(lambda a, b: LOSSES[name](a * 2, b * 3), mode="reduce-overhead", fullgraph=True)
    right = step(lambda a, b: LOSSES[name](a * 2, b * 3), inputs)
    for _ in range(4):  # warmed up, recorded, replayed
        torch.compiler.cudagraph_mark_step_begin()
        for got, expected in zip(step(compiled, inputs), right):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# Losses whose lists are as long as labels say (docs/gpu.md).
BY_VALUE = ("angular", "angular_memory", "sup_con_memory")
FREE = [name for name in FUSED if name not in BY_VALUE]


@pytest.mark.parametrize("name", FREE)
def test_no_step_waits_for_the_device(name: str) -> None:
    inputs = SUBJECTS[name].make(64, 32).to(device="cuda")
    for _ in range(3):  # as it is, recorded, replayed
        SUBJECTS[name].gradients(inputs)
        torch.cuda.set_sync_debug_mode("error")
        try:
            SUBJECTS[name].gradients(inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", FREE)
def test_every_loss_in_a_cuda_graph(name: str) -> None:
    subject = SUBJECTS[name]
    inputs = subject.make(48, 40).to(device="cuda")
    other = subject.make(48, 40).to(device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            subject.gradients(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = subject.gradients(inputs)
    for k, t in inputs.items():
        t.copy_(other[k])
    graph.replay()
    for got, right in zip(captured, subject.gradients(other)):
        assert torch.equal(got, right)


@pytest.mark.parametrize("name", FUSED)
def test_every_loss_compiled(name: str) -> None:
    """In one graph, by inductor."""
    subject = SUBJECTS[name]
    torch._dynamo.reset()
    inputs = Inputs(subject.make(48, 40).to(device="cuda")).leaves()
    compiled = torch.compile(lambda given: subject({k: v for k, v in given.items()}), fullgraph=True)
    found = []
    for loss in (compiled(dict(inputs)), subject(inputs)):
        value = loss.sum()
        grads = torch.autograd.grad(value, inputs.differentiable, allow_unused=True)
        found.append([value, *(torch.zeros(()) if g is None else g for g in grads)])
    for got, right in zip(*found):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4 * float(right.detach().abs().max()))


@pytest.mark.parametrize("name", LOSSES)
def test_the_same_inputs_give_the_same_bits(name: str) -> None:
    inputs = rows(777, 128, torch.bfloat16)
    for a, b in zip(step(LOSSES[name], inputs), step(LOSSES[name], inputs)):
        assert torch.equal(a, b)


def test_two_streams() -> None:
    inputs = [rows(1000, 128, torch.bfloat16) for _ in range(2)]
    expected = [step(LOSSES["nt_xent"], i) for i in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    found: list[list[Tensor]] = []
    for stream, i in zip(streams, inputs):
        with torch.cuda.stream(stream):
            found += [step(LOSSES["nt_xent"], i) for _ in range(5)]
    torch.cuda.synchronize()
    for index, result in enumerate(found):
        for a, b in zip(result, expected[index // 5]):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", LOSSES)
def test_large_rows_in_bf16(name: str) -> None:
    """Several blocks, splits and chunks, against the same formula in float32."""
    torch.manual_seed(1)
    inputs = rows(3001, 512, torch.bfloat16)
    right = step(LOSSES[name], [t.detach().float().requires_grad_() for t in inputs])
    for got, expected in zip(step(LOSSES[name], inputs), right):
        torch.testing.assert_close(got.float(), expected, rtol=4e-3, atol=4e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", LOSSES)
def test_several_chunks_of_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastssl.ops.triton import engine

    inputs = rows(350, 512)
    whole = step(LOSSES[name], inputs)
    monkeypatch.setattr(
        engine, "chunk_sizes", lambda *_: (256, 128) if name in ("siglip_loss", "clip_loss") else (256, 256)
    )
    for got, right in zip(step(LOSSES[name], inputs), whole):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()))


def test_inference_first_training_after() -> None:
    inputs = rows(64, 32)
    with torch.inference_mode():
        F.contrastive(inputs[0], labels(64), margin=0.77)
        F.nt_xent(*inputs, temperature=0.33)
    F.contrastive(inputs[0], labels(64), margin=0.77).backward()
    F.nt_xent(*inputs, temperature=0.33).backward()


def test_tiles_that_do_not_fit_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastssl.ops.triton import launch

    name = launch.key(launch.architecture(0), "reduce", torch.bfloat16, 512)
    inputs = rows(300, 512, torch.bfloat16)
    right = step(LOSSES["nt_xent"], inputs)
    monkeypatch.setitem(launch.CHOSEN, name, launch.Config(256, 256, 64, 8, 6, name=name))
    for a, b in zip(step(LOSSES["nt_xent"], inputs), right):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
    assert launch.CHOSEN[name] != launch.Config(256, 256, 64, 8, 6, name=name)


def test_autocast_hands_rows_of_16_bits_through(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastssl.ops.triton import engine

    seen = set()
    run = engine.run

    def recording(kernel: Any, grid: Any, *arguments: Any, **options: Any) -> None:
        if kernel.__name__ in ("reduce_kernel", "weights_kernel"):
            seen.add(arguments[0].dtype)
        run(kernel, grid, *arguments, **options)

    monkeypatch.setattr(engine, "run", recording)
    layer = torch.nn.Linear(16, 512, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        z = layer(torch.randn(64, 16, device="cuda"))
        loss = F.nt_xent(z, z.flip(0))
    loss.backward()
    assert loss.dtype == torch.float32 and seen == {torch.bfloat16}


def test_targets_out_of_range_are_nan() -> None:
    hidden, weight = rows(5, 16)
    values = F.linear_cross_entropy(hidden, weight, torch.tensor([0, 4, 5, -1, -100], device="cuda"), reduction="none")
    assert values.isnan().tolist() == [False, False, True, True, False] and values[4] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_patched_head_multiplies_in_the_dtype_of_autocast(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error against float32 is no larger than the layer's own, at the layer's speed."""
    transformers = pytest.importorskip("transformers")
    import fastssl
    from fastssl.ops.triton import engine

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=64, n_layer=1, n_head=2, n_positions=32, vocab_size=999)
    model = transformers.GPT2LMHeadModel(config).cuda().eval()
    ids = torch.randint(0, 999, (4, 32), device="cuda")
    seen, run = set(), engine.run

    def recording(kernel: Any, grid: Any, *arguments: Any, **options: Any) -> None:
        if kernel.__name__ == "reduce_kernel":
            seen.add(arguments[0].dtype)
        run(kernel, grid, *arguments, **options)

    monkeypatch.setattr(engine, "run", recording)

    def gradients(region: bool) -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", dtype, enabled=region):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters())]

    right, theirs = gradients(False), gradients(True)
    with fastssl.patched("transformers"):
        ours = gradients(True)
    assert seen == {dtype}
    for a, b, c in zip(ours, theirs, right):
        assert a.dtype == b.dtype
        largest = float(c.abs().max())
        assert float((a - c).norm()) <= 1.5 * float((b - c).norm()) + torch.finfo(dtype).eps * largest


def test_numbers_are_predicted_from_features_on_the_gpu() -> None:
    from fastssl.evaluate import knn_regression, regression_scores, ridge_probe

    x = torch.nn.functional.normalize(torch.randn(60, 4), dim=1)
    y, even, odd = x[:, 0] * 3 + 40, torch.arange(0, 60, 2).numpy(), torch.arange(1, 60, 2).numpy()
    ridge = ridge_probe(x.cuda(), y.cuda(), even, odd)
    torch.testing.assert_close(ridge, ridge_probe(x, y, even, odd))
    nearest = knn_regression(x[even].cuda(), y[even], x[odd].cuda(), 3)
    torch.testing.assert_close(nearest.cpu(), knn_regression(x[even], y[even], x[odd], 3))
    assert regression_scores(nearest, y[odd]) == regression_scores(nearest.cpu(), y[odd])
