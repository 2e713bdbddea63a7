"""iBOT and I-JEPA: what is hidden, that nothing else tells it, and their losses as plain formulas."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.augment.masks import block_masks, boxes
from fastssl.data import Batch, emoji
from fastssl.methods import IBOT, IJEPA
from fastssl.methods.patches import feature_pictures
from fastssl.models import build_encoder
from fastssl.models.vit import packed

VIT = {"name": "vit", "size": 32, "width": 4}


def ibot(**options: Any) -> IBOT:
    torch.manual_seed(0)
    return IBOT(build_encoder(VIT), outputs=16, hidden=8, **options).eval()


def i_jepa(**options: Any) -> IJEPA:
    torch.manual_seed(0)
    return IJEPA(build_encoder(VIT), predictor_dim=16, **options).eval()


def batch_of(method: Any, rows: int = 6, epoch: int = 0) -> Batch:
    return method.examples(emoji().items(range(rows)), 0, epoch)  # type: ignore[no-any-return]


# Masks.


def test_boxes_are_drawn_from_all_places() -> None:
    draws = (np.stack(np.meshgrid(np.arange(60), np.arange(60), indexing="ij"), -1).reshape(-1, 2) + 0.5) / 60
    found = boxes(np.full(3600, 2), np.full(3600, 3), draws, 4, 5)
    wanted = {}
    for top, left in itertools.product(range(3), range(3)):
        mask = np.zeros((4, 5), dtype=bool)
        mask[top : top + 2, left : left + 3] = True
        wanted[mask.tobytes()] = 400
    masks, counts = np.unique(found.reshape(3600, -1), axis=0, return_counts=True)
    assert {mask.tobytes(): int(n) for mask, n in zip(masks, counts)} == wanted


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (14, 14), (4, 4), (3, 7), (1, 1)])
def test_block_masks_hide_no_more_than_they_should(rows: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    draws, most = rng.random((500, 16, 4)), rng.integers(0, rows * columns // 2 + 1, 500)
    masks = block_masks(draws, most, rows, columns)
    count = masks.sum((1, 2))
    assert masks.shape == (500, rows, columns) and bool((count <= most).all()) and not masks[most == 0].any()
    if rows >= 8:
        assert (most - count).mean() < 1.5  # sixteen boxes nearly fill it
        # Blocks, not single patches: neighbours share their state far more often than places that are shuffled.
        alike = (masks[:, 1:] == masks[:, :-1]).mean()
        shuffled = rng.permuted(masks.reshape(500, -1), axis=1).reshape(masks.shape)
        assert alike > (shuffled[:, 1:] == shuffled[:, :-1]).mean() + 0.15
    some = [7, 3]
    assert np.array_equal(block_masks(draws[some], most[some], rows, columns), masks[some])  # row by row


def test_packed_places_are_those_of_the_mask() -> None:
    mask = torch.rand(5, 3, 11, generator=torch.Generator().manual_seed(0)) < 0.4
    places, keep = packed(mask)
    assert places.shape[-1] == int(mask.sum(-1).max())
    for k in np.ndindex(5, 3):
        assert places[k][keep[k]].tolist() == mask[k].nonzero()[:, 0].tolist()
    assert [t.shape for t in packed(mask & False)] == [(5, 3, 0)] * 2


# iBOT.


def test_ibot_masks_as_the_paper_does() -> None:
    method = ibot()
    gone = batch_of(method, 400).views[-1].float()
    assert gone.shape == (400, 2, 64)
    share = gone.mean(2).flatten()
    assert float(share.max()) <= 0.5
    assert abs(float((share > 0).float().mean()) - 0.5) < 0.06
    assert 0.2 < float(share[share > 0].mean()) < 0.31  # 0.3, less what no box filled
    assert float((gone[:, 0] != gone[:, 1]).any(1).float().mean()) > 0.6  # each of the two has its own
    none = ibot(masked=0.0)
    assert not batch_of(none, 20).views[-1].any()
    every = batch_of(ibot(masked=1.0, share=(0.5, 0.5)), 20).views[-1]
    assert bool((every.sum(2) > 20).all())


def logits_by_hand(method: IBOT, batch: Batch) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Logits of images and of patches of the student and of the teacher, view by view."""
    network, teacher = method.encoder.network, method.target.network
    masked = [network(view, batch.views[-1][:, v], method.token) for v, view in enumerate(batch.views[:2])]
    head = method.heads.image if method.heads.patches is None else method.heads.patches
    whole = [teacher[0](view) for view in batch.views[:2]]  # type: ignore[index]
    teachers = teacher[1]  # type: ignore[index]
    theirs = teachers.image if teachers.patches is None else teachers.patches

    def of_patches(heads: Any, features: Tensor) -> Tensor:
        return heads(features.flatten(2).transpose(1, 2).reshape(-1, features.shape[1])).reshape(
            len(features), features.shape[2] * features.shape[3], -1
        )

    images = [method.heads.image(f.mean((2, 3))) for f in masked]
    images += [method.heads.image(network(view).mean((2, 3))) for view in batch.views[2:-1]]
    return (
        images,
        [of_patches(head, f) for f in masked],
        [teachers.image(f.mean((2, 3))) for f in whole],
        [of_patches(theirs, f) for f in whole],
    )


