"""Autoregressive methods of pixels and waveforms: causality by gradient, likelihoods and samplers by enumeration; each
learns, resumes bit for bit, and runs in bf16."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastssl.data import ArraySource, Item, Signals, inverse_mu_law, mu_law, tones
from fastssl.data.signals import inverse_pcm, pcm
from fastssl.methods import IGPT, METHODS, AudioMethod, Method, PixelCNN, WaveNet, get
from fastssl.models import (
    ImageGPTNetwork,
    PixelCNNNetwork,
    PixelNetwork,
    PixelRNNNetwork,
    WaveNetNetwork,
    WaveRNNNetwork,
    build_audio,
    build_encoder,
)
from fastssl.models.drawing import draw
from fastssl.models.pixel_rnn import _Diagonal, _RowLSTM
from fastssl.ops import extension
from fastssl.train import Pretraining, load_encoder, load_method, pretrain
from tests.support.resuming import resumes_bit_for_bit

PIXELS: dict[str, dict[str, Any]] = {
    "pixelcnn": {"name": "pixelcnn", "width": 6, "blocks": 2, "kernel": 3},
    "pixelcnn, one stack": {"name": "pixelcnn", "width": 6, "blocks": 2, "kernel": 3, "gated": False},
    "pixelrnn": {"name": "pixelrnn", "width": 12, "blocks": 2, "kernel": 3},
    "pixelrnn, rows": {"name": "pixelrnn", "width": 12, "blocks": 2, "kernel": 3, "lstm": "row"},
}
IMAGES = {**PIXELS, "igpt": {"name": "igpt", "width": 12, "blocks": 2, "heads": 2, "colors": 8, "channels": 1}}
AUDIO: dict[str, dict[str, Any]] = {
    "wavenet": {"name": "wavenet", "levels": 16, "width": 6, "skip": 10, "depth": 3},
    "wavernn": {"name": "wavernn", "bits": 4, "width": 12},
}


def pixels(subject: str, size: int = 4, **options: Any) -> PixelNetwork:
    torch.manual_seed(0)
    network: Any = build_encoder({"size": size, **IMAGES[subject], **options}).network
    return network  # type: ignore[no-any-return]


def audio(subject: str = "wavenet", **options: Any) -> Any:
    torch.manual_seed(0)
    network: Any = build_audio({**AUDIO[subject], **options})
    return network


# Causality.


def dependence(network: PixelNetwork, images: Tensor) -> Tensor:
    """Whether the logits of value i depend on value j, bool [N, N], in raster order, colour after colour."""
    x = images.clone().requires_grad_()
    logits = network.head(network.hidden(x)).permute(0, 3, 4, 2, 1).flatten(1, 3)
    rows = []
    for i in range(logits.shape[1]):
        (slope,) = torch.autograd.grad(logits[:, i].square().sum(), x, retain_graph=True)
        rows.append(slope.abs().sum(0).permute(1, 2, 0).flatten() > 0)
    return torch.stack(rows)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subject", PIXELS)
def test_pixels_depend_on_those_before_alone(subject: str, channels: int) -> None:
    network = pixels(subject, 5, channels=channels, levels=3).double()
    images = torch.rand(4, channels, 5, 5, dtype=torch.float64) * 2 - 1
    found = dependence(network, images)
    assert not bool(found.triu().any())  # neither on later values nor on itself
    assert bool(found.any(1)[channels * 6 :].all())


def test_the_blind_spots_of_one_stack_and_of_rows_are_found_and_two_stacks_have_none() -> None:
    """Of a pixel in the middle of the last row: with enough layers, all earlier pixels are in reach."""
    size, middle = 7, 7 * 6 + 3
    seen = {}
    for subject in PIXELS:
        network = pixels(subject, size, blocks=1 if subject == "pixelrnn" else 6).double()
        images = torch.rand(4, 1, size, size, dtype=torch.float64) * 2 - 1
        seen[subject] = dependence(network, images)[middle, :middle]
    assert bool(seen["pixelcnn"].all())
    # The states of the row above are those of features that do not see their own pixel: of the row's last pixel, none.
    assert (~seen["pixelrnn"]).nonzero()[:, 0].tolist() == [size * (size - 1) - 1]
    # A kernel of width 3 reaches one column to the right per row up: what is further right stays unseen.
    unseen = [r * size + c for r in range(size - 1) for c in range(size) if c - 3 > size - 1 - r]
    for subject in ("pixelcnn, one stack", "pixelrnn, rows"):
        assert (~seen[subject]).nonzero()[:, 0].tolist() == unseen


@pytest.mark.parametrize(("kind", "down", "tap"), [("row", True, 1), ("diagonal", False, 1)])
def test_images_of_one_column_or_row_go_through_an_ordinary_lstm(kind: str, down: bool, tap: int) -> None:
    torch.manual_seed(0)
    ours: Any = {"row": _RowLSTM, "diagonal": _Diagonal}[kind](3, 5, 1).double()
    peer = torch.nn.LSTM(3, 5, batch_first=True).double()
    order = [1, 0, 3, 2]  # keep, write, show, new: of torch's input, forget, cell, output
    for to, middle, of in (
        (peer.weight_ih_l0, (ours.inputs.weight * ours.inputs.mask)[:, :, 0, ours.inputs.kernel_size[1] // 2], 3),
        (peer.weight_hh_l0, ours.states.weight[:, :, tap], 5),
    ):
        to.data = middle.detach().reshape(4, 5, of)[order].flatten(0, 1)
    peer.bias_ih_l0.data = ours.inputs.bias.detach().reshape(4, 5)[order].flatten()
    peer.bias_hh_l0.data.zero_()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    image = x.transpose(1, 2).unsqueeze(3 if down else 2)
    torch.testing.assert_close(ours(image, None).flatten(2).transpose(1, 2), peer(x)[0])


@pytest.mark.parametrize("dilations", [(1, 2, 4), (1, 2, 1)])
def test_samples_depend_on_those_of_the_receptive_field_alone(dilations: tuple[int, ...]) -> None:
    network = audio(cycle=len(set(dilations)), width=8).double()
    assert network.dilations == list(dilations) and network.receptive == 1 + sum(dilations)
    codes, length = torch.randint(0, 16, (8, 20)), 20
    embedded: list[Tensor] = []
    network.embed.register_forward_hook(lambda _m, _i, out: embedded.append(out.requires_grad_()) or out)
    logits = network(codes)
    for t in range(length):
        (slope,) = torch.autograd.grad(logits[:, :, t].square().sum(), embedded[0], retain_graph=True)
        depends = (slope.abs().sum((0, 2)) > 0).tolist()  # input s of the network is code s - 1
        assert depends == [0 <= t - s < network.receptive for s in range(length)]


def test_parts_of_samples_depend_on_those_before_alone() -> None:
    """Input t is both parts of code t - 1, and the coarse part of code t, which the fine part alone sees."""
    network: Any = audio("wavernn").double()
    codes, inputs = torch.randint(0, 16, (8, 6)), []
    scaled = network.scaled
    network.scaled = lambda parts: inputs.append(scaled(parts).requires_grad_()) or inputs[0]
    logits = network(codes)
    for t, k in itertools.product(range(6), range(2)):
        (slope,) = torch.autograd.grad(logits[:, k, :, t].square().sum(), inputs[0], retain_graph=True)
        depends = slope.abs().sum(0) > 0
        expected = torch.arange(6)[:, None].expand(6, 3) <= t
        expected = expected & ~((torch.arange(6)[:, None] == t) & torch.tensor([False, False, k == 0]))
        assert torch.equal(depends, expected)


def test_colors_depend_on_those_before_alone() -> None:
    network: Any = pixels("igpt", 4).double()
    images, embedded = torch.rand(4, 1, 4, 4, dtype=torch.float64) * 2 - 1, []
    network.transformer.tokens.register_forward_hook(lambda _m, _i, out: embedded.append(out.requires_grad_()) or out)
    logits = network.logits(images).flatten(2)
    for place in range(16):
        (slope,) = torch.autograd.grad(logits[:, :, place].square().sum(), embedded[0], retain_graph=True)
        depends = (slope.abs().sum((0, 2)) > 0).tolist()  # input k of the network is colour k - 1
        assert depends == [k <= place for k in range(16)]


# Likelihoods and samplers against all possible items.


def states(count: int) -> Tensor:
    return torch.tensor(list(itertools.product((0, 1), repeat=count)))


def surprise(counts: np.ndarray, expected: np.ndarray) -> float:
    """Standard deviations by which chi-square exceeds its expectation."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("subject", PIXELS)
