"""CPC of waveforms: the loss against its formula, windows, runs by name and from the command line, feature files."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fastssl.cli import app
from fastssl.data import Signals, open_splits, tones
from fastssl.evaluate import embed_audio, evaluate_audio, linear_probe, read_features
from fastssl.methods import CPCSignal, Method, WaveNet
from fastssl.models import Samples, SignalEncoder, WaveNetNetwork, build_audio
from fastssl.train import Pretraining, load_method, pretrain
from tests.support.resuming import resumes_bit_for_bit

SMALL: dict[str, Any] = {"name": "cpc", "dim": 8}


def method_of(**options: Any) -> CPCSignal:
    torch.manual_seed(0)
    return CPCSignal(build_audio(SMALL), **{"window": 1600, "steps": 3, **options})  # type: ignore[arg-type]


def test_signals_are_predicted_from_what_was_heard(tmp_path: Path) -> None:
    method, data = method_of().eval(), tones(40, 3200)
    (window,) = method.examples(data.items(range(4)), 0).views
    assert window.shape == (4, 1600)
    row = data.signals[2]
    assert any(np.array_equal(row[k : k + 1600], window[2].numpy()) for k in range(1601))
    codes = method.network.codes(window)
    assert codes.shape == (4, 8, 10)
    changed = codes.clone()
    changed[:, :, 5:] += 1
    for k, ((a, true), (b, _)) in enumerate(zip(method.predictions(codes), method.predictions(changed))):
        a, b = a.reshape(4, 7, 8), b.reshape(4, 7, 8)
        assert torch.equal(a[:, :5], b[:, :5]) and not torch.equal(a[:, 5:], b[:, 5:])
        assert torch.equal(true.reshape(4, 7, 8)[1, 2], codes[1, :, 2 + k + 1])
    losses: list[float] = []
    settings = Pretraining(epochs=6, batch_size=20, lr=3e-3, warmup_epochs=1)
    pretrain(method, data, settings, out=tmp_path, on_step=lambda p: losses.append(p.loss))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_the_loss_is_its_formula() -> None:
    """In float64, term by term."""
    method = method_of(temperature=0.2).double().eval()
    batch = method.examples(tones(4, 3200).items(range(4)), 0)
    (window,) = batch.views
    with torch.no_grad():
        codes = method.network.codes(window.double()).transpose(1, 2)
        context = method.gru(codes)[0]
        terms = []
        for step, layer in enumerate(method.predict, 1):
            places = [(row, time) for row in range(4) for time in range(10 - 3)]
            guesses = [layer(context[row, time]) for row, time in places]
            targets = [codes[row, time + step] for row, time in places]
            for k, guess in enumerate(guesses):
                cosines = torch.stack([torch.cosine_similarity(guess, target, 0) for target in targets]) / 0.2
                terms.append(cosines.logsumexp(0) - cosines[k])
        found = method(batch._replace(views=[window.double()]))
    # The formula's loss is the mean of all terms, of equally many a step.
    torch.testing.assert_close(found.double(), torch.stack(terms).mean(), rtol=1e-6, atol=0)


def test_shorter_signals_are_padded_with_silence() -> None:
    rng = np.random.default_rng(0)
    signals = [rng.uniform(-1, 1, length).astype(np.float32) for length in (5, 1600, 4000)]
    data = Signals(signals, np.zeros(3, np.int64), ["a"], "x")  # type: ignore[arg-type]
    (window,) = method_of().examples(data.items(range(3)), 0).views
    assert np.array_equal(window[0, :5].numpy(), signals[0]) and not window[0, 5:].any()
    assert np.array_equal(window[1].numpy(), signals[1])


def test_arguments() -> None:
    for options, text in (
        ({"steps": 10}, r"steps: expected 1 to 9 \(a window has 10 codes\), got 10"),
        ({"window": 1}, "window: expected an integer from 2"),
        ({"context": 0}, "context: expected an integer from 1"),
        ({"rate": 0}, "rate: expected an integer from 1"),
    ):
        with pytest.raises(ValueError, match=text):
            method_of(**options)
    for options, text in (
        ({"dim": 0}, "dim: expected an integer from 1"),
        ({"kernels": [4], "strides": [2, 2]}, "kernels, strides: expected equal lengths"),
        ({"kernels": [4], "strides": [5]}, "kernels: expected an integer from 5"),
        ({"width": 8}, "network: cpc has no option width"),
    ):
        with pytest.raises(ValueError, match=text):
            build_audio({"name": "cpc", **options})
    with pytest.raises(
        TypeError, match="network: CPCSignal expects 'cpc' of fastssl.models.build_audio, got 'wavenet'"
    ):
        CPCSignal(build_audio({"name": "wavenet"}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="signals: expected floats"):
        Signals(np.zeros((3, 4), np.int64), np.zeros(3), ["a"], "x")


def test_runs_resume_bit_for_bit_and_are_loaded(tmp_path: Path) -> None:
    data = tones(24, 1800)

    def run(out: str, **more: Any) -> Method:
        method = method_of(temperature=0.2, context=6)
        pretrain(method, data, Pretraining(epochs=2, batch_size=8), out=tmp_path / out, **more)
        return method

    whole: Any = resumes_bit_for_bit(run, 4)
    loaded: Any = load_method(tmp_path / "whole")
    assert (loaded.window, loaded.steps, loaded.temperature, loaded.rate) == (1600, 3, 0.2, 16_000)
    signal = data.signals[3]
    assert torch.equal(loaded.features(signal), whole.cpu().eval().features(signal))


def test_networks_that_are_made_directly_are_rebuilt_too(tmp_path: Path) -> None:
    data = tones(24, 1800)
    for method in (
        CPCSignal(SignalEncoder(6), window=1600, steps=3),
        WaveNet(WaveNetNetwork(width=4, depth=2), window=64),
    ):
        out = tmp_path / type(method).__name__
        pretrain(method, data, Pretraining(epochs=1, batch_size=12), out=out)
        loaded: Any = load_method(out)
        assert loaded.network.options == method.network.options == build_audio(method.network.options).options
        table = evaluate_audio(loaded, data.subset(range(12)), data.subset(range(12, 24)))
        assert table["linear"].keys() == {"pretrained", "random"}
    assert inspect.signature(SignalEncoder).parameters["dim"].default == 64


def test_by_name_on_a_folder_of_words(tmp_path: Path) -> None:
    """As in the pages: pretrain, evaluate and embed, with what goes wrong."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for word, pitch in (("high", 900), ("low", 150)):
            tone = 0.5 * np.sin(2 * np.pi * pitch * np.arange(1700) / 8000 + rng.uniform(0, 6, (8, 1)))
            Samples("audio", tone + rng.normal(0, 0.05, tone.shape), 8000).save(
                tmp_path / "words" / part / word / "take"
            )
    run, given = tmp_path / "run", str(tmp_path / "words")

    def command(*arguments: Any, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert (result.exit_code == 0) == (code == 0), result.output
        return result.output + str(result.exception or "")

    small = ("--set", "window=1600", "--set", "steps=3", "--set", "dim=8")
    command("pretrain", "cpc-signal", "--data", given, *small, "--epochs", 2, "--batch-size", 8, "--out", run)
    assert "pretrained" in command("evaluate", run)
    task = open_splits(given)
    method: Any = load_method(run)
    assert method.network.dim == 8 and method.rate == 8000
    table = evaluate_audio(method, task.test, task.train)
    features = [method.features(part.read(k).signal).detach() for part in (task.train, task.test) for k in range(16)]
    labels = torch.arange(2).repeat_interleave(8).repeat(2)
    wanted = linear_probe(torch.stack(features), labels, range(16), range(16, 32))
    assert table.keys() == {"linear"} and table["linear"]["pretrained"] == pytest.approx(wanted)
    command("embed", run, "--out", tmp_path / "features.npz", "--part", "test")
    found = read_features(tmp_path / "features.npz")
    rows = [method.features(task.test.read(k).signal) for k in range(16)]
    assert torch.equal(torch.stack(rows), torch.as_tensor(np.array(found.features)))
    assert found.labels is not None and found.labels.tolist() == [0] * 8 + [1] * 8
    assert "has no option width" in command("pretrain", "cpc-signal", "--width", 8, "--out", tmp_path / "x", code=2)
    assert "set: expected NAME=VALUE with a name of rate, window, steps, context" in command(
        "pretrain", "cpc-signal", "--set", "levels=3", "--out", tmp_path / "x", code=2
    )
    assert "cpc-signal takes waveforms" in command("embed", run, "--out", tmp_path / "f.npz", "--size", 8, code=2)
    assert "generative method" in command("generate", run, code=2)
    with pytest.raises(ValueError, match="expected signals of two classes at least"):
        evaluate_audio(method, task.test.subset(range(4)), task.train.subset(range(4)))
    Samples("audio", np.zeros((1, 1700)), 16_000).save(tmp_path / "words" / "test" / "low" / "other")
    assert "rate: expected 8000 samples per second" in command("evaluate", run, code=2)


def test_features_are_of_whole_signals(tmp_path: Path) -> None:
    method, data = method_of().eval(), tones(6, 2000)
    assert embed_audio(method, data, tmp_path / "f.safetensors") == 6
    with torch.no_grad():
        wanted = method.network(torch.from_numpy(data.signals))
    found = torch.as_tensor(np.array(read_features(tmp_path / "f.safetensors").features))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert isinstance(method.network, SignalEncoder)
