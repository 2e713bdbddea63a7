"""Runs that are stopped at any place: what they leave behind, and what the next run makes of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.augment import SimCLRAugment
from fastssl.data import ArraySource, ImageError, digits
from fastssl.methods import SimCLR, Word2Vec
from fastssl.models import build_encoder, folder
from fastssl.train import Pretraining, Progress, Trainer, load_checkpoint, pretrain

ENCODER = {"name": "resnet", "size": 16, "width": 4, "blocks": 1}
STEPS = 6  # of a run: two epochs


def data() -> ArraySource:
    return digits().subset(np.arange(48), "digits")


def run(out: Path, source: Any = None, kind: type[SimCLR] = SimCLR, **options: Any) -> SimCLR:
    keys = {"resume", "overwrite", "on_step"} & set(options)
    more = {key: options.pop(key) for key in keys}
    torch.manual_seed(0)
    method = kind(build_encoder(ENCODER), SimCLRAugment(16, blur=0), hidden=16, outputs=8)
    made = Pretraining(**{"epochs": 2, "batch_size": 16, "warmup_epochs": 0, **options})
    return pretrain(method, source or data(), made, out=out, encoder_options=ENCODER, **more)  # type: ignore[return-value]


def at(step: int, do: Callable[[], Any]) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if progress.step == step:
            do()

    return on_step


def send(*signals: int) -> Callable[[], None]:
    def sent() -> None:
        for number in signals:
            os.kill(os.getpid(), number)

    return sent


def fail() -> None:
    raise RuntimeError("drawn")


def steps_of(out: Path, tag: str = "loss") -> list[int]:
    """The steps of a learning curve as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(out / "logs"), size_guidance={"scalars": 0})
    shown.Reload()
    return [event.step for event in shown.Scalars(tag)]


@pytest.mark.parametrize(
    ("signals", "raised"), [((signal.SIGINT,), KeyboardInterrupt), ((signal.SIGTERM, signal.SIGTERM), SystemExit)]
)
@pytest.mark.parametrize("step", [4, STEPS])
def test_a_signal_ends_the_run_at_any_step(
    signals: tuple[int, ...], raised: type[BaseException], step: int, tmp_path: Path
) -> None:
    """Also at the last one; a second SIGTERM, which launchers pass on, is no second Ctrl-C."""
    with pytest.raises(raised):
        run(tmp_path, on_step=at(step, send(*signals)))
    assert load_checkpoint(tmp_path)[1]["step"] == min(step + 1, STEPS)


