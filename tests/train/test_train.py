"""Training: it learns, resumes bit for bit, stops when told, and never leaves half a checkpoint."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fastssl.data
from fastssl.augment import SimCLRAugment
from fastssl.cli import app
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import ArraySource, Batch, digits, emoji
from fastssl.data.loader import epoch_order
from fastssl.evaluate import encode, evaluate
from fastssl.methods import SimCLR, get, methods_of
from fastssl.models import Encoder, build_encoder
from fastssl.models.folder import find_checkpoint
from fastssl.train import (
    LARS,
    Pretraining,
    is_rank_zero,
    learning_rate_factor,
    load_checkpoint,
    load_encoder,
    load_method,
    pretrain,
    recipe,
    save_checkpoint,
)
from fastssl.train.probe import OnlineProbe
from fastssl.train.recorded import attributes_of, check_recorded

PAPERS = ("simclr", "moco", "moco-v3", "byol", "simsiam", "barlow-twins", "vicreg", "lejepa", "swav", "mae")
ENCODER = {"name": "resnet", "size": 16, "width": 4, "blocks": 1}


def _model(seed: int = 0) -> SimCLR:
    torch.manual_seed(seed)
    return SimCLR(build_encoder(ENCODER), SimCLRAugment(16, blur=0), hidden=16, outputs=8)


def _data(n: int = 120) -> ArraySource:
    return digits().subset(np.arange(n), "digits")


def _run(out: Path, **options: Any) -> SimCLR:
    keys = {"resume", "overwrite", "on_step"}
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


@pytest.mark.parametrize(
    ("optimizer", "stop"),
    [  # within the first epoch and later, for one of them
        *(("adamw", 2), ("adamw", 5), ("lars", 5), ("muon", 5)),
        *(pytest.param(optimizer, 2, marks=pytest.mark.slow) for optimizer in ("lars", "muon")),
    ],
)
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
    whole = _run(tmp_path / "whole", epochs=15)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "parts", epochs=15, on_step=_SignalAt(4))
    assert signal.getsignal(signal.SIGINT) is before
    assert 3 <= load_checkpoint(tmp_path / "parts")[1]["step"] < 45
    assert _same(whole, _run(tmp_path / "parts", epochs=15, resume=True))


def test_the_loss_goes_down_and_everything_is_written(tmp_path: Path) -> None:
    seen: list[Any] = []
    _run(tmp_path, epochs=12, lr=5e-3, on_step=seen.append)
    losses = [p.loss for p in seen]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.2
    assert seen[-1].step == seen[-1].total_steps == 36 and seen[-1].rate > 0
    assert json.loads((tmp_path / "history.json").read_text())[-1][0] == 36
    assert list((tmp_path / "logs").glob("events.out.tfevents*"))
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == ["state.json", "tensors.safetensors"]


def test_minutes_choose_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves a fixed time with every look at it: four times the minutes are four times the epochs."""
    clock = itertools.count()
    monkeypatch.setattr("fastssl.train.trainer.time.perf_counter", lambda: 0.05 * next(clock))
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
    torch.testing.assert_close(encoder(x), model.cpu().encoder.eval()(x))
    assert state["method"] == "simclr"
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name
    assert not any("projector" in k for k in encoder.state_dict())


def test_own_encoder_needs_own_loading(tmp_path: Path) -> None:
    own = SimCLR(Encoder(torch.nn.Conv2d(3, 8, 4, 4), 16), SimCLRAugment(16, blur=0))
    pretrain(own, _data(), Pretraining(epochs=1, batch_size=60), out=tmp_path)
    with pytest.raises(ValueError, match="custom module"):
        load_encoder(tmp_path)


