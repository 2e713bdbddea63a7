"""The gradient of a step: that of the whole batch, however it is cut, compiled or brought to the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import ArraySource, Batch, digits, emoji
from fastssl.methods import ContextEncoder, ImageMethod, Method, SimCLR, methods_of
from fastssl.models import build_encoder
from fastssl.train import Pretraining, device, load_checkpoint, pretrain
from fastssl.train.device import DeviceCopier, DevicePrefetcher
from fastssl.train.gradients import Gradients, check_batch, split_batch
from tests.support.training import frozen_norms, gradients, relative

ENCODER = {"name": "resnet", "size": 16, "width": 4}
WHOLE = {  # what these compare, or carry from one part of a batch to the next
    "moco": "a queue", "moco-v3": "rows", "nnclr": "rows and a queue", "dino": "its centre", "swav": "assignments",
    "ibot": "its centres", "nat": "assignments",
    "inter-clr": "rows and a memory", "amdim": "rows", "cmc": "rows", "cpc": "patches of other images", "counting":
    "another image", "colorization": "how often colours are", "stacked-denoising": "noise that is drawn in the step",
    "context-encoder": "means over pixels and over images",
}  # fmt: skip


def made(name: str, rows: int = 13) -> tuple[ImageMethod, Batch]:
    data = emoji().subset(np.arange(rows), "emoji")
    data.labels = np.arange(rows) % 6
    size = 8 if name in ("igpt", "pixelcnn", "pixelrnn") else 32  # one step per pixel
    method = build_method(name, encoder_for(name, None, size, 4), data, 0)
    if method.needs_dataset_features:
        method.clusters = 3  # type: ignore[assignment]
        method.before_epoch(torch.randn(rows, method.features), 0, 0)
    return method, method.examples(data.items(range(rows)), 0)


def compared(method: ImageMethod, batch: Batch, parts: int) -> tuple[float, float]:
    """How far loss and gradient are from those of the whole batch."""
    other = frozen_norms(copy.deepcopy(method).train())
    torch.manual_seed(0)  # of what a loss draws
    expected = other(batch)
    expected.backward()
    options = Pretraining(accumulate=parts)
    check_batch(method, options, len(batch.ids))  # type: ignore[arg-type]
    fabric = Fabric(accelerator="cpu", devices=1)
    step = Gradients(fabric, fabric.setup_module(method), method, options)
    frozen_norms(method.train())
    torch.manual_seed(0)
    loss = step(batch)
    return abs(float(loss - expected.detach())) / abs(float(expected.detach())), relative(
        gradients(method), gradients(other)
    )


@pytest.mark.parametrize("name", methods_of("images"))
def test_parts_of_a_batch_have_its_gradient_or_are_refused(name: str) -> None:
    method, batch = made(name)
    if name in WHOLE:
        with pytest.raises(ValueError, match=f"accumulate: {name} compares the rows of a batch, or stores them"):
            check_batch(method, Pretraining(accumulate=2), 13)
        return
    loss, gradient = compared(method, batch, 4)  # of 3, 3, 3 and 4 rows
    assert loss < 1e-5 and gradient < 2e-4


@pytest.mark.parametrize("parts", [2, 5, 13])
def test_terms_count_where_parts_have_unequally_many(parts: int) -> None:
    method, batch = made("context-encoder")
    batch.views[1][::2, :, 6:] = False
    batch.views[1][::2, :, :6] = True
    batch.views[1][:3] = True  # some lose a fifth of their pixels, some all
    even = ContextEncoder(method.encoder, lambda_gan=0)
    terms = [even.terms(part) for part in split_batch(batch, parts)]
    assert len(set(terms)) > 1 and sum(terms) == even.terms(batch) == int(batch.views[1].sum())
    loss, gradient = compared(even, batch, parts)
    assert loss < 1e-5 and gradient < 1e-4
    uneven = copy.deepcopy(even)  # the mean of the parts' means is something else
    uneven.terms = lambda part: len(part.ids)  # type: ignore[method-assign]
    assert compared(uneven, batch, parts)[1] > 1e-2


def test_cut_keeps_rows_and_their_order() -> None:
    batch = Batch([torch.arange(20).reshape(10, 2), torch.arange(10)], None, torch.arange(10))
    parts = split_batch(batch, 4)
    assert [len(part.ids) for part in parts] == [2, 3, 2, 3] and all(part.labels is None for part in parts)
    assert torch.equal(torch.cat([part.views[0] for part in parts]), batch.views[0])
    assert split_batch(batch, 1)[0] is batch


def run(out: Path, **options: Any) -> Method:
    extra = {k: options.pop(k) for k in ("resume", "on_step") if k in options}
    torch.manual_seed(0)
    settings = Pretraining(**{"epochs": 2, "batch_size": 30, "warmup_epochs": 1, **options})
    return pretrain(SimCLR(build_encoder(ENCODER)), small(), settings, out=out, encoder_options=ENCODER, **extra)


def small() -> ArraySource:
    return digits().subset(np.arange(60), "digits")


def test_runs_in_parts(tmp_path: Path) -> None:
    whole, one = (run(tmp_path / f"{chunk}", chunk=chunk, precision="32-true") for chunk in (None, 30))
    parts = run(tmp_path / "parts", accumulate=3)
    chunks = run(tmp_path / "chunks", chunk=10)
    for a, b in zip(parts.parameters(), chunks.parameters()):  # SimCLR compares rows: it takes the way of chunk
        assert torch.equal(a, b)
    for a, b in zip(whole.parameters(), one.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for wrong, match in (
        ({"accumulate": 31}, "accumulate: expected at most 30 for 30 rows per process, got 31"),
        ({"accumulate": 0}, "accumulate: expected an integer >= 1"),
        ({"accumulate": 2, "chunk": 5}, "accumulate: give chunk or accumulate"),
        (
            {"accumulate": 2, "precision": "16-mixed"},
            "precision: expected 'bf16-mixed', '32-true' or 'auto'|without loss scaling, got '16-mixed'",  # on a GPU
        ),
        ({"compile": True, "strategy": "fsdp"}, "compile: expected strategy 'ddp'"),
    ):
        with pytest.raises(ValueError, match=match):
            run(tmp_path / "wrong", **wrong)
    with pytest.raises(ValueError, match="accumulate: the checkpoint was made with 3, got 1"):
        run(tmp_path / "parts", resume=True)


# Compiled.


def test_compiled_encoders_keep_their_names_and_runs_go_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        calls.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(device, "BACKEND", backend)
    torch._dynamo.reset()

    def stop(progress: Any) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    eager = run(tmp_path / "eager")
    assert not calls
    method = run(tmp_path / "compiled", compile=True)
    assert calls and method.state_dict().keys() == eager.state_dict().keys()
    count = len(calls)
    method.encoder(torch.zeros(5, 3, 16, 16))  # type: ignore[operator]
    assert len(calls) == count  # a method that comes back is as it was
    for key, value in load_checkpoint(tmp_path / "eager")[0].items():
        assert torch.equal(value, load_checkpoint(tmp_path / "compiled")[0][key])  # this backend does what eager does
    for first, second in ((True, False), (False, True)):
        out = tmp_path / f"{first}"
        with pytest.raises(KeyboardInterrupt):
            run(out, compile=first, on_step=stop)
        mixed = run(out, compile=second, resume=True)
        assert all(torch.equal(a, b) for a, b in zip(mixed.parameters(), eager.parameters()))
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", "mae", "byol"])
def test_inductor_trains_as_eager_does(name: str, tmp_path: Path) -> None:
    data = emoji().subset(np.arange(32), "emoji")
    options = encoder_for(name, None, 32, 8)
    made = []
    for compiled in (False, True):
        torch._dynamo.reset()
        method = build_method(name, options, data, 0)
        settings = Pretraining(epochs=2, batch_size=16, warmup_epochs=1, compile=compiled)
        pretrain(method, data, settings, out=tmp_path / f"{compiled}", encoder_options=options)
        made.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    assert relative(made[1], made[0]) < 1e-3


# On the way to a device.


class Recorded(DeviceCopier):
    """DeviceCopier of a device with a stream, of which every call is noted."""

    def __init__(self, noted: list[str]) -> None:
        super().__init__(torch.device("cpu"))
        self.noted = noted

    def start(self, batch: Any) -> Any:
        self.noted.append(f"copy {batch}")
        return batch

    def finish(self, batch: Any) -> Any:
        self.noted.append(f"use {batch}")
        return batch


def test_the_next_batch_is_copied_while_a_step_computes() -> None:
    noted: list[str] = []

    def loader() -> Iterator[int]:
        for k in range(3):
            noted.append(f"load {k}")
            yield k

    batches = DevicePrefetcher(loader(), Recorded(noted))
    for _ in range(3):
        batch = next(batches)
        noted.append(f"compute {batch}")
        batches.prefetch()
        batches.prefetch()  # there is one on its way already
    with pytest.raises(StopIteration):
        next(batches)
    first = ["load 0", "copy 0", "use 0", "compute 0", "load 1", "copy 1"]
    assert noted == [*first, "use 1", "compute 1", "load 2", "copy 2", "use 2", "compute 2"]


@pytest.mark.parametrize("name", ["simclr", "deep-cluster"])
def test_a_step_prepares_the_next_unless_it_is_chosen_by_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer as on a GPU: the weights are the same, the copies come before the loss is read."""
    data = emoji().subset(np.arange(12), "emoji")
    options = encoder_for(name, None, 32, 4)
    states, noted = [], []

    class Streamed(DeviceCopier):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            self.stream: Any = "a stream"

        def start(self, batch: Any) -> Any:
            noted.append("copy")
            return batch

        def finish(self, batch: Any) -> Any:
            noted.append("use")
            return batch

    for copies in (DeviceCopier, Streamed):
        monkeypatch.setattr("fastssl.train.trainer.DeviceCopier", copies)
        method = build_method(name, options, data, 0)
        if method.needs_dataset_features:
            method.clusters = 3  # type: ignore[assignment]
        settings = Pretraining(epochs=2, batch_size=6, warmup_epochs=1, accelerator="cpu")
        pretrain(method, data, settings, out=tmp_path / copies.__name__, encoder_options=options)
        states.append(method.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    ahead = ["copy", "use", "copy", "use", "copy", "use", "copy", "use"]
    assert noted == ahead
