"""Training: it learns, resumes bit for bit, stops when told, and never leaves half a checkpoint."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.augment import SimCLRAugment
from fastssl.data import Images, digits
from fastssl.methods import SimCLR
from fastssl.models import build_encoder
from fastssl.train import (
    LARS,
    Pretraining,
    cosine_with_warmup,
    load_checkpoint,
    load_encoder,
    pretrain,
    save_checkpoint,
)
from fastssl.train.loop import epoch_order

ENCODER = {"name": "resnet", "size": 16, "width": 4, "blocks": 1}


def _model(seed: int = 0) -> SimCLR:
    torch.manual_seed(seed)
    return SimCLR(build_encoder(ENCODER), SimCLRAugment(16, blur=0), hidden=16, outputs=8)


def _data(n: int = 120) -> Images:
    return digits().subset(np.arange(n), "digits")


def _run(out: Path, **options: Any) -> SimCLR:
    keys = {"resume", "on_step"}
    extra = {k: options.pop(k) for k in keys & set(options)}
    settings = Pretraining(**{"epochs": 3, "batch_size": 40, "warmup_epochs": 1, **options})
    return pretrain(_model(), _data(), settings, out=out, encoder_options=ENCODER, **extra)  # type: ignore[return-value]


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


class _StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, progress: Any) -> None:
        if progress.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
@pytest.mark.parametrize("stop", [2, 5])
def test_resuming_gives_the_same_bits(tmp_path: Path, optimizer: str, stop: int) -> None:
    whole = _run(tmp_path / "whole", optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "parts", optimizer=optimizer, on_step=_StopAt(stop))
    assert load_checkpoint(tmp_path / "parts")[1]["step"] == stop
    resumed = _run(tmp_path / "parts", optimizer=optimizer, resume=True)
    assert _same(whole, resumed)
    histories = [load_checkpoint(tmp_path / p)[1]["history"] for p in ("whole", "parts")]
    assert histories[0] == histories[1] and len(histories[0]) == 9
    assert _same(resumed, _run(tmp_path / "parts", optimizer=optimizer, resume=True))  # nothing left to do


class _SignalAt(_StopAt):
    """Ctrl-C as the terminal sends it, while a step runs."""

    def __call__(self, progress: Any) -> None:
        if progress.step == self.step - 1:
            threading.Timer(0.002, lambda: os.kill(os.getpid(), signal.SIGINT)).start()


def test_ctrl_c_finishes_the_step_saves_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole", epochs=40)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "parts", epochs=40, on_step=_SignalAt(4))
    assert signal.getsignal(signal.SIGINT) is before
    assert 3 <= load_checkpoint(tmp_path / "parts")[1]["step"] < 120
    assert _same(whole, _run(tmp_path / "parts", epochs=40, resume=True))


def test_the_loss_goes_down_and_everything_is_written(tmp_path: Path) -> None:
    seen: list[Any] = []
    _run(tmp_path, epochs=12, lr=5e-3, on_step=seen.append)
    losses = [p.loss for p in seen]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.2
    assert seen[-1].step == seen[-1].total_steps == 36 and seen[-1].images_per_second > 0
    assert json.loads((tmp_path / "history.json").read_text())[-1][0] == 36
    assert list((tmp_path / "logs").glob("events.out.tfevents*"))
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == ["state.json", "tensors.safetensors"]


def test_minutes_choose_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves a fixed time with every look at it: four times the minutes are four times the epochs."""
    clock = itertools.count()
    monkeypatch.setattr("fastssl.train.loop.time.perf_counter", lambda: 0.05 * next(clock))
    epochs = []
    for minutes in (0.05, 0.2):
        _run(tmp_path / str(minutes), minutes=minutes)
        state = load_checkpoint(tmp_path / str(minutes))[1]
        assert state["epochs"] >= 3 and state["step"] == state["epochs"] * 3
        epochs.append(state["epochs"])
    assert 3 * epochs[0] < epochs[1] < 5 * epochs[0]


def test_the_encoder_comes_back_without_its_head(tmp_path: Path) -> None:
    model = _run(tmp_path)
    encoder, state = load_encoder(tmp_path)
    x = torch.randn(3, 3, 16, 16)
    assert torch.equal(encoder(x), model.encoder.eval()(x)) and state["method"] == "simclr"
    assert not any("projector" in k for k in encoder.state_dict())


def test_own_encoder_needs_own_loading(tmp_path: Path) -> None:
    pretrain(_model(), _data(), Pretraining(epochs=1, batch_size=60), out=tmp_path)
    with pytest.raises(ValueError, match="module of your own"):
        load_encoder(tmp_path)


def test_resuming_another_run_is_refused(tmp_path: Path) -> None:
    _run(tmp_path, epochs=1)
    with pytest.raises(ValueError, match="batch_size.*40.*60"):
        _run(tmp_path, epochs=1, batch_size=60, resume=True)
    with pytest.raises(ValueError, match="epochs.*1.*5"):
        _run(tmp_path, epochs=5, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = _model()
    with torch.no_grad():
        model.encoder.network.stem[0].weight.fill_(float("nan"))  # type: ignore[index,union-attr]
    with pytest.raises(RuntimeError, match="loss is nan at step 0"):
        pretrain(model, _data(), Pretraining(epochs=1, batch_size=60), out=tmp_path)


def test_checkpoints_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(tmp_path / "checkpoint", model, optimizer, {"step": 1})
    import fastssl.train.checkpoint as module

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path / "checkpoint", model, optimizer, {"step": 2})
    assert load_checkpoint(tmp_path)[1]["step"] == 1
    # Killed between the two renames: the old one is found.
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert load_checkpoint(tmp_path)[1]["step"] == 1


