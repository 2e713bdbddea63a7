"""The trainings of ``recipes.py``: views, networks, losses and optimisers of a variant, in plain torch on any device."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as TF
from recipe_data import Images
from torch import Tensor, nn

from fastssl.models import Encoder, build_encoder, prediction_head, projection_head
from fastssl.models.resnet import ResidualBlock, SmallResNet
from fastssl.train.optim import LARS, learning_rate_factor


@dataclass(frozen=True)
class Variant:
    """What can differ between two runs; the defaults are today's recipe."""

    size: int = 32
    width: int = 32
    blocks: int = 1
    stem: str = "plain"
    lab: bool = False
    small_first: bool = False
    batch: int = 512
    lr: float = 2e-3
    decay: float = 1e-4
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 0.02
    views: int = 2
    crop: tuple[float, float] = (0.08, 1.0)
    strength: float = 1.0
    flip: float = 0.5
    gray: float = 0.2
    rotate: float = 0.0
    shear: float = 0.0
    erase: float = 0.0
    local: int = 0
    loss: str = "nt_xent"
    temperature: float = 0.1
    temperature_end: float | None = None
    target: str = ""
    neighbours: float = 0.0
    relations: float = 0.0
    prototypes: float = 0.0
    decorrelate: float = 0.0
    spatial: bool = True
    both: bool = False
    hidden: int = 256
    outputs: int = 128
    layers: int = 2


# ---------------------------------------------------------------------------------------------------------------- views


def _uniform(n: int, low: float, high: float, like: Tensor) -> Tensor:
    return torch.rand(n, device=like.device) * (high - low) + low


@cache
def _yiq(device: torch.device) -> tuple[Tensor, Tensor]:
    """From RGB to lightness and two colours that a change of hue turns, and back."""
    to = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    return to.to(device), torch.linalg.inv(to).to(device)