def test_pixels_sum_to_one_and_are_drawn_as_often_as_they_are_probable(subject: str) -> None:
    network = pixels(subject, 2, kernel=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    images = states(4).reshape(16, 1, 2, 2).float() * 2 - 1
    found = network.log_likelihood(images)
    share = found.values.exp().detach()
    assert found.kind == "exact" and float(share.sum()) == pytest.approx(1, abs=1e-5) and float(share.max()) > 0.1
    drawn = ((network.sample(4000, seed=3) > 0).flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1)
    assert surprise(np.bincount(drawn, minlength=16), 4000 * share.numpy()) < 4


def test_colors_sum_to_one_and_are_drawn_as_often_as_they_are_probable() -> None:
    network: Any = pixels("igpt", 2, colors=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    network.palette.copy_(torch.tensor([[-0.5], [0.7]]))
    images = network.to_images(states(4).reshape(16, 1, 2, 2))
    assert torch.equal(network.quantize(images + 0.1).flatten(1), states(4))
    share = network.log_likelihood(images).values.exp().detach()
    assert float(share.sum()) == pytest.approx(1, abs=1e-5) and float(share.max()) > 0.1
    plain = network.logits(images).log_softmax(1).gather(1, network.quantize(images))
    torch.testing.assert_close(plain.flatten(1).sum(1).exp().double(), share.double(), rtol=1e-4, atol=1e-6)
    drawn = (network.quantize(network.sample(4000, seed=3)).flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1)
    assert surprise(np.bincount(drawn, minlength=16), 4000 * share.numpy()) < 4


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_waveforms_are_drawn_as_often_as_they_are_probable(backend: str, temperature: float) -> None:
    network = audio(levels=2, depth=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    codes = states(4)
    steps = (network(codes).double() / temperature).log_softmax(1).gather(1, codes[:, None])[:, 0]
    share = steps.sum(1).exp().detach().numpy()
    assert share.sum() == pytest.approx(1, abs=1e-6)
    loss = network.loss(codes, reduction="sum")
    plain = network(codes).double().log_softmax(1).gather(1, codes[:, None]).sum()
    assert float(loss.detach()) == pytest.approx(-float(plain.detach()), rel=1e-5)
    made = network.sample(4000, 4, temperature=temperature, seed=5, backend=backend)
    drawn = (made * np.array([8, 4, 2, 1])).sum(1)
    assert surprise(np.bincount(drawn, minlength=16), 4000 * share) < 4


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("classes", [0, 2])
def test_samples_in_two_parts_are_drawn_as_often_as_they_are_probable(classes: int, backend: str) -> None:
    network = audio("wavernn", bits=2, classes=classes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    codes = torch.tensor(list(itertools.product(range(4), repeat=2)))
    label = 1 if classes else None
    labels = torch.ones(16, dtype=torch.int64) if classes else None
    logits = network(codes, labels).double().log_softmax(2)
    parts = torch.stack([codes // 2, codes % 2], 1)
    steps = logits.gather(2, parts[:, :, None])[:, :, 0].sum(1)
    share = steps.sum(1).exp().detach().numpy()
    assert share.sum() == pytest.approx(1, abs=1e-6) and share.max() > 0.1
    for reduction, expected in (("sum", -steps.sum()), ("mean", -steps.mean())):
        found = network.loss(codes, labels, reduction=reduction)
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    made = network.sample(4000, 2, seed=5, label=label, backend=backend)
    assert surprise(np.bincount(made @ np.array([4, 1]), minlength=16), 4000 * share) < 4


# Sampling with what is known of the values before.


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subject", PIXELS)
def test_kept_maps_predict_what_the_whole_network_predicts(subject: str, channels: int, classes: int) -> None:
    network = pixels(subject, 4, channels=channels, levels=4, classes=classes).double()
    levels = torch.randint(0, 4, (2, channels, 4, 4))
    images = network.to_images(levels).double()
    labels = torch.tensor([2, 2]) if classes else None
    with torch.no_grad():
        whole = network.head(network.hidden(images, labels))
        drawn = network.begin(2, torch.full((2,), 2) if classes else None)
        for row, column, color in itertools.product(range(4), range(4), range(channels)):
            logits = network.head(network.predict(drawn, row, column, color))[:, :, color, 0, 0]
            torch.testing.assert_close(logits, whole[:, :, color, row, column], rtol=0, atol=1e-12)
            drawn.images[:, color, row, column] = images[:, color, row, column]


@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize(("width", "skip", "classes"), [(6, 10, 0), (16, 33, 2), (33, 16, 0)])
def test_queues_predict_what_the_whole_network_predicts(width: int, skip: int, levels: int, classes: int) -> None:
    """On all instruction sets, for any number of rows, in several calls."""
    network = audio(width=width, skip=skip, levels=levels, classes=classes, depth=5, cycle=3)
    label = 1 if classes else None
    codes = np.random.default_rng(0).integers(0, levels, (7, 24)).astype(np.int32)
    labels = torch.ones(7, dtype=torch.int64) if classes else None
    with torch.no_grad():
        whole = network(torch.from_numpy(codes).long(), labels).transpose(1, 2).numpy()
    chosen = extension.instruction_set()
    samplers: list[tuple[str, str | None]] = [("reference", None)]
    samplers += [("cpu", name) for name in extension.instruction_sets()]
    try:
        for backend, instructions in samplers:
            if instructions is not None:
                extension.instruction_set(instructions)
            sampler = network.sampler(7, label, backend)
            for part in (slice(0, 10), slice(10, 24)):
                given = np.ascontiguousarray(codes[:, part])
                logits = np.zeros((*given.shape, levels), np.float32)
                sampler.run(given, given.shape[1], 1.0, 0, logits)
                np.testing.assert_allclose(logits, whole[:, part], rtol=0, atol=2e-6)
    finally:
        extension.instruction_set(chosen)


@pytest.mark.parametrize("classes", [0, 2])
def test_kept_states_predict_what_the_whole_network_predicts(classes: int) -> None:
    """The whole network is torch's GRU, a step the paper's formula."""
    network = audio("wavernn", bits=8, classes=classes).double()
    codes = np.random.default_rng(0).integers(0, 256, (3, 24)).astype(np.int32)
    with torch.no_grad():
        labels = torch.ones(3, dtype=torch.int64) if classes else None
        whole = network(torch.from_numpy(codes).long(), labels).permute(0, 3, 1, 2).numpy()
    sampler = network.sampler(3, 1 if classes else None)
    for part in (slice(0, 10), slice(10, 24)):
        logits = np.zeros((3, part.stop - part.start, 2, 16))
        sampler.run(np.ascontiguousarray(codes[:, part]), part.stop - part.start, 1.0, 0, logits)
        np.testing.assert_allclose(logits, whole[:, part], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("bits", "width", "classes"), [(2, 2, 0), (8, 34, 3), (16, 128, 0)])
def test_the_fused_step_predicts_what_the_whole_network_predicts(bits: int, width: int, classes: int) -> None:
    """On all instruction sets, for any number of rows and threads, in several calls."""
    network = audio("wavernn", bits=bits, width=width, classes=classes)
    label, labels = (1, torch.ones(7, dtype=torch.int64)) if classes else (None, None)
    codes = np.random.default_rng(0).integers(0, network.levels, (7, 24)).astype(np.int32)
    with torch.no_grad():
        whole = network(torch.from_numpy(codes).long(), labels).permute(0, 3, 1, 2).numpy()
    chosen, threads = extension.instruction_set(), torch.get_num_threads()
    try:
        for instructions in extension.instruction_sets():
            extension.instruction_set(instructions)
            sampler = network.sampler(7, label, "cpu")
            for part in (slice(0, 10), slice(10, 24)):
                given = np.ascontiguousarray(codes[:, part])
                logits = np.zeros((*given.shape, 2, network.values), np.float32)
                sampler.run(given, given.shape[1], 1.0, 0, logits)
                np.testing.assert_allclose(logits, whole[:, part], rtol=0, atol=2e-6)
            many = network.sample(7, 20, seed=9, label=label, backend="cpu")
            torch.set_num_threads(3)
            assert np.array_equal(network.sample(7, 20, seed=9, label=label), many)
            torch.set_num_threads(threads)
            assert np.array_equal(network.sample(2, 20, seed=9, label=label), many[:2])
            primed = network.sample(2, 15, prompt=many[0, :5], seed=9, label=label)
            assert np.array_equal(primed[0], many[0])
    finally:
        extension.instruction_set(chosen)
        torch.set_num_threads(threads)
    assert (network.sample(7, 20, seed=9, label=label, backend="reference") == many).mean() > 0.9


def test_a_row_is_the_same_with_any_number_of_rows_and_threads() -> None:
    network = audio(width=16, skip=32, depth=6)
    seven = network.sample(7, 60, seed=9, backend="cpu")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert np.array_equal(network.sample(7, 60, seed=9, backend="cpu"), seven)
    finally:
        torch.set_num_threads(threads)
    for rows in (1, 3):
        assert np.array_equal(network.sample(rows, 60, seed=9, backend="cpu"), seven[:rows])
    assert (network.sample(7, 60, seed=9, backend="reference") == seven).mean() > 0.95
    assert not np.array_equal(network.sample(7, 60, seed=10), seven)
    primed = network.sample(2, 50, prompt=seven[0, :10], seed=9)
    assert np.array_equal(primed[0], seven[0]) and np.array_equal(primed[1, :10], seven[0, :10])
    greedy = network.sample(2, 40, temperature=0, seed=1)
    assert np.array_equal(greedy[0], greedy[1])
    images = pixels("pixelcnn", 3)
    assert torch.equal(images.sample(5, seed=2)[:2], images.sample(2, seed=2))


@pytest.mark.parametrize("classes", [0, 3])
def test_kept_keys_draw_what_the_whole_network_draws(classes: int) -> None:
    network: Any = pixels("igpt", 3, classes=classes)
    torch.nn.init.normal_(network.transformer.tokens.weight)
    label = 1 if classes else None
    made = network.sample(6, seed=4, label=label)
    labels = torch.ones(6, dtype=torch.int64) if classes else None
    with torch.no_grad():
        logits = network.logits(made, labels).flatten(2)
    colors = network.quantize(made).flatten(1)
    for place in range(9):  # given the pixels before, the whole network draws the same
        assert torch.equal(draw(logits[:, :, place], 4, place), colors[:, place])
    greedy = network.sample(2, temperature=0, label=label)
    assert torch.equal(greedy[0], greedy[1])


def test_the_palette_is_that_of_the_data() -> None:
    rng = np.random.default_rng(0)
    used = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [20, 30, 200]], np.uint8)
    data = ArraySource(used[rng.integers(0, 4, (12, 4, 4))])
    options = {"name": "igpt", "size": 4, "channels": 3, "colors": 4, "width": 8, "blocks": 1, "heads": 2}
    method: Any = IGPT(build_encoder(options))
    method.prepare(data)
    found = ((method.network.palette + 1) * 127.5).round().to(torch.int64)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, used.tolist()))
    images = method.examples(data.items(range(12)), 0).views[0]
    torch.testing.assert_close(method.network.to_images(method.network.quantize(images)), images, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="colors: expected at most the 16 pixels of the data, got 32"):
        build_encoder({"name": "igpt", "size": 4, "channels": 3, "colors": 32}).network.fit_palette(images[:1])  # type: ignore[operator]


# Methods.


def method_of(name: str, **options: Any) -> tuple[Method, dict[str, Any]]:
    torch.manual_seed(0)
    kind: Any = get(name)
    if issubclass(kind, AudioMethod):
        network = build_audio({**AUDIO[name], **options})
        return kind(network, window=64), network.options
    given = {"size": 4, **IMAGES[name], **options}
    return kind(build_encoder(given)), given


def data_of(name: str) -> Any:
    if issubclass(get(name), AudioMethod):
        return tones(24, 100)
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, (24, 1, 1, 1)) * 200 + rng.integers(0, 50, (24, 4, 4, 1))
    return ArraySource(bright.astype(np.uint8).repeat(3, 3), np.arange(24) % 3, ["a", "b", "c"], "toy")


METHOD_NAMES = [name for name in METHODS if name in {**IMAGES, **AUDIO}]


@pytest.mark.parametrize("classes", [0, 6])
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_they_learn_and_run_in_bf16(name: str, classes: int) -> None:
    method, _ = method_of(name, classes=classes)
    data = data_of(name)
    batch = method.examples(data.items(range(24)), 0)
    optimizer, losses = torch.optim.AdamW(method.parameters(), lr=1e-2), []
    for _ in range(30):
        loss = method(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for p in method.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch)
    loss.backward()
    assert loss.dtype == torch.float32 and float(loss.detach()) == pytest.approx(losses[-1], rel=0.2)
    part = method.examples(data.items([5, 2]), 0, 0, np.array([5, 2]))
    assert torch.equal(part.views[0], batch.views[0][[5, 2]])


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_they_resume_bit_for_bit_and_are_loaded(name: str, tmp_path: Path) -> None:
    data = data_of(name)

    def run(out: str, **more: Any) -> Method:
        method, options = method_of(name)
        pretrain(method, data, Pretraining(epochs=2, batch_size=8), out=tmp_path / out, encoder_options=options, **more)
        return method

    whole = resumes_bit_for_bit(run, 4)
    loaded = load_method(tmp_path / "whole")
    options = {"seconds": 0.01} if name in AUDIO else {}
    made, again = loaded.generate(2, 1, **options), whole.cpu().eval().generate(3, 1, **options)  # type: ignore[call-arg]
    assert np.array_equal(made.values, again.values[:2]) and made.kind == type(whole).generates
    if name in AUDIO:
        assert made.values.shape == (2, 160) and made.rate == 16_000
        with pytest.raises(ValueError, match=f"checkpoint: {name} has no encoder of images"):
            load_encoder(tmp_path / "whole")
    else:
        width = IMAGES[name]["width"]
        assert made.values.shape == (2, 4, 4, 1) and load_encoder(tmp_path / "whole")[0].dim == width


def test_of_a_network_with_classes_each_class_in_turn() -> None:
    method, _ = method_of("wavenet", classes=3)
    made = method.generate(5, 1, seconds=0.01)  # type: ignore[call-arg]
    for label in range(3):
        only = method.generate(2, 1, seconds=0.01, label=label)  # type: ignore[call-arg]
        rows = made.values[label::3]
        assert np.array_equal(rows, only.values[: len(rows)])


def test_short_signals_are_padded_and_the_padding_is_not_counted() -> None:
    method, _ = method_of("wavenet")
    signals = [np.linspace(-0.5, 0.5, length, dtype=np.float32) for length in (5, 64, 200)]
    items = [Item(signal=signal, label=0, rate=8000) for signal in signals]
    batch = method.examples(items, 0)
    assert method.terms(batch) == 5 + 64 + 64
    alone = method(method.examples(items[:1], 0))
    network: Any = method.network
    expected = network.loss(torch.from_numpy(mu_law(signals[0], 16))[None])
    torch.testing.assert_close(alone, expected)


# Bad input.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelCNNNetwork(8, levels=1), "levels: expected an integer from 2 to 256, got 1"),
        (lambda: PixelCNNNetwork(8, levels=257), "levels: expected an integer from 2 to 256, got 257"),
        (lambda: PixelCNNNetwork(8, 3, width=16), "width: expected a multiple of the 3 channels, got 16"),
        (lambda: PixelCNNNetwork(8, kernel=4), "kernel: expected an odd number, got 4"),
        (lambda: PixelCNNNetwork(8, blocks=0), "blocks: expected an integer from 1"),
        (lambda: PixelRNNNetwork(8, width=7), "width: expected a multiple of 2, twice the channels, got 7"),
        (lambda: PixelRNNNetwork(8, lstm="column"), "lstm: expected one of row, diagonal, got 'column'"),
        (lambda: PixelRNNNetwork(8, dropout=1.0), r"dropout: expected a share in \[0, 1\), got 1"),
        (lambda: PixelCNNNetwork(0), "size: expected an integer from 1"),
        (lambda: pixels("pixelcnn").sample(0), "count: expected an integer from 1"),
        (lambda: pixels("pixelcnn").sample(1, label=0), "label: expected none, the network is not conditioned"),
        (lambda: pixels("pixelcnn", classes=2).sample(1, label=2), "label: expected one of 0 to 1, got 2"),
        (lambda: pixels("pixelcnn").sample(1, temperature=-1.0), "temperature: expected a number >= 0, got -1"),
        (lambda: WaveNetNetwork(levels=300), "levels: expected an integer from 2 to 256, got 300"),
        (lambda: WaveNetNetwork(cycle=0), "cycle: expected an integer from 1"),
        (lambda: WaveRNNNetwork(bits=5), "bits, width: expected even numbers, got 5 and 128"),
        (lambda: WaveRNNNetwork(bits=18), "bits: expected an integer from 2 to 16, got 18"),
        (lambda: audio("wavernn").sample(1, 5, prompt=np.array([16])), "prompt: expected codes from 0 to 15"),
        (lambda: audio("wavernn").double().sample(1, 5, backend="cpu"), "backend: the weights are torch.float64"),
        (
            lambda: (
                audio("wavernn").sampler(2).run(np.zeros((2, 5), np.int32), 5, 1.0, 0, np.zeros((2, 5, 4), np.float32))
            ),
            r"logits: expected floats \[2, 5, 2, 4\]",
        ),
        (lambda: audio("wavernn").sample(1, 5, label=0), "label: expected none, the network is not conditioned"),
        (lambda: pcm(np.array([1.5])), r"signal: expected samples in \[-1, 1\], got one of magnitude 1.5"),
        (lambda: build_audio({"name": "wavnet"}), "network: expected one of wavenet.*got 'wavnet'"),
        (lambda: build_audio({"name": "wavenet", "heads": 2}), "network: wavenet has no option heads"),
        (lambda: audio().sample(1, 0), "steps: expected an integer from 1"),
        (lambda: audio().sample(1, 5, prompt=np.array([16])), "prompt: expected codes from 0 to 15"),
        (lambda: audio().sample(1, 5, backend="cuda"), "backend: expected 'cpu', 'reference' or None, got 'cuda'"),
        (lambda: audio().double().sample(1, 5, backend="cpu"), "backend: the weights are torch.float64"),
        (lambda: audio().sampler(2).run(np.zeros((3, 5), np.int32), 0, 1.0, 0), r"codes: expected writeable int32 \[2"),
        (lambda: audio().sampler(1).run(np.full((1, 5), 16, np.int32), 5, 1.0, 0), "codes: expected 0 to 15"),
        (lambda: WaveNet(audio(), rate=0), "rate: expected an integer from 1"),
        (lambda: WaveNet(audio(), window=1), "window: expected an integer from 2"),
        (lambda: WaveNet(audio()).generate(seconds=0), "seconds: expected a duration above 0"),
        (lambda: mu_law(np.array([1.5])), r"signal: expected samples in \[-1, 1\], got one of magnitude 1.5"),
        (lambda: mu_law(np.array([np.nan])), r"signal: expected samples in \[-1, 1\], got one of magnitude nan"),
    ],
)
def test_bad_input_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_other_networks_and_items_are_named() -> None:
    with pytest.raises(
        TypeError, match="network: WaveNet expects 'wavenet' of fastssl.models.build_audio, got 'Linear'"
    ):
        WaveNet(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="encoder: PixelCNN expects an encoder of PixelCNNNetwork"):
        PixelCNN(build_encoder({"name": "resnet", "size": 8, "width": 4}))
    method = WaveNet(audio(), rate=8000, window=8)
    good = np.zeros(9, np.float32)
    for item, message in (
        (
            Item(signal=good, name="a.wav", rate=16_000),
            "rate: expected 8000 samples per second, a.wav has 16000: .* rate=",
        ),
        (
            Item(images=(np.zeros((2, 2, 3), np.uint8),), name="a.png"),
            "WaveNet needs a signal .* a.png has none, but an image",
        ),
        (Item(signal=good[:1], name="b.wav"), "signal: expected at least 2 samples, b.wav has 1"),
        (Item(signal=good[:0], name="c.wav"), "signal: expected at least 2 samples, c.wav has 0"),
        (Item(signal=good + 2, name="d.wav"), r"signal: expected samples in \[-1, 1\], d.wav has one of magnitude 2"),
    ):
        with pytest.raises(ValueError, match=message):
            method.examples([item], 0)
    with pytest.raises(ValueError, match="labels: expected 0 to 1 with each item"):
        WaveNet(audio(classes=2), window=8).examples([Item(signal=good)], 0)