def test_options_of_the_method_are_recorded(tmp_path: Path) -> None:
    """Those that differ from the defaults, without being repeated."""
    settings = Pretraining(epochs=1, batch_size=40)
    method = SimCLR(build_encoder(ENCODER), temperature=0.5)
    pretrain(method, _data(), settings, out=tmp_path, encoder_options=ENCODER)
    loaded = load_method(tmp_path)
    assert isinstance(loaded, SimCLR) and loaded.temperature == 0.5
    other = SimCLR(build_encoder(ENCODER), temperature=0.05)
    with pytest.raises(ValueError, match="method_options: the checkpoint was made with .*0.5.*, got .*0.05"):
        pretrain(other, _data(), settings, out=tmp_path, encoder_options=ENCODER, resume=True)
    path = find_checkpoint(tmp_path) / "state.json"  # one that was written before they were recorded is resumed
    state = json.loads(path.read_text())
    assert state.pop("method_attributes") == {"temperature": 0.5}
    path.write_text(json.dumps(state))
    pretrain(method, _data(), settings, out=tmp_path, encoder_options=ENCODER, resume=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("moco-v3", {"momentum": 0.9}), ("sup-con", {"hidden": 24}), ("inter-clr", {"momentum": 0.9})),
        *(("dino", {"spatial": True}), ("masked", {"patch": None})),
    ],
)
def test_arguments_that_are_handed_on_are_known(name: str, options: dict[str, Any]) -> None:
    method = get(name)(build_encoder(ENCODER), **options)  # type: ignore[arg-type]
    check_recorded(method, ENCODER, options)
    again = get(name)(build_encoder(ENCODER), **{**attributes_of(method), **options})  # type: ignore[arg-type]
    assert [tuple(t.shape) for t in again.state_dict().values()] == [
        tuple(t.shape) for t in method.state_dict().values()
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method_options": {"temperature": np.float32(0.1)}},
            "method_options: expected values that JSON",
        ),
        ({"method_options": {"temprature": 1}}, "method_options: simclr has no argument temprature; it has encoder"),
        ({"method_options": {"temperature": 0.3}}, "method_options: simclr has temperature=0.1, got 0.3"),
        ({"encoder_options": {**ENCODER, "width": 8}}, r"encoder_options: .* whose .* is \(4,.*, got \(8,"),
        ({"encoder_options": {**ENCODER, "size": 32}}, "encoder_options: .* 3 channels and 16 pixels, got 3 and 32"),
    ],
)
def test_options_that_are_recorded_are_those_of_the_method(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain(SimCLR(build_encoder(ENCODER)), _data(), Pretraining(epochs=1, batch_size=40), out=tmp_path, **options)
    assert not (tmp_path / "checkpoint").exists()


class Own(SimCLR):
    """A method of a user's own."""

    name = "own"


def test_runs_of_own_methods_are_evaluated_by_their_encoder(tmp_path: Path) -> None:
    settings = Pretraining(epochs=1, batch_size=40)
    pretrain(Own(build_encoder(ENCODER)), "digits", settings, out=tmp_path, encoder_options=ENCODER)
    with pytest.raises(ValueError, match="is a method of your own; build it and load its tensors"):
        load_method(tmp_path)
    for command in (["evaluate", "--only"], ["export"]):
        result = CliRunner().invoke(app, [command[0], str(tmp_path), *command[1:]])
        assert result.exit_code == 0, result.exception


def test_networks_of_ones_own_are_evaluated_without_a_random_one() -> None:
    encoder = Encoder(torch.nn.Conv2d(3, 4, 4, 4), 16)
    assert set(evaluate(encoder, None, _data())["digits_linear"]) == {"pretrained", "pixels"}
    with pytest.raises(TypeError, match=r"encoder: expected an Encoder, got Conv2d; wrap the network: Encoder\("):
        encode(encoder.network, _data())  # type: ignore[arg-type]


def test_resuming_another_run_is_refused(tmp_path: Path) -> None:
    _run(tmp_path, epochs=1)
    with pytest.raises(ValueError, match="batch_size.*40.*60"):
        _run(tmp_path, epochs=1, batch_size=60, resume=True)
    with pytest.raises(ValueError, match="data: the checkpoint was made with digits of 120 items, got digits of 119"):
        settings = Pretraining(epochs=1, batch_size=40, warmup_epochs=1)
        pretrain(_model(), _data(119), settings, out=tmp_path, encoder_options=ENCODER, resume=True)
    relabelled = _data()
    relabelled.labels = relabelled.labels[::-1].copy()
    with pytest.raises(ValueError, match="items, names or labels differ"):
        pretrain(_model(), relabelled, settings, out=tmp_path, encoder_options=ENCODER, resume=True)
    with pytest.raises(ValueError, match="encoder: the checkpoint was made with .*'width': 4.*'width': 8"):
        wide = {**ENCODER, "width": 8}
        other = SimCLR(build_encoder(wide), SimCLRAugment(16, blur=0), hidden=16, outputs=8)
        pretrain(other, _data(), settings, out=tmp_path, encoder_options=wide, resume=True)
    with pytest.raises(ValueError, match="method: the checkpoint was made with 'simclr', got 'rotnet'"):
        other = get("rotnet")(build_encoder(ENCODER))
        pretrain(other, _data(), settings, out=tmp_path, encoder_options=ENCODER, resume=True)


def test_a_finished_run_is_not_replaced_without_a_word(tmp_path: Path) -> None:
    _run(tmp_path, epochs=2)
    with pytest.raises(ValueError, match=r"out: .* holds a run already.*--resume, --overwrite, --out"):
        _run(tmp_path, epochs=1)
    assert load_checkpoint(tmp_path)[1]["step"] == 6
    _run(tmp_path, epochs=1, overwrite=True)
    assert load_checkpoint(tmp_path)[1]["step"] == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out: expected a folder, .* is a file"):
        _run(tmp_path / "file", epochs=1)


def test_resuming_says_what_there_is_to_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _run(tmp_path, epochs=1)
    assert "resume" not in caplog.text
    _run(tmp_path / "empty", epochs=1, resume=True)
    assert f"resume: no checkpoint in {tmp_path / 'empty'}, a new run starts" in caplog.text
    caplog.clear()
    _run(tmp_path, epochs=1, resume=True)
    assert f"resume: the run in {tmp_path} has all of its 3 steps, nothing is left to do" in caplog.text


def test_epochs_may_be_added_on_resuming(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _run(tmp_path, epochs=1)
    rates: list[float] = []
    _run(tmp_path, epochs=3, resume=True, on_step=lambda p: rates.append(p.lr))
    assert "3 instead of 1; from step 3 on the learning rate follows the schedule" in caplog.text
    assert rates == [2e-3 * learning_rate_factor(step, 9, 3) for step in range(3, 9)]
    with pytest.raises(ValueError, match="epochs: the checkpoint was made with 3, got 2"):
        _run(tmp_path, epochs=2, resume=True)


def test_a_run_that_is_shorter_than_its_warm_up_reaches_its_rate(tmp_path: Path) -> None:
    rates: list[float] = []
    _run(tmp_path, epochs=2, warmup_epochs=10, on_step=lambda p: rates.append(p.lr))
    assert rates == [2e-3 * learning_rate_factor(step, 6, 3) for step in range(6)] and max(rates) == 2e-3


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("optimizer", "adam"),
        ("precision", "fp16"),
        ("accelerator", "tpu"),
        ("strategy", "dp"),
        ("seed", -1),
        ("lr", math.nan),
        ("lr", 0.0),
        ("weight_decay", -1.0),
        ("minutes", 0.0),
        ("workers", 0),
        ("on_error", "ignore"),
        ("nodes", 0),
    ],
)
def test_options_are_checked_before_anything_begins(tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(
        ValueError, match=f"{option}: expected .*, got {value!r}".replace(".", r"\.").replace(r"\.*", ".*")
    ):
        _run(tmp_path / "out", **{option: value})
    assert not (tmp_path / "out").exists()


def test_a_batch_of_one_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size: simclr compares the items of a batch, and needs at least 2"):
        _run(tmp_path, batch_size=1)
    pretrain(get("mae")(build_encoder({"name": "vit", "size": 16, "width": 8})), _data(4),
             Pretraining(epochs=16, batch_size=1), out=tmp_path)  # fmt: skip
    assert load_checkpoint(tmp_path)[1]["step"] == 64  # and nothing has collapsed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accelerator: 'gpu' needs a GPU"):
        _run(tmp_path, accelerator="gpu")
    assert Pretraining(accelerator="auto", precision="auto").device_type == "cpu"


def test_automatic_precision_is_bf16_where_the_cpu_multiplies_it_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Pretraining(accelerator="cpu", precision="auto")
    for amx, dot, vendor, expected in (
        (False, False, "AuthenticAMD", "32-true"),
        (True, True, "GenuineIntel", "bf16-mixed"),
        (False, True, "GenuineIntel", "32-true"),
        (False, True, "AuthenticAMD", "bf16-mixed"),
    ):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda dot=dot: dot)
        monkeypatch.setattr("fastssl.models.precision.cpu_entry", lambda name, vendor=vendor: vendor)
        assert options.resolved_precision == expected


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
    import fastssl.models.folder as module

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path / "checkpoint", model, optimizer, {"step": 2})
    assert load_checkpoint(tmp_path)[1]["step"] == 1
    # Killed between the two renames: the old one is found.
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert load_checkpoint(tmp_path)[1]["step"] == 1
    with pytest.raises(OSError, match="the previous one is unchanged"):  # and stays where the next one fails, too
        save_checkpoint(tmp_path / "checkpoint", model, optimizer, {"step": 3})
    assert load_checkpoint(tmp_path)[1]["step"] == 1


