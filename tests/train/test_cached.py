"""Gradient caching: the gradients of the whole batch, with the activations of a chunk."""

from __future__ import annotations

import copy
import math
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl
import fastssl.functional as F
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import emoji
from fastssl.methods import SimCLR
from fastssl.models import build_encoder
from fastssl.train import Pretraining, cached_step, pretrain
from fastssl.train.cached import Inputs, auto_chunk
from tests.support.training import frozen_norms, gradients, relative


def network(dropout: float = 0.0, norm: str = "group") -> nn.Module:
    layer = nn.GroupNorm(2, 8) if norm == "group" else nn.BatchNorm2d(8)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), layer, nn.ReLU(), nn.Dropout(dropout), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 6),
    )  # fmt: skip


def nt_xent(z: Tensor) -> Tensor:
    return F.nt_xent(*z.chunk(2), temperature=0.2)


@pytest.mark.parametrize("rows", [4, 7, 32])
@pytest.mark.parametrize("chunk", [1, 3, 32, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_the_whole_batch(rows: int, chunk: int, dtype: torch.dtype) -> None:
    if rows % 2:
        rows += 1
    whole = network().to(dtype)
    parts = copy.deepcopy(whole)
    x = torch.randn(rows, 3, 8, 8, dtype=dtype)
    expected = nt_xent(whole(x))
    expected.backward()
    given = cached_step(parts, x, nt_xent, chunk=chunk)
    assert not given.requires_grad
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    assert relative(given, expected.detach()) < bound and relative(gradients(parts), gradients(whole)) < bound


def test_gradients_are_added() -> None:
    model, x = network(), torch.randn(8, 3, 8, 8)
    cached_step(model, x, nt_xent, chunk=3)
    once = gradients(model).clone()
    cached_step(model, x, nt_xent, chunk=3)
    torch.testing.assert_close(gradients(model), 2 * once, rtol=1e-4, atol=1e-6)


def test_dropout_is_replayed() -> None:
    """With dropout, the gradients are those of the embeddings that the loss has seen."""
    model, x = network(dropout=0.5), torch.randn(12, 3, 8, 8)
    torch.manual_seed(3)
    seen: list[Tensor] = []

    def loss(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return nt_xent(z)

    cached_step(model, x, loss, chunk=4)
    after = torch.rand(3)
    given = gradients(model).clone()
    model.zero_grad()
    torch.manual_seed(3)
    z = torch.cat([model(part) for part in x.split(4)])  # the same masks, chunk by chunk, in one graph
    assert torch.equal(z.detach(), seen[0])
    nt_xent(z).backward()
    assert relative(given, gradients(model)) < 1e-5
    assert torch.equal(after, torch.rand(3))  # and what comes after draws what it would have drawn


def test_two_towers_and_their_scale() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(math.log(5.0)))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return F.clip_loss(TF.normalize(a, dim=1), TF.normalize(b, dim=1), self.scale.exp())

    image, text, loss = network(), nn.Linear(5, 6), Loss()
    others = copy.deepcopy((image, text, loss))
    x, y = torch.randn(10, 3, 8, 8), torch.randn(10, 5)
    others[2](others[0](x), others[1](y)).backward()
    cached_step((image, text), (x, y), loss, chunk=4)
    for a, b in zip((image, text, loss), others):
        assert relative(gradients(a), gradients(b)) < 1e-5


def test_one_model_of_several_tensors_and_outputs() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(x), self.b(y)

    model = Both()
    other = copy.deepcopy(model)
    x, y = torch.randn(9, 4), torch.randn(9, 4)
    F.info_nce(*other(x, y)).backward()
    cached_step(model, (x, y), lambda a, b: F.info_nce(a, b), chunk=2)
    assert relative(gradients(model), gradients(other)) < 1e-5


class OpenClip(nn.Module):
    """A model as those of open_clip: both features and what is no row, in a tuple or by name."""

    def __init__(self, named: bool, bias: bool) -> None:
        super().__init__()
        self.image, self.text, self.named = network(), nn.Linear(5, 6), named
        self.logit_scale = nn.Parameter(torch.tensor(math.log(5.0)))
        self.logit_bias = nn.Parameter(torch.tensor(-2.0)) if bias else None

    def forward(self, image: Tensor, text: Tensor) -> Any:
        out = {"image_features": TF.normalize(self.image(image)), "text_features": TF.normalize(self.text(text))}
        out["logit_scale"] = self.logit_scale.exp()
        if self.logit_bias is not None:
            out["logit_bias"] = self.logit_bias
        return out if self.named else tuple(out.values())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("chunk", [3, 4, 10])
def test_outputs_of_no_dimension_belong_to_the_model(chunk: int, named: bool, bias: bool) -> None:
    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.clip_loss(image, text, scale) if bias is None else F.siglip_loss(image, text, scale, bias)

    def of_names(out: Any) -> Tensor:
        return loss(*(out[name] for name in ("image_features", "text_features", "logit_scale")), out.get("logit_bias"))

    model = OpenClip(named, bias)
    for backward in (None, lambda value: (64 * value).backward()):
        model.zero_grad()
        other = copy.deepcopy(model)
        x, y = torch.randn(10, 3, 8, 8), torch.randn(10, 5)
        expected = of_names(other(x, y)) if named else loss(*other(x, y))
        expected.backward()
        given = cached_step(model, (x, y), of_names if named else loss, chunk=chunk, backward=backward)
        assert relative(given, expected.detach()) < 1e-5
        assert relative(gradients(model), (64 if backward else 1) * gradients(other)) < 1e-5
        assert model.logit_scale.grad is not None and model.logit_scale.grad != 0


def test_outputs_that_are_neither_rows_nor_the_same_in_each_chunk() -> None:
    x = torch.randn(10, 5)
    layer = nn.Linear(5, 6)
    with pytest.raises(ValueError, match="model: output 1 has no dimension, and other values in each chunk"):
        cached_step(lambda x: (layer(x), layer(x).sum()), x, lambda z, s: nt_xent(z) + s, chunk=4)
    layer.zero_grad()
    unused = cached_step(lambda x: (layer(x), layer(x).sum()), x, lambda z, s: nt_xent(z), chunk=4)
    torch.testing.assert_close(unused, nt_xent(layer(x)).detach())
    for model in (lambda x: layer(x).repeat(2, 1), lambda x: (layer(x), layer.weight)):
        with pytest.raises(ValueError, match=r"model: expected outputs with one row per row.*of 4 rows"):
            cached_step(model, x, lambda *z: nt_xent(z[0]), chunk=4)


def test_strings_and_arrays_are_split_too() -> None:
    """Models that tokenize, by position, by name and as the only argument."""
    table = nn.Embedding(100, 6)
    words = [f"{k % 7} {k % 3}" for k in range(10)]
    seen: list[int] = []

    def model(texts: Any, *others: Any, prefixes: Any = (), **more: Any) -> Tensor:
        seen.append(len(texts))
        assert all(len(other) == len(texts) for other in others) and len(prefixes) in (0, 3)
        return torch.stack([table(torch.tensor([int(w) for w in text.split()])).mean(0) for text in texts])

    nt_xent(model(words)).backward()
    expected = gradients(table).clone()
    for batch in (
        words,
        tuple(words),
        (words, np.arange(10), torch.arange(10)),
        {"texts": words, "prefixes": ["a", "b", "c"], "weights": torch.arange(10)},
    ):
        table.zero_grad()
        seen.clear()
        cached_step(model, batch, nt_xent, chunk=4)
        assert seen == [4, 4, 2] * 2 and relative(gradients(table), expected) < 1e-5


class Words(nn.Module):
    """A text model: keywords in, a mapping out, as those of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(20, 8), nn.Linear(8, 6)
        self.drop = nn.Dropout(0.2)

    def forward(self, ids: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, flag: Any = None) -> Any:
        x = self.drop(self.table(ids))
        weight = torch.ones(ids.shape) if mask is None else mask
        mean = (x * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        return {
            "pooled": scale * self.layer(mean),
            "states": x,
            "ids": ids,
            "similarity": mean @ mean.T,
            "flag": flag,
            "shape": x.sum(),
        }


def _words(rows: int, seed: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(20, (rows, 5), generator=g)
    return {"ids": ids, "mask": (torch.rand(rows, 5, generator=g) < 0.7).float() + 0.1, "scale": 0.5, "flag": None}


@pytest.mark.parametrize("chunk", [3, 4, "auto"])
@pytest.mark.parametrize("kind", [dict, UserDict])
def test_mappings_of_text_models(kind: type, chunk: int | str) -> None:
    """Tokens by keyword, one model for two columns, outputs by entry and by attribute."""
    model = Words().eval()
    other = copy.deepcopy(model)
    a, b = _words(10, 0), _words(10, 1)
    expected = F.info_nce(other(**a)["pooled"], other(**b)["pooled"])
    expected.backward()
    given = cached_step([model, model], [kind(a), kind(b)], lambda p, q: F.info_nce(p["pooled"], q.pooled), chunk=chunk)
    torch.testing.assert_close(given, expected.detach())
    assert relative(gradients(model), gradients(other)) < 1e-5


def test_a_mapping_as_the_only_positional_argument() -> None:
    """As models of sentence-transformers take it; dropout is replayed."""

    class Features(Words):
        def forward(self, features: dict[str, Any]) -> Any:  # type: ignore[override]
            return super().forward(**features)

    model, batch = Features(), _words(9, 0)
    seen: list[Tensor] = []

    def loss(out: Any) -> Tensor:
        seen.append(out.pooled.detach())
        assert sorted(out) == ["ids", "pooled", "shape", "states"] and not out.ids.requires_grad
        with pytest.raises(KeyError, match="'similarity': not an output with one row per row.*pooled"):
            out["similarity"]
        with pytest.raises(AttributeError, match="flag"):
            _ = out.flag
        return out.pooled.square().sum() + out.states.square().sum()

    torch.manual_seed(3)
    cached_step(model, [batch], loss, chunk=4)
    torch.manual_seed(3)
    other = copy.deepcopy(model)
    other.zero_grad()
    parts = [other({k: v[i : i + 4] if isinstance(v, Tensor) else v for k, v in batch.items()}) for i in (0, 4, 8)]
    pooled = torch.cat([p["pooled"] for p in parts])
    assert torch.equal(pooled.detach(), seen[0])
    (pooled.square().sum() + torch.cat([p["states"] for p in parts]).square().sum()).backward()
    assert relative(gradients(model), gradients(other)) < 1e-5


def test_image_and_text_towers() -> None:
    image, text = network(), Words().eval()
    others = copy.deepcopy((image, text))
    x, y = torch.randn(7, 3, 8, 8), _words(7, 0)
    F.clip_loss(others[0](x), others[1](**y)["pooled"], 3.0).backward()
    cached_step([image, text], [x, y], lambda a, b: F.clip_loss(a, b.pooled, 3.0), chunk=3)
    for a, b in zip((image, text), others):
        assert relative(gradients(a), gradients(b)) < 1e-5


def test_under_autocast() -> None:
    model, x = network(), torch.randn(16, 3, 8, 8)
    other = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        nt_xent(other(x)).backward()
        cached_step(model, x, nt_xent, chunk=5)
    assert relative(gradients(model), gradients(other)) < 0.02


def test_batch_norm_counts_each_chunk_once() -> None:
    model, x = network(norm="batch"), torch.randn(12, 3, 8, 8)
    other = copy.deepcopy(model)
    cached_step(model, x, nt_xent, chunk=4)
    for part in x.split(4):
        other(part)
    for (name, a), b in zip(model.named_buffers(), other.buffers()):
        torch.testing.assert_close(a, b, msg=name)


def test_auto_keeps_the_memory_budget() -> None:
    model, x = network(), torch.randn(64, 3, 32, 32)
    kept: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in (x, *model.parameters())}

    def count(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (alive.append(t), count(t))[1], lambda t: t):
        model(x[:16])
    per_row = sum(kept.values()) / 16
    before = torch.get_rng_state()
    for budget in (2**20, 2**22, 2**30):
        fastssl.set_memory_budget(budget)
        rows = auto_chunk(model, Inputs.of(x))
        assert rows == min(64, max(1, rows)) and (rows == 64 or abs(rows * per_row - budget) < 0.2 * budget)
    assert torch.equal(before, torch.get_rng_state())
    fastssl.set_memory_budget(2**20)
    other = copy.deepcopy(model)
    nt_xent(other(x)).backward()
    cached_step(model, x, nt_xent)
    assert relative(gradients(model), gradients(other)) < 1e-5


def test_frozen_towers_and_wrong_arguments() -> None:
    frozen, tower = network().requires_grad_(False), nn.Linear(5, 6)
    x, y = torch.randn(10, 3, 8, 8), torch.randn(10, 5)
    cached_step((frozen, tower), (x, y), lambda a, b: F.info_nce(a, b), chunk=4)
    assert all(p.grad is None for p in frozen.parameters()) and tower.weight.grad is not None
    wrong: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        (tower, [], {}, TypeError, "batch"),
        (tower, "x", {}, TypeError, "batch"),
        (tower, (x, y[:3]), {}, ValueError, r"one length.*\[10, 3\]"),
        (tower, {"a": 1}, {}, TypeError, "batch: expected tensors.*got dict"),
        (lambda x: "text", y, {"chunk": 3}, TypeError, "model: expected a tensor.*got str"),
        (lambda x: {"n": 3}, y, {"chunk": 3}, TypeError, "model: expected a tensor.*got dict"),
        ((tower,), (x, y), {}, ValueError, "model: expected one for each of 2"),
        (tower, y, {"chunk": 0}, ValueError, "chunk"),
        (tower, y, {"chunk": "some"}, ValueError, "chunk"),
    ]
    for model, batch, options, error, text in wrong:
        with pytest.raises(error, match=text):
            cached_step(model, batch, nt_xent, **options)


SPLIT = ["simclr", "sup-con", "barlow-twins", "vicreg", "clip", "align", "siglip"]


@pytest.mark.parametrize("name", SPLIT)
def test_methods_in_chunks(name: str) -> None:
    data = emoji().subset(np.arange(24), "emoji")
    data.labels = np.arange(24) % 6
    method = build_method(name, encoder_for(name, None, 32, 4), data, 0)
    other = copy.deepcopy(method)
    frozen_norms(method.train()), frozen_norms(other.train())
    batch = method.examples(data.items(range(24)), 0)
    views, labels = batch.views, batch.labels
    expected = other(batch)
    expected.backward()
    given = cached_step(method.represent, views, lambda *z: method.objective(*z, labels=labels), chunk=7)
    torch.testing.assert_close(given, expected.detach(), rtol=1e-5, atol=1e-5)
    # The shift of a bias that a batch norm takes away has no gradient but rounding: compared as a whole.
    assert relative(gradients(method), gradients(other)) < 2e-4


def test_losses_of_chunks_are_computed_in_the_dtype_of_whole_batches(tmp_path: Path) -> None:
    """Fabric casts what leaves a model to float32: losses of chunks would multiply other rows, more slowly."""
    data = emoji().subset(np.arange(48), "emoji")
    options, seen = encoder_for("simclr", None, 32, 4), []

    class Watched(SimCLR):
        def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
            seen.append([z.dtype for z in representations])
            return super().objective(*representations, labels=labels)

    found = []
    for chunk in (None, 24):
        torch.manual_seed(0)
        made = Pretraining(epochs=1, batch_size=24, warmup_epochs=0, precision="bf16-mixed", chunk=chunk)
        method = Watched(build_encoder(options))
        found.append(pretrain(method, data, made, out=tmp_path / str(chunk), encoder_options=options).state_dict())
        assert seen[-2:] == 2 * [2 * [torch.bfloat16]]
    for whole, one in zip(found[0].values(), found[1].values()):
        torch.testing.assert_close(whole, one, rtol=1e-3, atol=1e-5)


def test_pretraining_in_chunks(tmp_path: Path) -> None:
    data = emoji().subset(np.arange(48), "emoji")
    options = encoder_for("simclr", None, 32, 4)

    def run(out: str, **settings: Any) -> nn.Module:
        method = build_method("simclr", options, data, 0)
        made = Pretraining(**{"epochs": 2, "batch_size": 24, "warmup_epochs": 1, **settings})
        return pretrain(method, data, made, out=tmp_path / out, encoder_options=options, resume=True)

    whole, one, auto = run("whole"), run("one", chunk=24), run("auto", chunk="auto")
    for other in (one, auto):  # one chunk of all rows is the batch itself
        for a, b in zip(whole.state_dict().values(), other.state_dict().values()):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    run("parts", chunk=5, epochs=3)
    with pytest.raises(ValueError, match="chunk: byol does not embed rows independently"):
        byol = build_method("byol", options, data, 0)
        pretrain(byol, data, Pretraining(epochs=1, chunk=8), out=tmp_path / "byol")
    for wrong in ({"chunk": 0}, {"chunk": "some"}, {"chunk": 8, "precision": "16-mixed"}):
        with pytest.raises(ValueError, match="chunk"):
            run("wrong", **wrong)
    with pytest.raises(ValueError, match="chunk: the checkpoint was made with 5"):
        run("parts", chunk=6, epochs=3)


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "patch-cnn", "lab:resnet", "resnet18"])
@pytest.mark.parametrize("rows", [3, 7])
def test_narrow_encoders_survive_odd_batches(name: str, rows: int) -> None:
    """Ten backward passes of channels-last images through a few channels, which torch alone does not survive."""
    encoder = build_encoder({"name": name, "size": 32, "width": 6}).train()
    for _ in range(10):
        x = torch.randn(rows, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        encoder(x).sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_by_a_backward_pass_of_the_callers(dtype: torch.dtype) -> None:
    """Fabric's, of a scalar, which must have the same gradient to the last bit."""
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh()).to(dtype), torch.randn(10, 6, dtype=dtype)
    scalars: list[torch.Size] = []

    def backward(value: Tensor) -> None:
        scalars.append(value.shape)
        value.backward()

    found = []
    for how in (None, backward):
        model.zero_grad()
        cached_step(model, x, lambda z: (z.double() ** 2 * torch.arange(5)).mean(), chunk=4, backward=how)
        found.append([p.grad.clone() for p in model.parameters()])  # type: ignore[union-attr]
    assert scalars == [torch.Size([])] * 3 and all(torch.equal(a, b) for a, b in zip(*found))


def test_no_rows_are_no_loss() -> None:
    encoder = torch.nn.Linear(8, 4)
    assert cached_step(encoder, torch.zeros(0, 8), lambda z: F.nt_xent(*z.chunk(2)), chunk=4) == 0
    assert encoder.weight.grad is not None and not encoder.weight.grad.any()


def test_parameters_of_the_loss_are_scaled_as_those_of_the_model() -> None:
    """By a backward pass of the caller's, such as one that scales the loss of 16 bits."""
    torch.manual_seed(0)
    model, x = torch.nn.Linear(6, 5), torch.randn(20, 6)
    temperature = torch.nn.Parameter(torch.tensor(0.3))
    found = []
    for scale in (1.0, 1024.0):
        model.zero_grad(), setattr(temperature, "grad", None)
        cached_step(
            model,
            x,
            lambda z: F.nt_xent(*z.chunk(2), temperature=temperature),
            chunk=6,
            backward=lambda value, scale=scale: (value * scale).backward(),
        )
        found.append([p.grad / scale for p in (*model.parameters(), temperature)])  # type: ignore[operator]
    cached_step(model, x, lambda z: F.nt_xent(*z.chunk(2), temperature=temperature), chunk=6)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


class Norm(nn.Module):
    """Follows the mean of its inputs, in a buffer that it replaces; from some call on it fails."""

    def __init__(self, calls: float = math.inf) -> None:
        super().__init__()
        self.calls = calls
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise MemoryError("no more")
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return x


def test_buffers_that_a_model_replaces_change_once_per_chunk() -> None:
    """They changed in both passes."""
    model = nn.Sequential(Norm(), network())
    x, once = torch.randn(8, 3, 8, 8), Norm()
    for chunk in x.split(4):
        once(chunk)
    cached_step(model, x, nt_xent, chunk=4)
    torch.testing.assert_close(model[0].mean, once.mean)


@pytest.mark.parametrize("calls", [1, 2, 3])  # of the second tower: in its first pass, in the loss, in its last pass
def test_an_error_leaves_buffers_as_they_were(calls: int) -> None:
    """Statistics of batch norm had moved, so that the step with smaller chunks was another one."""
    towers = [network(norm="batch"), nn.Sequential(nn.BatchNorm2d(3), Norm(calls), network(norm="batch"))]
    before = [copy.deepcopy(dict(tower.named_buffers())) for tower in towers]
    x = torch.randn(8, 3, 8, 8)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        if calls == 2:
            raise MemoryError("no more")
        return F.nt_xent(a, b)

    with pytest.raises(MemoryError):
        cached_step(towers, [x, x], loss, chunk=4)
    for tower, buffers in zip(towers, before):
        for name, buffer in tower.named_buffers():
            assert torch.equal(buffer, buffers[name]), name


def test_a_loss_scale_that_fp16_does_not_hold() -> None:
    """GradScaler's first scale, 65,536, made all gradients infinite."""
    model, x = network(), torch.randn(8, 3, 8, 8)
    other = copy.deepcopy(model)
    with torch.autocast("cpu", torch.float16):
        cached_step(model, x, nt_xent, chunk=4, backward=lambda value: (value * 65536).backward())
        nt_xent(other(x)).backward()
    assert relative(gradients(model) / 65536, gradients(other)) < 0.02
