"""Distributions of images and IMAX: what their papers say, likelihoods, samples, the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastssl.cli.main import app
from fastssl.data import Stereograms, digits, open_splits, stereograms
from fastssl.evaluate import disparity_correlation, evaluate_density, mixture_nats
from fastssl.methods import IMAX, NADE, RBM, DensityMethod
from fastssl.models import (
    DensityNetwork,
    NADENetwork,
    RBMNetwork,
    RestrictedBoltzmannMachine,
    Samples,
    build_encoder,
)
from fastssl.train import Pretraining, load_method, pretrain


def method_of(kind: Any, options: dict[str, Any] | None = None, **network: Any) -> DensityMethod:
    torch.manual_seed(0)
    made: DensityMethod = kind(build_encoder({"name": kind.encoder_name, "size": 2, **network}), **(options or {}))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
    return made


def all_images(size: int = 2) -> torch.Tensor:
    bits = (torch.arange(2 ** (size * size))[:, None] >> torch.arange(size * size)) & 1
    return bits.float().reshape(-1, 1, size, size) * 2 - 1


@pytest.mark.parametrize(
    ("kind", "network"), [(RBM, {"width": 3}), (NADE, {"width": 5}), (NADE, {"width": 5, "orders": 3})]
)
def test_likelihoods_of_all_images_sum_to_one(kind: Any, network: dict[str, Any]) -> None:
    method = method_of(kind, **network)
    found = method.log_likelihood(all_images())
    assert found.kind == "exact" and found.error == 0
    assert float(found.values.exp().sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "network"), [(RBM, {"width": 3}), (NADE, {"width": 5, "orders": 3})], ids=["rbm", "nade"]
)
def test_images_are_drawn_from_the_distribution(kind: Any, network: dict[str, Any]) -> None:
    """By a chi-square of 16 images, which has mean 15 and a deviation of 5.5."""
    method, n = method_of(kind, **network), 12_000
    drawn = method.network.sample(n, seed=1, **({"steps": 50} if kind is RBM else {}))
    place = ((drawn.flatten(1) > 0).long() * 2 ** torch.arange(4)).sum(1)
    expected = method.log_likelihood(all_images()).values.exp() * n
    assert float(((torch.bincount(place, minlength=16) - expected).square() / expected).sum()) < 15 + 4 * 5.5
    few = method.generate(5, 1, **({"steps": 50} if kind is RBM else {}))
    assert few.kind == "images" and few.values.shape == (5, 2, 2, 1) and few.values.dtype == np.uint8
    if kind is RBM:  # of NADE the k-th image has the k-th order
        assert np.array_equal(few.values.reshape(5, -1) > 127, drawn[:5].flatten(1).numpy() > 0)


def test_a_deep_belief_network_bounds_its_likelihood() -> None:
    """The mean of the bound over many draws is below the exact value, and near it where q is the posterior."""
    method = method_of(RBM, width=3, blocks=2)
    first, second = method.network.machines
    v = method.network.visible(all_images())
    h = ((torch.arange(8)[:, None] >> torch.arange(3)) & 1).float()
    given = first.visible(h)
    log_v = (v @ given.log().T + (1 - v) @ (1 - given).log().T).double()
    exact = torch.logsumexp(log_v + second.log_likelihood(h).values, 1).detach()
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-5)
    many = all_images().repeat_interleave(400, 0)
    found = method.log_likelihood(many)
    bound = found.values.reshape(16, 400).mean(1)
    assert found.kind == "bound" and bool((bound < exact + 0.05).all()) and float((exact - bound).max()) < 2.0


def test_machines_of_a_stack_are_trained_in_turn() -> None:
    method = method_of(RBM, width=3, blocks=2).train()
    batch = method.examples(digits().items(range(8)), 0)
    for progress, trained in ((0.0, 0), (0.6, 1)):
        method.after_step(progress)
        method.zero_grad()
        method(batch).backward()
        moved = [any(p.grad is not None for p in machine.parameters()) for machine in method.network.machines]
        assert moved == [k == trained for k in range(2)]


def test_persistent_chains_go_on() -> None:
    method = method_of(RBM, {"persistent": 7, "steps": 2}, width=3).train()
    assert not method.separable
    batch, before = method.examples(digits().items(range(8)), 0), method.get_buffer("chains_0").clone()
    method(batch)
    after = method.get_buffer("chains_0").clone()
    assert after.shape == (7, 4) and not torch.equal(before, after)
    method.eval()(batch)
    assert torch.equal(method.get_buffer("chains_0"), after)


def test_normal_pixels_are_continuous() -> None:
    method = method_of(RBM, width=3, deviation=0.5)
    axis = torch.linspace(-6, 6, 31)
    grid = torch.cartesian_prod(axis, axis, axis, axis).reshape(-1, 1, 2, 2)
    total = float(method.log_likelihood(grid).values.exp().sum()) * 0.4**4
    assert total == pytest.approx(1, abs=5e-3)
    drawn = method.network.sample(500, steps=20)
    assert len(drawn.unique()) > 1000 and method.network.levels is None


def test_normal_pixels_are_learned_by_the_recipe(tmp_path: Path) -> None:
    """Better than independent pixels of this deviation; at the rate of binary ones such machines diverge."""
    given = ["--data", "digits", "--width", 16, "--set", "deviation=0.3", "--epochs", 12, "--out", tmp_path / "run"]
    assert "lr 0.001" in run("pretrain", "rbm", *given)
    assert "lr 0.1," in run("pretrain", "rbm", "--dry-run", "--out", tmp_path / "binary")
    assert "lr 0.02," in run("pretrain", "rbm", *given[:-1], tmp_path / "x", "--lr", 0.02, "--dry-run")
    method, task = load_method(tmp_path / "run"), open_splits("digits")
    train, test = (method.examples(list(part.items(range(len(part)))), 0).views[0] for part in (task.train, task.test))
    found = method.log_likelihood(test)
    alone = torch.distributions.Normal(train.mean(0), 0.3).log_prob(test).flatten(1).sum(1)
    assert found.kind == "exact" and found.values.mean() > alone.mean() + 4


def test_biases_of_normal_pixels_start_from_the_mean() -> None:
    network, source = {"name": "rbm", "size": 8, "width": 3, "blocks": 2}, digits().subset(range(50))
    method = RBM(build_encoder({**network, "deviation": 0.5}))
    assert method.prepare(source) is source
    images = method.examples(list(source.items(range(50))), 0).views[0]
    first, second = (machine.visible_bias for machine in method.network.machines)
    torch.testing.assert_close(first, images.flatten(1).mean(0) / 0.5)
    assert not second.any()
    method.prepare(digits())
    torch.testing.assert_close(first, images.flatten(1).mean(0) / 0.5)  # of a machine that has learned, they stay
    binary = RBM(build_encoder(network))
    binary.prepare(source)
    assert not binary.network.machines[0].visible_bias.any()


def test_small_images_are_read_as_they_were() -> None:
    """Not enlarged and shrunk again: bit for bit the pixels of scikit-learn's digits, black and white from 8 on."""
    from sklearn.datasets import load_digits

    from fastssl.evaluate.density import density_images

    method = NADE(build_encoder({"name": "nade", "size": 8, "width": 4}))
    given = method.network.visible(density_images(method, digits().subset(range(50))))
    assert np.array_equal(given.numpy(), load_digits().images[:50].reshape(50, -1) >= 8)
    assert np.array_equal(digits(8).images[:, 0, :, :, 0] >= 128, load_digits().images >= 8)


