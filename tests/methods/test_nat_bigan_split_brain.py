"""NAT assigns noise one to one, BiGAN has a loss for each network, halves of a split brain see a part of the image."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.cli.recipes import encoder_for
from fastssl.data import Batch, emoji
from fastssl.methods import NAT, BiGAN, SimCLR, SplitBrain
from fastssl.methods.colorization import ab_cells
from fastssl.models import LabNetwork, build_encoder

ENCODER = {"name": "resnet", "size": 32, "width": 4, "blocks": 1}


def nat(**options: int) -> NAT:
    return NAT(build_encoder(ENCODER), outputs=6, hidden=8, **options)


def unit(rows: int, seed: int) -> Tensor:
    return TF.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_embeddings_that_are_not_finite_exchange_nothing() -> None:
    """The loss is not finite either: the run ends with the items that it is of, not with an error of the assignment."""
    method = nat()
    batch = Batch([torch.full((4, 3, 32, 32), torch.nan)], None, torch.arange(4))
    assert not bool(method(batch).isfinite())
    assert method.numbers(torch.arange(4)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [NAT, BiGAN, SimCLR])
@pytest.mark.parametrize("name", ["outputs", "hidden"])
def test_widths_out_of_range_are_named(kind: type[NAT] | type[BiGAN] | type[SimCLR], name: str) -> None:
    for wrong in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"{name}: expected an integer >= 1, got {wrong}"):
            kind(build_encoder(ENCODER), **{name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_assigned_as_the_best_of_all_permutations_does(seed: int) -> None:
    method, z = nat(), unit(6, seed)
    ids = torch.tensor([3, 0, 8, 5, 4, 7])
    before = method.numbers(ids)
    assert before.equal(ids) and len(method.assigned) == 9
    cosines = z @ method.noise(before).T
    best = max(sum(float(cosines[i, k]) for i, k in enumerate(order)) for order in itertools.permutations(range(6)))
    method.exchange(z, ids)
    after = method.numbers(ids)
    assert sorted(after.tolist()) == sorted(before.tolist()) and not after.equal(before)
    assert float((z * method.noise(after)).sum()) == pytest.approx(best, abs=1e-5)
    assert method.assigned.rows[[1, 2, 6]].tolist() == [1, 2, 6]  # items of other batches keep theirs


def test_every_item_has_a_vector_of_its_own() -> None:
    method, seen = nat(), np.random.default_rng(0)
    for step in range(20):  # of items that come twice, and of more than exchange theirs at a time
        ids = torch.from_numpy(seen.integers(0, 40 + 40 * step, 300))
        method.exchange(unit(300, step), ids)
    assert sorted(method.assigned.rows.tolist()) == list(range(len(method.assigned)))
    assert len(method.assigned) > 600


def test_noise_is_uniform_on_the_sphere_and_the_same_wherever_it_is_drawn() -> None:
    method = nat()
    vectors = method.noise(torch.arange(4000))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4000))
    assert float(vectors.mean(0).abs().max()) < 0.03
    torch.testing.assert_close(vectors.T @ vectors / 4000, torch.eye(6) / 6, atol=0.02, rtol=0)
    assert method.noise(torch.tensor([17, 5])).equal(vectors[[17, 5]])
    other = nat()
    other.load_state_dict(method.state_dict())
    assert other.noise(torch.tensor([17])).equal(vectors[[17]])


def test_the_loss_of_nat_is_the_squared_distance_to_the_noise() -> None:
    method = nat().eval()
    batch = method.examples(emoji().items(range(7)), 0, 0, np.array([4, 0, 9, 2, 3, 7, 8]))
    z = TF.normalize(method.projector(method.embed(batch.views[0])), dim=1).double()
    expected = (z - method.noise(batch.ids).double()).square().sum(1).mean()
    torch.testing.assert_close(method(batch).double(), expected, rtol=1e-5, atol=1e-6)
    assert method.assigned.rows.equal(torch.arange(10))  # nothing is assigned in evaluation
    method.train()(batch)
    assert not method.assigned.rows.equal(torch.arange(10))


def gradients(method: BiGAN) -> dict[str, Tensor]:
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in method.named_parameters()}


def test_each_network_of_bigan_has_the_gradient_of_its_own_loss() -> None:
    method = BiGAN(build_encoder(ENCODER), outputs=5, hidden=16)
    batch = method.examples(emoji().items(range(6)), 0)
    image, noise = batch.views
    assert noise.shape == (6, 5) and -1 <= float(noise.min()) < -0.3 and 0.3 < float(noise.max()) <= 1
    apart = copy.deepcopy(method)
    loss = method(batch)
    loss.backward()
    code, made = apart.code(apart.embed(image)), apart.generator(noise)
    real, fake = apart.discriminator(image, code), apart.discriminator(made, noise)
    # log D and log(1 - D) of the paper's equation 2, D the sigmoid of the logits; and the same with labels exchanged.
    told = -(torch.sigmoid(real).log() + (1 - torch.sigmoid(fake)).log()).mean()
    fooled = -((1 - torch.sigmoid(real)).log() + torch.sigmoid(fake).log()).mean()
    torch.testing.assert_close(loss, told + fooled, rtol=1e-5, atol=1e-6)
    told.backward(retain_graph=True)
    expected = {n: g for n, g in gradients(apart).items() if n.startswith("discriminator")}
    apart.zero_grad()
    fooled.backward()
    expected |= {n: g for n, g in gradients(apart).items() if not n.startswith("discriminator")}
    found = gradients(method)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_bigan_learns_what_images_look_like() -> None:
    torch.manual_seed(0)
    method = BiGAN(build_encoder(ENCODER), outputs=5)
    batch = method.examples(emoji().items(range(32)), 0)
    optimizer, distances = torch.optim.AdamW(method.parameters(), lr=2e-3), []
    for _ in range(60):
        made = method.generator(batch.views[1]).detach()
        distances.append(float((made.mean(0) - batch.views[0].mean(0)).square().mean()))
        optimizer.zero_grad()
        method(batch).backward()
        optimizer.step()
    assert np.mean(distances[-5:]) < 0.5 * distances[0]


def test_bigan_generates_images_by_their_number(tmp_path: Path) -> None:
    method = BiGAN(build_encoder(ENCODER), outputs=5, hidden=16)
    few, more = method.generate(3, seed=4), method.generate(5, seed=4)
    assert few.kind == "images" and few.values.shape == (3, 32, 32, 3) and few.values.dtype == np.uint8
    assert np.abs(more.values[:3].astype(int) - few.values).max() <= 1 and not np.array_equal(
        few.values, method.generate(3, seed=5).values
    )
    assert method.generator.training  # as it was
    (file,) = few.save(tmp_path / "made")
    assert file.name == "made.png"


def split_brain(**options: int) -> SplitBrain:
    return SplitBrain(build_encoder(encoder_for("split-brain", None, 32, 4)), **options)


def test_each_half_of_a_split_brain_predicts_what_the_other_sees() -> None:
    method = split_brain().eval()
    image = method.examples(emoji().items(range(3)), 0).views[0]
    light, color = LabNetwork.split(image.double())
    classes = (ab_cells().double(), torch.arange(0.5, 100)[:, None].double())
    seen = (
        TF.adaptive_avg_pool2d(110 * color[:, :2], method.side),
        TF.adaptive_avg_pool2d(50 * light + 50, method.side),
    )
    expected = torch.zeros((), dtype=torch.float64)
    for (logits, _), cells, target in zip(method.predict(image), classes, (seen[0], seen[1][:, :1])):
        log_p, terms = logits.double().log_softmax(1), []
        for b, y, x in itertools.product(range(3), range(method.side), range(method.side)):
            cell = (cells - target[b, :, y, x]).square().sum(1).argmin()
            terms.append(-log_p[b, cell, y, x])
        expected = expected + torch.stack(terms).mean()
    torch.testing.assert_close(method(Batch([image])).double(), expected, rtol=1e-4, atol=1e-5)
    network = method.encoder.network
    assert isinstance(network, LabNetwork)
    grey = image.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    (_, (before, _)), (_, (after, _)) = method.predict(image), method.predict(grey)  # lightness from colours
    apart = [float((logits[0] - logits[1]).abs().max().detach()) for logits in (after, before)]
    assert apart[0] < 0.02 * apart[1], apart


def test_split_brain_is_of_two_halves() -> None:
    with pytest.raises(
        ValueError, match=r"encoder: split-brain needs one of two halves \('lab:resnet'\), got SmallResNet"
    ):
        SplitBrain(build_encoder(ENCODER))
    for name, wrong in (("levels", 1), ("levels", 2.5), ("grid", 0), ("grid", -5), ("grid", 101)):
        with pytest.raises(ValueError, match=f"{name}: expected an integer .*, got {wrong}"):
            split_brain(**{name: wrong})