def test_codes_of_equal_steps_are_undone() -> None:
    samples = np.arange(-32768, 32768)
    assert np.array_equal(pcm(samples / 32768), samples + 32768)  # those of a WAV file of 16 bits
    for levels in (2, 16, 1 << 16):
        codes = np.arange(levels)
        assert np.array_equal(pcm(inverse_pcm(codes, levels), levels), codes)
    assert pcm(np.array([-1.0, 1.0]), 16).tolist() == [0, 15]


def test_mu_law_has_small_relative_errors_and_is_undone() -> None:
    for levels in (2, 16, 255, 256):
        assert np.array_equal(mu_law(inverse_mu_law(np.arange(levels), levels), levels), np.arange(levels))
    signal = np.array([-1, -0.5, -0.02, 0.01, 0.3, 1])
    assert np.abs(inverse_mu_law(mu_law(signal)) / signal - 1).max() < 0.04
    assert len(Signals([signal.astype(np.float32), signal[:3].astype(np.float32)], np.zeros(2), ["a"], "x")) == 2


def test_an_interrupted_sample_leaves_the_mode() -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    for network in (PixelCNNNetwork(4, width=4, blocks=1), ImageGPTNetwork(4, colors=4, width=8, blocks=1, heads=2)):
        for training in (True, False):
            network.train(training)
            with pytest.raises(KeyboardInterrupt):
                network.sample(2, progress=stop)
            assert network.training is training