def test_epochs_are_permutations_of_their_own() -> None:
    first, second = epoch_order(50, 0, 0), epoch_order(50, 0, 1)
    assert sorted(first) == sorted(second) == list(range(50)) and list(first) != list(second)
    assert list(first) == list(epoch_order(50, 0, 0))


def test_schedule() -> None:
    factors = [learning_rate_factor(step, 100, 10) for step in range(101)]
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
    first, second = (v.mean((1, 2, 3)) for v in model.examples(ArraySource(images).items(range(30)), 0).views)
    torch.testing.assert_close(first + second, torch.zeros(30), atol=1e-4, rtol=0)
    assert 0 < int((first > 0).sum()) < 30


class _Constant(SimCLR):
    """Its encoder gives all images the same features."""

    def forward(self, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            for p in self.encoder.parameters():
                p.zero_()
        return super().forward(batch)


def test_a_collapse_ends_the_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Constant(build_encoder(ENCODER), SimCLRAugment(16, blur=0), hidden=16, outputs=8)
    with pytest.raises(RuntimeError, match="collapsed.*step 60"):
        pretrain(model, _data(), Pretraining(epochs=40, batch_size=40), out=tmp_path, encoder_options=ENCODER)


def test_what_led_to_a_nan_is_kept(tmp_path: Path) -> None:
    """The state before the step: loaded back, the same step meets the same loss."""

    class Breaks(SimCLR):
        broken = False

        def forward(self, batch: Batch) -> torch.Tensor:
            loss = super().forward(batch)
            return loss * float("nan") if self.broken else loss

    torch.manual_seed(0)
    model = Breaks(build_encoder(ENCODER), SimCLRAugment(16, blur=0), hidden=16, outputs=8)
    before: dict[str, torch.Tensor] = {}

    def watch(progress: Any) -> None:
        if progress.step == 4:
            before.update({k: v.cpu().clone() for k, v in model.state_dict().items()})
            model.broken = True

    with pytest.raises(RuntimeError, match=r"loss is nan at step 4.*diverged"):
        pretrain(model, _data(), Pretraining(epochs=3, batch_size=40), out=tmp_path, on_step=watch)
    tensors, state = load_checkpoint(tmp_path / "diverged")
    assert state["step"] == 4
    names = [k for k in before if "running" not in k and "num_batches" not in k]  # the forward pass moved these
    assert all(torch.equal(tensors["model." + k], before[k]) for k in names)


def test_what_does_not_fit_is_said_before_training(tmp_path: Path) -> None:
    from fastssl.augment import Augment, CenterCrop, Views

    small = Views([(2, Augment([CenterCrop(10, resize=10)]))])
    encoder = {"name": "vit", "size": 16, "width": 8, "patch": 4}
    model = SimCLR(build_encoder(encoder), small, spatial=True)
    with pytest.raises(ValueError, match=r"method: simclr and its network cannot process images .*\[\(2, 3, 10, 10\)"):
        pretrain(model, _data(), Pretraining(epochs=1), out=tmp_path)
    with pytest.raises(ValueError, match="the crop does not fit the image of 16 x 16"):
        crop = Views([(2, Augment([CenterCrop(32)]))])
        pretrain(SimCLR(build_encoder(ENCODER), crop), _data(), Pretraining(epochs=1), out=tmp_path)
    with pytest.raises(ValueError, match="data: clip needs a text with each item, 0 of digits has none, but an image"):
        pretrain(get("clip")(build_encoder(ENCODER)), _data(), Pretraining(epochs=1), out=tmp_path)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("every", [1, 2])
def test_looking_at_the_features_does_not_change_the_training(tmp_path: Path, every: int) -> None:
    plain = _run(tmp_path / "plain")
    seen: list[Any] = []
    probed = _run(tmp_path / "probed", probe_every=every, on_step=seen.append)
    assert _same(plain, probed)
    states = [load_checkpoint(tmp_path / run)[1] for run in ("plain", "probed")]
    assert states[0]["history"] == states[1]["history"]
    looks = json.loads((tmp_path / "probed" / "measured.json").read_text())
    steps = [3, 6, 9] if every == 1 else [6, 9]
    assert [(s, n) for s, n, _ in looks] == [(s, n) for s in steps for n in ("knn", "linear")]
    assert all(10 < value <= 100 for _, _, value in looks) and seen[-1].measured.keys() == {"knn", "linear"}
    for options in ({"probe_every": 0}, {"probe_every": True}):
        with pytest.raises(ValueError, match="probe_every: expected an integer >= 1"):
            _run(tmp_path / "wrong", **options)


def test_numbers_are_probed_by_their_r2() -> None:
    """R^2 of what features say exactly is near 100, that of what they do not say near 0 or below."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(200, 4)).astype(np.float32))
    images = np.zeros((201, 8, 8, 3), np.uint8)
    for told in (True, False):
        scores = np.append(40 + 3 * features[:, 0].numpy() if told else rng.normal(size=200), np.nan)
        probe = OnlineProbe(fastssl.data.open(images, scores=scores), 1)
        assert len(probe.source) == 200 and probe.cut == 160
        order = np.random.default_rng([17, 0]).permutation(200)
        found = probe.measure(features[order])
        assert set(found) == {"knn_r2", "linear_r2"}
        assert found["linear_r2"] > 99 if told else found["linear_r2"] < 20
        assert found["knn_r2"] > 50 if told else found["knn_r2"] < 20
    with pytest.raises(ValueError, match="at least 20 items with different scores, images has 30"):
        OnlineProbe(fastssl.data.open(images[:30], scores=[1.0] * 30), 1)


def test_the_world_of_torchrun_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pretraining().processes == (1, 1) and Pretraining(devices=2, nodes=3).processes == (2, 3)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4"), ("RANK", "3")):
        monkeypatch.setenv(name, value)
    assert Pretraining().processes == Pretraining(devices=4).processes == (4, 2)
    with pytest.raises(ValueError, match="devices: torchrun has started 4 processes on this machine, got 3"):
        _ = Pretraining(devices=3).processes


def test_the_tasks_of_slurm_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "5"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert Pretraining().processes == Pretraining(devices=4, nodes=2).processes == (4, 2) and not is_rank_zero()
    with pytest.raises(ValueError, match="nodes: SLURM has started 2 machines, got 3"):
        _ = Pretraining(nodes=3).processes
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # a shell of an allocation
    assert Pretraining(devices=3).processes == (3, 1) and is_rank_zero()
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ValueError, match="devices: SLURM has started 8 tasks on 2 machines; set --ntasks-per-node"):
        _ = Pretraining().processes


def test_machines_need_a_launcher(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nodes: start .* with torchrun or srun, or set MASTER_ADDR and NODE_RANK"):
        _run(tmp_path, nodes=2)


@pytest.mark.parametrize("method", [*PAPERS, "rotnet"])
def test_recipes_are_settings_that_exist(method: str) -> None:
    for name in ("small", "paper") if method in PAPERS else ("small",):
        found = recipe(method, 1_281_167, name)
        Pretraining(**found.options).check()
        assert found.name in str(found) and str(found.options["lr"]) in str(found)
        kind = get(method)
        known = {p for base in kind.__mro__ for p in inspect.signature(base.__init__).parameters}
        assert set(found.method) <= known
    small = recipe(method, 5_000)
    plain = Pretraining(batch_size=128) if method == "simclr" else Pretraining()
    assert small.name == "small" and all(getattr(plain, key) == value for key, value in small.options.items())


def test_recipes_of_papers() -> None:
    """Learning rates as the papers write them."""
    rates = {m: recipe(m, 1_281_167).options["lr"] for m in PAPERS}
    expected = {"simclr": 4.8, "moco": 0.03, "moco-v3": 2.4e-3, "byol": 3.2, "simsiam": 0.1, "barlow-twins": 1.6}
    expected |= {"vicreg": 1.6, "lejepa": 2e-3, "swav": 4.8, "mae": 2.4e-3}
    assert rates == pytest.approx(expected)
    assert recipe("simclr", 10**6, batch_size=1024).options["lr"] == pytest.approx(1.2)
    assert recipe("rotnet", 10**6).name == "small"
    with pytest.raises(
        ValueError, match=r"recipe: expected a method with settings of its paper \(simclr, .*\), got rotnet"
    ):
        recipe("rotnet", 10**6, "paper")
    assert recipe("simclr", 10**6).size == 224 and recipe("simclr", 100).size == 32
    with pytest.raises(ValueError, match="recipe: expected one of small, paper, got 'large'"):
        recipe("simclr", 10, "large")


def test_recipes_of_embedded_data() -> None:
    """What suits the data goes before the recipe, and is of that data alone: a folder of that name has none of it."""
    assert recipe("simclr", 100, embedded="digits").method["temperature"] == 0.5
    found = recipe("simclr", 100, embedded="digits")
    assert found.size == 16 and found.views["flip"] == 0 and recipe("simclr", 100).views == {}
    assert recipe("byol", 100, "paper", embedded="emoji").method["momentum"] == 0.96
    assert recipe("byol", 100, "paper", embedded="emoji").method["hidden"] == 4096
    for name in ("emoji", "digits"):
        for method in methods_of("images"):
            known = {p for base in get(method).__mro__ for p in inspect.signature(base.__init__).parameters}
            assert set(recipe(method, 100, embedded=name).method) <= known
    assert recipe("simclr", 100, embedded="tones") == recipe("simclr", 100)


def test_a_module_is_no_encoder_yet() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU())
    for method in methods_of("images").values():
        with pytest.raises(TypeError, match=r"encoder: .* got Sequential: .* Encoder\(module, size=224\)"):
            method(net)  # type: ignore[arg-type]
    assert SimCLR(Encoder(net, 16)).encoder.dim == 8


def test_views_made_where_the_batch_is_train_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the GPU's kernels, here as loops, whose views have the bits of the CPU's."""
    from fastssl.ops.triton import cuda

    images = np.random.default_rng(0).integers(0, 256, (24, 20, 18, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="views_on: expected 'cpu' or 'gpu', got 'there'"):
        Pretraining(views_on="there").check()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="views_on: 'gpu' is not usable: "):
            Pretraining(views_on="gpu").check()
        monkeypatch.setattr(cuda, "reason", lambda: "")
        monkeypatch.setattr(Pretraining, "_no_views_on_gpu", lambda self: "")
    trained = [
        pretrain("simclr", images, Pretraining(epochs=2, batch_size=8, views_on=on), out=tmp_path / on, encoder=ENCODER)
        for on in ("cpu", "gpu")
    ]
    for a, b in zip(*(method.parameters() for method in trained)):
        assert torch.equal(a, b)


def _fake_trainer(per_epoch: int, minutes: float, **values: Any) -> Any:
    """What ``Throughput`` knows of a trainer."""
    from types import SimpleNamespace

    known = {"epochs": None, "steps": 0, "seconds": 0.0, "waited_seconds": 0.0, "total_steps": 10**9}
    known["steps_per_epoch"], known["fabric"] = per_epoch, SimpleNamespace(world_size=1)
    return SimpleNamespace(**{**known, "options": SimpleNamespace(minutes=minutes), **values})


def _planned(seconds: list[float], minutes: float, before: float = 0.0) -> tuple[int, float]:
    """The step at which a run with ``minutes`` fixes its length, and the seconds that it will have taken."""
    from fastssl.train.callbacks import Throughput

    throughput, trainer = Throughput(), _fake_trainer(10**6, minutes, seconds=before)
    for step, took in enumerate(seconds, 1):
        trainer.steps, trainer.seconds = step, trainer.seconds + took
        throughput.seconds.append(took)
        epochs = throughput._epochs(trainer, 60 * minutes)
        if epochs is not None:
            return step, trainer.seconds + (round(epochs * 10**6) - step) * 0.1
    raise AssertionError("never")


@pytest.mark.parametrize("minutes", [0.5, 5.0, 60.0, 600.0])
@pytest.mark.parametrize(
    ("first", "before"), [([], 0.0), ([40.0], 0.0), ([5.0], 28.0), ([0.3] * 3, 0.0), ([0.1] * 200 + [20.0], 0.0)]
)
def test_minutes_are_used_whatever_the_first_steps_take(minutes: float, first: list[float], before: float) -> None:
    """Steps of 0.1 s after a compilation, a pause, a resumed run, a slow start."""
    step, seconds = _planned([*first, *[0.1] * 10_000], minutes, before)
    wanted = max(60 * minutes, before + sum(first[:step]) + 0.1)
    assert seconds == pytest.approx(wanted, rel=0.02)


def _timed(minutes: float, seconds: Callable[[int], float], per_epoch: int, resumed: tuple[int, int] = (0, 0)) -> Any:
    """A run whose step ``k`` takes ``seconds(k)``; resumed: the step from which it goes on, and its number of steps."""
    from fastssl.train.callbacks import Throughput

    throughput, trainer = Throughput(), _fake_trainer(per_epoch, minutes)
    if resumed[0]:
        trainer.steps, trainer.total_steps = resumed
        trainer.epochs, trainer.seconds = resumed[1] / per_epoch, sum(map(seconds, range(1, resumed[0])))
    while trainer.epochs is None or trainer.steps < trainer.total_steps:
        trainer.steps += 1
        trainer.seconds += seconds(trainer.steps)
        throughput.last = time.perf_counter() - seconds(trainer.steps)
        throughput.on_step_end(trainer)
        if trainer.epochs is not None:
            trainer.total_steps = round(trainer.epochs * trainer.steps_per_epoch)
            assert trainer.total_steps >= trainer.steps
    return trainer


@pytest.mark.parametrize("later", [0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("change", [1000, 1800])
def test_minutes_hold_if_the_speed_changes(later: float, whole: bool, change: int) -> None:
    """Steps of 0.1 s, from a third or 60 % of the run on slower or faster."""
    trainer = _timed(5, lambda step: 0.1 if step < change else later, 10 if whole else 10**6)
    assert trainer.seconds == pytest.approx(300, rel=0.06)


@pytest.mark.parametrize("at", [1100, 1124, 1125, 1126, 2999])
def test_minutes_hold_if_a_run_is_resumed(at: int) -> None:
    """The first step afterwards takes 15 s; an eighth of the run may have ended just then."""
    trainer = _timed(5, lambda step: 15.0 if step == at else 0.1, 10**6, resumed=(at - 1, 3000))
    assert trainer.seconds == pytest.approx(max(300, 0.1 * at + 15), rel=0.03)


def test_a_pause_ends_no_run_within_an_epoch() -> None:
    trainer = _timed(5, lambda step: 130.0 if step == 2240 else 0.1, 40)
    assert trainer.steps == trainer.total_steps and trainer.steps % 40 == 0


def test_a_resumed_run_may_become_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the time, then steps that take a quarter: more epochs than the checkpoint says."""
    pace, now = [0.2], [0.0]

    def tick() -> float:
        now[0] += pace[0]
        return now[0]

    monkeypatch.setattr("fastssl.train.trainer.time.perf_counter", tick)
    planned: list[int] = []

    def stop(progress: Any) -> None:
        planned.append(progress.total_steps)
        if progress.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, minutes=0.5, on_step=stop)
    pace[0] /= 4
    _run(tmp_path, minutes=0.5, resume=True)
    state = load_checkpoint(tmp_path)[1]
    assert state["step"] == round(state["epochs"] * 3) > 1.5 * planned[-1]


def test_slow_steps_are_few() -> None:
    assert _planned([100.0] * 50, 60)[0] == 3 and _planned([100.0] * 50, 1)[0] == 1


def test_processes_agree_on_the_length_of_a_run() -> None:
    """The first decides: others ask it at every step until it has."""
    from types import SimpleNamespace

    from fastssl.train.callbacks import Throughput

    decided: list[float | None] = [None] * 20 + [7.5]
    throughput, trainer = Throughput(), _fake_trainer(10, 1e-9)  # by its own clock this process would end at once
    trainer.fabric = SimpleNamespace(world_size=2, broadcast=lambda own: decided[trainer.steps])
    for step in range(21):
        trainer.steps = step
        throughput.on_step_end(trainer)
        assert trainer.epochs == decided[step]


def test_a_run_that_fails_does_not_leave_the_checkpoint_of_the_run_before(tmp_path: Path) -> None:
    data = emoji().subset(np.arange(16), "emoji")
    options = encoder_for("simclr", None, 32, 4)

    def run(**given: Any) -> None:
        made = Pretraining(**{"epochs": 1, "batch_size": 8, "warmup_epochs": 0, **given})
        method = build_method("simclr", options, data, 0)
        pretrain(method, data, made, out=tmp_path, encoder_options=options, overwrite=True)

    diverging = {"lr": 1e30, "optimizer": "sgd", "epochs": 30}
    with pytest.raises(RuntimeError, match="has written no checkpoint yet$"):
        run(**diverging)
    run()
    before = load_checkpoint(tmp_path)[0]
    with pytest.raises(RuntimeError, match="has written no checkpoint yet .that of the run before is in .*before"):
        run(**diverging)
    with pytest.raises(ValueError, match="checkpoint"):
        load_checkpoint(tmp_path)
    kept = load_checkpoint(tmp_path / "checkpoint.before")[0]
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())
    run()
    assert not (tmp_path / "checkpoint.before").exists() and load_checkpoint(tmp_path)[0]