def test_epochs_are_permutations_of_their_own() -> None:
    first, second = epoch_order(50, 0, 0), epoch_order(50, 0, 1)
    assert sorted(first) == sorted(second) == list(range(50)) and list(first) != list(second)
    assert list(first) == list(epoch_order(50, 0, 0))


def test_schedule() -> None:
    factors = [cosine_with_warmup(step, 100, 10) for step in range(101)]
    assert factors[0] == 0.1 and factors[9] == 1 and factors[10] == 1
    assert math.isclose(factors[55], 0.5) and math.isclose(factors[100], 0, abs_tol=1e-12)
    assert all(a >= b for a, b in zip(factors[10:], factors[11:]))


def test_lars_by_hand() -> None:
    w, b = torch.nn.Parameter(torch.tensor([[3.0, 4.0]])), torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = LARS([w, b], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01)
    velocity_w, velocity_b, expected_w, expected_b = torch.zeros(1, 2), 0.0, w.detach().clone(), 1.0
    for gradient in (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])):
        w.grad, b.grad = gradient.clone(), torch.tensor([0.3])
        optimizer.step()
        update = gradient + 0.1 * expected_w
        velocity_w = 0.9 * velocity_w + update * 0.01 * expected_w.norm() / update.norm()
        velocity_b = 0.9 * velocity_b + 0.3
        expected_w, expected_b = expected_w - 0.5 * velocity_w, expected_b - 0.5 * velocity_b
        torch.testing.assert_close(w.detach(), expected_w)
        assert math.isclose(float(b.detach()), expected_b, rel_tol=1e-6)


def test_views_come_from_different_drawings() -> None:
    images = torch.zeros(30, 2, 16, 16, 3, dtype=torch.uint8)
    images[:, 1] = 255
    model = SimCLR(build_encoder(ENCODER), SimCLRAugment(16, jitter=0, blur=0, gray=0))
    first, second = (v.mean((1, 2, 3)) for v in model.views(images, seed=0))
    torch.testing.assert_close(first + second, torch.zeros(30), atol=1e-4, rtol=0)
    assert 0 < int((first > 0).sum()) < 30


class _Constant(SimCLR):
    """Its encoder gives all images the same features."""

    def forward(self, views: list[torch.Tensor], labels: torch.Tensor | None = None) -> torch.Tensor:
        with torch.no_grad():
            for p in self.encoder.parameters():
                p.zero_()
        return super().forward(views)


def test_a_collapse_ends_the_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Constant(build_encoder(ENCODER), SimCLRAugment(16, blur=0), hidden=16, outputs=8)
    with pytest.raises(RuntimeError, match="collapsed.*step 60"):
        pretrain(model, _data(), Pretraining(epochs=40, batch_size=40), out=tmp_path, encoder_options=ENCODER)


def test_what_led_to_a_nan_is_kept(tmp_path: Path) -> None:
    """The state before the step: loaded back, the same step meets the same loss."""

    class Breaks(SimCLR):
        broken = False

        def forward(self, views: list[torch.Tensor], labels: torch.Tensor | None = None) -> torch.Tensor:
            loss = super().forward(views)
            return loss * float("nan") if self.broken else loss

    torch.manual_seed(0)
    model = Breaks(build_encoder(ENCODER), SimCLRAugment(16, blur=0), hidden=16, outputs=8)
    before: dict[str, torch.Tensor] = {}

    def watch(progress: Any) -> None:
        if progress.step == 4:
            before.update({k: v.clone() for k, v in model.state_dict().items()})
            model.broken = True

    with pytest.raises(RuntimeError, match=r"loss is nan at step 4.*diverged"):
        pretrain(model, _data(), Pretraining(epochs=3, batch_size=40), out=tmp_path, on_step=watch)
    tensors, state = load_checkpoint(tmp_path / "diverged")
    assert state["step"] == 4
    names = [k for k in before if "running" not in k and "num_batches" not in k]  # the forward pass moved these
    assert all(torch.equal(tensors["model." + k], before[k]) for k in names)


def test_what_does_not_fit_is_said_before_training(tmp_path: Path) -> None:
    from fastssl.augment import Augment, CenterCrop, Views
    from fastssl.methods import get

    small = Views([(2, Augment([CenterCrop(10, resize=10)]))])
    encoder = {"name": "vit", "size": 16, "width": 8, "patch": 4}
    model = SimCLR(build_encoder(encoder), small, spatial=True)
    with pytest.raises(
        ValueError, match=r"method: simclr and its encoder cannot use images .*views \[\(2, 3, 10, 10\)"
    ):
        pretrain(model, _data(), Pretraining(epochs=1), out=tmp_path)
    with pytest.raises(ValueError, match="the crop does not fit the image of 16 x 16"):
        crop = Views([(2, Augment([CenterCrop(32)]))])
        pretrain(SimCLR(build_encoder(ENCODER), crop), _data(), Pretraining(epochs=1), out=tmp_path)
    with pytest.raises(ValueError, match="texts"):
        pretrain(get("clip")(build_encoder(ENCODER)), _data(), Pretraining(epochs=1), out=tmp_path)
    assert not (tmp_path / "checkpoint").exists()