def cross_entropy(target: Tensor, logits: Tensor) -> float:
    top = float(torch.logsumexp(logits / 0.1, 0))
    return sum(float(p) * (top - float(z) / 0.1) for p, z in zip(target, logits))


@pytest.mark.parametrize("shared_head", [True, False])
@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
@torch.no_grad()
def test_ibot_is_its_formula(shared_head: bool, centering: str) -> None:
    method = ibot(shared_head=shared_head, centering=centering, koleo=0.1, masked=0.7)
    method.centers.copy_(torch.randn(2, 16) * 0.1)
    batch = batch_of(method, 5)
    gone = batch.views[-1]
    images, patches, taught, taught_patches = logits_by_hand(method, batch)
    if centering == "softmax":
        targets = [torch.softmax((t - method.centers[0]) / 0.04, -1) for t in taught]
        patch_targets = [torch.softmax((t - method.centers[1]) / 0.04, -1) for t in taught_patches]
    else:
        targets = list(F.sinkhorn(torch.cat(taught), epsilon=0.04).chunk(2))
        hidden = F.sinkhorn(torch.cat([t[gone[:, v]] for v, t in enumerate(taught_patches)]), epsilon=0.04)
        patch_targets, first = [torch.zeros_like(t) for t in taught_patches], 0
        for v, t in enumerate(patch_targets):
            t[gone[:, v]] = hidden[first : first + int(gone[:, v].sum())]
            first += int(gone[:, v].sum())
    pairs = [(w, v) for w in range(2) for v in range(len(images)) if v != w]
    of_images = np.mean([cross_entropy(targets[w][i], images[v][i]) for w, v in pairs for i in range(5)])
    of_patches = []
    for v, i in np.ndindex(2, 5):
        places = gone[i, v].nonzero()[:, 0].tolist()
        terms = [cross_entropy(patch_targets[v][i, p], patches[v][i, p]) for p in places]
        of_patches.append(sum(terms) / max(len(terms), 1))
    network = method.encoder.network
    spread = sum(float(F.koleo(network(batch.views[v], gone[:, v], method.token).mean((2, 3)))) for v in range(2))
    assert float(method(batch)) == pytest.approx(of_images + np.mean(of_patches) + 0.1 * spread, rel=1e-4)