def test_nade_learns_digits_within_a_few_epochs(tmp_path: Path) -> None:
    task = open_splits("digits")
    method = pretrain(
        "nade",
        "digits",
        Pretraining(epochs=6, batch_size=32, lr=2e-2, warmup_epochs=1),
        out=tmp_path,
        encoder={"name": "nade", "size": 8, "width": 32},
    )
    assert isinstance(method, NADE)
    table = evaluate_density(method, task.test, task.train)
    nats = table["nats (exact)"]
    assert nats["pretrained"] < 21.5 < nats["xz"] < nats["independent pixels"] < nats["PNG"]
    assert nats["mixture of 50"] < 19
    assert table["bits per value"]["pretrained"] == pytest.approx(nats["pretrained"] / np.log(2) / 64)
    few = evaluate_density(method, task.test, task.train.subset(range(7)))["nats (exact)"]
    assert few.keys() == {"pretrained", "independent pixels", "mixture of 7", "xz", "PNG"}


def test_a_mixture_of_one_is_independent_pixels() -> None:
    rows = (torch.rand(400, 5) < torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])).double()
    p = (rows.sum(0) + 0.2) / (len(rows) + 0.4)
    expected = -(rows @ p.log() + (1 - rows) @ (1 - p).log()).mean()
    assert mixture_nats(rows, rows, 1) == pytest.approx(float(expected))