def views_of(images: Tensor, size: int, crop: tuple[float, float], v: Variant) -> Tensor:
    """Crops, turned and mirrored, with changed colours: uint8 [N, 3, S, S] to [N, 3, size, size] in [-1, 1]."""
    x, n = images.float() / 255, len(images)
    area, ratio = _uniform(n, *crop, x), torch.exp(_uniform(n, math.log(3 / 4), math.log(4 / 3), x))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = (1 - width) * (2 * torch.rand_like(width) - 1), (1 - height) * (2 * torch.rand_like(width) - 1)
    mirror = 1 - 2 * (torch.rand_like(width) < v.flip).float()
    angle = _uniform(n, -v.rotate, v.rotate, x) * (math.pi / 180)
    shear = _uniform(n, -v.shear, v.shear, x)
    cos, sin = angle.cos(), angle.sin()
    a, b = cos, -sin + cos * shear
    c, d = sin, cos + sin * shear
    theta = torch.stack([a * width * mirror, b * height, left, c * width * mirror, d * height, top], 1).view(n, 2, 3)
    grid = TF.affine_grid(theta, [n, 3, size, size], align_corners=False)
    x = TF.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if v.strength or v.gray:
        s = 0.8 * v.strength
        on = torch.rand_like(width) < 0.8
        turn = torch.where(on, _uniform(n, -0.2 * v.strength, 0.2 * v.strength, x) * 2 * math.pi, 0.0)
        bright, contrast, saturation = (torch.where(on, _uniform(n, max(0.0, 1 - s), 1 + s, x), 1.0) for _ in range(3))
        saturation = torch.where(torch.rand_like(width) < v.gray, 0.0, saturation)
        to, back = _yiq(x.device)
        rotation = torch.zeros(n, 3, 3, device=x.device)
        rotation[:, 0, 0] = 1
        rotation[:, 1, 1] = rotation[:, 2, 2] = turn.cos() * saturation
        rotation[:, 1, 2], rotation[:, 2, 1] = -turn.sin() * saturation, turn.sin() * saturation
        colours = back @ rotation @ to
        x = (x * bright.view(n, 1, 1, 1)).clamp(0, 1)
        middle = (x * to[0].view(1, 3, 1, 1)).sum(1).mean((1, 2)).view(n, 1, 1, 1)
        x = (middle + (x - middle) * contrast.view(n, 1, 1, 1)).clamp(0, 1)
        x = torch.einsum("nij,njhw->nihw", colours, x).clamp(0, 1)
    if v.erase:
        side = 0.4 * torch.rand_like(width) + 0.2
        at = torch.arange(size, device=x.device) / size
        inside = [(at >= p[:, None]) & (at < (p + side)[:, None]) for p in (torch.rand(2, n, device=x.device) * 0.8)]
        gone = (inside[0][:, :, None] & inside[1][:, None]) & (torch.rand_like(width) < v.erase).view(n, 1, 1)
        x = torch.where(gone[:, None], 0.5, x)
    return (2 * x - 1).contiguous(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------------------------- networks


class PatchStem(SmallResNet):
    """Patches of 4 x 4 pixels, and two stages."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__(width, 1, 2)
        self.stem = nn.Sequential(nn.Conv2d(3, width, patch, patch, bias=False), nn.BatchNorm2d(width))
        self.stages = nn.Sequential(ResidualBlock(width, width, 1), ResidualBlock(width, 2 * width, 2))
        self.channels = 2 * width


def network_of(v: Variant) -> Encoder:
    if v.stem == "patch":
        network = PatchStem(v.width, v.size // 8).to(memory_format=torch.channels_last)
        return Encoder(network, v.size)
    name = "lab:resnet" if v.lab else "resnet"
    return build_encoder({"name": name, "size": v.size, "width": v.width, "blocks": v.blocks})


class Heads(nn.Module):
    """Projections of the map and of its mean, and what a loss adds to them."""

    def __init__(self, channels: int, v: Variant) -> None:
        super().__init__()
        last_norm = v.loss != "vicreg"
        self.on_map = v.spatial or v.both
        self.on_mean = v.both or not v.spatial or v.local > 0
        if self.on_map:
            self.map = projection_head(16 * channels, v.hidden, v.outputs, v.layers, last_norm=last_norm)
        if self.on_mean:
            self.mean = projection_head(channels, v.hidden, v.outputs, v.layers, last_norm=last_norm)
        if v.target:
            self.predictor = prediction_head(v.outputs, v.hidden)
        if v.prototypes:
            self.prototypes = nn.Linear(v.outputs, 64, bias=False)

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        made = {}
        if self.on_map:
            made["map"] = self.map(TF.adaptive_avg_pool2d(maps, 4).flatten(1))
        if self.on_mean:
            made["mean"] = self.mean(maps.mean((2, 3)))
        return made


class Model(nn.Module):
    def __init__(self, v: Variant) -> None:
        super().__init__()
        self.encoder = network_of(v)
        network = self.encoder.network
        self.halves = [network.lightness, network.color] if v.lab else [network]
        channels = self.encoder.dim // len(self.halves)
        self.heads = nn.ModuleList(Heads(channels, v) for _ in self.halves)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        inputs = self.encoder.network.split(x) if len(self.halves) > 1 else (x,)
        return [head(half(part)) for head, half, part in zip(self.heads, self.halves, inputs)]


# --------------------------------------------------------------------------------------------------------------- losses


def nt_xent(views: list[Tensor], temperature: float) -> Tensor:
    """Of any number of views [B, D]: the mean over all positives of a row."""
    z = TF.normalize(torch.cat(views).float(), dim=1)
    n, count = len(views[0]), len(views)
    scores = z @ z.T / temperature
    scores.fill_diagonal_(-1e9)
    item = torch.arange(n, device=z.device).repeat(count)
    positive = (item[:, None] == item[None]).fill_diagonal_(False)
    return (torch.logsumexp(scores, 1) - (scores * positive).sum(1) / (count - 1)).mean()


def info_nce(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    scores = TF.normalize(anchors.float(), dim=1) @ TF.normalize(others.float(), dim=1).T / temperature
    return TF.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def vicreg(views: list[Tensor]) -> Tensor:
    a, b = (z.float() for z in views[:2])
    total = 25 * TF.mse_loss(a, b)
    for z in (a, b):
        z = z - z.mean(0)
        total = total + 12.5 * TF.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        covariance = z.T @ z / (len(z) - 1)
        total = total + (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
    return total


def decorrelation(z: Tensor) -> Tensor:
    z = z.float()
    z = (z - z.mean(0)) / (z.std(0) + 1e-4)
    correlation = z.T @ z / len(z)
    return (correlation.square().sum() - correlation.diagonal().square().sum()) / z.shape[1]


def assignments(scores: Tensor) -> Tensor:
    """Balanced assignments by Sinkhorn and Knopp's iterations (Caron et al. 2020)."""
    q = torch.exp((scores - scores.max()) / 0.05)
    for _ in range(3):
        q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return q * len(q)


class Objective:
    """The loss of a batch; its bank holds the last embedding of every item."""

    def __init__(self, model: Model, v: Variant, items: int, device: torch.device) -> None:
        self.model, self.v = model, v
        self.bank = torch.zeros(items, v.outputs, device=device)
        self.target = copy.deepcopy(model).requires_grad_(False) if v.target else None

    def __call__(self, groups: list[Tensor], counts: list[int], ids: Tensor, progress: float) -> Tensor:
        v, n = self.v, len(ids)
        temperature = v.temperature
        if v.temperature_end is not None:
            temperature = (
                v.temperature_end + (v.temperature - v.temperature_end) * (1 + math.cos(math.pi * progress)) / 2
            )
        made = [self.model(x) for x in groups]
        whole = made[0]
        total: Any = 0.0
        key = "map" if "map" in whole[0] else "mean"
        for name in ("map", "mean") if v.both else (key,):
            embedded = [list(half[name].split(n)) for half in whole]
            total = total + self._contrast(groups[0], embedded, name, temperature, progress)
        z = whole[0][key].split(n)
        if v.local:
            for half, local in zip(whole, made[1]):
                seen = half["mean"].split(n)
                terms = [info_nce(part, other, temperature) for part in local["mean"].split(n) for other in seen]
                total = total + torch.stack(terms).mean()
        if v.decorrelate:
            total = total + v.decorrelate * sum(decorrelation(x) for x in z)
        if v.prototypes:
            total = total + v.prototypes * self._swap(z)
        if v.neighbours or v.relations:
            total = total + self._bank(z, ids, progress, temperature)
        return total

    def _contrast(self, x: Tensor, halves: list[list[Tensor]], name: str, t: float, progress: float) -> Tensor:
        if self.v.loss == "vicreg":
            return vicreg(halves[0])
        if self.target is not None:
            return self._against_target(x, halves[0], name, t, progress)
        if len(halves) == 1:
            return nt_xent(halves[0], t)
        flat = [z for half in halves for z in half]
        pairs = [(a, b) for k, a in enumerate(flat) for b in flat[k + 1 :]]
        return torch.stack([(info_nce(a, b, t) + info_nce(b, a, t)) / 2 for a, b in pairs]).mean()

    def _against_target(self, x: Tensor, z: list[Tensor], name: str, t: float, progress: float) -> Tensor:
        assert self.target is not None
        with torch.no_grad():
            keys = self.target(x)[0][name].split(len(z[0]))
        terms = []
        for k, row in enumerate(z):
            asked = self.model.heads[0].predictor(row)
            for j, key in enumerate(keys):
                if j != k and self.v.target == "byol":
                    terms.append(2 - 2 * TF.cosine_similarity(asked.float(), key.float()).mean())
                elif j != k:
                    terms.append(info_nce(asked, key, t))
        return torch.stack(terms).mean()

    def _swap(self, z: Any) -> Tensor:
        layer = self.model.heads[0].prototypes
        weight = TF.normalize(layer.weight.float(), dim=1)
        scores = [TF.normalize(x.float(), dim=1) @ weight.T for x in z]
        with torch.no_grad():
            codes = [assignments(s) for s in scores]
        terms = [
            -(codes[j] * (s / 0.1).log_softmax(1)).sum(1).mean()
            for k, s in enumerate(scores)
            for j in range(len(scores))
            if j != k
        ]
        return torch.stack(terms).mean()

    def _bank(self, z: Any, ids: Tensor, progress: float, temperature: float) -> Tensor:
        with torch.no_grad():
            unit = [TF.normalize(x.float(), dim=1) for x in z]
            self.bank[ids] = TF.normalize(sum(unit), dim=1)
        if progress < 0.15:
            return torch.zeros((), device=ids.device)
        own = torch.zeros(len(ids), len(self.bank), dtype=torch.bool, device=ids.device)
        own[torch.arange(len(ids), device=ids.device), ids] = True
        terms = []
        for x, other in zip(z, reversed(unit)):
            near = (other @ self.bank.T).masked_fill(own, -2)
            if self.v.neighbours:
                terms.append(self.v.neighbours * info_nce(x, self.bank[near.argmax(1)], temperature))
            else:
                there = (TF.normalize(x.float(), dim=1) @ self.bank.T / 0.1).masked_fill(own, -1e9)
                wanted = (near / 0.05).masked_fill(own, -1e9).softmax(1)
                terms.append(self.v.relations * -(wanted * there.log_softmax(1)).sum(1).mean())
        return torch.stack(terms).mean()

    @torch.no_grad()
    def update(self, progress: float) -> None:
        if self.target is None:
            return
        momentum = 1 - 0.02 * (math.cos(math.pi * progress) + 1) / 2
        for kept, now in zip(self.target.parameters(), self.model.parameters()):
            kept.lerp_(now, 1 - momentum)
        for kept, now in zip(self.target.buffers(), self.model.buffers()):
            kept.copy_(now)


# ----------------------------------------------------------------------------------------------------------- optimisers


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal by Newton and Schulz's iterations (Jordan et al. 2024), also of convolutions; AdamW for
    vectors."""

    def __init__(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        super().__init__([p for p in params if p.ndim > 1], {"lr": lr, "decay": decay})
        self.rest = torch.optim.AdamW([p for p in params if p.ndim <= 1], lr=2e-3, weight_decay=0.0)
        self.full = lr

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad, state = p.grad.flatten(1), self.state[p]
                held = state.setdefault("momentum", torch.zeros_like(grad)).mul_(0.95).add_(grad)
                x = grad + 0.95 * held
                tall = x.shape[0] > x.shape[1]
                x = (x.T if tall else x) / (x.norm() + 1e-7)
                for _ in range(5):
                    gram = x @ x.T
                    x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
                x = x.T if tall else x
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(x.reshape(p.shape), alpha=-group["lr"] * max(1.0, grad.shape[0] / grad.shape[1]) ** 0.5)
        self.rest.param_groups[0]["lr"] = 2e-3 * self.param_groups[0]["lr"] / self.full
        self.rest.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.rest.zero_grad(set_to_none)


def optimizer_of(model: nn.Module, v: Variant, device: torch.device) -> torch.optim.Optimizer:
    params = [p for p in model.parameters() if p.requires_grad]
    if v.optimizer == "muon":
        return Muon(params, v.lr, v.decay)
    if v.optimizer == "lars":
        return LARS(params, v.lr, weight_decay=1e-6)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": v.decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=v.lr, fused=True)


# ------------------------------------------------------------------------------------------------------------- training


def batches(images: Images, v: Variant, device: torch.device) -> Iterator[Tensor]:
    size = min(v.batch, len(images.train))
    while True:
        order = torch.randperm(len(images.train), device=device)
        yield from order[: len(order) // size * size].split(size)


def make_views(images: Images, ids: Tensor, v: Variant, size: int) -> tuple[list[Tensor], list[int]]:
    """Global views in one tensor, local ones in another; views take the images of an item in turn, from a random one."""
    count = images.train.shape[1]
    first = torch.randint(count, (len(ids),), device=ids.device)
    groups, counts = [], []
    for number, crop, pixels in ((v.views, v.crop, size), (v.local, (0.1, 0.4), size // 2)):
        if number:
            given = torch.cat([images.train[ids, (first + k) % count] for k in range(number)])
            groups.append(views_of(given, pixels, crop, v))
            counts.append(number)
    return groups, counts


class Run:
    """A training, step by step, and the mean of its weights over the last fifth."""

    def __init__(self, v: Variant, images: Images, steps: int, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.v, self.images, self.steps, self.device = v, images, steps, device
        self.model = Model(v).to(device).train()
        self.objective = Objective(self.model, v, len(images.train), device)
        self.optimizer = optimizer_of(self.model, v, device)
        self.batches = batches(images, v, device)
        self.averaged = copy.deepcopy(self.model.encoder).requires_grad_(False)
        self.counted = self.done = 0

    def step(self) -> None:
        v, progress = self.v, self.done / self.steps
        factor = learning_rate_factor(self.done, self.steps, max(1, round(v.warmup * self.steps)), v.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = v.lr * factor
        ids = next(self.batches)
        size = v.size * 3 // 4 if v.small_first and progress < 0.5 else v.size
        groups, counts = make_views(self.images, ids, v, size)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.objective(groups, counts, ids, progress)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self.objective.update(self.done / self.steps)
        if self.done > 0.8 * self.steps:
            self.average()
        if self.done % 500 == 0 and not bool(torch.isfinite(loss)):
            raise RuntimeError(f"the loss is {float(loss)} at step {self.done}")

    @torch.no_grad()
    def average(self) -> None:
        self.counted += 1
        for kept, now in zip(self.averaged.state_dict().values(), self.model.encoder.state_dict().values()):
            if kept.is_floating_point():
                kept.lerp_(now, 1 / self.counted)


def train(v: Variant, images: Images, steps: int, seed: int, device: torch.device) -> tuple[Encoder, Encoder]:
    """The encoder after all steps, and the mean of its weights over the last fifth of them."""
    made = Run(v, images, steps, seed, device)
    for _ in range(steps):
        made.step()
    return made.model.encoder.eval(), made.averaged.eval()


def step_of(v: Variant, images: Images, device: torch.device) -> Callable[[], None]:
    """A step in the middle of a run, to be timed."""
    made = Run(v, images, 1000, 0, device)

    def step() -> None:
        made.done = 700 if made.done < 500 else 300  # in turn the first and the second half
        made.step()

    return step