def test_a_second_ctrl_c_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """At once, in the middle of a step's callbacks: some of them have not seen the step."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, on_step=at(4, send(signal.SIGINT, signal.SIGINT)), checkpoint_minutes=0)
    assert load_checkpoint(tmp_path)[1]["step"] == 3


def test_a_run_that_cannot_begin_gives_ctrl_c_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    (tmp_path / "logs").write_text("no folder")
    with pytest.raises(OSError, match="logs"):
        run(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_learning_curves_have_every_step_once(tmp_path: Path) -> None:
    """Of a run that fails before its first checkpoint, again after it, and ends."""
    with pytest.raises(RuntimeError, match="drawn"):
        run(tmp_path, on_step=at(2, fail))
    with pytest.raises(RuntimeError, match="drawn"):
        run(tmp_path, on_step=at(5, fail), checkpoint_minutes=0)
    assert load_checkpoint(tmp_path)[1]["step"] == 4
    run(tmp_path, resume=True)
    assert steps_of(tmp_path) == [*range(1, STEPS + 1)]


def test_logs_are_written_before_a_checkpoint(tmp_path: Path) -> None:
    """A process that is killed right after it lacks no step."""
    seen: list[list[int]] = []

    def look() -> None:
        history = [step for step, _ in json.loads((tmp_path / "history.json").read_text())]
        assert history == steps_of(tmp_path)[:4]
        seen.append(history)

    run(tmp_path, on_step=at(5, look), checkpoint_minutes=0)
    assert seen == [[1, 2, 3, 4]]


def test_logs_that_cannot_be_written_end_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    write = Path.write_text

    def full(path: Path, *text: Any, **more: Any) -> int:
        if path.name.startswith("history"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *text, **more)

    monkeypatch.setattr(Path, "write_text", full)
    run(tmp_path, checkpoint_minutes=0)
    assert load_checkpoint(tmp_path)[1]["step"] == STEPS and "cannot be written: [Errno" in caplog.text
    assert steps_of(tmp_path) == [*range(1, STEPS + 1)]


class Unreadable(ArraySource):
    def read(self, index: int, reduce: Any = None) -> Any:
        if index % 5 == 0:
            raise ImageError(f"{index} is broken")
        return super().read(index, reduce)


def test_unreadable_items_are_counted_over_all_parts_of_a_run(tmp_path: Path) -> None:
    images = data()
    source = Unreadable(images.images, images.labels)
    for step in (4, STEPS):  # of the second epoch
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, source, on_error="skip", on_step=at(step, send(signal.SIGINT)), resume=True)
    assert load_checkpoint(tmp_path)[1]["unreadable"] == [*range(0, 48, 5)]


class Collapsed(SimCLR):
    def sample_features(self, batch: Any) -> torch.Tensor:
        return torch.ones(4, 2)


def test_a_collapse_is_seen_over_all_parts_of_a_run(tmp_path: Path) -> None:
    for step in (25, 45):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, kind=Collapsed, epochs=40, resume=True, on_step=at(step, send(signal.SIGINT)))
    with pytest.raises(RuntimeError, match="collapsed to a constant .*at step 60"):
        run(tmp_path, kind=Collapsed, epochs=40, resume=True)


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    """The second neither writes to the folder nor retires the checkpoint of the first."""

    def second() -> None:
        for option in ("overwrite", "resume"):
            with pytest.raises(ValueError, match="out: another run is writing to"):
                run(tmp_path, **{option: True})
            assert load_checkpoint(tmp_path)[1]["step"] == 1

    whole, method = run(tmp_path / "whole"), run(tmp_path, on_step=at(2, second), checkpoint_minutes=0)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), method.state_dict().values()))
    run(tmp_path, overwrite=True)


def test_a_run_does_not_go_on_from_a_checkpoint_that_another_has_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, on_step=at(2, send(signal.SIGINT)))
    build = Trainer.__init__

    def late(self: Trainer, *arguments: Any, **options: Any) -> None:
        """Between the reading of the checkpoint and the first step another run goes on, and ends."""
        monkeypatch.setattr(Trainer, "__init__", build)
        run(tmp_path, resume=True)
        build(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "__init__", late)
    with pytest.raises(ValueError, match="out: another run has written to"):
        run(tmp_path, resume=True)
    assert load_checkpoint(tmp_path)[1]["step"] == STEPS


def test_a_checkpoint_is_read_whole_while_its_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replaced between its two files, and again before they can be read."""
    other, read, done = tmp_path / "other", folder.load_file, []
    run(other)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", on_step=at(2, send(signal.SIGINT)))

    def load(path: Path) -> Any:
        done.append(path)
        if len(done) == 1:
            shutil.rmtree(tmp_path / "run" / "checkpoint")
            shutil.copytree(other / "checkpoint", tmp_path / "run" / "checkpoint")
        if len(done) == 2:
            raise FileNotFoundError(path)
        return read(path)

    monkeypatch.setattr(folder, "load_file", load)
    tensors, state = load_checkpoint(tmp_path / "run")
    assert state["step"] == STEPS and len(done) == 3
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_checkpoint(other)[0].items())


def test_a_checkpoint_that_was_being_replaced_is_a_run(tmp_path: Path) -> None:
    """Killed between two renames: the run is there, and not mistaken for that of the run which replaces it."""
    run(tmp_path)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    with pytest.raises(ValueError, match="holds a run already"):
        run(tmp_path)
    with pytest.raises(RuntimeError, match="drawn"):
        run(tmp_path, overwrite=True, on_step=at(1, fail))
    with pytest.raises(ValueError, match="checkpoint"):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.before")[1]["step"] == STEPS


SENTENCES = [["the", "cat", "sat"], ["the", "dog", "sat"]] * 50


def test_word_vectors_that_are_overwritten_are_not_resumed(tmp_path: Path) -> None:
    """Neither are their losses those of another run of the same object."""
    words = Word2Vec(dim=8, min_count=1, subsample=0, epochs=2)
    words.fit(SENTENCES, out=tmp_path)
    with pytest.raises(RuntimeError, match="drawn"):
        words.fit(SENTENCES, out=tmp_path, overwrite=True, on_step=lambda progress: fail())
    with pytest.raises(ValueError, match="checkpoint"):
        load_checkpoint(tmp_path)
    words.fit(SENTENCES, out=tmp_path, resume=True)
    assert len(words.history) == 2 and not (tmp_path / "checkpoint.before").exists()