def test_stereograms_have_nothing_but_their_disparity() -> None:
    data = stereograms(300, seed=2)
    x = data.images[:, 0].astype(float) - data.images[:, 0].mean()
    assert abs(np.corrcoef(x.mean((1, 2, 3)), data.disparity)[0, 1]) < 0.2
    shifts = np.array([-1, 0, 1])
    agreement = np.stack([(x[:, :, 1:17, 0] * np.roll(x[..., 1], s, 2)[:, :, 1:17]).mean((1, 2)) for s in shifts], 1)
    guess = (np.exp(agreement / agreement.std()) * shifts).sum(1)
    assert abs(np.corrcoef(guess, data.disparity)[0, 1]) > 0.9  # the eyes' images are shifted by it
    part = data.subset([5, 2])
    assert isinstance(part, Stereograms) and part.disparity.tolist() == data.disparity[[5, 2]].tolist()
    assert np.array_equal(stereograms(300, seed=2).images, data.images) and part.read(0).label == data.labels[5]
    with pytest.raises(ValueError, match="largest: out of range, got 7"):
        stereograms(3, largest=7)


def test_patches_are_neighbours() -> None:
    method = IMAX(build_encoder({"name": "mlp", "size": 8, "width": 4, "channels": 2}))
    data = stereograms(4)
    left, right = method.examples(data.items(range(4)), 0).views
    whole = torch.from_numpy(data.images[:, 0]).permute(0, 3, 1, 2) / 127.5 - 1
    for k in range(4):
        found = [y for y in range(11) if torch.allclose(whole[k, :, y : y + 8, :8], left[k], atol=1e-5)]
        assert len(found) == 1
        torch.testing.assert_close(right[k], whole[k, :, found[0] : found[0] + 8, 10:], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_imax_finds_the_disparity(tmp_path: Path) -> None:
    encoder, unseen = {"name": "mlp", "size": 8, "width": 16, "channels": 2}, stereograms(1000, seed=1)
    torch.manual_seed(0)
    method = IMAX(build_encoder(encoder))
    assert disparity_correlation(method, unseen) <= 0.3
    options = Pretraining(epochs=80, batch_size=500, lr=3e-3, warmup_epochs=1)
    pretrain(method, stereograms(4000), options, out=tmp_path, encoder_options=encoder)
    assert disparity_correlation(method, unseen) >= 0.9


def test_samples_are_written(tmp_path: Path) -> None:
    images = np.zeros((5, 8, 8, 1), np.uint8)
    images[3] = 255
    (sheet,) = Samples("images", images).save(tmp_path / "a")
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape == (2 * 34 + 2, 3 * 34 + 2, 3) and pixels[40, 20].min() == 255 and pixels[20, 20].max() == 0
    (drawn,) = Samples("images", images).save(tmp_path / "a.webp")
    assert drawn.name == "a.webp" and Image.open(drawn).format == "WEBP"
    assert Samples("images", images).save(tmp_path / "step1.5")[0].name == "step1.5.png"
    waves = Samples("audio", np.stack([np.sin(np.arange(100)), np.full(100, 2.0)]), 8000).save(tmp_path / "b.wav")
    assert [file.name for file in waves] == ["b-1.wav", "b-2.wav"]
    import wave

    with wave.open(str(waves[1])) as file:
        assert file.getframerate() == 8000 and file.readframes(1) == (32767).to_bytes(2, "little")
    assert Samples("texts", ["a", "b"]).save(tmp_path / "c.txt") == [tmp_path / "c.txt"]
    assert (tmp_path / "c.txt").read_text() == "a\n\nb\n\n"


def run(*arguments: Any, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exit_code and result.exception is not None and not isinstance(result.exception, SystemExit):
        assert code, result.exception
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


def test_a_machine_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "rbm"
    given = ["--data", "digits", "--width", 8, "--epochs", 1, "--set", "steps=2", "--out", out]
    assert "steps 2" in run("pretrain", "rbm", *given)
    method = load_method(out)
    assert isinstance(method, RBM) and method.steps == 2 and method.network.machines[0].weight.shape == (8, 64)
    assert "9 images" in run("generate", out, "--count", 9, "--set", "steps=5", "--out", tmp_path / "made.png")
    assert Image.open(tmp_path / "made.png").size == (104, 104)
    assert "top_k: rbm has no such option; it has count, steps" in run("generate", out, "--top-k", 3, code=1)
    wrong = run("pretrain", "rbm", "--set", "step=2", "--out", tmp_path / "x", code=1)
    assert "set: expected NAME=VALUE with a name of steps, persistent, width, blocks, deviation, got step=2" in wrong
    assert "spatial: rbm has none" in run("pretrain", "rbm", "--spatial", "--out", tmp_path / "x", code=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rbm", "nade", "imax"])
def test_runs_are_evaluated(name: str, tmp_path: Path) -> None:
    given = ["--data", "stereograms", "--channels", 2] if name == "imax" else ["--data", "digits"]
    run("pretrain", name, *given, "--width", 8, "--epochs", 1, "--out", tmp_path / name)
    run("evaluate", tmp_path / name, "--out", tmp_path / "table.json")
    table = json.loads((tmp_path / "table.json").read_text())
    if name == "imax":
        assert table["correlation with disparity"].keys() == {"pretrained", "random"}
        return
    assert table["nats (exact)"].keys() == {"pretrained", "independent pixels", "mixture of 50", "xz", "PNG"}
    assert table["digits_linear"].keys() == {"pretrained", "random", "pixels"}


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: RBM(build_encoder({"name": "rbm", "size": 4}), steps=0), ValueError, "steps: expected an integer >="),
        (lambda: RBM(build_encoder({"name": "resnet", "size": 32})), TypeError, "RBM expects an encoder of RBMNetwork"),
        (lambda: RBMNetwork(4, blocks=0), ValueError, "blocks: expected at least one machine, got 0"),
        (lambda: RBMNetwork(4, deviation=0.0), ValueError, "deviation: expected a value above 0, got 0"),
        (lambda: NADENetwork(4, orders=0), ValueError, "orders: expected at least 1, got 0"),
        (lambda: DensityNetwork(4, levels=1), ValueError, "levels: expected 2 to 256, got 1"),
        (
            lambda: RBMNetwork(8, width=30).log_likelihood(torch.zeros(1, 1, 8, 8), exact=True),
            ValueError,
            "exact: expected at most 20 units to enumerate, got 30",
        ),
        (lambda: IMAX(build_encoder({"name": "mlp", "size": 8}), outputs=0), ValueError, "outputs: expected at least"),
        (
            lambda: evaluate_density(method_of(NADE), digits().subset([]), digits()),
            ValueError,
            "data: expected images to score, digits has none",
        ),
    ],
)
def test_wrong_options_are_named(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


def test_the_data_of_a_run_by_its_relative_path_is_scored_where_it_was_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(12):
        (tmp_path / "g").mkdir(exist_ok=True)
        Image.new("L", (8, 8), 20 * k).save(tmp_path / "g" / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    run("pretrain", "nade", "--data", "g", "--size", 6, "--channels", 1, "--epochs", 2, "--batch-size", 4, "--out", "r")
    held_out = run("evaluate", "r")
    assert run("evaluate", "r", "--data", "g") == run("evaluate", "r", "--data", "g/") == held_out
    said = run("evaluate", "r", "--protocol", "layers", "--data", "digits", code=2)
    assert "expected a network with levels()" in said


def test_few_effective_chains_are_a_warning() -> None:
    """Where a few of the chains have all of the weight, the standard error cannot be larger than about 1."""
    machine = RestrictedBoltzmannMachine(visible=64, hidden=16)
    torch.manual_seed(0)
    with torch.no_grad():
        machine.weight.copy_(8 * torch.randn_like(machine.weight))
        machine.hidden_bias.copy_(-machine.weight.sum(1) / 2)
        machine.visible_bias.copy_(-machine.weight.sum(0) / 2)
    right = machine.log_partition()[0]
    with pytest.warns(UserWarning, match="of 100 chains have nearly all of the weight"):
        found, error = machine.log_partition(exact=False)
    assert abs(found - right) > 5 * error
