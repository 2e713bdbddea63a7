"""Methods: each learns, resumes bit for bit, runs in bf16, and does what its paper says."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from PIL import Image
from torch import Tensor, nn

import fastssl.data
import fastssl.functional as F
from fastssl.augment import Augment, ColorizationAugment, RandomResizedCrop, RelativePatchAugment, Views
from fastssl.augment.saved import from_json, to_json
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import ArraySource, Batch, Item, Source, emoji
from fastssl.evaluate import clustering_scores
from fastssl.methods import (
    BYOL,
    CPC,
    DINO,
    METHODS,
    NNCLR,
    ContextEncoder,
    Counting,
    ImageMethod,
    Jigsaw,
    Method,
    MoCo,
    RotNet,
    SimSiam,
    SupCon,
    SwAV,
    Tracking,
    get,
    methods_of,
)
from fastssl.methods.colorization import ab_cells
from fastssl.models import (
    ENCODERS,
    EmbeddingQueue,
    Encoder,
    LabNetwork,
    MemoryBank,
    Prototypes,
    ResNet,
    TargetNetwork,
    TextTransformer,
    build_encoder,
    hamming,
    pca_whiten,
    permutations,
    tokenize,
)
from fastssl.models.decoder import Decoder
from fastssl.train import Pretraining, load_encoder, load_method, pretrain
from fastssl.train.trainer import extract_dataset_features
from tests.support.resuming import resumes_bit_for_bit
from tests.support.subjects import slow_but_one

ENCODER = {"name": "resnet", "size": 32, "width": 4, "blocks": 1}
IMAGE_METHODS = methods_of("images")  # tests/methods/test_language.py has those of texts


def encoder_of(name: str) -> dict[str, Any]:
    return encoder_for(name, None, 8 if name in ("igpt", "pixelcnn", "pixelrnn") else 32, 4)  # one step per pixel


def data(n: int = 48) -> ArraySource:
    images = emoji().subset(np.arange(n), "emoji")
    images.labels = np.arange(n) % 6
    return images


def build(name: str, seed: int = 0, images: ArraySource | None = None) -> Method:
    method = build_method(name, encoder_of(name), images or data(), seed)
    for option, value in (("clusters", 6), ("count", 16)):
        if method.needs_dataset_features and hasattr(method, option):
            setattr(method, option, value)
    return method


def prepare_method(method: Method, images: Source) -> None:
    """What the loop does before an epoch."""
    if method.needs_dataset_features:
        method.before_epoch(extract_dataset_features(method, images, 16), 0, 0)


def loss_of(method: Method, images: Source, seed: int = 0, epoch: int = 0) -> Tensor:
    return method(method.examples(images.items(range(len(images))), seed, epoch))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", METHODS)
def test_methods_describe_themselves(name: str) -> None:
    kind = get(name)
    assert all(kind.about().values()) and kind.__doc__ and "Args:" in kind.__doc__
    source = Path(__import__(kind.__module__, fromlist=["x"]).__file__)
    lines = source.read_text().splitlines()
    assert len(lines) <= 130, f"{source.name} has {len(lines)} lines"
    assert not any(word in source.read_text() for word in ("optimizer", "DataLoader", ".to(device", "SummaryWriter"))


@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_views_of_methods_are_kept_and_replaced(name: str) -> None:
    """By themselves: the same examples. Methods whose views are a part of their task take no others."""
    method, items = build(name), data().items(range(4))
    before, kept = method.examples(items, 3), from_json(json.loads(json.dumps(to_json(method.augment))))
    if not method.replaceable_views:
        with pytest.raises(ValueError, match="makes its views by rules of its own"):
            method.replace_views(kept)
        return
    method.replace_views(kept)
    for one, other in zip(method.inputs(before), method.inputs(method.examples(items, 3)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_methods_learn(name: str) -> None:
    """Steps on the same views of 16 images: their loss falls, and the encoder is what learns."""
    late = name == "stacked-denoising"  # whose layers are trained one after the other
    steps, images = 40 if late else 14, data(48 if late else 16)
    method = build(name, images=images)
    method.train()
    prepare_method(method, images)
    if isinstance(method, (MoCo, NNCLR)):  # a queue as long as the batch: the same difficulty at every step
        queue = EmbeddingQueue(len(images), 128)
        method.register_module("queue" if isinstance(method, MoCo) else "support", queue)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    if isinstance(method, Tracking):
        method.hard_after = 2.0  # the hardest negatives raise the loss
    losses, batch = [], method.examples(images.items(range(len(images))), 0)
    for step in range(steps):
        loss = method(batch)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert any(p.grad is not None and bool((p.grad != 0).any()) for p in method.encoder.parameters())
        optimizer.step()
        method.after_step((step + 1) / steps)
        losses.append(float(loss.detach()))
    assert all(map(math.isfinite, losses))
    if name == "bigan":  # a discriminator that learns raises the loss, which is least where it tells nothing apart
        assert 4 * math.log(2) - 1e-3 <= min(losses)
    elif name == "dino":  # its target moves away again
        assert min(losses[5:]) < min(losses[:3])
    else:
        assert np.mean(losses[-3:]) < np.mean(losses[2:5])


STORES = ("moco", "dino", "inter-clr", "nat")  # besides networks: a queue, a centre, memories


@pytest.mark.parametrize(
    "name",
    slow_but_one(
        IMAGE_METHODS, lambda name: (get(name).family, get(name).needs_dataset_features, name if name in STORES else "")
    ),
)
def test_methods_resume_bit_for_bit(name: str, tmp_path: Path) -> None:
    images = data(32)

    def run(out: str, **options: Any) -> Method:
        settings = Pretraining(epochs=2, batch_size=16, warmup_epochs=1)
        method = build(name, images=images)
        pretrain(method, images, settings, out=tmp_path / out, encoder_options=encoder_of(name), **options)
        return method

    whole = resumes_bit_for_bit(run, 3)
    encoder, state = load_encoder(tmp_path / "whole")
    assert state["method"] == name and encoder.dim == whole.encoder.dim


@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_methods_train_on_their_smallest_batch(name: str) -> None:
    images = data(12)
    method = build(name, images=images)
    prepare_method(method, images)
    rows = images.items(range(method.min_rows))
    loss = method(method.examples(rows, 0))
    loss.backward()
    assert torch.isfinite(loss)
    assert any(bool(p.grad.any()) for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_methods_run_in_bf16(name: str) -> None:
    method = build(name)
    prepare_method(method, data())
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(method, data(16))
    loss.backward()
    assert bool(torch.isfinite(loss)) and loss.dtype == torch.float32


@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_views_are_keyed_by_item(name: str) -> None:
    method, images = build(name), data()
    prepare_method(method, images)
    ids = np.arange(30, 42)
    whole = method.examples(images.items(ids), 1, 2, ids)
    part = method.examples(images.items(ids[[7, 3]]), 1, 2, ids[[7, 3]])
    assert all(torch.equal(a[[7, 3]], b) for a, b in zip(whole.views, part.views))
    assert torch.equal(whole.labels[[7, 3]], part.labels) and part.ids.tolist() == [37, 33]
    other = method.examples(images.items(ids), 1, 3, ids)
    assert not all(torch.equal(a, b) for a, b in zip(whole.views, other.views))


# What methods carry.


def test_target_networks_follow() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    target = TargetNetwork(network, momentum=0.9)
    before = target.network[0].weight.clone()  # type: ignore[index]
    with torch.no_grad():
        network[0].weight += 1
        network[1].running_mean += 3  # type: ignore[operator]
    target.update(network, progress=0.5)
    m = 1 - 0.1 * (math.cos(math.pi / 2) + 1) / 2
    torch.testing.assert_close(target.network[0].weight, m * before + (1 - m) * network[0].weight)  # type: ignore[index]
    assert torch.equal(target.network[1].running_mean, network[1].running_mean)  # type: ignore[index]
    stays = target.network[0].weight.clone()  # type: ignore[index]
    target.update(network, progress=1.0)
    torch.testing.assert_close(target.network[0].weight, stays)  # type: ignore[index]
    assert not any(p.requires_grad for p in target.parameters())
    with pytest.raises(ValueError, match=r"momentum.*1\.5"):
        TargetNetwork(network, 1.5)


@pytest.mark.parametrize("sizes", [[3, 3, 3], [1, 7, 2], [12], [5, 20, 1]])
def test_queues_keep_the_last(sizes: list[int]) -> None:
    queue, pushed = EmbeddingQueue(8, 4), []
    for k, n in enumerate(sizes):
        rows = torch.randn(n, 4, generator=torch.Generator().manual_seed(k))
        queue.push(rows)
        pushed += list(TF.normalize(rows, dim=1))
    newest = {tuple(row.tolist()) for row in pushed[-8:]}
    kept = {tuple(row.tolist()) for row in queue.embeddings}
    assert newest <= kept and len(kept) == 8


def test_prototypes_are_cosines() -> None:
    prototypes, x = Prototypes(4, 3), torch.randn(5, 4)
    expected = TF.cosine_similarity(x[:, None], prototypes.weight[None], dim=2)
    torch.testing.assert_close(prototypes(x), expected)


# What papers say.


def test_byol_is_squared_distance_of_unit_vectors() -> None:
    method = BYOL(build_encoder(ENCODER)).eval()
    x0, x1 = torch.randn(6, 3, 32, 32), torch.randn(6, 3, 32, 32)
    total = torch.zeros(())
    for a, b in ((x0, x1), (x1, x0)):
        predicted = TF.normalize(method.predictor(method.projector(method.encoder(a))), dim=1)
        target = TF.normalize(method.target(b), dim=1)
        total = total + (predicted - target).square().sum(1).mean()
    torch.testing.assert_close(method(Batch([x0, x1])), total)
    method(Batch([x0, x1])).backward()
    assert all(p.grad is None for p in method.target.parameters())


def test_moco_contrasts_with_the_queue() -> None:
    method = MoCo(build_encoder(ENCODER), queue=10, temperature=0.3).eval()
    x0, x1 = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    q = TF.normalize(method.projector(method.encoder(x0)), dim=1)
    k = TF.normalize(method.target(x1), dim=1)
    logits = torch.cat([q @ k.T, q @ method.queue.embeddings.T], 1) / 0.3
    torch.testing.assert_close(method(Batch([x0, x1])), TF.cross_entropy(logits, torch.arange(4)), rtol=1e-5, atol=1e-5)
    before = method.queue.embeddings.clone()
    method.train()(Batch([x0, x1]))
    assert not torch.equal(before[:4], method.queue.embeddings[:4]) and torch.equal(
        before[4:], method.queue.embeddings[4:]
    )


def test_simsiam_stops_the_gradient_of_targets() -> None:
    method = SimSiam(build_encoder(ENCODER)).eval()
    x0, x1 = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    z0, z1 = (method.projector(method.encoder(x)) for x in (x0, x1))
    expected = -(
        TF.cosine_similarity(method.predictor(z0), z1.detach()).mean()
        + TF.cosine_similarity(method.predictor(z1), z0.detach()).mean()
    )
    torch.testing.assert_close(method(Batch([x0, x1])), expected / 2)
    weight = method.projector[0].weight
    (ours,) = torch.autograd.grad(method(Batch([x0, x1])), weight)
    (theirs,) = torch.autograd.grad(expected / 2, weight)
    torch.testing.assert_close(ours, theirs)


def test_swav_of_two_views_is_the_swapped_prediction() -> None:
    method = SwAV(build_encoder(ENCODER)).eval()
    x0, x1 = torch.randn(6, 3, 32, 32), torch.randn(6, 3, 32, 32)
    scores = [method.prototypes(method.projector(method.encoder(x))) for x in (x0, x1)]
    expected = F.swapped_prediction(scores[0], scores[1], temperature=0.1, epsilon=0.05)
    torch.testing.assert_close(method(Batch([x0, x1])), expected, rtol=1e-5, atol=1e-6)


def test_dino_centres_its_teacher() -> None:
    method = DINO(build_encoder(ENCODER), outputs=16).train()
    views = [torch.randn(4, 3, 32, 32) for _ in range(2)] + [torch.randn(4, 3, 16, 16) for _ in range(2)]
    teacher = method.target(torch.cat(views[:2]))
    assert float(method.center.abs().max()) == 0
    method(Batch(views))
    torch.testing.assert_close(method.center, 0.1 * teacher.mean(0), rtol=1e-3, atol=1e-4)


def test_sup_con_reads_labels() -> None:
    method = SupCon(build_encoder(ENCODER)).eval()
    views, labels = [torch.randn(6, 3, 32, 32) for _ in range(2)], torch.tensor([0, 0, 1, 1, 2, 2])
    z = method.projector(method.encoder(torch.cat(views)))
    torch.testing.assert_close(method(Batch(views, labels)), F.sup_con(z, labels.repeat(2), temperature=0.1))
    with pytest.raises(ValueError, match="labels"):
        method(Batch(views))


def test_rotnet_sees_all_turns_of_an_image() -> None:
    method = RotNet(build_encoder(ENCODER)).eval()
    x = torch.randn(3, 3, 32, 32)
    terms = [
        TF.cross_entropy(method.classifier(method.encoder(torch.rot90(x, k, (2, 3)))), torch.full((3,), k))
        for k in range(4)
    ]
    torch.testing.assert_close(method(Batch([x])), torch.stack(terms).mean())


def test_relative_patches_are_where_their_labels_say() -> None:
    """On an image whose colour says where it is, the place can be read off."""
    y, x = np.mgrid[:60, :60] * 4
    image = np.stack([y, x, np.zeros_like(y)], -1).astype(np.uint8)
    method = get("relative-patch")(build_encoder(ENCODER), RelativePatchAugment(16, 20, 60, normalize=None))  # type: ignore[arg-type]
    middle, neighbour, places = method.examples([Item(images=(image,))] * 64, 0).views
    # The projection takes the same share from red and blue: red - blue is the row, and green + 2 blue ... the column.
    for k in range(64):
        row, column = divmod(int(places[k]) + (int(places[k]) >= 4), 3)
        shift = (neighbour[k] - middle[k]).mean((1, 2)) * 255 / 4
        assert round(float(shift[0] - shift[2]) / 20) == row - 1
        assert round(float((shift[0] + shift[1] + shift[2]) - (shift[0] - shift[2])) / 20) in range(-2, 3)
        assert (row, column) != (1, 1)


def test_jigsaw_permutations_are_far_apart() -> None:
    table = permutations(64)
    assert table.shape == (64, 9) and len({tuple(row) for row in table}) == 64
    assert (np.sort(table, 1) == np.arange(9)).all()
    least, mean = hamming(table)
    rng = np.random.default_rng(0)
    chance = hamming(np.stack([rng.permutation(9) for _ in range(64)]))
    assert least >= 7 and mean >= 8 and least > chance[0] and mean > chance[1]
    assert hamming(permutations(9))[0] == 9  # nine that differ everywhere exist, and are found
    with pytest.raises(ValueError, match="count"):
        permutations(400_000)


def test_jigsaw_shuffles_what_it_says() -> None:
    method = Jigsaw(build_encoder(ENCODER), count=32)
    tiles, numbers = method.examples(data(10).items(range(10)), 3).views
    straight = method.augment(data(10).images[:, 0], seed=3, ids=np.arange(10))
    for k in range(10):
        for place, tile in enumerate(method.table[int(numbers[k])]):
            x = straight[tile][k]
            x = (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True, correction=0).clamp(min=1e-4)
            torch.testing.assert_close(tiles[k, place], x, rtol=1e-4, atol=1e-4)


def test_counting_adds_up() -> None:
    method = Counting(build_encoder(ENCODER)).eval()
    x = torch.randn(3, 3, 64, 64)
    count = lambda image: method.counter(method.encoder(image[None]))[0]  # noqa: E731
    terms = []
    for k in range(3):
        total = sum(count(x[k, :, r : r + 32, c : c + 32]) for r in (0, 32) for c in (0, 32))
        own, other = (count(TF.avg_pool2d(x[j], 2)) for j in (k, k - 1))
        terms.append((own - total).square().sum() + torch.relu(10 - (other - total).square().sum()))
    torch.testing.assert_close(method(Batch([x])), torch.stack(terms).mean(), rtol=1e-4, atol=1e-4)


def test_cpc_does_not_look_ahead() -> None:
    method = CPC(build_encoder(ENCODER)).eval()
    codes = torch.randn(2, 128, 7, 7)
    changed = codes.clone()
    changed[:, :, 4:] += 1
    a, b = method.context(codes), method.context(changed)
    assert torch.equal(a[:, :, :4], b[:, :, :4]) and not torch.equal(a[:, :, 4:], b[:, :, 4:])
    pairs = method.predictions(codes)
    assert sorted(pairs) == [2, 3, 4, 5]
    for k, (predicted, true) in pairs.items():
        assert predicted.shape == true.shape == (2 * (7 - k) * 7, 128)
        assert torch.equal(true.reshape(2, 7 - k, 7, 128)[1, 0, 3], codes[1, :, k, 3])
    with pytest.raises(ValueError, match="steps"):
        CPC(build_encoder(ENCODER), steps=(0, 9))


@pytest.mark.parametrize("region", ["center", "random"])
def test_context_encoders_do_not_see_what_they_paint(region: str) -> None:
    method = ContextEncoder(build_encoder(ENCODER), region=region).eval()
    image, gone = method.examples(data(4).items(range(4)), 0).views
    changed = torch.where(gone, torch.randn_like(image), image)
    assert torch.equal(method.paint(image, gone), method.paint(changed, gone))
    assert 0.2 <= float(gone.float().mean()) < 0.5
    loss = method(Batch([image, gone]))
    painted = method.paint(image, gone)
    missing = gone.expand_as(image)
    reconstruction = TF.mse_loss(painted[missing], image[missing])
    assert float(loss) > 0.999 * float(reconstruction)
    # The painter's gradient of the adversarial term is the reverse of the discriminator's.
    bias = method.discriminator[-1].bias
    fake = method.discriminator(torch.where(gone, painted, image))
    real = method.discriminator(image)
    (expected,) = torch.autograd.grad(0.001 * (TF.softplus(-real).mean() + TF.softplus(fake).mean()), bias)
    (given,) = torch.autograd.grad(loss, bias)
    torch.testing.assert_close(given, expected)
    with pytest.raises(ValueError, match="kind"):
        ContextEncoder(build_encoder(ENCODER), region="left")


def test_decoders_need_maps() -> None:
    flat = Encoder(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)), 8)
    with pytest.raises(ValueError, match="encoder: expected a network that gives a feature map"):
        Decoder(flat)
    with pytest.raises(ValueError, match="size: expected a power of two"):
        Decoder(Encoder(nn.Conv2d(3, 4, 3, 3), 9))


def test_methods_take_any_views_and_network() -> None:
    class Mine(ImageMethod):
        family, paper, predicts, loss = "mine", "nobody", "nothing", "none"

        def forward(self, batch: Batch) -> Tensor:
            return self.embed(batch.views[0]).square().mean()

    encoder = Encoder(nn.Conv2d(3, 4, 3, 2), 9)
    method = Mine(encoder, Views([Augment([RandomResizedCrop(9)])]), spatial=True)
    assert method.features == 4 * 16 and bool(torch.isfinite(method(method.examples(data(3).items(range(3)), 0))))


def test_wrong_names_and_options() -> None:
    with pytest.raises(ValueError, match="method: expected one of simclr"):
        get("simclrr")
    with pytest.raises(ValueError, match="temperature: byol has none"):
        build_method("byol", ENCODER, data(), 0, temperature=0.1)


def test_colors_are_assigned_to_their_nearest_cells() -> None:
    method = get("colorization")(build_encoder(ENCODER)).eval()
    cells = ab_cells(10)
    assert 250 < len(cells) < 350 and float(cells.abs().max()) <= 110 and len(torch.unique(cells, dim=0)) == len(cells)
    ab = torch.rand(40, 2) * 120 - 60
    cell, share = method.assign(ab)  # type: ignore[operator]
    for k in range(40):
        distance = (ab[k] - cells).square().sum(1)
        assert set(cell[k].tolist()) == set(distance.argsort()[:5].tolist())
        expected = torch.exp(-distance[cell[k]] / 50)
        torch.testing.assert_close(share[k], expected / expected.sum(), rtol=1e-4, atol=1e-5)
    light, ab = method.examples(data(6).items(range(6)), 0).views
    assert torch.equal(light[:, 0], light[:, 2]) and ab.shape == (6, 2, 8, 8)
    logits = method.decoder(method.encoder.network(light)).permute(0, 2, 3, 1).reshape(-1, len(cells))  # type: ignore[operator]
    cell, share = method.assign(ab.permute(0, 2, 3, 1).reshape(-1, 2))  # type: ignore[operator]
    target = torch.zeros_like(logits).scatter(1, cell, share)
    torch.testing.assert_close(method(Batch([light, ab])), TF.cross_entropy(logits, target), rtol=1e-4, atol=1e-4)
    # What has been seen often counts less.
    with torch.no_grad():
        method.frequency[cell[:, 0].bincount().argmax()] = 0.9  # type: ignore[index,operator]
    assert float(method(Batch([light, ab]))) != pytest.approx(float(TF.cross_entropy(logits, target)))


def test_transformations_are_what_is_drawn() -> None:
    method = get("transformation")(build_encoder(ENCODER), degrees=180.0)
    u = np.array([[0.5, 0.5, 0.5, 0.5, 0.5], [0.75, 0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1.0, 0.75, 0.5]])
    maps = method.matrices(u)  # type: ignore[operator]
    torch.testing.assert_close(maps[0], torch.eye(3)[:2], atol=1e-6, rtol=0)
    torch.testing.assert_close(maps[2], torch.tensor([[1.3, 0, 0.2], [0, 1.3, 0]]), atol=1e-5, rtol=0)
    x = torch.randn(1, 3, 8, 8)
    turned = TF.grid_sample(x, TF.affine_grid(maps[1:2], [1, 3, 8, 8], align_corners=False), align_corners=False)
    torch.testing.assert_close(turned, torch.rot90(x, 1, (2, 3)), atol=1e-5, rtol=1e-5)
    view, moved, drawn = method.examples(data(5).items(range(5)), 1).views
    grid = TF.affine_grid(drawn, [5, 3, 32, 32], align_corners=False)
    torch.testing.assert_close(moved, TF.grid_sample(view, grid, padding_mode="border", align_corners=False))


@pytest.mark.parametrize("name", ["masked", "mae"])
def test_masked_methods_do_not_see_what_they_paint(name: str) -> None:
    method = build(name).eval()
    image, where = method.examples(data(4).items(range(4)), 0).views
    if name == "mae":
        hidden = torch.ones(4, 64, dtype=torch.bool).scatter(1, where[:, :16], False)  # type: ignore[arg-type]
        gone = hidden.reshape(4, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    else:
        gone = where
    share = gone.float().mean((1, 2, 3))
    assert torch.equal(share, torch.full((4,), round(64 * (0.75 if name == "mae" else 0.6)) / 64))
    changed = torch.where(gone, torch.randn_like(image), image)
    painted = method.paint(image, where)  # type: ignore[operator]
    torch.testing.assert_close(painted, method.paint(changed, where), rtol=1e-5, atol=1e-5)  # type: ignore[operator]
    seen = torch.where(gone, image, image + 1)
    assert not torch.allclose(painted, method.paint(seen, where), atol=1e-3)  # type: ignore[operator]
    if name == "mae":
        terms = []
        for b in range(4):
            for p in where[b, 16:].tolist():
                patch = image[b, :, p // 8 * 4 : p // 8 * 4 + 4, p % 8 * 4 : p % 8 * 4 + 4].flatten()
                terms.append((painted[b, p] - (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()).square().mean())
        torch.testing.assert_close(method(Batch([image, where])), torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="encoder: MAE needs a ViT"):
            get("mae")(build_encoder(ENCODER))


def test_stacked_levels_learn_one_after_another() -> None:
    method = build("stacked-denoising").train()
    levels = method.encoder.levels()
    for k in range(len(levels)):
        method.after_step((k + 0.5) / len(levels))
        method.zero_grad(set_to_none=True)
        loss_of(method, data(8)).backward()
        for j, level in enumerate(levels):
            assert all((p.grad is not None) == (j == k) for p in level.parameters())
    with pytest.raises(ValueError, match="levels that give square maps"):
        get("stacked-denoising")(Encoder(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), 8))


def test_deep_cluster_sees_all_clusters_equally_often() -> None:
    method = get("deep-cluster")(build_encoder(ENCODER), clusters=5, pca=4, every=2)
    corners = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)) * 10
    truth = torch.tensor([0] * 30 + [1] * 10 + [2] * 5 + [3] * 4 + [4])
    method.before_epoch(corners[truth] + torch.randn(50, 16, generator=torch.Generator().manual_seed(1)) * 0.1, 0, 0)
    cluster = method.assigned.rows  # type: ignore[union-attr]
    assert len({(int(a), int(b)) for a, b in zip(truth, cluster)}) == 5  # the clusters are the corners
    weights = method.sampling_weights()
    sums = [float(weights[truth == c].sum()) for c in range(5)]  # type: ignore[index]
    assert np.allclose(sums, 1)
    view = torch.randn(3, 3, 32, 32)
    logits = method.eval().classifier(torch.relu(method.embed(view)))  # type: ignore[operator]
    expected = TF.cross_entropy(logits, cluster[[0, 49, 30]])  # type: ignore[index]
    torch.testing.assert_close(method(Batch([view], ids=torch.tensor([0, 49, 30]))), expected)
    kept = method.classifier.weight.clone()  # type: ignore[union-attr,operator]
    method.before_epoch(torch.randn(50, 16), 1, 0)
    assert torch.equal(method.assigned.rows, cluster)  # type: ignore[union-attr,arg-type]
    method.before_epoch(torch.randn(50, 16), 2, 0)
    assert not torch.equal(method.assigned.rows, cluster)  # type: ignore[union-attr,arg-type]
    assert not torch.equal(method.classifier.weight, kept)  # type: ignore[union-attr,arg-type]


def test_deep_cluster_with_few_items(tmp_path: Path) -> None:
    """As many components as items would make all of them equally far apart: clusters of noise."""
    method = get("deep-cluster")(build_encoder(ENCODER), clusters=5)
    truth, drawn = torch.arange(60) % 5, torch.Generator().manual_seed(0)
    features = torch.randn(5, 128, generator=drawn)[truth] + torch.randn(60, 128, generator=drawn) / 2
    method.before_epoch(features, 0, 0)
    assert clustering_scores(method.assigned.rows.numpy(), truth.numpy())["nmi"] > 90  # type: ignore[union-attr,operator]
    options = Pretraining(epochs=1, batch_size=8)
    with pytest.raises(
        ValueError, match="clusters: expected at most the 48 items of emoji, got 50 .*--set clusters=24"
    ):
        pretrain("deep-cluster", data(48), options, out=tmp_path / "run", encoder="resnet", size=32)
    assert not (tmp_path / "run").exists()


def test_whitened_features_have_no_correlations() -> None:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 6) + 5
    white = pca_whiten(x, 4)
    torch.testing.assert_close(white.norm(dim=1), torch.ones(200))
    centred = (x - x.mean(0)).double()
    values, axes = np.linalg.eigh(np.cov(centred.numpy().T))
    expected = centred.numpy() @ axes[:, ::-1][:, :4] / np.sqrt(values[::-1][:4])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(white.numpy()), np.abs(expected), rtol=1e-3, atol=1e-4)
    assert pca_whiten(torch.ones(5, 3), 2).shape == (5, 0)


def test_inter_clr_draws_from_other_clusters() -> None:
    method = get("inter-clr")(build_encoder(ENCODER), clusters=3, pool=1.0, negatives=30, queue=8).eval()
    memory = TF.normalize(torch.randn(30, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    method.before_epoch(memory, 0, 0)
    cluster = method.cluster.rows  # type: ignore[union-attr]
    ids = torch.tensor([4, 9, 21])
    query = TF.normalize(torch.randn(3, 128, generator=torch.Generator().manual_seed(1)), dim=1)
    given = float(method.inter_image_loss(query, ids))  # type: ignore[operator]
    choices = []
    for q, i in zip(query, ids.tolist()):
        others = [j for j in range(30) if cluster[j] == cluster[i] and j != i] or [i]  # type: ignore[index]
        negatives = torch.stack([q @ memory[j] / 0.2 for j in range(30) if cluster[j] != cluster[i]])  # type: ignore[index]
        choices.append(
            [
                float(torch.logsumexp(torch.cat([s[None], negatives]), 0) - s)
                for s in ((q @ memory[j] + 0.5) / 0.2 for j in others)
            ]
        )
    means = [np.mean(combination) for combination in itertools.product(*choices)]
    assert min(abs(given - m) for m in means) < 1e-4
    views = method.examples(data(4).items(range(4)), 0)
    before = method.memory.rows.clone()  # type: ignore[union-attr,operator]
    method.train()(views)
    changed = (method.memory.rows != before).any(1)  # type: ignore[union-attr]
    assert changed.tolist() == [k < 4 for k in range(30)]


def test_amdim_tells_wholes_from_places() -> None:
    method = get("amdim")(build_encoder(ENCODER), temperature=0.2).eval()
    views = [torch.randn(3, 3, 32, 32) for _ in range(2)]
    terms = []
    for a, b in ((0, 1), (1, 0)):
        whole = TF.normalize(method.whole(method.encoder(views[a])), dim=1)  # type: ignore[operator]
        for head, level in zip(method.places, method._maps(views[b])):  # type: ignore[arg-type,operator]
            places = TF.normalize(TF.adaptive_avg_pool2d(head(level), 4).flatten(2), dim=1)
            scores = torch.einsum("id,jdp->ijp", whole, places) / 0.2
            for i in range(3):
                negatives = torch.cat([scores[i, j] for j in range(3) if j != i])
                terms += [
                    torch.logsumexp(torch.cat([scores[i, i, p : p + 1], negatives]), 0) - scores[i, i, p]
                    for p in range(places.shape[2])
                ]
    torch.testing.assert_close(method(Batch(views)), torch.stack(terms).mean(), rtol=1e-4, atol=1e-4)


def test_cmc_halves_see_lightness_and_color() -> None:
    view = torch.rand(3, 3, 32, 32) * 2 - 1
    light, color = LabNetwork.split(view.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert float(color.abs().max()) < 1e-3 and torch.equal(light[:, 0], light[:, 1])
    method = get("cmc")(build_encoder(encoder_of("cmc")), temperature=0.1).eval()
    network = method.encoder.network
    z = [
        head(network.get_submodule(half)(x).mean((2, 3)))  # type: ignore[operator]
        for head, half, x in zip(method.heads, ("lightness", "color"), LabNetwork.split(view))  # type: ignore[arg-type]
    ]
    expected = F.info_nce(z[0], z[1], temperature=0.1, symmetric=True)
    torch.testing.assert_close(method(Batch([view])), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="encoder: CMC needs one of two halves"):
        get("cmc")(build_encoder(ENCODER))


@pytest.mark.parametrize("name", ["clip", "align", "siglip"])
def test_two_towers_compare_every_pair(name: str) -> None:
    method = build(name).eval()
    view, tokens = method.examples(data(5).items(range(5)), 0).views
    image = TF.normalize(method.image_head(method.embed(view)), dim=1)  # type: ignore[operator]
    text = TF.normalize(method.text_head(method.tower(tokens)), dim=1)  # type: ignore[operator]
    logits = image @ text.T * method.log_scale.exp()  # type: ignore[operator]
    if name == "siglip":
        expected = -TF.logsigmoid((2 * torch.eye(5) - 1) * (logits + method.bias)).sum() / 5  # type: ignore[operator]
    else:
        expected = (TF.cross_entropy(logits, torch.arange(5)) + TF.cross_entropy(logits.T, torch.arange(5))) / 2
    torch.testing.assert_close(method(Batch([view, tokens])), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        method.log_scale.fill_(10.0)  # type: ignore[operator]
    method.after_step(0.5)
    assert float(method.log_scale.exp()) == pytest.approx(100)  # type: ignore[operator]
    with pytest.raises(ValueError, match="items: expected a text with each image, 1 has none"):
        method.examples([data(1).read(0), Item(images=data(1).read(0).images, name="1")], 0)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_equal_texts_are_not_negatives(name: str) -> None:
    method = build(name).eval()
    view, tokens = method.examples(data(6).items(range(6)), 0).views
    tokens = tokens[torch.tensor([0, 1, 2, 1, 0, 1])]
    image = method.encode_images(view)  # type: ignore[operator]
    text = method.encode_texts(tokens)  # type: ignore[operator]
    logits = image @ text.T * method.log_scale.exp()  # type: ignore[operator]
    ids = torch.tensor([0, 1, 2, 1, 0, 1])
    same = (ids[:, None] == ids) & ~torch.eye(6, dtype=torch.bool)
    if name == "siglip":
        signed = (2 * torch.eye(6) - 1) * (logits + method.bias)  # type: ignore[operator]
        expected = -TF.logsigmoid(signed).masked_fill(same, 0).sum() / 6
    else:
        logits = logits.masked_fill(same, float("-inf"))
        expected = (TF.cross_entropy(logits, torch.arange(6)) + TF.cross_entropy(logits.T, torch.arange(6))) / 2
    torch.testing.assert_close(method(Batch([view, tokens])), expected, rtol=1e-4, atol=1e-5)
    method.ignore_duplicates = False  # type: ignore[assignment]
    assert method(Batch([view, tokens])) > expected


@pytest.mark.parametrize("name", ["clip", "align", "siglip"])
def test_captions_of_an_image_are_not_negatives(name: str, tmp_path: Path) -> None:
    """As pairs that a matrix of reachable rows excludes; other data has the loss of a method that knows no ids."""
    method, images = build(name).eval(), data(8)
    for k, image in enumerate(images.images[:, 0]):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    rows = [(0, "a cat"), (1, "a dog"), (0, "a pet"), (2, "a pet"), (3, "a bird"), (1, "two dogs"), (4, "a cow")]
    (tmp_path / "list.csv").write_text("\n".join(["path,text", *(f"{k}.png,{text}" for k, text in rows)]))
    source = fastssl.data.open(tmp_path / "list.csv")
    assert method.prepare(source).fingerprint == source.fingerprint
    order = np.array([5, 3, 0, 6, 2, 1, 4])
    batch = method.examples(source.items(order), 0, ids=order)
    linked = torch.tensor(
        [[a[0] == b[0] or a[1] == b[1] for b in (rows[j] for j in order)] for a in (rows[i] for i in order)]
    )
    same = torch.linalg.matrix_power(linked.double(), 7) > 0
    assert int(same.sum()) == 9 + 4 + 2
    same &= ~torch.eye(7, dtype=torch.bool)
    image, text = method.represent(*batch.views)
    logits = image @ text.T * method.log_scale.exp()  # type: ignore[operator]
    if name == "siglip":
        signed = (2 * torch.eye(7) - 1) * (logits + method.bias)  # type: ignore[operator]
        expected = -TF.logsigmoid(signed).masked_fill(same, 0).sum() / 7
    else:
        logits = logits.masked_fill(same, float("-inf"))
        expected = (TF.cross_entropy(logits, torch.arange(7)) + TF.cross_entropy(logits.T, torch.arange(7))) / 2
    torch.testing.assert_close(method(batch), expected, rtol=1e-4, atol=1e-5)
    known = method(batch)
    method.prepare(source.subset([0, 1, 3, 4, 6]))
    assert method.image_ids is None and method(batch) > known
    images = method.examples(images.items(range(8)), 0)
    assert torch.equal(method(images), build(name).eval()(images))


def test_runs_with_captions_of_an_image_resume(tmp_path: Path) -> None:
    for k, image in enumerate(data(8).images[:, 0]):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    rows = [f"{k % 8}.png,{k} things" for k in range(16)]
    (tmp_path / "list.csv").write_text("\n".join(["path,text", *rows]))
    how = Pretraining(epochs=2, batch_size=8, precision="32-true")

    def run(name: str, **more: Any) -> Method:
        return pretrain("clip", tmp_path / "list.csv", how, out=tmp_path / name, encoder=ENCODER, **more)

    method = resumes_bit_for_bit(run, 3)
    assert method.image_ids is not None and "image_ids" not in method.state_dict()
    alone = load_method(tmp_path / "whole")
    assert alone.image_ids is None  # its data is not read again


@pytest.mark.parametrize("causal", [True, False])
def test_texts_do_not_see_their_padding(causal: bool) -> None:
    tower = TextTransformer(dim=16, heads=2, length=32, causal=causal).eval()
    texts = ["a", "grinning face", "héros", "x" * 30]
    together = tower(tokenize(texts, 32))
    for k, text in enumerate(texts):
        torch.testing.assert_close(tower(tokenize([text], 32))[0], together[k], rtol=1e-5, atol=1e-5)
    other = tower(tokenize(["grinning fact"], 32))[0]
    assert not torch.allclose(other, together[1], atol=1e-3)
    with pytest.raises(ValueError, match="texts: expected at most 30 bytes, text 1 has 31"):
        tokenize(["a", "x" * 31], 32)


def test_long_texts_are_cut_at_a_character() -> None:
    for text, kept in (
        ("x" * 40, "x" * 30),
        ("é" * 40, "é" * 15),
        ("x" + "é" * 40, "x" + "é" * 14),
        ("图" * 11, "图" * 10),
    ):
        assert torch.equal(tokenize([text], 32, truncate=True), tokenize([kept], 32))


@pytest.mark.parametrize("name", ["clip", "align", "siglip"])
def test_captions_of_any_length(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    captions = ["a short one", "a caption of a photograph, as people write them: " + "größer " * 30, "größer " * 50]
    items = [item._replace(text=text, name=text[:5]) for item, text in zip(data(3).items(range(3)), captions)]
    encoder = build_encoder(ENCODER)
    method = get(name)(encoder)
    with caplog.at_level("WARNING", "fastssl"):
        first = method.examples(items, 0).views[1]
        assert torch.equal(first, method.examples(items, 0).views[1])
    assert [record.getMessage() for record in caplog.records] == [
        f"a cap: its text has {len(captions[1].encode())} bytes; texts are cut after 62, those of length=64"
    ]
    longer = get(name)(build_encoder(ENCODER), length=500)
    assert int((longer.examples(items, 0).views[1] != 0).sum()) == sum(len(text.encode()) + 2 for text in captions)
    pretrain(longer, data(8), Pretraining(epochs=1, batch_size=4), out=tmp_path, encoder_options=ENCODER)
    assert load_method(tmp_path).length == 500  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="length: expected an integer >= 3, got 2"):
        get(name)(encoder, length=2)


@pytest.mark.parametrize("name", [*ENCODERS, "lab:resnet"])
@pytest.mark.parametrize("size", [16, 32, 96])
def test_encoders_are_their_levels(name: str, size: int) -> None:
    encoder = build_encoder({"name": name, "size": size, "width": 8}).eval()
    x = torch.randn(2, 3, size, size)
    features = encoder(x)
    assert features.shape == (2, encoder.dim)
    if not name.startswith("lab"):
        y = x
        for level in encoder.levels():
            y = level(y)
        assert torch.equal(y, encoder.network(x)) and y.dim() == 4
    with pytest.raises(ValueError, match="encoder: expected one of resnet"):
        build_encoder({"name": "resnet20", "size": 32})


@pytest.mark.parametrize(
    ("depth", "parameters", "shape"),
    [
        (18, 11_176_512, (512, 2, 2)),
        (34, 21_284_672, (512, 2, 2)),
        (50, 23_508_032, (2048, 2, 2)),
        (101, 42_500_160, (2048, 2, 2)),
    ],
)
def test_resnets_are_those_of_the_paper(depth: int, parameters: int, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):  # numbers of parameters and shapes without their values
        network = ResNet(depth).eval()
        assert sum(p.numel() for p in network.parameters()) == parameters  # torchvision's, without fc
        assert network(torch.randn(1, 3, 64, 64)).shape[1:] == shape
    assert "layer2.0.downsample.1.running_var" in network.state_dict()
    small = ResNet(depth, stem="cifar", width=8)
    assert small(torch.randn(2, 3, 32, 32)).shape[2:] == (4, 4)
    with pytest.raises(ValueError, match="depth"):
        ResNet(20)
    with pytest.raises(ValueError, match="stem"):
        ResNet(18, "tiny")


def test_item_memories_adopt_what_is_loaded() -> None:
    memory, other = MemoryBank(), MemoryBank()
    memory.fill(torch.arange(5))
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.rows, torch.arange(5)) and other.rows.dtype == torch.int64 and len(other) == 5


def test_lab_and_rgb_are_inverse() -> None:
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(ColorizationAugment.rgb(*ColorizationAugment.lab(x)), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["denoising", "masked", "mae", "context-encoder", "colorization", "color-proxy", "jigsaw", "bigan", "split-brain"],
)
def test_what_methods_make_can_be_looked_at(name: str) -> None:
    method = build(name).eval()
    views = method.examples(data(5).items(range(5)), 0).views
    with torch.no_grad():
        pictures = method.visualize(Batch(views))
    assert len(pictures) == (4 if name == "split-brain" else 3) and all(
        p.shape[:2] == (5, 3) and p.shape[2] == p.shape[3] for p in pictures.values()
    )
    if name != "jigsaw":
        assert all(p.shape == (5, 3, 32, 32) for p in pictures.values())
    if name in ("masked", "mae", "context-encoder"):  # what was not taken away is the image's
        seen, image = pictures["seen"], pictures["image"]
        kept = (seen != 0).any(1, keepdim=True).expand_as(seen)
        assert 0.1 < float(kept.float().mean()) < 0.9
        torch.testing.assert_close(seen[kept], image[kept])


@pytest.mark.parametrize("name", ["jigsaw", "rotnet", "relative-patch", "cpc"])
def test_skills_are_measured_against_chance(name: str) -> None:
    method = build(name).eval()
    views = method.examples(data(16).items(range(16)), 0).views
    with torch.no_grad():
        skill = method.pretext_metrics(Batch(views))
    assert 0 <= skill["accuracy"] <= 100 and 0 < skill["chance"] <= 25
    if name == "jigsaw":  # a classifier that knows the answer solves all, and puts the tiles together
        numbers = views[1]
        method.scores = lambda tiles: TF.one_hot(numbers, 64).float()  # type: ignore[assignment]
        pictures = method.visualize(Batch(views))
        assert method.pretext_metrics(Batch(views))["accuracy"] == 100 and torch.equal(
            pictures["solved"], pictures["true"]
        )