def test_ibot_does_not_see_what_it_predicts() -> None:
    method = ibot(masked=1.0)
    view, gone = torch.randn(4, 3, 32, 32), batch_of(method, 4).views[-1][:, 0]
    pixels = gone.reshape(4, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    features = method.encoder.network(view, gone, method.token)
    other = method.encoder.network(torch.where(pixels, torch.randn_like(view), view), gone, method.token)
    torch.testing.assert_close(features, other)
    assert not torch.allclose(features, method.encoder.network(view), atol=1e-3)
    torch.testing.assert_close(method.encoder.network(view, gone & False, method.token), method.encoder.network(view))


def test_ibots_teacher_gets_no_gradient() -> None:
    method = ibot(koleo=0.1).train()
    method(batch_of(method, 4)).backward()
    assert all(p.grad is None and not p.requires_grad for p in method.target.parameters())
    assert all(p.grad is not None for n, p in method.named_parameters() if not n.startswith("target."))
    assert float(method.token.grad.abs().sum()) > 0  # type: ignore[union-attr]
    moved = method.centers.clone()
    assert bool((moved.abs().sum(1) > 0).all())
    method.eval()(batch_of(method, 4))
    assert torch.equal(method.centers, moved)


def test_ibots_centres_follow_images_and_patches() -> None:
    method = ibot()
    batch = batch_of(method, 4)
    with torch.no_grad():
        *_, taught, taught_patches = logits_by_hand(method, batch)
    method.training = True  # norms as they are
    method(batch)
    torch.testing.assert_close(method.centers[0], 0.1 * torch.cat(taught).mean(0))
    torch.testing.assert_close(method.centers[1], 0.1 * torch.cat(taught_patches).mean((0, 1)), rtol=1e-4, atol=1e-6)


def test_heads_are_shared_or_not() -> None:
    together, apart = ibot(), ibot(shared_head=False)
    count = [sum(p.numel() for p in m.heads.parameters()) for m in (together, apart)]
    assert count[1] == 2 * count[0] and together.heads.patches is None


def test_ibot_says_what_it_cannot() -> None:
    with pytest.raises(ValueError, match="encoder: iBOT needs a ViT"):
        IBOT(build_encoder({"name": "resnet", "size": 32, "width": 4}))
    for options, error in (
        ({"centering": "mean"}, "centering: expected 'softmax' or 'sinkhorn', got 'mean'"),
        ({"masked": 1.5}, "masked, share: expected a probability"),
        ({"share": (0.5, 0.1)}, "masked, share: expected a probability"),
    ):
        with pytest.raises(ValueError, match=error):
            ibot(**options)


# I-JEPA.


def test_contexts_have_no_target_patches() -> None:
    method = i_jepa()
    _, context, targets = batch_of(method, 600).views
    assert context.shape == (600, 64) and targets.shape == (600, 4, 64)
    assert not (context[:, None] & targets).any()
    assert int(context.sum(1).min()) >= 4
    sizes = targets.sum(2)
    assert bool((sizes == sizes[:, :1]).all()) and {8, 9, 12} >= {*sizes.flatten().tolist()}
    for mask in targets[:50].flatten(0, 1):  # rectangles
        rows, columns = mask.reshape(8, 8).any(1), mask.reshape(8, 8).any(0)
        assert int(mask.sum()) == int(rows.sum() * columns.sum())
    assert len({*context.sum(1).tolist()}) > 5  # each image its own
    whole = targets.any(1)
    assert float((~whole & ~context).sum(1).float().mean()) < 10  # the context is nearly all that is left


@pytest.mark.parametrize("size", [16, 24, 40, 64])
@pytest.mark.parametrize("patch", [4, 2])
def test_blocks_fit_into_any_grid_or_are_refused(size: int, patch: int) -> None:
    encoder = build_encoder({**VIT, "size": size, "patch": patch})
    side = size // patch
    if side < 6:
        with pytest.raises(ValueError, match=f"blocks: expected fewer .* all of its {side**2} patches"):
            IJEPA(encoder)
        return
    _, context, targets = batch_of(IJEPA(encoder), 200).views
    assert bool(context.any(1).all()) and bool(targets.any(2).all()) and not (context[:, None] & targets).any()
    share = targets.float().mean((1, 2))
    assert float(share.min()) > 0.1 and float(share.max()) < 0.2 + side / 2 / side**2


def test_predictions_are_made_from_the_context_alone() -> None:
    """No gradient of the loss reaches pixels outside of the context, but for the target network, which has none."""
    method = i_jepa()
    image, context, targets = batch_of(method).views
    image = image.clone().requires_grad_()
    method(Batch([image, context, targets])).backward()
    assert image.grad is not None
    reached = image.grad.abs().sum(1).reshape(6, 8, 4, 8, 4).sum((2, 4)).flatten(1)
    assert torch.equal(reached > 0, context)
    places, keep = packed(targets)
    pixels = context.reshape(6, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other = torch.where(pixels, image, torch.randn_like(image))
    with torch.no_grad():
        predicted, same = (method.predict(x, context, places, keep)[keep] for x in (image, other))
    torch.testing.assert_close(predicted, same)


@torch.no_grad()
def test_i_jepa_is_its_formula() -> None:
    """Image by image, block by block, without padding."""
    method = i_jepa()
    method.target.network.last.norm.weight.mul_(1.5)  # type: ignore[union-attr,operator]
    batch = batch_of(method)
    image, context, targets = batch.views
    terms = []
    for i in range(6):
        features = method.target.network(image[i : i + 1])[0].flatten(1).T
        seen = context[i].nonzero()[:, 0]
        tokens = method.enter(method.encoder.network.visible(image[i : i + 1], seen[None]))[0]  # type: ignore[operator]
        tokens = tokens + method.positions[seen]
        for block in targets[i]:
            hidden = block.nonzero()[:, 0]
            x = torch.cat([tokens, method.token + method.positions[hidden]])[None]
            for layer in method.predictor:
                x = layer(x)
            x = method.leave(method.norm(x[0, len(seen) :]))
            for p, z in zip(hidden.tolist(), x):
                wanted = (features[p] - features[p].mean()) / math.sqrt(float(features[p].var(correction=0)) + 1e-5)
                far = (z - wanted).abs()
                terms.append((i, float(torch.where(far < 1, far**2 / 2, far - 0.5).mean())))
    means = [np.mean([t for k, t in terms if k == i]) for i in range(6)]
    assert float(method(batch)) == pytest.approx(np.mean(means), rel=1e-4)


def test_i_jepas_target_follows_without_gradient() -> None:
    method = i_jepa(momentum=0.5)
    method(batch_of(method)).backward()
    assert all(p.grad is None for p in method.target.parameters())
    assert all(p.grad is not None for n, p in method.named_parameters() if not n.startswith("target."))
    with torch.no_grad():
        method.encoder.network.patches.project.weight.add_(1.0)  # type: ignore[union-attr,operator]
    before = method.target.network.patches.project.weight.clone()  # type: ignore[union-attr,operator]
    method.after_step(0.0)
    after = method.target.network.patches.project.weight  # type: ignore[union-attr]
    torch.testing.assert_close(after, before + 0.5)


def test_masks_are_those_of_the_item() -> None:
    for method in (ibot(), i_jepa()):
        ids = np.arange(30, 42)
        whole = method.examples(emoji().items(ids), 1, 2, ids)
        part = method.examples(emoji().items(ids[[7, 3]]), 1, 2, ids[[7, 3]])
        assert all(torch.equal(a[[7, 3]], b) for a, b in zip(whole.views, part.views))
        other = method.examples(emoji().items(ids), 1, 3, ids)
        assert not torch.equal(whole.views[-1], other.views[-1])


# Pictures.


def test_colours_are_the_principal_components() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(5, 16, 6)) * [4, 0.1, 2, 0.2, 1, 0.3] + 7
    hidden = torch.from_numpy(rng.random((5, 16)) < 0.5)
    given = torch.from_numpy(wanted).float()
    pictures = feature_pictures(torch.ones(5, 3, 8, 8), ~hidden, given, given, hidden)
    rows = (wanted - wanted.mean((0, 1))).reshape(-1, 6)
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    colours = rows @ axes[:3].T / (2 * values[:3] / len(rows) ** 0.5)
    found = pictures["wanted"][:, :, ::2, ::2].flatten(2).transpose(1, 2).reshape(-1, 3).numpy()[:, ::-1]
    found = found * np.sign((found * colours).sum(0))
    np.testing.assert_allclose(found, colours.clip(-1, 1), atol=1e-5)
    shown = hidden.view(5, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3).expand(5, 3, 8, 8)
    assert torch.equal(pictures["predicted"], pictures["wanted"].where(shown, torch.zeros(())))
    assert torch.equal(pictures["seen"], (~shown).float())


@pytest.mark.parametrize("make", [ibot, i_jepa])
def test_what_is_hidden_and_predicted_can_be_looked_at(make: Any) -> None:
    method = make(masked=1.0) if make is ibot else make()
    batch = batch_of(method)
    with torch.no_grad():
        pictures = method.visualize(batch)
        other = make(masked=1.0) if make is ibot else make()
        changed = batch.views[0].clone()
        kept = (pictures["seen"] == batch.views[0]).all(1, keepdim=True).expand_as(changed)
        changed[~kept] = 0.5
        again = other.visualize(batch._replace(views=[changed, *batch.views[1:]]))
    assert list(pictures) == ["seen", "wanted", "predicted", "image"]
    assert all(p.shape == (6, 3, 32, 32) for p in pictures.values())
    assert 0.2 < float(kept.float().mean()) < 0.95 and torch.equal(pictures["image"], batch.views[0])
    hidden = (pictures["predicted"] != 0).any(1)
    assert not (hidden & kept[:, 0]).any() and hidden.any()
    assert torch.equal(again["seen"], pictures["seen"])  # what is hidden tells nothing: only the wanted ones change
    assert not torch.equal(again["wanted"], pictures["wanted"])
